"""Calls that are everybody's business, at a worker's end.

From the public port they go to all workers, by way of the supervisor; from the private socket they come back to be done here.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from normserve_server.calls import Call
from normserve_server.errors import Codes, RelayedError, ServiceError, UnavailableError
from normserve_server.processes import outcome
from normserve_server.processes.merging import merged
from normserve_server.processes.outcome import Outcome
from normserve_server.processes.place import CHANNEL_OPTIONS, CONTROL, SHARED, Ask
from normserve_server.refusals import refusal

Handler: TypeAlias = Callable[[Any, Call], Awaitable[Any]]
Codec: TypeAlias = tuple[Callable[[bytes], Any], Callable[[Any], bytes]]

_AS_IT_IS: Codec = (lambda data: data, lambda data: data)


class FanOut:
    """Replaces the handlers of shared calls, and keeps the replaced ones.

    Args:
        address: of the supervisor.

    Attributes:
        here: what does a shared call in this process alone, by RPC: from the request's bytes to the outcome's.
    """

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self.here: dict[str, Callable[[bytes], Awaitable[bytes]]] = {}

    def replaced(self, method: str, handler: Handler, codec: Codec, codes: Codes) -> tuple[Handler, Codec]:
        """Gives what answers an RPC on the public port.

        Args:
            method: the RPC.
            handler: what does it in this process.
            codec: how its requests are parsed and its responses serialized.
            codes: the table from exceptions to status codes.
        """
        if method not in SHARED:
            return handler, codec
        self.here[method] = _local(method, handler, codec, codes)
        ask: Ask = self._channel.unary_unary(f"/{CONTROL}/{method}")

        async def answer(data: bytes, call: Call) -> bytes:
            try:
                outcomes = outcome.unpack_all(await ask(data))
            except grpc.aio.AioRpcError as error:
                raise UnavailableError(f"the supervisor does not pass the call on: {error.details()}") from error
            return _together(method, outcomes, call)

        return answer, _AS_IT_IS

    async def close(self) -> None:
        """Ends the connection to the supervisor."""
        await self._channel.close()


def _together(method: str, outcomes: list[Outcome], call: Call) -> bytes:
    if not outcomes:
        raise UnavailableError("no worker process is ready for this call")
    call.model, call.version = outcomes[0].labels
    for each in outcomes:
        if not each.ok:
            raise RelayedError(each.text, code=each.code, retry_after_ms=each.retry_after_ms)
    return merged(method, [each.data for each in outcomes])


def _local(method: str, handler: Handler, codec: Codec, codes: Codes) -> Callable[[bytes], Awaitable[bytes]]:
    parse, serialize = codec

    async def answer(data: bytes) -> bytes:
        call = Call(method)
        try:
            response = serialize(await handler(parse(data), call))
        except Exception as error:  # noqa: BLE001 - the supervisor passes every error on
            refused = refusal(error, call, codes)
            retry_after_ms = error.retry_after_ms if isinstance(error, ServiceError) else None
            return outcome.pack(Outcome(b"", refused.code, refused.text, retry_after_ms, (call.model, call.version)))
        return outcome.pack(Outcome(response, labels=(call.model, call.version)))

    return answer
