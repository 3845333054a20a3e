"""Execute one notebook in this process with papermill, and say step by step what happens.

    python -m helpers.run.job JOB.json

A job is a dict, see Job. helpers/run/runner.py starts one such process for each notebook, so that a
notebook that takes its process down, or will not end, takes nothing else with it. What happens is
appended to the job's `events` file as JSON lines; the last one, "end", is the verdict. A process
that ends without one has been killed.

Papermill decides nothing here: a dead kernel, a cell that stopped the notebook with sys.exit(0)
and a cell that never ran are failures, whatever the notebook file says.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

LOG_LINES = 12  # of vLLM's log in a failure
SHOWN_CELL = 600  # characters of a failed cell's code
_LOG_PATH = re.compile(r"(/[^\s'\"<>]+\.log)\b")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Job:
    """One notebook to execute. Paths are absolute."""

    notebook: str  # the file to run; it is not changed
    output: str  # the executed notebook; its page is beside it (.html)
    events: str
    parameters: dict = field(default_factory=dict)
    cwd: str = "."  # of the kernel
    cell_timeout_s: float | None = None
    start_timeout_s: float = 120
    kernel: str = "workbook-run"
    kernels: str = ""  # JUPYTER_PATH folder with that kernel
    page: bool = True  # make the page; not for code that is not trusted
    limits: dict = field(default_factory=dict)  # setrlimit: {"AS": bytes, "FSIZE": bytes, ...}


def write_kernel(folder: Path) -> Path:
    """A kernel that is this very interpreter, whatever `python3` means to Jupyter elsewhere.

    Returns the folder for JUPYTER_PATH.
    """
    spec = folder / "kernels" / Job.kernel / "kernel.json"
    spec.parent.mkdir(parents=True, exist_ok=True)
    spec.write_text(
        json.dumps(
            {
                "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "display_name": "Python 3 (workbook run)",
                "language": "python",
            }
        )
    )
    return folder


def papermill_path(path: str | os.PathLike) -> str:
    """Papermill puts parameters into paths with str.format(): braces in a name must be doubled."""
    return os.fspath(path).replace("{", "{{").replace("}", "}}")


class Events:
    """The job's log of events: JSON lines, written through at once."""

    def __init__(self, path: str):
        self._file = open(path, "a", encoding="utf-8", errors="backslashreplace", buffering=1)
        self._start = time.monotonic()

    def __call__(self, event: str, **data) -> None:
        self._file.write(
            json.dumps({"event": event, "t_s": round(time.monotonic() - self._start, 3), **data})
            + "\n"
        )


def section_of(cells, index: int) -> str:
    """The heading above a cell, for people: "Baseline"."""
    for cell in reversed(cells[:index]):
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#{1,6}\s+(.+)$", cell.source, re.M)
            if headings and "papermill" not in headings[-1].lower():
                return headings[-1].strip()
    return ""


def tail_of_log(text: str, since: float, ename: str) -> tuple[str, list[str]]:
    """(path, last lines) of the vLLM log that the error names.

    An error that could not name one (the kernel died, the time was up) or that comes from vLLM
    gets the newest log written since then. ("", []) for every other.
    """
    candidates = [Path(p) for p in _LOG_PATH.findall(text)]
    if not candidates and (ename in ("DeadKernelError", "CellTimeoutError") or "/vllm/" in text):
        with contextlib.suppress(Exception):
            from helpers.engine.cache import cache_dir

            logs = [p for p in cache_dir("logs").glob("*.log") if p.stat().st_mtime >= since]
            candidates = sorted(logs, key=lambda p: p.stat().st_mtime)[-1:]
    for path in candidates:
        with contextlib.suppress(OSError):
            with open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - 16_000))
                lines = file.read().decode(errors="replace").splitlines()
            return str(path), [_ANSI.sub("", line)[:400] for line in lines if line.strip()][
                -LOG_LINES:
            ]
    return "", []


def _engine(events: Events):
    """A papermill engine that reports each code cell as it starts and ends."""
    from papermill.engines import NBClientEngine

    class ReportingEngine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **kwargs):
            code = [
                i
                for i, cell in enumerate(nb_man.nb.cells)
                if cell.cell_type == "code" and cell.source.strip()
            ]
            number = {index: n for n, index in enumerate(code, 1)}
            events("start", cells=len(code))
            started: dict[int, float] = {}
            begin, finish = nb_man.cell_start, nb_man.cell_complete

            def cell_start(cell, cell_index=None, **more):
                if cell_index in number:
                    started[cell_index] = time.monotonic()
                    events(
                        "cell",
                        k=number[cell_index],
                        n=len(code),
                        index=cell_index,
                        section=section_of(nb_man.nb.cells, cell_index),
                    )
                return begin(cell, cell_index, **more)

            def cell_complete(cell, cell_index=None, **more):
                if cell_index in started:
                    seconds = time.monotonic() - started.pop(cell_index)
                    events(
                        "cell_end",
                        k=number[cell_index],
                        index=cell_index,
                        seconds=round(seconds, 3),
                        section=section_of(nb_man.nb.cells, cell_index),
                        first_line=first_line(cell.source),
                    )
                return finish(cell, cell_index, **more)

            nb_man.cell_start, nb_man.cell_complete = cell_start, cell_complete
            return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)

    return ReportingEngine


def first_line(source: str) -> str:
    """The first line of a cell that says something, for people."""
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    return next(
        (line for line in lines if not line.startswith(("#", "%", "import ", "from "))),
        lines[0] if lines else "",
    )[:100]


def _why_not(notebook, error: Exception | None) -> dict | None:
    """The failure as a dict, or None when every cell ran as it should."""
    cells = [
        c for c in notebook.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])
    ]
    code = [i for i, c in enumerate(cells) if c.cell_type == "code" and c.source.strip()]
    number = {index: n for n, index in enumerate(code, 1)}

    def failure(index, ename, evalue, trace=""):
        source = cells[index].source if index is not None else ""
        return {
            "cell": number.get(index),
            "of": len(code),
            "section": section_of(cells, index) if index is not None else "",
            "ename": ename,
            "evalue": _ANSI.sub("", str(evalue))[:4000],
            "source": source[:SHOWN_CELL],
            "traceback": _ANSI.sub("", trace)[-6000:],
        }

    decided = type(error).__name__ in (
        "DeadKernelError",
        "CellTimeoutError",
    )  # its cell only shows an interrupt
    for index in () if decided else code:
        if "raises-exception" in cells[index].metadata.get("tags", []):
            continue
        for output in cells[index].get("outputs", []):
            if output.output_type == "error":
                # sys.exit(0) ends a notebook and papermill takes that for success.
                evalue = output.evalue or ("0" if output.ename == "SystemExit" else "")
                return failure(index, output.ename, evalue, "\n".join(output.traceback))
    if error is not None and type(error).__name__ != "PapermillExecutionError":
        ran = [i for i in code if cells[i].get("execution_count")]
        return failure(
            ran[-1] if ran else None, type(error).__name__, str(error) or type(error).__name__
        )
    idle = [i for i in code if cells[i].metadata.get("papermill", {}).get("status") != "completed"]
    if idle:
        return failure(idle[0], "NotRun", "The cell was not run.")
    return None


def execute(job: Job, events: Events) -> bool:
    """Run the notebook; True when every cell ran. The verdict is in the "end" event too."""
    import logging

    import nbformat
    import papermill
    from papermill.engines import papermill_engines

    logging.getLogger("papermill").setLevel(logging.ERROR)
    papermill_engines.register("workbook", _engine(events))
    began = time.time()
    error, notebook = None, None
    try:
        notebook = papermill.execute_notebook(
            papermill_path(job.notebook),
            papermill_path(job.output),
            parameters=job.parameters,
            engine_name="workbook",
            kernel_name=job.kernel,
            language="python",
            progress_bar=False,
            cwd=job.cwd,
            start_timeout=job.start_timeout_s,
            execution_timeout=job.cell_timeout_s,
        )
    except Exception as caught:  # whatever a notebook can do ends up in the verdict
        error = caught
        with contextlib.suppress(Exception):
            notebook = nbformat.read(job.output, as_version=4)
    if notebook is None:
        failed = {
            "cell": None,
            "of": None,
            "section": "",
            "ename": type(error).__name__,
            "evalue": str(error)[:4000],
            "source": "",
            "traceback": "",
        }
    else:
        failed = _why_not(notebook, error)
    if failed and failed["ename"] in ("DeadKernelError", "CellTimeoutError"):
        # The file does not show which cell it was; our own events do.
        last = _last_cell(job.events) or {}
        failed |= {"cell": last.get("k"), "section": last.get("section", "")}
        if failed["ename"] == "DeadKernelError":
            failed["evalue"] = (
                "The kernel died; the usual cause is that the machine ran out of memory."
            )
        else:
            failed["evalue"] = (
                f"The cell ran longer than the limit of {job.cell_timeout_s:g} s for one cell."
            )
    if failed:
        failed["log"], failed["log_tail"] = tail_of_log(
            failed["evalue"] + failed["traceback"], began, failed["ename"]
        )
    if job.page:
        make_page(job, events)
    events("end", status="failed" if failed else "ok", failure=failed)
    return not failed


def _last_cell(events_path: str) -> dict | None:
    found = None
    with contextlib.suppress(OSError, ValueError):
        for line in Path(events_path).read_text().splitlines():
            data = json.loads(line)
            found = data if data["event"] == "cell" else found
    return found


def make_page(job: Job, events: Events) -> None:
    """An HTML page of the executed notebook beside it. A page that fails is reported, no more."""
    try:
        import nbformat
        from nbconvert import HTMLExporter

        notebook = nbformat.read(job.output, as_version=4)
        html, _ = HTMLExporter().from_notebook_node(
            notebook, resources={"metadata": {"name": Path(job.output).stem}}
        )
        Path(job.output).with_suffix(".html").write_text(html, encoding="utf-8", errors="replace")
    except Exception as error:
        events("page_failed", error=f"{type(error).__name__}: {str(error)[:500]}")


def _limit(limits: dict) -> None:
    """Limits that the kernel and everything it starts inherit."""
    import resource

    for name, value in limits.items():
        which = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(which)
        value = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
        resource.setrlimit(which, (value, value))


def main(path: str) -> int:
    job = Job(**json.loads(Path(path).read_text(encoding="utf-8")))
    events = Events(job.events)
    events("begin", pid=os.getpid())
    if job.kernels:
        os.environ["JUPYTER_PATH"] = job.kernels
    if job.limits:
        _limit(job.limits)
    return 0 if execute(job, events) else 1


def write_job(path: Path, job: Job) -> Path:
    path.write_text(json.dumps(asdict(job)), encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
