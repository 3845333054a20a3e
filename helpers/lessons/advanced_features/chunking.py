"""Chunked prefill: what a budget does to streams, and to the long prompts that arrive meanwhile."""

from __future__ import annotations

from helpers.measure import Measurement


def row_of(run: Measurement, budget: int) -> dict[str, float]:
    """What a run with this budget did to its short requests and to its long ones."""
    streams = run.summary("short")
    return {
        "max_num_batched_tokens": budget,
        "itl_ms_p50": streams["itl_ms_p50"],
        "itl_ms_p99": streams["itl_ms_p99"],
        "itl_ms_max": 1000 * max(gap for r in run.requests if r.kind == "short" for gap in r.itl_s),
        "ttft_long_ms_p50": run.summary("long")["ttft_ms_p50"],
        "total_tokens_per_s": run.metrics["total_tokens_per_s"],
    }
