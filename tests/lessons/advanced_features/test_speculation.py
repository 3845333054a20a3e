"""What speculation reads from counters and times, against numbers worked out by hand."""

from dataclasses import dataclass, field

import pytest

from helpers.engine.profile import load_profile
from helpers.lessons.advanced_features import speculation as spec
from helpers.verdicts.machine import Disturbance


@dataclass
class Request:
    token_times_s: list = field(default_factory=list)
    token_ids: list = field(default_factory=list)
    arrival_s: float = 0.0

    @property
    def output_tokens(self):
        return len(self.token_times_s)

    @property
    def ttft_s(self):
        return self.token_times_s[0] - self.arrival_s

    @property
    def e2e_s(self):
        return self.token_times_s[-1] - self.arrival_s


@dataclass
class Run:
    requests: list = field(default_factory=list)
    counters: dict = field(default_factory=dict)
    timeline: list = field(default_factory=list)
    disturbance: object = None


def counted(drafts, drafted, accepted):
    return Run(
        counters={
            "spec_decode_num_drafts": drafts,
            "spec_decode_num_draft_tokens": drafted,
            "spec_decode_num_accepted_tokens": accepted,
        }
    )


def test_acceptance_from_counters():
    run = counted(10, 40, 15)
    a = spec.acceptance([run], 4)
    assert (a.drafts, a.drafted, a.accepted) == (10, 40, 15)
    assert spec.acceptance([run, run], 4).drafts == 20, "of all runs together"
    assert a.mean_length == 2.5 and a.rate == 0.375
    assert sum(a.alpha**i for i in range(1, 5)) == pytest.approx(1.5, abs=1e-3), (
        "alpha explains the mean length"
    )


def test_nothing_drafted_is_zero_not_an_error():
    a = spec.acceptance([Run()], 4)
    assert (a.drafts, a.rate, a.mean_length, a.alpha) == (0, 0.0, 1.0, 0.0)


def test_the_time_of_a_step():
    steps = ((0.0, 0), (1.0, 1), (1.5, 1), (2.0, 1), (2.5, 1), (4.5, 8), (6.5, 8))
    run = Run(timeline=[{"t_s": t, "tokens": n} for t, n in steps])
    assert spec.step_ms(run) == 500, "the first step read the prompt"
    assert spec.step_ms(run, 90) > spec.step_ms(run, 50) == 750


def stream(step_s, others=0.0, first_s=1.0):
    """Nine steps, a token each; the first token after `first_s`."""
    times = [step_s * i for i in range(9)]
    run = Run([Request(times)], timeline=[{"t_s": t, "tokens": 1} for t in times])
    run.disturbance = Disturbance(others_share=others, steal_share=0.0)
    run.metrics = {"tpot_ms_p50": 1000 * step_s, "e2e_ms_p50": 1000 * (first_s + 10 * step_s)}
    return run


def test_speed_ups_have_a_range_from_which_a_drift_that_both_share_is_gone():
    drift = (1.0, 1.5, 2.0, 2.5)
    plain, faster = ([stream(s * x) for x in drift] for s in (0.01, 0.005))
    gain = spec.faster_stream(plain, faster)
    assert (gain.estimate, gain.low, gain.high) == pytest.approx((2, 2, 2))
    slowed = [*plain[:3], stream(0.02, others=0.6)]
    assert spec.faster_stream(slowed, faster).estimate == pytest.approx(2), "left out"


def test_a_speed_up_leaves_out_the_first_token():
    plain, faster = [stream(0.1)] * 3, [stream(0.05)] * 3
    assert spec.faster_stream(plain, faster).estimate == pytest.approx(2.0)
    numbers = spec.numbers_of(spec.faster_stream(plain, faster), faster, 1)
    assert numbers["tpot_gain_x"] == pytest.approx(2.0)


def test_a_rate_set_by_hand_has_the_speed_up_of_its_tokens():
    drafting = stream(0.014)
    drafting.counters = counted(8, 16, 8).counters
    row = spec.rate_row(0.6, [stream(0.01)] * 3, [drafting] * 3, 2)
    assert row["a set"] == 0.6 and row["mean_acceptance_length"] == 2.0
    assert row["measured_x"] == pytest.approx(1 / 1.4) and row["acceptance_rate"] == 0.5
    assert row["a"] + row["a"] ** 2 == pytest.approx(1.0, abs=1e-3)
    kept = spec.kept(row, "tpot_gain_x")
    assert kept["tpot_gain_x_values"] == 3 and not {"gain", "measured_x"} & set(kept)


def test_a_step_is_so_many_times_as_long_at_all_rates_together():
    plain = [stream(0.01), stream(0.02), stream(0.01)]
    fast, slow = ([stream(x * s) for s in (0.01, 0.02, 0.01)] for x in (1.0, 4.0))
    gain = spec.slower_step(plain, [fast, slow])
    assert (gain.low, gain.estimate, gain.high) == pytest.approx((2, 2, 2))


def test_a_step_at_one_acceptance_is_held_against_another():
    low, high = ([stream(x * s) for s in (0.01, 0.02, 0.01)] for x in (1.0, 2.0))
    assert spec.as_long(low, high).estimate == pytest.approx(2) and spec.as_long(low, low).low == 1


def test_a_record_of_several_runs_names_what_disturbed_one_most():
    runs = [stream(0.01), stream(0.02, others=0.6)]
    told = spec.with_worst(runs)
    assert told.disturbance.others_share == 0.6 and told.requests is runs[0].requests


def test_pairs_have_drafts_and_real_weights():
    shipped = load_profile("cpu")
    assert spec.pair_of(shipped) is shipped and spec.synthetic_pair(shipped) is shipped
    random_weights = load_profile("cpu", "Qwen/Qwen2.5-0.5B-Instruct", "dummy")
    pair = spec.pair_of(random_weights)
    assert pair.weights == "shipped" and pair.draft_model and pair.engine_args["enforce_eager"]
    assert "use_heterogeneous_vocab" not in spec.drafts(pair, 4)
    by_hand = spec.synthetic_drafts(pair, 2, 0.5)
    assert by_hand["synthetic_acceptance_rates"] == [0.5, 0.25]
    assert by_hand.items() > spec.drafts(pair, 2).items()
