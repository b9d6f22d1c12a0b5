"""docs/models.md against what the server honours and what it has."""

import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor
from normserve_proto import open_inference_pb2 as pb
from normserve_server.built_in.operations import OPERATIONS, Operation
from normserve_server.config_fields import HONOURED, kind_of
from normserve_server.config_parameters import BUCKETS, FIXED, OPERATORS, THREADS

PAGE = (Path(__file__).parents[2] / "docs/models.md").read_text()


def documented(title: str) -> list[str]:
    section = re.search(rf"^### {title}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL).group(1)
    return [name for cell in re.findall(r"^\| (`[^|]+`) \| ", section, re.MULTILINE) for name in re.findall(r"`([^`]+)`", cell)]


def fields(message: Descriptor, path: str = "") -> Iterator[tuple[str, bool]]:
    """The path of each value that a config can say, and whether it is honoured; what is refused is not looked into."""
    for field in message.fields:
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            inner = inner.fields_by_name["value"].message_type
        honoured = field.name in HONOURED[kind_of(message.full_name)]
        if honoured and inner is not None and inner.fields:
            yield from fields(inner, f"{path}{field.name}.")
        else:
            yield f"{path}{field.name}", honoured


def test_every_field_stands_in_one_of_the_tables() -> None:
    paths = dict(fields(pb.ModelConfig.DESCRIPTOR))
    assert paths.pop("parameters.string_value")
    parameters = [f"parameters[{key}]" for key in (THREADS, BUCKETS, OPERATORS, *FIXED)]
    assert sorted(documented("What is honoured")) == sorted([path for path, honoured in paths.items() if honoured] + parameters)
    assert sorted(documented("What is refused")) == sorted(path for path, honoured in paths.items() if not honoured)


def row(operation: Operation) -> str:
    inputs = ", ".join(f"`{name}`" for name in operation.optional)
    required = [f"**`{name}`**" for name, argument in operation.arguments.items() if not argument.default]
    others = [f"`{name}` ({argument.default})" for name, argument in operation.arguments.items() if argument.default]
    return f"| `{operation.model}` |{inputs and f' {inputs}'} | {', '.join(required + others)} |"


def test_every_built_in_model_stands_in_the_table() -> None:
    assert re.findall(r"^\| `normserve\..*$", PAGE, re.MULTILINE) == [row(operation) for operation in OPERATIONS]
