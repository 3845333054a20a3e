"""What was recorded on machines that the student may not have: notebooks/reference/<machine>/.

    for record in records("sweep_max_num_seqs"):
        record["metrics"]["output_tokens_per_s"], record["label"]

A folder for each machine holds the executed notebooks as pages and measurements.jsonl: the records of that run in the
form of helpers/results/store.py, with their provenance. Draw them in another style than the student's own numbers
<<<<<<< HEAD
(helpers.display.figures.hollow_line) and show the label. Written by benchmarks/reference_pages.py.
=======
(helpers.display.figures.hollow_line) and show the label. Written by benchmarks/make_reference.py.
>>>>>>> 9105ac3 (Live views on tqdm, numbers over time without drawings of their own; figures hand on what every plot repeats; tqdm is a requirement)
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from helpers import REPO
from helpers.results import store as results

FOLDER = REPO / "notebooks" / "reference"


def machines(folder: Path | None = None) -> list[str]:
    """The machines that there are records of, the one recorded last first: ["h100"]."""
    found = [path.parent for path in (folder or FOLDER).glob(f"*/{results.FILE_NAME}")]
    newest = lambda place: max(
        (r.get("provenance", {}).get("time_utc", "") for r in _records(place)), default=""
    )
    return [place.name for place in sorted(found, key=lambda p: (newest(p), p.name), reverse=True)]


def records(
    experiment: str,
    variant: str | None = None,
    machine: str | None = None,
    notebook: str | None = None,
    folder: Path | None = None,
) -> list[dict]:
    """Records of an experiment, each with "label" (machine, versions, date, weights) and "recorded_on"; [] when there are none.

    machine: a name of `machines()`; None takes the one recorded last that has the experiment.
    """
    folder = folder or FOLDER
    for name in [machine] if machine else machines(folder):
        rows = [r for r in _records(folder / name) if r["experiment"] == experiment and variant in (None, r["variant"])
                and notebook in (None, r["notebook"])]  # fmt: skip
        if rows:
            return [{**r, "label": label_of(r), "recorded_on": name} for r in rows]
    return []


def curve(experiment: str, by: str | None = None, variants: str = "") -> tuple[list[dict], str]:
    """(the metrics of each variant, with "variant" and in the order of metric `by`, label), for a plot; ([], "") without a record.

    variants: only those whose name begins so.
    """
    rows = [row for row in records(experiment) if row["variant"].startswith(variants)]
    points = [{**r["metrics"], "variant": r["variant"]} for r in rows]
    return sorted(points, key=lambda p: p[by]) if by else points, "recorded: " + rows[0][
        "label"
    ].replace(", ", ",\n") if rows else ""


def label_of(record: dict) -> str:
    """Where a number comes from, in one line: "NVIDIA H100 80GB HBM3, vLLM 0.32.0, Qwen2.5-7B-Instruct (dummy weights), 2026-11-23"."""
    origin = record.get("provenance") or {}
    vllm = f"vLLM {origin['vllm']}" if origin.get("vllm") else None
    model = (
        origin.get("model") and f"{origin['model']} ({origin.get('weights') or 'unknown'} weights)"
    )
    where = origin.get("gpu") or origin.get("machine") or "unknown machine"
    return ", ".join(filter(None, [where, vllm, model, (origin.get("time_utc") or "")[:10]]))


def slug(provenance: dict) -> str:
    """A short name of a machine for its folder: "h100", "2xh200", "cpu"."""
    gpu = provenance.get("gpu")
    if not gpu:
        return "cpu"
    count = re.match(r"(\d+) x ", gpu)
    name = re.search(r"\b([A-Z]{1,4}\d{1,4}[A-Za-z]?)\b", gpu.split(" x ")[-1])
    word = (name[1] if name else re.sub(r"\W+", "-", gpu.split(" x ")[-1])).lower()
    return (f"{count[1]}x" if count else "") + word


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> tuple:
    return tuple(results.latest_of(results.load(path)[0]))


def _records(place: Path) -> tuple:
    path = place / results.FILE_NAME
    return _read(path, path.stat().st_mtime_ns) if path.exists() else ()
