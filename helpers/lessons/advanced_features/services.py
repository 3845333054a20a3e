"""Four services that a student chooses features for, each with the workload and the number that it is judged by."""

from __future__ import annotations

from dataclasses import dataclass

from helpers import workloads
from helpers.workloads import Workload

FEATURES = ("nothing", "prefix caching", "small chunks", "speculative decoding")
NOISE = 0.1  # each is measured once: a gain or loss of less is not called one


@dataclass(frozen=True)
class Service:
    """`metric` is a name of Measurement.summary (of the requests of `kind`) or "itl_ms_max"; `better` is "lower" or "higher"."""

    key: str
    name: str
    needs: str  # what the service is and what its users feel
    workload: Workload
    metric: str
    metric_label: str
    better: str
    kind: str | None = None
    concurrency: int | None = None

    def value(self, measurement) -> float:
        if self.metric == "itl_ms_max":
            return 1000 * max(
                gap for r in measurement.requests if self.kind in (None, r.kind) for gap in r.itl_s
            )
        return measurement.summary(self.kind)[self.metric]

    def gain(self, plain: float, other: float) -> float:
        """Times better than `plain`; below 1 is a loss."""
        return plain / other if self.better == "lower" else other / plain


def four_services(tokenizer, sizes: dict[str, float], seed: int = 0) -> list[Service]:
    """The four, sized by `sizes`: requests, long_tokens (of a long prompt), prefix_tokens, output_tokens, streams;
    step_s and prefill_s as for workloads.spread_arrivals.
    """
    n, out = sizes["requests"], sizes["output_tokens"]
    long = sizes["long_tokens"]
    chat = workloads.shared_prefix(tokenizer, n, sizes["prefix_tokens"], 24, out, seed)
    batch = workloads.uniform(tokenizer, n, long // 2, out // 2, seed)
    complete = workloads.questions(tokenizer, max(2, n // 2), seed, max_tokens=64)
    first_s, every_s = workloads.spread_arrivals(4 * out, sizes["step_s"], 2, sizes["prefill_s"])
    mixed = workloads.mixed(
        tokenizer, sizes["streams"], 32, 4 * out, 2, long, 4, every_s, first_s, seed
    )
    return [
        Service(
            "chat", "chat with a long system prompt",
            f"Every request begins with the same {sizes['prefix_tokens']:,} tokens of instructions; people wait for the first word.",
            chat, "ttft_ms_p50", "TTFT p50 (ms)", "lower",
        ),
        Service(
            "batch", "batch summarising",
            f"{n} different documents of {long // 2:,} tokens, all there at once, overnight; only the total time counts.",
            batch, "total_tokens_per_s", "tokens/s, in and out", "higher",
        ),
        Service(
            "completion", "code completion at low load",
            "One developer, one request at a time, predictable text; the whole answer should be there at once.",
            complete, "e2e_ms_p50", "E2E p50 (ms)", "lower", concurrency=1,
        ),
        Service(
            "mixed", "mixed long and short",
            f"{sizes['streams']} people read streamed answers while now and then a prompt of {long:,} tokens comes in.",
            mixed, "itl_ms_max", "longest gap in a stream (ms)", "lower", kind="short",
        ),
    ]  # fmt: skip


def best_of(gains: dict[str, float]) -> str | None:
    """The feature that gained most; None when no gain is above the noise."""
    best = max(FEATURES, key=lambda feature: gains[feature])
    return best if gains[best] >= 1 + NOISE else None


def reading(verdicts: list[dict]) -> str:
    """What was best for each service. verdicts: dicts with service and the gain of each feature."""
    said = []
    for row in verdicts:
        best = best_of(row)
        said.append(
            f"{row['service']}: {f'{best} ({row[best]:.2f}x)' if best else 'nothing above the noise'}"
        )
    return "; ".join(said) + f". Within {100 * NOISE:.0f} % of 1 counts as no difference (grey)."
