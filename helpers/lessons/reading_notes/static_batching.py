"""The same requests twice on a real engine, the older way and vLLM's, measured in turn.

result = serve_both_ways(engine, answers=[8, 128, 64, ...], batch=8)     # waves, continuous
result.gain, result.steps_x, result.prompt_steps
result = reserved_against_paged(engine, answers, blocks=32, places=4)    # reserved, paged
result.gain, result.running
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from itertools import count, pairwise

from helpers.engine import retuned
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
    prompt_steps: dict[str, int]  # by way: how many of its steps read prompts
    reading_ms: float  # mean of such a step, and of any other
    other_ms: float
    output_tokens: int
    run: Measurement  # one of those that sent all requests at once
    gain: Gain

    @property
    def steps_x(self) -> float:
        """Times fewer steps than in waves."""
        return self.wave_steps / self.continuous_steps

    def metrics(self, way: str) -> dict[str, float]:
        """What is saved of one way, "waves" or "continuous"."""
        seconds = self.wave_s if way == "waves" else self.continuous_s
        numbers = {"output_tokens_per_s": self.output_tokens / seconds, "duration_s": seconds}
        more = self.gain.metrics("speedup_x") | {"fewer_steps_x": self.steps_x}
        return numbers if way == "waves" else numbers | more


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
        return _requests(engine, answers, next(seeds))

    _serve(engine, "warm-up", requests()[:batch])
    waves, continuous = [], []
    for _ in range(repeats):
        mine = requests()
        starts = range(0, len(mine), batch)
        waves.append([_serve(engine, "wave", mine[i : i + batch]) for i in starts])
        continuous.append(_serve(engine, "continuous", requests()))
    wave_s = [sum(run.duration_s for run in wave) for wave in waves]
    continuous_s = [run.duration_s for run in continuous]
    reading_ms, other_ms = _step_ms([*(run for wave in waves for run in wave), *continuous])
    first = {"waves": waves[0], "continuous": continuous[:1]}
    return Waves(
        wave_s=statistics.median(wave_s),
        continuous_s=statistics.median(continuous_s),
        wave_steps=sum(len(run.timeline) for run in waves[0]),
        continuous_steps=len(continuous[0].timeline),
        prompt_steps={way: len(_step_ms(runs)[0]) for way, runs in first.items()},
        reading_ms=statistics.fmean(reading_ms),
        other_ms=statistics.fmean(other_ms),
        output_tokens=sum(answers),
        run=continuous[0],
        gain=gain_of_pairs(list(zip(wave_s, continuous_s, strict=True)), "lower"),
    )


def _requests(engine, answers: list[int], seed: int) -> list:
    drawn = uniform(engine.tokenizer, len(answers), 32, 1, seed=seed).requests
    return [replace(r, max_tokens=n) for r, n in zip(drawn, answers, strict=True)]


def _serve(engine, name: str, chosen: list) -> Measurement:
    about = f"{len(chosen)} answers of different lengths"
    return run_workload(engine, Workload(name, tuple(chosen), 0, about), progress=False)


def _step_ms(runs: list[Measurement]) -> tuple[list[float], list[float]]:
    """Milliseconds of the steps that read prompts, which give first tokens, and of the others."""
    reading, others = [], []
    for run in runs:
        firsts = {request.token_times_s[0] for request in run.requests if request.token_times_s}
        times = [0.0, *(step["t_s"] for step in run.timeline)]
        for before, now in pairwise(times):
            (reading if now in firsts else others).append(1000 * (now - before))
    return reading, others


def quickest(recordings: list):
    """The shortest of several recordings of the same steps: others can only make a run slower."""
    return min(recordings, key=lambda run: run.steps[-1].end_s - run.steps[0].start_s)


# ---------------------------------------------------------------- memory reserved, and paged


@dataclass(frozen=True)
class Reserving:
    """`gain`: paged, times faster than reserved. `running`: mean requests in a step, by way."""

    gain: Gain
    running: dict[str, float]
    runs: dict[str, Measurement]  # one of each way

    @property
    def running_x(self) -> float:
        """Times as many requests in a step."""
        return self.running["paged"] / self.running["reserved"]


def reserved_against_paged(
    engine, answers: list[int], blocks: int, places: int, seed: int = 0, repeats: int = 3
) -> Reserving:
    """Serve `answers` (tokens to generate) from a KV cache of `blocks` blocks in two ways.

    "reserved": `places` requests at once, as many as fit when each keeps room for the longest one.
    "paged": as many as there are blocks for, which is vLLM as it is.
    """
    seeds = count(1000 * seed + 501)
    limits = {"reserved": {"max_num_seqs": places}, "paged": {}}
    runs: dict[str, list[Measurement]] = {way: [] for way in limits}
    for _ in range(repeats):
        for way, limit in limits.items():
            # One block more: vLLM keeps one for itself.
            with retuned(engine, num_gpu_blocks_override=blocks + 1, **limit):
                runs[way].append(_serve(engine, way, _requests(engine, answers, next(seeds))))
    seconds = [[run.duration_s for run in runs[way]] for way in limits]
    return Reserving(
        gain=gain_of_pairs(list(zip(*seconds, strict=True)), "lower"),
        running={way: _mean_running(of_way[0]) for way, of_way in runs.items()},
        runs={way: of_way[0] for way, of_way in runs.items()},
    )


def _mean_running(run: Measurement) -> float:
    return statistics.fmean(step["running"] for step in run.timeline if step["running"])
