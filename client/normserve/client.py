"""The client for threads."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Self, TypeVar

import grpc
from normserve_proto.tensors import Array

from normserve import answers, channel, normalization, requests
from normserve.channel import ChannelOptions
from normserve.errors import CallCancelledError, NormserveError, from_status
from normserve.introspection import Introspection
from normserve.normalization import Normalization
from normserve.normalizer import Normalizers
from normserve.operators import Operators
from normserve.requests import Call, Parameter, Steps
from normserve.results import NormAnswer, StreamAnswer
from normserve.shared_memory import CLOSING_SECONDS, SharedMemory
from normserve.streams import Inputs, Outgoing
from normserve.trace_context import Metadata, with_trace

T = TypeVar("T")


class Client(Introspection, Normalizers, Operators):
    """Calls a normserve server, or any other that speaks the Open Inference Protocol over gRPC.

    One client holds one connection, may be used by any number of threads, and makes no call before the first verb.

        with Client("localhost:8001") as client:
            answer = client.infer("digits", {"image": image})

    Arrays that come back are read-only views of the answer's bytes; copy the one that you want to write into. Calls that failed
    with UNAVAILABLE or RESOURCE_EXHAUSTED are sent again, at most four times within about two seconds and within their timeout.

    Args:
        address: "host:port".
        credentials: TLS, by `grpc.ssl_channel_credentials`; None for plain text.
        options: gRPC channel arguments that win over ours, such as `[("grpc.enable_retries", 0)]`.
        shared_memory: pass big tensors of `infer` in this machine's shared memory, where the server is on it and allows that;
            where not, a SharedMemoryWarning says so once, and tensors go through the connection.
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
            self._channel = grpc.insecure_channel(address, arguments)
        else:
            self._channel = grpc.secure_channel(address, credentials, arguments)
        # Without serializers, so that bytes go out and come in as they are.
        self._methods: dict[str, Any] = {path: self._channel.unary_unary(path) for path in requests.ALL_METHODS}
        self._stream: Any = self._channel.stream_stream(requests.MODEL_STREAM_INFER)
        self._normalize_stream: Any = self._channel.stream_stream(requests.NORMALIZE_STREAM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and cancels the calls that still wait; after it every verb raises CallCancelledError."""
        if self._shared is not None and not self._closed:
            self._follow(self._shared.close(), CLOSING_SECONDS)
        self._closed = True
        self._channel.close()

    def infer(
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
        """Runs a model.

        Args:
            model: its name.
            inputs: an array for each of its inputs, with the dtype and shape that `metadata` tells. Text and bytes travel from
                arrays of str, bytes or object; bfloat16 is ml_dtypes'.
            version: an integer in decimal; empty for the server's choice.
            outputs: the outputs wanted; None for all.
            request_id: comes back in the server's logs.
            parameters: of the request, such as `{"timeout": 50_000}`, the microseconds that it may wait in the queue.
            timeout: seconds until the call is given up, on both sides; None for never.
            metadata: of the gRPC call, keys in lower case, such as `{"authorization": "Bearer …"}`.

        Returns:
            The outputs by name; text and bytes as object arrays of bytes.

        Raises:
            InvalidArgumentError: the inputs are not what the model wants, or a dtype has no name on the wire.
            NormserveError: the call was not answered.
        """
        request = requests.infer(model, inputs, version=version, outputs=outputs, request_id=request_id, parameters=parameters)
        if self._shared is None:
            return self._send(request.call(), timeout, metadata)
        return self._follow(self._shared.infer(request), timeout, metadata)

    def infer_stream(
        self,
        model: str,
        inputs: Iterable[Inputs],
        *,
        version: str = "",
        outputs: Iterable[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Iterator[StreamAnswer]:
        """Runs a model on many inputs over one stream, ahead of what is read of the answers.

            for answer in client.infer_stream("digits", ({"image": image} for image in images)):
                answer.outputs["logits"]

        Args:
            model: its name.
            inputs: of each request, as `infer` takes them; read on another thread, as fast as the server takes them.
            version: an integer in decimal; empty for the server's choice.
            outputs: the outputs wanted; None for all.
            parameters: of each request.
            timeout: seconds until the whole stream is given up, on both sides; None for never.
            metadata: of the gRPC call, keys in lower case.

        Yields:
            The answers in the order of the inputs. One that failed raises when its outputs are asked for; the stream goes on.

        Raises:
            InvalidArgumentError: an input's dtype has no name on the wire; after the answers to those before it.
            NormserveError: the stream ended early. It is never sent again: some of it has been answered.
        """
        wanted = None if outputs is None else tuple(outputs)
        make = partial(requests.infer, model, version=version, outputs=wanted, parameters=parameters)
        outgoing = Outgoing[Inputs](lambda arrays: make(arrays).call().request)
        with self._errors():
            call = self._stream(outgoing.each(inputs), timeout=timeout, metadata=with_trace(metadata))
            try:
                for data in call:
                    yield answers.stream_answer(data)
            finally:
                call.cancel()
        outgoing.check()

    def normalize_stream(
        self,
        requests: Iterable[Normalization],
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Iterator[NormAnswer]:
        """Normalizes many tensors over one stream, ahead of what is read of the answers.

            for answer in client.normalize_stream(functional.layer_norm(x, (64,)) for x in tensors):
                answer.output

        Args:
            requests: made by the functions of `normserve.functional`; read on another thread, as fast as the server takes them.
            timeout: seconds until the whole stream is given up, on both sides; None for never.
            metadata: of the gRPC call, keys in lower case.

        Yields:
            The answers in the order of the requests. One that was refused raises when its output is asked for; the stream goes
            on.

        Raises:
            InvalidArgumentError: an input's dtype has no name on the wire; after the answers to those before it.
            NormserveError: the stream ended early. It is never sent again: some of it has been answered.
        """
        outgoing = Outgoing(Normalization.request)
        with self._errors():
            call = self._normalize_stream(outgoing.each(requests), timeout=timeout, metadata=with_trace(metadata))
            try:
                for data in call:
                    yield normalization.read_stream_answer(data)
            finally:
                call.cancel()
        outgoing.check()

    def _follow(self, steps: Steps[T], timeout: float | None, metadata: Metadata | None = None) -> T:
        """Makes one call after another, all within `timeout`."""
        end = None if timeout is None else time.monotonic() + timeout
        try:
            call = next(steps)
            while True:
                try:
                    answer = self._send(call, None if end is None else end - time.monotonic(), metadata)
                except NormserveError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            steps.close()  # at once, where the caller gives up

    def load_model(
        self,
        model: str,
        *,
        config: Mapping[str, Any] | str | None = None,
        files: Mapping[str, bytes] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Loads a model, or what has changed of it, and waits until it serves; for servers in model control mode `explicit`.

        Until then, and where it fails, what served before goes on. A call that is given up does not end the loading.

        Args:
            model: its name.
            config: a ModelConfig, as JSON text or as what that is made of, in the place of the model's config.pbtxt.
            files: by "<version>/<name>", such as "1/model.onnx", what replaces the model's folder; needs `config`.
            timeout: seconds.

        Raises:
            InvalidArgumentError: the config, or a file's name, is none.
            NotFoundError: there is no such model.
            InternalError: it does not load; the text says why.
            NormserveError: the call was not answered; UnavailableError in another model control mode.
        """
        with self._forgetting():
            self._send(requests.load_model(model, config, files), timeout)

    def unload_model(self, model: str, *, timeout: float | None = None) -> None:
        """Takes a model out of service, and waits until it has answered what it accepted.

        Args:
            model: its name.
            timeout: seconds.

        Raises:
            NotFoundError: there is no such model.
            NormserveError: the call was not answered; UnavailableError in another model control mode than `explicit`.
        """
        with self._forgetting():
            self._send(requests.unload_model(model), timeout)

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        try:
            yield
        finally:  # also where it failed: a call that was given up may have been heard
            if self._shared is not None:
                self._shared.forget()

    def _send(self, call: Call[T], timeout: float | None, metadata: Metadata | None = None) -> T:
        send = self._methods[call.method]
        with self._errors():
            response = send(call.request, timeout=timeout, metadata=with_trace(metadata))
        return call.read(response)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What gRPC raises, as our own."""
        try:
            yield
        except grpc.RpcError as error:
            raise from_status(error.code(), error.details()) from error
        except ValueError as error:
            if self._closed:  # gRPC says ValueError to that as to arguments that are wrong
                raise CallCancelledError("the client is closed") from error
            raise
