"""Spans of calls that have ended, made of the moments that each call has noted; while it is served nothing is done for them.

Not by the SDK's tracer, whose spans are begun and ended while they last: a batch and its requests name each other, so their ids
have to be known before any of the spans is made. Names and attributes are OpenTelemetry's conventions for RPC.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv._incubating.attributes import rpc_attributes as rpc
from opentelemetry.semconv.attributes import error_attributes, network_attributes
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from normserve_server.access import MAX_ID_CHARACTERS, readable
from normserve_server.calls import Batch, Call, now

# By the conventions for gRPC, of servers; what else may come is the caller's doing.
ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
MOVED_NS = 1_000_000
COMPUTE = "compute"
APART = "it failed, and its requests ran once more, each alone"

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)


class Spans:
    """Makes spans.

    Args:
        put: takes the spans of a call, or of a batch.
        methods: the full name of each RPC, such as "inference.GRPCInferenceService/ModelInfer", by its short one.
        version: the service's.
        attributes: of the process, beside those that OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME give.
    """

    def __init__(
        self,
        put: Callable[[Sequence[ReadableSpan]], None],
        methods: Mapping[str, str],
        version: str,
        attributes: Mapping[str, Any],
    ) -> None:
        self._put = put
        self._methods = methods
        named = {"service.name": "normserve", "service.version": version, **attributes}
        self._resource = Resource.create(named | dict(OTELResourceDetector().detect().attributes))
        self._scope = InstrumentationScope("normserve", version, Schemas.V1_44_0.value)
        self._ids = RandomIdGenerator()
        self._began = 0

    def trace_id(self) -> str:
        """Gives the id of a new trace."""
        return f"{self._ids.generate_trace_id():032x}"

    def add(self, call: Call, code: str, seconds: float) -> None:
        """Makes the spans of a call that is traced: the server's, and one for each phase.

        Args:
            call: it has ended.
            code: the name of its status.
            seconds: that it took.
        """
        to_unix = self._to_unix()
        parent, context = self._contexts(call)
        whole = self._span(
            self._methods.get(call.method, call.method),
            context,
            parent,
            (to_unix(call.started), to_unix(call.started + seconds)),
            kind=SpanKind.SERVER,
            attributes=self._attributes(call, code),
            status=Status(StatusCode.ERROR) if code in ERRORS else _UNSET,
        )
        times = itertools.pairwise([to_unix(moment) for moment in call.moments])
        phases = [self._phase(phase, call, context, time) for phase, time in zip(call.left, times, strict=True)]
        if call.batch is not None:
            call.batch.links.append(Link(context))
        self._put([whole, *phases])

    def note(self, batch: Batch, model: str, version: str) -> None:
        """Notes that a request of a batch has ended; makes the batch's span after the last one, if one of them is traced.

        Args:
            batch: it has run, unless all of its callers left before.
            model: whose it is.
            version: likewise.
        """
        batch.noted += 1
        if batch.noted < batch.requests or not batch.links:
            return
        to_unix = self._to_unix()
        span = self._span(
            "batch",
            self._of(batch),
            None,
            (to_unix(batch.began), to_unix(batch.ended or now())),
            attributes=_named(model, version) | _sized(batch.samples) | {"normserve.batch.requests": batch.requests},
            links=batch.links,
            status=Status(StatusCode.ERROR, APART) if batch.apart else _UNSET,
        )
        self._put([span])

    def _to_unix(self) -> Callable[[float], int]:
        """Gives what makes nanoseconds since 1970 of a moment by `now`; those are dates, and nothing is measured with them.

        Spans that name each other are dated alike, as long as the system's date does not move.
        """
        began = time.time_ns() - round(now() * 1e9)
        if abs(began - self._began) > MOVED_NS:
            self._began = began
        else:
            began = self._began
        return lambda moment: began + round(moment * 1e9)

    def _contexts(self, call: Call) -> tuple[SpanContext | None, SpanContext]:
        """The caller's span, if it had one, and the server's."""
        trace_id, span_id = int(call.trace_id or "", 16), self._ids.generate_span_id()
        if call.parent is None:
            return None, SpanContext(trace_id, span_id, is_remote=False, trace_flags=_SAMPLED)
        flags, state = TraceFlags(call.parent.flags), TraceState.from_header([call.parent.state])
        parent = SpanContext(trace_id, int(call.parent.span_id, 16), is_remote=True, trace_flags=flags, trace_state=state)
        return parent, SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags, trace_state=state)

    def _of(self, batch: Batch) -> SpanContext:
        """A batch's span, which has a trace of its own: its requests are in several."""
        if batch.context is None:
            ids = self._ids.generate_trace_id(), self._ids.generate_span_id()
            batch.context = SpanContext(*ids, is_remote=False, trace_flags=_SAMPLED)
        context: SpanContext = batch.context
        return context

    def _attributes(self, call: Call, code: str) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            rpc.RPC_SYSTEM_NAME: rpc.RpcSystemNameValues.GRPC.value,
            rpc.RPC_METHOD: self._methods.get(call.method, call.method),
            rpc.RPC_RESPONSE_STATUS_CODE: code,
        }
        if code in ERRORS:
            attributes[error_attributes.ERROR_TYPE] = code
        if call.request_id:
            attributes["normserve.request.id"] = call.request_id[:MAX_ID_CHARACTERS]
        return attributes | _peer(call.peer()) | _named(call.model, call.version) | _sized(_ran(call))

    def _phase(self, phase: str, call: Call, parent: SpanContext, times: tuple[int, int]) -> ReadableSpan:
        context = SpanContext(
            parent.trace_id,
            self._ids.generate_span_id(),
            is_remote=False,
            trace_flags=parent.trace_flags,
            trace_state=parent.trace_state,
        )
        if phase != COMPUTE:
            return self._span(phase, context, parent, times)
        links = [] if call.batch is None else [Link(self._of(call.batch))]
        return self._span(phase, context, parent, times, attributes=_sized(_ran(call)), links=links)

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        times: tuple[int, int],
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] = (),
        status: Status = _UNSET,
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            attributes,
            links=links,
            kind=kind,
            status=status,
            start_time=times[0],
            end_time=times[1],
            instrumentation_scope=self._scope,
        )


def _ran(call: Call) -> int:
    return call.samples if call.batch is None else call.batch.samples


def _named(model: str, version: str) -> dict[str, Any]:
    return {"normserve.model.name": model, "normserve.model.version": version} if model else {}


def _sized(samples: int) -> dict[str, Any]:
    return {"normserve.batch.size": samples} if samples else {}


def _peer(peer: str) -> dict[str, Any]:
    host, _, port = readable(peer).rpartition(":")
    if not port.isdecimal():
        return {}
    return {network_attributes.NETWORK_PEER_ADDRESS: host.strip("[]"), network_attributes.NETWORK_PEER_PORT: int(port)}
