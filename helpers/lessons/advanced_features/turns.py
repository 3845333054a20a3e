"""Settings measured in turn on the engines that they need, so that a slow moment hits them all."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from typing import TypeVar

from helpers.display import live
from helpers.engine import open_engine, retuned
from helpers.engine.engine import Engine
from helpers.engine.profile import Profile
from helpers.measure import Measurement, run_workload, warm_up
from helpers.verdicts.machine import less_slowed

Key = TypeVar("Key", bound=Hashable)


def order(to_run: dict[Key, dict | None], rounds: int, in_a_row: bool) -> list[Key]:
    """The keys as they take turns. Those of one value stand together: they share an engine.

    A B C, C B A, A B C ...: every other round runs backwards, so that none is always the first.
    in_a_row: A A A, B B B ..., for engines that start slowly.
    """
    engines: dict[str, list[Key]] = {}
    for key, drafts in to_run.items():
        engines.setdefault(repr(drafts), []).append(key)
    if in_a_row:
        return [key for keys in engines.values() for _ in range(rounds) for key in keys]
    forwards = [key for keys in engines.values() for key in keys]
    return [key for i in range(rounds) for key in (forwards[::-1] if i % 2 else forwards)]


def in_turn(
    to_run: dict[Key, dict | None], profile: Profile, rounds: int, **engine_args
) -> Iterator[tuple[Key, Engine]]:
    """Each key `rounds` times, in turn, with its engine: warm, and drafting as the value says.

    to_run: a key -> `speculative_config` (None: no drafts). On a GPU, where an engine's start takes
    a minute, all rounds of one follow each other.
    """
    warm = None
    turns = order(to_run, rounds, in_a_row=profile.name != "cpu")
    for key in live.through(turns, "in turn", "runs"):
        engine = open_engine(profile, speculative_config=to_run[key], **engine_args)
        if engine is not warm:
            rates = (to_run[key] or {}).get("synthetic_acceptance_rates")
            with accepting(engine, rates):
                warm_up(engine)
            warm = engine
        yield key, engine


def accepting(engine: Engine, rates: list[float] | None) -> contextlib.AbstractContextManager:
    """In the block the engine's drafts are accepted at these rates; None: as it was started."""
    if rates is None:
        return contextlib.nullcontext()
    return retuned(engine, synthetic_acceptance_rates=rates)


def timed(engine: Engine, load, at_once: int = 1) -> Measurement:
    """One run of a workload, so many requests at once; if others slowed it, see `less_slowed`."""
    return less_slowed(lambda _: run_workload(engine, load, concurrency=at_once, progress=False))
