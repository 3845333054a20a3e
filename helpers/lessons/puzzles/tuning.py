"""Puzzle: which max_num_seqs is kept for a goal, of those that were measured in turn."""

from __future__ import annotations

import random
from collections.abc import Iterator

from helpers.lessons.puzzles.check import Case, Puzzle

VARY = 1.1  # drawn values differ beyond what runs vary from this ratio on


def best_for(goal: float, price: dict[int, float], faster: set[tuple[int, int]]) -> int | None:
    """The value that is kept: the first that meets the goal, until one that does is faster."""
    best = None
    for value in price:
        if price[value] <= goal and (best is None or (value, best) in faster):
            best = value
    return best


def _measured(draw: random.Random) -> Iterator[Case]:
    """By hand each part of the rule, then values with a price and a speed."""
    price = {32: 4.0, 1: 1.0, 4: 1.25, 16: 2.5}
    all_faster = {(32, 1), (32, 4), (32, 16), (16, 1), (16, 4), (4, 1)}
    for goal in (5.0, 4.0, 3.0, 1.5, 1.0):
        yield _case(goal, price, all_faster)
    yield _case(5.0, price, {(16, 32), (16, 1), (16, 4), (32, 1), (4, 1)})
    # 4 is faster than 1; 16 is faster than 1, not than 4: nothing to choose it by.
    yield _case(3.0, price, {(4, 1), (16, 1), (32, 1)})
    # 16 wins most pairs, yet not the one against 32, whose runs vary more.
    yield _case(5.0, price, {(32, 1), (16, 1), (16, 4), (4, 1)})
    yield _case(5.0, price, set())
    for _ in range(20):
        values = sorted(draw.sample([2, 4, 8, 16, 32, 64, 128], 4))
        prices = sorted(draw.uniform(1, 5) for _ in values)
        speed = {1: 1.0, **{value: draw.uniform(1, 4) for value in values}}
        price = {values[-1]: prices[-1], 1: 1.0, **dict(zip(values, prices, strict=True))}
        pairs = {(a, b) for a in speed for b in speed if speed[a] > VARY * speed[b]}
        yield _case(draw.uniform(1, 5), price, pairs)


def _case(goal: float, price: dict, faster: set) -> Case:
    given = {"goal": goal, "price": price, "faster": faster}
    return Case(given, best_for(**given))


BEST_FOR = Puzzle(
    "best_for",
    "The best value for a goal",
    _measured,
    against="the rule",
    proved="A larger number is no reason to change: a difference that comes again is. vLLM draws "
    "the points of a sweep and leaves the choice to you.",
    where=("vllm/benchmarks/sweep/plot_pareto.py", "plot_pareto"),
    hints=(
        "Go through `price` in its order and remember the best so far, None at first.",
        "A value that does not meet the goal is passed over: `price[value] <= goal`.",
        "The first that meets it is taken. A later one takes its place only if "
        "`(value, best) in faster`.",
    ),
)
