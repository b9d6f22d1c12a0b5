"""The service's process: `python -m normserve_server`, or `normserve serve`."""

import asyncio
import os
import sys

import structlog

from normserve_server import logs, machine, settings
from normserve_server.loop import new_event_loop
from normserve_server.ports import StartError

_log = structlog.get_logger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Runs the service.

    Args:
        arguments: the command line behind the program's name; the process's own if None.

    Returns:
        0 after a drain, 1 where the service cannot start or a worker did not end well, 2 for a wrong setting, 130 for a
        second Ctrl-C.
    """
    try:
        chosen = settings.read(sys.argv[1:] if arguments is None else arguments)
    except settings.SettingError as error:
        return _fail(str(error), 2)
    levels = logs.configure(chosen.log_level, chosen.log_format)
    for name in settings.unknown_variables(os.environ):
        _log.warning("environment variable is no setting", name=name)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what matters is said by us
    # A model is prepared by a program of its own, and uvloop forks to start it. gRPC would take that fork for one that goes on
    # with gRPC: its half in the child reads from our callers' connections, or aborts the child.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    machine.raise_open_files()
    try:
        return _supervise(chosen) if chosen.workers > 1 else _serve(chosen, levels)
    except StartError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:  # the second one: somebody does not want to wait for the drain
        return 130


def _serve(chosen: settings.Settings, levels: logs.Levels) -> int:
    from normserve_server import app  # noqa: PLC0415 - onnxruntime and torch are not needed to say that a setting is wrong

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(app.serve(chosen, levels))
    return 0


def _supervise(chosen: settings.Settings) -> int:
    from normserve_server.processes import supervisor  # noqa: PLC0415 - likewise for gRPC

    with asyncio.Runner() as runner:
        return runner.run(supervisor.serve(chosen))


def _fail(text: str, code: int) -> int:
    for line in text.splitlines():
        sys.stderr.write(f"{settings.PROGRAM}: {line}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
