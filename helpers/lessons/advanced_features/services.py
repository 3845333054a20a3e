"""Four services that a student chooses features for: what each runs, and what it is judged by."""

from __future__ import annotations

from dataclasses import dataclass

from helpers import workloads
from helpers.engine.engine import Engine
from helpers.measure import Measurement, run_workload
from helpers.workloads import Workload

FEATURES = ("nothing", "prefix caching", "small chunks", "speculative decoding")
NOISE = 0.1  # each is measured once: a gain or loss of less is not called one


@dataclass(frozen=True)
class Service:
    """One service.

    needs: what the service is and what its users feel. metric: a name of Measurement.summary (of
    the requests of `kind`) or "itl_ms_max". better: "lower" or "higher".
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

    def value(self, measurement: Measurement) -> float:
        """The number that the service is judged by."""
        if self.metric == "itl_ms_max":
            return longest_gap_ms(measurement, self.kind)
        return measurement.summary(self.kind)[self.metric]

    def gain(self, plain: float, other: float) -> float:
        """Times better than `plain`; below 1 is a loss."""
        return plain / other if self.better == "lower" else other / plain


def longest_gap_ms(measurement: Measurement, kind: str) -> float:
    """The longest gap between two tokens of any request of this kind (ms)."""
    return 1000 * max(gap for r in measurement.requests if r.kind == kind for gap in r.itl_s)


def four_services(tokenizer, sizes: dict[str, float], seed: int = 0) -> dict[str, Service]:
    """The four by their keys, sized by `sizes`.

    requests, long_tokens (of a long prompt), prefix_tokens, output_tokens, streams; step_s and
    prefill_s as for workloads.spread_arrivals.
    """
    n, out = sizes["requests"], sizes["output_tokens"]
    long, prefix, streams = sizes["long_tokens"], sizes["prefix_tokens"], sizes["streams"]
    first_s, every_s = workloads.spread_arrivals(4 * out, sizes["step_s"], 2, sizes["prefill_s"])
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
    )
    completion = Service(
        key="completion",
        name="code completion at low load",
        needs="One developer, one request at a time, predictable text; "
        "the whole answer should be there at once.",
        workload=workloads.questions(tokenizer, max(2, n // 2), seed, max_tokens=64),
        metric="e2e_ms_p50",
        metric_label="E2E p50 (ms)",
        better="lower",
        concurrency=1,
    )
    mixed = Service(
        key="mixed",
        name="mixed long and short",
        needs=f"{streams} people read streamed answers while now and then "
        f"a prompt of {long:,} tokens comes in.",
        workload=workloads.mixed(
            tokenizer, streams, 32, 4 * out, 2, long, 4, every_s, first_s, seed
        ),
        metric="itl_ms_max",
        metric_label="longest gap in a stream (ms)",
        better="lower",
        kind="short",
    )
    return {service.key: service for service in (chat, batch, completion, mixed)}


def serve(
    engine: Engine, services: dict[str, Service], reads_cache: bool = False
) -> dict[str, Measurement]:
    """Each service's workload on the engine as it is: service key -> Measurement.

    The prefix cache is emptied before each. reads_cache: requests may find what earlier ones of the
    same service left in the prefix cache.
    """
    sampling = None if reads_cache else {"skip_reading_prefix_cache": True}
    measured = {}
    for key, service in services.items():
        engine.llm.reset_prefix_cache()
        measured[key] = run_workload(
            engine, service.workload, sampling, service.concurrency, progress=False
        )
    return measured


def best_of(gains: dict[str, float]) -> str | None:
    """The feature that gained most; None when no gain is above the noise."""
    best = max(FEATURES, key=lambda feature: gains[feature])
    return best if gains[best] >= 1 + NOISE else None
