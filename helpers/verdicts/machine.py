"""Was anything else going on while a number was measured?

Read at the start and at the end of a run, which costs a few milliseconds: what the cores did
(/proc/stat through psutil), how much of it was this process and its children, how long their
threads waited for a core (schedstat), and on a GPU box how fast the GPUs run and how much of their
memory belongs to others (nvitop).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import psutil

from helpers.gpu_memory import GIB, visible_devices

# Shares of all cores from which a run is called disturbed.
MOST_OTHERS = 0.10
MOST_STEAL = 0.05
LEAST_CLOCK = 0.70
IDLE_GIB = 1  # a GPU with less memory in use takes no part, and its clock rests
TICK_S = 0.01  # /proc/stat counts in ticks: over a few of them shares mean nothing
LEAST_TICKS = 10
SLOWED = 1.25  # times longer: a run that counts only where there is no better one


@dataclass(frozen=True)
class Disturbance:
    """What else the machine did during a run.

    others_share: CPU time of other programs as a share of all cores (0 to 1). steal_share: time
    that the host gave to other machines. gpu_clock_share: the slowest used GPU's clock over its
    highest, at the end of the run; others_gpu_gib: GPU memory of other processes. None without one.
    waited_share: how long the run's threads were ready and had no core, all together, and the core
    time that nobody counted, over the time of the run; None where Linux does not tell.
    """

    others_share: float
    steal_share: float
    gpu_clock_share: float | None = None
    others_gpu_gib: float | None = None
    waited_share: float | None = None

    @property
    def reasons(self) -> list[str]:
        """What disturbed the run, in words; empty when nothing did."""
        said = []
        if self.others_share > MOST_OTHERS:
            said.append(f"other programs took {100 * self.others_share:.0f} % of the cores")
        if self.steal_share > MOST_STEAL:
            said.append(f"the host took away {100 * self.steal_share:.0f} % of the CPU time")
        if self.gpu_clock_share is not None and self.gpu_clock_share < LEAST_CLOCK:
            said.append(f"a GPU ran at {100 * self.gpu_clock_share:.0f} % of its clock")
        return said

    @property
    def slowdown(self) -> float:
        """How many times longer the run can have taken for it; 1 for one that was not disturbed.

        As if all that others took had been taken from the run, but no more than its threads waited.
        """
        if not self.reasons:
            return 1.0
        waited = 1.0 if self.waited_share is None else self.waited_share
        left = 1 - min(0.9, min(self.others_share, waited) + self.steal_share)
        return 1 / min(left, self.gpu_clock_share or 1.0)

    @property
    def slowed(self) -> bool:
        """Whether others can have made the run so much longer that it is better run again."""
        return self.slowdown > SLOWED

    def label(self) -> str:
        """The reasons as the end of a line that is printed; "" when nothing disturbed the run."""
        return f" (disturbed: {'; '.join(self.reasons)})" if self.reasons else ""

    def record(self) -> dict:
        """As a record keeps it: the shares that are known and, if there are any, the reasons."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return known | ({"disturbed": self.reasons} if self.reasons else {})


class MachineWatch:
    """From its making to `stop`, what the machine did beside this process and its children."""

    def __init__(self):
        self._begin = time.perf_counter(), psutil.cpu_times(), _own_cpu_s(), own_waits_s()

    def stop(self) -> Disturbance:
        """Read them again. A run of less than 0.1 s is too short to tell: all shares are 0."""
        began, before, own_before, waits_before = self._begin
        seconds = time.perf_counter() - began
        now, own, waits = psutil.cpu_times(), _own_cpu_s(), own_waits_s()
        if seconds < LEAST_TICKS * TICK_S:
            return Disturbance(0.0, 0.0)
        capacity = seconds * (psutil.cpu_count() or 1)
        steal = getattr(now, "steal", 0.0) - getattr(before, "steal", 0.0)
        idle = _idle_s(now) - _idle_s(before)
        others = capacity - idle - steal - (own - own_before)
        missing = max(0.0, capacity - (_ticks_s(now) - _ticks_s(before)))  # what the host hides
        waited = sum(wait_s - waits_before.get(thread, 0.0) for thread, wait_s in waits.items())
        return Disturbance(
            others_share=round(max(0.0, others) / capacity, 4),
            steal_share=round(max(0.0, steal) / capacity, 4),
            waited_share=round((waited + missing) / seconds, 4) if waits else None,
            **_gpus(),
        )


class Watched(Protocol):
    """A run whose machine was watched; None: nobody did, or it failed."""

    disturbance: Disturbance | None


Run = TypeVar("Run", bound=Watched)


def less_slowed(measure: Callable[[int], Run]) -> Run:
    """The run that `measure(0)` makes; where others slowed it, the less slowed of two, and a line.

    measure: its argument is for other prompts the second time, where those of the first would be
    found in the prefix cache.
    """
    first = measure(0)
    if first.disturbance is None or not first.disturbance.slowed:
        return first
    second = measure(1)
    counts = min(first, second, key=_slowdown)
    again = f"{_slowdown(second):.2f} times" if second.disturbance else "nobody watched it"
    print(
        f"Made twice: other programs slowed a run up to {_slowdown(first):.2f} times, again "
        f"{again}. The {'first' if counts is first else 'second'} counts."
    )
    return counts


def most_disturbed(found: Iterable[Disturbance]) -> Disturbance:
    """The one that can have taken most; of those that took nothing, one that has reasons."""
    return max(found, key=lambda one: (one.slowdown, len(one.reasons)), default=Disturbance(0, 0))


def busy(runs: list[Watched]) -> str:
    """A sentence on what else the machine did during the runs, " " before it; "" if nothing."""
    worst = most_disturbed(run.disturbance for run in runs if run.disturbance)
    if not worst.reasons:
        return ""
    return f" The machine was disturbed meanwhile: {'; '.join(worst.reasons)}."


def _slowdown(run: Watched) -> float:
    return run.disturbance.slowdown if run.disturbance else math.inf


def _idle_s(times) -> float:
    """Idle time is counted by the clock, like a process's own; busy time by ticks.

    A virtual machine that its host stops without telling misses ticks: the sum of what was busy is
    then less than what this process alone used.
    """
    return times.idle + getattr(times, "iowait", 0.0)


def _ticks_s(times) -> float:
    """Core time of whatever kind; a guest's is in "user" already."""
    counted = times._asdict()
    return sum(s for kind, s in counted.items() if kind not in ("guest", "guest_nice"))


def _own_cpu_s() -> float:
    """CPU seconds of this process and all below it, ended children included."""
    total = 0.0
    for process in _own():
        with contextlib.suppress(psutil.Error):  # one that has just ended is in its parent's sum
            total += sum(process.cpu_times()[:4])
    return total


def own_waits_s() -> dict[Path, float]:
    """Seconds that each thread of this process and all below it was ready and had no core.

    Empty where the kernel does not count them (Documentation/scheduler/sched-stats.rst).
    """
    waits: dict[Path, float] = {}
    for process in _own():
        for thread in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # one that has just ended
                waits[thread] = int(thread.read_text().split()[1]) / 1e9
    return waits


def _own() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def _gpus() -> dict[str, float]:
    devices = visible_devices()
    if not devices:
        return {}
    mine = {process.pid for process in _own()}
    clocks, others = [], 0
    for device in devices:
        with contextlib.suppress(Exception):  # a card that does not tell its clocks or processes
            if device.memory_used() > IDLE_GIB * GIB:
                clocks.append(device.sm_clock() / device.max_sm_clock())
        with contextlib.suppress(Exception):
            taken = device.processes()
            others += sum(p.gpu_memory() for pid, p in taken.items() if pid not in mine)
    return {
        "gpu_clock_share": round(min(clocks), 3) if clocks else None,
        "others_gpu_gib": round(others / GIB, 3),
    }
