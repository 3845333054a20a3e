"""Open and close an engine many times: does all memory come back, and does no process stay? Target: within 1 %.

    python -m benchmarks.memory_returns [--opens 20] [--budget-s 300] [--run NAME]

The shipped model with a small KV cache and without compilation, so that a start is short. Every open and close is
written as it ends (results/benchmarks/memory_returns.jsonl, or in $BENCHMARK_RECORDS). With --run, a run that was cut off
goes on where it stopped: the opens recorded under that name count. On a GPU the reference is device memory before the
first open; on the CPU, where the engine lives in this process, host memory after the first close (vLLM's imports stay).
"""

from __future__ import annotations

import argparse
import json
import time

from benchmarks.record import keep, records_folder
from helpers import gpu_memory, tiny_model
from helpers.engine.engine import open_engine
from helpers.engine.profile import load_profile

TARGET = 0.01
SMALL = {
    "max_model_len": 1024,
    "max_num_seqs": 16,
    "enforce_eager": True,
    "kv_cache_memory_bytes": 256 * 2**20,
}


def small_profile():
    """This machine with the shipped model: what is tested needs no weights from elsewhere."""
    return load_profile(model=str(tiny_model.TARGET))


def small_engine(profile) -> dict:
    """Arguments of an engine that starts fast and takes little; on a GPU it leaves room for others beside it."""
    return SMALL if profile.name == "cpu" else {**SMALL, "gpu_memory_utilization": 0.1}


def recorded(run: str) -> list[dict]:
    """The opens that an earlier part of this run has written."""
    path = records_folder() / "memory_returns.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            metrics = json.loads(line)["metrics"]
        except (ValueError, KeyError):
            continue  # a line that was cut off
        if metrics.get("run") == run and "open" in metrics:
            rows.append(metrics)
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--opens", type=int, default=20)
    parser.add_argument(
        "--budget-s", type=float, default=float("inf"), help="begin no open after so many seconds"
    )
    parser.add_argument(
        "--run", default=time.strftime("%Y%m%d-%H%M%S"), help="name of the run, to go on with it"
    )
    options = parser.parse_args(argv)
    profile = small_profile()
    began = time.monotonic()
    rows = recorded(options.run)
    reference = rows[0]["reference_gib"] if rows else gpu_memory.memory_now()["used_gib"]
    for i in range(len(rows), options.opens):
        took = max((row["seconds"] for row in rows), default=30.0)
        if time.monotonic() - began + took > options.budget_s:
            print(
                f"time is up after {len(rows)} opens; the same command with --run {options.run} goes on"
            )
            return verdict(rows, profile) or 3
        start = time.perf_counter()
        engine = open_engine(profile, **small_engine(profile))
        opened = time.perf_counter()
        engine.llm.generate("What is a KV cache?", use_tqdm=False)
        closed = engine.close()
        if i == 0 and profile.name == "cpu":
            reference = closed.after_gib
        row = {"run": options.run, "open": i + 1, "start_s": opened - start, "close_s": closed.seconds,
               "seconds": time.perf_counter() - start, "reference_gib": reference, "loaded_gib": closed.loaded_gib,
               "after_gib": closed.after_gib, "processes_left": len(closed.processes_left), "source": closed.source}  # fmt: skip
        keep("memory_returns", profile, row)
        rows.append(row)
        print(f"{i + 1:3}: start {row['start_s']:5.1f} s, loaded {row['loaded_gib']:.3f} GiB, after {row['after_gib']:.4f} GiB "
              f"({grown(row):+.2%}), {row['processes_left']} processes left", flush=True)  # fmt: skip
    return verdict(rows, profile)


def grown(row: dict) -> float:
    """What did not come back, as a share of the reference; of what an engine takes where the start was an empty GPU."""
    return (row["after_gib"] - row["reference_gib"]) / (row["reference_gib"] or row["loaded_gib"])


def verdict(rows: list[dict], profile) -> int:
    """Print the result of all opens so far; 1 when memory did not come back or a process stayed."""
    if not rows:
        return 1
    last, reference = rows[-1], rows[0]["reference_gib"]
    left = sum(row["processes_left"] for row in rows)
    print(f"{len(rows)} opens and closes: {reference:.4f} GiB before, {last['after_gib']:.4f} after ({grown(last):+.2%}; target 1 %), "
          f"{left} processes left; {last['source']}; {profile.machine}")  # fmt: skip
    return int(grown(last) > TARGET or left > 0)


if __name__ == "__main__":
    raise SystemExit(main())
