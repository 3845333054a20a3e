"""Sentences of notebook 5 that depend on what was measured: captions and reasons."""

from __future__ import annotations

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
SURER = "by at least two standard errors"
NEAR = 0.05  # two rates that differ by less agree

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
    said = f"{1e3 * stream.ttft_s:.0f} ms until the first chunk (TTFT)"
    if not stream.gaps_s:
        return f"{said}."
    middle_ms = 1e3 * statistics.median_high(stream.gaps_s)
    return (
        f"{said}, then {len(stream.gaps_s)} chunks, half of them within {middle_ms:.1f} ms "
        f"of the one before, all within {1e3 * max(stream.gaps_s):.1f} ms."
    )


def closed_loop(rows: list[dict], knee: dict, where: str = "") -> str:
    """Where throughput was highest in one run each, what it cost the first token, and the knee.

    rows: of plots.closed_loop. Disturbed runs are left out, as in the figure. where: the hollow
    points are from.
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
    if where:
        said += f" Hollow points: {where}."
    return said + _disturbed(rows, "clients", "clients", "line and knee are drawn")


def why_gain(rows: list[dict], clients: int) -> str:
    """Why `clients` clients get less than as many times the tokens of one, by the closed loop."""
    known = {row["clients"]: row for row in rows}
    if 1 not in known:
        return ""
    alone, many = known[1], known[clients]
    longer, wait = (many[key] - alone[key] for key in ("e2e_ms_mean", "ttft_ms_mean"))
    gain = many["output_tokens_per_s"] / alone["output_tokens_per_s"]
    said = f"In the figure, one run each, it is {gain:.2f}."
    if longer < wait or wait < 0:
        return said
    return (
        f"{said} By the means of those runs (printed above are medians) a whole answer took "
        f"{longer:.0f} ms longer with {clients} clients than with one: {wait:.0f} ms of it until "
        "the first token (the others' prompts are read too), the rest between the tokens."
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


def open_loop(rows: list[dict], goals_ms: dict, share: float) -> str:
    """The goal, and how many requests met it at each rate; rows in the order of the rates."""
    met = [f"{100 * row['good_share']:.0f} % at {number(row['arrived_per_s'])}" for row in rows]
    said = (
        f"The goal is {limits(goals_ms)}. It was met by {', '.join(met)} arrivals a second. A run "
        "lasts until its last answer, when nothing arrives any more: so fewer are answered a "
        "second than arrive, even where the server keeps up."
    )
    if (best := sizing.best_rate(rows, share)) and any(
        row["good_share"] < share for row in rows[: rows.index(best)]
    ):
        said += (
            " Less load makes nobody wait longer: where fewer met it at a lower rate, something "
            "disturbed that run, or it was too short to tell."
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


def capacity(rows: list[dict], closed_per_s: float, places: int) -> str:
    """Between which rates the capacity lies, or that the runs do not agree. rows: of all rates.

    closed_per_s: what the closed loop answered.
    """
    low, high = sizing.capacity(rows, places)
    most = f"With open arrivals the server answered up to {number(low)} requests a second"
    if high == math.inf:
        return f"{most}, and fell behind at no rate tried: its capacity is at least that."
    lost = next(row for row in rows if row["arrived_per_s"] == high)
    behind = (
        f"at {number(high)} arrivals a second it fell behind: {lost['in_flight_last']:.0f} "
        f"requests were in it at the last arrival, for {places} places"
    )
    if high <= low:
        return (
            f"{most}; yet in another run {behind}. These runs do not agree, so the capacity is "
            f"undecided between {number(high)} and {number(low)}: the machine was not equally "
            "fast in all of them."
        )
    busy = " Something else used the machine meanwhile: alone the server may do more."
    kept = [row["arrived_per_s"] for row in rows if row["arrived_per_s"] < high]
    kept = f" At {number(max(kept))}, the highest rate tried below, it did not." if kept else ""
    closed = "lie inside" if low <= closed_per_s <= high else "lie outside"
    for end in (low, high):
        if abs(closed_per_s / end - 1) <= NEAR:
            closed = f"agree with the {number(end)} to within {100 * NEAR:.0f} %"
    return (
        f"{most}; {behind}.{kept} Its capacity lies between {number(low)} and {number(high)}. The "
        f"{number(closed_per_s)} of the closed loop, one run, {closed}."
        f"{busy * bool(lost.get('disturbed'))}"
    )


def limits(goals_ms: dict[str, float]) -> str:
    """Such as "TTFT 36 ms and TPOT 5 ms"."""
    return " and ".join(f"{name.upper()} {ms:g} ms" for name, ms in goals_ms.items())


def copies(sized: dict, target_per_s: float, goals_ms: dict[str, float]) -> list[str]:
    """How many copies, and on what that number rests. sized: of `sizing.copies`."""
    rate, count = sized["arrivals_per_s"], sized["copies"]
    if "good_share" not in sized:
        return [
            f"No rate met the goal ({limits(goals_ms)}): loosen it, or try lower RATES. "
            f"{number(rate)} a second, which the server answered, is too much for it.",
            f"For {target_per_s:g} a second: at least {count} copies, and one more for restarts.",
        ]
    lucky, known = "by_chance" in sized, []
    fewest = most = None
    if held := sized.get("safer_per_s") if lucky else rate:
        most = math.ceil(target_per_s / held)
        known.append(f"held at {number(held)}")
    if missed := sized.get("missed_per_s"):
        fewest = math.floor(target_per_s / missed) + 1
        known.append(f"was missed at {number(missed)}")
    number_of = _at_least_and_most(fewest, most) or f"{count} copies"
    if lucky and known:
        number_of += f" ({count} by the run at {number(rate)})"
    beyond = " and ".join(known) or "was neither held nor missed"
    return [
        f"At {number(rate)} arrivals a second {100 * sized['good_share']:.0f} % met the goal "
        f"({limits(goals_ms)}){BY_CHANCE * lucky}.",
        f"For {target_per_s:g} a second: {number_of}, and one more for restarts. In one run each, "
        f"the goal {beyond} {SURER}, counted as if requests were independent.",
    ]


def _at_least_and_most(fewest: int | None, most: int | None) -> str:
    """Copies between two numbers, of which either may be unknown; "" without both."""
    if fewest and most:
        return f"{fewest} to {most} copies" if fewest < most else f"{most} copies"
    if fewest:
        return f"at least {fewest} copies"
    return f"at most {most} copies" if most else ""


def goal(rows: list[dict], share: float, answered_per_s: float) -> str:
    """Up to which rate of arrivals the goal held, as a share of what the server answers."""
    best = sizing.best_rate(rows, share)
    if best is None:
        return f"No rate tried let {100 * share:.0f} % of the requests meet the goal."
    met = best["arrived_per_s"]

    def share_of(row: dict) -> str:
        percent = f"{100 * row['arrived_per_s'] / answered_per_s:.0f} %"
        return f"{percent} of the {number(answered_per_s)} that the server answered"

    said = (
        f"Of the rates tried, {number(met)} arrivals a second were the most at which at least "
        f"{100 * share:.0f} % of the requests met the goal: {100 * best['good_share']:.0f} % did"
        f"{BY_CHANCE * sizing.narrow(best, share)}. That is {share_of(best)}."
    )
    if missed := sizing.next_above(rows, met):
        said += (
            f" At {number(missed['arrived_per_s'])} a second, {share_of(missed)}, "
            f"{100 * missed['good_share']:.0f} % met it{BY_CHANCE * sizing.narrow(missed, share)}."
        )
    most = max(rows, key=lambda row: row["requests_per_s"])["arrived_per_s"]
    good = max(rows, key=lambda row: row["requests_per_s"] * row["good_share"])["arrived_per_s"]
    best_at = f"Goodput was highest at {number(good)} a second, the number of answers"
    return f"{said} {best_at} at {number(most)}."


def why_peak(run: LoadRun, assumed: float, full_s: float, places: int) -> str:
    """What the formula for the peak of a queue assumes, beside what the clients saw.

    assumed: answers until the last arrival, of which the first comes after `full_s`.
    """
    sent = run.metrics["completed"] + run.metrics["failed"]
    answered = sent - run.metrics["in_flight_last"]
    first_s = run.answers[0]["latency_s"]
    return (
        f"When the last request came, {answered:.0f} of {sent:.0f} had been answered by the "
        f"clients' count; the formula assumes {assumed:.0f}, the first of them after {full_s:.2f} "
        f"s. It came after {first_s:.2f} s. With all {places} places taken, "
        f"{max(0, sent - answered - places):.0f} were left to wait; the dashboard looks only 8 "
        "times a second."
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
    """How many requests a recorded step worked for at most, and how long they waited before."""
    most = max(len(step.work) for step in steps.steps)
    waits_s = [steps.queue_s(i) for i in range(len(steps.requests))]
    waits_ms = [1000 * wait for wait in waits_s if wait is not None]
    half, longest = (f"{ms:.1f}" for ms in (statistics.median(waits_ms), max(waits_ms)))
    waited = f"half of them waited {half} ms or less for a place"
    if late := [i for i, ms in enumerate(waits_ms) if ms > NOTABLE_MS]:
        waited += f"; the first to wait longer than {NOTABLE_MS} ms was request {late[0]}"
    if half == "0.0":
        waited = f"half of them did not wait for a place, the others up to {longest} ms"
    if longest == "0.0":
        waited = "nobody waited for a place"
    return f"up to {most} of {len(steps.requests)} requests shared a step; {waited}."


def budget(steps: Steps) -> str:
    """Whether the token budget of a step ever held the recorded requests back."""
    fullest = max(steps.steps, key=lambda step: step.tokens)
    if fullest.tokens < fullest.budget:
        used = f"No step used more than {fullest.tokens} of the {fullest.budget} tokens that it may"
        return f"{used}: the budget held nobody back, only places were short."
    return (
        f"The fullest step used all of its {fullest.budget} tokens: the budget was short as well."
    )


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
    outside = run["e2e_ms_mean"] - inside_ms
    return (
        f"No reading sees a request on the way to the server and back: of "
        f"{run['e2e_ms_mean']:.0f} ms a request was in the server for {inside_ms:.0f}, and "
        f"{outside:.0f} ms outside. And at most {8 * run['duration_s']:.0f} readings of a number "
        "that changes with every request are a small sample."
    )


def why_server_differs(gain: Gain) -> str:
    """What three runs of the server say against three of the engine in the notebook, and do not."""
    return (
        f"The server against the notebook, three runs each: {gain.sentence()}. The notebook's runs "
        "were over before the server started, so what HTTP costs and what the machine did in "
        "between are in this range together: no cost of HTTP can be read from it. The CPU times "
        "above are what the API server and the client take."
    )


def limited(*bursts: dict[str, float]) -> str:
    """What limits did to an overload. bursts: records "burst", one for each limit."""
    sent, without = (bursts[0][name] for name in ("sent", "without_percent"))
    said = f"of {sent:.0f} requests, at twice the rate of the closed loop, "
    for m in bursts:
        said += f"a limit of {m['limit']:.0f} let {m['let_in']:.0f} in, and "
        said += f"{m['good_percent']:.0f} % of these met the goal"
        said += f", {number(m['goodput_per_s'])} a second; "
    return f"{said}without a limit {without:.0f} % did"


def who_kept_the_promise(average: dict[str, float], most: dict[str, float]) -> str:
    """Whether a limit kept the promise to those it let in. average, most: as for `limited`."""
    kept = [m["limit"] for m in (average, most) if m["good_percent"] >= m["promised_percent"]]
    which = f"Only the limit of {kept[0]:.0f}" if kept else "Neither limit"
    which = "Each limit" if len(kept) == 2 else which
    return (
        f"{which} kept the promise, {average['promised_percent']:.0f} %, to those it "
        "let in. One run each makes neither of them the better one."
    )


def trades(default: dict[str, list[float]], changed: dict[str, list[float]]) -> list[str]:
    """What the options that trade one wait for another gave and cost, a sentence or two for each.

    default, changed: of `experiments.options`.
    """
    ratios = experiments.ratios(default, changed)
    times = zip(varying(ratios), ratios.values(), strict=True)
    said = [f"{what}: {ratio.sentence('times as long')}." for what, ratio in times]
    cached, again = (experiments.cache_gain(found) for found in (default, changed))
    without = again.sentence()
    if again.verdict in ("better", "worse"):
        without += ", although nothing can act there: the machine was disturbed"
    return [
        *(" ".join(of_an_option) for of_an_option in (said[:2], said[2:])),
        f"The first token of a prompt that comes again, with prefix caching: {cached.sentence()}; "
        f"without: {without}.",
    ]


def varying(ratios: dict[str, Gain]) -> list[str]:
    """What was timed for each of `experiments.ratios`, and with which option."""
    return [experiments.VARYING[name].removesuffix(" will be") for name in ratios]


def directions(ratios: dict[str, Gain]) -> str:
    """Which times are longer after the options were changed, which shorter, and what is open."""
    ways: dict[str, list[str]] = {}
    for what, ratio in zip(varying(ratios), ratios.values(), strict=True):
        ways.setdefault(experiments.direction(ratio).capitalize(), []).append(what)
    said = (f"{way}: {'; '.join(times)}." for way, times in ways.items())
    return f"{' '.join(said)} Each line is a range of 95 %."


def how_it_stopped(report: StopReport) -> str:
    """What vLLM and this notebook did when a server without a shutdown timeout was stopped."""
    if report.how == "aborted" and report.exit_code == 128 + signal.SIGKILL:
        return (
            "The engine did not wait for its requests: vLLM ended it at once, by default "
            "(--shutdown-timeout 0). No token came any more, and no stream was told: they hung, "
            "because the API server did wait, for its clients to hang up. What ended them was "
            f"the notebook, which killed it after {report.seconds:.0f} s (exit code 137 = 128 + "
            "9, SIGKILL)."
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
