"""Keep what a benchmark found: one JSON line with its provenance, in results/benchmarks/NAME.jsonl.

benchmarks/records/ holds what the README speaks of; lines get there by hand.
"""

from __future__ import annotations

import os
from pathlib import Path

from helpers import REPO
from helpers.results import store


def records_folder() -> Path:
    """results/benchmarks of this repository, or $BENCHMARK_RECORDS."""
    return Path(os.environ.get("BENCHMARK_RECORDS") or REPO / "results" / "benchmarks")


def keep(name: str, profile, metrics: dict) -> Path:
    """Append a record to NAME.jsonl in ``records_folder()``."""
    path = records_folder() / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    store.append(
        path, {"benchmark": name, "metrics": metrics, "provenance": store.provenance(profile)}
    )
    return path
