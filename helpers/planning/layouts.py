"""Try layouts for real: the same model with TP 1, TP 2, PP 2 on this machine, in child processes with a time limit.

    for trial in run_trials(profile, [(1, 1), (2, 1), (1, 2)]):
        print(trial)

On GPUs each layout is a process of its own. On the CPU one rank runs in this process, as in the other notebooks; the
layouts of several ranks share one child, whose workers are forked instead of started anew, which saves 10 s for each
(vLLM's own way imports PyTorch again in every worker); one core a rank.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Trial:
    """What one layout did. ``problem`` is vLLM's own last words when it did not run; then the rest may be empty.

    tpot_ms: {streams: ms of one decode step}; prefill_ms: {prompt tokens: ms}; allreduce: rows {"bytes", "seconds"} of
    vLLM's own all-reduce between the ranks.
    """

    tp: int
    pp: int
    startup_s: float = 0.0
    kv_cache_tokens: int = 0
    tpot_ms: dict = field(default_factory=dict)
    prefill_ms: dict = field(default_factory=dict)
    allreduce: list = field(default_factory=list)
    problem: str = ""

    @property
    def name(self) -> str:
        return (
            f"TP {self.tp}"
            if self.pp == 1
            else f"PP {self.pp}"
            if self.tp == 1
            else f"TP {self.tp} x PP {self.pp}"
        )

    def __str__(self) -> str:
        if self.problem:
            return (
                f"{self.name}: started in {self.startup_s:.1f} s, then failed: {self.problem}"
                if self.startup_s
                else f"{self.name}: {self.problem}"
            )
        times = ", ".join(
            f"{ms:.2f} ms with {n} stream{'s' * (n > 1)}" for n, ms in self.tpot_ms.items()
        )
        return f"{self.name}: started in {self.startup_s:.1f} s, {self.kv_cache_tokens:,} tokens of KV cache; TPOT {times}"


def run_trials(
    profile,
    layouts,
    streams=(1, 8),
    prompts=(256, 1024),
    input_tokens=64,
    output_tokens=48,
    timeout_s=None,
):
    """Yield one Trial for each (tp, pp) as it ends. No process is left, whatever happens.

    timeout_s: for the child on the CPU, for each layout on GPUs (default 60 and 300). A layout that needs more GPUs or
    cores than there are gives a Trial with that as its problem.
    """
    from .inventory import inventory

    found = inventory()
    on_cpu = profile.name == "cpu"
    have = found.cpu_cores if on_cpu else len(found.devices)
    job = {
        "model": profile.model, "cpu": on_cpu, "streams": list(streams), "prompts": list(prompts),
        "input": input_tokens, "output": output_tokens, "args": _arguments(profile),
    }  # fmt: skip
    several = [size for size in layouts if 1 < size[0] * size[1] <= have]
    # On two busy cores the ranks of TP 2 wait for each other at every all-reduce: it comes last, so that it holds up nobody.
    several.sort(key=lambda size: size[0])
    measured, started = {}, False
    for layout in layouts:
        tp, pp = layout
        if tp * pp > have:
            yield Trial(
                tp,
                pp,
                problem=f"needs {tp * pp} {'cores' if on_cpu else 'GPUs'}, and this machine has {have}; nothing was run.",
            )
        elif on_cpu and tp * pp == 1:
            yield _in_this_process(profile, job)
        else:
            if not (
                on_cpu and started
            ):  # on the CPU one child measures all of them, and a child that failed is not tried again
                started = True
                batch = several if on_cpu else [layout]
                measured |= {
                    (t.tp, t.pp): t
                    for t in _child({**job, "layouts": batch}, timeout_s or (60 if on_cpu else 300))
                }
            yield measured.get(layout) or Trial(
                tp, pp, problem="was not reached in the time allowed."
            )


def _in_this_process(profile, job: dict) -> Trial:
    from vllm import SamplingParams

    from helpers.engine.engine import open_engine

    with open_engine(profile, kv_cache_memory_bytes=job["args"]["kv_cache_memory_bytes"]) as engine:
        return Trial(
            1,
            1,
            engine.info.startup_s,
            engine.info.kv_cache_tokens,
            **_measure(engine.llm, job, SamplingParams, lambda row: None),
        )


def _arguments(profile) -> dict:
    args = {
        k: v
        for k, v in profile.engine_args.items()
        if k not in ("distributed_executor_backend", "disable_log_stats")
    }
    if profile.name == "cpu":
        args["enforce_eager"] = True
        args["kv_cache_memory_bytes"] = 64 * 2**20
    return args


def _child(job: dict, timeout_s: float) -> list[Trial]:
    from helpers.engine import processes as lifeline

    with tempfile.TemporaryDirectory(prefix="planning-trial-") as folder:
        job["out"], log = str(Path(folder) / "trials.jsonl"), Path(folder) / "log"
        cores = sorted(os.sched_getaffinity(0))
        environment = {
            **os.environ,
            "VLLM_NO_USAGE_STATS": "1",
            "PYTHONWARNINGS": "ignore",
            "VLLM_LOGGING_LEVEL": "ERROR",
        }
        if job["cpu"]:
            environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            environment["OMP_NUM_THREADS"] = "1"
            ranks = max(tp * pp for tp, pp in job["layouts"])
            environment["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(str(c) for c in cores[:ranks])
        if Path(job["model"]).exists():
            environment["HF_HUB_OFFLINE"] = "1"
        process = lifeline.spawn(
            [sys.executable, "-P", "-m", "helpers.planning.layouts", json.dumps(job)],
            env=environment,
            log=str(log),
        )
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            lifeline.stop(process)
        rows = {}
        if Path(job["out"]).exists():
            for line in Path(job["out"]).read_text().splitlines():
                with contextlib.suppress(
                    ValueError
                ):  # the line that the child was writing when its time was up
                    row = json.loads(line)
                    rows[(row["tp"], row["pp"])] = row
        trials = []
        for row in rows.values():
            row["tpot_ms"] = {int(k): v for k, v in row.get("tpot_ms", {}).items()}
            row["prefill_ms"] = {int(k): v for k, v in row.get("prefill_ms", {}).items()}
            trials.append(Trial(**row))
        if not trials:
            tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
            trials = [
                Trial(
                    *job["layouts"][0],
                    problem=f"did not begin in the time allowed: {' '.join(tail)[-300:] or 'vLLM was still being imported'}",
                )
            ]
        return trials


# ---------------------------------------------------------------------- data parallelism, through a server
@dataclass(frozen=True)
class DataParallelTrial:
    """A server with several replicas: which replica answered how many requests (vLLM's label ``engine``)."""

    replicas: int
    startup_s: float = 0.0
    command: str = ""
    requests_by_engine: dict = field(default_factory=dict)
    output_tokens_per_s: float = 0.0
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"DP {self.replicas}: {self.problem}"
        shares = ", ".join(f"engine {k}: {v}" for k, v in sorted(self.requests_by_engine.items()))
        return (
            f"{self.command}\nup in {self.startup_s:.1f} s; requests answered by {shares}; "
            f"{self.output_tokens_per_s:,.0f} output tokens/s together"
        )


def measure_dp(
    profile, replicas: int = 2, requests: int = 8, output_tokens: int = 48, max_wait_s: float = 120
) -> DataParallelTrial:
    """Start `vllm serve --data-parallel-size`, send requests at once, read which replica did what, and stop it.

    The server is gone at the end, whatever happens. A server that does not come up is a ``problem``, not an exception.
    """
    from concurrent.futures import ThreadPoolExecutor

    import httpx
    from prometheus_client.parser import text_string_to_metric_families

    from helpers.server.server import ServerError, start_server

    extra = {"kv_cache_memory_bytes": 64 * 2**20} if profile.name == "cpu" else {}
    try:
        server = start_server(profile, max_wait_s=max_wait_s, data_parallel_size=replicas, **extra)
    except ServerError as problem:
        return DataParallelTrial(replicas, problem=str(problem))
    try:
        model = server.openai().models.list().data[0].id

        def send(i):
            body = {
                "model": model,
                "prompt": [3 + i] * 32,
                "max_tokens": output_tokens,
                "temperature": 0,
                "ignore_eos": True,
            }
            httpx.post(
                f"{server.url}/v1/completions", json=body, headers=server.headers, timeout=120
            ).raise_for_status()

        def answered() -> dict:
            text, by_engine = httpx.get(f"{server.url}/metrics", timeout=30).text, {}
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name == "vllm:request_success_total":
                        key = sample.labels.get("engine", "0")
                        by_engine[key] = by_engine.get(key, 0) + int(sample.value)
            return by_engine

        send(0)
        before = answered()
        with ThreadPoolExecutor(requests) as pool:
            start = time.perf_counter()
            list(pool.map(send, range(requests)))
            wall = time.perf_counter() - start
        after = answered()
        shares = {key: after[key] - before.get(key, 0) for key in after}
        return DataParallelTrial(
            replicas, server.startup_s, server.command, shares, requests * output_tokens / wall
        )
    except (httpx.HTTPError, OSError) as problem:
        return DataParallelTrial(
            replicas,
            server.startup_s,
            server.command,
            problem=f"the server came up, then a request failed: {problem}",
        )
    finally:
        server.stop()


# ---------------------------------------------------------------------- in the child
def _run(job: dict) -> None:
    import gc
    import multiprocessing

    from helpers.engine.start import imports_without_gc

    with imports_without_gc():
        from vllm import LLM, SamplingParams

    if job["cpu"]:
        import vllm.v1.executor.multiproc_executor as executor

        executor.get_mp_context = lambda: multiprocessing.get_context("fork")
    for tp, pp in job["layouts"]:
        row: dict = {"tp": tp, "pp": pp}
        backend = (
            {"distributed_executor_backend": "uni" if tp * pp == 1 else "mp"} if job["cpu"] else {}
        )
        llm = None
        gc.freeze()  # vLLM's collections, here and in the ranks, look at what this engine makes
        begin = time.perf_counter()
        try:
            llm = LLM(
                model=job["model"], tensor_parallel_size=tp, pipeline_parallel_size=pp, skip_tokenizer_init=True,
                disable_log_stats=False, worker_extension_cls="helpers.planning.worker_probe.WorkerProbe",
                **{**job["args"], **backend},
            )  # fmt: skip
            row["startup_s"] = time.perf_counter() - begin
            row["kv_cache_tokens"] = llm.llm_engine.vllm_config.cache_config.kv_cache_size_tokens
            unfinished = {
                "problem": "did not end in the time allowed: its ranks wait for each other on busy cores."
            }
            _note(job, row | unfinished)
            row |= _measure(
                llm, job, SamplingParams, lambda part: _note(job, row | part | unfinished)
            )
            if tp > 1:
                sizes = [2**k for k in range(9, 22 if job["cpu"] else 27, 2)]
                row["allreduce"] = llm.collective_rpc(
                    "planning_allreduce", args=(sizes, 20 if job["cpu"] else 50)
                )[0]
        except Exception as problem:
            row["problem"] = _words(problem)
        _note(job, row)
        if llm is not None:
            try:
                llm.llm_engine.engine_core.shutdown()
            except Exception:
                pass
            del llm


def _measure(llm, job, sampling, note) -> dict:
    """{"tpot_ms": {streams: ms}, "prefill_ms": {tokens: ms}}, the best of some runs each; ``note`` gets each part."""
    import random

    vocabulary, rng = llm.model_config.get_vocab_size(), random.Random(0)

    def generate(count, tokens, output):
        prompts = [
            {"prompt_token_ids": [rng.randrange(3, vocabulary) for _ in range(tokens)]}
            for _ in range(count)
        ]
        params = sampling(temperature=0.0, max_tokens=output, ignore_eos=True, detokenize=False)
        return [o.metrics for o in llm.generate(prompts, params, use_tqdm=False)]

    generate(1, 16, 4)
    out: dict = {"tpot_ms": {}, "prefill_ms": {}}
    for count in job["streams"]:
        best = []
        for _ in range(2):
            metrics = generate(count, job["input"], job["output"])
            last = max(m.first_token_ts for m in metrics)
            best.append(statistics.median(
                (m.last_token_ts - m.first_token_ts) / (m.num_generation_tokens - 1)
                for m in metrics if last - m.first_token_ts < 2e-3
            ))  # fmt: skip
        out["tpot_ms"][count] = min(best) * 1e3
        note(out)
    for tokens in job["prompts"]:
        runs = [generate(1, tokens, 1)[0] for _ in range(4)]
        out["prefill_ms"][tokens] = min(m.first_token_ts - m.scheduled_ts for m in runs) * 1e3
        note(out)
    return out


def _words(problem: BaseException) -> str:
    """The type and the last line of an exception, or of the worker's exception that it carries."""
    text = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {text[-1] if text else ''}"[:300]


def _note(job: dict, row: dict) -> None:
    with open(job["out"], "a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    _run(json.loads(sys.argv[1]))
    os._exit(0)
