"""Load on a server: the benchmark that ships with vLLM, and single requests with a clock.

    load = run_load(server, requests=64, input_tokens=96, output_tokens=48, concurrency=8)
    load.metrics["output_tokens_per_s"]

    stream = timed_stream(server, messages=[{"role": "user", "content": "What is a KV cache?"}])
    stream.ttft_s, stream.text

In `run_load` the requests, the clients and the clock are those of `vllm bench serve`
(vllm/benchmarks/serve.py), called in the kernel, which saves 5 s of imports a run. TTFT, TPOT, ITL
and E2E are as the client sees them, HTTP included.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import itertools
import math
import shlex
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from helpers.engine.start import imports_without_gc, say_nothing_of_triton
from helpers.server.server import Server, ServerError
from helpers.verdicts.machine import Disturbance, MachineWatch

_seeds = itertools.count()


@dataclass(frozen=True)
class LoadRun:
    """What one run of the benchmark measured: a record for `Results.save_run`."""

    metrics: dict[str, float]  # units in the names; see `run_load`
    engine_args: dict  # of the server
    workload: dict
    command: str  # what a person would type; the key is left out
    # What else the machine did meanwhile; None for a server that was started elsewhere, whose
    # work would look like that of others.
    disturbance: Disturbance | None = None
    # What each client saw: {"ok", "ttft_s", "latency_s", "output_tokens"}.
    answers: list[dict] = field(default_factory=list)
    last_sent_s: float = 0.0  # time.perf_counter() when the last request was sent

    @property
    def disturbed(self) -> str:
        """What disturbed the run, in words; empty when nothing did, or nobody watched."""
        return "; ".join(self.disturbance.reasons) if self.disturbance else ""

    def label(self) -> str:
        """What disturbed the run, as the end of a line that is printed; else ""."""
        return self.disturbance.label() if self.disturbance else ""

    def __str__(self) -> str:
        m = self.metrics
        said = (
            f"{m['completed']:.0f} of {m['completed'] + m['failed']:.0f} requests "
            f"in {m['duration_s']:.2f} s: {m['output_tokens_per_s']:,.0f} output tokens/s; "
            f"TTFT p50 {m['ttft_ms_p50']:.1f} ms, p90 {m['ttft_ms_p90']:.1f} ms; "
            f"TPOT p50 {m['tpot_ms_p50']:.2f} ms"
        )
        cached = m.get("prefix_hit_share", 0.0)
        if cached > 0.02:
            said += f"; {100 * cached:.0f} % of the prompt tokens came from the prefix cache"
        return said + self.label()


def import_early() -> None:
    """Import what `run_load` needs in a thread: seconds that a server's start takes anyway."""
    threading.Thread(target=_import, name="import of vllm bench serve", daemon=True).start()


def _import():
    """The module of `vllm bench serve`."""
    say_nothing_of_triton()
    with imports_without_gc():
        from vllm.benchmarks import serve
    return serve


def run_load(
    server: Server,
    *,
    requests: int,
    input_tokens: int,
    output_tokens: int,
    rate_per_s: float | None = None,
    concurrency: int | None = None,
    goals_ms: dict[str, float] | None = None,
    seed: int | None = None,
) -> LoadRun:
    """Send random prompts of one size to the server and measure until the last answer is complete.

    rate_per_s: requests arrive so often on average (a Poisson process); None sends all at once.
    concurrency: at most so many are in flight; the next is sent when one has ended. None: no limit.
    goals_ms: latency goals {"ttft": 200, "tpot": 20, "e2el": 1000}.
    seed: of prompts and arrivals, the same for the same seed. None: every run has new prompts, so
    that none finds its own in the prefix cache of another.

    Metrics: completed, failed, duration_s, requests_per_s, output_tokens_per_s, total_tokens_per_s,
    {ttft,tpot,itl,e2e}_ms_{mean,p50,p90,p99}, in_flight_mean: the mean number of requests in the
    system, and prefix_hit_share: of the prompt tokens, those found in the prefix cache (0 to 1; not
    there if the server does not count). With goals: goodput_per_s (the benchmark's), good_share: of
    all requests, those that met every goal (0 to 1). With a rate: what `while_arriving` counts.
    Raises ServerError when the server does not answer, or answers no request.
    """
    server.check_answers()
    model = server.engine_args.get("model")
    if not model:
        why = "prompts are made with its model's tokenizer, and it does not say where that lies"
        raise ServerError(f"No load for the server at {server.url}: {why}.")
    seed = next(_seeds) if seed is None else seed
    flags = [
        "--backend", "openai", "--base-url", server.url, "--endpoint", "/v1/completions",
        "--model", model, "--served-model-name", server.model, "--dataset-name", "random",
        "--random-input-len", input_tokens, "--random-output-len", output_tokens,
        "--num-prompts", requests, "--seed", seed,
        "--temperature", 0, "--percentile-metrics", "ttft,tpot,itl,e2el",
        "--metric-percentiles", "50,90,99",
    ]  # fmt: skip
    if rate_per_s:
        flags += ["--request-rate", rate_per_s]
    if concurrency:
        flags += ["--max-concurrency", concurrency]
    if goals_ms:
        flags += ["--goodput", *(f"{name}:{goal:g}" for name, goal in goals_ms.items())]
    flags = [str(flag) for flag in flags]
    counted = _prefix_counters(server)
    watch = MachineWatch()
    result = _benchmark([*flags, "--disable-tqdm", "--save-detailed"], server.headers)
    disturbance = watch.stop() if server.process else None
    if not result.get("completed"):
        errors = [error for error in result.get("errors", []) if error] or ["no reason given"]
        raise ServerError(f"No request was answered: {errors[0].strip()[-300:]} {server.advice}")
    metrics = metrics_of(result, goals=bool(goals_ms), arrivals=bool(rate_per_s))
    looked_up, found = np.subtract(_prefix_counters(server), counted).tolist()
    if looked_up > 0:
        metrics["prefix_hit_share"] = found / looked_up
    workload = {
        "name": "vllm bench serve, random",
        "requests": requests,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "rate_per_s": rate_per_s,
        "concurrency": concurrency,
        "seed": seed,
    }
    # In the CPU package the command `vllm bench` does not start: this is what it would be.
    command = "OPENAI_API_KEY=... vllm bench serve " + shlex.join(flags)
    seen = answers_of(result)
    last_s = max(result["start_times"])
    return LoadRun(metrics, server.engine_args, workload, command, disturbance, seen, last_s)


def _prefix_counters(server: Server) -> tuple[float, float]:
    """Prompt tokens looked up in the prefix cache so far, and found; (0, 0) if nobody counts."""
    with contextlib.suppress(ServerError):
        now = server.metrics()
        return now.get("prefix_cache_queries", 0.0), now.get("prefix_cache_hits", 0.0)
    return 0.0, 0.0


def _benchmark(flags: list[str], headers: dict) -> dict:
    """Run vllm.benchmarks.serve in a thread of its own: a kernel has an event loop already."""
    serve = _import()
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    serve.add_cli_args(parser)
    given = parser.parse_args(flags)
    # Not among the flags: what is printed and kept must not hold the key.
    given.header = [f"{name}={value}" for name, value in headers.items()]
    loop, done = asyncio.new_event_loop(), Future()
    task = loop.create_task(serve.main_async(given))

    def work() -> None:
        try:
            done.set_result(loop.run_until_complete(task))
        except BaseException as error:  # SystemExit would end the thread in silence
            done.set_exception(error)
        finally:
            loop.close()

    # The benchmark searches all objects of its process for garbage: 0.7 s for vLLM's own.
    gc.freeze()
    page = io.StringIO()
    thread = threading.Thread(target=work, name="vllm bench serve", daemon=True)
    try:
        with contextlib.redirect_stdout(page), contextlib.redirect_stderr(page):
            thread.start()
            return done.result()
    except KeyboardInterrupt:
        with contextlib.suppress(RuntimeError):  # the loop may have ended meanwhile
            loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
        raise ServerError("The load was stopped by hand; the server goes on.") from None
    except BaseException as error:
        raise ServerError(f"The benchmark failed: {type(error).__name__}: {error}") from None
    finally:
        gc.unfreeze()  # the notebook's objects must stay collectable


def metrics_of(result: dict, *, goals: bool, arrivals: bool) -> dict[str, float]:
    """The numbers of `run_load` from what the benchmark returns (all but prefix_hit_share)."""
    answered = [answer for answer in answers_of(result) if answer["ok"]]
    seconds = result["duration"]
    found = {
        "completed": result["completed"],
        "failed": result["failed"],
        "duration_s": seconds,
        "requests_per_s": result["request_throughput"],
        "output_tokens_per_s": result["output_throughput"],
        "total_tokens_per_s": result["total_token_throughput"],
        "in_flight_mean": sum(answer["latency_s"] for answer in answered) / seconds,
    }
    if goals:
        found["goodput_per_s"] = result["request_goodput"]
        found["good_share"] = round(result["request_goodput"] * seconds) / len(result["errors"])
    if arrivals:
        found |= while_arriving(result)
    for theirs, ours in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2el", "e2e")):
        for which in ("mean", "median", "p90", "p99"):
            value = float(result[f"{which}_{theirs}_ms"])
            name = "p50" if which == "median" else which
            found[f"{ours}_ms_{name}"] = value if math.isfinite(value) else 0.0
    return {name: float(value) for name, value in found.items()}


def while_arriving(result: dict) -> dict[str, float]:
    """How fast requests arrived, and how full the server was meanwhile, as the clients see it.

    result: what the benchmark returns; requests that failed were never in the server.
    arrived_per_s: all requests, over the time from the start of the run to the last one sent.
    in_flight_last: requests sent and not answered yet when the last one came.
    """
    sent_s = np.array(result["start_times"])
    stayed_s = np.array([answer["latency_s"] for answer in answers_of(result)])
    ended_s, ok = sent_s + stayed_s, np.array([not error for error in result["errors"]])
    last = sent_s.max()
    # The run ends with its last answer; the first request comes a gap after its start.
    started = ended_s.max() - result["duration"]
    return {
        "in_flight_last": float((ok & (sent_s <= last) & (ended_s > last)).sum()),
        "arrived_per_s": float(len(sent_s) / (last - started)),
    }


def answers_of(result: dict) -> list[dict]:
    """What each client saw, from what the benchmark returns; seconds since it was sent."""
    names = ("ttfts", "itls", "output_lens", "errors")
    return [
        {"ok": not error, "ttft_s": ttft, "latency_s": ttft + sum(itl), "output_tokens": tokens}
        for ttft, itl, tokens, error in zip(*(result[name] for name in names), strict=True)
    ]


# --- single requests ------------------------------------------------------------------------------


@dataclass
class Stream:
    """One streamed answer, one entry a chunk, which is most often one token."""

    times_s: list[float] = field(default_factory=list)  # since it was sent
    chunks: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    finish_reason: str | None = None
    started_s: float = 0.0  # time.perf_counter() when it was sent
    e2e_s: float = 0.0  # until the answer was complete, or had failed
    error: str = ""  # one line: what the client saw instead of an end

    @property
    def text(self) -> str:
        """All of the answer that came."""
        return "".join(self.chunks)

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token; None when none came."""
        return self.times_s[0] if self.times_s else None

    @property
    def gaps_s(self) -> list[float]:
        """The time between each chunk and the next."""
        return [b - a for a, b in itertools.pairwise(self.times_s)]

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None when there is no second one."""
        if self.output_tokens < 2:
            return None
        return (self.times_s[-1] - self.times_s[0]) / (self.output_tokens - 1)

    def take(self, chunk) -> None:
        """Take in a chunk of a chat or a completion, with the time it is now."""
        for choice in chunk.choices:
            delta = getattr(choice, "delta", None)  # only a chat's choices have one
            text = (choice.text if delta is None else delta.content) or ""
            opening = delta is not None and delta.role is not None
            # A chunk without text is a token that does not complete a character yet, except at the
            # two ends: a chat's first names the role, and the last may only say why it ended.
            if text or not (opening or choice.finish_reason):
                self.times_s.append(time.perf_counter() - self.started_s)
                self.chunks.append(text)
            self.finish_reason = choice.finish_reason or self.finish_reason
        if chunk.usage:
            self.prompt_tokens = chunk.usage.prompt_tokens
            self.output_tokens = chunk.usage.completion_tokens


def timed_stream(
    server: Server,
    prompt=None,
    messages=None,
    max_tokens: int = 64,
    client=None,
    into: Stream | None = None,
    until: threading.Event | None = None,
    **options,
) -> Stream:
    """Send one request with streaming and note when each chunk comes.

    Give `prompt` (text or token ids) or `messages`. client: of `Server.openai`; None makes one.
    into: a Stream to fill, for another thread that looks on.
    until: when it is set, the client hangs up after the next chunk, which is no error.
    options: further fields of the request, OpenAI's and vLLM's (temperature, ignore_eos, ...).
    An answer that breaks off or is refused is no exception: `error` says what the client saw, the
    chunks so far are kept.
    """
    client = client or server.openai(timeout=600)
    stream = Stream() if into is None else into
    body = {
        "model": server.model,
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "extra_body": options,
    }
    stream.started_s = time.perf_counter()
    try:
        if messages is not None:
            answer = client.chat.completions.create(messages=messages, **body)
        else:
            answer = client.completions.create(prompt=prompt, **body)
        for chunk in answer:
            stream.take(chunk)
            if until is not None and until.is_set():
                answer.close()
                break
    except Exception as error:
        cause = error.__cause__ or error
        stream.error = " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
    stream.e2e_s = time.perf_counter() - stream.started_s
    return stream
