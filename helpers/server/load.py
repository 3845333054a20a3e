"""Load on a server: the benchmark that ships with vLLM (`vllm bench serve`), and single requests with a clock.

    load = run_load(server, requests=64, input_tokens=96, output_tokens=48, concurrency=8)
    load.metrics["output_tokens_per_s"]

    stream = timed_stream(server, messages=[{"role": "user", "content": "What is a KV cache?"}])
    stream.ttft_s, stream.text

In `run_load` the requests, the clients and the clock are vLLM's (vllm/benchmarks/serve.py). This module calls it in the
kernel, which saves 5 s of imports a run, keeps its output off the page, and gives its numbers the names that the workbook
uses everywhere. TTFT, TPOT, ITL and E2E are as the client sees them, HTTP included.
`timed_stream` is the `openai` package with a clock beside it.
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
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from helpers.server.server import Server, ServerError

_seeds = itertools.count()
_RENAMED = {"median": "p50", "mean": "mean", "p90": "p90", "p99": "p99"}


@dataclass(frozen=True)
class Load:
    """What one run of the benchmark measured."""

    metrics: dict[str, float]  # units in the names; see `run_load`
    requests: list[
        dict
    ]  # a request each: start_s, ttft_s, e2e_s, itl_s (list), input_tokens, output_tokens, error
    workload: dict
    command: str  # what a person would type; the key is left out
    report: str = field(repr=False, default="")  # what the benchmark printed

    def __str__(self) -> str:
        m = self.metrics
        tail = (
            "p99" if m["completed"] >= 200 else "p90"
        )  # of fewer requests, a p99 is one or two of them
        cached = m.get("prefix_hit_share", 0.0)
        return (
            f"{m['completed']:.0f} of {m['completed'] + m['failed']:.0f} requests in {m['duration_s']:.2f} s: "
            f"{m['output_tokens_per_s']:,.0f} output tokens/s; TTFT p50 {m['ttft_ms_p50']:.1f} ms, {tail} {m[f'ttft_ms_{tail}']:.1f} ms; "
            f"TPOT p50 {m['tpot_ms_p50']:.2f} ms"
            + (
                f"; {100 * cached:.0f} % of the prompt tokens came from the prefix cache"
                if cached > 0.02
                else ""
            )
        )


def run_load(
    server: Server,
    *,
    requests: int,
    input_tokens: int,
    output_tokens: int,
    rate_per_s: float | None = None,
    concurrency: int | None = None,
    prefix_tokens: int = 0,
    goals_ms: dict[str, float] | None = None,
    seed: int | None = None,
    tokenizer: str | None = None,
) -> Load:
    """Send `requests` random prompts of one size to the server and measure until the last answer is complete.

    rate_per_s: requests arrive so often on average (a Poisson process); None sends all at once.
    concurrency: at most so many are in flight; the next is sent when one has ended. None sets no limit.
    prefix_tokens: so many further prompt tokens, at the start, are the same for all requests.
    goals_ms: latency goals {"ttft": 200, "tpot": 20, "e2el": 1000}; they give `goodput_per_s` and `good_share`.
    seed: of the prompts; None takes a new one, so that no run finds its prompts in the prefix cache of another.

    Metrics: completed, failed, duration_s, requests_per_s, output_tokens_per_s, total_tokens_per_s,
    {ttft,tpot,itl,e2e}_ms_{mean,p50,p90,p99}, in_flight_mean: the mean number of requests in the system, and
    prefix_hit_share: of the prompt tokens, those found in the prefix cache (0 to 1; not there if the server does not count).
    With goals: goodput_per_s (the benchmark's), good_share: of all requests, those that met every goal (0 to 1).
    With a rate: answered_per_s, over the duration less the shortest answer: the last request, too, takes so long to
    answer, which is no sign that the server is behind (requests_per_s counts it).
    Raises ServerError when the server is not up or no request was answered.
    """
    if not server.is_up:
        raise ServerError(
            f"The server at {server.url} is not up: start it before putting load on it. {server._hint()}"
        )
    model = tokenizer or server.engine_args.get("model")
    if not model:
        raise ServerError(
            "For a server that was started elsewhere, give tokenizer=<model folder or Hugging Face id>."
        )
    seed = next(_seeds) if seed is None else seed
    flags = [
        "--backend", "openai", "--base-url", server.url, "--endpoint", "/v1/completions",
        "--model", model, "--served-model-name", server.model,
        "--dataset-name", "random", "--random-input-len", input_tokens, "--random-output-len", output_tokens,
        "--random-prefix-len", prefix_tokens, "--num-prompts", requests, "--seed", seed, "--temperature", 0,
        "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,99",
    ]  # fmt: skip
    if rate_per_s:
        flags += ["--request-rate", rate_per_s]
    if concurrency:
        flags += ["--max-concurrency", concurrency]
    if goals_ms:
        flags += ["--goodput", *(f"{name}:{goal:g}" for name, goal in goals_ms.items())]
    flags = list(map(str, flags))
    # In the CPU package the command `vllm bench` does not start: this is what it would be.
    command = "OPENAI_API_KEY=... vllm bench serve " + shlex.join(flags)
    counted = _prefix_counters(server)
    result, report = _benchmark([*flags, "--disable-tqdm", "--save-detailed"], server.headers)
    if not result.get("completed"):
        errors = [e for e in result.get("errors", []) if e]
        raise ServerError(
            f"No request was answered: {(errors or ['no reason given'])[0].strip()[-300:]} {server._hint()}"
        )
    rows = _rows(result)
    workload = {
        "name": "vllm bench serve, random",
        "requests": requests,
        "input_tokens": input_tokens,
        "prefix_tokens": prefix_tokens,
        "output_tokens": output_tokens,
        "rate_per_s": rate_per_s,
        "concurrency": concurrency,
        "seed": seed,
    }
    metrics = _metrics(result, rows, bool(goals_ms), bool(rate_per_s))
    looked_up, hits = (
        after - before for before, after in zip(counted, _prefix_counters(server), strict=True)
    )
    if looked_up > 0:
        metrics["prefix_hit_share"] = hits / looked_up
    return Load(metrics, rows, workload, command, report)


def _prefix_counters(server: Server) -> tuple[float, float]:
    """Prompt tokens looked up in the prefix cache so far, and found; zeros from a server without these counters."""
    with contextlib.suppress(ServerError):
        now = server.metrics()
        return now.get("prefix_cache_queries", 0.0), now.get("prefix_cache_hits", 0.0)
    return 0.0, 0.0


def _benchmark(flags: list[str], headers: dict) -> tuple[dict, str]:
    """Run vllm.benchmarks.serve in a thread of its own: a notebook's kernel has an event loop already."""
    from vllm.benchmarks.serve import add_cli_args, main_async
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    given = parser.parse_args(flags)
    # Not among the flags: what is printed and kept must not hold the key.
    given.header = [f"{name}={value}" for name, value in headers.items()]
    out, box = io.StringIO(), {}
    loop = asyncio.new_event_loop()

    def work():
        try:
            box["result"] = loop.run_until_complete(box["task"])
        except BaseException as error:  # SystemExit would end the thread in silence
            box["error"] = error
        finally:
            loop.close()

    box["task"] = loop.create_task(main_async(given))
    gc.freeze()  # the benchmark freezes all objects of its process, and searches them for garbage before: 0.7 s for vLLM's own
    thread = threading.Thread(target=work, name="vllm bench serve", daemon=True)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            thread.start()
            while thread.is_alive():
                thread.join(0.2)
    except KeyboardInterrupt:
        with contextlib.suppress(RuntimeError):  # the loop may have ended meanwhile
            loop.call_soon_threadsafe(box["task"].cancel)
        thread.join(10)
        raise ServerError(
            "The load was stopped by hand; its requests were given up and the server goes on."
        ) from None
    finally:
        gc.unfreeze()  # the notebook's objects must stay collectable
    if "error" in box:
        raise ServerError(
            f"The benchmark failed: {type(box['error']).__name__}: {box['error']}"
        ) from None
    report = out.getvalue()
    start = report.find("============ Serving")
    return box["result"], report[start:].strip() if start >= 0 else report


def _rows(result: dict) -> list[dict]:
    rows = []
    begin = min(result["start_times"], default=0.0)
    for i, (start, ttft, itls) in enumerate(
        zip(result["start_times"], result["ttfts"], result["itls"], strict=True)
    ):
        rows.append({
            "start_s": start - begin, "ttft_s": ttft, "e2e_s": ttft + sum(itls), "itl_s": list(itls),
            "input_tokens": result["input_lens"][i], "output_tokens": result["output_lens"][i],
            "error": result["errors"][i] or None,
        })  # fmt: skip
    return rows


def _metrics(result: dict, rows: list[dict], goals: bool, arrivals: bool) -> dict[str, float]:
    found = {
        "completed": result["completed"],
        "failed": result["failed"],
        "duration_s": result["duration"],
        "requests_per_s": result["request_throughput"],
        "output_tokens_per_s": result["output_throughput"],
        "total_tokens_per_s": result["total_token_throughput"],
        "in_flight_mean": sum(r["e2e_s"] for r in rows if not r["error"]) / result["duration"],
    }
    if goals:
        found["goodput_per_s"] = result["request_goodput"]
        found["good_share"] = result["request_goodput"] * result["duration"] / len(rows)
    if arrivals:
        took = [r["e2e_s"] for r in rows if not r["error"]]
        found["answered_per_s"] = (
            len(took) / (result["duration"] - min(took))
            if len(took) > 1
            else result["request_throughput"]
        )
    for theirs, ours in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2el", "e2e")):
        for statistic, name in _RENAMED.items():
            value = float(result[f"{statistic}_{theirs}_ms"])
            found[f"{ours}_ms_{name}"] = value if math.isfinite(value) else 0.0
    return {name: float(value) for name, value in found.items()}


# --- single requests ------------------------------------------------------------------------------------------


@dataclass
class Stream:
    """One streamed answer. Times in seconds since it was sent; one entry a chunk, which is most often one token."""

    text: str = ""
    times_s: list[float] = field(default_factory=list)
    chunks: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    finish_reason: str | None = None
    started_s: float = 0.0  # time.perf_counter() when it was sent
    e2e_s: float = 0.0  # until the answer was complete, or had failed
    error: str = ""  # one line: what the client saw instead of an end

    @property
    def ttft_s(self) -> float | None:
        return self.times_s[0] if self.times_s else None

    @property
    def gaps_s(self) -> list[float]:
        return [b - a for a, b in itertools.pairwise(self.times_s)]

    @property
    def tpot_s(self) -> float | None:
        return (
            (self.times_s[-1] - self.times_s[0]) / (self.output_tokens - 1)
            if self.output_tokens > 1
            else None
        )


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
    """Send one request with streaming and note when each chunk comes. Give `prompt` (text or token ids) or `messages`.

    into: a Stream to fill, for another thread that looks on. until: when it is set, the client hangs up after the next chunk,
    which is no error. options: further fields of the request, the OpenAI ones and vLLM's (temperature, ignore_eos, stop, ...).
    An answer that breaks off or is refused is no exception: `error` says what the client saw, the chunks so far are kept.
    """
    client = client or server.openai(timeout=600)
    stream = into if into is not None else Stream()
    body = {
        "model": server.model,
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    ours = {
        name: options.pop(name)
        for name in ("temperature", "stop", "seed", "top_p", "n")
        if name in options
    }
    started = stream.started_s = time.perf_counter()
    try:
        if messages is not None:
            answer = client.chat.completions.create(
                **body, **ours, messages=messages, extra_body=options
            )
        else:
            answer = client.completions.create(**body, **ours, prompt=prompt, extra_body=options)
        for chunk in answer:
            for choice in chunk.choices:
                text = (choice.delta.content if messages is not None else choice.text) or ""
                opening = messages is not None and choice.delta.role is not None and not text
                # A chunk without text is a token that does not complete a character yet, except at the two ends:
                # the first chunk of a chat only names the role, and the last may only bring the reason of the end.
                if text or not (opening or choice.finish_reason):
                    stream.times_s.append(time.perf_counter() - started)
                    stream.chunks.append(text)
                stream.finish_reason = choice.finish_reason or stream.finish_reason
            if chunk.usage:
                stream.prompt_tokens, stream.output_tokens = (
                    chunk.usage.prompt_tokens,
                    chunk.usage.completion_tokens,
                )
            if until is not None and until.is_set():
                answer.close()
                break
    except Exception as error:
        cause = error.__cause__ or error
        stream.error = " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
    stream.e2e_s = time.perf_counter() - started
    stream.text = "".join(stream.chunks)
    return stream


def together(
    server: Server, requests: list[dict], concurrency: int | None = None, **common
) -> list[Stream]:
    """Send several requests, each from a thread of its own, and wait for all; each dict goes to `timed_stream`.

    concurrency: at most so many at a time; None sends all at once. `common` are fields that all requests share.
    """
    client = server.openai(timeout=600)
    with ThreadPoolExecutor(concurrency or len(requests) or 1) as pool:
        return list(
            pool.map(
                lambda request: timed_stream(server, client=client, **{**common, **request}),
                requests,
            )
        )


def knee(rows: list[dict], rate: str = "requests_per_s", latency: str = "e2e_ms_mean") -> dict:
    """The row with the highest power, rate / latency: beyond it latency grows faster than throughput.

    Kleinrock, "Power and Deterministic Rules of Thumb for Probabilistic Problems in Computer Communications" (1979).
    Raises ValueError for no rows.
    """
    if not rows:
        raise ValueError("There is no knee without a measurement.")
    return max(rows, key=lambda row: row[rate] / row[latency])


def best_rate(rows: list[dict], share: float = 0.9) -> dict | None:
    """The row with the highest rate of arrivals at which at least `share` of the requests met the goal; None when none did.

    rows: offered_per_s and good_share. Not the row with the most goodput: beyond capacity many answers are late, and
    those in time can still be more than at a rate that nearly all users are content with.
    """
    return max(
        (row for row in rows if row["good_share"] >= share),
        key=lambda row: row["offered_per_s"],
        default=None,
    )


def closed_loop_requests(
    clients: int, seconds: float, before: dict | None = None, each: int = 8
) -> int:
    """How many requests to measure `clients` clients with: `each` for every one, fewer where that would take longer.

    before: the level before (`clients`, `requests_per_s`); the guess is that throughput grows with the clients. Two for
    each client are the least: the first ones all begin at the same time.
    """
    if before is None:
        return each * clients
    in_time = int(seconds * before["requests_per_s"] * clients / before["clients"])
    return max(2 * clients, min(each * clients, in_time))
