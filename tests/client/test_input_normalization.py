"""`--input-normalization` and `--input-dtype`: what they take, and the line that a mistake gives."""

import numpy as np
import pytest
from normserve.cli.console import InputError
from normserve.cli.input_normalization import EXAMPLE, InputNormalization, parse, parse_dtype

WANTED = InputNormalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    "texts",
    [
        ["mean=0.485,0.456,0.406 std=0.229,0.224,0.225"],
        ["std=0.229,0.224,0.225;mean=0.485,0.456,0.406"],
        ["mean=0.485,0.456,0.406", "std=0.229,0.224,0.225"],
        [" mean = 0.485, 0.456 ,0.406 ;  std= .229,\t2.24e-1,0.225 "],
    ],
)
def test_one_option_or_two(texts) -> None:
    assert parse(texts) == WANTED


def test_nothing_given() -> None:
    assert parse([]) is None
    assert parse_dtype(None) is None


def test_one_value_is_enough() -> None:
    assert parse(["mean=0 std=255"]) == InputNormalization((0.0,), (255.0,))


def test_the_example_of_the_messages_is_right() -> None:
    assert parse([EXAMPLE]) == InputNormalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["mean=1"], "std is lacking"),
        (["std=1"], "mean is lacking"),
        ([""], "mean is lacking"),
        (["mean=1 std=2", "mean=3"], "mean is given twice"),
        (["mean=1 std=2 max=3"], "got 'max=3'"),
        (["mean 1 std 2"], "got 'mean'"),
        (["mean=1,2 3 std=1"], "got '3'"),
        (["mean=1,,2 std=1"], "mean has to be numbers with commas between them, got '1,,2'"),
        (["mean= std=1"], "mean has to be numbers with commas between them, got 'std=1'"),
        (["mean=0.5 std=half"], "std has to be numbers with commas between them, got 'half'"),
    ],
)
def test_what_cannot_be_read(texts, says) -> None:
    with pytest.raises(InputError) as caught:
        parse(texts)
    assert str(caught.value).startswith("--input-normalization: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "dtype"),
    [("uint8", "u1"), ("UINT8", "u1"), ("int8", "i1"), ("uint16", "u2"), ("FP16", "f2"), ("float16", "f2"), ("FP32", "f4")],
)
def test_a_type_by_numpys_name_or_by_the_wires(text, dtype) -> None:
    assert parse_dtype(text) == np.dtype(dtype)


@pytest.mark.parametrize("text", ["", "double", "int64", "BYTES", "Uint8"])
def test_another_type(text) -> None:
    with pytest.raises(InputError, match=rf"--input-dtype: wanted UINT8, uint8, .*, float32, got '{text}'"):
        parse_dtype(text)
