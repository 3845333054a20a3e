"""Run cells as papermill does, and read what they leave. For tests of what students see."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from helpers import REPO
from helpers.results.store import load
from helpers.run.classroom import flags

WIDGET = "application/vnd.jupyter.widget-view+json"

# Workloads small enough for tests, for whoever executes a notebook whole: papermill's tests and the
# browser's. Sizes only; a prediction or an answer belongs to the test that gives it.
SMALL = {
    "01_review": {"REQUESTS": 24, "OUTPUT_TOKENS": 24, "MAX_NUM_SEQS": [1, 8]},
    "02_advanced_features": {
        "LONG_PROMPTS": 3,
        "STREAM_TOKENS": 150,
        "CHUNK_BUDGETS": [512, 256],
        "FEW_SHOT_TOKENS": 1100,
        "SYSTEM_PROMPT_TOKENS": 400,
        "PREFIX_REQUESTS": 3,
        "TURNS": 5,
        "SPECULATION_QUESTIONS": 3,
        "LARGEST_BATCH": 8,
        "ACCEPTANCE": [0.3, 0.9],
        "SAMPLING_PROMPTS": 3,
        "MEMORY_REQUESTS": 10,
        "SERVICE_REQUESTS": 3,
    },
    "03_reading_notes": {"TRACE_REQUESTS": 600, "REQUESTS": 24, "REPEATS": 1},
    "04_multi_gpu_planning": {
        "PLAN_GPU": "L40S",
        "PLAN_GPUS": 2,
        "MEASURE_DP": False,
        "TRY_RAY": False,
    },
    "05_server_mode": {"REQUESTS": 24, "CLIENTS": [1, 4, 16], "RATES": [60, 16], "SECONDS": 1},
}


def execute(name: str, folder: Path, parameters: dict, cores=None) -> nbformat.NotebookNode:
    """The notebook as plain papermill executes it; what it saves is in folder/results.

    It runs in a folder that is not the repository: nothing may depend on where. Its processes carry
    the folder as TEST_MARKER. cores: those that it may use; None is all.
    """
    given = folder / "given.yaml"
    given.write_text(yaml.safe_dump({"RESULTS_DIR": str(folder / "results"), **parameters}))
    command = [sys.executable, "-m", "papermill", str(REPO / "notebooks" / f"{name}.ipynb")]
    command += ["out.ipynb", "--no-progress-bar", "-f", str(given)]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"TEST_MARKER": str(folder)},
        capture_output=True,
        text=True,
        preexec_fn=cores and (lambda: os.sched_setaffinity(0, cores)),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # What an instructor would be shown of an honest student's measurements.
    assert flags.impossible(*load(folder / "results")) == []
    return nbformat.read(folder / "out.ipynb", as_version=4)


def defined_in(name: str, *cells: str, **given) -> dict:
    """The functions that these cells of a notebook define. given: the names that they use."""
    notebook = nbformat.read(REPO / "notebooks" / f"{name}.ipynb", 4)
    for cell in notebook.cells:
        if cell.id in cells:
            parts = [part for part in ast.parse(cell.source).body if type(part) is ast.FunctionDef]
            exec(compile(ast.Module(parts, []), cell.id, "exec"), given)
    return given


def run_cells(*cells, env=None, allow_errors=False, cwd=None):
    """Execute ``cells`` (source texts) in a fresh kernel; return the notebook."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in cells]
    )
    if env:
        sets = "\n".join(
            f"import os; os.environ[{name!r}] = {value!r}" for name, value in env.items()
        )
        notebook.cells.insert(0, nbformat.v4.new_code_cell(sets))
    client = NotebookClient(
        notebook,
        timeout=120,
        allow_errors=allow_errors,
        resources={"metadata": {"path": str(cwd or ".")}},
    )
    client.execute()
    if env:
        notebook.cells.pop(0)
    return notebook


def texts(cell) -> str:
    """All that a cell left, as plain text."""
    parts = []
    for output in cell.outputs:
        if output.output_type == "stream":
            parts.append(output.text)
        elif output.output_type == "error":
            parts.append("\n".join(output.traceback))
        else:
            parts.append(output.data.get("text/plain", ""))
    return "\n".join(parts)


def kinds(notebook) -> set[str]:
    """The MIME types of all outputs."""
    return {
        kind
        for cell in notebook.cells
        for o in cell.get("outputs", [])
        if "data" in o
        for kind in o.data
    }


def to_html(notebook) -> str:
    """The page that plain nbconvert makes of it."""
    exporter = HTMLExporter(template_name="basic")  # the body, without the theme's 300 kB of CSS
    return exporter.from_notebook_node(notebook)[0]


def alt_texts(cells) -> list[str]:
    """The alt text of every picture that the cells left, "" for one that has none."""
    return [
        output.metadata.get("image/png", {}).get("alt", "")
        for cell in cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]


class Outputs:
    """Stands for the notebook: what was displayed, and what each changing output shows now."""

    def __init__(self, monkeypatch):
        self.shown = []
        monkeypatch.setenv("WORKBOOK_WIDGETS", "1")
        monkeypatch.setattr("IPython.display.display", self.display)

    def display(self, what, display_id=None):
        self.shown.append(what)
        place, outputs = len(self.shown) - 1, self

        class Handle:
            def update(self, new):
                outputs.shown[place] = new

        return Handle() if display_id else None

    def type(self, value, key: str | None = None, action: str = "") -> dict:
        """What the page of a form sends when this is typed (or a button pressed); the reply."""
        form = next(
            one
            for one in reversed(self.shown)
            if hasattr(one, "fields") and (key is None or key in {f["key"] for f in one.fields})
        )
        replies = []
        form.send = replies.append
        key = key or form.fields[0]["key"]
        message = {"key": key, "value": value, "id": 1, "action": action}
        form._handle_custom_msg(message, [])  # noqa: SLF001 (what a comm would call)
        return replies[0]
