"""How a call ended: noted for the metrics, and what its caller is told where it failed."""

import asyncio

import grpc

from normserve_server.calls import Answered, Call, now
from normserve_server.errors import Codes, DeadlineExceededError
from normserve_server.recording import Recorder
from normserve_server.refusals import Refusal, refusal

DEADLINE, CANCELLED = "deadline", "cancelled"

# gRPC rounds a timeout up before it tells the server: by up to 10 ms below 10 s, and beyond by up to a hundredth. The caller
# keeps to the exact one, and leaves before the server's clock says that its time is over. As much again is for the way.
EARLY_SECONDS, EARLY_SHARE = 0.01, 0.02


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
        call.cut_short = _why_cut_short(error, call)
        refused = refusal(error, call, self._codes) if isinstance(error, Exception) else None
        if refused is not None:
            code = refused.code
        elif call.cut_short:
            code = grpc.StatusCode.DEADLINE_EXCEEDED if call.cut_short == DEADLINE else grpc.StatusCode.CANCELLED
        else:
            raise error
        self._note(Answered(call, code, now() - call.started, bytes_in, 0))
        if refused is None:
            try:
                raise error
            finally:  # else the error keeps this frame, which keeps it, and what was sent, until the garbage collector comes
                del error
        return refused


def _why_cut_short(error: BaseException, call: Call) -> str:
    """A handler is cancelled both when its caller leaves and when its deadline passes."""
    if isinstance(error, DeadlineExceededError):
        return DEADLINE
    if not isinstance(error, asyncio.CancelledError):
        return ""
    if call.deadline is None:
        return CANCELLED
    early = max(EARLY_SECONDS, EARLY_SHARE * (call.deadline - call.started))
    return DEADLINE if call.deadline - now() <= early else CANCELLED
