"""Which configuration is the best one for a goal: the best two, measured in turn with the baseline.

A row is a configuration that has been measured once: `configuration`, `max_num_seqs`, and the
metrics of its run. One run is enough to tell who is worth a second look, not to name a best one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from statistics import geometric_mean

from helpers import workloads
from helpers.engine import retuned
from helpers.measure import Measurement, run_workload
from helpers.verdicts.gain import Gain, gain_of_pairs
from helpers.verdicts.in_turn import in_turn
from helpers.verdicts.machine import Disturbance

ONE = "one at a time"
# One run each that differ by more than this factor need no second look: what else a machine does
# slows a run of seconds by less.
FAR = 1.5
SPEED, TPOT = "output_tokens_per_s", "tpot_ms_p50"


@dataclass(frozen=True)
class InTurn:
    """A setting's runs in turn as one: the median run, with the means of all where a gain is named.

    The means are geometric, so that the ratio of two is the gain that was measured in turn.
    """

    metrics: dict
    disturbance: Disturbance

    @classmethod
    def of(cls, runs: list[Measurement]) -> InTurn:
        """Of all runs that a gain was worked out from."""
        median = sorted(runs, key=lambda run: run.metrics[SPEED])[(len(runs) - 1) // 2]
        means = {name: geometric_mean(run.metrics[name] for run in runs) for name in (SPEED, TPOT)}
        preempted = {"preemptions": median.counters["num_preemptions"]}
        return cls({**median.metrics, **preempted, **means}, median.disturbance)


@dataclass(frozen=True)
class Choice:
    """The chosen configuration.

    row: as in the sweep, with the numbers of its runs in turn. run: those runs. baseline: the
    runs of one request at a time. improvement: output tokens/s over that baseline.
    slower: its TPOT p50, as a multiple of that of one request at a time. rival: the other row, or
    None; over_rival: the chosen one's output tokens/s over it. is_default: whether it changes
    nothing. goal_x: the most that `slower` may be.
    """

    row: dict
    run: InTurn
    baseline: InTurn
    improvement: Gain
    slower: Gain
    rival: dict | None
    over_rival: Gain | None
    is_default: bool
    goal_x: float

    @property
    def meets_goal(self) -> bool:
        """Whether its TPOT stayed within the goal when it was measured in turn."""
        return self.slower.estimate <= self.goal_x


def uniform_run(
    engine, requests: int, n_in: int, n_out: int, seed: int, concurrency: int | None = None
) -> Measurement:
    """Measure `requests` equal requests; once more, with fresh prompts, if the machine was busy.

    Fresh prompts: those of the first run would be found in the prefix cache. The second run counts,
    and its record says so when the machine was busy again.
    """
    for prompts in (seed, seed + 100_000):
        load = workloads.uniform(engine.tokenizer, requests, n_in, n_out, seed=prompts)
        run = run_workload(engine, load, concurrency=concurrency)
        if not run.disturbance.reasons:
            break
    return run


def row_of(run: Measurement, max_num_seqs: int, kv_cache_tokens: int) -> dict:
    """The row of a run with this setting, as the module's text describes it."""
    return {
        "configuration": f"max_num_seqs={max_num_seqs}",
        "max_num_seqs": max_num_seqs,
        "kv_cache_tokens": kv_cache_tokens,
        "preemptions": run.counters["num_preemptions"],
        **run.metrics,
    }


def contenders(rows: list[dict], tpot_limit_ms: float, default: dict) -> list[dict]:
    """One or two rows to measure in turn; the first is kept unless the second is faster.

    Those with the most output tokens/s of all whose TPOT p50 is within the limit (without any, the
    one with the shortest TPOT). `default`, the row that changes nothing, is one of them if it is
    within the limit, and comes first; else the one with the shorter TPOT does. Another row that is
    far behind the best one is left out.
    """
    within = [row for row in rows if row["tpot_ms_p50"] <= tpot_limit_ms]
    if not within:
        return [min(rows, key=lambda row: row["tpot_ms_p50"])]
    first, *others = sorted(within, key=_speed, reverse=True)
    near = [row for row in others if _speed(row) * FAR > _speed(first)]
    if default not in others and not near:
        return [first]
    second = default if default in others else near[0]
    return sorted([first, second], key=lambda row: (row is not default, row["tpot_ms_p50"]))


def _speed(row: dict) -> float:
    return row[SPEED]


def best_in_turn(
    engine,
    pair: list[dict],
    default: dict,
    goal_x: float,
    sizes: dict[str, int],
    seed: int,
    budget_s: float,
) -> Choice:
    """Measure the contenders and one request at a time in turn, and choose.

    pair: of `contenders`. sizes: requests, baseline_requests, input_tokens and output_tokens of a
    run. The second contender is chosen when it is faster beyond what the runs vary and within the
    goal, or when only it is within the goal.
    """
    seeds = count(seed)
    runs: dict[str, list[Measurement]] = {}

    def trial(name: str, max_num_seqs: int, requests: int, concurrency: int | None = None):
        def once() -> float:
            lengths = sizes["input_tokens"], sizes["output_tokens"]
            load = workloads.uniform(engine.tokenizer, requests, *lengths, seed=next(seeds))
            with retuned(engine, max_num_seqs=max_num_seqs):
                run = run_workload(engine, load, concurrency=concurrency, progress=False)
            runs.setdefault(name, []).append(run)
            return run.metrics[SPEED]

        return once

    by_name = {row["configuration"]: row for row in pair}
    first, *others = by_name
    settings = {ONE: trial(ONE, pair[0]["max_num_seqs"], sizes["baseline_requests"], 1)}
    settings |= {
        name: trial(name, row["max_num_seqs"], sizes["requests"]) for name, row in by_name.items()
    }
    gains, _ = in_turn(settings, first, "higher", budget_s)

    def compare(name: str, other: str, metric: str) -> Gain:
        """`name` over `other`, of the rounds that both were part of; more is more."""
        values = [[run.metrics[metric] for run in runs[who]] for who in (other, name)]
        return gain_of_pairs(list(zip(*values, strict=False)), "higher")

    slower = {name: compare(name, ONE, TPOT) for name in by_name}
    chosen = first
    for other in others:
        first_fits, other_fits = (slower[name].estimate <= goal_x for name in (first, other))
        if other_fits and (gains[other].verdict == "better" or not first_fits):
            chosen = other
    rival = next((name for name in by_name if name != chosen), None)
    rounds = slower[chosen].values
    run, baseline = (InTurn.of(runs[name][:rounds]) for name in (chosen, ONE))
    return Choice(
        row={**by_name[chosen], **run.metrics},
        run=run,
        baseline=baseline,
        improvement=compare(chosen, ONE, SPEED),
        slower=slower[chosen],
        rival=by_name[rival] if rival else None,
        over_rival=compare(chosen, rival, SPEED) if rival else None,
        is_default=by_name[chosen] is default,
        goal_x=goal_x,
    )
