"""The planner against what others published; nothing was fitted to it."""

import json

from benchmarks.planner import RECORDS
from benchmarks.planner.clients import Load
from helpers import planning as plan
from helpers.planning.load import play_burst

FILE = RECORDS / "published.json"
IN_WORDS = {"tpot_ms": "TPOT, ms", "burst_s": "all answered, s"}


def rows() -> list[dict]:
    """The published numbers, each with what the planner says of it and the error."""
    found = []
    for row in json.loads(FILE.read_text())["rows"]:
        predicted = _predicted(row)
        found.append({**row, "predicted": predicted, "error": predicted / row["value"] - 1})
    return found


def _predicted(row: dict) -> float:
    shape, box = plan.load_shape(row["model"]), plan.make_box(row["gpu"], row["tp"])
    memory = plan.plan_memory(shape, box, row["tp"], options=plan.EngineOptions(**row["options"]))
    load = Load.read(row["load"])
    mix = plan.RequestMix(load.input_tokens, load.output_tokens, load.clients)
    if row["quantity"] == "tpot_ms":
        p = plan.predict_speed(shape, box, row["tp"], workload=mix, memory=memory)
        return p.tpot_s * 1e3
    steps = plan.Steps(shape, box, row["tp"], options=memory.options)
    at_once = memory.at_once(load.input_tokens + load.output_tokens)
    return play_burst(steps, mix, load.clients, at_once).duration_s


def table() -> list[list[str]]:
    """Cells of the report, row by row."""
    return [
        [
            row["model"],
            f"{row['tp']} x {row['gpu']}",
            row["load"],
            IN_WORDS[row["quantity"]],
            f"{row['value']:g}",
            f"{row['predicted']:.2f}",
            f"{row['error']:+.1%}",
            row["source"],
        ]
        for row in rows()
    ]
