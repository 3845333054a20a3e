"""The decision table at the end of notebook 5: a choice, what was measured, what one would do."""

from __future__ import annotations

from helpers.results.store import Results

NOT_MEASURED, NOT_DECIDED = "not measured yet", "not decided yet"


def evidence(store: Results) -> dict[str, tuple[str, str]]:
    """Each choice by its key: (the choice, what was measured of it this week), both in words."""
    return {key: (choice, sentence(store)) for key, (choice, sentence) in _ROWS.items()}


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


def _number(store: Results, experiment: str, variant: str, name: str) -> float | None:
    return (store.get(experiment, variant) or {"metrics": {}})["metrics"].get(name)


def _range(store: Results, experiment: str, variant: str, name: str) -> str:
    low, high = (_number(store, experiment, variant, f"{name}_{end}") for end in ("low", "high"))
    if low is None or high is None:
        return NOT_MEASURED
    open_ = " (undecided)" if low <= 1 <= high else ""
    return f"{low:.2f} to {high:.2f} times{open_}"


def _changed(store: Results, name: str) -> str:
    return _range(store, "options", "changed", f"{name}_over_default_x")


def _places(store: Results) -> str:
    ttft, tpot = _changed(store, "ttft_ms_p50"), _changed(store, "tpot_ms_p50")
    return f"4 places against the default, 12 clients: TTFT {ttft}; TPOT {tpot}"


def _chunks(store: Results) -> str:
    gap, ttft = _changed(store, "gap_ms"), _changed(store, "long_ttft_ms")
    return f"256 against the default: longest gap in a stream {gap}; a long prompt's TTFT {ttft}"


def _prefixes(store: Results) -> str:
    on, off = (
        _number(store, "options", variant, "ttft_again_x") for variant in ("default", "changed")
    )
    if on is None or off is None:
        return NOT_MEASURED
    return f"TTFT of a prompt again / the first time: {on:.2f} with the cache, {off:.2f} without"


def _refused(store: Results) -> str:
    refused = _number(store, "options", "changed", "refused")
    if refused is None:
        return NOT_MEASURED
    return f"of 32 requests at once, a limit of 16 refused {refused:.0f}"


def _load(store: Results) -> str:
    rate = _number(store, "sizing", "goal_met", "arrivals_per_s")
    kept_up = _number(store, "capacity", "open_loop", "kept_up_per_s")
    if kept_up is None:
        return NOT_MEASURED
    goal = "the goal held at no rate tried" if rate is None else f"the goal held at {rate:.4g}/s"
    return f"{goal}; the server kept up with {kept_up:.4g}/s"


def _server(store: Results) -> str:
    share = _range(store, "server", "all_at_once", "server_share_x")
    return f"the server's tokens/s over the notebook's: {share}"


def _stop(store: Results) -> str:
    said = []
    for variant, timeout in (("no_timeout", "0 s"), ("timeout_30_s", "30 s")):
        complete = _number(store, "shutdown", variant, "complete")
        streams = _number(store, "shutdown", variant, "streams")
        if complete is not None and streams is not None:
            said.append(f"with {timeout}, {complete:.0f} of {streams:.0f} streams were complete")
    return "; ".join(said) or NOT_MEASURED


_ROWS = {
    "places": ("Requests in a step (--max-num-seqs)", _places),
    "chunks": ("Tokens in a step (--max-num-batched-tokens)", _chunks),
    "prefixes": ("Prefix caching", _prefixes),
    "admission": ("Refuse or let wait (--max-num-queued-reqs)", _refused),
    "load": ("Load of one copy", _load),
    "server": ("Server or engine in the program", _server),
    "shutdown": ("Time to stop (--shutdown-timeout)", _stop),
}
