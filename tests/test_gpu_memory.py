"""Memory sampling, on real processes; the driver's answers by stand-ins where there is no GPU."""

import csv
import os
import signal
import subprocess
import sys
import threading
import time
import types
from itertools import pairwise

import psutil
import pytest

from helpers import gpu_memory
from helpers.gpu_memory import GIB, MemorySampler

MIB_200 = "import sys,time; x = bytearray(200 * 2**20); x[::4096] = b'1' * len(x[::4096]);"
no_gpu = pytest.mark.skipif(
    gpu_memory.has_gpu(), reason="looks at host memory, which is used where there is no GPU"
)


def run(*args, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "helpers.gpu_memory", *args],
        capture_output=True,
        text=True,
        timeout=60,
        **kwargs,
    )


def wait_for(condition):
    """Until it holds; pytest's own limit ends a wait for nothing."""
    while not condition():
        time.sleep(0.01)


class FakeDevice:
    """Answers as an nvitop device does; ``script`` gives used GiB or an exception for each call."""

    def __init__(self, script, processes=None):
        self.script, self.calls, self._processes = list(script), 0, processes or {}

    def memory_info(self):
        value = self.script[min(self.calls, len(self.script) - 1)]
        self.calls += 1
        if isinstance(value, Exception):
            raise value
        used = int(value * GIB) if isinstance(value, (int, float)) else value
        return types.SimpleNamespace(used=used, free=8 * GIB, total=16 * GIB)

    def processes(self):
        return {
            pid: types.SimpleNamespace(gpu_memory=lambda gib=gib: int(gib * GIB) if gib else "N/A")
            for pid, gib in self._processes.items()
        }

    def name(self):
        return "Fake GPU"


@no_gpu
def test_no_driver_is_silent_and_says_host_memory():
    code = (
        "from helpers import gpu_memory as g\n"
        "print(g.has_gpu(), g.memory_now()['source'], g.free_text(), sep='|')\n"
        "with g.MemorySampler(hz=50) as s: pass\nprint(s.summary()['source'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == "", done.stderr
    assert (
        done.stdout.startswith(f"False|{gpu_memory.HOST}|")
        and "GiB free in this machine" in done.stdout
    )
    assert done.stdout.rstrip().endswith(gpu_memory.HOST)


@no_gpu
def test_a_large_allocation_is_seen_and_its_end_too():
    with MemorySampler(hz=100) as sampler:
        sampler.mark("start")
        before = sampler.samples[0]["process_gib"]
        sampler.mark("hold")
        block = bytearray(300 * 2**20)
        block[::4096] = b"1" * len(block[::4096])
        held = len(sampler.samples)
        wait_for(lambda: len(sampler.samples) > held + 1)  # one was on its way
        del block
        sampler.mark("freed")
    found = sampler.summary()
    assert found["peak_gib"] - before == pytest.approx(300 / 1024, abs=0.03), found
    assert found["end_gib"] - before < 0.05, found
    start, hold, freed = found["phases"]
    assert start["label"] == "start" and start["end_s"] == hold["start_s"]
    assert hold["label"] == "hold" and hold["peak_gib"] == found["peak_gib"]
    assert freed["end_gib"] == found["end_gib"] and freed["start_s"] == pytest.approx(hold["end_s"])


@no_gpu
def test_children_count_and_shared_pages_count_once():
    # Two children that share a library set of their own: compare with the exact PSS of the kernel.
    code = "import numpy, time; x = bytearray(50 * 2**20); print(1, flush=True); time.sleep(30)"
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)
    ]
    try:
        for child in children:
            child.stdout.readline()
        pids = [child.pid for child in children]
        ours = gpu_memory.memory_now(pids)["process_gib"]
        exact = sum(psutil.Process(pid).memory_full_info().pss for pid in pids) / GIB
        summed = sum(psutil.Process(pid).memory_info().rss for pid in pids) / GIB
        assert 2 * 50 / 1024 < ours < summed, (ours, summed)
        # Other processes share the libraries too, so PSS may be lower by their share.
        assert ours == pytest.approx(exact, abs=0.05), (ours, exact)
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()


def test_rate_is_kept():
    with MemorySampler(hz=20) as sampler:
        time.sleep(1.0)
    found = sampler.summary()
    assert 10 < (found["samples"] - 1) / found["seconds"] < 21, found
    gaps = [b["t_s"] - a["t_s"] for a, b in pairwise(sampler.samples)]
    assert min(gaps) >= 0, "time went backwards"


def test_devices_are_added_up_and_sustained_is_the_second_half():
    # 10 samples at 1 GiB, then 6: the median over the second half is 6, over all it is not.
    first = FakeDevice([1.0] * 11 + [6.0] * 500, {os.getpid(): 2.5, 1: 3.0})
    second = FakeDevice([0.5], {os.getpid(): 0.5})
    with MemorySampler(hz=100, devices=[first, second]) as sampler:
        wait_for(lambda: len(sampler.samples) >= 40)
    found = sampler.summary()
    assert found["source"] == gpu_memory.DEVICE
    assert (
        found["peak_gib"] == 6.5 and found["sustained_gib"] == 6.5 and found["start_gib"] == 1.5
    ), found
    assert found["peak_process_gib"] == 3.0, "only the watched tree's processes count"
    assert "peak 6.50 GiB" in gpu_memory.describe(found)


def test_hidden_process_memory_is_none_not_zero():
    with MemorySampler(hz=50, devices=[FakeDevice([1.0], {os.getpid(): None})]) as sampler:
        pass
    assert sampler.summary()["peak_process_gib"] is None


@pytest.mark.parametrize("failure", [RuntimeError("GPU is lost"), "N/A"])
def test_a_device_that_fails_is_reported_with_time_and_cause(failure):
    with MemorySampler(hz=100, devices=[FakeDevice([1.0] * 5 + [failure] * 99)]) as sampler:
        wait_for(lambda: sampler.stopped_early)
    said = sampler.summary()["stopped_early"]
    assert "stopped after 0." in said, said
    assert ("GPU is lost" if isinstance(failure, Exception) else "did not say") in said, said
    assert sampler.summary()["peak_gib"] == 1.0
    assert "memory sampler" not in [thread.name for thread in threading.enumerate()]


def test_one_bad_reading_does_not_stop_sampling():
    with MemorySampler(hz=100, devices=[FakeDevice([1.0, RuntimeError("busy"), 2.0])]) as sampler:
        wait_for(lambda: len(sampler.samples) >= 3)
    found = sampler.summary()
    assert found["stopped_early"] is None and found["peak_gib"] == 2.0, found


def test_stop_twice_start_twice_and_silly_rates():
    sampler = MemorySampler(hz=50).start()
    first = sampler.stop()
    assert sampler.stop() == first
    with pytest.raises(RuntimeError, match="make a new one"):
        sampler.start()
    for hz in (0, -1, 1000):
        with pytest.raises(ValueError, match="samples per second"):
            MemorySampler(hz=hz)


# ---------------------------------------------------------------- the command


def test_command_keeps_output_and_exit_code_and_prints_its_report():
    done = run("--", sys.executable, "-c", MIB_200 + "print('out'); time.sleep(0.5); sys.exit(7)")
    assert done.returncode == 7 and done.stdout == "out\n", done
    report = done.stderr.strip().splitlines()
    assert len(report) == 1 and report[0].startswith("gpu_memory: ") and "sustained" in report[0], (
        done.stderr
    )


@no_gpu
def test_command_measures_the_grandchild_and_writes_csv(tmp_path):
    file = tmp_path / "use.csv"
    # It holds its memory until the file says so: who is there is asked every two seconds at least.
    seen = f"any(float(line.split(',')[1]) > 0.19 for line in list(open({str(file)!r}))[1:])"
    inner = MIB_200 + f"\nwhile not {seen}: time.sleep(0.1)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    done = run("--hz", "20", "--csv", str(file), "--", sys.executable, "-c", outer)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(file.open()))
    assert list(rows[0]) == ["t_s", "process_gib"]
    assert 0.19 < max(float(row["process_gib"]) for row in rows) < 0.3, rows


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_command_ended_by_a_signal_gives_128_plus_n(number):
    done = run("--", sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(number)})")
    assert done.returncode == 128 + number and "peak" in done.stderr, done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_command_and_nothing_stays(number):
    child = (
        "import signal, sys, time\n"
        "def end(n, frame):\n"
        "    print('got', n, flush=True)\n"
        "    sys.exit(40 + n)\n"
        "for n in (2, 15): signal.signal(n, end)\n"
        "print('up', flush=True); time.sleep(30)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-m", "helpers.gpu_memory", "--", sys.executable, "-c", child],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert parent.stdout.readline() == "up\n"
        below = psutil.Process(parent.pid).children(recursive=True)
        os.kill(parent.pid, number)
        out, err = parent.communicate(timeout=20)
    finally:
        parent.kill()
    assert parent.returncode == 40 + number and out == f"got {int(number)}\n" and "peak" in err, (
        out,
        err,
    )
    assert not [p for p in below if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_mistakes_on_the_command_line_say_what_to_do(tmp_path):
    assert "after two dashes" in run("--hz", "5").stderr
    assert "at most 200" in run("--hz", "0", "--", "true").stderr
    for file in (tmp_path / "no" / "x.csv", "/dev/full"):
        said = run("--csv", str(file), "--", "true").stderr
        assert "cannot be written" in said and "Traceback" not in said
    missing = run("--", "no-such-command-here")
    assert missing.returncode == 127 and "no such command" in missing.stderr
    assert run("--", str(tmp_path)).returncode == 126
