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


def test_claims_are_shown_and_saved(store, capsys):
    claims.show_claims(store, "Paper", [
        Claim("a", "a thing", 2.0, 3.0, "x", "because"),
        Claim("d", "counted", 9.0, 9.0, "x", ""),
    ])  # fmt: skip
    text = capsys.readouterr().out
    assert "1.50" in text and "9 x (simulated)" in text
    saved = {r["variant"]: r["metrics"] for r in store.records(experiment="paper_claims")}
    assert saved == {
        "Paper: a": {"ours": 3.0, "paper": 2.0, "ratio": 1.5},
        "Paper: d": {"ours": 9.0, "paper": 9.0, "ratio": 1.0},
    }


def test_the_end_says_a_gain_in_the_documents_words_beside_the_recorded_one(store, capsys):
    gain = Gain(2.0, 1.5, 2.5, 3).metrics("speedup_x")
    store.save("reserving", "paged", gain, machine={"disturbed": ["others"]})
    tiles = {"speedup_x": 1.7, "tokens": 1024}
    store.save("attention", "tiles over math", tiles, shape="4 heads in float32")
    drafts = Gain(1.6, 0.9, 2.8, 3).metrics("tpot_gain_x")
    Results("02_advanced_features", store.directory).save("speculation", "synthetic, a=0.8", drafts)
    claims.recap(store)
    shown = capsys.readouterr().out
    assert "gain, 2.00x (1.50 to 2.50), machine disturbed" in shown and "2.54x" in shown
    assert "1.7x (one run) at 1,024 tokens, the longest; 4 heads in float32" in shown
    assert "9.63x (one run) at 16,384 tokens, the longest; 16 heads in bfloat16" in shown
    assert "recorded: NVIDIA H100" in shown
    assert "undecided, 0.90 to 2.80x" in shown and "0.40x (one stream)" in shown


def test_speculation_is_read_from_notebook_2_only(store):
    store.save("speculation", "mine", {"mean_acceptance_length": 2.0, "num_speculative_tokens": 4})
    assert claims.speculation_on_record(store) == []
    other = Results("02_advanced_features", store.directory)
    length = speculative.expected_tokens(0.8, 4)
    other.save(
        "speculation",
        "draft_4",
        {"mean_acceptance_length": length, "tpot_gain_x": 1.4, "drafts": 18, "drafted": 72},
        {"speculative_config": {"num_speculative_tokens": 4}},
    )
    other.save("speculation", "off", {"output_tokens_per_s": 1.0})
    other.save(
        "speculation", "impossible", {"mean_acceptance_length": 9.0, "num_speculative_tokens": 4}
    )
    (run,) = claims.speculation_on_record(store)
    assert (
        run["gamma"] == 4
        and run["mean_length"] == pytest.approx(length)
        and run["speedup"] == 1.4
        and run["label"] == "draft 4"
        and run["drafts"] == 72  # tokens, not the steps that drafted
        and run["gain"].span is None  # no range was saved
        and run["slower"] is None
    )


def test_token_budgets_are_read_from_notebook_2_the_largest_first(store):
    rows, where = claims.chunks_on_record(store)
    assert where.startswith("recorded: NVIDIA H100") and where in wording.chunks(rows, where)
    other = Results("02_advanced_features", store.directory)
    for budget, gap_ms, ttft_ms in ((256, 28.2, 235.8), (4352, 260.9, 249.0), (512, 51.3, 216.9)):
        numbers = {"max_num_batched_tokens": budget, "itl_ms_max": 999.0, "itl_ms_p99": gap_ms}
        numbers |= {"ttft_long_ms_p50": ttft_ms, "total_tokens_per_s": 9000.0}
        other.save("chunked_prefill", f"budget {budget}", numbers)
    rows, where = claims.chunks_on_record(store)
    assert not where
    assert [row["max_num_batched_tokens"] for row in rows] == [4352, 512, 256]
    said = wording.chunks(rows, where)
    assert "with 256 tokens a step instead of 4,352 (whole prompts), the" in said
    assert (
        "p99 of the gaps in a stream went from 261 to 28 ms" in said
        and "from 249 to 236 ms (one run each)" in said
    )


RUN = {
    "gamma": 4, "alpha": 0.8, "c": 0.35, "mean_length": 3.36, "drafts": 72, "speedup": 1.4,
    "gain": Gain(1.4, 1.3, 1.5, 3), "slower": None, "label": "draft model, k=4",
}  # fmt: skip
BY_HAND = RUN | {"label": "synthetic, a=0.8", "slower": Gain(2.2, 1.8, 2.6, 3)}


def test_only_runs_with_enough_drafts_are_shown(store, capsys):
    few = RUN | {"label": "draft model, k=8", "gamma": 8, "drafts": 48}
    claims.show_speculation([RUN, few, RUN | {"label": "ngram", "gain": Gain(1.4, 0.7, 2.8, 3)}])
    shown = capsys.readouterr().out
    assert "draft model, k=4" in shown and "0.70 to 2.80" in shown and "0.35" in shown
    assert "k=8" not in shown and "50 drafts or more" in shown
    claims.show_speculation([few])
    assert "your own curve is missing" in capsys.readouterr().out


def test_a_draft_costs_what_the_rates_set_by_hand_say_else_the_drafters_own_text():
    expected = speculative.expected_tokens(0.8, 4)
    cost, of = claims.own_draft_cost([RUN, RUN | {"label": "ngram, repeats"}], 4)
    assert cost == pytest.approx([(expected / x - 1) / 4 for x in (1.5, 1.4, 1.3)])
    assert of == wording.OWN_TEXT
    cost, of = claims.own_draft_cost([RUN, BY_HAND], 4)
    assert cost == pytest.approx((0.2, 0.3, 0.4)) and of == wording.BY_HAND
    for other in ({"label": "ngram, repeats"}, {"gamma": 2}, {"gain": Gain(1.4, 0.0, math.inf, 1)}):
        assert claims.own_draft_cost([RUN | other], 4) is None, "one run has no range"
    cost, _ = claims.own_draft_cost([RUN | {"gain": Gain(5.5, 5.2, 5.9, 3)}], 4)
    assert cost == (0, 0, 0), "no draft costs less than nothing"
    fast = BY_HAND | {"slower": Gain(0.9, 0.8, 1.0, 3)}
    assert claims.own_draft_cost([fast], 4)[0] == (0, 0, 0)


def test_the_caption_says_whether_one_cost_is_enough():
    own = (0.2, 0.3, 0.4), wording.BY_HAND
    curve = speculative.speedup(0.8, 4, 0.3)
    near = BY_HAND | {"gain": Gain(curve, 0.9 * curve, 1.1 * curve, 3)}
    said = wording.curve_tested(own, [near, RUN | {"gain": Gain(9.0, 8.0, 10.0, 3)}])
    assert (
        "with c = 0.30, four drafts gain from about a = 0.6 on (c = 0.20: from about "
        "a = 0.5 on; c = 0.40: from about a = 0.7 on)." in said
    )
    assert said.endswith("set by hand: no more than one c is needed to explain them.")
    beside = BY_HAND | {"gain": Gain(0.9 * curve, 0.88 * curve, 0.92 * curve, 3)}
    assert wording.curve_tested(own, [beside]) == said, "c has a range too"
    for low, high, costs in ((0.6, 1.3, own[0]), (0.9, 1.1, (0.0, 0.3, 1.1))):
        wide = BY_HAND | {"gain": Gain(curve, low * curve, high * curve, 3)}
        said = wording.curve_tested((costs, wording.BY_HAND), [near, wide])
        assert said.endswith("but they are too wide to tell whether one c is enough.")
    assert "c = 1.10: never)" in said
    far = BY_HAND | {"label": "synthetic, a=0.2", "gain": Gain(9.0, 8.0, 10.0, 3)}
    said = wording.curve_tested(own, [near, far])
    assert said.endswith(
        "Your band (shaded) misses the ranges of synthetic, a=0.2: one c is not enough."
    )
    fitted = wording.curve_tested(((0.2, 0.3, 0.4), wording.OWN_TEXT), [RUN])
    assert fitted.endswith("fitted to the draft model's mark, which tests nothing then.")
    assert wording.curve_tested(None, []).startswith(
        "By theorem 3.8, with c = 0.05, four drafts gain from about a = 0.2 on."
    )
    dear = wording.curve_tested(((1.0, 1.2, 1.4), wording.OWN_TEXT), [RUN])
    assert "with c = 1.20, four drafts never gain" in dear


def test_the_worth_of_drafts_has_the_range_of_their_cost():
    own = (0.2, 0.3, 0.4), wording.BY_HAND
    said = wording.speculation(own)
    assert "with c = 0.30 (0.20 to 0.40, of the rates set by hand), four drafts" in said
    assert "give 1.53 (1.29 to 1.87) times the speed at a = 0.8 and 0.88 (0.75 to 1.08) at" in said
    said = wording.speculation(None)
    assert "c = 0.05 (the paper's largest), four drafts give 2.80 times" in said


def test_what_was_recorded_elsewhere_has_the_rate_that_its_steps_explain():
    drafters, where = claims.speculation_elsewhere(gamma=4)
    assert set(drafters) == {"EAGLE-3 head", "n-gram", "draft model"} and "H100" in where
    for runs in drafters.values():
        assert len(runs) > 2 and all(0 < run["alpha"] < 1 for run in runs)
    gave, costs = wording.speculation_there(drafters)
    assert (
        "draft model 0.40 times the speed" in gave and "draft model 1.73 to 2.11; above 1" in costs
    )
    assert where in wording.elsewhere(where) and wording.elsewhere("") == ""
