"""normserve's client: run models and normalize tensors on a server, with numpy arrays in and out."""

from importlib.metadata import version as _version

from normserve import functional
from normserve.aio import AsyncClient
from normserve.client import Client
from normserve.errors import (
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

__version__ = _version("normserve")

__all__ = [
    "AccessError",
    "AlreadyExistsError",
    "AsyncClient",
    "CallCancelledError",
    "Client",
    "DeadlineExceededError",
    "Duration",
    "InternalError",
    "InvalidArgumentError",
    "ModelIndex",
    "ModelMetadata",
    "ModelStatistics",
    "NormAnswer",
    "NormResult",
    "NormserveError",
    "NotFoundError",
    "ResourceExhaustedError",
    "ServerMetadata",
    "SharedMemoryWarning",
    "StreamAnswer",
    "TensorMetadata",
    "UnavailableError",
    "UnimplementedError",
    "__version__",
    "functional",
]
