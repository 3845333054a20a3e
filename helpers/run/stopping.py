"""Ctrl-C, SIGTERM or SIGHUP end a run or a class, and nothing of it stays behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator

from helpers.engine import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_CHILD_SUBREAPER = 36


class Stopped(BaseException):
    """A signal reached the command. `so_far` says where to find what there is."""

    def __init__(self, number: int):
        self.number, self.so_far = number, "Nothing was written."
        super().__init__(signal.Signals(number).name)


@contextlib.contextmanager
def everything_ends() -> Iterator[None]:
    """A signal raises Stopped once; at the end nothing is running."""

    def handler(number, frame):
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    with contextlib.suppress(OSError, AttributeError):
        # Orphaned descendants are handed to this process, where sweep() finds them.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        sweep()


def sweep() -> None:
    """End what is still below this process: a supervisor leaves nothing, unless it was killed."""
    for pid in processes.descendants(os.getpid()):
        if not processes.is_lifeline(pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
