"""What notebook 2 says of its numbers: the captions of its figures, and what explains a residual.

Every function takes the rows (or runs) that its figure draws and returns sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import fmean

from helpers.lessons.advanced_features.prefix import ColdAndWarm, middle_turn
from helpers.lessons.advanced_features.sampling import Generated
from helpers.lessons.advanced_features.services import FEATURES, Verdict
from helpers.lessons.advanced_features.speculation import (
    FEW_DRAFTS,
    Acceptance,
    acceptance,
    faster_stream,
    sooner_answers,
)
from helpers.lessons.gain_ranges import in_words
from helpers.lessons.papers import speculative as formula
from helpers.measure import Measurement
from helpers.verdicts.gain import MARGIN, Gain
from helpers.verdicts.machine import busy as busy  # handed on to the notebook

# Of a token's mean log-probability, or of the share of distinct 2-grams: less is no difference.
TIE = 0.01
# A run's usual step that took so many times as long as in every other run is remarked.
UNUSUAL = 1.2
# A batch fills the machine when its step takes so many times as long as a step of one request.
FULL = 2.0

# --- chunked prefill ---


def longest_gaps(whole: dict, small: dict) -> str:
    """Rows of the whole prompt in one step and of a small budget."""
    return (
        f"In one run each, the longest gap in a stream was {whole['itl_ms_max']:.0f} ms with whole "
        f"prompts and {small['itl_ms_max']:.0f} ms with chunks of at most "
        f"{small['max_num_batched_tokens']:,} tokens."
    )


def chunk_tradeoff(rows: list[dict]) -> str:
    """Rows of all budgets, the whole prompt in one step first: which was best in what."""
    whole = rows[0]

    def best(metric: str, pick: Callable, unit: str) -> str:
        row = pick(rows, key=lambda row: row[metric])
        there = f"{row[metric]:,.0f}{unit}"
        if row is whole:
            return f"with whole prompts ({there})"
        return (
            f"with {row['max_num_batched_tokens']:,} tokens a step ({there}; whole prompts: "
            f"{whole[metric]:,.0f})"
        )

    return (
        f"p99 of the gaps was shortest {best('itl_ms_p99', min, ' ms')}, TTFT of the long prompts "
        f"{best('ttft_long_ms_p50', min, ' ms')}. Throughput was highest "
        f"{best('total_tokens_per_s', max, ' tokens/s')}.{_slow_run(rows)} One run each."
    )


def _slow_run(rows: list[dict]) -> str:
    """A run whose usual gap was much longer than in all others: then the machine may be why."""
    *others, slow = sorted(rows, key=lambda row: row["itl_ms_p50"])
    if not others or slow["itl_ms_p50"] < UNUSUAL * others[-1]["itl_ms_p50"]:
        return ""
    return (
        f" In the run with {slow['max_num_batched_tokens']:,} the usual gap, too, was longer (p50 "
        f"{slow['itl_ms_p50']:.1f} ms, elsewhere at most {others[-1]['itl_ms_p50']:.1f}), so that "
        "budget and machine cannot be told apart there."
    )


def budgets_elsewhere(rows: list[dict]) -> str:
    """Recorded rows of all budgets, the smallest first; "" without a record."""
    if not rows:
        return ""
    least, most = rows[0], rows[-1]
    return (
        f" Recorded elsewhere: with {least['max_num_batched_tokens']:,} tokens a step "
        f"instead of {most['max_num_batched_tokens']:,}, throughput went from "
        f"{most['total_tokens_per_s']:,.0f} to {least['total_tokens_per_s']:,.0f} tokens/s."
    )


def why_gap(together: int, alone_ms: list[float], gap_ms: float) -> str:
    """The longest gap with whole prompts.

    together: long prompts that ended in the same step, of chunking.prompts_together. alone_ms: what
    a long prompt took by itself, the shortest first.
    """
    if together > 1:
        return f"In this run {together} long prompts ended in one step, which reads them all."
    alone = f"Alone the prompts took {alone_ms[0]:.0f} to {alone_ms[-1]:.0f} ms"
    if alone_ms[0] <= gap_ms <= alone_ms[-1]:
        return f"{alone}, and this gap lies among them."
    return f"{alone}; what else was in this gap was not measured."


WHY_SMALL_GAP = (
    "The formula leaves out the decoding in the same step, and chunks late in a prompt attend to "
    "more tokens than the first."
)

# --- prefix caching ---


def hits_table(shared: dict[str, ColdAndWarm]) -> list[dict]:
    """A row for each kind of requests."""
    return [
        {
            "requests": name,
            "prompt tokens": one.numbers["prompt_tokens"],
            "predicted to be found": one.numbers["predicted_tokens"],
            "found": one.numbers["hit_tokens"],
            "first token with the cache": one.gain.sentence("times as soon"),
        }
        for name, one in shared.items()
    ]


def prefix_hits(shared: dict[str, ColdAndWarm]) -> list[str]:
    """Of the system prompt, few-shot examples, and those with another first token."""
    every = [one.numbers for one in shared.values()]
    exact = all(numbers["predicted_tokens"] == numbers["hit_tokens"] for numbers in every)
    _, few_shot, changed = (one.gain for one in shared.values())
    counted = "Prediction and counter differ."
    if exact:
        counted = "Every predicted hit was counted, and no other: whole blocks from the start on."
    other = f"With another first token in front: {changed.sentence('times as soon')}."
    if changed.verdict in ("better", "worse"):
        other += " Nothing was found there, so that is the machine, which was disturbed."
    found = few_shot.sentence("times as soon")
    return [counted, f"The first token with few-shot examples in the cache: {found}.", other]


def full_blocks(shared_tokens: int, block_size: int) -> str:
    """How many full blocks a shared prefix fills."""
    blocks, rest = divmod(shared_tokens, block_size)
    said = f"{shared_tokens:,} tokens fill {blocks} blocks of {block_size}"
    if not rest:
        return f"{said} exactly."
    return f"{said}; the other {rest} lie in a block that each request fills in its own way."


def conversation(rows: list[dict], share: float) -> str:
    """Rows of turns; share: of all prompt tokens, those that were found (0 to 1)."""
    first, *_, last = rows
    middle = middle_turn(rows)
    return (
        f"{100 * share:.0f} % of all prompt tokens were found. The first token at turn "
        f"{middle['turn']}: {middle['gain'].sentence('times as soon')}; at turn {last['turn']}: "
        f"{last['gain'].sentence('times as soon')}; at turn 1, where nothing is found: "
        f"{first['gain'].sentence('times as soon')}."
    )


# --- memory ---


def preemption(full: Measurement, half: Measurement, gentle: Measurement, few: int) -> list[str]:
    """Runs with all blocks, with half of them, and with half and `few` requests at a time."""
    pushed_out = int(half.counters["num_preemptions"])
    ended_s = sorted(request.token_times_s[-1] for request in half.requests)
    early_s, late_s = ended_s[len(ended_s) // 2 - 1], ended_s[-1]

    def rate(run: Measurement) -> str:
        return f"{run.metrics['output_tokens_per_s']:,.0f} tokens/s"

    return [
        f"{pushed_out} preemptions with half of the blocks: half of the requests were done after "
        f"{early_s:.2f} s and all after {late_s:.2f} s, with all blocks after "
        f"{full.duration_s:.2f} s. On average a request took {mean_end_s(half):.2f} s instead of "
        f"{mean_end_s(full):.2f} s; {rate(half)} instead of {rate(full)}.",
        f"Half of the blocks, {few} requests at a time: "
        f"{int(gentle.counters['num_preemptions'])} preemptions, {mean_end_s(gentle):.2f} s on "
        f"average, {rate(gentle)}. One run each.",
    ]


def mean_end_s(run: Measurement) -> float:
    """When a request ended, on average; of all that were there from the start.

    Requests that the client holds back wait there.
    """
    return fmean(request.token_times_s[-1] for request in run.requests)


WHY_PREEMPTION = (
    "The formula takes all steps for equally long. Steps with fewer requests are shorter; those in "
    "which preempted requests read their tokens again are longer."
)


# --- sampling ---


def strategies(runs: list[Generated]) -> str:
    """The likeliest texts and variety. Greedy comes first in runs, beam search last."""
    metrics = {run.name: run.metrics for run in runs}
    if runs[0].heroes:
        return _told(metrics)
    variety = sorted((m["distinct_2grams"], name) for name, m in metrics.items())
    (least, least_name), (most, most_name) = variety[0], variety[-1]
    varied = f"the share of distinct 2-grams differs by no more than {TIE:g}"
    if most - least > TIE:
        varied = (
            f"distinct 2-grams went from {least:.2f} (“{least_name}”) to {most:.2f} (“{most_name}”)"
        )
    return f"{_likeliest(metrics)}; {varied}. One run each."


def _told(metrics: dict[str, dict]) -> str:
    """Of stories: whether beam search found likelier ones than greedy."""
    greedy, *_, beam = metrics.values()
    said = f"{greedy['stories']} stories each, every one about somebody else."
    if not beam["mean_chance"] > greedy["mean_chance"] > 0:
        return f"{said} Beam search found none that are likelier than greedy's."
    times = beam["mean_chance"] / greedy["mean_chance"]
    return (
        f"Under the grammar the stories of beam search are {times:.1f} times as likely as those of "
        f"greedy: beams look ahead. {said}"
    )


def _likeliest(metrics: dict[str, dict]) -> str:
    most = max(m["mean_logprob"] for m in metrics.values())
    names = [f"“{name}”" for name, m in metrics.items() if m["mean_logprob"] > most - TIE]
    if len(names) == len(metrics):
        return "All texts are equally likely: the model is sure of these answers"
    equally = ", equally likely" if len(names) > 1 else ""
    return f"The likeliest texts came from {' and from '.join(names)}{equally}"


def why_beams(ratio: float) -> str:
    """Greedy over beam search in tokens/s: measured over predicted."""
    if ratio > 1:
        return (
            "Four beams are four times the tokens, and LLM.beam_search sends every beam back as a "
            "new request for each token."
        )
    return "A step for four times the requests takes less than four times as long."


# --- speculation ---


def drafter(
    name: str, asked: str, plain: list[Measurement], drafting: list, k: int, unprepared: bool
) -> dict[str, str | int]:
    """What a drafter did for one kind of questions, and why it gained or lost: a table's row.

    unprepared: the engine without drafts prepares its next step during a step, this one does not.
    """
    counted, gain = acceptance(drafting[:1], k), faster_stream(plain, drafting)
    whole = sooner_answers(plain, drafting)
    return {
        "drafter": name,
        "asked": asked,
        "drafts": counted.drafts,
        "acceptance rate": f"{100 * counted.rate:.0f} %" if counted.drafts else "",
        "tokens after the first": gain.sentence(),
        "whole answer": whole.sentence(),
        "why": _why_drafts(counted, gain, unprepared),
    }


def _why_drafts(counted: Acceptance, gain: Gain, unprepared: bool) -> str:
    made = f"A step that drafted made {counted.mean_length:.2f} tokens on average"
    said = f"{made}."
    if counted.drafts < FEW_DRAFTS:
        said = "The drafter found hardly anything to propose, so there is nothing to gain."
        if gain.verdict == "worse":
            said += " In every step vLLM searches, and makes ready to check drafts, all the same."
    if gain.verdict == "better" and counted.mean_length < gain.low:
        return f"{made}, which cannot explain such a gain: the machine was disturbed."
    if unprepared and gain.verdict != "better":
        said += " Asynchronous scheduling is off with this drafter, which costs time too."
    return said


def equality(counted: dict[str, int]) -> str:
    """counted: answers, and how many of them are equal with and without drafts."""
    said = f"{counted['equal']} of {counted['answers']} answers are the same, token by token."
    if counted["equal"] == counted["answers"]:
        return said
    return (
        f"{said} Steps of another shape round differently in bfloat16; where two tokens are nearly "
        "equally likely, that decides."
    )


def reaches(gain: Gain, values: Iterable[float]) -> bool:
    """Whether the measured range and that of these values have a part in common."""
    return gain.low <= max(values) and gain.high >= min(values)


def batches(rows: list[dict], drafts: int, a: float, tiny: bool = False) -> str:
    """What a sweep over requests at once shows, with so many drafts, accepted with chance `a`.

    rows: dicts with requests, gain, plain_step_ms (a full step). tiny: the model is the one that
    ships.
    """
    one, most = rows[0], rows[-1]
    lost, undecided = (
        ", ".join(str(row["requests"]) for row in rows if row["gain"].verdict == verdict)
        for verdict in ("worse", "open")
    )
    loss = (
        f"A loss at {lost} at once"
        if lost
        else f"No loss was seen up to {most['requests']} at once"
    )
    said = f"{loss}{f', undecided at {undecided}' * bool(undecided)}: {drafts} drafts at a = {a:g} "
    said += "gave " + " and ".join(
        f"{in_words(row['gain'])} times the tokens/s at {row['requests']}" for row in (one, most)
    )
    grown = most["plain_step_ms"] / one["plain_step_ms"]
    if grown >= FULL:
        return f"{said}."
    said += (
        f". A plain step of {most['requests']} requests takes only {grown:.1f} times as long as a "
        "step of one: these batches do not fill the machine"
    )
    why = ", because the model is so small that a step waits for kernels to be launched"
    return f"{said}{why * tiny}."


def gain_by_acceptance(rows: list[dict], k: int, cost: tuple[float, float]) -> str:
    """What a sweep over acceptance shows. cost: the lowest and the highest c of section 3."""
    gained, lost = (
        [row["a set"] for row in rows if row["gain"].verdict == verdict]
        for verdict in ("better", "worse")
    )
    said = f"A gain from a = {min(gained):g} on" if gained else "At no a was a gain seen"
    said += f", a loss up to {max(lost):g}" if lost else ""
    last = rows[-1]
    said += f"; at a = {last['a set']:g}: {last['gain'].sentence()}. "
    met = sum(reaches(row["gain"], [formula.speedup(row["a"], k, c) for c in cost]) for row in rows)
    wide = ", but such wide ones say little" * any(row["gain"].wide for row in rows)
    return f"{said}The formula with the c of section 3 meets {met} of {len(rows)} ranges{wide}."


def drafters_elsewhere(rows_by_name: dict[str, list[dict]], where: str) -> str:
    """Of drafters_elsewhere: which lost in the largest batch; "" without any."""
    if not rows_by_name:
        return ""
    ends = {name: Gain.read(rows[-1], "speedup_x") for name, rows in rows_by_name.items()}
    most = next(iter(rows_by_name.values()))[-1]["requests"]
    said = "; ".join(f"{name} {gain.sentence('times the tokens/s')}" for name, gain in ends.items())
    return f" Hollow, {where}, {most} at once: {said}."


# --- services ---

SERVICES_RULE = (
    f"Right of the line is better. Green and orange: the whole range lies more than "
    f"{100 * MARGIN:.0f} % away from 1. Grey decides nothing."
)


def services(verdicts: list[Verdict]) -> list[str]:
    """One line a feature: for which services it was better or worse, all others left out."""
    said = []
    for feature in FEATURES[1:]:
        parts = []
        for word in ("better", "worse"):
            found = [one for one in verdicts if one.of(feature) == word]
            named = [f"{one.service.name} ({in_words(one.gains[feature])} times)" for one in found]
            parts += [f"{word} for {' and '.join(named)}"] * bool(named)
        said.append(f"{feature}: {'; '.join(parts) or 'nothing to choose by'}.")
    return said


def decisions(verdicts: list[Verdict], rows: list[dict]) -> dict[str, tuple[str, str]]:
    """What is to decide, by its key, and what the numbers say of it. rows: of the chunk budgets."""
    choices = {
        one.service.key: (f"{one.service.name}, by {one.service.metric_label}", numbers_say(one))
        for one in verdicts
    }
    chunks = "chunk budget of a service that streams (max_num_batched_tokens)"
    gaps = ", ".join(
        f"{row['itl_ms_p99']:.0f} ms with {row['max_num_batched_tokens']:,}" for row in rows
    )
    said = f"p99 of the gaps in a stream, one run each: {gaps} tokens a step."
    return choices | {"chunk_budget": (chunks, said)}


def numbers_say(verdict: Verdict) -> str:
    """What each feature did that can act there, and what only a disturbed machine explains."""
    parts = []
    for feature, gain in verdict.gains.items():
        why, share = verdict.service.cannot_act.get(feature), verdict.accepted_of(feature)
        accepted = "" if share is None else f" ({100 * share:.0f} % of the drafts accepted)"
        if why is None:
            parts.append(f"{feature}{accepted}: {gain.sentence('times as good')}")
        elif verdict.of(feature) == "disturbed":
            why = f"it cannot act there ({why}): the machine was disturbed"
            parts.append(f"{feature} came out at {in_words(gain)}, but {why}")
    return f"{'; '.join(parts)}."
