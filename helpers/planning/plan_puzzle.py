"""The puzzle of notebook 4: the cheapest plan that meets a goal, judged by the planner's plans."""

import random
from collections.abc import Iterator

from helpers.lessons.puzzles.check import Case, Puzzle

from .choose import Choice, Goal, rank
from .exercise import FOR_RENT, Task, variant
from .hardware import make_box
from .load import RequestMix
from .memory import EngineOptions
from .models import load_shape

SERVICES = 3
OFFERED = 12  # plans of each

# Small numbers first: every reason to refuse a plan is there, and each refused one is cheaper.
BY_HAND = [
    {"name": "A", "gpus": 8, "price_per_hour": 1.0, "fits": True, "tpot_ms": 20, "at_once": 99},
    {"name": "B", "gpus": 2, "price_per_hour": 3.0, "fits": True, "tpot_ms": 30, "at_once": 80},
    {"name": "C", "gpus": 1, "price_per_hour": 4.0, "fits": True, "tpot_ms": 35, "at_once": 20},
    {"name": "D", "gpus": 1, "price_per_hour": 2.0, "fits": True, "tpot_ms": 60, "at_once": 70},
    {"name": "E", "gpus": 1, "price_per_hour": 1.5, "fits": False},
]


def _services(draw: random.Random) -> Iterator[Case]:
    """Services with other models, users, limits and prices; the second one nobody can offer."""
    plans = draw.sample(BY_HAND, len(BY_HAND))
    yield Case({"plans": plans, "users": 64, "goal_ms": 40}, "B")
    for number in range(SERVICES):
        task = variant(draw.randrange(1, 10**6))
        if number == 0:
            yield _case(task, 0.01, draw)
        yield _case(task, task.tpot_ms, draw)


def _case(task: Task, tpot_ms: float, draw: random.Random) -> Case:
    """Some of the planner's plans, no two at the same price; which ones are good, it says too."""
    shape, options = load_shape(task.model), EngineOptions(max_model_len=task.max_model_len)
    workload = RequestMix(task.input_tokens, task.output_tokens, task.users)
    by_price = {}
    for gpu, price in task.prices.items():
        ranked = rank(shape, make_box(gpu, FOR_RENT), workload, options, Goal(tpot_ms=tpot_ms))
        for choice in ranked.choices:
            by_price.setdefault(price * choice.gpus, (_plan(gpu, price, choice), choice.meets))
    offered = draw.sample(sorted(by_price), min(OFFERED, len(by_price)))
    good = [price for price in offered if by_price[price][1]]
    plans = [by_price[price][0] for price in offered]
    cheapest = by_price[min(good)][0]["name"] if good else None
    return Case({"plans": plans, "users": task.users, "goal_ms": tpot_ms}, cheapest)


def _plan(gpu: str, price: float, choice: Choice) -> dict:
    name = f"{choice.name()} on {gpu}"
    plan = {"name": name, "gpus": choice.gpus, "price_per_hour": price, "fits": choice.fits}
    if choice.fits:
        tpot_ms = choice.prediction.tpot_s * 1e3
        plan |= {"tpot_ms": tpot_ms, "at_once": choice.at_once}
    return plan


CHEAPEST_PLAN = Puzzle(
    "cheapest_plan",
    "The cheapest plan that meets a goal",
    _services,
    against="the planner, which sized and timed all of these plans",
    proved="A limit first, then the price: neither the fastest plan nor the cheapest GPU is the "
    "answer by itself. vLLM takes the layout that you choose and does not choose one for you.",
    where=("vllm/config/parallel.py", "ParallelConfig"),
    hints=(
        "Three conditions: it fits, its `tpot_ms` is at most the goal, and `at_once` is at least "
        "`users`. A plan that does not fit has no `tpot_ms`, so ask for `fits` first.",
        "The price of an hour is `gpus * price_per_hour`.",
        "`min(good, key=...)` finds the cheapest; with an empty list it raises, so return None "
        "before.",
    ),
)
