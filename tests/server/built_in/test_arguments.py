"""Parameters of requests as arguments of operators."""

from typing import Any

import pytest
from normserve_proto import open_inference_pb2 as pb
from normserve_server.built_in.arguments import BOOLEAN, EXTENTS, INTEGER, NUMBER, Argument, read
from normserve_server.errors import InvalidRequestError

ARGUMENTS = {
    "size": Argument(INTEGER),
    "eps": Argument(NUMBER, "1e-5"),
    "training": Argument(BOOLEAN, "false"),
    "shape": Argument(EXTENTS, "none"),
}


def parameter(value: Any) -> pb.InferParameter:
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param", type(None): None}
    kind = kinds[type(value)]
    return pb.InferParameter(**({kind: value} if kind else {}))


def given(**values: Any) -> dict[str, Any]:
    message = pb.ModelInferRequest()
    for name, value in values.items():
        message.parameters[name].CopyFrom(parameter(value))
    return {name: array.tolist() for name, array in read(message.parameters, ARGUMENTS, "normserve.x").items()}


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("size", 3, 3),
        ("size", "-3", -3),
        ("size", "9223372036854775807", 2**63 - 1),
        ("eps", 1e-3, 1e-3),
        ("eps", 1, 1.0),
        ("eps", "1e-3", 1e-3),
        ("eps", "inf", float("inf")),
        ("training", True, True),
        ("training", "true", True),
        ("training", "false", False),
        ("shape", 4, [4]),
        ("shape", "4", [4]),
        ("shape", "2, 3", [2, 3]),
        ("shape", "[2, 3]", [2, 3]),
        ("shape", " [4]", [4]),
        ("shape", "[]", []),
    ],
)
def test_what_an_argument_may_be(name: str, value: Any, read: Any) -> None:
    found = given(**{"size": 1, name: value})[name]
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize(
    "value", ["", "x", None, "[2", "[[2]]", "[2.5]", "[true]", "2,,3", '["2"', "99999999999999999999", "{}"]
)
def test_what_none_may_be(name: str, value: Any) -> None:
    if (name, value) == ("eps", "99999999999999999999"):
        return
    kind = ARGUMENTS[name].kind.name
    with pytest.raises(InvalidRequestError) as error:
        given(**{"size": 1, name: value})
    assert str(error.value) == f"parameter '{name}' is {kind}, got {value!r}"


@pytest.mark.parametrize(("name", "value"), [("size", True), ("size", 2.0), ("eps", True), ("training", 1), ("shape", 2.0)])
def test_one_kind_is_not_taken_for_another(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=f"parameter '{name}' is"):
        given(**{"size": 1, name: value})


def test_an_unsigned_integer_that_is_too_large() -> None:
    message = pb.ModelInferRequest()
    message.parameters["size"].uint64_param = 2**63
    with pytest.raises(InvalidRequestError, match="'size' is an integer, got 9223372036854775808"):
        read(message.parameters, ARGUMENTS, "normserve.x")


def test_deep_text_is_no_bug() -> None:
    with pytest.raises(InvalidRequestError, match="'shape' is"):
        given(size=1, shape="[" * 100_000)


def test_names() -> None:
    with pytest.raises(InvalidRequestError, match=r"'epsilon' of normserve.x is unknown; there is size, eps, training, shape"):
        given(size=1, epsilon=1.0)
    with pytest.raises(InvalidRequestError, match=r"missing parameter 'size' of normserve.x, an integer"):
        given(eps=1.0)


def test_what_clients_send_with_every_request_is_no_argument() -> None:
    common = {"timeout": 5, "priority": 1, "sequence_id": 0, "sequence_start": False, "sequence_end": False}
    assert given(size=1, **common, triton_enable_empty_final_response=True, triton_other=1) == {"size": 1}


def test_more_extents_than_a_tensor_has_are_not_read() -> None:
    assert given(size=1, shape=",".join(["9223372036854775807"] * 64))["shape"] == [2**63 - 1] * 64
    with pytest.raises(InvalidRequestError, match="parameter 'shape' is an integer, or the text of several"):
        given(size=1, shape="1," * 1024 + "1")
