"""Measure settings in turn, A B A B ..., until the answer is plain or the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from helpers.verdicts.gain import LEAST_VALUES, Gain, gain_of_pairs

MOST_ROUNDS = 9
Run = TypeVar("Run")


def rounds(enough: Callable[[], bool], budget_s: float) -> Iterator[int]:
    """The numbers of the rounds, as many as there shall be.

    Three always; further ones while `enough` does not hold and a round like the last still fits
    `budget_s` seconds, at most MOST_ROUNDS in all.
    """
    begin = time.perf_counter()
    for number in range(MOST_ROUNDS):
        start = time.perf_counter()
        yield number
        now = time.perf_counter()
        late = now - begin + (now - start) > budget_s
        if number + 1 >= LEAST_VALUES and (late or enough()):
            return


def median_run(runs: list[Run], value: Callable[[Run], float]) -> Run:
    """The run whose value lies in the middle; of two the lower one."""
    return sorted(runs, key=value)[(len(runs) - 1) // 2]


def in_turn(
    settings: dict[str, Callable[[], float]], plain: str, better: str, budget_s: float
) -> tuple[dict[str, Gain], dict[str, list[float]]]:
    """Compare each setting with `plain`; returns (gains, values), both by the setting's name.

    settings: a function each that measures once and returns a positive number. better: "higher" or
    "lower" numbers are good. After the three rounds that are always run, only settings whose
    verdict is open are measured again; see `rounds`. Every other round runs backwards, so that no
    setting is always the first.
    """
    values: dict[str, list[float]] = {name: [] for name in settings}
    pairs: dict[str, list[tuple[float, float]]] = {n: [] for n in settings if n != plain}
    gains: dict[str, Gain] = {}

    def still_open() -> list[str]:
        decided = [name for name, gain in gains.items() if gain.decided]
        return [name for name in settings if name not in decided]

    for number in rounds(lambda: still_open() == [plain], budget_s):
        order = still_open() if number % 2 == 0 else still_open()[::-1]
        seen = {name: settings[name]() for name in order}
        for name, value in seen.items():
            values[name].append(value)
            if name != plain:
                pairs[name].append((seen[plain], value))
                gains[name] = gain_of_pairs(pairs[name], better)
    return gains, values
