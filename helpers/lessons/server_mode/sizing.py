"""How much load to try in notebook 5, and what a server can take: the knee and the best rate."""

from __future__ import annotations

from helpers.engine.profile import Profile

EACH = 8  # requests of every client of a closed loop


def clients_to_try(profile: Profile) -> list[int]:
    """Numbers of clients for a closed loop on this machine."""
    return [1, 2, 4, 8, 16, 32, 64] if profile.name == "cpu" else [1, 8, 32, 64, 128, 256]


def closed_loop_requests(clients: int, seconds: float, before: dict | None = None) -> int:
    """How many requests to measure `clients` clients with: 8 for each, fewer if that takes longer.

    before: the level before (`clients`, `requests_per_s`); the guess is that throughput grows with
    the clients. Two for each client are the least: the first ones all begin at the same time.
    """
    if before is None:
        return EACH * clients
    in_time = int(seconds * before["requests_per_s"] * clients / before["clients"])
    return max(2 * clients, min(EACH * clients, in_time))


def knee(rows: list[dict]) -> dict:
    """The row with the highest power, requests_per_s / e2e_ms_mean: beyond it latency grows faster.

    Kleinrock, "Power and Deterministic Rules of Thumb for Probabilistic Problems in Computer
    Communications" (1979). Raises ValueError for no rows.
    """
    return max(rows, key=lambda row: row["requests_per_s"] / row["e2e_ms_mean"])


def best_rate(rows: list[dict], share: float) -> dict | None:
    """The row with the highest rate of arrivals at which `share` of the requests met the goal.

    rows: offered_per_s and good_share. None when no row has that share. Not the row with the most
    goodput: beyond capacity many answers are late, and those in time can still be more than at a
    rate that nearly all users are content with.
    """
    met = (row for row in rows if row["good_share"] >= share)
    return max(met, key=lambda row: row["offered_per_s"], default=None)
