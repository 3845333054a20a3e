"""Performance against the limit: one engine start, and everything else measured on it.

    python -m benchmarks.limits [--model Qwen/Qwen2.5-7B-Instruct --load-format dummy]
                                [--parts ceilings,decode,...]

  ceilings   copy and read bandwidth and the bf16 matrix rate of this machine
  timeline   the sampled memory of the start against vLLM's log (memory_timeline.py)
  decode     tokens/s at batch 1 to 256, and the fraction of those ceilings (roofline.py)
  prefill    tokens/s at 1k to 16k, likewise
  truth      `measure` against vLLM's own benchmarks, in turns (measure_truth.py)
  sampling   what sampling memory 10 and 50 times a second costs, in turns (sampling_cost.py)
  profile    where a decode step's time goes, from vLLM's torch profiler (step_trace.py)

A part that is cut off loses nothing of the parts before it: results/benchmarks/limits.jsonl, or in
$BENCHMARK_RECORDS.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from benchmarks import measure_truth, memory_timeline, sampling_cost, step_trace
from benchmarks.record import keep
from benchmarks.roofline import decode_work, prefill_work
from helpers import REPO, gpu_memory
from helpers.display import card
from helpers.engine import close_engine, load_profile, open_engine
from helpers.gpu_memory import MemorySampler
from helpers.measure import Measurement, run_workload, warm_up
from helpers.planning import load_shape
from helpers.workloads import uniform

PARTS = ("ceilings", "timeline", "decode", "prefill", "truth", "sampling", "profile")
# For a GPU and for a CPU: streams of a decode step, tokens of a prefill; tokens in and out of a
# decoding request.
STREAMS = {"gpu": [1, 2, 4, 8, 16, 32, 64, 128, 256], "cpu": [1, 4, 16]}
PROMPTS = {"gpu": [1024, 2048, 4096, 8192, 16384], "cpu": [256, 1024, 8192]}
TOKENS = {"gpu": (128, 96), "cpu": (64, 32)}


class Limits:
    """One run: the profile, the open engine, and the ceilings that fractions are taken of.

    A part returns False when its target is missed.
    """

    def __init__(self, profile, parts: list[str], rounds: int, traces: str):
        self.profile, self.parts, self.rounds, self.traces = profile, parts, rounds, Path(traces)
        self.shape = load_shape(profile.model)
        self.ceilings = None
        self.engine = None

    def save(self, part: str, metrics: dict) -> None:
        """One record of "limits"."""
        keep("limits", self.profile, {"part": part, **metrics})

    def measure_ceilings(self) -> None:
        """In a child: this process must not touch CUDA before the engine starts."""
        command = [sys.executable, "-m", "helpers.lessons.machine_limits"]
        out = subprocess.run(
            command, cwd=REPO, text=True, stdout=subprocess.PIPE, timeout=200, check=True
        ).stdout
        self.ceilings = json.loads(out.splitlines()[-1])
        self.save("ceilings", self.ceilings)

    def open(self) -> bool:
        """Start the engine, its memory sampled from outside."""
        args = {}
        if "profile" in self.parts:
            args["profiler_config"] = {
                "profiler": "torch",
                "torch_profiler_dir": str(self.traces),
                "torch_profiler_with_stack": False,
                "ignore_frontend": True,
            }
        before = gpu_memory.memory_now()["used_gib"]
        with MemorySampler(hz=10) as sampler:
            self.engine = open_engine(self.profile, **args)
            opened = sampler.elapsed_s
            time.sleep(1.0)
            timeline = memory_timeline.compare(sampler, self.engine, before, opened)
        self.engine.sampler.stop()  # the engine watches its own memory: not in what follows
        info = self.engine.info
        print(info, flush=True)
        start = {"startup_s": info.startup_s, "startup_phases_s": info.startup_phases_s}
        self.save("start", {**start, "before_gib": before})
        warm_up(self.engine)
        if "timeline" not in self.parts:
            return True
        keep("timeline_vs_log", self.profile, timeline)
        for row in timeline["rows"]:
            print(row, flush=True)
        return memory_timeline.met(timeline)

    def decode_run(self, streams: int, outputs: int, seed: int) -> tuple[Measurement, list[float]]:
        """So many streams at once, and the seconds of its steps.

        Those in which every stream got a token and no prompt was read: the middle of the run.
        """
        inputs, _ = TOKENS[self.profile.name]
        work = uniform(self.engine.tokenizer, streams, inputs, outputs, seed=seed)
        run = run_workload(self.engine, work, progress=False)
        steps = [
            after["t_s"] - before["t_s"]
            for before, after in pairwise(run.timeline)
            if before["tokens"] == after["tokens"] == streams
        ]
        if not steps:
            raise RuntimeError(f"the engine never decoded {streams} streams together")
        return run, steps

    def decode(self) -> None:
        """Tokens/s of a decode step, for more and more streams."""
        inputs, outputs = TOKENS[self.profile.name]
        context = inputs + outputs / 2
        for streams in STREAMS[self.profile.name]:
            run, steps = self.decode_run(streams, outputs, seed=streams)
            step = statistics.median(steps)
            found = {
                "streams": streams,
                "context": context,
                "step_ms": 1e3 * step,
                "steps": len(steps),
                "tokens_per_s": streams / step,
                "whole_run_tokens_per_s": run.metrics["output_tokens_per_s"],
                **decode_work(self.shape, streams, context).against(self.ceilings, step),
            }
            self.save("decode", found)

    def prefill(self) -> None:
        """Tokens/s of reading prompts, the best of three.

        More tokens than a request may have are several prompts in the same step: an engine with
        another max_model_len would be compiled anew, and the notebooks' engines share this one's
        code.
        """
        info = self.engine.info
        for asked in PROMPTS[self.profile.name]:
            prompts = -(-asked // info.max_model_len)
            length = min(asked // prompts, info.max_model_len - 1)  # a token must still fit
            tokens = prompts * length
            # The first is a warm-up; no run finds its prompts in the prefix cache.
            times = [self._ttft(prompts, length, seed=1000 * tokens + i) for i in range(4)][1:]
            best = min(times)
            found = {
                "tokens": tokens,
                "prompts": prompts,
                "ttft_ms": 1e3 * best,
                "ttft_ms_all": [1e3 * seconds for seconds in times],
                "engine_steps": -(-tokens // info.max_num_batched_tokens),
                "tokens_per_s": tokens / best,
                **prefill_work(self.shape, tokens, prompts).against(self.ceilings, best),
            }
            self.save("prefill", found)

    def _ttft(self, prompts: int, length: int, seed: int) -> float:
        work = uniform(self.engine.tokenizer, prompts, length, 1, seed=seed)
        return max(r.ttft_s for r in run_workload(self.engine, work, progress=False).requests)

    def truth(self) -> bool:
        """`measure` against vLLM's own benchmarks."""
        pairs = measure_truth.throughput_pairs(self.engine, self.rounds)
        throughput = statistics.median(row["ratio"] for row in pairs)
        keep("measure_truth", self.profile, {"median_ratio": throughput, "pairs": pairs})
        pairs = measure_truth.latency_pairs(self.engine, self.rounds)
        latency = statistics.median(row["ratio"] for row in pairs)
        self.save("latency_truth", {"median_ratio": latency, "pairs": pairs})
        return abs(throughput - 1) <= measure_truth.TARGET

    def sampling(self) -> bool:
        """What sampling memory costs."""
        found = sampling_cost.measure(self.engine, self.rounds)
        keep("sampling_cost", self.profile, found)
        return sampling_cost.met(found)

    def profile_steps(self) -> None:
        """Where a step's time goes, for few and many streams, and its time without the profiler."""
        largest = STREAMS[self.profile.name][-1]
        outputs = 40 if self.profile.name == "gpu" else 12
        for streams in sorted({1, min(32, largest), largest}):
            _, steps = self.decode_run(streams, outputs, seed=7000 + streams)
            self.engine.llm.start_profile(f"decode{streams}")
            self.decode_run(streams, outputs, seed=8000 + streams)
            self.engine.llm.stop_profile()
            trace = max(self.traces.rglob("*.json*"), key=lambda path: path.stat().st_mtime)
            found = step_trace.summarise(step_trace.read_events(trace), streams)
            found["unprofiled_step_ms"] = 1e3 * statistics.median(steps)
            found["gap_ms_unprofiled"] = found["unprofiled_step_ms"] - found["busy_ms"]
            self.save("profile", found)
            print(card.table(found["classes"]))
            print(card.table(found["kernels"][:6]), flush=True)


def main(argv: list[str] | None = None) -> int:
    """0: all parts are measured and met their targets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--load-format")
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas")
    parser.add_argument("--rounds", type=int, default=5, help="of truth and sampling")
    options = parser.parse_args(argv)
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    profile = load_profile("auto", options.model, options.load_format)
    print(profile, flush=True)
    failed = []
    with tempfile.TemporaryDirectory(prefix="traces-") as traces:
        run = Limits(profile, parts, options.rounds, traces)
        steps = {
            "decode": run.decode,
            "prefill": run.prefill,
            "truth": run.truth,
            "sampling": run.sampling,
            "profile": run.profile_steps,
        }
        if "ceilings" in parts:
            run.measure_ceilings()
        try:
            if not run.open():
                failed.append("timeline")
            for part in [name for name in steps if name in parts]:
                try:
                    missed = steps[part]() is False
                except Exception as error:  # the other parts are worth their time all the same
                    print(f"{part} FAILED: {type(error).__name__}: {error}", flush=True)
                    missed = True
                if missed:
                    failed.append(part)
        finally:
            print(close_engine())
    if failed:
        print(f"Target missed, or not measured: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
