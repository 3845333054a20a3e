"""Puzzle: one step of the scheduler under its token budget; vLLM's own scheduler answers."""

from __future__ import annotations

import random
from collections.abc import Iterator

from helpers.lessons.puzzles.check import Case, Puzzle
from helpers.lessons.puzzles.desk import Desk


def _steps(draw: random.Random) -> Iterator[Case]:
    """Steps of vLLM's scheduler while requests come and go, each with its own budget."""
    for most in (20, 100, 400):
        desk = Desk(blocks=1000, max_num_seqs=100, max_num_batched_tokens=512)
        for number in range(8):
            for name in "ab"[: draw.randrange(number == 0, 3)]:
                prompt = [draw.randrange(1000) for _ in range(draw.randrange(1, most))]
                desk.add(f"{name}{number}", prompt, answer=draw.randrange(1, 6))
            budget = draw.randrange(most // 4, most)
            yield _one_step(desk, budget)


def _one_step(desk: Desk, budget: int) -> Case:
    scheduler = desk.scheduler
    scheduler.max_num_scheduled_tokens = budget
    given = {
        "running": desk.to_do(scheduler.running),
        "waiting": desk.to_do(scheduler.waiting),
        "budget": budget,
    }
    return Case(given, dict(desk.step()))


ONE_STEP = Puzzle(
    "one_step",
    "One step of the scheduler",
    _steps,
    against="vLLM's own scheduler, step after step of three runs",
    proved="Nobody says “prefill” or “decode” here: a step gives each request some of the tokens "
    "that it still has to compute, running ones first. Chunked prefill is what is left over.",
    where=("vllm/v1/core/sched/scheduler.py", "Scheduler.schedule"),
    hints=(
        "Go through the running requests, then through the waiting ones, in their order.",
        "Each gets all that it has to do, or what is left of the budget: the smaller of the two.",
        "When the budget is used up, the others are left out of the answer.",
    ),
)
