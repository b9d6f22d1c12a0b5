"""numpy arrays to and from the wire."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from normserve_proto import open_inference_pb2 as pb
from normserve_proto import tensors
from normserve_proto.tensors import TensorError

NUMERIC = [name for name in tensors.DTYPES if name != "BYTES"]
RAW_ONLY = ["FP16", "BF16"]
TYPED = [name for name in NUMERIC if name not in RAW_ONLY]


def numbers(datatype, shape):
    count = int(np.prod(shape))
    return (np.arange(count) % 2 if datatype == "BOOL" else np.arange(count)).reshape(shape).astype(tensors.DTYPES[datatype])


def round_trip(array):
    return tensors.decode("x", tensors.datatype_of(array), array.shape, tensors.encode(array))


def message(**fields):
    return pb.ModelInferRequest.InferInputTensor(**{"name": "x", **fields})


class TestRoundTrip:
    @pytest.mark.parametrize("datatype", NUMERIC)
    @pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3), (0,), (3, 0, 2), (1, 2, 1, 2, 1)])
    def test_keeps_dtype_shape_and_elements(self, datatype, shape):
        array = numbers(datatype, shape)
        back = round_trip(array)
        assert back.dtype == array.dtype
        assert back.shape == shape
        assert np.array_equal(back, array)

    @pytest.mark.parametrize("datatype", [name for name in NUMERIC if name != "BF16"])
    def test_big_endian(self, datatype):
        array = numbers(datatype, (2, 3))
        big = array.astype(array.dtype.newbyteorder(">"))
        assert bytes(tensors.encode(big)) == array.tobytes()
        assert tensors.datatype_of(big) == datatype

    @pytest.mark.parametrize("datatype", NUMERIC)
    def test_not_contiguous(self, datatype):
        array = numbers(datatype, (4, 6))
        for view in (array.T, array[::2, 1::3], array[::-1], np.asfortranarray(array), np.broadcast_to(array, (2, 4, 6))):
            assert np.array_equal(round_trip(view), view)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.0, 5e-324, 1.7976931348623157e308])
    def test_special_numbers_bit_by_bit(self, value):
        array = np.array([value])
        assert round_trip(array).tobytes() == array.tobytes()

    def test_elements_are_little_endian_and_row_major(self):
        assert bytes(tensors.encode(np.array([[1, 2], [3, 4]], np.uint16))) == b"\1\0\2\0\3\0\4\0"
        assert bytes(tensors.encode(np.array([1.0], ml_dtypes.bfloat16))) == b"\x80\x3f"

    @pytest.mark.parametrize(
        "array",
        [
            np.array([b"", b"a", b"\0\0", b"\xff" * 300], object),
            np.array([["caf\u00e9", b"\xff"], ["", "x"]], object),
            np.array([b"ab", b"c"]),
            np.array([["\u65e5\u672c", "b"]]),
            np.array("alone", object),
            np.empty((0, 3), object),
        ],
        ids=["object", "mixed", "S", "U", "scalar", "empty"],
    )
    def test_bytes(self, array):
        back = round_trip(array)
        assert tensors.datatype_of(array) == "BYTES"
        assert back.shape == array.shape
        wanted = [element.encode() if isinstance(element, str) else element for element in array.flat]
        assert list(back.flat) == wanted
        assert all(type(element) is bytes for element in back.flat)

    def test_bytes_layout(self):
        assert bytes(tensors.encode(np.array(["ab", b""], object))) == b"\2\0\0\0ab\0\0\0\0"


class TestZeroCopy:
    @pytest.mark.parametrize("datatype", NUMERIC)
    @pytest.mark.parametrize("wrap", [bytes, bytearray, lambda raw: memoryview(bytes(raw))])
    def test_decoding_makes_a_view(self, datatype, wrap):
        raw = wrap(numbers(datatype, (2, 4)).tobytes())
        back = tensors.decode("x", datatype, (2, 4), raw)
        assert np.shares_memory(back, np.frombuffer(raw, np.uint8))

    def test_views_of_immutable_bytes_are_read_only(self):
        assert not tensors.decode("x", "INT8", (2,), b"ab").flags.writeable
        assert tensors.decode("x", "INT8", (2,), bytearray(b"ab")).flags.writeable

    @pytest.mark.parametrize("datatype", NUMERIC)
    def test_encoding_makes_a_view(self, datatype):
        array = numbers(datatype, (2, 4))
        assert np.shares_memory(np.frombuffer(tensors.encode(array), np.uint8), array)

    def test_the_raw_entries_of_a_message_are_viewed(self):
        raw = np.arange(8, dtype=np.uint8).tobytes()
        arrays = tensors.decode_all([message(datatype="UINT8", shape=[8])], [memoryview(raw)])
        assert np.shares_memory(arrays["x"], np.frombuffer(raw, np.uint8))


class TestDatatypeOf:
    def test_every_dtype_has_the_name_that_names_it(self):
        assert {name: tensors.datatype_of(np.empty(0, dtype)) for name, dtype in tensors.DTYPES.items()} == {
            name: name for name in tensors.DTYPES
        }

    def test_synonyms(self):
        assert tensors.datatype_of(np.empty(0, np.longlong)) == "INT64"
        assert tensors.datatype_of(np.empty(0, np.ulonglong)) == "UINT64"

    @pytest.mark.parametrize("dtype", ["c8", "M8[s]", "m8[s]", np.longdouble, [("a", "f4")], "V2", ml_dtypes.float8_e4m3fn])
    def test_a_dtype_without_a_name(self, dtype):
        with pytest.raises(TensorError, match=r"has no datatype on the wire; known are BOOL"):
            tensors.datatype_of(np.empty(1, dtype))


class TestEncodeErrors:
    @pytest.mark.parametrize("element", [1, None, 2.5, ["a"], bytearray(b"a")])
    def test_an_element_that_is_neither_bytes_nor_str(self, element):
        array = np.empty(1, object)
        array[0] = element
        with pytest.raises(TensorError, match=f"bytes or str, got {type(element).__name__}"):
            tensors.encode(array)

    def test_text_that_is_not_utf8(self):
        with pytest.raises(TensorError, match="not UTF-8"):
            tensors.encode(np.array(["\ud800"], object))


class TestDecodeErrors:
    @pytest.mark.parametrize(
        ("datatype", "shape", "raw", "text"),
        [
            ("FLOAT", [1], b"1234", "tensor 'x': unknown datatype 'FLOAT'; known are BOOL"),
            ("fp32", [1], b"1234", "unknown datatype 'fp32'"),
            ("", [1], b"1234", "unknown datatype ''"),
            ("FP32", [-1], b"1234", "tensor 'x': shape [-1] has a negative extent"),
            ("FP32", [2, 3], b"1234", "tensor 'x': FP32 of shape [2, 3] takes 24 bytes, got 4"),
            ("FP32", [1], b"123", "tensor 'x': FP32 of shape [1] takes 4 bytes, got 3"),
            ("FP32", [], b"", "tensor 'x': FP32 of shape [] takes 4 bytes, got 0"),
            ("FP32", [0], b"1234", "tensor 'x': FP32 of shape [0] takes 0 bytes, got 4"),
            ("INT64", [2**62, 2**62], b"", f"takes {2**127} bytes, got 0"),
            ("FP32", [2**62, 2**62, 0], b"", f"tensor 'x': shape [{2**62}, {2**62}, 0] is empty and claims"),
            ("FP32", [1] * 65, b"1234", "tensor 'x' has 65 axes, at most 64 are possible"),
            ("BYTES", [2**62], b"", f"tensor 'x': BYTES of shape [{2**62}] takes {2**62} elements, got 0"),
            ("BYTES", [1], b"\1\0\0", "tensor 'x': BYTES element 0 ends at byte 4 of 3"),
            ("BYTES", [1], b"\5\0\0\0ab", "tensor 'x': BYTES element 0 ends at byte 9 of 6"),
            ("BYTES", [1], b"\xff\xff\xff\xffab", f"ends at byte {2**32 + 3} of 6"),
            ("BYTES", [2], b"\1\0\0\0a", "tensor 'x': BYTES of shape [2] takes 2 elements, got 1"),
            ("BYTES", [1], b"\0\0\0\0" * 2, "tensor 'x': BYTES of shape [1] takes 1 elements, got"),
        ],
    )
    def test_raw(self, datatype, shape, raw, text):
        with pytest.raises(TensorError) as caught:
            tensors.decode("x", datatype, shape, raw)
        assert text in str(caught.value)

    def test_more_elements_than_claimed_are_not_read_to_the_end(self):
        with pytest.raises(TensorError, match="takes 1 elements, got more"):
            tensors.decode("x", "BYTES", [1], b"\0\0\0\0" * 1_000_000)


def typed(datatype, shape, **contents):
    return message(datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents))


class TestTypedContents:
    @pytest.mark.parametrize("datatype", TYPED)
    def test_every_datatype_that_has_a_field(self, datatype):
        array = numbers(datatype, (2, 3))
        tensor = typed(datatype, (2, 3), **{tensors._CONTENTS_FIELDS[datatype]: array.reshape(-1).tolist()})
        decoded = tensors.decode_all([tensor], [])["x"]
        assert decoded.dtype == array.dtype
        assert np.array_equal(decoded, array)

    def test_bytes(self):
        decoded = tensors.decode_all([typed("BYTES", [2, 1], bytes_contents=[b"a\0", b""])], [])["x"]
        assert decoded.tolist() == [[b"a\0"], [b""]]

    def test_an_empty_tensor_needs_no_contents(self):
        assert tensors.decode_all([message(datatype="FP32", shape=[0, 3])], [])["x"].shape == (0, 3)

    @pytest.mark.parametrize(
        ("tensor", "text"),
        [
            (typed("FP32", [2], fp32_contents=[1]), "tensor 'x': shape [2] takes 2 elements, fp32_contents has 1"),
            (message(datatype="FP32", shape=[2]), "tensor 'x': shape [2] takes 2 elements, fp32_contents has 0"),
            (typed("FP32", [1], fp64_contents=[1]), "tensor 'x': FP32 travels in fp32_contents, got fp64_contents"),
            (typed("FP32", [1], fp32_contents=[1], int_contents=[1]), "travels in fp32_contents, got int_contents"),
            (typed("INT8", [1], int_contents=[200]), "tensor 'x': a value does not fit INT8"),
            (typed("UINT16", [1], uint_contents=[2**16]), "tensor 'x': a value does not fit UINT16"),
            (typed("BF16", [1]), "tensor 'x': BF16 travels only as raw contents"),
            (typed("FP16", [1], fp32_contents=[1]), "tensor 'x': FP16 travels only as raw contents"),
            (typed("FP32", [2**62, 2**62], fp32_contents=[1]), f"takes {2**124} elements, fp32_contents has 1"),
            (typed("X", [1], fp32_contents=[1]), "tensor 'x': unknown datatype 'X'"),
        ],
    )
    def test_errors(self, tensor, text):
        with pytest.raises(TensorError) as caught:
            tensors.decode_all([tensor], [])
        assert text in str(caught.value)


class TestDecodeAll:
    def test_arrays_come_in_order(self):
        described = [pb.ModelInferResponse.InferOutputTensor(name=name, datatype="INT8", shape=[1]) for name in "ba"]
        assert [(name, int(array[0])) for name, array in tensors.decode_all(described, [b"\1", b"\2"]).items()] == [
            ("b", 1),
            ("a", 2),
        ]

    @pytest.mark.parametrize(
        ("described", "raw", "text"),
        [
            ([message(datatype="INT8", shape=[1])], [b"a", b"b"], "1 tensors ['x'] but 2 raw contents"),
            ([message(datatype="INT8", shape=[1])] * 2, [b"a"], "2 tensors ['x', 'x'] but 1 raw contents"),
            ([message(datatype="INT8", shape=[1])] * 2, [b"a", b"b"], "tensor 'x' is given twice"),
            ([typed("INT8", [1], int_contents=[1])], [b"a"], "tensor 'x' has contents although the message has raw contents"),
            ([], [b"a"], "0 tensors [] but 1 raw contents"),
        ],
    )
    def test_errors(self, described, raw, text):
        with pytest.raises(TensorError) as caught:
            tensors.decode_all(described, raw)
        assert text in str(caught.value)


extents = st.one_of(st.integers(-1, 4), st.sampled_from([2**31, 2**62, 2**63 - 1, -(2**63)]))
contents = st.builds(
    pb.InferTensorContents,
    bool_contents=st.lists(st.booleans(), max_size=2),
    int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    int64_contents=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=2),
    uint_contents=st.lists(st.integers(0, 2**32 - 1), max_size=2),
    fp32_contents=st.lists(st.floats(width=32), max_size=4),
    fp64_contents=st.lists(st.floats(), max_size=2),
    bytes_contents=st.lists(st.binary(max_size=4), max_size=3),
)
described = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=st.sampled_from(["x", "y", "z", ""]),
    datatype=st.sampled_from([*tensors.DTYPES, "FP8", ""]),
    shape=st.lists(extents, max_size=4),
    contents=st.none() | contents,
)


@given(st.lists(described, max_size=3), st.lists(st.binary(max_size=32), max_size=3))
@settings(max_examples=400, deadline=None)
def test_arbitrary_messages_decode_or_are_refused(inputs, raw):
    try:
        arrays = tensors.decode_all(inputs, raw)
    except TensorError:
        return
    for tensor in inputs:
        assert arrays[tensor.name].shape == tuple(tensor.shape)
        assert arrays[tensor.name].dtype == tensors.DTYPES[tensor.datatype]


@given(st.sampled_from(NUMERIC), st.lists(st.integers(0, 3), max_size=4), st.data())
@settings(max_examples=200, deadline=None)
def test_any_bits_survive_the_round_trip(datatype, shape, data):
    size = int(np.prod(shape)) * tensors.DTYPES[datatype].itemsize
    bits = st.binary(min_size=size, max_size=size)
    raw = data.draw(bits.map(lambda raw: bytes(byte & 1 for byte in raw)) if datatype == "BOOL" else bits)
    assert bytes(tensors.encode(tensors.decode("x", datatype, shape, raw))) == raw


@pytest.mark.parametrize("byte", [2, 250, 255])
def test_a_bool_is_a_byte_0_or_1(byte):
    with pytest.raises(TensorError, match=f"a BOOL is a byte 0 or 1, got {byte}"):
        tensors.decode("x", "BOOL", [3], bytes([0, byte, 1]))
