"""Which records of Weeks 1 to 3 belong together: those that the last choice was made from.

A student measures the baseline again, or one value of a sweep, or changes the machine, and may stop
before the choice is made anew. Initial, final, improvement and the rows of the sweeps are therefore
selected in one place: what the last choice had before it, in its kernel, with its model.
"""

from __future__ import annotations

from helpers.results.store import key_of, latest_of

CHOICE = ("optimised", "best")
SOURCES = ("baseline", "sweep_max_num_seqs")  # experiments that the choice is made from
OTHER_RUN = "other_run"  # key of a record that the choice was not made from
SETUP = ("session", "machine", "model", "weights", "vllm")


def latest_that_agree(records: list[dict]) -> list[dict]:
    """The last record of each (notebook, experiment, variant); of Weeks 1 to 3 those of one run.

    Where the last choice was made from an earlier record, that one stands for it. A record that it
    was not made from is kept when there is no other, and marked with OTHER_RUN.
    """
    latest = latest_of(records)
    at = max((i for i, r in enumerate(records) if _is_choice(r)), default=None)
    if at is None:
        return latest
    choice = records[at]
    same_setup = [r for r in records[:at] if setup(r) == setup(choice)]
    had = {key_of(r): r for r in same_setup if belongs(r)}
    return [r if not belongs(r) else had.get(key_of(r)) or {**r, OTHER_RUN: True} for r in latest]


def measured_again(records: list[dict]) -> bool:
    """Whether part of it was measured again after the last choice was made."""
    parts = [_is_choice(r) for r in records if _is_choice(r) or belongs(r)]
    return any(parts) and not parts[-1]


def setup(record: dict) -> tuple:
    """The kernel, machine, model and program that a number belongs to."""
    place = record.get("provenance") or {}
    return tuple(place.get(name) for name in SETUP)


def belongs(record: dict) -> bool:
    """Whether a choice is made from such a record: the baseline or the sweep of sequences."""
    experiment, variant = record["experiment"], record["variant"]
    return experiment in SOURCES and (experiment != "baseline" or variant == "one_at_a_time")


def _is_choice(record: dict) -> bool:
    return (record["experiment"], record["variant"]) == CHOICE
