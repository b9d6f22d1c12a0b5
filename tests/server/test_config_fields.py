"""The table of honoured fields against the descriptors, and any message at all against the reader."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import json_format, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st
from normserve_proto import open_inference_pb2 as pb
from normserve_server.config_fields import HONOURED, kind_of
from normserve_server.errors import LoadError
from normserve_server.model_config import ModelConfig, read


def inner(field: FieldDescriptor) -> Descriptor | None:
    """The message that a field holds, in a map its values."""
    message = field.message_type
    if message is None or not message.GetOptions().map_entry:
        return message
    return message.fields_by_name["value"].message_type


def reached(descriptor: Descriptor) -> Iterator[Descriptor]:
    yield descriptor
    for field in descriptor.fields:
        message = inner(field)
        if field.name in HONOURED[kind_of(descriptor.full_name)] and message is not None:
            yield from reached(message)


def test_the_table_has_each_message_that_is_reached_and_no_other_and_only_real_fields() -> None:
    messages = {kind_of(message.full_name): message for message in reached(pb.ModelConfig.DESCRIPTOR)}
    assert set(messages) == set(HONOURED)
    assert all(HONOURED[name] <= {field.name for field in message.fields} for name, message in messages.items())


INTEGERS = st.one_of(st.integers(-2, 9), st.integers(-(2**31), 2**31 - 1))
SCALARS = {
    FieldDescriptor.CPPTYPE_STRING: st.sampled_from(["", "x", "net", "onnxruntime", "none", "1,2", "0", "../x", "\0", "é"]),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(0, 15),
    FieldDescriptor.CPPTYPE_INT32: INTEGERS,
    FieldDescriptor.CPPTYPE_INT64: INTEGERS,
    FieldDescriptor.CPPTYPE_UINT32: INTEGERS.map(abs),
    FieldDescriptor.CPPTYPE_UINT64: INTEGERS.map(abs),
    FieldDescriptor.CPPTYPE_FLOAT: st.sampled_from([0.0, 0.5]),
    FieldDescriptor.CPPTYPE_DOUBLE: st.sampled_from([0.0, 0.5]),
}


@st.composite
def messages(draw, descriptor: Descriptor, rare: bool) -> str:
    """The text of a message: some of its fields, the honoured ones more often than the others."""
    names = [field.name for field in descriptor.fields]
    usual = sorted(HONOURED.get(kind_of(descriptor.full_name), names))
    pool = names if rare or not usual else usual
    chosen = draw(st.lists(st.sampled_from(pool), unique=True, max_size=6)) if pool else []
    parts = []
    for field in (descriptor.fields_by_name[name] for name in chosen):
        if field.message_type is None:
            parts.append(f"{field.name}: {_scalar(draw(SCALARS[field.cpp_type]))}")
        else:
            parts.append(f"{field.name} {{ {draw(messages(field.message_type, rare))} }}")
    return " ".join(parts)


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return "'" + "".join(f"\\{byte:03o}" for byte in value.encode()) + "'"
    return str(value).lower()


@settings(max_examples=400, deadline=None)
@given(rare=st.booleans(), data=st.data())
def test_any_config_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, rare: bool, data: st.DataObject) -> None:
    text = data.draw(messages(pb.ModelConfig.DESCRIPTOR, rare))
    folder = tmp_path_factory.getbasetemp() / "net"
    folder.mkdir(exist_ok=True)
    (folder / "config.pbtxt").write_text(text)
    first = outcome(folder, None)
    try:
        message = text_format.Parse(text, pb.ModelConfig())
    except text_format.ParseError:
        assert isinstance(first, LoadError)
        return
    if message.max_batch_size:  # a 0 in the text is not in the JSON
        again = outcome(folder, json_format.MessageToJson(message))
        assert isinstance(first, LoadError) == isinstance(again, LoadError)
        assert first == again or isinstance(first, LoadError)


def outcome(folder: Path, override: str | None) -> ModelConfig | LoadError:
    try:
        return read(folder, override)
    except LoadError as error:
        return error
