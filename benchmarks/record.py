"""Keep what a benchmark found: one JSON line with its provenance, in results/benchmarks/NAME.jsonl.

benchmarks/records/ holds what the README speaks of; lines get there by hand.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from helpers import REPO
from helpers.display.numbers import number
from helpers.results import store


def records_folder() -> Path:
    """results/benchmarks of this repository, or $BENCHMARK_RECORDS."""
    return Path(os.environ.get("BENCHMARK_RECORDS") or REPO / "results" / "benchmarks")


def keep(name: str, profile, metrics: dict) -> None:
    """Append a record to NAME.jsonl in ``records_folder()``, and print it (a list: its length)."""
    path = records_folder() / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {"benchmark": name, "metrics": metrics, "provenance": store.provenance(profile)}
    store.append(path, found)
    shown = {
        key: f"[{len(value)}]" if isinstance(value, (list, dict)) else number(value)
        for key, value in metrics.items()
    }
    print(f"{name}:", ", ".join(f"{key} {value}" for key, value in shown.items()), flush=True)


def read(path: Path) -> list[dict]:
    """The records of one file, in order; [] without one. A line that was cut off is skipped."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            print(f"{path.name}: a line was skipped that is cut off, or not JSON.")
    return rows
