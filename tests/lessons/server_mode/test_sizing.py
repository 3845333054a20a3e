"""How much load notebook 5 tries, and what it makes of the measurements."""

import itertools
import math
import random

import pytest

from helpers.display.numbers import number
from helpers.lessons.server_mode import sizing, wording
from helpers.server.load import while_arriving


def test_the_knee_is_where_rate_over_latency_is_highest():
    measured = (10, 100, ""), (18, 120, ""), (20, 400, "")
    names = ("requests_per_s", "e2e_ms_mean", "disturbed")
    rows = [dict(zip(names, row, strict=True)) for row in measured]
    assert sizing.knee(rows) is rows[1]
    rows[1]["disturbed"] = "other programs took 81 % of the cores"
    assert sizing.knee(rows) is rows[0], "of those that nothing disturbed"
    rows[0]["disturbed"] = "other programs took 76 % of the cores"
    assert sizing.knee(rows) is rows[1], "one run alone has no knee"
    with pytest.raises(ValueError):
        sizing.knee([])


def test_the_rate_to_size_by_is_the_highest_at_which_the_goal_holds():
    shares = {10: 0.96, 21: 0.91, 31: 0.62, 42: 0.3}
    rows = [{"arrived_per_s": rate, "good_share": share} for rate, share in shares.items()]
    assert sizing.best_rate(rows, 0.9) is rows[1], (
        "31 a second have more answers in time (19), and 38 % of the users wait too long"
    )
    assert sizing.best_rate(rows, 0.95) is rows[0] and sizing.best_rate(rows, 0.99) is None


def test_levels_of_a_closed_loop_get_eight_requests_a_client_where_time_allows():
    assert sizing.closed_loop_requests(1, 5) == 8
    requests = sizing.closed_loop_requests
    assert requests(32, 5, {"clients": 8, "requests_per_s": 40}) == 256
    twice = requests(64, 3, {"clients": 16, "requests_per_s": 40})
    assert twice == 3 * 64, "twice as fast as 16, and every client sends as many"
    assert requests(256, 5, {"clients": 128, "requests_per_s": 60}) == 512
    least = requests(256, 1, {"clients": 128, "requests_per_s": 60})
    assert least == 512, "two each at least"


PLACES, CAPACITY = 64, 57


def row(rate, seconds=2.0, seed=0, good_share=1.0):
    """A run at a rate of a server that answers CAPACITY requests a second and no more.

    Everybody stays as long as in a full server, so it fills for half of a run of 2 s.
    """
    draw, stay_s, ends = random.Random(seed), PLACES / CAPACITY, []
    gaps_s = [draw.expovariate(rate) for _ in range(round(rate * seconds))]
    # As the benchmark does: the last one comes when it should.
    stretched = len(gaps_s) / rate / sum(gaps_s)
    sent_s = [stretched * at for at in itertools.accumulate(gaps_s)]
    for now in sent_s:
        begin = max(now, ends[-PLACES]) if len(ends) >= PLACES else now
        ends.append(begin + stay_s)
    result = {"start_times": sent_s, "errors": [""] * len(ends), "duration": max(ends)}
    result["output_lens"] = [48] * len(ends)
    result["itls"] = [[stay_s / 47] * 47] * len(ends)
    result["ttfts"] = [end - stay_s - sent for sent, end in zip(sent_s, ends, strict=True)]
    found = {"good_share": good_share, "completed": len(ends)}
    return found | while_arriving(result) | {"requests_per_s": len(ends) / max(ends)}


@pytest.mark.parametrize("part, behind", [(0.4, 0), (0.7, 0), (0.9, 0), (1.5, 100), (2, 100)])
def test_a_server_that_fills_is_not_one_that_falls_behind(part, behind):
    """The verdict is about the rate, whatever the arrivals of the run are like."""
    rows = [row(part * CAPACITY, 4, seed) for seed in range(100)]
    found = sum(sizing.fell_behind(one, PLACES) for one in rows)
    assert abs(found - behind) <= 2
    assert all(one["arrived_per_s"] == pytest.approx(part * CAPACITY, rel=0.05) for one in rows)


@pytest.mark.parametrize("answered", [40, 50, 57])
def test_the_capacity_lies_between_what_was_answered_and_what_was_too_much(answered):
    rows = []
    rates = (0.4 * answered, 0.7 * answered)
    for rate in sizing.rates_to_try(rates, answered, rows, 0.9, PLACES):
        rows.append(row(rate, sizing.seconds_at(rate, answered, 2)))
    rows.append(row(2 * answered))
    low, high = sizing.capacity(rows, PLACES)
    assert low == max(one["requests_per_s"] for one in rows)
    assert low <= CAPACITY < high < 2 * answered
    said = wording.capacity(rows, PLACES)
    assert f"up to {number(low)} requests" in said and f"at {number(high)} arrivals" in said
    assert said.endswith("Its capacity lies between the two.") and "something else" not in said
    busy = [one | {"disturbed": "other programs took 50 % of the cores"} for one in rows]
    assert "while something else used the machine" in wording.capacity(busy, PLACES)


def test_runs_that_contradict_each_other_decide_nothing():
    slow = row(1.5 * CAPACITY) | {"arrived_per_s": 40.0}
    said = wording.capacity([slow], PLACES)
    assert said.endswith("These runs do not agree.") and "lies between" not in said
    calm = row(30.0)
    assert sizing.capacity([calm], PLACES) == (calm["requests_per_s"], math.inf)
    assert "at least that" in wording.capacity([calm], PLACES)


def test_a_rate_above_what_was_answered_is_undecided_until_a_queue_is_there():
    assert wording.at_rate(row(30.0), PLACES, 54).endswith("at the last arrival")
    assert wording.at_rate(row(60.0), PLACES, 54).endswith("too short to tell")
    assert wording.at_rate(row(100.0), PLACES, 54).endswith("fell behind")


def test_a_goal_that_no_rate_met_is_looked_for_at_lower_rates():
    rows = []
    for rate in sizing.rates_to_try([40, 70], 100, rows, 0.9, PLACES):
        rows.append(row(rate, good_share=1.0 if rate < 12 else 0.5))
    assert [round(one["arrived_per_s"], 1) for one in rows[-3:]] == [20, 10, 14.1], (
        "and once more between"
    )
    assert sizing.best_rate(rows, 0.9)["arrived_per_s"] == pytest.approx(10)
    most = sizing.capacity(rows, PLACES)[0]
    said = wording.goal(rows, 0.9, most)
    assert "10 a second is the highest at which at least 90 % met the goal: 100 %" in said
    assert f". At 14.1, {1410 / most:.0f} % of the most answers a second, it was 50 %" in said
    assert said.endswith("Goodput was highest at 130 a second, answers at 130, in one run each.")
    rows = [row(10, good_share=0.92), row(20, good_share=0.88)]
    assert wording.goal(rows, 0.9, 100).count("which may be chance") == 2
    rows = []
    for rate in sizing.rates_to_try([40, 70], 100, rows, 0.9, PLACES):
        rows.append(row(rate, good_share=0.5))
    assert min(one["arrived_per_s"] for one in rows) == pytest.approx(5), "and then it is given up"


def test_copies_follow_the_goal_else_what_the_server_answered():
    best = {"arrived_per_s": 40.0, "good_share": 0.95, "completed": 200}
    sized = {"arrivals_per_s": 40.0, "copies": 13, "good_share": 0.95, "goal_share": 0.9}
    assert sizing.copies([best], 90.0, 500, 0.9) == sized
    none = sizing.copies([best], 90.0, 500, 0.96)
    assert none == {"arrivals_per_s": 90.0, "copies": 6}
    said = wording.copies(none, 500, {"ttft": 30, "tpot": 5})
    assert "No rate met the goal (TTFT 30 ms and TPOT 5 ms)" in said[0]
    assert "more than 6 copies" in said[1]
    said = wording.copies(sized, 500, {"ttft": 30})
    assert said[0].startswith("In one run at 40 arrivals a second 95 % met the goal (TTFT 30 ms).")
    assert said[1] == "For 500 a second: 13 copies, and one for restarts."


def test_what_chance_may_have_decided_is_said():
    sure = {"arrived_per_s": 20.0, "good_share": 1.0, "completed": 100}
    lucky = {"arrived_per_s": 25.0, "good_share": 0.93, "completed": 100}
    unlucky = {"arrived_per_s": 35.0, "good_share": 0.87, "completed": 100}
    missed = {"arrived_per_s": 60.0, "good_share": 0.1, "completed": 100}
    sized = sizing.copies([sure, lucky, unlucky, missed], 90.0, 500, 0.9)
    assert sized == {
        "arrivals_per_s": 25.0, "copies": 20, "good_share": 0.93,
        "goal_share": 0.9, "missed_per_s": 60.0, "missed_share": 0.1, "least_copies": 9,
        "by_chance": 1.0, "safer_per_s": 20.0,
    }  # fmt: skip
    said = wording.copies(sized, 500, {"ttft": 30})
    assert said[0].endswith("(TTFT 30 ms), which may be chance; from 60 on too few did.")
    assert said[1] == "For 500 a second: 9 to 20 copies, and one for restarts."
