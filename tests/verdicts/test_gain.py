"""helpers/verdicts: what is said follows from the range, and the range from the values."""

import math
import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.verdicts.gain import (
    MARGIN,
    T_95,
    Gain,
    gain_of_groups,
    gain_of_pairs,
    gain_of_ranks,
    rounds_that_count,
)
from helpers.verdicts.in_turn import MOST_ROUNDS, in_turn, rounds
from helpers.verdicts.machine import Disturbance


def noisy(rng, middle, spread):
    return middle * math.exp(rng.gauss(0, spread))


def test_a_plain_gain_is_said_with_its_range():
    gain = gain_of_pairs([(100, 195), (102, 204), (99, 197)], "higher")
    assert gain.verdict == "better" and gain.low < 2 < gain.high
    assert gain.sentence() == f"{gain.low:.2f} to {gain.high:.2f} times as fast"
    assert gain_of_pairs([(10, 5), (10, 5.1), (10, 4.9)], "lower").verdict == "better"
    assert gain_of_pairs([(10, 5), (10, 5.1), (10, 4.9)], "higher").verdict == "worse"


@pytest.mark.parametrize("pairs", [[(1, 2)], [(1, 2), (1, 2)]])
def test_one_or_two_runs_are_no_verdict(pairs):
    gain = gain_of_pairs(pairs, "higher")
    assert gain.verdict == "open" and "_low" not in "".join(gain.metrics("speedup_x"))
    assert gain.metrics("speedup_x")["speedup_x"] == pytest.approx(2)


def test_the_same_within_the_margin_is_called_no_difference():
    gain = gain_of_pairs([(100, 100.5), (101, 100.9), (100, 99.8), (100, 100.1)], "higher")
    assert gain.verdict == "same" and gain.sentence().startswith("no difference of more than 3 % (")


def test_a_wide_range_does_not_say_no_difference():
    gain = gain_of_pairs([(10, 12), (10, 60), (10, 30)], "higher")
    assert gain.verdict == "open" and gain.sentence().startswith("undecided, ")


def test_a_range_that_leaves_1_out_by_little_does_not_say_no_difference():
    gain = Gain(1.2, 1.02, 1.4, 3)
    assert gain.verdict == "open" and gain.sentence() == "undecided, 1.02 to 1.40 times as fast"
    assert Gain(1.1, 0.98, 1.2, 3).sentence() == "undecided, 0.98 to 1.20 times as fast"


def test_digits_and_verdict_agree_at_the_border():
    assert Gain(0.7, 0.48, 0.972, 3).sentence() == "undecided, 0.48 to 0.972 times as fast"
    assert Gain(1.2, 1.034, 1.4, 3).sentence() == "1.034 to 1.40 times as fast"


def test_a_range_near_1_says_how_small_a_difference_is_at_most():
    assert Gain(1.0, 0.95, 1.05, 3).sentence() == "no difference of more than 10 % (0.95 to 1.05)"
    assert Gain(0.96, 0.93, 0.99, 3).sentence() == "no difference of more than 10 % (0.93 to 0.99)"
    assert Gain(0.95, 0.88, 1.01, 3).undecided, "it may hide a loss of 12 %"
    assert Gain(1.02, 0.944, 1.1003, 3).sentence().endswith("10 % (0.94 to 1.10)"), "as shown"


@pytest.mark.parametrize("pairs", [1, 3])
def test_a_gain_is_read_as_it_was_written(pairs):
    gain = gain_of_pairs([(1, 1.5), (1, 1.6), (1, 1.4)][:pairs], "higher")
    assert Gain.read({"other": 2.0, **gain.metrics("speedup_x")}, "speedup_x") == gain
    assert Gain.read(gain.metrics("speedup_x"), "other") is None


def test_records_carry_the_range_beside_the_number():
    metrics = gain_of_pairs([(1, 1.5)] * 3, "higher").metrics("improvement_x")
    assert list(metrics) == [
        "improvement_x", "improvement_x_low", "improvement_x_high", "improvement_x_values",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "pairs, better",
    [([], "higher"), ([(0, 1)], "higher"), ([(1, math.nan)], "lower"), ([(1, 1)], "up")],
)
def test_what_cannot_be_compared_is_refused(pairs, better):
    with pytest.raises(ValueError):
        gain_of_pairs(pairs, better)


def in_pairs(rng):
    return gain_of_pairs([(noisy(rng, 10, 0.1), noisy(rng, 12, 0.1)) for _ in range(5)], "higher")


def in_unequal_groups(rng):
    few, many = ([noisy(rng, 10, 0.2) for _ in range(4)], [noisy(rng, 12, 0.05) for _ in range(9)])
    return gain_of_groups(few, many, "higher")


def by_ranks(rng):
    few, many = ([noisy(rng, middle, 0.1) for _ in range(n)] for middle, n in ((10, 6), (12, 9)))
    return gain_of_ranks(few, many, "higher")


@pytest.mark.parametrize("draw", [in_pairs, in_unequal_groups, by_ranks])
def test_the_range_holds_the_truth_about_as_often_as_it_says(draw):
    rng = random.Random(5)
    gains = [draw(rng) for _ in range(600)]
    held = sum(gain.low <= 1.2 <= gain.high for gain in gains)
    assert 0.93 <= held / 600 <= 0.97


@pytest.mark.parametrize("freedom, t", enumerate(T_95, 1))
def test_the_quantiles_leave_five_percent_outside(freedom, t):
    scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
    step = t / 2000
    middles = (step * (i + 0.5) for i in range(2000))
    inside = 2 * step * sum(scale * (1 + x * x / freedom) ** (-(freedom + 1) / 2) for x in middles)
    assert inside == pytest.approx(0.95, abs=1e-4)


@pytest.mark.parametrize(
    "low, high, verdict",
    [
        (1.04, 1.5, "better"),
        (1.02, 1.5, "open"),
        (0.9, 0.96, "worse"),
        (0.9, 0.98, "open"),
        (0.98, 1.02, "same"),
        (0.98, 1.04, "open"),
        (0.96, 1.02, "open"),
        (1.0, 1.6, "open"),
    ],
)
def test_what_lies_within_three_percent_is_the_same(low, high, verdict):
    gain = Gain(1.0, low, high, 3)
    assert (gain.verdict, gain.span) == (verdict, (low, high))


VALUES = st.lists(st.floats(0.5, 2.0), min_size=3, max_size=9)


@pytest.mark.parametrize("gain_of", [gain_of_groups, gain_of_ranks])
@settings(max_examples=60)
@given(VALUES, VALUES)
def test_the_estimate_lies_in_its_range_and_turning_the_question_round_turns_the_answer(
    gain_of, a, b
):
    gain, back = gain_of(a, b, "higher"), gain_of(b, a, "higher")
    assert gain.low <= gain.estimate <= gain.high
    assert back.estimate == pytest.approx(1 / gain.estimate)
    assert back.low == pytest.approx(1 / gain.high)
    assert (back.verdict == "worse") == (gain.verdict == "better")


def test_a_run_that_waited_counts_as_one_run_by_ranks():
    """TP 1 and TP 2 on two cores: every round of the second is slower, one of them by far."""
    one, two = [1.50, 1.53, 1.53, 1.61], [2.14, 2.20, 2.24, 5.14]
    assert gain_of_groups(one, two, "lower").verdict == "open"
    gain = gain_of_ranks(one, two, "lower")
    assert gain.verdict == "worse" and gain.estimate == pytest.approx(1.53 / 2.22, rel=0.02)
    seven = gain_of_ranks([*one, 1.5, 1.52, 1.55], [*two, 2.2, 2.21, 2.3], "lower")
    assert seven.low > 0.6, "with seven the one that waited is left out of the range"
    held, rng = 0, random.Random(3)
    for _ in range(400):
        groups = [[noisy(rng, middle, 0.1) for _ in range(7)] for middle in (10, 12)]
        gain = gain_of_ranks(*groups, "higher")
        held += gain.low <= 1.2 <= gain.high
    assert 0.92 <= held / 400 <= 0.98


def test_settings_without_a_difference_are_not_called_better():
    rng = random.Random(1)
    called = 0
    for _ in range(300):
        same = {name: (lambda: noisy(rng, 10, 0.05)) for name in ("plain", "other")}
        gains, _ = in_turn(same, "plain", "lower", budget_s=60)
        called += gains["other"].verdict in ("better", "worse")
    assert called / 300 < 0.06


def test_rounds_are_spent_where_the_answer_is_open():
    rng = random.Random(2)
    order = []

    def of(name, middle, spread):
        def measure():
            order.append(name)
            return noisy(rng, middle, spread)

        return measure

    settings_ = {
        "plain": of("plain", 10, 0.01),
        "twice": of("twice", 20, 0.01),
        "hardly": of("hardly", 10.6, 0.1),
    }
    gains, values = in_turn(settings_, "plain", "higher", budget_s=60)
    assert gains["twice"].verdict == "better" and len(values["twice"]) == 3
    assert len(values["hardly"]) > 3 and len(values["plain"]) == len(values["hardly"])
    assert order[:6] == ["plain", "twice", "hardly", "hardly", "twice", "plain"]


def test_the_budget_ends_it_after_three_rounds():
    gains, values = in_turn(
        {"plain": lambda: 1.0, "other": iter([1.0, 1.4, 0.7, 1.0, 1.0]).__next__},
        "plain",
        "higher",
        budget_s=0,
    )
    assert len(values["other"]) == 3 and gains["other"].verdict == "open"
    assert MARGIN < 0.1


def test_rounds_are_never_without_end():
    assert len(list(rounds(lambda: False, budget_s=60))) == MOST_ROUNDS


def runs_of(*values, others=0.0):
    disturbance = Disturbance(others_share=others, steal_share=0.0)
    return [SimpleNamespace(value=value, disturbance=disturbance) for value in values]


def test_a_round_that_others_slowed_does_not_count_where_enough_do(capsys):
    plain, changed = runs_of(10.0, 10.1, 9.9, 10.0), runs_of(20.0, 20.1, 19.9)
    changed += runs_of(4.0, others=0.6)
    rounds = list(zip(plain, changed, strict=True))
    assert rounds_that_count(rounds) == rounds[:3]
    why = "other programs can have made a run more than 1.25 times as long"
    assert capsys.readouterr().out == f"Left out: in 1 of 4 rounds {why}.\n"
    assert rounds_that_count(rounds[1:]) == rounds[1:], "two are too few: all three count"
    assert "Fewer than 3 calm rounds, so all count: in 1 of 3" in capsys.readouterr().out
    assert rounds_that_count(rounds[:3]) == rounds[:3] and not capsys.readouterr().out


def test_no_round_begins_that_would_not_end_in_time(monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("helpers.verdicts.in_turn.time", clock)
    made = []
    for number in rounds(lambda: False, budget_s=5.5):
        made.append(number)
        now[0] += 1.0
    assert made == [0, 1, 2, 3, 4]
