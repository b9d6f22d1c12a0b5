"""The event loop that serves calls."""

import asyncio


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Makes one: uvloop's where there is uvloop."""
    try:
        import uvloop  # noqa: PLC0415 - there is none for Windows
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
