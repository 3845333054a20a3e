"""Execute the notebooks headless and leave everything in one folder: `python -m helpers.run`.

    python -m helpers.run                                  every notebook, into runs/<date-time>/
    python -m helpers.run --notebooks 01,02 -p PROFILE cpu
    python -m helpers.run --parameters course.yaml         an instructor's parameters
    python -m helpers.run class SUBMISSIONS --out FOLDER   a whole class, see helpers/run/classroom/class_run.py

The folder holds the executed notebooks with an HTML page of each, measurements.jsonl,
my_learnings.md, distributed_planning.md and summary.md / .html / .json. Each notebook runs in a
process of its own, under a supervisor (helpers/engine/processes.py) that ends everything it started.
Exit code: 0 all ran, 1 a notebook failed, 2 wrong usage, 128 + signal when stopped.

course.yaml (every key may be left out):

    notebooks: ["01", "02"]
    model: Qwen/Qwen2.5-1.5B-Instruct     # also: profile, load_format
    sizes: {requests: 64}                 # any parameter of the notebooks, in any case
    parameters: {SEED: 7}
    cell_timeout: 900                     # seconds
    timeout: 3600
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import difflib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from helpers import REPO
from helpers.engine import processes as lifeline
from helpers.results.store import ResultsError, load, provenance
from helpers.run import summary
from helpers.run.classroom.intake import inspect
from helpers.run.job import Job, write_job, write_kernel

NOTEBOOKS = REPO / "notebooks"
CELL_TIMEOUT_S = 1800.0  # a first start on a GPU downloads a model
TIMEOUT_S = 4 * 3600.0
OURS = {"RESULTS_DIR"}  # set by the runner


class UsageError(Exception):
    """The command cannot be carried out as given; the text says what to give."""


class Stopped(BaseException):
    """Ctrl-C, SIGTERM or SIGHUP reached the runner."""

    def __init__(self, number: int):
        self.number = number
        super().__init__(signal.Signals(number).name)


@dataclass
class NotebookResult:
    """status: ok, failed (a cell), killed (its process died), timeout, limit (memory, disk), stopped or not run."""

    name: str
    status: str = "not run"
    seconds: float = 0.0
    cells: int = 0
    cells_done: int = 0
    cell_times: list[dict] = field(
        default_factory=list
    )  # {"k", "seconds", "section", "first_line"}
    failure: dict | None = None
    page: bool = False


# ---------------------------------------------------------------- what to run


def find_notebooks(wanted: list[str] | None = None, folder: Path | None = None) -> list[Path]:
    """The notebooks named by number or by the beginning of their name, in order; all for None."""
    folder = folder or NOTEBOOKS
    there = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not there:
        raise UsageError(f"There are no notebooks in {folder}.")
    if not wanted:
        return there
    chosen = []
    for name in wanted:
        word = str(name).strip().removesuffix(".ipynb")
        word = f"{int(word):02}" if word.isdigit() else word
        found = [path for path in there if path.stem.startswith(word)] if word else []
        if not found:
            raise UsageError(
                f"No notebook is called {name!r}; there are: {', '.join(p.stem for p in there)}."
            )
        chosen += [path for path in found if path not in chosen]
    return sorted(chosen)


def parameters_of(notebook: Path) -> set[str]:
    """The names in the cell tagged `parameters`; empty if there is no such cell.

    Read from the file, as papermill.inspect_notebook does, without the seconds of importing it.
    """
    about = inspect(notebook)
    if "problem" in about:
        raise UsageError(f"{notebook} is not a notebook that can be run: {about['problem']}.")
    return set(about["parameters"] or ())


def assign_parameters(notebooks: list[Path], given: dict) -> dict[Path, dict]:
    """Each notebook's share of the parameters. A name that no notebook has is a UsageError."""
    declared = {path: parameters_of(path) for path in notebooks}
    every = sorted({name for names in declared.values() for name in names} - OURS)
    for name in given:
        if name in OURS:
            raise UsageError(f"{name} is set by the runner: use --out.")
        if name not in every:
            close = difflib.get_close_matches(
                name, every, n=1, cutoff=0.6
            ) or difflib.get_close_matches(name.upper(), every, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            names = "; ".join(
                f"{path.stem}: {', '.join(sorted(declared[path] - OURS)) or 'none'}"
                for path in notebooks
            )
            raise UsageError(
                f"No notebook of this run has a parameter {name!r}.{hint} The parameters are: {names}."
            )
    return {
        path: {name: value for name, value in given.items() if name in declared[path]}
        for path in notebooks
    }


def typed(value: str):
    """A parameter's value from the command line: None, True, 3, 1e-2, [1, 8], {...} or text."""
    if value in ("None", "null"):
        return None
    if value in ("True", "true", "False", "false"):
        return value.lower() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    if value[:1] in "[{" and value:
        import yaml

        with contextlib.suppress(yaml.YAMLError):
            return yaml.safe_load(value)
    return value


COURSE_KEYS = {
    "notebooks": list,
    "parameters": dict,
    "sizes": dict,
    "profile": str,
    "model": str,
    "load_format": str,
    "cell_timeout": (int, float),
    "timeout": (int, float),
    "out": str,
}


def read_course(path: str | os.PathLike) -> dict:
    """An instructor's course.yaml, checked. Returns {"parameters", "notebooks", "cell_timeout", "timeout", "out"}."""
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}).") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(data, dict):
        raise UsageError(
            f"{path} holds a {type(data).__name__}; expected keys such as notebooks, sizes, model."
        )
    for key, value in data.items():
        if key not in COURSE_KEYS:
            close = difflib.get_close_matches(str(key), COURSE_KEYS, n=1)
            raise UsageError(
                f"{path}: unknown key {key!r}{f' (did you mean {close[0]}?)' if close else ''}; known: {', '.join(COURSE_KEYS)}."
            )
        if value is not None and (
            not isinstance(value, COURSE_KEYS[key]) or isinstance(value, bool)
        ):
            raise UsageError(f"{path}: {key} is {value!r}, which is not of the right type.")
    parameters = {
        key.upper(): data[key]
        for key in ("profile", "model", "load_format")
        if data.get(key) is not None
    }
    parameters |= {str(name).upper(): value for name, value in (data.get("sizes") or {}).items()}
    parameters |= {str(name): value for name, value in (data.get("parameters") or {}).items()}
    return {
        "parameters": parameters,
        "notebooks": [str(n) for n in data.get("notebooks") or []] or None,
        "cell_timeout": data.get("cell_timeout"),
        "timeout": data.get("timeout"),
        "out": data.get("out"),
    }


# ---------------------------------------------------------------- one notebook


def run_job(
    job: Job,
    name: str,
    work: Path,
    *,
    limit_s: float,
    env: dict | None = None,
    on_event=None,
    watch: Callable[[int], str | None] | None = None,
) -> NotebookResult:
    """Execute one job in a process of its own and wait for its end; nothing of it stays behind.

    work: folder for the job's own files (job, events, log). limit_s: wall time; after it the
    process tree is ended. env: the whole environment, None for this one's. on_event: called with
    each event, and with None about ten times a second. watch: asked with the pid of the job's
    supervisor as often; a sentence from it ends the job with that as the reason.
    """
    result = NotebookResult(name)
    job_file = write_job(work / f"{name}.job.json", job)
    events_file = Path(job.events)
    events_file.unlink(missing_ok=True)
    environment = dict(os.environ if env is None else env)
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(REPO), environment.get("PYTHONPATH")])
    )
    environment["WORKBOOK_NOTEBOOK"] = job.output
    began = time.monotonic()
    end, place, rest = None, 0, b""
    section, reason = "", None

    def take_events():
        nonlocal end, place, rest, section
        with contextlib.suppress(FileNotFoundError):
            with open(events_file, "rb") as file:
                file.seek(place)
                data = rest + file.read()
                place = file.tell()
            *lines, rest = data.split(b"\n")
            for line in lines:
                try:
                    event = json.loads(line)
                    kind = event["event"]
                except (ValueError, KeyError, TypeError):
                    continue
                if kind == "start":
                    result.cells = event["cells"]
                elif kind == "cell":
                    section = event["section"]
                    result.cells_done = event["k"] - 1
                elif kind == "cell_end":
                    result.cells_done = event["k"]
                    result.cell_times.append(
                        {k: event[k] for k in ("k", "seconds", "section", "first_line")}
                    )
                elif kind == "end":
                    end = event
                if on_event:
                    on_event(event)

    # In the repository's folder, so that `helpers` is this one; the kernel has its own cwd.
    process = lifeline.spawn(
        [sys.executable, "-m", "helpers.run.job", str(job_file)],
        env=environment,
        log=work / f"{name}.log",
        cwd=REPO,
    )
    try:
        while process.poll() is None and end is None:
            if time.monotonic() - began > limit_s:
                result.status = "timeout"
                break
            reason = watch(process.pid) if watch else None
            if reason:
                result.status = "limit"
                break
            time.sleep(0.1)
            take_events()
            if on_event:
                on_event(None)
        if end is not None:
            with contextlib.suppress(Exception):
                process.wait(5)  # it has said its last word and is on its way out
    except BaseException:
        result.status = "stopped"
        raise
    finally:
        code = lifeline.stop(process)
        take_events()
        result.seconds = round(time.monotonic() - began, 2)
        result.page = Path(job.output).with_suffix(".html").exists()

    where = {
        "cell": result.cells_done + 1 if result.cells else None,
        "of": result.cells,
        "section": section,
        "source": "",
        "traceback": "",
    }
    if result.status == "limit":
        result.failure = where | {"ename": "ResourceLimit", "evalue": reason}
    elif end is not None and result.status != "timeout":
        result.status, result.failure = end["status"], end["failure"]
        if result.failure and result.failure["ename"] == "CellTimeoutError":
            result.status = "timeout"
    elif result.status == "timeout":
        result.failure = where | {
            "ename": "TimeLimit",
            "evalue": f"The notebook was still running at its limit of {limit_s:.0f} s and was ended.",
        }
    else:
        result.status = "killed"
        tail = _tail(work / f"{name}.log")
        result.failure = where | {
            "ename": "ProcessDied",
            "evalue": f"The notebook's process ended with code {code} and said nothing"
            + (" (killed; usually the machine ran out of memory)" if code in (137, -9) else ""),
            "traceback": tail,
        }
    return result


def _tail(path: Path, lines: int = 12) -> str:
    with contextlib.suppress(OSError):
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 8000))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    return ""


class Progress:
    """One line: which notebook, which cell, how long. On a terminal it is rewritten in place;
    elsewhere (a log, CI) a new line appears for each notebook and every half minute."""

    def __init__(self, stream=None):
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.began = time.monotonic()
        self._last = 0.0
        self._width = 0

    def begin(self, label: str) -> None:
        self.label, self.cell, self.start = label, "", time.monotonic()
        self._last = time.monotonic()
        self._draw()

    def __call__(self, event: dict | None) -> None:
        if event and event["event"] == "cell":
            self.cell = f"  cell {event['k']}/{event['n']}"
        every = 0.5 if self.live else 30.0
        if time.monotonic() - self._last >= every:
            self._last = time.monotonic()
            self._draw()

    def _draw(self, end: str = "") -> None:
        text = f"{self.label}{self.cell}  {summary.duration(time.monotonic() - self.start)}  (run {summary.duration(time.monotonic() - self.began)}){end}"
        if self.live:
            text = (
                text[: max(20, os.get_terminal_size(self.stream.fileno()).columns - 1)]
                if not end
                else text
            )
            self.stream.write("\r" + text.ljust(self._width) + ("\n" if end else ""))
            self._width = 0 if end else len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def done(self, verdict: str) -> None:
        self._draw(f"  {verdict}")


# ---------------------------------------------------------------- the whole run


def new_folder(given: str | os.PathLike | None) -> Path:
    """The run's folder: as given, or a new one named after the time."""
    if given:
        out = Path(given).expanduser().absolute()
        out.mkdir(parents=True, exist_ok=True)
        return out
    stem = REPO / "runs" / datetime.now().strftime("%Y-%m-%d-%H%M%S")
    for number in range(1, 100):
        out = stem if number == 1 else stem.with_name(f"{stem.name}-{number}")
        with contextlib.suppress(FileExistsError):
            out.mkdir(parents=True)
            return out
    raise UsageError(f"{stem} and 98 like it are there already: give --out.")


def run(
    notebooks: list[Path],
    parameters: dict,
    out: Path,
    *,
    cell_timeout: float = CELL_TIMEOUT_S,
    timeout: float = TIMEOUT_S,
    progress: Progress | None = None,
) -> dict:
    """Execute the notebooks one after the other, export, write the summary; returns its data.

    Raises UsageError before anything runs if a parameter does not fit. After Stopped, what there
    is has been written.
    """
    shares = assign_parameters(notebooks, parameters)
    declared = {path: parameters_of(path) for path in notebooks}
    progress = progress or Progress()
    began, started = time.monotonic(), datetime.now()
    results = [NotebookResult(path.stem) for path in notebooks]
    stopped: Stopped | None = None
    with tempfile.TemporaryDirectory(prefix="workbook-run-") as scratch:
        kernels = write_kernel(Path(scratch))
        logs = out / "logs"
        logs.mkdir(exist_ok=True)
        for number, path in enumerate(notebooks):
            left = timeout - (time.monotonic() - began)
            if left <= 0:
                results[number].failure = {
                    "ename": "TimeLimit",
                    "cell": None,
                    "evalue": f"The run's limit of {timeout:.0f} s was reached before this notebook.",
                }
                continue
            share = dict(shares[path]) | (
                {"RESULTS_DIR": str(out)} if "RESULTS_DIR" in declared[path] else {}
            )
            job = Job(
                notebook=str(path.absolute()),
                output=str(out / path.name),
                events=str(Path(scratch) / f"{path.stem}.events"),
                parameters=share,
                cwd=str(path.parent.absolute()),
                cell_timeout_s=cell_timeout,
                kernels=str(kernels),
            )
            progress.begin(f"[{number + 1}/{len(notebooks)}] {path.stem}")
            env = os.environ | {"WORKBOOK_RESULTS_DIR": str(out)}
            for stale in (Path(job.output), Path(job.output).with_suffix(".html")):
                stale.unlink(missing_ok=True)
            try:
                results[number] = run_job(
                    job, path.stem, logs, limit_s=left, env=env, on_event=progress
                )
            except Stopped as signal_:
                stopped = signal_
                results[number].status = "stopped"
                results[number].failure = {
                    "ename": "Stopped",
                    "cell": None,
                    "evalue": f"{signal_} reached the runner.",
                }
                progress.done("STOPPED")
                break
            result = results[number]
            progress.done(
                "ok"
                if result.status == "ok"
                else f"{result.status.upper()}: {summary.one_sentence(result.failure).splitlines()[0][:300]}"
            )
        for leftover in logs.glob("*.job.json"):
            leftover.unlink()
    data = _close(results, parameters, out, started, time.monotonic() - began, stopped)
    if stopped:
        raise stopped
    return data


def _close(
    results: list[NotebookResult],
    parameters: dict,
    out: Path,
    started: datetime,
    seconds: float,
    stopped,
) -> dict:
    """Export the documents and write the summary, whatever happened before."""
    from helpers.results import documents

    blanks, notes = [], []
    try:
        # The plan is exported with the notebook that makes it, or when there is one already.
        planned = (
            any(r.name.startswith("04") for r in results)
            or (out / "distributed_planning.md").exists()
            or any(r["experiment"] in ("hardware", "strategy") for r in load(out)[0])
        )
        report = documents.export(out, documents.DOCUMENTS if planned else ("my_learnings",))
        blanks, notes = [asdict(blank) for blank in report.blanks], report.notes
    except (ResultsError, OSError) as error:
        notes = [str(error)]
    records, problems = load(out)
    place = next((r["provenance"] for r in reversed(records) if r.get("provenance")), None) or {}
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


@contextlib.contextmanager
def signals_raise():
    """SIGINT, SIGTERM and SIGHUP raise Stopped once; while what runs is being ended they are ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def handler(number, frame):
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def adopt_orphans() -> None:
    """Become the one to whom orphaned descendants are handed, so that sweep() can find them."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def sweep() -> list[int]:
    """End whatever is still below this process. The supervisors leave nothing, unless one was killed."""
    left = [pid for pid in lifeline.descendants(os.getpid()) if not lifeline.is_lifeline(pid)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return left


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.run",
        description="Execute the notebooks and leave the results in one folder.",
        epilog="A class of submissions: python -m helpers.run class --help",
    )
    parser.add_argument("--out", help="folder for the results (default: runs/<date-time>)")
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
    parser.add_argument(
        "--parameters",
        metavar="FILE",
        help="YAML with notebooks, sizes, model, time limits; -p overrides it",
    )
    parser.add_argument(
        "--cell-timeout",
        type=float,
        metavar="S",
        help=f"seconds for one cell (default {CELL_TIMEOUT_S:.0f})",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help=f"seconds for the whole run (default {TIMEOUT_S:.0f})",
    )
    parser.add_argument("--notebook-folder", type=Path, help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    given = arguments().parse_args(argv)
    adopt_orphans()
    try:
        with signals_raise():
            course = read_course(given.parameters) if given.parameters else {}
            wanted = given.notebooks.split(",") if given.notebooks else course.get("notebooks")
            notebooks = find_notebooks(wanted, given.notebook_folder)
            parameters = (course.get("parameters") or {}) | {
                name: typed(value) for name, value in given.p
            }
            assign_parameters(notebooks, parameters)  # before a folder is made
            out = new_folder(given.out or course.get("out"))
            try:
                data = run(
                    notebooks,
                    parameters,
                    out,
                    cell_timeout=given.cell_timeout or course.get("cell_timeout") or CELL_TIMEOUT_S,
                    timeout=given.timeout or course.get("timeout") or TIMEOUT_S,
                )
            finally:
                sweep()
    except (UsageError, ResultsError) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"The run could not write its folder: {error}.", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(
            f"\nStopped by {stopped}; nothing was left running. What there is: {out if 'out' in locals() else '(nothing yet)'}",
            file=sys.stderr,
        )
        return 128 + stopped.number
    failed = [nb["name"] for nb in data["notebooks"] if nb["status"] != "ok"]
    print(
        f"\n{'FAILED: ' + ', '.join(failed) if failed else 'All ran'} in {summary.duration(data['seconds'])}. Read: {out / 'summary.html'}"
    )
    for name in ("my_learnings.md", "distributed_planning.md", "summary.md"):
        if (out / name).exists():
            print(f"  {out / name}")
    return 1 if failed else 0
