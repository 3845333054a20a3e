"""How long a class takes on so many machines: `--dry-run` computes it from what was measured.

The figures are those of this class's own submissions when some have been run, else the recorded
ones (throughput.json: each notebook of the workbook, and the reading of a finished submission, with
one and with two submissions at a time on one machine).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from helpers.run.classroom import results
from helpers.run.summary import duration

RECORDED = Path(__file__).with_name("throughput.json")
READING = "reading"  # its key for a submission that is not executed
ENOUGH = 3  # submissions of a class, to go by its own figures
MACHINES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Throughput:
    """Seconds that a submission takes, by how many run at a time on the machine."""

    seconds: dict[int, float]
    source: str


def throughput(out: Path, notebooks: Iterable[str], read_only: bool) -> Throughput:
    """The class's own figures if there are enough of them, else the recorded ones."""
    wanted = ("read",) if read_only else ("ran", "failed")
    own: dict[int, list[float]] = {}
    for student in filter(None, map(results.read, out.glob("students/*"))):
        if student.verdict in wanted:
            own.setdefault(student.at_once, []).append(student.seconds)
    if seconds := {n: statistics.mean(own[n]) for n in sorted(own) if len(own[n]) >= ENOUGH}:
        return Throughput(seconds, f"means of this class's own, in {out}")
    record = json.loads(RECORDED.read_text(encoding="utf-8"))
    parts = [READING] if read_only else list(notebooks)
    seconds = {n: sum(record["seconds"][part][str(n)] for part in parts) for n in (1, 2)}
    what = "the workbook's own notebooks" if not read_only else "finished submissions"
    return Throughput(seconds, f"{what} on {record['machine']}, recorded on {record['date']}")


def plan(students: int, known: Throughput) -> str:
    """The time of the whole class by the number of machines, one column for each way to run it."""
    each = ", ".join(f"{s:.1f} s ({n} at a time)" for n, s in known.seconds.items())
    lines = [
        f"{students} submissions on so many machines, in hours:minutes:seconds.",
        f"One submission on one machine: {each}; {known.source}.",
        "",
        "machines" + "".join(f"{f'{n} at a time':>16}" for n in known.seconds),
    ]
    for machines in MACHINES:
        times = [
            duration(math.ceil(students / (machines * at_once)) * seconds)
            for at_once, seconds in known.seconds.items()
        ]
        lines.append(f"{machines:>8}" + "".join(f"{time:>16}" for time in times))
    return "\n".join(lines)
