"""What notebook 2 says of its numbers: the captions of its figures, and what explains a residual.

Every function takes the rows (or runs) that its figure draws and returns sentences.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from statistics import fmean, median

from helpers.engine.steps import Steps
from helpers.lessons.advanced_features.prefix import Shared, middle_turn
from helpers.lessons.advanced_features.sampling import Generated
from helpers.lessons.advanced_features.services import DRAFTS, Verdict
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
from helpers.results.store import Results
from helpers.verdicts.gain import MARGIN, SMALL, Gain, gain_of_pairs
from helpers.verdicts.machine import busy as busy  # handed on to the notebook

# Of a token's mean log-probability, or of the share of distinct 2-grams: less is no difference.
TIE = 0.01
# A run's usual step that took so many times as long as in every other run is remarked.
UNUSUAL = 1.1
# A batch fills the machine when its step takes so many times as long as a step of one request.
FULL = 2.0

# --- chunked prefill ---


def chunk_tradeoff(rows: list[dict], there: list[dict]) -> list[str]:
    """From whole prompts to the smallest budget, which come first and last in the rows.

    there: recorded rows, the smallest budget first; empty without a record.
    """
    said = [f"In one run each: {_moves(rows)}"]
    return [*said, f"Recorded elsewhere: {_moves(there[::-1])}"] if there else said


def _moves(rows: list[dict]) -> str:
    """Whether each metric fell, rose, or stayed within 3 %, without one that may be slowed.

    That is a run whose usual gap was much longer than in all others.
    """
    *others, slow = sorted(rows, key=lambda row: row["itl_ms_p50"])
    usual_ms = others[-1]["itl_ms_p50"] if others else 0.0
    left_out = len(rows) > 2 and slow["itl_ms_p50"] >= UNUSUAL * usual_ms
    kept = [row for row in rows if not (left_out and row is slow)]
    first, last = kept[0], kept[-1]
    said = []
    for what, metric, unit in (
        ("p99 of the gaps", "itl_ms_p99", "ms"),
        ("TTFT of the long prompts", "ttft_long_ms_p50", "ms"),
        ("throughput", "total_tokens_per_s", "tokens/s"),
    ):
        before, after = first[metric], last[metric]
        move = "rose" if after > before else "fell"
        if max(before, after) <= (1 + MARGIN) * min(before, after):
            move = f"stayed within {100 * MARGIN:.0f} %"
        said.append(f"{what} {move} ({before:,.0f} to {after:,.0f} {unit})")
    begin = "whole prompts" if first is rows[0] else f"{first['max_num_batched_tokens']:,}"
    end = f"{last['max_num_batched_tokens']:,} tokens a step"
    moved = f"from {begin} to {end} {', '.join(said)}."
    if not left_out:
        return moved
    return (
        f"{moved} The run with {slow['max_num_batched_tokens']:,} is left out: its usual gap, too, "
        f"was longer (p50 {slow['itl_ms_p50']:.1f} ms, elsewhere at most {usual_ms:.1f}), so that "
        "budget and machine cannot be told apart."
    )


def brackets(rows: list[dict], promise_ms: float, budget: float) -> str:
    """Whether the budgets tried lie on both sides of one that should just keep a promise."""
    kept, broke = set(), set()
    for row in rows:
        (kept if row["itl_ms_p99"] <= promise_ms else broke).add(row["max_num_batched_tokens"])
    if not kept or not broke:
        return f"{'No' if broke else 'Every'} budget that was tried kept the promise."
    most, least = max(kept), min(broke)
    lies = "between them" if most <= budget <= least else "outside of them"
    return (
        f"In one run each {most:,} kept the promise and {least:,} did not: {budget:,.0f} lies "
        f"{lies}."
    )


def why_gap(alone_ms: list[float], gap_ms: float) -> str:
    """The longest gap with whole prompts. alone_ms: of long prompts alone, the shortest first."""
    said = f"Alone the prompts took {alone_ms[0]:.0f} to {alone_ms[-1]:.0f} ms"
    if alone_ms[0] <= gap_ms <= alone_ms[-1]:
        return f"{said}, and this gap lies among them."
    return f"{said}; what else was in this gap was not measured."


def why_small_gap(steps: Steps, long: int) -> str:
    """The p99 of the gaps with a small budget. steps: a recorded run with it; long: the request."""
    full = [step.end_s for step, work in steps.of(long) if work.prefill][:-1]  # but for the rest
    took_ms = [1000 * (end - before) for before, end in itertools.pairwise(full)]
    said = "The formula takes the average chunk, and the p99 is the longest"
    if len(took_ms) > 1:
        said += f": in the picture above the second took {took_ms[0]:.0f} ms, "
        said += f"the last full one {took_ms[-1]:.0f} ms"
    return f"{said}. Each token attends to all before it."


# --- prefix caching ---


def hits_table(shared: dict[str, Shared]) -> list[dict]:
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


def prefix_hits(shared: dict[str, Shared]) -> list[str]:
    """What the table shows; the last of the requests are those with another first token."""
    every = [one.numbers for one in shared.values()]
    said = ["Prediction and counter differ."]
    if all(numbers["predicted_tokens"] == numbers["hit_tokens"] for numbers in every):
        said = ["Every predicted hit was counted, and no other: whole blocks from the start on."]
    *_, changed = shared.values()
    if changed.gain.verdict in ("better", "worse"):
        said.append("With another first token nothing is found: the machine was disturbed.")
    return said


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
    many = len(full.requests)
    rates = [run.metrics["output_tokens_per_s"] for run in (full, half, gentle)]

    def changed(run: Measurement, rate: float) -> str:
        later = round(100 * (mean_end_s(run) / mean_end_s(full) - 1))
        pushed_out = int(run.counters["num_preemptions"])
        made = round(100 * (rate / rates[0] - 1))
        return f"{pushed_out} preemptions, mean E2E {later:+d} %, tokens/s {made:+d} %"

    said = [
        f"Half of the blocks: {changed(half, rates[1])}. {few} requests at a time on them: "
        f"{changed(gentle, rates[2])}. One run each."
    ]
    if max(rates[1:]) < (1 + SMALL) * min(rates[1:]) and max(rates[1:]) * (1 + SMALL) < rates[0]:
        said.append(
            "So the preempting costs little; that fewer requests share a step does. A token took "
            f"{step_ms(half, few) / few:.2f} ms of a step with {few} requests, "
            f"{step_ms(full, many) / many:.2f} ms of one with {many}."
        )
    return said


def why_preempted(full: Measurement, half: Measurement, few: int) -> str:
    """Why a request did not take as many times longer as it waited for more steps."""
    many = len(full.requests)
    return (
        "The formula counts steps, and takes each for equally long. By their medians a step with "
        f"{many} requests took {step_ms(full, many):.1f} ms, one with {few} "
        f"{step_ms(half, few):.1f} ms. A request waits for more steps, but for shorter ones, "
        "each of which makes fewer tokens. The run with "
        f"{few} at a time has such steps, too, and shows what they bring without preempting. Where "
        "both steps take equally long, as on a GPU that waits for its weights, expect what the "
        "formula says."
    )


def step_ms(run: Measurement, requests: int) -> float:
    """Median time of the steps that made a token for so many requests, without the first step."""
    pairs = itertools.pairwise(run.timeline)
    return 1000 * median(b["t_s"] - a["t_s"] for a, b in pairs if b["tokens"] == requests)


def mean_end_s(run: Measurement) -> float:
    """When a request ended, on average; of all that were there from the start.

    Requests that the client holds back wait there.
    """
    return fmean(request.token_times_s[-1] for request in run.requests)


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
    """Of stories: how their mean chance compares with that of greedy's."""
    (greedy, first), *others = metrics.items()
    chance = first["mean_chance"]
    said = f"Means of {first['stories']} stories, each about somebody else; two that differ only "
    said += "in whom they are about are not counted as different"
    if not chance:
        return f"{said}; of “{greedy}” every one has a fault."
    times = ", ".join(f"{m['mean_chance'] / chance:.1f} with “{name}”" for name, m in others)
    return (
        f"{said}. Chance of a story, in times that of “{greedy}”: {times}. So few stories do not "
        "rank the strategies, and one run each does not rank speeds that lie close together."
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
        "steps that drafted": counted.drafts,
        "acceptance rate": f"{100 * counted.rate:.0f} %" if counted.drafts else "",
        "tokens after the first": f"{gain.sentence()} (middle {gain.estimate:.2f})",
        "whole answer": f"{whole.sentence()} (middle {whole.estimate:.2f})",
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


def _by_verdict(rows: list[dict], name: str) -> str:
    """At which of the rows, by `name`, was a gain or a loss, each with its range."""
    words = {
        "better": "a gain at",
        "worse": "a loss at",
        "same": "no difference at",
        "open": "neither gain nor loss can be told at",
    }
    said = []
    for verdict, at in words.items():
        found = [row for row in rows if row["gain"].verdict == verdict]
        places = ", ".join(f"{row[name]:g} ({in_words(row['gain'])})" for row in found)
        said += [f"{at} {places}"] * bool(found)
    return "; ".join(said)


def batches(rows: list[dict], drafts: int, a: float, tiny: bool = False) -> str:
    """What a sweep over requests at once shows, with so many drafts, accepted with chance `a`.

    rows: dicts with requests, gain, plain_step_ms (a full step). tiny: the model is the one that
    ships.
    """
    one, most = rows[0], rows[-1]
    said = (
        f"Judged by the output tokens/s of a whole run, {drafts} drafts at a = {a:g}, by requests "
        f"at once: {_by_verdict(rows, 'requests')}."
    )
    grown = most["plain_step_ms"] / one["plain_step_ms"]
    if grown >= FULL:
        return said
    why = ", because the model is so small that a step waits for kernels to be launched"
    return (
        f"{said} A plain step of {most['requests']} requests takes only {grown:.1f} times as long "
        f"as a step of one: these batches do not fill the machine{why * tiny}."
    )


def gain_by_acceptance(rows: list[dict], k: int, cost: tuple[float, float], slower: Gain) -> str:
    """What a sweep over acceptance shows. cost: the lowest and the highest c of section 3.

    slower: how many times as long a step took with drafts.
    """
    met = sum(reaches(row["gain"], [formula.speedup(row["a"], k, c) for c in cost]) for row in rows)
    wide = ", but such wide ones say little" * any(row["gain"].wide for row in rows)
    return (
        f"Judged by the median step and the tokens that a step made, by the a that was set: "
        f"{_by_verdict(rows, 'a set')}. The figure before judges one stream by whole runs, "
        "with prompts and slow steps, so its ranges are others. The formula "
        f"with the c of section 3 ({cost[0]:.2f} to {cost[1]:.2f}, the band) meets {met} of "
        f"{len(rows)} ranges{wide}. By the steps of these runs c is {(slower.low - 1) / k:.2f} to "
        f"{(slower.high - 1) / k:.2f}."
    )


def drafters_elsewhere(rows_by_name: dict[str, list[dict]], where: str) -> str:
    """Of drafters_elsewhere: which lost in the largest batch; "" without any."""
    if not rows_by_name:
        return ""
    ends = {name: Gain.read(rows[-1], "speedup_x") for name, rows in rows_by_name.items()}
    last = next(iter(rows_by_name.values()))[-1]
    said = "; ".join(f"{name} {gain.sentence('times the tokens/s')}" for name, gain in ends.items())
    return (
        f" On the right, {where}, {last['requests']} at once: {said}. There, too, a = "
        f"{last['alpha']:g} was set by hand, for all of them. So the panel compares what drafters "
        "cost: on new text n-grams find far less to propose."
    )


# --- services ---

SERVICES_RULE = (
    f"Right of the line is better. Green and orange: the whole range lies more than "
    f"{100 * MARGIN:.0f} % away from 1. Grey shows neither gain nor loss."
)


# What sections 2, 3 and 8 keep of a feature: (feature, where, experiment, how the variant begins,
# name of the gain). The last record counts: of section 8 the largest batch.
NEITHER = "neither, undecided, or one run"
CACHE, CHUNKS, NGRAM = "prefix caching", "small chunks", f"{DRAFTS}, n-grams"
RECAP = (
    (CACHE, "first token, system prompt", "prefix_caching", "system", "ttft_gain_x"),
    (CACHE, "first token, few-shot examples", "prefix_caching", "few-shot ex", "ttft_gain_x"),
    (
        CACHE,
        "first token, examples that begin otherwise",
        "prefix_caching",
        "few-shot, f",
        "ttft_gain_x",
    ),
    (CACHE, "last turn of a chat", "prefix_caching", "conv", "ttft_gain_last_turn_x"),
    (NGRAM, "answers that stand in the prompt", "speculation", "ngram, rep", "tpot_gain_x"),
    (NGRAM, "new questions", "speculation", "ngram, questions", "tpot_gain_x"),
    (DRAFTS, "new questions, one stream", "speculation", "draft model", "tpot_gain_x"),
    (DRAFTS, "largest batch of section 8", "speculation", "synthetic", "throughput_gain_x"),
)


def recap(store: Results, verdicts: list[Verdict], whole: dict, small: dict) -> list[dict]:
    """A line a feature: where it gained, where it lost, and where neither was seen.

    whole, small: rows of the whole prompt in one step and of a small budget.
    """
    seen: dict[str, list] = {feature: [] for feature in (CACHE, CHUNKS, NGRAM, DRAFTS)}
    for feature, where, experiment, begins, name in RECAP:
        found = [
            gain
            for record in store.records(experiment=experiment)
            if record["variant"].startswith(begins) and (gain := Gain.read(record["metrics"], name))
        ]
        seen[feature] += [(where, gain, "") for gain in found[-1:]]
    for where, metric in (
        ("p99 of the gaps, section 1", "itl_ms_p99"),
        ("first token of the long prompts, section 1", "ttft_long_ms_p50"),
    ):
        seen[CHUNKS].append((where, gain_of_pairs([(whole[metric], small[metric])], "lower"), ""))
    for verdict in verdicts:
        for feature, gain in verdict.gains.items():
            cannot = ", cannot act" * (feature in verdict.service.cannot_act)
            seen[feature].append((verdict.service.name, gain, cannot))
    rows = []
    for feature, gains in seen.items():
        cells = {"gains": [], "loses": [], NEITHER: []}
        for where, gain, cannot in gains:
            verdict = "" if cannot else gain.verdict
            column = {"better": "gains", "worse": "loses"}.get(verdict, NEITHER)
            span = in_words(gain) if gain.span else f"{gain.estimate:.2f}, one run"
            undecided = ", undecided" * (column == NEITHER and bool(gain.span) and gain.undecided)
            cells[column].append(f"{where} ({span}{cannot or undecided})")
        name = f"{DRAFTS}, draft model" if feature == DRAFTS else feature
        said = {column: "; ".join(places) or "nowhere seen" for column, places in cells.items()}
        rows.append({"feature": name, **said})
    return rows


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
    """What each feature did, or that it cannot act there."""
    parts = []
    for feature, gain in verdict.gains.items():
        why, share = verdict.service.cannot_act.get(feature), verdict.accepted_of(feature)
        accepted = "" if share is None else f" ({100 * share:.0f} % of the drafts accepted)"
        if why is None:
            parts.append(f"{feature}{accepted}: {gain.sentence('times as good')}")
        elif verdict.of(feature) == "disturbed":
            why = f"it cannot act there ({why}): the machine was disturbed"
            parts.append(f"{feature} came out at {in_words(gain)}, but {why}")
        else:
            parts.append(f"{feature} cannot act there")
    return f"{'; '.join(parts)}."
