"""Parameters of requests and of their tensors, as values."""

from collections.abc import Mapping
from typing import Any

from normserve_proto import open_inference_pb2 as pb

from normserve_server.errors import InvalidRequestError

Parameters = Mapping[str, pb.InferParameter]


def value(parameter: pb.InferParameter) -> Any:
    """Gives a parameter's value; None where it has none."""
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def natural(parameters: Parameters, key: str, whose: str = "", unit: str = "") -> int:
    """Gives an integer parameter; 0 where it is missing.

    Args:
        parameters: by name.
        key: the name.
        whose: the tensor's, for the error's text.
        unit: likewise.

    Raises:
        InvalidRequestError: it is not an integer >= 0.
    """
    found = value(parameters[key]) if key in parameters else 0
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        prefix = f"{whose}: " if whose else ""
        raise InvalidRequestError(f"{prefix}parameter '{key}' is an integer{unit and f' of {unit}'} >= 0, got {found!r}")
    return found
