"""The page that says what a run did: summary.md, and the same as summary.html and summary.json."""

from __future__ import annotations

import html
import json
from pathlib import Path

from helpers.display.as_typed import BREAK

SLOW_CELL_S = 5.0
KINDS = ("measured", "calculated", "typed", "missing")  # of a blank
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; }
h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .8rem .25rem 0; }
th, td { text-align: left; vertical-align: top; }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; font-size: .85rem; }
pre { white-space: pre-wrap; } pre, code { overflow-wrap: anywhere; }
code { font-size: .9em; } a { color: inherit; }
.task-list-item { list-style: none; margin-left: -1.3em; }
.bad { color: #b3261e; font-weight: 600; } .good { color: #1b7f3b; } .soft { opacity: .75; }
@media print {
  @page { margin: 10mm 14mm; }
  body { font-size: 9pt; line-height: 1.25; max-width: none; margin: 0; padding: 0; }
  section + section { break-before: page; }
  h1 { font-size: 14pt; margin: 0 0 .3rem; }
  h2 { font-size: 10.5pt; margin: .5rem 0 .15rem; break-after: avoid; }
  ul, ol, p { margin: .15rem 0; } ul, ol { padding-left: 1.4em; } tr { break-inside: avoid; }
}
@media (prefers-color-scheme: dark) { .bad { color: #ff8a80; } .good { color: #7bd88f; } }
"""


def page(title: str, body: str) -> str:
    """A self-contained HTML page that loads nothing and runs no script."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{html.escape(title)}</title>
<style>{STYLE}</style></head><body>
{body}
</body></html>
"""


def from_markdown(text: str) -> str:
    """HTML of Markdown with tables; HTML in the text is shown, not obeyed, but for line breaks."""
    import mistune

    class Page(mistune.HTMLRenderer):
        def inline_html(self, html: str) -> str:
            return html if html == BREAK else super().inline_html(html)

    return mistune.create_markdown(renderer=Page(escape=True), plugins=["table", "task_lists"])(
        text
    )


def duration(seconds: float) -> str:
    """1:05:09, 4:07 or 0:42."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def in_cell(text, limit: int = 160) -> str:
    """A text for a Markdown table's cell."""
    flat = " ".join(str(text).split())
    flat = flat if len(flat) <= limit else flat[: limit - 1] + "…"
    return flat.replace("\\", "\\\\").replace("|", "\\|")


def fence(text: str) -> str:
    """A code block that the text cannot end."""
    ticks = "```"
    while ticks in text:
        ticks += "`"
    return f"{ticks}\n{text}\n{ticks}"


def one_sentence(failure: dict | None) -> str:
    """'cell 7 of 31 (Baseline): ValueError: no such model'."""
    if not failure:
        return ""
    where = f"cell {failure['cell']}" if failure.get("cell") else "before its first cell"
    where += f" of {failure['of']}" if failure.get("cell") and failure.get("of") else ""
    where += f" ({failure['section']})" if failure.get("section") else ""
    reason = (failure.get("evalue") or "").strip()
    return f"{where}: {failure['ename']}" + (f": {reason}" if reason else "")


def markdown(run: dict) -> str:
    """summary.md of a run; `run` is what helpers/run/runner.py collects and summary.json holds."""
    sections = (_head, _notebooks, _failures, _slow_cells, _measured, _notes)
    return "\n".join(line for section in sections for line in section(run)) + "\n"


def _table(header: str, rows: list[list]) -> list[str]:
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return [header, "|---" * (header.count("|") - 1) + "|", *lines, ""]


def _head(run: dict) -> list[str]:
    failed = [nb for nb in run["notebooks"] if nb["status"] != "ok"]
    verdict = "every notebook ran, every cell"
    if failed:
        verdict = f"{len(failed)} of {len(run['notebooks'])} notebooks failed"
    place = run["provenance"]
    versions = f"vLLM {place['vllm']}, torch {place['torch']}, Python {place['python']}"
    lines = [
        f"# Run of {run['started']}: {verdict}",
        "",
        f"{duration(run['seconds'])} on {place['machine']}, {versions}.",
        "",
    ]
    if run["stopped"]:
        lines += [f"**Stopped early: {run['stopped']}**", ""]
    if run["parameters"]:
        given = ", ".join(f"`{name}={value!r}`" for name, value in run["parameters"].items())
        lines += [f"Parameters: {given}", ""]
    return lines


def _notebooks(run: dict) -> list[str]:
    rows = []
    for nb in run["notebooks"]:
        name, status = nb["name"], nb["status"]
        pages = f"[page]({name}.html), [notebook]({name}.ipynb)" if nb["page"] else ""
        result = "ok" if status == "ok" else status.upper()
        cells = f"{nb['cells_done']} of {nb['cells']}"
        rows.append([name, result, f"{nb['seconds']:.1f}", cells, pages])
    header = "| notebook | result | seconds | cells | executed |"
    return ["## Notebooks", "", *_table(header, rows)]


def _failures(run: dict) -> list[str]:
    failed = [nb for nb in run["notebooks"] if nb["status"] != "ok"]
    lines = ["## Failures", ""] if failed else []
    for nb in failed:
        failure = nb["failure"] or {}
        sentence = one_sentence(failure).replace("<", "&lt;").split("\n")[0]
        end = "\n".join((failure.get("traceback") or "").splitlines()[-14:])
        log = "\n".join(failure.get("log_tail") or ())
        lines += [f"### {nb['name']}", "", f"{sentence}.", ""]
        for title, text in (
            ("The cell:", failure.get("source")),
            ("The end of the traceback:", end),
            (f"The last lines of vLLM's log, `{failure.get('log')}`:", log),
        ):
            if text:
                lines += [title, "", fence(text), ""]
    return lines


def _slow_cells(run: dict) -> list[str]:
    cells = [
        cell | {"notebook": nb["name"]} for nb in run["notebooks"] for cell in nb["cell_times"]
    ]
    slow = [cell for cell in cells if cell["seconds"] > SLOW_CELL_S]
    if not slow:
        return []
    rows = [
        [
            cell["notebook"],
            cell["k"],
            f"{cell['seconds']:.1f}",
            in_cell(cell["section"], 60),
            in_cell(cell["first_line"], 60),
        ]
        for cell in sorted(slow, key=lambda cell: -cell["seconds"])
    ]
    header = "| notebook | cell | seconds | section | begins with |"
    return [f"## Cells above {SLOW_CELL_S:.0f} s", "", *_table(header, rows)]


def _measured(run: dict) -> list[str]:
    blanks = run["blanks"]
    counts = ", ".join(f"{sum(b['kind'] == kind for b in blanks)} {kind}" for kind in KINDS)
    lines = [
        "## What was measured",
        "",
        f"{run['records']} measurements in [measurements.jsonl](measurements.jsonl). "
        f"Blanks of the documents: {counts}.",
        "",
    ]
    for document in dict.fromkeys(b["document"] for b in blanks):
        mine = [b for b in blanks if b["document"] == document]
        rows = [
            [in_cell(b["label"], 70), in_cell(b["value"]), b["kind"], in_cell(b["note"], 90)]
            for b in mine
            if b["kind"] != "missing"
        ]
        missing = [in_cell(b["label"], 70) for b in mine if b["kind"] == "missing"]
        lines += [f"### [{document}.md]({document}.md)", ""]
        lines += _table("| blank | value | is | from |", rows) if rows else []
        lines += [f"Missing: {'; '.join(missing)}.", ""] if missing else []
    return lines


def _notes(run: dict) -> list[str]:
    return ["## Notes", "", *(f"- {note}" for note in run["notes"])] if run["notes"] else []


def write(run: dict, out: Path) -> None:
    """summary.md, summary.html and summary.json in the run's folder."""
    text = markdown(run)
    title = text.partition("\n")[0].lstrip("# ")
    html = page(title, from_markdown(text))
    (out / "summary.md").write_text(text, encoding="utf-8", errors="replace")
    (out / "summary.json").write_text(json.dumps(run, indent=1), encoding="utf-8")
    (out / "summary.html").write_text(html, encoding="utf-8", errors="replace")
