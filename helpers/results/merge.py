"""Merge a new export into a document that a student has edited. Pure functions over lines.

The rule that keeps the student's words safe: a line is ours only if it is, character for
character, a line that we wrote there at the last export, or a line of the template with its blank
still open. Only such lines are ever replaced. Every other line is copied to the output as it is,
in the order in which it stands. When in doubt (no record of the last export, a damaged one) fewer
lines are ours, so less is updated and nothing is lost.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from difflib import SequenceMatcher

BLANK = "___"


@dataclass(frozen=True)
class Line:
    """A line of the new export.

    key: its identity over exports, see line_key(). text: None means that the template's line has
    been replaced by the lines that follow (a table) and goes. open: the line as the template has
    it; "" for a line that the template does not have.
    """

    key: str
    text: str | None
    open: str = ""
    missing: bool = False  # this run has no value for the blank; an earlier one stays

    @property
    def group(self) -> str:
        return group_of(self.key)


@dataclass
class Base:
    """What the last export wrote: `lines` as (key, text) in the document's order, and every key
    that was ever written (`known`), so that a line the student removed is not put back."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    lost: bool = False  # there is a document but no usable record of the last export


@dataclass
class Merged:
    lines: list[str]  # the new document
    base: Base  # the record for the next export
    state: dict[str, str]  # key -> "ours" | "edited" | "removed"
    edited: dict[str, str]  # key -> the student's line that stands in its place
    origin: list[int | None]  # for each line, where it stood in the document before


def line_key(section: str, line: str, part: str = "") -> str:
    """Identity of a template's line, or of a `part` of the region that replaces it."""
    return f"{section}|{line}" + (f"||{part}" if part else "")


def group_of(key: str) -> str:
    """A region is a group of its own (its template line and its parts); else the section is."""
    line, _, part = key.partition("||")
    return (
        line
        if part or key.endswith("|" + BLANK) or key.endswith("|- " + BLANK)
        else key.partition("|")[0]
    )


def _pairs(left: list, right: list) -> list[tuple[int, int]]:
    """Equal elements of two sequences, matched in order: [(index left, index right)]."""
    blocks = SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    return [(b.a + n, b.b + n) for b in blocks for n in range(b.size)]


def match(current: list[str], base: Base, new: list[Line]) -> dict[int, str]:
    """Which lines of the document are ours: {index in current: key}. Every other is the student's."""
    texts = [text for _, text in base.lines]
    by_base: dict[int, int] = {b: i for b, i in _pairs(texts, current)}

    # Sections that were moved: a line of ours that is unique on both sides, and its neighbours.
    free = lambda: set(range(len(current))) - set(by_base.values())
    loose = Counter(current[i] for i in free())
    left = Counter(texts[b] for b in range(len(texts)) if b not in by_base)
    for i in sorted(free()):
        text = current[i]
        taken = set(by_base.values())
        b = next((b for b in range(len(texts)) if texts[b] == text and b not in by_base), None)
        if (
            b is not None
            and i not in taken
            and text.strip()
            and loose[text] == 1
            and left[text] == 1
        ):
            by_base[b] = i
            taken.add(i)
            for step in (1, -1):
                b2, i2 = b + step, i + step
                while (
                    0 <= b2 < len(texts)
                    and 0 <= i2 < len(current)
                    and b2 not in by_base
                    and i2 not in taken
                    and texts[b2] == current[i2]
                ):
                    by_base[b2] = i2
                    taken.add(i2)
                    b2, i2 = b2 + step, i2 + step
    ours = {i: base.lines[b][0] for b, i in by_base.items()}

    # Lines that stand as in the template, blank still open: the first export into a copy made by
    # hand, or a student who put ___ back to have the line filled again.
    keyed = set(ours.values())
    left_side = [
        ("ours", line.key) if line.key in keyed else ("text", line.open or line.text or "")
        for line in new
    ]
    right_side = [
        ("ours", ours[i]) if i in ours else ("text", text) for i, text in enumerate(current)
    ]
    for n, i in _pairs(left_side, right_side):
        if i not in ours and new[n].key not in keyed:
            ours[i] = new[n].key
    return ours


def merge(current: list[str] | None, base: Base, new: list[Line]) -> Merged:
    """The document with our lines brought up to date and the student's as they are.

    current: the document's lines without their ends; None when there is no document yet.
    """
    if current is None:
        kept = [(line.key, line.text) for line in new if line.text is not None]
        return Merged(
            [text for _, text in kept],
            Base(kept, {line.key for line in new}),
            {line.key: "ours" for line in new},
            {},
            [None] * len(kept),
        )
    ours = match(current, base, new)
    by_key = {line.key: line for line in new}
    present = set(ours.values())
    # Without a record, what is not there counts as removed, not as new; except the lines that
    # replace a blank which is still open.
    known = base.known | (
        {line.key for line in new if line.open or line.group not in present} if base.lost else set()
    )

    # Where lines that this export has for the first time go: after the line of their group that
    # precedes them; a group whose lines the student has removed or rewritten gets none.
    before: dict[str, list[Line]] = {}
    after: dict[str, list[Line]] = {}
    at_end: list[Line] = []
    groups: dict[str, list[str]] = {}
    for key in present:
        groups.setdefault(group_of(key), []).append(key)
    known_groups = {group_of(key) for key in known}
    order = {key: i for i, key in ours.items()}
    anchor: dict[str, str] = {}
    for line in new:
        if line.key in present:
            anchor[line.group] = line.key
        elif line.key not in known and line.text is not None:
            if line.group in anchor:
                after.setdefault(anchor[line.group], []).append(line)
            elif line.group in groups:
                before.setdefault(min(groups[line.group], key=order.get), []).append(line)
            elif line.group not in known_groups and not base.lost:
                at_end.append(line)

    lines: list[str] = []
    origin: list[int | None] = []
    record: list[tuple[str, str]] = []

    def put(key: str | None, text: str, place: int | None = None) -> None:
        lines.append(text)
        origin.append(place)
        if key is not None:
            record.append((key, text))

    for i, text in enumerate(current):
        key = ours.get(i)
        if key is None:
            put(None, text, i)  # the student's
            continue
        for line in before.get(key, ()):
            put(line.key, line.text)
        line = by_key.get(key)
        if line is None or line.missing:
            put(key, text, i)  # a value of an earlier export that this run has not: it stays
        elif line.text is not None:
            put(key, line.text, i)
        for line in after.get(key, ()):
            put(line.key, line.text)
    if at_end and lines and lines[-1].strip():
        put(None, "")
    for line in at_end:
        put(line.key, line.text)

    state, edited = _states(current, ours, new, {key for key, _ in record})
    return Merged(lines, Base(record, known | {key for key, _ in record}), state, edited, origin)


def _without_box(line: str) -> str:
    """A checklist line without its box, ticked or not; any other line as it is."""
    return line[6:] if line.startswith("- [") and line[4:6] == "] " else line


def _states(current, ours, new, written_now) -> tuple[dict[str, str], dict[str, str]]:
    """Per key: ours, edited (and by which line) or removed. For the report only."""
    state, edited = {}, {}
    place = {key: i for i, key in ours.items()}
    used: set[int] = set()
    for n, line in enumerate(new):
        if line.key in written_now:
            state[line.key] = "ours"
            continue
        state[line.key] = "removed"
        label = (
            line.open.split(BLANK)[0]
            if BLANK in line.open
            else line.open[6:]
            if line.open.startswith("- [ ] ")
            else ""
        )
        if not label.strip():
            continue
        # The student's line with the same label, nearest after our last line before it.
        start = max((place[k.key] for k in new[:n] if k.key in place), default=-1)
        found = next(
            (
                i
                for i in [*range(start + 1, len(current)), *range(0, start + 1)]
                if i not in ours
                and i not in used
                and _without_box(current[i]).startswith(label.rstrip())
            ),
            None,
        )
        if found is not None:
            used.add(found)
            state[line.key], edited[line.key] = "edited", current[found]
    return state, edited
