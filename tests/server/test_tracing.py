from typing import Any

import grpc
import pytest
from normserve_server.calls import Call
from normserve_server.errors import InvalidRequestError
from normserve_server.statistics import Statistics
from normserve_server.tracing import Traces
from structlog.testing import capture_logs

FIXED = {"trace_file": "", "log_frequency": "0", "trace_mode": "triton"}
ALL_ON = {"trace_level": "TIMESTAMPS", "trace_rate": "1"}


def finished(model: str, request_id: str = "7") -> Call:
    call = Call("ModelInfer")
    call.model, call.version, call.request_id, call.statistics = model, "1", request_id, Statistics()
    call.moments = [0.0]
    call.lap_at("decode", 2e-5)
    call.lap_at("compute", 2e-5 + 0.0015)
    return call


def traced(traces: Traces, model: str, requests: int) -> int:
    with capture_logs() as lines:
        for _ in range(requests):
            traces.note(finished(model), grpc.StatusCode.OK, 0.002)
    return len(lines)


def settings(traces: Traces, model: str) -> tuple[str, ...]:
    return tuple(traces.settings(model)[name] for name in ("trace_level", "trace_rate", "trace_count"))


def test_off_is_how_it_begins() -> None:
    traces = Traces()
    assert not traces.on
    assert traces.settings("") == {"trace_level": "OFF", "trace_rate": "1000", "trace_count": "-1", **FIXED}
    assert traced(traces, "m", 2000) == 0


def test_a_line_has_the_request_and_its_phases_in_microseconds() -> None:
    traces = Traces()
    traces.update("", ALL_ON)
    with capture_logs() as lines:
        traces.note(finished("m", "x" * 1000), grpc.StatusCode.NOT_FOUND, 0.002)
    names: dict[str, Any] = {"model": "m", "version": "1", "method": "ModelInfer", "id": "x" * 256, "code": "NOT_FOUND"}
    times = {"decode_us": 20.0, "compute_us": 1500.0, "total_us": 2000.0}
    assert lines == [{"event": "trace", "log_level": "info", **names, **times}]


def test_one_of_so_many_until_none_are_left() -> None:
    traces = Traces()
    traces.update("", {"trace_level": "TIMESTAMPS", "trace_rate": "10", "trace_count": "3"})
    assert (traced(traces, "m", 9), traced(traces, "m", 1), traced(traces, "other", 10)) == (0, 1, 1)
    assert settings(traces, "") == ("TIMESTAMPS", "10", "1")
    assert traced(traces, "m", 100) == 1
    assert settings(traces, "m") == ("TIMESTAMPS", "10", "0")
    assert not traces.on
    traces.update("", {"trace_rate": "1"})  # which is no new count
    assert not traces.on
    traces.update("", {"trace_count": "2"})
    assert traces.on
    assert traced(traces, "m", 100) == 2


def test_calls_that_are_no_inference_of_a_known_version_are_not_traced() -> None:
    traces = Traces()
    traces.update("", ALL_ON)
    with capture_logs() as lines:
        traces.note(Call("ServerLive"), grpc.StatusCode.OK, 0.1)
    assert not lines


def test_a_models_own_settings_go_before_those_of_all() -> None:
    traces = Traces()
    traces.update("m", {"trace_level": "TIMESTAMPS", "trace_count": "5"})
    traces.update("", {"trace_rate": "2"})
    assert settings(traces, "m") == ("TIMESTAMPS", "2", "5")
    assert settings(traces, "other") == ("OFF", "2", "-1")
    assert (traced(traces, "other", 10), traced(traces, "m", 4)) == (0, 2)
    traces.update("", {"trace_count": "9", "trace_level": "TIMESTAMPS"})
    assert settings(traces, "m") == ("TIMESTAMPS", "2", "3")


def test_what_is_given_up_is_as_it_is_for_all() -> None:
    traces = Traces()
    traces.update("", {"trace_rate": "3"})
    traces.update("m", {"trace_level": "TIMESTAMPS", "trace_rate": "7", "trace_count": "1"})
    traces.update("m", {"trace_rate": None, "trace_count": None})
    assert settings(traces, "m") == ("TIMESTAMPS", "3", "-1")
    traces.update("m", {"trace_level": None, "trace_file": None})
    assert settings(traces, "m") == ("OFF", "3", "-1")
    assert not traces.on
    traces.update("", {"trace_rate": None})
    assert settings(traces, "m") == ("OFF", "1000", "-1")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("trace_level", "TENSORS", "trace_level is OFF or TIMESTAMPS, got 'TENSORS'"),
        ("trace_rate", "0", "trace_rate is an integer >= 1, got '0'"),
        ("trace_rate", "1_0", "trace_rate is an integer >= 1, got '1_0'"),
        ("trace_rate", "", "trace_rate is an integer >= 1, got ''"),
        ("trace_count", "-2", "trace_count is an integer >= -1, got '-2'"),
        ("trace_count", "9" * 19, "trace_count is an integer >= -1"),
        ("trace_file", "/etc/passwd", "trace_file is '' and cannot be set by a call, got '/etc/passwd'"),
        ("log_frequency", "5", "log_frequency is '0' and cannot"),
        ("trace_mode", "opentelemetry", "trace_mode is 'triton' and cannot"),
        ("trace_colour", "red", "no trace setting 'trace_colour'; there are trace_level, trace_rate"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(name: str, value: str, text: str) -> None:
    traces = Traces()
    before = traces.settings("m")
    with pytest.raises(InvalidRequestError, match=text):
        traces.update("m", {**ALL_ON, name: value})
    assert traces.settings("m") == before
    assert not traces.on


def test_what_was_read_can_be_written_back() -> None:
    traces = Traces()
    before = traces.settings("")
    traces.update("", before)
    assert traces.settings("") == before
