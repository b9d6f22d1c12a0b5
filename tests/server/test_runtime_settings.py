from types import SimpleNamespace
from typing import Any

import pytest
from normserve_proto import open_inference_pb2 as pb
from normserve_server.calls import Call
from normserve_server.errors import InvalidRequestError, NotFoundError
from normserve_server.logs import Levels
from normserve_server.runtime_settings import RuntimeSettingsServicer
from normserve_server.tracing import Traces

DEFAULTS = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "ISO8601",
}


class FakeRepository:
    def find(self, model: str) -> Any:
        if model != "m":
            raise NotFoundError(model)
        return SimpleNamespace(model="m")


@pytest.fixture
def levels() -> Levels:
    return Levels()


@pytest.fixture
def servicer(levels: Levels) -> RuntimeSettingsServicer:
    return RuntimeSettingsServicer(FakeRepository(), levels, Traces(), lambda: None)  # type: ignore[arg-type]


async def log_settings(servicer: RuntimeSettingsServicer, **given: Any) -> dict[str, Any]:
    value_of = pb.LogSettingsRequest.SettingValue
    request = pb.LogSettingsRequest(settings={name: value_of(**value) for name, value in given.items()})
    answer = await servicer.LogSettings(request, Call("LogSettings"))
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in answer.settings.items()}


async def trace_settings(servicer: RuntimeSettingsServicer, model: str = "", **given: list[str]) -> dict[str, list[str]]:
    value_of = pb.TraceSettingRequest.SettingValue
    request = pb.TraceSettingRequest(settings={name: value_of(value=value) for name, value in given.items()}, model_name=model)
    answer = await servicer.TraceSetting(request, Call("TraceSetting"))
    return {name: list(value.value) for name, value in answer.settings.items()}


async def test_log_settings_are_listed_and_changed(servicer: RuntimeSettingsServicer, levels: Levels) -> None:
    assert await log_settings(servicer) == DEFAULTS
    changed = await log_settings(servicer, log_info={"bool_param": False}, log_verbose_level={"uint32_param": 3})
    assert changed == DEFAULTS | {"log_info": False, "log_verbose_level": 3}
    assert levels == Levels(info=False, verbose_level=3)
    same = {"log_file": {"string_param": ""}, "log_format": {"string_param": "ISO8601"}}
    assert await log_settings(servicer, **same, log_info={"bool_param": True}) == DEFAULTS | {"log_verbose_level": 3}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("log_file", {"string_param": "/tmp/x"}, "log_file is '' and cannot be set by a call, got '/tmp/x'"),
        ("log_format", {"string_param": "default"}, "log_format is 'ISO8601' and cannot be set by a call, got 'default'"),
        ("log_format", {"bool_param": True}, "log_format is 'ISO8601' and cannot be set by a call, got True"),
        ("log_error", {"uint32_param": 0}, "log_error: wanted a bool_param, got a uint32_param"),
        ("log_verbose_level", {}, "log_verbose_level: wanted a uint32_param, got no value"),
        ("log_colour", {"bool_param": True}, "no log setting 'log_colour'; there are log_file, log_format, log_info"),
    ],
)
async def test_log_settings_that_cannot_be_change_nothing(servicer, levels, name: str, value: dict, text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text):
        await log_settings(servicer, log_info={"bool_param": False}, **{name: value})
    assert levels == Levels()


async def test_trace_settings_of_all_and_of_one_model(servicer: RuntimeSettingsServicer) -> None:
    everyone = await trace_settings(servicer, trace_rate=["5"])
    assert everyone["trace_rate"] == ["5"]
    own = await trace_settings(servicer, "m", trace_rate=["7"], trace_level=["TIMESTAMPS"])
    assert (own["trace_rate"], own["trace_level"], own["trace_count"]) == (["7"], ["TIMESTAMPS"], ["-1"])
    assert await trace_settings(servicer) == everyone
    assert (await trace_settings(servicer, "m", trace_rate=[]))["trace_rate"] == ["5"]


async def test_trace_settings_that_cannot_be(servicer: RuntimeSettingsServicer) -> None:
    with pytest.raises(NotFoundError):
        await trace_settings(servicer, "nothing")
    with pytest.raises(InvalidRequestError, match="trace_level: wanted one value, got TIMESTAMPS, TENSORS"):
        await trace_settings(servicer, trace_level=["TIMESTAMPS", "TENSORS"])


async def test_what_was_answered_before_a_change_is_recorded_before_it(levels: Levels) -> None:
    traces, seen = Traces(), []
    settle = lambda: seen.append((levels.info, traces.on))  # noqa: E731
    servicer = RuntimeSettingsServicer(FakeRepository(), levels, traces, settle)  # type: ignore[arg-type]
    await log_settings(servicer, log_info={"bool_param": False})
    await trace_settings(servicer, trace_level=["TIMESTAMPS"])
    assert seen == [(True, False), (False, False)]
    assert (levels.info, traces.on) == (False, True)
