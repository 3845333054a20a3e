"""What a cell shows in words: a light card, a table, and whether anybody would see a widget."""

from __future__ import annotations

import contextlib
import html
import os
import sys

from helpers.display.as_typed import in_html
from helpers.display.numbers import number

# Of pictures, in every theme; blue and green also at the edge of a card.
INK, PAPER = "#1F1F1F", "#FFFFFF"
BLUE, GREEN = "#0072B2", "#009E73"


def _themed(jupyterlab: str, vs_code: str, light: str) -> str:
    """A colour of the front end's theme; `light` where there is none, as in an exported page."""
    return f"var(--jp-{jupyterlab},var(--vscode-{vs_code},{light}))"


MUTED = _themed("ui-font-color2", "descriptionForeground", "#5F5F5F")
# Inline styles only: notebooks drop <style> of outputs that are not trusted.
CARD = (
    "display:inline-block;max-width:100%;margin:2px 0;padding:4px 10px;box-sizing:border-box;"
    f"background:{_themed('layout-color1', 'editor-background', PAPER)};"
    f"color:{_themed('ui-font-color1', 'editor-foreground', INK)};"
    f"border:1px solid {_themed('border-color1', 'panel-border', '#D0D0D0')};border-radius:6px;"
    "font:13px/1.5 sans-serif;overflow-wrap:anywhere"
)
SHORT = 16  # characters in a table's cell that stay on one line, such as a number and its unit


def kernel():
    """The ipykernel that this process is, or None (a script, a terminal's IPython)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None)


def after_each_cell(shell, run) -> None:
    """Call run(result) after each cell, in place of an earlier function of the same name."""
    events = shell.events
    for earlier in [f for f in events.callbacks["post_run_cell"] if f.__name__ == run.__name__]:
        events.unregister("post_run_cell", earlier)
    events.register("post_run_cell", run)


def has_widgets() -> bool:
    """True when the cell that runs now was sent by a front end that draws widgets.

    JupyterLab, Notebook 7 and VS Code put the cell's id into the request's
    metadata; nbclient (papermill, nbconvert) and consoles do not, and nobody
    would see their widgets. ``WORKBOOK_WIDGETS=1`` or ``0`` overrules this.
    """
    wanted = os.environ.get("WORKBOOK_WIDGETS")
    if wanted in ("0", "1"):
        return wanted == "1"
    if kernel() is None:
        return False
    if "google.colab" in sys.modules:
        return True
    with contextlib.suppress(Exception):  # a kernel of another make: no widgets
        return bool((kernel().get_parent("shell").get("metadata") or {}).get("cellId"))
    return False


class Static:
    """Output that every front end shows: HTML, and text for a terminal."""

    def __init__(self, html_: str, text: str):
        self.html, self.text = html_, text

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self.html, "text/plain": self.text}

    def __str__(self) -> str:
        return self.text


def box(page: str, edge: str = "") -> str:
    """HTML on a card; edge: the colour of its left side, where it has one."""
    side = f";border-left:4px solid {edge}" if edge else ""
    return f'<div style="{CARD}{side}">{page}</div>'


def show(thing) -> None:
    """Display a Static, a picture or what IPython shows in a notebook; print it elsewhere."""
    if kernel() is None:
        print(thing)
    else:
        from IPython.display import display

        display(*_outputs(thing))


def _outputs(thing) -> list:
    return thing.outputs() if hasattr(thing, "outputs") else [thing]


class Place:
    """A place in the running cell's output: what is put there takes the place of what was."""

    def __init__(self):
        self.handles = []

    def put(self, thing) -> None:
        """Show ``thing`` here: a widget, a Static, a picture with its caption and values."""
        from IPython.display import display

        for index, output in enumerate(_outputs(thing)):
            if index < len(self.handles):
                self.handles[index].update(output)
            else:
                self.handles.append(display(output, display_id=True))


def table(rows: list[dict], title: str = "", closed: bool = False) -> Static:
    """``rows`` as a table, one column for each name in them, numbers as ``number`` writes them.

    It has the front end's own colours, like any DataFrame. Columns with text stand left, the
    others right; what a row does not have is empty. One that is too wide scrolls. closed: only
    ``title`` is seen until the reader opens it.
    """
    import pandas as pd  # half a second: not for those who show no table

    names = list(dict.fromkeys(name for row in rows for name in row))
    left = {name for name in names if any(isinstance(row.get(name), str) for row in rows)}
    columns = {name: [str(name), *(number(row.get(name)) for row in rows)] for name in names}

    def marked(text: str, name) -> str:
        style = "text-align:left" + (";white-space:nowrap" if len(text) <= SHORT else "")
        text = in_html(text)
        return f'<div style="{style}">{text}</div>' if name in left else text

    def aligned(texts: list[str], name) -> list[str]:
        width = max(map(len, texts))
        texts = [text.replace("\n", " ") for text in texts]
        return [text.ljust(width) if name in left else text.rjust(width) for text in texts]

    cells = {name: [marked(text, name) for text in texts] for name, texts in columns.items()}
    with pd.option_context("display.max_colwidth", None):
        frame = pd.DataFrame({head: values for head, *values in cells.values()})
        page = frame.to_html(index=False, escape=False, border=0)
    page = f'<div style="overflow-x:auto">{page}</div>'
    lines = zip(*(aligned(texts, name) for name, texts in columns.items()), strict=True)
    text = "\n".join("  ".join(line).rstrip() for line in lines)
    if closed:
        summary = f'<summary style="cursor:pointer">{html.escape(title)}</summary>'
        page = f"<details>{summary}{page}</details>"
    elif title:
        page = f"<b>{html.escape(title)}</b>{page}"
    return Static(page, f"{title}\n{text}" if title else text)
