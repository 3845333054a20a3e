"""Does `measure` report the throughput that vLLM's own benchmark reports?

One engine, one workload, both ways in turn: `helpers.measure.run_workload`, and the function behind
`vllm bench throughput` (vllm/benchmarks/throughput.py). The target is a ratio within 2 %.

    python -m benchmarks.measure_truth [--pairs 5] [--requests 128] [--model NAME --load-format dummy]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics

from vllm.benchmarks.datasets import SampleRequest
from vllm.benchmarks.throughput import _run_vllm_requests

from benchmarks.record import keep
from helpers.engine.engine import open_engine
from helpers.engine.profile import load_profile
from helpers.measure import run_workload, warm_up
from helpers.workloads import uniform


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--model")
    parser.add_argument("--load-format")
    options = parser.parse_args(argv)
    profile = load_profile("auto", options.model, options.load_format)
    with open_engine(profile, max_model_len=options.input_tokens + options.output_tokens) as engine:
        warm_up(engine)
        rows = pairs(
            engine, options.pairs, options.requests, options.input_tokens, options.output_tokens
        )
    for row in rows:
        print(
            f"measure {row['measure']:10,.0f} tokens/s   vllm bench {row['vllm_bench']:10,.0f}   ratio {row['ratio']:.4f}"
        )
    ratio = statistics.median(row["ratio"] for row in rows)
    print(f"Median ratio {ratio:.4f} on {profile.machine} (target: within 2 %)")
    keep("measure_truth", profile, {"median_ratio": ratio, "pairs": rows})
    return 0 if abs(ratio - 1) <= 0.02 else 1


def pairs(engine, count: int, requests: int, input_tokens: int, output_tokens: int) -> list[dict]:
    """The same workload both ways, `count` times: total tokens/s of each, and their ratio."""
    rows = []
    for pair in range(count + 1):
        work = uniform(engine.tokenizer, requests, input_tokens, output_tokens, seed=pair)
        # Each goes first every other time, with nothing in the prefix cache.
        ways = [
            ("measure", lambda: _ours(engine, work)),
            ("vllm_bench", lambda: _vllms(engine, work, output_tokens)),
        ]
        found = {}
        for name, way in ways if pair % 2 else reversed(ways):
            engine.llm.reset_prefix_cache()
            found[name] = way()
        if pair:  # the first pair is a warm-up
            rows.append({**found, "ratio": found["measure"] / found["vllm_bench"]})
    return rows


def _ours(engine, work) -> float:
    return run_workload(engine, work, {"temperature": 1.0}, progress=False).metrics[
        "total_tokens_per_s"
    ]


def _vllms(engine, work, output_tokens: int) -> float:
    requests = [
        SampleRequest(
            prompt={"prompt_token_ids": r.prompt_token_ids},
            prompt_len=len(r.prompt_token_ids),
            expected_output_len=output_tokens,
        )
        for r in work.requests
    ]
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):  # its progress bar
        seconds, outputs = _run_vllm_requests(
            engine.llm,
            requests,
            1,
            False,
            do_profile=False,
            prequeue_requests=False,
            enable_lora=False,
        )
    tokens = work.input_tokens + sum(len(o.outputs[0].token_ids) for o in outputs)
    return tokens / seconds


if __name__ == "__main__":
    raise SystemExit(main())
