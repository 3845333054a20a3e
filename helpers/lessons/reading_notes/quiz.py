"""The self-check of notebook 3: grade what was answered, keep the score, show the form.

questions = make_quiz("Ada Lovelace")         # helpers.lessons.reading_notes.questions
grade(questions, {"kv_per_token": 800})       # pure: what is right, why, and what to reread
take(store, questions)                        # the form; saved as it is answered, restored later
"""

from __future__ import annotations

import html
import json
import math
from dataclasses import dataclass
from pathlib import Path

from helpers.display import card
from helpers.display.numbers import number, read_number
from helpers.lessons import forms
from helpers.lessons.reading_notes.questions import Question, sections

NOTE_WORDS = 15  # a note of the student's own that counts as evidence of reading
SHARE_RIGHT = 0.7  # of a section's questions, likewise


# ---------------------------------------------------------------- grading


@dataclass(frozen=True)
class Graded:
    """How one answer did; `correct` is None while nobody has answered, or nothing could be read."""

    question: Question
    given: object
    correct: bool | None
    sentence: str

    @property
    def marked(self) -> str:
        """The sentence behind ✓ or ✗."""
        return {True: "✓ ", False: "✗ ", None: ""}[self.correct] + self.sentence


@dataclass(frozen=True)
class Score:
    """All questions, graded."""

    graded: tuple[Graded, ...]

    @property
    def correct(self) -> int:
        """Right answers."""
        return sum(g.correct is True for g in self.graded)

    @property
    def answered(self) -> int:
        """Answers that could be read."""
        return sum(g.correct is not None for g in self.graded)

    @property
    def questions(self) -> int:
        """All questions."""
        return len(self.graded)

    def of_section(self, section: str) -> tuple[int, int]:
        """(right, asked) in one section."""
        mine = [g for g in self.graded if g.question.section == section]
        return sum(g.correct is True for g in mine), len(mine)

    @property
    def reread(self) -> list[str]:
        """Sections with a wrong answer, most wrong answers first."""
        wrong = [g.question.section for g in self.graded if g.correct is False]
        return sorted(set(wrong), key=lambda s: (-wrong.count(s), s))

    def __str__(self) -> str:
        if not self.answered:
            return f"{self.questions} questions, none answered yet."
        text = f"{self.correct} of {self.questions} right ({self.answered} answered)."
        if self.reread:
            names = ", ".join(f"section {s} ({sections()[s]})" for s in self.reread)
            text += f" Reread: {names}."
        return text


def right_answer(question: Question) -> str:
    """The answer in words: the choice, or the number with its unit."""
    if question.choices:
        return str(question.answer)
    return f"{number(float(question.answer))} {question.unit}"


def check(question: Question, given) -> Graded:
    """One answer: a number, a text that holds one, or the chosen option."""
    if given is None or given == "":
        return Graded(question, given, None, "Not answered yet.")
    if question.choices:
        right = str(given) == str(question.answer)
    else:
        value = read_number(str(given), question.unit)
        if value is None:
            said = f"{given!r} is not a number in {question.unit}: write digits, such as 3.5."
            return Graded(question, given, None, said)
        right = math.isclose(value, question.answer, rel_tol=question.tolerance, abs_tol=1e-9)
    if right:
        return Graded(question, given, True, f"Right. {question.why}")
    again = f"Reread section {question.section}, {sections()[question.section]}."
    said = f"Not yet. Right is {right_answer(question)}. {question.why} {again}"
    return Graded(question, given, False, said)


def grade(questions: list[Question], answers: dict | None) -> Score:
    """All answers, by question id. Raises ValueError for an id that no question has."""
    answers = answers or {}
    if unknown := set(answers) - {q.id for q in questions}:
        known = ", ".join(q.id for q in questions)
        raise ValueError(f"no question is called {min(unknown)!r}; there are {known}")
    return Score(tuple(check(q, answers.get(q.id)) for q in questions))


def evidence_of_reading(note, score: Score, section: str, what: str) -> str | None:
    """One sentence when the student's own work shows that `what` was read, else None.

    note: the answer of `exercises.ask`. section: whose questions show it.
    """
    right, asked = score.of_section(section)
    if asked and right >= SHARE_RIGHT * asked:
        return f"{right} of {asked} questions on {what} right"
    words = len(note.text.split())
    if note.source in ("typed", "parameter") and words >= NOTE_WORDS:
        return f"own notes on {what}, {words} words"
    return None


# ---------------------------------------------------------------- answers that are kept


def read_answers(given) -> dict:
    """Answers of a headless run: a dict, or the path of a JSON file that holds one. {} for None.

    Raises ValueError for a file that cannot be read or holds something else.
    """
    if given is None or isinstance(given, dict):
        return given or {}
    wanted = "give a JSON object of question id: answer."
    try:
        found = json.loads(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"The answers in {given} cannot be read ({error}): {wanted}") from error
    if not isinstance(found, dict):
        raise ValueError(f"The answers in {given} are a {type(found).__name__}: {wanted}")
    return found


class Quiz:
    """The open quiz of a notebook. `score` is always what has been answered so far."""

    def __init__(self, store, questions: list[Question], student: str = "", given=None):
        self.store, self.questions, self.student = store, questions, student
        saved = store.get("self_check", "score") or {}
        # Another name means other numbers: old answers do not belong to them.
        mine = saved.get("answers") if saved.get("student", "") == student else None
        known = {q.id for q in questions}
        self.answers: dict = {k: v for k, v in (mine or {}).items() if k in known}
        if given := read_answers(given):
            grade(questions, given)  # an unknown id is an error, not a silent zero
            self.answers |= given
            if self.answers != mine:
                self.save()

    @property
    def score(self) -> Score:
        """Of all answers so far."""
        return grade(self.questions, self.answers)

    def answer(self, question: Question, given) -> Graded:
        """Take one answer, save the score, say how it did."""
        if given not in (None, "") and self.answers.get(question.id) != given:
            self.answers[question.id] = given
            self.save()
        return check(question, given)

    def save(self) -> None:
        """Save the score as "self_check", "score", unless nobody has answered."""
        score = self.score
        if score.answered:
            names = ("correct", "questions", "answered")
            metrics = {name: getattr(score, name) for name in names}
            answers = {g.question.id: g.given for g in score.graded if g.correct is not None}
            about = {"answers": answers, "student": self.student}
            self.store.save("self_check", "score", metrics, **about)


# ---------------------------------------------------------------- in the notebook


def take(store, questions: list[Question], student: str = "", given=None) -> Quiz:
    """Show the quiz: a form with a verdict at each question, or, without widgets, a table."""
    quiz = Quiz(store, questions, student, given)
    if card.has_widgets():
        _form(quiz)
    else:
        card.show(_table(quiz, quiz.score.graded))
        open_ones = [g.question for g in quiz.score.graded if g.correct is None]
        if open_ones:
            rows = [
                {"question": q.text, "answer": f"{right_answer(q)}. {q.why}"} for q in open_ones
            ]
            card.show(card.table(rows, "Answers to the open questions", closed=True))
    return quiz


def _table(quiz: Quiz, graded) -> card.Static:
    numbers = {q.id: n for n, q in enumerate(quiz.questions, 1)}
    rows = [
        {
            "no.": numbers[g.question.id],
            "section": g.question.section,
            "question": g.question.text,
            "asked for": "; ".join(g.question.choices) or _wanted(g.question),
            "answered": "" if g.given is None else str(g.given),
            "how it did": "" if g.given is None else g.marked,
        }
        for g in graded
    ]
    return card.table(rows, f"Self-check: {quiz.score}")


def _wanted(question: Question) -> str:
    return "a factor" if question.unit == "x" else f"a number in {question.unit}"


def _form(quiz: Quiz) -> None:
    """One page of controls for each section, and below them what a saved notebook keeps."""
    import ipywidgets as w
    from IPython.display import display

    place = card.Place()

    def keep() -> None:  # answered questions only: the others stay open
        place.put(_table(quiz, [g for g in quiz.score.graded if g.correct is not None]))

    def one(n: int, question: Question):
        value = quiz.answers.get(question.id)
        options = {"options": question.choices} if question.choices else {"unit": question.unit}
        made = forms.control(question.text, "" if value is None else str(value), **options)
        made.continuous_update = False  # a verdict on what is typed to its end: Enter, or leaving
        said = w.HTML("" if value is None else html.escape(check(question, value).marked))

        def show(verdict: str) -> None:
            said.value = html.escape(verdict)
            keep()

        forms.on_change(made, lambda given: quiz.answer(question, given).marked, show)
        text = w.HTML(f"{n}. {html.escape(question.text)}")
        layout = w.Layout(margin="4px 0 12px 0")
        return w.VBox([text, forms.row(made, options.get("unit", "")), said], layout=layout)

    pages = {section: [] for section in sections()}
    for n, question in enumerate(quiz.questions, 1):
        pages[question.section].append(one(n, question))
    titles = [f"{section} {title}" for section, title in sections().items()]
    display(w.Accordion([w.VBox(page) for page in pages.values()], titles=titles, selected_index=0))
    keep()
