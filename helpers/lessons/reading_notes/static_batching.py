"""Requests whose answers differ in length, all at once or in waves: notebook 3, sections 1 and 2.

load = ragged(engine, [8, 128, 64, 16], prompt_tokens=32)
runs = {"waves": [[run_workload(engine, wave) for wave in waves(load, 2)]],
        "continuous": [[run_workload(engine, load)]]}
trial = Trial(runs)                                 # its steps, times, and what a store keeps
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import geometric_mean

from helpers.measure import Measurement
from helpers.verdicts.gain import Gain
from helpers.verdicts.machine import busy, most_disturbed
from helpers.workloads import Workload, uniform


@dataclass(frozen=True)
class Trial:
    """The same requests served in two ways, in turn.

    runs: way -> one entry a round, each the runs that it took one after the other (waves; one run
    where all is sent at once). The slower way stands first.
    """

    runs: dict[str, list[list[Measurement]]]

    @property
    def seconds(self) -> list[tuple[float, float]]:
        """Of every round, how long each way took."""
        ways = ([sum(run.duration_s for run in sent) for sent in way] for way in self.runs.values())
        return list(zip(*ways, strict=True))

    @property
    def took_s(self) -> dict[str, float]:
        """By way, the geometric mean of its rounds: so the middle of a gain is their ratio."""
        by_way = zip(self.runs, zip(*self.seconds, strict=True), strict=True)
        return {way: geometric_mean(seconds) for way, seconds in by_way}

    @property
    def steps(self) -> dict[str, int]:
        """Engine steps of a round, by way."""
        return {way: sum(len(r.timeline) for r in rounds[0]) for way, rounds in self.runs.items()}

    @property
    def step_ms(self) -> dict[str, float]:
        """How long the mean step took, by way."""
        return {way: 1000 * seconds / self.steps[way] for way, seconds in self.took_s.items()}

    @property
    def told(self) -> str:
        """A line for each way: its steps and its time."""
        return "\n".join(
            f"{way}: {steps} engine steps, {self.took_s[way]:.2f} s (mean of the rounds)"
            for way, steps in self.steps.items()
        )

    @property
    def busy(self) -> str:
        """A sentence on what else the machine did, " " before it; "" if nothing."""
        return busy(self._every)

    @property
    def _every(self) -> list[Measurement]:
        return [run for rounds in self.runs.values() for sent in rounds for run in sent]

    def records(self, gain: Gain) -> Iterator[tuple[str, Measurement, dict]]:
        """What a store keeps of each way: its name, a run for what it was under, its numbers.

        The faster way comes last, and the gain is among its numbers.
        """
        first, faster = self.runs
        of_all = {
            "workload": self.runs[faster][0][0].workload,  # all of it at once
            "disturbance": most_disturbed(run.disturbance for run in self._every),
        }
        for way, rounds in self.runs.items():
            tokens = sum(run.metrics["output_tokens"] for run in rounds[0])
            numbers = {"output_tokens_per_s": tokens / self.took_s[way]}
            numbers["requests_in_a_step"] = tokens / self.steps[way]
            if way == faster:
                numbers |= gain.metrics("speedup_x")
                numbers["fewer_steps_x"] = self.steps[first] / self.steps[faster]
            yield way, replace(rounds[0][0], **of_all), numbers


def while_others_wait(run: Measurement) -> tuple[float, float]:
    """Requests in a step, on average: in the steps while others wait, and in those after."""
    last = max((i for i, step in enumerate(run.timeline, 1) if step["waiting"]), default=0)
    parts = run.timeline[:last], run.timeline[last:]
    during, after = (sum(step["tokens"] for step in part) / max(1, len(part)) for part in parts)
    return during, after


def plans_ahead(engine) -> bool:
    """Whether vLLM schedules a step while the one before runs: its default on a GPU."""
    return bool(engine.llm.llm_engine.vllm_config.scheduler_config.async_scheduling)


def ragged(engine, answers: list[int], prompt_tokens: int, seed: int = 0) -> Workload:
    """One request for each entry of `answers` (tokens to generate), all at once."""
    drawn = uniform(engine.tokenizer, len(answers), prompt_tokens, 1, seed)
    pairs = zip(drawn.requests, answers, strict=True)
    requests = tuple(replace(request, max_tokens=n) for request, n in pairs)
    about = f"{len(answers)} answers of different lengths, prompts of {prompt_tokens} tokens"
    return Workload("ragged", requests, seed, about)


def waves(load: Workload, size: int) -> list[Workload]:
    """The same requests in groups of at most `size`, to be sent one after the other."""
    starts = range(0, len(load), size)
    return [replace(load, requests=load.requests[i : i + size]) for i in starts]


def steps_needed(answers: list[int], places: int) -> int:
    """What the puzzle of the same name asks for."""
    free_at = [0] * places
    for answer in answers:
        first = free_at.index(min(free_at))
        free_at[first] += answer
    return max(free_at)
