"""What was recorded on machines that the student may not have: notebooks/reference/<machine>/.

    rows, label = recorded.curve("sweep_max_num_seqs", by="tpot_ms_p50")

A folder for each machine holds the executed notebooks as pages and measurements.jsonl: the records
of that run as helpers/results/store.py writes them. Draw them in another style than the student's
own numbers (helpers.display.figures.hollow_line) and show the label. Written by
benchmarks/reference_pages.py.
"""

from __future__ import annotations

from helpers import REPO
from helpers.results import store

FOLDER = REPO / "notebooks" / "reference"


def curve(experiment: str, by: str | None = None, variants: str = "") -> tuple[list[dict], str]:
    """An experiment's numbers and where they are from, for a plot; ([], "") without a record.

    Returns (the metrics of each variant that begins with `variants`, with "variant", in the order
    of metric `by`; a label in one line). Of several machines the one recorded last counts.
    """
    rows = [r for r in records(experiment) if r["variant"].startswith(variants)]
    if not rows:
        return [], ""
    points = [{**r["metrics"], "variant": r["variant"]} for r in rows]
    label = f"recorded: {label_of(rows[0])}"
    return sorted(points, key=lambda point: point[by]) if by else points, label


def records(experiment: str) -> list[dict]:
    """The records of an experiment on the machine recorded last that has it; [] without any."""
    runs = [store.latest_of(store.load(path)[0]) for path in FOLDER.glob(f"*/{store.FILE_NAME}")]
    found = [[r for r in run if r["experiment"] == experiment] for run in runs]
    return max(filter(None, found), key=lambda rows: max(map(_time_of, rows)), default=[])


def _time_of(record: dict) -> str:
    return (record.get("provenance") or {}).get("time_utc") or ""


def label_of(record: dict) -> str:
    """Where a number comes from, in one line.

    Such as "NVIDIA H100 80GB HBM3, vLLM 0.32.0, Qwen2.5-7B-Instruct (dummy weights), 2026-11-23".
    """
    origin = record.get("provenance") or {}
    vllm = f"vLLM {origin['vllm']}" if origin.get("vllm") else None
    weights = origin.get("weights") or "unknown"
    model = f"{origin['model']} ({weights} weights)" if origin.get("model") else None
    where = origin.get("gpu") or origin.get("machine") or "unknown machine"
    return ", ".join(filter(None, [where, vllm, model, _time_of(record)[:10]]))
