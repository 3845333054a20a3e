"""helpers/lessons/reading_notes/claims.py: claims, what they save, speculation on record."""

import math

import pytest

from helpers.lessons.papers import speculative
from helpers.lessons.reading_notes import claims, wording
from helpers.lessons.reading_notes.claims import Claim
from helpers.results.store import Results
from helpers.verdicts.gain import Gain


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_WIDGETS", "0")
    return Results("03_reading_notes", tmp_path)


def test_claims_are_shown_and_those_with_a_number_saved(store, capsys):
    claims.show_claims(store, "Paper", [
        Claim("a", "a thing", 2.0, 3.0, "x", "because"),
        Claim("b", "in words only", None, 5.0, "x", ""),
        Claim("c", "not rebuilt", 7.0, None, "x", ""),
        Claim("d", "counted", 9.0, 9.0, "x", "", "simulated"),
    ])  # fmt: skip
    text = capsys.readouterr().out
    assert "1.50" in text and "not measured here" in text and "9 x (simulated)" in text
    saved = {r["variant"]: r["metrics"] for r in store.records(experiment="paper_claims")}
    assert saved == {
        "Paper: a": {"ours": 3.0, "paper": 2.0, "ratio": 1.5},
        "Paper: b": {"ours": 5.0},
        "Paper: d": {"ours": 9.0, "paper": 9.0, "ratio": 1.0},
    }


def test_speculation_is_read_from_notebook_2_only(store):
    store.save("speculation", "mine", {"mean_acceptance_length": 2.0, "num_speculative_tokens": 4})
    assert claims.speculation_on_record(store) == []
    other = Results("02_advanced_features", store.directory)
    length = speculative.expected_tokens(0.8, 4)
    other.save(
        "speculation",
        "draft_4",
        {"mean_acceptance_length": length, "tpot_gain_x": 1.4, "drafts": 40},
        {"speculative_config": {"num_speculative_tokens": 4}},
    )
    other.save("speculation", "off", {"output_tokens_per_s": 1.0})
    other.save(
        "speculation", "impossible", {"mean_acceptance_length": 9.0, "num_speculative_tokens": 4}
    )
    (run,) = claims.speculation_on_record(store)
    assert (
        run["gamma"] == 4
        and run["alpha"] == pytest.approx(0.8)
        and run["speedup"] == 1.4
        and run["label"] == "draft 4"
        and run["drafts"] == 40
        and run["gain"].span is None  # no range was saved
    )


def test_token_budgets_are_read_from_notebook_2_the_largest_first(store):
    rows, where = claims.chunks_on_record(store)
    assert where.startswith("recorded: NVIDIA H100") and where in wording.chunks(rows, where)
    other = Results("02_advanced_features", store.directory)
    for budget, gap_ms, ttft_ms in ((256, 28.2, 235.8), (4352, 260.9, 249.0), (512, 51.3, 216.9)):
        numbers = {"max_num_batched_tokens": budget, "itl_ms_max": gap_ms, "itl_ms_p99": gap_ms}
        numbers |= {"ttft_long_ms_p50": ttft_ms, "total_tokens_per_s": 9000.0}
        other.save("chunked_prefill", f"budget {budget}", numbers)
    rows, where = claims.chunks_on_record(store)
    assert not where
    assert [row["token budget"] for row in claims.chunk_table(rows)] == [4352, 512, 256]
    said = wording.chunks(rows, where)
    assert "from 261 to 28 ms" in said and "from 249 to 236 ms (one run each)" in said


def test_only_runs_with_enough_drafts_are_shown_and_give_a_cost():
    run = {"gamma": 4, "alpha": 0.8, "mean_length": 3.36, "speedup": 1.4, "drafts": 72}
    run["gain"] = Gain(1.4, 1.3, 1.5, 3)
    runs = [
        run | {"label": "draft model, k=4"},
        run | {"label": "draft model, k=4, two drafts", "speedup": 0.43, "drafts": 2},
        run | {"label": "draft model, no speed-up", "speedup": None},
        run | {"label": "ngram, repeats", "speedup": 3.0},
        run | {"label": "draft model, k=2", "gamma": 2},
    ]
    shown = [row["run"] for row in claims.speculation_table(runs)]
    assert shown == ["draft model, k=4", "ngram, repeats", "draft model, k=2"]
    low, middle, high = claims.own_draft_cost(runs, 4)
    expected = speculative.expected_tokens(0.8, 4)
    assert (low, middle, high) == pytest.approx([(expected / x - 1) / 4 for x in (1.5, 1.4, 1.3)])
    assert claims.own_draft_cost([run | {"label": "ngram, repeats"}], 4) is None
    once = runs[0] | {"gain": Gain(1.4, 0.0, math.inf, 1)}
    assert claims.own_draft_cost([once], 4) is None, "one run has no range"
    open_ = runs[0] | {"gain": Gain(1.4, 0.7, 2.8, 3)}
    assert claims.speculation_table([open_])[0]["its range"] == "0.70 to 2.80"
    fast = runs[0] | {"gain": Gain(5.5, 5.2, 5.9, 3)}
    assert claims.own_draft_cost([fast], 4) == (0, 0, 0), "no draft costs less than nothing"


def test_marks_whose_rate_was_set_by_hand_test_the_curve():
    cost = 0.4, 0.5, 0.6
    curve = speculative.speedup(0.8, 4, 0.5)
    mark = {"label": "synthetic, a=0.8", "alpha": 0.8, "gain": Gain(curve, curve, curve, 3)}
    high = mark | {"gain": Gain(3.0, 2.9, 3.1, 3)}
    drafter = mark | {"label": "draft model, k=4"}
    assert "Of the 2 marks" in wording.curve_tested(cost, [mark, high, drafter])
    assert "1 have a range that reaches" in wording.curve_tested(cost, [mark, high])
    low = mark | {"gain": Gain(0.95 * curve, 0.9 * curve, curve, 3)}
    above = mark | {"gain": Gain(1.05 * curve, curve, 1.1 * curve, 3)}
    for marks, side in (([low] * 2, "below"), ([above] * 2, "above")):
        assert f"reaches the curve's, all {side} its middle." in wording.curve_tested(cost, marks)
    for marks in ([low, above], [low]):
        assert wording.curve_tested(cost, marks).endswith("reaches the curve's.")
    assert wording.curve_tested(None, [mark]) == wording.curve_tested(cost, [drafter]) == ""
    assert "c = 0.40 to 0.60" in wording.speculation(cost)
    assert "paper's (c = 0.05)" in wording.speculation(None)


def test_what_was_recorded_elsewhere_has_the_rate_that_its_steps_explain():
    drafters, where = claims.speculation_elsewhere(gamma=4)
    assert set(drafters) == {"EAGLE-3 head", "n-gram", "draft model"} and "H100" in where
    for runs in drafters.values():
        assert len(runs) > 2 and all(0 < run["alpha"] < 1 for run in runs)
    said = wording.elsewhere(drafters, where, gamma=4)
    assert where in said and "n-gram 0." in said and "draft model 1." in said
    assert wording.elsewhere({}, "", gamma=4) == ""


def test_runs_with_few_drafts_are_named():
    runs = [{"label": f"k={k}", "drafts": n, "speedup": 1.5} for k, n in ((4, 90), (8, 12))]
    assert wording.left_out(runs, 30).endswith("of a: k=8 (12).")
    assert wording.left_out(runs[:1], 30) == ""
