"""What speculative decoding did, from vLLM's counters and the times of its steps.

The letters are those of Leviathan et al. (arXiv 2211.17192), as in
helpers/lessons/papers/speculative.py: alpha, the chance that a drafted token is accepted; k
(gamma), drafted tokens a step; c, time of a draft over time of a plain step.
"""

from __future__ import annotations

import itertools
import os
import statistics
from dataclasses import dataclass, replace

from helpers import tiny_model
from helpers.engine.dummy_model import dummy_model_folder
from helpers.engine.profile import DRAFT_FOR_GPU, Profile, load_profile
from helpers.lessons.papers import speculative as formula
from helpers.measure import Measurement, percentile, run_workload

NOISE = 0.05  # of a time that was measured twice: what differs by less is not called a difference


@dataclass(frozen=True)
class Acceptance:
    """Counted by vLLM over one workload.

    drafts: steps that verified drafted tokens. drafted, accepted: tokens. per_position: share of
    drafts whose first, second, ... token was accepted. mean_length: tokens gained by a step, 1 +
    accepted / drafts, as vLLM defines it. alpha: the chance for each token that explains
    mean_length, were it the same at every position.
    """

    drafts: int
    drafted: int
    accepted: int
    per_position: list[float]
    mean_length: float
    alpha: float

    @property
    def rate(self) -> float:
        """Accepted share of all drafted tokens (vLLM's acceptance rate)."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def metrics(self) -> dict[str, float]:
        """What a record keeps of it."""
        return {
            "acceptance_rate": self.rate,
            "mean_acceptance_length": self.mean_length,
            "drafts": self.drafts,
            "drafted": self.drafted,
            "accepted": self.accepted,
        }


def acceptance(measurement: Measurement, num_speculative_tokens: int) -> Acceptance:
    """Read the counters `spec_decode_*`. Zeros when nothing was drafted."""
    counted = measurement.counters
    names = ("drafts", "draft_tokens", "accepted_tokens")
    drafts, drafted, accepted = (int(counted.get(f"spec_decode_num_{name}", 0)) for name in names)
    if not drafts:
        return Acceptance(0, 0, 0, [0.0] * num_speculative_tokens, 1.0, 0.0)
    positions = counted["spec_decode_num_accepted_tokens_per_pos"][:num_speculative_tokens]
    mean_length = 1 + accepted / drafts
    alpha = formula.alpha_from_length(mean_length, num_speculative_tokens)
    per_position = [count / drafts for count in positions]
    return Acceptance(drafts, drafted, accepted, per_position, mean_length, alpha)


def fastest(engine, workload, concurrency: int = 1) -> Measurement:
    """The workload run twice: the faster run.

    One request at a time (concurrency 1), each with the faster of its answers. Other programs can
    only slow a run down.
    """
    runs = [
        run_workload(engine, workload, concurrency=concurrency, progress=False) for _ in range(2)
    ]
    best = min(runs, key=lambda run: run.duration_s)
    if concurrency > 1:
        return best
    answers = zip(*(run.requests for run in runs), strict=True)
    faster = [min(same, key=lambda request: request.e2e_s) for same in answers]
    return replace(best, requests=faster)


def step_ms(measurement: Measurement, percent: float = 25, tokens: int = 0) -> float:
    """Time of a decode step in milliseconds: a percentile, the lower quartile.

    Of the steps that made `tokens` or more; of all when none did. Steps that read a prompt are few
    and long, and other programs can only make a step longer.
    """
    pairs = list(itertools.pairwise(measurement.timeline))
    full = [(before, step) for before, step in pairs if step["tokens"] >= tokens] or pairs
    return 1000 * percentile([step["t_s"] - before["t_s"] for before, step in full], percent)


def decode_ms_per_token(measurement: Measurement) -> float:
    """Time between first and last token over the tokens in between, all requests together (ms)."""
    several = [r for r in measurement.requests if r.output_tokens > 1]
    seconds = sum(r.e2e_s - r.ttft_s for r in several)
    return 1000 * seconds / sum(r.output_tokens - 1 for r in several)


def draft_cost(step_ms_by_k: dict[int, float], plain_step_ms: float) -> tuple[float, float]:
    """(c, fixed): what drafts cost, as shares of a plain step.

    Read off a straight line through the times of steps with k drafts. c is its slope, what one more
    draft costs; fixed is how much longer than a plain step it makes a step with no draft, 0 when
    that is not above the noise. The formula knows only c. Raises ValueError with fewer than two
    values of k.
    """
    if len(step_ms_by_k) < 2:
        raise ValueError("A cost for each draft needs the times of at least two numbers of drafts.")
    slope, intercept = statistics.linear_regression(list(step_ms_by_k), list(step_ms_by_k.values()))
    fixed = intercept / plain_step_ms - 1
    return max(0.0, slope / plain_step_ms), fixed if fixed >= NOISE else 0.0


def first_differences(plain: Measurement, other: Measurement) -> list[dict]:
    """Requests whose outputs differ.

    Each as request, position of the first other token, and the two texts from there ("plain",
    "speculative").
    """
    found = []
    for i, (a, b) in enumerate(zip(plain.requests, other.requests, strict=True)):
        if a.token_ids == b.token_ids:
            continue
        position = len(os.path.commonprefix([a.token_ids, b.token_ids]))
        same = len(os.path.commonprefix([a.text, b.text]))
        texts = {"plain": a.text[same:], "speculative": b.text[same:]}
        found.append({"request": i, "position": position, **texts})
    return found


# --- which pair of models, and how it drafts ------------------------------------------------------


def pair_of(profile: Profile) -> Profile:
    """The profile if it has a draft model, else one with the pair that ships with the workbook.

    Random weights write random text: whether a draft is accepted then says nothing. The shipped
    pair is so small that it is not worth compiling.
    """
    if profile.draft_model:
        return profile
    pair = load_profile(profile.name, str(tiny_model.TARGET))
    context = min(pair.max_model_len, 4096)  # what the shipped models were made for
    args = {"enforce_eager": True, "kv_cache_memory_bytes": 2**30, **pair.engine_args}
    args["max_model_len"] = context
    return replace(pair, max_model_len=context, engine_args=args)


def synthetic_pair(profile: Profile) -> Profile:
    """The pair whose drafts are accepted at rates set by hand.

    With synthetic acceptance weights do not matter: on a GPU with random weights the large model
    gets a draft of its own family, its vocabulary widened to the large model's.
    """
    if profile.draft_model or profile.name == "cpu":
        return pair_of(profile)
    draft = dummy_model_folder(DRAFT_FOR_GPU, _vocabulary(profile.model))
    return replace(profile, draft_model=str(draft))


def drafts(pair: Profile, k: int) -> dict:
    """`speculative_config` with k tokens from the pair's draft model."""
    config = {"method": "draft_model", "model": pair.draft_model, "num_speculative_tokens": k}
    if _vocabulary(pair.model) != _vocabulary(pair.draft_model):
        config["use_heterogeneous_vocab"] = True
    return config


def synthetic_drafts(pair: Profile, k: int, alpha: float) -> dict:
    """`speculative_config` whose drafts are accepted by chance, each with probability alpha."""
    by_chance = {
        "rejection_sample_method": "synthetic",
        "synthetic_acceptance_rates": acceptance_rates(alpha, k),
    }
    return drafts(pair, k) | by_chance


def acceptance_rates(alpha: float, k: int) -> list[float]:
    """The chances that the first, the first two, ..., all k drafts are accepted, alpha for each."""
    return [alpha**i for i in range(1, k + 1)]


def _vocabulary(model: str) -> int:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model).vocab_size
