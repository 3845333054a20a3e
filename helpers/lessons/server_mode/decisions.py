"""The decision table at the end of notebook 5: a choice, what was measured, what one would do."""

from __future__ import annotations

from helpers.lessons.server_mode import experiments
from helpers.results.store import Results
from helpers.verdicts.gain import Gain

NOT_MEASURED, NOT_DECIDED = "not measured yet", "not decided yet"


def evidence(store: Results) -> dict[str, tuple[str, str, str]]:
    """Each choice by its key: (the choice, what was measured of it this week, what to decide)."""
    return {key: (choice, measured(store), ask) for key, (choice, measured, ask) in _ROWS.items()}


def table(store: Results) -> list[dict]:
    """The choices with what was measured and what the student decided.

    Of the records "decision" and "answer", whose variant is decision_<key>.
    """
    rows = []
    for key in _ROWS:
        about = store.get("decision", key) or {}
        decided = store.get("answer", f"decision_{key}") or {}
        row = {"choice": about.get("choice", ""), "what I measured": about.get("measured", "")}
        rows.append(row | {"what I would do": decided.get("text") or NOT_DECIDED})
    return rows


# --- what was measured ----------------------------------------------------------------------------


def _metrics(store: Results, experiment: str, variant: str) -> dict[str, float]:
    return (store.get(experiment, variant) or {"metrics": {}})["metrics"]


def _number(store: Results, experiment: str, variant: str, name: str) -> float | None:
    return _metrics(store, experiment, variant).get(name)


def _changed(store: Results, name: str) -> str:
    """The range of changed / default of a time that the options of section 8 changed."""
    ratio = Gain.read(_metrics(store, "options", "changed"), f"{name}_over_default_x")
    if ratio is None or ratio.span is None:
        return NOT_MEASURED
    return experiments.said_of(ratio) + " times" * (not ratio.undecided)


def _places(store: Results) -> str:
    ttft, tpot = _changed(store, "ttft_ms_p50"), _changed(store, "tpot_ms_p50")
    changed = "4 places, with a budget of 256 at the same time, against the defaults"
    return f"{changed}, 12 requests at once: TTFT: {ttft}; TPOT: {tpot}"


def _chunks(store: Results) -> str:
    gap, ttft = _changed(store, "gap_ms"), _changed(store, "long_ttft_ms")
    return f"256 against the default: longest gap in a stream: {gap}; a long prompt's TTFT: {ttft}"


def _refused(store: Results) -> str:
    burst = _metrics(store, "burst", "at_the_limit")
    if not burst:
        return NOT_MEASURED
    return "of {sent:.0f} requests at once, a limit of {limit:.0f} refused {refused:.0f}".format(
        **burst
    )


def _load(store: Results) -> str:
    sized = _metrics(store, "sizing", "copies")
    kept_up = _number(store, "capacity", "open_loop", "kept_up_per_s")
    if kept_up is None:
        return NOT_MEASURED
    goal = "the goal held at no rate tried"
    if "good_share" in sized:
        goal = f"of the rates tried the goal held up to {sized['arrivals_per_s']:.4g}/s"
    return f"{goal}; the server kept up with {kept_up:.4g}/s"


_ROWS = {
    "places": (
        "Requests in a step (--max-num-seqs)",
        _places,
        "Which of the two services gets more places?",
    ),
    "chunks": (
        "Tokens in a step (--max-num-batched-tokens)",
        _chunks,
        "Who pays for small steps, and in which service is it worth it?",
    ),
    "admission": (
        "Refuse or let wait (--max-num-queued-reqs)",
        _refused,
        "Whom would you refuse, and what should that client do?",
    ),
    "load": (
        "Load of one copy",
        _load,
        "How much would you give one copy, and what happens when more comes?",
    ),
}
