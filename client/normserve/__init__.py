"""normserve's client: run models and normalize tensors on a server, with numpy arrays in and out."""

from importlib.metadata import version as _version

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
    NormResult,
    ServerMetadata,
    StreamAnswer,
    TensorMetadata,
)
from normserve.shared_memory import SharedMemoryWarning

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
]
