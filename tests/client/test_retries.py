"""What is sent again, how often, and what never is."""

import json
import time

import grpc
import numpy as np
import pytest
from normserve import AsyncClient, Client, DeadlineExceededError, NormserveError, UnavailableError, channel, requests

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "draining")
FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full", (("grpc-retry-pushback-ms", "10"),))
NOT_RETRIED = [code for code in grpc.StatusCode if code.name not in {"OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}]


@pytest.mark.parametrize("failure", [UNAVAILABLE, FULL], ids=["unavailable", "full"])
async def test_twice_no_and_then_yes(call, plan, failure):
    plan.failures.extend([failure] * 2)
    assert (await call("infer", "echo", {"x": np.float32([1])}))["x"].tolist() == [1]
    assert [seen.metadata.get("grpc-previous-rpc-attempts", "0") for seen in plan.seen] == ["0", "1", "2"]


async def test_a_big_request_is_sent_again_too(call, plan):
    plan.failures.append(UNAVAILABLE)
    array = np.random.default_rng(0).random(2**18, np.float32)
    assert np.array_equal((await call("infer", "echo", {"x": array}))["x"], array)
    assert len(plan.seen) == 2


async def test_normalize_is_retried(call, plan):
    plan.failures.append(UNAVAILABLE)
    await call("layer_norm", np.float32([[1, 2]]), [2])
    assert len(plan.seen) == 2


async def test_attempts_are_bounded(call, plan):
    plan.failures.extend([UNAVAILABLE] * 50)
    start = time.monotonic()
    with pytest.raises(UnavailableError, match="draining"):
        await call("server_metadata")
    assert len(plan.seen) == 5
    assert time.monotonic() - start < 5


async def test_the_timeout_bounds_all_attempts_together(call, plan):
    plan.failures.extend([UNAVAILABLE] * 50)
    with pytest.raises((DeadlineExceededError, UnavailableError)):
        await call("server_metadata", timeout=0.15)
    assert len(plan.seen) < 5


@pytest.mark.parametrize("code", NOT_RETRIED, ids=lambda code: code.name)
async def test_no_other_code_is_retried(call, plan, code):
    plan.failures.append((code, "no"))
    with pytest.raises(NormserveError):
        await call("infer", "echo", {"x": np.float32([1])})
    assert len(plan.seen) == 1


def test_they_can_be_switched_off(address, plan):
    plan.failures.append(UNAVAILABLE)
    with Client(address, options=[("grpc.enable_retries", 0)]) as client, pytest.raises(UnavailableError):
        client.server_metadata()
    assert len(plan.seen) == 1


async def test_they_can_be_switched_off_in_the_async_client(address, plan):
    plan.failures.append(UNAVAILABLE)
    async with AsyncClient(address, options=[("grpc.enable_retries", 0)]) as client:
        with pytest.raises(UnavailableError):
            await client.server_metadata()
    assert len(plan.seen) == 1


def test_the_config_names_every_method_that_is_called():
    names = json.loads(channel.service_config(requests.METHODS))["methodConfig"][0]["name"]
    assert {f"/{name['service']}/{name['method']}" for name in names} == set(requests.METHODS)


def test_own_options_win():
    chosen = dict(channel.options([("grpc.max_send_message_length", 5), ("grpc.primary_user_agent", "me")]))
    assert chosen["grpc.max_send_message_length"] == 5
    assert chosen["grpc.max_receive_message_length"] == -1
    assert chosen["grpc.primary_user_agent"] == "me"
