"""The experiments of notebook 5: what a server answers, and what clients see of options and stops.

Each function asks a real server and returns rows (list of dicts) for a table, or metrics; nothing
is judged here.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import re
import shlex
import shutil
import statistics
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus

import httpx
import numpy as np
import psutil

from helpers.lessons.exercises import Answer
from helpers.server.load import LoadRun, Stream, run_load, timed_stream
from helpers.server.server import Server, ServerError, StopReport
from helpers.verdicts.gain import Gain, gain_of_groups
from helpers.verdicts.machine import less_slowed

STATUSES = [f"{code} {HTTPStatus(code).phrase}" for code in (200, 400, 401, 404, 500)]
UNDECIDED = "undecided"
FAR = 100  # times
LONGEST = 96  # characters of what a server or a client library says
PATIENCE_S = 60  # for what a stop is to meet


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


def mistake(name: str, answer: httpx.Response, guessed: dict[str, Answer]) -> dict:
    """A table's row: what a server made of a request that a client got wrong.

    guessed: one of the STATUSES, by mistake.
    """
    row = {"mistake": name, "status": answer.status_code}
    if any(guessed.values()):
        truth = f"{answer.status_code} {answer.reason_phrase}"
        row["you said"] = judged(guessed.get(name), truth)
    return row | {"the server says": _words(answer)}


def warnings_since(server: Server, size: int) -> list[str]:
    """The warnings in the server's log after its first `size` bytes, without time and place."""
    log = server.log_path.read_bytes()[size:].decode(errors="replace")
    return [_shortened(line.partition("] ")[2]) for line in log.splitlines() if "WARNING" in line]


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
    """`run_load`; a run that other programs slowed is made once more, which is printed."""
    return less_slowed(lambda _: run_load(server, **load))


def at_rate(server: Server, rate_per_s: float, requests: int, **load) -> LoadRun:
    """An open loop at a rate; one that other programs slowed is made once more, as it prints.

    To the run's metrics come, of the same run, in_server_mean: the seconds that requests spent in
    the server by its own histogram, per second; and read_mean: the mean of running + waiting over
    the readings (not there when nothing was read).
    """
    return less_slowed(lambda _: _at_rate(server, rate_per_s, requests, **load))


def _at_rate(server: Server, rate_per_s: float, requests: int, **load) -> LoadRun:
    with readings_of(watch(server)) as readings, growth(server.metrics) as grown:
        run = run_load(server, requests=requests, rate_per_s=rate_per_s, **load)
    inside_s = grown["e2e_request_latency_seconds_sum"]
    run.metrics["in_server_mean"] = inside_s / run.metrics["duration_s"]
    mean = mean_in_system(readings)
    if mean == mean:
        run.metrics["read_mean"] = mean
    return run


def burst(seen: dict, limit: int, without: dict) -> dict[str, float]:
    """The record of an overload that met a limit. seen, without: table rows, with it and none."""
    good, bad = (100 * row["in time"] / row["let in"] for row in (seen, without))
    return {
        "sent": seen["sent"],
        "limit": limit,
        "let_in": seen["let in"],
        "good_percent": good,
        "without_percent": bad,
        "goodput_per_s": seen["goodput/s"],
        "without_goodput_per_s": without["goodput/s"],
    }


def rate_row(run: dict[str, float], verdict: str, limit: int | None = None) -> dict:
    """A rate's row in the table that sizes a service. run: of `run_load`, which let all in or some.

    verdict: on the requests that were let in.
    """
    sent = run["completed"] + run["failed"]
    return {
        "arrivals/s": run["arrived_per_s"],
        "limit": "none" if limit is None else f"{limit}",
        "answers/s": run["requests_per_s"],
        "goodput/s": run["goodput_per_s"],
        "let in": run["completed"],
        "of these in time (%)": 100 * run["good_share"] * sent / run["completed"],
        "verdict": verdict,
    }


# --- what the options change ----------------------------------------------------------------------


def middle(found: dict[str, list[float]]) -> dict[str, float]:
    """The median of each number that was measured several times."""
    return {name: statistics.median(values) for name, values in found.items()}


# What varies from trial to trial and follows from an option, by the name of its number.
VARYING = {
    "ttft_ms_p50": "TTFT of 10 requests at once",
    "tpot_ms_p50": "TPOT of those 10",
    "output_tokens_per_s": "output tokens/s of those 10",
    "gap_ms": "longest gap in a stream beside a long prompt",
    "long_ttft_ms": "TTFT of that long prompt",
    "again_x": "TTFT of a prompt sent again / its first TTFT",
}
# The options that it can follow from.
MOVED_BY = {name: "places" for name in VARYING}
MOVED_BY |= {"gap_ms": "tokens a step", "long_ttft_ms": "tokens a step", "again_x": "prefix cache"}
DIRECTIONS = ["larger", "smaller", "much the same"]


def ratios(default: dict, changed: dict) -> dict[str, Gain]:
    """Changed / default of each number in VARYING; "better" means a larger one.

    A time of 0 is left out: its client came so late that it read a whole answer at once.
    """
    gains = {}
    for name in VARYING:
        sides = [[time for time in trials[name] if time > 0] for trials in (default, changed)]
        known = all(sides)
        gains[name] = gain_of_groups(*sides, "higher") if known else Gain(1, 0, math.inf, 0)
    return gains


def span_of(ratio: Gain) -> str:
    """Its range; "" where its ends are FAR from each other."""
    return "" if ratio.high > FAR * ratio.low else f"{ratio.low:.2f} to {ratio.high:.2f}"


def said_of(ratio: Gain) -> str:
    """Its range, and whether it is undecided; that alone where there is no `span_of` it."""
    if not (span := span_of(ratio)):
        return UNDECIDED
    return f"{UNDECIDED}, {span}" if direction(ratio) == UNDECIDED else span


def direction(ratio: Gain) -> str:
    """Which of the DIRECTIONS a number took by `ratios`, or that it is undecided."""
    longer, shorter, same = DIRECTIONS
    if ratio.undecided:
        return UNDECIDED
    return {"better": longer, "worse": shorter}.get(ratio.verdict, same)


def judged(guess: Answer | None, truth: str) -> str:
    """What was chosen with whether it was right; "" where nothing was."""
    if not guess:
        return ""
    verdict = "right" if guess.text == truth else "wrong"
    return f"{guess.text}: {UNDECIDED if truth == UNDECIDED else verdict}"


def side_by_side(
    default: dict, changed: dict, compared: dict[str, Gain], guessed: dict[str, Answer]
) -> list[dict]:
    """The medians of VARYING on two servers, with the range of their ratio.

    compared: of `ratios`. guessed: one of the DIRECTIONS, by the number's name.
    """
    before, after = middle(default), middle(changed)
    rows = []
    for name, what in VARYING.items():
        row = {"number": what + " (ms)" * ("_ms" in name), "changed": MOVED_BY[name]}
        row |= {"before": before[name], "after": after[name]}
        row["after / before (95 %)"] = said_of(compared[name])
        if any(guessed.values()):
            row["you said"] = judged(guessed[name], direction(compared[name]))
        rows.append(row)
    return rows


# --- stopping under load --------------------------------------------------------------------------


def seen(streams: list[Stream], late: Stream) -> list[dict]:
    """What each client saw of a stop, a row each."""
    rows = [_seen(f"{i}", stream) for i, stream in enumerate(streams, 1)]
    return [*rows, _seen("latecomer", late)]


def come_too_late(server: Server) -> Stream:
    """Send a request as soon as the server's log says that it is shutting down."""
    log, end = server.log_path, time.perf_counter() + PATIENCE_S
    while "shutdown triggered" not in log.read_text(errors="replace") and time.perf_counter() < end:
        time.sleep(0.01)
    return timed_stream(server, prompt="Am I too late?", max_tokens=4)


def _seen(client: str, stream: Stream) -> dict:
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
