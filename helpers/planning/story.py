"""Sentences of notebook 4 that depend on the numbers: what a reader should see, whichever way the numbers fall."""

from .hardware import GIB, Box
from .inventory import Inventory
from .models import ModelShape, valid_sizes
from .predict import Tuning, allreduce_seconds


def describe(found: Inventory) -> str:
    """The inventory in lines: what can be run here."""
    lines = [f"{found.cpu_cores} cores of {found.cpu_name}, {found.cpu_memory_gib:.0f} GiB of memory, {found.numa_nodes} NUMA node{'s' * (found.numa_nodes > 1)}"]
    for d in found.devices:
        pcie = f"PCIe {d.pcie_generation} x{d.pcie_width}" if d.pcie_generation else "PCIe unknown"
        nvlink = f", {d.nvlinks} NVLinks" if d.nvlinks else ", no NVLink"
        lines.append(f"GPU {d.index}: {d.name}, {d.memory_gib:.2f} GiB, compute capability {d.capability or 'unknown'}, {pcie}{nvlink}{' (MIG)' * d.mig}")
    for i, row in enumerate(found.links):
        if len(row) > 1:
            lines.append(f"links of GPU {i}: " + ", ".join(f"to {j}: {kind}" for j, kind in enumerate(row) if j != i))
    lines += list(found.notes)
    if not found.has_gpu:
        lines.append("So this machine's cores are what can be run, and a box from the catalogue is what is planned for.")
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
    """What becomes of the weights when tp GPUs share them."""
    whole = sum(parts_one.values())
    each = sum(parts_many.values())
    copied = each * tp - whole
    same = [name for name in parts_one if parts_many.get(name) == parts_one[name]]
    names = f" ({', '.join(same)})" if same else ""
    return (
        f"{tp} GPUs hold {each / GIB:.2f} GiB of {shape.name} each, {each * tp / GIB:.2f} GiB together: {copied / GIB:.3f} GiB more than the "
        f"{whole / GIB:.2f} GiB of one GPU, because some parts are whole on every GPU{names}."
    )


def where_time_goes(rows: list[dict]) -> str:
    """One sentence on the speed-up of the last row over the first, and what limits it."""
    first, last = rows[0], rows[-1]
    ideal = first["tp"] / last["tp"]  # each part would shrink to this share
    grown = {k: last[k] - first[k] * ideal for k in last if k.endswith("_ms") and k != "total_ms"}
    worst = max(grown, key=grown.get).removesuffix("_ms")
    return (
        f"{last['tp']} GPUs are predicted to be {last['speedup']:.2f} times as fast as {first['tp']}, not "
        f"{last['tp'] / first['tp']:.0f} times: most of the difference is {worst.replace('_', ' ')}, {grown[worst + '_ms']:.2f} ms more than its share."
    )


def allreduce_regime(shape: ModelShape, box: Box, tp: int, tuning: Tuning, decode: int, prefill: int) -> str:
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
    same = (predicted >= 1) == (measured >= 1)
    return (
        f"{what} was predicted to make a decode step {say(predicted)} and made it {say(measured)}: "
        f"{'the direction was right' if same else 'the direction was wrong'}, and the ratio is off by {predicted / measured - 1:+.0%}."
    )


def reading_of_choice(ranking) -> str:
    """One line under the picture of choices."""
    best, thumb = ranking.best, ranking.thumb
    if best is None:
        return "No plan meets the goal (crosses miss it)."
    line = f"Chosen: {best.name()}, {best.prediction.output_tokens_per_s / best.gpus:,.0f} tokens/s per GPU at {best.prediction.mixed_tpot_s * 1e3:.1f} ms."
    if thumb is None:
        return line
    if (thumb.tp, thumb.pp, thumb.dp) == (best.tp, best.pp, best.dp):
        return line + " The rule of thumb (ring) agrees."
    return line + f" The rule of thumb (ring) would take {thumb.name()}."


def disagreements(cases: list[tuple]) -> list[dict]:
    """Rows for a table of where ranking and rule of thumb differ. cases: (label, Ranking)."""
    rows = []
    for label, ranking in cases:
        best, thumb = ranking.best, ranking.thumb
        rows.append({
            "case": label, "ranking": best.name() if best else "no plan meets the goal",
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
