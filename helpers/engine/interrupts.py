"""Ctrl-C, which is Jupyter's stop button: who hears it, and what it does."""

from __future__ import annotations

import contextlib
import signal
import threading
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess


class Stopped(BaseException):
    """Ctrl-C (Jupyter's stop button) while an engine starts."""


def stopped(number, frame) -> None:
    """A handler of SIGINT that raises `Stopped`.

    A KeyboardInterrupt is not enough: vLLM 0.32 takes it for itself while it waits for its
    processes (zmq_socket_ctx in vllm/utils/network_utils.py), and then waits ten minutes for an
    engine that waits for it.
    """
    raise Stopped


@contextlib.contextmanager
def ctrl_c_calls(handler):
    """Ctrl-C calls `handler(number, frame)` in here; outside of the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def children_deaf_to_ctrl_c():
    """Processes that `multiprocessing` starts in here do not hear Ctrl-C, nor do theirs.

    Jupyter's stop button signals all processes of the kernel's group, and vLLM's engine ends when
    it is signalled. Whether it ends is for this process to say. Signals that are blocked at a start
    stay blocked, whether a child is forked or spawned.
    """
    start = BaseProcess.start

    def start_deaf(process):
        resource_tracker.ensure_running()  # else a spawned child does, which unblocks SIGINT
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            start(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    BaseProcess.start = start_deaf
    try:
        yield
    finally:
        BaseProcess.start = start
