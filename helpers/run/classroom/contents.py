"""What a submission says: predictions, insights, self-check, checklist, numbers that do not fit.

Reads the student's measurements.jsonl and documents, runs nothing. The self-check is graded anew
from the saved answers; the score that the file claims is not taken on trust.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from helpers.display.as_typed import out_of_markdown
from helpers.lessons.reading_notes import quiz
from helpers.lessons.reading_notes.questions import make_quiz
from helpers.results import documents
from helpers.results.blanks import SLOTS
from helpers.results.facts import Facts
from helpers.results.merge import BLANK
from helpers.results.store import FILE_NAME, latest_of, load
from helpers.results.wording import finite, kind_of, one_line, rounded
from helpers.run.summary import KINDS

MAX_BYTES = {
    FILE_NAME: 20 * 2**20,
    "my_learnings.md": 2**20,
    "my_learnings_appendix.md": 2**20,
    "distributed_planning.md": 2**20,
    ".my_learnings.export.json": 4 * 2**20,
    ".my_learnings_appendix.export.json": 4 * 2**20,
    ".distributed_planning.export.json": 4 * 2**20,
}
TOLERANCE = 0.02
MOST = 20  # differing numbers that are listed for a student
NUMBER = r"(?<![\w.,])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?"
UNIT = (
    r"output tokens/s|tokens?/s(?:ec)?|tok/s|requests?/s|req/s|ms|GiB|MiB|[x×](?![\w])"  # in words
)
# (unit, names of the metrics that are in it, how many of it a metric's own unit is)
METRICS = (
    ("tokens/s", r"tokens_per_s$", 1),
    ("requests/s", r"requests_per_s$", 1),
    ("ms", r"_ms(_p\d+|_mean|_max)?$", 1),
    ("ms", r"(?<!_per)_s$", 1000),
    ("GiB", r"_gib$", 1),
    ("MiB", r"_gib$", 1024),
    ("GiB", r"_bytes$", 2**-30),
    ("MiB", r"_bytes$", 2**-20),
    ("x", r"(_x|ratio)$", 1),
)


def take_file(source: Path, target: Path, limit: int) -> str | None:
    """Copy a plain file of limited size without following links; a sentence if it cannot be."""
    try:
        handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError:
        return f"{source.name} is not a plain file and was left out."
    with os.fdopen(handle, "rb") as stream:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            return f"{source.name} is not a plain file and was left out."
        if info.st_size > limit:
            size = f"{info.st_size / 2**20:,.0f} MiB, more than {limit / 2**20:,.0f} MiB"
            return f"{source.name} is {size}, and was left out."
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


# ---------------------------------------------------------------- numbers that do not fit


def differing_numbers(document: str, text: str, records: list[dict]) -> list[str]:
    """Numbers in a document that its own measurements do not bear out, one sentence each.

    A filled blank or a table's row is held against its own record; a quantity with a unit in the
    student's words (tokens/s, ms, GiB, x) against every measurement of that unit.
    """
    own = [line.rstrip("\r") for line in text.split("\n")]
    lines, fills = documents.render(document, Facts.of_records(records))
    found = []
    checked = {line.text for line in lines if line.text is not None}
    for line in lines:
        for mine, difference in _line_differs(line, fills.get(line.key), own):
            checked.add(mine)
            found.append(difference)
    rows = _rows(records)
    for mine in own:
        if mine.startswith("|"):
            found += _row_differs(mine, rows)
    pools = _pools(records)
    for mine in own:
        if mine not in checked and not mine.startswith(("#", "|")):
            found += _words_differ(mine, pools)
    return list(dict.fromkeys(text for text in found if text))


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def _agrees(said: str, recorded: float, tolerance: float = TOLERANCE) -> bool:
    """Equal up to the tolerance, or up to the digits that the text gives ("about 3 ms")."""
    value = _value(said)
    mantissa = re.sub(r"[eE].*", "", said.replace(",", ""))
    zeros = len(mantissa) - len(mantissa.rstrip("0"))
    step = 10.0 ** (-len(mantissa.partition(".")[2]) if "." in mantissa else zeros)
    step = min(step, 10.0 ** math.floor(math.log10(abs(value)))) if value else step
    return abs(value - recorded) <= max(tolerance * abs(recorded), step / 2)


def _nearest(said: str, pool: list[float]) -> str:
    return rounded(min(pool, key=lambda value: abs(value - _value(said))))


def _line_differs(line, fill, own: list[str]) -> Iterator[tuple[str, str]]:
    """(the student's line, its difference or "") for each where an export writes this line."""
    if "||arg." in line.key:
        head = line.text.partition("=")[0] + "="
        recorded = line.text[len(head) :].partition("`")[0]
        for mine in own:
            if mine.startswith(head) and mine != line.text:
                said = one_line(mine[len(head) :].partition("`")[0], 40)
                differs = said != recorded
                what = f"the text says {said}, the measurement used {recorded}"
                yield mine, f"{head.strip('-` =')}: {what}" if differs else ""
    elif fill is not None and BLANK in line.open and re.fullmatch(NUMBER + "x?", str(fill.value)):
        label, recorded = line.open.split(BLANK)[0], fill.value.rstrip("x")
        for mine in own:
            if mine.startswith(label) and BLANK not in mine:
                said = re.search(NUMBER, mine[len(label) :])
                differs = said and not _agrees(said[0], _value(recorded), 0.01)
                what = f"the text says {said and said[0]}, the measurement is {recorded}"
                yield mine, f"{label.strip('- :')}: {what}" if differs else ""


def _rows(records: list[dict]) -> dict[tuple[str, ...], list[float]]:
    """What each row of the exported tables may say: every value of its record, and in MiB.

    Keys: (experiment, variant) of a result, (name,) of a prediction, as the tables write them.
    """
    rows: dict[tuple[str, ...], list[float]] = {}
    for record in records:
        prediction = record["experiment"] == "prediction"
        names = ("variant",) if prediction else ("experiment", "variant")
        key = tuple(one_line(record[name].replace("_", " "), 300) for name in names)
        pool = rows.setdefault(key, [])
        for name, raw in record["metrics"].items():
            if (value := finite(raw)) is not None:
                pool += [float(n) for n in re.findall(r"_(\d+)_", name)]  # "TPOT 4 streams"
                pool += [value, value * 1024] if name.endswith("_gib") else [value]
        predicted, measured = (finite(record["metrics"].get(k)) for k in ("predicted", "measured"))
        if prediction and predicted and measured is not None:
            pool.append(measured / predicted)
    return rows


def _row_differs(mine: str, rows: dict[tuple[str, ...], list[float]]) -> Iterator[str]:
    """A row of the table of results has four cells, one of the predictions six."""
    cells = [one_line(out_of_markdown(c)) for c in re.split(r"(?<!\\)\|", mine)[1:-1]]
    key, said_in = (cells[:2], cells[2:3]) if len(cells) == 4 else (cells[:1], cells[1:4])
    pool = rows.get(tuple(key)) if len(cells) in (4, 6) else None
    for said in re.findall(NUMBER, " ".join(said_in)) if pool else ():
        if not any(_agrees(said, value, 0.01) for value in pool):
            near = _nearest(said, pool)
            what = f"the text says {said}; the nearest of its measurements is {near}"
            yield f"{', '.join(key)}: {what}"


def _pools(records: list[dict]) -> dict[str, list[float]]:
    """Every measurement by the unit in which a student's words may give it."""
    pools: dict[str, list[float]] = {}
    for record in records:
        metrics = record["metrics"]
        arguments = record.get("engine_args") or {}
        sizes = {name: value for name, value in arguments.items() if name.endswith("_bytes")}
        for name, raw in (metrics | sizes).items():
            for unit, pattern, factor in METRICS:
                if re.search(pattern, name) and finite(raw) is not None:
                    pools.setdefault(unit, []).append(factor * finite(raw))
        if record["experiment"] == "prediction":
            values = [finite(metrics.get(name)) for name in ("predicted", "measured")]
            for unit in dict.fromkeys(unit for unit, _, _ in METRICS):
                if str(record.get("unit", "")).endswith(unit):
                    pools.setdefault(unit, []).extend(v for v in values if v is not None)
    return pools


def _words_differ(mine: str, pools: dict[str, list[float]]) -> Iterator[str]:
    for said, unit in re.findall(rf"({NUMBER})\s*({UNIT})", mine):
        unit = "tokens/s" if unit.startswith(("tok", "output")) else unit.replace("×", "x")
        unit = "requests/s" if unit.startswith("req") else unit
        pool = pools.get(unit, [])
        if _value(said) and not any(_agrees(said, value) for value in pool):
            near = f"; the nearest is {_nearest(said, pool)}" if pool else ""
            yield f"“{one_line(mine, 120)}”: no measurement of {said} {unit}{near}"


# ---------------------------------------------------------------- the student's answers


def predictions(records: list[dict]) -> list[dict]:
    """Predictions and their measurements: key, predicted, measured, ratio, unit, by, after, why."""
    rows = []
    for record in latest_of(records):
        if record["experiment"] != "prediction":
            continue
        predicted, measured = (finite(record["metrics"].get(k)) for k in ("predicted", "measured"))
        if predicted is None:
            continue
        typed = kind_of(record) == "typed"
        rows.append(
            {
                "key": one_line(record["variant"], 80),
                "predicted": predicted,
                "measured": measured,
                "ratio": measured / predicted if measured is not None and predicted else None,
                "unit": one_line(record.get("unit") or "", 30),
                "by": "student" if typed else one_line(record.get("source") or "formula", 30),
                "after": bool(record.get("changed_after_measuring")),
                "why": one_line(record.get("residual") or "", 400),
            }
        )
    return rows


def answers(records: list[dict], prefix: str) -> list[str]:
    """The texts of the answers whose name begins with the prefix."""
    latest = [r for r in latest_of(records) if r["experiment"] == "answer"]
    texts = [r["text"] for r in latest if r["variant"].startswith(prefix) and "text" in r]
    return [one_line(text, 1500) for text in texts if isinstance(text, str) and one_line(text)]


def self_check(records: list[dict]) -> dict | None:
    """The last self-check, graded again from the answers; None without one.

    Returns correct, questions, claimed, wrong (question ids), texts, student and note.
    """
    scores = [r for r in records if (r["experiment"], r["variant"]) == ("self_check", "score")]
    if not scores:
        return None
    record = scores[-1]
    claimed, total = (finite(record["metrics"].get(k)) for k in ("correct", "questions"))
    student = record.get("student") or ""
    result = {
        "correct": claimed,
        "questions": total,
        "claimed": claimed,
        "wrong": [],
        "texts": {},
        "note": "",
        "student": one_line(student, 80),
    }
    try:
        verdicts = grade_again(record)
    except Exception as error:  # answers of another version, or none at all
        result["note"] = f"not graded again: {one_line(error, 120)}"
        return result
    wrong = {id_: text for id_, correct, text in verdicts if correct is False}
    result["correct"] = sum(correct is True for _, correct, _ in verdicts)
    result |= {"questions": len(verdicts), "wrong": list(wrong), "texts": wrong}
    if claimed is not None and claimed != result["correct"]:
        result["note"] = f"the file claims {claimed:g} right"
    return result


def puzzles_solved(records: list[dict]) -> list[str]:
    """The titles of the code puzzles that the student's own notebooks have seen solved."""
    latest = [r for r in latest_of(records) if r["experiment"] == "puzzle"]
    return [one_line(r.get("title") or r["variant"], 80) for r in latest if r.get("solved") is True]


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


def assess(folder: Path, export: Path) -> dict:
    """Everything that the class page shows of a submission's contents.

    folder: the gathered files (see gather). export: a new folder; the student's documents go there
    with their open blanks filled from the student's own measurements.
    """
    records, problems = load(folder / FILE_NAME)
    export.mkdir(parents=True, exist_ok=True)
    for name in MAX_BYTES:
        if (folder / name).exists():
            shutil.copy2(folder / name, export / name)
    blanks = [vars(blank) for blank in documents.export(export).blanks]
    wanted = (FILE_NAME, "my_learnings.md")
    insights = answers(records, "insight_")
    if not insights:  # written into the document by hand
        own = [b for b in blanks if b["kind"] == "typed"]
        insights = [b["value"] for b in own if b["label"].startswith("Key Insights")]
    machines = [(r.get("provenance") or {}).get("machine") or "unknown" for r in records]
    ids = [r["id"] for r in records if isinstance(r.get("id"), str)]
    return {
        "ids": ids[:500],  # to see who shares measurements
        "records": len(records),
        "damaged_lines": len(problems),
        "problems": problems[:10],
        "notes": [f"no {name}" for name in wanted if not (folder / name).exists()],
        "blanks": blanks,
        "counts": {kind: sum(b["kind"] == kind for b in blanks) for kind in KINDS},
        "predictions": predictions(records),
        "insights": insights,
        "questions": answers(records, "question_"),
        "self_check": self_check(records),
        "puzzles": puzzles_solved(records),
        "checklist": _checklist(blanks),
        "differ": _all_differing(folder, records),
        "machines": list(dict.fromkeys(one_line(machine, 80) for machine in machines))[:5],
    }


def _all_differing(folder: Path, records: list[dict]) -> list[str]:
    found = []
    for document in documents.DOCUMENTS:
        path = folder / f"{document}.md"
        if records and path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            found += differing_numbers(document, text, records)
    more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return found[:MOST] + more


def _checklist(blanks: list[dict]) -> list[dict]:
    """The items of the week's checklist that are done, and by whom or what."""
    items = {line.removeprefix("- [ ] ") for _, _, line in SLOTS if line.startswith("- [ ] ")}
    return [
        {
            "item": blank["label"],
            "by": "evidence" if blank["kind"] == "measured" else "student",
            "why": blank["value"],
        }
        for blank in blanks
        if blank["kind"] != "missing" and blank["label"] in items
    ]
