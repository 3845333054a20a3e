"""Measure settings in turn, A B A B ..., until the answer is plain or the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable

from helpers.verdicts.gain import LEAST_VALUES, Gain, gain_of_pairs

MOST_ROUNDS = 9


def in_turn(
    settings: dict[str, Callable[[], float]], plain: str, better: str, budget_s: float
) -> tuple[dict[str, Gain], dict[str, list[float]]]:
    """Compare each setting with `plain`; returns (gains, values), both by the setting's name.

    settings: a function each that measures once and returns a positive number. better: "higher" or
    "lower" numbers are good. Three rounds are always run; further ones, of those settings whose
    verdict is open, while a round like the last still fits `budget_s` seconds, at most
    MOST_ROUNDS in all. Every other round runs backwards, so that no setting is always the first.
    """
    values: dict[str, list[float]] = {name: [] for name in settings}
    pairs: dict[str, list[tuple[float, float]]] = {n: [] for n in settings if n != plain}
    gains: dict[str, Gain] = {}
    begin = time.perf_counter()
    still_open = list(settings)
    for number in range(MOST_ROUNDS):
        start = time.perf_counter()
        order = still_open if number % 2 == 0 else still_open[::-1]
        seen = {name: settings[name]() for name in order}
        for name, value in seen.items():
            values[name].append(value)
            if name != plain:
                pairs[name].append((seen[plain], value))
        if number + 1 < LEAST_VALUES:
            continue
        gains |= {n: gain_of_pairs(pairs[n], better) for n in seen if n != plain}
        still_open = [n for n in settings if n == plain or not gains[n].decided]
        now = time.perf_counter()
        if len(still_open) == 1 or now - begin + (now - start) > budget_s:
            break
    return gains, values
