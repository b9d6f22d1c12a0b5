"""Our stubs against the descriptors that Triton's own client carries: names, numbers, types, labels, oneofs, streaming.

The two live in separate descriptor pools, so they are compared as descriptions, and bytes go from one to the other.
"""

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from normserve_proto import open_inference_pb2 as ours

pytest.importorskip("tritonclient.grpc.service_pb2", reason="the dependency group 'conformance' is not installed")
from tritonclient.grpc import model_config_pb2, service_pb2

# In the Open Inference Protocol, and not in Triton's files.
OURS_ALONE = {("inference.ModelMetadataResponse", "properties"), ("inference.ModelMetadataResponse.PropertiesEntry", "")}


def messages_of(*files):
    """All messages of some files, nested ones too, by full name."""
    found = {}

    def walk(descriptors):
        for descriptor in descriptors:
            found[descriptor.full_name] = descriptor
            walk(descriptor.nested_types)

    for file in files:
        walk(file.message_types_by_name.values())
    return found


def enums_of(*files):
    found = {enum.full_name: enum for file in files for enum in file.enum_types_by_name.values()}
    for message in messages_of(*files).values():
        found |= {enum.full_name: enum for enum in message.enum_types}
    return {name: [(value.name, value.number) for value in enum.values] for name, enum in found.items()}


def described(field: FieldDescriptor):
    return {
        "number": field.number,
        "type": field.type,
        "repeated": field.is_repeated,
        "presence": field.has_presence,
        "message": field.message_type and field.message_type.full_name,
        "enum": field.enum_type and field.enum_type.full_name,
        "oneof": field.containing_oneof and field.containing_oneof.name,
        "packed": field.is_packed,
        "map": bool(field.message_type and field.message_type.GetOptions().map_entry),
    }


def services_of(file):
    return {
        service.full_name: {
            method.name: (
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            )
            for method in service.methods
        }
        for service in file.services_by_name.values()
    }


OURS = messages_of(ours.DESCRIPTOR)
THEIRS = messages_of(service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)


def test_the_messages_are_theirs_and_no_others():
    assert OURS.keys() - {name for name, field in OURS_ALONE if not field} == THEIRS.keys()


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_every_field_is_theirs_and_no_others(name):
    mine = {field.name: described(field) for field in OURS[name].fields if (name, field.name) not in OURS_ALONE}
    assert mine == {field.name: described(field) for field in THEIRS[name].fields}


def test_properties_is_field_six_and_a_map_of_strings():
    field = ours.ModelMetadataResponse.DESCRIPTOR.fields_by_name["properties"]
    entry = field.message_type
    assert (field.number, field.is_repeated, entry.GetOptions().map_entry) == (6, True, True)
    assert {part.name: part.type for part in entry.fields} == dict.fromkeys(("key", "value"), FieldDescriptor.TYPE_STRING)


def test_every_enum_is_theirs_value_by_value():
    assert enums_of(ours.DESCRIPTOR) == enums_of(service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)


def test_every_method_is_theirs_with_its_types_and_streams():
    assert services_of(ours.DESCRIPTOR) == services_of(service_pb2.DESCRIPTOR)


def fill(message, depth=3):
    """Sets every field of a message, so that nothing is left out of its bytes; oneofs keep what is set last."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type and field.message_type.GetOptions().map_entry:
            fill_map(message, field, depth)
        elif field.message_type:
            target = getattr(message, field.name)
            if depth:
                fill(target.add() if field.is_repeated else target, depth - 1)
        elif field.is_repeated:
            getattr(message, field.name).append(scalar(field))
        else:
            setattr(message, field.name, scalar(field))
    return message


def fill_map(message, field, depth):
    key, value = field.message_type.fields
    target = getattr(message, field.name)
    if value.message_type is None:
        target[scalar(key)] = scalar(value)
    elif depth:
        fill(target[scalar(key)], depth - 1)


def scalar(field):
    if field.enum_type:
        return field.enum_type.values[-1].number
    return {
        FieldDescriptor.CPPTYPE_STRING: b"\1\2" if field.type == FieldDescriptor.TYPE_BYTES else "text",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_FLOAT: 0.5,
        FieldDescriptor.CPPTYPE_DOUBLE: 0.25,
    }.get(field.cpp_type, field.number + 1)


def top_level():
    return sorted(name for name in THEIRS if name.count(".") == 1)


def class_of(name, *modules):
    return next(getattr(module, name.rpartition(".")[2]) for module in modules if hasattr(module, name.rpartition(".")[2]))


@pytest.mark.parametrize("name", top_level())
def test_the_bytes_of_one_are_the_message_of_the_other(name):
    mine, theirs = class_of(name, ours), class_of(name, service_pb2, model_config_pb2)
    from_them = fill(theirs())
    read = mine.FromString(from_them.SerializeToString())
    assert json_format.MessageToDict(read) == json_format.MessageToDict(from_them)
    assert not has_unknown_fields(read)

    written = mine.FromString(fill(mine()).SerializeToString())
    if name == "inference.ModelMetadataResponse":
        written.ClearField("properties")
    back = theirs.FromString(written.SerializeToString())
    assert json_format.MessageToDict(back) == json_format.MessageToDict(written)
    assert not has_unknown_fields(back)


def has_unknown_fields(message):
    """Discarding what is unknown must change nothing."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return known.ByteSize() != message.ByteSize()


def test_their_client_ignores_our_properties():
    data = ours.ModelMetadataResponse(name="m", properties={"provider": "CPU"}).SerializeToString()
    assert service_pb2.ModelMetadataResponse.FromString(data).name == "m"
