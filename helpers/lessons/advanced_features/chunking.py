"""Chunked prefill: streams that are being read while long prompts arrive."""

from __future__ import annotations

from dataclasses import dataclass

from helpers import workloads
from helpers.engine.engine import Engine
from helpers.measure import Measurement, run_workload
from helpers.workloads import Workload

SHORT_PROMPT = 32  # tokens, of a stream


@dataclass(frozen=True)
class Calm:
    """What happens while nobody disturbs anybody.

    long_tokens: of a long prompt; prefill_s: of one alone, in one step. streams: so many at once,
    each of stream_tokens; step_s: between two of their tokens (p50); itl_ms_p99: of their gaps.
    """

    long_tokens: int
    prefill_s: float
    streams: int
    stream_tokens: int
    step_s: float
    itl_ms_p99: float

    @property
    def tokens_per_s(self) -> float:
        """Prompt tokens that are read in a second."""
        return self.long_tokens / self.prefill_s

    def __str__(self) -> str:
        return (
            f"{self.long_tokens:,} tokens are read in {1000 * self.prefill_s:.0f} ms: "
            f"{self.tokens_per_s:,.0f} tokens/s\n"
            f"{self.streams} undisturbed streams: a token every {1000 * self.step_s:.1f} ms, "
            f"p99 {self.itl_ms_p99:.1f} ms"
        )


def calibrate(
    engine: Engine, long_tokens: int, streams: int, stream_tokens: int, seed: int
) -> Calm:
    """Measure long prompts alone, then streams alone."""
    prompts = workloads.uniform(engine.tokenizer, 2, long_tokens, 2, seed + 1)
    alone = run_workload(engine, prompts, concurrency=1).requests
    prefill_s = min(request.ttft_s for request in alone)  # the first may have warmed something up
    calm = workloads.uniform(engine.tokenizer, streams, SHORT_PROMPT, stream_tokens, seed + 2)
    itl = run_workload(engine, calm).metrics
    step_s = itl["itl_ms_p50"] / 1000
    return Calm(long_tokens, prefill_s, streams, stream_tokens, step_s, itl["itl_ms_p99"])


def disturbed_streams(tokenizer, calm: Calm, prompts: int, seed: int) -> Workload:
    """The streams of `calm`, and while they last so many long prompts."""
    first_s, every_s = workloads.spread_arrivals(
        calm.stream_tokens, calm.step_s, prompts, calm.prefill_s
    )
    return workloads.mixed(
        tokenizer,
        short=calm.streams,
        short_input=SHORT_PROMPT,
        short_output=calm.stream_tokens,
        long=prompts,
        long_input=calm.long_tokens,
        long_output=4,
        every_s=every_s,
        first_s=first_s,
        seed=seed,
    )


def row_of(run: Measurement, budget: int) -> dict[str, float]:
    """What a run of `disturbed_streams` with this budget did to the streams and to the prompts."""
    streams = run.summary("short")
    return {
        "max_num_batched_tokens": budget,
        "itl_ms_p50": streams["itl_ms_p50"],
        "itl_ms_p99": streams["itl_ms_p99"],
        "itl_ms_max": 1000 * max(gap for r in run.requests if r.kind == "short" for gap in r.itl_s),
        "ttft_long_ms_p50": run.summary("long")["ttft_ms_p50"],
        "total_tokens_per_s": run.metrics["total_tokens_per_s"],
    }
