"""Compare ways of doing the same thing in turns: a slow minute of the machine meets all of them."""

from __future__ import annotations

from collections.abc import Callable

from helpers.engine.engine import Engine
from helpers.workloads import Workload, uniform

Way = Callable[[Workload], float]


def load(engine: Engine, seed: int, requests: int | None = None) -> Workload:
    """The load that all comparisons share.

    On a GPU 64 streams for so long that it has more to do than the CPU beside it: with 256 short
    ones the CPU's own noise was 4 % from one run to the next.
    """
    inputs, outputs = (128, 384) if engine.profile.name == "gpu" else (128, 64)
    return uniform(engine.tokenizer, requests or 64, inputs, outputs, seed=seed)


def in_turns(
    engine: Engine, ways: dict[str, Way], rounds: int, requests: int | None = None
) -> list[dict[str, float]]:
    """What each way gives for the same workload, one row a round, with nothing in the prefix cache.

    Each goes first as often as the others. A round before the first is a warm-up.
    """
    names, rows = list(ways), []
    for turn in range(rounds + 1):
        work = load(engine, turn, requests)
        first = turn % len(names)
        row = {}
        for name in names[first:] + names[:first]:
            engine.llm.reset_prefix_cache()
            row[name] = ways[name](work)
        if turn:
            rows.append(row)
    return rows
