"""The experiments of notebook 5: what a server answers, and what clients see of options and stops.

Each function asks a real server and returns rows (list of dicts) for a table, or metrics; nothing
is judged here.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import random
import re
import shlex
import shutil
import statistics
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import httpx
import numpy as np
import psutil

from helpers.lessons.exercises import Answer
from helpers.server.load import LoadRun, Stream, run_load, timed_stream
from helpers.server.server import Server, ServerError, StopReport
from helpers.verdicts.gain import Gain, gain_of_groups, gain_of_pairs
from helpers.verdicts.in_turn import in_turn
from helpers.verdicts.machine import less_slowed

COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
_ONE_TOKEN = {"prompt": "Hello", "max_tokens": 1}
_SHORT_CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
# What to ask, the body of the request if it has one, and what the endpoint is for.
ENDPOINTS = (
    ("GET", "/health", None, "is the engine alive? 200 or 503"),
    ("GET", "/version", None, "vLLM's version"),
    ("GET", "/v1/models", None, "which names can be asked for, and max_model_len"),
    ("GET", "/metrics", None, "counters and gauges for Prometheus"),
    ("POST", "/tokenize", {"prompt": "Hello"}, "text to token ids, without generating"),
    ("POST", COMPLETION, _ONE_TOKEN, "text in, the text goes on"),
    ("POST", CHAT, _SHORT_CHAT, "messages in, an answer out"),
    ("POST", "/invocations", _SHORT_CHAT, "either of the two, for Amazon SageMaker"),
)
STATUSES = [f"{code} {HTTPStatus(code).phrase}" for code in (200, 400, 401, 404, 500)]
# The mistakes whose status is guessed first.
GUESSED = (
    "wrong API key",
    "prompt longer than max_model_len",
    "a path that does not exist",
    "a parameter that does not exist",
)
UNDECIDED = "undecided"
LONGEST = 96  # characters of what a server or a client library says
PATIENCE_S = 60  # for what a stop is to meet
TRIALS = 4  # of each number that the options change: of three, one bad run spoils the range


def endpoints(server: Server) -> list[dict]:
    """The status of each endpoint without a key and with the right one.

    Raises ServerError when nothing answers.
    """
    server.check_answers()
    rows = []
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for method, path, body, what in ENDPOINTS:
            payload = body and {"model": server.model, **body}
            without = client.request(method, path, json=payload)
            with_key = client.request(method, path, json=payload, headers=server.headers)
            row = {"request": f"{method} {path}", "without key": without.status_code}
            rows.append(row | {"with key": with_key.status_code, "for": what})
    return rows


def ask_with_curl(server: Server, path: str, body: dict) -> dict | None:
    """Send a request with curl, print the command as a person would type it, return the answer.

    Returns None without curl. Raises ServerError when nothing answers.
    """
    server.check_answers()
    url, data = server.url + path, json.dumps(body)
    print(
        f'curl {url} -H "Authorization: Bearer $VLLM_API_KEY" '
        f'-H "Content-Type: application/json" \\\n  -d {shlex.quote(data)}'
    )
    if not shutil.which("curl"):
        print("(curl is not installed here, so this command was not run)")
        return None
    argv = ["curl", "-sS", url, "-H", "Content-Type: application/json", "-d", data, "-K", "-"]
    # The key comes on curl's standard input: in the command, `ps` would show it to everybody.
    key = f'header = "Authorization: Bearer {server.api_key}"'
    done = subprocess.run(argv, input=key, capture_output=True, text=True, timeout=300, check=True)
    return json.loads(done.stdout)


def mistakes(server: Server, max_model_len: int, guessed: dict[str, Answer]) -> list[dict]:
    """Requests that a client gets wrong: the status, and the server's own words.

    guessed: one of the STATUSES, by mistake. Raises ServerError when nothing answers.
    """
    server.check_answers()
    hello = {"model": server.model, **_ONE_TOKEN}
    wrong_key = {"Authorization": "Bearer not-the-key"}
    cut_off = {"content": b'{"model": ', "headers": {"Content-Type": "application/json"}}
    too_long = {**hello, "prompt": [5] * (max_model_len + 1)}
    too_many = {**hello, "max_tokens": max_model_len + 1}
    cases = (
        ("wrong API key", COMPLETION, {"json": hello, "headers": wrong_key}),
        ("unknown model", COMPLETION, {"json": {**hello, "model": "gpt-99"}}),
        ("prompt longer than max_model_len", COMPLETION, {"json": too_long}),
        ("more max_tokens than fit", COMPLETION, {"json": too_many}),
        ("JSON that is cut off", COMPLETION, cut_off),
        ("a word where a number belongs", COMPLETION, {"json": {**hello, "max_tokens": "many"}}),
        ("temperature below 0", COMPLETION, {"json": {**hello, "temperature": -1}}),
        ("a chat without messages", CHAT, {"json": {"model": server.model}}),
        ("a path that does not exist", "/v1/complete", {"json": hello}),
        ("a parameter that does not exist", COMPLETION, {"json": {**hello, "temprature": 0}}),
        ("a parameter of older versions", COMPLETION, {"json": {**hello, "guided_choice": ["a"]}}),
    )
    rows = []
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for name, path, request in cases:
            headers = {**server.headers, **request.get("headers", {})}
            answer = client.post(path, **{**request, "headers": headers})
            row = {"mistake": name, "status": answer.status_code}
            if any(guessed.values()):
                truth = f"{answer.status_code} {answer.reason_phrase}"
                row["you said"] = judged(guessed.get(name), truth)
            rows.append(row | {"the server says": _words(answer)})
    return rows


def _words(answer: httpx.Response) -> str:
    """What an answer says of a mistake, on one line."""
    if answer.is_success:
        return "(an ordinary answer)"
    said = answer.text
    with contextlib.suppress(ValueError, AttributeError):
        body = answer.json()
        error = body.get("error", body.get("detail", body))
        said = error.get("message", error) if isinstance(error, dict) else error
    return _shortened(str(said))


def _shortened(said: str) -> str:
    """At most LONGEST characters of it, whole words on one line."""
    return textwrap.shorten(said, LONGEST, placeholder=" ...")


# --- how busy the server is -----------------------------------------------------------------------


@contextlib.contextmanager
def growth(read: Callable[[], dict[str, float]]) -> Iterator[dict[str, float]]:
    """How much each number that `read` returns grows inside the block; filled at its end.

    What is not counted has grown by 0. Raises what `read` does (`Server.metrics`: ServerError).
    """
    before, grown = read(), collections.defaultdict(float)
    yield grown
    grown |= {name: value - before.get(name, 0.0) for name, value in read().items()}


def cpu_seconds(server: Server) -> contextlib.AbstractContextManager[dict[str, float]]:
    """The `growth` of the CPU time of this kernel, the API server, and the engine (all of it)."""
    return growth(lambda: _cpu_times(server))


def _cpu_times(server: Server) -> dict[str, float]:
    names = ("client (this kernel)", "API server", "engine")
    found = dict.fromkeys(names, 0.0)
    for i, pid in enumerate([None, *server.pids]):  # None: this process
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            found[names[min(i, 2)]] += times.user + times.system
    return found


def watch(server: Server) -> Callable[[], dict[str, float]]:
    """What a dashboard reads again and again: running, waiting, kv_cache_usage (0 to 1)."""

    def read() -> dict[str, float]:
        now = server.metrics()
        return {
            "running": now.get("num_requests_running", 0.0),
            "waiting": now.get("num_requests_waiting", 0.0),
            "kv_cache_usage": now.get("kv_cache_usage_perc", 0.0),
        }

    return read


def mean_in_system(readings: list[dict]) -> float:
    """Mean of running + waiting over time, from the first reading with a request to the last one.

    readings: `t_s`, `running`, `waiting`, in order. nan when fewer than two have a request.
    """
    counts = [(row["t_s"], row["running"] + row["waiting"]) for row in readings]
    busy = [t for t, count in counts if count]
    rows = [(t, count) for t, count in counts if busy and busy[0] <= t <= busy[-1]]
    if len(rows) < 2:
        return float("nan")
    times, requests = zip(*rows, strict=True)
    return float(np.trapezoid(requests, times) / (times[-1] - times[0]))


@contextlib.contextmanager
def readings_of(read: Callable[[], dict[str, float]], hz: float = 8.0) -> Iterator[list[dict]]:
    """What `read` returns while the block runs, `hz` times a second: rows with `t_s`."""
    rows, over, begin = [], threading.Event(), time.perf_counter()

    def work() -> None:
        while not over.wait(1 / hz):
            with contextlib.suppress(ServerError):  # one reading less
                rows.append({"t_s": time.perf_counter() - begin, **read()})

    thread = threading.Thread(target=work, name="readings", daemon=True)
    thread.start()
    try:
        yield rows
    finally:
        over.set()
        thread.join()


# --- loads ----------------------------------------------------------------------------------------


def steady_load(server: Server, **load) -> LoadRun:
    """`run_load`; a run that other programs slowed is made once more."""
    return less_slowed(lambda _: run_load(server, **load))


def at_rate(server: Server, rate_per_s: float, seconds: float, **load) -> LoadRun:
    """An open loop for so many seconds; a run that other programs slowed is made once more.

    To the run's metrics come, of the same run, in_server_mean: the seconds that requests spent in
    the server by its own histogram, per second; and read_mean: the mean of running + waiting over
    the readings (not there when nothing was read).
    """
    return less_slowed(lambda _: _at_rate(server, rate_per_s, seconds, **load))


def _at_rate(server: Server, rate_per_s: float, seconds: float, **load) -> LoadRun:
    requests = max(8, round(rate_per_s * seconds))
    with readings_of(watch(server)) as readings, growth(server.metrics) as grown:
        run = run_load(server, requests=requests, rate_per_s=rate_per_s, **load)
    inside_s = grown["e2e_request_latency_seconds_sum"]
    run.metrics["in_server_mean"] = inside_s / run.metrics["duration_s"]
    mean = mean_in_system(readings)
    if mean == mean:
        run.metrics["read_mean"] = mean
    return run


def let_in(run: LoadRun, goals_ms: dict[str, float]) -> dict[str, float]:
    """Whom a server let in, for a table, how many of these met the goals, and which they missed."""
    m, answers = run.metrics, [answer for answer in run.answers if answer["ok"]]
    sent = m["completed"] + m["failed"]
    late = {"TTFT": 0, "TPOT": 0}
    for answer in answers:
        after_first = max(1, answer["output_tokens"] - 1)
        tpot_s = (answer["latency_s"] - answer["ttft_s"]) / after_first
        late["TTFT"] += 1e3 * answer["ttft_s"] > goals_ms["ttft"]
        late["TPOT"] += 1e3 * tpot_s > goals_ms["tpot"]
    return {
        "sent": sent,
        "let in": m["completed"],
        "of these in time (%)": 100 * m["good_share"] * sent / m["completed"],
        **{f"{name} too long (%)": 100 * n / m["completed"] for name, n in late.items()},
        "goodput/s": m["goodput_per_s"],
    }


def burst(
    seen: dict, limit: int, refused: float, without: dict, promised: float
) -> dict[str, float]:
    """The record of an overload that met a limit. seen, without: of `let_in`, with it and none."""
    good, bad = (table["of these in time (%)"] for table in (seen, without))
    met = {"good_percent": good, "without_percent": bad, "refused": refused}
    met |= {"goodput_per_s": seen["goodput/s"], "promised_percent": 100 * promised}
    return {"sent": seen["sent"], "limit": limit, "let_in": seen["let in"], **met}


def gain_of_clients(server: Server, clients: int, budget_s: float, **size) -> Gain:
    """Output tokens/s of so many clients against those of one, measured in turn."""

    def throughput(count: int) -> Callable[[], float]:
        load = {"requests": max(3, 2 * count), "concurrency": count, **size}
        return lambda: run_load(server, **load).metrics["output_tokens_per_s"]

    settings = {"one": throughput(1), "many": throughput(clients)}
    gains, _ = in_turn(settings, "one", better="higher", budget_s=budget_s)
    return gains["many"]


# --- what the options change ----------------------------------------------------------------------


def options(
    server: Server, long_tokens: int, too_long_tokens: int, vocabulary: int
) -> dict[str, list[float]]:
    """Numbers for each option, TRIALS of each that varies; run it on two servers and compare.

    Of 12 requests at once queue_ms_mean (the server's own count), ttft_ms_p50 and tpot_ms_p50
    (max_num_seqs); gap_ms and long_ttft_ms: the longest gap in 3 streams while a prompt of
    `long_tokens` is computed, and its TTFT (max_num_batched_tokens); first_ms and again_ms: TTFT of
    one half as long, and of the same one again, and hits: its tokens found in the cache (prefix
    caching); too_long_status of a prompt of `too_long_tokens` (max_model_len).
    Prompts are new every time, of tokens of a `vocabulary` of this size.
    Raises ServerError when the server does not answer, or breaks a stream off.
    """
    server.check_answers()
    rng = random.Random()
    found = collections.defaultdict(list)

    def prompt(n: int) -> list[int]:
        return [rng.randrange(vocabulary // 4, vocabulary // 2) for _ in range(n)]

    for _ in range(TRIALS):
        with growth(server.metrics) as grown:
            load = steady_load(server, requests=12, input_tokens=64, output_tokens=36)
        queue = "request_queue_time_seconds"
        queued_s = grown[f"{queue}_sum"] / (grown[f"{queue}_count"] or 1)
        found["queue_ms_mean"].append(1e3 * queued_s)
        for name in ("ttft_ms_p50", "tpot_ms_p50"):
            found[name].append(load.metrics[name])

    for _ in range(TRIALS):
        streams = [prompt(16) for _ in range(3)]
        gap_s, ttft_s = gap_under_prefill(server, streams, prompt(long_tokens))
        found["gap_ms"].append(1e3 * gap_s)
        found["long_ttft_ms"].append(1e3 * ttft_s)

    request = {"max_tokens": 2, "client": server.openai(timeout=600), "ignore_eos": True}
    timed_stream(server, prompt=prompt(16), **request)  # connects
    for again in [prompt(long_tokens // 2) for _ in range(TRIALS)]:
        with growth(server.metrics) as grown:
            first, second = (timed_stream(server, prompt=again, **request) for _ in range(2))
        if error := first.error or second.error:
            raise ServerError(f"The server broke a stream off ({error}). {server.advice}")
        found["first_ms"].append(1e3 * first.ttft_s)
        found["again_ms"].append(1e3 * second.ttft_s)
        found["hits"].append(grown["prefix_cache_hits"])

    body = {"model": server.model, "prompt": prompt(too_long_tokens), "max_tokens": 1}
    answer = httpx.post(server.url + COMPLETION, json=body, headers=server.headers, timeout=120)
    found["too_long_status"] = [float(answer.status_code)]
    return dict(found)


def middle(found: dict[str, list[float]]) -> dict[str, float]:
    """The median of each number of `options`, and ttft_again_x: TTFT again / TTFT first."""
    again = zip(found["again_ms"], found["first_ms"], strict=True)
    medians = {name: statistics.median(values) for name, values in found.items()}
    return medians | {"ttft_again_x": statistics.median(a / first for a, first in again)}


# Times of `options` that vary from trial to trial, as the question what an option will do to them.
VARYING = {
    "ttft_ms_p50": "4 places in a step: the TTFT of 12 requests at once will be",
    "tpot_ms_p50": "4 places in a step: the TPOT of those 12 will be",
    "gap_ms": "256 tokens a step: the longest gap in a stream beside a long prompt will be",
    "long_ttft_ms": "256 tokens a step: the TTFT of that long prompt will be",
}
DIRECTIONS = ["longer", "shorter", "much the same"]


def ratios(default: dict, changed: dict) -> dict[str, Gain]:
    """Changed / default of each time in VARYING; "better" means a longer one.

    A time of 0 is left out: its client came so late that it read a whole answer at once.
    """
    gains = {}
    for name in VARYING:
        sides = [[time for time in trials[name] if time > 0] for trials in (default, changed)]
        known = all(sides)
        gains[name] = gain_of_groups(*sides, "higher") if known else Gain(1, 0, math.inf, 0)
    return gains


def said_of(ratio: Gain) -> str:
    """Its range, and that it is undecided; that alone where the range is wide."""
    span = f"{ratio.low:.2f} to {ratio.high:.2f}"
    if not ratio.undecided:
        return span
    return UNDECIDED if ratio.wide else f"{UNDECIDED}, {span}"


def direction(ratio: Gain) -> str:
    """Which of the DIRECTIONS a time took by `ratios`, or that it is undecided."""
    if ratio.undecided:
        return UNDECIDED
    longer, shorter, same = DIRECTIONS
    return {"better": longer, "worse": shorter}.get(ratio.verdict, same)


def judged(guess: Answer | None, truth: str) -> str:
    """What was chosen with whether it was right; "" where nothing was."""
    if not guess:
        return ""
    verdict = "right" if guess.text == truth else "wrong"
    return f"{guess.text}: {UNDECIDED if truth == UNDECIDED else verdict}"


def cache_gain(found: dict[str, list[float]]) -> Gain:
    """How many times as fast the first token of a prompt comes when it is sent again."""
    return gain_of_pairs(list(zip(found["first_ms"], found["again_ms"], strict=True)), "lower")


def gap_under_prefill(
    server: Server, prompts: list[list[int]], long_prompt: list[int]
) -> tuple[float, float]:
    """The longest gap in streams of `prompts` while `long_prompt` is computed, and its TTFT.

    In seconds. The streams run before it is sent and until it is answered.
    Raises ServerError when one of them breaks off or ends before.
    """
    streams, answered = [Stream() for _ in prompts], threading.Event()
    client = server.openai(timeout=600)  # made before: the work would hold the streams up
    common = {"ignore_eos": True, "client": client}
    endless = {"max_tokens": len(long_prompt) - len(prompts[0]), "temperature": 0} | common
    with ThreadPoolExecutor(len(prompts)) as pool:
        running = [
            pool.submit(timed_stream, server, prompt=p, into=s, until=answered, **endless)
            for p, s in zip(prompts, streams, strict=True)
        ]
        while not all(len(stream.times_s) > 4 for stream in streams):
            if all(future.done() for future in running):
                break
            time.sleep(0.002)
        long = timed_stream(server, prompt=long_prompt, max_tokens=2, **common)
        answered.set()
    if broken := [stream.error for stream in (*streams, long) if stream.error]:
        raise ServerError(f"The server broke a stream off ({broken[0]}). {server.advice}")
    first_token = long.started_s + long.ttft_s
    if any(stream.started_s + stream.times_s[-1] < first_token for stream in streams):
        raise ServerError(
            "The streams had ended before the long prompt was computed: repeat this when the "
            "machine is less busy."
        )
    gaps = []
    for stream in streams:
        for gap, at in zip(stream.gaps_s, stream.times_s, strict=False):
            begun = stream.started_s + at
            if begun < first_token and begun + gap > long.started_s:
                gaps.append(gap)
    return max(gaps), long.ttft_s


def side_by_side(
    default: dict, changed: dict, guessed: dict[str, Answer], long_tokens: int, too_long_tokens: int
) -> list[dict]:
    """The medians of `options` of two servers, a row each, beside the option that governs it.

    guessed: one of the DIRECTIONS, by the key in VARYING.
    """
    batch, cache, length = "max-num-batched-tokens", "no-enable-prefix-caching", "max-model-len"
    gap = f"longest gap in a stream during a prefill of {long_tokens:,} tokens (ms)"
    watched = (
        ("max-num-seqs", "mean time in the queue, 12 requests at once (ms)", "queue_ms_mean"),
        ("max-num-seqs", "their TTFT p50 (ms)", "ttft_ms_p50"),
        ("max-num-seqs", "their TPOT p50 (ms)", "tpot_ms_p50"),
        (batch, gap, "gap_ms"),
        (batch, "TTFT of that long prompt (ms)", "long_ttft_ms"),
        (cache, "TTFT of a prompt again / TTFT of it first", "ttft_again_x"),
        (cache, "its tokens found in the cache", "hits"),
        (length, f"status of a prompt of {too_long_tokens:,} tokens", "too_long_status"),
    )
    before, after, compared = middle(default), middle(changed), ratios(default, changed)
    rows = []
    for option, what, key in watched:
        row = {"option": f"--{option}", "number": what}
        row |= {"before": before[key], "after": after[key]}
        ratio = compared.get(key)
        row["after / before"] = said_of(ratio) if ratio else ""
        if any(guessed.values()):
            row["you said"] = judged(guessed[key], direction(ratio)) if ratio else ""
        rows.append(row)
    return rows


# --- stopping under load --------------------------------------------------------------------------


def seen(streams: list[Stream], late: Stream, max_tokens: int) -> list[dict]:
    """What each client saw of a stop, a row each; every stream was promised `max_tokens`."""
    rows = [_seen(f"{i}", stream, max_tokens) for i, stream in enumerate(streams, 1)]
    return [*rows, _seen("latecomer", late, 4)]


def come_too_late(server: Server) -> Stream:
    """Send a request as soon as the server's log says that it is shutting down."""
    log, end = server.log_path, time.perf_counter() + PATIENCE_S
    while "shutdown triggered" not in log.read_text(errors="replace") and time.perf_counter() < end:
        time.sleep(0.01)
    return timed_stream(server, prompt="Am I too late?", max_tokens=4)


def _seen(client: str, stream: Stream, max_tokens: int) -> dict:
    if stream.error:
        outcome = "broken off" if stream.times_s else _never_begun(stream.error)
    elif stream.finish_reason in ("length", "stop"):
        outcome = "complete"
    else:
        outcome = f"ended by {stream.finish_reason!r}"
    return {
        "client": client,
        "outcome": outcome,
        "chunks received": len(stream.chunks),
        "tokens asked for": max_tokens,
        "last chunk after s": stream.times_s[-1] if stream.times_s else None,
        "ended after s": stream.e2e_s,
        "client library says": _shortened(stream.error),
    }


def _never_begun(error: str) -> str:
    """What happened to a request without an answer, in a word or two, from the client's error."""
    if status := re.search(r"Error code: (\d+)", error):
        return f"error {status[1]}"
    ends = (word for word in ("refused", "reset") if word in error)
    return f"connection {next(ends, 'broken off')}"


def kept_promises(rows: list[dict], report: StopReport) -> dict[str, float]:
    """Of `seen`: streams, those that got all they were promised, seconds of the stop."""
    outcomes = [row["outcome"] for row in rows if row["client"] != "latecomer"]
    complete = outcomes.count("complete")
    return {"streams": len(outcomes), "complete": complete, "seconds": report.seconds}
