"""A servable whose device may break: it is opened anew, and until then serves nothing.

After an error that CUDA calls sticky, nothing that was opened before works any more. A new session may; where the driver lets
none be opened either, only a new process helps, and the reason says so.
"""

from collections.abc import Callable, Mapping, Sequence
from threading import Lock

import structlog
from normserve_proto.tensors import Array

from normserve_server.accelerators.interface import DeviceBrokenError
from normserve_server.calls import now
from normserve_server.compute import Times
from normserve_server.errors import UnavailableError
from normserve_server.servable import Servable, Signature

RETRY_SECONDS = 5.0  # between two attempts to open it; each costs about that where a device is half dead
RESTARTED, FAILED = "restarted", "restart_failed"

_log = structlog.get_logger(__name__)


class Restarting:
    """A servable, and how to open it anew. Several threads may run it; the one that finds it broken opens it.

    Args:
        servable: as it was opened first.
        reopen: opens it again, warm.
        tell: called with `RESTARTED` or `FAILED`.
    """

    def __init__(self, servable: Servable, reopen: Callable[[], Servable], tell: Callable[[str], None]) -> None:
        self._signature = servable.signature
        self._provider = servable.provider
        self._servable: Servable | None = servable
        self._reopen = reopen
        self._tell = tell
        self._turn = Lock()
        self._reason = ""
        self._tried = 0.0

    @property
    def signature(self) -> Signature:
        """Stays what it was."""
        return self._signature

    @property
    def provider(self) -> str:
        """Likewise."""
        return self._provider

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Computes the outputs; raises what the servable raises.

        Raises:
            DeviceBrokenError: the device broke under this run; the next one may find another session.
            UnavailableError: it has broken, and could not be opened since.
        """
        servable = self._servable or self._restart()
        try:
            return servable.run(inputs)
        except DeviceBrokenError as error:
            reason = str(error)
            self._lose(servable, reason)
        del servable  # as the error's frames have gone: there may not be room for two
        self._restart()  # by this thread, which is not free for others meanwhile
        raise DeviceBrokenError(reason)

    @property
    def times(self) -> Times | None:
        """How long the parts of the calling thread's last run took on the device; None where that is not known."""
        return getattr(self._servable, "times", None)

    def _lose(self, servable: Servable, reason: str) -> None:
        with self._turn:
            if self._servable is servable:
                _log.error("device broken", reason=reason)
                self._servable, self._reason, self._tried = None, reason, 0.0

    def _restart(self) -> Servable:
        """Gives what serves, which the first thread here opens and the others wait for."""
        with self._turn:
            if self._servable is not None:
                return self._servable
            if self._tried and now() < self._tried + RETRY_SECONDS:
                raise UnavailableError(self._reason)
            try:
                self._servable = self._reopen()
            except Exception as error:  # whatever it is, nothing serves
                self._fail(error)
                raise UnavailableError(self._reason) from error
            finally:
                self._tried = now()
            self._tell(RESTARTED)
            _log.info("session opened anew")
            return self._servable

    def _fail(self, error: Exception) -> None:
        self._tell(FAILED)
        self._reason = f"the device broke, and a new session cannot be opened: {error}; if that stays so, restart the process"
        _log.error("session not opened anew", reason=str(error))
