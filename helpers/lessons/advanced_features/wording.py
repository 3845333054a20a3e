"""What notebook 2 says of its numbers: the captions of its figures, and what explains a residual.

Every function takes the rows (or runs) that its figure draws and returns sentences.
"""

from __future__ import annotations

from collections.abc import Callable

from helpers.lessons.advanced_features import services as feature_services
from helpers.lessons.advanced_features.sampling import Generated
from helpers.lessons.advanced_features.speculation import NOISE, Acceptance
from helpers.measure import Measurement

# Of a token's mean log-probability, or of the share of distinct 2-grams: less is no difference.
TIE = 0.01
# A batch fills the machine when its step takes so many times as long as a step of one request.
FULL = 2.0

# --- chunked prefill ---


def longest_gaps(whole: dict, small: dict) -> str:
    """Rows of the whole prompt in one step and of a small budget."""
    return (
        f"The longest gap was {whole['itl_ms_max']:.0f} ms with whole prompts and "
        f"{small['itl_ms_max']:.0f} ms with chunks of at most {small['max_num_batched_tokens']:,} "
        "tokens."
    )


def chunk_tradeoff(rows: list[dict]) -> str:
    """Rows of all budgets, the whole prompt in one step first."""
    whole, best = rows[0], min(rows, key=lambda row: row["itl_ms_p99"])

    def change(metric: str, digits: int) -> str:
        return f"{whole[metric]:,.{digits}f} to {best[metric]:,.{digits}f}"

    return (
        f"From {change('max_num_batched_tokens', 0)} tokens a step, p99 of the gaps went from "
        f"{change('itl_ms_p99', 1)} ms, TTFT of the long prompts from "
        f"{change('ttft_long_ms_p50', 0)} ms, throughput from {change('total_tokens_per_s', 0)} "
        "tokens/s."
    )


def why_gap(ratio: float) -> str:
    """The longest gap with whole prompts: measured over predicted."""
    if ratio > 1:
        return (
            "The step that reads the prompt also makes a token for every stream, and two long "
            "prompts can meet in one step."
        )
    return (
        "The calibration read its prompts alone, one of them first of all; a prompt among streams "
        "can take less."
    )


WHY_SMALL_GAP = (
    "The formula leaves out the decoding in the same step, and chunks late in a prompt attend to "
    "more tokens than the first."
)

# --- prefix caching ---


def prefix_hits(rows: list[dict]) -> str:
    """Rows: the system prompt, few-shot examples, and those with another first token."""
    exact = all(row["predicted_tokens"] == row["hit_tokens"] for row in rows)
    _, few_shot, changed = (row["ttft_cold_ms"] / row["ttft_warm_ms"] for row in rows)
    counted = (
        "Every predicted hit was counted, and no other"
        if exact
        else "Prediction and counter differ"
    )
    other = "no different, within the noise," if 0.8 < changed < 1.25 else f"{changed:.1f} times"
    return (
        f"{counted}. TTFT is {few_shot:.1f} times shorter with few-shot examples in the cache, "
        f"and {other} with another first token."
    )


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
    said = f"{100 * share:.0f} % of all prompt tokens were found. "
    if last["ttft_ms_without"] <= 1.15 * last["ttft_ms"]:
        said += "The prompts are too short to see it in the time: "
        return f"{said}TTFT is the fixed cost of a step here."
    return (
        f"{said}At turn {len(rows)} the first token took {last['ttft_ms']:.1f} ms "
        f"instead of {last['ttft_ms_without']:.1f} ms."
    )


# --- memory ---


def why_memory(on_cpu: bool) -> Callable[[float], str]:
    """The change of memory under load: a function of measured over predicted."""

    def why(ratio: float) -> str:
        if on_cpu:
            return (
                "The operating system counts everything of this process, also what the CPU's "
                "libraries and the notebook itself keep."
            )
        earlier = " Earlier steps had taken a part." if ratio < 0.95 else ""
        return (
            "vLLM measured this need when it started and left room for it; PyTorch takes it from "
            f"the driver when a step first needs it, and keeps it.{earlier}"
        )

    return why


def preemption(runs: dict[str, Measurement], at_a_time: int) -> str:
    """Runs with all blocks, with half of them, and with half and so many requests at a time."""
    full, half, gentle = runs.values()
    all_blocks, half_blocks, few = (int(run.counters["num_preemptions"]) for run in runs.values())
    return (
        f"{half_blocks} preemptions with half of the blocks, {all_blocks} with all: E2E p99 "
        f"{half.metrics['e2e_ms_p99']:,.0f} ms against {full.metrics['e2e_ms_p99']:,.0f} ms. With "
        f"{at_a_time} requests at a time: {few} preemptions, "
        f"{gentle.metrics['output_tokens_per_s']:,.0f} tokens/s instead of "
        f"{half.metrics['output_tokens_per_s']:,.0f}."
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
    variety = sorted((m["distinct_2grams"], name) for name, m in metrics.items())
    (least, least_name), (most, most_name) = variety[0], variety[-1]
    varied = f"the share of distinct 2-grams differs by no more than {TIE:g}"
    if most - least > TIE:
        varied = (
            f"distinct 2-grams went from {least:.2f} (“{least_name}”) to {most:.2f} (“{most_name}”)"
        )
    beams = f"beam search made {slower:.1f} times fewer tokens/s than greedy"
    return f"{_likeliest(metrics)}; {beams}; {varied}."


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


def acceptance(counted: Acceptance) -> str:
    """A draft model's drafts, by position."""
    first, *_, last = (100 * share for share in (*counted.per_position, counted.per_position[-1]))
    return (
        f"With {len(counted.per_position)} drafted tokens the first was accepted in {first:.0f} % "
        f"of the drafts, the last in {last:.0f} %; a step of the draft model's gained "
        f"{counted.mean_length:.1f} tokens on average."
    )


def fixed_cost(fixed: float) -> str:
    """What a step with speculation costs beside its drafts, as a share of a plain step."""
    if not fixed:
        return "a step with speculation has no fixed cost above the noise"
    return (
        f"a step with speculation has a fixed cost of {100 * fixed:.0f} % of a plain step, "
        "which the formula does not have"
    )


def best_drafts(rows: list[dict]) -> str:
    """The best number of drafted tokens, and those that are as good within the noise.

    rows: dicts with k, measured_x.
    """
    best = max(rows, key=lambda row: row["measured_x"])
    if best["measured_x"] < 1 + NOISE:
        return "No number of drafts gained more than the noise here."
    good = [row for row in rows if row["measured_x"] > (1 - NOISE) * best["measured_x"]]
    ties = " and ".join(str(row["k"]) for row in good if row is not best)
    said = f"Best here: {best['k']} drafted tokens, {best['measured_x']:.2f} times as fast"
    return said + (f" ({ties} within {100 * NOISE:.0f} % of it)." if ties else ".")


def batches(rows: list[dict], drafts: int, tiny: bool = False) -> str:
    """What a sweep over requests at once shows.

    rows: dicts with requests, speedup_x, plain_step_ms (a full step). tiny: the model is the one
    that ships.
    """
    one, most = rows[0], rows[-1]
    said = (
        f"With {drafts} drafted tokens: {one['speedup_x']:.2f} times the throughput for one "
        f"stream, {most['speedup_x']:.2f} times for {most['requests']} requests."
    )
    losses = [str(row["requests"]) for row in rows if row["speedup_x"] < 1 - NOISE]
    if losses:
        said += f" It is a loss at {', '.join(losses)} requests."
    else:
        said += " No loss was measured in this range."
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


def gain_by_acceptance(rows: list[dict], model: str, slower_step: float, c: float) -> str:
    """What a sweep over acceptance rates shows.

    rows: dicts with alpha, measured_x, by alpha. slower_step: a step with drafts over one without.
    """
    said = f"{model}: a step takes {slower_step:.1f} times as long as without drafts, c = {c:.2f}. "
    gained = [row["alpha"] for row in rows if row["measured_x"] > 1 + NOISE]
    if not gained:
        return said + "At no acceptance rate did it gain here: the drafts cost too much."
    return (
        f"{said}Speculation gained from a = {min(gained)} on; "
        f"at a = {rows[-1]['alpha']} it was {rows[-1]['measured_x']:.2f} times as fast."
    )


# --- services ---


def services(verdicts: list[dict]) -> str:
    """What was best for each service. verdicts: dicts with service and the gain of each feature."""
    said = []
    for row in verdicts:
        best = feature_services.best_of(row)
        shown = f"{best} ({row[best]:.2f}x)" if best else "nothing above the noise"
        said.append(f"{row['service']}: {shown}")
    noise = f"Within {100 * feature_services.NOISE:.0f} % of 1 counts as no difference (grey)."
    return f"{'; '.join(said)}. {noise}"


def choices(verdicts: list[dict]) -> list[str]:
    """A line for each service for which a feature was chosen."""
    lines = []
    for row in verdicts:
        if chosen := row["chosen"]:
            best = feature_services.best_of(row) or "nothing, no gain is above the noise"
            lines.append(
                f"{row['service']}: you chose {chosen}, {row[chosen]:.2f}x; best was {best}."
            )
    return lines
