"""helpers/lessons/reading_notes/wording.py: sentences that depend on measurements."""

from helpers.lessons.reading_notes import wording
from helpers.lessons.reading_notes.static_batching import Reserving, Waves
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


def test_why_time_gains_less_than_steps_names_the_steps_that_read_prompts():
    waves = Waves(
        wave_s=4.0, continuous_s=2.5, wave_steps=1000, continuous_steps=500, output_tokens=3000,
        prompt_steps={"waves": 4, "continuous": 20}, reading_ms=8.0, other_ms=4.0, run=None,
        gain=gain_of_pairs([(4.0, 2.5)] * 3, "lower"),
    )  # fmt: skip
    said = wording.gain_in_time(waves)
    assert "2.00 times fewer steps; in seconds it was 1.60 to 1.60 times as fast" in said
    assert "in waves 4.00 ms with 3.0 requests in it (4 of 1000 read prompts)" in said
    assert "continuous 5.00 ms with 6.0 requests in it (20 of 500 read prompts)" in said
    assert said.endswith("reads prompts took 8.00 ms, any other 4.00 ms (means).")


def test_a_fuller_step_is_blamed_only_for_a_gain_that_is_smaller():
    running = {"reserved": 4.0, "paged": 12.0}
    small = Reserving(gain_of_pairs([(2.0, 1.0)] * 3, "lower"), running, {})
    assert "few are left. A fuller step" in wording.reserved(small)
    large = Reserving(gain_of_pairs([(3.0, 1.0)] * 3, "lower"), running, {})
    assert "fuller" not in wording.reserved(large)


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
    assert "meet at 7.3 rows: 8 rows reach 32 % of the memory ceiling and 30 %" in said
    assert "37 % of the memory ceiling, so it does not wait for memory alone;" in said
    assert said.endswith("One row reads at 87 % of the memory ceiling there.")
    assert "up to about 10 rows (349 on a recorded H100) a" in wording.nearly_free(10.2, 349.2)
    assert "here for all that were tried a product" in wording.nearly_free(None, None)


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
    assert "Tiles are 1.4 / 1.5 times as fast at 256 / 512 tokens." in said
    said = wording.attention(here | {"gains": {256: 1.8, 512: 1.5}})
    assert "at 256 / 512 tokens (most at 256)." in said
