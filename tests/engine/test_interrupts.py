"""helpers/engine/interrupts.py: who hears Ctrl-C."""

import contextlib
import multiprocessing
import os
import signal
import time

import pytest

from helpers.engine.interrupts import children_deaf_to_ctrl_c


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("deaf", [children_deaf_to_ctrl_c, contextlib.nullcontext])
def test_a_child_does_not_hear_ctrl_c_however_it_is_started(method, deaf):
    child = multiprocessing.get_context(method).Process(target=time.sleep, args=(0.1,))
    with deaf():
        child.start()
    while child.is_alive():
        os.kill(child.pid, signal.SIGINT)
        time.sleep(0.01)
    assert (child.exitcode == 0) == (deaf is children_deaf_to_ctrl_c)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []), "this one hears it"
