"""The decision table at the end of notebook 5: a choice, what was measured, what one would do."""

from __future__ import annotations

from helpers.display.numbers import number
from helpers.lessons.server_mode import experiments, wording
from helpers.results.store import Results
from helpers.verdicts.gain import Gain

NOT_MEASURED, NOT_DECIDED = "not measured yet", "not decided yet"


def evidence(store: Results) -> dict[str, tuple[str, str, str]]:
    """Each choice by its key: (it, what was measured this week, what to decide)."""
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


def _changed(store: Results, name: str, times: str = "times as long") -> str:
    """Changed / default of a number that the options of section 8 changed; "better" is more."""
    ratio = Gain.read(_metrics(store, "options", "changed"), f"{name}_over_default_x")
    if not ratio or not ratio.span:
        return NOT_MEASURED
    return experiments.said_of(ratio) + f" {times}" * bool(experiments.span_of(ratio))


def _places(store: Results) -> str:
    ttft, tpot = _changed(store, "ttft_ms_p50"), _changed(store, "tpot_ms_p50")
    tokens = _changed(store, "output_tokens_per_s", "times as many")
    said = "10 requests at once, with 4 places against a place for each: "
    return f"{said}TTFT: {ttft}; TPOT: {tpot}; output tokens/s: {tokens}"


def _chunks(store: Results) -> str:
    gap, ttft = _changed(store, "gap_ms"), _changed(store, "long_ttft_ms")
    default = (store.get("options", "default") or {}).get("engine_args") or {}
    budget = default.get("max_num_batched_tokens", "a larger budget")
    return f"256 against {budget}: longest gap in a stream: {gap}; a long prompt's TTFT: {ttft}"


def _refused(store: Results) -> str:
    burst = _metrics(store, "burst", "at_most")
    return wording.limited(burst) if burst else NOT_MEASURED


def _load(store: Results) -> str:
    sized = _metrics(store, "sizing", "copies")
    most = _metrics(store, "capacity", "closed_loop").get("answered_per_s")
    if most is None:
        return NOT_MEASURED
    said = f"of a capacity of {number(most)}/s the goal held at "
    said += f"{number(sized['arrivals_per_s'])}/s" if "good_share" in sized else "no rate tried"
    if "missed_per_s" in sized:
        said += f", was missed at {number(sized['missed_per_s'])}/s"
        said += ", and is open between them" * ("good_share" in sized)
    if burst := _metrics(store, "burst", "at_most"):
        good, limit = number(burst["goodput_per_s"]), burst["limit"]
        said += f"; overloaded, with a limit of {limit:.0f}, {good}/s came in time"
    return said


_ROWS = {
    "places": (
        "Requests in a step (--max-num-seqs)",
        _places,
        "Which service gets more places, by which of these numbers?",
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
