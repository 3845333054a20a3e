"""What speculative decoding did, from vLLM's counters and the times of its steps.

The letters are those of Leviathan et al. (arXiv 2211.17192), as in
helpers/lessons/papers/speculative.py: alpha, the chance that a drafted token is accepted; k
(gamma), drafted tokens a step; c, time of a draft over time of a plain step, all-in: whatever makes
a step longer is put on its drafts. The acceptance rate is the accepted share of all drafts, lower
than alpha: after a refused draft the others of its step are lost. A speed-up is TPOT without drafts
over TPOT with them (p50): it counts the tokens after the first, which drafts cannot bring sooner.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from helpers import tiny_model
from helpers.engine.dummy_model import dummy_model_folder
from helpers.engine.profile import DRAFT_FOR_GPU, Profile, load_profile
from helpers.lessons.advanced_features.turns import accepting
from helpers.lessons.papers import speculative as formula
from helpers.measure import Measurement
from helpers.verdicts.gain import Gain, gain_of_pairs, rounds_that_count
from helpers.verdicts.machine import most_disturbed


@dataclass(frozen=True)
class Acceptance:
    """Counted by vLLM over the runs of a workload.

    drafts: steps that verified drafted tokens. drafted, accepted: tokens. mean_length: tokens
    gained by a step, 1 + accepted / drafts, as vLLM defines it. alpha: the chance for each token
    that explains mean_length, were it the same at every position.
    """

    drafts: int
    drafted: int
    accepted: int
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


def acceptance(runs: list[Measurement], num_speculative_tokens: int) -> Acceptance:
    """Read the counters `spec_decode_*` of all runs together. Zeros when nothing was drafted."""

    def total(name: str) -> int:
        return int(sum(run.counters.get(f"spec_decode_num_{name}", 0) for run in runs))

    drafts, drafted, accepted = map(total, ("drafts", "draft_tokens", "accepted_tokens"))
    if not drafts:
        return Acceptance(0, 0, 0, 1.0, 0.0)
    mean_length = 1 + accepted / drafts
    alpha = formula.alpha_from_length(mean_length, num_speculative_tokens)
    return Acceptance(drafts, drafted, accepted, mean_length, alpha)


def numbers_of(gain: Gain, drafting: list[Measurement], k: int) -> dict[str, float]:
    """What a record keeps of single streams with k drafts a step; gain: their speed-up."""
    counted = acceptance(drafting[:1], k)
    return {
        **gain.metrics("tpot_gain_x"),
        **counted.metrics,
        "a": counted.alpha,
        "step_ms": statistics.median(map(step_ms, drafting)),
    }


def batch_row(n: int, plain: list[Measurement], drafting: list[Measurement]) -> dict:
    """Of n requests at once, without and with drafts: their throughput, prompts and all.

    Tokens/s are geometric means, as the gain is one of ratios.
    """

    def tokens_per_s(runs: list[Measurement]) -> float:
        return statistics.geometric_mean(run.metrics["output_tokens_per_s"] for run in runs)

    gain = gain_in_turn(plain, drafting, lambda run: run.metrics["output_tokens_per_s"], "higher")
    return {
        "requests": n,
        "plain_tokens_per_s": tokens_per_s(plain),
        "speculative_tokens_per_s": tokens_per_s(drafting),
        "measured_x": gain.estimate,
        "gain": gain,
    }


def rate_row(a: float, plain: list[Measurement], drafting: list[Measurement], k: int) -> dict:
    """Of one stream whose drafts were accepted at a rate set by hand: its speed-up, and counts."""
    counted, gain = acceptance(drafting, k), faster_stream(plain, drafting)
    row = {"a set": a, "a": counted.alpha, "measured_x": gain.estimate, "gain": gain}
    row["step_ms"] = statistics.median(step_ms(run, 50) for run in drafting)
    return row | counted.metrics


def slower_step(plain: list[Measurement], at_rates: list[list[Measurement]]) -> Gain:
    """How many times as long a median step takes with drafts, all `at_rates` of a round together.

    A step takes as long whether its drafts are accepted or not.
    """
    rounds = rounds_that_count(list(zip(plain, *at_rates, strict=True)))
    return gain_of_pairs(
        [
            (step_ms(before, 50), statistics.geometric_mean(step_ms(run, 50) for run in drafting))
            for before, *drafting in rounds
        ],
        "higher",
    )


def as_long(at_one: list[Measurement], at_other: list[Measurement]) -> Gain:
    """How many times as long a median step takes at another acceptance: the formula says 1."""
    return gain_in_turn(at_one, at_other, lambda run: step_ms(run, 50), "higher")


def at_rate(engine, a: float | None, k: int):
    """In the block each of k drafts is accepted with chance a; None: no drafts, nothing is set."""
    return accepting(engine, None if a is None else acceptance_rates(a, k))


def save_drafter(store, key: tuple, drafting: list, gain: Gain, k: int, pair: Profile) -> None:
    """A record of a drafter (section 3). key: its name, and the kind of questions."""
    name, kind = key
    variant = f"ngram, {kind}" if name == "ngram" else f"draft model, k={k}"
    numbers = numbers_of(gain, drafting, k)
    store.save_run("speculation", variant, with_worst(drafting), numbers, profile=pair)


def save_rates(store, rows: list[dict], runs: dict, longer: Gain, pair: Profile) -> None:
    """A record for each rate of one stream (section 8). longer: a step's time, for notebook 3."""
    for row in rows:
        a, numbers = row["a set"], kept(row, "tpot_gain_x") | longer.metrics("step_x")
        run = with_worst(runs[a, 1])
        store.save_run("speculation", f"synthetic, a={a}", run, numbers, profile=pair)


def save_batches(store, rows: list[dict], runs: dict, a: float, pair: Profile) -> None:
    """A record for each number of requests at once (section 8)."""
    for row in rows:
        n, numbers = row["requests"], kept(row, "throughput_gain_x")
        name = f"synthetic, a={a}, {n} at once"
        store.save_run("speculation", name, with_worst(runs[a, n]), numbers, profile=pair)


def with_worst(runs: list[Measurement]) -> Measurement:
    """The first run, for a record of them all: with what disturbed one of them most."""
    return replace(runs[0], disturbance=most_disturbed(run.disturbance for run in runs))


def kept(row: dict, name: str) -> dict[str, float]:
    """A row's numbers for a record: its gain as `name` with its range comes first."""
    numbers = {key: value for key, value in row.items() if key not in ("gain", "measured_x")}
    return row["gain"].metrics(name) | numbers


def gain_in_turn(
    plain: list[Measurement], drafting: list[Measurement], value: Callable, better: str
) -> Gain:
    """Of runs that took turns, the first beside the first; see `rounds_that_count`."""
    turns = rounds_that_count(list(zip(plain, drafting, strict=True)))
    return gain_of_pairs([(value(before), value(after)) for before, after in turns], better)


def faster_stream(plain: list[Measurement], drafting: list[Measurement]) -> Gain:
    """How many times as fast the tokens after the first come with drafts: the speed-up."""
    return gain_in_turn(plain, drafting, lambda run: run.metrics["tpot_ms_p50"], "lower")


def step_ms(measurement: Measurement, percent: float = 25) -> float:
    """Time of a decode step in milliseconds: a percentile, the lower quartile.

    Steps that read a prompt are few and long, and other programs can only make a step longer.
    """
    pairs = itertools.pairwise(measurement.timeline)
    took_s = [step["t_s"] - before["t_s"] for before, step in pairs]
    return 1000 * float(np.percentile(took_s, percent))


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


def share_of_layers(pair: Profile) -> float:
    """Layers of the draft model over those of the model: a guess at c."""
    return _config(pair.draft_model).num_hidden_layers / _config(pair.model).num_hidden_layers


def _vocabulary(model: str) -> int:
    return _config(model).vocab_size


def _config(model: str):
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model)
