"""SIGKILL a process that holds an engine or a server: is the memory free again within 10 s?

    python -m benchmarks.kills [--what kernel server] [--times 5] [--together]

Each time a child (as a notebook's kernel is) opens the shipped model's engine, or starts a server, and is killed with
SIGKILL. Measured: seconds until all processes below it are gone, and until their memory is free. --together starts
all children at once and then kills them one after the other: on a GPU box with many cores that takes a minute instead
of many. Every kill is written as it ends (results/benchmarks/kills.jsonl, or in $BENCHMARK_RECORDS).
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

from benchmarks.memory_returns import small_profile
from benchmarks.record import keep
from helpers import REPO, gpu_memory
from helpers.engine import processes as lifeline

TARGET_S = 10.0
CHILD = """
import json, os, sys, time
parent = os.getppid()
from helpers.engine import processes as lifeline
from benchmarks.memory_returns import small_engine, small_profile
profile = small_profile()
if sys.argv[1] == "kernel":
    from helpers.engine.engine import open_engine
    engine = open_engine(profile, **small_engine(profile))
    engine.llm.generate("What is a KV cache?", use_tqdm=False)
else:
    from helpers.server.server import start_server
    server = start_server(profile, **small_engine(profile))
print(json.dumps(lifeline.descendants(os.getpid())), flush=True)
while os.getppid() == parent:  # the test itself may be ended from outside
    time.sleep(0.5)
"""


class Child:
    """A process with an open engine or server, in a session of its own."""

    def __init__(self, what: str, folder: Path):
        # A cache of its own: two engines beside each other are not allowed in one workbook, and this test wants them.
        cache = folder / "cache"
        env = {
            **os.environ,
            "XDG_CACHE_HOME": str(cache),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])),
        }
        self.what = what
        self.log = folder / "log"
        self.began = time.monotonic()
        self.process = subprocess.Popen([sys.executable, "-c", CHILD, what], cwd=REPO, env=env, text=True, start_new_session=True,
                                        stdout=subprocess.PIPE, stderr=open(self.log, "w"))  # fmt: skip
        self.pids: list[int] = []

    def wait_up(self) -> None:
        for line in self.process.stdout:  # progress lines come before ours
            if line.startswith("["):
                self.pids = [self.process.pid, *json.loads(line)]
                self.start_s = time.monotonic() - self.began
                return
        raise RuntimeError(f"The {self.what} did not come up: {self.log.read_text()[-1500:]}")

    def end(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def kill(child: Child, share_gib: float = 0.0, patience_s: float = 3 * TARGET_S) -> dict:
    """SIGKILL the child and time the end of everything below it. Memory in GiB, times in seconds.

    share_gib: what it holds, where the driver does not say it for each process (some containers).
    """
    on_gpu = gpu_memory.has_gpu()
    used = lambda: gpu_memory.memory_now(child.pids)["used_gib"]
    held = gpu_memory.memory_now(child.pids)["process_gib"] or share_gib
    before = used()
    started = time.perf_counter()
    os.kill(child.process.pid, signal.SIGKILL)
    child.process.wait()
    gone_s = free_s = None
    while time.perf_counter() - started < patience_s and (gone_s is None or free_s is None):
        if gone_s is None and not any(lifeline.alive(pid) for pid in child.pids):
            gone_s = time.perf_counter() - started
        # 1 % of what it held may stay uncounted: the driver rounds.
        if free_s is None and used() <= before - 0.99 * held:
            free_s = time.perf_counter() - started
        time.sleep(0.05)
    return {"what": child.what, "start_s": child.start_s, "processes": len(child.pids), "held_gib": held, "before_gib": before,
            "after_gib": used(), "gone_s": gone_s, "free_s": free_s, "left": [lifeline.title(p)[:80] for p in child.pids if lifeline.alive(p)],
            "source": gpu_memory.DEVICE if on_gpu else gpu_memory.HOST}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--what", nargs="+", choices=("kernel", "server"), default=["kernel", "server"]
    )
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--together", action="store_true")
    options = parser.parse_args(argv)
    profile = small_profile()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # a time limit must not leave children behind
    idle = gpu_memory.memory_now([1])["used_gib"] if gpu_memory.has_gpu() else 0.0
    plan = [what for _ in range(options.times) for what in options.what]
    rows, failures = [], []
    with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as scratch:
        waiting: list[Child] = []
        try:
            for batch in [plan] if options.together else [[what] for what in plan]:
                for number, what in enumerate(batch):
                    folder = Path(scratch) / f"{len(rows)}-{number}"
                    folder.mkdir()
                    waiting.append(Child(what, folder))
                up = []  # all of the batch first: an engine that starts beside the killed one would take what it gives back
                for child in list(waiting):
                    try:
                        child.wait_up()
                        up.append(child)
                    except RuntimeError as error:
                        failures.append(str(error))
                        print(error, flush=True)
                        waiting.remove(child)
                        child.end()
                share = (
                    (gpu_memory.memory_now([1])["used_gib"] - idle) / max(1, len(up))
                    if gpu_memory.has_gpu()
                    else 0.0
                )
                for child in up:
                    row = kill(child, share)
                    waiting.remove(child)
                    child.end()
                    keep("kills", profile, {**row, "together": options.together})
                    rows.append(row)
                    shown = lambda s: "not in time" if s is None else f"{s:.2f} s"
                    print(f"{row['what']:6} up in {row['start_s']:5.1f} s with {row['processes']} processes and {row['held_gib']:.2f} GiB; after SIGKILL "
                          f"all gone in {shown(row['gone_s'])}, memory free in {shown(row['free_s'])}", flush=True)  # fmt: skip
        finally:
            for child in waiting:
                child.end()
    end = gpu_memory.memory_now([1])["used_gib"] if gpu_memory.has_gpu() else 0.0
    late = [
        r
        for r in rows
        if r["gone_s"] is None or r["free_s"] is None or max(r["gone_s"], r["free_s"]) > TARGET_S
    ]
    orphans = lifeline.find_orphans()
    print(f"{len(rows)} kills, {len(late)} later than {TARGET_S:.0f} s, {len(failures)} did not start; device memory {idle:.3f} GiB before, "
          f"{end:.3f} after; processes without an owner: {len(orphans)}")  # fmt: skip
    return int(bool(late or failures or orphans))


if __name__ == "__main__":
    raise SystemExit(main())
