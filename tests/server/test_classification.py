"""The largest elements as text, for every datatype that has an order."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from normserve_proto.tensors import DTYPES
from normserve_server.classification import top

NUMBERS = sorted(set(DTYPES) - {"BYTES", "BOOL"})


@pytest.mark.parametrize("datatype", NUMBERS)
def test_every_datatype_with_an_order(datatype: str) -> None:
    array = np.array([[1, 3, 2], [9, 7, 8]], DTYPES[datatype])
    number = "%d" if array.dtype.kind in "iu" else "%f"
    expected = [[number % 3 + ":1", number % 2 + ":2"], [number % 9 + ":0", number % 8 + ":2"]]
    assert [[text.decode() for text in row] for row in top(array, 2, batched=True)] == expected


def test_values_are_written_as_c_does() -> None:
    values = np.array([1e10, 0.1, -2.5e-7, -np.inf, np.nan], np.float32)
    assert top(values, 9, batched=False).tolist() == [
        b"10000000000.000000:0", b"0.100000:1", b"-0.000000:2", b"-inf:3", b"nan:4",
    ]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), [(2**64 - 1, b"18446744073709551615:1"), (2**63, b"9223372036854775808:1")])
def test_large_integers_keep_their_digits_and_their_order(value: int, text: bytes) -> None:
    assert top(np.array([2**53, value, 2**53 + 1], np.uint64), 1, batched=False).tolist() == [text]


def test_the_smallest_integer_is_the_last() -> None:
    assert top(np.array([-128, 127, 0], np.int8), 3, batched=False).tolist() == [b"127:1", b"0:2", b"-128:0"]


def test_of_equal_values_the_lower_class_comes_first() -> None:
    assert top(np.array([1, 5, 5, 5, 5], np.int32), 3, batched=False).tolist() == [b"5:1", b"5:2", b"5:3"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_nan_counts_as_negative_infinity(dtype: type) -> None:
    array = np.array([np.nan, -np.inf, 1, np.nan, np.inf], dtype)
    assert top(array, 5, batched=False).tolist() == [b"inf:4", b"1.000000:2", b"nan:0", b"-inf:1", b"nan:3"]
    assert top(array, 3, batched=False).tolist() == [b"inf:4", b"1.000000:2", b"nan:0"]


def test_labels_for_as_many_classes_as_there_are() -> None:
    array = np.array([[0.5, 2, 1]], np.float32)
    answer = top(array, 3, batched=True, labels=("cat", "døg"))
    assert answer.tolist() == [[b"2.000000:1:d\xc3\xb8g", b"1.000000:2", b"0.500000:0:cat"]]


@pytest.mark.parametrize(
    ("shape", "batched", "expected"),
    [
        ((4, 10), True, (4, 3)),
        ((4, 2, 5), True, (4, 3)),
        ((4, 2, 5), False, (3,)),
        ((4, 2), True, (4, 2)),
        ((4,), True, (4, 1)),
        ((), False, (1,)),
        ((0, 10), True, (0, 3)),
        ((4, 0), True, (4, 0)),
        ((4, 0), False, (0,)),
    ],
)
def test_shapes(shape: tuple[int, ...], batched: bool, expected: tuple[int, ...]) -> None:
    answer = top(np.zeros(shape, np.float32), 3, batched=batched)
    assert (answer.shape, answer.dtype) == (expected, np.dtype(object))


def test_samples_are_counted_over_all_their_axes() -> None:
    array = np.zeros((1, 2, 3), np.float32)
    array[0, 1, 2] = 1
    assert top(array, 1, batched=True).tolist() == [[b"1.000000:5"]]


@given(st.lists(st.floats(width=32) | st.sampled_from([0.0, 1.0, float("nan")]), min_size=1, max_size=30), st.integers(1, 40))
def test_like_sorting_them_all(values: list[float], classes: int) -> None:
    array = np.array(values, np.float32)
    keys = [-np.inf if np.isnan(value) else value for value in array]
    order = sorted(range(len(keys)), key=lambda index: (-keys[index], index))[:classes]
    assert [int(text.split(b":")[1]) for text in top(array, classes, batched=False)] == order
