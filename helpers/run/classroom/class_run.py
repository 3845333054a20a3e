"""A whole class in one command: `python -m helpers.run class SUBMISSIONS --out FOLDER`.

SUBMISSIONS holds a folder, an archive or a notebook per student. Each is taken in
(helpers/run/classroom/intake.py), its notebooks are executed here unless --read-only, its measurements and
documents are read (helpers/run/classroom/contents.py), and a row goes into class.csv and a page into class.html
(helpers/run/classroom/pages.py). A student's result is on disk before the next begins, so a run that was
cut off goes on where it stopped.

What protects this machine from student code: a process tree and a folder of its own, limits on
time, memory and file size, an environment without the instructor's variables, pages without
scripts. What does not: the code runs as the same user and can read that user's files and use the
network. Only a container or a throw-away machine keeps it from that; CONTAINER below is a command.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from helpers import REPO, replace_file
from helpers.engine import processes as lifeline
from helpers.results.store import ResultsError
from helpers.run import runner as run
from helpers.run import summary
from helpers.run.classroom import contents as assess
from helpers.run.classroom import pages as class_pages
from helpers.run.classroom.intake import Submission, find_submissions
from helpers.run.job import Job, write_kernel
from helpers.run.runner import NotebookResult, Stopped, UsageError, run_job

GIB = 2**30
VERSION = 1  # of a student's result file
INTAKE_S = 180
CONTAINER = (
    "docker run --rm --network none --read-only --tmpfs /tmp --memory 16g --pids-limit 512 --user 1000:1000 "
    "-v SUBMISSIONS:/in:ro -v FOLDER:/out IMAGE python -m helpers.run class /in --out /out"
)
# The only variables of the instructor's environment that a student's code sees.
PASSED = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "CUDA_HOME",
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_CPU_OMP_THREADS_BIND",
)


@dataclass(frozen=True)
class Limits:
    """Per student, or per cell where it says so. Seconds and GiB."""

    cell_s: float = 600
    notebook_s: float = 1800
    student_s: float = 3600
    memory_gib: float = 16  # resident, of all its processes together
    disk_gib: float = 5  # what it leaves in its folder
    file_gib: float = 2  # one file (RLIMIT_FSIZE)


@dataclass
class Student:
    """A student's result as it is kept in result.json.

    verdict: ran, failed (a notebook), read (--read-only), empty (nothing to go by), refused,
    error (this machine's fault) or waiting.
    """

    name: str
    slug: str
    verdict: str = "waiting"
    why: str = ""
    seconds: float = 0.0
    notebooks: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    content: dict = field(default_factory=dict)
    fingerprint: str = ""
    version: int = VERSION


# ---------------------------------------------------------------- what makes a result out of date


def fingerprint(submission: Submission, options: dict) -> str:
    """Changes when the submission or the way it is run does; then a resumed run does it again."""
    digest = hashlib.sha256(json.dumps([VERSION, options], sort_keys=True, default=str).encode())
    source = Path(submission.source)
    paths = [source]
    if source.is_dir() and not source.is_symlink():
        paths = [
            Path(folder) / name
            for folder, folders, files in os.walk(source)
            for name in sorted(files)
        ][:5000]
    for path in sorted(paths):
        try:
            info = path.lstat()
        except OSError:
            continue
        digest.update(
            f"{os.fspath(path.relative_to(source.parent))!r} {info.st_size} {info.st_mtime_ns}".encode()
        )
    return digest.hexdigest()[:20]


def earlier(folder: Path, mark: str) -> Student | None:
    """The result of an earlier run, if it is complete and still holds."""
    try:
        data = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        student = Student(**data)
    except (OSError, ValueError, TypeError):
        return None
    return (
        student
        if student.fingerprint == mark
        and student.version == VERSION
        and student.verdict not in ("waiting", "error")
        else None
    )


def keep(student: Student, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "result.json", json.dumps(asdict(student)).encode())


# ---------------------------------------------------------------- one student


class Class:
    """The run over all submissions. `stop` is set when the instructor ends it."""

    def __init__(
        self,
        out: Path,
        limits: Limits,
        *,
        read_only: bool,
        parameters: dict,
        notebooks: list[str] | None,
        gpus: list[str],
        keep_work: bool = False,
        say=print,
    ):
        self.out, self.limits, self.read_only, self.say = out, limits, read_only, say
        self.parameters, self.keep_work = parameters, keep_work
        self.course = {path.stem: run.parameters_of(path) for path in run.find_notebooks(notebooks)}
        self.stop = threading.Event()
        self.gpus: queue.Queue = queue.Queue()
        for gpu in gpus:
            self.gpus.put(gpu)
        self.has_gpus = bool(gpus)

    def options(self) -> dict:
        return {
            "limits": asdict(self.limits),
            "read_only": self.read_only,
            "parameters": self.parameters,
            "course": sorted(self.course),
        }

    def one(self, submission: Submission) -> Student:
        """A student's result, whatever happens; only Stopped gets out."""
        folder = self.out / "students" / submission.slug
        mark = fingerprint(submission, self.options())
        if done := earlier(folder, mark):
            return done
        student = Student(submission.name, submission.slug, fingerprint=mark)
        began = time.monotonic()
        try:
            if submission.refused:
                student.verdict, student.why = "refused", submission.refused
            else:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                self._one(submission, student, folder)
        except Stopped:
            raise
        except (ResultsError, OSError) as error:
            student.verdict, student.why = "error", f"This machine could not do it: {error}"
        except Exception as error:  # a fault of this program must not cost the others
            student.verdict, student.why = (
                "error",
                f"The runner failed: {type(error).__name__}: {str(error)[:300]}",
            )
        student.seconds = round(time.monotonic() - began, 1)
        try:
            keep(student, folder)
        except OSError as error:
            student.notes.append(f"the result could not be kept ({error.strerror})")
        return student

    def _one(self, submission: Submission, student: Student, folder: Path) -> None:
        sandbox = folder / "sandbox"
        try:
            with tempfile.TemporaryDirectory(prefix="workbook-class-") as scratch:
                self._in_sandbox(submission, student, folder, sandbox, Path(scratch))
        finally:
            if not self.keep_work:
                shutil.rmtree(sandbox, ignore_errors=True)

    def _in_sandbox(
        self, submission: Submission, student: Student, folder: Path, sandbox: Path, scratch: Path
    ) -> None:
        taken = self._take_in(submission, sandbox / "work", scratch)
        if "refused" in taken:
            student.verdict, student.why = "refused", taken["refused"]
            return
        if "error" in taken:
            raise OSError(taken["error"])
        student.notes += taken["notes"]
        root = sandbox / "work" / taken["root"]
        student.notes += assess.gather(root, folder / "submitted")
        if self.read_only:
            self._read(root, taken["notebooks"], student, folder)
        else:
            self._execute(root, taken["notebooks"], student, folder, sandbox, scratch)
        student.content = assess.assess(folder / "submitted", folder / "export")
        if (
            not taken["notebooks"]
            and not student.content["records"]
            and not (folder / "submitted" / "my_learnings.md").exists()
        ):
            student.verdict, student.why = (
                "empty",
                "No notebook, no my_learnings.md and no measurements were found in it.",
            )

    def _take_in(self, submission: Submission, destination: Path, scratch: Path) -> dict:
        answer = scratch / "intake.json"
        destination.parent.mkdir(parents=True, exist_ok=True)
        process = lifeline.spawn(
            [
                sys.executable,
                "-m",
                "helpers.run.classroom.intake",
                submission.source,
                str(destination),
                str(answer),
            ],
            env=self._environment(scratch, None),
            log=scratch / "intake.log",
            cwd=REPO,
        )
        deadline = time.monotonic() + INTAKE_S
        try:
            while process.poll() is None and time.monotonic() < deadline:
                self._check_stop()
                time.sleep(0.02)
        finally:
            late = process.poll() is None
            code = lifeline.stop(process)
        try:
            return json.loads(answer.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(destination, ignore_errors=True)
            return {
                "refused": f"it took longer than {INTAKE_S} s to unpack"
                if late
                else f"it could not be unpacked within the limits (exit code {code})"
            }

    def _check_stop(self, *_) -> None:
        if self.stop.is_set():
            raise Stopped(2)

    def _chosen(self, notebooks: dict, student: Student) -> list[str]:
        """The submitted notebooks that belong to this week, in order; notes on the rest."""
        chosen = []
        for name, about in notebooks.items():
            stem = name.removesuffix(".ipynb")
            own = next(
                (
                    course
                    for course in self.course
                    if stem == course or stem[:2].isdigit() and stem[:2] == course[:2]
                ),
                None,
            )
            if own is None:
                student.notes.append(
                    f"{summary.in_cell(name, 80)} is not a notebook of this run and was left out."
                )
                continue
            parameters = about.get("parameters")
            if "problem" not in about and not (parameters and "RESULTS_DIR" in parameters):
                student.notes.append(
                    f"{summary.in_cell(name, 80)} is from another version: it has no parameter RESULTS_DIR."
                )
            chosen.append(name)
        there = {name[:2] for name in chosen}
        missing = [course for course in self.course if course[:2] not in there]
        if missing and notebooks:
            student.notes.append("Missing: " + ", ".join(missing) + ".")
        return sorted(chosen)

    def _read(self, root: Path, notebooks: dict, student: Student, folder: Path) -> None:
        """Only look at what was submitted: which cells were run, and the first error in them."""
        for number, name in enumerate(self._chosen(notebooks, student), 1):
            about = notebooks[name]
            result = NotebookResult(
                name.removesuffix(".ipynb"),
                "ok",
                cells=about.get("cells", 0),
                cells_done=about.get("ran", 0),
            )
            if about.get("problem"):
                result.status, result.failure = (
                    "unreadable",
                    {"ename": "Unreadable", "evalue": about["problem"], "cell": None},
                )
            elif about["error"]:
                result.status, result.failure = (
                    "failed",
                    about["error"] | {"of": about["cells"], "section": ""},
                )
            elif about["ran"] < about["cells"]:
                result.status = "not run" if not about["ran"] else "partly run"
            student.notebooks.append(asdict(result))
            if not about.get("problem"):
                student.notes += filter(
                    None,
                    [
                        assess.take_file(
                            root / name, folder / "notebooks" / f"{number:02}.ipynb", 60 * 2**20
                        )
                    ],
                )
        student.verdict = "read"
        bad = [nb for nb in student.notebooks if nb["status"] in ("failed", "unreadable")]
        student.why = f"{bad[0]['name']}: {summary.one_sentence(bad[0]['failure'])}" if bad else ""

    def _execute(
        self,
        root: Path,
        notebooks: dict,
        student: Student,
        folder: Path,
        sandbox: Path,
        scratch: Path,
    ) -> None:
        chosen = self._chosen(notebooks, student)
        results = sandbox / "results"
        results.mkdir(parents=True)
        (sandbox / "home").mkdir()
        kernels = write_kernel(scratch / "jupyter")
        deadline = time.monotonic() + self.limits.student_s
        gpu = self.gpus.get() if self.has_gpus else None  # one student on a GPU at a time
        try:
            for number, name in enumerate(chosen, 1):
                about = notebooks[name]
                stem = name.removesuffix(".ipynb")
                if about.get("problem"):
                    result = NotebookResult(
                        stem,
                        "unreadable",
                        failure={"ename": "Unreadable", "evalue": about["problem"], "cell": None},
                    )
                elif deadline - time.monotonic() <= 0:
                    result = NotebookResult(
                        stem,
                        "not run",
                        failure={
                            "ename": "TimeLimit",
                            "cell": None,
                            "evalue": f"The student's limit of {self.limits.student_s:.0f} s was reached before this notebook.",
                        },
                    )
                else:
                    result = self._run_notebook(
                        root, name, number, about, results, sandbox, scratch, kernels, gpu, deadline
                    )
                    student.notes += filter(
                        None,
                        [
                            assess.take_file(
                                sandbox / f"{number:02}.ipynb",
                                folder / "notebooks" / f"{number:02}.ipynb",
                                60 * 2**20,
                            )
                        ],
                    )
                student.notebooks.append(asdict(result))
        finally:
            if gpu is not None:
                self.gpus.put(gpu)
        student.notes += assess.gather(results, folder / "measured_here")
        if chosen:
            learnings_of(folder / "measured_here")
        bad = [nb for nb in student.notebooks if nb["status"] != "ok"]
        student.verdict = "failed" if bad else "ran" if chosen else "read"
        student.why = f"{bad[0]['name']}: {summary.one_sentence(bad[0]['failure'])}" if bad else ""
        if not chosen:
            student.notes.append("No notebook was submitted.")

    def _run_notebook(
        self, root, name, number, about, results, sandbox, scratch, kernels, gpu, deadline
    ) -> NotebookResult:
        declared = set(about.get("parameters") or ())
        parameters = {key: value for key, value in self.parameters.items() if key in declared}
        if "RESULTS_DIR" in declared:
            parameters["RESULTS_DIR"] = str(results)
        limits = {"FSIZE": int(self.limits.file_gib * GIB), "CORE": 0}
        if not self.has_gpus:  # CUDA maps far more address space than it uses
            limits["AS"] = int(max(64, 4 * self.limits.memory_gib) * GIB)
        # The executed notebook has a plain name: the student's may be anything.
        job = Job(
            notebook=str(root / name),
            output=str(sandbox / f"{number:02}.ipynb"),
            events=str(scratch / f"{number:02}.events"),
            parameters=parameters,
            cwd=str(root),
            cell_timeout_s=self.limits.cell_s,
            kernels=str(kernels),
            page=False,
            limits=limits,
        )
        env = self._environment(sandbox / "home", gpu) | {"WORKBOOK_RESULTS_DIR": str(results)}
        limit = min(self.limits.notebook_s, max(1.0, deadline - time.monotonic()))
        result = run_job(
            job,
            f"{number:02}",
            scratch,
            limit_s=limit,
            env=env,
            on_event=self._check_stop,
            watch=self._watcher(sandbox),
        )
        result.name = name.removesuffix(".ipynb")
        return result

    def _watcher(self, sandbox: Path):
        """Looks at memory every half second and at the folder's size every three."""
        last = {"memory": 0.0, "disk": 0.0}

        def watch(pid: int) -> str | None:
            now = time.monotonic()
            if now - last["memory"] > 0.5:
                last["memory"] = now
                used = sum(lifeline.resident_gib(p) for p in lifeline.descendants(pid))
                if used > self.limits.memory_gib:
                    return f"Its processes held {used:.1f} GiB of memory; the limit is {self.limits.memory_gib:g} GiB."
            if now - last["disk"] > 3:
                last["disk"] = now
                used = _size_gib(sandbox)
                if used > self.limits.disk_gib:
                    return f"It filled its folder with {used:.1f} GiB; the limit is {self.limits.disk_gib:g} GiB."
            return None

        return watch

    def _environment(self, home: Path, gpu: str | None) -> dict[str, str]:
        """A clean environment: nothing of the instructor's but PASSED, a home of its own."""
        env = {name: os.environ[name] for name in PASSED if name in os.environ}
        hub = (
            os.environ.get("HF_HUB_CACHE")
            or Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "hub"
        )
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        env |= {
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "XDG_CACHE_HOME": str(home / ".cache"),
            "HF_HUB_CACHE": str(hub),
            "USER": "student",
            "MPLCONFIGDIR": str(home / ".mpl"),
            "IPYTHONDIR": str(home / ".ipython"),
            "JUPYTER_CONFIG_DIR": str(home / ".jupyter"),
            "PYTHONNOUSERSITE": "1",
        }
        if gpu is not None:
            env["CUDA_VISIBLE_DEVICES"] = gpu
        return env


def learnings_of(folder: Path) -> None:
    """The templates filled from what was measured here."""
    from helpers.results import documents

    documents.export(folder)


def _size_gib(folder: Path, most: int = 20_000) -> float:
    total, seen = 0, 0
    waiting = [folder]
    while waiting and seen < most:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    seen += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue
    return total / GIB


# ---------------------------------------------------------------- the class


def make_pages(out: Path, students: list[Student], scratch: Path) -> None:
    """Pages of the executed or submitted notebooks, in one process for all; a notebook that takes
    the process down costs its own page only."""
    waiting = []
    for student in students:
        for source in sorted((out / "students" / student.slug / "notebooks").glob("*.ipynb")):
            if not source.with_suffix(".html").exists():
                waiting.append([str(source), str(source.with_suffix(".html"))])
    while waiting:
        todo = scratch / "pages.json"
        todo.write_text(json.dumps(waiting))
        process = lifeline.spawn(
            [
                sys.executable,
                "-c",
                f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({8 * GIB}, {8 * GIB}))\n"
                "import sys; from helpers.run.classroom.safe_html import main; main(sys.argv[1])",
                str(todo),
            ],
            env=os.environ | {"PYTHONPATH": str(REPO)},
            log=scratch / "pages.log",
            cwd=REPO,
        )
        try:
            done, since = 0, time.monotonic()
            while process.poll() is None:
                time.sleep(0.05)
                now_done = sum(Path(page).exists() for _, page in waiting)
                if now_done > done:
                    done, since = now_done, time.monotonic()
                if time.monotonic() - since > 120:
                    break
        finally:
            lifeline.stop(process)
        left = [pair for pair in waiting if not Path(pair[1]).exists()]
        if left:
            Path(left[0][1]).write_text(
                "<!doctype html><meta charset='utf-8'><title>No page</title><p>No page could be made of this notebook.",
                encoding="utf-8",
            )
        waiting = left[1:]


def run_class(submissions: Path, out: Path, work: Class, jobs: int) -> list[Student]:
    """Every submission's result, in the order of the names. Raises Stopped after writing what there is."""
    found, notes = find_submissions(submissions)
    if not found:
        raise UsageError(f"There is no folder, archive or notebook in {submissions}.")
    students = [Student(s.name, s.slug) for s in found]
    count = 0
    lock = threading.Lock()

    def do(index: int) -> None:
        nonlocal count
        if work.stop.is_set():
            return
        student = work.one(found[index])
        with lock:
            students[index] = student
            count += 1
            work.say(
                f"[{count}/{len(found)}] {student.name}: {student.verdict}"
                + (f", {student.why}"[:200] if student.why else "")
                + f" ({student.seconds:.0f} s)"
            )

    stopped = None
    with ThreadPoolExecutor(jobs, thread_name_prefix="student") as pool:
        futures = [pool.submit(do, index) for index in range(len(found))]
        try:
            while not all(future.done() for future in futures):
                time.sleep(0.1)
        except Stopped as signal_:
            stopped = signal_
            work.stop.set()
            for future in futures:
                future.cancel()
    run.sweep()  # a supervisor that student code has killed leaves its processes to us
    with tempfile.TemporaryDirectory(prefix="workbook-class-") as scratch:
        if not stopped:
            make_pages(out, students, Path(scratch))
    class_pages.write(
        out,
        [asdict(s) for s in students],
        notes,
        {
            "read_only": work.read_only,
            "parameters": work.parameters,
            "submissions": str(submissions),
        },
    )
    for future in futures:
        if (
            future.done()
            and not future.cancelled()
            and (error := future.exception())
            and not isinstance(error, Stopped)
        ):
            raise error
    if stopped:
        raise stopped
    return students


def gpu_ids() -> list[str]:
    """The GPUs to hand out, as CUDA_VISIBLE_DEVICES names them; [] without a driver."""
    from helpers.engine.profile import gpus

    count = len(gpus())
    given = [
        word.strip()
        for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        if word.strip()
    ]
    return given[:count] if given else [str(n) for n in range(count)]


def arguments() -> argparse.ArgumentParser:
    default = Limits()
    parser = argparse.ArgumentParser(
        prog="python -m helpers.run class",
        description="Run or read a class's submissions.",
        epilog=f"Student code runs as you. To keep it from your files and the network, use a container: {CONTAINER}",
    )
    parser.add_argument(
        "submissions", type=Path, help="folder with a folder, an archive or a notebook per student"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the results; the same again goes on where a run stopped",
    )
    parser.add_argument(
        "--read-only", action="store_true", help="execute nothing, only read what was submitted"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="students at a time; with GPUs at most one per GPU (default 1)",
    )
    parser.add_argument(
        "--notebooks", help="which, by number or name, separated by commas (default: all)"
    )
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a notebook parameter; may be given again",
    )
    parser.add_argument("--parameters", metavar="FILE", help="the course's YAML, as for a run")
    for name, text in (
        ("cell", "one cell"),
        ("notebook", "one notebook"),
        ("student", "one student"),
    ):
        parser.add_argument(
            f"--{name}-timeout",
            type=float,
            metavar="S",
            help=f"seconds for {text} (default {getattr(default, name + '_s'):.0f})",
        )
    parser.add_argument(
        "--memory",
        type=float,
        default=default.memory_gib,
        metavar="GIB",
        help=f"of a student's processes together (default {default.memory_gib:g})",
    )
    parser.add_argument(
        "--disk",
        type=float,
        default=default.disk_gib,
        metavar="GIB",
        help=f"of a student's folder (default {default.disk_gib:g})",
    )
    parser.add_argument(
        "--file-size",
        type=float,
        default=default.file_gib,
        metavar="GIB",
        help=f"of one file (default {default.file_gib:g})",
    )
    parser.add_argument(
        "--keep-work", action="store_true", help="keep the folders in which the notebooks ran"
    )
    return parser


def main(argv: list[str]) -> int:
    given = arguments().parse_args(argv)
    run.adopt_orphans()
    out = given.out.expanduser().absolute()
    try:
        with run.signals_raise():
            if not given.submissions.is_dir():
                raise UsageError(f"{given.submissions} is not a folder.")
            source = given.submissions.resolve()
            if out.resolve() == source or source in out.resolve().parents:
                raise UsageError("--out lies inside the submissions: give a folder beside them.")
            course = run.read_course(given.parameters) if given.parameters else {}
            wanted = given.notebooks.split(",") if given.notebooks else course.get("notebooks")
            parameters = (course.get("parameters") or {}) | {
                name: run.typed(value) for name, value in given.p
            }
            run.assign_parameters(run.find_notebooks(wanted), parameters)
            gpus = [] if given.read_only else gpu_ids()
            if gpus and given.jobs > len(gpus):
                raise UsageError(
                    f"--jobs {given.jobs} with {len(gpus)} GPU: one student per GPU at a time, so at most --jobs {len(gpus)}."
                )
            if given.jobs < 1:
                raise UsageError("--jobs must be at least 1.")
            limits = Limits(
                given.cell_timeout or course.get("cell_timeout") or Limits.cell_s,
                given.notebook_timeout or Limits.notebook_s,
                given.student_timeout or course.get("timeout") or Limits.student_s,
                given.memory,
                given.disk,
                given.file_size,
            )
            out.mkdir(parents=True, exist_ok=True)
            work = Class(
                out,
                limits,
                read_only=given.read_only,
                parameters=parameters,
                notebooks=wanted,
                gpus=gpus,
                keep_work=given.keep_work,
                say=lambda line: print(line, flush=True),
            )
            try:
                students = run_class(given.submissions, out, work, given.jobs)
            finally:
                run.sweep()
    except (UsageError, ResultsError) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"The class could not be written: {error}. What is done is kept; run the same command again.",
            file=sys.stderr,
        )
        return 2
    except Stopped as stopped:
        print(
            f"\nStopped by {stopped}; nothing was left running. The same command goes on from here. So far: {out / 'class.html'}",
            file=sys.stderr,
        )
        return 128 + stopped.number
    tally: dict[str, int] = {}
    for student in students:
        tally[student.verdict] = tally.get(student.verdict, 0) + 1
    print(
        f"\n{len(students)} students: "
        + ", ".join(f"{n} {verdict}" for verdict, n in sorted(tally.items()))
        + f". Read: {out / 'class.html'}"
    )
    return 1 if tally.get("error") else 0
