"""Chunked prefill: what a budget does to streams, and to the long prompts that arrive meanwhile."""

from __future__ import annotations

from helpers.engine.steps import Steps
from helpers.measure import Measurement


def one_step(running: dict[str, int], waiting: dict[str, int], budget: int) -> dict[str, int]:
    """What the puzzle of the same name asks for."""
    step: dict[str, int] = {}
    for name, left in (running | waiting).items():
        if tokens := min(left, budget - sum(step.values())):
            step[name] = tokens
    return step


def full_chunks_ms(steps: Steps, request: int) -> list[float]:
    """How long the steps with a full chunk of a recorded prompt took, the first one first."""
    chunks = [step for step, work in steps.of(request) if work.prefill]
    return [1000 * (step.end_s - step.start_s) for step in chunks[:-1]]  # the last is the rest


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
