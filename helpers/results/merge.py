"""Merge a new export into a document that a student has edited. Pure functions over lines.

The rule that keeps the student's words safe: a line is ours only if it is, character for
character, a line that we wrote there at the last export, or a line of the template with its blank
still open. Only such lines are ever replaced. Every other line is copied to the output as it is,
in the order in which it stands. When in doubt (no record of the last export, a damaged one) fewer
lines are ours, so less is updated and nothing is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

BLANK = "___"
ITEM = "- "
OPEN_BOX = "- [ ] "


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
    replaces: str = ""  # the whole line that the student wrote, and has since given up for ours

    @property
    def group(self) -> str:
        """See group_of()."""
        return group_of(self.key)

    @property
    def in_a_list(self) -> bool:
        """Whether it is a list's blank, or one of the items in its place."""
        return self.key.partition("||")[0].endswith(f"|{ITEM}{BLANK}")

    @property
    def label(self) -> str:
        """The words before the blank or beside the box, by which an edited line is found."""
        if BLANK in self.open:
            return self.open.split(BLANK)[0].rstrip()
        return self.open.removeprefix(OPEN_BOX) if self.open.startswith(OPEN_BOX) else ""


@dataclass
class Base:
    """What the last export wrote.

    lines: (key, text) in the document's order. known: every key that was ever written, so that a
    line the student removed is not put back.
    """

    lines: list[tuple[str, str]] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    lost: bool = False  # there is a document but no usable record of the last export


@dataclass
class Merged:
    """The new document, and what the report and the next export need to know of it."""

    lines: list[str]
    origin: list[int | None]  # for each line, where it stood in the document before
    base: Base  # the record for the next export
    edited: dict[str, str]  # key of a line that is not in `base` -> the student's in its place


def line_key(section: str, line: str, part: str = "") -> str:
    """Identity of a template's line, or of a `part` of the region that replaces it."""
    return f"{section}|{line}" + (f"||{part}" if part else "")


def group_of(key: str) -> str:
    """A region is a group of its own (its template line and its parts); else the section is."""
    line, _, part = key.partition("||")
    is_region = part or key.endswith(("|" + BLANK, "|- " + BLANK))
    return line if is_region else key.partition("|")[0]


def merge(current: list[str] | None, base: Base, new: list[Line]) -> Merged:
    """The document with our lines brought up to date and the student's as they are.

    current: the document's lines without their ends; None when there is no document yet.
    """
    if current is None:
        kept = [(line.key, line.text) for line in new if line.text is not None]
        record = Base(kept, {line.key for line in new} - _taken_out(new))
        return Merged([text for _, text in kept], [None] * len(kept), record, {})

    ours = match(current, base, new)
    known = base.known | (_known_without_record(ours, new) if base.lost else set())
    theirs = _in_their_place(current, ours, known, new)
    added, at_end = _additions(ours | {i: key for key, i in theirs.items()}, known, new)
    by_key = {line.key: line for line in new}
    document: list[tuple[str | None, str, int | None]] = []  # key, text, where it stood
    for i, text in enumerate(current):
        document += [(line.key, line.text, None) for line in added.get(i, ())]
        line = by_key.get(ours.get(i))
        # A value of an earlier export stays; beside an open box stands what there is now.
        now = line and (not line.missing or (line.text != line.open and text.startswith(OPEN_BOX)))
        if now:
            text = line.text
        if text is not None:
            document.append((ours.get(i), text, i))
    document += [(line.key, line.text, None) for line in added.get(len(current), ())]
    if at_end and document and document[-1][1].strip():
        document.append((None, "", None))
    document += [(line.key, line.text, None) for line in at_end]

    record = [(key, text) for key, text, _ in document if key is not None]
    written = {key for key, _ in record}
    return Merged(
        [text for _, text, _ in document],
        [place for _, _, place in document],
        Base(record, (known | written) - _taken_out(new)),
        {key: current[i] for key, i in theirs.items()},
    )


def _taken_out(new: list[Line]) -> set[str]:
    """Parts that this export leaves out: no student removed them, and they may come again."""
    return {line.key for line in new if line.text is None and not line.open}


def match(current: list[str], base: Base, new: list[Line]) -> dict[int, str]:
    """Which lines of the document are ours: {index in current: key}. Others are the student's."""
    given_up = {line.replaces: line.open or line.text for line in new if line.replaces}
    current = [given_up.get(text, text) for text in current]
    written = _pairs([text for _, text in base.lines], current)
    ours = {i: base.lines[b][0] for b, i in written}
    # Lines that stand as in the template, blank still open: the first export into a copy made by
    # hand, or a student who put ___ back to have the line filled again.
    keyed = set(ours.values())
    template = [
        ("ours", line.key) if line.key in keyed else ("text", line.open or line.text or "")
        for line in new
    ]
    document = [("ours", ours[i]) if i in ours else ("text", t) for i, t in enumerate(current)]
    for n, i in _pairs(template, document):
        ours.setdefault(i, new[n].key)
    return ours


def _pairs(left: list, right: list) -> list[tuple[int, int]]:
    """Which elements of two sequences are the same one: [(index left, index right)].

    An element that stands once on each side is, wherever it has been moved to; then whatever
    stands on both sides between the same two of those, in order.
    """
    times_left, times_right = Counter(left), Counter(right)
    pairs = {
        n: right.index(element)
        for n, element in enumerate(left)
        if times_left[element] == 1 == times_right[element]
    }
    taken = set(pairs.values())
    for step, start in ((1, -1), (-1, len(right))):
        last = start
        for n in range(len(left))[::step]:
            stretch = _free(last + step, step, taken, len(right))
            found = next((i for i in stretch if right[i] == left[n]), None)
            if n not in pairs and found is not None:
                pairs[n] = found
                taken.add(found)
            last = pairs.get(n, last)
    return sorted(pairs.items())


def _free(start: int, step: int, taken: set[int], end: int) -> Iterator[int]:
    """The indices from `start` on to the next one that is taken."""
    i = start
    while 0 <= i < end and i not in taken:
        yield i
        i += step


def _known_without_record(ours: dict[int, str], new: list[Line]) -> set[str]:
    """What counts as removed, not as new, when nothing tells what was written.

    All that is not there, except the lines that replace a blank which is still open.
    """
    present = set(ours.values())
    return {line.key for line in new if line.open or line.group not in present}


def _additions(
    ours: dict[int, str], known: set[str], new: list[Line]
) -> tuple[dict[int, list[Line]], list[Line]]:
    """Where lines that this export has for the first time go.

    Returns ({index in the document: lines to put before it}, lines for the end). A line follows
    the line of its group that precedes it. A group whose lines the student has removed or
    rewritten gets none; one that no export has had before goes to the end.
    """
    place = {key: i for i, key in ours.items()}
    next_in: dict[str, int] = {}  # group -> where its next line goes: at first, before the first
    for i in sorted(ours):
        next_in.setdefault(group_of(ours[i]), i)
    known_groups = {group_of(key) for key in known}
    added: dict[int, list[Line]] = {}
    at_end = []
    for line in new:
        if line.key in place:
            next_in[line.group] = place[line.key] + 1
        elif line.key in known or line.text is None:
            continue
        elif line.group in next_in:
            added.setdefault(next_in[line.group], []).append(line)
        elif line.group not in known_groups:
            at_end.append(line)
    return added, at_end


def _in_their_place(
    current: list[str], ours: dict[int, str], known: set[str], new: list[Line]
) -> dict[str, int]:
    """For lines of ours that the student rewrote: where theirs stands, {key: index in current}.

    It has the same label (of several the nearest after our last line before it), or is the first
    item where an item of ours was.
    """
    place = {key: i for i, key in ours.items()}
    theirs = {i: _without_box(text) for i, text in enumerate(current) if i not in ours}
    filled = {line.group for line in new if line.in_a_list and not line.open and line.key in known}
    found = {}
    last = -1
    for line in new:
        if line.key in place:
            last = place[line.key]
        elif line.in_a_list:
            if line.key not in known or (line.open and line.group in filled):
                continue
            stretch = (i for i in _free(last + 1, 1, set(ours), len(current)) if i in theirs)
            at = next((i for i in stretch if theirs[i].startswith(ITEM)), None)
            if at is not None:
                found[line.key] = last = at
                del theirs[at]
        elif line.label:
            like = [i for i, text in theirs.items() if text.startswith(line.label)]
            if like:
                found[line.key] = nearest = min(like, key=lambda i: (i <= last, i))
                del theirs[nearest]
    return found


def _without_box(line: str) -> str:
    """A checklist line without its box, ticked or not; any other line as it is."""
    return line[len(OPEN_BOX) :] if line.startswith("- [") and line[4:6] == "] " else line
