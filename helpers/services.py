"""Four services that a student chooses features for, each with the workload and the number that it is judged by."""

from __future__ import annotations

from dataclasses import dataclass

from helpers import workloads
from helpers.workloads import Workload

FEATURES = ("nothing", "prefix caching", "small chunks", "speculative decoding")


@dataclass(frozen=True)
class Service:
    """`metric` is a name of Measurement.summary (of the requests of `kind`); `better` is "lower" or "higher"."""

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
    mixed = workloads.mixed(tokenizer, sizes["streams"], 32, 4 * out, 2, long, 4, every_s, first_s, seed)
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
            mixed, "itl_ms_p99", "ITL p99 of the streams (ms)", "lower", kind="short",
        ),
    ]  # fmt: skip
