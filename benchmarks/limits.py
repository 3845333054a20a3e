"""Performance against the limit: one engine start, everything else measured on it, each result written as it comes.

    python -m benchmarks.limits [--model Qwen/Qwen2.5-7B-Instruct --load-format dummy] [--parts ceilings,decode,...]

  ceilings   copy and read bandwidth and the bf16 matrix rate of this machine (helpers/lessons/machine_limits.py, in a child)
  timeline   the sampled memory of the start against vLLM's log (benchmarks/memory_timeline.py)
  decode     tokens/s at batch 1 to 256, and the fraction of the roofline from those ceilings
  prefill    tokens/s at 1k to 16k, likewise
  truth      `measure` against the functions behind `vllm bench throughput` and `vllm bench latency`, in turn
  sampling   what sampling memory 10 and 50 times a second costs, in turn with plain runs
  profile    where a decode step's time goes, from vLLM's own torch profiler (benchmarks/step_trace.py)

The roofline of a step is max(bytes / read bandwidth, operations / matrix rate). Bytes: the weights once and the KV cache
of all sequences. Operations: 2 for each weight and token, 4 x layers x query heads x head size for each pair of tokens
that meet in attention. What the model must do at least; activations and the sampler come on top.
A part that is cut off loses nothing of the parts before it: results/benchmarks/limits.jsonl, or in $BENCHMARK_RECORDS.
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import measure_truth, memory_timeline, sampling_cost, step_trace
from benchmarks.record import keep
from helpers import gpu_memory
from helpers.engine.engine import close_engine, open_engine
from helpers.engine.profile import load_profile
from helpers.gpu_memory import MemorySampler
from helpers.measure import run_workload, warm_up
from helpers.planning import load_shape
from helpers.workloads import uniform

PARTS = ("ceilings", "timeline", "decode", "prefill", "truth", "sampling", "profile")
ROOT = Path(__file__).resolve().parents[1]
CEILINGS = [sys.executable, "-m", "helpers.lessons.machine_limits"]


@dataclasses.dataclass(frozen=True)
class Work:
    """The least that a step must move (bytes) and compute (floating-point operations)."""

    bytes: float
    flop: float

    def seconds(self, limits: dict) -> float:
        return max(
            self.bytes / (limits["read_gb_per_s"] * 1e9), self.flop / (limits["tflop_per_s"] * 1e12)
        )

    def bound(self, limits: dict) -> str:
        by_bytes = self.bytes / (limits["read_gb_per_s"] * 1e9)
        return "memory" if by_bytes >= self.flop / (limits["tflop_per_s"] * 1e12) else "arithmetic"


def decode_work(shape, streams: int, context: float) -> Work:
    """One decode step: `streams` sequences of `context` tokens each, one new token each."""
    weights = shape.active_parameters()
    attention = 4 * shape.layers * shape.heads * shape.head_dim * context
    return Work(
        weights * shape.dtype_bytes + streams * context * shape.kv_bytes_per_token(),
        streams * (2 * weights + attention),
    )


def prefill_work(shape, tokens: int, prompts: int = 1) -> Work:
    """`tokens` in one step, as so many prompts; the output layer runs for last tokens alone, attention is causal."""
    weights = shape.active_parameters()
    head = shape.vocab * shape.hidden
    length = tokens // prompts
    pairs = prompts * length * (length + 1) / 2
    flop = (
        2 * (weights - head) * tokens
        + 2 * head * prompts
        + 4 * shape.layers * shape.heads * shape.head_dim * pairs
    )
    return Work(weights * shape.dtype_bytes + tokens * shape.kv_bytes_per_token(), flop)


class Limits:
    """One run: the profile, the open engine, and the ceilings that fractions are taken of."""

    def __init__(self, options, profile):
        self.options, self.profile = options, profile
        self.shape = load_shape(profile.model)
        self.limits = None
        self.engine = None

    def save(self, part: str, metrics: dict) -> None:
        keep("limits", self.profile, {"part": part, **metrics})

    # --- before the engine ---

    def ceilings(self) -> None:
        # In a child: this process must not touch CUDA before the engine starts.
        out = subprocess.run(
            CEILINGS, cwd=ROOT, text=True, capture_output=True, timeout=200, check=True
        ).stdout
        self.limits = json.loads(out.splitlines()[-1])
        self.save("ceilings", self.limits)
        print(
            f"ceilings: read {self.limits['read_gb_per_s']:,.0f} GB/s, copy {self.limits['copy_gb_per_s']:,.0f} GB/s (bytes read plus written), "
            f"{self.limits['tflop_per_s']:,.1f} TFLOP/s in bfloat16",
            flush=True,
        )

    def open(self, traces: str) -> None:
        profiler = {
            "profiler": "torch",
            "torch_profiler_dir": traces,
            "torch_profiler_with_stack": False,
            "ignore_frontend": True,
        }
        before = gpu_memory.memory_now()["used_gib"]
        with MemorySampler(hz=10) as sampler:
            self.engine = open_engine(
                self.profile,
                **({"profiler_config": profiler} if "profile" in self.options.parts else {}),
            )
            opened = sampler.elapsed_s
            time.sleep(1.0)
            if "timeline" in self.options.parts:
                memory_timeline.report(
                    memory_timeline.compare(sampler, self.engine, before, opened), self.profile
                )
        self.engine.sampler.stop()  # the engine watches its own memory; not in these runs
        print(self.engine.info, flush=True)
        self.save("start", {"startup_s": self.engine.info.startup_s, "startup_phases_s": self.engine.info.startup_phases_s,
                            "before_gib": before})  # fmt: skip
        warm_up(self.engine)

    def fraction(self, work: Work, seconds: float) -> dict:
        if self.limits is None:
            return {}
        least = work.seconds(self.limits)
        return {
            "roofline_ms": 1e3 * least,
            "roofline_share": least / seconds,
            "bound": work.bound(self.limits),
        }

    # --- on the engine ---

    def decode(self) -> None:
        inputs, outputs = (128, 96) if self.profile.name == "gpu" else (64, 32)
        for streams in self.options.batches:
            work = uniform(self.engine.tokenizer, streams, inputs, outputs, seed=streams)
            run = run_workload(self.engine, work, progress=False)
            # Steps in which every stream got a token and no prompt was read: the middle of the run.
            steps = [
                (b["t_s"] - a["t_s"])
                for a, b in zip(run.timeline, run.timeline[1:])
                if a["tokens"] == b["tokens"] == streams
            ]
            if not steps:
                print(f"decode, batch {streams}: the engine never ran all {streams} together")
                continue
            step = statistics.median(steps)
            found = {"streams": streams, "context": inputs + outputs / 2, "step_ms": 1e3 * step, "steps": len(steps), "tokens_per_s": streams / step,
                     "whole_run_tokens_per_s": run.metrics["output_tokens_per_s"],
                     **self.fraction(decode_work(self.shape, streams, inputs + outputs / 2), step)}  # fmt: skip
            self.save("decode", found)
            print(
                f"decode, batch {streams:4}: {found['tokens_per_s']:9,.0f} tokens/s, step {found['step_ms']:7.3f} ms{_share(found)}",
                flush=True,
            )

    def prefill(self) -> None:
        for tokens in self.options.prompts:
            # Longer than a request may be: several prompts in the same step. An engine with another max_model_len
            # would be compiled anew, and the notebooks' engines share this one's code.
            longest = self.engine.info.max_model_len
            prompts = -(-tokens // longest)
            length = min(tokens // prompts, longest - 1)  # a token must still fit
            tokens = prompts * length
            # One token each; the first run is a warm-up, no run finds its prompts in the prefix cache.
            work = [
                uniform(self.engine.tokenizer, prompts, length, 1, seed=1000 * tokens + i)
                for i in range(4)
            ]
            times = [
                max(r.ttft_s for r in run_workload(self.engine, one, progress=False).requests)
                for one in work
            ][1:]
            steps = -(-tokens // self.engine.info.max_num_batched_tokens)
            found = {"tokens": tokens, "prompts": prompts, "ttft_ms": 1e3 * min(times), "ttft_ms_all": [1e3 * t for t in times], "engine_steps": steps,
                     "tokens_per_s": tokens / min(times), **self.fraction(prefill_work(self.shape, tokens, prompts), min(times))}  # fmt: skip
            self.save("prefill", found)
            print(f"prefill of {tokens:6,}{f' in {prompts} prompts' if prompts > 1 else ''}: {found['tokens_per_s']:9,.0f} tokens/s, "
                  f"{found['ttft_ms']:8.2f} ms{_share(found)}", flush=True)  # fmt: skip

    def _load(self) -> tuple[int, int, int]:
        """Tokens in, tokens out and requests of the runs that are compared in turn. On a GPU so many streams that it has
        more to do for a step than the CPU: with 256 the CPU's own noise was 4 % a pair."""
        return (128, 384, 64) if self.profile.name == "gpu" else (64, 24, 16)

    def truth(self) -> None:
        engine, (inputs, outputs, requests) = self.engine, self._load()
        rows = measure_truth.pairs(engine, self.options.pairs, requests, inputs, outputs)
        throughput = statistics.median(row["ratio"] for row in rows)
        keep(
            "measure_truth",
            self.profile,
            {"median_ratio": throughput, "pairs": rows, "max_model_len": engine.info.max_model_len},
        )
        latency = self._latency_pairs(inputs, outputs)
        self.save(
            "latency_truth",
            {"median_ratio": statistics.median(row["ratio"] for row in latency), "pairs": latency},
        )
        print(
            f"measure over vllm bench: throughput {throughput:.4f} ({', '.join('%.4f' % r['ratio'] for r in rows)}), "
            f"latency of a batch of 8 {statistics.median(r['ratio'] for r in latency):.4f} (target: within 2 %)",
            flush=True,
        )

    def _latency_pairs(self, inputs: int, outputs: int) -> list[dict]:
        """`vllm bench latency` times LLM.generate for one batch (vllm/benchmarks/latency.py); so does this, in turn with measure."""
        from vllm import SamplingParams

        engine, rows = self.engine, []
        params = SamplingParams(
            temperature=1.0, top_p=1.0, ignore_eos=True, max_tokens=outputs, detokenize=True
        )
        for pair in range(self.options.pairs + 1):
            work = uniform(engine.tokenizer, 8, inputs, outputs, seed=500 + pair)

            def theirs():
                start = time.perf_counter()
                engine.llm.generate(
                    [{"prompt_token_ids": r.prompt_token_ids} for r in work.requests],
                    params,
                    use_tqdm=False,
                )
                return time.perf_counter() - start

            ways = [
                (
                    "measure_s",
                    lambda: (
                        run_workload(engine, work, {"temperature": 1.0}, progress=False).duration_s
                    ),
                ),
                ("vllm_bench_s", theirs),
            ]
            found = {}
            for name, way in ways if pair % 2 else reversed(ways):
                engine.llm.reset_prefix_cache()
                found[name] = way()
            if pair:
                rows.append({**found, "ratio": found["measure_s"] / found["vllm_bench_s"]})
        return rows

    def sampling(self) -> None:
        found = sampling_cost.measure(self.engine, self.options.rounds, *self._load())
        keep("sampling_cost", self.profile, found)
        print(f"sampling memory {sampling_cost.describe(found)}", flush=True)

    def profile_steps(self, traces: str) -> None:
        """Streams 1, 32 and the largest batch; the step time without the profiler stands beside the profiled one."""
        engine = self.engine
        for streams in sorted({1, min(32, self.options.batches[-1]), self.options.batches[-1]}):
            inputs, outputs = (128, 40) if self.profile.name == "gpu" else (64, 12)
            plain = run_workload(
                engine,
                uniform(engine.tokenizer, streams, inputs, outputs, seed=7000 + streams),
                progress=False,
            )
            before = set(glob.glob(f"{traces}/**/*.json*", recursive=True))
            engine.llm.start_profile(f"decode{streams}")
            run_workload(
                engine,
                uniform(engine.tokenizer, streams, inputs, outputs, seed=8000 + streams),
                progress=False,
            )
            engine.llm.stop_profile()
            deadline = time.monotonic() + 30
            while (
                not (new := sorted(set(glob.glob(f"{traces}/**/*.json*", recursive=True)) - before))
                and time.monotonic() < deadline
            ):
                time.sleep(0.2)
            if not new:
                print(f"profile of {streams} streams: vLLM wrote no trace in {traces}")
                continue
            found = step_trace.summarise(step_trace.read_events(new[-1]), streams)
            steps = [
                b["t_s"] - a["t_s"]
                for a, b in zip(plain.timeline, plain.timeline[1:])
                if a["tokens"] == b["tokens"] == streams
            ]
            if steps:
                found["unprofiled_step_ms"] = 1e3 * statistics.median(steps)
                found["gap_ms_unprofiled"] = found["unprofiled_step_ms"] - found["busy_ms"]
            self.save("profile", found)
            print(
                step_trace.table_of(found)
                + (
                    f"\n  without the profiler a step takes {found['unprofiled_step_ms']:.3f} ms"
                    if steps
                    else ""
                ),
                flush=True,
            )


def _share(found: dict) -> str:
    return (
        f", {found['roofline_share']:6.1%} of the roofline ({found['bound']})"
        if "roofline_share" in found
        else ""
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--load-format")
    parser.add_argument(
        "--parts", default=",".join(PARTS), help="separated by commas (default: all)"
    )
    parser.add_argument(
        "--batches", type=int, nargs="+", help="decode (default: 1 to 256, on the CPU 1 to 16)"
    )
    parser.add_argument(
        "--prompts", type=int, nargs="+", help="prefill (default: 1k to 16k, on the CPU 256 to 8k)"
    )
    parser.add_argument("--pairs", type=int, default=3, help="truth")
    parser.add_argument("--rounds", type=int, default=5, help="sampling")
    options = parser.parse_args(argv)
    options.parts = options.parts.split(",")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    profile = load_profile("auto", options.model, options.load_format)
    on_gpu = profile.name == "gpu"
    options.batches = options.batches or ([2**i for i in range(9)] if on_gpu else [1, 4, 16])
    options.prompts = options.prompts or (
        [1024, 2048, 4096, 8192, 16384] if on_gpu else [256, 1024, 8192]
    )
    run = Limits(options, profile)
    print(profile, flush=True)
    failed = []
    with tempfile.TemporaryDirectory(prefix="traces-") as traces:
        try:
            if "ceilings" in options.parts:
                run.ceilings()
            run.open(traces)
            for part in ("decode", "prefill", "truth", "sampling", "profile"):
                if part not in options.parts:
                    continue
                began = time.perf_counter()
                try:
                    run.profile_steps(traces) if part == "profile" else getattr(run, part)()
                except Exception as error:  # the other parts are worth their time all the same
                    failed.append(part)
                    print(f"{part} FAILED: {type(error).__name__}: {error}", flush=True)
                print(f"({part}: {time.perf_counter() - began:.1f} s)", flush=True)
        finally:
            print(close_engine())
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
