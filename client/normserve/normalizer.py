# ruff: noqa: A002 - the input has torch's name
"""Named normalizers: layers that live in a server, whose running statistics many callers share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self, TypeVar

from normserve_proto.tensors import Array

from normserve import normalizer_requests
from normserve.layers import Applied, Layer, NormalizerInfo, StateDict
from normserve.normalizer_requests import KEEP, Keep
from normserve.requests import Call, Steps

T = TypeVar("T")


class Normalizers(ABC):
    """The verbs about normalizers, for whoever can send a call and wait for it."""

    @abstractmethod
    def _send(self, call: Call[T], timeout: float | None) -> T: ...

    @abstractmethod
    def _follow(self, steps: Steps[T], timeout: float | None) -> T: ...

    def normalizer(self, name: str) -> "Normalizer":
        """Gives what the normalizer of that name is called by; calls nobody, so there need be none yet.

        Args:
            name: 1 to 63 letters, digits, '_', '.' and '-', the first one a letter or a digit.
        """
        return Normalizer(self, name)

    def normalizers(self, *, page_size: int = 0, timeout: float | None = None) -> tuple[NormalizerInfo, ...]:
        """Lists all normalizers, by name.

        Args:
            page_size: how many a call asks for, at most 1000; 0 for the server's choice.
            timeout: seconds, of all calls together.

        Raises:
            NormserveError: a call was not answered.
        """
        return self._follow(normalizer_requests.list_all(page_size), timeout)


class Normalizer:
    """A layer in the server, by its name; `Client.normalizer` gives it.

        obs = client.normalizer("obs")
        obs.create(RunningNormLayer((17,), clip=10))
        y = obs.apply(x)

    What changes a normalizer is on the server's disk when it is answered. Each such call but `update` and `delete` has an id,
    so that one that is sent again, which the client does by itself where the server was not reached, is not carried out twice.
    Whoever wants to repeat a call of which it is not known what became of it, such as after a timeout, gives it a `request_id`
    and repeats that too.

    Args:
        client: what sends the calls.
        name: without "normalizers/".
    """

    def __init__(self, client: Normalizers, name: str) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        return f"Normalizer({self.name!r})"

    def __deepcopy__(self, _memo: object) -> Self:
        return self  # what would be copied is in the server: a copied network calls the same normalizer

    def create(
        self, layer: Layer, *, training: bool = True, request_id: str = "", timeout: float | None = None
    ) -> NormalizerInfo:
        """Makes the normalizer; where one is there with the same layer, that one is the answer.

        Args:
            layer: what it computes.
            training: whether `apply` trains where it is not told.
            request_id: names the call, at most 128 characters; made anew if empty.
            timeout: seconds.

        Raises:
            AlreadyExistsError: there is one with another layer.
            InvalidArgumentError: the name or the layer is none.
            NormserveError: the call was not answered.
        """
        return self._client._send(
            normalizer_requests.create(self.name, layer, training=training, request_id=request_id), timeout
        )

    def restore(self, snapshot: bytes, *, request_id: str = "", timeout: float | None = None) -> NormalizerInfo:
        """Makes the normalizer of a snapshot: with its layer, mode and state.

        Args:
            snapshot: what `snapshot` gave, here or elsewhere.
            request_id: names the call, at most 128 characters; made anew if empty.
            timeout: seconds.

        Raises:
            AlreadyExistsError: there is another one of this name.
            InvalidArgumentError: the bytes are no snapshot.
            NormserveError: the call was not answered.
        """
        return self._client._send(normalizer_requests.restore(self.name, snapshot, request_id=request_id), timeout)

    def get(self, *, timeout: float | None = None) -> NormalizerInfo:
        """Tells its layer, mode, etag and sequence.

        Args:
            timeout: seconds.

        Raises:
            NotFoundError: there is no such normalizer.
            NormserveError: the call was not answered.
        """
        return self._client._send(normalizer_requests.get(self.name), timeout)

    def update(
        self,
        *,
        momentum: float | Keep | None = KEEP,
        clip: float | Keep | None = KEEP,
        training: bool | None = None,
        etag: str = "",
        timeout: float | None = None,
    ) -> NormalizerInfo:
        """Changes what can be changed; asks for the layer first. Never sent again by itself.

        Args:
            momentum: share of a batch in the update, 0 to 1; None for the average over all batches.
            clip: a RunningNormLayer's largest absolute value, > 0; None for no limit.
            training: whether `apply` trains where it is not told; None to leave that.
            etag: changes only what has this one; empty for any.
            timeout: seconds, of both calls together.

        Raises:
            AbortedError: the etag is not the present one.
            InvalidArgumentError: there is nothing to change, or the layer has no such value.
            NotFoundError: there is no such normalizer.
            NormserveError: a call was not answered.
        """
        steps = normalizer_requests.update(self.name, momentum=momentum, clip=clip, training=training, etag=etag)
        return self._client._follow(steps, timeout)

    def delete(self, *, etag: str = "", missing_ok: bool = False, timeout: float | None = None) -> None:
        """Deletes the normalizer with its state. Never sent again by itself.

        Args:
            etag: deletes only what has this one; empty for any.
            missing_ok: whether one that is not there is no error.
            timeout: seconds.

        Raises:
            AbortedError: the etag is not the present one.
            NotFoundError: there is no such normalizer.
            NormserveError: the call was not answered.
        """
        self._client._send(normalizer_requests.delete(self.name, etag=etag, missing_ok=missing_ok), timeout)

    def apply(self, input: Array, *, training: bool | None = None, request_id: str = "", timeout: float | None = None) -> Array:
        """Normalizes as the layer's forward does and, in training, updates the statistics.

        Args:
            input: of a shape that the layer takes; float16, bfloat16, float32 or float64.
            training: whether to train; None for the normalizer's own mode.
            request_id: names the call, at most 128 characters; made anew if empty.
            timeout: seconds.

        Returns:
            The normalized array, of the input's dtype and shape.

        Raises:
            InvalidArgumentError: the layer does not take such an input.
            NotFoundError: there is no such normalizer.
            NormserveError: the call was not answered.
        """
        call = normalizer_requests.apply_output(self.name, input, training=training, request_id=request_id)
        return self._client._send(call, timeout)

    def apply_numbered(
        self, input: Array, *, training: bool | None = None, request_id: str = "", timeout: float | None = None
    ) -> Applied:
        """As `apply`, and tells which update it was.

        Args:
            input: as `apply` takes it.
            training: whether to train; None for the normalizer's own mode.
            request_id: names the call, at most 128 characters; made anew if empty.
            timeout: seconds.

        Returns:
            A named tuple (output, sequence).

        Raises:
            NormserveError: as `apply`.
        """
        call = normalizer_requests.apply(self.name, input, training=training, request_id=request_id)
        return self._client._send(call, timeout)

    def observe(self, input: Array, *, request_id: str = "", timeout: float | None = None) -> int:
        """Updates the statistics as in training, and gets no array back.

        Args:
            input: as `apply` takes it.
            request_id: names the call, at most 128 characters; made anew if empty.
            timeout: seconds.

        Returns:
            The normalizer's sequence after this update: how many there have been.

        Raises:
            InvalidArgumentError: the layer does not take such an input.
            NotFoundError: there is no such normalizer.
            NormserveError: the call was not answered.
        """
        return self._client._send(normalizer_requests.observe(self.name, input, request_id=request_id), timeout)

    def state_dict(self, *, timeout: float | None = None) -> StateDict:
        """Gives what the layer's state dict holds, bit for bit; its method `torch` gives it as tensors.

        Args:
            timeout: seconds.

        Raises:
            NotFoundError: there is no such normalizer.
            NormserveError: the call was not answered.
        """
        return self._client._send(normalizer_requests.get_state_dict(self.name), timeout)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], *, etag: str = "", request_id: str = "", timeout: float | None = None
    ) -> NormalizerInfo:
        """Puts a state in the place of the present one, as PyTorch's layer does.

        Args:
            state_dict: arrays by name, or the state_dict() of a torch layer. As in PyTorch, one that does not tell a version of
                2 or more may lack num_batches_tracked.
            etag: loads only over what has this one; empty for any.
            request_id: names the call, at most 128 characters; made anew if empty.
            timeout: seconds.

        Raises:
            AbortedError: the etag is not the present one.
            InvalidArgumentError: the state is not one of this layer.
            NotFoundError: there is no such normalizer.
            NormserveError: the call was not answered.
        """
        call = normalizer_requests.load_state_dict(self.name, state_dict, etag=etag, request_id=request_id)
        return self._client._send(call, timeout)

    def snapshot(self, *, timeout: float | None = None) -> bytes:
        """Gives all of the normalizer as one safetensors file, which `restore` takes.

        Args:
            timeout: seconds.

        Raises:
            NotFoundError: there is no such normalizer.
            NormserveError: the call was not answered.
        """
        return self._client._send(normalizer_requests.get_snapshot(self.name), timeout)
