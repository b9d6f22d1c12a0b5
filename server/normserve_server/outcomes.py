"""How a call ended: noted for the metrics, and what its caller is told where it failed."""

import asyncio

import grpc

from normserve_server.calls import Call, now
from normserve_server.errors import Codes
from normserve_server.recording import Answered, Recorder
from normserve_server.refusals import Refusal, refusal


class Outcomes:
    """Notes calls that ended.

    Args:
        recorder: where each is noted.
        codes: the table from exceptions to status codes.
    """

    def __init__(self, recorder: Recorder, codes: Codes) -> None:
        self._note = recorder.note
        self._decide = recorder.decide
        self._codes = codes

    def succeeded(self, call: Call, bytes_in: int, bytes_out: int) -> None:
        """Notes an answered call; it ends the phase in which the answer was made bytes."""
        moment = now()
        call.lap_at("encode", moment)
        self._note(Answered(call, grpc.StatusCode.OK, moment - call.started, bytes_in, bytes_out))

    def failed(self, error: BaseException, call: Call, bytes_in: int) -> Refusal:
        """Notes a call that was refused, failed or was cancelled.

        Returns:
            What its caller is told.

        Raises:
            BaseException: the error itself, where there is nobody to tell or the process is to end.
        """
        self._decide(call)
        refused = refusal(error, call, self._codes) if isinstance(error, Exception) else None
        if refused is not None:
            code = refused.code
        elif isinstance(error, asyncio.CancelledError):
            code = _why_cancelled(call)
        else:
            raise error
        self._note(Answered(call, code, now() - call.started, bytes_in, 0))
        if refused is None:
            raise error
        return refused


def _why_cancelled(call: Call) -> grpc.StatusCode:
    """A handler is cancelled both when its caller leaves and when its deadline passes."""
    if call.deadline is not None and now() >= call.deadline:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED
