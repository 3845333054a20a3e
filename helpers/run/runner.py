"""Execute the notebooks headless and leave everything in one folder: `python -m helpers.run`.

    python -m helpers.run                                  every notebook, into runs/<date-time>/
    python -m helpers.run --notebooks 01,02 -p PROFILE cpu
    python -m helpers.run --parameters course.yaml         see helpers/run/course_file.py
    python -m helpers.run class SUBMISSIONS --out FOLDER   see helpers/run/classroom/command.py

The folder holds the executed notebooks with an HTML page of each, measurements.jsonl, what can be
handed in (helpers/run/finish.py) and summary.md / .html / .json. Each notebook runs in a process of
its own, under a supervisor (helpers/engine/processes.py) that ends all it started.
Exit code: 0 all ran, 1 a notebook failed, 2 wrong usage, 128 + signal when stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from helpers import REPO
from helpers.engine import processes
from helpers.results import ResultsError
from helpers.results.documents import DOCUMENTS
from helpers.results.store import load, provenance
from helpers.run import course_file, finish, summary
from helpers.run.course_file import assign_parameters, find_notebooks, parameters_of
from helpers.run.job import Job, failure, last_started, tail, write_job
from helpers.run.notebook_file import Cell, executed
from helpers.run.progress import Progress
from helpers.run.stopping import Stopped

CELL_TIMEOUT_S = 1800.0  # a first start on a GPU downloads a model
TIMEOUT_S = 4 * 3600.0


@dataclass
class NotebookResult:
    """What became of a notebook.

    status: ok, failed (a cell), killed (its process died), timeout, limit (memory, disk), stopped
    or not run. cell_times: {"k", "seconds", "section", "first_line"} of each cell that ended.
    """

    name: str
    status: str = "not run"
    seconds: float = 0.0
    cells: int = 0
    cells_done: int = 0
    cell_times: list[dict] = field(default_factory=list)
    failure: dict | None = None
    page: bool = False


# ---------------------------------------------------------------- one notebook


def run_job(
    job: Job,
    work: Path,
    log: Path,
    *,
    limit_s: float,
    env: dict,
    watch: Callable[[int], str | None],
) -> NotebookResult:
    """Execute one job in a process of its own and wait for its end; nothing of it stays behind.

    work: folder for the job's own files. log: file for what the process prints. limit_s: wall time;
    after it the process tree is ended. env: the whole environment. watch: asked with the pid of the
    job's supervisor about ten times a second; a sentence from it ends the job with that as the
    reason, and what it raises ends the job and is raised here.
    """
    began = time.monotonic()
    file = write_job(work, job)
    verdict = file.with_suffix(".verdict")
    verdict.unlink(missing_ok=True)
    path = os.pathsep.join(filter(None, [str(REPO), env.get("PYTHONPATH")]))
    ours = {"PYTHONPATH": path, "JUPYTER_PATH": str(work), "WORKBOOK_NOTEBOOK": job.output}
    # In the repository's folder, so that `helpers` is this one; the kernel has its own cwd.
    command = [sys.executable, "-m", "helpers.run.job", str(file)]
    process = processes.spawn(command, env=env | ours, log=log, cwd=REPO)
    try:
        ended = _wait(process, verdict, limit_s, watch)
    finally:
        code = processes.stop(process)
    cells = executed(Path(job.output))
    result = _far(Path(job.notebook).stem, cells)
    result.seconds = round(time.monotonic() - began, 2)
    result.page = Path(job.output).with_suffix(".html").exists()
    if ended:
        result.status, ename, evalue = ended
        result.failure = failure(cells, last_started(cells), ename, evalue)
    elif (said := _said(verdict)) is not None:
        result.failure = said["failure"]
        late = result.failure and result.failure["ename"] == "CellTimeoutError"
        result.status = "timeout" if late else "failed" if result.failure else "ok"
    else:
        result.status = "killed"
        killed = " (killed; usually the machine ran out of memory)" if code in (137, -9) else ""
        evalue = f"The notebook's process ended with code {code} and said nothing{killed}"
        end = "\n".join(tail(log).splitlines()[-12:])
        result.failure = failure(cells, last_started(cells), "ProcessDied", evalue, end)
    return result


def _wait(process, verdict: Path, limit_s: float, watch) -> tuple[str, str, str] | None:
    """Until the job has said its last word; (status, ename, evalue) to end it before."""
    deadline = time.monotonic() + limit_s
    while process.poll() is None and not verdict.exists():
        if time.monotonic() > deadline:
            evalue = f"The notebook was still running at its limit of {limit_s:.0f} s."
            return "timeout", "TimeLimit", evalue
        if reason := watch(process.pid):
            return "limit", "ResourceLimit", reason
        time.sleep(0.1)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)  # it is on its way out
    return None


def _said(verdict: Path) -> dict | None:
    """The job's last word, None when it had none."""
    try:
        said = json.loads(verdict.read_text(encoding="utf-8"))
        return said if isinstance(said, dict) and "failure" in said else None
    except (OSError, ValueError):
        return None


def _far(name: str, cells: list[Cell]) -> NotebookResult:
    """How far a notebook came."""
    times = [
        {
            "k": cell.k,
            "seconds": round(cell.seconds, 3),
            "section": cell.section,
            "first_line": cell.first_line,
        }
        for cell in cells
        if cell.seconds is not None
    ]
    return NotebookResult(name, cells=len(cells), cells_done=len(times), cell_times=times)


# ---------------------------------------------------------------- the whole run


def new_folder(given: str | os.PathLike | None) -> Path:
    """The run's folder: as given, or a new one named after the time."""
    if given:
        out = Path(given).expanduser().absolute()
        out.mkdir(parents=True, exist_ok=True)
        return out
    stem = REPO / "runs" / datetime.now().strftime("%Y-%m-%d-%H%M%S")
    further = (stem.with_name(f"{stem.name}-{number}") for number in itertools.count(2))
    out = next(path for path in itertools.chain([stem], further) if not path.exists())
    out.mkdir(parents=True)
    return out


def run(
    notebooks: list[Path],
    parameters: dict,
    out: Path,
    *,
    cell_timeout: float,
    timeout: float,
    progress: Progress,
) -> dict:
    """Execute the notebooks one after the other, export, write the summary; returns its data.

    Raises UsageError before anything runs if a parameter does not fit. After Stopped, what there
    is has been written.
    """
    shares = assign_parameters(notebooks, parameters)
    began, started = time.monotonic(), datetime.now()
    results = [NotebookResult(path.stem) for path in notebooks]
    stopped: Stopped | None = None
    (out / "logs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="workbook-run-") as scratch:
        for number, path in enumerate(notebooks):
            left = timeout - (time.monotonic() - began)
            if left <= 0:
                evalue = f"The run's limit of {timeout:.0f} s was reached before this notebook."
                results[number].failure = failure([], None, "TimeLimit", evalue)
                continue
            progress.begin(f"[{number + 1}/{len(notebooks)}] {path.stem}", out / path.name)
            try:
                results[number] = _run_notebook(
                    path, shares[path], out, Path(scratch), progress, cell_timeout, left
                )
            except Stopped as signal_:
                stopped = signal_
                evalue = f"{signal_} reached the runner."
                results[number].status = "stopped"
                results[number].failure = failure([], None, "Stopped", evalue)
            progress.done(_verdict(results[number]))
            if stopped:
                break
    data = _close(results, parameters, out, started, time.monotonic() - began, stopped)
    if stopped:
        stopped.so_far = f"What there is: {out}"
        raise stopped
    return data


def _run_notebook(path, share, out, scratch, progress, cell_timeout, left) -> NotebookResult:
    output = out / path.name
    for stale in (output, output.with_suffix(".html")):
        stale.unlink(missing_ok=True)
    ours = {"RESULTS_DIR": str(out)} if "RESULTS_DIR" in parameters_of(path) else {}
    job = Job(
        notebook=str(path.absolute()),
        output=str(output),
        cwd=str(path.parent.absolute()),
        cell_timeout_s=cell_timeout,
        parameters=share | ours,
    )
    env = os.environ | {"WORKBOOK_RESULTS_DIR": str(out)}
    log = out / "logs" / f"{path.stem}.log"
    return run_job(job, scratch, log, limit_s=left, env=env, watch=progress.watch)


def _verdict(result: NotebookResult) -> str:
    if result.status in ("ok", "stopped"):
        return result.status if result.status == "ok" else "STOPPED"
    sentence = summary.one_sentence(result.failure).splitlines()[0][:300]
    return f"{result.status.upper()}: {sentence}"


def _close(results, parameters, out, started, seconds, stopped) -> dict:
    """Export the documents and write the summary, whatever happened before."""
    blanks, notes = [], []
    records, problems = load(out)
    try:
        report = finish.write(out)
        blanks, notes = [asdict(blank) for blank in report.blanks], report.notes
    except (ResultsError, OSError) as error:
        notes = [str(error)]
    place = next((r["provenance"] for r in reversed(records) if r.get("provenance")), {})
    data = {
        "started": started.strftime("%Y-%m-%d %H:%M:%S"),
        "seconds": round(seconds, 1),
        "notebooks": [asdict(r) for r in results],
        "parameters": parameters,
        "provenance": provenance() | {k: v for k, v in place.items() if v is not None},
        "records": len(records),
        "blanks": blanks,
        "notes": notes + [p for p in problems if p not in notes],
        "stopped": str(stopped) if stopped else None,
    }
    summary.write(data, out)
    return data


def arguments() -> argparse.ArgumentParser:
    """The options of `python -m helpers.run`."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.run",
        description="Execute the notebooks and leave the results in one folder.",
        epilog="A class of submissions: python -m helpers.run class --help",
    )
    parser.add_argument("--out", help="folder for the results (default: runs/<date-time>)")
    course_file.add_arguments(parser)
    for name, what, default in (
        ("--cell-timeout", "one cell", CELL_TIMEOUT_S),
        ("--timeout", "the whole run", TIMEOUT_S),
    ):
        text = f"seconds for {what} (default {default:.0f})"
        parser.add_argument(name, type=float, metavar="S", help=text)
    parser.add_argument("--notebook-folder", type=Path, help=argparse.SUPPRESS)
    return parser


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code. Raises UsageError, Stopped and OSError."""
    given = arguments().parse_args(argv)
    course = course_file.asked(given)
    notebooks = find_notebooks(course.notebooks, given.notebook_folder)
    assign_parameters(notebooks, course.parameters)  # before a folder is made
    out = new_folder(given.out)
    data = run(
        notebooks,
        course.parameters,
        out,
        cell_timeout=given.cell_timeout or course.cell_timeout or CELL_TIMEOUT_S,
        timeout=given.timeout or course.timeout or TIMEOUT_S,
        progress=Progress(),
    )
    failed = [nb["name"] for nb in data["notebooks"] if nb["status"] != "ok"]
    outcome = "FAILED: " + ", ".join(failed) if failed else "All ran"
    print(f"\n{outcome} in {summary.duration(data['seconds'])}. Read: {out / 'summary.html'}")
    for name in (*(f"{name}.md" for name in DOCUMENTS), finish.PAGE, finish.ARCHIVE):
        if (out / name).exists():
            print(f"  {out / name}")
    return 1 if failed else 0
