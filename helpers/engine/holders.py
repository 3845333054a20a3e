"""Who holds this machine: an engine or server of another notebook, or this one's other.

Two models beside each other do not fit a GPU, and on a CPU each may slow the other's numbers.
Other kernels are found through a file each in the user's cache; this kernel's other holder is
closed by the function that it handed in.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import filelock
import psutil

from helpers.engine import processes
from helpers.engine.cache import cache_dir, write_once
from helpers.engine.failure import EngineError
from helpers.engine.profile import Profile

_closers: dict[str, Callable[[], object | None]] = {}
_told: list[str] = []  # the kernels that were named: a notebook says it once


@contextlib.contextmanager
def taken(kind: str, profile: Profile, close: Callable[[], object | None]):
    """Inside the block, and after it unless it fails, this kernel holds an "engine" or a "server".

    close: ends it and returns its report, None when there is none; called when this kernel's other
        kind needs the GPU's memory.
    Known from before the start, and under a lock: of two notebooks that start at once, the second
    sees the first.
    Raises EngineError when another kernel holds the GPU (on a CPU that is said, once), or when the
    cache cannot be written to.
    """
    with filelock.FileLock(_folder() / ".lock", timeout=30):
        _refuse_or_warn(profile)
        notebook = os.environ.get("WORKBOOK_NOTEBOOK") or os.environ.get("JPY_SESSION_NAME") or ""
        me = {
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "host": socket.gethostname(),
            "notebook": Path(notebook).name or "a program without a notebook",
        }
        write_once(_entry(kind), json.dumps(me).encode())
    try:
        if profile.name == "gpu":
            _close_other(kind)
        _closers[kind] = close
        yield
    except BaseException:
        release(kind)
        raise


def release(kind: str) -> None:
    """This kernel's "engine" or "server" is closed."""
    _closers.pop(kind, None)
    _entry(kind).unlink(missing_ok=True)


def close_all() -> list[str]:
    """Close what this kernel still holds; a sentence for each engine or server that it held."""
    return [str(report) for close in list(_closers.values()) if (report := close())]


def others() -> list[dict]:
    """What other kernels of this user hold here: {"pid", "started", "host", "notebook"}."""
    found = []
    for path in _folder().glob("*.json"):
        try:
            entry = json.loads(path.read_text())
            pid, since, host = int(entry["pid"]), float(entry["started"]), entry["host"]
            entry["notebook"]
        except (OSError, ValueError, TypeError, KeyError):
            continue  # damaged, or not ours
        if host != socket.gethostname():
            continue
        if not _is_same(pid, since):
            path.unlink(missing_ok=True)  # a kernel that was killed
        elif pid != os.getpid():
            found.append(entry)
    return found


def _is_same(pid: int, since: float) -> bool:
    """Alive, and not another program that was given the pid."""
    with contextlib.suppress(psutil.Error):
        # The clock may be corrected meanwhile; a pid does not come again within a second.
        return processes.alive(pid) and abs(psutil.Process(pid).create_time() - since) < 0.9
    return False


def _close_other(kind: str) -> None:
    for other, close in list(_closers.items()):
        if other != kind and (report := close()):
            done = {"engine": "closed", "server": "stopped"}[other]
            print(f"The notebook's {other} was {done} first, the {kind} needs its memory: {report}")


def _refuse_or_warn(profile: Profile) -> None:
    found = [f"{other['notebook']} (process {other['pid']})" for other in others()]
    if not found:
        return
    names = ", ".join(found)
    if profile.name == "gpu":
        advice = "run its last cell, or shut its kernel down, then run this cell again"
        raise EngineError(f"The GPU is taken: {names} has an engine open; {advice}.")
    if not _told:
        _told.extend(found)
        who = "another kernel has" if len(found) == 1 else "other kernels have"
        print(f"Note: {who} an engine open: {names}. Numbers may be slower than alone.")


def _folder() -> Path:
    return cache_dir("open-engines")


def _entry(kind: str) -> Path:
    # A home may be shared by several machines, whose pids mean nothing to each other.
    return _folder() / f"{kind}-{socket.gethostname()}-{os.getpid()}.json"
