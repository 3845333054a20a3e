"""The whole class: what was done before, what is left, a table that grows, and an end by signal."""

from __future__ import annotations

import contextlib
import difflib
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from helpers.run import summary
from helpers.run.classroom import flags, pages, results
from helpers.run.classroom.attempt import Class
from helpers.run.classroom.grading import Grading
from helpers.run.classroom.intake import Submission, find_submissions
from helpers.run.classroom.results import Student
from helpers.run.classroom.workers import Workers
from helpers.run.course_file import UsageError
from helpers.run.progress import Line
from helpers.run.stopping import Stopped, sweep

TABLE_SHARE = 0.05  # of the time goes into writing the table anew, at most


def run_class(
    submissions: Path, work: Class, workers: Workers, course: Grading, only: str | None = None
) -> list[Student]:
    """Every submission's result, in the order of the names.

    only: the id or name of one student, who is done again; what there is of the others stays.
    Raises UsageError when there is none, and Stopped after writing what there is.
    """
    found, notes = find_submissions(submissions, course.names)
    if not found:
        raise UsageError(f"There is no folder, archive or notebook in {submissions}.")
    again = _chosen(found, only) if only else found
    students = {s.slug: _before(s, work, any_mark=bool(only)) for s in found}
    todo = [s for s in again if only or students[s.slug].verdict == "waiting"]
    table = _Table(work, students, notes)
    progress = _Progress(len(found), len(todo))
    with _alone(work.out):
        try:
            with contextlib.closing(workers(work, todo)) as finished:
                for student in finished:
                    students[student.slug] = student
                    progress.done(student)
                    table.write_if_due()
        except Stopped as stopped:
            stopped.so_far = "The same command goes on from here. "
            stopped.so_far += f"So far: {work.out / 'class.html'}"
            raise
        finally:
            sweep()  # a supervisor that student code has killed leaves its processes to us
            rows = [asdict(student) for student in students.values()]
            pages.write_reports(work.out, found, rows, course)  # class.html leads to them
            table.write(flags.alike(rows))
    return list(students.values())


def _before(submission: Submission, work: Class, any_mark: bool) -> Student:
    """What an earlier command found of a student; a waiting one if that is not to be used."""
    folder = work.out / "students" / submission.slug
    before = results.read(folder) if any_mark else results.earlier(folder, work.mark(submission))
    student = before or Student(submission.name, submission.slug)
    student.name = submission.name  # course.yaml may read names in another way now
    return student


def _chosen(found: list[Submission], only: str) -> list[Submission]:
    """The submissions of one student. Raises UsageError when there is none."""
    chosen = [s for s in found if only in (s.id, s.name, s.slug)]
    if not chosen:
        names = [s.name for s in found]
        near = difflib.get_close_matches(only, names, 3, 0.4) or names[:3]
        hint = ", ".join(near)
        raise UsageError(f"No submission has the id or name {only!r}; there are: {hint}.")
    return chosen


class _Table:
    """class.csv and class.html; while the class runs they are written again now and then."""

    def __init__(self, work: Class, students: dict[str, Student], notes: list[str]):
        self.work, self.students, self.notes, self.due = work, students, notes, 0.0

    def write(self, alike: dict | None = None) -> None:
        rows = [asdict(student) for student in self.students.values()]
        pages.write(self.work.out, rows, self.notes, self.work.read_only, alike)

    def write_if_due(self) -> None:
        began = time.monotonic()
        if began >= self.due:
            self.write()
            took_s = time.monotonic() - began
            self.due = time.monotonic() + max(1.0, took_s / TABLE_SHARE)


class _Progress:
    def __init__(self, of: int, todo: int):
        self.of, self.todo, self.count, self.began = of, todo, 0, time.monotonic()
        self.line = Line()
        if todo < of:
            print(f"{of - todo} of {of} are done already.", flush=True)

    def done(self, student: Student) -> None:
        self.count += 1
        left = self.todo - self.count
        left_s = (time.monotonic() - self.began) / self.count * left
        why = f", {student.why}"[:200] if student.why else ""
        text = f"[{self.of - left}/{self.of}] {student.name}: {student.verdict}{why}"
        text += f" ({student.seconds:.0f} s)"
        text += f"; {summary.duration(left_s)} left" if left else ""
        self.line.say(text, stays=not left)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """No other command writes here meanwhile; what one that was killed has left is removed."""
    try:
        with FileLock(out / ".class.lock", timeout=0):
            shutil.rmtree(out / "attempts", ignore_errors=True)
            yield
            shutil.rmtree(out / "attempts", ignore_errors=True)
    except Timeout:
        raise UsageError(f"Another command is writing into {out}: wait for it.") from None
