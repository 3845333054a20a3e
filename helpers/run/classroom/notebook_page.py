"""A student's notebook as a page in which nothing can run: text and pictures, never their HTML.

Every display of the workbook says in plain text what it shows, so little is lost. jinja2 escapes
all text (the template is notebook.html.j2), mistune shows HTML in Markdown instead of obeying it,
and the page's policy forbids scripts, frames and every request.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import markupsafe

from helpers.run import summary
from helpers.run.job import ANSI
from helpers.run.notebook_file import DAMAGED

PICTURES = ("image/png", "image/jpeg", "image/gif")  # SVG can hold scripts
TEXTS = ("text/markdown", "text/latex", "text/plain")
DRAWING = re.compile(r"!\[([^\]]*)\]\(data:[^)]*\)")  # the course's own, in Markdown
MOST = 200_000  # characters of one output


def page(path: Path) -> str:
    """The page of a notebook; of one that is damaged, a page that says so."""
    try:
        cells = [_cell(cell) for cell in json.loads(path.read_bytes())["cells"]]
    except (OSError, *DAMAGED) as error:
        return summary.page(path.stem, f"<p>This is no notebook ({type(error).__name__}).</p>")
    return summary.page(path.stem, summary.render("notebook.html.j2", cells=cells))


def _joined(text) -> str:
    """Notebooks keep text as one string or as a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def _cell(cell: dict) -> dict:
    source = _joined(cell["source"])
    if cell["cell_type"] == "markdown":
        # Made by mistune, which escapes what the student has written.
        html = summary.from_markdown(DRAWING.sub(r"*Drawing: \1*", source))
        return {"markdown": markupsafe.Markup(html)}
    shown = [_output(output) for output in cell.get("outputs") or ()]
    return {"source": source, "count": cell.get("execution_count"), "outputs": filter(None, shown)}


def _output(output: dict) -> dict | None:
    """{"picture": a data URL, "alt"} or {"text", "error": whether it is one}; None: no output."""
    if output["output_type"] == "stream":
        return {"text": _plain(output["text"])}
    if output["output_type"] == "error":
        return {"text": _plain("\n".join(output["traceback"])), "error": True}
    data = output.get("data") or {}
    for kind in PICTURES:
        picture = _joined(data.get(kind) or "")
        if picture and re.fullmatch(r"[A-Za-z0-9+/=\s]*", picture):
            about = (output.get("metadata") or {}).get(kind) or {}
            alt = about.get("alt") or "picture"
            return {"picture": f"data:{kind};base64,{picture}", "alt": alt}
    texts = (_joined(data.get(kind) or "") for kind in TEXTS)
    text = next(filter(None, texts), "(an output without text)" if data else "")
    return {"text": _plain(text)} if text else None


def _plain(text) -> str:
    return ANSI.sub("", _joined(text)[:MOST])
