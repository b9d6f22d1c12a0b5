import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import numpy as np
import pytest
from normserve_server import access
from normserve_server.access import Told
from normserve_server.calls import TOTAL, Answered, Batch, Call, Times
from normserve_server.trace_context import Parent

PHASES = ("decode", "queue", "compute")
PARENT = Parent("a" * 32, "b" * 16, 1, "")


def answered(*, request_id: str, batch: int = 0, parent: Parent | None = None) -> Answered:
    call = Call("ModelInfer")
    call.model, call.version, call.request_id, call.parent = "net", "2", request_id, parent
    call.peer = lambda: "ipv6:%5B::1%5D:4711"
    for position, phase in enumerate(PHASES, start=1):
        call.lap_at(phase, call.started + position * 1e-4)
    call.samples = 3
    if batch:
        call.batch = Batch(2, call.started)
        call.batch.samples = batch
    return Answered(call, grpc.StatusCode.OK, 3.21e-4, 100, 50)


def lines(calls: Sequence[Answered], times: Times, common: dict[str, str]) -> list[dict[str, Any]]:
    told = [Told(one.call.request_id, one.call.peer(), access.trace(one.call).get("trace_id")) for one in calls]
    ran = [one.call.batch.samples if one.call.batch else one.call.samples for one in calls]
    started, samples = np.array([one.call.started for one in calls]), np.array(ran, float)
    text = access.lines(calls[0].call, calls[0].code, told, started, samples, times, common)
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_of_many_is_what_it_is_alone() -> None:
    calls = [answered(request_id="first"), answered(request_id="x" * 300, batch=8, parent=PARENT)]
    times = Times((TOTAL, *PHASES), np.array([[one.seconds for one in calls], *[[1e-4, 1e-4]] * len(PHASES)]))
    first, second = lines(calls, times, {"level": "info"})
    for line, one in zip((first, second), calls, strict=True):
        assert line.items() >= access.told(one.call, "OK", one.seconds).items()
        assert line["total_us"] == 321.0
        assert (line["level"], line["event"], line["peer"]) == ("info", "access", "[::1]:4711")
    assert (first["batch_size"], second["batch_size"]) == (3, 8)
    assert (first["id"], second["id"]) == ("first", "x" * access.MAX_ID_CHARACTERS)
    assert ("trace_id" in first, second["trace_id"]) == (False, "a" * 32)


@pytest.mark.parametrize("texts", [["", ""], ['a",', ",\\n  ", 'x","y'], ["\\", "ä\n ]", "}"]])
def test_ids_are_whatever_callers_say(texts: list[str]) -> None:
    calls = [answered(request_id=text) for text in texts]
    times = Times((TOTAL,), np.array([[one.seconds for one in calls]]))
    assert [line["id"] for line in lines(calls, times, {})] == texts


def test_a_line_has_the_date_of_the_end() -> None:
    one = answered(request_id="")
    (line,) = lines([one], Times((TOTAL,), np.array([[one.seconds]])), {})
    assert line["timestamp"].endswith("Z")
    age = datetime.now(UTC) - datetime.fromisoformat(line["timestamp"])
    assert abs(age) < timedelta(seconds=5)
