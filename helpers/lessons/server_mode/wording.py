"""Sentences of notebook 5 that depend on what was measured: captions and reasons."""

from __future__ import annotations

import math
import os
import signal
import statistics

from helpers.engine.steps import Steps
from helpers.lessons.server_mode import experiments, sizing
from helpers.server.load import Stream
from helpers.server.server import StopReport
from helpers.verdicts.gain import Gain

# --- captions -------------------------------------------------------------------------------------


def startup(phases_s: dict[str, float], total_s: float) -> str:
    """Which phase of a start took longest."""
    longest = max(phases_s, key=phases_s.get)
    return f"Of {total_s:.1f} s, {phases_s[longest]:.1f} s were spent on: {longest}."


def token_times(stream: Stream) -> str:
    """When the first chunk of a stream came, and how close the others were."""
    said = f"{1e3 * stream.ttft_s:.0f} ms until the first chunk (TTFT)"
    if not stream.gaps_s:
        return f"{said}."
    middle_ms = 1e3 * statistics.median_high(stream.gaps_s)
    return (
        f"{said}, then {len(stream.gaps_s)} chunks, half of them within {middle_ms:.1f} ms "
        f"of the one before, all within {1e3 * max(stream.gaps_s):.1f} ms."
    )


def closed_loop(rows: list[dict], knee: dict) -> str:
    """Where throughput was highest in one run each, what it cost the first token, and the knee.

    rows: of plots.closed_loop. Disturbed runs are left out, as in the figure.
    """
    calm = sizing.undisturbed(rows)
    first, last = calm[0], calm[-1]
    most = max(calm, key=lambda row: row["output_tokens_per_s"])
    gain = most["output_tokens_per_s"] / first["output_tokens_per_s"]
    wait = most["ttft_ms_p50"] / first["ttft_ms_p50"]
    lost = 1 - last["output_tokens_per_s"] / most["output_tokens_per_s"]
    said = (
        f"In one run at each number of clients, throughput was highest at {most['clients']} "
        f"clients: {gain:.1f} times that of {first['clients']}, and the first token came after "
        f"{wait:.1f} times as long."
    )
    if lost > 0.1:
        said += f" The run with {last['clients']} clients gave {100 * lost:.0f} % less."
    said += (
        f" Of these numbers throughput / time of a whole answer was highest with "
        f"{knee['clients']} clients: the knee."
    )
    return said + _disturbed(rows, "clients", "clients", "line and knee are drawn")


def _disturbed(rows: list[dict], name: str, unit: str, drawn: str) -> str:
    """Which runs other programs disturbed, by their `name`; "" for none. drawn: without them."""
    hit = [f"{row[name]:g}" for row in rows if row["disturbed"]]
    if not hit:
        return ""
    which = "every run" if len(hit) == len(rows) else f"the runs with {', '.join(hit)} {unit}"
    said = f" The machine was disturbed in {which} (orange)"
    if len(sizing.undisturbed(rows)) < len(rows):
        return f"{said}: {drawn} without them."
    return f"{said}: run this again when nothing else runs."


def open_loop(rows: list[dict], goals_ms: dict, best: dict | None, share: float) -> str:
    """The goal, the highest rate at which it held, and how many met it at the highest rate."""
    goal = limits(goals_ms)
    found = f"no rate tried let {100 * share:.0f} % of the requests meet it"
    if best:
        found = (
            f"{best['offered_per_s']:.4g} arrivals a second are the most of these rates at which "
            f"at least {100 * share:.0f} % of the requests met it: {100 * best['good_share']:.0f} "
            "% did"
        )
    last = max(rows, key=lambda row: row["offered_per_s"])
    said = (
        f"The goal is {goal}; {found}. At {last['offered_per_s']:.4g} a second "
        f"{100 * last['good_share']:.0f} % met it."
    )
    below = best["offered_per_s"] if best else 0.0
    missed = [
        f"{row['offered_per_s']:.4g}"
        for row in rows
        if row["good_share"] < share and row["offered_per_s"] < below
    ]
    if missed:
        said += (
            f" Fewer met it at {' and '.join(missed)} a second, although less load makes nobody "
            "wait longer: something disturbed that run, or it was too short to tell."
        )
    return said + _disturbed(rows, "offered_per_s", "arrivals a second", "the lines are drawn")


def kept_up(row: dict) -> str:
    """Whether the server kept up with a rate of arrivals, and how near to the limit of the rule."""
    said = "kept up" if sizing.keeps_up(row) else "fell behind"
    times = row["ttft_ms_last_third"] / row["ttft_ms_first_third"]
    if abs(times / sizing.KEEPS_UP - 1) > sizing.NEAR:
        return said
    return f"{said} (TTFT grew {times:.1f} times, the limit is {sizing.KEEPS_UP})"


def capacity(rows: list[dict], closed_per_s: float) -> str:
    """Between which rates the open loop found the capacity; rows: its runs.

    closed_per_s: what the closed loop answered. It counts the time until the last answer, so beside
    it stands what the open loop answered in the same way.
    """
    low, high = sizing.capacity(rows)
    if not low:
        return f"The server fell behind at every rate tried, down to {high:.4g} arrivals a second."
    if high == float("inf"):
        return f"The server kept up with every rate tried, up to {low:.4g} arrivals a second."
    kept, lost = (next(row for row in rows if row["offered_per_s"] == rate) for rate in (low, high))
    return (
        f"With {low:.4g} arrivals a second the server {kept_up(kept)}, with {high:.4g} it "
        f"{kept_up(lost)}: its capacity lies between them. Until the last answer of that run, "
        f"{low:.4g} arrivals a second gave {kept['requests_per_s']:.4g} answers a second; the "
        f"closed loop gave {closed_per_s:.4g}."
    )


def limits(goals_ms: dict[str, float]) -> str:
    """Such as "TTFT 36 ms and TPOT 5 ms"."""
    return " and ".join(f"{name.upper()} {ms:g} ms" for name, ms in goals_ms.items())


def copies(sized: dict, target_per_s: float, goals_ms: dict[str, float]) -> list[str]:
    """How many copies, and on what that number rests. sized: of `sizing.copies`."""
    rate, count = f"{sized['arrivals_per_s']:.1f}", sized["copies"]
    if "good_share" in sized:
        first = f"At {rate} arrivals a second {100 * sized['good_share']:.0f} % met the goal "
        first += f"({limits(goals_ms)})."
    else:
        first = f"No rate met the goal ({limits(goals_ms)}): loosen it, or try lower RATES. "
        first += f"{rate} a second, which the server kept up with, is too much for it."
    copies_of_it = f"{count} copies" if "good_share" in sized else f"at least {count} copies"
    if "missed_per_s" in sized:
        missed = sized["missed_per_s"]
        fewest = math.ceil(target_per_s / missed)
        between = f" (no rate between {rate} and {missed:.1f} was tried)"
        copies_of_it = f"{fewest} to {count} copies{between}" if fewest < count else copies_of_it
    if "safer_per_s" in sized:
        most = math.ceil(target_per_s / sized["safer_per_s"])
        copies_of_it += (
            f"; {most} if that one run was lucky ({sized['safer_per_s']:.1f} also met it)"
        )
    return [first, f"For {target_per_s:g} a second: {copies_of_it}, and one more for restarts."]


def goal(best: dict | None, share: float) -> str:
    """Up to which rate of arrivals the goal held for this share of the requests."""
    if best is None:
        return f"No rate tried let {100 * share:.0f} % of the requests meet the goal."
    return (
        f"Of the rates tried, {best['offered_per_s']:.4g} arrivals a second were the most at which "
        f"at least {100 * share:.0f} % of the requests met the goal: "
        f"{100 * best['good_share']:.0f} % did."
    )


def why_peak(ratio: float | None) -> str:
    """Why more or fewer requests waited than the formula says. ratio: measured / predicted."""
    if ratio is None or 0.9 < ratio < 1.1:
        return ""
    if ratio > 1:
        return "Every new prompt slows those that decode, so answers came later than assumed."
    return (
        "The server was asked up to eight times a second: between two readings more may have "
        "waited. And the batch fills little by little, so first answers can come sooner than from "
        "a full one."
    )


def overload(run: dict, readings: list[dict], goals_ms: dict[str, float]) -> str:
    """What an overload did. run: offered_per_s, requests_per_s, good_share; readings: waiting."""
    most = max((row["waiting"] for row in readings), default=0)
    queued = f"up to {most:.0f} requests waited for a place in the batch"
    if not most:
        queued = "no reading found a request that waited for a place in the batch"
    return (
        f"Of {run['offered_per_s']:.4g} arrivals a second {run['requests_per_s']:.4g} were "
        f"answered and {queued}.\n{100 * run['good_share']:.0f} % met the goal "
        f"({limits(goals_ms)})."
    )


def arrivals(steps: Steps) -> str:
    """How many requests a recorded step worked for at most, and how long they waited before."""
    most = max(len(step.work) for step in steps.steps)
    waits_s = [steps.queue_s(i) for i in range(len(steps.requests))]
    waits_ms = [1000 * wait for wait in waits_s if wait is not None]
    half, longest = (f"{ms:.1f}" for ms in (statistics.median(waits_ms), max(waits_ms)))
    waited = f"half of them waited {half} ms or less for a place"
    if half == "0.0":
        waited = f"half of them did not wait for a place, the others up to {longest} ms"
    if longest == "0.0":
        waited = "nobody waited for a place"
    return f"up to {most} of {len(steps.requests)} requests shared a step; {waited}."


def most_answers(steps: Steps, places: int, rate_per_s: float) -> str:
    """How many answers a second so many places give at most, by recorded requests; what arrives."""
    stays_s = []
    for i, request in enumerate(steps.requests):
        begun_s = request.arrival_s + (steps.queue_s(i) or 0.0)
        stays_s += [time_s - begun_s for time_s in steps.token_times_s(i)[-1:]]
    stay_s = statistics.mean(stays_s)
    most = places / stay_s
    said = (
        f"A request keeps its place for {stay_s:.2g} s, so {places} places give at most "
        f"{most:.3g} answers a second; {rate_per_s:.3g} arrive"
    )
    grows = ": the queue would grow for as long as they come" if most < rate_per_s else ""
    return f"{said}{grows}."


def steps_with_prompts(steps: Steps) -> str:
    """How long the median step took by the prompts it read: so long every stream waited."""
    took_ms: dict[int, list[float]] = {}
    for step in steps.steps:
        took_ms.setdefault(step.prompts, []).append(1000 * (step.end_s - step.start_s))
    medians = {n: statistics.median(ms) for n, ms in sorted(took_ms.items())}
    said = [f"{ms:.1f} ms with {n or 'no'} prompt{'s' * (n > 1)}" for n, ms in medians.items()]
    return (
        f"A step took (median) {', '.join(said)}: everybody who was being answered waited that "
        "long for the next token (decode beside a prefill)."
    )


def cpu_shares(used_s: dict[str, float], duration_s: float) -> str:
    """Which process used most of the CPU time of a run."""
    total, most = sum(used_s.values()), max(used_s, key=used_s.get)
    return (
        f"{total:.2f} CPU seconds in {duration_s:.2f} s; most of them, "
        f"{100 * used_s[most] / total:.0f} %, by: {most}."
    )


# --- reasons --------------------------------------------------------------------------------------


def why_little_differs(run: dict, inside_ms: float) -> str:
    """What lies between the clients' rate x latency and the mean of the readings, of one run.

    run: its metrics; inside_ms: the mean time of a request in the server, by the server's clock.
    """
    outside = run["e2e_ms_mean"] - inside_ms
    return (
        f"No reading sees a request on the way to the server and back: of "
        f"{run['e2e_ms_mean']:.0f} ms a request was in the server for {inside_ms:.0f}, and "
        f"{outside:.0f} ms outside. And at most {8 * run['duration_s']:.0f} readings of a number "
        "that changes with every request are a small sample."
    )


def why_server_differs(gain: Gain, used_s: dict[str, float], duration_s: float) -> str:
    """A few sentences on server / offline throughput, by how it came out.

    gain: of the server over the engine in the notebook. used_s: CPU seconds of each process
    (`experiments.cpu_seconds`); duration_s: of the same runs.
    """
    engine = 100 * used_s["engine"] / sum(used_s.values())
    cores = len(os.sched_getaffinity(0))
    if gain.verdict in ("same", "open"):
        why = "HTTP ran beside the engine, in other processes; what it cost is within the range."
    elif gain.verdict == "better":
        why = (
            "A server that is faster has turned tokens into text in another process, beside the "
            "next step; in the notebook one process does both in turn."
        )
    elif used_s["API server"] > 0.9 * duration_s:
        why = (
            f"The API server alone used {used_s['API server']:.1f} CPU seconds in "
            f"{duration_s:.1f} s: one process, and it filled its core, so the engine waited for "
            "it. `--api-server-count` starts more of them."
        )
    elif cores < len(used_s):
        why = (
            f"{len(used_s)} processes shared {cores} {'core' if cores == 1 else 'cores'}. The "
            "printed lines of both say whether TTFT grew (the requests come in one after another) "
            "or TPOT (the steps started later); the larger the model, the less either is."
        )
    else:
        why = "No process was short of a core: the requests waited on the way between them."
    return (
        f"The server against the notebook, three runs each: {gain.sentence()}. The engine used "
        f"{engine:.0f} % of the CPU time of these runs; the rest went into HTTP, JSON and events "
        f"on both sides. {why}"
    )


def trades(default: dict[str, list[float]], changed: dict[str, list[float]]) -> list[str]:
    """What the options that trade one wait for another gave and cost, with the measured ranges.

    default, changed: of `experiments.options`.
    """
    compared = experiments.ratios(default, changed)

    def differ(key: str) -> str:
        gain = compared[key]
        if gain.verdict == "better":
            return f"{gain.low:.2f} to {gain.high:.2f} times as long"
        if gain.verdict == "worse":
            return f"shorter, {gain.low:.2f} to {gain.high:.2f} times as long"
        if gain.undecided:
            before, after = (statistics.median(found[key]) for found in (default, changed))
            return f"this run cannot tell (medians {before:.3g} and {after:.3g} ms)"
        return gain.sentence("times as long")

    def again_as_fast(gain: Gain) -> str:
        return "this run cannot tell" if gain.undecided else gain.sentence()

    cached, again = (experiments.cache_gain(found) for found in (default, changed))
    without = again_as_fast(again)
    if again.verdict in ("better", "worse"):
        without += ", although nothing can act there: the machine was disturbed"
    return [
        f"Fewer sequences, and fewer tokens, at a time. TTFT: {differ('ttft_ms_p50')}; "
        f"TPOT: {differ('tpot_ms_p50')}.",
        f"Smaller batches of tokens. The longest gap of running streams: {differ('gap_ms')}; "
        f"the long prompt's TTFT: {differ('long_ttft_ms')}.",
        f"No prefix caching. The first token of a prompt that comes again: {without}; with "
        f"caching: {again_as_fast(cached)}.",
    ]


def how_it_stopped(report: StopReport) -> str:
    """What vLLM and this notebook did when a server without a shutdown timeout was stopped."""
    if report.how == "aborted" and report.exit_code == 128 + signal.SIGKILL:
        return (
            "vLLM ended its engine at once: that is its default, --shutdown-timeout 0. Its API "
            "server then waited for its clients to hang up, so the notebook killed it after "
            f"{report.seconds:.0f} s (exit code 137 = 128 + 9, SIGKILL)."
        )
    if report.how == "aborted":
        return (
            "vLLM gave up what was running, that is its default (--shutdown-timeout 0), and ended "
            f"by itself with exit code {report.exit_code}."
        )
    return (
        "The server had no requests left to give up: it stopped "
        f"{report.seconds:.1f} s after it was told to, exit code {report.exit_code}."
    )
