"""helpers/lessons/reading_notes/claims.py: claims and what they save, evidence of reading, the cost form."""

import pytest

from helpers.display import card
from helpers.lessons import exercises
from helpers.lessons.papers import cost, speculative
from helpers.lessons.reading_notes import claims as reading
from helpers.lessons.reading_notes import quiz
from helpers.lessons.reading_notes.claims import Claim
from helpers.results.store import Results


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_WIDGETS", "0")
    return Results("03_reading_notes", tmp_path)


def test_claims_are_shown_and_those_with_a_number_saved(store, capsys):
    reading.show_claims(store, "Paper", [
        Claim("a", "a thing", 2.0, 3.0, "x", "because"),
        Claim("b", "in words only", None, 5.0, "x", ""),
        Claim("c", "not rebuilt", 7.0, None, "x", ""),
        Claim("d", "hearsay", 9.0, 9.0, "x", "", confirmed=False),
    ])  # fmt: skip
    text = capsys.readouterr().out
    assert "1.50" in text and "not measured here" in text and "9 x (not confirmed)" in text
    saved = {r["variant"]: r["metrics"] for r in store.records(experiment="paper_claims")}
    assert saved == {
        "Paper: a": {"ours": 3.0, "paper": 2.0, "ratio": 1.5},
        "Paper: b": {"ours": 5.0},
        "Paper: d": {"ours": 9.0, "paper": 9.0, "ratio": 1.0},
    }


def note(text, source="typed"):
    return exercises.Answer("note", text, source)


def test_evidence_needs_the_students_own_work():
    questions = quiz.make_quiz("x")
    nothing = quiz.grade(questions, {})
    right = quiz.grade(questions, {q.id: q.answer for q in questions if q.section == "1"})
    half = quiz.grade(
        questions, {q.id: q.answer for q in [q for q in questions if q.section == "1"][:3]}
    )
    long = "word " * 20
    assert reading.evidence_of_reading(note("", "none"), nothing, "1", "X") is None
    assert reading.evidence_of_reading(note("too short"), half, "1", "X") is None
    assert reading.evidence_of_reading(note(long, "none"), nothing, "1", "X") is None
    assert reading.evidence_of_reading(note(""), right, "1", "X") == "7 of 7 questions on X right"
    assert reading.evidence_of_reading(note(long), nothing, "1", "X") == "own notes on X, 20 words"
    assert reading.evidence_of_reading(note(""), right, "2", "Y") is None, (
        "right answers elsewhere prove nothing"
    )


def test_throughput_prefers_the_best_of_notebook_1(store):
    assert reading.throughput_on_record(store) is None
    store.save("continuous_batching", "continuous", {"output_tokens_per_s": 100.0})
    assert reading.throughput_on_record(store)[0] == 100
    Results("01_review", store.directory).save(
        "baseline", "one_at_a_time", {"output_tokens_per_s": 50.0}
    )
    assert reading.throughput_on_record(store) == (50.0, "notebook 1, one request at a time")
    Results("01_review", store.directory).save("optimised", "best", {"output_tokens_per_s": 400.0})
    assert reading.throughput_on_record(store) == (400.0, "notebook 1, best configuration")


def test_speculation_is_read_from_notebook_2_only(store):
    store.save("speculation", "mine", {"mean_acceptance_length": 2.0, "num_speculative_tokens": 4})
    assert reading.speculation_on_record(store) == []
    other = Results("02_advanced_features", store.directory)
    length = speculative.expected_tokens(0.8, 4)
    other.save(
        "speculation",
        "draft_4",
        {"mean_acceptance_length": length, "speedup_x": 1.4},
        {"speculative_config": {"num_speculative_tokens": 4}},
    )
    other.save("speculation", "off", {"output_tokens_per_s": 1.0})
    other.save(
        "speculation", "impossible", {"mean_acceptance_length": 9.0, "num_speculative_tokens": 4}
    )
    (run,) = reading.speculation_on_record(store)
    assert (
        run["gamma"] == 4
        and run["alpha"] == pytest.approx(0.8)
        and run["speedup"] == 1.4
        and run["label"] == "draft 4"
    )


def picture(drawn):
    def draw(inputs):
        drawn.append(inputs)
        return card.Static("<b>picture</b>", "picture")

    return draw


def test_cost_form_without_widgets_saves_once(store, capsys):
    drawn = []
    reading.cost_form(store, cost.CostInputs(2.0, 1000, 0.5), "a test", picture(drawn))
    saved = store.get("cost", "per_million")
    assert len(drawn) == 1 and saved["metrics"]["cost_per_million_tokens"] == pytest.approx(4 / 3.6)
    assert saved["throughput_from"] == "a test" and saved["price_from"] == "parameter"
    assert "picture" in capsys.readouterr().out


def test_cost_form_with_widgets_follows_the_student(store, monkeypatch):
    from tests.lessons.reading_notes.test_quiz import Outputs

    notebook, drawn = Outputs(monkeypatch), []
    reading.cost_form(store, cost.CostInputs(2.0, 1000, 0.5), "a test", picture(drawn))
    notebook.shown[0].children[0].value = 4.0
    assert drawn[-1].price_per_hour == 4.0 and len(notebook.shown) == 2
    saved = store.get("cost", "per_million")
    assert saved["price_from"] == "typed" and saved["metrics"][
        "cost_per_million_tokens"
    ] == pytest.approx(8 / 3.6)


def test_changes_to_the_price_point_the_right_way():
    rows = {r["change"]: r["ratio"] for r in reading.cost_rows(cost.CostInputs(2.0, 1000, 0.4))}
    assert rows["busy twice the hours"] == pytest.approx(0.5) and rows[
        "busy half the hours"
    ] == pytest.approx(2)
    assert rows["half the price (spot, reserved)"] == pytest.approx(0.5) and rows[
        "1.5 times the tokens/s (tuning)"
    ] == pytest.approx(2 / 3)
    assert reading.cost_rows(cost.CostInputs(2.0, 1000, 0.9))[0]["ratio"] >= 0.5, (
        "nobody is busy more than all hours"
    )
