"""Sentences of notebook 5 that depend on what was measured: captions and reasons."""

from __future__ import annotations

import math
import signal
import statistics

from helpers.display.numbers import number
from helpers.engine.steps import Steps
from helpers.lessons.server_mode import experiments, sizing
from helpers.measure import Measurement
from helpers.server.load import LoadRun, Stream
from helpers.server.server import StopReport
from helpers.verdicts.gain import Gain

HARDLY = 0.9  # An engine that computes for more of the time hardly waits.

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


def why_gain(rows: list[dict], clients: int) -> str:
    """Why `clients` clients get less than as many times the tokens of one, by the closed loop."""
    known = {row["clients"]: row for row in rows}
    if 1 not in known:
        return ""
    alone, many = known[1], known[clients]
    longer, wait = (many[key] - alone[key] for key in ("e2e_ms_mean", "ttft_ms_mean"))
    gain = many["output_tokens_per_s"] / alone["output_tokens_per_s"]
    return (
        f"In the figure, one run each, it is {gain:.2f}. There a whole answer took "
        f"{longer:.0f} ms longer with {clients} clients than with one: {wait:.0f} ms of it until "
        "the first token (the others' prompts are read too), the rest between the tokens."
    )


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


def open_loop(rows: list[dict], goals_ms: dict, share: float) -> str:
    """The goal, and how many requests met it at each rate; rows in the order of the rates."""
    met = [f"{100 * row['good_share']:.0f} % at {row['offered_per_s']:.4g}" for row in rows]
    said = f"The goal is {limits(goals_ms)}. It was met by {', '.join(met)} arrivals a second."
    if (best := sizing.best_rate(rows, share)) and any(
        row["good_share"] < share for row in rows[: rows.index(best)]
    ):
        said += (
            " Less load makes nobody wait longer: where fewer met it at a lower rate, something "
            "disturbed that run, or it was too short to tell."
        )
    return said + _disturbed(rows, "offered_per_s", "arrivals a second", "the lines are drawn")


def at_rate(row: dict, places: int, answered_per_s: float) -> str:
    """How full the server was in a run at a rate, and what follows for the rate."""
    halfway, last = row["in_flight_halfway"], row["in_flight_last"]
    rate = row["offered_per_s"]
    said = f"{rate:6.1f}/s: in the server {halfway:.0f} halfway, {last:.0f} at the last arrival"
    if sizing.fell_behind(row, places):
        return f"{said}: fell behind"
    return said + ": not too much, or too short to tell" * (rate > answered_per_s)


def capacity(rows: list[dict], closed_per_s: float, places: int) -> str:
    """Between which rates the capacity lies, or that the runs do not agree. rows: of all rates.

    closed_per_s: what the closed loop answered.
    """
    low, high = sizing.capacity(rows, closed_per_s, places)
    where = "in the closed loop"
    if low > closed_per_s:
        row = max(rows, key=lambda row: row["requests_per_s"])
        where = f"when {row['offered_per_s']:.4g} a second arrived"
    most = f"The server answered up to {low:.4g} requests a second ({where})"
    if high == math.inf:
        return f"{most}, and fell behind at no rate tried: its capacity is at least that."
    lost = next(row for row in rows if row["offered_per_s"] == high)
    behind = (
        f"at {high:.4g} arrivals a second it fell behind: {lost['in_flight_last']:.0f} requests "
        f"were in it at the last arrival, for {places} places"
    )
    if high <= low:
        return (
            f"{most}; yet in another run {behind}. These runs do not agree, so the capacity is "
            f"undecided between {high:.4g} and {low:.4g}: the machine was not equally fast in "
            "all of them."
        )
    busy = " Something else used the machine meanwhile: alone the server may do more."
    return (
        f"{most}; {behind}. Its capacity lies between the two.{busy * bool(lost.get('disturbed'))}"
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
        first += f"{rate} a second, which the server answered, is too much for it."
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


def goal(rows: list[dict], share: float, answered_per_s: float) -> str:
    """Up to which rate of arrivals the goal held, as a share of what the server answers."""
    best = sizing.best_rate(rows, share)
    if best is None:
        return f"No rate tried let {100 * share:.0f} % of the requests meet the goal."
    met, by_chance = best["offered_per_s"], ", which may be chance"

    def share_of(row: dict) -> str:
        percent = f"{100 * row['offered_per_s'] / answered_per_s:.0f} %"
        return f"{percent} of the {answered_per_s:.4g} that the server answered"

    said = (
        f"Of the rates tried, {met:.4g} arrivals a second were the most at which at least "
        f"{100 * share:.0f} % of the requests met the goal: {100 * best['good_share']:.0f} % did"
        f"{by_chance * sizing.narrow(best, share)}. That is {share_of(best)}."
    )
    if missed := sizing.next_above(rows, met):
        said += (
            f" At {missed['offered_per_s']:.4g} a second, {share_of(missed)}, "
            f"{100 * missed['good_share']:.0f} % met it{by_chance * sizing.narrow(missed, share)}."
        )
    return said


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
    """What an overload did. run: of `run_load`, and offered_per_s; readings: waiting."""
    most = max((row["waiting"] for row in readings), default=0)
    queued = f"up to {most:.0f} requests waited for a place in the batch"
    if not most:
        queued = "no reading found one that waited for a place in the batch"
    return (
        f"{run['offered_per_s']:.4g} requests arrived a second. {run['completed']:.0f} of "
        f"{run['completed'] + run['failed']:.0f} were answered, {run['requests_per_s']:.4g} a "
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


def cpu_shares(used_s: dict[str, float], duration_s: float) -> str:
    """The CPU seconds of each process in some runs, and whether the API server filled its core."""
    each = ", ".join(f"{name} {seconds:.2f}" for name, seconds in used_s.items())
    said = f"CPU seconds in these {duration_s:.2f} s: {each}."
    if used_s["API server"] > HARDLY * duration_s:
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


def why_server_differs(gain: Gain, alone: Measurement, served: LoadRun, steps: Steps) -> str:
    """A few sentences on server / offline throughput, by how it came out.

    gain: of the server over the engine in the notebook; alone and served: a run of each. steps:
    the server's in one more run of the same size.
    """
    said = f"The server against the notebook, three runs each: {gain.sentence()}."
    if gain.verdict == "same":
        return f"{said} What HTTP costs the throughput is within this range."
    if gain.verdict == "open":
        return f"{said} They did not take turns, so this run cannot tell what HTTP costs."
    there, here = served.metrics, alone.metrics
    times = [
        f"{what} {number(there[name])} ms against {number(here[name])}"
        for what, name in (
            ("TTFT", "ttft_ms_p50"),
            ("TPOT", "tpot_ms_p50"),
            ("a whole answer", "e2e_ms_p50"),
        )
    ]
    computing_s = sum(step.end_s - step.start_s for step in steps.steps)
    lasted_s = steps.steps[-1].end_s - steps.steps[0].start_s
    return (
        f"{said} Medians, the server's first: {', '.join(times)}. In one more run the server's "
        f"first step worked for {len(steps.steps[0].work)} of {len(steps.requests)} requests, "
        "because over HTTP they come one after another. Its engine "
        f"made {len(steps.steps)} steps, the notebook's {len(alone.timeline)}, and computed for "
        f"{100 * computing_s / lasted_s:.0f} % of the time between the first and the last."
        + " So it hardly waited for HTTP there."
        * (computing_s > HARDLY * lasted_s)
    )


def limited(m: dict[str, float]) -> str:
    """What a limit did to an overload. m: the record "burst"."""
    return (
        f"of {m['sent']:.0f} requests, at twice the rate of the closed loop, a limit of "
        f"{m['limit']:.0f} let {m['let_in']:.0f} in, and {m['good_percent']:.0f} % of these met "
        f"the goal; without a limit {m['without_percent']:.0f} % did"
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
        f"Fewer sequences at a time. TTFT: {differ('ttft_ms_p50')}; TPOT: {differ('tpot_ms_p50')}.",
        f"Smaller batches of tokens. The longest gap of running streams: {differ('gap_ms')}; "
        f"the long prompt's TTFT: {differ('long_ttft_ms')}.",
        f"No prefix caching. The first token of a prompt that comes again: {without}; with "
        f"caching: {again_as_fast(cached)}.",
    ]


def how_it_stopped(report: StopReport) -> str:
    """What vLLM and this notebook did when a server without a shutdown timeout was stopped."""
    if report.how == "aborted" and report.exit_code == 128 + signal.SIGKILL:
        return (
            "vLLM ended its engine at once: that is its default, --shutdown-timeout 0. No token "
            "came any more, and no stream was told: they hung, because the API server waited for "
            f"its clients to hang up. What ended them was the notebook, which killed it after "
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
