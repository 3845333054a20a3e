"""How much load to try in notebook 5, and which of its rates size a service."""

from __future__ import annotations

import math

from helpers.engine.profile import Profile

EACH = 8  # requests of every client of a closed loop


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


def record(held: dict | None, missed: dict | None) -> dict[str, float]:
    """The record of a service's size: the rate that held and the one that was missed, if any."""
    sized = {}
    if held:
        sized |= {"arrivals_per_s": held["arrived_per_s"], "good_share": held["good_share"]}
    if missed:
        sized |= {"missed_per_s": missed["arrived_per_s"], "missed_share": missed["good_share"]}
    return sized
