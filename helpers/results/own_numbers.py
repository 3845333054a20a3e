"""A student's own numbers of Weeks 2 and 3, from JSON, CSV or a dict: checked, marked as typed.

    import_numbers("week2.csv", store)
    import_numbers({"throughput": "812 tokens/sec", "gpu": "A10G"}, store)

A file has a column for each number, or a line `name,value,unit`. The names are those of `FIELDS`,
in any case, with spaces or underscores; beside them may stand a statistic ("p99 ttft"), a unit
("latency (s)", "tokens/min") and words such as "optimal". A number is taken only if its unit is
known and it lies in a plausible range; everything else is refused with the reason or listed as
ignored, never guessed.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import NamedTuple

from helpers.display.numbers import NotANumber, is_unit, read_number, split_number
from helpers.results.store import Results, ResultsError


class Field(NamedTuple):
    """A number's unit ("" is a count, "text" a name), plausible range and column names."""

    unit: str
    low: float
    high: float
    names: str  # separated by commas, beside the field's own


FIELDS = {
    "output_tokens_per_s": Field(
        "tokens/s", 1e-3, 1e7, "throughput, output throughput, tokens, output tokens, tok, tps"
    ),
    "total_tokens_per_s": Field(
        "tokens/s", 1e-3, 1e8, "total throughput, total token throughput, total tokens"
    ),
    "requests_per_s": Field("requests/s", 1e-6, 1e6, "request throughput, requests, req, rps, qps"),
    "ttft_ms": Field("ms", 1e-3, 3.6e6, "ttft, time to first token"),
    "tpot_ms": Field("ms", 1e-4, 3.6e6, "tpot"),
    "itl_ms": Field("ms", 1e-4, 3.6e6, "itl, inter token latency"),
    "e2e_ms": Field("ms", 1e-3, 8.64e7, "e2e, e2el, latency, request latency"),
    "duration_s": Field("s", 1e-3, 1e6, "duration, elapsed time, total time"),
    "peak_memory_gib": Field("GiB", 1e-3, 4096, "peak memory, gpu memory, memory"),
    "improvement_x": Field("x", 1e-3, 1e4, "improvement, speedup"),
    "gpu_memory_utilization": Field("share", 0.01, 1.0, ""),
    "max_num_seqs": Field("", 1, 1e6, ""),
    "max_num_batched_tokens": Field("", 1, 1e8, ""),
    "max_model_len": Field("", 1, 1e8, ""),
    "requests": Field("", 1, 1e9, "num requests, num prompts, completed"),
    "input_tokens": Field("", 0, 1e12, "total input tokens, input len, prompt tokens"),
    "output_tokens": Field("", 0, 1e12, "total output tokens, output len"),
    "batch_size": Field("", 1, 1e6, "concurrency, max concurrency"),
    "gpu_model": Field("text", 0, 0, "gpu, gpu name"),
    "model": Field("text", 0, 0, "model name, model id"),
}
ENGINE_ARGS = ("gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "max_model_len")
STATISTICS = {"median": "p50", "avg": "mean", "average": "mean"}
STATISTICS |= {name: name for name in ("p50", "p90", "p95", "p99", "mean")}
BESIDE = {"optimal", "initial", "final", "baseline", "optimised", "optimized"}
LATER = re.compile(r"week\W*3|optimi", re.IGNORECASE)  # a section that is not the baseline


def import_numbers(source, store: Results | None = None, row: int | None = None) -> dict:
    """Read, check and (with `store`) save a student's own numbers as baseline, typed.

    source: a path to a JSON or CSV file, or a dict. row: which row of a file with several, from 1.
    Returns the record saved, or the same without id and provenance if there is no store:
    {"metrics", "engine_args", "texts" (gpu_model, model), "source": "typed", "ignored": [names]}.
    Raises ResultsError: file unreadable, unit missing or unknown, value not finite or outside a
    plausible range, the same field twice, or nothing recognised.
    """
    raw, origin = _read(source, row)
    found = {"metrics": {}, "engine_args": {}, "texts": {}}
    ignored, taken = [], {}
    # vllm's own throughput benchmark counts prompt and output tokens together.
    all_tokens = {"total_num_tokens", "elapsed_time"} <= set(raw)
    for name, value in raw.items():
        if value is None or value == "":
            continue
        field, unit, statistic = column_of(name)
        if field is None:
            ignored.append(str(name))
            continue
        if all_tokens and field == "output_tokens_per_s":
            field = "total_tokens_per_s"
        target = f"{field}_{statistic or 'p50'}" if FIELDS[field].unit == "ms" else field
        if target in taken:
            raise ResultsError(f"{taken[target]!r} and {name!r} both look like {target}: keep one.")
        taken[target] = name
        part = "engine_args" if field in ENGINE_ARGS else "metrics"
        part = "texts" if FIELDS[field].unit == "text" else part
        found[part][target] = _checked(field, value, unit, str(name))
    if not taken:
        what = f"Nothing in {origin} was recognised (names: {', '.join(ignored) or 'none'})"
        raise ResultsError(f"{what}: use names such as throughput, ttft_ms, gpu_model.")
    found |= {"source": "typed", "origin": origin, "ignored": ignored}
    if store is None:
        return {"experiment": "baseline", "variant": "typed", **found}
    return store.save("baseline", "typed", **found)


def column_of(name: str) -> tuple[str | None, str, str | None]:
    """(field, unit, statistic) of a column's name; field is None when nothing fits."""
    text = re.sub(r"[\s_]+per[\s_]+|\s+/\s+", "/", str(name).lower())
    words = re.findall(r"[a-z0-9%/]+", text)
    statistic = next((STATISTICS[word] for word in words if word in STATISTICS), None)
    words = [word for word in words if word not in STATISTICS and word not in BESIDE]
    head, slash, per = " ".join(words).partition("/")
    if slash:  # "tokens/sec", or "throughput tok/s", where the last word belongs to the unit
        field = _named(head, rate=True) or _named(head.rpartition(" ")[0], rate=True)
        return field, f"/{per}", statistic
    if words and is_unit(words[-1]) and (field := _named(" ".join(words[:-1]))):
        return field, words[-1], statistic
    return _named(head), "", statistic


def _named(name: str, rate: bool = False) -> str | None:
    """The field of that name. "output tokens" is a count, and a rate where it is a rate's name."""
    rates = [field for field, about in FIELDS.items() if about.unit.endswith("/s")]
    for field in rates if rate else [*(f for f in FIELDS if f not in rates), *rates]:
        if name and name in (field.replace("_", " "), *FIELDS[field].names.split(", ")):
            return field
    return None


def _checked(field: str, raw, unit: str, name: str) -> float | int | str:
    """The number in the field's own unit. Raises ResultsError with the reason it is not one."""
    wanted, low, high, _ = FIELDS[field]
    if wanted == "text":
        if not isinstance(raw, str) or not 0 < len(raw.strip()) <= 200:
            raise ResultsError(f"{name}: {raw!r} is not a name: give a short text.")
        return " ".join(raw.split())
    text, own_unit = str(raw), split_number(str(raw))[1]
    if not own_unit and unit:
        text += f" {unit}"
    elif not own_unit and wanted in ("ms", "GiB"):  # a time in s or ms, a size in GB or GiB?
        could = f"has no unit, so it could mean several things: write {name}_{wanted.lower()}"
        raise ResultsError(f"{name}: {raw!r} {could}.")
    try:
        value = read_number(text, wanted, low, high)
    except NotANumber as error:
        raise ResultsError(f"{name}: {error}") from error
    if not wanted and value != int(value):
        raise ResultsError(f"{name}: {raw!r} is not a whole number.")
    return value if wanted else int(value)


# ---------------------------------------------------------------- files


def _read(source, row: int | None) -> tuple[dict, str]:
    """({name: value}, where from). Raises ResultsError when there is nothing to read."""
    if isinstance(source, dict):
        return _flat(source), "a form"
    path = Path(source).expanduser()
    kind = "UTF-8 text"
    try:
        text = path.read_text(encoding="utf-8-sig")
        kind = "valid JSON" if text.lstrip()[:1] in ("{", "[") else "valid CSV"
        rows = _json_rows(text) if kind == "valid JSON" else _csv_rows(text)
    except OSError as error:
        raise ResultsError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path} is not {kind} ({error}): save it anew.") from error
    if not rows:
        raise ResultsError(f"{path} holds no numbers: expected names and values.")
    if len(rows) > 1 and row is None:
        choice = f"row=1 to row={len(rows)}"
        raise ResultsError(f"{path} has {len(rows)} rows: choose one with {choice}.")
    if row is not None and not 1 <= row <= len(rows):
        raise ResultsError(f"{path} has {len(rows)} rows, so there is no row {row}.")
    return rows[(row or 1) - 1], path.name


def _json_rows(text: str) -> list[dict]:
    data = json.loads(text)
    rows = data if isinstance(data, list) else [data]
    return [_flat(row) for row in rows if isinstance(row, dict)]


def _flat(data: dict) -> dict:
    """One level of name -> value: sections are opened, except those of Week 3."""
    flat = {key: value for key, value in data.items() if not isinstance(value, (dict, list))}
    for name, section in data.items():
        if isinstance(section, dict) and not LATER.search(str(name)):
            flat = {**_flat(section), **flat}
    return flat


def _csv_rows(text: str) -> list[dict]:
    """Rows of a CSV (comma, semicolon or tab), or one row from name,value[,unit] lines."""
    import pandas as pd  # here: it takes longer to import than all of results

    if not text.strip():
        return []
    separator = max(",;\t", key=text.partition("\n")[0].count)
    table = pd.read_csv(
        io.StringIO(text), sep=separator, header=None, dtype=str, keep_default_na=False
    )
    header, *lines = table.map(str.strip).values.tolist()
    names_below = any(column_of(line[0])[0] for line in lines)
    if len(header) in (2, 3) and (names_below or not lines):
        return [{name: " ".join(rest).strip() for name, *rest in (header, *lines)}]
    return [dict(zip(header, line, strict=True)) for line in lines]
