"""Sentences of notebook 5 that depend on what was measured: captions and reasons."""

from __future__ import annotations

import itertools
import math
import signal
import statistics

from helpers.display.numbers import number
from helpers.engine.steps import Steps
from helpers.lessons.server_mode import experiments, sizing
from helpers.server.load import LoadRun, Stream
from helpers.server.server import StopReport
from helpers.verdicts.gain import Gain

FULL = 0.9  # of a core
NOTABLE_MS = 20  # of waiting for a place: more than a step or two
BY_CHANCE = ", which may be chance"

# --- captions -------------------------------------------------------------------------------------


def startup(starts: list[tuple[str, dict[str, float], float]]) -> str:
    """Which phase took longest in each start: (where, seconds of the phases, of all)."""
    longest = [(of, max(phases, key=phases.get), phases, total) for of, phases, total in starts]
    said = [
        f"{of.partition(':')[0]}: of {total:.1f} s, {phases[name]:.1f} s were spent on: {name}."
        for of, name, phases, total in longest
    ]
    return " ".join(one[0].upper() + one[1:] for one in said)


def token_times(stream: Stream) -> str:
    """When the first chunk of a stream came, and how close the others were."""
    said = f"The first chunk came after {1e3 * stream.ttft_s:.0f} ms (TTFT)"
    if not stream.gaps_s:
        return f"{said}."
    middle_ms = 1e3 * statistics.median_high(stream.gaps_s)
    return f"{said}; half of the others came within {middle_ms:.1f} ms of the one before."


def closed_loop(rows: list[dict], where: str = "") -> str:
    """What the most clients got and waited, one run at each number, beside the fewest.

    rows: of plots.closed_loop. Disturbed runs are left out, as in the figure. where: the hollow
    points are from.
    """
    calm = sizing.undisturbed(rows)
    first, last = calm[0], calm[-1]
    gain = last["output_tokens_per_s"] / first["output_tokens_per_s"]
    wait = last["ttft_ms_p50"] / first["ttft_ms_p50"]
    said = (
        f"One run at each number of clients. With {last['clients']}, {gain:.1f} times the tokens "
        f"of {first['clients']}, and {wait:.1f} times its wait for the first token. Knee: most "
        "throughput / time of a whole answer."
    )
    if where:
        said += f" Hollow points: {where}."
    return said + _disturbed(rows, "clients", "clients", "line and knee are drawn")


def why_gain(runs: dict[int, list[dict]], clients: int) -> str:
    """Why `clients` clients get less than as many times the tokens of one, by `runs` of both."""

    def longer_by(key: str) -> float:
        alone, many = (statistics.mean(run[key] for run in runs[n]) for n in (1, clients))
        return many - alone

    longer, wait = longer_by("e2e_ms_mean"), longer_by("ttft_ms_mean")
    if longer < wait or wait < 0:
        return ""
    return (
        f"In these runs an answer took {longer:.0f} ms longer with {clients} clients than with one "
        f"(means), {wait:.0f} ms of it until the first token."
    )


def _disturbed(rows: list[dict], name: str, unit: str, drawn: str) -> str:
    """Which runs other programs disturbed, by their `name`; "" for none. drawn: without them."""
    hit = [number(row[name]) for row in rows if row["disturbed"]]
    if not hit:
        return ""
    which = "every run" if len(hit) == len(rows) else f"the runs with {', '.join(hit)} {unit}"
    said = f" The machine was disturbed in {which} (orange)"
    if len(sizing.undisturbed(rows)) < len(rows):
        return f"{said}: {drawn} without them."
    return f"{said}: run this again when nothing else runs."


def open_loop(rows: list[dict], goals_ms: dict) -> str:
    """The goal, and what to read from the figure; rows in the order of the rates."""
    said = (
        f"The goal is {limits(goals_ms)}. A run lasts until its last answer, so fewer are answered "
        "a second than arrive, even where the server keeps up."
    )
    for lower, higher in itertools.pairwise(rows):
        if lower["good_share"] < higher["good_share"]:
            said += (
                f" At {number(lower['arrived_per_s'])} a second fewer met it than at "
                f"{number(higher['arrived_per_s'])}: one run each cannot order the two."
            )
    return said + _disturbed(rows, "arrived_per_s", "arrivals a second", "the lines are drawn")


def at_rate(row: dict, places: int, answered_per_s: float) -> str:
    """How full the server was in a run at a rate, and what follows for the rate."""
    halfway, last = row["in_flight_halfway"], row["in_flight_last"]
    rate = row["arrived_per_s"]
    said = (
        f"{number(rate):>5}/s: in the server {halfway:.0f} halfway, {last:.0f} at the last arrival"
    )
    if sizing.fell_behind(row, places):
        return f"{said}: fell behind"
    return said + ": not too much, or too short to tell" * (rate > answered_per_s)


def capacity(rows: list[dict], places: int) -> str:
    """Between which rates the capacity lies, or that the runs do not agree. rows: of all rates."""
    low, high = sizing.capacity(rows, places)
    most = f"With open arrivals the server answered up to {number(low)} requests a second"
    if high == math.inf:
        return f"{most}, and fell behind at no rate tried: its capacity is at least that."
    lost = next(row for row in rows if row["arrived_per_s"] == high)
    behind = f"at {number(high)} arrivals a second it fell behind"
    if high <= low:
        return f"{most}; yet in another run {behind}. These runs do not agree."
    busy = ", while something else used the machine" * bool(lost.get("disturbed"))
    return f"{most}; {behind}{busy}. Its capacity lies between the two."


def limits(goals_ms: dict[str, float]) -> str:
    """Such as "TTFT 36 ms and TPOT 5 ms"."""
    return " and ".join(f"{name.upper()} {ms:g} ms" for name, ms in goals_ms.items())


def copies(sized: dict, target_per_s: float, goals_ms: dict[str, float]) -> list[str]:
    """How many copies, and on what that number rests. sized: of `sizing.copies`."""
    rate = number(sized["arrivals_per_s"])
    least = sized.get("least_copies", sized["copies"])
    span = f"{least} to " * (least < sized["copies"])
    needed = f"For {target_per_s:g} a second: {'{}'}{sized['copies']} copies, and one for restarts."
    if "good_share" not in sized:
        return [
            f"No rate met the goal ({limits(goals_ms)}): loosen it, or try lower RATES. "
            f"{rate} a second, which the server answered, is too much for it.",
            needed.format("more than "),
        ]
    chance = BY_CHANCE * ("by_chance" in sized)
    missed = ""
    if "missed_per_s" in sized:
        missed = f"; from {number(sized['missed_per_s'])} on too few did"
    return [
        f"In one run at {rate} arrivals a second {100 * sized['good_share']:.0f} % met the goal "
        f"({limits(goals_ms)}){chance}{missed}.",
        needed.format(span),
    ]


def goal(rows: list[dict], share: float, most_per_s: float) -> str:
    """Up to which rate of arrivals the goal held, and where goodput was highest.

    most_per_s: what the server answered at most (`sizing.capacity`).
    """
    best = sizing.best_rate(rows, share)
    if best is None:
        return f"No rate tried let {100 * share:.0f} % of the requests meet the goal."

    def met(row: dict) -> str:
        return f"{100 * row['good_share']:.0f} %{BY_CHANCE * sizing.narrow(row, share)}"

    said = (
        f"Of the rates tried, {number(best['arrived_per_s'])} a second is the highest at which at "
        f"least {100 * share:.0f} % met the goal: {met(best)}"
    )
    if missed := sizing.next_above(rows, best["arrived_per_s"]):
        part = 100 * missed["arrived_per_s"] / most_per_s
        said += (
            f". At {number(missed['arrived_per_s'])}, {part:.0f} % of the most answers a second, "
        )
        said += f"it was {met(missed)}"
    most = max(rows, key=lambda row: row["requests_per_s"])["arrived_per_s"]
    good = max(rows, key=lambda row: row["requests_per_s"] * row["good_share"])["arrived_per_s"]
    said += f". Goodput was highest at {number(good)} a second, answers at {number(most)}"
    return f"{said}, in one run each."


def why_peak(run: LoadRun, assumed: float, full_s: float) -> str:
    """What the formula for the peak of a queue assumes, beside what the clients saw.

    assumed: answers until the last arrival, of which the first comes after `full_s`.
    """
    sent = run.metrics["completed"] + run.metrics["failed"]
    answered, first_s = sent - run.metrics["in_flight_last"], run.answers[0]["latency_s"]
    return (
        f"The formula lets {assumed:.0f} be answered until the last request comes, the first after "
        f"{full_s:.2f} s. The clients counted {answered:.0f}, the first after {first_s:.2f} s. "
        "Those that wait were read up to eight times a second: the most may lie between readings."
    )


def overload(run: dict, readings: list[dict], goals_ms: dict[str, float]) -> str:
    """What an overload did. run: of `run_load`; readings: waiting."""
    most = max((row["waiting"] for row in readings), default=0)
    queued = f"up to {most:.0f} requests waited for a place in the batch"
    if not most:
        queued = "no reading found one that waited for a place in the batch"
    return (
        f"{number(run['arrived_per_s'])} requests arrived a second. {run['completed']:.0f} of "
        f"{run['completed'] + run['failed']:.0f} were answered, {number(run['requests_per_s'])} a "
        f"second until the last answer. In between {queued}.\n"
        f"{100 * run['good_share']:.0f} % met the goal ({limits(goals_ms)})."
    )


def arrivals(steps: Steps) -> str:
    """How many requests a recorded step worked for at most, and which one waited for a place."""
    most = max(len(step.work) for step in steps.steps)
    waits_s = [steps.queue_s(i) or 0.0 for i in range(len(steps.requests))]
    late = [i for i, wait_s in enumerate(waits_s) if 1000 * wait_s > NOTABLE_MS]
    first = f"Request {late[0]} is the first that" if late else "No request"
    return (
        f"Up to {most} of {len(steps.requests)} requests shared a step. {first} waited longer than "
        f"{NOTABLE_MS} ms for a place."
    )


def most_answers(steps: Steps, places: int, rate_per_s: float) -> str:
    """How many answers a second so many places give at most, by recorded requests; what arrives."""
    stays_s = []
    for i, request in enumerate(steps.requests):
        begun_s = request.arrival_s + (steps.queue_s(i) or 0.0)
        stays_s += [time_s - begun_s for time_s in steps.token_times_s(i)[-1:]]
    stay_s = statistics.mean(stays_s)
    return (
        f"A request keeps its place for {stay_s:.2g} s, so {places} places give at most "
        f"{places / stay_s:.3g} answers a second; {rate_per_s:.3g} arrive."
    )


def steps_with_prompts(steps: Steps) -> str:
    """How long steps took by the prompts they read: so long every stream waited."""
    took_ms: dict[str, list[float]] = {"no prompt": [], "one": [], "more": []}
    for step in steps.steps:
        read = [*took_ms][min(step.prompts, 2)]
        took_ms[read].append(1000 * (step.end_s - step.start_s))
    said = [
        f"{min(ms):.1f} to {max(ms):.1f} ms with {read} (median of {len(ms)}: "
        f"{statistics.median(ms):.1f})"
        for read, ms in took_ms.items()
        if ms
    ]
    return (
        f"A step took {', '.join(said)}: so long everybody who was being answered waited for the "
        "next token."
    )


def cpu_shares(used_s: dict[str, float], duration_s: float, requests: int) -> str:
    """The CPU time of each process for a request, and whether the API server filled its core."""
    each = ", ".join(f"{name} {1e3 * used / requests:.1f}" for name, used in used_s.items())
    said = f"CPU time of a request, in ms: {each}."
    if used_s["API server"] > FULL * duration_s:
        said += " The API server filled its core: `--api-server-count` starts more of them."
    return said


# --- reasons --------------------------------------------------------------------------------------


def why_little_differs(run: dict, inside_ms: float) -> str:
    """What lies between the clients' rate x latency and the mean of the readings, of one run.

    run: its metrics; inside_ms: the mean time of a request in the server, by the server's clock.
    """
    all_ms = run["e2e_ms_mean"]
    return (
        f"Of {all_ms:.0f} ms a request was {all_ms - inside_ms:.0f} on the way to and from the "
        f"server, where no reading sees it; and at most {8 * run['duration_s']:.0f} readings are a "
        "small sample."
    )


def why_server_differs(gain: Gain) -> str:
    """What three runs of the server say against three of the engine in the notebook, and do not."""
    return (
        f"Three runs each: {gain.sentence()}. The notebook's runs were over before the server "
        "started, so what the machine did in between is in this range, too."
    )


def limited(burst: dict[str, float]) -> str:
    """What a limit did to an overload. burst: of `experiments.burst`."""
    sent, limit, let_in = (burst[name] for name in ("sent", "limit", "let_in"))
    good, bad = (burst[name] for name in ("good_percent", "without_percent"))
    return (
        f"of {sent:.0f} requests, at twice the rate of the closed loop, a limit of {limit:.0f} let "
        f"{let_in:.0f} in, and {good:.0f} % of these met the goal; without a limit {bad:.0f} % did"
    )


def why_limited(run: dict[str, float], grown: dict[str, float]) -> str:
    """Where the first tokens of those that a limit let in spent their time.

    run: metrics of `run_load`; grown: those of the server (`experiments.growth`) meanwhile.
    """
    wait_ms, read_ms = (
        1000 * grown[f"request_{name}_time_seconds_sum"] / run["completed"]
        for name in ("queue", "prefill")
    )
    all_ms = run["ttft_ms_mean"]
    return (
        f"Of a mean TTFT of {all_ms:.0f} ms, {wait_ms:.0f} went by in the engine's queue, "
        f"{read_ms:.0f} in the steps that read the prompt, and the other "
        f"{all_ms - wait_ms - read_ms:.0f} outside the engine: clients and API server handled "
        f"{grown['admission_rejections']:.0f} refusals as well."
    )


def trades(ratios: dict[str, Gain]) -> str:
    """Which numbers grew by the changed options, which shrank, and what is open."""
    ways: dict[str, list[str]] = {}
    for name, ratio in ratios.items():
        span = experiments.span_of(ratio)
        said = experiments.VARYING[name] + f" ({span} times)" * bool(span)
        ways.setdefault(experiments.direction(ratio).capitalize(), []).append(said)
    return " ".join(f"{way}: {'; '.join(times)}." for way, times in ways.items())


def how_it_stopped(report: StopReport) -> str:
    """What vLLM and this notebook did when a server without a shutdown timeout was stopped."""
    if report.how == "aborted" and report.exit_code == 128 + signal.SIGKILL:
        return (
            f"vLLM ended the engine at once, with {report.requests_at_stop} requests in it (its "
            "default, --shutdown-timeout 0). The API server then waited for its clients to hang "
            f"up, until this notebook killed it after {report.seconds:.0f} s (exit code 137 = "
            "128 + 9, SIGKILL)."
        )
    if report.how == "aborted":
        return (
            "vLLM gave up what was running (its default, --shutdown-timeout 0) and ended by "
            f"itself, exit code {report.exit_code}."
        )
    return (
        "The server had no requests left to give up: it stopped "
        f"{report.seconds:.1f} s after it was told to, exit code {report.exit_code}."
    )
