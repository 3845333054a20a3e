"""The decision table at the end of notebook 5: a choice, what was measured, what one would do."""

from __future__ import annotations

from helpers.display.numbers import number
from helpers.lessons.server_mode import experiments, wording
from helpers.results.store import Results
from helpers.verdicts.gain import Gain

NOT_MEASURED, NOT_DECIDED = "not measured yet", "not decided yet"


def evidence(store: Results) -> dict[str, tuple[str, str, str, str]]:
    """Each choice by its key: (it, what was measured this week, what that says, what to decide)."""
    return {
        key: (choice, measured(store), says(store), ask)
        for key, (choice, measured, says, ask) in _ROWS.items()
    }


def table(store: Results) -> list[dict]:
    """The choices with what was measured, what that says and what the student decided.

    Of the records "decision" and "answer", whose variant is decision_<key>.
    """
    rows = []
    for key in _ROWS:
        about = store.get("decision", key) or {}
        decided = store.get("answer", f"decision_{key}") or {}
        row = {"choice": about.get("choice", ""), "what I measured": about.get("measured", "")}
        row["what these numbers say"] = about.get("says", "")
        rows.append(row | {"what I would do": decided.get("text") or NOT_DECIDED})
    return rows


# --- what was measured ----------------------------------------------------------------------------


def _metrics(store: Results, experiment: str, variant: str) -> dict[str, float]:
    return (store.get(experiment, variant) or {"metrics": {}})["metrics"]


def _ratio(store: Results, name: str) -> Gain | None:
    """Changed / default of a time that the options of section 8 changed; "better" is longer."""
    ratio = Gain.read(_metrics(store, "options", "changed"), f"{name}_over_default_x")
    return ratio if ratio and ratio.span else None


def _changed(store: Results, name: str) -> str:
    ratio = _ratio(store, name)
    if ratio is None:
        return NOT_MEASURED
    return experiments.said_of(ratio) + " times" * (not ratio.undecided)


def _directions(store: Results, when: str, **names: str) -> str:
    """Which way two times went. names: what each is called, by its name."""
    known = {what: _ratio(store, name) for name, what in names.items()}
    if not all(known.values()):
        return ""
    said = (f"{what}: {experiments.direction(ratio)}" for what, ratio in known.items())
    return f"{when} {'; '.join(said)}."


def _places(store: Results) -> str:
    ttft, tpot = _changed(store, "ttft_ms_p50"), _changed(store, "tpot_ms_p50")
    return f"4 places against one for each of 12 requests at once: TTFT: {ttft}; TPOT: {tpot}"


def _places_say(store: Results) -> str:
    names = {
        "ttft_ms_p50": "the wait for the first token",
        "tpot_ms_p50": "the time for the others",
    }
    return _directions(store, "With fewer places,", **names)


def _chunks(store: Results) -> str:
    gap, ttft = _changed(store, "gap_ms"), _changed(store, "long_ttft_ms")
    return (
        f"256 against a larger budget: longest gap in a stream: {gap}; a long prompt's TTFT: {ttft}"
    )


def _chunks_say(store: Results) -> str:
    names = {"gap_ms": "the stop of those who read", "long_ttft_ms": "the long prompt's wait"}
    return _directions(store, "With smaller steps,", **names)


def _bursts(store: Results) -> list[dict[str, float]]:
    """What both limits did to an overload; [] where one was not measured."""
    found = [_metrics(store, "burst", limit) for limit in ("on_average", "at_most")]
    return found if all(found) else []


def _refused(store: Results) -> str:
    bursts = _bursts(store)
    return wording.limited(*bursts) if bursts else NOT_MEASURED


def _refused_say(store: Results) -> str:
    bursts = _bursts(store)
    return wording.who_kept_the_promise(*bursts) if bursts else ""


def _load(store: Results) -> str:
    sized, most = _metrics(store, "sizing", "copies"), _most(store)
    if most is None:
        return NOT_MEASURED
    goal = "the goal held at no rate tried"
    if "good_share" in sized:
        goal = f"of the rates tried the goal held up to {number(sized['arrivals_per_s'])}/s"
    chance = wording.BY_CHANCE * ("by_chance" in sized)
    return f"{goal}{chance}; the server answered up to {number(most)}/s"


def _load_says(store: Results) -> str:
    sized, most = _metrics(store, "sizing", "copies"), _most(store)
    if most is None:
        return ""
    if "good_share" not in sized:
        return "How much one copy can take in time was not found."
    share = f"{100 * sized['arrivals_per_s'] / most:.0f} %"
    held = f"The goal held up to {share} of what one copy answers"
    if "by_chance" not in sized:
        return f"{held}."
    safer = sized.get("safer_per_s")
    beyond = f"up to {100 * safer / most:.0f} %" if safer else "at no rate tried"
    return f"{held}{wording.BY_CHANCE}; {wording.SURER} {beyond}."


def _most(store: Results) -> float | None:
    """The most that was answered a second."""
    return _metrics(store, "capacity", "open_loop").get("answered_per_s")


_ROWS = {
    "places": (
        "Requests in a step (--max-num-seqs)",
        _places,
        _places_say,
        "Which service gets more places? (Section 4 has the tokens/s that the batch job wants.)",
    ),
    "chunks": (
        "Tokens in a step (--max-num-batched-tokens)",
        _chunks,
        _chunks_say,
        "Who pays for small steps, and in which service is it worth it?",
    ),
    "admission": (
        "Refuse or let wait (--max-num-queued-reqs)",
        _refused,
        _refused_say,
        "Whom would you refuse, and what should that client do?",
    ),
    "load": (
        "Load of one copy",
        _load,
        _load_says,
        "How much would you give one copy, and what happens when more comes?",
    ),
}
