"""Small notebooks that need no engine, the command, and the processes that it may leave."""

import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
from nbformat import v4

PARAMETERS = "RESULTS_DIR = None\nSEED = 0  # of the prompts\nSIZES = None"
SAVE = "from helpers.results import Results\nstore = Results(NOTEBOOK, RESULTS_DIR)\n"


def notebook(
    folder: Path,
    name: str,
    *cells: str,
    parameters: str | None = PARAMETERS,
    kernel: str = "python3",
) -> Path:
    """A notebook of code cells; a cell that begins with '## ' is Markdown."""
    book = v4.new_notebook(metadata={"kernelspec": {"name": kernel, "display_name": kernel}})
    book.cells.append(v4.new_markdown_cell(f"# Notebook {name}"))
    if parameters is not None:
        tags = {"tags": ["parameters"]}
        book.cells.append(v4.new_code_cell(f"NOTEBOOK = {name!r}\n{parameters}", metadata=tags))
    for cell in cells:
        make = v4.new_markdown_cell if cell.startswith("## ") else v4.new_code_cell
        book.cells.append(make(cell))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(book, path)
    return path


def leaves_a_process(marker: str) -> str:
    """A cell that starts a child in a session of its own, which outlives the notebook."""
    child = f"[sys.executable, '-c', 'import time; time.sleep(600)  # {marker}']"
    return f"import subprocess, sys\nsubprocess.Popen({child}, start_new_session=True);"


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "helpers.run", *map(str, arguments)]


def run(*arguments, **more) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=500, **more)


def start(*arguments, marker: str) -> subprocess.Popen:
    """The command, still running; all its processes can be found by the marker."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = os.environ | {"TEST_MARKER": marker}
    return subprocess.Popen(command(*arguments), env=env, **pipes)


def wait_for(condition, within_s: float = 90) -> None:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def processes_with(marker: str) -> list[str]:
    """The command lines of those that were started with the marker."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if marker in line or process.environ().get("TEST_MARKER") == marker:
                found.append(line)
        except (psutil.Error, OSError):
            pass
    return found


def no_process_with(marker: str, within_s: float = 5) -> None:
    wait_for(lambda: not processes_with(marker), within_s)
    assert not processes_with(marker), f"left running: {processes_with(marker)}"
