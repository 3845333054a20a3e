"""Every max_num_seqs measured in turn, and what one is over another, with its range."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import geometric_mean

from helpers import workloads
from helpers.measure import Measurement, run_workload
from helpers.results import recorded
from helpers.verdicts.gain import Gain, gain_of_pairs, rounds_that_count
from helpers.verdicts.in_turn import median_run
from helpers.verdicts.machine import less_slowed

ONE = 1  # max_num_seqs of one request at a time
SPEED, TPOT = "output_tokens_per_s", "tpot_ms_p50"


def uniform_run(
    engine, requests: int, n_in: int, n_out: int, seed: int, concurrency: int | None = None
) -> Measurement:
    """Measure `requests` equal requests; once more, with other prompts, if others slowed them."""

    def run(again: int) -> Measurement:
        prompts = seed + 100_000 * again
        load = workloads.uniform(engine.tokenizer, requests, n_in, n_out, seed=prompts)
        return run_workload(engine, load, concurrency=concurrency)

    return less_slowed(run)


def row_of(run: Measurement, max_num_seqs: int, kv_cache_tokens: int) -> dict:
    """A run with this setting as a row of a sweep: the setting and the run's metrics."""
    return {
        "max_num_seqs": max_num_seqs,
        "kv_cache_tokens": kv_cache_tokens,
        "preemptions": run.counters["num_preemptions"],
        **run.metrics,
    }


def recorded_rows() -> tuple[dict[int, dict], str]:
    """max_num_seqs -> a recorded run's metrics, the smallest value first; where they are from."""
    [one], _ = recorded.curve("baseline", variants="one_at_a_time")
    more, where = recorded.curve("sweep_max_num_seqs")
    values = {int(row["variant"]): row for row in more}
    return {ONE: one} | dict(sorted(values.items())), where


@dataclass(frozen=True)
class InTurn:
    """Values of max_num_seqs -> their runs, one run a round; ONE is among the values."""

    runs: dict[int, list[Measurement]]

    @property
    def most(self) -> int:
        """The largest value that was tried."""
        return max(self.runs)

    @cached_property  # what is left out is said once
    def counted(self) -> dict[int, list[Measurement]]:
        """The runs that count, for means, ranges and gains alike: see `rounds_that_count`."""
        rounds = rounds_that_count(list(zip(*self.runs.values(), strict=True)))
        return dict(zip(self.runs, zip(*rounds, strict=True), strict=True))

    def faster(self, value: int, than: int = ONE) -> Gain:
        """Output tokens/s of `value` over those of another."""
        return self._over(value, than, SPEED)

    def slower(self, value: int) -> Gain:
        """TPOT p50 of `value` over that of one request at a time: the price."""
        return self._over(value, ONE, TPOT)

    def meets(self, value: int, goal_x: float) -> bool | None:
        """Whether the TPOT of `value` meets a goal; None where its range holds both."""
        price = self.slower(value)
        if price.low <= goal_x < price.high:
            return None
        return price.high <= goal_x

    def undecided(self, goal_x: float) -> list[int]:
        """The values of which these runs do not tell whether they meet the goal."""
        return [value for value in self.runs if self.meets(value, goal_x) is None]

    def _over(self, value: int, other: int, metric: str) -> Gain:
        pairs = list(zip(self._all(other, metric), self._all(value, metric), strict=True))
        return gain_of_pairs(pairs, "higher")

    def _all(self, value: int, metric: str) -> list[float]:
        return [run.metrics[metric] for run in self.counted[value]]

    def mean(self, value: int, metric: str) -> float:
        """The geometric mean of the runs with this value: the ratio of two is their gain."""
        return geometric_mean(self._all(value, metric))

    def middle(self, value: int) -> Measurement:
        """The run of this value with the median speed."""
        return median_run(self.counted[value], lambda run: run.metrics[SPEED])

    def record(self, value: int, kv_cache_tokens: int) -> dict[str, float]:
        """What is kept of the chosen value: the counts of a run, geometric means, its gain.

        A rate times its duration is still what was done, and a percentile above the one below it:
        a number of one run among means of several would fit no run (classroom/flags.py).
        """
        rows = [row_of(run, value, kv_cache_tokens) for run in self.counted[value]]
        means = {
            name: geometric_mean(row[name] for row in rows)
            for name, number in rows[0].items()
            if isinstance(number, float) and all(row[name] > 0 for row in rows)
        }
        rounds = {"baseline_tokens_per_s": self._all(ONE, SPEED), SPEED: self._all(value, SPEED)}
        return {
            **rows[0],
            **means,
            **{f"{name}_low": min(speeds) for name, speeds in rounds.items()},
            **{f"{name}_high": max(speeds) for name, speeds in rounds.items()},
            "baseline_tokens_per_s": self.mean(ONE, SPEED),
            "baseline_tpot_ms": self.mean(ONE, TPOT),
            **self.faster(value).metrics("improvement_x"),
        }
