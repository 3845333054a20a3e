"""Make the pages and records of notebooks/reference/ from a run on a GPU (or, to rehearse, from any run).

    python -m benchmarks.make_reference runs/<date-time> [--records FOLDER] [--out notebooks/reference]

RUN is a folder that `python -m helpers.run` left: its executed notebooks become pages of less than 1.5 MB that load
nothing and run no script, its measurements.jsonl a small file of records (the last of each experiment). --records adds
what the benchmarks wrote (limits, memory, kills, ...) as experiments of the notebook "benchmarks". Everything goes to
OUT/<machine>/, the machine being the records' own; a file that is there already is replaced, others stay.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import re
import sys
from pathlib import Path

from helpers.results import recorded as reference
from helpers.results import store
from helpers.run import summary

LIMIT = 1_500_000  # bytes of a page
LONGEST_TEXT = 12_000  # characters of one text output
LONGEST_LIST = 64  # values of a list in a record: tables stay, one number for each token does not
STYLE = """
.cell { margin: 1rem 0; } .output img { max-width: 100%; height: auto; background: #fff; }
.highlight pre, pre { line-height: 1.35; } .note { border-left: 4px solid #888; padding-left: .8rem; }
.prompt, .jp-InputPrompt, .jp-OutputPrompt, .anchor-link { display: none; }
"""


def lean(notebook, colours: int = 0, width: int = 0):
    """A copy of the notebook whose outputs are small: no widgets, no warnings on stderr, no endless texts.

    colours: pictures are reduced to so many colours; width: and to so many pixels. 0 leaves them.
    """
    import copy

    notebook = copy.deepcopy(notebook)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        kept = []
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                if output.name == "stderr":
                    continue
                output.text = _shortened(output.text)
            data = output.get("data")
            if data is not None:
                for mime in [m for m in data if m.startswith("application/") or m == "text/latex"]:
                    del data[mime]
                if "text/html" in data:
                    data["text/html"] = _without_scripts(data["text/html"])
                    data["text/html"] = re.sub(r"(data:image/png;base64,)([A-Za-z0-9+/=\s]+)",
                                               lambda m: m[1] + _picture(m[2], colours, width), data["text/html"])  # fmt: skip
                if "image/png" in data:
                    data["image/png"] = _picture(data["image/png"], colours, width)
                if not data:
                    continue
                if "text/plain" in data:
                    data["text/plain"] = _shortened(data["text/plain"])
            kept.append(output)
        if "outputs" in cell:
            cell.outputs = kept
    return notebook


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[: LONGEST_TEXT // 2]}\n... {len(text) - LONGEST_TEXT:,} characters left out ...\n{text[-LONGEST_TEXT // 2 :]}"


def _without_scripts(text: str) -> str:
    return re.sub(r"<script\b.*?</script>", "", text, flags=re.DOTALL | re.IGNORECASE)


def _picture(encoded: str, colours: int, width: int) -> str:
    """A PNG, as base64, with fewer colours or pixels when asked; as it was when that does not make it smaller."""
    if not colours and not width:
        return encoded
    from PIL import Image

    raw = base64.b64decode(encoded)
    with Image.open(io.BytesIO(raw)) as image:
        image = image.convert("RGBA")
        if width and image.width > width:
            image = image.resize((width, round(image.height * width / image.width)), Image.LANCZOS)
        ground = Image.new("RGB", image.size, "white")
        ground.paste(image, mask=image.split()[3])
        out = io.BytesIO()
        ground.quantize(colours or 256).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode() if len(out.getvalue()) < len(raw) else encoded


def page_of(path: Path, label: str) -> str:
    """The executed notebook as a page of at most LIMIT bytes. Raises ValueError when it cannot be made that small."""
    import nbformat
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    notebook = nbformat.read(path, as_version=4)
    exporter = HTMLExporter(
        template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True
    )
    colours = HtmlFormatter(style="default").get_style_defs(".highlight")
    head = (f"<style>{STYLE}{colours}</style>\n<p class='note'>Executed on: <b>{html.escape(label)}</b>. A recorded run, kept as it was; "
            f"the notebook itself is notebooks/{html.escape(path.name)}.</p>\n")  # fmt: skip
    size = 0
    for reduction in (
        {},
        {"colours": 64},
        {"colours": 32, "width": 900},
        {"colours": 16, "width": 640},
    ):
        body, _ = exporter.from_notebook_node(lean(notebook, **reduction))
        text = summary.page(f"{path.stem}, executed", head + body)
        size = len(text.encode())
        if size <= LIMIT:
            return text
    raise ValueError(
        f"{path.name} is {size / 1e6:.1f} MB as a page even with small pictures: which output is so large?"
    )


def small_record(record: dict) -> dict:
    """The record without long lists; what was left out is named."""
    dropped: list[str] = []

    def trim(value, where):
        if isinstance(value, dict):
            return {
                k: kept for k, v in value.items() if (kept := trim(v, f"{where}.{k}")) is not _GONE
            }
        if isinstance(value, list):
            if len(value) > LONGEST_LIST:
                dropped.append(where.lstrip("."))
                return _GONE
            return [kept for v in value if (kept := trim(v, where)) is not _GONE]
        return value

    out = trim(record, "")
    return {**out, "left_out": dropped} if dropped else out


_GONE = object()


def benchmark_records(folder: Path) -> list[dict]:
    """Lines that benchmarks.record.keep wrote, as records of the notebook "benchmarks"."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(
            path.read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            try:
                row = json.loads(line)
            except ValueError:
                print(f"{path.name} line {number + 1} was skipped: cut off, or not JSON.")
                continue
            if "benchmark" not in row:
                continue  # the planner's records have a form, and a place, of their own
            metrics = row["metrics"]
            parts = [
                metrics.get("part"),
                metrics.get("what"),
                metrics.get("streams"),
                metrics.get("tokens"),
                metrics.get("open"),
            ]
            variant = " ".join(str(p) for p in parts if p is not None) or "result"
            if row["benchmark"] == "kills":
                variant += f" {number}"  # every kill counts, not the last alone
            found.append({"id": f"{path.stem}-{number}", "notebook": "benchmarks", "experiment": row["benchmark"], "variant": variant,
                          "metrics": metrics, "engine_args": {}, "workload": {}, "provenance": row["provenance"]})  # fmt: skip
    return found


def make(run: Path, out: Path, records: Path | None = None) -> list[Path]:
    """Write the pages and the records; returns the files. Raises ValueError when the run holds no measurement."""
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
    place = out / reference.slug(origin)
    place.mkdir(parents=True, exist_ok=True)
    file = place / store.FILE_NAME
    keys = {store.key_of(r) for r in rows}
    before = [r for r in store.load(file)[0] if store.key_of(r) not in keys]
    lines = [json.dumps(small_record(r), ensure_ascii=False) for r in before + rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    written = [file]
    for path in sorted(run.glob("[0-9][0-9]_*.ipynb")):
        mine = next(
            (r for r in reversed(own) if r["notebook"] == path.stem), {"provenance": origin}
        )
        page = place / f"{path.stem}.html"
        page.write_text(page_of(path, reference.label_of(mine)), encoding="utf-8")
        written.append(page)
    return written


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--records", type=Path, help="folder with what the benchmarks wrote")
    parser.add_argument("--out", type=Path, default=reference.FOLDER)
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
