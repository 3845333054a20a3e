"""What speculative decoding did, from vLLM's counters and the times of its steps.

The letters are those of Leviathan et al. (arXiv 2211.17192), as in
helpers/lessons/papers/speculative.py: alpha, the chance that a drafted token is accepted; k
(gamma), drafted tokens a step; c, time of a draft over time of a plain step, all-in: whatever makes
a step longer is put on its drafts. A speed-up is TPOT without drafts over TPOT with them: it counts
the tokens after the first, which drafts cannot bring sooner.
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass, replace

import numpy as np

from helpers import tiny_model
from helpers.display import live
from helpers.engine.dummy_model import dummy_model_folder
from helpers.engine.profile import DRAFT_FOR_GPU, Profile, load_profile
from helpers.engine.retune import retuned
from helpers.lessons.papers import speculative as formula
from helpers.measure import Measurement, run_workload, warm_up
from helpers.verdicts import in_turn
from helpers.verdicts.gain import LEAST_VALUES, Gain, gain_of_runs

FEW_DRAFTS = 10  # shares of fewer say nothing


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


def repeated(engine, workload, concurrency: int = 1, budget_s: float = 0.0) -> list[Measurement]:
    """The workload run as often as a range needs: three times, more often where the runs vary.

    budget_s: no further run is begun that would not end within so many seconds.
    """
    warm_up(engine)

    def run() -> Measurement:
        return run_workload(engine, workload, concurrency=concurrency, progress=False)

    return in_turn.repeated(run, tpot_ms, budget_s)


def numbers_of(plain: list[Measurement], drafting: list[Measurement], k: int) -> dict[str, float]:
    """What a record keeps of single streams with k drafts a step, beside those without."""
    counted = acceptance(drafting[:1], k)
    return {
        **faster_stream(plain, drafting).metrics("tpot_gain_x"),
        **sooner_answers(plain, drafting).metrics("e2e_gain_x"),
        **counted.metrics,
        "alpha": counted.alpha,
        "step_ms": statistics.median(map(step_ms, drafting)),
    }


def curve_by_drafts(
    plain: list[Measurement], by_k: dict[int, list[Measurement]], fitted_k: int
) -> list[dict]:
    """Single streams by the number of drafts, beside the formula with the c of `fitted_k` drafts.

    Rows: k, alpha, measured_x, gain, whole_answer (a Gain, too), c_low, c_high, formula_x, and
    best_x: the gain of the best number of drafts over this one, in which `plain` takes no part.
    """
    gains = {k: faster_stream(plain, by_k[k]) for k in sorted(by_k)}
    alphas = {k: acceptance(by_k[k][:1], k).alpha for k in gains}
    costs = {k: formula.draft_cost(gain, alphas[k], k) for k, gain in gains.items()}
    _, c, _ = costs[fitted_k]
    best = max(gains, key=lambda k: gains[k].estimate)
    rows = []
    for k, gain in gains.items():
        row = {"k": k, "alpha": alphas[k], "measured_x": gain.estimate, "gain": gain}
        row |= {"whole_answer": sooner_answers(plain, by_k[k])}
        row |= {"best_x": faster_stream(by_k[k], by_k[best])}
        row |= {"c_low": costs[k][0], "c_high": costs[k][2]}
        rows.append(row | {"formula_x": formula.speedup(alphas[k], k, c)})
    return rows


def batch_row(n: int, plain: list[Measurement], drafting: list[Measurement]) -> dict:
    """Of n requests at once, without and with drafts: their throughput, prompts and all.

    plain_step_ms: of full steps. Tokens/s are geometric means, as the gain is one of ratios.
    """

    def tokens_per_s(runs: list[Measurement]) -> float:
        return statistics.geometric_mean(run.metrics["output_tokens_per_s"] for run in runs)

    gain = more_tokens(plain, drafting)
    return {
        "requests": n,
        "plain_tokens_per_s": tokens_per_s(plain),
        "speculative_tokens_per_s": tokens_per_s(drafting),
        "measured_x": gain.estimate,
        "plain_step_ms": statistics.median(step_ms(run, tokens=0.75 * n) for run in plain),
        "gain": gain,
    }


def at_rates(engine, stream, rates: list[float], k: int) -> dict[float, list[Measurement]]:
    """The stream at each rate of acceptance that is set by hand, in rounds: rate -> its runs."""
    runs: dict[float, list[Measurement]] = {rate: [] for rate in rates}
    for rate in live.through(rates * LEAST_VALUES, "rates of acceptance", "runs"):
        with retuned(engine, synthetic_acceptance_rates=acceptance_rates(rate, k)):
            runs[rate].append(run_workload(engine, stream, progress=False))
    return runs


@dataclass(frozen=True)
class Rates:
    """What rates of acceptance set by hand did.

    rows: one a rate: alpha, measured_alpha, measured_x, gain, mean_acceptance_length,
    expected_length, and counts. slower: a median step with k drafts over one without.
    """

    rows: list[dict]
    slower: Gain
    k: int

    @property
    def cost(self) -> tuple[float, float, float]:
        """(low, middle, high) of c: what a step takes longer, put on its drafts."""
        slower = self.slower
        low, middle, high = ((x - 1) / self.k for x in (slower.low, slower.estimate, slower.high))
        return low, middle, high


def judged_rates(lone: list[Measurement], runs: dict[float, list[Measurement]], k: int) -> Rates:
    """Beside a lone stream without drafts. runs: as `at_rates` gives them."""
    rows = []
    for alpha, drafting in runs.items():
        counted = acceptance(drafting, k)
        gain = faster_at_median_step(lone, drafting, counted.mean_length)
        row = {
            "alpha": alpha,
            "measured_alpha": counted.alpha,
            "measured_x": gain.estimate,
            "expected_length": formula.expected_tokens(alpha, k),
            "step_ms": _median_step(drafting),
            "gain": gain,
        }
        rows.append(row | counted.metrics)
    drafting = [run for of_rate in runs.values() for run in of_rate]
    slower = gain_of_runs(lone, drafting, lambda run: step_ms(run, 50), "higher")
    return Rates(rows, slower, k)


def _median_step(runs: list[Measurement]) -> float:
    return statistics.median(step_ms(run, 50) for run in runs)


def kept(row: dict, name: str) -> dict[str, float]:
    """A row's numbers for a record: its gain as `name` with its range comes first."""
    numbers = {key: value for key, value in row.items() if key not in ("gain", "measured_x")}
    return row["gain"].metrics(name) | numbers


def faster_stream(plain: list[Measurement], drafting: list[Measurement]) -> Gain:
    """How many times as fast the tokens after the first come with drafts: the speed-up."""
    return gain_of_runs(plain, drafting, tpot_ms, "lower")


def sooner_answers(plain: list[Measurement], drafting: list[Measurement]) -> Gain:
    """How many times as soon whole answers are there (E2E), their first token included."""

    def e2e_s(run: Measurement) -> float:
        return statistics.fmean(request.e2e_s for request in run.requests)

    return gain_of_runs(plain, drafting, e2e_s, "lower")


def more_tokens(plain: list[Measurement], drafting: list[Measurement]) -> Gain:
    """How many times the output tokens/s of a batch."""
    return gain_of_runs(plain, drafting, lambda run: run.metrics["output_tokens_per_s"], "higher")


def faster_at_median_step(
    plain: list[Measurement], drafting: list[Measurement], tokens_per_step: float
) -> Gain:
    """How many times as fast, by the median step of each run and the tokens that a step made.

    A step takes as long whether its drafts are accepted or not, so the median step of rounds that
    were interleaved compares rates of acceptance fairly while the machine's speed changes.
    """
    steps = gain_of_runs(plain, drafting, lambda run: step_ms(run, 50), "lower")
    return steps.times(tokens_per_step)


def step_ms(measurement: Measurement, percent: float = 25, tokens: int = 0) -> float:
    """Time of a decode step in milliseconds: a percentile, the lower quartile.

    Of the steps that made `tokens` or more; of all when none did. Steps that read a prompt are few
    and long, and other programs can only make a step longer.
    """
    pairs = list(itertools.pairwise(measurement.timeline))
    full = [(before, step) for before, step in pairs if step["tokens"] >= tokens] or pairs
    took_s = [step["t_s"] - before["t_s"] for before, step in full]
    return 1000 * float(np.percentile(took_s, percent))


def tpot_ms(measurement: Measurement) -> float:
    """Time from first to last token over the tokens after the first, all requests together (ms)."""
    times_s = [request.token_times_s for request in measurement.requests]
    took_s = sum(one[-1] - one[0] for one in times_s)
    return 1000 * took_s / sum(len(one) - 1 for one in times_s)


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
