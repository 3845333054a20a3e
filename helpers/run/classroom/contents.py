"""What a submission says: predictions, insights, self-check, checklist, and numbers that do not fit.

Reads the student's measurements.jsonl and documents, runs nothing. The self-check is graded anew
from the saved answers; the score that the file claims is not taken on trust.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from helpers.results import documents
from helpers.results.blanks import Facts, kind_of, number, one_line, show
from helpers.results.merge import BLANK
from helpers.results.store import FILE_NAME, latest_of, load

MAX_BYTES = {
    FILE_NAME: 20 * 2**20,
    "my_learnings.md": 2**20,
    "distributed_planning.md": 2**20,
    ".my_learnings.export.json": 4 * 2**20,
    ".distributed_planning.export.json": 4 * 2**20,
}
TOLERANCE = 0.02
MOST = 20  # differing numbers that are listed for a student
_NUMBER = r"(?<![\w.,])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?"
_QUANTITY = re.compile(
    rf"({_NUMBER})\s*(output tokens/s|tokens?/s(?:ec)?|tok/s|requests?/s|req/s|ms|GiB|MiB|[x×](?![\w]))"
)
UNITS = {
    "tokens/s": r"tokens_per_s$",
    "requests/s": r"requests_per_s$",
    "ms": r"_ms(_p\d+|_mean|_max)?$",
    "GiB": r"_gib$",
    "x": r"(_x|ratio)$",
}


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
            return f"{source.name} is {info.st_size / 2**20:,.0f} MiB, more than {limit / 2**20:,.0f} MiB, and was left out."
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as out:
            shutil.copyfileobj(stream, out)
    return None


def gather(root: Path, into: Path) -> list[str]:
    """Copy the student's measurements and documents out of a submission; notes on what was left."""
    into.mkdir(parents=True, exist_ok=True)
    notes = []
    for name, limit in MAX_BYTES.items():
        places = [
            root / name,
            root / "results" / "my_week" / name,
            root.parent / name,
            root.parent / "results" / "my_week" / name,
        ]
        # root.parent: when the notebooks are in notebooks/ and the results beside it. Never above the submission.
        places = [
            p for p in places if p.parent == root or root in p.parents or root.name == "notebooks"
        ]
        found = next((p for p in places if os.path.lexists(p)), None)
        if found:
            notes += filter(None, [take_file(found, into / name, limit)])
    return notes


# ---------------------------------------------------------------- numbers that do not fit


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def _agrees(said: str, recorded: float, tolerance: float = TOLERANCE) -> bool:
    """Equal up to the tolerance, or up to the digits that the text gives ("about 3 ms")."""
    value = _value(said)
    mantissa = re.sub(r"[eE].*", "", said.replace(",", ""))
    step = (
        10.0 ** -len(mantissa.partition(".")[2])
        if "." in mantissa
        else 10.0 ** (len(mantissa) - len(mantissa.rstrip("0")))
    )
    step = min(step, 10.0 ** math.floor(math.log10(abs(value)))) if value else step
    return abs(value - recorded) <= max(tolerance * abs(recorded), step / 2)


def _rows(records: list[dict]) -> dict[tuple[str, ...], list[float]]:
    """What each row of the exported tables may say: every value of its record, and in MiB.

    Keys: (experiment, variant) of a result, (name,) of a prediction, as the tables write them.
    """
    rows: dict[tuple[str, ...], list[float]] = {}
    for record in records:
        prediction = record["experiment"] == "prediction"
        key = tuple(
            one_line(record[k].replace("_", " "), 300)
            for k in (("variant",) if prediction else ("experiment", "variant"))
        )
        for name, raw in record["metrics"].items():
            value = number(raw)
            if value is not None:
                rows.setdefault(key, []).extend(
                    float(n) for n in re.findall(r"_(\d+)_", name)
                )  # "TPOT 4 streams"
                rows[key].extend([value, value * 1024] if name.endswith("_gib") else [value])
        predicted, measured = (number(record["metrics"].get(k)) for k in ("predicted", "measured"))
        if prediction and predicted and measured is not None:
            rows[key].append(measured / predicted)
    return rows


def differing_numbers(document: str, text: str, records: list[dict]) -> list[str]:
    """Numbers in a document that its own measurements do not bear out, one sentence each.

    A filled blank or a table's row is held against its own record; a quantity with a unit in the
    student's words (tokens/s, ms, GiB, x) against every measurement of that unit.
    """
    lines, fills = documents.render(document, Facts(latest_of(records)))
    own = text.split("\n")
    own = [line.rstrip("\r") for line in own]
    expected = {line.text for line in lines if line.text is not None}
    found, checked = [], set()
    rows = _rows(records)
    for line in lines:
        fill = fills.get(line.key)
        if (
            fill is not None
            and isinstance(fill.value, str)
            and re.fullmatch(_NUMBER + "x?", fill.value)
            and BLANK in line.open
        ):
            label = line.open.split(BLANK)[0]
            for i, mine in enumerate(own):
                if mine.startswith(label) and BLANK not in mine:
                    checked.add(i)
                    said = re.search(_NUMBER, mine[len(label) :])
                    recorded = _value(fill.value.rstrip("x"))
                    if said and not _agrees(said[0], recorded, 0.01):
                        found.append(
                            f"{label.strip('- :')}: the text says {said[0]}, the measurement is {fill.value.rstrip('x')}"
                        )
        elif "||arg." in line.key:
            head = line.text.partition("=")[0] + "="
            for i, mine in enumerate(own):
                if mine.startswith(head) and mine != line.text:
                    checked.add(i)
                    said, recorded = (
                        mine[len(head) :].partition("`")[0],
                        line.text[len(head) :].partition("`")[0],
                    )
                    if said != recorded:
                        found.append(
                            f"{head.strip('-` =')}: the text says {one_line(said, 40)}, the measurement used {recorded}"
                        )

    for i, mine in enumerate(own):
        if not mine.startswith("|"):
            continue
        cells = [one_line(c.replace("\\|", "|")) for c in re.split(r"(?<!\\)\|", mine)[1:-1]]
        pool = (
            rows.get(tuple(cells[:2]))
            if len(cells) == 4
            else rows.get((cells[0],))
            if len(cells) == 6
            else None
        )
        checked.add(i)  # a row of another table is not the student's words
        if pool:
            for said in re.findall(
                _NUMBER, " ".join(cells[2:3] if len(cells) == 4 else cells[1:4])
            ):
                if not any(_agrees(said, value, 0.01) for value in pool):
                    near = min(pool, key=lambda value: abs(value - _value(said)))
                    found.append(
                        f"{', '.join(cells[:2] if len(cells) == 4 else cells[:1])}: the text says {said}; the nearest of its measurements is {show(near)}"
                    )

    pools: dict[str, list[float]] = {}
    for record in records:
        for name, value in record["metrics"].items():
            for unit, pattern in UNITS.items():
                if re.search(pattern, name) and number(value) is not None:
                    pools.setdefault(unit, []).append(number(value))
            if name.endswith("_gib") and number(value) is not None:
                pools.setdefault("MiB", []).append(1024 * number(value))
            if name.endswith("_s") and not name.endswith("_per_s") and number(value) is not None:
                pools.setdefault("ms", []).append(1000 * number(value))
            if (
                record["experiment"] == "prediction"
                and name in ("predicted", "measured")
                and number(value) is not None
            ):
                for unit in UNITS:
                    if str(record.get("unit", "")).endswith(unit):
                        pools.setdefault(unit, []).append(number(value))
        for name, value in {**record["metrics"], **(record.get("engine_args") or {})}.items():
            if name.endswith("_bytes") and number(value) is not None:
                pools.setdefault("GiB", []).append(number(value) / 2**30)
                pools.setdefault("MiB", []).append(number(value) / 2**20)
    for i, mine in enumerate(own):
        if i in checked or mine in expected or mine.startswith("#"):
            continue
        for said, unit in _QUANTITY.findall(mine):
            unit = {
                "output tokens/s": "tokens/s",
                "tok/s": "tokens/s",
                "req/s": "requests/s",
                "×": "x",
            }.get(unit, unit)
            unit = (
                "tokens/s"
                if unit.startswith("token")
                else "requests/s"
                if unit.startswith("request")
                else unit
            )
            pool = pools.get(unit, [])
            if _value(said) and not any(_agrees(said, value) for value in pool):
                close = min(pool, key=lambda value: abs(value - _value(said)), default=None)
                found.append(
                    f"“{one_line(mine, 120)}”: no measurement of {said} {unit}"
                    + (f"; the nearest is {show(close)}" if close is not None else "")
                )
    return list(dict.fromkeys(found))


# ---------------------------------------------------------------- the student's answers


def predictions(records: list[dict]) -> list[dict]:
    """Each prediction with its measurement: key, predicted, measured, ratio, unit, by, why."""
    rows = []
    for record in latest_of(records):
        if record["experiment"] != "prediction":
            continue
        predicted, measured = (number(record["metrics"].get(k)) for k in ("predicted", "measured"))
        if predicted is None:
            continue
        source = record.get("source")
        rows.append(
            {
                "key": one_line(record["variant"], 80),
                "predicted": predicted,
                "measured": measured,
                "ratio": measured / predicted if measured is not None and predicted else None,
                "unit": one_line(record.get("unit") or "", 30),
                "by": "student"
                if kind_of(record) == "typed"
                else one_line(source or "formula", 30),
                "after": bool(record.get("changed_after_measuring")),
                "why": one_line(record.get("residual") or "", 400),
            }
        )
    return rows


def answers(records: list[dict], prefix: str) -> list[str]:
    return [
        one_line(r["text"], 1500)
        for r in latest_of(records)
        if r["experiment"] == "answer"
        and r["variant"].startswith(prefix)
        and isinstance(r.get("text"), str)
        and one_line(r["text"])
    ]


def self_check(records: list[dict], regrade: Callable | None = None) -> dict | None:
    """{"correct", "questions", "wrong": [question ids], "claimed", "student", "note"}; None without one."""
    record = next(
        (
            r
            for r in reversed(records)
            if r["experiment"] == "self_check" and r["variant"] == "score"
        ),
        None,
    )
    if record is None:
        return None
    claimed, total = (number(record["metrics"].get(k)) for k in ("correct", "questions"))
    result = {
        "correct": claimed,
        "questions": total,
        "claimed": claimed,
        "wrong": [],
        "texts": {},
        "note": "",
        "student": one_line(record.get("student") or "", 80),
    }
    try:
        score = (regrade or grade_again)(record.get("student") or "", record.get("answers"))
    except Exception as error:  # answers of another version, or none at all
        result["note"] = f"not graded again: {one_line(error, 120)}"
        return result
    result |= {
        "correct": sum(1 for v in score if v[1] is True),
        "questions": len(score),
        "wrong": [v[0] for v in score if v[1] is False],
        "texts": {v[0]: v[2] for v in score if v[1] is False},
    }
    if claimed is not None and claimed != result["correct"]:
        result["note"] = f"the file claims {claimed:g} right"
    return result


def grade_again(student: str, given) -> list[tuple[str, bool | None, str]]:
    """(question id, right?, the question's words) for every question, graded from the answers."""
    from helpers.lessons.reading_notes import quiz

    if not isinstance(given, dict):
        raise ValueError("the answers were not saved")
    score = quiz.grade(quiz.make_quiz(str(student)), given)
    return [(v.question.id, v.correct, v.question.text) for v in score.verdicts]


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
    report = documents.export(export)
    blanks = [vars(blank) for blank in report.blanks]
    differ, notes = [], []
    if not (folder / FILE_NAME).exists():
        notes.append("no measurements.jsonl")
    for document in documents.DOCUMENTS:
        path = folder / f"{document}.md"
        if path.exists():
            differ += (
                differing_numbers(
                    document, path.read_text(encoding="utf-8", errors="replace"), records
                )
                if records
                else []
            )
        elif document == "my_learnings":
            notes.append("no my_learnings.md")
    if len(differ) > MOST:
        differ = [*differ[:MOST], f"and {len(differ) - MOST} more"]
    insights = answers(records, "insight_")
    if not insights:  # written into the document by hand
        insights = [
            b["value"]
            for b in blanks
            if b["label"].startswith("Key Insights") and b["kind"] == "typed"
        ]
    checklist = [
        {
            "item": b["label"],
            "by": "evidence" if b["kind"] == "measured" else "student",
            "why": b["value"],
        }
        for b in blanks
        if b["kind"] != "missing" and _is_checklist(b["label"])
    ]
    ids = [r["id"] for r in records if isinstance(r.get("id"), str)][
        :500
    ]  # to see who shares measurements
    return {
        "ids": ids,
        "records": len(records),
        "damaged_lines": len(problems),
        "problems": problems[:10],
        "notes": notes,
        "blanks": blanks,
        "counts": {
            kind: sum(b["kind"] == kind for b in blanks)
            for kind in ("measured", "calculated", "typed", "missing")
        },
        "predictions": predictions(records),
        "insights": insights,
        "questions": answers(records, "question_"),
        "self_check": self_check(records),
        "checklist": checklist,
        "differ": differ,
        "machines": list(
            dict.fromkeys(
                one_line((r.get("provenance") or {}).get("machine") or "unknown", 80)
                for r in records
            )
        )[:5],
    }


def _is_checklist(label: str) -> bool:
    from helpers.results.blanks import SLOTS

    return any(line == f"- [ ] {label}" for _, _, line in SLOTS)
