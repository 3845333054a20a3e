"""Tie child processes to the life of this one, so that none outlives it.

vLLM 0.32 starts processes of its own (``VLLM::EngineCore``, ``VLLM::Worker``) that do not notice
when the notebook's kernel is killed: they go on holding the memory of the GPU. Python's clean-up
does not run on SIGKILL, so a second, very small process does the work: a supervisor around a
command (``spawn``, for servers), or a watcher of what vLLM starts (``guard_children``, for an
engine in a notebook). This file is the program of both; it starts in 0.05 s and holds about 13 MiB.
Linux only (``prctl(2)``).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

GRACE_S = 3.0
"""Seconds between SIGTERM and SIGKILL when a tree is ended."""

_POLL_S = 0.25
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


# --- looking --------------------------------------------------------------------------------------


def title(pid: int) -> str:
    """The command line of a process as ``ps`` shows it; "" when there is no such process."""
    with contextlib.suppress(psutil.Error):
        return " ".join(psutil.Process(pid).cmdline()).strip()
    return ""


def alive(pid: int) -> bool:
    """Whether the process is there and not just waiting to be collected (a zombie)."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    return False


def runs(process: psutil.Process) -> bool:
    """Whether the process that was noted is alive: its pid may belong to another one by now."""
    return process.is_running() and alive(process.pid)


def below(pid: int) -> list[psutil.Process]:
    """The processes below ``pid`` that are alive, its own children first; [] without any."""
    with contextlib.suppress(psutil.Error):
        return list(filter(runs, psutil.Process(pid).children(recursive=True)))
    return []


def descendants(pid: int) -> list[int]:
    """The pids of ``below(pid)``."""
    return [process.pid for process in below(pid)]


def resident_gib(pid: int) -> float:
    """Host memory that the process holds, in GiB (2**30 bytes); 0.0 when it is gone."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).memory_info().rss / 2**30
    return 0.0


def is_helper(pid: int) -> bool:
    """Whether the process is one of this module's helpers."""
    return str(Path(__file__).resolve()) in title(pid)


def started_here() -> list[psutil.Process]:
    """The processes below this one, but for helpers that end with it (this module's, Python's)."""
    ours = [process for process in below(os.getpid()) if not is_helper(process.pid)]
    return [process for process in ours if "resource_tracker" not in title(process.pid)]


def find_orphans() -> list[dict]:
    """Processes of vLLM and this user that nobody owns any more, with what they hold.

    An orphan has a title that begins with ``VLLM::`` and was handed to process 1 (or to the
    session's own init) because its parent died; the processes below it are listed too.
    Returns dicts ``pid``, ``title``, ``memory_gib`` (host memory); [] when clean.
    """
    found: dict[psutil.Process, None] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            vllm = title(process.pid).startswith("VLLM::") and _is_mine(process) and runs(process)
            if vllm and _is_reaper(process.ppid()):
                found |= dict.fromkeys([process, *below(process.pid)])
    pids = [process.pid for process in found]
    held = {pid: round(resident_gib(pid), 3) for pid in pids}
    return [{"pid": pid, "title": title(pid), "memory_gib": held[pid]} for pid in pids]


def _is_mine(process: psutil.Process) -> bool:
    return process.uids().effective == os.getuid()


def _is_reaper(pid: int) -> bool:
    """Whether orphans go to this process: 1, or an init of the session or the container."""
    if pid == 1:
        # In a container, process 1 may be a vLLM program and the engine's true parent.
        with contextlib.suppress(psutil.Error):
            return not any("/vllm/" in one.path for one in psutil.Process(1).memory_maps())
        return True
    name = os.path.basename(title(pid).split(" ")[0])
    return name in ("systemd", "init", "tini", "dumb-init", "docker-init", "catatonit")


# --- for a program that starts processes ----------------------------------------------------------


def _start_helper(arguments: list[str], **popen) -> subprocess.Popen:
    # -I: neither the environment nor the folder that it is started in changes what this file does.
    # A session of its own: signals sent to the kernel's process group (Jupyter's restart,
    # Ctrl-C in a terminal) must not end the helper before it has done its work.
    command = [sys.executable, "-I", str(Path(__file__).resolve()), *arguments]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **popen)


def spawn(cmd, *, env=None, log=None, cwd=None, grace_s: float = GRACE_S) -> subprocess.Popen:
    """Start ``cmd`` so that its whole tree ends with this process, even on ``kill -9``.

    cmd: list of strings. env: the whole environment, or None for this one's.
    log: path that the output is appended to, or None to discard it.
    grace_s: seconds between SIGTERM and SIGKILL (at most 3 when this process has died).

    Returns the ``Popen`` of the supervisor: ``poll()`` and ``wait()`` give the exit code of
    the command (128 + signal when a signal ended it), ``terminate()`` ends the tree politely,
    ``descendants(p.pid)`` are the command and everything below it.
    Raises OSError when the log cannot be opened. A command that does not exist shows as exit
    code 127, with the cause in the log.
    """
    arguments = ["supervise", str(os.getpid()), str(grace_s), *map(str, cmd)]
    with open(log, "ab") if log else contextlib.nullcontext(subprocess.DEVNULL) as output:
        process = _start_helper(
            arguments, env=env, cwd=cwd, stdout=output, stderr=subprocess.STDOUT
        )
    process.grace_s = grace_s
    return process


def stop(process: subprocess.Popen, grace_s: float | None = None) -> int:
    """End what ``spawn`` started and wait for it; returns its exit code. Safe to call twice.

    grace_s: seconds from SIGTERM to SIGKILL, at most those given to ``spawn``; None takes those.
        Four seconds later the supervisor is no longer trusted, and what is left of the tree is
        killed from here.
    """
    if process.poll() is not None:
        return process.returncode
    patience_s = process.grace_s if grace_s is None else min(grace_s, process.grace_s)
    for wait_s in (patience_s, 4):  # the second SIGTERM ends the grace
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(wait_s)
    left = below(process.pid)
    process.kill()
    kill(left)
    return process.wait()


def end(them: Iterable[psutil.Process]) -> None:
    """SIGTERM, wait, SIGKILL, for processes that need not be our children."""
    them = list(them)
    for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 2.0)):
        them = list(filter(runs, them))
        for process in them:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and any(map(runs, them)):
            time.sleep(0.05)


def kill(them: Iterable[psutil.Process]) -> None:
    """SIGKILL, without waiting."""
    for process in them:
        with contextlib.suppress(psutil.Error):
            process.kill()


def adopt_orphans(adopt: bool = True) -> None:
    """What loses its parent below this process is handed to this one, not to process 1."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


_guard: tuple[int, subprocess.Popen] | None = None


def guard_children() -> None:
    """Start (once per process) the watcher that ends vLLM's processes when this one dies.

    Call it before opening an engine. Watched are the descendants whose title begins with
    ``VLLM::``, those that Python's ``multiprocessing`` has just started and that have no
    title yet, and what is below them; a command that you started yourself is left alone.
    """
    global _guard
    # A forked child has a copy of the variable, but the watcher belongs to its parent.
    if _guard is None or _guard[0] != os.getpid() or _guard[1].poll() is not None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        _guard = os.getpid(), _start_helper(["watch", str(os.getpid())], **quiet)


# --- the two helpers themselves -------------------------------------------------------------------


def _supervise(parent: int, grace_s: float, cmd: list[str]) -> int:
    adopt_orphans()
    libc = ctypes.CDLL(None)  # loaded before the fork
    wanted = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)

    def in_child():
        # The mask is inherited; and should the supervisor itself be killed, the command goes too.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    try:
        command = subprocess.Popen(cmd, preexec_fn=in_child)
    except OSError as error:
        print(f"processes.py: cannot start {cmd[0]}: {error.strerror}", flush=True)
        return 127
    while command.poll() is None and os.getppid() == parent:
        got = signal.sigtimedwait(wanted, _POLL_S)
        if got and got.si_signo != signal.SIGCHLD:
            break
    command.terminate()  # nothing happens when it has ended
    # Nobody is left to wait for once the parent is dead; a second SIGTERM ends the grace, too.
    patience_s = grace_s if os.getppid() == parent else min(grace_s, GRACE_S)
    deadline = time.monotonic() + patience_s
    while command.poll() is None and time.monotonic() < deadline:
        got = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, 0.05)
        if got and got.si_signo == signal.SIGTERM:
            break
    # Whatever is left has lost its parent and was adopted by this process. Python's resource
    # trackers go last: they remove shared memory that the killed ones have left.
    deadline = time.monotonic() + 1.0
    while left := below(os.getpid()):
        late = time.monotonic() > deadline
        kill(p for p in left if late or "resource_tracker" not in title(p.pid))
        time.sleep(0.02)
    code = command.wait()
    return code if code >= 0 else 128 - code


def _watch(parent: int) -> None:
    try:
        group = os.getpgid(parent)
    except ProcessLookupError:
        return
    noted: set[psutil.Process] = set()
    while os.getppid() == parent:
        named = [process for process in below(parent) if _concerns_watch(process.pid)]
        noted.update(named, *(below(process.pid) for process in named))
        noted = set(filter(runs, noted))
        time.sleep(_POLL_S)
    # Started after the last look: it was handed to the same process as this watcher, and is
    # still in the group of the dead parent.
    heir = os.getppid()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            left = process.ppid() == heir and os.getpgid(process.pid) == group
            if left and _is_mine(process) and _concerns_watch(process.pid):
                noted.add(process)
    noted.update(*(below(process.pid) for process in list(noted)))
    end(noted)


def _concerns_watch(pid: int) -> bool:
    # Spawned and not named yet counts. A resource tracker ends by itself, after it has
    # removed the shared memory of the others.
    line = title(pid)
    return line.startswith("VLLM::") or "from multiprocessing.spawn" in line


if __name__ == "__main__":
    job, parent, *rest = sys.argv[1:]
    if job == "watch":
        _watch(int(parent))
    else:
        sys.exit(_supervise(int(parent), float(rest[0]), rest[1:]))
