"""SIGKILL a process that holds an engine or a server: is the memory free again within 10 s?

    python -m benchmarks.kills [--what kernel server] [--times 5]

Each time a child (as a notebook's kernel is) opens the shipped model's engine, or starts a server.
All start at once; when all are up they are killed one after the other, because an engine that
starts beside a killed one would take what that gives back. Measured: seconds until all processes
below it are gone, and until their memory is free. Every kill is written as it ends
(results/benchmarks/kills.jsonl, or in $BENCHMARK_RECORDS).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.opens import small_engine, small_profile
from benchmarks.record import keep
from helpers import REPO, gpu_memory
from helpers.engine import open_engine, processes
from helpers.server import start_server

TARGET_S = 10.0


def hold(what: str) -> None:
    """In the child: open it, print the pids below this process, and wait to be killed."""
    parent, profile = os.getppid(), small_profile()
    if what == "kernel":
        held = open_engine(profile, **small_engine(profile))
        held.llm.generate("What is a KV cache?", use_tqdm=False)
    else:
        held = start_server(profile, **small_engine(profile))
    print(json.dumps(processes.descendants(os.getpid())), flush=True)
    while held and os.getppid() == parent:  # the benchmark itself may be ended from outside
        time.sleep(0.5)


class Child:
    """A process with an open engine ("kernel") or a server, in a session of its own."""

    def __init__(self, what: str, folder: Path):
        folder.mkdir()
        self.what, self.log = what, folder / "log"
        self.pids: list[int] = []
        self.began = time.monotonic()
        # A cache of its own: two engines beside each other are not allowed in one workbook.
        env = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
        command = [sys.executable, "-m", "benchmarks.kills", "--hold", what]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=REPO,
                env=env,
                text=True,
                start_new_session=True,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def is_up(self) -> bool:
        """Wait until it is; False when it has ended instead."""
        for line in self.process.stdout:  # progress lines come before ours
            if line.startswith("["):
                self.pids = [self.process.pid, *json.loads(line)]
                self.start_s = time.monotonic() - self.began
                return True
        print(f"The {self.what} did not come up: {self.log.read_text()[-1500:]}", flush=True)
        return False

    def kill(self) -> None:
        """SIGKILL, and wait for its end; nothing when it has ended."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def kill(child: Child, share_gib: float) -> dict:
    """SIGKILL the child and time the end of everything below it. Memory in GiB, times in seconds.

    share_gib: what it holds, where the driver does not say it for each process (some containers).
    """
    held = gpu_memory.memory_now(child.pids)["process_gib"] or share_gib
    before = gpu_memory.memory_now(child.pids)
    started = time.perf_counter()
    child.kill()
    gone_s = free_s = None
    while (now := time.perf_counter() - started) < 3 * TARGET_S and None in (gone_s, free_s):
        if gone_s is None and not any(processes.alive(pid) for pid in child.pids):
            gone_s = now
        used = gpu_memory.memory_now(child.pids)["used_gib"]
        # 1 % of what it held may stay uncounted: the driver rounds.
        if free_s is None and used <= before["used_gib"] - 0.99 * held:
            free_s = now
        time.sleep(0.05)
    return {
        "what": child.what,
        "start_s": child.start_s,
        "processes": len(child.pids),
        "held_gib": held,
        "before_gib": before["used_gib"],
        "after_gib": gpu_memory.memory_now(child.pids)["used_gib"],
        "gone_s": gone_s,
        "free_s": free_s,
        "left": [processes.title(pid)[:80] for pid in child.pids if processes.alive(pid)],
        "source": before["source"],
    }


def device_gib() -> float:
    """What all processes together hold of the GPU; 0 without one."""
    return gpu_memory.memory_now([1])["used_gib"] if gpu_memory.has_gpu() else 0.0


def kill_all(children: list[Child], idle_gib: float) -> list[dict]:
    """Wait until all are up, then kill one after the other: a row for each that came up."""
    up = [child for child in children if child.is_up()]
    share = (device_gib() - idle_gib) / max(1, len(up))
    profile, rows = small_profile(), []
    for child in up:
        row = kill(child, share)
        keep("kills", profile, row)
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> int:
    """0: everything came up, was gone and free in time, and nothing is left."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = ("kernel", "server")
    parser.add_argument("--what", nargs="+", choices=kinds, default=list(kinds))
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--hold", choices=kinds, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.hold:
        hold(options.hold)
        return 0
    # A time limit must not leave children behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    idle = device_gib()
    children: list[Child] = []
    with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as scratch:
        try:
            for i, what in enumerate(options.what * options.times):
                children.append(Child(what, Path(scratch) / str(i)))
            rows = kill_all(children, idle)
        finally:
            for child in children:
                child.kill()
    times = [(row["gone_s"], row["free_s"]) for row in rows]
    late = [both for both in times if None in both or max(both) > TARGET_S]
    failures, orphans = len(children) - len(rows), processes.find_orphans()
    print(
        f"{len(rows)} kills, {len(late)} later than {TARGET_S:.0f} s, {failures} did not start; "
        f"device memory {idle:.3f} GiB before, {device_gib():.3f} after; "
        f"processes without an owner: {len(orphans)}"
    )
    return int(bool(late or failures or orphans))


if __name__ == "__main__":
    raise SystemExit(main())
