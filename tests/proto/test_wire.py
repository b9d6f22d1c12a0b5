"""Splitting a message is parsing it: protobuf's own parser is the judge."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from normserve_proto import open_inference_pb2 as pb
from normserve_proto import wire

RAW = wire.RAW_INPUT_CONTENTS


@pytest.fixture(autouse=True)
def scan_everything(monkeypatch):
    monkeypatch.setattr(wire, "SMALL", 0)


def parsed(message):
    """What protobuf says: the message, or None."""
    try:
        return pb.ModelInferRequest.FromString(message)
    except DecodeError:
        return None


def split_and_parsed(message):
    """What splitting says, put together again: the message, or None."""
    head, entries = wire.split(message, RAW)
    try:
        request = pb.ModelInferRequest.FromString(head)
    except DecodeError:
        return None
    if entries is not None:
        assert not request.raw_input_contents, "an entry stayed in the head"
        request.raw_input_contents.extend(bytes(entry) for entry in entries)
    return request


def check(message):
    wanted, got = parsed(message), split_and_parsed(message)
    assert (got is None) == (wanted is None)
    if wanted is not None:
        assert got.SerializeToString(deterministic=True) == wanted.SerializeToString(deterministic=True)


requests = st.builds(
    pb.ModelInferRequest,
    model_name=st.text(max_size=8),
    model_version=st.text(max_size=2),
    id=st.text(max_size=4),
    parameters=st.dictionaries(st.text(max_size=3), st.builds(pb.InferParameter, int64_param=st.integers(-(2**63), 2**63 - 1))),
    inputs=st.lists(
        st.builds(
            pb.ModelInferRequest.InferInputTensor,
            name=st.text(max_size=3),
            datatype=st.sampled_from(["FP32", "BYTES"]),
            shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
        ),
        max_size=3,
    ),
    outputs=st.lists(st.builds(pb.ModelInferRequest.InferRequestedOutputTensor, name=st.text(max_size=3)), max_size=2),
    raw_input_contents=st.lists(st.binary(max_size=300), max_size=4),
)

# Fields one by one, in the ways that a serializer never writes them: any order, long varints, groups, unknown numbers.
varints = st.one_of(
    st.integers(0, 300).map(wire._varint),
    st.integers(0, 2**70).map(wire._varint),
    st.integers(0, 127).flatmap(lambda value: st.integers(1, 9).map(lambda n: bytes([value | 0x80] + [0x80] * (n - 1) + [0]))),
)
tags = st.one_of(
    st.tuples(st.integers(0, 20), st.integers(0, 7)).map(lambda t: wire._varint(t[0] << 3 | t[1])),
    st.sampled_from([bytes([RAW << 3 | 2]), bytes([RAW << 3 | 0x82, 0]), bytes([RAW << 3 | 0x82, 0x80, 0x80, 0x80, 0x10])]),
    st.integers(0, 2**36).map(wire._varint),
)
fields = st.tuples(tags, varints, st.binary(max_size=8)).map(b"".join)
delimited = st.tuples(st.sampled_from([1, 5, 7, 9, 15]), st.binary(max_size=200)).map(
    lambda field: wire.prefix(field[0], len(field[1])) + field[1]
)
unknown = st.one_of(
    st.tuples(st.just(12 << 3 | 0), st.integers(0, 2**32).map(wire._varint)),
    st.tuples(st.just(12 << 3 | 1), st.binary(min_size=8, max_size=8)),
    st.tuples(st.just(12 << 3 | 5), st.binary(min_size=4, max_size=4)),
).map(lambda field: bytes([field[0]]) + field[1])


@given(requests)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_valid_messages(request_message):
    check(request_message.SerializeToString())


@given(requests, st.data())
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_and_truncated_messages(request_message, data):
    message = bytearray(request_message.SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        position = data.draw(st.integers(0, max(len(message) - 1, 0)))
        message[position : position + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    check(bytes(message[: data.draw(st.integers(0, len(message)))]))


@given(st.lists(st.one_of(fields, delimited, unknown), max_size=6).map(b"".join))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(b"\x3a\xff\xff\xff\xff\x0fab")
@example(b"\xba\x80\x80\x80\x10\x01a")
@example(b"\x3b\x3a\x01a\x3c")
@example(b"\x38\x05\x3a\x01a")
@example(b"\x3a\x81\x80\x80\x80\x00a")
@example(b"\x3a\x81\x80\x80\x80\x80\x00a")
@example(b"\x00")
# An entry that would read as fields of its own, behind a field of fixed size: whoever steps too far takes it for the head's.
@example(b"\x65" + bytes(4) + b"\x3a\x08\x01\x08\x01\x08\x01\x08\x81\x01")
@example(b"\x61" + bytes(8) + b"\x3a\x08\x01\x08\x01\x08\x01\x08\x81\x01")
def test_arbitrary_fields(message):
    check(message)


@given(st.binary(max_size=40))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_bytes(message):
    check(message)


@given(requests)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_join_is_what_protobuf_writes(request_message):
    head = pb.ModelInferRequest.FromString(request_message.SerializeToString())
    head.ClearField("raw_input_contents")
    joined = wire.join(head.SerializeToString(deterministic=True), RAW, request_message.raw_input_contents)
    assert joined == request_message.SerializeToString(deterministic=True)


def test_entries_are_views_and_the_head_is_the_rest():
    tensor = np.arange(100_000, dtype=np.float32)
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[tensor.tobytes(), b"", b"x"])
    message = request.SerializeToString()
    head, entries = wire.split(message, RAW)
    assert pb.ModelInferRequest.FromString(head) == pb.ModelInferRequest(model_name="m")
    assert [len(entry) for entry in entries] == [tensor.nbytes, 0, 1]
    assert np.shares_memory(np.frombuffer(entries[0], np.uint8), np.frombuffer(message, np.uint8))
    assert np.array_equal(np.frombuffer(entries[0], np.float32), tensor)


def test_joining_takes_any_contiguous_buffer():
    entries = [b"ab", bytearray(b"cd"), memoryview(b"ef")]
    assert pb.ModelInferRequest.FromString(wire.join(b"", RAW, entries)).raw_input_contents == [b"ab", b"cd", b"ef"]


def test_a_small_message_is_left_to_protobuf(monkeypatch):
    message = pb.ModelInferRequest(raw_input_contents=[b"abc"]).SerializeToString()
    monkeypatch.setattr(wire, "SMALL", len(message) + 1)
    assert wire.split(message, RAW) == (message, None)
    monkeypatch.setattr(wire, "SMALL", len(message))
    assert wire.split(message, RAW) == (b"", [b"abc"])


def test_a_message_of_very_many_fields_is_left_to_protobuf():
    few = pb.ModelInferRequest(raw_input_contents=[b""] * wire.MANY).SerializeToString()
    many = pb.ModelInferRequest(raw_input_contents=[b""] * (wire.MANY + 1)).SerializeToString()
    assert len(wire.split(few, RAW)[1]) == wire.MANY
    assert wire.split(many, RAW) == (many, None)


def test_a_view_of_a_message_can_be_split():
    message = memoryview(pb.ModelInferRequest(id="1", raw_input_contents=[b"abc"]).SerializeToString())
    head, entries = wire.split(message, RAW)
    assert (pb.ModelInferRequest.FromString(head).id, entries) == ("1", [b"abc"])


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 2**31 - 1])
def test_prefix_is_tag_and_length(length):
    start = wire.prefix(RAW, length)
    assert wire._read_varint(start, 0) == (RAW << 3 | 2, 1)
    assert wire._read_varint(start, 1) == (length, len(start))


def check_template(of, message):
    """Whatever a template takes is what scanning says it is."""
    found = wire.scan(of, RAW)
    if found is None or len(message) != len(of):
        return None
    entries = wire.Template(of, found[1]).entries(message)
    if entries is not None:
        head, extents = wire.scan(message, RAW)
        assert head == found[0]
        assert [bytes(entry) for entry in entries] == [message[start:stop] for start, stop in extents]
    return entries


@given(requests, st.data())
def test_a_template_takes_messages_that_differ_in_their_entries_only(request, data):
    of = request.SerializeToString()
    assert check_template(of, of) is not None
    entries = [data.draw(st.binary(min_size=len(entry), max_size=len(entry))) for entry in request.raw_input_contents]
    del request.raw_input_contents[:]
    request.raw_input_contents.extend(entries)
    taken = check_template(of, request.SerializeToString())
    assert [bytes(entry) for entry in taken] == entries


@given(requests, st.data())
def test_a_template_takes_nothing_that_scanning_reads_differently(request, data):
    of = request.SerializeToString()
    message = bytearray(of)
    for _ in range(data.draw(st.integers(1, 3)) if of else 0):
        message[data.draw(st.integers(0, len(of) - 1))] = data.draw(st.integers(0, 255))
    check_template(of, bytes(message))


def test_a_template_looks_at_every_byte_outside_of_the_entries():
    of = pb.ModelInferRequest(model_name="net", id="1", raw_input_contents=[b"abc", b"", b"defg"]).SerializeToString()
    inside = {position for start, stop in wire.scan(of, RAW)[1] for position in range(start, stop)}
    assert len(inside) == 7
    for position in range(len(of)):
        other = of[:position] + bytes([of[position] ^ 1]) + of[position + 1 :]
        assert (wire.Template(of, wire.scan(of, RAW)[1]).entries(other) is not None) == (position in inside)


def split_by(splitter, message):
    head, entries = splitter.split(message)
    return head, None if entries is None else [bytes(entry) for entry in entries]


@given(st.lists(requests, min_size=1, max_size=4), st.lists(st.integers(0, 3), max_size=30), st.data())
def test_a_splitter_says_what_split_says_whatever_came_before(messages, order, data):
    splitter = wire.Splitter(RAW)
    for position in order:
        request = messages[position % len(messages)]
        entries = [data.draw(st.binary(min_size=len(entry), max_size=len(entry))) for entry in request.raw_input_contents]
        del request.raw_input_contents[:]
        request.raw_input_contents.extend(entries)
        message = request.SerializeToString()
        head, wanted = wire.split(message, RAW)
        assert split_by(splitter, message) == (head, [bytes(entry) for entry in wanted])


@given(st.binary(max_size=40), st.integers(1, 3))
def test_a_splitter_leaves_what_is_not_understood(message, times):
    splitter = wire.Splitter(RAW)
    for _ in range(times):
        head, entries = wire.split(message, RAW)
        assert split_by(splitter, message) == (head, None if entries is None else [bytes(entry) for entry in entries])


def test_a_splitter_keeps_what_comes_again_and_nothing_else(monkeypatch):
    scans = []
    monkeypatch.setattr(wire, "scan", lambda *a, scan=wire.scan: scans.append(a) or scan(*a))
    splitter = wire.Splitter(RAW)
    alike = [pb.ModelInferRequest(model_name="m", raw_input_contents=[bytes([n])]).SerializeToString() for n in range(9)]
    for message in alike:
        splitter.split(message)
    assert len(scans) == 2
    for number in range(wire.MOST_LENGTHS * 2):
        splitter.split(pb.ModelInferRequest(id="x" * number, raw_input_contents=[b"a"]).SerializeToString())
    assert len(splitter._heads) <= wire.MOST_LENGTHS
    own = [pb.ModelInferRequest(id=f"{n:04}", raw_input_contents=[b"a"]).SerializeToString() for n in range(50)]
    for message in own * 2:
        splitter.split(message)
    assert sum(map(len, splitter._templates.values())) <= wire.MOST_ALIKE
