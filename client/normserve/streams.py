"""What both clients send on a stream: requests that are made as gRPC asks for them."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from normserve_proto.tensors import Array

Inputs = Mapping[str, Array]
T = TypeVar("T")


class Outgoing(Generic[T]):
    """The requests of one stream.

    gRPC takes them where the caller does not look, on a thread or in a task, and would only log an exception. So what making
    one fails with ends the requests, and is kept until the answers to those before it have come.

    Args:
        make: gives the request's bytes for what the caller gave.
    """

    def __init__(self, make: Callable[[T], bytes]) -> None:
        self._make = make
        self._error: Exception | None = None

    def each(self, inputs: Iterable[T]) -> Iterator[bytes]:
        """Gives the request bytes for each of the inputs."""
        try:
            for given in inputs:
                yield self._make(given)
        except Exception as error:  # noqa: BLE001 - whatever the caller's own iterator fails with
            self._error = error

    async def each_async(self, inputs: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[bytes]:
        """As `each`, for coroutines."""
        if not isinstance(inputs, AsyncIterable):
            for request in self.each(inputs):
                yield request
            return
        try:
            async for given in inputs:
                yield self._make(given)
        except Exception as error:  # noqa: BLE001 - as above
            self._error = error

    def check(self) -> None:
        """Raises what making a request failed with, if anything did."""
        if self._error is not None:
            raise self._error
