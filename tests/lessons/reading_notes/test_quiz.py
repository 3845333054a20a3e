"""helpers/lessons/reading_notes, questions and quiz: numbers by name, grading, what is kept."""

import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.lessons.reading_notes import quiz
from helpers.lessons.reading_notes.questions import make_quiz, sections
from helpers.results.store import Results
from tests.notebook_tools import Outputs


@settings(max_examples=200)
@given(st.text(max_size=30))
def test_every_name_gets_a_sound_quiz(name):
    questions = make_quiz(name)
    assert len(questions) >= 20
    assert len({q.id for q in questions}) == len(questions)
    assert {q.section for q in questions} == set(sections())
    assert {q.section for q in questions[:12]} == set("123"), "the notebook's twelve for today"
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
    assert (
        "[20, 40, 10, 80, 80, 10]" in by_id["continuous_steps"].text
        and by_id["continuous_steps"].answer == 120
    )
    assert by_id["tpot"].answer == (2600 - 350) / 100
    assert by_id["per_step"].answer == pytest.approx(sum(0.8**i for i in range(6)))


def test_places_in_waves_and_continuously_by_playing_the_steps():
    def steps(outputs, places):
        waiting, running, played = list(outputs), [], 0
        while waiting or running:
            while waiting and len(running) < places:
                running.append(waiting.pop(0))
            running = [left - 1 for left in running if left > 1]
            played += 1
        return played

    for name in map(str, range(30)):
        by_id = {q.id: q for q in make_quiz(name)}
        _, *outputs = map(int, re.findall(r"\d+", by_id["wave"].text))
        used = sum(outputs) / (4 * steps(outputs, 4))
        assert by_id["wave"].answer == pytest.approx(100 * used)
        lengths = json.loads(re.search(r"\[.*\]", by_id["continuous_steps"].text)[0])
        assert by_id["continuous_steps"].answer == steps(lengths, 2)


def test_a_block_for_the_newest_token_is_held_in_the_next_step():
    """As vLLM's block table has it, and the puzzle of notebook 1."""
    for name in map(str, range(100)):  # every sixteenth to thirty-second ends a block
        (question,) = [q for q in make_quiz(name) if q.id == "blocks"]
        block, prompt, output = map(int, re.findall(r"\d+", question.text))
        assert question.answer == math.ceil((prompt + output - 1) / block), question.text


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
        ("-32", None),
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
        assert "32" not in verdict.sentence and "reread section 1" in verdict.sentence


def test_wrong_answers_name_the_sections_worst_first():
    questions = make_quiz("x")
    wrong = {
        q.id: ("no such choice" if q.choices else 1e12) for q in questions if q.section in "35"
    }
    score = quiz.grade(questions, wrong)
    assert score.correct == 0 and score.reread == ["5", "3"]
    assert "section 5 (Sarathi-Serve and speculation)" in str(score)


def test_unknown_ids_are_an_error():
    with pytest.raises(ValueError, match="no question is called 'typo'"):
        quiz.grade(make_quiz("x"), {"typo": 1})


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_WIDGETS", "0")
    return Results("03_reading_notes", tmp_path)


def right_ones(name, count):
    return {q.id: q.answer for q in make_quiz(name)[:count]}


def test_score_is_saved_and_restored(store, capsys):
    quiz.take(store, "Ada")
    assert store.get("self_check", "score") is None, "nobody has answered: no score"
    out = capsys.readouterr().out
    assert "none answered yet" in out and "Solution" not in out

    done = quiz.take(store, "Ada", given=right_ones("Ada", 5))
    saved = store.get("self_check", "score")
    assert done.score.correct == 5 and saved["metrics"]["answered"] == 5
    assert (saved["student"], saved["drawn_for"]) == ("Ada", "Ada")
    quiz.take(store, "Ada", given=right_ones("Ada", 5))
    assert len(store.records(experiment="self_check", latest=False)) == 1, (
        "the same answers are saved once"
    )
    assert quiz.take(store, "Ada").score.correct == 5


def test_setting_a_name_keeps_what_was_answered_without_one(store):
    quiz.take(store, "", given=right_ones("", 6))
    named = quiz.take(store, "Ada")
    assert named.score.correct == 6 and named.drawn_for == ""
    named.answer(named.questions[6], named.questions[6].answer)
    saved = store.get("self_check", "score")
    assert (saved["student"], saved["drawn_for"], saved["metrics"]["correct"]) == ("Ada", "", 7)
    assert quiz.take(store, "Ada").score.correct == quiz.take(store, "").score.correct == 7


def test_answers_under_another_name_are_kept_when_the_person_says_so(store, monkeypatch):
    quiz.take(store, "Ada", given=right_ones("Ada", 6))
    notebook = Outputs(monkeypatch)
    other = quiz.take(store, "Bob")
    assert other.score.answered == 0, "Ada's answers are not Bob's unless Bob says so"
    for _ in range(2):  # a browser may send a tick twice
        assert "Run this cell again" in notebook.type(True, "same_person")["said"]
    again = quiz.take(store, "Bob")
    assert again.score.correct == 6 and again.drawn_for == "Ada"
    seventh = again.questions[6]
    again.answer(seventh, seventh.answer)
    assert quiz.take(store, "Ada").score.correct == 7, "one person now, under both names"


def test_a_second_name_finds_what_was_answered_under_the_first(store, monkeypatch):
    quiz.take(store, "", given=right_ones("", 2))
    ada = quiz.take(store, "Ada")
    ada.answer(ada.questions[2], ada.questions[2].answer)
    notebook = Outputs(monkeypatch)
    assert quiz.take(store, "Ada Lovelace").score.answered == 0
    notebook.type(True, "same_person")
    assert quiz.take(store, "Ada Lovelace").score.correct == 3, "not those without a name only"


def test_answers_from_a_file(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"idle": 2}))
    assert quiz.read_answers(path) == {"idle": 2} and quiz.read_answers(None) == {}
    path.write_text("[1]")
    with pytest.raises(ValueError, match="are a list"):
        quiz.read_answers(path)
    with pytest.raises(ValueError, match="cannot be read"):
        quiz.read_answers(tmp_path / "none.json")


def test_hint_second_try_and_the_solution_on_request(store, monkeypatch):
    notebook = Outputs(monkeypatch)
    opened = quiz.take(store, "Ada")
    first, second = opened.questions[0], opened.questions[1]
    solution = quiz.right_answer(first)
    for tries in (1, 2):
        reply = notebook.type(str(tries), first.id)
        assert first.hint in reply["said"]
        assert solution not in str(reply) and first.why not in str(reply)
        assert bool(reply["actions"]) == (tries > 1), "the solution comes after a second try"
        assert solution not in str(notebook.shown[-1]), "nor does the page give it away"
    reply = notebook.type("2", first.id, action="solution")
    assert solution in reply["said"] and first.why in reply["said"]
    reply = notebook.type(solution, first.id)
    assert "✓" in reply["said"] and "does not count" in reply["said"]
    saved = store.get("self_check", "score")
    assert saved["solution_shown"] == [first.id] and saved["attempts"] == {first.id: 2}
    assert saved["metrics"]["correct"] == 0 and opened.score.correct == 0
    # Right without it counts, also after a wrong try, and stays right.
    notebook.type("1e9", second.id)
    assert "✓" in notebook.type(str(second.answer), second.id)["said"]
    notebook.type(str(second.answer), second.id, action="solution")
    assert quiz.take(store, "Ada").score.correct == 1


def test_what_cannot_be_read_is_no_try_and_an_answer_can_be_withdrawn(store, monkeypatch):
    notebook = Outputs(monkeypatch)
    opened = quiz.take(store, "Ada")
    question = opened.questions[0]
    reply = notebook.type("many", question.id)
    assert "cannot be read" in reply["said"] and not reply["taken"]
    assert store.get("self_check", "score") is None
    notebook.type(str(question.answer), question.id)
    assert notebook.type("", question.id)["said"] == ""
    assert store.get("self_check", "score")["answers"] == {}


def test_the_form_restores_its_verdicts(store, monkeypatch):
    notebook = Outputs(monkeypatch)
    opened = quiz.take(store, "Ada")
    notebook.type(str(opened.questions[0].answer), opened.questions[0].id)
    quiz.take(store, "Ada")
    form, table = notebook.shown[-2:]
    assert "Right" in form.fields[0]["said"] and form.fields[1]["said"] == ""
    assert [f["group"] for f in form.fields][0] == "1 PagedAttention"
    assert opened.questions[0].text in str(table) and opened.questions[1].text not in str(table)
