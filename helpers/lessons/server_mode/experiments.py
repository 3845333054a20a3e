"""The experiments of notebook 5: what a server answers, what its options change, what its clients see when it stops.

Each function asks a real server and returns rows (list of dicts) for a table; nothing is judged here.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import psutil

from helpers.display import card
from helpers.server.load import Stream, run_load, timed_stream, together
from helpers.server.server import Server, ServerError, StopReport

# What to ask, and whether the request needs a body.
ENDPOINTS = (
    ("GET", "/health", "is the engine alive? 200 or 503"),
    ("GET", "/version", "vLLM's version"),
    ("GET", "/v1/models", "which names can be asked for, and max_model_len"),
    ("GET", "/metrics", "counters and gauges for Prometheus"),
    ("POST", "/tokenize", "text to token ids, without generating"),
    ("POST", "/v1/completions", "text in, the text goes on"),
    ("POST", "/v1/chat/completions", "messages in, an answer out"),
)


def table(rows: list[dict]) -> str:
    """Rows as aligned text: a line of names, then a line for each row."""
    return str(card.table(rows))


def endpoints(server: Server) -> list[dict]:
    """The status of each endpoint without a key and with the right one. Raises ServerError when nothing answers."""
    server.check_answers()
    body = {
        "/tokenize": {"prompt": "Hello"},
        "/v1/completions": {"prompt": "Hello", "max_tokens": 1},
        "/v1/chat/completions": {
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 1,
        },
    }
    rows = []
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for method, path, what in ENDPOINTS:
            payload = {"model": server.model, **body[path]} if path in body else None
            without, with_key = (
                client.request(method, path, json=payload, headers=h).status_code
                for h in ({}, server.headers)
            )
            rows.append(
                {
                    "request": f"{method} {path}",
                    "without key": without,
                    "with key": with_key,
                    "for": what,
                }
            )
    return rows


def ask_with_curl(server: Server, path: str, body: dict) -> dict | None:
    """Send a request with curl, print the command as a person would type it, return the answer; None without curl.

    Raises ServerError when nothing answers.
    """
    server.check_answers()
    url, data = server.url + path, json.dumps(body)
    print(
        f'curl {url} -H "Authorization: Bearer $VLLM_API_KEY" -H "Content-Type: application/json" \\\n  -d {shlex.quote(data)}'
    )
    if not shutil.which("curl"):
        print("(curl is not installed here, so this command was not run)")
        return None
    # The key comes to curl on its standard input: in the command, `ps` would show it to every user of the machine.
    done = subprocess.run(
        ["curl", "-sS", url, "-H", "Content-Type: application/json", "-d", data, "-K", "-"],
        input=f'header = "Authorization: Bearer {server.api_key}"', capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def event(line: str) -> str:
    """A server-sent event of a completion as it came, cut down to what a client reads: text, finish_reason and usage."""
    data = line.removeprefix("data: ")
    if data == "[DONE]":
        return line
    sent = json.loads(data)
    choices = [
        {name: choice[name] for name in ("text", "finish_reason")} for choice in sent["choices"]
    ]
    usage = sent.get("usage") and {
        name: count for name, count in sent["usage"].items() if count is not None
    }
    return "data: " + json.dumps({"object": sent["object"], "choices": choices, "usage": usage})


def mistakes(server: Server, max_model_len: int) -> list[dict]:
    """Requests that a client gets wrong: the status, and the server's own words. Raises ServerError when nothing answers."""
    server.check_answers()
    chat, text = "/v1/chat/completions", "/v1/completions"
    hello = {"model": server.model, "prompt": "Hello", "max_tokens": 1}
    wrong_key = {"Authorization": "Bearer not-the-key"}
    cut_off = {"content": b'{"model": ', "headers": {"Content-Type": "application/json"}}
    cases = (
        ("wrong API key", text, {"json": hello, "headers": wrong_key}),
        ("unknown model", text, {"json": {**hello, "model": "gpt-99"}}),
        (
            "prompt longer than max_model_len",
            text,
            {"json": {**hello, "prompt": [5] * (max_model_len + 1)}},
        ),
        ("more max_tokens than fit", text, {"json": {**hello, "max_tokens": max_model_len + 1}}),
        ("JSON that is cut off", text, cut_off),
        ("a word where a number belongs", text, {"json": {**hello, "max_tokens": "many"}}),
        ("temperature below 0", text, {"json": {**hello, "temperature": -1}}),
        ("a chat without messages", chat, {"json": {"model": server.model}}),
        ("a path that does not exist", "/v1/complete", {"json": hello}),
        ("a parameter that does not exist", text, {"json": {**hello, "temprature": 0}}),
    )
    rows = []
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for name, path, request in cases:
            answer = client.post(
                path, **{**request, "headers": {**server.headers, **request.get("headers", {})}}
            )
            rows.append(
                {"mistake": name, "status": answer.status_code, "the server says": _words(answer)}
            )
    return rows


def _words(answer: httpx.Response, longest: int = 96) -> str:
    with contextlib.suppress(ValueError):
        said = answer.json()
        said = said.get("error", said.get("detail", said)) if isinstance(said, dict) else said
        said = said.get("message", said) if isinstance(said, dict) else said
        if answer.is_success:
            said = "(an ordinary answer)"
        text = " ".join(str(said).split())
        return text if len(text) <= longest else text[: longest - 3] + "..."
    return answer.text[:longest]


# --- how busy the server is -----------------------------------------------------------------------------------


def between(before: dict[str, float], after: dict[str, float], name: str) -> float:
    """How much a counter of `Server.metrics()` has grown between two readings."""
    return after.get(name, 0.0) - before.get(name, 0.0)


def watch(server: Server) -> Callable[[], dict[str, float]]:
    """What a dashboard reads again and again: running, waiting, kv_cache_usage, and prefix_hits.

    prefix_hits: of the prompt tokens that were looked up in the prefix cache since the reading before, the share (0 to 1)
    that was found. It is left out of a reading before which no prompt came.
    """
    before = server.metrics()

    def read() -> dict[str, float]:
        nonlocal before
        now = server.metrics()
        looked_up, hits = (
            between(before, now, f"prefix_cache_{what}") for what in ("queries", "hits")
        )
        before = now
        shown = {
            "running": "num_requests_running",
            "waiting": "num_requests_waiting",
            "kv_cache_usage": "kv_cache_usage_perc",
        }
        return {ours: now.get(theirs, 0.0) for ours, theirs in shown.items()} | (
            {"prefix_hits": hits / looked_up} if looked_up else {}
        )

    return read


def mean_in_system(
    readings: list[dict], start_s: float = 0.0, end_s: float = float("inf")
) -> float:
    """Time-weighted mean of running + waiting between two times of the readings (`t_s`, `running`, `waiting`)."""
    rows = [r for r in readings if start_s <= r["t_s"] <= end_s]
    if len(rows) < 2:
        return float("nan")
    area = sum(
        (a["running"] + a["waiting"] + b["running"] + b["waiting"]) / 2 * (b["t_s"] - a["t_s"])
        for a, b in itertools.pairwise(rows)
    )
    return area / (rows[-1]["t_s"] - rows[0]["t_s"])


def cpu_seconds(server: Server) -> dict[str, float]:
    """CPU time so far of this kernel, the API server, and the engine with its workers, in seconds."""
    found = {"client (this kernel)": _cpu(psutil.Process()), "API server": 0.0, "engine": 0.0}
    for i, pid in enumerate(server.pids):
        with contextlib.suppress(psutil.Error):
            found["API server" if i == 0 else "engine"] += _cpu(psutil.Process(pid))
    return found


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def why_server_differs(used_s: dict[str, float], duration_s: float, cores: int | None = None):
    """For `reconcile`: a few sentences on server / offline throughput, by how it came out.

    used_s: CPU seconds of each process (`cpu_seconds` after the run less before); cores: None counts those that this
    process may use.
    """
    cores = cores or len(os.sched_getaffinity(0))
    spent = (
        f"The engine used {100 * used_s['engine'] / sum(used_s.values()):.0f} % of the CPU time of this run; "
        "the rest went into HTTP, JSON and events on both sides."
    )
    share = used_s["API server"] / duration_s

    def why(ratio: float | None) -> str:
        if ratio is not None and 0.9 <= ratio <= 1.1:
            return f"{spent} It ran beside the engine, in other processes, and so cost next to nothing."
        if ratio is not None and ratio > 1.1:
            return (
                f"{spent} A server that is faster has turned tokens into text in another process, beside the next step; in the notebook "
                "one process does both in turn. Other programs on the machine can do the same to a short run: repeat both."
            )
        if share > 0.9:
            return (
                f"{spent} The API server alone used {used_s['API server']:.1f} CPU seconds in {duration_s:.1f} s: one process, and it filled "
                "its core, so the engine waited for it. `--api-server-count` starts more of them."
            )
        if cores < len(used_s):
            return (
                f"{spent} {len(used_s)} processes shared {cores} {'core' if cores == 1 else 'cores'}, so the engine's steps started later; "
                "the larger the model, the less that is."
            )
        return f"{spent} No process was short of a core: the requests waited on the way between them. Repeat both, a short run varies."

    return why


# --- what the options change ----------------------------------------------------------------------------------


TRIALS = 3  # of what one request alone shows; the median of them counts


def options(
    server: Server, long_tokens: int, too_long_tokens: int, vocabulary: int
) -> dict[str, float]:
    """One number or two for each option, measured on this server; run it on two servers and compare.

    queue_ms_mean (the server's own count), ttft_ms_p50, tpot_ms_p50 of 12 clients (max_num_seqs); gap_ms and long_ttft_ms: the
    longest gap in 3 streams while a prompt of `long_tokens` is computed, and its TTFT (max_num_batched_tokens); ttft_again_x and
    hits: the same long prompt a second time (prefix caching); too_long_status of a prompt of `too_long_tokens` and fit_together
    (max_model_len). The numbers of single requests are medians of three trials, with prompts that are new every time.
    Raises ServerError when the server does not answer, or breaks a stream off.
    """
    server.check_answers()
    rng = random.Random()

    def prompt(n: int) -> list[int]:
        return [rng.randrange(vocabulary // 4, vocabulary // 2) for _ in range(n)]

    before = server.metrics()
    load = run_load(server, requests=36, input_tokens=64, output_tokens=48, concurrency=12)
    queue_s = _mean_between(before, server.metrics(), "request_queue_time_seconds")

    client = server.openai(timeout=600)
    trials = [
        _gap_under_prefill(server, client, [prompt(16) for _ in range(3)], prompt(long_tokens))
        for _ in range(TRIALS)
    ]

    before, ratios = server.metrics(), []
    for again in [prompt(long_tokens) for _ in range(TRIALS)]:
        first, second = (
            timed_stream(server, prompt=again, max_tokens=2, client=client, ignore_eos=True)
            for _ in range(2)
        )
        ratios.append((second.ttft_s or 0) / (first.ttft_s or 1))
    hits = between(before, server.metrics(), "prefix_cache_hits") / TRIALS

    body = {"model": server.model, "prompt": prompt(too_long_tokens), "max_tokens": 1}
    answer = httpx.post(
        f"{server.url}/v1/completions", json=body, headers=server.headers, timeout=120
    )
    return {
        "queue_ms_mean": 1e3 * queue_s,
        **{name: load.metrics[name] for name in ("ttft_ms_p50", "tpot_ms_p50", "output_tokens_per_s")},
        "gap_ms": 1e3 * statistics.median(gap for gap, _ in trials), "long_ttft_ms": 1e3 * statistics.median(ttft for _, ttft in trials),
        "ttft_again_x": statistics.median(ratios), "hits": hits,
        "too_long_status": float(answer.status_code),
        "fit_together": float(server.cache_config().get("kv_cache_max_concurrency") or "nan"),
    }  # fmt: skip


def _gap_under_prefill(
    server: Server, client, prompts: list, long_prompt: list[int]
) -> tuple[float, float]:
    """(the longest gap in the streams of `prompts` while `long_prompt` is computed, the TTFT of that prompt), in seconds.

    The streams run before it is sent and until it is answered. Raises ServerError when one of them breaks off or ends before.
    """
    streams, answered = [Stream() for _ in prompts], threading.Event()
    requests = [
        {"prompt": prompt, "into": stream} for prompt, stream in zip(prompts, streams, strict=True)
    ]
    common = {
        "max_tokens": len(long_prompt) - len(prompts[0]),
        "ignore_eos": True,
        "temperature": 0,
        "until": answered,
    }
    worker = threading.Thread(target=together, args=(server, requests), kwargs=common)
    worker.start()
    while worker.is_alive() and not all(len(stream.times_s) > 4 for stream in streams):
        time.sleep(0.002)
    long = timed_stream(server, prompt=long_prompt, max_tokens=2, client=client, ignore_eos=True)
    answered.set()
    worker.join()
    if broken := [stream.error for stream in (*streams, long) if stream.error]:
        raise ServerError(f"The server broke a stream off ({broken[0]}). {server._hint()}")
    first_token = long.started_s + long.ttft_s
    if any(stream.started_s + stream.times_s[-1] < first_token for stream in streams):
        raise ServerError(
            "The streams had ended before the long prompt was computed: repeat this when the machine is less busy."
        )
    gaps = [
        gap
        for stream in streams
        for gap, at in zip(stream.gaps_s, stream.times_s, strict=False)
        if stream.started_s + at < first_token and stream.started_s + at + gap > long.started_s
    ]
    return max(gaps), long.ttft_s


def _mean_between(before: dict, after: dict, histogram: str) -> float:
    """Mean of what a histogram of /metrics counted between two readings; 0 when it counted nothing."""
    count = between(before, after, f"{histogram}_count")
    return between(before, after, f"{histogram}_sum") / count if count else 0.0


def compare(
    default: dict[str, float], changed: dict[str, float], long_tokens: int, too_long_tokens: int
) -> list[dict]:
    """Rows that set `options` of two servers side by side, each number beside the option that governs it."""
    watched = (
        ("--max-num-seqs", "mean time in the queue, 12 clients (ms)", "queue_ms_mean"),
        ("--max-num-seqs", "TTFT p50 of 12 clients (ms)", "ttft_ms_p50"),
        ("--max-num-seqs", "TPOT p50 of 12 clients (ms)", "tpot_ms_p50"),
        (
            "--max-num-batched-tokens",
            f"longest gap in a stream during a prefill of {long_tokens:,} tokens (ms)",
            "gap_ms",
        ),
        ("--max-num-batched-tokens", "TTFT of that long prompt (ms)", "long_ttft_ms"),
        ("--no-enable-prefix-caching", "TTFT of a prompt again / TTFT of it first", "ttft_again_x"),
        ("--no-enable-prefix-caching", "its tokens found in the cache", "hits"),
        ("--max-model-len", f"status of a prompt of {too_long_tokens:,} tokens", "too_long_status"),
        ("--max-model-len", "full-length requests that fit", "fit_together"),
    )
    return [
        {
            "option": option,
            "number": what,
            "default": _shown(default[key]),
            "changed": _shown(changed[key]),
        }
        for option, what, key in watched
    ]


def trades(default: dict[str, float], changed: dict[str, float]) -> str:
    """What the change of each option gave and cost here, a line each. A difference of 20 % or less counts as none."""

    def differ(key: str) -> str:
        a, b = default[key], changed[key]
        if max(a, b) <= 1.2 * min(a, b):
            return f"no difference above 20 % ({a:.1f} and {b:.1f} ms)"
        return f"{'longer' if b > a else 'shorter'}: {b:.1f} ms instead of {a:.1f}"

    again = [f"{100 * one['ttft_again_x']:.0f} % of the first time" for one in (default, changed)]
    return "\n".join((
        f"Fewer sequences at a time: TTFT {differ('ttft_ms_p50')}; TPOT {differ('tpot_ms_p50')}.",
        f"Smaller batches of tokens: the longest gap of running streams {differ('gap_ms')}; the long prompt's TTFT {differ('long_ttft_ms')}.",
        f"No prefix caching: a prompt's TTFT the second time is {again[1]}; with caching it was {again[0]}.",
        f"A shorter context: {changed['fit_together']:.0f} requests of full length fit instead of {default['fit_together']:.0f}; "
        f"the long prompt gets status {changed['too_long_status']:.0f} instead of {default['too_long_status']:.0f}.",
    ))  # fmt: skip


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


# --- stopping under load --------------------------------------------------------------------------------------


def stop_under_load(
    server: Server, clients: int, max_tokens: int, drain_s: float | None = None
) -> tuple[list[dict], StopReport]:
    """Stop the server while `clients` streams run, with one more client that comes too late: what each of them sees.

    Every client was promised `max_tokens` tokens. Returns (a row each, the report of the stop).
    Raises ServerError when the server does not answer before that.
    """
    server.check_answers()
    box = {i: Stream() for i in range(clients + 1)}

    def client(i: int) -> None:
        timed_stream(
            server,
            prompt=f"Client {i} says",
            max_tokens=max_tokens,
            ignore_eos=True,
            temperature=0,
            into=box[i],
        )

    def late() -> None:
        deadline = time.perf_counter() + 60
        while (
            "shutdown triggered" not in server.log_path.read_text(errors="replace")
            and time.perf_counter() < deadline
        ):
            time.sleep(0.02)
        timed_stream(server, prompt="Am I too late?", max_tokens=4, into=box[clients])

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)] + [
        threading.Thread(target=late)
    ]
    for thread in threads:
        thread.start()
    deadline = time.perf_counter() + 60
    while (
        not all(box[i].times_s or box[i].error for i in range(clients))
        and time.perf_counter() < deadline
    ):
        time.sleep(0.01)  # until all of them are being served
    report = server.stop(drain_s)
    for thread in threads:
        thread.join(120)
    return list(_seen(box, clients, max_tokens)), report


def _seen(box: dict[int, Stream], clients: int, max_tokens: int) -> Iterator[dict]:
    for i in range(clients + 1):
        stream = box[i]
        if stream.error:
            ended = "refused" if not stream.times_s else "broken off"
        else:
            ended = (
                "complete"
                if stream.finish_reason in ("length", "stop")
                else f"ended by {stream.finish_reason!r}"
            )
        yield {
            "client": f"{i + 1}" if i < clients else "latecomer",
            "outcome": ended,
            "chunks received": len(stream.chunks),
            "tokens asked for": max_tokens if i < clients else 4,
            "after s": stream.e2e_s,
            "client library says": stream.error[:90],
        }


def how_it_stopped(report: StopReport) -> str:
    """What vLLM did, and what this notebook did, when a server without a shutdown timeout was stopped under load."""
    if report.how == "aborted" and report.exit_code == 128 + signal.SIGKILL:
        return (
            "vLLM ended its engine at once: that is its default, --shutdown-timeout 0. Its API server then waited for its clients "
            f"to hang up, so the notebook killed it after {report.seconds:.0f} s (exit code 137 = 128 + 9, SIGKILL)."
        )
    if report.how == "aborted":
        return f"vLLM gave up what was running, that is its default (--shutdown-timeout 0), and ended by itself with exit code {report.exit_code}."
    return f"The server had no requests left to give up: it stopped {report.seconds:.1f} s after it was told to, exit code {report.exit_code}."


def kept_promises(rows: list[dict], report: StopReport) -> dict[str, float]:
    """Of `stop_under_load`: how many streams were there, how many got all they were promised, and the seconds of the stop."""
    streams = [row for row in rows if row["client"] != "latecomer"]
    return {
        "streams": len(streams),
        "complete": sum(row["outcome"] == "complete" for row in streams),
        "seconds": report.seconds,
    }
