"""How long does a server take to start, and does starting it the quick way change its speed?

    python -m benchmarks.server_start [--starts 3]

On the CPU helpers/server/quick_server.py forks the engine's process instead of starting it anew; on
a GPU there is vLLM's own way alone. Each start is followed by the same load (64 requests of 96
tokens in, 48 out, all at once; the best of three), so that the two ways can be compared. Asked for:
the quick way takes at most 0.7 of the time of vLLM's own, and its throughput is no lower than 0.9
of it.
"""

from __future__ import annotations

import argparse
import statistics
import time

from benchmarks.record import keep
from helpers.engine import load_profile
from helpers.server import run_load, start_server


def start_and_load(profile, quick: bool) -> dict:
    """Start a server, load it, stop it."""
    size = {"requests": 64, "input_tokens": 96, "output_tokens": 48}
    with start_server(profile, quick=quick) as server:
        loads = [run_load(server, **size).metrics["output_tokens_per_s"] for _ in range(3)]
        begun = time.perf_counter()
        report = server.stop()
    return {
        "start_s": server.startup_s,
        "stop_s": time.perf_counter() - begun,
        "processes_left": len(report.processes_left),
        "output_tokens_per_s": max(loads),
    }


def main(argv: list[str] | None = None) -> int:
    """0: the quick way is quicker and as fast, and no process stayed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--model")
    parser.add_argument("--load-format")
    options = parser.parse_args(argv)
    profile = load_profile("auto", options.model, options.load_format)
    ways = {"quick": True, "vLLM's own": False} if profile.name == "cpu" else {"vLLM's own": False}
    found: dict[str, list[dict]] = {way: [] for way in ways}
    for _ in range(options.starts):
        for way, quick in ways.items():  # in turns, so that a busy moment meets both
            found[way].append(start_and_load(profile, quick))
            print(way, found[way][-1], flush=True)
    middle = {
        way: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for way, rows in found.items()
    }
    keep("server_start", profile, {"median": middle, "starts": found})
    print(f"Medians on {profile.machine}: {middle}")
    own, quick = middle["vLLM's own"], middle.get("quick")
    stayed = any(row["processes_left"] for rows in found.values() for row in rows)
    if quick is None:
        return int(stayed)
    quicker = quick["start_s"] <= 0.7 * own["start_s"]
    as_fast = quick["output_tokens_per_s"] >= 0.9 * own["output_tokens_per_s"]
    return int(stayed or not quicker or not as_fast)


if __name__ == "__main__":
    raise SystemExit(main())
