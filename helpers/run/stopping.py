"""Ctrl-C, SIGTERM or SIGHUP end a run or a class, and nothing of it stays behind."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from helpers.engine import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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

    processes.adopt_orphans()  # for sweep()
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        sweep()
        processes.adopt_orphans(False)


def sweep() -> None:
    """End what is still below this process: a supervisor leaves nothing, unless it was killed."""
    processes.kill(processes.started_here())
