"""The week's guide, with what is done so far: ``START.md`` in the results folder.

``make lab`` opens JupyterLab on it; it is written anew at each start.
"""

from __future__ import annotations

import os
from pathlib import Path

from helpers import REPO, replace_file
from helpers.results.blanks import NOT_RESULTS, SLOTS, Facts
from helpers.results.documents import DOCUMENTS
from helpers.results.store import results_folder

# What each notebook is for; only those that exist are listed.
ABOUT = {
    "01_review": "Weeks 1 to 3 measured: baseline, sweeps, the best configuration",
    "02_advanced_features": "chunked prefill, prefix caching, speculation, sampling, memory",
    "03_reading_notes": "the papers, each idea as a small experiment",
    "04_multi_gpu_planning": "hardware, parallelism, the plan for Week 5",
    "05_server_mode": "vLLM as a server: requests, streaming, load, metrics",
}

PAGE = """\
# Integration Week: start here

{following}
| notebook | what it is about | so far |
|---|---|---|
{notebooks}

## The week's checklist

{checklist}

## How to work with the notebooks

- **Run** a cell with Shift+Enter. Text before it says what to look for.
- **Predict** before you measure: a number typed into a form is saved as you type and is there
  again next time.
- **Stop** a measurement with the square button; the message says whether the engine is still open.
- **Stuck?** Open a hint. A cell that was run too early names the cell to run first.
- **New kernel?** Kernel > Restart Kernel and Run All Cells does what `make run` does. Saved numbers
  and answers stay.
- **One engine at a time:** two notebooks share one machine; close a notebook's engine (its last
  cell) before the next.

## Your documents

{documents}
{problems}
Results are kept in `{folder}`. This page is written when `make lab` starts.
"""


def text(folder: Path, page: Path) -> str:
    """The guide as Markdown, for the results in ``folder``; links are relative to ``page``."""
    known = Facts.of(folder)
    done = {r["notebook"] for r in known.records if r["experiment"] not in NOT_RESULTS}
    notebooks = sorted((REPO / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    open_ones = [path for path in notebooks if path.stem not in done]
    problems = "\n".join(f"- {problem}" for problem in known.problems[:10])
    return PAGE.format(
        following=f"**Next:** {_notebook(open_ones[0], page)}\n" if open_ones else "",
        notebooks="\n".join(_row(path, known, page) for path in notebooks),
        checklist="\n".join(checklist(known)),
        documents="\n".join(_document(folder / f"{name}.md", page) for name in DOCUMENTS),
        problems=f"\n## Damaged lines in the results\n\n{problems}\n" if problems else "",
        folder=folder,
    )


def checklist(known: Facts) -> list[str]:
    """The items as Markdown lines: ticked with by whom or what, or open."""
    # Signs instead of check boxes: a preview draws boxes that do nothing when clicked.
    lines = []
    for (_, _, blank), slot in SLOTS.items():
        if blank.startswith("- [ ] "):
            label, fill = blank.removeprefix("- [ ] "), slot(known)
            ticked = f"- ☑ {label} ({fill.value})"
            lines.append(f"- ☐ {label}" if fill.kind == "missing" else ticked)
    return lines


def write(results_dir=None) -> Path:
    """Write START.md into the results folder, in one step; return its path."""
    folder = results_folder(results_dir)
    page = folder / "START.md"
    replace_file(page, text(folder, page).encode())
    return page


def _row(path: Path, known: Facts, page: Path) -> str:
    mine = [r for r in known.records if r["notebook"] == path.stem]
    state = "not begun"
    if mine:
        last = max((r.get("provenance") or {}).get("time_utc") or "" for r in mine)
        state = f"{len(mine)} results saved, last {last[:16].replace('T', ' ')} UTC"
    return f"| {_notebook(path, page)} | {ABOUT.get(path.stem, '')} | {state} |"


def _notebook(path: Path, page: Path) -> str:
    return f"[{path.stem.replace('_', ' ')}]({_link(path, page)})"


def _document(path: Path, page: Path) -> str:
    if path.exists():
        return f"- [{path.name}]({_link(path, page)})"
    return f"- {path.name}: written by a notebook's export"


def _link(path: Path, page: Path) -> str:
    return os.path.relpath(path, page.parent).replace(" ", "%20")
