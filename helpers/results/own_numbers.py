"""A student's own numbers of Weeks 2 and 3, read from JSON, CSV or a form, checked, marked typed.

    import_numbers("week2.csv", store)
    import_numbers({"throughput": "812 tokens/sec", "gpu": "A10G"}, store)

Names are read as people write them ("Throughput (tok/s)", `tokens_per_second`). A value is taken
only if its unit is known and it lies in a plausible range; everything else is refused with the
reason or listed as ignored, never guessed.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from pathlib import Path

from helpers.results.store import Results, ResultsError

# field -> (unit family, lowest, highest). A family's units are below; "" is a bare number.
FIELDS = {
    "output_tokens_per_s": ("rate", 1e-3, 1e7),
    "total_tokens_per_s": ("rate", 1e-3, 1e8),
    "requests_per_s": ("rate", 1e-6, 1e6),
    "ttft_ms": ("time", 1e-3, 3.6e6),
    "tpot_ms": ("time", 1e-4, 3.6e6),
    "itl_ms": ("time", 1e-4, 3.6e6),
    "e2e_ms": ("time", 1e-3, 8.64e7),
    "duration_s": ("seconds", 1e-3, 1e6),
    "peak_memory_gib": ("memory", 1e-3, 4096),
    "improvement_x": ("factor", 1e-3, 1e4),
    "gpu_memory_utilization": ("share", 0.01, 1.0),
    "max_num_seqs": ("count", 1, 65536),
    "max_num_batched_tokens": ("count", 1, 10_000_000),
    "max_model_len": ("count", 1, 100_000_000),
    "requests": ("count", 1, 1e9),
    "input_tokens": ("count", 0, 1e12),
    "output_tokens": ("count", 0, 1e12),
    "batch_size": ("count", 1, 1e6),
    "gpu_model": ("text", 0, 0),
    "model": ("text", 0, 0),
}
ENGINE_ARGS = ("gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "max_model_len")
# How each field is written once letters and digits are all that is left and units are gone.
ALIASES = {
    "output_tokens_per_s": "throughput outputthroughput outputtokenthroughput generationthroughput "
    "tokenthroughput outputtokens tokens outputtok tok tps toks initialthroughput "
    "finalthroughput baselinethroughput optimizedthroughput optimisedthroughput avgthroughput",
    "total_tokens_per_s": "totalthroughput totaltokenthroughput totaltokens total totaltok",
    "requests_per_s": "requestthroughput requests request req reqs qps rps",
    "ttft_ms": "ttft timetofirsttoken firsttokenlatency",
    "tpot_ms": "tpot timeperoutputtoken",
    "itl_ms": "itl intertokenlatency",
    "e2e_ms": "e2e e2el latency e2elatency requestlatency endtoendlatency avglatency",
    "duration_s": "duration elapsed elapsedtime totaltime benchmarkduration time",
    "peak_memory_gib": "peakmemory gpumemory memory gpumemoryused memoryused peakgpumemory vram",
    "improvement_x": "improvement speedup speedupfactor",
    "gpu_memory_utilization": "gpumemoryutilization gpumemoryutilisation gpuutil memoryutilization optimalgpumemoryutilization",
    "max_num_seqs": "maxnumseqs optimalmaxnumseqs maxseqs",
    "max_num_batched_tokens": "maxnumbatchedtokens",
    "max_model_len": "maxmodellen contextlength",
    "requests": "numrequests numprompts nrequests prompts completed",
    "input_tokens": "inputlen inputlength totalinputtokens inputtokens prompttokens",
    "output_tokens": "outputlen outputlength totaloutputtokens generatedtokens",
    "batch_size": "batchsize concurrency maxconcurrency",
    "gpu_model": "gpumodel gpu gpuname gputype device",
    "model": "model modelname modelid",
}
_BY_ALIAS = {alias: field for field, names in ALIASES.items() for alias in names.split()}
_BY_ALIAS.update({re.sub(r"[^a-z0-9]", "", field): field for field in FIELDS})
# "output tokens" is a count, "output tokens/s" a rate: with a unit per time only rates are meant.
_BY_RATE_ALIAS = {
    alias: field
    for field, names in ALIASES.items()
    if FIELDS[field][0] == "rate"
    for alias in names.split()
}

UNITS = {  # family -> unit -> factor to the unit in the field's name
    "rate": {
        "/s": 1.0,
        "/sec": 1.0,
        "/second": 1.0,
        "/min": 1 / 60,
        "/minute": 1 / 60,
        "/h": 1 / 3600,
    },
    "time": {
        "ms": 1.0,
        "msec": 1.0,
        "milliseconds": 1.0,
        "us": 1e-3,
        "s": 1e3,
        "sec": 1e3,
        "secs": 1e3,
        "seconds": 1e3,
    },
    "seconds": {
        "s": 1.0,
        "sec": 1.0,
        "secs": 1.0,
        "seconds": 1.0,
        "ms": 1e-3,
        "min": 60.0,
        "minutes": 60.0,
    },
    "memory": {"gib": 1.0, "gb": 1e9 / 2**30, "mib": 1 / 1024, "mb": 1e6 / 2**30},
    "factor": {"x": 1.0, "times": 1.0},
    "share": {"%": 0.01, "percent": 0.01},
    "count": {},
    "text": {},
}
# Without a unit these are clear enough; a time or a memory size is not, so it is refused.
BARE = {"rate", "factor", "share", "count", "seconds"}
STATISTICS = {
    "p50": "p50",
    "median": "p50",
    "p90": "p90",
    "p95": "p95",
    "p99": "p99",
    "mean": "mean",
    "avg": "mean",
    "average": "mean",
}
_NUMBER = re.compile(
    r"^\s*([-+]?(?:\d[\d,\s_]*\d|\d)?(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*(.*?)\s*$", re.S
)


def _name(raw: str) -> tuple[str | None, str, str | None]:
    """(field, unit, statistic) of a column's name; field is None when nothing fits."""
    words = [
        w
        for w in re.split(
            r"[^a-z0-9%/]+", str(raw).lower().replace(" per ", "/").replace("_per_", "/")
        )
        if w
    ]
    text = " ".join(words)
    statistic = next((STATISTICS[w] for w in words if w in STATISTICS), None)
    words = [w for w in words if w not in STATISTICS]
    exact = _BY_ALIAS.get(re.sub(r"[^a-z0-9]", "", str(raw).lower()))
    if exact and not exact.endswith(("_ms", "_s", "_gib")):
        return exact, "", statistic
    unit = ""
    if "/" in text:  # a rate: tokens/sec, tok / s, requests/min
        head, _, tail = " ".join(words).replace(" / ", "/").partition("/")
        unit = "/" + (re.match(r"[a-z]*", tail).group() or "")
        words = head.split()
        if len(words) > 1 and words[-1] in ("tok", "tokens", "token", "req", "requests", "toks"):
            # "throughput (tok/s)": the first words say what it is, the last is part of the unit
            if "".join(words) not in _BY_RATE_ALIAS:
                words = words[:-1]
        return _BY_RATE_ALIAS.get("".join(words)), unit, statistic
    elif len(words) > 1 and any(words[-1] in units for units in UNITS.values()):
        unit = words.pop()
    return _BY_ALIAS.get("".join(words)), unit, statistic


def _value(field: str, raw, unit: str, name: str) -> float | int | str:
    """The number in the field's own unit. Raises ResultsError with the reason it is not one."""
    family, low, high = FIELDS[field]
    if family == "text":
        if not isinstance(raw, str) or not raw.strip() or len(raw) > 200:
            raise ResultsError(f"{name}: {raw!r} is not a name: give a short text.")
        return " ".join(raw.split())
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        raise ResultsError(f"{name}: {raw!r} is not a number.")
    number, own_unit = raw, ""
    if isinstance(raw, str):
        match = _NUMBER.match(raw)
        try:
            number = float(re.sub(r"[,\s_]", "", match.group(1)))
        except ValueError:
            raise ResultsError(f"{name}: {raw!r} is not a number.") from None
        own_unit = match.group(2).lower()
        if re.search(r"\d,\d{1,2}$|\d,\d{4,}", match.group(1)):  # 812,5: a decimal comma?
            raise ResultsError(
                f"{name}: {raw!r} can be read in two ways: write the decimal point as '.'."
            )
    if own_unit:
        own_unit = own_unit.replace(" per ", "/").replace(" ", "")
        if family == "rate":
            own_unit = re.sub(
                r"^(tokens?|toks?|requests?|req)(?=/)", "", own_unit
            )  # "tokens/sec" -> "/sec"
            own_unit = re.sub(r"^(tps|rps|qps)$", "/s", own_unit)
        unit = own_unit
    units = UNITS[family]
    if unit and unit not in units:
        if not (family == "count" and own_unit == ""):
            raise ResultsError(
                f"{name}: the unit {unit!r} does not fit {field}; known: {', '.join(units) or 'none'}."
            )
    if not unit and family not in BARE:
        raise ResultsError(
            f"{name}: no unit, so {raw!r} could mean several things: write {name}_"
            f"{'ms or ' + name + '_s' if family == 'time' else 'gib or ' + name + '_gb'}."
        )
    number = float(number) * units.get(unit, 1.0)
    if not math.isfinite(number):
        raise ResultsError(f"{name}: {raw!r} is not a finite number.")
    if not low <= number <= high:
        raise ResultsError(
            f"{name}: {raw!r} is outside what is plausible for {field} ({low:g} to {high:g})."
        )
    if family == "count":
        if number != int(number):
            raise ResultsError(f"{name}: {raw!r} is not a whole number.")
        return int(number)
    return number


def _flat(data: dict, experiment: str) -> dict:
    """One level of name -> value. Sections named after a week or an experiment are chosen by it."""
    wanted = {
        "baseline": ("baseline", "week2", "week12"),
        "optimised": ("optimised", "optimized", "optimization", "week3"),
    }
    plain = lambda key: re.sub(r"[^a-z0-9]", "", str(key).lower())
    sections = {key: value for key, value in data.items() if isinstance(value, dict)}
    named = {
        key: value for key, value in sections.items() if plain(key) in sum(wanted.values(), ())
    }
    if named:
        data = next((v for k, v in named.items() if plain(k) in wanted.get(experiment, ())), None)
        if data is None:
            raise ResultsError(
                f"The file has sections {sorted(named)} but none for {experiment}: add one or say which experiment."
            )
        sections = {key: value for key, value in data.items() if isinstance(value, dict)}
    flat = {key: value for key, value in data.items() if not isinstance(value, (dict, list))}
    for section in sections.values():
        for key, value in section.items():
            if not isinstance(value, (dict, list)):
                flat.setdefault(key, value)
    return flat


def _rows(text: str) -> list[dict]:
    """Rows of a CSV (comma, semicolon or tab), or one row from name,value[,unit] lines."""
    first = text.splitlines()[0] if text.strip() else ""
    delimiter = max(",;\t", key=first.count)
    table = [
        row
        for row in csv.reader(io.StringIO(text), delimiter=delimiter)
        if any(c.strip() for c in row)
    ]
    if not table:
        return []
    header = [cell.strip() for cell in table[0]]
    if (
        len(header) in (2, 3)
        and _name(header[0])[0] is None
        and header[0].lower() in ("name", "metric", "key", "field", "parameter")
    ):
        return [
            {
                row[0]: (row[1].strip() + " " + (row[2].strip() if len(row) > 2 else "")).strip()
                for row in table[1:]
                if len(row) > 1
            }
        ]
    if (
        len(header) in (2, 3)
        and _name(header[0])[0]
        and _NUMBER.match(header[1]).group(1)
        and _name(header[1])[0] is None
    ):
        return [
            {
                row[0].strip(): " ".join(c.strip() for c in row[1:3]).strip()
                for row in table
                if len(row) > 1
            }
        ]
    return [dict(zip(header, (cell.strip() for cell in row))) for row in table[1:]]


def _read(source, row: int | None, experiment: str) -> tuple[dict, str]:
    """({name: value}, where from). Raises ResultsError when there is nothing to read."""
    if isinstance(source, dict):
        return _flat(source, experiment), "a form"
    path = Path(os.fspath(source)).expanduser()
    try:
        if path.stat().st_size > 10 * 2**20:
            raise ResultsError(
                f"{path} is larger than 10 MiB: give the file with the totals, not the raw log."
            )
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ResultsError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path} is not UTF-8 text: save it as UTF-8 CSV or JSON.") from error
    if path.suffix.lower() in (".json", ".jsonl") or text.lstrip()[:1] in ("{", "["):
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ResultsError(f"{path} is not valid JSON ({error}).") from error
        rows = data if isinstance(data, list) else [data]
        rows = [_flat(r, experiment) for r in rows if isinstance(r, dict)]
    else:
        rows = _rows(text)
    if not rows:
        raise ResultsError(f"{path} holds no numbers: expected names and values.")
    if len(rows) > 1 and row is None:
        raise ResultsError(
            f"{path} has {len(rows)} rows: choose one with row=1 to row={len(rows)}."
        )
    if row is not None and not 1 <= row <= len(rows):
        raise ResultsError(f"{path} has {len(rows)} rows, so there is no row {row}.")
    return rows[(row or 1) - 1], path.name


def import_numbers(
    source,
    store: Results | None = None,
    *,
    experiment: str = "baseline",
    variant: str = "typed",
    row: int | None = None,
) -> dict:
    """Read, check and (with `store`) save a student's own numbers.

    source: a path to a JSON or CSV file, or a dict. row: which row of a file with several, from 1.
    Returns the record saved, or the same without id and provenance if there is no store:
    {"metrics", "engine_args", "texts" (gpu_model, model), "source": "typed", "ignored": [names]}.
    Raises ResultsError: file unreadable, unit missing or unknown, value not finite or outside a
    plausible range, the same field twice, or nothing recognised.
    """
    raw, origin = _read(source, row, experiment)
    metrics, engine_args, texts, ignored, taken = {}, {}, {}, [], {}
    # vllm's own throughput benchmark counts prompt and output tokens together.
    whole = {"total_num_tokens", "elapsed_time"} <= set(raw)
    for name, value in raw.items():
        if value is None or value == "":
            continue
        field, unit, statistic = _name(name)
        if whole and field == "output_tokens_per_s":
            field = "total_tokens_per_s"
        if field is None:
            ignored.append(str(name))
            continue
        family = FIELDS[field][0]
        target = field + ("_" + (statistic or "p50") if family == "time" else "")
        if target in taken:
            raise ResultsError(f"{taken[target]!r} and {name!r} both look like {target}: keep one.")
        taken[target] = name
        checked = _value(field, value, unit, str(name))
        {"text": texts}.get(family, engine_args if field in ENGINE_ARGS else metrics)[target] = (
            checked
        )
    if not (metrics or engine_args or texts):
        raise ResultsError(
            f"Nothing in {origin} was recognised (names: {', '.join(map(str, ignored)) or 'none'}): "
            "use names such as throughput, ttft_ms, max_num_seqs, gpu_model."
        )
    found = {
        "metrics": metrics,
        "engine_args": engine_args,
        "texts": texts,
        "source": "typed",
        "origin": origin,
        "ignored": ignored,
    }
    if store is None:
        return {"experiment": experiment, "variant": variant, **found}
    found.pop("metrics"), found.pop("engine_args")
    return store.save(experiment, variant, metrics, engine_args, **found)
