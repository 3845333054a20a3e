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
# The last two cells of a row, which a person fills in.
CELLS = {-2: ("output_tokens_per_s", "tokens/s"), -1: ("tpot_ms", "ms")}


def filled_in(results_dir: str | os.PathLike | None = None) -> list[dict]:
    """A dict for each row of the plan with a number in it: "layout" and what was filled in.

    Such as [{"layout": "TP 2", "output_tokens_per_s": 5120.0, "tpot_ms": 9.1}]. A cell
    that holds no number that can be read counts as empty.
    """
    folder = results_folder(results_dir)
    path = folder / DOCUMENT
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    planned = {record["variant"] for record in Facts.of(folder).all("week5_plan")}
    rows = []
    for line in lines:
        cells = [out_of_markdown(c).strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[0] in planned:
            numbers = _numbers(cells)
            rows += [{"layout": cells[0], **numbers}] if numbers else []
    return rows


def _numbers(cells: list[str]) -> dict[str, float]:
    read = {}
    for place, (name, unit) in CELLS.items():
        with contextlib.suppress(NotANumber, IndexError):
            read[name] = read_number(cells[place], unit)
    return read
