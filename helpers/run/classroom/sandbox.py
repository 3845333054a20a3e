"""What protects this machine from student code, and what does not.

A process tree and a folder of its own, limits on time, memory and file size, an environment without
the instructor's variables (and pages of text, see reading.py). What does not: the code
runs as the same user and can read that user's files and use the network. Only a container or a
throw-away machine keeps it from that; docs/instructors.md has the line.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helpers.engine import processes

GIB = 2**30
MOST_FILES = 20_000  # that are looked at for the size of a folder
# The only variables of the instructor's environment that a student's code sees.
PASSED = {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_HOME"}
PASSED |= {"VIRTUAL_ENV", "PYTHONPATH", "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND"}


@dataclass(frozen=True)
class Limits:
    """Per student, or per cell where it says so. Seconds and GiB."""

    cell_s: float = 600
    notebook_s: float = 1800
    student_s: float = 3600
    memory_gib: float = 16  # resident, of all its processes together
    disk_gib: float = 5  # what it leaves in its folder
    file_gib: float = 2  # one file (RLIMIT_FSIZE)

    def resources(self, gpu: bool) -> dict[str, int]:
        """Those that the operating system keeps, for job.limit_resources."""
        limits = {"FSIZE": int(self.file_gib * GIB), "CORE": 0}
        if not gpu:  # CUDA maps far more address space than it uses
            limits["AS"] = int(max(64, 4 * self.memory_gib) * GIB)
        return limits


@dataclass(frozen=True)
class Place:
    """The folders of one student: what is kept, where the code runs, and what it does not see."""

    kept: Path
    scratch: Path
    tmp: Path  # a short name of its TMPDIR: the name of a Unix socket has at most 107 characters

    @property
    def sandbox(self) -> Path:
        """Where student code runs; removed afterwards."""
        return self.kept / "sandbox"

    @property
    def measured(self) -> Path:
        """What the notebooks measure here goes there."""
        return self.sandbox / "results"


def environment(home: Path, gpu: str | None) -> dict[str, str]:
    """A clean environment: nothing of the instructor's but PASSED, a home of its own."""
    env = {name: os.environ[name] for name in PASSED if name in os.environ}
    huggingface = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    env |= {
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "HF_HUB_CACHE": os.environ.get("HF_HUB_CACHE") or str(Path(huggingface) / "hub"),
        "USER": "student",
        "MPLCONFIGDIR": str(home / ".mpl"),
        "IPYTHONDIR": str(home / ".ipython"),
        "JUPYTER_CONFIG_DIR": str(home / ".jupyter"),
        "PYTHONNOUSERSITE": "1",
    }
    return env if gpu is None else env | {"CUDA_VISIBLE_DEVICES": gpu}


def watcher(sandbox: Path, limits: Limits, check_stop: Callable[[], None]):
    """For runner.run_job: looks at memory every half second, at the folder's size every three.

    check_stop: called each time; what it raises ends the job.
    """
    due = {"memory": 0.0, "disk": 0.0}

    def watch(pid: int) -> str | None:
        check_stop()
        now = time.monotonic()
        if now > due["memory"]:
            due["memory"] = now + 0.5
            used = sum(map(processes.resident_gib, processes.descendants(pid)))
            if used > limits.memory_gib:
                limit = f"the limit is {limits.memory_gib:g} GiB"
                return f"Its processes held {used:.1f} GiB of memory; {limit}."
        if now > due["disk"]:
            due["disk"] = now + 3
            used = _size_gib(sandbox)
            if used > limits.disk_gib:
                limit = f"the limit is {limits.disk_gib:g} GiB"
                return f"It filled its folder with {used:.1f} GiB; {limit}."
        return None

    return watch


def _size_gib(folder: Path) -> float:
    """What the files of a folder take on disk, in GiB; looks at about `MOST_FILES`."""
    total, seen, waiting = 0, 0, [folder]
    while waiting and seen < MOST_FILES:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                seen += 1
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total / GIB
