"""Fill my_learnings.md and distributed_planning.md from the results, and keep what the student typed.

    report = export(results_dir)      # again and again, whenever there is something new
    print(report)                     # per blank: measured, calculated, typed or missing

Each line of the templates belongs to a slot below. How a new export is merged with a document that
the student has edited is in helpers/results/merge.py; this module finds the values, and reads and writes
the files: each is replaced in one step, the version before stays beside it (`*.previous`), and
`.NAME.export.json` remembers which lines were ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from helpers import REPO
from helpers.results import blanks
from helpers.results.blanks import Facts, Fill
from helpers.results.merge import BLANK, Base, Line, Merged, line_key, merge
from helpers.results.store import ResultsError, results_folder

TEMPLATES = REPO / "templates"
DOCUMENTS = ("my_learnings", "distributed_planning")
PREVIOUS = ".previous"


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
        return f"{self.kind:<10}  {self.label}: {value or BLANK}" + (
            f"   ({self.note})" if self.note else ""
        )


@dataclass
class ExportReport:
    """What an export did. `blanks` has one entry for each blank of the templates."""

    paths: list[Path] = field(default_factory=list)
    blanks: list[Blank] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # damaged lines, a lost record, ...
    changed: list[Path] = field(default_factory=list)  # files whose text is new

    def of(self, kind: str) -> list[Blank]:
        return [blank for blank in self.blanks if blank.kind == kind]

    measured = property(lambda self: self.of("measured"))
    calculated = property(lambda self: self.of("calculated"))
    typed = property(lambda self: self.of("typed"))
    missing = property(lambda self: self.of("missing"))

    def summary(self) -> str:
        """A line for each document: how many of its blanks are filled, and how."""
        return self._text(blanks=False)

    def __str__(self) -> str:
        return self._text(blanks=True)

    def _text(self, blanks: bool) -> str:
        lines = []
        for path in self.paths:
            mine = [blank for blank in self.blanks if blank.document == path.stem]
            counts = [
                f"{sum(b.kind == kind for b in mine)} {kind}"
                for kind in ("measured", "calculated", "typed", "missing")
            ]
            lines.append(f"{path}: " + ", ".join(counts))
            lines += [f"  {blank}" for blank in mine if blanks]
        return "\n".join(lines + self.notes)


# ---------------------------------------------------------------- the new text


def render(document: str, facts: Facts) -> tuple[list[Line], dict[str, Fill]]:
    """The document's lines as this export would write them, and each slot's value by line key."""
    text = (TEMPLATES / f"{document}.md").read_text(encoding="utf-8")
    lines, fills, seen = [], {}, {}
    section = ""
    for raw in text.removesuffix("\n").split("\n"):
        if raw.startswith("#"):
            section = raw
        number = seen[section, raw] = (
            seen.get((section, raw), 0) + 1
        )  # a section has several blank lines
        key = line_key(section, raw if number == 1 else f"{raw}#{number}")
        slot = blanks.slot_for(document, section, raw)
        if slot is None:
            lines.append(Line(key, raw, raw))
            continue
        fill = fills[key] = slot(facts)
        if isinstance(fill.value, list):  # a region: its parts replace the blank
            lines.append(Line(key, None if fill.value else raw, raw))
            lines += [Line(line_key(section, raw, part.key), part.text) for part in fill.value]
        elif raw.startswith("- [ ] "):
            ticked = fill.kind != "missing"
            lines.append(
                Line(
                    key,
                    f"- [x] {raw[6:]} ({fill.value})" if ticked else raw,
                    raw,
                    missing=not ticked and fill is not blanks.TAKEN_BACK,
                )
            )
        else:
            lines.append(
                Line(
                    key,
                    raw.replace(BLANK, fill.value, 1) if fill.value else raw,
                    raw,
                    missing=not fill.value,
                )
            )
    return lines, fills


def _label(key: str) -> str:
    """What a blank is called in the report: its line's words, or its section's."""
    section, _, line = key.partition("|")
    section = section.lstrip("# ")
    words = re.sub(r"^(- \[ \] |- |\d+\. )", "", line).split(BLANK)[0].strip(" :")
    number = re.match(r"(\d+)\. ", line)
    if not words:
        return section + (f" {number[1]}" if number else "")
    return words


def _blanks(
    document: str, lines: list[Line], fills: dict[str, Fill], merged: Merged
) -> Iterable[Blank]:
    by_key = {line.key: line for line in lines}
    texts = dict(merged.base.lines)
    for key, fill in fills.items():
        label, line = _label(key), by_key[key]
        checklist = line.open.startswith("- [ ] ")
        region = isinstance(fill.value, list)
        state = merged.state[key]
        if region and any(k.startswith(key + "||") for k in texts):
            state = "ours"
        if state == "edited":
            own = merged.edited[key]
            if (
                own == line.text and fill.kind != "missing"
            ):  # without a record of the last export: still our words
                yield Blank(document, label, fill.value, fill.kind, fill.note)
                continue
            open_ = BLANK in own or own.startswith("- [ ]")
            own = re.sub(r"^(- \[.\] |- |\d+\. )", "", own).strip()
            own = own[len(label) :].lstrip(" :") if own.startswith(label) else own
            yield Blank(
                document,
                label,
                "" if open_ else own or "yes",
                "missing" if open_ else "typed",
                "not ticked" if checklist and open_ else "by the student, in the document",
            )
        elif state == "removed":
            yield Blank(document, label, "", "missing", "the student removed the line")
        elif region:
            counted = re.match(
                r"\d+ \w+$", fill.note
            )  # "11 results" says it better than the number of lines
            value = "" if not fill.value else fill.note if counted else f"{len(fill.value)} lines"
            yield Blank(document, label, value, fill.kind, "" if counted else fill.note)
        elif line.missing and texts.get(key, line.open) != line.open:
            head, _, tail = line.open.partition(BLANK)
            value = (
                texts[key]
                if checklist
                else texts[key][len(head) : len(texts[key]) - len(tail) if tail else None]
            )
            yield Blank(
                document, label, value, "measured", "from an earlier export; not in these results"
            )
        else:
            yield Blank(document, label, fill.value, fill.kind, fill.note)


# ---------------------------------------------------------------- files


def _split(data: bytes | None) -> tuple[list[str] | None, list[str], str]:
    """(lines without ends, each line's end, the end for a new line).

    Only line feeds separate lines, a carriage return before one belongs to the end. Bytes that are
    not UTF-8 are carried through unchanged (surrogateescape).
    """
    if data is None:
        return None, [], "\n"
    if not data:
        return [], [], "\n"
    pieces = data.decode("utf-8", "surrogateescape").split("\n")
    ends = ["\n"] * (len(pieces) - 1) + [""]
    if pieces[-1] == "":
        pieces.pop(), ends.pop()
    for i, piece in enumerate(pieces):
        if piece.endswith("\r") and ends[i]:
            pieces[i], ends[i] = piece[:-1], "\r\n"
    crlf = sum(end == "\r\n" for end in ends)
    return pieces, ends, "\r\n" if crlf * 2 > len(ends) else "\n"


def _join(merged: Merged, ends: list[str], newline: str) -> bytes:
    """Put the ends back: a line that was there keeps its own, a missing last one stays missing."""
    own = [newline if place is None else ends[place] or newline for place in merged.origin]
    if own and ends and not ends[-1]:
        own[-1] = ""
    return "".join(line + end for line, end in zip(merged.lines, own)).encode(
        "utf-8", "surrogateescape"
    )


def _replace(path: Path, data: bytes) -> None:
    """Write a file in one step: whoever reads it sees the old text or the new one, never half."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(name, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _record_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.export.json")


def _read_base(path: Path, document_exists: bool) -> tuple[Base, str | None]:
    """The record of the last export. A damaged one counts as lost, which costs only updates."""
    try:
        data = json.loads(_record_path(path).read_text(encoding="utf-8"))
        lines = [(key, text) for key, text in data["lines"]]
        known = set(data["known"])
        if not all(isinstance(word, str) for pair in lines for word in pair) or not all(
            isinstance(k, str) for k in known
        ):
            raise TypeError
        if len({key for key, _ in lines}) != len(lines):
            raise ValueError
        return Base(lines, known), None
    except FileNotFoundError:
        problem = "is missing"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        problem = "is damaged"
    note = None
    if document_exists:
        note = (
            f"{path.name}: the record of the last export {problem}, so lines that are filled in stay as they are; "
            f"put {BLANK} back in a line to have it filled again."
        )
    return Base(lost=document_exists), note


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _export_one(document: str, folder: Path, facts: Facts, report: ExportReport) -> None:
    path = folder / f"{document}.md"
    lines, fills = render(document, facts)
    for _ in range(5):  # again if an editor saved the file in the meantime
        data = _read(path)
        base, note = _read_base(path, data is not None)
        current, ends, newline = _split(data)
        merged = merge(current, base, lines)
        new = _join(merged, ends, newline)
        if _read(path) != data:
            continue
        if new != data:
            if data is not None:
                _replace(path.with_name(path.name + PREVIOUS), data)
            _replace(path, new)
            report.changed.append(path)
        break
    else:
        raise ResultsError(
            f"{path} keeps changing while it is exported: close it in the other program, then export again."
        )
    record = {
        "about": "Which lines of the document the last export wrote; see helpers/results/merge.py.",
        "lines": merged.base.lines,
        "known": sorted(merged.base.known),
    }
    _replace(_record_path(path), json.dumps(record, indent=0).encode())
    report.paths.append(path)
    report.blanks += _blanks(document, lines, fills, merged)
    if note and any(line.open != line.text for line in lines):
        report.notes.append(note)


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
                if document not in DOCUMENTS:
                    raise ValueError(f"which: {document!r} is not one of {DOCUMENTS}.")
                # Read anew for each: what the first document holds is evidence for the checklist.
                facts = Facts.of(folder)
                _export_one(document, folder, facts, report)
    except Timeout as error:
        raise ResultsError(
            f"Another export into {folder} has been running for 20 s: wait for it to end, then export again."
        ) from error
    except OSError as error:
        raise ResultsError(
            f"The documents in {folder} could not be written ({error.strerror or error}): "
            "free some space or give another folder, then export again. What was there is unchanged."
        ) from error
    report.notes += facts.problems
    return report


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m helpers.results.documents",
        description="Export my_learnings.md and distributed_planning.md.",
    )
    parser.add_argument(
        "results_dir", nargs="?", help="folder with measurements.jsonl (default: results/my_week)"
    )
    given = parser.parse_args().results_dir
    if given and not os.path.isdir(given):
        raise SystemExit(f"There is no folder {given}: give the one that holds measurements.jsonl.")
    try:
        print(export(given))
    except ResultsError as error:
        raise SystemExit(str(error))
