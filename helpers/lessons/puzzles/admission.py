"""Puzzle: how many requests a server may let in; a queue worked off one by one answers."""

from __future__ import annotations

import random
from collections.abc import Iterator

from helpers.lessons.puzzles.check import Case, Puzzle


def _servers(draw: random.Random) -> Iterator[Case]:
    """A long answer, single tokens, then many; none so close to a whole number that it rounds."""
    yield _server(rate=10.0, ttft_ms=1050, tpot_ms=100, output_tokens=11)
    yield _server(rate=10.0, ttft_ms=950, tpot_ms=200, output_tokens=1)  # has no TPOT
    yield _server(rate=0.5, ttft_ms=900, tpot_ms=50, output_tokens=1)  # less than one at a time
    for _ in range(30):
        lengths = {"tpot_ms": draw.randrange(5, 80), "output_tokens": draw.randrange(2, 400)}
        goals = {"ttft_ms": draw.randrange(50, 2000), **lengths}
        requests = draw.randrange(1, 200) + draw.uniform(0.1, 0.9)
        yield _server(rate=requests / _longest_s(**goals), **goals)


def _server(rate: float, **goals) -> Case:
    given = {"rate": rate, **goals}
    return Case(given, queue_limit(**given))


def _longest_s(ttft_ms: float, tpot_ms: float, output_tokens: int) -> float:
    """Seconds of an answer that just meets both goals."""
    return (ttft_ms + (output_tokens - 1) * tpot_ms) / 1000


def queue_limit(rate: float, ttft_ms: float, tpot_ms: float, output_tokens: int) -> int:
    """Requests that a server which answers `rate` a second can finish before the last is late.

    At least one: a server that lets nobody in answers nobody.
    """
    longest_s = _longest_s(ttft_ms, tpot_ms, output_tokens)
    limit = 1
    while (limit + 1) / rate <= longest_s:
        limit += 1
    return limit


QUEUE_LIMIT = Puzzle(
    "queue_limit",
    "How many to let in",
    _servers,
    against="a server that works off its requests at this rate, one after the other",
    proved="That is Little's law read as a limit: one request more could not be answered in time. "
    "vLLM counts all that are not finished, waiting or running.",
    where=("vllm/v1/engine/async_llm.py", "AsyncLLM.check_admission"),
    hints=(
        "How long does an answer take that just meets both goals? The first token comes after "
        "`ttft_ms`, each of the other `output_tokens - 1` after `tpot_ms`.",
        "Little's law: on average there are rate x seconds requests in the server. Mind the unit.",
        "Requests are whole, and one more would be too many: round down with `int`, but not to 0.",
    ),
)
