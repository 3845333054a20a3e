"""How much load to try in notebook 5, and what its verdicts say of the copies that a service needs.

A row of a rate has `run_load`'s metrics and "verdict": HELD, MISSED or CANNOT_TELL, which the
notebook's own rule gives it.
"""

from __future__ import annotations

import math

from helpers.engine.profile import Profile

EACH = 8  # requests of every client of a closed loop
HELD, MISSED, CANNOT_TELL = "held", "missed", "cannot tell"


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


def held_and_missed(rows: list[dict]) -> tuple[dict | None, dict | None]:
    """The row with the highest rate that held, and the lowest above it that missed; None for none.

    Not the row with the most goodput: beyond capacity many answers are late, and those in time can
    still be more than at a rate that nearly all users are content with.
    """

    def rate(row: dict) -> float:
        return row["arrived_per_s"]

    held = max((row for row in rows if row["verdict"] == HELD), key=rate, default=None)
    above = rate(held) if held else 0.0
    missed = (row for row in rows if row["verdict"] == MISSED and rate(row) > above)
    return held, min(missed, key=rate, default=None)


def copies(rows: list[dict], target_per_s: float) -> dict[str, float]:
    """Copies of the server for so many requests a second: the record of the sizing.

    copies: with arrivals_per_s for each, the highest rate that held (good_share met the goal there,
    of `requests`). least_copies: more than give each missed_per_s, the lowest rate above it that
    was missed. Each is there if there is such a rate.
    """
    held, missed = held_and_missed(rows)
    sized = {"needed_per_s": target_per_s}
    if held:
        rate = held["arrived_per_s"]
        sized |= {"arrivals_per_s": rate, "copies": math.ceil(target_per_s / rate)}
        sized |= {"good_share": held["good_share"], "requests": held["completed"]}
    if missed:
        rate = missed["arrived_per_s"]
        sized |= {"missed_per_s": rate, "missed_share": missed["good_share"]}
        sized["least_copies"] = math.floor(target_per_s / rate) + 1
    return sized
