"""How much load notebook 5 tries, and what it makes of the measurements."""

import pytest

from helpers.lessons.server_mode import sizing


def test_the_knee_is_where_rate_over_latency_is_highest():
    rows = [{"requests_per_s": r, "e2e_ms_mean": w} for r, w in ((10, 100), (18, 120), (20, 400))]
    assert sizing.knee(rows) is rows[1]
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
    assert requests(256, 5, {"clients": 128, "requests_per_s": 60}) == 600
    least = requests(256, 1, {"clients": 128, "requests_per_s": 60})
    assert least == 512, "two each at least"
