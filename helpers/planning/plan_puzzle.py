"""Notebook 4's puzzles about plans: a decode step by hand, the cheapest plan for a goal."""

import random
from collections.abc import Iterator

from helpers.lessons.puzzles.check import Case, Puzzle, close

from .choose import Choice, choice_of, combinations
from .hardware import make_box
from .load import RequestMix
from .margins import CANNOT_TELL, KEEPS, tpot_range_ms
from .memory import EngineOptions
from .models import load_shape

# ---------------------------------------------------------------- a decode step by hand


def decode_step_s(W, cache, T, b, L, a, c):
    """Seconds of a decode step by the notebook's equation: bytes over bandwidth, and what stays.

    W, cache: bytes of weights and of KV cache that a step reads; b: bytes/s; a, c: seconds.
    """
    return (W + cache) / (T * b) + (2 * L + 1) * a + c


def _steps(draw: random.Random) -> Iterator[Case]:
    """Small numbers, where each part is seen, then real sizes."""
    by_hand = {"W": 80.0, "cache": 20.0, "T": 2, "b": 10.0, "L": 3, "a": 0.5, "c": 0.25}
    for left_out in ("a", "c", "cache", None):
        given = {name: 0.0 if name == left_out else value for name, value in by_hand.items()}
        yield Case(given, decode_step_s(**given))
    for _ in range(3):
        given = {
            "W": draw.uniform(1e9, 140e9),
            "cache": draw.uniform(1e8, 40e9),
            "T": draw.choice([1, 2, 4, 8]),
            "b": draw.uniform(0.5e12, 4e12),
            "L": draw.randrange(24, 96),
            "a": draw.uniform(5e-6, 60e-6),
            "c": draw.uniform(0.5e-3, 4e-3),
        }
        yield Case(given, decode_step_s(**given))


DECODE_STEP = Puzzle(
    "decode_step_s",
    "A decode step by hand",
    _steps,
    against="the equation",
    proved="T divides the bytes and nothing else: the all-reduces and the fixed costs stay, and "
    "the more GPUs there are, the more of a step they are.",
    where=("vllm/distributed/parallel_state.py", "GroupCoordinator.all_reduce"),
    hints=(
        "Each of the T GPUs reads its share of the weights and of the KV cache, at `b` bytes a "
        "second.",
        "Two all-reduces in each of the `L` layers and one after the embedding; `c` comes once.",
    ),
    same=close,
)


# ---------------------------------------------------------------- the cheapest plan for a goal

# What a GPU costs an hour, about; services draw their own prices around these.
PRICES = {"A100-SXM-80GB": 1.6, "H100-SXM": 2.6, "H200-SXM": 3.4, "L40S": 0.9}
FOR_RENT = 8  # GPUs of one kind
SERVICES = 3
OFFERED = 12  # plans of each

# Small numbers first: every reason to refuse a plan is there, and each refused one is cheaper.
HEADS = ("name", "gpus", "price_per_hour", "fits", "tpot_from", "tpot_to", "at_once")
BY_HAND = [
    dict(zip(HEADS, row, strict=False))
    for row in (
        ("A", 8, 1.0, True, 18, 24, 99),
        ("B", 2, 3.0, True, 27, 36, 80),
        ("C", 1, 4.0, True, 30, 39, 20),
        ("D", 1, 2.0, True, 52, 70, 70),
        ("E", 1, 5.0, True, 33, 47, 70),
        ("F", 8, 2.0, True, 17, 23, 99),
        ("G", 1, 1.5, False),
    )
]


def cheapest_plan(plans, users, goal_ms):
    """(name, verdict) of the cheapest plan that keeps the goal, else of one that may; None."""
    large = [plan for plan in plans if plan["fits"] and plan["at_once"] >= users]
    for end, verdict in (("tpot_to", KEEPS), ("tpot_from", CANNOT_TELL)):
        if good := [plan for plan in large if plan[end] <= goal_ms]:
            best = min(good, key=lambda plan: plan["gpus"] * plan["price_per_hour"])
            return best["name"], verdict
    return None


def _services(draw: random.Random) -> Iterator[Case]:
    """Services with other models, users, limits and prices."""
    plans = draw.sample(BY_HAND, len(BY_HAND))
    for goal_ms, spec in ((40, ("B", KEEPS)), (22, ("A", CANNOT_TELL)), (10, None)):
        yield Case({"plans": plans, "users": 64, "goal_ms": goal_ms}, spec)
    for _ in range(SERVICES):
        while (spec := cheapest_plan(**(asked := _draw(draw)))) is None:
            pass  # nothing on offer is good
        yield Case(asked, spec)


def _draw(draw: random.Random) -> dict:
    """What is asked for, and the plans that are offered for it, no two at the same price."""
    shape = load_shape(draw.choice(["Llama-3.1-70B", "Qwen2.5-72B", "Qwen2.5-32B", "Llama-3.1-8B"]))
    options = EngineOptions(max_model_len=draw.choice([4096, 8192, 16384]))
    users = draw.choice([16, 32, 64, 128])
    requests = RequestMix(draw.choice([512, 1024, 2048]), draw.choice([128, 256, 512]), users)
    by_price = {}
    for gpu, about in PRICES.items():
        price = round(about * draw.uniform(0.7, 1.4), 2)
        for layout in draw.sample(combinations(FOR_RENT), OFFERED // len(PRICES)):
            choice = choice_of(shape, make_box(gpu, FOR_RENT), layout, requests, options)
            by_price[price * choice.gpus] = offer(price, choice) | {
                "name": f"{choice.name()} on {gpu}"
            }
    offered = draw.sample(list(by_price.values()), len(by_price))
    return {"plans": offered, "users": users, "goal_ms": draw.choice([25.0, 40.0, 60.0])}


def offer(price: float, choice: Choice) -> dict:
    """A plan as the puzzle's function sees it. price: of a GPU for an hour."""
    plan = {"name": choice.short, "gpus": choice.gpus, "price_per_hour": price}
    plan["fits"] = choice.fits
    if choice.fits:
        plan["tpot_from"], plan["tpot_to"] = tpot_range_ms(choice)
        plan["at_once"] = choice.at_once
    return plan


CHEAPEST_PLAN = Puzzle(
    "cheapest_plan",
    "The cheapest plan that meets a goal",
    _services,
    against="the planner, which sized and timed all of these plans",
    proved="A limit first, then the price, and a range before a number: a plan that only may keep "
    "the limit is one to measure. vLLM takes the layout that you choose and chooses none for you.",
    where=("vllm/config/parallel.py", "ParallelConfig"),
    hints=(
        "Three conditions: it fits, `at_once` is at least `users`, and an end of its range is at "
        "most the goal. A plan that does not fit has no range, so ask for `fits` first.",
        "Look at `tpot_to` first: those within the goal are sure. Only where there is none, look "
        "at `tpot_from`.",
        "The price of an hour is `gpus * price_per_hour`. `min(good, key=...)` finds the cheapest; "
        "with an empty list it raises.",
    ),
)
