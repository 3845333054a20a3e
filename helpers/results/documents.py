"""Fill my_learnings.md and distributed_planning.md, and keep what the student typed.

    report = export(results_dir)      # again and again, whenever there is something new
    print(report)                     # per blank: measured, calculated, typed or missing

Each line of the templates belongs to a slot of helpers/results/blanks.py, which finds the values.
How a new export is merged with a document that the student has edited is in merge.py. This module
reads and writes the files: each is replaced in one step, the version before stays beside it
(`*.previous`), and `.NAME.export.json` remembers which lines were ours.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from helpers import REPO, replace_file
from helpers.display.as_typed import out_of_markdown
from helpers.results.blanks import SLOTS
from helpers.results.facts import TAKEN_BACK, Facts, Fill
from helpers.results.merge import BLANK, OPEN_BOX, Base, Line, Merged, line_key, merge
from helpers.results.store import ResultsError, results_folder
from helpers.results.wording import spaced

TEMPLATES = REPO / "templates"
DOCUMENTS = ("my_learnings", "my_learnings_appendix", "distributed_planning")
PREVIOUS = ".previous"
KINDS = ("measured", "calculated", "typed", "missing")
# A blank with the unit of a factor, and the words of the template that say what can stand there.
BLANK_AND_CHOICE = re.compile(rf"{BLANK}x?(?: \([\w/]+\))?")
LIST_SIGN = re.compile(r"^(- \[.\] |- |\d+\. )")


@dataclass(frozen=True)
class Blank:
    """One blank of a document. kind: measured, calculated, typed or missing. note: from where."""

    document: str
    label: str
    value: str
    kind: str
    note: str = ""

    def __str__(self) -> str:
        value = self.value if len(self.value) <= 90 else self.value[:89] + "…"
        note = f"   ({self.note})" if self.note else ""
        return f"{self.kind:<10}  {self.label}: {value or BLANK}{note}"


@dataclass
class ExportReport:
    """What an export did. `blanks` has one entry for each blank of the templates."""

    paths: list[Path] = field(default_factory=list)
    blanks: list[Blank] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # damaged lines, a lost record, ...

    def __str__(self) -> str:
        lines = []
        for path in self.paths:
            mine = [blank for blank in self.blanks if blank.document == path.stem]
            lines += [f"{path}: {self.counts(path)}", *(f"  {blank}" for blank in mine)]
        return "\n".join(lines + self.notes)

    def counts(self, path: Path) -> str:
        """How many blanks of a document are filled, and how."""
        kinds = Counter(blank.kind for blank in self.blanks if blank.document == path.stem)
        return ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])


def export(
    results_dir: str | os.PathLike | None = None, which: Iterable[str] = DOCUMENTS
) -> ExportReport:
    """Bring the documents in the results folder up to date and say where each blank stands.

    A line that the student edited, added or removed stays so. Raises ResultsError (one sentence)
    when a file cannot be written; the document is then as it was.
    """
    folder = results_folder(results_dir)
    report = ExportReport()
    try:
        with FileLock(str(folder / ".export.lock"), timeout=20):
            for document in which:
                # Read anew for each: what the first document holds is evidence for the checklist.
                facts = Facts.of(folder)
                _export_one(document, folder, facts, report)
    except Timeout as error:
        raise ResultsError(f"Another export into {folder} goes on: wait for its end.") from error
    except OSError as error:
        what = f"The documents in {folder} could not be written ({error.strerror or error})"
        raise ResultsError(f"{what}; what was there stays: free some space.") from error
    report.notes += facts.problems
    return report


def _export_one(document: str, folder: Path, facts: Facts, report: ExportReport) -> None:
    path = folder / f"{document}.md"
    lines, fills = render(document, facts)
    for _ in range(5):  # again if an editor saved the file in the meantime
        before = _read(path)
        base = _read_base(path, before is not None)
        current, ends = _split(before)
        merged = merge(current, base, lines)
        if _read(path) == before:
            break
    else:
        raise ResultsError(f"{path} keeps changing: close it in the other program, export again.")
    after = _join(merged, ends)
    if after != before:
        if before is not None:
            replace_file(path.with_name(path.name + PREVIOUS), before)
        replace_file(path, after)
    record = {
        "about": "Which lines of the document the last export wrote; see helpers/results/merge.py.",
        "lines": merged.base.lines,
        "known": sorted(merged.base.known),
    }
    replace_file(_record_path(path), json.dumps(record, indent=0).encode())
    report.paths.append(path)
    open_lines = {line.key: line for line in lines}
    for key, fill in fills.items():
        report.blanks.append(_stands(document, open_lines[key], fill, merged))
    if differ := [spaced(v) for v in _disagreeing(document, merged, facts) if _answered(facts, v)]:
        where = f"your own edits stay where a form says something else ({', '.join(differ)})"
        report.notes.append(f"{path.name}: {where}; to choose, run the cell of that question.")
    if base.lost and any(line.open != line.text for line in lines):
        lost = "the record of the last export is missing or damaged, so filled lines stay"
        report.notes.append(f"{path.name}: {lost}; put {BLANK} back to have one filled again.")


# ---------------------------------------------------------------- the new text


def render(document: str, facts: Facts) -> tuple[list[Line], dict[str, Fill]]:
    """The document's lines as this export would write them, and each slot's value by line key."""
    text = (TEMPLATES / f"{document}.md").read_text(encoding="utf-8")
    lines, fills = [], {}
    seen = Counter()  # a section has several blank lines
    section = ""
    for raw in text.removesuffix("\n").split("\n"):
        if raw.startswith("#"):
            section = raw
        seen[section, raw] += 1
        number = seen[section, raw]
        key = line_key(section, raw if number == 1 else f"{raw}#{number}")
        slot = SLOTS.get((document, section, raw))
        if slot is None:
            lines.append(Line(key, raw, raw))
        else:
            fills[key] = slot(facts)
            lines += _filled(section, key, raw, fills[key])
    return lines, fills


def _filled(section: str, key: str, raw: str, fill: Fill) -> Iterator[Line]:
    """The lines that a slot makes of a template's line."""
    missing = fill.kind == "missing" and fill is not TAKEN_BACK
    if isinstance(fill.value, list):  # a region: its parts replace the blank
        yield Line(key, None if fill.value else raw, raw)
        for part in fill.value:
            yield Line(line_key(section, raw, part.key), part.text, replaces=part.replaces)
    elif raw.startswith(OPEN_BOX):
        box = raw if fill.kind == "missing" else f"- [x] {raw[len(OPEN_BOX) :]}"
        text = f"{box} ({fill.value})" if fill.value else raw
        yield Line(key, text, raw, missing)
    else:
        filled = BLANK_AND_CHOICE.sub(lambda _: fill.value, raw, count=1) if fill.value else raw
        if fill.value and BLANK not in raw:  # the course has written something: the whole line
            filled = fill.value
        yield Line(key, filled, raw, missing, fill.replaces)


class HandEdit(NamedTuple):
    """What a person wrote into a document where a form's answer goes: the words, the whole line."""

    text: str
    line: str


def hand_edits(results_dir: str | os.PathLike | None = None) -> dict[str, HandEdit]:
    """What differs from what the forms hold, by the answers' variants."""
    folder = results_folder(results_dir)
    facts = Facts.of(folder)
    edits = {}
    for document in DOCUMENTS:
        path = folder / f"{document}.md"
        current, _ = _split(_read(path))
        lines, _ = render(document, facts)
        merged = merge(current, _read_base(path, current is not None), lines)
        edits |= _disagreeing(document, merged, facts)
    return edits


def _disagreeing(document: str, merged: Merged, facts: Facts) -> dict[str, HandEdit]:
    edits = {}
    for key, line in merged.edited.items():
        section, _, rest = key.partition("|")
        raw, _, part = rest.partition("||")
        slot = SLOTS.get((document, section, raw))
        variant = part or getattr(slot, "answer", None)
        if variant and BLANK not in line:
            label = slot.label(part) if part else _label(key)
            words = LIST_SIGN.sub("", line).removeprefix(label).lstrip(" :")
            edit = HandEdit(out_of_markdown(words), line)
            if edit.text != _answered(facts, variant):
                edits[variant] = edit
    return edits


def _answered(facts: Facts, variant: str) -> str:
    return (facts.get("answer", variant) or {}).get("text") or ""


# ---------------------------------------------------------------- where each blank stands


def _stands(document: str, line: Line, fill: Fill, merged: Merged) -> Blank:
    """How a blank was filled, by whom."""
    label, written = _label(line.key), dict(merged.base.lines)
    region = isinstance(fill.value, list)
    parts = region and any(key.startswith(line.key + "||") for key in written)
    if line.key in written or parts:
        text = written.get(line.key, line.open)
        if region:
            value, note = _size(fill), fill.note if _size(fill) != fill.note else ""
            return Blank(document, label, value, fill.kind, note)
        if line.missing and text != line.open and not text.startswith(OPEN_BOX):
            value, note = _value_in(text, line.open), "from an earlier export; not in these results"
            return Blank(document, label, value, "measured", note)
    elif line.key not in merged.edited:
        return Blank(document, label, "", "missing", "the student removed the line")
    elif merged.edited[line.key] != line.text or fill.kind == "missing":
        return _edited(document, label, merged.edited[line.key], line)
    # Also a line that nothing tells to be ours, but that has our words to the letter.
    return Blank(document, label, fill.value, fill.kind, fill.note)


def _edited(document: str, label: str, text: str, line: Line) -> Blank:
    if BLANK in text or text.startswith("- [ ]"):
        note = "not ticked" if line.open.startswith(OPEN_BOX) else "by the student, in the document"
        return Blank(document, label, "", "missing", note)
    own = LIST_SIGN.sub("", text).strip()
    own = own.removeprefix(label).lstrip(" :") if own.startswith(label) else own
    return Blank(document, label, own or "yes", "typed", "by the student, in the document")


def _size(fill: Fill) -> str:
    """What a region holds: "11 results", which says it better than the number of lines."""
    counted = re.match(r"\d+ \w+$", fill.note)
    return fill.note if counted else f"{len(fill.value)} lines" if fill.value else ""


def _value_in(text: str, template: str) -> str:
    """What stands in a line in the place of the template's blank; a checklist's line whole."""
    head, blank, tail = template.partition(BLANK)
    return text.removeprefix(head).removesuffix(tail) if blank else text


def _label(key: str) -> str:
    """What a blank is called in the report: its line's words, or its section's."""
    section, _, line = key.partition("|")
    words = LIST_SIGN.sub("", line).split(BLANK)[0].strip(" :")
    number = re.match(r"(\d+)\. ", line)
    return words or section.lstrip("# ") + (f" {number[1]}" if number else "")


# ---------------------------------------------------------------- files


def _split(data: bytes | None) -> tuple[list[str] | None, list[str]]:
    """(lines without their ends, each line's end); (None, []) for no file.

    Only line feeds separate lines, a carriage return before one belongs to the end. Bytes that are
    not UTF-8 are carried through unchanged (surrogateescape).
    """
    if data is None:
        return None, []
    text = data.decode("utf-8", "surrogateescape")
    pairs = [p for p in re.findall(r"([^\n]*?)(\r?\n|\Z)", text) if any(p)]
    return [line for line, _ in pairs], [end for _, end in pairs]


def _join(merged: Merged, ends: list[str]) -> bytes:
    """Put the ends back: a line that was there keeps its own, a missing last one stays missing."""
    newline = "\r\n" if ends.count("\r\n") * 2 > len(ends) else "\n"
    own = [newline if place is None else ends[place] or newline for place in merged.origin]
    if own and ends and not ends[-1]:
        own[-1] = ""
    text = "".join(line + end for line, end in zip(merged.lines, own, strict=True))
    return text.encode("utf-8", "surrogateescape")


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _record_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.export.json")


def _read_base(path: Path, document_exists: bool) -> Base:
    """The record of the last export. A damaged one counts as lost, which costs only updates."""
    try:
        data = json.loads(_record_path(path).read_text(encoding="utf-8"))
        lines = [(key, text) for key, text in data["lines"]]
        known = set(data["known"])
        words = [*known, *(word for pair in lines for word in pair)]
        keys = {key for key, _ in lines}
        if all(isinstance(word, str) for word in words) and len(keys) == len(lines):
            return Base(lines, known)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    return Base(lost=document_exists)
