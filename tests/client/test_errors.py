"""Every status code has its class, and comes out of both clients as that."""

import pickle

import grpc
import normserve
import pytest
from normserve import NormserveError, errors

CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
RETRIED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_the_table_is_complete():
    assert set(errors.ERRORS) == set(CODES)


def subclasses(root):
    return {root}.union(*(subclasses(child) for child in root.__subclasses__()))


def test_every_class_is_in_the_table_and_public():
    assert subclasses(NormserveError) == set(errors.ERRORS.values())
    assert {kind.__name__ for kind in subclasses(NormserveError)} <= set(normserve.__all__)


def test_every_class_knows_its_code():
    assert all(errors.ERRORS[kind.code] is kind for kind in subclasses(NormserveError))
    assert len({kind.code for kind in subclasses(NormserveError)}) == len(subclasses(NormserveError))


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
async def test_a_code_becomes_its_class(call, plan, code):
    at_once = (("grpc-retry-pushback-ms", "1"),)
    plan.failures.extend([(code, "why it failed", at_once)] * (5 if code in RETRIED else 1))
    with pytest.raises(NormserveError) as caught:
        await call("server_metadata")
    assert type(caught.value) is errors.ERRORS[code]
    assert (caught.value.code, caught.value.message, str(caught.value)) == (code, "why it failed", "why it failed")
    assert isinstance(caught.value.__cause__, grpc.RpcError)


async def test_a_status_without_a_text_names_its_code(call, plan):
    plan.failures.append((grpc.StatusCode.ABORTED, ""))
    with pytest.raises(NormserveError, match="ended with ABORTED"):
        await call("server_metadata")


@pytest.mark.parametrize(
    ("kind", "builtin"), [(normserve.InvalidArgumentError, ValueError), (normserve.DeadlineExceededError, TimeoutError)]
)
def test_some_are_builtin_errors_too(kind, builtin):
    with pytest.raises(builtin, match="text"):
        raise kind("text")


@pytest.mark.parametrize("kind", sorted(subclasses(NormserveError), key=str), ids=lambda kind: kind.__name__)
def test_errors_cross_processes(kind):
    error = pickle.loads(pickle.dumps(kind("text", grpc.StatusCode.DATA_LOSS)))
    assert (type(error), error.message, error.code) == (kind, "text", grpc.StatusCode.DATA_LOSS)
