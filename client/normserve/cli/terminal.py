"""Whose the terminal's Ctrl-C is."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_ctrl_c() -> Iterator[None]:
    """Takes the terminal's signals for this process alone, if another one, such as make, leads its foreground group.

    Ctrl-C goes to the whole group, and make then ends as interrupted, whatever its command's exit code is. So that a command
    which ends well by Ctrl-C lets make end well, it moves into a group of its own and into the foreground, as a shell would
    have put it.
    Ctrl-Z does nothing meanwhile: nobody would be there to continue it.
    """
    if not _led_by_another():
        yield
        return
    leader = os.getpgrp()
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # what a process gets that changes the foreground from the background
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    os.setpgid(0, 0)
    os.tcsetpgrp(sys.stdin.fileno(), os.getpgrp())
    try:
        yield
    finally:
        os.tcsetpgrp(sys.stdin.fileno(), leader)


def _led_by_another() -> bool:
    if not hasattr(os, "tcgetpgrp") or not sys.stdin.isatty():
        return False
    return os.getpgrp() != os.getpid() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
