"""The page that says what a run did: summary.md, and the same as summary.html and summary.json.

All pages of the commands are made here, from templates/ and classroom/*.j2. A page loads nothing
and runs no script, and whatever is put into one is escaped.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import jinja2
from markupsafe import Markup
from tqdm import tqdm

from helpers import replace_file
from helpers.display.as_typed import BREAK, in_html
from helpers.display.numbers import number
from helpers.results.documents import KINDS

SLOW_CELL_S = 5.0
HERE = Path(__file__).parent


duration = tqdm.format_interval  # of seconds: 1:05:09, 04:07 or 00:42


def in_cell(text, limit: int = 160) -> str:
    """A text for a Markdown table's cell."""
    flat = " ".join(str(text).split())
    flat = flat if len(flat) <= limit else flat[: limit - 1] + "…"
    return flat.replace("\\", "\\\\").replace("|", "\\|")


def fence(text: str) -> str:
    """A code block that the text cannot end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
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


# Escapes what it puts into HTML; Markdown (*.md.j2) is escaped when it becomes HTML.
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader([HERE / "templates", HERE / "classroom"]),
    autoescape=lambda name: name.endswith(".html.j2"),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters |= {
    "cell": in_cell,
    "duration": duration,
    "fence": fence,
    "number": number,
    "sentence": one_sentence,
    "typed": lambda text: Markup(in_html(text)),
}


def render(template: str, **values) -> str:
    """The text of a template."""
    return TEMPLATES.get_template(template).render(values)


def page(title: str, body: str) -> str:
    """A self-contained HTML page that loads nothing and runs no script."""
    return render("page.html.j2", title=title, body=body)


def write_page(path: Path, title: str, body: str) -> None:
    """The page in a file, in one step; what is no text in UTF-8 (half a surrogate) becomes "?"."""
    replace_file(path, page(title, body).encode("utf-8", "replace"))


def from_markdown(text: str) -> str:
    """HTML of Markdown with tables; HTML in the text is shown, not obeyed, but for line breaks."""
    import mistune

    class Page(mistune.HTMLRenderer):
        def inline_html(self, html: str) -> str:
            return html if html == BREAK else super().inline_html(html)

    plugins = ["table", "task_lists"]
    return mistune.create_markdown(renderer=Page(escape=True), plugins=plugins)(text)


def markdown(run: dict) -> str:
    """summary.md of a run; `run` is what helpers/run/runner.py collects and summary.json holds."""
    cells = [c | {"notebook": nb["name"]} for nb in run["notebooks"] for c in nb["cell_times"]]
    slow = [cell for cell in cells if cell["seconds"] > SLOW_CELL_S]
    slow.sort(key=lambda cell: -cell["seconds"])
    return render("summary.md.j2", **run, slow=slow, slow_s=SLOW_CELL_S, kinds=KINDS)


def write(run: dict, out: Path) -> None:
    """summary.md, summary.html and summary.json in the run's folder."""
    text = markdown(run)
    replace_file(out / "summary.md", text.encode("utf-8", errors="replace"))
    replace_file(out / "summary.json", json.dumps(run, indent=1).encode())
    title = text.partition("\n")[0].lstrip("# ")
    write_page(out / "summary.html", title, from_markdown(text))
