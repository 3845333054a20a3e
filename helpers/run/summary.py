"""The page that says what a run did: summary.md, and the same as summary.html and summary.json."""

from __future__ import annotations

import html
import json
from pathlib import Path

SLOW_CELL_S = 5.0

STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; font-size: .85rem; white-space: pre-wrap; overflow-wrap: anywhere; }
code { font-size: .9em; overflow-wrap: anywhere; } a { color: inherit; }
.bad { color: #b3261e; font-weight: 600; } .good { color: #1b7f3b; } .soft { opacity: .75; }
@media (prefers-color-scheme: dark) { .bad { color: #ff8a80; } .good { color: #7bd88f; } }
"""


def page(
    title: str, body: str, csp: str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
) -> str:
    """A self-contained HTML page that loads nothing and runs no script."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{csp}"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def from_markdown(text: str) -> str:
    """HTML of Markdown with tables; HTML in the text is shown, not obeyed."""
    import mistune

    return mistune.create_markdown(escape=True, plugins=["table"])(text)


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
    """'cell 7 of 31 (Baseline): ValueError: no such model'"""
    if not failure:
        return ""
    where = (
        f"cell {failure['cell']}" + (f" of {failure['of']}" if failure.get("of") else "")
        if failure.get("cell")
        else "before its first cell"
    )
    section = f" ({failure['section']})" if failure.get("section") else ""
    reason = (failure.get("evalue") or "").strip()
    return f"{where}{section}: {failure['ename']}" + (f": {reason}" if reason else "")


def markdown(run: dict) -> str:
    """summary.md of a run; `run` is the dict that helpers/run/runner.py collects (`_close`)."""
    notebooks, blanks = run["notebooks"], run["blanks"]
    failed = [nb for nb in notebooks if nb["status"] != "ok"]
    place = run["provenance"]
    counts = {
        kind: sum(b["kind"] == kind for b in blanks)
        for kind in ("measured", "calculated", "typed", "missing")
    }
    verdict = (
        "every notebook ran, every cell"
        if not failed
        else f"{len(failed)} of {len(notebooks)} notebooks failed"
    )
    lines = [
        f"# Run of {run['started']}: {verdict}",
        "",
        f"{duration(run['seconds'])} on {place['machine']}, vLLM {place['vllm']}, torch {place['torch']}, Python {place['python']}.",
        "",
    ]
    if run.get("stopped"):
        lines += [f"**Stopped early: {run['stopped']}**", ""]
    if run["parameters"]:
        lines += [
            "Parameters: "
            + ", ".join(f"`{name}={value!r}`" for name, value in run["parameters"].items()),
            "",
        ]

    lines += [
        "## Notebooks",
        "",
        "| notebook | result | seconds | cells | executed |",
        "|---|---|---|---|---|",
    ]
    for nb in notebooks:
        pages = (
            f"[page]({nb['name']}.html), [notebook]({nb['name']}.ipynb)" if nb.get("page") else ""
        )
        lines.append(
            f"| {nb['name']} | {'ok' if nb['status'] == 'ok' else nb['status'].upper()} | {nb['seconds']:.1f} | "
            f"{nb['cells_done']} of {nb['cells']} | {pages} |"
        )

    if failed:
        lines += ["", "## Failures", ""]
        for nb in failed:
            failure = nb["failure"] or {}
            lines += [
                f"### {nb['name']}",
                "",
                one_sentence(failure).replace("<", "&lt;").split("\n")[0] + ".",
                "",
            ]
            if failure.get("source"):
                lines += ["The cell:", "", fence(failure["source"]), ""]
            if failure.get("traceback"):
                lines += [
                    "The end of the traceback:",
                    "",
                    fence("\n".join(failure["traceback"].splitlines()[-14:])),
                    "",
                ]
            if failure.get("log_tail"):
                lines += [
                    f"The last lines of vLLM's log, `{failure['log']}`:",
                    "",
                    fence("\n".join(failure["log_tail"])),
                    "",
                ]

    slow = sorted(
        (
            (nb["name"], cell)
            for nb in notebooks
            for cell in nb["cell_times"]
            if cell["seconds"] > SLOW_CELL_S
        ),
        key=lambda item: -item[1]["seconds"],
    )
    if slow:
        lines += [
            "",
            f"## Cells above {SLOW_CELL_S:.0f} s",
            "",
            "| notebook | cell | seconds | section | begins with |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {name} | {cell['k']} | {cell['seconds']:.1f} | {in_cell(cell['section'], 60)} | {in_cell(cell['first_line'], 60)} |"
            for name, cell in slow
        ]

    lines += [
        "",
        "## What was measured",
        "",
        f"{run['records']} measurements in [measurements.jsonl](measurements.jsonl). "
        f"Blanks of the documents: {counts['measured']} measured, {counts['calculated']} calculated, {counts['typed']} typed, {counts['missing']} missing.",
    ]
    for document in dict.fromkeys(b["document"] for b in blanks):
        mine = [b for b in blanks if b["document"] == document]
        missing = [in_cell(b["label"], 70) for b in mine if b["kind"] == "missing"]
        lines += ["", f"### [{document}.md]({document}.md)", ""]
        if len(missing) < len(mine):
            lines += ["| blank | value | is | from |", "|---|---|---|---|"]
            lines += [
                f"| {in_cell(b['label'], 70)} | {in_cell(b['value'])} | {b['kind']} | {in_cell(b['note'], 90)} |"
                for b in mine
                if b["kind"] != "missing"
            ]
            lines.append("")
        if missing:
            lines.append("Missing: " + "; ".join(missing) + ".")
    if run["notes"]:
        lines += ["", "## Notes", ""] + [f"- {note}" for note in run["notes"]]
    return "\n".join(lines) + "\n"


def write(run: dict, out: Path) -> None:
    text = markdown(run)
    (out / "summary.md").write_text(text, encoding="utf-8", errors="replace")
    (out / "summary.json").write_text(json.dumps(run, indent=1), encoding="utf-8")
    (out / "summary.html").write_text(
        page(text.partition("\n")[0].lstrip("# "), from_markdown(text)),
        encoding="utf-8",
        errors="replace",
    )
