"""Drafters on another machine, as benchmarks/drafters.py recorded them."""

from __future__ import annotations

from statistics import median

from helpers.results import recorded


def drafters_elsewhere(kind: str, by: str) -> tuple[dict[str, list[dict]], str]:
    """A drafter's name -> its rows, in the order of `by`.

    kind: "one stream" or "batch". And where that was, in one line; ({}, "") without a record.
    """
    rows, where = recorded.curve("drafters", by, kind)
    by_name: dict[str, list[dict]] = {}
    for row in rows:
        by_name.setdefault(row["variant"].split(", ")[1], []).append(row)
    return by_name, where


def steps_elsewhere() -> list[str]:
    """A sentence: how many times as long a step of one stream took with each drafter; or none."""
    by_name, where = drafters_elsewhere("one stream", "alpha")
    head = {"EAGLE-3 head": "EAGLE-3 head, a layer that reads the model's own hidden states"}
    told = [
        f"{median(row['step_ms'] / row['plain_step_ms'] for row in rows):.1f} "
        f"({head.get(name, name)})"
        for name, rows in by_name.items()
    ]
    if not told:
        return []
    longer = f"with drafts a step took so many times as long: {', '.join(told)}."
    return [f"{where[0].upper()}{where[1:]}: {longer}"]
