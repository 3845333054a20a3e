"""Sentences of notebook 5 that depend on what was measured: captions and reasons."""

from __future__ import annotations

import signal
import statistics
import textwrap

from helpers.display.live import View
from helpers.display.numbers import number
from helpers.engine.steps import Steps
from helpers.lessons.server_mode import experiments
from helpers.server.load import LoadRun, Stream
from helpers.server.server import StopReport
from helpers.verdicts.gain import Gain

FULL = 0.9  # of a core
NOTABLE_MS = 20  # of waiting for a place: more than a step or two
_WHO_WAITS = {
    "ttft_ms_p50": "the 10 for their first token",
    "tpot_ms_p50": "the 10 for each token after it",
    "gap_ms": "readers of a stream beside a long prompt",
    "long_ttft_ms": "the sender of that prompt",
    "again_x": "whoever sends a prompt again",
}

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

    rows: of plots.closed_loop. where: the hollow points are from.
    """
    first, last = rows[0], rows[-1]
    gain = last["output_tokens_per_s"] / first["output_tokens_per_s"]
    wait = last["ttft_ms_p50"] / first["ttft_ms_p50"]
    said = (
        f"One run at each number of clients. With {last['clients']}, {gain:.1f} times the tokens "
        f"of {first['clients']}, and {wait:.1f} times its wait for the first token."
    )
    if where:
        said += f" Hollow points: {where}."
    return said + _disturbed(rows)


def one_more_level(fewer: dict, more: dict) -> str:
    """What more clients of a closed loop added: tokens, and time of an answer."""
    tokens, time = (more[name] / fewer[name] for name in ("output_tokens_per_s", "e2e_ms_mean"))
    return (
        f"{fewer['clients']:>3} to {more['clients']:>3} clients: {tokens:.2f} times the tokens, "
        f"{time:.2f} times the time of an answer"
    )


def why_gain(runs: dict[int, list[dict]], clients: int) -> str:
    """Why `clients` clients get less than as many times the tokens of one, by `runs` of both."""

    def longer_by(key: str) -> float:
        alone, many = (statistics.mean(run[key] for run in runs[n]) for n in (1, clients))
        return many - alone

    said = f"The range (95 %) is that of {len(runs[1])} pairs in turn, not of the figure's runs."
    longer, wait = longer_by("e2e_ms_mean"), longer_by("ttft_ms_mean")
    if longer < wait or wait < 0:
        return said
    return (
        f"{said} In them an answer took {longer:.0f} ms longer with {clients} clients than with "
        f"one (means), {wait:.0f} ms of it until the first token."
    )


def shared_step(runs: dict[int, list[dict]], clients: int) -> str:
    """What a token cost alone and among others, by `runs` of both (medians of their TPOT p50)."""
    alone, many = (statistics.median(run["tpot_ms_p50"] for run in runs[n]) for n in (1, clients))
    said = f"TPOT was {alone:.1f} ms for one client and {many:.1f} ms for each of {clients}"
    return f"{said}, {many / alone:.2f} times as long"


def by_hand(command: str) -> str:
    """A command over several lines, as a shell takes it."""
    lines = textwrap.wrap(command, 84, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(lines)


def _disturbed(rows: list[dict]) -> str:
    """What the rings of a figure mean; "" where nothing was disturbed."""
    hit = any(row["disturbed"] for row in rows)
    return " Ringed: other programs disturbed the run." * hit


def open_loop(rows: list[dict], goals_ms: dict) -> str:
    """The goal, and what to read from the figure."""
    return (
        f"One run at each rate. The goal is {limits(goals_ms)}. A p90 below one of them says that "
        "90 % of this run met that one; the marks on top judge by both, and by what chance leaves "
        "open. A run lasts until its last answer, so fewer are answered a second than arrive, even "
        "where the server keeps up." + _disturbed(rows)
    )


def at_rate(row: dict, span: tuple[float, float], yours: float) -> str:
    """A rate's verdict, the share in time that it rests on, and goodput by two counts.

    span: the range of the share; yours: goodput by the puzzle's function.
    """
    low, high = (100 * max(0.0, share) for share in span)
    ours, theirs = f"{yours:.1f}/s", f"{row['goodput_per_s']:.1f}/s"
    by_benchmark = "as the benchmark counts" if ours == theirs else f"by the benchmark {theirs}"
    return (
        f"{number(row['arrived_per_s']):>4}/s: {100 * row['good_share']:3.0f} % of "
        f"{row['completed'] + row['failed']:3.0f} in time ({low:.0f} to {high:.0f} %): "
        f"{row['verdict']}. Goodput {ours}, {by_benchmark}"
    )


def goal(held: dict | None, missed: dict | None) -> str:
    """Up to which rate the goal held, and from which it was missed."""

    def met(row: dict) -> str:
        share = f"{100 * row['good_share']:.0f} %{_marked(row)}"
        return f"at {number(row['arrived_per_s'])} a second ({share})"

    said = f"The goal held {met(held)}" if held else "No run held the goal by this rule"
    above = " above that" * bool(held)
    said += f"; it was missed {met(missed)}" if missed else f"; no run{above} missed it"
    return f"{said}. One run each."


def tried(low: float | None, high: float | None) -> str:
    """At which rates, or shares of the capacity, the goal held and was missed, as tried."""
    held = f"held at {number(low)}" if low else "held at none tried"
    return f"{held}, missed at {number(high)}" if high else f"{held}, missed at none above"


def _marked(row: dict) -> str:
    return ", a disturbed run" if row.get("disturbed") else ""


def why_missed(missed: dict | None, goals_ms: dict[str, float]) -> str:
    """What the clients saw at the rate that missed the goal; "" without one."""
    if not missed:
        return ""
    return (
        f"At {number(missed['arrived_per_s'])} a second p90 was TTFT {missed['ttft_ms_p90']:.0f} "
        f"ms and TPOT {missed['tpot_ms_p90']:.1f} ms (goal: {limits(goals_ms)})."
    )


def limits(goals_ms: dict[str, float]) -> str:
    """Such as "TTFT 36 ms and TPOT 5 ms"."""
    return " and ".join(f"{name.upper()} {ms:g} ms" for name, ms in goals_ms.items())


def copies(
    ends: tuple[dict | None, dict | None],
    counts: tuple[int | None, int | None],
    target_per_s: float,
    goals_ms: dict[str, float],
) -> str:
    """How many copies, by which division. ends: the rates that held and that were missed."""

    def divided(row: dict) -> str:
        per_s = row["arrived_per_s"]
        return f"{target_per_s:g} / {number(per_s)} = {target_per_s / per_s:.1f}"

    (held, missed), (enough, least) = ends, counts
    said = [f"no run held the goal ({limits(goals_ms)}): how many are enough stays open"]
    if held:
        said = [
            f"{divided(held)}, so {enough} copies: {number(held['arrived_per_s'])} a second is the "
            f"highest rate that held ({100 * held['good_share']:.0f} % of {held['completed']:.0f} "
            f"within {limits(goals_ms)}{_marked(held)})"
        ]
    if missed:
        few = f", so {least - 1} are too few" * (least > 1)
        said.append(
            f"{divided(missed)}{few}: at {number(missed['arrived_per_s'])} a second it was missed "
            f"({100 * missed['good_share']:.0f} %{_marked(missed)})"
        )
    said = "; ".join(said)
    return f"{said[0].upper()}{said[1:]}."


def plan(enough: int | None, least: int | None) -> str:
    """How many copies to plan. enough: by the rate that held; least: by the one that missed."""
    few = f"{least - 1} are too few" if least and least > 1 else "no number is known to be too few"
    if enough is None:
        return f"it is open how many copies are enough, and {few}"
    return f"{enough} copies are enough by these runs, so plan {enough}; {few}"


def why_peak(run: LoadRun, view: View, assumed: float) -> str:
    """What the formula for the peak of a queue assumes, beside what clients and engine counted.

    assumed: answers until the last arrival.
    """
    sent, inside = (run.metrics["completed"] + run.metrics["failed"]), run.metrics["in_flight_last"]
    said = (
        f"The formula lets {assumed:.0f} be answered when the last request is sent (the dashed "
        f"line), and all others be in the engine. The clients counted {sent - inside:.0f} answers "
        f"by then, so {inside:.0f} were under way."
    )
    read = view.before(run.last_sent_s)
    if read and (outside := inside - read["running"] - read["waiting"]) > 0:
        said += (
            f" The last reading before found {read['running']:.0f} running and "
            f"{read['waiting']:.0f} waiting. The other {outside:.0f} were on their way to the "
            "engine or back, or were sent after it: the queue could still grow."
        )
    return said


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


def first_to_wait(steps: Steps) -> int | None:
    """The first request that waited longer than NOTABLE_MS for a place; None: none did."""
    waits_ms = (1000 * (steps.queue_s(i) or 0.0) for i in range(len(steps.requests)))
    return next((i for i, ms in enumerate(waits_ms) if ms > NOTABLE_MS), None)


def arrivals(steps: Steps) -> str:
    """How many requests a recorded step worked for at most, and which one waited for a place."""
    most = max(len(step.work) for step in steps.steps)
    late = first_to_wait(steps)
    first = "No request" if late is None else f"Request {late} is the first that"
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
    took_ms: dict[str, list[float]] = {"no prompt": [], "one": []}
    shared = []
    for step in steps.steps:
        ms = 1000 * (step.end_s - step.start_s)
        if step.prompts < 2:
            took_ms[[*took_ms][step.prompts]].append(ms)
        else:
            read = ", ".join(f"{i}" for i, work in step.work.items() if work.prefill)
            shared.append((ms, f"with those of requests {read}"))
    said = [
        f"{min(ms):.1f} to {max(ms):.1f} ms with {read} (n = {len(ms)})"
        for read, ms in took_ms.items()
        if ms
    ]
    if shared:
        ms, read = max(shared)
        said.append(f"{ms:.1f} ms {read}" + f" (the longest of {len(shared)})" * (len(shared) > 1))
    return (
        f"A step took {', '.join(said)}: so long everybody who was being answered waited "
        "for the next token."
    )


def cpu_shares(used_s: dict[str, float], duration_s: float, requests: int) -> str:
    """The CPU time of each process for a request, and which of them filled a core."""
    each = ", ".join(f"{name} {1e3 * used / requests:.1f}" for name, used in used_s.items())
    cores = {name: used / duration_s for name, used in used_s.items()}
    shares = ", ".join(f"{name} {100 * busy:.0f} %" for name, busy in cores.items())
    said = f"CPU time of a request, in ms: {each}. Of one core that is: {shares}. "
    if cores["API server"] > FULL:
        return f"{said}The API server filled its core: `--api-server-count` starts more of them."
    if cores["engine"] > FULL:
        return (
            f"{said}The engine kept a core busy nearly all the time, so it set the pace; the "
            "API server did not, and worked beside it."
        )
    return f"{said}Neither the API server nor the engine filled a core."


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
        f"Three runs each: {gain.sentence()}. The range (95 %) knows only how the three differ "
        "among themselves. The notebook's were over before the server started: if the machine had "
        "become faster or slower by then, the range would not tell."
    )


def limited(burst: dict[str, float]) -> str:
    """What a limit did to an overload. burst: of `experiments.burst`."""
    sent, limit, let_in = (burst[name] for name in ("sent", "limit", "let_in"))
    good, bad = (burst[name] for name in ("good_percent", "without_percent"))
    goodput, before = (burst[name] for name in ("goodput_per_s", "without_goodput_per_s"))
    return (
        f"of {sent:.0f} requests, at twice the capacity, a limit of {limit:.0f} let "
        f"{let_in:.0f} in, and {good:.0f} % of these met the goal; without a limit {bad:.0f} % did "
        f"(goodput {number(goodput)} against {number(before)}/s)"
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
        f"Of a client's mean TTFT of {all_ms:.0f} ms, {wait_ms:.0f} went by in the engine's queue, "
        f"{read_ms:.0f} in the steps that read the prompt, and {all_ms - wait_ms - read_ms:.0f} "
        "outside the engine; where there, was not measured."
    )


def one_goal_only(by_ttft: list[int], by_tpot: list[int]) -> str:
    """Which arrivals of an overload, counted from 1, met the goal for TTFT, for TPOT, and both."""
    ttft, tpot = (
        f"{len(met)}"
        + (f" (the middle one was arrival {statistics.median_low(met)})" if met else "")
        for met in (by_ttft, by_tpot)
    )
    both = len({*by_ttft} & {*by_tpot})
    return f"Without a limit {ttft} were in time by TTFT, {tpot} by TPOT, and {both} by both."


def stopped_for(gap_ms: float, long_ms: float) -> str:
    """How long a stream stopped for a long prompt, as a part of that prompt's TTFT."""
    said = f"The stream stopped for {gap_ms:.0f} ms at most; the first token of the long prompt "
    said += f"came after {long_ms:.0f} ms"
    if gap_ms >= long_ms:
        return f"{said}, sooner than the stream went on."
    outside_ms = long_ms - gap_ms
    share = 100 * outside_ms / long_ms
    return f"{said}: {outside_ms:.0f} ms of these ({share:.0f} %) lie outside the stop."


def with_places(few: LoadRun, many: LoadRun, places: tuple[int, int]) -> str:
    """The clients' TTFT and TPOT of the same arrivals with few and with many places."""
    seen = [
        f"TTFT {run.metrics['ttft_ms_p90']:.0f} ms, TPOT {run.metrics['tpot_ms_p90']:.1f} ms"
        for run in (few, many)
    ]
    return (
        f"p90 of the 16 at their clients, one run each: with {places[0]} places and 256 tokens a "
        f"step {seen[0]}; with {places[1]} places {seen[1]}."
    )


def ends(rows: list[dict], report: StopReport) -> str:
    """How the streams of a stopped server ended for their clients. rows: of `experiments.seen`."""
    streams = [row for row in rows if row["client"] != "latecomer"]
    complete = sum(row["outcome"] == "complete" for row in streams)
    said = f"{complete} of {len(streams)} streams were complete."
    cut = [row for row in streams if row["outcome"].startswith("ended by")]
    if cut and not any(row["client library says"] for row in cut):
        said += (
            f" {len(cut)} {cut[0]['outcome']} (their finish_reason), and the client library "
            "reported no error: only that word tells a cut answer from a whole one."
        )
    if broken := sum(row["outcome"] == "broken off" for row in streams):
        said += f" {broken} broke off with an error of the client library."
    ended = [row for row in streams if row["outcome"] != "complete" and row["chunks received"]]
    if ended:
        late_ms = sorted(1e3 * (row["ended after s"] - row["last chunk after s"]) for row in ended)
        if report.exit_code == 128 + signal.SIGKILL and late_ms[-1] > 500 * report.seconds:
            return (
                f"{said} After the last chunk nothing came for up to {late_ms[-1] / 1000:.1f} s, "
                "until this notebook's kill: a client needs a read timeout of its own."
            )
        said += f" The clients knew {late_ms[0]:.0f} to {late_ms[-1]:.0f} ms after the last chunk."
    return said


def trades(ratios: dict[str, Gain]) -> str:
    """Who waits less with the changed options, and who instead, where the range decides."""
    longer, shorter, _ = experiments.DIRECTIONS
    ways: dict[str, list[str]] = {longer: [], shorter: []}
    for name, who in _WHO_WAITS.items():
        ways.setdefault(experiments.direction(ratios[name]), []).append(who)
    less, more = ("; ".join(ways[way]) or "nobody" for way in (shorter, longer))
    return f"Who waits less, by these ranges: {less}. Who waits longer instead: {more}."


def how_it_stopped(report: StopReport) -> str:
    """What vLLM and this notebook did when a server without a shutdown timeout was stopped."""
    if report.how != "aborted" or report.exit_code != 128 + signal.SIGKILL:
        return f"The server {report}."
    return (
        f"vLLM ended the engine at once, with {report.requests_at_stop} requests in it (its "
        "default, --shutdown-timeout 0). The API server did not end by itself: this notebook "
        f"killed it {report.seconds:.1f} s after it was told to (exit code 137 = 128 + 9, SIGKILL)."
    )
