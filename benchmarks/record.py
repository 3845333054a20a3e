"""Keep what a benchmark found: one JSON line with its provenance, in benchmarks/records/NAME.jsonl."""

from __future__ import annotations

import os
from pathlib import Path

from helpers import results


def keep(name: str, profile, metrics: dict, folder: str | os.PathLike | None = None) -> Path:
    """Append a record. folder: where (default benchmarks/records, or $BENCHMARK_RECORDS)."""
    base = Path(folder or os.environ.get("BENCHMARK_RECORDS") or Path(__file__).parent / "records")
    base.mkdir(parents=True, exist_ok=True)
    path = base / f"{name}.jsonl"
    results.append(path, {"benchmark": name, "metrics": metrics, "provenance": results.provenance(profile)})
    return path
