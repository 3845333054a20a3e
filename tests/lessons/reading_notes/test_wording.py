"""helpers/lessons/reading_notes/wording.py: sentences that depend on measurements."""

from helpers.lessons.reading_notes import wording
from helpers.lessons.reading_notes.static_batching import Reserving
from helpers.verdicts.gain import gain_of_pairs


def test_a_gauge_one_step_ahead_is_named_and_explained_only_where_it_is_so():
    def rows(held, predicted):
        return [{"blocks": a, "blocks_predicted": b} for a, b in zip(held, predicted, strict=True)]

    assert (
        wording.gauge(rows([7, 7, 8], [7, 7, 8]), True)
        == "In 100 % of the steps vLLM held exactly the blocks that the sum predicts"
    )
    early = rows([7, 8, 8, 8], [7, 7, 8, 8])
    assert "75 %" in wording.gauge(
        early, True
    ) and "in the others already those of the next step: vLLM plans a step" in wording.gauge(
        early, True
    )
    assert wording.gauge(early, False).endswith("already those of the next step")
    assert "next step" not in wording.gauge(rows([7, 5, 9], [7, 8, 9]), True), (
        "another difference is not explained away"
    )


def test_small_batches_are_cheaper_only_where_they_were_measured_so():
    assert wording.step_cost({1: 1.66, 8: 2.30}).startswith(
        "Small batches are cheaper steps: a step with 1 request takes 1.66 ms"
    )
    assert "no difference above 10 %" in wording.step_cost({1: 6.06, 2: 6.01, 8: 5.91}), (
        "an H100 with 7B"
    )
    assert "no difference" not in wording.step_cost({1: 3.0, 8: 2.0})


def test_a_fuller_step_is_blamed_only_for_a_gain_that_is_smaller():
    running = {"reserved": 4.0, "paged": 12.0}
    small = Reserving(gain_of_pairs([(2.0, 1.0)] * 3, "lower"), running, {})
    assert "few are left. A fuller step" in wording.reserved(small)
    large = Reserving(gain_of_pairs([(3.0, 1.0)] * 3, "lower"), running, {})
    assert "fuller" not in wording.reserved(large)


def test_what_holds_is_said_shortly_and_what_does_not_with_what_was_seen():
    row = {"topic": "task", "older material": "task=...", "now": "runner", "seen": "TypeError"}
    said = [wording.then_and_now([row | {"holds": h}])[0]["holds"] for h in (True, False, None)]
    assert said == ["yes", "NO: TypeError", "not checked"]


def test_a_knee_names_both_misses():
    rows = [
        {"batch": 1, "ms": 1.9, "share_of_bandwidth": 0.5, "share_of_arithmetic": 0.04},
        {"batch": 16, "ms": 2.5, "share_of_bandwidth": 0.37, "share_of_arithmetic": 0.47},
    ]
    said = wording.knee(rows, 20.0, 17.0)
    assert "One row reached 50 % of the memory ceiling, which alone would move" in said
    assert "up to 40; 16 rows reached 47 %" in said and "down to 9.4: two misses" in said
    assert wording.knee(rows, 20.0, None).endswith("up to 40.")


def test_the_largest_difference_is_the_largest_of_all_rows():
    rows = [
        {"tiles move": moves, "largest difference": differ}
        for moves, differ in ((1, 1e-7), (4, 1e-7), (2, 1e-7), (1, 2.68e-7))
    ]
    said = wording.tiles(rows)
    assert "2.7e-07" in said and "4.0 times as much, twice the fast memory 0.5 times" in said


def test_the_gap_is_told_for_every_length():
    here = {"tokens": 512, "backend": "flash", "tiled_ms": 2.0, "math_ms": 3.0, "memory": None}
    said = wording.attention(here | {"gains": {256: 1.4, 512: 1.5}})
    assert "Tiles are 1.4 / 1.5 times as fast at 256 / 512 tokens." in said
