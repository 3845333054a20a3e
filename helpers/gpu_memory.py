"""How much memory an engine uses, sampled in the background while it works.

On a machine with an NVIDIA GPU: what the driver (NVML, read through nvitop) says about each visible
device, and about the processes below this one. Without a GPU: the resident memory of those
processes, labelled as host memory.

    with MemorySampler(hz=10) as sampler:
        sampler.mark("prefill")
        ...
    sampler.summary()["peak_gib"]

For any command, from a terminal:

    python -m helpers.gpu_memory [--hz 10] [--csv FILE] -- COMMAND ...

All sizes are GiB (2**30 bytes), all times seconds since the sampler started.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

GIB = 2**30
DEVICE, HOST = "device memory (NVML)", "host memory (resident, no GPU)"
# Asking which processes there are costs a hundred times more than asking how much a device uses (on
# one H200 1.4 ms and 0.011 ms, on one H100 9 ms and 0.06 ms), so it is asked less often: after so
# many seconds, within these bounds, that it takes 0.5 % of a core.
PROCESSES_EVERY_S = (0.5, 2.0)
PROCESSES_SHARE = 0.005
FAILURES_ALLOWED = 5  # in a row
MAX_HZ = 200


# --- what there is --------------------------------------------------------------------------------


def visible_devices() -> list:
    """The GPUs that CUDA programs started from here would see, as nvitop devices; [] without any.

    Honours CUDA_VISIBLE_DEVICES and MIG. Asked of the driver once for each value of
    CUDA_VISIBLE_DEVICES; NVML's own error text is not printed.
    """
    return list(_visible_devices(os.environ.get("CUDA_VISIBLE_DEVICES")))


@functools.lru_cache
def _visible_devices(cuda_visible_devices: str | None) -> tuple:
    # Without a driver nvitop prints six lines on stderr at each attempt.
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            from nvitop import Device

            if not Device.is_available():
                return ()
            devices = Device.all()
            mig = any(device.is_mig_mode_enabled() is True for device in devices)
            if cuda_visible_devices is None and not mig:
                return tuple(devices)
            # nvitop asks CUDA in a process of its own, since this one must not touch CUDA.
            return tuple(Device.cuda.all())
        except Exception:  # no library, no driver, no permission: no GPU to look at
            return ()


def has_gpu() -> bool:
    """True when an NVIDIA GPU is visible from here."""
    return bool(visible_devices())


@functools.cache
def cpu_name() -> str:
    """The CPU's model as Linux names it, such as "AMD EPYC"; else what Python knows of it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_now(pids: Iterable[int] | None = None) -> dict:
    """Memory at this moment.

    pids: roots of the process tree, this process by default.
    Returns ``source``, ``used_gib`` (all visible devices together; without a GPU the process tree's
    resident memory) and ``process_gib`` (the process tree's share; None where the driver does not
    say). Raises RuntimeError when the driver does not answer.
    """
    tree, devices = _tree(pids), visible_devices()
    if not devices:
        used = _resident_gib(tree)
        return {"source": HOST, "used_gib": used, "process_gib": used}
    used = sum(_info(device).used for device in devices) / GIB
    return {"source": DEVICE, "used_gib": used, "process_gib": _device_gib(devices, tree)}


def free_text() -> str:
    """One phrase for error messages: "3.2 of 79.6 GiB free on the GPU"."""
    devices = visible_devices()
    if not devices:
        ram = psutil.virtual_memory()
        sizes = f"{ram.available / GIB:.1f} of {ram.total / GIB:.1f} GiB"
        return f"{sizes} free in this machine's memory"
    try:
        found = [_info(device) for device in devices]
    except RuntimeError:
        return "free memory unknown: the driver does not answer"
    sizes = [f"{info.free / GIB:.1f} of {info.total / GIB:.1f} GiB free" for info in found]
    return " and ".join(sizes) + (" on the GPU" if len(sizes) == 1 else " on the GPUs")


def _info(device):
    info = device.memory_info()
    if not isinstance(info.used, int):  # nvitop answers N/A instead of raising
        raise RuntimeError(f"the driver (NVML) did not say how much memory {device} uses")
    return info


def _tree(roots: Iterable[int] | None) -> list[psutil.Process]:
    """The processes `roots` (this one by default) and everything below them."""
    found = {}
    for root in [os.getpid()] if roots is None else roots:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(root)
            found |= {one.pid: one for one in [process, *process.children(recursive=True)]}
    return list(found.values())


def _device_gib(devices, tree: list[psutil.Process]) -> float | None:
    """Device memory of a tree; None where the driver hides it (MIG, containers with own pids)."""
    pids = {process.pid for process in tree}
    on_devices = (item for device in devices for item in device.processes().items())
    used = [process.gpu_memory() for pid, process in on_devices if pid in pids]
    told = [size for size in used if isinstance(size, int)]
    return sum(told) / GIB if told else None


def _resident_gib(tree: list[psutil.Process]) -> float:
    """Memory in RAM: each process's own pages, plus once the most pages that one of them shares.

    Adding up resident sizes would count PyTorch's libraries once for each process. The exact figure
    (PSS) takes the kernel 10 ms for each process; this one is in /proc/PID/statm.
    """
    own, shared = 0, 0
    for process in tree:
        with contextlib.suppress(psutil.Error):
            now = process.memory_info()
            own += now.rss - now.shared
            shared = max(shared, now.shared)
    return (own + shared) / GIB


class _Seldom:
    """``ask()`` as often as PROCESSES_EVERY_S and _SHARE allow; its last answer in between."""

    def __init__(self, ask: Callable):
        self._ask, self._answer, self._due = ask, None, 0.0

    def __call__(self):
        now = time.perf_counter()
        if now >= self._due:
            began = time.thread_time()
            self._answer = self._ask()
            shortest, longest = PROCESSES_EVERY_S
            pause = (time.thread_time() - began) / PROCESSES_SHARE
            self._due = now + min(max(pause, shortest), longest)
        return self._answer


class Repeated:
    """Does something ``hz`` times a second in a thread of its own, until stopped.

    After FAILURES_ALLOWED failures in a row it ends by itself; ``failure`` says when and why.
    """

    def __init__(self, act: Callable[[], None], hz: float, name: str):
        self.failure: str | None = None
        self._act, self._period, self._began = act, 1 / hz, time.perf_counter()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """What it does just now may go on for ten seconds at most."""
        self._end.set()
        self._thread.join(timeout=10)

    def _loop(self) -> None:
        failures, due = 0, self._began + self._period
        while not self._end.wait(max(0.0, due - time.perf_counter())):
            due = max(due + self._period, time.perf_counter())  # a late one brings none forward
            try:
                self._act()
                failures = 0
            except Exception as error:  # must not end the thread without a word
                failures += 1
                if failures == FAILURES_ALLOWED:
                    after = f"stopped after {time.perf_counter() - self._began:.1f} s"
                    self.failure = f"{after}: {type(error).__name__}: {error}".rstrip(".")
                    return


# --- sampling -------------------------------------------------------------------------------------


class MemorySampler:
    """Samples memory in a thread of its own, ``hz`` times a second, until stopped.

    pids: roots of the process tree to watch (default: this process).
    devices: nvitop devices (default: the visible ones). With none, host memory is sampled.

    ``.samples``: a list of {"t_s", "used_gib" (all devices together, or the tree's host memory),
    "device_used_gib" (a list, one value for each device), "process_gib"}; ``.marks``: a list of
    {"t_s", "label"}. If sampling fails it stops, and ``summary()["stopped_early"]`` says when and
    why.
    """

    def __init__(self, pids=None, hz: float = 10, devices=None):
        if not 0 < hz <= MAX_HZ:
            wanted = f"more than 0 and at most {MAX_HZ} samples per second"
            raise ValueError(f"hz is {hz}; give {wanted}.")
        self.hz, self.pids = hz, pids and list(pids)
        self.devices = visible_devices() if devices is None else list(devices)
        self.source = DEVICE if self.devices else HOST
        self.samples: list[dict] = []
        self.marks: list[dict] = []
        self.on_sample = None  # called with each new sample, in the sampler's thread
        self._tree = _Seldom(lambda: _tree(self.pids))
        self._device_gib = _Seldom(lambda: _device_gib(self.devices, _tree(self.pids)))
        self._loop: Repeated | None = None
        self._t0 = 0.0
        self._seconds: float | None = None

    def start(self) -> MemorySampler:
        """Take the first sample and start the thread. Raises RuntimeError when called twice."""
        if self._loop is not None:
            raise RuntimeError("This sampler was started before: make a new one.")
        self._t0 = time.perf_counter()
        with contextlib.suppress(Exception):
            self._sample()  # so that even the shortest run has a number
        self._loop = Repeated(self._sample, self.hz, "memory sampler")
        return self

    def stop(self, ended_s: float | None = None) -> dict:
        """End the thread, take a last sample, return ``summary()``. Stopping twice changes nothing.

        ended_s: what is watched ended then; later samples say nothing about it and are left out.
        """
        if self._loop is not None and self._seconds is None:
            self._loop.stop()
            if ended_s is None and self._loop.failure is None:
                with contextlib.suppress(Exception):
                    self._sample()
            self._seconds = self.elapsed_s if ended_s is None else ended_s
            kept = [s for s in self.samples if s["t_s"] <= self._seconds]
            self.samples[:] = kept or self.samples[:1]
        return self.summary()

    def __enter__(self) -> MemorySampler:
        return self.start()

    def __exit__(self, *exc) -> None:
        self.stop()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start; 0.0 before it."""
        return time.perf_counter() - self._t0 if self._t0 else 0.0

    def mark(self, label: str) -> None:
        """A phase named ``label`` begins now."""
        self.marks.append({"t_s": self.elapsed_s, "label": label})

    @property
    def stopped_early(self) -> str | None:
        """When and why sampling failed; None when it did not."""
        why = self._loop and self._loop.failure
        return f"Sampling {why}. Later use is not in these numbers." if why else None

    def _sample(self) -> None:
        # Read first, then take the time: nothing may be added when reading fails.
        used = [_info(device).used / GIB for device in self.devices]
        process = self._device_gib() if self.devices else _resident_gib(self._tree())
        sample = {
            "t_s": self.elapsed_s,
            "used_gib": sum(used) if self.devices else process,
            "device_used_gib": used,
            "process_gib": process,
        }
        self.samples.append(sample)
        if self.on_sample is not None:
            self.on_sample(sample)

    def summary(self) -> dict:
        """The run in numbers.

        peak_gib (the largest sample) and peak_t_s; sustained_gib (the median of the samples in the
        second half of the run); start_gib, end_gib; peak_process_gib (None where unknown); phases
        (label, start_s, end_s, peak_gib, end_gib of each mark); samples, seconds, source,
        stopped_early.
        Memory values are None when nothing could be read.
        """
        samples = list(self.samples)  # the thread may add one meanwhile
        times = [s["t_s"] for s in samples]
        used = [s["used_gib"] for s in samples]
        process = [s["process_gib"] for s in samples if s["process_gib"] is not None]
        seconds = self._seconds if self._seconds is not None else self.elapsed_s
        half = (times[0] + times[-1]) / 2 if times else 0.0
        later = [gib for gib, at in zip(used, times, strict=True) if at >= half]
        return {
            "source": self.source,
            "stopped_early": self.stopped_early,
            "samples": len(samples),
            "seconds": seconds,
            "peak_process_gib": max(process, default=None),
            "phases": self._phases(times, used, seconds) if times else [],
            "peak_gib": max(used, default=None),
            "peak_t_s": times[used.index(max(used))] if used else None,
            "sustained_gib": statistics.median(later) if later else None,
            "start_gib": used[0] if used else None,
            "end_gib": used[-1] if used else None,
        }

    def _phases(self, times: list[float], used: list[float], seconds: float) -> list[dict]:
        ends = [mark["t_s"] for mark in self.marks[1:]] + [max(seconds, times[-1])]
        phases = []
        for mark, end in zip(self.marks, ends, strict=False):  # without marks an end is left over
            begin = mark["t_s"]
            inside = [gib for gib, at in zip(used, times, strict=True) if begin <= at <= end]
            row = {"label": mark["label"], "start_s": begin, "end_s": end}
            peak, last = max(inside, default=None), inside[-1] if inside else None
            phases.append({**row, "peak_gib": peak, "end_gib": last})
        return phases


def describe(summary: dict) -> str:
    """``summary()`` in one line for a reader."""
    early = summary["stopped_early"] or ""
    if summary["peak_gib"] is None:
        return f"{summary['source']}: no sample could be read. {early}".strip()
    line = (
        f"{summary['source']}: peak {summary['peak_gib']:.2f} GiB at {summary['peak_t_s']:.1f} s, "
        f"sustained {summary['sustained_gib']:.2f} GiB (median of the second half), "
        f"{summary['samples']} samples in {summary['seconds']:.1f} s"
    )
    if summary["source"] == DEVICE and (process := summary["peak_process_gib"]) is not None:
        line += f", of it by this command's processes: peak {process:.2f} GiB"
    return f"{line}. {early}" if early else line


# --- the command ----------------------------------------------------------------------------------


def main() -> int:
    """Run a command, sample while it runs, exit with its code (128 + n when signal n ended it)."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.gpu_memory",
        usage="%(prog)s [--hz 10] [--csv FILE] -- COMMAND ...",
        description="Run COMMAND, sample its memory, print peak and sustained use on stderr.",
    )
    rate = f"samples per second (default 10, at most {MAX_HZ})"
    parser.add_argument("--hz", type=float, default=10, help=rate)
    parser.add_argument("--csv", metavar="FILE", help="write every sample to FILE as it is taken")
    parser.add_argument("command", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.command:
        example = "python -m helpers.gpu_memory -- python my_benchmark.py"
        parser.error(f"say what to run after two dashes: {example}")
    with contextlib.ExitStack() as stack:
        try:
            # Before the command starts: asking the driver can take a second.
            sampler = MemorySampler(hz=options.hz)
            if options.csv:
                # Not buffered: what a full disk refuses must not be tried again at the end.
                out = stack.enter_context(open(options.csv, "wb", buffering=0))
                sampler.on_sample = _csv_writer(out, len(sampler.devices))
        except ValueError as error:
            parser.error(f"--hz: {error}")
        except OSError as error:
            why = f"cannot be written ({error.strerror}): give another --csv FILE"
            parser.error(f"{options.csv} {why}")
        return _run(options.command, sampler)


def _run(command: list[str], sampler: MemorySampler) -> int:
    child: subprocess.Popen | None = None

    def pass_on(number, frame):
        # Ctrl-C in a terminal reaches the whole foreground group, the command too.
        if number == signal.SIGINT and _in_foreground():
            return
        if child is not None and child.poll() is None:
            child.send_signal(number)

    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, pass_on) for number in caught}
    try:
        child = subprocess.Popen(command)
        sampler.pids = [child.pid]
        sampler.start()
        code = child.wait()
        summary = sampler.stop(ended_s=sampler.elapsed_s)
    except FileNotFoundError:
        print(f"gpu_memory: {command[0]}: there is no such command", file=sys.stderr)
        return 127
    except OSError as error:
        print(f"gpu_memory: {command[0]} cannot be run: {error.strerror}", file=sys.stderr)
        return 126
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(f"gpu_memory: {describe(summary)}", file=sys.stderr)
    return 128 - code if code < 0 else code


def _csv_writer(out, devices: int) -> Callable[[dict], None]:
    """Writes the head; returns what writes a sample."""

    def row(*cells: str) -> None:
        out.write(f"{','.join(cells)}\n".encode())

    def write(sample: dict) -> None:
        sizes = [*sample["device_used_gib"], sample["process_gib"]]
        row(f"{sample['t_s']:.3f}", *("" if size is None else f"{size:.5f}" for size in sizes))

    row("t_s", *(f"device_{i}_used_gib" for i in range(devices)), "process_gib")
    return write


def _in_foreground() -> bool:
    with contextlib.suppress(OSError), open("/dev/tty", "rb", buffering=0) as terminal:
        return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    return False


if __name__ == "__main__":
    sys.exit(main())
