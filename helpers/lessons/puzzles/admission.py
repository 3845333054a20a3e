"""Puzzle: how many requests a server may let in; counting who is inside in made-up runs answers."""

from __future__ import annotations

import random
from collections.abc import Iterator

from helpers.lessons.puzzles.check import Case, Puzzle


def _servers(draw: random.Random) -> Iterator[Case]:
    """A fuller run that missed, none that held, a nearly empty one, then many."""
    for known in (
        ((3.4, "held"), (9.6, "missed")),
        ((5.5, "missed"), (2.3, "cannot tell")),
        ((0.6, "held"),),
        ((7.6, "held"), (2.5, "held"), (7.9, "cannot tell")),
    ):
        yield _server(draw, known)
    for _ in range(20):
        means = [draw.randrange(25) + draw.uniform(0.2, 0.8) for _ in range(draw.randrange(2, 5))]
        yield _server(draw, [(m, draw.choice(("held", "missed", "cannot tell"))) for m in means])


def _server(draw: random.Random, known: list[tuple[float, str]]) -> Case:
    runs, inside = [], [1.0]
    for mean, verdict in known:
        requests = _requests(draw, mean)
        runs.append({**_seen(requests), "verdict": verdict})
        if verdict == "held":
            inside.append(_inside(requests))
    return Case({"runs": runs}, int(max(inside)))


def _requests(draw: random.Random, mean: float) -> list[tuple[float, float]]:
    """When 50 requests came and left, so that about `mean` of them were inside."""
    came_s = sorted(draw.uniform(0, 5) for _ in range(50))
    stay_s = [draw.uniform(0.5, 1.5) for _ in came_s]
    low, high = 0.0, 1e6
    for _ in range(60):
        scale = (low + high) / 2
        requests = [(a, a + scale * b) for a, b in zip(came_s, stay_s, strict=True)]
        low, high = (scale, high) if _inside(requests) < mean else (low, scale)
    return requests


def _inside(requests: list[tuple[float, float]]) -> float:
    """How many are inside on average until the last one leaves, counted from move to move."""
    moves = sorted([(came, 1) for came, _ in requests] + [(left, -1) for _, left in requests])
    inside = counted = last_s = 0.0
    for t, move in moves:
        counted += inside * (t - last_s)
        inside, last_s = inside + move, t
    return counted / last_s


def _seen(requests: list[tuple[float, float]]) -> dict[str, float]:
    """What the benchmark says of such a run."""
    stayed_ms = sum(1000 * (left - came) for came, left in requests) / len(requests)
    return {
        "arrived_per_s": round(len(requests) / max(came for came, _ in requests), 4),
        "requests_per_s": round(len(requests) / max(left for _, left in requests), 4),
        "ttft_ms_mean": round(stayed_ms / 5, 2),
        "e2e_ms_mean": round(stayed_ms, 2),
    }


def queue_limit(runs: list[dict]) -> int:
    """As many as were inside on average in the fullest run that held; 1 at least."""
    held = [run for run in runs if run["verdict"] == "held"]
    inside = [run["requests_per_s"] * run["e2e_ms_mean"] / 1000 for run in held]
    return max(1, int(max(inside, default=1)))


QUEUE_LIMIT = Puzzle(
    "queue_limit",
    "How many to let in",
    _servers,
    against="counting from moment to moment who is inside, in made-up runs",
    proved="That is Little's law read as a limit, and a cautious one: it is a mean, so at times "
    "more were inside while the promise was kept. vLLM counts all that are not finished, waiting "
    "or running.",
    where=("vllm/v1/engine/async_llm.py", "AsyncLLM.check_admission"),
    hints=(
        "Little's law: on average rate x time are inside. Mind the unit.",
        "The rate is that of the answers, the time that of a whole answer.",
        "Take the largest over the runs that held; round down with `int`, but not to 0.",
    ),
)
