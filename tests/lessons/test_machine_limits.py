"""helpers/lessons/machine_limits.py: what is timed is what is said. Small sizes."""

import json
import subprocess
import sys
import time

import pytest

from helpers.lessons import machine_limits


@pytest.fixture(scope="module")
def limits():
    return machine_limits.measure_limits("cpu", mib=64, size=512)


def test_limits_are_of_this_world(limits):
    assert 0.5 < limits.read_gb_per_s < 1000 and 0.5 < limits.copy_gb_per_s < 2000
    assert 0.001 < limits.tflop_per_s < 100
    assert limits.knee == pytest.approx(limits.flop_per_s / limits.bytes_per_s)
    assert "GB/s" in str(limits) and "one core" in str(limits)


def test_seconds_of_times_the_work_and_not_the_wait():
    work = lambda: sum(range(200_000))  # noqa: E731
    one = machine_limits.seconds_of(work, "cpu", 0.05)
    both = machine_limits.seconds_of(lambda: (work(), work()), "cpu", 0.05)
    assert 1.2 < both / one < 3.5
    assert machine_limits.seconds_of(lambda: time.sleep(0.02), "cpu", 0.01) < 0.01, (
        "waiting is no work"
    )


def test_threads_are_given_back():
    # In a process of its own: where an engine was open, vLLM has fixed the number of threads.
    code = (
        "import torch; from helpers.lessons import machine_limits\n"
        "torch.set_num_threads(2)\n"
        "machine_limits.measure_limits('cpu', mib=1, size=16)\n"
        "print(torch.get_num_threads())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "2\n"


def test_the_command_gives_one_line_of_json():
    command = [sys.executable, "-m", "helpers.lessons.machine_limits", "cpu"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(out)
    assert found["device"] == "cpu" and found["read_gb_per_s"] > 0.5
