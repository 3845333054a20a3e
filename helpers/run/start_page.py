"""The week's guide with what is done so far, START.md, and the line at the top of a notebook.

    progress(store)     # one line: done, open, next; START.md then follows saves and runs

A section is a heading `## Title (12 min)` or `## Title (optional, 12 min)` of a notebook. It is
done when its last code cell has run to the end and everything that its cells save is among the
results: both are read from the cells, so there is no list beside the notebooks that could disagree
with them. Which last cells have run is kept in `.sections_run`. `make lab` opens START.md.
"""

from __future__ import annotations

import ast
import html
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from helpers import REPO, replace_file
from helpers.display import card
from helpers.results.blanks import CHECKLIST
from helpers.results.documents import DOCUMENTS
from helpers.results.facts import Facts
from helpers.results.store import Results, ResultsError, results_folder
from helpers.run import summary
from helpers.run.course_file import find_notebooks

# What each notebook is for.
ABOUT = {
    "01_review": "Weeks 1 to 3 measured: baseline, sweeps, the best configuration",
    "02_advanced_features": "Chunked prefill, prefix caching, speculation, sampling, memory",
    "03_reading_notes": "The papers, each idea as a small experiment",
    "04_multi_gpu_planning": "Hardware, parallelism, the plan for Week 5",
    "05_server_mode": "vLLM as a server: requests, streaming, load, metrics",
}
# Exercises save under an experiment of their own, their key is the variant.
EXERCISES = {"ask": "answer", "choose": "answer", "predict": "prediction", "tick": "checklist"}
RUN = ".sections_run"  # in the results folder, a line for each: the notebook and its cell's id
HEADING = re.compile(r"## (.+?)(?: \((optional)?(?:, )?(?:(\d+) min)?\))?")


@dataclass(frozen=True)
class Section:
    """A section of a notebook.

    wants: what its cells save, as (experiment, variant begins so). last: the id and the source of
    its last code cell.
    """

    title: str
    minutes: int | None
    optional: bool
    wants: frozenset[tuple[str, str]]
    last: tuple[str, str]

    @property
    def time(self) -> str:
        """The heading's end: (optional, 12 min), or what is known of it; begins with a space."""
        known = ["optional" * self.optional, f"{self.minutes} min" * bool(self.minutes)]
        return f" ({', '.join(filter(None, known))})" if any(known) else ""


# ---------------------------------------------------------------- what a notebook asks for


def sections(path: Path) -> tuple[Section, ...]:
    """The sections of a notebook that save something or take a time, as its file is now."""
    return _sections(path, path.stat().st_mtime_ns)


@lru_cache
def _sections(path: Path, _modified: int) -> tuple[Section, ...]:
    found: list[tuple[re.Match, set, list]] = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            headings = [line for line in source.splitlines() if line.startswith("## ")]
            found += [(HEADING.fullmatch(line), set(), []) for line in headings]
        elif cell["cell_type"] == "code" and found:
            found[-1][1].update(saved_by(source))
            found[-1][2].append((cell["id"], source))
    return tuple(
        Section(
            heading[1], int(heading[3] or 0) or None, bool(heading[2]), frozenset(wants), code[-1]
        )
        for heading, wants, code in found
        if code and (wants or heading[3])
    )


def saved_by(source: str) -> Iterator[tuple[str, str]]:
    """What a cell always saves when it runs: (experiment, how the variant begins)."""
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        tree = compile(source, "cell", "exec", flags)
    except SyntaxError:  # a magic, or a cell that a student is writing
        return
    for call in _calls(tree):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        first, second = call.args[0], call.args[1] if len(call.args) > 1 else None
        if name == "check" and isinstance(first, ast.Name):
            yield "puzzle", first.id
        elif name in EXERCISES and (key := _beginning(first) or _beginning(second)):
            yield EXERCISES[name], key
        elif name in ("save", "save_run") and second is not None and _beginning(first):
            yield _beginning(first), _beginning(second)


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    """The calls with arguments below a node; those under an `if` may never happen."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and child.args:
            yield child
        if not isinstance(child, ast.If):
            yield from _calls(child)


def _beginning(node: ast.expr) -> str:
    """The fixed beginning of a text in the code: all of "a", the "a" of f"a{b}"."""
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


# ---------------------------------------------------------------- how far it is


DONE, BEGUN, OPEN = "☑", "◐", "☐"


@dataclass(frozen=True)
class Stand:
    """How far a notebook is: its sections, each DONE, BEGUN or OPEN.

    times: when each of its records was saved.
    """

    path: Path
    sections: tuple[tuple[Section, str], ...]
    times: tuple[str, ...]

    @property
    def open(self) -> list[Section]:
        """Sections of the core path that are not done, in order."""
        return [s for s, sign in self.sections if not s.optional and sign != DONE]

    @property
    def core(self) -> list[Section]:
        """Sections that are not optional."""
        return [section for section, _ in self.sections if not section.optional]

    def sentence(self) -> str:
        """Such as "3 of 8 sections done, about 25 of 60 minutes left"."""
        done = len(self.core) - len(self.open)
        said = f"{done} of {len(self.core)} sections done"
        if left := sum(section.minutes or 0 for section in self.open):
            said += f", about {left} of {sum(s.minutes or 0 for s in self.core)} minutes left"
        return said


def stand(path: Path, folder: Path, known: Facts) -> Stand:
    """How far a notebook is by what has been saved, and by the last cells that ran."""
    mine = [r for r in known.records if r["notebook"] == path.stem]
    ran = _run_in(folder)

    def there(experiment: str, beginning: str) -> bool:
        return any(
            r["experiment"] == experiment
            and r["variant"].startswith(beginning)
            and r.get("solved") is not False
            and r.get("text") != ""
            for r in mine
        )

    def sign(section: Section) -> str:
        steps = [f"{path.stem} {section.last[0]}" in ran, *(there(*want) for want in section.wants)]
        return DONE if all(steps) else BEGUN if any(steps) else OPEN

    signs = ((section, sign(section)) for section in sections(path))
    times = ((r.get("provenance") or {}).get("time_utc") or "" for r in mine)
    return Stand(path, tuple(signs), tuple(times))


def _run_in(folder: Path) -> set[str]:
    """The last cells of sections that have run to their end, as lines of RUN."""
    page = folder / RUN
    return set(page.read_text(encoding="utf-8").splitlines()) if page.exists() else set()


def follow(path: Path, folder: Path) -> None:
    """From here on, in this kernel, note in `folder` each section whose last cell has run.

    The cell is known by its id, or by its source where the front end sends no id (papermill).
    """
    if card.kernel() is None:
        return

    def note_section(result) -> None:
        cell, ran = result.info, _run_in(folder)
        for last, source in (section.last for section in sections(path) if result.success):
            line = f"{path.stem} {last}"
            if line not in ran and (cell.cell_id == last or cell.raw_cell == source):
                with (folder / RUN).open("a", encoding="utf-8") as noted:
                    noted.write(line + "\n")
                _follow(folder)

    card.after_each_cell(card.kernel().shell, note_section)


def progress(store: Results) -> None:
    """Show how far this notebook is, in one line, and keep START.md up to date from here on."""
    path = REPO / "notebooks" / f"{store.notebook}.ipynb"
    store.after_save = partial(_follow, store.directory)
    store.after_save()
    follow(path, store.directory)
    known = stand(path, store.directory, Facts.of(store.directory))
    following = [section.title + section.time for section in known.open[:1]]
    further = len(known.open) - 1
    text = f"{known.sentence()}. "
    text += f"Next: {following[0]}" if following else "All of the core path is done."
    text += f", then {further} more." if further > 0 else ""
    card.show(card.Static(card.box(html.escape(text)), text))


def _follow(folder: Path) -> None:
    """Write the page anew; a full disk must not stop a measurement that has been saved."""
    try:
        write(folder)
    except (OSError, ResultsError) as error:
        print(f"START.md is not up to date: {error}")


# ---------------------------------------------------------------- the page


def write(results_dir=None) -> Path:
    """Write START.md into the results folder, in one step; return its path."""
    folder = results_folder(results_dir)
    page = folder / "START.md"
    replace_file(page, text(folder, page).encode())
    return page


def text(folder: Path, page: Path) -> str:
    """The guide as Markdown, for the results in `folder`; links are relative to `page`."""
    known = Facts.of(folder)
    stands = [stand(path, folder, known) for path in find_notebooks(folder=REPO / "notebooks")]
    return summary.render(
        "start.md.j2",
        next=next((one for one in stands if one.open), None),
        stands=stands,
        about=ABOUT,
        checklist=[
            # That file is another one than this page.
            (label.replace("this file", "my_learnings.md"), slot(known))
            for label, slot in CHECKLIST.items()
        ],
        documents=[folder / f"{name}.md" for name in DOCUMENTS],
        problems=known.problems[:10],
        folder=folder,
        link=lambda path: os.path.relpath(path, page.parent).replace(" ", "%20"),
    )
