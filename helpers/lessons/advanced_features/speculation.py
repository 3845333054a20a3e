"""What speculative decoding did, from vLLM's counters and the times of its steps.

The letters are those of Leviathan et al. (arXiv 2211.17192), as in helpers/lessons/papers/speculative.py: alpha, the chance
that a drafted token is accepted; k (gamma), drafted tokens a step; c, time of a draft over time of a plain step.
"""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

from helpers import tiny_model
from helpers.engine.dummy_model import dummy_model_folder
from helpers.engine.profile import DRAFT_FOR_GPU, Profile, load_profile
from helpers.lessons.papers import speculative as formula
from helpers.measure import Measurement, percentile, run_workload


@dataclass(frozen=True)
class Acceptance:
    """Counted by vLLM over one workload."""

    drafts: int  # steps that verified drafted tokens
    drafted: int  # tokens
    accepted: int  # tokens
    per_position: list[float]  # share of drafts whose first, second, ... token was accepted
    mean_length: float  # tokens gained by a step: 1 + accepted / drafts, as vLLM defines it
    alpha: float  # the chance for each token that explains mean_length, if it were the same at every position

    @property
    def rate(self) -> float:
        """Accepted share of all drafted tokens (vLLM's acceptance rate)."""
        return self.accepted / self.drafted if self.drafted else 0.0


def acceptance(measurement: Measurement, num_speculative_tokens: int) -> Acceptance:
    """Read the counters `spec_decode_*`. Zeros when nothing was drafted."""
    counted = measurement.counters
    drafts, drafted, accepted = (
        int(counted.get(f"spec_decode_num_{name}", 0))
        for name in ("drafts", "draft_tokens", "accepted_tokens")
    )
    positions = list(counted.get("spec_decode_num_accepted_tokens_per_pos", []))[
        :num_speculative_tokens
    ]
    mean_length = 1 + accepted / drafts if drafts else 1.0
    return Acceptance(
        drafts, drafted, accepted, [count / drafts if drafts else 0.0 for count in positions], mean_length,
        formula.alpha_from_length(mean_length, num_speculative_tokens) if drafts else 0.0,
    )  # fmt: skip


NOISE = 0.05  # of a time that was measured twice: what differs by less is not called a difference


def fastest(engine, workload, concurrency: int = 1, times: int = 2) -> Measurement:
    """The workload run `times` times: the fastest run. One request at a time, each with the fastest of its answers.

    Other programs can only slow a run down.
    """
    runs = [
        run_workload(engine, workload, concurrency=concurrency, progress=False)
        for _ in range(times)
    ]
    best = min(runs, key=lambda run: run.duration_s)
    if concurrency > 1:
        return best
    answers = zip(*(run.requests for run in runs), strict=True)
    return replace(
        best, requests=[min(same, key=lambda request: request.e2e_s) for same in answers]
    )


def step_ms(measurement: Measurement, percent: float = 25, tokens: int = 0) -> float:
    """Time of a decode step in milliseconds: a percentile, the lower quartile, of the steps that made `tokens` or more (of all when none did).

    Steps that read a prompt are few and long, and other programs can only make a step longer.
    """
    pairs = list(zip(measurement.timeline, measurement.timeline[1:], strict=False))
    full = [(before, step) for before, step in pairs if step["tokens"] >= tokens] or pairs
    return 1000 * percentile([step["t_s"] - before["t_s"] for before, step in full], percent)


def decode_ms_per_token(measurement: Measurement) -> float:
    """Time between first and last token over the tokens in between, all requests together (ms)."""
    spans = [
        (r.e2e_s - r.ttft_s, r.output_tokens - 1)
        for r in measurement.requests
        if r.output_tokens > 1
    ]
    return 1000 * sum(seconds for seconds, _ in spans) / sum(tokens for _, tokens in spans)


def draft_cost(step_ms_by_k: dict[int, float], plain_step_ms: float) -> tuple[float, float, str]:
    """(c, fixed, fixed in words): a straight line through the times of steps with k drafts, over the time of a plain step.

    c is its slope, what one more draft costs; fixed is how much longer than a plain step it makes a step with no draft,
    0 when that is not above the noise. The formula knows only c. Raises ValueError with fewer than two values of k.
    """
    if len(step_ms_by_k) < 2:
        raise ValueError("A cost for each draft needs the times of at least two numbers of drafts.")
    slope, intercept = statistics.linear_regression(list(step_ms_by_k), list(step_ms_by_k.values()))
    fixed = intercept / plain_step_ms - 1
    if fixed < NOISE:
        return (
            max(0.0, slope / plain_step_ms),
            0.0,
            "a step with speculation has no fixed cost above the noise",
        )
    return (
        max(0.0, slope / plain_step_ms),
        fixed,
        f"a step with speculation has a fixed cost of {100 * fixed:.0f} % of a plain step, which the formula does not have",
    )


def best_drafts(rows: list[dict]) -> str:
    """The best number of drafted tokens, and those that are as good within the noise. rows: dicts with k, measured_x."""
    best = max(rows, key=lambda row: row["measured_x"])
    if best["measured_x"] < 1 + NOISE:
        return "No number of drafts gained more than the noise here."
    ties = [
        str(row["k"])
        for row in rows
        if row is not best and row["measured_x"] > (1 - NOISE) * best["measured_x"]
    ]
    said = f"Best here: {best['k']} drafted tokens, {best['measured_x']:.2f} times as fast"
    return said + (f" ({' and '.join(ties)} within {100 * NOISE:.0f} % of it)." if ties else ".")


FULL = 2.0  # a step of the largest batch that takes so many times as long as a step of one: the work of a request counts


def batch_reading(rows: list[dict], drafts: int, tiny: bool = False) -> str:
    """What a sweep over requests at once shows. rows: dicts with requests, speedup_x, plain_step_ms (a full step).

    tiny: the model is the one that ships.
    """
    one, most = rows[0], rows[-1]
    said = (f"With {drafts} drafted tokens: {one['speedup_x']:.2f} times the throughput for one stream, "
            f"{most['speedup_x']:.2f} times for {most['requests']} requests.")  # fmt: skip
    losses = [str(row["requests"]) for row in rows if row["speedup_x"] < 1 - NOISE]
    said += (
        f" It is a loss at {', '.join(losses)} requests."
        if losses
        else " No loss was measured in this range."
    )
    grown = most["plain_step_ms"] / one["plain_step_ms"]
    if grown < FULL:
        said += f" A plain step of {most['requests']} requests takes only {grown:.1f} times as long as a step of one: these batches do not fill the machine."
        said += (
            " The model is too small for it: its steps wait for kernels to be launched, whatever the batch."
            if tiny
            else ""
        )
    return said


def first_differences(plain: Measurement, other: Measurement) -> list[dict]:
    """Requests whose outputs differ: request, position of the first other token, and the two texts from there."""
    found = []
    for i, (a, b) in enumerate(zip(plain.requests, other.requests, strict=True)):
        if a.token_ids != b.token_ids:
            pairs = enumerate(zip(a.token_ids, b.token_ids, strict=False))
            at = next((p for p, (x, y) in pairs if x != y), min(len(a.token_ids), len(b.token_ids)))
            same = len(os.path.commonprefix([a.text, b.text]))
            found.append(
                {"request": i, "position": at, "plain": a.text[same:], "speculative": b.text[same:]}
            )
    return found


# --- which pair of models -------------------------------------------------------------------------------------


def pair_of(profile: Profile) -> Profile:
    """The profile if it has a draft model, else one with the pair that ships with the workbook.

    Random weights write random text: whether a draft is accepted then says nothing. The shipped pair is so small that
    it is not worth compiling.
    """
    if profile.draft_model:
        return profile
    pair = load_profile(profile.name, str(tiny_model.TARGET))
    context = min(pair.max_model_len, 4096)  # what the shipped models were made for
    args = {"max_model_len": context, "enforce_eager": True, "kv_cache_memory_bytes": 2**30}
    return replace(
        pair,
        max_model_len=context,
        engine_args={**args, **pair.engine_args, "max_model_len": context},
    )


def draft_config(pair: Profile) -> dict:
    """The part of `speculative_config` that names the pair's draft model."""
    config = {"method": "draft_model", "model": pair.draft_model}
    if _vocabulary(pair.model) != _vocabulary(pair.draft_model):
        config["use_heterogeneous_vocab"] = True
    return config


def synthetic_pair(profile: Profile) -> Profile:
    """The pair whose drafts are accepted at rates set by hand.

    With synthetic acceptance weights do not matter: on a GPU with random weights the large model gets a draft of its
    own family, its vocabulary widened to the large model's.
    """
    if profile.draft_model or profile.name == "cpu":
        return pair_of(profile)
    return replace(
        profile, draft_model=str(dummy_model_folder(DRAFT_FOR_GPU, _vocabulary(profile.model)))
    )


def _vocabulary(model: str) -> int:
    from transformers import AutoConfig

    local = Path(model) / "config.json"
    if local.is_file():
        return json.loads(local.read_text())["vocab_size"]
    return AutoConfig.from_pretrained(model).vocab_size
