"""What an instructor gets of a class: tables, answers side by side, a page a student to hand back.

class.csv and class.html have a row for each student, a summary, and what a person should look at.
The pages name no other student but those on answers.html, which is for the instructor.
Everything here comes from students and is text, never markup: the templates beside this file are
filled by summary.render, which escapes it, and the pages' policy forbids scripts.
"""

from __future__ import annotations

import statistics
import urllib.parse
from collections import Counter
from pathlib import Path

import numpy as np

from helpers.display.numbers import number
from helpers.lessons.puzzles.check import PUZZLES
from helpers.results import documents
from helpers.run import summary
from helpers.run.classroom import grading
from helpers.run.classroom.grading import Grading
from helpers.run.classroom.intake import Submission

MOST_QUESTIONS = 150
TYPED = ("student", "parameter")  # who made a prediction; else a formula
FILES = {
    "filled my_learnings.md": "export/my_learnings.md",
    "filled distributed_planning.md": "export/distributed_planning.md",
    "measurements": "submitted/measurements.jsonl",
    "measured here": "measured_here/measurements.jsonl",
}


def row(student: dict, alike: dict[str, str]) -> dict:
    """A student's row of class.csv: {column: value}; "" for what the submission does not say."""
    content = student["content"]
    counts = content.get("counts", {})
    predictions = content.get("predictions", ())
    ratios = [p["ratio"] for p in predictions if p["by"] in TYPED and p["ratio"]]
    check = content.get("self_check") or {}
    said = content.get("answers", ())
    insights = [a["text"] for a in said if a["key"].startswith("insight_")] + ["", "", ""]
    checklist = content.get("checklist", ())
    return {
        "student": student["name"],
        "verdict": student["verdict"],
        "why": student["why"],
        "seconds": student["seconds"],
        "at_once": student["at_once"],
        "notebooks_ok": sum(nb["status"] == "ok" for nb in student["notebooks"]),
        "notebooks": len(student["notebooks"]),
        **{f"blanks_{kind}": counts.get(kind, "") for kind in documents.KINDS},
        "predictions_typed": len(ratios),
        "predictions_median_ratio": statistics.median(ratios) if ratios else "",
        "self_check_right": check.get("correct"),
        "self_check_questions": check.get("questions"),
        "puzzles_solved": len(content.get("puzzles", ())),
        "puzzles_on_trust": len(content.get("puzzles_on_trust", ())),
        "checklist_done": len(checklist),
        "numbers_that_differ": len(content.get("differ", ())),
        "measurements": content.get("records", 0),
        "damaged_lines": content.get("damaged_lines", 0),
        "impossible": "; ".join(content.get("impossible", ())),
        "alike": "; ".join(f"{name}: {what}" for name, what in alike.items()),
        "insight_1": insights[0],
        "insight_2": insights[1],
        "insight_3": insights[2],
        "checklist": "; ".join(f"{c['item']} ({c['by']})" for c in checklist),
        "notes": "; ".join(student["notes"]),
    }


def histogram(values: list[float], low: int, high: int, step: int) -> list[dict]:
    """[{"label", "count", "share"}] for ranges of `step` whole numbers; [] without values.

    share: of the fullest range, in percent.
    """
    if not values:
        return []
    starts = range(low, high + 1, step)
    counts, _ = np.histogram(values, [*starts, starts[-1] + step])
    bars = []
    for start, count in zip(starts, counts.tolist(), strict=True):
        end = min(start + step - 1, high)
        label = f"{start} to {end}" if end > start else str(start)
        bars.append({"label": label, "count": count, "share": round(100 * count / max(counts))})
    return bars


def class_summary(students: list[dict], rows: list[dict]) -> dict:
    """Distributions, and the questions most often wrong."""
    checks = [student["content"].get("self_check") for student in students]
    checks = [check for check in checks if check and check.get("questions")]
    wrong = Counter(question for check in checks for question in check["wrong"])
    texts = {question: text for check in checks for question, text in check["texts"].items()}
    return {
        "verdicts": Counter(student["verdict"] for student in students).most_common(),
        "graded": len(checks),
        "wrong": [
            {"id": q, "count": n, "share": round(100 * n / len(checks)), "text": texts.get(q, "")}
            for q, n in wrong.most_common(10)
        ],
        "distributions": _distributions(rows),
    }


def _distributions(rows: list[dict]) -> list[tuple[str, list[dict]]]:
    checked = [r for r in rows if r["self_check_questions"]]
    shares = [100 * (r["self_check_right"] or 0) / r["self_check_questions"] for r in checked]
    looked_at = [r for r in rows if r["blanks_missing"] != ""]
    solved = [r["puzzles_solved"] for r in looked_at]
    done = [r["checklist_done"] for r in looked_at]
    all_of_them = [
        ("Self-check, per cent right", histogram(shares, 0, 100, 10)),
        ("Code puzzles solved", histogram(solved, 0, PUZZLES, 1)),
        ("Checklist items done", histogram(done, 0, 8, 1)),
    ]
    return [(title, bars) for title, bars in all_of_them if bars]


def write(
    out: Path,
    students: list[dict],
    notes: list[str],
    read_only: bool,
    alike: dict[str, dict[str, str]] | None = None,
) -> None:
    """class.csv and class.html in `out`; called again whenever there is more.

    alike: as flags.alike gives it, once all are read.
    """
    alike = alike or {}
    rows = [row(student, alike.get(student["slug"], {})) for student in students]
    grading.write_csv(out / "class.csv", rows)
    body = summary.render(
        "class.html.j2",
        students=students,
        pairs=list(zip(students, rows, strict=True)),
        about=class_summary(students, rows),
        read_only=read_only,
        notes=notes,
        files={s["slug"]: _files(s, out) for s in students},
        feedback={s["slug"]: _link(feedback(out, s), out) for s in students},
        reports=[name for name in ("answers.html", "grades.csv") if (out / name).is_file()],
        alike=alike,
    )
    summary.write_page(out / "class.html", "The class", body)


def feedback(out: Path, student: dict) -> Path:
    """The page that is handed back to a student."""
    return out / "feedback" / f"{student['slug']}.html"


def _link(path: Path, out: Path) -> str:
    """A link for the page, "" when there is no such file."""
    return urllib.parse.quote(path.relative_to(out).as_posix()) if path.is_file() else ""


def _files(student: dict, out: Path) -> list[tuple[str, str]]:
    """(name, link) of what there is of a student: pages of the notebooks, documents, numbers."""
    folder = out / "students" / student["slug"]
    numbered = enumerate(student["notebooks"], 1)
    pages = {nb["name"]: folder / "notebooks" / f"{n:02}.html" for n, nb in numbered}
    pages |= {name: folder / place for name, place in FILES.items()}
    links = [(name, _link(path, out)) for name, path in pages.items()]
    return [(name, link) for name, link in links if link]


# ---------------------------------------------------------------- once the class is read


def write_reports(
    out: Path, found: list[Submission], students: list[dict], course: Grading
) -> None:
    """grades.csv, answers.html and the pages to hand back, in `out`.

    students: as results.Student has them, in the order of `found`.
    """
    rows = [course.grade(*pair) for pair in zip(found, students, strict=True)]
    grading.write_csv(out / "grades.csv", rows)
    (out / "feedback").mkdir(exist_ok=True)
    for student, row in zip(students, rows, strict=True):
        marks = course.marks(student)
        body = summary.render("feedback.html.j2", student=student, grade=row, marks=marks)
        summary.write_page(feedback(out, student), student["name"], body)
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
    measured = f"measured {number(guess['measured'])}{unit}" if guess["measured"] else ""
    ratio = f"{number(guess['ratio'])}x" if guess["ratio"] else ""
    late = ", changed after measuring" if guess["after"] else ""
    return f"{number(guess['predicted'])}{unit}{late}", measured, ratio
