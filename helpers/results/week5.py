"""What Week 5 measured, read back from the table at the end of distributed_planning.md."""

from __future__ import annotations

import contextlib
import os
import re

from helpers.display.as_typed import out_of_markdown
from helpers.display.numbers import NotANumber, read_number
from helpers.results.facts import Facts
from helpers.results.store import results_folder

DOCUMENT = "distributed_planning.md"
# The cells of a row that a person fills in, by the heads of their columns.
CELLS = {
    "measured tokens/s": ("output_tokens_per_s", "tokens/s"),
    "measured TPOT ms": ("tpot_ms", "ms"),
    "measured TTFT ms": ("ttft_ms", "ms"),
}
PLANNED = " (the plan)"  # behind the name of the layout that was chosen


def filled_in(results_dir: str | os.PathLike | None = None) -> list[dict]:
    """A dict for each row of the plan with a number in it: "layout" and what was filled in.

    Such as [{"layout": "TP 2", "output_tokens_per_s": 5120.0, "tpot_ms": 9.1}]. A cell
    that holds no number that can be read counts as empty.
    """
    folder = results_folder(results_dir)
    path = folder / DOCUMENT
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    planned = {record["variant"] for record in Facts.of(folder).all("week5_plan")}
    rows, heads = [], []
    for line in lines:
        cells = [out_of_markdown(c).strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        layout = cells[0].removesuffix(PLANNED) if cells else ""
        if layout == "layout":
            heads = cells
        elif layout in planned and len(cells) == len(heads):
            numbers = _numbers(dict(zip(heads, cells, strict=True)))
            rows += [{"layout": layout, **numbers}] if numbers else []
    return rows


def _numbers(cells: dict[str, str]) -> dict[str, float]:
    read = {}
    for head, (name, unit) in CELLS.items():
        with contextlib.suppress(NotANumber, KeyError):
            read[name] = read_number(cells[head], unit)
    return read
