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
    def run(steps: int, *first: int):
        work = [{n: ... for n, begins in enumerate(first) if begins <= i} for i in range(steps)]
        return SimpleNamespace(steps=[SimpleNamespace(work=one) for one in work])

    assert wording.steps({"in waves": run(84, 0, 60), "paged": run(24, 0, 0)}) == (
        "In waves, the requests need 84 engine steps, paged 24: 3.5 times fewer. "
        "A request waits 30 steps on average, paged 0."
    )


def test_every_line_says_what_was_seen_and_whether_it_holds_where_it_does_not():
    row = {"topic": "task", "older material": "task=...", "now": "runner", "seen": "TypeError"}
    rows = [row | {"holds": h} for h in (True, False, None)]
    shown = wording.then_and_now(rows)
    seen = [line["seen here"] for line in shown]
    assert seen == ["TypeError", "NO: TypeError", "not checked: TypeError"]
    assert shown[0] == {
        "older material": "task: task=...", "now": "runner", "seen here": "TypeError"
    }  # fmt: skip


def test_requests_in_a_paged_step_are_counted_only_where_somebody_waited():
    said = wording.fuller_steps(14.6, 13.5, 3.0)
    assert "has 14.6 requests" in said and said.endswith("13.5 while others waited, and 3.0 after.")
    assert wording.fuller_steps(14.6, 0, 3.0) == ""


def products(*times: tuple[int, float], allowed_ms=1.24) -> list[dict]:
    return [{"batch": batch, "ms": ms, "allowed_ms": allowed_ms} for batch, ms in times]


KNEE = products((1, 2.0), (4, 2.02), (16, 2.2), (64, 6.0))
LINE = products((1, 2.9), (2, 2.5), (8, 3.4), (16, 4.6), (64, 11.8))


def test_a_figure_says_of_products_what_its_points_carry():
    title = "A row is nearly free only below where the ceilings meet"
    assert wording.products_title(KNEE, 17.0) == title
    assert "free" not in wording.products_title(KNEE, 16.0), "16 rows are nearly free, and meet it"
    assert wording.products(LINE, 8.0, KNEE, 16.0) == (
        "Here the ceilings meet at 8 rows, on the H100 at 16. Best of three passes. Rows within "
        "10 % of the fastest product, so nearly free: here 2; on the H100 1, 4 and 16."
    )
    assert wording.products(KNEE, 16.0) == (
        "Here the ceilings meet at 16 rows. Best of three passes. Rows within 10 % of the fastest "
        "product, so nearly free: here 1, 4 and 16."
    )
    assert wording.nearly_free(LINE, KNEE) == (
        "A row is a request in a step. Rows within 10 % of the fastest product, so nearly free: "
        "here 2; on a recorded H100 1, 4 and 16."
    )
    beaten = wording.products(products((1, 3.0), (128, 21.3), allowed_ms=22.4)[1:], 8.0)
    assert beaten.endswith(
        "With 128 rows it took 21.3 ms, less than the 22.4 allowed: that ceiling is what another "
        "product reached."
    )


def test_what_a_chain_costs_beside_memory_is_what_it_takes_from_the_cache():
    said = wording.fused(33.0, 20.0, 16.5, 5.7)
    assert "take 16.5 ms (fused: 20); as fast as that, the factor would be 2." in said
    assert "cache" not in wording.fused(33.0, 20.0, None, 5.7), "one compiled kernel"


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
    memory = {"from": 2048, "to": 4096, "math": 4.0, "tiled": 2.0, "short": (512, 4.094727)}
    there = here | {"ms": {256: (1.8, 1.0)}, "memory": memory}
    said = wording.attention(here | {"ms": {256: (1.8, 1.0)}}, there)
    assert "On the H100, from 2,048 to 4,096 tokens the extra memory grew 4 times (math)" in said
    assert said.endswith("works, and keeps the result of each: 4.06 of its 4.09 MiB.")
    for mib in (0.03, 0, None):
        there["memory"] = memory | {"short": (512, mib)}
        assert wording.attention(there).endswith("2 times (tiled).")
