"""helpers/lessons/reading_notes/wording.py: sentences that depend on measurements."""

from types import SimpleNamespace

from helpers.lessons.reading_notes import wording


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


def test_a_gain_in_time_is_fewer_steps_each_of_which_takes_longer():
    said = wording.fewer_steps({"waves": 1000, "paged": 400}, {"waves": 4.0, "paged": 5.0})
    assert said == (
        "Paged, the engine needed 2.50 times fewer steps, and the mean step took "
        "1.25 times as long (5.00 against 4.00 ms)."
    )


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
LINE = products((1, 2.9), (2, 2.5), (8, 3.4), (16, 4.6), (64, 11.8))


def test_why_a_product_took_longer_is_the_shares_that_it_reached():
    said = wording.knee(KNEE, 14.0)
    assert said.startswith(
        "One row reached 50 % of the memory ceiling, 16 rows 40 % of the arithmetic one."
    )
    assert wording.knee(LINE, 11.0).startswith("2 rows reached 50 % of the memory ceiling, 8 rows")
    assert wording.knee(KNEE, None) == ""


def test_a_figure_says_of_products_what_its_points_carry():
    assert wording.products_title(KNEE) == "Here 64 rows take 3 times as long as one"
    assert wording.products(LINE, 8.0, KNEE, 16.0) == (
        "Here the ceilings meet at 8 rows, on the H100 at 16. At most 10 % longer than the "
        "fastest: 2 rows here, 16 on the H100."
    )
    assert wording.products(KNEE, 16.0) == (
        "Here the ceilings meet at 16 rows. At most 10 % longer than the fastest: 16 rows here."
    )
    said = wording.nearly_free(LINE, KNEE)
    assert said.startswith("64 rows take 4.1 times as long as one here; a row is a request")
    assert said.endswith("up to 16 rows take at most 10 % longer than the fastest.")


def test_memory_is_acquitted_only_where_the_fused_chain_reads_far_below_the_ceiling():
    assert "at 29 % of the ceiling: it no longer waits" in wording.fused(False, 0.29, 5.7)
    assert "at 80 % of the ceiling. With one" in wording.fused(False, 0.8, 5.7)
    assert "ceiling" not in wording.fused(True, 0.5, 5.7)


def test_the_largest_difference_is_the_largest_of_all_rows():
    rows = [
        {"tiles move": moves, "largest difference": differ}
        for moves, differ in ((1, 1e-7), (4, 1e-7), (2, 1e-7), (1, 2.68e-7))
    ]
    said = wording.tiles(rows)
    assert "2.7e-07" in said and "Twice the tokens make its traffic 4 times as much" in said
    assert said.endswith("twice the fast memory 0.5 times.")


def test_the_gap_is_told_for_every_length():
    here = {"tokens": 512, "backend": "flash", "memory": None}
    said = wording.attention(here | {"ms": {256: (1.4, 1.0), 512: (3.0, 2.0)}})
    assert "The tiled kernel (flash) is 1.4 / 1.5 times as fast at 256 / 512 tokens. The" in said
    memory = {"from": 2048, "to": 4096, "math": 4.0, "tiled": 2.0, "divided": 512}
    there = here | {"ms": {256: (1.8, 1.0)}, "memory": memory}
    said = wording.attention(here | {"ms": {256: (1.8, 1.0)}}, there)
    assert "On the H100, from 2,048 to 4,096 tokens the extra memory grew 4 times (math)" in said
    assert "At 512 tokens flash divides the keys" in said
    there["memory"] = memory | {"divided": None}
    assert wording.attention(there).endswith("2 times (tiled).")
