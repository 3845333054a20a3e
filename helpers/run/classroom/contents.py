"""What a submission says: predictions, insights, self-check, checklist, numbers that do not fit.

Reads the student's measurements.jsonl and documents, runs nothing. The self-check is graded anew
from the saved answers; the score that the file claims is not taken on trust.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from helpers.lessons.reading_notes import quiz
from helpers.lessons.reading_notes.questions import make_quiz
from helpers.results import documents
from helpers.results.blanks import CHECKLIST
from helpers.results.store import FILE_NAME, latest_of, load
from helpers.results.wording import by_person, numbers_of, one_line
from helpers.run.classroom import flags
from helpers.run.classroom.differences import differing
from helpers.run.notebook_file import open_plain

MAX_BYTES = {FILE_NAME: 20 * 2**20}
MAX_BYTES |= {f"{document}.md": 2**20 for document in documents.DOCUMENTS}
MAX_BYTES |= {f".{document}.export.json": 4 * 2**20 for document in documents.DOCUMENTS}
MOST_ANSWERS = 100
MOST_CHARACTERS = 4000  # of an answer


def take_file(source: Path, target: Path, limit: int) -> str | None:
    """Copy a plain file of limited size without following links; a sentence if it cannot be."""
    try:
        stream = open_plain(source)
    except FileNotFoundError:
        return None
    if stream is None:
        return f"{source.name} is not a plain file and was left out."
    with stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            sizes = f"{size / 2**20:,.0f} MiB, more than {limit / 2**20:,.0f} MiB"
            return f"{source.name} is {sizes}, and was left out."
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as out:
            shutil.copyfileobj(stream, out)
    return None


def gather(root: Path, into: Path) -> list[str]:
    """Copy the student's measurements and documents out of a submission; notes on what was left."""
    into.mkdir(parents=True, exist_ok=True)
    folders = [root]
    if root.name == "notebooks":  # the results may lie beside them; never above the submission
        folders.append(root.parent)
    folders = [place for folder in folders for place in (folder, folder / "results" / "my_week")]
    notes = []
    for name, limit in MAX_BYTES.items():
        found = next((place / name for place in folders if os.path.lexists(place / name)), None)
        if found and (note := take_file(found, into / name, limit)):
            notes.append(note)
    return notes


# ---------------------------------------------------------------- the student's answers


def predictions(records: list[dict]) -> list[dict]:
    """Predictions and what was measured.

    Each: key, question, predicted, measured, ratio, unit, by ("student", "parameter", "formula"),
    after (the outcome was shown), why (they differ).
    """
    rows = []
    for record in latest_of(records):
        if record["experiment"] != "prediction":
            continue
        predicted, measured = numbers_of(record, "predicted", "measured")
        if predicted is None:
            continue
        rows.append(
            {
                "key": one_line(record["variant"], 80),
                "question": one_line(record.get("question") or "", 400),
                "predicted": predicted,
                "measured": measured,
                "ratio": measured / predicted if measured is not None and predicted else None,
                "unit": one_line(record.get("unit") or "", 30),
                "by": _by(record, "formula"),
                "after": bool(record.get("changed_after_measuring")),
                "why": one_line(record.get("residual") or "", 400),
            }
        )
    return rows


def answers(records: list[dict]) -> list[dict]:
    """What was written or chosen. Each: key, question, text with its line breaks, by."""
    found = []
    for record in latest_of(records):
        text = record.get("text")
        if record["experiment"] == "answer" and isinstance(text, str) and text.strip():
            question = one_line(record.get("question") or "", 400)
            about = {"key": one_line(record["variant"], 80), "question": question}
            words = text.strip().encode("utf-8", "replace").decode()[:MOST_CHARACTERS]
            found.append(about | {"text": words, "by": _by(record, "unknown")})
    return found[:MOST_ANSWERS]


def _by(record: dict, otherwise: str) -> str:
    return "student" if by_person(record) else one_line(record.get("source") or otherwise, 30)


def _written_by_hand(blanks: list[dict]) -> list[dict]:
    """Insights that stand only in the document."""
    typed = [b for b in blanks if b["kind"] == "typed"]
    own = [b["value"] for b in typed if b["label"].startswith("Key Insights")]
    about = {"question": "", "by": "student"}
    return [{"key": f"insight_{n}", "text": text, **about} for n, text in enumerate(own, 1)]


def self_check(records: list[dict]) -> dict | None:
    """The last self-check, graded again from the answers; None without one.

    Returns correct, questions, claimed, wrong (question ids), texts, student and note.
    """
    scores = [r for r in records if (r["experiment"], r["variant"]) == ("self_check", "score")]
    if not scores:
        return None
    record = scores[-1]
    claimed, total = numbers_of(record, "correct", "questions")
    about = {"claimed": claimed, "student": one_line(record.get("student") or "", 80)}
    try:
        verdicts = grade_again(record)
    except Exception as error:  # answers of another version, or none at all
        note = f"not graded again: {one_line(error, 120)}"
        unknown = {"correct": claimed, "questions": total, "wrong": [], "texts": {}}
        return about | unknown | {"note": note}
    wrong = {id_: text for id_, correct, text in verdicts if correct is False}
    correct = sum(correct is True for _, correct, _ in verdicts)
    note = f"the file claims {claimed:g} right" if claimed not in (None, correct) else ""
    graded = {"correct": correct, "questions": len(verdicts), "wrong": list(wrong), "texts": wrong}
    return about | graded | {"note": note}


def puzzles(records: list[dict], here: list[dict]) -> tuple[list[str], list[str], list[str]]:
    """Titles of the code puzzles that count, of those refuted here, of those taken on trust.

    here: what the student's notebooks saved when they ran in class; of those notebooks a puzzle
    counts when it was solved there. Any other counts as the submitted file records it.
    """
    claimed, again = _solved(records), _solved(here)
    ran = {record["notebook"] for record in here}
    unseen = {key: title for key, title in claimed.items() if key not in again}
    refuted = [title for key, title in unseen.items() if key[0] in ran]
    on_trust = [title for key, title in unseen.items() if key[0] not in ran]
    return [*again.values(), *on_trust], refuted, on_trust


def _solved(records: list[dict]) -> dict[tuple[str, str], str]:
    """Titles by (notebook, puzzle)."""
    return {
        (r["notebook"], r["variant"]): one_line(r.get("title") or r["variant"], 80)
        for r in latest_of(records)
        if r["experiment"] == "puzzle" and r.get("solved") is True
    }


def grade_again(record: dict) -> list[tuple[str, bool | None, str]]:
    """(question id, right?, the question's words) for every question, graded from the answers.

    Raises ValueError when the answers were not saved.
    """
    given = record.get("answers")
    if not isinstance(given, dict):
        raise ValueError("the answers were not saved")
    drawn_for = record.get("drawn_for", record.get("student") or "")
    score = quiz.grade(make_quiz(str(drawn_for)), given, record.get("solution_shown") or ())
    return [(one.question.id, one.counts, one.question.text) for one in score.graded]


def assess(folder: Path, export: Path, here: Path) -> dict:
    """Everything that the class page shows of a submission's contents.

    folder: the gathered files (see gather). export: a new folder; the student's documents go there
    with their open blanks filled from the student's own measurements. here: the folder of what the
    notebooks measured in class, if they were executed.
    """
    records, problems = load(folder / FILE_NAME)
    solved, refuted, on_trust = puzzles(records, load(here / FILE_NAME)[0])
    impossible = flags.impossible(records, problems)
    if refuted:
        titles = ", ".join(refuted)
        impossible.append(f"recorded as solved, not solved when the notebooks ran here: {titles}")
    export.mkdir(parents=True, exist_ok=True)
    for name in MAX_BYTES:
        if (folder / name).exists():
            shutil.copy2(folder / name, export / name)
    blanks = [vars(blank) for blank in documents.export(export).blanks]
    wanted = (FILE_NAME, "my_learnings.md")
    said = answers(records)
    if not any(answer["key"].startswith("insight_") for answer in said):
        said += _written_by_hand(blanks)
    machines = [(r.get("provenance") or {}).get("machine") or "unknown" for r in records]
    ids = [r["id"] for r in records if isinstance(r.get("id"), str)]
    return {
        "ids": ids[:500],  # with the numbers: to see who shares measurements
        "numbers": flags.signature(records),
        "impossible": impossible,
        "records": len(records),
        "damaged_lines": len(problems),
        "problems": problems[:10],
        "notes": [f"no {name}" for name in wanted if not (folder / name).exists()],
        "blanks": blanks,
        "counts": {kind: sum(b["kind"] == kind for b in blanks) for kind in documents.KINDS},
        "predictions": predictions(records),
        "answers": said,
        "self_check": self_check(records),
        "puzzles": solved,
        "puzzles_on_trust": on_trust,
        "checklist": _checklist(blanks),
        "differ": differing(folder, records),
        "machines": list(dict.fromkeys(one_line(machine, 80) for machine in machines))[:5],
    }


def _checklist(blanks: list[dict]) -> list[dict]:
    """The items of the week's checklist that are done, and by whom or what."""
    by = {"measured": "evidence"}
    return [
        {"item": b["label"], "by": by.get(b["kind"], "student"), "why": b["value"]}
        for b in blanks
        if b["kind"] != "missing" and b["label"] in CHECKLIST
    ]
