"""Everything the service refuses, as one tree of exceptions, and the tables that turn it into gRPC status codes.

A text always names the thing, what was wanted and what came. An exception that is not in the tree is a bug of ours: callers get
a fixed text, the trace goes to the log.
"""

from collections.abc import Mapping
from typing import TypeAlias

import grpc
from google.protobuf.message import DecodeError
from normserve_proto.tensors import TensorError

Codes: TypeAlias = Mapping[type[Exception], grpc.StatusCode]

NEVER = -1


class ServiceError(Exception):
    """A refusal that the caller is told of.

    Attributes:
        retry_after_ms: what retry policies are told: milliseconds to wait, `NEVER`, or None to leave it to them.
    """

    retry_after_ms: int | None = None


class InvalidRequestError(ServiceError):
    """The request contradicts the model, the operator or itself."""


class NotFoundError(ServiceError):
    """No such model, no such version of it, or no such region of shared memory."""


class AlreadyExistsError(ServiceError):
    """The name is taken."""


class ConflictError(ServiceError):
    """What is to be changed is not what the caller has seen: its etag is another one."""

    retry_after_ms = NEVER


class StateError(ServiceError):
    """The normalizers' state cannot be read or written now."""


class StateFullError(StateError):
    """There is no room for the normalizers' state."""


class UnimplementedError(ServiceError):
    """A part of the protocol that this server does not offer."""


class UnavailableError(ServiceError):
    """The version is loading, unloading or failed; or the server is draining."""


class FailedVersionError(UnavailableError):
    """The version failed to load, and will not by waiting."""

    retry_after_ms = NEVER


class ControlError(UnavailableError):
    """Models are not loaded and unloaded by call in this server's model control mode."""

    retry_after_ms = NEVER


class ModelLoadError(ServiceError):
    """A model that a call asked to load does not load; what served before goes on."""


class OverloadedError(ServiceError):
    """No room now; the caller may come back after `retry_after_ms` milliseconds."""

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class TooLargeError(ServiceError):
    """One message larger than all that the server admits at a time: coming back does not help."""

    retry_after_ms = NEVER


class DeadlineExceededError(ServiceError):
    """The caller's deadline or the request's queue timeout passed before the work began."""


class QueueTimeoutError(DeadlineExceededError):
    """The request waited in the queue until its time was over."""


class InternalError(ServiceError):
    """The model itself failed on an input that fits its signature."""


class DeviceMemoryError(InternalError):
    """There is no room on a GPU; the text says how much was wanted, and how much there is."""


class DeviceBrokenError(InternalError):
    """A GPU does nothing any more for the session that used it; the text has the driver's words."""


class RelayedError(ServiceError):
    """Another process of this service refused the call; its words and its code are passed on.

    Attributes:
        code: what it said.
    """

    def __init__(
        self, message: str, *, code: grpc.StatusCode = grpc.StatusCode.INTERNAL, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_ms = retry_after_ms


class LoadError(Exception):
    """A model that cannot be served; the text says why. It becomes the version's reason, and no answer by itself."""


STATUS_CODES: Codes = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    TensorError: grpc.StatusCode.INVALID_ARGUMENT,
    DecodeError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    ConflictError: grpc.StatusCode.ABORTED,
    StateError: grpc.StatusCode.UNAVAILABLE,
    StateFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnimplementedError: grpc.StatusCode.UNIMPLEMENTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    FailedVersionError: grpc.StatusCode.UNAVAILABLE,
    ControlError: grpc.StatusCode.UNAVAILABLE,
    ModelLoadError: grpc.StatusCode.INTERNAL,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooLargeError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    QueueTimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
    InternalError: grpc.StatusCode.INTERNAL,
    DeviceMemoryError: grpc.StatusCode.INTERNAL,  # not RESOURCE_EXHAUSTED: the same request will find no room again
    DeviceBrokenError: grpc.StatusCode.INTERNAL,
    RelayedError: grpc.StatusCode.INTERNAL,  # where it does not say another
}

# By the setting `error_codes`. Triton says UNAVAILABLE for the two ends of a queue, which its clients may be built upon.
CODES: Mapping[str, Codes] = {
    "grpc": STATUS_CODES,
    "triton": {
        **STATUS_CODES,
        OverloadedError: grpc.StatusCode.UNAVAILABLE,
        QueueTimeoutError: grpc.StatusCode.UNAVAILABLE,
    },
}

BUG = "internal error; the server's log has the details"


def status_of(error: BaseException, codes: Codes = STATUS_CODES) -> tuple[grpc.StatusCode, str]:
    """Gives the status code and the text that a caller gets for an exception.

    Args:
        error: whatever a handler raised.
        codes: one of the tables in `CODES`.

    Returns:
        The code of the nearest class in `codes`, or the one that was relayed, with the exception's text; INTERNAL with a fixed
        text for a bug.
    """
    if isinstance(error, RelayedError):
        return error.code, str(error)
    for kind in type(error).__mro__:
        if kind in codes:
            return codes[kind], str(error)
    return grpc.StatusCode.INTERNAL, BUG
