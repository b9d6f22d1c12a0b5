import grpc
import pytest
from google.protobuf.message import DecodeError
from normserve_proto.tensors import TensorError
from normserve_server import errors
from normserve_server.errors import BUG, OverloadedError, QueueTimeoutError, ServiceError, status_of


def subclasses(kind: type[Exception]) -> list[type[Exception]]:
    return [sub for child in kind.__subclasses__() for sub in (child, *subclasses(child))]


@pytest.fixture(params=errors.CODES)
def codes(request: pytest.FixtureRequest) -> errors.Codes:
    return errors.CODES[request.param]


def instance(kind: type[Exception]) -> Exception:
    return OverloadedError("text", retry_after_ms=5) if kind is OverloadedError else kind("text")


@pytest.mark.parametrize("kind", subclasses(ServiceError))
def test_every_refusal_has_a_code_of_its_own_entry(kind: type[Exception], codes: errors.Codes) -> None:
    assert kind in codes
    assert status_of(instance(kind), codes) == (codes[kind], "text")


def test_contract_table() -> None:
    expected = {
        "NotFoundError": grpc.StatusCode.NOT_FOUND,
        "AlreadyExistsError": grpc.StatusCode.ALREADY_EXISTS,
        "InvalidRequestError": grpc.StatusCode.INVALID_ARGUMENT,
        "UnavailableError": grpc.StatusCode.UNAVAILABLE,
        "OverloadedError": grpc.StatusCode.RESOURCE_EXHAUSTED,
        "DeadlineExceededError": grpc.StatusCode.DEADLINE_EXCEEDED,
        "InternalError": grpc.StatusCode.INTERNAL,
    }
    assert {name: errors.STATUS_CODES[getattr(errors, name)] for name in expected} == expected
    assert errors.STATUS_CODES[TensorError] == errors.STATUS_CODES[DecodeError] == grpc.StatusCode.INVALID_ARGUMENT


def test_tritons_codes_differ_where_a_queue_is_full_or_too_slow_and_nowhere_else() -> None:
    usual, tritons = errors.CODES["grpc"], errors.CODES["triton"]
    assert usual == errors.STATUS_CODES
    assert usual.keys() == tritons.keys()
    assert {kind: code for kind, code in tritons.items() if usual[kind] != code} == {
        OverloadedError: grpc.StatusCode.UNAVAILABLE,
        QueueTimeoutError: grpc.StatusCode.UNAVAILABLE,
    }
    assert usual[QueueTimeoutError] == tritons[errors.DeadlineExceededError] == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_subclass_takes_the_code_of_its_nearest_ancestor() -> None:
    class Special(errors.NotFoundError):
        pass

    assert status_of(Special("x")) == (grpc.StatusCode.NOT_FOUND, "x")


def test_a_bug_tells_callers_nothing(codes: errors.Codes) -> None:
    assert status_of(KeyError("secret path"), codes) == (grpc.StatusCode.INTERNAL, BUG)
