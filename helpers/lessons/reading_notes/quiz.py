"""The self-check of notebook 3: grade what was answered, keep the score, show the form.

    take(store, "Ada Lovelace")                   # the form; saved as it is answered
    grade(make_quiz("Ada"), {"kv_per_token": 800})  # pure: what is right, and why

A wrong answer brings a hint, a second one the choice to see the solution. What is answered after
the solution was shown does not count, and the record says so.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.display import card
from helpers.display.numbers import NotANumber, number, read_number
from helpers.lessons import forms
from helpers.lessons.forms import Field, Reply
from helpers.lessons.reading_notes.questions import Question, make_quiz, sections

SOLUTION = {"solution": "Show the solution (the question then does not count)"}

# ---------------------------------------------------------------- grading


@dataclass(frozen=True)
class Graded:
    """How one answer did; `correct` is None while nobody has answered, or nothing could be read.

    shown: the solution had been shown before it was right.
    """

    question: Question
    given: object
    correct: bool | None
    sentence: str
    shown: bool = False

    @property
    def counts(self) -> bool | None:
        """Right, without the solution."""
        return False if self.correct and self.shown else self.correct

    @property
    def marked(self) -> str:
        """The sentence behind ✓ or ✗."""
        after = " After the solution was shown: it does not count." if self.shown else ""
        return {True: "✓ ", False: "✗ ", None: ""}[self.correct] + self.sentence + after


@dataclass(frozen=True)
class Score:
    """All questions, graded."""

    graded: tuple[Graded, ...]

    @property
    def correct(self) -> int:
        """Right answers, without the solution."""
        return sum(g.counts is True for g in self.graded)

    @property
    def answered(self) -> int:
        """Answers that could be read."""
        return sum(g.correct is not None for g in self.graded)

    @property
    def questions(self) -> int:
        """All questions."""
        return len(self.graded)

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
        try:
            value = read_number(str(given), question.unit)
        except NotANumber as error:
            return Graded(question, given, None, str(error))
        right = math.isclose(value, question.answer, rel_tol=question.tolerance, abs_tol=1e-9)
    if right:
        return Graded(question, given, True, f"Right. {question.why}")
    again = f"section {question.section}, {sections()[question.section]}"
    return Graded(question, given, False, f"Not yet; reread {again}.")


def grade(questions: list[Question], answers: dict | None, shown: Iterable[str] = ()) -> Score:
    """All answers, by question id. shown: questions whose solution was shown before.

    Raises ValueError for an id that no question has.
    """
    answers = answers or {}
    if unknown := set(answers) - {q.id for q in questions}:
        known = ", ".join(q.id for q in questions)
        raise ValueError(f"no question is called {min(unknown)!r}; there are {known}")
    checked = (check(q, answers.get(q.id)) for q in questions)
    return Score(tuple(replace(one, shown=one.question.id in shown) for one in checked))


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
    """The open quiz of a notebook. `score` is always what has been answered so far.

    The numbers of the questions are drawn for a name. Answers that were given without a name are
    those of whoever sets one first, who keeps their numbers. `names` are all that this person has
    had. `other` is the record of another person, until its answers are claimed.
    """

    def __init__(self, store, student: str = "", given=None):
        self.store, self.student, self.drawn_for = store, student, student
        self.names = [student]
        self.other: dict | None = None
        self._continue(self._saved(), claimed=False)
        if given := read_answers(given):
            if self.drawn_for != student:  # they were made for the numbers of this name
                self._start(student)
            grade(self.questions, given)  # an unknown id is an error, not a silent zero
            before = dict(self.answers)
            self.answers |= given
            if self.answers != before:
                self.save()

    def _saved(self) -> dict:
        """The last record of this person, else the last of all."""
        records = self.store.records(experiment="self_check", variant="score", latest=False)
        mine = [record for record in records if self.student in _names(record)]
        return (mine or records or [{}])[-1]

    def _continue(self, saved: dict, claimed: bool) -> None:
        names = _names(saved) if saved else [self.student]
        if self.student and self.student not in names and any(names) and not claimed:
            self._start(self.student)
            self.other = saved
            return
        self._start(saved.get("drawn_for", names[-1]))
        self.student = self.student or names[-1]
        self.names = list(dict.fromkeys([*names, self.student]))
        known = {q.id for q in self.questions}
        self.answers = {k: v for k, v in (saved.get("answers") or {}).items() if k in known}
        self.attempts.update(saved.get("attempts") or {})
        self.shown.update(saved.get("solution_shown") or ())

    def _start(self, drawn_for: str) -> None:
        self.drawn_for, self.questions = drawn_for, make_quiz(drawn_for)
        self.answers: dict = {}
        self.attempts: Counter = Counter()
        self.shown: set[str] = set()

    def claim(self) -> None:
        """The other name's answers are this person's: go on with them and with their numbers."""
        self._continue(self.other, claimed=True)
        self.other = None
        self.save()

    @property
    def score(self) -> Score:
        """Of all answers so far."""
        return grade(self.questions, self.answers, self.shown)

    def answer(self, question: Question, given) -> Reply:
        """Take one answer, save the score, say how it did. An empty one is withdrawn."""
        graded = check(question, given)
        if graded.correct is None and given not in (None, ""):
            return Reply(graded.sentence, taken=False)
        if given != self.answers.get(question.id, ""):
            self.answers[question.id] = given
            self.attempts[question.id] += graded.correct is False
            if given == "":
                del self.answers[question.id]
            self.save()
        return self.verdict(question)

    def show_solution(self, question: Question) -> Reply:
        """Say it, and record that it was said."""
        if check(question, self.answers.get(question.id)).correct is not True:
            self.shown.add(question.id)
            self.save()
        return self.verdict(question)

    def verdict(self, question: Question) -> Reply:
        """What stands beside a question now."""
        given = {question.id: self.answers.get(question.id)}
        (graded,) = grade([question], given, self.shown).graded
        if question.id in self.shown and not graded.correct:
            return Reply(f"Solution: {right_answer(question)}. {question.why}")
        if graded.correct is False:
            actions = SOLUTION if self.attempts[question.id] > 1 else {}
            return Reply(f"{graded.marked} Hint: {question.hint}", actions=actions)
        return Reply(graded.marked if graded.correct else "")

    def save(self) -> None:
        """Save the score as "self_check", "score"."""
        score = self.score
        names = ("correct", "questions", "answered")
        self.store.save(
            "self_check",
            "score",
            {name: getattr(score, name) for name in names},
            answers={g.question.id: g.given for g in score.graded if g.correct is not None},
            student=self.student,
            names=self.names,
            drawn_for=self.drawn_for,
            attempts=dict(self.attempts),
            solution_shown=sorted(self.shown),
        )


def _names(record: dict) -> list[str]:
    """The names of whoever gave a record's answers, the last one last."""
    return record.get("names") or [record.get("student", "")]


# ---------------------------------------------------------------- in the notebook


def take(store, student: str = "", given=None) -> Quiz:
    """Show the quiz: a form with a verdict at each question, or, without widgets, a table."""
    quiz = Quiz(store, student, given)
    if not card.has_widgets():
        card.show(_table(quiz, quiz.score.graded))
        return quiz
    fields = [_field(quiz, n, question) for n, question in enumerate(quiz.questions, 1)]
    if quiz.other:
        fields.insert(0, _claim(quiz))

    def echo() -> card.Static:  # answered questions only: the others stay open
        return _table(quiz, [g for g in quiz.score.graded if g.correct is not None])

    # Drafts belong to the numbers that they answer.
    forms.show(store, "Self-check", fields, echo, drafts_of=quiz.drawn_for)
    return quiz


def _field(quiz: Quiz, n: int, question: Question) -> Field:
    return Field(
        question.id,
        f"{n}. {question.text}",
        take=lambda given: quiz.answer(question, given),
        kind="choice" if question.choices else "number",
        value=str(quiz.answers.get(question.id, "")),
        first=quiz.verdict(question),
        act=lambda action: quiz.show_solution(question),
        unit=question.unit,
        hint="" if question.choices else "a number, then Enter",
        options=question.choices,
        deliberate=True,
        group=f"{question.section} {sections()[question.section]}",
    )


def _claim(quiz: Quiz) -> Field:
    """A box: the answers under the other name are mine."""
    name, count = quiz.other["student"], len(quiz.other.get("answers") or {})

    def take(ticked: bool) -> Reply:
        if not ticked:
            return Reply("")
        if quiz.other is not None:  # a browser may send a tick twice
            quiz.claim()
        return Reply("They are kept. Run this cell again to go on with them.")

    question = f"This results folder holds {count} answers of “{name}”."
    hint = "I am the same person: keep these answers and their numbers"
    return Field("same_person", question, take, "tick", value=False, hint=hint)


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
