"""How much load to try in notebook 5, and what a server can take: knee, capacity, best rate."""

from __future__ import annotations

import math
from collections.abc import Iterator

from helpers.engine.profile import Profile

EACH = 8  # requests of every client of a closed loop
# Times as long as the first third of the requests the last may wait. It waits 5 times as long in a
# queue that grows from the start (5/6 against 1/6 of it), and about as long where none grows.
KEEPS_UP = 3
NEAR = 0.25  # So near to that limit, as a share of it, the next run may come out the other way.
STEP, CLOSE_ENOUGH, MOST_RUNS = 1.16, 1.33, 8  # of the search for the capacity
LOWER_RATES = 3  # each half of the one before, when no rate met the goal


def clients_to_try(profile: Profile) -> list[int]:
    """Numbers of clients for a closed loop on this machine."""
    return [1, 8, 16, 32, 64] if profile.name == "cpu" else [1, 8, 32, 64, 128, 256]


def closed_loop_requests(clients: int, seconds: float, before: dict | None = None) -> int:
    """How many requests to measure `clients` clients with: 8 for each, fewer if that takes longer.

    before: the level before (`clients`, `requests_per_s`); the guess is that throughput grows with
    the root of the clients. Two for each client are the least: the first ones all begin at the same
    time.
    """
    if before is None:
        return EACH * clients
    growth = math.sqrt(clients / before["clients"])
    in_time = int(seconds * before["requests_per_s"] * growth)
    return max(2 * clients, min(EACH * clients, in_time))


def undisturbed(rows: list[dict]) -> list[dict]:
    """The rows whose "disturbed" is empty; all of them where fewer than two are so."""
    calm = [row for row in rows if not row["disturbed"]]
    return calm if len(calm) > 1 else rows


def knee(rows: list[dict]) -> dict:
    """The row with the highest power, requests_per_s / e2e_ms_mean: beyond it latency grows faster.

    Of the rows that are `undisturbed`. Kleinrock, "Power and Deterministic Rules of Thumb for
    Probabilistic Problems in Computer Communications" (1979). Raises ValueError for no rows.
    """
    return max(undisturbed(rows), key=lambda row: row["requests_per_s"] / row["e2e_ms_mean"])


def keeps_up(row: dict) -> bool:
    """Whether no queue grew: who came last did not wait much longer. row: of `run_load`."""
    return row["ttft_ms_last_third"] <= KEEPS_UP * row["ttft_ms_first_third"]


def capacity(rows: list[dict]) -> tuple[float, float]:
    """(the highest rate that the server kept up with, the lowest above it that it did not).

    In requests a second; 0 and infinity where no run says so.
    """
    low = max((row["offered_per_s"] for row in rows if keeps_up(row)), default=0.0)
    lost = (row["offered_per_s"] for row in rows if not keeps_up(row))
    return low, min((rate for rate in lost if rate > low), default=math.inf)


def next_rate(rows: list[dict], start: float) -> float | None:
    """The rate to try next on the way to the capacity; None when it is known well enough.

    rows: the runs so far. From `start`, which an overloaded server answered, up or down by STEP
    until one rate is kept up with and one is not; between the two where they are further apart.
    """
    low, high = capacity(rows)
    if len(rows) >= MOST_RUNS or (low and high / low <= CLOSE_ENOUGH):
        return None
    if high == math.inf:
        return start if low < start else low * STEP
    return math.sqrt(low * high) if low else high / STEP


def rates_to_try(
    first: list[float], start: float, rows: list[dict], share: float
) -> Iterator[float]:
    """The rates of `first`, those of `next_rate`, then lower ones until `share` meet the goal.

    The last one lies between the highest rate that met it and the next, if these are far apart.
    `rows` is to grow by a run for each.
    """
    yield from first
    while (rate := next_rate(rows, round(start, 1))) is not None:
        yield round(rate, 1)
    for _ in range(LOWER_RATES):
        if best_rate(rows, share) is None:
            yield round(min(row["offered_per_s"] for row in rows) / 2, 1)
    if best := best_rate(rows, share):
        met = best["offered_per_s"]
        missed = _next_above(rows, met)
        if CLOSE_ENOUGH * met < missed < math.inf:
            yield round(math.sqrt(met * missed), 1)


def best_rate(rows: list[dict], share: float) -> dict | None:
    """The row with the highest rate of arrivals at which `share` of the requests met the goal.

    rows: offered_per_s and good_share. None when no row has that share. Not the row with the most
    goodput: beyond capacity many answers are late, and those in time can still be more than at a
    rate that nearly all users are content with.
    """
    met = (row for row in rows if row["good_share"] >= share)
    return max(met, key=lambda row: row["offered_per_s"], default=None)


def _next_above(rows: list[dict], rate: float) -> float:
    """The lowest rate of the rows above this one; infinity without one."""
    above = (row["offered_per_s"] for row in rows if row["offered_per_s"] > rate)
    return min(above, default=math.inf)


def copies(
    rows: list[dict], kept_up_per_s: float, target_per_s: float, share: float
) -> dict[str, float]:
    """Copies of the server for so many requests a second, and the rate that each of them takes.

    The rate is that of `best_rate`; missed_per_s is the next one that was tried, if there is one:
    fewer copies may do. Where chance alone may have lifted it over the `share` of the goal,
    safer_per_s is the next lower rate that met it: more copies may be needed. Without a rate that
    met the goal, `kept_up_per_s` stands in, and there is no `good_share`.
    """
    best = best_rate(rows, share)
    rate = best["offered_per_s"] if best else kept_up_per_s
    sized = {"arrivals_per_s": rate, "copies": math.ceil(target_per_s / rate)}
    if best is None:
        return sized
    sized["good_share"] = best["good_share"]
    if (missed := _next_above(rows, rate)) < math.inf:
        sized["missed_per_s"] = missed
    below = [row for row in rows if row["offered_per_s"] < rate]
    if _by_chance(best, share) and (safer := best_rate(below, share)):
        sized["safer_per_s"] = safer["offered_per_s"]
    return sized


def _by_chance(row: dict, share: float) -> bool:
    """Whether the row's good_share is within two standard errors of `share`."""
    error = math.sqrt(share * (1 - share) / row["completed"])
    return row["good_share"] < share + 2 * error
