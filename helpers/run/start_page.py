"""The week's guide, with what is done so far: ``START.md`` in the results folder.

``make lab`` opens JupyterLab on it; it is written anew at each start.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from helpers import REPO, replace_file
from helpers.results import blanks
from helpers.results.store import results_folder

# What each notebook is for; only those that exist are listed.
ABOUT = {
    "01_review": "Weeks 1 to 3 measured: baseline, sweeps, the best configuration",
    "02_advanced_features": "chunked prefill, prefix caching, speculative decoding, sampling, memory",
    "03_reading_notes": "the papers, each idea as a small experiment",
    "04_multi_gpu_planning": "hardware, parallelism, the plan for Week 5",
    "05_server_mode": "vLLM as a server: requests, streaming, load, metrics",
}

HOW = """\
- **Run** a cell with Shift+Enter. Text before it says what to look for.
- **Predict** before you measure: a number typed into a form is saved as you type and is there again next time.
- **Stop** a measurement with the square button; the message says whether the engine is still open.
- **Stuck?** Open a hint. A cell that was run too early names the cell to run first.
- **New kernel?** Kernel > Restart Kernel and Run All Cells does what `make run` does. Saved numbers and answers stay.
- **One engine at a time:** two notebooks share one machine; close a notebook's engine (its last cell) before the next.
"""


def text(folder: Path, page: Path) -> str:
    """The guide as Markdown, for the results in ``folder``; links are relative to ``page``."""
    known = blanks.Facts.of(folder)
    done = {r["notebook"] for r in known.records if r["experiment"] not in blanks.NOT_RESULTS}
    rows, following = [], None
    for path in sorted((REPO / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        mine = [r for r in known.records if r["notebook"] == path.stem]
        last = max((r.get("provenance") or {}).get("time_utc") or "" for r in mine) if mine else ""
        state = (
            f"{len(mine)} results saved, last {last[:16].replace('T', ' ')} UTC"
            if mine
            else "not begun"
        )
        if path.stem not in done and following is None:
            following = path
        about = ABOUT.get(path.stem, "")
        rows.append(f"| [{path.stem.replace('_', ' ')}]({_link(path, page)}) | {about} | {state} |")
    lines = ["# Integration Week: start here", ""]
    if following:
        lines += [f"**Next:** [{following.stem.replace('_', ' ')}]({_link(following, page)})", ""]
    lines += [
        "| notebook | what it is about | so far |",
        "|---|---|---|",
        *rows,
        "",
        "## The week's checklist",
        "",
    ]
    lines += checklist(known)
    lines += ["", "## How to work with the notebooks", "", HOW, "## Your documents", ""]
    for name in ("my_learnings.md", "distributed_planning.md"):
        path = folder / name
        lines.append(
            f"- [{name}]({_link(path, page)})"
            if path.exists()
            else f"- {name}: written by a notebook's export"
        )
    if known.problems:
        lines += [
            "",
            "## Damaged lines in the results",
            "",
            *(f"- {problem}" for problem in known.problems[:10]),
        ]
    lines += ["", f"Results are kept in `{folder}`. This page is written when `make lab` starts."]
    return "\n".join(lines) + "\n"


def checklist(known: blanks.Facts) -> list[str]:
    """The items as Markdown lines: ticked with by whom or what, or open."""
    lines = []
    for (_, section, blank), slot in blanks.SLOTS.items():
        if not blank.startswith("- [ ] "):
            continue
        fill = slot(known)
        label = re.sub(r"^- \[ \] ", "", blank)
        # Signs instead of check boxes: a preview draws boxes that do nothing when clicked.
        lines.append(f"- ☐ {label}" if fill.kind == "missing" else f"- ☑ {label} ({fill.value})")
    return lines


def write(results_dir=None) -> Path:
    """Write START.md into the results folder, in one step; return its path."""
    folder = results_folder(results_dir)
    page = folder / "START.md"
    replace_file(page, text(folder, page).encode())
    return page


def _link(path: Path, page: Path) -> str:
    return os.path.relpath(path, page.parent).replace(" ", "%20")
