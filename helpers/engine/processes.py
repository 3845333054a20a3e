"""Tie child processes to the life of this one, so that none outlives it.

vLLM 0.32 starts processes of its own (``VLLM::EngineCore``, ``VLLM::Worker``) that do
not notice when the notebook's kernel is killed: they go on holding the memory of the GPU.
Python's clean-up (``atexit``, ``finally``) does not run on SIGKILL, so the work is done
here by a second, very small process:

``spawn(cmd)``
    a supervisor starts the command, adopts whatever its descendants leave behind
    (``PR_SET_CHILD_SUBREAPER``), and ends the whole tree when this process dies, when the
    command ends, or when the supervisor is told to stop. Used for servers.
``guard_children()``
    a watcher notes vLLM's processes below this one and ends them when this process dies.
    Used for an engine opened in a notebook, whose processes vLLM itself starts.
``find_orphans()``, ``end_orphans(pids)``
    what an earlier run without a guard has left. Found and reported; ended only by pid.

The file is also the program of both helpers (``python lifeline.py supervise|watch``) and
uses the standard library alone: a helper starts in 0.05 s and holds about 10 MiB. Linux only
(``/proc``, ``prctl(2)``).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE_S = 3.0
"""Seconds between SIGTERM and SIGKILL when a tree is ended."""

_POLL_S = 0.25
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


# ---- reading /proc ---------------------------------------------------------------------


def _stat(pid: int) -> tuple[int, int, int, str] | None:
    """(parent pid, process group, start time in ticks, state) of a process, or None."""
    try:
        # The command name may hold spaces and brackets: fields are counted from its end.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return int(fields[1]), int(fields[2]), int(fields[19]), fields[0]


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def title(pid: int) -> str:
    """The command line of a process as ``ps`` shows it; "" when there is no such process."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()


def alive(pid: int) -> bool:
    """Whether the process is there and not just waiting to be collected (a zombie)."""
    stat = _stat(pid)
    return stat is not None and stat[3] not in "ZX"


def started(pid: int) -> int | None:
    """When the process began, in clock ticks since the machine did; None when there is no such process."""
    stat = _stat(pid)
    return stat[2] if stat else None


def same(pid: int, since: int) -> bool:
    """Alive and still the process that was noted with ``started``: pids are used again, start times differ."""
    return alive(pid) and started(pid) == since


def descendants(pid: int) -> list[int]:
    """The processes below ``pid`` that are alive, children first. Empty when there are none."""
    below: dict[int, list[int]] = {}
    for other in _all_pids():
        stat = _stat(other)
        if stat and stat[3] not in "ZX":
            below.setdefault(stat[0], []).append(other)
    found, waiting = [], [pid]
    while waiting:
        children = sorted(below.get(waiting.pop(0), ()))
        found += children
        waiting += children
    return found


def resident_gib(pid: int) -> float:
    """Host memory that the process holds, in GiB (2**30 bytes); 0.0 when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


# ---- for a program that starts processes -----------------------------------------------


def _start_helper(arguments: list[str], **popen) -> subprocess.Popen:
    # -I -S: neither the environment nor site-packages changes what this file does.
    # A session of its own: signals sent to the kernel's process group (Jupyter's restart,
    # Ctrl-C in a terminal) must not end the helper before it has done its work.
    command = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), *arguments]
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
    output = open(log, "ab") if log else subprocess.DEVNULL
    try:
        process = _start_helper(
            [
                "supervise",
                "--parent",
                str(os.getpid()),
                "--grace",
                str(grace_s),
                "--",
                *map(str, cmd),
            ],
            env=env,
            cwd=cwd,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        process.grace_s = grace_s
        return process
    finally:
        if log:
            output.close()


def stop(process: subprocess.Popen, grace_s: float | None = None) -> int:
    """End what ``spawn`` started and wait for it; returns its exit code. Safe to call twice.

    grace_s: seconds from SIGTERM to SIGKILL, at most those given to ``spawn``; None takes those. Four
    seconds later the supervisor is no longer trusted, and what is left of the tree is killed from here.
    """
    if process.poll() is not None:
        return process.returncode
    process.terminate()
    if grace_s is not None and grace_s < process.grace_s:
        try:
            return process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.terminate()
            grace_s = 0
    try:
        return process.wait((process.grace_s if grace_s is None else grace_s) + 4)
    except subprocess.TimeoutExpired:
        left = descendants(process.pid)
        process.kill()
        for pid in left:
            _signal(pid, signal.SIGKILL)
        return process.wait()


_guard: tuple[int, subprocess.Popen] | None = None


def guard_children() -> subprocess.Popen:
    """Start (once per process) the watcher that ends vLLM's processes when this one dies.

    Call it before opening an engine. Watched are the descendants whose title begins with
    ``VLLM::``, those that Python's ``multiprocessing`` has just started and that have no
    title yet, and what is below them; a command that you started yourself is left alone.
    Returns the watcher's ``Popen``; it ends by itself after this process has ended.
    """
    global _guard
    # A forked child has a copy of the variable, but the watcher belongs to its parent.
    if _guard is None or _guard[0] != os.getpid() or _guard[1].poll() is not None:
        watcher = _start_helper(
            ["watch", "--parent", str(os.getpid())],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _guard = os.getpid(), watcher
    return _guard[1]


def is_lifeline(pid: int) -> bool:
    """Whether the process is one of this module's helpers (to leave out of a list of leftovers)."""
    return str(Path(__file__).resolve()) in title(pid)


def find_orphans() -> list[dict]:
    """vLLM processes of this user that nobody owns any more, with what they hold.

    An orphan has a title that begins with ``VLLM::`` and was handed to process 1 (or to the
    session's own init) because its parent died; the processes below it are listed too.
    Returns dicts ``pid``, ``title``, ``memory_gib`` (host memory), ``age_s``; [] when clean.
    """
    roots = []
    for pid in _all_pids():
        stat = _stat(pid)
        if (
            stat
            and stat[3] not in "ZX"
            and title(pid).startswith("VLLM::")
            and _owned(pid)
            and _is_reaper(stat[0])
        ):
            roots.append(pid)
    pids = list(dict.fromkeys(p for root in roots for p in [root, *descendants(root)]))
    return [
        {
            "pid": pid,
            "title": title(pid),
            "memory_gib": round(resident_gib(pid), 3),
            "age_s": round(_age_s(pid)),
        }
        for pid in pids
    ]


def end_orphans(pids) -> list[int]:
    """End the given orphans (SIGTERM, then SIGKILL after 3 s); returns the pids that are gone.

    Raises ValueError for a pid that ``find_orphans`` does not list: this never ends a process
    that somebody still uses.
    """
    pids, known = list(pids), {orphan["pid"] for orphan in find_orphans()}
    strangers = [pid for pid in pids if pid not in known]
    if strangers:
        raise ValueError(
            f"not orphans of vLLM, so they are left alone: {strangers}. "
            f"find_orphans() lists {sorted(known)}."
        )
    end({pid: _stat(pid)[2] for pid in pids if _stat(pid)}, GRACE_S)
    return [pid for pid in pids if not alive(pid)]


def _owned(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.getuid()
    except OSError:
        return False


def _age_s(pid: int) -> float:
    stat = _stat(pid)
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return max(0.0, uptime - stat[2] / os.sysconf("SC_CLK_TCK")) if stat else 0.0


def _is_reaper(pid: int) -> bool:
    """Whether orphans go to this process: 1, or an init of the session or the container."""
    if pid == 1:
        # In a container, process 1 may be a vLLM program and the engine's true parent.
        try:
            return "/vllm/" not in Path("/proc/1/maps").read_text()
        except OSError:
            return True
    name = os.path.basename(title(pid).split(" ")[0])
    return name in ("systemd", "init", "tini", "dumb-init", "docker-init", "catatonit")


# ---- the two helpers themselves --------------------------------------------------------


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def end(noted: dict[int, int], grace_s: float) -> None:
    """SIGTERM, wait, SIGKILL for processes that need not be our children: {pid: start time}."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 2.0)):
        for pid, since in noted.items():
            if same(pid, since):
                _signal(pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and any(same(*item) for item in noted.items()):
            time.sleep(0.05)


def _collect() -> dict[int, int]:
    """Exit codes of all children that have ended, without waiting: {pid: code}."""
    ended = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        code = os.waitstatus_to_exitcode(status)
        ended[pid] = code if code >= 0 else 128 - code


def _supervise(parent: int, grace_s: float, cmd: list[str]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wanted = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)

    def in_child():
        # The mask is inherited; and should the supervisor itself be killed, the command goes too.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    try:
        child = subprocess.Popen(cmd, preexec_fn=in_child)
    except OSError as error:
        print(f"lifeline: cannot start {cmd[0]}: {error.strerror}", flush=True)
        return 127
    code = None
    while code is None and os.getppid() == parent:
        got = signal.sigtimedwait(wanted, _POLL_S)
        code = _collect().get(child.pid)
        if got and got.si_signo != signal.SIGCHLD:
            break
    if code is None:
        _signal(child.pid, signal.SIGTERM)
        # Nobody is left to wait for once the parent is dead; a second SIGTERM ends the grace, too.
        deadline = time.monotonic() + (grace_s if os.getppid() == parent else min(grace_s, GRACE_S))
        while code is None and time.monotonic() < deadline:
            got = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, 0.05)
            code = _collect().get(child.pid)
            if got and got.si_signo == signal.SIGTERM:
                break
    # Whatever is left has lost its parent and was adopted by this process. Python's resource
    # trackers go last: they remove shared memory that the killed ones have left.
    deadline = time.monotonic() + 1.0
    while left := descendants(os.getpid()):
        late = time.monotonic() > deadline
        for pid in left:
            if late or "resource_tracker" not in title(pid):
                _signal(pid, signal.SIGKILL)
        time.sleep(0.02)
        code = _collect().get(child.pid, code)
    code = _collect().get(child.pid, code)
    return 137 if code is None else code


def _watch(parent: int) -> int:
    stat = _stat(parent)
    if stat is None:
        return 0
    group = stat[1]

    def concerns(pid: int) -> bool:
        # Spawned and not named yet counts. A resource tracker ends by itself, after it has
        # removed the shared memory of the others.
        line = title(pid)
        return line.startswith("VLLM::") or "from multiprocessing.spawn" in line

    noted: dict[int, int] = {}
    while os.getppid() == parent:
        named = [pid for pid in descendants(parent) if concerns(pid)]
        for pid in dict.fromkeys(p for root in named for p in [root, *descendants(root)]):
            if (now := _stat(pid)) is not None:
                noted[pid] = now[2]
        noted = {pid: since for pid, since in noted.items() if same(pid, since)}
        time.sleep(_POLL_S)
    # Started after the last look: it was handed to the same process as this watcher, and is
    # still in the group of the dead parent.
    heir = os.getppid()
    for pid in _all_pids():
        now = _stat(pid)
        if now and now[0] == heir and now[1] == group and _owned(pid) and concerns(pid):
            noted[pid] = now[2]
    for pid in list(noted):
        noted.update({p: s[2] for p in descendants(pid) if (s := _stat(p))})
    end(noted, GRACE_S)
    return 0


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="lifeline", description=__doc__.splitlines()[0])
    jobs = parser.add_subparsers(dest="job", required=True)
    supervise = jobs.add_parser("supervise", help="run a command; end its tree when PARENT dies")
    supervise.add_argument(
        "--grace", type=float, default=GRACE_S, help="seconds from SIGTERM to SIGKILL"
    )
    supervise.add_argument("cmd", nargs="+", help="the command, after --")
    watch = jobs.add_parser("watch", help="end vLLM's processes below PARENT when it dies")
    for job in (supervise, watch):
        job.add_argument("--parent", type=int, required=True, help="pid of the process to outlive")
    given = parser.parse_args(argv)
    if given.job == "supervise":
        return _supervise(given.parent, given.grace, given.cmd)
    return _watch(given.parent)


if __name__ == "__main__":
    sys.exit(main())
