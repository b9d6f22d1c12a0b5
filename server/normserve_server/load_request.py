"""What a call to load a model brings along: a config in config.pbtxt's place, and files in the place of the model's folder."""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normserve_proto import open_inference_pb2 as pb

from normserve_server.errors import InvalidRequestError
from normserve_server.repository_scan import Source, is_version, plain_name
from normserve_server.version import Version

_FILE = re.compile(r"file:([^/]+)/(.+)", re.DOTALL)
_WANTED = "wanted config or file:<version>/<name>"


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What is to be loaded.

    Attributes:
        model: the model's name.
        repository: where it has to be; empty for anywhere.
        config: JSON text that replaces config.pbtxt; None for the file.
        files: by version and name, contents that replace the model's whole folder; empty for the folder.
    """

    model: str
    repository: str = ""
    config: str | None = None
    files: Mapping[int, Mapping[str, bytes]] = field(default_factory=dict)


def parse(message: pb.RepositoryModelLoadRequest) -> LoadRequest:
    """Reads a RepositoryModelLoadRequest.

    Raises:
        InvalidRequestError: a parameter is unknown or is no text or bytes, a file's path is not <version>/<name>, files come
            without a config, or the model's name is no folder's.
    """
    config: str | None = None
    files: dict[int, dict[str, bytes]] = {}
    for key, parameter in sorted(message.parameters.items()):
        if key == "config":
            config = _value(key, parameter, "string_param")
        else:
            number, name = _place(key)
            files.setdefault(number, {})[name] = _value(key, parameter, "bytes_param")
    if files and config is None:
        raise InvalidRequestError("files of a model need its parameter 'config' beside them")
    if not plain_name(message.model_name) or message.model_name.startswith("."):
        raise InvalidRequestError(f"model_name is a folder's name, got '{message.model_name}'")
    return LoadRequest(message.model_name, message.repository_name, config, files)


def written(request: LoadRequest) -> Source:
    """Writes a request's files into a temporary folder of their own, laid out like a model's.

    Raises:
        OSError: they cannot be written; nothing is left of them.
    """
    root = Path(tempfile.mkdtemp(prefix="normserve-"))
    folder = root / request.model
    try:
        for number, files in request.files.items():
            (folder / str(number)).mkdir(parents=True)
            for name, content in files.items():
                (folder / str(number) / name).write_bytes(content)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    versions = {number: _fingerprint(files) for number, files in request.files.items()}
    return Source(folder, versions, override=request.config, temporary=True)


def discard(folder: Path) -> None:
    """Deletes one version of what `written` wrote, and with the last one all of it."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # others are still there
        folder.parent.rmdir()
        folder.parent.parent.rmdir()


def discard_unused(source: Source, listed: Iterable[Version]) -> None:
    """Deletes the versions that were written for one load and that nothing was loaded from."""
    used = {version.folder for version in listed if version.loaded is not None}
    for number in source.versions if source.temporary else ():
        if source.folder / str(number) not in used:
            discard(source.folder / str(number))


def _fingerprint(files: Mapping[str, bytes]) -> tuple[tuple[str, str], ...]:
    """By content: the times of files that were written for one load say nothing."""
    return tuple((name, hashlib.sha256(files[name]).hexdigest()) for name in sorted(files))


def _place(key: str) -> tuple[int, str]:
    if not key.startswith("file:"):
        raise InvalidRequestError(f"parameter '{key}' of a load is unknown; {_WANTED}")
    match = _FILE.fullmatch(key)
    if match is None or not is_version(match[1]) or not plain_name(match[2]):
        raise InvalidRequestError(f"parameter '{key}': {_WANTED}, a version's number and a plain file name")
    return int(match[1]), match[2]


def _value(key: str, parameter: pb.ModelRepositoryParameter, wanted: str) -> Any:
    given = parameter.WhichOneof("parameter_choice")
    if given != wanted:
        raise InvalidRequestError(f"parameter '{key}' of a load is a {wanted}, got {given or 'nothing'}")
    return getattr(parameter, wanted)
