"""Make the pages and records of notebooks/reference/ from a run.

    python -m benchmarks.reference_pages runs/<date-time> [--records FOLDER] [--out FOLDER]

RUN is a folder that `python -m helpers.run` left: its executed notebooks become pages of less than
1.5 MB that load nothing and run no script, its measurements.jsonl a small file of records (the last
of each experiment). --records adds what the benchmarks wrote (limits, memory, kills, ...) as
experiments of the notebook "benchmarks". Everything goes to OUT/<machine>/, the machine being the
records' own; pages and records of the run's notebooks are replaced, others stay.
"""

from __future__ import annotations

import argparse
import copy
import html
import json
import re
import sys
from pathlib import Path

from benchmarks import record
from helpers.results import recorded, store
from helpers.run import summary
from helpers.run.job import with_formulas

LIMIT = 1_500_000  # bytes of a page
LONGEST_TEXT = 12_000  # characters of one text output
LONGEST_LIST = 64  # values of a list in a record: tables stay, one number for each token does not
SCRIPT = re.compile(r"<script\b.*?</script>", re.DOTALL | re.IGNORECASE)
DUMMY = (
    " The model has its real shape and random weights: memory and speed are its own, the words of "
    "its answers mean nothing. Lessons about text use the model that ships with the workbook."
)
STYLE = """
.cell { margin: 1rem 0; } .output img { max-width: 100%; height: auto; background: #fff; }
.highlight pre, pre { line-height: 1.35; }
.note { border-left: 4px solid #888; padding-left: .8rem; }
.prompt, .jp-InputPrompt, .jp-OutputPrompt, .anchor-link { display: none; }
"""
# What cards take from JupyterLab's theme.
DARK = """
:root { --jp-layout-color0: #111; --jp-content-font-color1: #eee; --jp-content-font-color2: #bbb;
  --jp-border-color1: #666; --jp-border-color2: #444; }
"""


def lean(notebook):
    """A copy of the notebook whose outputs are small: no widgets, warnings or endless texts."""
    notebook = copy.deepcopy(notebook)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if _kept(output)]
    return notebook


def _kept(output) -> bool:
    """Make one output small; False when nothing of it is for a reader."""
    if output.output_type == "stream":
        output.text = _shortened(output.text)
        return output.name != "stderr"
    data = output.get("data")
    if data is None:
        return True
    for mime in [m for m in data if m.startswith("application/") or m == "text/latex"]:
        del data[mime]
    if "image/png" in data:
        data.pop("text/html", None)  # a chart to hover over: no script runs in a page
    if "text/html" in data:
        data["text/html"] = SCRIPT.sub("", data["text/html"])
    if "text/plain" in data:
        data["text/plain"] = _shortened(data["text/plain"])
    return bool(data)


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    half, left_out = LONGEST_TEXT // 2, len(text) - LONGEST_TEXT
    return f"{text[:half]}\n... {left_out:,} characters left out ...\n{text[-half:]}"


def page_of(path: Path, label: str) -> str:
    """The executed notebook as a page. Raises ValueError when it is larger than LIMIT bytes."""
    import nbformat
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    exporter = HTMLExporter(
        template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True
    )
    notebook = nbformat.read(path, as_version=4)
    body, _ = with_formulas(exporter).from_notebook_node(lean(notebook))
    light, dark = (
        HtmlFormatter(style=style).get_style_defs(".highlight")
        for style in ("default", "github-dark")
    )
    colours = f"{light}\n@media (prefers-color-scheme: dark) {{ {DARK} {dark} }}\n"
    dummy = DUMMY if "dummy weights" in label else ""
    head = (
        f"<style>{colours}{STYLE}</style>\n<p class='note'>Executed on: "
        f"<b>{html.escape(label)}</b>. A recorded run, kept as it was; the notebook itself is "
        f"notebooks/{html.escape(path.name)}. Predictions, puzzles and answers are an example "
        f"student's.{dummy}{_how_far(notebook)}</p>\n"
    )
    text = summary.page(f"{path.stem}, executed", head + body)
    if (size := len(text.encode())) > LIMIT:
        raise ValueError(f"{path.name} is {size / 1e6:.1f} MB as a page: which output is so large?")
    return text


def _how_far(notebook) -> str:
    """A sentence for a run that a time limit ended; "" when every cell was executed."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    ran = [cell for cell in code if cell.execution_count]
    if len(ran) == len(code):
        return ""
    return f" A time limit ended this run after {len(ran)} of {len(code)} cells."


def small_record(record: dict) -> dict:
    """The record without long lists; what was left out is named."""
    dropped: list[str] = []

    def trim(value, where: str):
        if isinstance(value, dict):
            items = {k: (v, f"{where}.{k}".lstrip(".")) for k, v in value.items()}
            dropped.extend(place for v, place in items.values() if _long(v))
            return {k: trim(v, place) for k, (v, place) in items.items() if not _long(v)}
        if isinstance(value, list):
            return [trim(v, where) for v in value]
        return value

    out = trim(record, "")
    return {**out, "left_out": dropped} if dropped else out


def _long(value) -> bool:
    return isinstance(value, list) and len(value) > LONGEST_LIST


def benchmark_records(folder: Path) -> list[dict]:
    """Lines that benchmarks.record.keep wrote, as records of the notebook "benchmarks"."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        for number, row in enumerate(record.read(path)):
            if row.get("benchmark") in (None, "stages"):
                continue  # the planner's records have a form, and a place, of their own
            metrics = row["metrics"]
            parts = [metrics.get(key) for key in ("part", "what", "streams", "tokens", "open")]
            if row["benchmark"] == "kills":
                parts.append(number)  # every kill counts, not the last alone
            variant = " ".join(str(part) for part in parts if part is not None) or "result"
            found.append(
                {
                    "id": f"{path.stem}-{number}",
                    "notebook": "benchmarks",
                    "experiment": row["benchmark"],
                    "variant": variant,
                    "metrics": metrics,
                    "engine_args": {},
                    "workload": {},
                    "provenance": row["provenance"],
                }
            )
    return found


def slug(provenance: dict) -> str:
    """A short name of a machine for its folder: "h100", "2xh200", "cpu"."""
    gpu = provenance.get("gpu")
    if not gpu:
        return "cpu"
    count = re.match(r"(\d+) x ", gpu)
    name = re.search(r"\b([A-Z]{1,4}\d{1,4}[A-Za-z]?)\b", gpu.split(" x ")[-1])
    word = (name[1] if name else re.sub(r"\W+", "-", gpu.split(" x ")[-1])).lower()
    return (f"{count[1]}x" if count else "") + word


def make(run: Path, out: Path, records: Path | None = None) -> list[Path]:
    """Write the pages and the records; returns the files.

    Raises ValueError when the run holds no measurement.
    """
    own, problems = store.load(run)
    for problem in problems:
        print(problem)
    rows = store.latest_of(own) + (store.latest_of(benchmark_records(records)) if records else [])
    if not rows:
        raise ValueError(f"{run} holds no measurements: give the folder that helpers.run wrote.")
    origin = next(
        (r["provenance"] for r in reversed(rows) if (r.get("provenance") or {}).get("model")),
        rows[-1].get("provenance") or {},
    )
    place = out / slug(origin)
    place.mkdir(parents=True, exist_ok=True)
    file = place / store.FILE_NAME
    keys, notebooks = {store.key_of(r) for r in rows}, {r["notebook"] for r in own}
    before = [
        r
        for r in store.load(file)[0]
        if store.key_of(r) not in keys and r["notebook"] not in notebooks
    ]
    lines = [json.dumps(small_record(r), ensure_ascii=False) for r in before + rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    written = [file]
    for path in sorted(run.glob("[0-9][0-9]_*.ipynb")):
        mine = next(
            (r for r in reversed(own) if r["notebook"] == path.stem), {"provenance": origin}
        )
        page = place / f"{path.stem}.html"
        page.write_text(page_of(path, recorded.label_of(mine)), encoding="utf-8")
        written.append(page)
    return written


def main(argv: list[str] | None = None) -> int:
    """0: written; 1: the run holds no measurement, or a page is too large."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--records", type=Path, help="folder with what the benchmarks wrote")
    parser.add_argument("--out", type=Path, default=recorded.FOLDER)
    options = parser.parse_args(argv)
    try:
        written = make(options.run, options.out, options.records)
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 1
    for path in written:
        print(f"{path.stat().st_size / 1e3:8.0f} kB  {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
