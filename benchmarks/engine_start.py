"""How long does an engine take to start and to close, and does its memory come back?

    python -m benchmarks.engine_start [--opens 6] [--model NAME --load-format dummy]

The design asks for 4 s or less a start on the CPU after the first, and for device memory within 1 % of the start after
20. On the CPU the engine lives in this process, and vLLM 0.32 keeps the tokenizers of each engine, about 2 MiB; the
limit there is 4 MiB an open.
"""

from __future__ import annotations

import argparse
import statistics
import time

from benchmarks.record import keep
from helpers import gpu_memory
from helpers.engine.engine import open_engine
from helpers.engine.profile import load_profile


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--opens", type=int, default=6)
    parser.add_argument("--model")
    parser.add_argument("--load-format")
    options = parser.parse_args(argv)
    profile = load_profile("auto", options.model, options.load_format)
    rows = []
    for i in range(options.opens + 1):
        start = time.perf_counter()
        engine = open_engine(profile)
        opened = time.perf_counter()
        report = engine.close()
        rows.append(
            {
                "start_s": opened - start,
                "close_s": time.perf_counter() - opened,
                "after_gib": report.after_gib,
                "processes_left": len(report.processes_left),
            }
        )
        print(
            f"{'first' if i == 0 else i:>5}: start {rows[-1]['start_s']:6.2f} s, close {rows[-1]['close_s']:5.2f} s, "
            f"{report.after_gib:.3f} GiB after",
            flush=True,
        )
    later = rows[1:]
    grown = later[-1]["after_gib"] / rows[0]["after_gib"] - 1
    start = statistics.median(row["start_s"] for row in later)
    print(
        f"Median start {start:.2f} s, memory {grown:+.1%} after {options.opens} more opens, on {profile.machine} "
        f"({gpu_memory.memory_now()['source']})"
    )
    keep(
        "engine_start",
        profile,
        {"median_start_s": start, "memory_growth_share": grown, "opens": rows},
    )
    on_cpu = profile.name == "cpu"
    target_s = 4.0 if on_cpu else 95.0
    per_open_mib = (later[-1]["after_gib"] - rows[0]["after_gib"]) * 1024 / options.opens
    back = per_open_mib <= 4 if on_cpu else grown <= 0.01
    return 0 if start <= target_s and back and not any(row["processes_left"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
