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


def test_times_per_token_and_step():
    steps = ((0.0, 0), (1.0, 1), (1.5, 1), (2.0, 1), (2.5, 1), (4.5, 8), (6.5, 8))
    timeline = [{"t_s": t, "tokens": n} for t, n in steps]
    run = Run([Request([1.0, 1.5, 2.0]), Request([1.0])], timeline=timeline)
    assert spec.tpot_ms(run) == 500
    assert spec.step_ms(run) == 500, "the first step read the prompt"
    assert spec.step_ms(run, tokens=6) == 2000, "steps of a full batch alone"
    assert spec.step_ms(run, 90) > spec.step_ms(run, 50) == 750
    assert spec.step_ms(run, tokens=99) == 500, "no step is so full: all of them"


def stream(step_s, others=0.0):
    timeline = [{"t_s": step_s * i, "tokens": 1} for i in range(9)]
    times = [step_s * i for i in range(9)]
    run = Run([Request(times)], timeline=timeline)
    run.disturbance = Disturbance(others_share=others, steal_share=0.0)
    return run


def test_speed_ups_have_a_range_which_a_busy_machine_widens():
    plain, faster = [stream(0.01 + 1e-5 * i) for i in range(3)], [stream(0.005)] * 3
    gain = spec.faster_stream(plain, faster)
    assert gain.verdict == "better" and gain.low < 2 < gain.high
    busy = spec.faster_stream([stream(0.01, others=0.6)] * 3, faster)
    assert busy.verdict == "open", "the plain runs may have been slow because others ran"


def test_a_speed_up_leaves_out_the_first_token_and_the_whole_answer_has_it():
    def answer(step_s):
        run = stream(step_s)
        run.requests = [Request([1.0 + step_s * i for i in range(11)])]
        return run

    plain, faster = [answer(0.1)] * 3, [answer(0.05)] * 3
    assert spec.faster_stream(plain, faster).estimate == pytest.approx(2.0)
    assert spec.sooner_answers(plain, faster).estimate == pytest.approx(2.0 / 1.5)
    numbers = spec.numbers_of(plain, faster, 1)
    assert numbers["tpot_gain_x"] == pytest.approx(2.0)
    assert numbers["e2e_gain_x"] == pytest.approx(2.0 / 1.5)


def test_rates_are_compared_by_the_median_step_and_their_tokens():
    gain = spec.faster_at_median_step([stream(0.01)] * 3, [stream(0.02)] * 3, 3.0)
    assert (gain.estimate, gain.low, gain.high) == pytest.approx((1.5, 1.5, 1.5))


def drafting(step_s):
    """A stream whose steps make two tokens: one drafted token, accepted every time."""
    run = stream(step_s)
    run.requests[0].token_times_s = [step_s * (i // 2) for i in range(18)]
    run.counters = counted(8, 8, 8).counters
    return run


def test_a_record_of_drafts_has_its_gain_and_its_counts():
    numbers = spec.numbers_of([stream(0.01)] * 3, [drafting(0.012)] * 3, 1)
    assert numbers["tpot_gain_x"] == pytest.approx(0.01 / (0.096 / 17))
    assert numbers["acceptance_rate"] == 1.0
    assert numbers["step_ms"] == pytest.approx(12.0) and numbers["drafts"] == 8


def test_the_curve_has_the_formula_with_the_measured_cost():
    by_k = {1: [drafting(0.012)] * 3, 2: [drafting(0.014)] * 3}
    rows = spec.curve_by_drafts([stream(0.01)] * 3, by_k, 2)
    assert [row["k"] for row in rows] == [1, 2]
    fitted = rows[1]
    assert fitted["formula_x"] == pytest.approx(fitted["measured_x"]), "its c is from there"
    assert rows[0]["formula_x"] == pytest.approx(2 / (1 + fitted["c_low"]))
    assert spec.kept(rows[0], "speedup_x")["speedup_x_values"] == 3
    assert not {"gain", "measured_x"} & set(spec.kept(rows[0], "speedup_x"))


def test_rates_share_what_a_step_takes_longer_among_the_drafts():
    rates = spec.judged_rates([stream(0.01)] * 3, {0.9: [drafting(0.014)] * 3}, 2)
    assert rates.cost == pytest.approx((0.2, 0.2, 0.2))
    [row] = rates.rows
    assert row["alpha"] == 0.9 and row["mean_acceptance_length"] == 2.0
    assert row["measured_x"] == pytest.approx(2 / 1.4)


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
