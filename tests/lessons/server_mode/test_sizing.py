"""How much load notebook 5 tries, and how many copies its verdicts ask for."""

import math

from helpers.lessons.server_mode import sizing, wording
from tests.notebook_tools import defined_in

NOTEBOOK = "05_server_mode"


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
    held_and_missed = defined_in(NOTEBOOK, "5a1cc0e0")["held_and_missed"]
    rows = [
        row(28.0, "cannot tell"),
        row(17.0, "held"),
        row(8.5, "missed"),  # a busy machine, perhaps: it held at more
        row(80.0, "missed"),
        row(43.0, "missed"),
    ]
    held, missed = held_and_missed(rows)
    assert (held["arrived_per_s"], missed["arrived_per_s"]) == (17.0, 43.0)
    held, missed = held_and_missed(rows[2:])
    assert held is None and missed["arrived_per_s"] == 8.5
    assert held_and_missed(rows[:2]) == (rows[1], None)


def test_copies_are_the_target_by_the_rates_that_held_and_were_missed():
    goals = {"ttft": 30, "tpot": 5}
    copies = defined_in(NOTEBOOK, "4e3814a1", math=math, TARGET_PER_S=500)["copies"]
    held, missed = row(40.0, "held", 0.99), row(60.0, "missed", 0.1)
    assert copies(held, missed) == [13, 9]
    assert sizing.record(held, missed) == {
        "arrivals_per_s": 40.0, "good_share": 0.99, "missed_per_s": 60.0, "missed_share": 0.1,
    }  # fmt: skip

    def said(*ends):
        return wording.copies(ends, copies(*ends), 500, goals)

    assert said(held, missed) == (
        "500 / 40 = 12.5, so 13 copies: 40 a second is the highest rate that held (99 % of 60 "
        "within TTFT 30 ms and TPOT 5 ms); 500 / 60 = 8.3, so 8 are too few: at 60 a second it "
        "was missed (10 %)."
    )
    assert "too few" not in said(held, None)
    assert said(None, missed) == (
        "No run held the goal (TTFT 30 ms and TPOT 5 ms): how many are enough stays open; "
        "500 / 60 = 8.3, so 8 are too few: at 60 a second it was missed (10 %)."
    )
    assert copies(None, None) == [None, None] and sizing.record(None, None) == {}


def test_what_held_and_what_was_missed_is_said_with_its_share():
    held, missed = row(17.0, "held", 1.0), row(43.0, "missed", 0.56)
    assert wording.goal(held, missed) == (
        "The goal held at 17 a second (100 %); it was missed at 43 a second (56 %). One run each."
    )
    assert wording.goal(None, missed).startswith("No run held the goal by this rule; it was missed")
    assert "no run above that missed it" in wording.goal(held, None)


def test_a_disturbed_run_is_marked_wherever_its_rate_sizes_something():
    held, missed = row(17.0, "held", 1.0), row(43.0, "missed", 0.5) | {"disturbed": "others"}
    ends, mark = (held, missed), "missed at 43 a second (50 %, a disturbed run)"
    assert mark in wording.goal(*ends) and "(100 %);" in wording.goal(*ends)
    copies = wording.copies(ends, (30, 12), 500, {"ttft": 30, "tpot": 5})
    assert "it was missed (50 %, a disturbed run)" in copies


def test_a_missed_rate_says_what_its_clients_saw():
    missed = row(43.0, "missed") | {"ttft_ms_p90": 150.0, "tpot_ms_p90": 13.84}
    assert wording.why_missed(missed, {"ttft": 69, "tpot": 13}) == (
        "At 43 a second p90 was TTFT 150 ms and TPOT 13.8 ms (goal: TTFT 69 ms and TPOT 13 ms)."
    )
    assert wording.why_missed(None, {}) == ""


def answer(ttft_s, tpot_s, tokens=11, ok=True):
    latency_s = ttft_s + (tokens - 1) * tpot_s
    return {"ok": ok, "ttft_s": ttft_s, "latency_s": latency_s, "output_tokens": tokens}


def test_a_limit_is_judged_by_those_it_let_in():
    from types import SimpleNamespace

    from helpers.lessons.puzzles.goodput import goodput_of_vllm

    goals = {"ttft": 100, "tpot": 20}
    given = {"math": math, "goals": goals, "count_good": goodput_of_vllm}
    let_in = defined_in(NOTEBOOK, "5a1cc0e5", **given)["let_in"]
    answers = [answer(0.05, 0.01), answer(0.2, 0.01), answer(0.2, 0.03), answer(0.05, 0, tokens=1)]
    answers.append(answer(0, 0, 0, ok=False))
    found = let_in(SimpleNamespace(answers=answers, metrics={"duration_s": 4.0}))
    assert found == {
        "sent": 5, "let in": 4, "in time": 2, "TTFT in time": 2, "TPOT in time": 3,
        "goodput/s": 0.5,
    }  # fmt: skip
