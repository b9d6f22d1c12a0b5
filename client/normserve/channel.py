"""What every channel of ours is opened with: messages of any size, and retries of the calls that may safely be sent again."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from normserve.requests import METHODS

ChannelOptions = Sequence[tuple[str, Any]]

# Every method is a pure function of its request, or, as loading, done once it has been done, or its request has an id that the
# server knows again; so an attempt too many does no harm. UNAVAILABLE means that nothing was computed that anybody will see;
# RESOURCE_EXHAUSTED is said before any work, with the time to wait in grpc-retry-pushback-ms.
RETRY_POLICY = {
    "maxAttempts": 5,  # gRPC's own upper limit
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}

_UNLIMITED = -1
_LARGEST_INT = 2**31 - 1


def options(own: ChannelOptions = ()) -> list[tuple[str, Any]]:
    """Gives the options of a channel.

    Args:
        own: gRPC channel arguments that win over ours, such as `("grpc.enable_retries", 0)`.
    """
    ours = {
        "grpc.max_send_message_length": _UNLIMITED,
        "grpc.max_receive_message_length": _UNLIMITED,
        "grpc.service_config": service_config(METHODS),
        # A request that does not fit is never retried, and the default of 256 KiB is less than one photograph. What is kept
        # is a reference to the bytes that are sent anyway.
        "grpc.per_rpc_retry_buffer_size": _LARGEST_INT,
    }
    return list((ours | dict(own)).items())


def service_config(methods: Iterable[str]) -> str:
    """Gives the gRPC service config, in JSON, that retries `methods`, each a path such as "/package.Service/Method"."""
    names = [dict(zip(("service", "method"), path[1:].split("/"), strict=True)) for path in methods]
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": RETRY_POLICY}]})
