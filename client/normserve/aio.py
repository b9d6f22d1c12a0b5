# ruff: noqa: ASYNC109 - `timeout` is the deadline that the server is told of, which asyncio.timeout is not
"""The client for coroutines: `Client`'s verbs, awaited."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from normserve_proto.tensors import Array

from normserve import answers, channel, normalization, requests
from normserve.aio_introspection import AsyncIntrospection
from normserve.aio_normalizer import AsyncNormalizers
from normserve.aio_operators import AsyncOperators
from normserve.channel import ChannelOptions
from normserve.errors import CallCancelledError, NormserveError, from_status
from normserve.normalization import Normalization
from normserve.requests import Call, Parameter, Steps
from normserve.results import NormAnswer, StreamAnswer
from normserve.shared_memory import CLOSING_SECONDS, SharedMemory
from normserve.streams import Inputs, Outgoing
from normserve.trace_context import Metadata, with_trace

T = TypeVar("T")


class AsyncClient(AsyncIntrospection, AsyncNormalizers, AsyncOperators):
    """`Client` for coroutines: the same verbs, arguments, answers and errors, awaited.

    It belongs to the event loop in which it is made.

        async with AsyncClient("localhost:8001") as client:
            answer = await client.infer("digits", {"image": image})

    Args:
        address: "host:port".
        credentials: TLS, by `grpc.ssl_channel_credentials`; None for plain text.
        options: gRPC channel arguments that win over ours.
        shared_memory: as `Client` has it.
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        options: ChannelOptions = (),
        shared_memory: bool = False,
    ) -> None:
        self._closed = False
        self._shared = SharedMemory() if shared_memory else None
        arguments = channel.options(options)
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, arguments)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, arguments)
        # Without serializers, so that bytes go out and come in as they are.
        self._methods: dict[str, Any] = {path: self._channel.unary_unary(path) for path in requests.ALL_METHODS}
        self._stream: Any = self._channel.stream_stream(requests.MODEL_STREAM_INFER)
        self._normalize_stream: Any = self._channel.stream_stream(requests.NORMALIZE_STREAM)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """As `Client.close`."""
        if self._shared is not None and not self._closed:
            await self._follow(self._shared.close(), CLOSING_SECONDS)
        self._closed = True
        await self._channel.close()

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: str = "",
        outputs: Iterable[str] | None = None,
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> dict[str, Array]:
        """As `Client.infer`."""
        request = requests.infer(model, inputs, version=version, outputs=outputs, request_id=request_id, parameters=parameters)
        if self._shared is None:
            return await self._send(request.call(), timeout, metadata)
        return await self._follow(self._shared.infer(request), timeout, metadata)

    async def infer_stream(
        self,
        model: str,
        inputs: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        version: str = "",
        outputs: Iterable[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> AsyncIterator[StreamAnswer]:
        """As `Client.infer_stream`, in `async for`; `inputs` may be asynchronous too, and is read by another task."""
        wanted = None if outputs is None else tuple(outputs)
        make = partial(requests.infer, model, version=version, outputs=wanted, parameters=parameters)
        outgoing = Outgoing[Inputs](lambda arrays: make(arrays).call().request)
        with self._errors():
            call = self._stream(outgoing.each_async(inputs), timeout=timeout, metadata=with_trace(metadata))
            try:
                async for data in call:
                    yield answers.stream_answer(data)
            finally:
                call.cancel()
        outgoing.check()

    async def normalize_stream(
        self,
        requests: Iterable[Normalization] | AsyncIterable[Normalization],
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> AsyncIterator[NormAnswer]:
        """As `Client.normalize_stream`, in `async for`; `requests` may be asynchronous too, and is read by another task."""
        outgoing = Outgoing(Normalization.request)
        with self._errors():
            call = self._normalize_stream(outgoing.each_async(requests), timeout=timeout, metadata=with_trace(metadata))
            try:
                async for data in call:
                    yield normalization.read_stream_answer(data)
            finally:
                call.cancel()
        outgoing.check()

    async def _follow(self, steps: Steps[T], timeout: float | None, metadata: Metadata | None = None) -> T:
        """Makes one call after another, all within `timeout`."""
        end = None if timeout is None else time.monotonic() + timeout
        try:
            call = next(steps)
            while True:
                try:
                    answer = await self._send(call, None if end is None else end - time.monotonic(), metadata)
                except NormserveError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            steps.close()  # at once, where the caller gives up

    async def load_model(
        self,
        model: str,
        *,
        config: Mapping[str, Any] | str | None = None,
        files: Mapping[str, bytes] | None = None,
        timeout: float | None = None,
    ) -> None:
        """As `Client.load_model`."""
        with self._forgetting():
            await self._send(requests.load_model(model, config, files), timeout)

    async def unload_model(self, model: str, *, timeout: float | None = None) -> None:
        """As `Client.unload_model`."""
        with self._forgetting():
            await self._send(requests.unload_model(model), timeout)

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        try:
            yield
        finally:  # also where it failed: a call that was given up may have been heard
            if self._shared is not None:
                self._shared.forget()

    async def _send(self, call: Call[T], timeout: float | None, metadata: Metadata | None = None) -> T:
        send = self._methods[call.method]
        with self._errors():
            response = await send(call.request, timeout=timeout, metadata=with_trace(metadata))
        return call.read(response)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What gRPC raises, as our own."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise from_status(error.code(), error.details()) from error
        except (grpc.aio.UsageError, asyncio.CancelledError) as error:
            if self._closed and not _task_is_cancelled():
                raise CallCancelledError("the client is closed") from error
            raise


def _task_is_cancelled() -> bool:
    # gRPC says CancelledError for a channel that was closed too; only the task knows whether somebody cancelled it.
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
