"""Drafters on another machine, as benchmarks/drafters.py recorded them."""

from __future__ import annotations

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
