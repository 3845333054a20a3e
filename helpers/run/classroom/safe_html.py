"""Pages of notebooks that nobody vouches for: readable, but without a way to run anything.

    python -m helpers.run.classroom.safe_html LIST.json          [[notebook, page], ...]

Three layers, each enough on its own against a script: outputs that are code are dropped before
conversion; nbconvert cleans the HTML that is left (bleach); and the page carries a content security
policy that forbids scripts, forms, frames and every request to anywhere.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from helpers import replace_file
from helpers.run.job import limit_resources, page_exporter

POLICY = "; ".join(
    [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        "font-src data:",
        "form-action 'none'",
        "base-uri 'none'",
    ]
)
# What an output may be, most faithful first; all else (JavaScript, widgets, Plotly, SVG) goes.
HARMLESS = (
    "text/html",
    "image/png",
    "image/jpeg",
    "image/gif",
    "text/markdown",
    "text/latex",
    "text/plain",
)
BANNER = (
    '<div style="font:14px system-ui;padding:8px 16px;background:#fff3cd;color:#332701;'
    "border-bottom:1px solid #0003\">A student's notebook. "
    "Scripts and widgets have been taken out.</div>"
)
NO_PAGE = (
    "<!doctype html><meta charset='utf-8'><title>No page</title>"
    "<p>No page could be made of this notebook."
)
MOST = 200_000  # characters of one printed output


def without_active_content(notebook):
    """A copy of the notebook with nothing but text, cleaned HTML and pictures; no metadata."""
    from nbformat import v4

    plain = v4.new_notebook(metadata={"language_info": {"name": "python"}})
    for cell in notebook.cells:
        source = cell.source if isinstance(cell.source, str) else ""
        if cell.cell_type == "markdown":
            plain.cells.append(v4.new_markdown_cell(source))
        elif cell.cell_type == "code":
            count = cell.get("execution_count")
            count = count if isinstance(count, int) else None
            outputs = [kept for o in cell.get("outputs", []) if (kept := _harmless(o, v4))]
            plain.cells.append(v4.new_code_cell(source, execution_count=count, outputs=outputs))
        else:
            plain.cells.append(v4.new_raw_cell(source, metadata={"raw_mimetype": "text/plain"}))
    return plain


def _harmless(output, v4):
    """An output without what could run; None when nothing of it is left."""
    if output.output_type == "stream":
        return v4.new_output("stream", name="stdout", text=str(output.get("text", ""))[:MOST])
    if output.output_type == "error":
        lines = [str(line)[:20_000] for line in output.get("traceback", [])]
        ename, evalue = str(output.get("ename")), str(output.get("evalue"))
        return v4.new_output("error", ename=ename, evalue=evalue, traceback=lines)
    data = {
        kind: value
        for kind, value in output.get("data", {}).items()
        if kind in HARMLESS
        and isinstance(value, str)
        and (kind.startswith("text/") or re.fullmatch(r"[A-Za-z0-9+/=\s]*", value))
    }
    return v4.new_output("display_data", data=data) if data else None


def lock_page(html: str) -> str:
    """The page without nbconvert's own scripts, its policy before all else in the head."""
    html = re.sub(r"<script\b.*?</script\s*>", "", html, flags=re.S | re.I)
    html = re.sub(r"<link\b[^>]*>", "", html, flags=re.I)
    meta = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    meta += '<meta name="referrer" content="no-referrer">'
    html = re.sub(r"<head>", lambda m: "<head>" + meta, html, count=1, flags=re.I)
    return re.sub(r"(<body\b[^>]*>)", lambda m: m[0] + BANNER, html, count=1, flags=re.I)


def main(list_file: str) -> int:
    """Make the pages; a notebook that cannot be read gets one that says so."""
    import nbformat

    exporter = page_exporter(sanitize_html=True, embed_images=False)
    for source, page in json.loads(Path(list_file).read_text(encoding="utf-8")):
        try:
            notebook = without_active_content(nbformat.read(source, as_version=4))
            about = {"metadata": {"name": Path(source).stem}}
            text = lock_page(exporter.from_notebook_node(notebook, resources=about)[0])
        except Exception as error:  # a notebook can be wrong in any way
            text = f"{NO_PAGE} ({type(error).__name__})"
        replace_file(Path(page), text.encode("utf-8", "replace"))
    return 0


if __name__ == "__main__":
    limit_resources({"AS": 8 * 2**30})
    sys.exit(main(sys.argv[1]))
