"""Where operators compute: small tensors on the host, big ones on the server's device where that has memory of its own."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import structlog
from normserve_proto.tensors import DTYPES, Array

from normserve_server.accelerators.interface import Accelerator
from normserve_server.operators.arrays import Normalized
from normserve_server.operators.device import crossing

Compute: TypeAlias = Callable[[Any], Normalized[Any]]  # gives its output where its input is

# For less, the way there and back is taken to cost more than what is gained. Nobody has measured it on a GPU.
LEAST_BYTES = 2**20
_FLOATS = frozenset(DTYPES[name] for name in ("FP16", "BF16", "FP32", "FP64"))

_log = structlog.get_logger(__name__)


class Place:
    """Runs operators, on one thread at a time where `takes` says that the device does.

    Args:
        accelerator: the server's device; None for the host.
        failed: called whenever the device failed at what the host then did.
    """

    def __init__(self, accelerator: Accelerator | None = None, failed: Callable[[], None] = lambda: None) -> None:
        self._failed = failed
        self._accelerator = accelerator if accelerator is not None and accelerator.apart else None
        self._cross = None if self._accelerator is None else partial(crossing, self._accelerator, self._accelerator.lane())

    @property
    def apart(self) -> bool:
        """Whether there is a device that computes big tensors."""
        return self._cross is not None

    def takes(self, x: Array) -> bool:
        """Whether the device computes what has this input."""
        return self._cross is not None and x.nbytes >= LEAST_BYTES and x.dtype in _FLOATS

    def run(self, x: Array, compute: Compute) -> Normalized[Array]:
        """Computes with `x`, on the device or, where that fails, here.

        Raises:
            InvalidRequestError: PyTorch refuses it, in the host's words.
        """
        if self._cross is None or not self.takes(x):
            return compute(x)
        try:
            with self._cross() as way:
                made = compute(way.put(x))
                fetched = Normalized(way.fetch(made.output), *(one and way.fetch(one) for one in made[1:]))
        except Exception as error:  # noqa: BLE001 - a device may fail in any way; what is the request's fault fails here too
            normalized = compute(x)
            self._note(error)
            return normalized
        return fetched

    def _note(self, error: Exception) -> None:
        self._failed()
        broken = self._accelerator.broken() if self._accelerator else None
        if broken is None:
            _log.warning("an operator was computed on the host, the device failed", error=str(error))
            return
        _log.error("operators compute on the host from now on, the device is broken", reason=broken)
        self._cross = None
