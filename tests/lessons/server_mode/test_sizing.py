"""How much load notebook 5 tries, and how many copies its verdicts ask for."""

from helpers.lessons.server_mode import sizing, wording


def test_levels_of_a_closed_loop_get_eight_requests_a_client_where_time_allows():
    assert sizing.closed_loop_requests(1, 5) == 8
    requests = sizing.closed_loop_requests
    assert requests(32, 5, {"clients": 8, "requests_per_s": 40}) == 256
    twice = requests(64, 3, {"clients": 16, "requests_per_s": 40})
    assert twice == 3 * 64, "twice as fast as 16, and every client sends as many"
    assert requests(256, 5, {"clients": 128, "requests_per_s": 60}) == 512
    least = requests(256, 1, {"clients": 128, "requests_per_s": 60})
    assert least == 512, "two each at least"


def row(rate, verdict, share=0.5):
    names = ("arrived_per_s", "verdict", "good_share", "completed")
    return dict(zip(names, (rate, verdict, share, 60.0), strict=True))


def test_the_goal_holds_up_to_the_highest_rate_that_held():
    rows = [
        row(28.0, sizing.CANNOT_TELL),
        row(17.0, sizing.HELD),
        row(8.5, sizing.MISSED),  # a busy machine, perhaps: it held at more
        row(80.0, sizing.MISSED),
        row(43.0, sizing.MISSED),
    ]
    held, missed = sizing.held_and_missed(rows)
    assert (held["arrived_per_s"], missed["arrived_per_s"]) == (17.0, 43.0)
    held, missed = sizing.held_and_missed(rows[2:])
    assert held is None and missed["arrived_per_s"] == 8.5
    assert sizing.held_and_missed(rows[:2]) == (rows[1], None)


def test_copies_are_the_target_by_the_rates_that_held_and_were_missed():
    goals = {"ttft": 30, "tpot": 5}
    held, missed = row(40.0, sizing.HELD, 0.99), row(60.0, sizing.MISSED, 0.1)
    sized = sizing.copies([held, missed], 500)
    assert sized == {
        "needed_per_s": 500, "arrivals_per_s": 40.0, "copies": 13, "good_share": 0.99,
        "requests": 60.0, "missed_per_s": 60.0, "missed_share": 0.1, "least_copies": 9,
    }  # fmt: skip
    assert wording.copies(sized, goals) == (
        "500 / 40 = 12.5, so 13 copies: 40 a second is the highest rate that held (99 % of 60 "
        "within TTFT 30 ms and TPOT 5 ms); 500 / 60 = 8.3, so 8 are too few: at 60 a second it "
        "was missed (10 %)."
    )
    assert "too few" not in wording.copies(sizing.copies([held], 500), goals)
    none = sizing.copies([missed], 500)
    assert "copies" not in none and "good_share" not in none
    assert wording.copies(none, goals) == (
        "No run held the goal (TTFT 30 ms and TPOT 5 ms): how many are enough stays open; "
        "500 / 60 = 8.3, so 8 are too few: at 60 a second it was missed (10 %)."
    )
    assert sizing.copies([row(9.0, sizing.CANNOT_TELL)], 500) == {"needed_per_s": 500}


def test_what_held_and_what_was_missed_is_said_with_its_share():
    held, missed = row(17.0, sizing.HELD, 1.0), row(43.0, sizing.MISSED, 0.56)
    assert wording.goal(held, missed) == (
        "The goal held at 17 a second (100 %); it was missed at 43 a second (56 %). One run each."
    )
    assert wording.goal(None, missed).startswith("No run held the goal by this rule; it was missed")
    assert "no run above that missed it" in wording.goal(held, None)


def test_a_missed_rate_says_what_its_clients_saw():
    missed = row(43.0, sizing.MISSED) | {"ttft_ms_p90": 150.0, "tpot_ms_p90": 13.84}
    said = wording.why_missed(missed | {"requests_per_s": 39.1}, {"ttft": 69, "tpot": 13})
    assert said == (
        "At 43 a second p90 was TTFT 150 ms and TPOT 13.8 ms (goal: TTFT 69 ms and TPOT 13 ms), "
        "with 39.1 answers a second."
    )
    assert wording.why_missed(None, {}) == ""
