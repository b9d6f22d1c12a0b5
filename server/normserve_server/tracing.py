"""Which requests are traced: one of so many, for all models or by settings of a model's own.

Each that is picked is a line of the log. Where spans are exported it becomes spans, too; and then a caller who says whether its
own part is traced decides for the request.

The settings are Triton's, as text. What a model has not set is as it is for all; what nobody has set is as at the start: off,
or on where spans are exported.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import structlog

from normserve_server import access
from normserve_server.calls import Call
from normserve_server.errors import InvalidRequestError
from normserve_server.trace_context import Parent

if TYPE_CHECKING:
    from normserve_server.spans import Spans  # OpenTelemetry is only imported where spans are exported

OFF, TIMESTAMPS = "OFF", "TIMESTAMPS"
DEFAULTS = {"trace_level": OFF, "trace_rate": "1000", "trace_count": "-1"}
# Listed for Triton's clients. A caller from elsewhere is not to choose where this machine writes.
FIXED = {"trace_file": "", "log_frequency": "0", "trace_mode": "triton"}
OPENTELEMETRY = "opentelemetry"  # the trace_mode where spans are exported
MAX_DIGITS = 18

_NEVER = 2**62
_ALL = ""  # the scope of every model without settings of its own
_NO_LIMIT = -1

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Sampler:
    """Takes requests, while it is on.

    Attributes:
        rate: it takes one of so many.
        left: how many it may still take; negative for no limit.
        until: how far off the next one is, at least 1.
    """

    on: bool
    rate: int
    left: int
    until: int

    @property
    def active(self) -> bool:
        """Whether it may still take one."""
        return self.on and self.left != 0

    def taken(self) -> bool:
        """Whether the request is taken that `until` has come down to."""
        self.until = self.rate
        if not self.active:
            return False
        self.left -= self.left > 0
        return True


class Traces:
    """Decides which requests are traced, and writes them down.

    Args:
        spans: makes spans of them; None where none are exported.
        rate: the `trace_rate` of the start.

    Attributes:
        on: whether any request can be; nothing has to be noted otherwise.
    """

    def __init__(self, spans: "Spans | None" = None, rate: int = int(DEFAULTS["trace_rate"])) -> None:
        self._spans = spans
        exported = {"trace_level": TIMESTAMPS} if spans else {}
        self._first = {**DEFAULTS, **exported, "trace_rate": str(rate)}
        self._fixed = {**FIXED, **({"trace_mode": OPENTELEMETRY} if spans else {})}
        self._own: dict[str, dict[str, str]] = {_ALL: {}}
        self._samplers = {_ALL: _sampler(self._first)}
        self._see()

    def settings(self, model: str) -> dict[str, str]:
        """All settings as they are for a model, or with "" for every model without its own; `trace_count` is what is left."""
        left = self._samplers.get(model, self._samplers[_ALL]).left
        return {**self._effective(model), "trace_count": str(left), **self._fixed}

    def update(self, model: str, changes: Mapping[str, str | None]) -> None:
        """Changes settings, all of them or none.

        Args:
            model: whose; "" for every model without its own.
            changes: values by name; None gives a setting up, so that what holds for all, or from the start, holds again.

        Raises:
            InvalidRequestError: there is no such setting, it cannot have that value, or it cannot be set from elsewhere.
        """
        for name, value in changes.items():
            _check(name, value, self._fixed)
        own = {**self._own.get(model, {}), **{name: value for name, value in changes.items() if name in DEFAULTS}}
        self._own[model] = {name: value for name, value in own.items() if value is not None}
        for scope in tuple(self._own):
            self._samplers[scope] = self._renewed(scope, count_changed="trace_count" in changes and self._follows(scope, model))
        if model != _ALL and not self._own[model]:
            del self._own[model], self._samplers[model]
        self._see()

    def sampler(self, call: Call) -> Sampler | None:
        """Gives what picks calls like this one, for as long as the settings are as they are; None where none is traced.

        A call whose turn has not come, which nobody has decided on and which was in no batch needs no `note`, if `until` of
        this is brought down for it.
        """
        if not self.on:
            return None
        return Sampler(on=False, rate=_NEVER, left=0, until=_NEVER) if call.statistics is None else self._sampler_of(call)

    def decide(self, call: Call) -> None:
        """Decides whether a call is traced, before it has ended.

        One that wants no inference of a known version is so only where its caller is.
        """
        if call.traced is None:
            call.traced = self._wants(call)

    def note(self, call: Call, code: grpc.StatusCode, seconds: float) -> None:
        """Writes a finished call down if it is traced."""
        if self._wants(call) if call.traced is None else call.traced:
            self._write(call, code, seconds)
        if call.batch is not None and self._spans is not None:
            self._spans.note(call.batch, call.model, call.version)

    def _write(self, call: Call, code: grpc.StatusCode, seconds: float) -> None:
        if self._spans is None or call.parent is None:
            _log.info("trace", **access.told(call, code.name, seconds))
            self._see()
        if self._spans is not None:
            self._spans.add(call, code.name, seconds)

    def _sampler_of(self, call: Call) -> Sampler:
        return self._samplers.get(call.model) or self._samplers[_ALL]

    def _wants(self, call: Call) -> bool:
        sampler = self._sampler_of(call)
        if call.parent is not None and self._spans is not None:
            return sampler.on and _as_its_caller(call, call.parent)
        if call.statistics is None:
            return False
        sampler.until -= 1
        if sampler.until or not sampler.taken():
            return False
        if self._spans is not None:
            call.trace_id = self._spans.trace_id()
        return True

    def _see(self) -> None:
        """A caller's word counts where tracing is on, however many may still be picked here."""
        self.on = any(sampler.on if self._spans is not None else sampler.active for sampler in self._samplers.values())

    def _effective(self, scope: str) -> dict[str, str]:
        return {**self._first, **self._own[_ALL], **self._own.get(scope, {})}

    def _follows(self, scope: str, changed: str) -> bool:
        """Whether a scope's count is what has been set for `changed`."""
        return scope == changed or (changed == _ALL and "trace_count" not in self._own[scope])

    def _renewed(self, scope: str, *, count_changed: bool) -> Sampler:
        sampler = _sampler(self._effective(scope))
        if not count_changed:
            sampler.left = self._samplers.get(scope, self._samplers[_ALL]).left
        return sampler


def _sampler(settings: Mapping[str, str]) -> Sampler:
    rate = int(settings["trace_rate"])
    return Sampler(settings["trace_level"] == TIMESTAMPS, rate, int(settings["trace_count"]), until=rate)


def _as_its_caller(call: Call, parent: Parent) -> bool:
    call.trace_id = parent.trace_id if parent.sampled else None
    return parent.sampled


def _check(name: str, value: str | None, fixed: Mapping[str, str]) -> None:
    if name not in DEFAULTS and name not in fixed:
        raise InvalidRequestError(f"no trace setting '{name}'; there are {', '.join((*DEFAULTS, *fixed))}")
    if value is None:
        return
    if name in fixed and value != fixed[name]:
        raise InvalidRequestError(f"{name} is '{fixed[name]}' and cannot be set by a call, got '{value}'")
    if name == "trace_level" and value not in {OFF, TIMESTAMPS}:
        raise InvalidRequestError(f"trace_level is {OFF} or {TIMESTAMPS}, got '{value}'")
    if name == "trace_rate":
        _check_integer(name, value, least=1)
    if name == "trace_count":
        _check_integer(name, value, least=_NO_LIMIT)


def _check_integer(name: str, value: str, least: int) -> None:
    digits = value.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > MAX_DIGITS or int(value) < least:
        raise InvalidRequestError(f"{name} is an integer >= {least}, got '{value}'")
