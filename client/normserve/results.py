"""What calls answer with, besides arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from normserve_proto.tensors import Array

from normserve.errors import NormserveError


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """An input or output of a model.

    Attributes:
        name: its name, the key in `infer`'s mappings.
        datatype: FP32, INT64, BYTES, … as the Open Inference Protocol names them.
        shape: its extents; -1 where any extent fits.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a server tells of a model.

    Attributes:
        name: the model's name.
        versions: the versions that the server has of it.
        platform: what runs it.
        inputs: the tensors it wants, in its order.
        outputs: the tensors it gives, in its order.
        properties: whatever else is worth knowing, such as what folding did and what computes.
    """

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    properties: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """What a server tells of itself.

    Attributes:
        name: the server's name.
        version: its version.
        extensions: the extensions of the protocol that it offers.
    """

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelIndex:
    """One version in a server's repository.

    Attributes:
        name: the model's name.
        version: the version, an integer in decimal.
        state: READY, LOADING, UNLOADING, UNAVAILABLE or UNKNOWN.
        reason: why it does not serve, empty where it does.
    """

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """The answer to one request of a stream.

    Attributes:
        error: what the request failed with; None where it did not.
    """

    error: NormserveError | None
    _outputs: Mapping[str, Array]

    @property
    def outputs(self) -> Mapping[str, Array]:
        """The outputs by name, as `infer` gives them.

        Raises:
            NormserveError: the request failed.
        """
        if self.error is not None:
            raise self.error
        return self._outputs


@dataclass(frozen=True, slots=True)
class Duration:
    """How often something happened, and for how many seconds altogether."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """What the requests of one version add up to since it was loaded.

    Attributes:
        name: the model's name.
        version: the version.
        samples: in answered requests.
        executions: runs; fewer than requests where they ran together.
        success: answered requests, from arrival to answer.
        fail: requests that were not answered.
        queue: answered requests' waits.
        compute_input: putting batches together, and copying them to a GPU; each request counts its whole run, here and in the
            next two.
        compute_infer: the model itself.
        compute_output: copying outputs from a GPU, and taking them apart.
    """

    name: str
    version: str
    samples: int
    executions: int
    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class NormResult(NamedTuple):
    """A normalized tensor, with the running statistics after the call.

    Attributes:
        output: the dtype and shape of the input.
        running_mean: shape [C]; None where none was sent.
        running_var: shape [C]; None where none was sent.
    """

    output: Array
    running_mean: Array | None
    running_var: Array | None


@dataclass(frozen=True, slots=True)
class NormAnswer:
    """The answer to one request of `normalize_stream`.

    Attributes:
        error: what the request was refused with; None where it was not.
    """

    error: NormserveError | None
    _result: NormResult | None

    @property
    def result(self) -> NormResult:
        """The normalized tensor, with the running statistics that were updated.

        Raises:
            NormserveError: the request was refused.
        """
        if self._result is None:
            raise self.error or NormserveError("the request was not answered")
        return self._result

    @property
    def output(self) -> Array:
        """The normalized tensor; raises as `result` does."""
        return self.result.output
