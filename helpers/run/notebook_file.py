"""What an .ipynb says of itself, read as plain JSON: nothing in it is run, and nothing is trusted.

Papermill saves the file as each cell starts and ends, with start_time and duration in the cell's
metadata: the same reading tells how far a notebook is while it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAX_MIB = 60
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Cell:
    """A code cell that holds code. k counts those from 1; seconds is None until it has ended."""

    k: int
    section: str  # the heading above
    source: str
    tags: tuple[str, ...]
    ran: bool
    started: bool  # papermill has begun it
    seconds: float | None
    error: dict | None  # its first error output

    @property
    def first_line(self) -> str:
        """The first line that says something, for people."""
        lines = [line.strip() for line in self.source.splitlines() if line.strip()]
        idle = ("#", "%", "import ", "from ")
        return next((line for line in lines if not line.startswith(idle)), lines[0])[:100]


def code_cells(notebook: dict) -> list[Cell]:
    """The code cells of a notebook in format 4; raises one of DAMAGED when it is not one."""
    cells, section = [], ""
    for cell in notebook["cells"]:
        source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            headings = re.findall(r"^#{1,6}\s+(.+)$", source, re.M)
            section = headings[-1].strip() if headings else section
        if cell["cell_type"] != "code" or not source.strip():
            continue
        metadata = cell.get("metadata") or {}
        timing = metadata.get("papermill") or {}
        errors = (o for o in cell.get("outputs") or [] if o.get("output_type") == "error")
        cells.append(
            Cell(
                k=len(cells) + 1,
                section=section,
                source=source,
                tags=tuple(metadata.get("tags", ())),
                ran=bool(cell.get("execution_count")),
                started=bool(timing.get("start_time")),
                seconds=float(timing["duration"]) if timing.get("duration") else None,
                error=next(errors, None),
            )
        )
    return cells


def open_plain(path: Path) -> BinaryIO | None:
    """A plain file to read, None for anything else; raises FileNotFoundError.

    No link is followed, and no pipe waited for: what was a file a moment ago may be one no more.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    stream = os.fdopen(handle, "rb")
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return stream
    stream.close()
    return None


def executed(path: Path) -> list[Cell]:
    """The code cells of a notebook that papermill has written or is writing.

    [] when there is none yet, when it is half written, no plain file, or too large to be read.
    """
    most = MAX_MIB * 2**20
    with contextlib.suppress(OSError, *DAMAGED):
        if stream := open_plain(path):
            with stream:
                text = stream.read(most + 1)
            return code_cells(json.loads(text)) if len(text) <= most else []
    return []


def about(path: Path) -> dict:
    """How many cells there are and were run, the first error in them, the parameters.

    Returns {"cells", "ran", "error", "parameters"}; parameters are the names in the cell tagged
    so, None without such a cell. {"problem": sentence} when the file cannot be read.
    """
    try:
        if path.stat().st_size > MAX_MIB * 2**20:
            return {"problem": f"it is larger than {MAX_MIB} MiB"}
        notebook = json.loads(path.read_text(encoding="utf-8"))
        major = int(notebook.get("nbformat", 0))
        if major != 4:
            return {"problem": f"it is in notebook format {major or '(none)'}, not 4"}
        cells = code_cells(notebook)
        parameters = [_assigned(cell.source) for cell in cells if "parameters" in cell.tags]
        return {
            "cells": len(cells),
            "ran": sum(cell.ran for cell in cells),
            "error": next((_short(cell) for cell in cells if cell.error), None),
            "parameters": parameters[0] if parameters else None,
        }
    except DAMAGED as error:
        return {"problem": f"it is not a notebook ({type(error).__name__}: {str(error)[:120]})"}
    except OSError as error:
        return {"problem": f"it cannot be read ({error.strerror})"}


def _short(cell: Cell) -> dict:
    ename, evalue = str(cell.error.get("ename"))[:200], str(cell.error.get("evalue"))[:1000]
    return {"cell": cell.k, "ename": ename, "evalue": evalue}


def _assigned(source: str) -> list[str]:
    """The names that the lines of a parameters cell assign, as papermill finds them.

    papermill.inspect_notebook gives the same, and takes a second to import for each submission.
    """
    return sorted(set(re.findall(r"^([A-Za-z_]\w*)\s*(?::[^=\n]+)?=(?!=)", source, re.M)))
