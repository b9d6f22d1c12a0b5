"""The service's process: `python -m normserve_server`, or `normserve serve`."""

import asyncio
import os
import sys

import structlog

from normserve_server import logs, settings

_log = structlog.get_logger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Runs the service.

    Args:
        arguments: the command line behind the program's name; the process's own if None.

    Returns:
        0 after a drain, 1 where the service cannot start, 2 for a wrong setting, 130 for a second Ctrl-C.
    """
    try:
        chosen = settings.read(sys.argv[1:] if arguments is None else arguments)
    except settings.SettingError as error:
        return _fail(str(error), 2)
    levels = logs.configure(chosen.log_level, chosen.log_format)
    for name in settings.unknown_variables(os.environ):
        _log.warning("environment variable is no setting", name=name)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what matters is said by us
    from normserve_server import app  # noqa: PLC0415 - onnxruntime and torch are not needed to say that a setting is wrong

    try:
        with asyncio.Runner(loop_factory=_event_loop) as runner:
            runner.run(app.serve(chosen, levels))
    except app.StartError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:  # the second one: somebody does not want to wait for the drain
        return 130
    return 0


def _event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 - there is none for Windows
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _fail(text: str, code: int) -> int:
    for line in text.splitlines():
        sys.stderr.write(f"{settings.PROGRAM}: {line}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
