"""What notebook 2 says of its numbers: the captions of its figures, and what explains a residual.

Every function takes the rows (or runs) that its figure draws and returns sentences.
"""

from __future__ import annotations

from collections.abc import Callable

from helpers.lessons.advanced_features.prefix import ColdAndWarm, middle_turn, sooner
from helpers.lessons.advanced_features.sampling import Generated
from helpers.lessons.advanced_features.services import FEATURES, Verdict
from helpers.lessons.advanced_features.speculation import (
    FEW_DRAFTS,
    Acceptance,
    Rates,
    acceptance,
    faster_stream,
    sooner_answers,
)
from helpers.lessons.gain_ranges import in_words
from helpers.measure import Measurement
from helpers.verdicts.gain import MARGIN, Gain
from helpers.verdicts.machine import busy

# Of a token's mean log-probability, or of the share of distinct 2-grams: less is no difference.
TIE = 0.01
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
    """Rows of all budgets, the whole prompt in one step first."""
    whole, best = rows[0], min(rows, key=lambda row: row["max_num_batched_tokens"])

    def change(metric: str, digits: int) -> str:
        return f"{whole[metric]:,.{digits}f} to {best[metric]:,.{digits}f}"

    return (
        f"With {best['max_num_batched_tokens']:,} tokens a step instead of "
        f"{whole['max_num_batched_tokens']:,}, p99 of the gaps went from "
        f"{change('itl_ms_p99', 1)} ms, TTFT of the long prompts from "
        f"{change('ttft_long_ms_p50', 0)} ms and throughput from "
        f"{change('total_tokens_per_s', 0)} tokens/s (one run each)."
    )


def budgets_elsewhere(rows: list[dict]) -> str:
    """Recorded rows of all budgets, the smallest first; why throughput need not fall with it.

    "" without a record.
    """
    if not rows:
        return ""
    least, most = rows[0], rows[-1]
    said = (
        f" Hollow, recorded: with {least['max_num_batched_tokens']:,} tokens a step instead of "
        f"{most['max_num_batched_tokens']:,}, throughput went from "
        f"{most['total_tokens_per_s']:,.0f} to {least['total_tokens_per_s']:,.0f} tokens/s."
    )
    if least["total_tokens_per_s"] <= most["total_tokens_per_s"]:
        return said
    return said + (
        " That would fit a decode step that mostly waits for the weights to come from memory, "
        "while part of a chunk's arithmetic is done; the cause was not measured."
    )


def why_gap(together: int, alone_ms: list[float]) -> Callable[[float], str]:
    """The longest gap with whole prompts, by measured / predicted.

    together: long prompts that ended in the same step, of chunking.prompts_together. alone_ms: what
    a long prompt took by itself, the shortest first.
    """

    def why(ratio: float) -> str:
        if ratio > 1 and together > 1:
            return f"In this run {together} long prompts ended in one step, which reads them all."
        if ratio > 1:
            return (
                "The step that reads the prompt also makes a token for every stream. No two long "
                "prompts ended in the same step of this run."
            )
        return (
            f"Alone the prompts took {alone_ms[0]:.0f} to {alone_ms[-1]:.0f} ms; why the steps of "
            "this run were shorter was not measured."
        )

    return why


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
    middle, last = middle_turn(rows), rows[-1]
    return (
        f"{100 * share:.0f} % of all prompt tokens were found. What is found grows with the turns: "
        f"the first token came {sooner(middle):.1f} times as soon at turn {middle['turn']} and "
        f"{sooner(last):.1f} times at turn {last['turn']} ({last['ttft_ms']:.1f} ms instead of "
        f"{last['ttft_ms_without']:.1f} ms; one run). Turn 1 finds nothing: its "
        f"{sooner(rows[0]):.1f} times are not the cache's: noise or warm-up, this does not tell."
    )


# --- memory ---


def why_memory_cpu(returned: float, unit: str) -> str:
    """The change of memory under load. returned: what `malloc_trim` then gave back, in `unit`."""
    return (
        "The formula counts the three results of one MLP alone; what else was alive, or had been, "
        "was not measured. The C library keeps what PyTorch frees: asked to give it back "
        f"(malloc_trim), it returned {returned:.0f} {unit} to the operating system, so that this "
        "much was in use no longer."
    )


def why_memory_gpu(ratio: float) -> str:
    """The change of memory under load, by measured over predicted."""
    earlier = " Earlier steps had taken a part." if ratio < 0.95 else ""
    return (
        "vLLM measured this need when it started and left room for it; PyTorch takes it from "
        f"the driver when a step first needs it, and keeps it.{earlier}"
    )


def preemption(runs: dict[str, Measurement], at_a_time: int) -> str:
    """Runs with all blocks, with half of them, and with half and so many requests at a time."""
    full, half, gentle = runs.values()
    all_blocks, half_blocks, few = (int(run.counters["num_preemptions"]) for run in runs.values())
    return (
        f"{half_blocks} preemptions with half of the blocks, {all_blocks} with all: E2E p99 "
        f"{half.metrics['e2e_ms_p99']:,.0f} ms against {full.metrics['e2e_ms_p99']:,.0f} ms. With "
        f"{at_a_time} requests at a time: {few} preemptions, "
        f"{gentle.metrics['output_tokens_per_s']:,.0f} tokens/s instead of "
        f"{half.metrics['output_tokens_per_s']:,.0f} (one run each)."
    )


WHY_PREEMPTION = (
    "The formula takes all steps for equally long. Steps with fewer requests are shorter; those in "
    "which preempted requests read their tokens again are longer."
)


def waste(held: dict, block_size: int) -> str:
    """Averages of kv_blocks.in_flight: tokens, unused_slots, contiguous_slots, requests."""
    empty = held["unused_slots"] / (held["tokens"] + held["unused_slots"])
    reserved = 1 - held["tokens"] / held["contiguous_slots"]
    return (
        f"Of the slots held, {100 * empty:.0f} % are empty with blocks, {100 * reserved:.0f} % "
        f"with reservation; {held['unused_slots'] / held['requests']:.0f} slots for each request, "
        f"with blocks of {block_size}."
    )


# --- sampling ---


def strategies(runs: list[Generated]) -> str:
    """The likeliest texts, speed and variety. Greedy comes first in runs, beam search last."""
    metrics = {run.name: run.metrics for run in runs}
    greedy, beam = metrics[runs[0].name], metrics[runs[-1].name]
    slower = greedy["output_tokens_per_s"] / beam["output_tokens_per_s"]
    if runs[0].heroes:
        fewer = f"Beam search made {slower:.1f} times fewer tokens/s than greedy"
        return f"{_told(metrics)} {fewer} (one run each; the others are too short to compare)."
    variety = sorted((m["distinct_2grams"], name) for name, m in metrics.items())
    (least, least_name), (most, most_name) = variety[0], variety[-1]
    varied = f"the share of distinct 2-grams differs by no more than {TIE:g}"
    if most - least > TIE:
        varied = (
            f"distinct 2-grams went from {least:.2f} (“{least_name}”) to {most:.2f} (“{most_name}”)"
        )
    beams = f"beam search made {slower:.1f} times fewer tokens/s than greedy"
    return f"{_likeliest(metrics)}; {beams}; {varied}."


def _told(metrics: dict[str, dict]) -> str:
    """Of stories: how many are different, how many have no fault, and how likely they are."""
    each = []
    for name, m in metrics.items():
        told = f"{m['distinct_stories']} different of {m['stories']}, {m['faultless']} faultless"
        each.append(f"“{name}”: {told}")
    (greedy_name, greedy), *sampled, (beam_name, beam) = metrics.items()
    said = f"{'; '.join(each)}."
    if not greedy["mean_chance"]:
        return said

    def likelier(m: dict) -> float:
        return m["mean_chance"] / greedy["mean_chance"]

    if likelier(beam) > 1:
        said += (
            f" Under the grammar the stories of “{beam_name}” are {likelier(beam):.1f} times as "
            f"likely as those of “{greedy_name}”: beams look ahead, greedy does not."
        )
    for name, m in sampled:
        if likelier(m) > 1:
            said += (
                f" Those of “{name}” are {likelier(m):.1f} times as likely: some began with what "
                "greedy passes over. Of so few stories that may be luck."
            )
    return said


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


def ngram(
    name: str, plain: list[Measurement], drafting: list[Measurement], k: int, async_scheduling: bool
) -> dict[str, str | int]:
    """What the n-gram drafter did for one kind of text, and why it gained or lost: a table's row.

    async_scheduling: whether the engine without drafts prepared its next step during a step; with
    "ngram" vLLM does not.
    """
    counted, gain = acceptance(drafting[:1], k), faster_stream(plain, drafting)
    whole = sooner_answers(plain, drafting)
    why = _why_ngram(counted, gain, async_scheduling) + busy([*plain, *drafting])
    return {
        "asked": name,
        "drafts": counted.drafts,
        "drafted tokens accepted": f"{100 * counted.rate:.0f} %" if counted.drafts else "",
        "tokens after the first": gain.sentence(),
        "whole answer": whole.sentence(),
        "why": why,
    }


def _why_ngram(counted: Acceptance, gain: Gain, async_scheduling: bool) -> str:
    made = f"A step that drafted made {counted.mean_length:.2f} tokens on average"
    said = f"{made}."
    if counted.drafts < FEW_DRAFTS:
        said = "The drafter found hardly anything to propose, so there is nothing to gain."
        if gain.verdict == "worse":
            said += " In every step vLLM searches, and makes ready to check drafts, all the same."
    if gain.verdict == "better" and counted.mean_length < gain.low:
        return f"{made}, which cannot explain such a gain: the machine was disturbed."
    if async_scheduling and gain.verdict != "better":
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


def by_drafts(rows: list[dict], fitted_k: int) -> str:
    """Of speculation.curve_by_drafts: the best number of drafts, and whether one c tells them."""
    fitted = next(row for row in rows if row["k"] == fitted_k)
    said = f"{best_drafts(rows)} The formula has the c of {fitted_k} drafts, {all_in(fitted)}: "
    others = [row for row in rows if row is not fitted]
    missed = [row for row in others if not reaches(row["gain"], row["formula_x"])]
    if not missed:
        return (
            f"{said}with its middle the formula lies within the range of every point. All are "
            "compared with the same runs without drafts, so that proves little."
        )
    named = ", ".join(f"c = {all_in(row)} with {row['k']}" for row in missed)
    said += f"one c does not tell them all ({named})."
    if rows[0]["c_low"] > rows[-1]["c_high"]:
        said += " A part of what a step takes longer does not grow with the drafts."
    return said


def all_in(row: dict) -> str:
    """The range of a row's all-in c."""
    return f"{row['c_low']:.2f} to {row['c_high']:.2f}"


def reaches(gain: Gain, value: float) -> bool:
    """Whether the measured range holds this value."""
    return gain.low <= value <= gain.high


def best_drafts(rows: list[dict]) -> str:
    """The best number of drafted tokens, and those that it is not seen to be better than.

    rows: of speculation.curve_by_drafts, the most drafts last.
    """
    best = max(rows, key=lambda row: row["gain"].estimate)
    k, gain = best["k"], best["gain"].sentence()
    if best["gain"].verdict != "better":
        return f"No gain can be seen; with {k} drafted tokens: {gain}."
    said = f"Best of those tried: {k} drafted tokens"
    said += ", the most, so that more may be better still" * (best is rows[-1])
    if others := [row for row in rows if row is not best and row["best_x"].verdict != "better"]:
        named = ", ".join(str(row["k"]) for row in others)
        said += f" (as good as that may be {named}, compared directly)"
    whole = best["whole_answer"].sentence()
    return f"{said}. Tokens after the first: {gain}; whole answers: {whole}."


def batches(rows: list[dict], drafts: int, tiny: bool = False) -> str:
    """What a sweep over requests at once shows.

    rows: dicts with requests, gain, plain_step_ms (a full step). tiny: the model is the one that
    ships.
    """
    one, most = rows[0], rows[-1]
    said = f"With {drafts} drafted tokens, times the output tokens/s, prompts included: "
    said += "; ".join(f"{row['requests']} at once {in_words(row['gain'])}" for row in (one, most))
    lost, undecided = (
        ", ".join(str(row["requests"]) for row in rows if row["gain"].verdict == verdict)
        for verdict in ("worse", "open")
    )
    loss = f"A loss at {lost}" if lost else f"No loss was seen up to {most['requests']} at once"
    said += f". {loss}{f'; undecided at {undecided}' * bool(undecided)}."
    grown = most["plain_step_ms"] / one["plain_step_ms"]
    if grown >= FULL:
        return said
    said += (
        f" A plain step of {most['requests']} requests takes only {grown:.1f} times as long as a "
        "step of one: these batches do not fill the machine."
    )
    if tiny:
        said += (
            " The model is too small for it: its steps wait for kernels to be launched, "
            "whatever the batch."
        )
    return said


def gain_by_acceptance(rates: Rates, model: str) -> str:
    """What a sweep over acceptance rates shows."""
    rows = rates.rows
    low, _, high = rates.cost
    said = (
        f"{model}: the median step takes {rates.slower.low:.1f} to {rates.slower.high:.1f} times "
        f"as long as without drafts: c = {low:.2f} to {high:.2f}. "
    )
    last = rows[-1]
    gained = [row["alpha"] for row in rows if row["gain"].verdict == "better"]
    if gained:
        said += f"Speculation gained from a = {min(gained)} on. "
    elif last["gain"].verdict == "worse":
        said += "At no acceptance rate did it gain here, the drafts cost too much. "
    return f"{said}Tokens after the first at a = {last['alpha']}: {last['gain'].sentence()}."


def drafters_elsewhere(rows_by_name: dict[str, list[dict]], where: str) -> str:
    """Of drafters_elsewhere: the last point of each hollow line; "" without any."""
    if not rows_by_name:
        return ""
    said = []
    for name, rows in rows_by_name.items():
        last = rows[-1]
        gain = Gain.read(last, "speedup_x")
        said.append(f"{name} {gain.sentence('times the output tokens/s')}")
    at = f"a = {rows[-1]['alpha']}, {rows[-1].get('requests', 1)} at once"
    return f" Hollow, {where}; at {at}: {'; '.join(said)}."


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


def decisions(verdicts: list[Verdict], whole: dict, small: dict) -> dict[str, tuple[str, str]]:
    """What is to decide, by its key, and what the numbers say of it.

    whole, small: rows of the whole prompt in one step and of a small budget.
    """
    choices = {
        one.service.key: (f"{one.service.name}, by {one.service.metric_label}", numbers_say(one))
        for one in verdicts
    }
    chunks = "chunk budget of a service that streams (max_num_batched_tokens)"
    return choices | {"chunk_budget": (chunks, longest_gaps(whole, small))}


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
