"""Does `measure` report what vLLM's own benchmarks report? Target: a ratio within 2 %.

The same workload both ways in turn: `helpers.measure.run_workload`, and what is behind
`vllm bench throughput` (vllm/benchmarks/throughput.py) and `vllm bench latency`
(vllm/benchmarks/latency.py times LLM.generate for one batch).

    python -m benchmarks.limits --parts truth [--rounds 5]
"""

from __future__ import annotations

import contextlib
import io
import time

from benchmarks.in_turns import in_turns
from helpers.engine.engine import Engine
from helpers.measure import run_workload
from helpers.workloads import Workload

TARGET = 0.02
BATCH = 8  # as vllm bench latency's default


def throughput_pairs(engine: Engine, rounds: int) -> list[dict]:
    """Total tokens/s both ways ("measure", "vllm_bench"), and their "ratio"."""
    ways = {
        "measure": lambda work: _measured(engine, work).metrics["total_tokens_per_s"],
        "vllm_bench": lambda work: _bench_throughput(engine, work),
    }
    rows = in_turns(engine, ways, rounds)
    return [{**row, "ratio": row["measure"] / row["vllm_bench"]} for row in rows]


def latency_pairs(engine: Engine, rounds: int) -> list[dict]:
    """Seconds of one batch both ways ("measure_s", "vllm_bench_s"), and their "ratio"."""
    ways = {
        "measure_s": lambda work: _measured(engine, work).duration_s,
        "vllm_bench_s": lambda work: _bench_latency(engine, work),
    }
    rows = in_turns(engine, ways, rounds, requests=BATCH)
    return [{**row, "ratio": row["measure_s"] / row["vllm_bench_s"]} for row in rows]


def _measured(engine: Engine, work: Workload):
    return run_workload(engine, work, {"temperature": 1.0}, progress=False)


def _bench_throughput(engine: Engine, work: Workload) -> float:
    from vllm.benchmarks.datasets import SampleRequest
    from vllm.benchmarks.throughput import _run_vllm_requests  # what the command runs

    requests = [
        SampleRequest(
            {"prompt_token_ids": r.prompt_token_ids}, len(r.prompt_token_ids), r.max_tokens
        )
        for r in work.requests
    ]
    quiet = io.StringIO()  # its progress bar
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        seconds, outputs = _run_vllm_requests(
            engine.llm,
            requests,
            1,
            False,
            do_profile=False,
            prequeue_requests=False,
            enable_lora=False,
        )
    return (work.input_tokens + sum(len(o.outputs[0].token_ids) for o in outputs)) / seconds


def _bench_latency(engine: Engine, work: Workload) -> float:
    from vllm import SamplingParams

    params = SamplingParams(
        temperature=1.0, ignore_eos=True, max_tokens=work.requests[0].max_tokens, detokenize=True
    )
    prompts = [{"prompt_token_ids": r.prompt_token_ids} for r in work.requests]
    start = time.perf_counter()
    engine.llm.generate(prompts, params, use_tqdm=False)
    return time.perf_counter() - start
