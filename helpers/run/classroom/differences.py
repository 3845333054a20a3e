"""Numbers in a student's text that the student's own measurements do not bear out.

A quantity with a unit (tokens/s, ms, GiB, x), wherever it stands, has to be near a measurement of
that unit; a number without one, in a blank that an export fills, near what it fills in. Lines that
an export writes for these records are not looked at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from helpers.display.numbers import number
from helpers.results import documents
from helpers.results.facts import Facts
from helpers.results.merge import BLANK
from helpers.results.wording import all_numbers, finite, numbers_of, one_line

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
    ("ms", r"_ms(_\w+)?$", 1),  # also ttft_ms_p50, tpot_ms_8_streams
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
    """Numbers in a document that its own measurements do not bear out, one sentence each."""
    ours, fills = documents.render(document, Facts.of_records(records))
    written = {line.text for line in ours}
    pools = _pools(records)
    lines = [line.rstrip("\r") for line in text.split("\n")]
    own = [line for line in lines if line not in written and not line.startswith("#")]
    found = [said for line in own for said in _differ(line, pools)]
    for line in ours:
        label, blank, _ = line.open.partition(BLANK)
        filled = re.match(f"{NUMBER}", str(fills[line.key].value)) if line.key in fills else None
        if blank and filled and fills[line.key].kind != "typed":
            found += _changed(label, filled[0], own)
    return list(dict.fromkeys(found))


def _changed(label: str, filled: str, own: list[str]) -> Iterator[str]:
    """Own lines that begin so and go on with another number than was filled in, without a unit."""
    for line in own:
        said = re.match(rf"({NUMBER})(?!\S)(?!\s*(?:{UNIT}))", line.removeprefix(label))
        if line.startswith(label) and said and not _agrees(said[1], _value(filled)):
            yield f"“{one_line(line, 120)}”: the record says {filled}"


def _differ(line: str, pools: dict[str, list[float]]) -> Iterator[str]:
    for said, unit in re.findall(rf"({NUMBER})\s*({UNIT})", line):
        unit = "tokens/s" if unit.startswith(("tok", "output")) else unit.replace("×", "x")
        unit = "requests/s" if unit.startswith("req") else unit
        pool, value = pools.get(unit, []), _value(said)
        if value and not any(_agrees(said, measured) for measured in pool):
            nearest = min(pool, key=lambda measured: abs(measured - value), default=None)
            near = "" if nearest is None else f"; the nearest is {number(nearest)}"
            yield f"“{one_line(line, 120)}”: no measurement of {said} {unit}{near}"


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def _agrees(said: str, recorded: float) -> bool:
    """Equal up to the tolerance, or up to the digits that the text gives ("about 3 ms")."""
    value = _value(said)
    mantissa = re.sub(r"[eE].*", "", said.replace(",", ""))
    zeros = len(mantissa) - len(mantissa.rstrip("0"))
    step = 10.0 ** (-len(mantissa.partition(".")[2]) if "." in mantissa else zeros)
    step = min(step, 10.0 ** math.floor(math.log10(abs(value)))) if value else step
    return abs(value - recorded) <= max(TOLERANCE * abs(recorded), step / 2)


def _pools(records: list[dict]) -> dict[str, list[float]]:
    """Every measurement by the unit in which a student's words may give it."""
    pools: dict[str, list[float]] = {}
    for record in records:
        arguments = record.get("engine_args") or {}
        sizes = {n: v for n, v in arguments.items() if n.endswith("_bytes") and finite(v)}
        for name, value in (all_numbers(record) | sizes).items():
            for unit, pattern, factor in METRICS:
                if re.search(pattern, name):
                    pools.setdefault(unit, []).append(factor * value)
        if record["experiment"] == "prediction":
            values = numbers_of(record, "predicted", "measured")
            for unit in dict.fromkeys(unit for unit, _, _ in METRICS):
                if str(record.get("unit", "")).endswith(unit):
                    pools.setdefault(unit, []).extend(v for v in values if v is not None)
    return pools
