"""normserve's client: run models and normalize tensors on a server, with numpy arrays in and out."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from normserve import functional
from normserve.aio import AsyncClient
from normserve.aio_normalizer import AsyncNormalizer
from normserve.client import Client
from normserve.errors import (
    AbortedError,
    AccessError,
    AlreadyExistsError,
    CallCancelledError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NormserveError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)
from normserve.layers import Applied, BatchNormLayer, InstanceNormLayer, NormalizerInfo, RunningNormLayer, StateDict
from normserve.normalizer import Normalizer
from normserve.results import (
    Duration,
    ModelIndex,
    ModelMetadata,
    ModelStatistics,
    NormAnswer,
    NormResult,
    ServerMetadata,
    StreamAnswer,
    TensorMetadata,
)
from normserve.shared_memory import SharedMemoryWarning

if TYPE_CHECKING:
    from normserve.nn import RemoteBatchNorm as RemoteBatchNorm

__version__ = _version("normserve")

__all__ = [
    "AbortedError",
    "AccessError",
    "AlreadyExistsError",
    "Applied",
    "AsyncClient",
    "AsyncNormalizer",
    "BatchNormLayer",
    "CallCancelledError",
    "Client",
    "DeadlineExceededError",
    "Duration",
    "InstanceNormLayer",
    "InternalError",
    "InvalidArgumentError",
    "ModelIndex",
    "ModelMetadata",
    "ModelStatistics",
    "NormAnswer",
    "NormResult",
    "Normalizer",
    "NormalizerInfo",
    "NormserveError",
    "NotFoundError",
    "ResourceExhaustedError",
    "RunningNormLayer",
    "ServerMetadata",
    "SharedMemoryWarning",
    "StateDict",
    "StreamAnswer",
    "TensorMetadata",
    "UnavailableError",
    "UnimplementedError",
    "__version__",
    "functional",
]


if not TYPE_CHECKING:  # else every name would be one

    def __getattr__(name: str) -> Any:
        """Imports what needs torch when it is asked for."""
        if name != "RemoteBatchNorm":
            raise AttributeError(f"module 'normserve' has no attribute {name!r}")
        from normserve.nn import RemoteBatchNorm  # noqa: PLC0415 - torch need not be installed

        return RemoteBatchNorm
