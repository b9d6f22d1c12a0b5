"""What both clients send on a stream: requests that are made as gRPC asks for them."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping

from normserve_proto.tensors import Array

from normserve.requests import Inference

Inputs = Mapping[str, Array]


class Outgoing:
    """The requests of one stream.

    gRPC takes them where the caller does not look, on a thread or in a task, and would only log an exception. So what making
    one fails with ends the requests, and is kept until the answers to those before it have come.

    Args:
        make: gives the request for its inputs.
    """

    def __init__(self, make: Callable[[Inputs], Inference]) -> None:
        self._make = make
        self._error: Exception | None = None

    def each(self, inputs: Iterable[Inputs]) -> Iterator[bytes]:
        """Gives the request bytes for each of the inputs."""
        try:
            for arrays in inputs:
                yield self._make(arrays).call().request
        except Exception as error:  # noqa: BLE001 - whatever the caller's own iterator fails with
            self._error = error

    async def each_async(self, inputs: Iterable[Inputs] | AsyncIterable[Inputs]) -> AsyncIterator[bytes]:
        """As `each`, for coroutines."""
        if not isinstance(inputs, AsyncIterable):
            for request in self.each(inputs):
                yield request
            return
        try:
            async for arrays in inputs:
                yield self._make(arrays).call().request
        except Exception as error:  # noqa: BLE001 - as above
            self._error = error

    def check(self) -> None:
        """Raises what making a request failed with, if anything did."""
        if self._error is not None:
            raise self._error
