"""What a worker runs: `python -m normserve_server.processes.worker`, with its `Place` on standard input.

That input is open as long as the supervisor lives, and ends however that dies: then the worker drains and ends, too.
"""

import asyncio
import faulthandler
import os
import shutil
import signal
import sys
import threading
import warnings

from normserve_server import logs
from normserve_server.loop import new_event_loop
from normserve_server.ports import StartError
from normserve_server.processes import place
from normserve_server.processes.place import Place

STDIN = 0
MORE_SECONDS = 10.0  # than a drain takes at most


class SupervisorWatch(threading.Thread):
    """Watches the supervisor.

    Attributes:
        orphaned: whether it has died.
    """

    def __init__(self, drain_seconds: float) -> None:
        super().__init__(name="supervisor-watch", daemon=True)
        self.orphaned = False
        self._drain_seconds = drain_seconds

    def run(self) -> None:
        """Asks this process to drain once the supervisor has died, and has it ended where it does not."""
        os.read(STDIN, 1)
        self.orphaned = True
        faulthandler.dump_traceback_later(self._drain_seconds + MORE_SECONDS, exit=True)
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Serves until the supervisor says stop, or dies; 0 after a drain, 1 where it cannot start."""
    line = _read_line()
    if not line.endswith(b"\n"):  # the supervisor died while it wrote
        return 1
    told = place.unpacked(line)
    chosen = told.settings
    watch = SupervisorWatch(chosen.drain_delay_seconds + chosen.drain_timeout_seconds)
    watch.start()
    levels = logs.configure(chosen.log_level, chosen.log_format, worker=told.slot)
    _record_by_slot(told)
    code = _serve(told, levels)
    if watch.orphaned:
        shutil.rmtree(told.folder, ignore_errors=True)
    return code


def _serve(told: Place, levels: logs.Levels) -> int:
    from normserve_server import app  # noqa: PLC0415 - prometheus_client has to know first where metrics are kept

    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(app.serve(told.settings, levels, told))
    except StartError as error:
        told.last_words.write_text(str(error))
        return 1
    return 0


def _record_by_slot(told: Place) -> None:
    """Names the files of metrics by slot and not by process, so that a new worker goes on where the one before it has ended."""
    if told.settings.metrics:
        from prometheus_client import values  # noqa: PLC0415 - likewise

        values.ValueClass = values.MultiProcessValue(lambda: told.slot)  # type: ignore[no-untyped-call]
        # The supervisor leaves series out that have been removed: see `exposition`.
        warnings.filterwarnings("ignore", "Removal of labels has not been implemented", UserWarning)


def _read_line() -> bytes:
    """Reads a line and no byte more, without Python's own buffer, which a thread that waits for the end would lock."""
    line = b""
    while not line.endswith(b"\n") and (data := os.read(STDIN, 1)):
        line += data
    return line


if __name__ == "__main__":
    sys.exit(main())
