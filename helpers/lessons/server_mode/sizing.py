"""How much load to try in notebook 5, and what a server can take: knee, capacity, best rate."""

from __future__ import annotations

import math
from collections.abc import Iterator

from helpers.engine.profile import Profile

EACH = 8  # requests of every client of a closed loop
STEP, MOST_ABOVE = 1.3, 2  # of the rates that are to be too high
NEAR, LONGER = 0.5, 2  # From this share of what was answered a rate is tried for longer.
ENOUGH = 50  # requests: of fewer than 37 it may be chance that all meet a goal for 90 %
LONGEST = 5  # times the usual seconds, for so many requests at a low rate
CLOSE_ENOUGH = 1.33  # rates as near as this need none between them
LOWER_RATES = 3  # each half of the one before, when no rate met the goal


def clients_to_try(profile: Profile) -> list[int]:
    """Numbers of clients for a closed loop on this machine."""
    return [1, 8, 32, 64] if profile.name == "cpu" else [1, 8, 32, 64, 128]


def closed_loop_requests(clients: int, seconds: float, before: dict | None = None) -> int:
    """How many requests to measure `clients` clients with: 8 for each, fewer if that takes longer.

    before: the level before (`clients`, `requests_per_s`); the guess is that throughput grows with
    the root of the clients. Two for each client are the least: the first ones all begin at the same
    time. Every client sends as many, so that none is idle while the others end.
    """
    if before is None:
        return EACH * clients
    growth = math.sqrt(clients / before["clients"])
    in_time = int(seconds * before["requests_per_s"] * growth)
    return clients * max(2, min(EACH, in_time // clients))


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


def seconds_at(rate: float, answered_per_s: float, seconds: float) -> float:
    """How long to try a rate: longer near what was answered, where a server fills slowly.

    And at a low rate so long, up to LONGEST, that it is ENOUGH requests.
    """
    if rate > NEAR * answered_per_s:
        return LONGER * seconds
    return min(LONGEST * seconds, max(seconds, ENOUGH / rate))


def fell_behind(row: dict, places: int) -> bool:
    """Whether more requests came than a full server answers. row: of `run_load`, at a rate.

    A server that has just begun fills at any rate. Once all its places are taken it answers as
    fast as it can: a queue that is there at the last arrival, and has grown, came of the rate. By
    chance a number varies by about its root; twice that is allowed.
    """
    last = row["in_flight_last"]
    return last > places + 2 * math.sqrt(places) and last > row["in_flight_halfway"]


def capacity(rows: list[dict], places: int) -> tuple[float, float]:
    """(what the server can answer at least, the lowest rate at which it fell behind).

    In requests a second; infinity where it fell behind at no rate. The second can be the lower one:
    then the runs contradict each other.
    """
    low = max(row["requests_per_s"] for row in rows)
    lost = (row["arrived_per_s"] for row in rows if fell_behind(row, places))
    return low, min(lost, default=math.inf)


def rates_to_try(
    first: list[float], answered_per_s: float, rows: list[dict], share: float, places: int
) -> Iterator[float]:
    """The rates of `first`, one or two above what was answered, until the server falls behind.

    Then lower ones until `share` meet the goal, and one between the highest rate that met it and
    the next, if these are far apart. `rows` is to grow by a run for each.
    """
    yield from first
    for i in range(MOST_ABOVE):
        above = (row for row in rows if row["arrived_per_s"] > answered_per_s)
        if not any(fell_behind(row, places) for row in above):
            yield round(answered_per_s * STEP ** (i + 1), 1)
    for _ in range(LOWER_RATES):
        if best_rate(rows, share) is None:
            yield round(min(row["arrived_per_s"] for row in rows) / 2, 1)
    if best := best_rate(rows, share):
        met, missed = best["arrived_per_s"], next_above(rows, best["arrived_per_s"])
        if missed and missed["arrived_per_s"] > CLOSE_ENOUGH * met:
            yield round(math.sqrt(met * missed["arrived_per_s"]), 1)


def best_rate(rows: list[dict], share: float) -> dict | None:
    """The row with the highest rate of arrivals at which `share` of the requests met the goal.

    rows: arrived_per_s and good_share. None when no row has that share. Not the row with the most
    goodput: beyond capacity many answers are late, and those in time can still be more than at a
    rate that nearly all users are content with.
    """
    met = (row for row in rows if row["good_share"] >= share)
    return max(met, key=lambda row: row["arrived_per_s"], default=None)


def next_above(rows: list[dict], rate: float) -> dict | None:
    """The row with the lowest rate above this one; None without one."""
    above = (row for row in rows if row["arrived_per_s"] > rate)
    return min(above, key=lambda row: row["arrived_per_s"], default=None)


def copies(
    rows: list[dict], answered_per_s: float, target_per_s: float, share: float
) -> dict[str, float]:
    """Copies of the server for so many requests a second, and the rate that each of them takes.

    The rate is that of `best_rate`. What these runs decide is less, because chance moves a share of
    few requests (`narrow`): missed_per_s is the lowest rate above it at which the goal was missed
    by two standard errors (missed_share met it there), and least_copies would give each copy that
    rate; with by_chance (1.0), where the best rate itself may have met it by chance, safer_per_s is
    the highest rate below that met it by two. Each of them is there if such a rate was tried.
    Without a rate that met the goal, `answered_per_s` stands in, and there is no `good_share`.
    """
    best = best_rate(rows, share)
    rate = best["arrived_per_s"] if best else answered_per_s
    sized = {"arrivals_per_s": rate, "copies": math.ceil(target_per_s / rate)}
    if best is None:
        return sized
    sized |= {"good_share": best["good_share"], "goal_share": share}
    clear = [row for row in rows if not narrow(row, share)]
    if missed := next_above([row for row in clear if row["good_share"] < share], rate):
        sized |= {"missed_per_s": missed["arrived_per_s"], "missed_share": missed["good_share"]}
        sized["least_copies"] = math.ceil(target_per_s / missed["arrived_per_s"])
    if best not in clear:
        sized["by_chance"] = 1.0
        if safer := best_rate(clear, share):
            sized["safer_per_s"] = safer["arrived_per_s"]
    return sized


def narrow(row: dict, share: float) -> bool:
    """Whether the row's good_share is within two standard errors of `share`: chance may decide."""
    error = math.sqrt(share * (1 - share) / row["completed"])
    return abs(row["good_share"] - share) < 2 * error
