"""What is made of a class once it is read: grades.csv, answers.html, a page a student to hand back.

The pages name no other student but those on answers.html, which is for the instructor.
"""

from __future__ import annotations

import urllib.parse
from collections import Counter
from pathlib import Path

from helpers.results.wording import rounded
from helpers.run import summary
from helpers.run.classroom import grading, pages
from helpers.run.classroom.grading import Grading
from helpers.run.classroom.intake import Submission

MOST_QUESTIONS = 150


def write(out: Path, found: list[Submission], students: list[dict], course: Grading) -> None:
    """All three, in `out`. students: as results.Student has them, in the order of `found`."""
    rows = [course.grade(*pair) for pair in zip(found, students, strict=True)]
    grading.write_csv(out / "grades.csv", rows)
    (out / "feedback").mkdir(exist_ok=True)
    for student, row in zip(students, rows, strict=True):
        marks = course.marks(student)
        body = summary.render("feedback.html.j2", student=student, grade=row, marks=marks)
        summary.write_page(pages.feedback(out, student), student["name"], body)
    body = summary.render("answers.html.j2", questions=questions(students))
    summary.write_page(out / "answers.html", "Answers side by side", body)


def questions(students: list[dict]) -> list[dict]:
    """Every question that a student answered: key, words (as most were asked it), a row an answer.

    A typed prediction is one, too. What a formula, the planner or a parameter said is nobody's.
    """
    asked: dict[str, dict] = {}
    for student in students:
        link = urllib.parse.quote(f"feedback/{student['slug']}.html")
        about = {"name": student["name"], "link": link, "numbers": ()}
        for answer in student["content"].get("answers", ()):
            if answer["by"] == "student":
                _add(asked, answer, about | {"text": answer["text"]})
        for guess in student["content"].get("predictions", ()):
            if guess["by"] == "student":
                _add(asked, guess, about | {"text": guess["why"], "numbers": _numbers(guess)})
    for question in asked.values():
        words = question.pop("questions").most_common(1)[0][0]
        question["words"] = words or question["key"].replace("_", " ")
    return list(asked.values())


def _add(asked: dict[str, dict], said: dict, row: dict) -> None:
    if said["key"] in asked or len(asked) < MOST_QUESTIONS:
        new = {"key": said["key"], "questions": Counter(), "rows": []}
        question = asked.setdefault(said["key"], new)
        question["questions"][said["question"]] += 1
        question["rows"].append(row)


def _numbers(guess: dict) -> tuple[str, ...]:
    """Predicted, measured, and by how much the two differ."""
    unit = f" {guess['unit']}".rstrip()
    measured = f"measured {rounded(guess['measured'])}{unit}" if guess["measured"] else ""
    ratio = f"{rounded(guess['ratio'])}x" if guess["ratio"] else ""
    late = ", changed after measuring" if guess["after"] else ""
    return f"{rounded(guess['predicted'])}{unit}{late}", measured, ratio
