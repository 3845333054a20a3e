"""Sentences of notebook 4 that depend on the numbers: what a reader should see, whichever way the numbers fall."""

from . import accuracy
from .hardware import GIB, Box
from .inventory import Inventory
from .models import ModelShape, valid_sizes
from .predict import Prediction, Tuning, allreduce_seconds

# The parts of a decode step, as a figure's legend and a sentence name them.
PART_NAMES = {
    "matrices": "reading and multiplying weights",
    "elementwise": "norms and activations",
    "attention": "KV cache",
    "sampling": "sampling",
    "allreduce_latency": "all-reduce: latency",
    "allreduce_bandwidth": "all-reduce: bandwidth",
    "hops": "pipeline hops",
    "overhead": "fixed costs",
    "host": "waiting for the CPU",
}
MAIN_SHARE = (
    0.6  # a cause with more of the difference than this is named alone, else the two largest
)
NO_DIFFERENCE = 0.1  # two measured steps on a shared machine that differ by less are called equal
# NCCL's all-reduce between two H200s of one host joined by NVLink, payload in bytes: microseconds (the same up to 1 MiB).
H200_NCCL_US = {2**10: 22, 2**20: 22, 2**22: 32, 2**24: 74, 2**26: 248, 2**28: 1060}


def describe(found: Inventory) -> str:
    """The inventory in lines: what can be run here."""
    lines = [
        f"{found.cpu_cores} cores of {found.cpu_name}, {found.cpu_memory_gib:.0f} GiB of memory, {found.numa_nodes} NUMA node{'s' * (found.numa_nodes > 1)}"
    ]
    for d in found.devices:
        pcie = f"PCIe {d.pcie_generation} x{d.pcie_width}" if d.pcie_generation else "PCIe unknown"
        nvlink = f", {d.nvlinks} NVLinks" if d.nvlinks else ", no NVLink"
        lines.append(
            f"GPU {d.index}: {d.name}, {d.memory_gib:.2f} GiB, compute capability {d.capability or 'unknown'}, {pcie}{nvlink}{' (MIG)' * d.mig}"
        )
    for i, row in enumerate(found.links):
        if len(row) > 1:
            lines.append(
                f"links of GPU {i}: "
                + ", ".join(f"to {j}: {kind}" for j, kind in enumerate(row) if j != i)
            )
    lines += list(found.notes)
    if not found.has_gpu:
        lines.append(
            "So this machine's cores are what can be run, and a box from the catalogue is what is planned for."
        )
    return "\n".join(lines)


def sizes_table(shape: ModelShape, up_to: int = 8) -> list[dict]:
    """Valid and invalid tensor parallel sizes with vLLM's reason; KV bytes per token where it is valid."""
    rows = []
    for row in valid_sizes(shape, up_to):
        rows.append({
            "TP": row["tp"], "valid": "yes" if row["valid"] else "no",
            "KV bytes per token per GPU": f"{shape.kv_bytes_per_token(row['tp']):,}" if row["valid"] else "",
            "why": row["why"] or ("KV heads are copied, so the KV cache of a token does not shrink further" if not shape.mla and row["tp"] > shape.kv_heads else ""),
        })  # fmt: skip
    return rows


def sharding(shape: ModelShape, parts_one: dict, parts_many: dict, tp: int) -> str:
    """What becomes of the weights when tp GPUs share them. Rotary embeddings are a table that vLLM computes, no weights."""
    rope = parts_many.get("rope", 0)
    parts_one, parts_many = (
        {k: v for k, v in parts.items() if k != "rope"} for parts in (parts_one, parts_many)
    )
    whole = sum(parts_one.values())
    each = sum(parts_many.values())
    same = [name for name in parts_one if parts_many.get(name) == parts_one[name]]
    names = f", because some parts are whole on every GPU ({', '.join(same)})" if same else ""
    table = (
        f" The table of rotary embeddings comes on top, {rope / GIB:.2f} GiB on each GPU: computed at the start, so no weights."
        if rope
        else ""
    )
    return (
        f"{tp} GPUs hold {each / GIB:.2f} GiB of {shape.name} each, {each * tp / GIB:.2f} GiB together: {(each * tp - whole) / GIB:.3f} GiB more "
        f"than the {whole / GIB:.2f} GiB of one GPU{names}.{table}"
    )


def main_causes(excess: dict) -> str:
    """The largest of {part_ms: ms} in words, and the second too unless the first is most of all: "fixed costs 1.85 ms"."""
    order = sorted(excess, key=excess.get, reverse=True)
    most = excess[order[0]] > MAIN_SHARE * sum(ms for ms in excess.values() if ms > 0)
    return " and ".join(
        f"{_cause(part)} {excess[part]:.2f} ms" for part in order[: 1 if most else 2]
    )


def _cause(part: str) -> str:
    name = part.removesuffix("_ms")
    return PART_NAMES.get(name, name).replace(": ", " ")


def where_time_goes(rows: list[dict]) -> str:
    """One sentence on the speed-up of the last row over the first, and what limits it."""
    first, last = rows[0], rows[-1]
    if first is last:
        return f"Only TP {first['tp']} can be shown on this box: there is nothing to compare."
    ideal = first["tp"] / last["tp"]  # each part would shrink to this share
    grown = {k: last[k] - first[k] * ideal for k in last if k.endswith("_ms") and k != "total_ms"}
    return (
        f"{last['tp']} GPUs are predicted to be {last['speedup']:.2f} times as fast as {first['tp']}, not "
        f"{last['tp'] / first['tp']:.0f} times. Of the {sum(grown.values()):.2f} ms beyond a perfect share: {main_causes(grown)}."
    )


def what_grows(layout: str, predictions: list[Prediction]) -> str:
    """Why a layout's TPOT grows from the fewest requests at once to the most."""
    few, many = predictions[0], predictions[-1]
    was, now = few.decode.ms(), many.decode.ms()
    grown = {part: now[part] - was[part] for part in now}
    grown["prefill between the steps"] = 1e3 * (
        (many.mixed_tpot_s - many.tpot_s) - (few.mixed_tpot_s - few.tpot_s)
    )
    running = many.streams_per_replica * many.dp
    waiting = (
        f" Only {running} of the {many.workload.concurrency} run at once: the others wait."
        if running < many.workload.concurrency
        else ""
    )
    return (
        f"{layout}, from {few.workload.concurrency} to {many.workload.concurrency} requests: TPOT grows from {few.mixed_tpot_s * 1e3:.1f} to "
        f"{many.mixed_tpot_s * 1e3:.1f} ms, above all by {main_causes(grown)}.{waiting}"
    )


def allreduce_regime(
    shape: ModelShape, box: Box, tp: int, tuning: Tuning, decode: int, prefill: int
) -> str:
    """Whether decode and prefill all-reduces are bound by latency or by bandwidth."""
    out = []
    for what, tokens in (("decode", decode), ("prefill", prefill)):
        payload = tokens * shape.hidden * shape.dtype_bytes
        latency, volume = allreduce_seconds(payload, tp, box, tuning)
        out.append(
            f"{what} of {tokens:,} tokens: {payload / 1024:,.0f} KiB, {latency * 1e6:.0f} us latency + {volume * 1e6:.0f} us "
            f"transfer, so {'latency' if latency > volume else 'bandwidth'} decides"
        )
    return "\n".join(out)


def slower_or_faster(predicted: float, measured: float, what: str = "TP 2") -> str:
    """Compare two speed-ups (1.0 = no change) in one sentence."""
    say = lambda x: f"{x:.2f} times as fast" if x >= 1 else f"{1 / x:.2f} times slower"  # noqa: E731
    off = f"the ratio is off by {predicted / measured - 1:+.0%}."
    if 1 / (1 + NO_DIFFERENCE) < measured < 1 + NO_DIFFERENCE:
        return f"{what} was predicted to make a decode step {say(predicted)}, and made no difference above {NO_DIFFERENCE:.0%}: {off}"
    same = (predicted >= 1) == (measured >= 1)
    return (
        f"{what} was predicted to make a decode step {say(predicted)} and made it {say(measured)}: "
        f"{'the direction was right' if same else 'the direction was wrong'}, and {off}"
    )


def recorded_allreduce(has_gpu: bool) -> tuple[list[dict], str]:
    """Recorded all-reduces for a machine that cannot run one: rows {"bytes", "seconds"}, and where they are from."""
    if has_gpu:
        return [
            {"bytes": n, "seconds": us / 1e6} for n, us in H200_NCCL_US.items()
        ], "NCCL, recorded on two H200s with NVLink"
    record = next(
        r for r in accuracy.load_records() if r["gpu"] == "CPU" and r["config"]["tp"] == 2
    )
    return record["measured"]["allreduce"], f"vLLM's own, recorded on {_cores(record)}"


def recorded_tp2() -> str:
    """What TP 2 did where it was recorded: the shipped model on two cores."""
    records = [
        r
        for r in accuracy.load_records()
        if r["gpu"] == "CPU"
        and r["config"]["pp"] * r["config"]["dp"] == 1
        and not r["config"].get("holdout")
    ]
    two = next(r for r in records if r["config"]["tp"] == 2)
    one = next(r for r in records if r["config"]["tp"] == 1 and r["file"] == two["file"])
    steps = [
        (case.split("x")[0], one["measured"]["tpot_ms"][case], two["measured"]["tpot_ms"][case])
        for case in ("1x128", "8x128")
    ]
    times = "; ".join(
        f"{n} stream{'s' * (n != '1')}: TPOT {a:.2f} ms with TP 1, {b:.2f} with TP 2 ({a / b:.2f} times as fast)"
        for n, a, b in steps
    )
    return f"No times of TP 2 from this machine. Recorded on {_cores(two)} with the shipped model: {times}."


def _cores(record: dict) -> str:
    return f"{record['machine']['cores']} cores of an {record['machine']['cpu']}"


def tpot_error(summary: list[dict]) -> float:
    """The planner's mean error on the recorded GPUs, without calibration: of TPOT or of prefill, whichever is larger."""
    return max(
        s["plain_mean"]
        for s in summary
        if s["machine"].startswith("gpu") and s["quantity"] in ("tpot_ms", "prefill_ms")
    )


def close_calls(ranking, goal_ms: float, error: float) -> list[str]:
    """Sentences on what the planner cannot decide: plans within its error (a share) of the limit, or of the best."""
    best, out = ranking.best, []
    of_error = f"less than the planner's mean error of {error:.1%}"
    for c in ranking.choices:
        if (
            not c.fits
            or c.prediction.streams_per_replica * c.dp < c.prediction.workload.concurrency
        ):
            continue
        over_ms = c.prediction.mixed_tpot_s * 1e3 - goal_ms
        if abs(over_ms) > error * goal_ms:
            continue
        if c is best:
            out.append(
                f"{c.name()} keeps the limit by {-over_ms:.1f} ms only, {of_error}: measure it first."
            )
        elif over_ms > 0 and (best is None or c.gpus < best.gpus):
            price = (
                f"; a million tokens would cost {c.price_per_million:.2f} instead of {best.price_per_million:.2f}"
                if best and c.price_per_million
                else ""
            )
            gain = (
                f" It needs {c.gpus} GPU{'s' * (c.gpus > 1)} instead of {best.gpus}{price}."
                if best
                else ""
            )
            out.append(
                f"{c.name()} misses the limit by {over_ms:.1f} ms ({over_ms / goal_ms:.1%}), {of_error}: measure it first.{gain}"
            )
    second = next((c for c in ranking.choices if c.meets and c is not best), None)
    if best and second and second.gpus == best.gpus:
        behind = 1 - second.prediction.output_tokens_per_s / best.prediction.output_tokens_per_s
        if abs(behind) < error:
            out.append(
                f"{second.name()} differs by {abs(behind):.1%} in tokens/s from {best.name()}: the planner cannot tell them apart."
            )
    return out


def reading_of_choice(ranking, goal_ms: float | None = None) -> str:
    """One line under the picture of choices."""
    best, thumb = ranking.best, ranking.thumb
    left = next(
        (
            c
            for c in ranking.choices
            if c.fits and not c.meets and goal_ms and c.prediction.mixed_tpot_s * 1e3 <= goal_ms
        ),
        None,
    )
    crosses = (
        f" A cross left of the line misses for another reason ({left.name()}: {left.why})."
        if left
        else ""
    )
    if best is None:
        return "No plan meets the goal (crosses miss it)." + crosses
    line = f"Chosen: {best.name()}, {best.prediction.output_tokens_per_s / best.gpus:,.0f} tokens/s per GPU at {best.prediction.mixed_tpot_s * 1e3:.1f} ms."
    if thumb is None:
        return line + crosses
    if (thumb.tp, thumb.pp, thumb.dp) == (best.tp, best.pp, best.dp):
        return line + " The rule of thumb (ring) agrees." + crosses
    return line + f" The rule of thumb (ring) would take {thumb.name()}." + crosses


def disagreements(cases: list[tuple]) -> list[dict]:
    """Rows for a table of where ranking and rule of thumb differ. cases: (label, Ranking)."""
    rows = []
    for label, ranking in cases:
        best, thumb = ranking.best, ranking.thumb
        rows.append({
            "case": label, "ranking": best.name() if best else f"none ({ranking.choices[0].why})",
            "rule of thumb": thumb.name() if thumb else "none fits",
            "agree": "yes" if best and thumb and (best.tp, best.pp, best.dp) == (thumb.tp, thumb.pp, thumb.dp) else "no",
            "tokens/s": round(best.prediction.output_tokens_per_s) if best else "",
            "TPOT ms": round(best.prediction.mixed_tpot_s * 1e3, 2) if best else "",
        })  # fmt: skip
    return rows


def suggest(store, key: str, text: str, given: str | None = None) -> None:
    """Leave the planner's own answer for an export, marked as such, unless a person has given one."""
    if given is None and (store.get("answer", key) or {}).get("source") != "typed":
        store.save("answer", key, {}, text=text, source="planner")
