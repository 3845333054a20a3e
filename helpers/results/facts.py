"""What the documents are filled from, and what fills one blank.

`Facts` are the records of a results folder that count. A slot is a function of them that returns a
Fill: the text for the blank (or a list of parts for a whole region), whether it was measured,
calculated, typed or is missing, and where it is from. Here is what many slots do; which slot
belongs to which blank is in blanks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from helpers.display.as_typed import in_markdown
from helpers.display.numbers import number
from helpers.results.one_run import latest_that_agree, measured_again
from helpers.results.store import load
from helpers.results.wording import DISTURBED, count, finite, kind_of, origin_of, was_disturbed

# Experiments that have their own place in the documents and are not rows of the results table.
NOT_RESULTS = {
    "answer", "prediction", "checklist", "hardware", "strategy", "self_check", "exercise",
    "puzzle", "week5_plan", "decision",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One line of a region. key: its identity over exports. text: None takes the line out.

    replaces: as of a Fill.
    """

    key: str
    text: str | None
    replaces: str = ""


@dataclass(frozen=True)
class Fill:
    """What a slot has for its blank, as Markdown. note: where it is from.

    replaces: the line that a person wrote into the document and gave up for the form's words.
    """

    value: str | list[Part]
    kind: str  # measured | calculated | typed | missing
    note: str = ""
    replaces: str = ""


MISSING = Fill("", "missing")
TAKEN_BACK = Fill("", "missing", "the student took it back")
NO_LINES = Fill([], "missing")


@dataclass
class Facts:
    """The record of every (notebook, experiment, variant) that counts; see one_run.py.

    stale: part of Weeks 1 to 3 was measured again after the choice that the numbers belong to.
    """

    records: list[dict]
    problems: list[str] = field(default_factory=list)
    stale: bool = False

    @classmethod
    def of(cls, folder: Path) -> Facts:
        """The facts of a results folder; `problems` names its damaged lines."""
        records, problems = load(folder)
        return cls.of_records(records, problems)

    @classmethod
    def of_records(cls, records: list[dict], problems: Iterable[str] = ()) -> Facts:
        """The facts of all records of a folder, in the order in which they were written."""
        return cls(latest_that_agree(records), list(problems), measured_again(records))

    def all(self, experiment: str, prefix: str = "") -> list[dict]:
        """The records of an experiment whose variant begins so."""
        of_experiment = [r for r in self.records if r["experiment"] == experiment]
        return [r for r in of_experiment if r["variant"].startswith(prefix)]

    def get(self, experiment: str, variant: str) -> dict | None:
        """The record saved last under these names, or None."""
        found = [r for r in self.all(experiment, variant) if r["variant"] == variant]
        return found[-1] if found else None

    @property
    def best(self) -> dict | None:
        """The configuration that was chosen last."""
        return self.get("optimised", "best")

    def disturbed(self, notebook: str, value: float | None) -> str:
        """What to add to a number of a notebook whose own record says that others disturbed it."""
        of_it = (r for r in self.records if r["notebook"] == notebook and was_disturbed(r))
        # Whole numbers stand in many records.
        found = value and value % 1 and any(value in r["metrics"].values() for r in of_it)
        return DISTURBED * bool(found)

    def results(self, notebook: str = "") -> list[dict]:
        """What was measured or calculated in the notebooks whose name begins so."""
        found = [r for r in self.records if r["experiment"] not in NOT_RESULTS]
        return [r for r in found if r["notebook"].startswith(notebook)]


Slot = Callable[[Facts], Fill]


# ---------------------------------------------------------------- what many slots do


def from_record(record: dict | None, text: str | list[Part]) -> Fill:
    """`text`, with the record's kind and origin; MISSING without either."""
    return Fill(text, kind_of(record), origin_of(record)) if record and text else MISSING


def metric_of(record: dict | None, name: str, ending: str = "") -> Fill:
    """A number of the record, rounded."""
    value = finite(record["metrics"].get(name)) if record else None
    return MISSING if value is None else from_record(record, number(value) + ending)


def text_of(record: dict | None, name: str) -> Fill:
    """A text of the record."""
    value = record.get(name) if record else None
    return from_record(record, in_markdown(value[:2000]) if isinstance(value, str) else "")


def answer(variant: str) -> Slot:
    """The student's words under this name."""

    def slot(facts: Facts) -> Fill:
        record = facts.get("answer", variant)
        if record and record.get("withdrawn"):
            return TAKEN_BACK
        fill = text_of(record, "text")
        # Words are never measured.
        kind = "typed" if fill.kind == "measured" else fill.kind
        return replace(fill, kind=kind, replaces=_given_up(record))

    slot.answer = variant
    return slot


def _given_up(record: dict | None) -> str:
    line = (record or {}).get("replaces")
    return line if isinstance(line, str) else ""


def list_of(
    prefix: str, thing: str = "answer", label: Callable[[str], str] = lambda variant: ""
) -> Slot:
    """A list that grows: a line for each answer whose variant begins so (concern_1, concern_2).

    What was written alike in several notebooks stands there once.
    """

    def slot(facts: Facts) -> Fill:
        parts, kinds, lines = [], set(), set()
        for record in facts.all("answer", prefix):
            text = text_of(record, "text").value
            if text:
                kinds.add(kind_of(record))
                text = f"- {label(record['variant'])}{text}"
            again = text in lines
            if text or record.get("withdrawn"):
                lines.add(text)
                shown = None if again else text or None
                parts.append(Part(record["variant"], shown, _given_up(record)))
        if not kinds:
            return replace(NO_LINES, value=parts)
        written = sum(part.text is not None for part in parts)
        kind = "calculated" if kinds == {"calculated"} else "typed"
        return Fill(parts, kind, count(written, thing))

    slot.label = label
    return slot
