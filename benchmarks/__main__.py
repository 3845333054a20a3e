"""The benchmarks behind the README's claims, one after the other: `make bench`, or `python -m benchmarks NAME ...`.

Records go to results/benchmarks/. memory_timeline and server_start are commands of their own: the first needs a GPU.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# What each one answers; the scripts explain themselves with --help.
BENCHMARKS = {
    "engine_start": "How long does an engine take to start and to close, after the first?",
    "measure_truth": "Does measure report the throughput that vLLM's own benchmark reports? (within 2 %)",
    "sampling_cost": "What does sampling memory 10 and 50 times a second cost? (under 1 % at 10 Hz)",
    "limits": "Decode and prefill as fractions of the roofline, from ceilings measured here; where a decode step's time goes.",
    "planner_accuracy": "How far are the planner's predictions from every recorded configuration?",
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(
            f"There is no benchmark {', '.join(unknown)}. There are: {', '.join(BENCHMARKS)}.",
            file=sys.stderr,
        )
        return 2
    failed = []
    for name in names or BENCHMARKS:
        print(f"\n== {name}: {BENCHMARKS[name]}", flush=True)
        # A process each: an engine's imports and memory must not colour the next one's numbers.
        code = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}"], cwd=Path(__file__).resolve().parents[1]
        ).returncode
        if code:
            failed.append(name)
    if failed:
        print(f"\nTarget missed, or not run: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
