"""Execute one notebook in this process with papermill, and say at the end what became of it.

    python -m helpers.run.job JOB.json

helpers/run/runner.py starts one such process for each notebook, so that a notebook that takes its
process down, or will not end, takes nothing else with it. The verdict is written beside the job's
file (JOB.verdict); a process that ends without one has been killed.

Papermill does not decide alone: it notes a cell in which the kernel died as completed, and takes a
cell that stopped the notebook with sys.exit(0) for success. Both are failures here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from helpers import replace_file
from helpers.run.notebook_file import Cell, code_cells

LOG_LINES = 12  # of vLLM's log in a failure
SHOWN_CELL = 600  # characters of a failed cell's code
START_TIMEOUT_S = 120  # of a kernel
KERNEL = "workbook-run"
_LOG_PATH = re.compile(r"(/[^\s'\"<>]+\.log)\b")
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Of these the notebook's outputs show an interrupt at most.
ENDINGS = {
    "DeadKernelError": "The kernel died; the usual cause is that the machine ran out of memory.",
    "CellTimeoutError": "The cell ran longer than the limit of {} s for one cell.",
}


@dataclass
class Job:
    """One notebook to execute. Paths are absolute."""

    notebook: str  # the file to run; it is not changed
    output: str  # the executed notebook; its page is beside it (.html)
    cwd: str  # of the kernel
    cell_timeout_s: float
    parameters: dict = field(default_factory=dict)
    page: bool = True  # make the page; not for code that is not trusted
    limits: dict = field(default_factory=dict)  # see limit_resources


def write_job(folder: Path, job: Job) -> Path:
    """The job's file in a folder, and beside it a kernel for JUPYTER_PATH.

    The kernel is this very interpreter, whatever `python3` means to Jupyter elsewhere.
    """
    spec = folder / "kernels" / KERNEL / "kernel.json"
    spec.parent.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = {"argv": argv, "display_name": "Python 3 (workbook run)", "language": "python"}
    spec.write_text(json.dumps(kernel))
    path = folder / f"{Path(job.output).stem}.job"
    path.write_text(json.dumps(asdict(job)), encoding="utf-8")
    return path


def failure(
    cells: list[Cell], cell: Cell | None, ename: str, evalue: str, traceback: str = ""
) -> dict:
    """What is said of a notebook that failed: where, what, and the code."""
    return {
        "cell": cell.k if cell else None,
        "of": len(cells) or None,
        "section": cell.section if cell else "",
        "ename": ename,
        "evalue": ANSI.sub("", evalue)[:4000],
        "source": cell.source[:SHOWN_CELL] if cell else "",
        "traceback": ANSI.sub("", traceback)[-6000:],
    }


def last_started(cells: list[Cell]) -> Cell | None:
    """The cell at which papermill came to its end."""
    return next((cell for cell in reversed(cells) if cell.started), None)


def why_not(cells: list[Cell], error: Exception | None, cell_timeout_s: float) -> dict | None:
    """The failure of an executed notebook, or None when every cell ran as it should.

    error: what papermill raised.
    """
    raised = type(error).__name__
    if raised in ENDINGS:
        evalue = ENDINGS[raised].format(f"{cell_timeout_s:g}")
        return failure(cells, last_started(cells), raised, evalue)
    for cell in cells:
        if cell.error and "raises-exception" not in cell.tags:
            # sys.exit(0) ends a notebook and papermill takes that for success.
            ename = cell.error["ename"]
            evalue = cell.error["evalue"] or ("0" if ename == "SystemExit" else "")
            return failure(cells, cell, ename, evalue, "\n".join(cell.error["traceback"]))
    if error is not None and raised != "PapermillExecutionError":
        return failure(cells, last_started(cells), raised, str(error) or raised)
    for cell in cells:
        if not cell.started:
            return failure(cells, cell, "NotRun", "The cell was not run.")
    return None


def tail_of_log(text: str, since: float, ename: str) -> tuple[str, list[str]]:
    """(path, last lines) of the vLLM log that the error names.

    An error that could not name one (the kernel died, the time was up) or that comes from vLLM
    gets the newest log written since then. ("", []) for every other.
    """
    candidates = [Path(p) for p in _LOG_PATH.findall(text)]
    if not candidates and (ename in ENDINGS or "/vllm/" in text):
        with contextlib.suppress(Exception):
            from helpers.engine.cache import cache_dir  # only a failure needs it

            logs = [p for p in cache_dir("logs").glob("*.log") if p.stat().st_mtime >= since]
            candidates = sorted(logs, key=lambda p: p.stat().st_mtime)[-1:]
    for path in candidates:
        with contextlib.suppress(OSError):
            lines = [ANSI.sub("", line)[:400] for line in tail(path).splitlines() if line.strip()]
            return str(path), lines[-LOG_LINES:]
    return "", []


def tail(path: Path) -> str:
    """The last 16 kB of a log; raises OSError when it cannot be read."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 16_000))
        return file.read().decode(errors="replace")


def execute(job: Job) -> dict | None:
    """Run the notebook; its failure, or None when every cell ran."""
    import nbformat
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    began, error, cells = time.time(), None, []
    try:
        papermill.execute_notebook(
            _for_papermill(job.notebook),
            _for_papermill(job.output),
            parameters=job.parameters,
            kernel_name=KERNEL,
            language="python",
            progress_bar=False,
            cwd=job.cwd,
            start_timeout=START_TIMEOUT_S,
            execution_timeout=job.cell_timeout_s,
            # A kernel with vLLM in it takes 3 s to leave by itself. Its last cell has closed all
            # that it held, and what a failed one leaves, the supervisor ends.
            shutdown_kernel="immediate",
        )
    except Exception as caught:  # whatever a notebook can do ends up in the verdict
        error = caught
    with contextlib.suppress(Exception):
        cells = code_cells(nbformat.read(job.output, as_version=4))
    failed = why_not(cells, error, job.cell_timeout_s)
    if failed:
        said = failed["evalue"] + failed["traceback"]
        failed["log"], failed["log_tail"] = tail_of_log(said, began, failed["ename"])
    return failed


def _for_papermill(path: str) -> str:
    """Papermill puts parameters into paths with str.format(): braces in a name must be doubled."""
    return path.replace("{", "{{").replace("}", "}}")


def make_page(job: Job) -> None:
    """An HTML page of the executed notebook beside it. A page that fails costs only itself."""
    try:
        import nbformat

        output = Path(job.output)
        notebook = nbformat.read(output, as_version=4)
        about = {"metadata": {"name": output.stem}}
        html, _ = page_exporter().from_notebook_node(notebook, resources=about)
        output.with_suffix(".html").write_text(html, encoding="utf-8", errors="replace")
    except Exception as error:
        print(f"No page: {type(error).__name__}: {str(error)[:500]}", flush=True)  # in the log


def page_exporter():
    """The HTML exporter of nbconvert, with the alt text of each picture, and with formulas."""
    from nbconvert import HTMLExporter

    folders = [str(Path(__file__).parent / "templates")]
    exporter = HTMLExporter(template_name="notebook_page", extra_template_basedirs=folders)
    return with_formulas(exporter)


def with_formulas(exporter):
    """The exporter; its pages hold formulas as MathML, which needs no MathJax and no internet."""
    from latex2mathml.converter import convert
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str) -> str:
            with contextlib.suppress(Exception):  # no LaTeX: shown as it was typed
                return convert(body)
            return super().inline_math(body)

        def block_math(self, body: str) -> str:
            with contextlib.suppress(Exception):
                return convert(body, display="block")
            return super().block_math(body)

    def markdown2html(source: str) -> str:
        return MarkdownWithMath(renderer=Renderer(escape=False)).render(source)

    exporter.register_filter("markdown2html", markdown2html)
    return exporter


def limit_resources(limits: dict[str, int]) -> None:
    """Limits of setrlimit(2) for this process and all it starts: {"AS": bytes, "FSIZE": bytes}."""
    import resource

    for name, value in limits.items():
        which = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(which)
        value = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
        resource.setrlimit(which, (value, value))


def main(path: str) -> int:
    """Execute the job in the file and write its verdict: {"failure": ... or None}."""
    file = Path(path)
    job = Job(**json.loads(file.read_text(encoding="utf-8")))
    limit_resources(job.limits)
    failed = execute(job)
    if job.page:
        make_page(job)
    replace_file(file.with_suffix(".verdict"), json.dumps({"failure": failed}).encode())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
