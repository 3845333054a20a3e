"""The submissions of a class, one by one: take in, execute or read, look at what they say.

Each is taken in (intake.py), its notebooks are executed here unless the class is only read, its
measurements and documents are read (contents.py), and its result is kept (results.py) before the
next begins. A row goes into class.csv and a page into class.html (pages.py).

sandbox.py says what protects this machine from student code, and what does not.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from helpers import REPO
from helpers.engine import processes
from helpers.results import ResultsError, documents
from helpers.run import summary
from helpers.run.classroom import contents, pages, results, safe_html
from helpers.run.classroom.intake import Submission, find_submissions
from helpers.run.classroom.results import Student
from helpers.run.classroom.sandbox import Limits, Place, environment, watcher
from helpers.run.course_file import UsageError
from helpers.run.job import Job, failure
from helpers.run.notebook_file import MAX_MIB
from helpers.run.runner import NotebookResult, run_job
from helpers.run.stopping import Stopped, sweep

INTAKE_S = 180
PAGE_S = 120


class Class:
    """How a class is run. `stop` is set when the instructor ends it."""

    def __init__(
        self,
        *,
        out: Path,
        limits: Limits,
        read_only: bool,
        parameters: dict,
        course: dict[str, set[str]],
        gpus: list[str],
        keep_work: bool,
    ):
        """course: the parameters of each notebook of this run. gpus: [] where there is none."""
        self.out, self.limits, self.read_only = out, limits, read_only
        self.parameters, self.course, self.keep_work = parameters, course, keep_work
        self.stop = threading.Event()
        self.has_gpus = bool(gpus)
        self.gpus: queue.Queue = queue.Queue()  # one student on a GPU at a time
        for gpu in gpus:
            self.gpus.put(gpu)

    def options(self) -> dict:
        """What makes an earlier result out of date when it changes."""
        return {
            "limits": asdict(self.limits),
            "read_only": self.read_only,
            "parameters": self.parameters,
            "course": sorted(self.course),
        }

    def check_stop(self) -> None:
        """Raises Stopped when the instructor has ended the class."""
        if self.stop.is_set():
            raise Stopped(2)

    # ---------------------------------------------------------------- one student

    def one(self, submission: Submission) -> Student:
        """A student's result, whatever happens; only Stopped gets out."""
        folder = self.out / "students" / submission.slug
        mark = results.fingerprint(submission, self.options())
        if done := results.earlier(folder, mark):
            return done
        student = Student(submission.name, submission.slug, fingerprint=mark)
        began = time.monotonic()
        try:
            if submission.refused:
                student.verdict, student.why = "refused", submission.refused
            else:
                self._one(submission, student, folder)
        except (ResultsError, OSError) as error:
            student.verdict, student.why = "error", f"This machine could not do it: {error}"
        except Exception as error:  # a fault of this program must not cost the others
            what = f"{type(error).__name__}: {str(error)[:300]}"
            student.verdict, student.why = "error", f"The runner failed: {what}"
        student.seconds = round(time.monotonic() - began, 1)
        try:
            results.keep(student, folder)
        except OSError as error:
            student.notes.append(f"the result could not be kept ({error.strerror})")
        return student

    def _one(self, submission: Submission, student: Student, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="workbook-class-") as scratch:
            place = Place(folder, Path(scratch))
            place.sandbox.mkdir(parents=True)
            try:
                self._in_sandbox(submission, student, place)
            finally:
                if not self.keep_work:
                    shutil.rmtree(place.sandbox, ignore_errors=True)

    def _in_sandbox(self, submission: Submission, student: Student, place: Place) -> None:
        taken = self._take_in(submission, place)
        if "refused" in taken:
            student.verdict, student.why = "refused", taken["refused"]
            return
        if "error" in taken:
            raise OSError(taken["error"])
        student.notes += taken["notes"]
        root, notebooks = place.sandbox / "work" / taken["root"], taken["notebooks"]
        submitted = place.kept / "submitted"
        student.notes += contents.gather(root, submitted)
        if self.read_only:
            self._read(root, notebooks, student, place)
        else:
            self._execute(root, notebooks, student, place)
        student.content = contents.assess(submitted, place.kept / "export")
        document = (submitted / "my_learnings.md").exists()
        if not notebooks and not student.content["records"] and not document:
            student.verdict = "empty"
            student.why = "No notebook, no my_learnings.md and no measurements were found in it."

    def _take_in(self, submission: Submission, place: Place) -> dict:
        answer, destination = place.scratch / "intake.json", place.sandbox / "work"
        module = "helpers.run.classroom.intake"
        paths = [submission.source, str(destination), str(answer)]
        process = processes.spawn(
            [sys.executable, "-m", module, *paths],
            env=environment(place.scratch, None),
            log=place.scratch / "intake.log",
            cwd=REPO,
        )
        deadline = time.monotonic() + INTAKE_S
        try:
            while process.poll() is None and time.monotonic() < deadline:
                self.check_stop()
                time.sleep(0.02)
        finally:
            late = process.poll() is None
            code = processes.stop(process)
        try:
            return json.loads(answer.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(destination, ignore_errors=True)
            if late:
                return {"refused": f"it took longer than {INTAKE_S} s to unpack"}
            return {"refused": f"it could not be unpacked within the limits (exit code {code})"}

    def _chosen(self, notebooks: dict, student: Student) -> list[str]:
        """The submitted notebooks that belong to this week, in order; notes on the rest."""
        chosen = []
        for name, about in notebooks.items():
            shown = summary.in_cell(name, 80)
            if not any(_same_notebook(name.removesuffix(".ipynb"), own) for own in self.course):
                student.notes.append(f"{shown} is not a notebook of this run and was left out.")
                continue
            if "problem" not in about and "RESULTS_DIR" not in (about["parameters"] or ()):
                student.notes.append(
                    f"{shown} is from another version: it has no parameter RESULTS_DIR."
                )
            chosen.append(name)
        there = {name[:2] for name in chosen}
        missing = [own for own in self.course if own[:2] not in there]
        if missing and notebooks:
            student.notes.append("Missing: " + ", ".join(missing) + ".")
        return sorted(chosen)

    def _read(self, root: Path, notebooks: dict, student: Student, place: Place) -> None:
        """Only look at what was submitted: which cells were run, and the first error in them."""
        for number, name in enumerate(self._chosen(notebooks, student), 1):
            about = notebooks[name]
            result = _as_submitted(name.removesuffix(".ipynb"), about)
            student.notebooks.append(asdict(result))
            if "problem" not in about:
                _keep_notebook(root / name, number, student, place)
        student.verdict = "read"
        student.why = _why(student, ("failed", "unreadable"))

    def _execute(self, root: Path, notebooks: dict, student: Student, place: Place) -> None:
        chosen = self._chosen(notebooks, student)
        place.measured.mkdir()
        (place.sandbox / "home").mkdir()
        deadline = time.monotonic() + self.limits.student_s
        gpu = self.gpus.get() if self.has_gpus else None
        try:
            for number, name in enumerate(chosen, 1):
                about = notebooks[name]
                if "problem" in about:
                    result = _as_submitted(name.removesuffix(".ipynb"), about)
                else:
                    output = place.sandbox / f"{number:02}.ipynb"
                    result = self._run_notebook(root / name, output, about, place, gpu, deadline)
                    _keep_notebook(output, number, student, place)
                student.notebooks.append(asdict(result))
        finally:
            if gpu is not None:
                self.gpus.put(gpu)
        student.notes += contents.gather(place.measured, place.kept / "measured_here")
        if chosen:
            documents.export(place.kept / "measured_here")
        else:
            student.notes.append("No notebook was submitted.")
        bad = {nb["status"] for nb in student.notebooks} - {"ok"}
        student.why = _why(student, bad)
        student.verdict = "failed" if bad else "ran" if chosen else "read"

    def _run_notebook(
        self, notebook: Path, output: Path, about: dict, place: Place, gpu, deadline: float
    ) -> NotebookResult:
        left = deadline - time.monotonic()
        if left <= 0:
            limit = f"The student's limit of {self.limits.student_s:.0f} s was reached"
            why = failure([], None, "TimeLimit", f"{limit} before this notebook.")
            return NotebookResult(notebook.stem, failure=why)
        declared = set(about["parameters"] or ())
        given = self.parameters | {"RESULTS_DIR": str(place.measured)}
        job = Job(
            notebook=str(notebook),
            output=str(output),  # a plain name: the student's may be anything
            cwd=str(notebook.parent),
            cell_timeout_s=self.limits.cell_s,
            parameters={key: value for key, value in given.items() if key in declared},
            page=False,
            limits=self.limits.resources(self.has_gpus),
        )
        env = environment(place.sandbox / "home", gpu)
        return run_job(
            job,
            place.scratch,
            place.scratch / f"{output.stem}.log",
            limit_s=min(self.limits.notebook_s, max(1.0, left)),
            env=env | {"WORKBOOK_RESULTS_DIR": str(place.measured)},
            watch=watcher(place.sandbox, self.limits, self.check_stop),
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


def _keep_notebook(source: Path, number: int, student: Student, place: Place) -> None:
    target = place.kept / "notebooks" / f"{number:02}.ipynb"
    if note := contents.take_file(source, target, MAX_MIB * 2**20):
        student.notes.append(note)


def _why(student: Student, bad: Collection[str]) -> str:
    """The first notebook that ended so, and its failure; "" when none did."""
    failed = [nb for nb in student.notebooks if nb["status"] in bad]
    return f"{failed[0]['name']}: {summary.one_sentence(failed[0]['failure'])}" if failed else ""


# ---------------------------------------------------------------- the class


def make_pages(out: Path, students: list[Student]) -> None:
    """Pages of the executed or submitted notebooks, in one process for all.

    A notebook that takes the process down costs its own page only.
    """
    folders = [out / "students" / student.slug / "notebooks" for student in students]
    sources = [source for folder in folders for source in sorted(folder.glob("*.ipynb"))]
    waiting = [(source, source.with_suffix(".html")) for source in sources]
    with tempfile.TemporaryDirectory(prefix="workbook-class-") as scratch:
        while waiting := [pair for pair in waiting if not pair[1].exists()]:
            _pages_process(waiting, Path(scratch))
            left = [page for _, page in waiting if not page.exists()]
            if left:
                left[0].write_text(safe_html.NO_PAGE, encoding="utf-8")


def _pages_process(pairs: list[tuple[Path, Path]], scratch: Path) -> None:
    """One process that makes pages until it has, or dies, or makes none for two minutes."""
    todo = scratch / "pages.json"
    todo.write_text(json.dumps([[str(source), str(page)] for source, page in pairs]))
    process = processes.spawn(
        [sys.executable, "-m", "helpers.run.classroom.safe_html", str(todo)],
        env=os.environ | {"PYTHONPATH": str(REPO)},
        log=scratch / "pages.log",
        cwd=REPO,
    )
    try:
        done, deadline = 0, time.monotonic() + PAGE_S
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
            now_done = sum(page.exists() for _, page in pairs)
            if now_done > done:
                done, deadline = now_done, time.monotonic() + PAGE_S
    finally:
        processes.stop(process)


def run_class(submissions: Path, work: Class, jobs: int) -> list[Student]:
    """Every submission's result, in the order of the names.

    Raises UsageError when there is none, and Stopped after writing what there is.
    """
    found, notes = find_submissions(submissions)
    if not found:
        raise UsageError(f"There is no folder, archive or notebook in {submissions}.")
    students = [Student(s.name, s.slug) for s in found]
    finished = []
    lock = threading.Lock()

    def do(index: int) -> None:
        work.check_stop()
        student = students[index] = work.one(found[index])
        with lock:
            finished.append(index)
            why = f", {student.why}"[:200] if student.why else ""
            line = f"{student.name}: {student.verdict}{why} ({student.seconds:.0f} s)"
            print(f"[{len(finished)}/{len(found)}] {line}", flush=True)

    stopped = None
    with ThreadPoolExecutor(jobs, thread_name_prefix="student") as pool:
        futures = [pool.submit(do, index) for index in range(len(found))]
        try:
            while not all(future.done() for future in futures):
                time.sleep(0.1)
        except Stopped as signal_:
            stopped = signal_
            stopped.so_far = "The same command goes on from here. "
            stopped.so_far += f"So far: {work.out / 'class.html'}"
            work.stop.set()
            pool.shutdown(cancel_futures=True)
    sweep()  # a supervisor that student code has killed leaves its processes to us
    if not stopped:
        make_pages(work.out, students)
    pages.write(work.out, [asdict(s) for s in students], notes, read_only=work.read_only)
    if stopped:
        raise stopped
    for future in futures:
        future.result()
    return students
