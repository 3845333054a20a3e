"""How wrong the planner is: every recorded configuration against what the planner says of it today.

Records are written by benchmarks/record_planner.py (one JSON line for each configuration, with the prediction that
was committed before the run; gpu1_H100-SXM_engine_logs holds start messages of other engines, without a prediction).
``compare`` predicts each again with the present formulas, once without any
measurement and once after one run of that machine: the reference configuration's TPOT of one stream and the
prefill of one prompt, nothing else.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from .hardware import GIB, make_box
from .inventory import cpu_box
from .memory import EngineOptions, plan_memory
from .models import ModelShape, load_shape
from .predict import Point, calibrate, decode_parts, default_tuning, prefill_parts, streams_at_once

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "benchmarks" / "records"
TARGETS = {
    "kv_cache_tokens": 0.03,
    "weights_gib": 0.01,
    "tpot_ms": 0.15,
    "prefill_ms": 0.15,
    "speedup": 0.15,
}


@dataclass(frozen=True)
class Row:
    """One number of one configuration. ``committed``: predicted before the run; ``plain``: today, without
    calibration; ``calibrated``: today, after one run of that machine. Errors are predicted / measured - 1."""

    machine: str
    config: str
    quantity: str
    case: str
    measured: float
    committed: float | None
    plain: float
    calibrated: float
    holdout: bool = False
    reference: bool = False  # this number was used for the calibration

    def error(self, which: str = "calibrated") -> float | None:
        value = getattr(self, which)
        return None if value is None else value / self.measured - 1


def load_records(folder=None) -> list[dict]:
    """All records of a folder (the last one of each id and file), without those that failed."""
    found = []
    for path in sorted(Path(folder or RECORDS).glob("*.jsonl")):
        last = {}
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
                last[record["id"]] = record
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a run that was cut off
        found += [
            {**r, "file": path.stem} for r in last.values() if not r["measured"].get("problem")
        ]
    return found


def _shape(record) -> ModelShape:
    model = record["config"]["model"]
    return load_shape(
        str(ROOT / "helpers" / "tiny_model" / "target") if model == "shipped" else model
    )


def _box(record):
    config = record["config"]
    world = config["tp"] * config["pp"] * config["dp"]
    if record["gpu"] == "CPU":
        return cpu_box(world, record["machine"].get("probe") or record.get("probe"))
    ranks = record["measured"].get("memory_by_rank") or [{}]
    total = ranks[0].get("total")
    return make_box(record["gpu"], world, usable_gib=total / GIB if total else None)


def _options(record) -> EngineOptions:
    known = EngineOptions.__dataclass_fields__
    return EngineOptions(**{k: v for k, v in record["config"]["engine_args"].items() if k in known})


def _memory(record):
    config = record["config"]
    return plan_memory(
        _shape(record),
        _box(record),
        config["tp"],
        config["pp"],
        config["dp"],
        _options(record),
        usage="llm",
    )


def _reference(records) -> dict | None:
    """The record that calibrates a machine: the first on one GPU that is not held out."""
    single = [r for r in records if r["config"]["tp"] * r["config"]["pp"] * r["config"]["dp"] == 1]
    return next(
        (r for r in single if not r["config"].get("holdout") and r["measured"].get("tpot_ms")), None
    )


def _calibration(record):
    """Two numbers of one run: TPOT of one stream, prefill of the middle prompt length."""
    measured, shape = record["measured"], _shape(record)
    tpot_key = min(measured["tpot_ms"], key=lambda k: tuple(map(int, k.split("x"))))
    streams, tokens = map(int, tpot_key.split("x"))
    lengths = sorted(measured["prefill_ms"], key=int)
    prompt = lengths[len(lengths) // 2]
    chunk = measured["max_num_batched_tokens"]
    points = [
        Point(concurrency=streams, input_tokens=tokens, output_tokens=record["config"]["output"],
              tpot_s=measured["tpot_ms"][tpot_key] / 1e3, shape=shape, chunk=chunk),
        Point(input_tokens=int(prompt), prefill_s=measured["prefill_ms"][prompt] / 1e3, shape=shape, chunk=chunk),
    ]  # fmt: skip
    used = {("tpot_ms", tpot_key), ("prefill_ms", prompt)}
    return calibrate(shape, _box(record), points).tuning, used


def compare(records=None) -> list[Row]:
    """Rows for all records, machine by machine. Without a reference record a machine is compared uncalibrated."""
    records = load_records() if records is None else records
    rows = []
    for group in dict.fromkeys(r["file"] for r in records):
        mine = [r for r in records if r["file"] == group]
        reference = _reference(mine)
        tuning, used = _calibration(reference) if reference else (None, set())
        for record in mine:
            is_reference = reference is not None and record["id"] == reference["id"]
            rows += _rows(group, record, tuning, used if is_reference else set())
        rows += _speedups(group, mine, tuning)
    return rows


def _rows(group, record, tuning, used) -> list[Row]:
    shape, box, memory = _shape(record), _box(record), _memory(record)
    config, measured, committed = (
        record["config"],
        record["measured"],
        record.get("predicted") or {},
    )
    tp, pp = config["tp"], config["pp"]
    plain = default_tuning(box.gpu)
    holdout = bool(config.get("holdout"))
    rows = []

    def add(quantity, case, real, first, now, tuned=None):
        rows.append(Row(group, record["id"], quantity, case, real, first, now, now if tuned is None else tuned,
                        holdout, (quantity, case) in used))  # fmt: skip

    add(
        "kv_cache_tokens",
        "",
        measured["kv_cache_tokens"],
        committed.get("kv_cache_tokens"),
        memory.kv_cache_tokens,
    )
    ranks = measured.get("memory_by_rank") or []
    real = max((r.get("weights") or 0 for r in ranks), default=0) / GIB
    if real:  # 0 on the CPU, where vLLM repacks the weights and does not weigh them
        add("weights_gib", "", real, committed.get("weights_gib"), memory.weights_gib_per_gpu)
    for case, value in measured.get("tpot_ms", {}).items():
        step = [_step(record, case, t) * 1e3 for t in (plain, tuning or plain)]
        add("tpot_ms", case, value, committed.get("tpot_ms", {}).get(case), *step)
    for case, value in measured.get("prefill_ms", {}).items():
        step = [
            prefill_parts(
                shape, box, tp, pp, int(case), measured["max_num_batched_tokens"], tuning=t
            ).total
            * 1e3
            for t in (plain, tuning or plain)
        ]
        add("prefill_ms", case, value, committed.get("prefill_ms", {}).get(case), *step)
    return rows


def _step(record, case, tuning) -> float:
    """Seconds of a recorded decode step as the planner has them. case: "256x128" is 256 requests of 128 tokens in."""
    config, options = record["config"], _memory(record).options
    requests, tokens = map(int, case.split("x"))
    streams = streams_at_once(requests, config["dp"], options)  # the others wait
    return decode_parts(_shape(record), _box(record), config["tp"], config["pp"], streams, tokens + config["output"] / 2,
                        kv_dtype=options.kv_cache_dtype, tuning=tuning).total  # fmt: skip


def _speedups(group, records, tuning) -> list[Row]:
    """TPOT of one GPU divided by TPOT of the same model on several, measured and predicted."""
    rows = []
    bases = {}
    for r in records:
        c = r["config"]
        if c["tp"] * c["pp"] * c["dp"] == 1 and not c.get("holdout"):
            bases.setdefault(c["model"], r)
    for r in records:
        c, base = r["config"], bases.get(r["config"]["model"])
        if base is None or c["tp"] * c["pp"] == 1:
            continue
        plain = default_tuning(_box(r).gpu)
        for case in r["measured"].get("tpot_ms", {}):
            if case not in base["measured"]["tpot_ms"]:
                continue
            ratio = [_step(base, case, t) / _step(r, case, t) for t in (plain, tuning or plain)]
            old = None
            if r.get("predicted") and base.get("predicted"):
                old = base["predicted"]["tpot_ms"][case] / r["predicted"]["tpot_ms"][case]
            rows.append(Row(group, r["id"], "speedup", case, base["measured"]["tpot_ms"][case] / r["measured"]["tpot_ms"][case],
                            old, *ratio, bool(c.get("holdout"))))  # fmt: skip
    return rows


def summary(rows: list[Row]) -> list[dict]:
    """For each machine and quantity: how many, mean and worst error (absolute) as committed, plain, calibrated, and on
    the configurations that were held out; and whether the target is met. Numbers used to calibrate are left out."""
    out = []
    for machine in dict.fromkeys(r.machine for r in rows):
        for quantity, target in TARGETS.items():
            mine = [
                r
                for r in rows
                if r.machine == machine and r.quantity == quantity and not r.reference
            ]
            if not mine:
                continue

            def stats(which, chosen):
                errors = [abs(r.error(which)) for r in chosen if r.error(which) is not None]
                return (sum(errors) / len(errors), max(errors)) if errors else (None, None)

            held = [r for r in mine if r.holdout]
            mean, worst = stats("calibrated", mine)
            out.append({
                "machine": machine, "quantity": quantity, "numbers": len(mine), "target": target,
                "committed_mean": stats("committed", mine)[0], "committed_worst": stats("committed", mine)[1],
                "plain_mean": stats("plain", mine)[0], "plain_worst": stats("plain", mine)[1],
                "mean": mean, "worst": worst,
                "holdout_mean": stats("calibrated", held)[0], "holdout_worst": stats("calibrated", held)[1],
                "within_target": sum(abs(r.error()) <= target for r in mine), "met": worst <= target,
            })  # fmt: skip
    return out


def by_configuration(rows: list[Row]) -> list[dict]:
    """One line for each configuration, for a table: "predicted / measured (error)" of the KV-cache tokens, and of the
    TPOT, prefill and speed-up that are farthest off after calibration ("256x128" is 256 streams of 128 tokens in)."""
    lines = []
    for machine, config in dict.fromkeys((r.machine, r.config) for r in rows):
        mine = [r for r in rows if (r.machine, r.config) == (machine, config)]
        line = {
            "recorded on": machine,
            "configuration": config + (" (held out)" if mine[0].holdout else ""),
        }
        for quantity, title in (("kv_cache_tokens", "KV-cache tokens"), ("tpot_ms", "TPOT, ms, worst"),
                                ("prefill_ms", "prefill, ms, worst"), ("speedup", "speed-up, worst")):  # fmt: skip
            of_kind = [r for r in mine if r.quantity == quantity and not r.reference]
            if of_kind:
                worst = max(of_kind, key=lambda r: abs(r.error()))
                show = "{:,.0f}" if quantity == "kv_cache_tokens" else "{:.3g}"
                case = f"{worst.case}: " if worst.case else ""
                line[title] = (
                    f"{case}{show.format(worst.calibrated)} / {show.format(worst.measured)} ({worst.error():+.1%})"
                )
        lines.append(line)
    return lines
