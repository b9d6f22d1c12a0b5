"""structlog, set up once: one line an event, as JSON for machines or in columns for people, on standard error."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import orjson
import structlog

PIPE_BYTES = 4096  # what a pipe takes in one piece (Linux's PIPE_BUF), so that the lines of several processes do not mix


@dataclass(slots=True)
class Levels:
    """What is logged, which can change at any time.

    structlog fixes a logger's least level when the logger is first used. So all loggers let everything pass, and this, as the
    first of their processors, drops what is not wanted.

    Attributes:
        info: whether what happens in the normal course of things is logged.
        warning: whether warnings are.
        error: whether errors are.
        verbose_level: what only developers want to know is logged where this is > 0.
    """

    info: bool = True
    warning: bool = True
    error: bool = True
    verbose_level: int = 0

    @classmethod
    def of(cls, level: str) -> "Levels":
        """Gives what a least level stands for: debug, info, warning or error."""
        least = logging.getLevelNamesMapping()[level.upper()]
        return cls(least <= logging.INFO, least <= logging.WARNING, error=True, verbose_level=int(least <= logging.DEBUG))

    def __call__(self, _logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Passes an event on, or ends it here."""
        if not self._wants(method):
            raise structlog.DropEvent
        return event

    def _wants(self, method: str) -> bool:
        if method == "info":
            return self.info
        if method == "debug":
            return self.verbose_level > 0
        return self.warning if method == "warning" else self.error


class Output:
    """Standard error, whose reader may go away or whose disk may be full: lines are lost then, and whoever logs goes on."""

    def __init__(self) -> None:
        self._number = sys.stderr.fileno()

    def write(self, data: bytes) -> None:
        """Writes in one piece, at once: what a buffer could not get rid of would be tried again at the process's end."""
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._number, data) :]

    def flush(self) -> None:
        """Nothing is held back."""


class Libraries(logging.Handler):
    """Makes events of what libraries have to say, with the field `logger`, which would be text between our lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one."""
        log = structlog.get_logger(record.name)
        write_one = log.error if record.levelno >= logging.ERROR else log.warning
        write_one(record.getMessage(), logger=record.name, exc_info=record.exc_info[1] if record.exc_info else None)


def configure(level: str, style: str, **fields: Any) -> Levels:
    """Sets the level and the style of all logs of the process.

    Args:
        level: debug, info, warning or error, the least that is logged at first.
        style: console, json, or auto: console where standard error is a terminal.
        fields: what each event has beside its own.

    Returns:
        What is logged, to be changed.
    """

    def with_fields(_logger: object, _method: str, event: Any) -> Any:
        return {**event, **fields}

    logging.basicConfig(handlers=[Libraries()], level=logging.WARNING, force=True)
    levels = Levels.of(level)
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            levels,
            structlog.contextvars.merge_contextvars,
            with_fields,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if console else [structlog.processors.dict_tracebacks]),
            _columns() if console else _json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=structlog.BytesLoggerFactory(cast("BinaryIO", Output())),
        cache_logger_on_first_use=True,
    )
    return levels


def common(level: str) -> dict[str, Any] | None:
    """Gives what all events of one level have in common but for their moment; None where they are not wanted."""
    event: dict[str, Any] = {}
    try:
        for process in structlog.get_config()["processors"][:-1]:
            event = process(None, level, event)
    except structlog.DropEvent:
        return None
    del event["timestamp"]
    return event


def write(lines: bytes) -> None:
    """Writes many events, each an object of JSON and a line: to make the events one by one would be most of their cost."""
    render = structlog.get_config()["processors"][-1]
    if render is not _json:
        lines = b"".join([render(None, event["level"], event) + b"\n" for event in map(orjson.loads, lines.splitlines())])
    output = Output()
    for piece in pieces(lines):
        output.write(piece)


def pieces(lines: bytes) -> Iterator[bytes]:
    """Takes lines apart to pieces of at most `PIPE_BYTES`; a longer line is one of its own."""
    first = 0
    while first < len(lines):
        end = lines.rfind(b"\n", first, first + PIPE_BYTES) + 1 or lines.index(b"\n", first) + 1
        yield lines[first:end]
        first = end


def _columns() -> structlog.typing.Processor:
    renderer, encoding = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()), sys.stderr.encoding
    return lambda logger, level, event: renderer(logger, level, event).encode(encoding, "backslashreplace")


def as_json(event: structlog.typing.EventDict) -> bytes:
    """Gives an event as JSON: in UTF-8, or escaped where it has what UTF-8 has not."""
    try:
        return orjson.dumps(event, default=repr)
    except TypeError:  # text that is no UTF-8, as in a file's name, or an integer of more than 64 bits
        return json.dumps(event, default=repr).encode()


def _json(_logger: object, _level: str, event: structlog.typing.EventDict) -> bytes:
    return as_json(event)
