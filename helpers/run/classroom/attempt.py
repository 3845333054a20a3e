"""One submission: taken in, executed or read, its result kept.

It is unpacked (intake.py), its notebooks are executed here unless the class is only read, and its
measurements, documents and notebooks are read (reading.py). All of that happens in a folder under
attempts/, which moves to students/ once its result (results.py) is complete: a second attempt on
another machine never meets the first.

sandbox.py says what protects this machine from student code, and what does not.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from helpers import REPO
from helpers.engine import processes
from helpers.results import ResultsError
from helpers.run import summary
from helpers.run.classroom import contents, results
from helpers.run.classroom.intake import Submission
from helpers.run.classroom.results import Student
from helpers.run.classroom.sandbox import Limits, Place, environment, watcher
from helpers.run.job import Job, failure
from helpers.run.notebook_file import MAX_MIB
from helpers.run.runner import NotebookResult, run_job

INTAKE_S = 180
READING_S = 180


@dataclass(frozen=True)
class Class:
    """How a class is run; with Ray it travels to other machines, which see the same folders."""

    out: Path
    limits: Limits
    read_only: bool
    parameters: dict
    course: dict[str, set[str]]  # the parameters of each notebook of this run
    at_once: int = 1  # submissions on one machine at a time: records say when it is more

    def mark(self, submission: Submission) -> str:
        """The fingerprint of its result; what makes an earlier result out of date changes it."""
        options = {
            "limits": asdict(self.limits),
            "read_only": self.read_only,
            "parameters": self.parameters,
            "course": sorted(self.course),
        }
        return results.fingerprint(submission, options)

    def one(
        self,
        submission: Submission,
        gpu: str | None = None,
        check_stop: Callable[[], None] = lambda: None,
    ) -> Student:
        """A student's result, whatever happens; only what check_stop raises gets out."""
        student = Student(submission.name, submission.slug, fingerprint=self.mark(submission))
        student.at_once = self.at_once
        kept = self.out / "attempts" / f"{submission.slug}-{uuid.uuid4().hex[:8]}"
        began = time.monotonic()
        try:
            kept.mkdir(parents=True)
            if submission.refused:
                student.verdict, student.why = "refused", submission.refused
            else:
                with (
                    tempfile.TemporaryDirectory(prefix="workbook-class-") as scratch,
                    tempfile.TemporaryDirectory(prefix="wb-") as short,
                ):
                    place = Place(kept, Path(scratch), Path(short) / "tmp")
                    _Attempt(self, submission, student, place, gpu, check_stop).run()
        except (ResultsError, OSError) as error:
            student.verdict, student.why = "error", f"This machine could not do it: {error}"
        except Exception as error:  # a fault of this program must not cost the others
            what = f"{type(error).__name__}: {str(error)[:300]}"
            student.verdict, student.why = "error", f"The runner failed: {what}"
        student.seconds = round(time.monotonic() - began, 1)
        try:
            results.keep(student, kept, self.out / "students" / submission.slug)
        except OSError as error:
            student.notes.append(f"the result could not be kept ({error.strerror})")
        return student


@dataclass
class _Attempt:
    """One submission being run: what comes out is in `student` and in the place's folder."""

    work: Class
    submission: Submission
    student: Student
    place: Place
    gpu: str | None
    check_stop: Callable[[], None]

    def run(self) -> None:
        self.place.sandbox.mkdir()
        try:
            self._in_sandbox()
        finally:
            shutil.rmtree(self.place.sandbox, ignore_errors=True)

    def _in_sandbox(self) -> None:
        student = self.student
        taken = self._take_in()
        if "refused" in taken:
            student.verdict, student.why = "refused", taken["refused"]
            return
        if "error" in taken:
            raise OSError(taken["error"])
        student.notes += taken["notes"]
        root, notebooks = self.place.sandbox / "work" / taken["root"], taken["notebooks"]
        submitted = self.place.kept / "submitted"
        student.notes += contents.gather(root, submitted)
        self._look_at(root, self._chosen(notebooks), notebooks)
        student.content = self._read_contents()
        document = (submitted / "my_learnings.md").exists()
        if not notebooks and not student.content["records"] and not document:
            student.verdict = "empty"
            student.why = "No notebook, no my_learnings.md and no measurements were found in it."

    def _child(self, module: str, *arguments, limit_s: float) -> tuple[Path, str]:
        """Run one of our own modules in a process; (the file of its answer, why there may be none).

        The answer's path is the module's last argument.
        """
        answer = self.place.scratch / f"{module}.json"
        process = processes.spawn(
            [sys.executable, "-m", f"helpers.run.classroom.{module}", *arguments, answer],
            env=environment(self.place.scratch, None),
            log=self.place.scratch / f"{module}.log",
            cwd=REPO,
        )
        deadline = time.monotonic() + limit_s
        try:
            while process.poll() is None and time.monotonic() < deadline:
                self.check_stop()
                time.sleep(0.01)
        finally:
            late = process.poll() is None
            code = processes.stop(process)
        return answer, f"took longer than {limit_s} s" if late else f"ended with code {code}"

    def _take_in(self) -> dict:
        destination = self.place.sandbox / "work"
        answer, why = self._child("intake", self.submission.source, destination, limit_s=INTAKE_S)
        try:
            return json.loads(answer.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(destination, ignore_errors=True)
            return {"refused": f"it could not be unpacked within the limits: that {why}"}

    def _read_contents(self) -> dict:
        answer, why = self._child("reading", self.place.kept, limit_s=READING_S)
        if not answer.exists():
            raise OSError(f"reading what was submitted {why}")
        return json.loads(answer.read_text(encoding="utf-8"))

    def _chosen(self, notebooks: dict) -> list[str]:
        """The submitted notebooks that belong to this week, in order; notes on the rest."""
        chosen, notes = [], self.student.notes
        for name, about in notebooks.items():
            shown = summary.in_cell(name, 80)
            stem = name.removesuffix(".ipynb")
            if not any(_same_notebook(stem, own) for own in self.work.course):
                notes.append(f"{shown} is not a notebook of this run and was left out.")
                continue
            if "problem" not in about and "RESULTS_DIR" not in (about["parameters"] or ()):
                notes.append(f"{shown} is from another version: it has no parameter RESULTS_DIR.")
            chosen.append(name)
        there = {name[:2] for name in chosen}
        missing = [own for own in self.work.course if own[:2] not in there]
        if missing and notebooks:
            notes.append("Missing: " + ", ".join(missing) + ".")
        return sorted(chosen)

    def _look_at(self, root: Path, chosen: list[str], notebooks: dict) -> None:
        """Execute the notebooks, or look only which cells were run, and the first error in them."""
        student, executes = self.student, not self.work.read_only
        if executes:
            self.place.measured.mkdir()
            tmp = self.place.sandbox / "home" / "tmp"
            tmp.mkdir(parents=True)
            self.place.tmp.symlink_to(tmp)
        deadline = time.monotonic() + self.work.limits.student_s
        for number, name in enumerate(chosen, 1):
            about, source = notebooks[name], root / name
            if executes and "problem" not in about:
                output = self.place.sandbox / f"{number:02}.ipynb"  # the student's may be anything
                result = self._run_notebook(source, output, about, deadline)
                source = output
            else:
                result = _as_submitted(name.removesuffix(".ipynb"), about)
            if "problem" not in about:
                kept = self.place.kept / "notebooks" / f"{number:02}.ipynb"
                note = contents.take_file(source, kept, MAX_MIB * 2**20)
                student.notes += [note] if note else []
            student.notebooks.append(asdict(result))
        bad = {"failed", "unreadable"}
        if executes:
            student.notes += contents.gather(self.place.measured, self.place.kept / "measured_here")
            student.notes += [] if chosen else ["No notebook was submitted."]
            bad = {nb["status"] for nb in student.notebooks} - {"ok"}
        failed = [nb for nb in student.notebooks if nb["status"] in bad]
        if failed:
            first = failed[0]
            student.why = f"{first['name']}: {summary.one_sentence(first['failure'])}"
        student.verdict = "read" if not (executes and chosen) else "failed" if failed else "ran"

    def _run_notebook(
        self, notebook: Path, output: Path, about: dict, deadline: float
    ) -> NotebookResult:
        limits, left = self.work.limits, deadline - time.monotonic()
        if left <= 0:
            limit = f"The student's limit of {limits.student_s:.0f} s was reached"
            why = failure([], None, "TimeLimit", f"{limit} before this notebook.")
            return NotebookResult(notebook.stem, failure=why)
        declared = set(about["parameters"] or ())
        given = self.work.parameters | {"RESULTS_DIR": str(self.place.measured)}
        job = Job(
            notebook=str(notebook),
            output=str(output),
            cwd=str(notebook.parent),
            cell_timeout_s=limits.cell_s,
            parameters={key: value for key, value in given.items() if key in declared},
            page=False,
            limits=limits.resources(self.gpu is not None),
        )
        env = environment(self.place.sandbox / "home", self.gpu)
        env |= {"WORKBOOK_RESULTS_DIR": str(self.place.measured), "TMPDIR": str(self.place.tmp)}
        if self.work.at_once > 1:
            env["WORKBOOK_AT_ONCE"] = str(self.work.at_once)  # for the records' provenance
        return run_job(
            job,
            self.place.scratch,
            self.place.scratch / f"{output.stem}.log",
            limit_s=min(limits.notebook_s, max(1.0, left)),
            env=env,
            watch=watcher(self.place.sandbox, limits, self.check_stop),
        )


def _same_notebook(stem: str, own: str) -> bool:
    """By name or by number: "01_my_review" is handed in for "01_review"."""
    return stem == own or (stem[:2].isdigit() and stem[:2] == own[:2])


def _as_submitted(name: str, about: dict) -> NotebookResult:
    """What a notebook that is not executed says of its own last run."""
    if "problem" in about:
        why = failure([], None, "Unreadable", about["problem"])
        return NotebookResult(name, "unreadable", failure=why)
    result = NotebookResult(name, "ok", cells=about["cells"], cells_done=about["ran"])
    if about["error"]:
        result.status = "failed"
        result.failure = about["error"] | {"of": about["cells"], "section": ""}
    elif about["ran"] < about["cells"]:
        result.status = "partly run" if about["ran"] else "not run"
    return result
