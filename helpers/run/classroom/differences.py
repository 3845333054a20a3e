"""Numbers in a student's text that the student's own measurements do not bear out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from helpers.display.as_typed import out_of_markdown
from helpers.results import documents
from helpers.results.facts import Facts
from helpers.results.merge import BLANK
from helpers.results.wording import finite, one_line, rounded

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


def differing(folder: Path, records: list[dict]) -> list[str]:
    """Of all documents in a folder, the first of them and how many more there are."""
    found = []
    for document in documents.DOCUMENTS:
        path = folder / f"{document}.md"
        if records and path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            found += differing_numbers(document, text, records)
    more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return found[:MOST] + more


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
