"""helpers/lessons/reading_notes/wording.py: sentences that depend on measurements."""

from types import SimpleNamespace

from helpers.lessons.reading_notes import wording
from helpers.verdicts.gain import gain_of_pairs


def test_a_gauge_one_step_ahead_is_named_and_explained_only_where_it_is_so():
    def rows(held, predicted):
        return [{"gauge": a, "predicted": b} for a, b in zip(held, predicted, strict=True)]

    assert (
        wording.as_predicted(rows([7, 7, 8], [7, 7, 8]), True)
        == "In 100 % of the steps vLLM held exactly the blocks that the sum predicts"
    )
    early = rows([7, 8, 8, 8], [7, 7, 8, 8])
    assert "75 %" in wording.as_predicted(
        early, True
    ) and "in the others already those of the next step: vLLM plans a step" in wording.as_predicted(
        early, True
    )
    assert wording.as_predicted(early, False).endswith("already those of the next step")
    assert "next step" not in wording.as_predicted(rows([7, 5, 9], [7, 8, 9]), True), (
        "another difference is not explained away"
    )


def test_a_fuller_step_is_blamed_only_for_a_gain_that_is_smaller_than_that_of_the_steps():
    steps, step_ms = {"waves": 1000, "continuous": 500}, {"waves": 4.0, "continuous": 5.0}
    small = gain_of_pairs([(4.0, 2.5)] * 3, "lower")
    said = wording.gain_in_time(small, steps, step_ms, 3000)
    assert "needed 2.00 times fewer steps. The mean step: waves 4.00 ms with 3.0 requests" in said
    assert "continuous 5.00 ms with 6.0 requests in it. A fuller one takes longer" in said
    large = gain_of_pairs([(4.0, 1.9)] * 3, "lower")
    assert wording.gain_in_time(large, steps, step_ms, 3000).endswith("6.0 requests in it.")
    shared, step_ms = {"reserved": 4.0, "paged": 12.0}, {"reserved": 4.0, "paged": 6.0}
    said = wording.reserved(small, shared, step_ms)
    assert "3.0 times as many" in said and "6.00 ms paged, 4.00 ms reserved: a fuller" in said
    even = gain_of_pairs([(3.0, 1.0)] * 3, "lower")
    assert wording.reserved(even, shared, step_ms).endswith("4.00 ms reserved.")


def test_steps_of_two_recordings_are_compared():
    runs = {"in waves": SimpleNamespace(steps=[0] * 84), "paged": SimpleNamespace(steps=[0] * 24)}
    assert wording.steps(runs) == (
        "In waves, the requests need 84 engine steps, paged 24: 3.5 times fewer."
    )


def test_what_holds_is_said_shortly_and_what_does_not_with_what_was_seen():
    row = {"topic": "task", "older material": "task=...", "now": "runner", "seen": "TypeError"}
    rows = [row | {"holds": h} for h in (True, False, None)]
    said = [shown.get("holds") for shown in wording.then_and_now(rows)]
    assert said == [None, "NO: TypeError", "not checked"]
    assert wording.then_and_now(rows[:1]) == [{"older material": "task: task=...", "now": "runner"}]


def test_a_knee_names_both_misses():
    rows = [
        {"batch": 1, "ms": 1.9, "share_of_bandwidth": 0.5, "share_of_arithmetic": 0.04},
        {"batch": 16, "ms": 2.5, "share_of_bandwidth": 0.37, "share_of_arithmetic": 0.47},
    ]
    said = wording.knee(rows, 20.0, 19.0)
    assert "One row reached 50 % of the memory ceiling, which alone would move" in said
    assert "up to 40; 16 rows reached 47 %" in said and "down to 9.4: two misses" in said
    assert said.startswith("That is luck. One row")
    assert wording.knee(rows, 20.0, 12.0).startswith("One row reached"), "nor is it near"
    assert wording.knee(rows, 20.0, None).endswith("up to 40.")


def test_who_reads_slower_than_the_ceiling_is_not_said_to_wait_for_memory():
    rows = [
        {"batch": n, "ms": 2.0, "share_of_bandwidth": share, "share_of_arithmetic": 0.3}
        for n, share in ((1, 0.37), (2, 0.4), (4, 0.4), (8, 0.32), (128, 0.06))
    ]
    there = [rows[0] | {"share_of_bandwidth": 0.87}]
    said = wording.products(rows, 7.3, there, 254)
    assert said.startswith("One row takes 2 ms, 8 rows 2 ms, 128 rows 2 ms. The ceilings")
    assert "meet at 7.3 rows. One row reads" in said
    quicker = wording.products([rows[0], rows[1] | {"ms": 1.5}, *rows[2:]], 7.3)
    assert "2 ms, 2 rows, the fastest product, 1.5 ms, 8 rows" in quicker
    assert "37 % of the memory ceiling, so it does not wait for memory alone;" in said
    assert said.endswith("One row reads at 87 % of the memory ceiling there.")


def test_a_row_is_nearly_free_where_a_product_takes_hardly_longer_than_the_fastest():
    here = [{"batch": n, "ms": ms} for n, ms in ((1, 3.9), (2, 3.0), (4, 3.2), (8, 3.9), (16, 6))]
    said = wording.nearly_free(here, here[:3])
    assert "nearly free here up to 4 rows, whose product takes at most 10 % longer" in said
    assert "; that of 8 rows takes 30 % longer. On a recorded H100 it is so up to 4 rows." in said
    assert "than the fastest. On a recorded" in wording.nearly_free(here[:3], here[:3])


def test_the_largest_difference_is_the_largest_of_all_rows():
    rows = [
        {"tiles move": moves, "largest difference": differ}
        for moves, differ in ((1, 1e-7), (4, 1e-7), (2, 1e-7), (1, 2.68e-7))
    ]
    said = wording.tiles(rows)
    assert "2.7e-07" in said and "4.0 times for twice the tokens. Twice the fast memory" in said
    assert said.endswith("makes it 0.50 times as much.")


def test_the_gap_is_told_for_every_length():
    here = {"tokens": 512, "backend": "flash", "tiled_ms": 2.0, "math_ms": 3.0, "memory": None}
    said = wording.attention(here | {"gains": {256: 1.4, 512: 1.5}})
    assert "The tiled kernel (flash) is 1.4 / 1.5 times as fast at 256 / 512 tokens." in said
    said = wording.attention(here | {"gains": {256: 1.8, 512: 1.5}})
    assert "at 256 / 512 tokens (most at 256)." in said
