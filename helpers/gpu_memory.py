"""How much memory an engine uses, sampled in the background while it works.

On a machine with an NVIDIA GPU: what the driver (NVML, read through nvitop)
says about each visible device, and about the processes below this one. Without
a GPU: the resident memory of those processes, labelled as host memory.

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
import csv
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
from pathlib import Path

import psutil

GIB = 2**30
DEVICE, HOST = "device memory (NVML)", "host memory (resident, no GPU)"
# Asking which processes there are costs a hundred times more than asking how
# much a device uses (on one H200 1.4 ms and 0.011 ms, on one H100 9 ms and 0.06 ms),
# so it is asked less often: after so many seconds, within these bounds, that it takes 0.5 % of a core.
PROCESSES_EVERY_S = (0.5, 2.0)
PROCESSES_SHARE = 0.005
FAILURES_ALLOWED = 5  # unreadable samples in a row
_PAGE = os.sysconf("SC_PAGE_SIZE")


# ---------------------------------------------------------------- what there is


def visible_devices() -> list:
    """The GPUs that CUDA programs started from here would see, as nvitop devices; [] without any.

    Honours CUDA_VISIBLE_DEVICES and MIG. Asked of the driver once for each
    value of CUDA_VISIBLE_DEVICES; NVML's own error text is not printed.
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
            if cuda_visible_devices is None and not any(
                device.is_mig_mode_enabled() is True for device in devices
            ):
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


def memory_now(pids=None) -> dict:
    """Memory at this moment.

    Returns ``source``, ``used_gib`` (all visible devices together; without a
    GPU the process tree's resident memory), ``free_gib`` and ``total_gib``
    (devices, or this machine's RAM), ``process_gib`` (the process tree's
    share; None where the driver does not say) and ``devices`` (a list of
    ``index``, ``name``, ``used_gib``, ``free_gib``, ``total_gib``).
    ``pids``: roots of the process tree, this process by default.
    Raises RuntimeError when the driver does not answer.
    """
    roots = _roots(pids)
    devices = visible_devices()
    if not devices:
        tree = _Tree(roots)
        ram = psutil.virtual_memory()
        used = tree.resident_gib()
        return {
            "source": HOST, "used_gib": used, "free_gib": ram.available / GIB, "total_gib": ram.total / GIB,
            "process_gib": used, "devices": [],
        }  # fmt: skip
    rows = []
    for index, device in enumerate(devices):
        info = _info(device)
        rows.append({
            "index": index, "name": str(device.name()), "used_gib": info.used / GIB,
            "free_gib": info.free / GIB, "total_gib": info.total / GIB,
        })  # fmt: skip
    return {
        "source": DEVICE,
        "used_gib": sum(row["used_gib"] for row in rows),
        "free_gib": sum(row["free_gib"] for row in rows),
        "total_gib": sum(row["total_gib"] for row in rows),
        "process_gib": _process_gib(devices, _Tree(roots).pids()),
        "devices": rows,
    }


def free_text() -> str:
    """One phrase for error messages: "3.2 of 79.6 GiB free on the GPU"."""
    try:
        now = memory_now()
    except RuntimeError:
        return "free memory unknown: the driver does not answer"
    if not now["devices"]:
        return f"{now['free_gib']:.1f} of {now['total_gib']:.1f} GiB free in this machine's memory"
    many = len(now["devices"]) > 1
    return ", ".join(
        f"{one['free_gib']:.1f} of {one['total_gib']:.1f} GiB free on the GPU"
        + (f" {one['index']}" if many else "")
        for one in now["devices"]
    )


def users() -> list[dict]:
    """Who holds device memory now: {"pid", "gib" (None if not told), "name", "notebook" (or None), "mine"}.

    ``notebook`` is the file name that JupyterLab gave the kernel which the
    process belongs to. [] without a GPU.
    """
    mine = _Tree({os.getpid()}).pids()
    found = []
    for device in visible_devices():
        for pid, process in device.processes().items():
            used = process.gpu_memory()
            notebook, name = None, "?"
            with contextlib.suppress(psutil.Error, OSError):
                host = psutil.Process(pid)
                name = host.name()
                path = host.environ().get("JPY_SESSION_NAME")
                notebook = Path(path).name if path else None
            gib = used / GIB if isinstance(used, int) else None
            found.append(
                {"pid": pid, "gib": gib, "name": name, "notebook": notebook, "mine": pid in mine}
            )
    return found


def _info(device):
    info = device.memory_info()
    if not isinstance(info.used, int):  # nvitop answers N/A instead of raising
        raise RuntimeError(f"the driver (NVML) did not say how much memory {device} uses")
    return info


def _process_gib(devices, pids: set[int]) -> float | None:
    """Device memory of ``pids``; None where the driver hides it (MIG, containers with their own pids)."""
    total, seen = 0, False
    for device in devices:
        for pid, process in device.processes().items():
            used = process.gpu_memory()
            if pid in pids and isinstance(used, int):
                total, seen = total + used, True
    return total / GIB if seen else None


def _roots(pids) -> set[int]:
    return {os.getpid()} if pids is None else {int(pid) for pid in pids}


class _Seldom:
    """``ask()``, but no more often than PROCESSES_EVERY_S and PROCESSES_SHARE allow; its last answer in between."""

    def __init__(self, ask):
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


class _Tree:
    """A set of processes and their descendants."""

    def __init__(self, roots: set[int]):
        self.roots = roots
        self.pids = _Seldom(self.find)

    def find(self) -> set[int]:
        found = set()
        for root in self.roots:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(root)
                found.add(root)
                found.update(child.pid for child in process.children(recursive=True))
        return found

    def resident_gib(self) -> float:
        """Memory in RAM: each process's own pages, plus once the most pages that one of them shares.

        Adding up resident sizes would count PyTorch's libraries once for each
        process. The exact figure (PSS) takes the kernel 10 ms for each
        process; this one is read from /proc/PID/statm in 0.02 ms.
        """
        own, shared = 0, 0
        for pid in self.pids():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{pid}/statm") as file:
                    fields = file.read().split()
                own += int(fields[1]) - int(fields[2])
                shared = max(shared, int(fields[2]))
        return (own + shared) * _PAGE / GIB


# ---------------------------------------------------------------- sampling


class MemorySampler:
    """Samples memory in a thread of its own, ``hz`` times a second, until stopped.

    pids: roots of the process tree to watch (default: this process).
    devices: nvitop devices (default: the visible ones). With none, host
    memory is sampled.

    ``.samples``: a list of {"t_s", "device_used_gib" (a list, one value for each
    device), "process_gib"}; ``.marks``: a list of {"t_s", "label"}. If sampling
    fails it stops, and ``summary()["stopped_early"]`` says when and why.
    """

    def __init__(self, pids=None, hz: float = 10, devices=None):
        if not 0 < hz <= 200:
            raise ValueError(f"hz is {hz}; give samples per second, more than 0 and at most 200.")
        self.hz = hz
        self.devices = visible_devices() if devices is None else list(devices)
        self.source = DEVICE if self.devices else HOST
        self.samples: list[dict] = []
        self.marks: list[dict] = []
        self.stopped_early: str | None = None
        self.on_sample = None  # called with each new sample, in the sampler's thread
        self._tree = _Tree(_roots(pids))
        self._device_gib = _Seldom(lambda: _process_gib(self.devices, self._tree.find()))
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._t0 = 0.0
        self._seconds: float | None = None

    def start(self) -> MemorySampler:
        """Take the first sample and start the thread. Raises RuntimeError when called twice."""
        if self._thread is not None:
            raise RuntimeError(
                "This sampler has been started before: make a new one for a new measurement."
            )
        self._t0 = time.perf_counter()
        self._thread = threading.Thread(target=self._loop, name="memory sampler", daemon=True)
        self._sample()  # so that even the shortest run has a number
        self._thread.start()
        return self

    def stop(self) -> dict:
        """End the thread, take a last sample, return ``summary()``. Stopping twice changes nothing."""
        if self._thread is not None and self._seconds is None:
            self._end.set()
            self._thread.join(timeout=5)
            if self.stopped_early is None:
                self._sample()
            self._seconds = self.elapsed_s
        return self.summary()

    def __enter__(self) -> MemorySampler:
        return self.start()

    def __exit__(self, *exc) -> None:
        self.stop()

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._t0 if self._t0 else 0.0

    def mark(self, label: str, at_s: float | None = None) -> None:
        """A phase named ``label`` begins now, or began ``at_s`` seconds after the sampler's start."""
        self.marks.append({"t_s": self.elapsed_s if at_s is None else at_s, "label": label})
        self.marks.sort(key=lambda mark: mark["t_s"])

    def _loop(self) -> None:
        failures, period = 0, 1 / self.hz
        due = time.perf_counter() + period
        while not self._end.wait(max(0.0, due - time.perf_counter())):
            # A late sample does not bring the next ones forward.
            due = max(due + period, time.perf_counter())
            error = self._sample()
            failures = failures + 1 if error else 0
            if failures >= FAILURES_ALLOWED:
                self.stopped_early = f"Sampling stopped {self.elapsed_s:.1f} s after its start: {error}. Later use is not in these numbers."
                return

    def _sample(self) -> str | None:
        """One sample; the reason when it could not be read."""
        try:
            # Read first, then take the time: nothing may be added when reading fails.
            used = [_info(device).used / GIB for device in self.devices]
            process = self._device_gib() if self.devices else self._tree.resident_gib()
            sample = {"t_s": self.elapsed_s, "device_used_gib": used, "process_gib": process}
            self.samples.append(sample)
            if self.on_sample is not None:
                self.on_sample(sample)
        except Exception as error:  # must not end the thread without a word
            return f"{type(error).__name__}: {error}".rstrip(".")
        return None

    def used(self, sample: dict) -> float:
        """The number that a sample stands for: all devices together, or the tree's host memory."""
        return sum(sample["device_used_gib"]) if self.devices else sample["process_gib"]

    def timeline(self) -> list[dict]:
        """The samples as {"t_s", "used_gib", "process_gib", "phase"} for plots and tables."""
        return [
            {
                "t_s": s["t_s"],
                "used_gib": self.used(s),
                "process_gib": s["process_gib"],
                "phase": self._phase(s["t_s"]),
            }
            for s in list(self.samples)
        ]

    def _phase(self, t_s: float) -> str:
        return next((m["label"] for m in reversed(self.marks) if m["t_s"] <= t_s), "")

    def summary(self) -> dict:
        """The run in numbers.

        peak_gib (the largest sample) and peak_t_s; sustained_gib (the median of
        the samples in the second half of the run); start_gib, end_gib;
        peak_process_gib (None where unknown); devices (peak of each);
        phases (label, start_s, end_s, peak_gib, end_gib of each mark);
        samples, hz (as achieved), seconds, source, stopped_early.
        Memory values are None when nothing could be read.
        """
        samples = list(self.samples)
        seconds = self._seconds if self._seconds is not None else self.elapsed_s
        out = {
            "source": self.source, "stopped_early": self.stopped_early, "samples": len(samples), "seconds": seconds,
            "hz": (len(samples) - 1) / seconds if seconds and len(samples) > 1 else None,
            "peak_gib": None, "peak_t_s": None, "sustained_gib": None, "start_gib": None, "end_gib": None,
            "peak_process_gib": None, "devices": [], "phases": [],
        }  # fmt: skip
        if not samples:
            return out
        used = [self.used(sample) for sample in samples]
        peak = max(range(len(used)), key=used.__getitem__)
        half = (samples[0]["t_s"] + samples[-1]["t_s"]) / 2
        process = [s["process_gib"] for s in samples if s["process_gib"] is not None]
        out.update(
            peak_gib=used[peak], peak_t_s=samples[peak]["t_s"], start_gib=used[0], end_gib=used[-1],
            sustained_gib=statistics.median(u for u, s in zip(used, samples) if s["t_s"] >= half),
            peak_process_gib=max(process) if process else None,
            devices=[max(column) for column in zip(*(s["device_used_gib"] for s in samples))],
        )  # fmt: skip
        ends = [mark["t_s"] for mark in self.marks[1:]] + [max(seconds, samples[-1]["t_s"])]
        for mark, end in zip(self.marks, ends):
            inside = [u for u, s in zip(used, samples) if mark["t_s"] <= s["t_s"] <= end]
            out["phases"].append({
                "label": mark["label"], "start_s": mark["t_s"], "end_s": end,
                "peak_gib": max(inside, default=None), "end_gib": inside[-1] if inside else None,
            })  # fmt: skip
        return out


def describe(summary: dict) -> str:
    """``summary()`` in one line for a reader."""
    if summary["peak_gib"] is None:
        return f"{summary['source']}: no sample could be read. {summary['stopped_early'] or ''}".strip()
    line = (
        f"{summary['source']}: peak {summary['peak_gib']:.2f} GiB at {summary['peak_t_s']:.1f} s, sustained "
        f"{summary['sustained_gib']:.2f} GiB (median of the second half), {summary['samples']} samples "
        f"in {summary['seconds']:.1f} s"
    )
    if summary["devices"] and summary["peak_process_gib"] is not None:
        line += f", of it by this command's processes: peak {summary['peak_process_gib']:.2f} GiB"
    return line + (f". {summary['stopped_early']}" if summary["stopped_early"] else "")


# ---------------------------------------------------------------- the command


def main(argv: list[str] | None = None) -> int:
    """Run a command, sample while it runs, exit with its code (128 + n when signal n ended it)."""
    argv = sys.argv[1:] if argv is None else argv
    own, command = (
        (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    )
    parser = argparse.ArgumentParser(
        prog="python -m helpers.gpu_memory",
        usage="%(prog)s [--hz 10] [--csv FILE] -- COMMAND ...",
        description="Run COMMAND, sample the memory it uses, print peak and sustained use on stderr.",
    )
    parser.add_argument(
        "--hz", type=float, default=10, help="samples per second (default 10, at most 200)"
    )
    parser.add_argument("--csv", metavar="FILE", help="write every sample to FILE as it is taken")
    options = parser.parse_args(own)
    if not command:
        parser.error(
            "say what to run after two dashes: python -m helpers.gpu_memory -- python my_benchmark.py"
        )
    if not 0 < options.hz <= 200:
        parser.error(f"--hz {options.hz:g}: give more than 0 and at most 200 samples per second")
    with contextlib.ExitStack() as stack:
        out = None
        if options.csv:
            try:
                out = stack.enter_context(open(options.csv, "w", newline="", buffering=1))
            except OSError as error:
                parser.error(
                    f"{options.csv} cannot be written ({error.strerror}): give another --csv FILE"
                )
        return _run(command, options.hz, out)


def _run(command: list[str], hz: float, out) -> int:
    devices = visible_devices()  # before the command starts: asking the driver can take a second
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
        try:
            child = subprocess.Popen(command)
        except FileNotFoundError:
            print(f"gpu_memory: {command[0]}: there is no such command", file=sys.stderr)
            return 127
        except OSError as error:
            print(f"gpu_memory: {command[0]} cannot be run: {error.strerror}", file=sys.stderr)
            return 126
        sampler = MemorySampler(pids=[child.pid], hz=hz, devices=devices)
        if out is not None:
            names = [f"device_{index}_used_gib" for index in range(len(devices))]
            writer = csv.writer(out)
            writer.writerow(["t_s", *names, "process_gib"])

            def write(sample):
                values = [*sample["device_used_gib"], sample["process_gib"]]
                writer.writerow(
                    [f"{sample['t_s']:.3f}", *("" if v is None else f"{v:.5f}" for v in values)]
                )

            sampler.on_sample = write
        sampler.start()
        code = child.wait()
        ended = sampler.elapsed_s
        # A sample after the end says nothing about the command's own memory.
        sampler._end.set()
        sampler._thread.join(timeout=5)
        sampler.samples[:] = [s for s in sampler.samples if s["t_s"] <= ended] or sampler.samples[
            :1
        ]
        sampler._seconds = ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(f"gpu_memory: {describe(sampler.summary())}", file=sys.stderr)
    return 128 - code if code < 0 else code


def _in_foreground() -> bool:
    with contextlib.suppress(OSError), open("/dev/tty", "rb", buffering=0) as terminal:
        return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    return False


if __name__ == "__main__":
    sys.exit(main())
