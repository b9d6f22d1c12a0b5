"""What a call can fail with: one small tree, and the one table from gRPC status codes to its classes."""

import grpc


class NormserveError(Exception):
    """A call that was not answered.

    Attributes:
        code: the gRPC status code; errors found before anything is sent carry the code that the server would have given.
        message: what was wrong, in one line.
    """

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN

    def __init__(self, message: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code


class InvalidArgumentError(NormserveError, ValueError):
    """The request contradicts the model, the operator or itself."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFoundError(NormserveError):
    """No such model, no such version of it, or no such normalizer."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(NormserveError):
    """The name is taken."""

    code = grpc.StatusCode.ALREADY_EXISTS


class AbortedError(NormserveError):
    """What was to be changed has changed meanwhile: its etag is another one."""

    code = grpc.StatusCode.ABORTED


class UnavailableError(NormserveError):
    """Nobody answers at the address, the version is loading or unloading, or the server is draining."""

    code = grpc.StatusCode.UNAVAILABLE


class ResourceExhaustedError(NormserveError):
    """The server has no room for the request now, or never had for one of its size."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceededError(NormserveError, TimeoutError):
    """The timeout passed before the answer came."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class CallCancelledError(NormserveError):
    """The call was cancelled, on either side; closing a client cancels its calls, and those that come after."""

    code = grpc.StatusCode.CANCELLED


class InternalError(NormserveError):
    """The server failed on a valid request, or its answer cannot be read."""

    code = grpc.StatusCode.INTERNAL


class UnimplementedError(NormserveError):
    """The server does not offer this call."""

    code = grpc.StatusCode.UNIMPLEMENTED


class AccessError(NormserveError):
    """Whoever stands before the server wants other credentials: UNAUTHENTICATED or PERMISSION_DENIED."""

    code = grpc.StatusCode.PERMISSION_DENIED


ERRORS: dict[grpc.StatusCode, type[NormserveError]] = {
    grpc.StatusCode.CANCELLED: CallCancelledError,
    grpc.StatusCode.UNKNOWN: NormserveError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.PERMISSION_DENIED: AccessError,
    grpc.StatusCode.UNAUTHENTICATED: AccessError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.FAILED_PRECONDITION: NormserveError,
    grpc.StatusCode.ABORTED: AbortedError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgumentError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DATA_LOSS: InternalError,
}


def from_status(code: grpc.StatusCode, details: str | None) -> NormserveError:
    """Gives the error for the status that ended a call.

    Args:
        code: any code but OK.
        details: the status's text, if it came with one.
    """
    return ERRORS[code](details or f"the call ended with {code.name}", code)
