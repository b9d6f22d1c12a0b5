"""How calls that nobody waits for any more are noted."""

import asyncio
from collections import Counter

import grpc
import pytest
from normserve_server import outcomes
from normserve_server.admission import Admission
from normserve_server.calls import Call
from normserve_server.errors import STATUS_CODES
from normserve_server.interceptors import Door
from normserve_server.metrics import Metrics
from normserve_server.outcomes import CANCELLED, DEADLINE, Outcomes
from normserve_server.recording import Recorder
from normserve_server.tracing import Traces
from prometheus_client import CollectorRegistry

CALLS = 20
SECONDS = 1.504  # which the server is told as 1.51


@pytest.mark.parametrize(
    ("limit", "left", "reason"),
    [
        (0.5, 0.0, DEADLINE),
        (0.5, 0.009, DEADLINE),
        (0.5, 0.011, CANCELLED),
        (5.0, 0.099, DEADLINE),
        (5.0, 0.101, CANCELLED),
        (300.0, 5.9, DEADLINE),
        (300.0, 6.1, CANCELLED),
        (None, None, CANCELLED),
    ],
)
async def test_a_timeout_was_rounded_up_by_the_caller(
    limit: float | None, left: float | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(Metrics(CollectorRegistry()), Traces())
    call = Call("ModelInfer")
    if limit is not None:
        call.deadline = call.started + limit
        monkeypatch.setattr(outcomes, "now", lambda: call.deadline - left)
    with pytest.raises(asyncio.CancelledError):
        Outcomes(recorder, STATUS_CODES).failed(asyncio.CancelledError(), call, 1)
    recorder.flush()
    assert call.cut_short == reason


async def test_callers_whose_timeout_is_over_have_not_left() -> None:
    """Of more than a second, which gRPC rounds more coarsely."""
    metrics = Metrics(CollectorRegistry())
    recorder = Recorder(metrics, Traces())
    admission = Admission(2**30)
    door = Door(admission, recorder, STATUS_CODES)
    server = grpc.aio.server()
    table = {"Wait": grpc.unary_unary_rpc_method_handler(door.unary("Wait", _wait, (bytes, bytes)))}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", table),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        calls = [channel.unary_unary("/test.Service/Wait")(b"", timeout=SECONDS) for _ in range(CALLS)]
        told = Counter([await call.code() for call in calls])
    await admission.drain()  # a caller may be told before the handler is
    await server.stop(None)
    recorder.flush()
    assert told == {grpc.StatusCode.DEADLINE_EXCEEDED: CALLS}
    requests = [s for family in metrics.registry.collect() for s in family.samples if s.name == "normserve_requests_total"]
    counted = {sample.labels["code"]: sample.value for sample in requests}
    assert sum(counted.values()) == CALLS
    assert counted["DEADLINE_EXCEEDED"] > CALLS / 2  # all, unless the machine is so busy that messages take 10 ms


async def _wait(_message: bytes, _call: Call) -> bytes:
    await asyncio.Event().wait()
    return b""
