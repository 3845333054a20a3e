"""Puzzle: continuous batching in the places of a batch; vLLM's own scheduler answers."""

from __future__ import annotations

import random
from collections.abc import Iterator

from helpers.lessons.puzzles.check import Case, Puzzle
from helpers.lessons.puzzles.desk import Desk


def _queues(draw: random.Random) -> Iterator[Case]:
    """Few requests and many, more places than requests, one place."""
    desk = Desk(blocks=1000)
    for requests, places in ((3, 2), (2, 3), (4, 1), *((12, n) for n in (2, 3, 4, 5, 8))):
        answers = [draw.choice([1, 2, 3, 5, 8, 13]) for _ in range(requests)]
        given = {"answers": answers, "places": places}
        yield Case(given, _steps_of_vllm(desk, **given))


def _steps_of_vllm(desk: Desk, answers: list[int], places: int) -> int:
    desk.scheduler.max_num_running_reqs = desk.scheduler.max_num_active_reqs = places
    for answer in answers:
        desk.add(str(len(desk.requests)), 4, answer)
    steps = 0
    while desk.scheduler.has_unfinished_requests():
        desk.step()
        steps += 1
    return steps


STEPS_NEEDED = Puzzle(
    "steps_needed",
    "Who gets the next free place",
    _queues,
    against="vLLM's own scheduler, stepped by hand with max_num_seqs = places",
    proved="A place that becomes free is filled in the next step, in the order of arrival, and "
    "nobody asks how long an answer will be. That is continuous batching.",
    where=("vllm/v1/core/sched/scheduler.py", "Scheduler.schedule"),
    hints=(
        "Keep a list with an entry for each place: the step in which it is free.",
        "The next answer goes to the place that is free first, which is then busy for as many "
        "steps as the answer has tokens.",
        "The last answer is done when the place that is busy longest is free.",
    ),
)
