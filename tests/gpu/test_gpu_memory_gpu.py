"""Memory sampling against a real driver: needs one NVIDIA GPU with 3 GiB free."""

import os
import subprocess
import sys
import time

import pytest

from helpers import gpu_memory
from helpers.gpu_memory import PROCESSES_EVERY_S, MemorySampler

HOLD = """
import sys, torch
x = torch.ones(2 * 2**28, device="cuda")  # 2 GiB, beside the CUDA context
torch.cuda.synchronize()
print("up", flush=True)
sys.stdin.readline()
"""


def test_a_child_process_is_seen_on_the_device_and_as_ours():
    with MemorySampler(hz=20) as sampler:
        before = sampler.samples[0]["used_gib"]
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert child.stdout.readline() == "up\n"
            time.sleep(PROCESSES_EVERY_S[1] + 0.5)
        finally:
            child.communicate("\n", timeout=30)
    found = sampler.summary()
    assert found["source"] == gpu_memory.DEVICE and found["stopped_early"] is None, found
    grew = found["peak_gib"] - before
    assert 2.0 <= grew < 3.5, (
        f"2 GiB and a CUDA context were taken; the device shows {grew:.2f} GiB"
    )
    if found["peak_process_gib"] is not None:  # containers with pids of their own hide it
        assert found["peak_process_gib"] == pytest.approx(grew, abs=0.3), found


def test_the_command_measures_the_device():
    code = HOLD.replace("sys.stdin.readline()", "__import__('time').sleep(1.5)")
    watch = [sys.executable, "-m", "helpers.gpu_memory", "--hz", "20", "--"]
    command = [*watch, sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and gpu_memory.DEVICE in done.stderr, done


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("0", 1)])
def test_visible_devices_are_those_that_cuda_would_see(visible, count):
    code = (
        "from helpers import gpu_memory as g\n"
        "print(len(g.visible_devices()), g.memory_now()['source'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": visible},
    )
    assert done.stdout.startswith(f"{count} {gpu_memory.DEVICE if count else gpu_memory.HOST}"), (
        done
    )


def test_sampling_costs_less_than_one_percent_of_a_core_at_10_hz():
    from benchmarks.sampling_cost import core_share

    share = core_share(10)
    assert share < 0.01, f"{share:.2%} of a core"
