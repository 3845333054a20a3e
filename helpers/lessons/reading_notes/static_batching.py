"""The same requests twice on a real engine: in waves, as servers before Orca did, and all at once.

result = serve_both_ways(engine, answers=[8, 128, 64, ...], batch=8)
result.gain, result.steps_x, result.step_ms
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from itertools import count, pairwise

from helpers.measure import Measurement, run_workload
from helpers.verdicts.gain import Gain, gain_of_pairs
from helpers.workloads import Workload, uniform


@dataclass(frozen=True)
class Waves:
    """Seconds (medians of the repeats) and steps of both ways, measured in turn.

    `gain`: times faster than in waves, in seconds, with its range. Steps are the engine's own.
    """

    wave_s: float
    continuous_s: float
    wave_steps: int
    continuous_steps: int
    step_ms: dict[int, float]  # by the requests in a step: lower quartile of its time
    output_tokens: int
    run: Measurement  # one of those that sent all requests at once
    gain: Gain

    @property
    def steps_x(self) -> float:
        """Times fewer steps than in waves."""
        return self.wave_steps / self.continuous_steps

    def step_s(self, requests: int) -> float:
        """Seconds of a step with so many requests, from the nearest number that was seen.

        A cost for the simulator.
        """
        nearest = min(self.step_ms, key=lambda seen: abs(seen - requests))
        return self.step_ms[nearest] / 1000

    def metrics(self, way: str) -> dict[str, float]:
        """What is saved of one way, "waves" or "continuous"."""
        seconds = self.wave_s if way == "waves" else self.continuous_s
        return {
            "output_tokens_per_s": self.output_tokens / seconds,
            "duration_s": seconds,
            **({"speedup_x": 1.0} if way == "waves" else self.gain.metrics("speedup_x")),
            "steps_x": self.steps_x,
        }


def plans_ahead(engine) -> bool:
    """Whether vLLM schedules a step while the one before runs: its default on a GPU."""
    return bool(engine.llm.llm_engine.vllm_config.scheduler_config.async_scheduling)


def serve_both_ways(
    engine, answers: list[int], batch: int, seed: int = 0, repeats: int = 3
) -> Waves:
    """Serve one request per entry of `answers` (tokens to generate), in waves and continuously.

    A wave of `batch` is sent when the one before has ended; vLLM refills places by itself when it
    gets all requests at once. The engine should run `batch` requests at once (max_num_seqs). Each
    run has fresh prompts of 32 tokens: none is found in the prefix cache.
    """
    seeds = count(1000 * seed + 1)

    def requests() -> list:
        drawn = uniform(engine.tokenizer, len(answers), 32, 1, seed=next(seeds)).requests
        return [replace(r, max_tokens=n) for r, n in zip(drawn, answers, strict=True)]

    def serve(name: str, chosen: list) -> Measurement:
        about = f"{len(chosen)} answers of different lengths"
        return run_workload(engine, Workload(name, tuple(chosen), seed, about), progress=False)

    serve("warm-up", requests()[:batch])
    waves, continuous = [], []
    for _ in range(repeats):
        mine = requests()
        waves.append([serve("wave", mine[i : i + batch]) for i in range(0, len(mine), batch)])
        continuous.append(serve("continuous", requests()))
    wave_s = [sum(run.duration_s for run in wave) for wave in waves]
    continuous_s = [run.duration_s for run in continuous]
    return Waves(
        wave_s=statistics.median(wave_s),
        continuous_s=statistics.median(continuous_s),
        wave_steps=sum(len(run.timeline) for run in waves[0]),
        continuous_steps=len(continuous[0].timeline),
        step_ms=_step_ms([*(run for wave in waves for run in wave), *continuous]),
        output_tokens=sum(answers),
        run=continuous[0],
        gain=gain_of_pairs(list(zip(wave_s, continuous_s, strict=True)), "lower"),
    )


def _step_ms(runs: list[Measurement]) -> dict[int, float]:
    seconds: dict[int, list[float]] = {}
    for run in runs:
        for before, now in pairwise(run.timeline):
            seconds.setdefault(now["tokens"], []).append(now["t_s"] - before["t_s"])
    return {
        size: 1000 * sorted(times)[len(times) // 4]
        for size, times in sorted(seconds.items())
        if size
    }
