"""One worker process, from the supervisor's side."""

import asyncio
import shutil
import signal
import sys

import grpc

from normserve_server import descriptions
from normserve_server.calls import now
from normserve_server.descriptions import Description
from normserve_server.processes import outcome, place
from normserve_server.processes.outcome import Outcome
from normserve_server.processes.place import CHANNEL_OPTIONS, WORKER, Ask, Place
from normserve_server.state import UNKNOWN, State, unpacked

LOOK_SECONDS = 1.0  # a worker whose loop is not free for so long does not answer health checks in time

START_SECONDS = 300.0  # longest until a worker's private socket is there; Python loads its libraries first
LAST_CALLS_SECONDS = 1.0


class Child:
    """A worker process.

    Args:
        place: what it was told.
        process: it.

    Attributes:
        slot: its number.
        met: whether its private socket has answered; before, a signal may find it as Python starts it.
        opened: when it began to take calls, by `now`; None before.
    """

    def __init__(self, place: Place, process: asyncio.subprocess.Process) -> None:
        self.slot = place.slot
        self.place = place
        self.met = False
        self.opened: float | None = None
        self._versions: list[str] = []
        self._process = process
        self._channel = grpc.aio.insecure_channel(place.private, options=CHANNEL_OPTIONS)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def reached(self) -> None:
        """Waits until its private socket answers, which is when it listens on the public port, if it is not late."""
        await self._call("State", wait=True)
        self.met = True

    async def loaded(self) -> None:
        """Waits until it has loaded what is served from the start, or failed to."""
        await self._call("Loaded", wait=True)

    async def open(self) -> None:
        """Lets it take calls."""
        await self._call("Open", wait=True)
        self.opened = now()

    async def state(self) -> State | None:
        """Its state; where it does not answer in `LOOK_SECONDS`, those of its versions are unknown; None where it has died."""
        try:
            state = unpacked(await self._call("State", within_seconds=LOOK_SECONDS))
        except grpc.aio.AioRpcError as error:
            silent = State(models=dict.fromkeys(self._versions, UNKNOWN))
            return None if error.code() is grpc.StatusCode.UNAVAILABLE else silent
        self._versions = [*state.models]
        return state

    async def described(self) -> list[Description] | None:
        """What it tells of each version; None where it does not answer in `LOOK_SECONDS`."""
        try:
            return descriptions.unpacked(await self._call("Describe", within_seconds=LOOK_SECONDS))
        except grpc.aio.AioRpcError:
            return None

    async def hangs(self) -> None:
        """Waits until it has been silent for `worker_timeout_seconds`.

        Only its state is asked for, which it has at hand; loads and drains may take as long as they like.
        """
        seconds = self.place.settings.worker_timeout_seconds
        within = START_SECONDS + seconds
        while await self._answers(within):
            within = seconds
            await asyncio.sleep(seconds / 4)

    async def answer(self, method: str, data: bytes) -> Outcome | None:
        """What it answers to a call of all workers; None where it dies over it."""
        try:
            return outcome.unpack(await self._call(method, data))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:  # no process has a handler
                return Outcome(code=error.code(), text=error.details() or "")
            return None

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, unless it has ended."""
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def ended(self) -> int:
        """Waits for its end and gives the exit code; negative is the number of the signal that ended it."""
        return await self._process.wait()

    async def close(self) -> None:
        """Ends the connection to it, once nobody asks it any more and it has ended; what was asked is told so first."""
        await self._channel.close(LAST_CALLS_SECONDS)

    async def _answers(self, within_seconds: float) -> bool:
        try:
            await self._call("State", wait=True, within_seconds=within_seconds)
        except grpc.aio.AioRpcError as error:  # any other comes of its end, as `ended` will tell
            return error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
        return True

    async def _call(self, method: str, data: bytes = b"", *, wait: bool = False, within_seconds: float | None = None) -> bytes:
        ask: Ask = self._channel.unary_unary(f"/{WORKER}/{method}")
        answer: bytes = await ask(data, wait_for_ready=wait, timeout=within_seconds)
        return answer


async def start(told: Place) -> Child:
    """Starts a worker.

    It is in a session of its own, so that the terminal's Ctrl-C reaches it by way of the supervisor only.
    """
    told.last_words.unlink(missing_ok=True)
    await asyncio.to_thread(_empty, told)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "normserve_server.processes.worker"),
        stdin=asyncio.subprocess.PIPE,
        env=place.environment(told),
        start_new_session=True,
    )
    assert process.stdin is not None  # noqa: S101 - opened as a pipe above
    process.stdin.write(told.packed())
    return Child(told, process)


def _empty(told: Place) -> None:
    """Clears away what a worker that was killed has left in the slot's folder."""
    shutil.rmtree(told.scratch, ignore_errors=True)
    told.scratch.mkdir(mode=0o700, exist_ok=True)
