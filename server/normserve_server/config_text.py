"""From the text of a config.pbtxt, or of a load call's JSON, to a ModelConfig message."""

import json
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format, text_format
from normserve_proto import open_inference_pb2 as pb

from normserve_server.errors import LoadError

MOST_CHARACTERS = 300  # of the parser's complaint, which may quote all of the text


@dataclass(frozen=True, slots=True)
class Parsed:
    """A text that is a ModelConfig.

    Attributes:
        message: what it says.
        max_batch_size_given: whether it says `max_batch_size`; the message keeps no trace of a 0 that was written.
    """

    message: pb.ModelConfig
    max_batch_size_given: bool


def from_file(path: Path) -> Parsed | None:
    """Reads a config.pbtxt; None where there is none.

    Raises:
        LoadError: it cannot be read, or is not a ModelConfig.
    """
    if not path.exists() and not path.is_symlink():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        return Parsed(_parsed(text), max_batch_size_given=_gives_max_batch_size(text))
    except OSError as error:
        raise LoadError(f"cannot be read: {error.strerror}") from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise LoadError(_shortened(str(error))) from None


def from_json(text: str) -> Parsed:
    """Parses protobuf's JSON form of a ModelConfig.

    Raises:
        LoadError: it is not one.
    """
    message = pb.ModelConfig()
    try:
        json_format.Parse(text, message)
    except json_format.ParseError as error:
        raise LoadError(_shortened(str(error))) from None
    given = json.loads(text)
    if not isinstance(given, dict):
        raise LoadError(f"a JSON object is wanted, got {_shortened(text)}")
    return Parsed(message, max_batch_size_given=not given.keys().isdisjoint({"max_batch_size", "maxBatchSize"}))


def _parsed(text: str) -> pb.ModelConfig:
    return text_format.Parse(text, pb.ModelConfig())


def _gives_max_batch_size(text: str) -> bool:
    try:
        _parsed("max_batch_size: 1 " + text)
    except text_format.ParseError:  # the parser refuses a field that is given twice
        return True
    return False


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."
