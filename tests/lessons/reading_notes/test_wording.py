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


def products(*times: tuple[int, float]) -> list[dict]:
    shares = {"share_of_bandwidth": 0.5, "share_of_arithmetic": 0.4, "allowed_ms": 1.24}
    return [{"batch": batch, "ms": ms, **shares} for batch, ms in times]


KNEE = products((1, 2.0), (4, 2.02), (16, 2.2), (64, 6.0))
LINE = products((1, 2.9), (2, 2.5), (8, 3.4), (16, 4.6), (64, 11.8))  # 2.2 ms and 0.15 a row


def test_why_a_product_took_longer_is_a_line_or_the_shares_that_it_reached():
    said = wording.knee(KNEE, 14.0, 16.0)
    assert said.startswith("One row reached 50 % of the memory ceiling, which alone would move")
    assert "up to 42 rows; 16 rows reached 40 %" in said and "to 8.4; both, to 16.8." in said
    assert wording.knee(KNEE, 14.0, None).endswith("up to 42 rows.")
    said = wording.knee(LINE, 8.0, 11.5)
    assert said.startswith("A product takes about 2.2 ms plus 150 µs a row, before the ceilings")
    assert "a line without a knee. That both come out alike is luck. Of the fixed cost" in said
    assert "reading the weights at the ceiling takes 1.2 ms; what else is in it was not" in said
    for found in (20.0, None):
        assert "a line without a knee. Of the" in wording.knee(LINE, 8.0, found)


def test_a_figure_promises_a_knee_only_where_a_row_costs_less_before_it():
    assert wording.products_title(KNEE, 16.0) == "Up to a knee one more row is nearly free"
    assert wording.products_title(LINE, 8.0) == "One more row costs far less than the first"
    steep = products((1, 2.0), (2, 3.0), (4, 5.0), (8, 9.0))
    assert wording.products_title(steep, 2.0) == "What one more row costs"
    said = wording.products(LINE, 8.0, KNEE, 16.0)
    assert "2.9 ms, 2 rows, the fastest product, 2.5 ms, 64 rows 11.8 ms. The ceilings" in said
    assert "From 2 to 8 rows each one more costs 150 µs, from 8 to 64 150 µs: no knee (on" in said
    assert "50 % of the memory ceiling, so it does not wait for memory alone; 64 rows" in said
    assert said.endswith("rows each one more costs 13 µs, from 16 to 64 79 µs: a knee.")
    reads_well = [row | {"share_of_bandwidth": 0.87} for row in LINE]
    assert "87 % of the memory ceiling; 64 rows compute" in wording.products(reads_well, 8.0)
    flat = products((1, 2.0), (2, 1.9), (4, 1.9), (8, 1.9))
    assert "knee" not in wording.products(flat, 4.0)


def test_a_row_is_nearly_free_only_up_to_a_knee():
    said = wording.nearly_free(KNEE, 16.0, KNEE)
    assert "is nearly free here up to 16 rows, whose product takes at most 10 % longer" in said
    assert said.endswith("On a recorded H100 it is so up to 16 rows.")
    said = wording.nearly_free(LINE, 8.0, KNEE)
    assert "a step, costs 150 µs here, the first one 2,900 µs. On a recorded H100 it is" in said
    assert "nearly free up to 16 rows, whose product takes at most" in said


def test_the_largest_difference_is_the_largest_of_all_rows():
    rows = [
        {"tiles move": moves, "largest difference": differ}
        for moves, differ in ((1, 1e-7), (4, 1e-7), (2, 1e-7), (1, 2.68e-7))
    ]
    said = wording.tiles(rows)
    assert "2.7e-07" in said and "4.0 times for twice the tokens. Twice the fast memory" in said
    assert said.endswith("makes it 0.50 times as much.")


def test_the_gap_is_told_for_every_length_and_what_it_shrank_by():
    here = {"tokens": 512, "backend": "flash", "memory": None}
    said = wording.attention(here | {"ms": {256: (1.4, 1.0), 512: (3.0, 2.0)}})
    assert "The tiled kernel (flash) is 1.4 / 1.5 times as fast at 256 / 512 tokens. The" in said
    said = wording.attention(here | {"ms": {256: (1.8, 1.0), 512: (5.4, 3.6)}})
    assert "From 256 to 512 tokens the scores grew 4 times, math's time 3.0 and that" in said
    assert "of tiles 3.6 times." in said
