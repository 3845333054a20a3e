"""helpers/lessons/reading_notes, questions and quiz: numbers by name, grading, what is kept."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.lessons import exercises
from helpers.lessons.reading_notes import quiz
from helpers.lessons.reading_notes.questions import make_quiz, sections
from helpers.results.store import Results
from tests.notebook_tools import Outputs


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_every_name_gets_a_sound_quiz(name):
    questions = make_quiz(name)
    assert len(questions) >= 20
    assert len({q.id for q in questions}) == len(questions)
    assert {q.section for q in questions} == set(sections())
    for q in questions:
        if q.choices:
            assert q.answer in q.choices and len(set(q.choices)) == len(q.choices) >= 2, q.id
        else:
            assert math.isfinite(q.answer) and q.unit, q.id
    assert quiz.grade(questions, {q.id: q.answer for q in questions}).correct == len(questions)


def test_numbers_are_the_students_own():
    ada, again, bob = (make_quiz(n) for n in ("Ada Lovelace", "  ada   LOVELACE ", "Bob"))
    assert ada == again
    different = [a.id for a, b in zip(ada, bob, strict=True) if a.text != b.text]
    assert len(different) >= 15, f"only {different} differ between two students"
    # Handing in a neighbour's numbers must not pay.
    copied = quiz.grade(bob, {q.id: q.answer for q in ada if not q.choices})
    assert copied.correct < 0.6 * copied.answered


def test_constants_and_zeros_do_not_pass():
    for constant in (0, 1, 16, 100):
        questions = make_quiz("x")
        numeric = [q for q in questions if not q.choices]
        score = quiz.grade(questions, {q.id: constant for q in numeric})
        assert score.correct <= 3, f"{constant} is right {score.correct} times"


def test_answers_by_hand():
    """One student's numbers worked out from the text alone."""
    by_id = {q.id: q for q in make_quiz("Ada Lovelace")}
    assert (
        "32 layers and 2 KV heads" in by_id["kv_per_token"].text
        and by_id["kv_per_token"].answer == 2 * 32 * 2 * 128 * 2 / 1024
    )
    assert "143" not in by_id["blocks"].text and by_id["blocks"].answer == math.ceil(
        (392 + 181) / 32
    )
    assert (
        "[10, 80, 80, 10, 10, 10]" in by_id["continuous_steps"].text
        and by_id["continuous_steps"].answer == 100
    )
    assert by_id["tpot"].answer == (4100 - 350) / 50
    assert by_id["per_step"].answer == pytest.approx(1 + 0.7 + 0.7**2 + 0.7**3 + 0.7**4)


@pytest.mark.parametrize(
    ("given", "correct"),
    [
        (32, True),
        ("32", True),
        ("32 KiB", True),
        ("32,768 bytes", True),
        ("32 MiB", False),
        ("32 ms", None),
        ("~32.1", True),
        ("31", False),
        ("-32", False),
        ("", None),
        (None, None),
        ("many", None),
        ("nan", None),
    ],
)
def test_what_students_type(given, correct):
    (question,) = [q for q in make_quiz("Ada Lovelace") if q.id == "kv_per_token"]
    verdict = quiz.check(question, given)
    assert verdict.correct is correct, verdict.sentence
    if correct is False:
        assert "32" in verdict.sentence and "Reread section 1" in verdict.sentence


def test_wrong_answers_name_the_sections_worst_first():
    questions = make_quiz("x")
    wrong = {
        q.id: ("no such choice" if q.choices else 1e12) for q in questions if q.section in "35"
    }
    wrong.pop("exact")
    score = quiz.grade(questions, wrong)
    assert score.correct == 0 and score.reread == ["5", "3"]
    assert "section 5 (Sarathi-Serve and speculation)" in str(score)
    assert score.of_section("5") == (0, 4)


def test_unknown_ids_are_an_error():
    with pytest.raises(ValueError, match="no question is called 'typo'"):
        quiz.grade(make_quiz("x"), {"typo": 1})


def test_score_is_saved_restored_and_belongs_to_a_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORKBOOK_WIDGETS", "0")
    store, questions = Results("03_reading_notes", tmp_path), make_quiz("Ada")
    fresh = quiz.take(store, questions, "Ada")
    assert store.get("self_check", "score") is None, "nobody has answered: no score"
    assert "none answered yet" in capsys.readouterr().out

    right = {q.id: q.answer for q in questions[:5]}
    done = quiz.take(store, questions, "Ada", given=right)
    saved = store.get("self_check", "score")
    assert (
        saved["metrics"] == {"correct": 5, "questions": len(questions), "answered": 5}
        and done.score.correct == 5
    )
    quiz.take(store, questions, "Ada", given=right)
    assert len(store.records(experiment="self_check", latest=False)) == 1, (
        "the same answers are saved once"
    )

    again = quiz.take(Results("03_reading_notes", tmp_path), questions, "Ada")
    assert again.score.correct == 5 and fresh.score.correct == 0
    other = quiz.take(store, make_quiz("Bob"), "Bob")
    assert other.score.answered == 0, "Ada's answers are not Bob's"


def test_answers_from_a_file(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"idle": 2}))
    assert quiz.read_answers(path) == {"idle": 2} and quiz.read_answers(None) == {}
    path.write_text("[1]")
    with pytest.raises(ValueError, match="are a list"):
        quiz.read_answers(path)
    with pytest.raises(ValueError, match="cannot be read"):
        quiz.read_answers(tmp_path / "none.json")


def test_the_form_marks_saves_and_restores(tmp_path, monkeypatch):
    """The widgets themselves, driven as a front end would: set a value, read the verdict."""
    import ipywidgets as w

    notebook = Outputs(monkeypatch)
    store, questions = Results("03_reading_notes", tmp_path), make_quiz("Ada")

    def open_form():
        notebook.shown.clear()
        opened = quiz.take(store, questions, "Ada")
        accordion, _ = notebook.shown
        assert isinstance(accordion, w.Accordion) and len(accordion.children) == len(sections())
        boxes = [box for section in accordion.children for box in section.children]
        assert len(boxes) == len(questions)
        return opened, boxes

    opened, boxes = open_form()
    number_, choice = boxes[0], next(b for b, q in zip(boxes, questions, strict=True) if q.choices)
    field = number_.children[1].children[0]
    assert not field.continuous_update, "half a number must not bring the right answer"
    field.value = f"{questions[0].answer:g} KiB"
    assert "Right" in number_.children[2].value and opened.score.correct == 1
    radio = choice.children[1].children[0]
    radio.value = next(c for c in radio.options if c not in [q.answer for q in questions])
    kept = notebook.shown[1].text
    assert "Not yet" in choice.children[2].value and "section 1 (PagedAttention)" in kept
    assert questions[0].text in kept and questions[1].text not in kept, (
        "the page keeps what was answered, and gives nothing away"
    )
    assert store.get("self_check", "score")["metrics"]["answered"] == 2

    _, boxes = open_form()
    assert "Right" in boxes[0].children[2].value and "1 of" in notebook.shown[1].html


def note(text, source="typed"):
    return exercises.Answer("note", text, source)


def test_evidence_needs_the_students_own_work():
    questions = make_quiz("x")
    nothing = quiz.grade(questions, {})
    right = quiz.grade(questions, {q.id: q.answer for q in questions if q.section == "1"})
    half = quiz.grade(
        questions, {q.id: q.answer for q in [q for q in questions if q.section == "1"][:3]}
    )
    long = "word " * 20
    assert quiz.evidence_of_reading(note("", "none"), nothing, "1", "X") is None
    assert quiz.evidence_of_reading(note("too short"), half, "1", "X") is None
    assert quiz.evidence_of_reading(note(long, "none"), nothing, "1", "X") is None
    assert quiz.evidence_of_reading(note(""), right, "1", "X") == "7 of 7 questions on X right"
    assert quiz.evidence_of_reading(note(long), nothing, "1", "X") == "own notes on X, 20 words"
    assert quiz.evidence_of_reading(note(""), right, "2", "Y") is None, (
        "right answers elsewhere prove nothing"
    )
