"""Read one submission: what it says (contents.py), and a page of each of its notebooks.

    python -m helpers.run.classroom.reading FOLDER CONTENT.json

attempt.py starts this for each submission, in a process with limits, because a document or a
notebook can be built to take for ever to read. FOLDER is a student's folder of the results:
submitted/, notebooks/ and, when they were executed, measured_here/.

Nothing can run on such a page: text and pictures, never HTML. Every display of the workbook says in
plain text what it shows, so little is lost. The template (notebook.html.j2) escapes all text,
mistune shows HTML in Markdown instead of obeying it, and the page's policy forbids scripts, frames
and every request.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import markupsafe

from helpers import replace_file
from helpers.results import documents
from helpers.run import summary
from helpers.run.classroom import contents
from helpers.run.job import ANSI, limit_resources
from helpers.run.notebook_file import DAMAGED

PICTURES = ("image/png", "image/jpeg", "image/gif")  # SVG can hold scripts
TEXTS = ("text/markdown", "text/latex", "text/plain")
DRAWING = re.compile(r"!\[([^\]]*)\]\(data:[^)]*\)")  # the course's own, in Markdown
MOST = 200_000  # characters of one output
LIMITS = {"AS": 8 * 2**30, "FSIZE": 200 * 2**20, "CORE": 0, "CPU": 120}


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


def main(folder: Path, answer: Path) -> int:
    """The content first: a notebook that takes this process down costs pages only."""
    limit_resources(LIMITS)
    here = folder / "measured_here"
    if here.exists():
        documents.export(here)
    content = contents.assess(folder / "submitted", folder / "export", here)
    replace_file(answer, json.dumps(content).encode())
    for notebook in sorted((folder / "notebooks").glob("*.ipynb")):
        text = page(notebook).encode("utf-8", "replace")
        replace_file(notebook.with_suffix(".html"), text)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
