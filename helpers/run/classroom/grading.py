"""Points by the rubric of course.yaml, what came late, and grades.csv for a learning platform.

    rubric: {notebooks: 20, predictions: 10, insights: 30, puzzles: 40}
    deadline: 2026-12-04 23:59

A criterion gives its points in proportion to what is done of it; CRITERIA says what counts. What a
notebook asks for is read from its cells, so a course of other notebooks needs no other rubric.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from helpers import replace_file
from helpers.lessons.puzzles.check import PUZZLES
from helpers.lessons.reading_notes.questions import make_quiz
from helpers.results.blanks import CHECKLIST
from helpers.run import start_page
from helpers.run.classroom.intake import Submission, files_of
from helpers.run.course_file import Course, UsageError

CRITERIA = {
    "notebooks": "notebooks that ran to their end",
    "blanks": "blanks of the documents filled",
    "predictions": "predictions typed before the outcome was shown",
    "answers": "questions answered in words",
    "insights": "insights written",
    "self_check": "questions of the self-check right",
    "puzzles": "code puzzles solved",
    "checklist": "items of the week's checklist done",
}
INSIGHTS = 3
UNGRADED = ("waiting", "error", "refused")
# Excel takes the wide forms for the narrow ones, and a semicolon for the end of a cell where a
# decimal comma is in use.
_FORMULA = re.compile(r"(^|;)([\s\"']*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")


def csv_cell(value) -> str:
    """Text for a cell; a leading = + - or @ would run as a formula in a spreadsheet."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return str(value)
    text = " ".join(str(value if value is not None else "").split())
    return _FORMULA.sub(r"\1'\2", text)


def write_csv(path: Path, rows: list[dict]) -> None:
    """Rows with the same keys, the keys as the first line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(rows[0])
    writer.writerows([csv_cell(value) for value in row.values()] for row in rows)
    # With a byte order mark, so that spreadsheets read names that are not Latin.
    replace_file(path, text.getvalue().encode("utf-8-sig", "replace"))


@dataclass(frozen=True)
class Mark:
    """What a criterion gives a student: `done` of `of`, and the points for it."""

    criterion: str
    what: str  # the criterion in words
    done: float
    of: float
    points: float
    most: float


class Grading:
    """How a course gives points. Raises UsageError for a rubric that cannot be followed."""

    def __init__(self, course: Course, notebooks: list[Path]):
        self.rubric, self.deadline, self.names = course.rubric, course.deadline, course.names
        self.notebooks = notebooks
        self.asked: dict[str, set[str]] = {}
        for path in notebooks:
            for section in start_page.sections(path):
                for experiment, beginning in () if section.optional else section.wants:
                    self.asked.setdefault(experiment, set()).add(beginning)
        for name, points in self.rubric.items():
            if name not in CRITERIA:
                known = ", ".join(CRITERIA)
                raise UsageError(f"The rubric has {name!r}; its criteria can be {known}.")
            number = isinstance(points, (int, float)) and not isinstance(points, bool)
            if not (number and 0 <= points < math.inf):
                raise UsageError(f"The rubric gives {name} {points!r}; give a number of points.")

    def marks(self, student: dict) -> list[Mark]:
        """A mark for each criterion of the rubric; [] where there is nothing to go by."""
        if student["verdict"] in UNGRADED:
            return []
        found = []
        for name, most in self.rubric.items():
            done, of = self._done(name, student)
            done = min(done, of)  # an optional one counts, and none beyond the whole
            points = round(most * done / of, 2) if of else 0.0
            found.append(Mark(name, CRITERIA[name], done, of, points, most))
        return found

    def _done(self, criterion: str, student: dict) -> tuple[float, float]:
        content = student["content"]
        if criterion == "notebooks":
            ended = {nb["name"][:2] for nb in student["notebooks"] if nb["status"] == "ok"}
            return len(ended), len(self.notebooks)
        if criterion == "blanks":
            counts = content.get("counts", {})
            return sum(counts.values()) - counts.get("missing", 0), sum(counts.values())
        if criterion == "predictions":
            said = [p["key"] for p in content.get("predictions", ()) if p["by"] == "student"]
            late = {p["key"] for p in content.get("predictions", ()) if p["after"]}
            return self._covered("prediction", [key for key in said if key not in late])
        own = [a["key"] for a in content.get("answers", ()) if a["by"] == "student"]
        if criterion == "answers":
            return self._covered("answer", own)
        if criterion == "insights":
            return len({key for key in own if key.startswith("insight_")}), INSIGHTS
        if criterion == "puzzles":
            return len(content.get("puzzles", ())), len(self.asked.get("puzzle", ())) or PUZZLES
        if criterion == "checklist":
            return len(content.get("checklist", ())), len(CHECKLIST)
        check = content.get("self_check") or {}
        return check.get("correct") or 0, check.get("questions") or len(make_quiz(""))

    def _covered(self, experiment: str, keys: list[str]) -> tuple[int, int]:
        """How many of the exercises of a kind have an answer, and how many there are."""
        asked = self.asked.get(experiment, set())
        return sum(any(key.startswith(one) for key in keys) for one in asked), len(asked)

    def grade(self, submission: Submission, student: dict) -> dict:
        """A student's row of grades.csv; its columns depend on the course alone."""
        marks = {mark.criterion: mark for mark in self.marks(student)}
        time = handed_in(Path(submission.source))
        late = "" if None in (time, self.deadline) else "yes" if time > self.deadline else "no"
        return {
            "id": submission.id,
            "name": submission.name,
            "status": student["verdict"],
            "handed_in_utc": time.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if time else "",
            "late": late,
            **{name: marks[name].points if marks else "" for name in self.rubric},
            "points": round(sum(mark.points for mark in marks.values()), 2) if marks else "",
            "of": sum(self.rubric.values()),
        }


def handed_in(source: Path) -> datetime | None:
    """The time of an archive or a notebook; of a folder that of its newest file."""
    times = []
    for path in files_of(source):
        with contextlib.suppress(OSError):
            times.append(path.lstat().st_mtime)
    return datetime.fromtimestamp(max(times), UTC) if times else None
