"""Four services that a student chooses features for: what each runs, and what it is judged by."""

from __future__ import annotations

from dataclasses import dataclass, replace

from helpers import workloads
from helpers.lessons.advanced_features import speculation
from helpers.measure import Measurement
from helpers.results import recorded
from helpers.verdicts.gain import Gain
from helpers.verdicts.in_turn import median_run
from helpers.workloads import Workload

NOTHING, DRAFTS = "nothing", "speculative decoding"
CACHE, CHUNKS = "prefix caching", "small chunks"
FEATURES = [NOTHING, CACHE, CHUNKS, DRAFTS]
# What is said of a feature that a service was not measured with.
LEFT_OUT = {CACHE: "cannot act", CHUNKS: "cannot act", DRAFTS: "not compared"}


@dataclass(frozen=True)
class Service:
    """One service.

    needs: what the service is and what its users feel. metric: a name of Measurement.summary (of
    the requests of `kind`). better: "lower" or "higher". features: those that can act on it
    (different prompts share no block, and a short one is not cut) and that its metric can judge.
    """

    key: str
    name: str
    needs: str
    workload: Workload
    metric: str
    metric_label: str
    better: str
    kind: str | None = None
    concurrency: int | None = None
    features: tuple[str, ...] = (CHUNKS, DRAFTS)

    def value(self, measurement: Measurement) -> float:
        """The number that the service is judged by."""
        return measurement.summary(self.kind)[self.metric]


def four_services(tokenizer, sizes: dict[str, float], seed: int = 0) -> dict[str, Service]:
    """The four by their keys, sized by `sizes`.

    requests, long_tokens (of a long prompt), prefix_tokens, output_tokens, streams; step_s and
    prefill_s as for workloads.spread_arrivals.
    """
    n, out = sizes["requests"], sizes["output_tokens"]
    long, prefix, streams = sizes["long_tokens"], sizes["prefix_tokens"], sizes["streams"]
    # Answers end by themselves, after half of the most tokens or so.
    first_s, every_s = workloads.spread_arrivals(2 * out, sizes["step_s"], 2, sizes["prefill_s"])
    chat = Service(
        key="chat",
        name="chat with a long system prompt",
        needs=f"{n} people ask at once, each question behind the same instructions of about "
        f"{prefix:,} tokens; they wait for the first word.",
        workload=workloads.after_notes(tokenizer, n, prefix, out, seed, shared=True),
        metric="ttft_ms_p50",
        metric_label="TTFT p50 (ms)",
        better="lower",
        features=(CACHE, CHUNKS, DRAFTS),
    )
    batch = Service(
        key="batch",
        name="nightly batch of documents",
        needs=f"{n} different documents of about {long // 2:,} tokens, each with a question, all "
        "there at once; only the total time counts.",
        workload=workloads.after_notes(tokenizer, n, long // 2, out, seed),
        metric="total_tokens_per_s",
        metric_label="tokens/s, in and out",
        better="higher",
    )
    assistant = Service(
        key="assistant",
        name="one developer's assistant",
        needs="One question at a time, nobody else on the machine; "
        "the whole answer should be there at once.",
        workload=workloads.questions(tokenizer, 2, seed, max_tokens=64),
        metric="e2e_ms_mean",
        metric_label="E2E, mean (ms)",
        better="lower",
        concurrency=1,
        features=(DRAFTS,),
    )
    mixed = Service(
        key="mixed",
        name="mixed long and short",
        needs=f"{streams} people read streamed answers while now and then "
        f"a document of about {long:,} tokens comes in.",
        workload=workloads.beside(
            workloads.questions(tokenizer, streams, seed, max_tokens=4 * out),
            workloads.after_notes(tokenizer, 2, long, 4, seed),
            every_s,
            first_s,
        ),
        metric="itl_ms_p99",
        metric_label="p99 of the gaps in a stream (ms)",
        better="lower",
        kind="short",
        # Not DRAFTS: the tokens of one step have gaps of 0, so its p99 would be another quantile.
        features=(CHUNKS,),
    )
    return {service.key: service for service in (chat, batch, assistant, mixed)}


def drafts_of(pair, synthetic, k: int) -> dict:
    """`speculative_config` of the engine that serves with drafts.

    pair, synthetic: of helpers.lessons.advanced_features.speculation. A model with random weights
    accepts its drafts at a chosen rate of 0.7.
    """
    if synthetic.model == pair.model:
        return speculation.drafts(pair, k)
    return speculation.synthetic_drafts(synthetic, k, 0.7)


def save(store, verdicts: list[Verdict], served: dict[tuple, list], profile) -> None:
    """A record for each service and feature: its median run. served: (key, feature) -> runs."""
    of_key = {verdict.service.key: verdict for verdict in verdicts}
    for (key, feature), runs in served.items():
        verdict, service = of_key[key], of_key[key].service
        gain = verdict.gains.get(feature)  # none for "nothing"
        run = median_run(runs, service.value)
        run = speculation.with_worst([run, *runs])
        numbers = gain.metrics() if gain else {"improvement_x": 1.0}
        numbers[service.metric] = service.value(run)
        if feature == DRAFTS:
            numbers["drafts_accepted_percent"] = 100 * verdict.accepted
        chosen = feature == verdict.chosen
        name = f"{key}, {feature}"
        store.save_run("services", name, run, numbers, profile=profile, chosen=chosen)


@dataclass(frozen=True)
class Verdict:
    """What each feature did for a service. gains: of those that can act on it, but "nothing".

    accepted: the share of the drafted tokens that was accepted (0 to 1).
    """

    service: Service
    gains: dict[str, Gain]
    chosen: str | None = None
    accepted: float = 0.0


def elsewhere(verdicts: list[Verdict]) -> tuple[list[Verdict], str]:
    """The same services and features as recorded on another machine, and which it was."""
    rows, where = recorded.curve("services")
    of = {row["variant"]: row for row in rows}
    there = []
    for one in verdicts:
        found = {feature: of.get(f"{one.service.key}, {feature}") for feature in one.gains}
        gains = {name: Gain.read(row, "improvement_x") for name, row in found.items() if row}
        accepted = (found.get(DRAFTS) or {}).get("drafts_accepted_percent", 0) / 100
        there += [replace(one, gains=gains, accepted=accepted)] * bool(gains)
    return there, where
