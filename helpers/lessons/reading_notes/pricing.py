"""What a million tokens cost on a machine whose speed is on record."""

from __future__ import annotations

from helpers.results import recorded

SPEEDS = ("recorded", "here")


def throughput(store, which: str) -> tuple[float, str]:
    """Output tokens/s to price, and where it comes from.

    which: "recorded", a 7B on the GPU that came with this workbook, whose price can be compared
    with an API's; or "here", see `throughput_on_record`. Without such a record, the other one.
    Raises ValueError for another word, or without any record.
    """
    if which not in SPEEDS:
        raise ValueError(f"PRICED is {which!r}; it can be {' or '.join(map(repr, SPEEDS))}.")
    ways = {"recorded": recorded_throughput, "here": lambda: throughput_on_record(store)}
    order = sorted(SPEEDS, key=lambda name: name != which)
    found = next(filter(None, (ways[name]() for name in order)), None)
    if found is None:
        raise ValueError("No record has a throughput: run section 2 of this notebook first.")
    return found


def recorded_throughput() -> tuple[float, str] | None:
    """The fastest point of the sweep that notebook 1 draws, recorded on a GPU."""
    rows, where = recorded.curve("sweep_max_num_seqs", by="output_tokens_per_s")
    if not rows:
        return None
    return rows[-1]["output_tokens_per_s"], f"{where}; {_load_of(rows[-1])}"


def _load_of(metrics: dict) -> str:
    """With which requests a speed was measured, and how many at once."""
    requests = metrics["requests"]
    prompt, answer = (metrics[f"{way}_tokens"] / requests for way in ("input", "output"))
    return (
        f"{metrics['variant']} requests at once (one run), prompts of {prompt:,.0f} and "
        f"answers of {answer:,.0f} tokens, TPOT {metrics['tpot_ms_p50']:.3g} ms"
    )


def throughput_on_record(store) -> tuple[float, str] | None:
    """Output tokens/s of this machine and this model, and where they come from.

    The best of notebook 1, else its baseline, else this notebook's own; None without any.
    """
    for experiment, variant, label in (
        ("optimised", "best", "notebook 1, best configuration"),
        ("baseline", "one_at_a_time", "notebook 1, one request at a time"),
        ("continuous_batching", "continuous", "section 2 of this notebook"),
    ):
        record = store.get(experiment, variant)
        if record and (value := record["metrics"].get("output_tokens_per_s")):
            return float(value), label
    return None
