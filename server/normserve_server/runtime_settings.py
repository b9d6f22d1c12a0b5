"""What a running server's callers may change: what is logged, and which requests are traced. The names are Triton's."""

from collections.abc import Callable, Mapping

from normserve_proto import open_inference_pb2 as pb

from normserve_server.calls import Call
from normserve_server.errors import InvalidRequestError
from normserve_server.logs import Levels
from normserve_server.repository import Repository
from normserve_server.tracing import Traces

# Of LogSettings: the attribute of `Levels` behind each setting, and the field of the message that carries it.
_LEVELS = {
    "log_info": ("info", "bool_param"),
    "log_warning": ("warning", "bool_param"),
    "log_error": ("error", "bool_param"),
    "log_verbose_level": ("verbose_level", "uint32_param"),
}
_FIXED = {"log_file": "", "log_format": "ISO8601"}  # standard error; whether JSON or columns, moments are in ISO 8601


class RuntimeSettingsServicer:
    """Handlers of LogSettings and TraceSetting.

    Args:
        repository: the models.
        levels: what is logged.
        traces: which requests are traced.
        settle: records what has been answered, so that each request is logged by the settings of its time.
    """

    def __init__(self, repository: Repository, levels: Levels, traces: Traces, settle: Callable[[], None]) -> None:
        self._repository = repository
        self._levels = levels
        self._traces = traces
        self._settle = settle

    async def LogSettings(self, request: pb.LogSettingsRequest, _call: Call) -> pb.LogSettingsResponse:  # noqa: N802
        """Changes what is asked for, all of it or nothing, and tells all settings as they are then."""
        for name, value in request.settings.items():
            _check_log_setting(name, value)
        self._settle()
        for name, value in request.settings.items():
            if name in _LEVELS:
                attribute, kind = _LEVELS[name]
                setattr(self._levels, attribute, getattr(value, kind))
        value_of = pb.LogSettingsResponse.SettingValue
        levels = {name: value_of(**{kind: getattr(self._levels, attribute)}) for name, (attribute, kind) in _LEVELS.items()}
        fixed = {name: value_of(string_param=value) for name, value in _FIXED.items()}
        return pb.LogSettingsResponse(settings=fixed | levels)

    async def TraceSetting(self, request: pb.TraceSettingRequest, _call: Call) -> pb.TraceSettingResponse:  # noqa: N802
        """Changes what is asked for, of one model or of all, and tells all settings as they are then."""
        if request.model_name:
            self._repository.find(request.model_name)
        self._settle()
        if request.settings:
            self._traces.update(request.model_name, _given(request.settings))
        value_of = pb.TraceSettingResponse.SettingValue
        settings = self._traces.settings(request.model_name)
        return pb.TraceSettingResponse(settings={name: value_of(value=[value]) for name, value in settings.items()})


def _check_log_setting(name: str, value: pb.LogSettingsRequest.SettingValue) -> None:
    given = value.WhichOneof("parameter_choice")
    if name in _LEVELS:
        wanted = _LEVELS[name][1]
        if given != wanted:
            raise InvalidRequestError(f"{name}: wanted a {wanted}, got {f'a {given}' if given else 'no value'}")
    elif name not in _FIXED:
        raise InvalidRequestError(f"no log setting '{name}'; there are {', '.join((*_FIXED, *_LEVELS))}")
    elif given != "string_param" or value.string_param != _FIXED[name]:
        got = repr(getattr(value, given)) if given else "no value"
        raise InvalidRequestError(f"{name} is '{_FIXED[name]}' and cannot be set by a call, got {got}")


def _given(settings: Mapping[str, pb.TraceSettingRequest.SettingValue]) -> dict[str, str | None]:
    """The values as text; None for a list without any."""
    for name, value in settings.items():
        if len(value.value) > 1:
            raise InvalidRequestError(f"{name}: wanted one value, got {', '.join(value.value)}")
    return {name: value.value[0] if value.value else None for name, value in settings.items()}
