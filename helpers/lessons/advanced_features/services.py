"""Four services that a student chooses features for: what each runs, and what it is judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain

from helpers import workloads
from helpers.display import live
from helpers.engine.engine import Engine, open_engine
from helpers.engine.retune import retuned
from helpers.lessons.advanced_features import speculation
from helpers.measure import Measurement, run_workload, warm_up
from helpers.verdicts.gain import LEAST_VALUES, Gain, gain_of_runs
from helpers.verdicts.in_turn import in_turn, median_run
from helpers.verdicts.machine import less_slowed
from helpers.workloads import Workload

DRAFTS = "speculative decoding"
FEATURES = ("nothing", "prefix caching", "small chunks", DRAFTS)
UNREAD = {"skip_reading_prefix_cache": True}


@dataclass(frozen=True)
class Service:
    """One service.

    needs: what the service is and what its users feel. metric: a name of Measurement.summary (of
    the requests of `kind`). better: "lower" or "higher". cannot_act: a feature that
    has no way to change this service, and why; its gain is expected to be 1.
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
    cannot_act: dict[str, str] = field(default_factory=dict)

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
    # Enough long prompts that the gaps they make are well over 1 % of all, so p99 is one of them.
    prompts = 3
    first_s, every_s = workloads.spread_arrivals(
        4 * out, sizes["step_s"], prompts, sizes["prefill_s"]
    )
    chat = Service(
        key="chat",
        name="chat with a long system prompt",
        needs=f"Every request begins with the same {prefix:,} tokens of instructions; "
        "people wait for the first word.",
        workload=workloads.shared_prefix(tokenizer, n, prefix, 24, out, seed),
        metric="ttft_ms_p50",
        metric_label="TTFT p50 (ms)",
        better="lower",
    )
    batch = Service(
        key="batch",
        name="batch summarising",
        needs=f"{n} different documents of {long // 2:,} tokens, all there at once, overnight; "
        "only the total time counts.",
        workload=workloads.uniform(tokenizer, n, long // 2, out // 2, seed),
        metric="total_tokens_per_s",
        metric_label="tokens/s, in and out",
        better="higher",
        cannot_act={"prefix caching": "the documents have nothing in common"},
    )
    completion = Service(
        key="completion",
        name="code completion at low load",
        needs="One developer, one request at a time, predictable text; "
        "the whole answer should be there at once.",
        workload=workloads.questions(tokenizer, max(2, n // 4), seed, max_tokens=64),
        metric="e2e_ms_p50",
        metric_label="E2E p50 (ms)",
        better="lower",
        concurrency=1,
        cannot_act={
            "prefix caching": "the questions share less than they would need to save time",
            "small chunks": "each prompt fits one chunk, and nobody else waits",
        },
    )
    mixed = Service(
        key="mixed",
        name="mixed long and short",
        needs=f"{streams} people read streamed answers while now and then "
        f"a prompt of {long:,} tokens comes in.",
        workload=workloads.mixed(
            tokenizer, streams, 32, 4 * out, prompts, long, 4, every_s, first_s, seed
        ),
        metric="itl_ms_p99",
        metric_label="p99 of the gaps in a stream (ms)",
        better="lower",
        kind="short",
        cannot_act={"prefix caching": "the prompts have nothing in common"},
    )
    return {service.key: service for service in (chat, batch, completion, mixed)}


def serve(
    engine: Engine, service: Service, before: list[Measurement], sampling: dict, **changes
) -> Measurement:
    """The service's workload on the engine, its prefix cache emptied before.

    sampling: SamplingParams by name. changes: the engine's arguments that differ meanwhile. A run
    that other programs slowed is repeated once, unless one before stayed slow.
    """

    def run(_: int = 0) -> Measurement:
        engine.llm.reset_prefix_cache()
        with retuned(engine, **changes):
            return run_workload(
                engine, service.workload, sampling, service.concurrency, progress=False
            )

    busy = any(other.disturbance.slowed for other in before)
    return run() if busy else less_slowed(run)


def serve_repeatedly(engine: Engine, services: dict[str, Service]) -> dict[str, list[Measurement]]:
    """Each service on the engine as it is, as often as a range needs: service key -> its runs."""
    runs: dict[str, list[Measurement]] = {key: [] for key in services}
    for key in live.through([*services] * LEAST_VALUES, "services with drafts", "runs"):
        runs[key].append(serve(engine, services[key], [*chain(*runs.values())], UNREAD))
    return runs


def serve_with_drafts(pair, synthetic, services, k: int, **base) -> dict[str, list[Measurement]]:
    """Each service, repeatedly, on an engine that drafts k tokens a step.

    pair, synthetic: of helpers.lessons.advanced_features.speculation. Random text cannot be
    drafted: a model with random weights accepts its drafts at a chosen rate of 0.7.
    """
    if synthetic.model == pair.model:
        engine = open_engine(synthetic, speculative_config=speculation.drafts(pair, k), **base)
        warm_up(engine)
        return serve_repeatedly(engine, services)
    by_hand = speculation.synthetic_drafts(synthetic, k, 0.5)
    engine = open_engine(synthetic, speculative_config=by_hand, **base)
    rates = speculation.acceptance_rates(0.7, k)
    with retuned(engine, synthetic_acceptance_rates=rates):
        warm_up(engine)
        return serve_repeatedly(engine, services)


def save(store, verdicts: list[Verdict], runs: dict[str, dict], profile) -> None:
    """A record for each service and feature: its median run. runs: service -> feature -> runs."""
    for verdict in verdicts:
        service = verdict.service
        for feature, of_feature in runs[service.key].items():
            gain = verdict.gains.get(feature)  # none for "nothing"
            run = median_run(of_feature, service.value)
            numbers = gain.metrics() if gain else {"improvement_x": 1.0}
            numbers[service.metric] = service.value(run)
            if (share := verdict.accepted_of(feature)) is not None:
                numbers["drafts_accepted_percent"] = 100 * share
            name = f"{service.key}, {feature}"
            chosen = feature == verdict.chosen
            store.save_run("services", name, run, numbers, profile=profile, chosen=chosen)


def compare(
    engine: Engine, service: Service, settings: dict[str, dict], budget_s: float
) -> tuple[dict[str, Gain], dict[str, list[Measurement]]]:
    """Features in turn on one engine, over "nothing": (gains, runs) by feature.

    settings: feature -> what `serve` is called with.
    """
    runs: dict[str, list[Measurement]] = {feature: [] for feature in settings}

    def measuring(feature: str) -> Callable[[], float]:
        def measure() -> float:
            before = [*chain(*runs.values())]
            runs[feature].append(serve(engine, service, before, **settings[feature]))
            return service.value(runs[feature][-1])

        return measure

    functions = {feature: measuring(feature) for feature in settings}
    gains, _ = in_turn(functions, "nothing", service.better, budget_s)
    return gains, runs


def gain_of_engines(service: Service, plain: list[Measurement], other: list[Measurement]) -> Gain:
    """Of runs on one engine over those on another, which ran at another time."""
    return gain_of_runs(plain, other, service.value, service.better)


@dataclass(frozen=True)
class Verdict:
    """What each feature did for a service. gains: those of the features but "nothing".

    accepted: the share of the drafted tokens that was accepted (0 to 1).
    """

    service: Service
    gains: dict[str, Gain]
    chosen: str | None = None
    accepted: float | None = None

    @property
    def winners(self) -> list[str]:
        """The features that are better than nothing, the largest gain first."""
        won = [feature for feature in self.gains if self.of(feature) == "better"]
        return sorted(won, key=lambda feature: -self.gains[feature].estimate)

    def accepted_of(self, feature: str) -> float | None:
        """The accepted share for the feature that drafts; None for the others."""
        return self.accepted if feature == DRAFTS else None

    def of(self, feature: str) -> str:
        """A verdict of helpers.verdicts.gain, or "disturbed".

        "disturbed" is a difference where the feature cannot have made one.
        """
        verdict = self.gains[feature].verdict if feature in self.gains else "same"
        if verdict in ("better", "worse") and feature in self.service.cannot_act:
            return "disturbed"
        return verdict
