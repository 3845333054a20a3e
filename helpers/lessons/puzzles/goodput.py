"""Puzzle: goodput from a list of requests; `vllm bench serve` answers."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator

from helpers.engine.start import quiet
from helpers.lessons.puzzles.check import Case, Puzzle, close

TTFT_MS, TPOT_MS = 200, 50


def _runs(draw: random.Random) -> Iterator[Case]:
    """Each kind of request by itself, then many of all kinds."""
    in_time = _request(ttft_s=0.1, tpot_s=0.04, tokens=2)
    yield _run([in_time], 2.0)
    for request in (
        _request(ttft_s=0.3, tpot_s=0.01, tokens=100),  # late, then fast
        _request(ttft_s=0.02, tpot_s=0.051, tokens=11),  # too slow, but not by latency / tokens
        _request(ttft_s=0.1, tpot_s=0.0, tokens=1),  # has no TPOT
        _request(ttft_s=0.01, tpot_s=0.01, tokens=5, ok=False),
    ):
        yield _run([in_time, request], 2.0)
    for n in (20, 100):
        requests = [
            _request(draw.uniform(0, 0.3), draw.uniform(0, 0.08), draw.randrange(1, 50))
            for _ in range(n)
        ]
        yield _run(requests, draw.uniform(1, 10))


def _request(ttft_s: float, tpot_s: float, tokens: int, ok: bool = True) -> dict:
    latency_s = ttft_s + (tokens - 1) * tpot_s
    return {"ok": ok, "ttft_s": ttft_s, "latency_s": latency_s, "output_tokens": tokens}


def _run(requests: list[dict], duration_s: float) -> Case:
    given = {"requests": requests, "duration_s": duration_s, "ttft_ms": TTFT_MS, "tpot_ms": TPOT_MS}
    return Case(given, goodput_of_vllm(**given))


def goodput_of_vllm(requests, duration_s: float, ttft_ms: float, tpot_ms: float) -> float:
    """The request goodput that vLLM's benchmark prints for such a run, in requests/s."""
    if not any(request["ok"] for request in requests):
        return 0.0  # the benchmark would warn that all requests failed
    with quiet():
        from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput
        from vllm.benchmarks.serve import calculate_metrics

    outputs = [
        RequestFuncOutput(
            success=request["ok"],
            ttft=request["ttft_s"],
            latency=request["latency_s"],
            output_tokens=request["output_tokens"],
        )
        for request in requests
    ]
    goals = {"ttft": ttft_ms, "tpot": tpot_ms}
    with contextlib.redirect_stdout(io.StringIO()):  # it has advice to print
        found, _ = calculate_metrics([], outputs, duration_s, None, [99.0], goals)
    return found.request_goodput


GOODPUT = Puzzle(
    "goodput",
    "Goodput",
    _runs,
    against="the request goodput of vllm bench serve",
    proved="An answer counts when it meets all goals at once: 90 % in time for the first token and "
    "90 % in time for the others can be 80 % of good ones. Failed requests never count.",
    where=("vllm/benchmarks/serve.py", "calculate_metrics"),
    hints=(
        "Count the requests that are `ok` and meet both goals, and divide by the run's seconds.",
        "TPOT is the time after the first token over the tokens after the first: "
        "(latency - ttft) / (output_tokens - 1).",
        "A single token has no TPOT: only the goal for TTFT holds for it.",
    ),
    same=close,
)
