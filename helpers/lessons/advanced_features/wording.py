"""What notebook 2 says of its numbers: the captions of its figures, and what explains a residual.

Every function takes the rows (or runs) that its figure draws and returns sentences.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from statistics import fmean, median

from helpers.lessons.advanced_features.prefix import Shared
from helpers.lessons.advanced_features.sampling import Generated
from helpers.lessons.advanced_features.services import (
    CACHE,
    CHUNKS,
    DRAFTS,
    LEFT_OUT,
    NOTHING,
    Verdict,
)
from helpers.lessons.advanced_features.speculation import acceptance
from helpers.lessons.gain_ranges import in_words
from helpers.lessons.papers.speculative import alpha_from_length
from helpers.measure import Measurement
from helpers.results.store import Results
from helpers.results.wording import RECORDED_GPU, was_disturbed
from helpers.verdicts.gain import MARGIN, Gain
from helpers.verdicts.machine import busy as busy  # handed on to the notebook

# Of a token's mean log-probability, or of the share of distinct 2-grams: less is no difference.
TIE = 0.01
BUDGET = "max_num_batched_tokens"
MACHINES = ("here", RECORDED_GPU)
GAPS = "p99 of the gaps, one run for each number of tokens a step"

# --- chunked prefill ---


def promise(rows: list[dict], by: dict[str, int], promise_ms: float) -> str:
    """Which budget kept a promised p99 of the gaps. by: a rule, or whose number -> its budget."""
    gaps = {row[BUDGET]: row["itl_ms_p99"] for row in rows}
    told = [f"{name} ({budget:,} tokens) {gaps[budget]:.0f} ms" for name, budget in by.items()]
    kept = max((budget for budget in gaps if gaps[budget] <= promise_ms), default=0)
    most = f"The largest that kept it: {kept:,} ({gaps[kept]:.0f} ms)" if kept else "None kept it"
    said = f"Promised: {promise_ms} ms. In one run each: {', '.join(told)}. {most}."
    return f"{said} A rule says where to begin; a promise needs more runs."


def chunk_tradeoff(rows: list[dict], there: list[dict], where: str) -> list[str]:
    """From whole prompts to the smallest budget, here and, with their label, as recorded."""
    both = (("Here", rows), (f"{where[:1].upper()}{where[1:]}", there))
    return [f"{machine}, {_both_ends(tried)}" for machine, tried in both if tried]


def _both_ends(rows: list[dict]) -> str:
    """The smallest budget beside the largest: single runs, which rank nothing."""
    whole, smallest = (end(rows, key=lambda row: row[BUDGET]) for end in (max, min))
    gaps, waits = ((whole[name], smallest[name]) for name in ("itl_ms_p99", "ttft_long_ms_p50"))
    return (
        f"from {whole[BUDGET]:,} to {smallest[BUDGET]:,} tokens a step, in one run each: p99 of "
        f"the gaps {gaps[0]:.0f} ms and then {gaps[1]:.0f} ms, TTFT of long prompts "
        f"{waits[0]:.0f} ms and then {waits[1]:.0f} ms."
    )


def why_gap(alone_ms: list[float], gap_ms: float) -> str:
    """The p99 of the gaps, whole prompts. alone_ms: of long prompts alone, the shortest first."""
    said = f"Alone the prompts took {alone_ms[0]:.0f} to {alone_ms[-1]:.0f} ms"
    if alone_ms[0] <= gap_ms <= alone_ms[-1]:
        return f"{said}, and this gap lies among them."
    return f"{said}; what else was in this gap was not measured."


def why_small_gap(chunks_ms: list[float]) -> str:
    """The p99 of the gaps with a small budget, beside a long prompt's chunks, the first first."""
    said = "The formula takes the average chunk"
    if len(chunks_ms) > 1:
        said += f". In the step chart the first took {chunks_ms[0]:.0f} ms, the last full one "
        said += f"{chunks_ms[-1]:.0f} ms"
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
    found = changed.numbers["hit_tokens"]
    said.append(
        f"With a first token of its own a request found {found} tokens: no block of another has "
        "its hash. So what changes belongs behind what is shared."
    )
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
        f"{last['turn']}: {last['gain'].sentence('times as soon')}. "
        "So add to a chat at its end, and change nothing in front."
    )


# --- memory ---


def preemption(full: Measurement, half: Measurement, gentle: Measurement, few: int) -> str:
    """Runs with all blocks, with half of them, and with half and `few` requests at a time."""

    def changed(run: Measurement) -> str:
        later = round(100 * (mean_end_s(run) / mean_end_s(full) - 1))
        speed = "output_tokens_per_s"
        made = round(100 * (run.metrics[speed] / full.metrics[speed] - 1))
        pushed_out = int(run.counters["num_preemptions"])
        return f"{pushed_out} preemptions, mean E2E {later:+d} %, tokens/s {made:+d} %"

    return (
        f"In one run each, against all blocks: half of them {changed(half)}; {few} requests at a "
        f"time on these {changed(gentle)}. To let in fewer ends the preemptions, not the waiting: "
        "against both give the KV cache more memory (`gpu_memory_utilization`)."
    )


def why_preempted(full: Measurement, half: Measurement, few: int) -> str:
    """Why a request did not take as many times longer as it waited for more steps."""
    many = len(full.requests)
    return (
        "The formula counts steps, and takes each for equally long. By their medians a step with "
        f"{many} requests took {step_ms(full, many):.1f} ms, one with {few} took "
        f"{step_ms(half, few):.1f} ms."
    )


def step_ms(run: Measurement, requests: int) -> float:
    """Median time of the steps that made a token for so many requests, without the first step."""
    pairs = itertools.pairwise(run.timeline)
    return 1000 * median(b["t_s"] - a["t_s"] for a, b in pairs if b["tokens"] == requests)


def mean_end_s(run: Measurement) -> float:
    """E2E on average, where all arrive as the run starts; the client may hold some back."""
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


# --- speculation ---


def drafter(
    key: tuple[str, str], plain: list[Measurement], drafting: list, gain: Gain, k: int
) -> dict[str, str | int]:
    """What a drafter did for one kind of questions: a table's row. key: its name, and the kind."""
    (name, asked), counted = key, acceptance(drafting[:1], k)
    share = f"{counted.accepted:,} of {counted.drafted:,} ({100 * counted.rate:.0f} %)"
    return {
        "drafter": name,
        "asked": asked,
        "accepted": share if counted.drafts else "none drafted",
        "steps without drafts": len(plain[0].timeline),
        "and with": len(drafting[0].timeline),
        "speed-up": gain.sentence(),
        "rounds that count": f"{gain.values} of {len(plain)}",
    }


def draft_model(plain: Measurement, drafting: Measurement, longer: Gain, gain: Gain) -> str:
    """What drafts of a model came to: steps, which are certain, beside times, which have a range.

    plain, drafting: a run each of the same questions. longer: a step's time with drafts over
    without.
    """
    many, few = len(plain.timeline), len(drafting.timeline)
    return (
        f"With a draft model's drafts the same questions took {few} steps instead of {many}. A "
        f"step may then take about {many / few:.1f} times as long before drafts lose; it took "
        f"{in_words(longer)} times as long. The speed-up: {gain.sentence()}."
    )


def ngrams(table: list[dict]) -> str:
    """Which questions n-grams can draft for. table: rows of `drafter`."""
    told = [
        f"{row['accepted']} for {row['asked']}, so {row['steps without drafts']} steps became "
        f"{row['and with']}"
        for row in table
        if row["drafter"] == "ngram"
    ]
    return f"N-gram drafts accepted: {'; '.join(told)}."


def why_c(longer: Gain) -> str:
    """How c was measured. longer: a step's time with drafts over without."""
    return f"By its median a step with drafts took {in_words(longer)} times as long as one without."


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
    """The verdict at each of the rows, by `name`, with its range; alike ones stand together."""
    places: dict[str, list[str]] = {}
    for row in rows:
        at = f"{round(row[name], 2):g} ({in_words(row['gain'])})"
        places.setdefault(row["gain"].word, []).append(at)
    return "; ".join(f"{verdict} at {', '.join(at)}" for verdict, at in places.items())


def enough(longer: Gain, k: int) -> str:
    """From which a on the formula gives a gain. longer: a step's time with drafts over without."""
    said = f"One stream: a step with drafts takes {in_words(longer)} times as long"
    if longer.low > k + 1:
        return f"{said} and makes {k + 1} tokens at most: no a is enough."
    if longer.low < 1 or longer.high > k + 1:
        return f"{said}: which a is enough is undecided."
    low, high = (alpha_from_length(end, k) for end in (longer.low, longer.high))
    return f"{said} and has to make as many tokens: by the formula a > {low:.2f} to {high:.2f}."


def whatever_is_accepted(alike: Gain, low: float, high: float) -> str:
    """The formula's assumption, read off a step's time at two chances."""
    words = {"better": "It fails here", "worse": "It fails here", "same": "It holds here"}
    return (
        "The formula takes each step for equally long, whatever is accepted. "
        f"{words.get(alike.verdict, 'These rounds neither bear it out nor refute it')}: at a = "
        f"{high:g} a step took {in_words(alike)} times as long as at a = {low:g}."
    )


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


WORKS_BY = {
    CACHE: "does not compute again what the requests share",
    CHUNKS: "lets tokens come while other prompts are still read",
    DRAFTS: "makes an answer in fewer steps",
}


def choices(verdicts: list[Verdict]) -> list[dict[str, str]]:
    """What was chosen for each service beside what came out: rows of a table."""
    rows = []
    for one in verdicts:
        gained = [name for name, gain in one.gains.items() if gain.word == "gain"]
        outcome = LEFT_OUT.get(one.chosen, "")
        if one.chosen in one.gains:
            gain = one.gains[one.chosen]
            outcome = f"{gain.word}, {in_words(gain)}"
        elif one.chosen == NOTHING:
            outcome = "something gained" if gained else "no gain was decided"
        row = {"service": one.service.name, "your choice": one.chosen or "none made"}
        rows.append(row | {"what it did": outcome, "what gained": ", ".join(gained) or NOWHERE})
    return rows


def by_service(verdicts: list[Verdict]) -> list[str]:
    """What gains and what loses, and for which service; how a feature that gains works."""
    found = defaultdict(list)
    for one in verdicts:
        for name, gain in one.gains.items():
            how = f": it {WORKS_BY[name]}" * (gain.word == "gain")
            found[gain.word].append(f"{name} for “{one.service.name}” ({in_words(gain)}){how}")
    words = ("gain", "loss")
    return [f"{word.capitalize()}: {'; '.join(found[word]) or NOWHERE}." for word in words]


# What other sections keep of a feature: (feature, where, experiment, how the variant begins, name
# of the gain). The last record counts: of section 8 the largest batch.
NGRAM, NOWHERE = f"{DRAFTS}, n-grams", "nowhere decided"
RECAP = (
    (CACHE, "first token, system prompt", "prefix_caching", "system", "ttft_gain_x"),
    (CACHE, "first token, few-shot examples", "prefix_caching", "few-shot ex", "ttft_gain_x"),
    (CACHE, "last turn of a chat", "prefix_caching", "conv", "ttft_gain_last_turn_x"),
    (NGRAM, "answers that stand in the prompt", "speculation", "ngram, rep", "tpot_gain_x"),
    (NGRAM, "new questions", "speculation", "ngram, questions", "tpot_gain_x"),
    (DRAFTS, "new questions, one stream", "speculation", "draft model", "tpot_gain_x"),
    (DRAFTS, "largest batch of section 8", "speculation", "synthetic", "throughput_gain_x"),
)


def recap(
    store: Results, verdicts: list[Verdict], there: list[Verdict], heads: list[dict]
) -> list[dict]:
    """A row for each place where a feature gained or lost, here or as recorded on a GPU.

    A place whose runs were disturbed says so. there: the services as recorded; heads: section 8's
    rows of a cheaper drafter, by requests at once.
    """
    seen: dict[str, list] = {feature: [] for feature in (CACHE, CHUNKS, NGRAM, DRAFTS)}
    for feature, where, experiment, begins, name in RECAP:
        found = [
            (_place(where, record), gain, None)
            for record in store.records(experiment=experiment)
            if record["variant"].startswith(begins) and (gain := Gain.read(record["metrics"], name))
        ]
        seen[feature] += found[-1:]
    for record in store.records(experiment="speculation"):
        gain = Gain.read(record["metrics"], "tpot_gain_x")
        if record["variant"].startswith("synthetic") and gain:
            where = f"one stream, a = {record['metrics']['a']:.2f}"
            seen[DRAFTS].append((_place(where, record), gain, None))
    recorded = {(one.service.key, name): g for one in there for name, g in one.gains.items()}
    for one in verdicts:
        for feature, gain in one.gains.items():
            record = store.get("services", f"{one.service.key}, {feature}")
            elsewhere = recorded.get((one.service.key, feature))
            seen[feature].append((_place(one.service.name, record), gain, elsewhere))
    rows = []
    for feature, places in seen.items():
        name = f"{DRAFTS}, draft model" if feature == DRAFTS else feature
        decided = [place for place in places if {"gain", "loss"} & {g.word for g in place[1:] if g}]
        for where, *both in decided or [(NOWHERE, None, None)]:
            cells = [f"{gain.word}, {in_words(gain)}" if gain else "" for gain in both]
            row = {"feature": name, "where": where, MACHINES[0]: cells[0]}
            rows.append(row | ({MACHINES[1]: cells[1]} if there else {}))
    if there and heads:
        ranged = [row | {"gain": Gain.read(row, "speedup_x")} for row in heads]
        row = {"feature": f"{DRAFTS}, EAGLE-3 head", "where": "requests at once"}
        rows.append(row | {MACHINES[0]: "not run", MACHINES[1]: by_verdict(ranged, "requests")})
    return rows


def _place(where: str, record: dict | None) -> str:
    return where + ", disturbed" * was_disturbed(record or {})


def decisions(
    verdicts: list[Verdict], rows: list[dict], there: list[Verdict], chunks_there: list[dict]
) -> dict[str, tuple[str, list[dict]]]:
    """What is to decide, by its key, and a table of what was measured: here and as recorded.

    rows: of the chunk budgets. there, chunks_there: the same as they were recorded elsewhere.
    """
    found = {}
    for one in verdicts:
        other = [verdict for verdict in there if verdict.service.key == one.service.key]
        table = [{"machine": MACHINES[0]} | _cells(one, "accepted")]
        table += [{"machine": MACHINES[1]} | _cells(it, "accepted, a set to 0.7") for it in other]
        choice = f"{one.service.name}, times as good by {one.service.metric_label}"
        found[one.service.key] = (choice, table)
    both = zip(MACHINES, filter(None, (rows, chunks_there)), strict=False)
    table = [{"machine": name, GAPS: _gaps(points)} for name, points in both]
    return found | {"chunk_budget": ("chunk budget of a service that streams", table)}


def _cells(verdict: Verdict, how: str) -> dict[str, str]:
    """What each feature did, if it was measured there. how: drafts were accepted."""
    cells = dict(LEFT_OUT)
    cells |= {name: f"{g.word}, {in_words(g)}" for name, g in verdict.gains.items()}
    if DRAFTS in verdict.gains:
        cells[DRAFTS] += f" ({100 * verdict.accepted:.0f} % {how})"
    return cells


def _gaps(rows: list[dict]) -> str:
    rows = sorted(rows, key=lambda row: -row[BUDGET])
    return ", ".join(f"{row['itl_ms_p99']:.0f} ms with {row[BUDGET]:,}" for row in rows)


def in_one_text(table: list[dict]) -> str:
    """A table of decisions as a text: for the documents."""
    told = ["; ".join(f"{name} {text}" for name, text in row.items()) for row in table]
    return ". ".join(text.removeprefix("machine ").replace(";", ":", 1) for text in told) + "."
