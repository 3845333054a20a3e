"""Requests whose answers differ in length, all at once or in waves: notebook 3, sections 1 and 2.

load = ragged(engine, [8, 128, 64, 16], prompt_tokens=32)
for wave in waves(load, 2):
    run_workload(engine, wave)
"""

from __future__ import annotations

from dataclasses import replace

from helpers.workloads import Workload, uniform


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
