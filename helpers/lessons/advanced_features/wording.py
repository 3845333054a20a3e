"""What notebook 2 says of its numbers: the captions of its figures, and what explains a residual.

Every function takes the rows (or runs) that its figure draws and returns sentences.
"""

from __future__ import annotations

import itertools
from statistics import fmean, median

from helpers.engine.steps import Steps
from helpers.lessons.advanced_features.prefix import Shared
from helpers.lessons.advanced_features.sampling import Generated
from helpers.lessons.advanced_features.services import CACHE, CHUNKS, DRAFTS, Verdict
from helpers.lessons.advanced_features.speculation import acceptance, faster_stream
from helpers.lessons.gain_ranges import in_words
from helpers.measure import Measurement
from helpers.results.store import Results
from helpers.verdicts.gain import MARGIN, Gain
from helpers.verdicts.machine import busy as busy  # handed on to the notebook

# Of a token's mean log-probability, or of the share of distinct 2-grams: less is no difference.
TIE = 0.01
BUDGET = "max_num_batched_tokens"

# --- chunked prefill ---


def chunk_tradeoff(
    whole: dict, small: dict, alone_ms: list[float], there: list[dict], where: str
) -> list[str]:
    """From whole prompts to a small budget: two rows.

    alone_ms: of long prompts alone, the shortest first; one run moves by as much without a cause.
    there, where: recorded rows, the smallest budget first, and their label; empty without a record.
    """
    said = [f"In one run each: {_moves(whole, small, alone_ms[-1] / alone_ms[0])}"]
    if there:
        same = min(there, key=lambda row: abs(row[BUDGET] - small[BUDGET]))
        said.append(f"{where[0].upper()}{where[1:]}: {_moves(there[-1], same)}")
    return said


def _moves(whole: dict, small: dict, alone: float = 1.0) -> str:
    """Whether each metric fell, rose, or stayed within 3 %; TTFT within what prompts alone do."""
    said = []
    for what, metric, by_chance in (
        ("p99 of the gaps", "itl_ms_p99", 1.0),
        ("TTFT of the long prompts", "ttft_long_ms_p50", alone),
    ):
        before, after = whole[metric], small[metric]
        move = "rose" if after > before else "fell"
        if max(before, after) <= (1 + MARGIN) * min(before, after):
            move = f"stayed within {100 * MARGIN:.0f} %"
        elif max(before, after) <= by_chance * min(before, after):
            move = "moved no more than prompts alone differ"
        said.append(f"{what} {move} ({before:,.0f} to {after:,.0f} ms)")
    return f"from whole prompts to {small[BUDGET]:,} tokens a step {', '.join(said)}."


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
    said = "The formula takes the average chunk"
    if len(took_ms) > 1:
        said += f". In the step chart the second took {took_ms[0]:.0f} ms, the last full one "
        said += f"{took_ms[-1]:.0f} ms"
        if took_ms[-1] > took_ms[0]:
            said += ": it attends to all tokens before it"
    return f"{said}."


# --- prefix caching ---


def hits_table(shared: dict[str, Shared]) -> list[dict]:
    """A row for each kind of requests."""
    return [
        {
            "requests": name,
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
    last = rows[-1]
    return (
        f"{100 * share:.0f} % of all prompt tokens were found. The first token of turn "
        f"{last['turn']}: {last['gain'].sentence('times as soon')}."
    )


# --- memory ---


def preemption(full: Measurement, half: Measurement, gentle: Measurement, few: int) -> str:
    """Runs with all blocks, with half of them, and with half and `few` requests at a time."""

    def changed(run: Measurement) -> str:
        later = round(100 * (mean_end_s(run) / mean_end_s(full) - 1))
        speed = "output_tokens_per_s"
        made = round(100 * (run.metrics[speed] / full.metrics[speed] - 1))
        pushed_out = int(run.counters["num_preemptions"])
        return f"{pushed_out} preemptions, mean end {later:+d} %, tokens/s {made:+d} %"

    return (
        "In one run each, a request's end counted from the start of the run: half of the blocks "
        f"{changed(half)}; {few} requests at a time on them {changed(gentle)}."
    )


def why_preempted(full: Measurement, half: Measurement, few: int) -> str:
    """Why a request did not take as many times longer as it waited for more steps."""
    many = len(full.requests)
    return (
        "The formula counts steps, and takes each for equally long. By their medians a step with "
        f"{many} requests took {step_ms(full, many):.1f} ms, one with {few} "
        f"{step_ms(half, few):.1f} ms."
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
    """Of stories: how they were counted."""
    stories = next(iter(metrics.values()))["stories"]
    return (
        f"{stories} stories, each about somebody else; two that differ only in whom they are about "
        "are not counted as different. So few do not rank the strategies."
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
    name: str, asked: str, plain: list[Measurement], drafting: list, k: int
) -> dict[str, str | int]:
    """What a drafter did for one kind of questions: a table's row."""
    counted, gain = acceptance(drafting[:1], k), faster_stream(plain, drafting)
    share = f"{counted.accepted:,} of {counted.drafted:,} ({100 * counted.rate:.0f} %)"
    return {
        "drafter": name,
        "asked": asked,
        "steps that drafted": counted.drafts,
        "accepted": share if counted.drafts else "none drafted",
        "tokens of such a step": f"{counted.mean_length:.2f}" if counted.drafts else "",
        "speed-up": gain.sentence(),
    }


def equality(counted: dict[str, int]) -> str:
    """counted: answers, and how many of them are equal with and without drafts."""
    said = f"{counted['equal']} of {counted['answers']} answers are the same, token by token."
    if counted["equal"] == counted["answers"]:
        return said
    return (
        f"{said} Steps of another shape round differently in bfloat16; where two tokens are nearly "
        "equally likely, that decides."
    )


def by_verdict(rows: list[dict], name: str) -> str:
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
        places = ", ".join(f"{round(row[name], 2):g} ({in_words(row['gain'])})" for row in found)
        said += [f"{at} {places}"] * bool(found)
    return "; ".join(said)


# --- services ---


def services(accepted: list[float]) -> str:
    """The caption of the services. accepted: shares of drafts, one a service (0 to 1)."""
    percent = {round(100 * share) for share in accepted}
    shares = " to ".join(str(end) for end in sorted({min(percent), max(percent)}))
    return (
        "Right of the line is better; only what lies whole more than "
        f"{100 * MARGIN:.0f} % to one side of it has a colour. Of the drafts {shares} % were "
        "accepted."
    )


# What other sections keep of a feature: (feature, where, experiment, how the variant begins, name
# of the gain). The last record counts: of section 8 the largest batch.
NGRAM = f"{DRAFTS}, n-grams"
RECAP = (
    (CACHE, "first token, system prompt", "prefix_caching", "system", "ttft_gain_x"),
    (CACHE, "first token, few-shot examples", "prefix_caching", "few-shot ex", "ttft_gain_x"),
    (CACHE, "last turn of a chat", "prefix_caching", "conv", "ttft_gain_last_turn_x"),
    (NGRAM, "answers that stand in the prompt", "speculation", "ngram, rep", "tpot_gain_x"),
    (NGRAM, "new questions", "speculation", "ngram, questions", "tpot_gain_x"),
    (DRAFTS, "new questions, one stream", "speculation", "draft model", "tpot_gain_x"),
    (DRAFTS, "largest batch of section 8", "speculation", "synthetic", "throughput_gain_x"),
)


def recap(store: Results, verdicts: list[Verdict]) -> list[dict]:
    """A line a feature: where it gained and where it lost; what did neither is left out."""
    seen: dict[str, list] = {feature: [] for feature in (CACHE, CHUNKS, NGRAM, DRAFTS)}
    for feature, where, experiment, begins, name in RECAP:
        found = [
            gain
            for record in store.records(experiment=experiment)
            if record["variant"].startswith(begins) and (gain := Gain.read(record["metrics"], name))
        ]
        seen[feature] += [(where, gain) for gain in found[-1:]]
    for record in store.records(experiment="speculation"):
        gain = Gain.read(record["metrics"], "tpot_gain_x")
        if record["variant"].startswith("synthetic") and gain:
            seen[DRAFTS].append((f"one stream, a = {record['metrics']['a']:.2f}", gain))
    for verdict in verdicts:
        for feature, gain in verdict.gains.items():
            seen[feature].append((verdict.service.name, gain))
    rows = []
    for feature, gains in seen.items():
        name = f"{DRAFTS}, draft model" if feature == DRAFTS else feature
        row = {"feature": name}
        for column, wanted in (("gains", "better"), ("loses", "worse")):
            places = [f"{at} ({in_words(gain)})" for at, gain in gains if gain.verdict == wanted]
            row[column] = "; ".join(places) or "nowhere decided"
        rows.append(row)
    return rows


def decisions(verdicts: list[Verdict], rows: list[dict]) -> dict[str, tuple[str, str]]:
    """What is to decide, by its key, and what the numbers say of it. rows: of the chunk budgets."""
    choices = {
        one.service.key: (f"{one.service.name}, by {one.service.metric_label}", numbers_say(one))
        for one in verdicts
    }
    chunks = "chunk budget of a service that streams (max_num_batched_tokens)"
    gaps = ", ".join(f"{row['itl_ms_p99']:.0f} ms with {row[BUDGET]:,}" for row in rows)
    said = f"p99 of the gaps in a stream, one run each: {gaps} tokens a step."
    return choices | {"chunk_budget": (chunks, said)}


def numbers_say(verdict: Verdict) -> str:
    """What each feature did, or that it cannot act there."""
    parts = []
    for feature, gain in verdict.gains.items():
        accepted = f" ({100 * verdict.accepted:.0f} % of the drafts accepted)" * (feature == DRAFTS)
        parts.append(f"{feature}{accepted}: {gain.sentence('times as good')}")
    cannot = [feature for feature in (CACHE, CHUNKS) if feature not in verdict.service.features]
    parts += [f"{feature} cannot act there" for feature in cannot]
    return f"{'; '.join(parts)}."
