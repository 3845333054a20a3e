"""How much load notebook 5 tries, and what it makes of the measurements."""

import math

import pytest

from helpers.lessons.server_mode import sizing, wording


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
    rows = [{"offered_per_s": rate, "good_share": share} for rate, share in shares.items()]
    assert sizing.best_rate(rows, 0.9) is rows[1], (
        "31 a second have more answers in time (19), and 38 % of the users wait too long"
    )
    assert sizing.best_rate(rows, 0.95) is rows[0] and sizing.best_rate(rows, 0.99) is None


def test_levels_of_a_closed_loop_get_eight_requests_a_client_where_time_allows():
    assert sizing.closed_loop_requests(1, 5) == 8
    requests = sizing.closed_loop_requests
    assert requests(32, 5, {"clients": 8, "requests_per_s": 40}) == 256
    assert requests(64, 3, {"clients": 16, "requests_per_s": 40}) == 240, "twice as fast as 16"
    assert requests(256, 5, {"clients": 128, "requests_per_s": 60}) == 512
    least = requests(256, 1, {"clients": 128, "requests_per_s": 60})
    assert least == 512, "two each at least"


def row(rate, capacity, good_share=1.0):
    """A run at a rate, of a server that answers `capacity` requests a second and no more."""
    waits = {"ttft_ms_first_third": 10, "ttft_ms_last_third": 50 if rate > capacity else 15}
    return {"offered_per_s": rate, "good_share": good_share, **waits}


@pytest.mark.parametrize("guess", [60, 70, 95, 92.52, 100, 104, 130.04, 170])
def test_the_search_finds_the_capacity_from_any_guess(guess):
    rows = []
    for rate in sizing.rates_to_try([0.4 * guess, 0.7 * guess], guess, rows, 0.9):
        rows.append(row(rate, 100))
    low, high = sizing.capacity(rows)
    assert low < high <= sizing.CLOSE_ENOUGH * low and len(rows) <= sizing.MOST_RUNS
    assert low <= 100 < high
    assert len({one["offered_per_s"] for one in rows}) == len(rows), "no rate twice"


def test_a_goal_that_no_rate_met_is_looked_for_at_lower_rates():
    rows = []
    for rate in sizing.rates_to_try([40, 70], 100, rows, 0.9):
        rows.append(row(rate, 100, good_share=1.0 if rate < 12 else 0.5))
    assert [one["offered_per_s"] for one in rows[-3:]] == [20, 10, 14.1], "and once more between"
    assert sizing.best_rate(rows, 0.9)["offered_per_s"] == 10
    rows = []
    for rate in sizing.rates_to_try([40, 70], 100, rows, 0.9):
        rows.append(row(rate, 100, good_share=0.5))
    assert min(one["offered_per_s"] for one in rows) == 5, "and then it is given up"


def test_capacity_says_what_no_run_has_shown():
    slow, fast = row(50, 10), row(50, 100)
    assert sizing.capacity([slow]) == (0.0, 50) and sizing.capacity([fast]) == (50, math.inf)


def test_copies_follow_the_goal_else_what_the_server_kept_up_with():
    best = {"offered_per_s": 40.0, "good_share": 0.95, "completed": 200}
    sized = {"arrivals_per_s": 40.0, "copies": 13, "good_share": 0.95}
    assert sizing.copies([best], 90.0, 500, 0.9) == sized
    none = sizing.copies([best], 90.0, 500, 0.96)
    assert none == {"arrivals_per_s": 90.0, "copies": 6}
    said = wording.copies(none, 500, {"ttft": 30, "tpot": 5})
    assert "No rate met the goal (TTFT 30 ms and TPOT 5 ms)" in said[0] and "at least 6" in said[1]
    rows = [best, *({"offered_per_s": rate, "good_share": 0.5} for rate in (60.0, 55.0))]
    said = wording.copies(sizing.copies(rows, 90.0, 500, 0.9), 500, {"ttft": 30})
    assert "10 to 13 copies (no rate between 40.0 and 55.0 was tried)" in said[1]
    lucky = best | {"offered_per_s": 50.0, "good_share": 0.91}
    said = wording.copies(sizing.copies([best, lucky], 90.0, 500, 0.9), 500, {"ttft": 30})
    assert "10 copies; 13 if that one run was lucky (40.0 also met it)" in said[1]
