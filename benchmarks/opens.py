"""Open and close an engine many times: how long it takes, and whether all memory comes back.

    python -m benchmarks.opens [--opens 6] [--model NAME --load-format dummy]
    python -m benchmarks.opens --small [--opens 20] [--budget-s 300]

The first opens the profile's engine, --small the shipped model with little KV cache, not compiled.
Targets: 4 s or less a start on the CPU after the first (95 s on a GPU), memory within 1 % of the
start. Every open and close is written as it ends, in results/benchmarks/engine_start.jsonl or
memory_returns.jsonl; with --budget-s, the next call goes on with a run that ran out of time. On a
GPU the reference is device memory before the first open. On the CPU, where the engine lives in this
process, it is host memory after the first close (vLLM's imports stay), and vLLM 0.32 keeps the
tokenizers of each engine: about 2 MiB an open, of at most 4.
"""

from __future__ import annotations

import argparse
import statistics
import time

from benchmarks import record
from helpers import gpu_memory, tiny_model
from helpers.engine import load_profile, open_engine

TARGET = 0.01
MIB_AN_OPEN = 4
START_S = {"cpu": 4.0, "gpu": 95.0}
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
    """Arguments of an engine that starts fast; on a GPU it leaves room for others beside it."""
    return SMALL if profile.name == "cpu" else {**SMALL, "gpu_memory_utilization": 0.1}


def main(argv: list[str] | None = None) -> int:
    """0: all targets met; 1: one was missed; 3: the time was up before the last open."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--opens", type=int, default=6)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--budget-s", type=float, help="begin no open after so many seconds")
    parser.add_argument("--model")
    parser.add_argument("--load-format")
    options = parser.parse_args(argv)
    profile = small_profile()
    if not options.small:
        profile = load_profile("auto", options.model, options.load_format)
    args = small_engine(profile) if options.small else {}
    name = "memory_returns" if options.small else "engine_start"
    began = time.monotonic()
    run, rows = unfinished(name, options.opens) if options.budget_s else (None, [])
    run = run or time.strftime("%Y%m%d-%H%M%S")
    while len(rows) < options.opens:
        slowest = max((row["seconds"] for row in rows), default=30.0)
        if options.budget_s and time.monotonic() - began + slowest > options.budget_s:
            print(f"time is up after {len(rows)} opens; the same command goes on")
            return 3
        row = {"run": run, "open": len(rows) + 1, **open_and_close(profile, args, rows)}
        record.keep(name, profile, row)
        rows.append(row)
    return verdict(rows, profile, options.small)


def unfinished(name: str, opens: int) -> tuple[str | None, list[dict]]:
    """Name and rows of the last recorded run when it has fewer than `opens`; else (None, [])."""
    recorded = record.read(record.records_folder() / f"{name}.jsonl")
    rows = [row["metrics"] for row in recorded if "open" in row["metrics"]]
    last = [row for row in rows if row["run"] == rows[-1]["run"]]
    return (last[0]["run"], last) if 0 < len(last) < opens else (None, [])


def open_and_close(profile, args: dict, rows: list[dict]) -> dict:
    """One engine: seconds, and GiB before, while it was open, and after."""
    reference = rows[0]["reference_gib"] if rows else gpu_memory.memory_now()["used_gib"]
    start = time.perf_counter()
    engine = open_engine(profile, **args)
    opened = time.perf_counter()
    engine.llm.generate("What is a KV cache?", use_tqdm=False)
    closed = engine.close()
    if not rows and profile.name == "cpu":
        reference = closed.after_gib
    return {
        "start_s": opened - start,
        "close_s": closed.seconds,
        "seconds": time.perf_counter() - start,
        "reference_gib": reference,
        "loaded_gib": closed.loaded_gib,
        "after_gib": closed.after_gib,
        "processes_left": len(closed.processes_left),
        "source": closed.source,
    }


def grown(row: dict) -> float:
    """What did not come back, as a share of the reference (of an engine, if the GPU was empty)."""
    return (row["after_gib"] - row["reference_gib"]) / (row["reference_gib"] or row["loaded_gib"])


def verdict(rows: list[dict], profile, small: bool) -> int:
    """Print the result of all opens; 1 when a target was missed."""
    last, reference = rows[-1], rows[0]["reference_gib"]
    left = sum(row["processes_left"] for row in rows)
    start_s = statistics.median(row["start_s"] for row in rows[1:] or rows)
    print(
        f"{len(rows)} opens and closes: {reference:.4f} GiB before, {last['after_gib']:.4f} after "
        f"({grown(last):+.2%}), {left} processes left; median start after the first {start_s:.2f} "
        f"s; {last['source']}; {profile.machine}"
    )
    an_open_mib = 1024 * (last["after_gib"] - reference) / max(1, len(rows) - 1)
    back = an_open_mib <= MIB_AN_OPEN if profile.name == "cpu" else grown(last) <= TARGET
    in_time = small or start_s <= START_S[profile.name]
    return int(not (back and in_time) or left > 0)


if __name__ == "__main__":
    raise SystemExit(main())
