"""Sentences of notebook 4 that depend on its numbers, whichever way they fall."""

import math

from helpers.display.numbers import number
from helpers.verdicts.gain import Gain

from . import recorded
from .choose import Choice, Goal, Ranking, pure_layouts, rank_again, short_name
from .hardware import GIB, Box
from .inventory import Device, Inventory
from .launch import Launch
from .layouts import Trial, recorded_on_two_gpus
from .load import SpeedPrediction
from .margins import (
    CANNOT_TELL,
    HELD,
    KEEPS,
    LEARNED,
    MISSES,
    beside_load,
    far_ms,
    level,
    longer,
    on_record,
    recorded_on,
    speedup,
    speedup_range,
    take,
    tpot_range_ms,
    within,
)
from .memory import MemoryPlan
from .models import ModelShape, weight_parts, why_invalid

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
MUCH_WAITING = 0.25  # seconds in each second: more than a quiet TP 1 waits for a core
LITTLE_OF_OTHERS = 0.03  # share of the cores: with more, other programs may be why ranks wait
BORROWED = (
    "The ranges are borrowed from models that fit on one H100: the workbook never measured one "
    "that needs several GPUs, nor TP 8."
)
LONG = 85  # characters of a command: of a longer one each option has a line
LEAST_MS = 0.05  # of a step: less is not named


# ---------------------------------------------------------------------- 1. inventory
def describe(found: Inventory) -> str:
    """The inventory in lines: what can be run here."""
    nodes = f"{found.numa_nodes} NUMA node{'s' * (found.numa_nodes > 1)}"
    cores = f"{found.cpu_cores} cores of {found.cpu_name}"
    lines = [f"{cores}, {found.cpu_memory_gib:.0f} GiB of memory, {nodes}"]
    lines += map(_device, found.devices)
    for i, row in enumerate(found.links):
        if len(row) > 1:
            others = ", ".join(f"to {j}: {kind}" for j, kind in enumerate(row) if j != i)
            lines.append(f"links of GPU {i}: {others}")
    lines += found.notes
    if not found.has_gpu:
        lines.append(
            "So this machine's cores are what can be run, and a box from the catalogue is what is "
            "planned for."
        )
    return "\n".join(lines)


def _device(d: Device) -> str:
    pcie = f"PCIe {d.pcie_generation} x{d.pcie_width}" if d.pcie_generation else "PCIe unknown"
    nvlink = f"{d.nvlinks} NVLinks" if d.nvlinks else "no NVLink"
    return (
        f"GPU {d.index}: {d.name}, {d.memory_gib:.2f} GiB, compute capability "
        f"{d.capability or 'unknown'}, {pcie}, {nvlink}{' (MIG)' * d.mig}"
    )


def about_gpu(box: Box) -> str:
    """A planned GPU's numbers and its link, where they come from, and what is doubtful."""
    gpu, link = box.gpu, box.link_for(2)
    lines = [
        f"{gpu.full_name}: {gpu.usable_gib:.2f} GiB that a program sees (sold as {gpu.memory_gb:g} "
        f"GB), {gpu.bandwidth_gb_s:,.0f} GB/s, {gpu.tflops_16bit:,.0f} TFLOP/s in 16 bits",
        "a weight is 2 bytes to read, and 2 FLOPs for each token: computing takes as long as "
        f"reading at {gpu.tflops_16bit:,.0f} TFLOP/s / {gpu.bandwidth_gb_s:,.0f} GB/s = "
        f"{gpu.knee():.0f} tokens in a step",
        f"to a neighbour: {link.kind}, {link.gb_s:g} GB/s from each GPU in one direction",
        f"source: {gpu.source}",
    ]
    lines += [f"doubt about {what}: {doubt}" for what, doubt in gpu.doubts.items()]
    return "\n".join(lines)


def inventory_in_short(box: Box) -> str:
    """What to keep of an inventory: the memory and the link, beside each other."""
    gpu, link = box.gpu, box.link_for(2)
    return (
        f"One {gpu.name} reads its own memory at {gpu.bandwidth_gb_s:,.0f} GB/s and reaches a "
        f"neighbour by {link.kind} at {link.gb_s:g} GB/s, {gpu.bandwidth_gb_s / link.gb_s:.0f} "
        "times slower: what crosses the link must be small."
    )


# ---------------------------------------------------------------------- 2. sizes
def about_model(shape: ModelShape) -> str:
    """A model's sizes in one line."""
    return (
        f"{shape.name}: {shape.parameters():,} parameters, {shape.layers} layers, {shape.heads} "
        f"heads and {shape.kv_heads} KV heads of {shape.head_dim}, vocabulary {shape.vocab:,}"
    )


def sizes_table(shape: ModelShape) -> list[dict]:
    """Tensor parallel sizes to 8 with vLLM's reason against them, or KV bytes per token."""
    rows = []
    for tp in range(1, 9):
        why, kv_bytes = why_invalid(shape, tp), ""
        if not why:
            kv_bytes = f"{shape.kv_bytes_per_token(tp):,}"
        if not why and not shape.mla and tp > shape.kv_heads:
            why = "KV heads are copied, so the KV cache of a token does not shrink further"
        valid = "yes" if kv_bytes else "no"
        said = (why or "").removeprefix(f"vLLM refuses tensor parallel size {tp}: ")
        rows.append({"TP": tp, "valid": valid, "KV bytes per token per GPU": kv_bytes, "why": said})
    return rows


def sharding(shape: ModelShape, tp: int) -> str:
    """What becomes of the weights when tp GPUs share them."""
    one, many = weight_parts(shape, 1), weight_parts(shape, tp)
    many.pop("rope", 0)  # a table that vLLM computes, no weights
    same = [name for name in one if many.get(name) == one[name]]
    whole = f" Whole on every GPU: {', '.join(same)}." if same else ""
    return f"{tp} GPUs hold {sum(many.values()) / GIB:.2f} GiB of {shape.name} each.{whole}"


def kv_room(tp: int, memory: MemoryPlan, tokens: int) -> str:
    """Room in the KV cache with this tensor parallel size, also in requests of so many tokens."""
    if not memory.fits:
        return f"TP {tp}: {memory.problem}"
    requests = f"{memory.room_for(tokens):,} requests of {tokens:,} tokens"
    return f"TP {tp}: {memory.kv_cache_tokens:,} tokens of KV cache, {requests}"


def sizes_in_short(shape: ModelShape, memories: dict[int, MemoryPlan]) -> list[str]:
    """What to keep of the sizes. memories: {tensor parallel size: its memory}, smallest first."""
    few, many = min(memories), max(memories)
    one, each = (memories[tp].weights_gib_per_gpu for tp in (few, many))
    out = [f"Weights on each GPU: {one:.1f} GiB with TP {few}, {each:.1f} with TP {many}."]
    if memories[few].fits and few < many:
        tokens = [memories[tp].kv_cache_tokens for tp in (few, many)]
        out.append(
            f"{many // few} times the GPUs keep {tokens[1] / tokens[0]:.1f} times the tokens, "
            "because the weights are held once and not once on each GPU."
        )
    if not shape.mla and many > shape.kv_heads:
        out.append(f"TP {many} copies KV heads, since {shape.name} has {shape.kv_heads}.")
    return out


# ---------------------------------------------------------------------- 3. speed
def main_causes(excess: dict, digits: int = 2) -> str:
    """The two largest of {part_ms: ms} in words, the second only where it is something."""
    first, second, *_ = sorted(excess, key=excess.get, reverse=True)
    named = [first, second][: 1 + (excess[second] > LEAST_MS)]
    return " and ".join(f"{_cause(part)} {excess[part]:.{digits}f} ms" for part in named)


def _cause(part: str) -> str:
    name = part.removesuffix("_ms")
    return PART_NAMES.get(name, name).replace(": ", " ")


def where_time_goes(rows: list[dict]) -> str:
    """One sentence on the speed-up of the last row over the first, and what limits it.

    rows: of tp_speedup_parts.
    """
    first, last = rows[0], rows[-1]
    if first is last:
        return f"Only TP {first['tp']} can be shown on this box: there is nothing to compare."
    ideal = first["tp"] / last["tp"]  # each part would shrink to this share
    parts = [k for k in last if k.endswith("_ms") and k != "total_ms"]
    grown = {k: last[k] - first[k] * ideal for k in parts}
    return (
        f"{last['tp']} GPUs are predicted to be {last['speedup']:.2f} times as fast as "
        f"{first['tp']}, not {last['tp'] / first['tp']:.0f} times. Of the "
        f"{sum(grown.values()):.2f} ms beyond a perfect share: {main_causes(grown)}."
    )


def slowed_down(rows: list[dict], prompt: int) -> str:
    """What a prompt does to the requests in its step. rows: of prompt_beside_parts."""
    decode, both, alone = (row["total_ms"] for row in rows)
    fixed_ms, with_prompt_ms, _ = (row["overhead_ms"] for row in rows)
    graph = " Too large for a CUDA graph, it has larger fixed costs." * (
        with_prompt_ms > 1.5 * fixed_ms
    )
    return (
        f"With a prompt of {prompt:,} tokens in it a step takes {both:.1f} ms instead of "
        f"{decode:.1f}: every request gets its next token {both - decode:.1f} ms later, and none "
        f"stops. One after the other, the two would take {decode + alone:.1f} ms.{graph}"
    )


def what_tp_shares(steps: dict[str, tuple[dict, dict]]) -> str:
    """Which part of a prompt the widest size shares, and what comes in its place.

    steps: {layout: (a decode step, the same with a prompt)}, rows of prompt_beside_parts.
    """
    sizes = [
        (name, {part: more[part] - step[part] for part in step if part.endswith("_ms")})
        for name, (step, more) in steps.items()
    ]
    (narrow, first), (wide, last) = sizes[0], sizes[-1]
    change = {part: last[part] - first[part] for part in last if part != "total_ms"}
    shared, *_, less, more = sorted(change, key=change.get)
    of_each = ", ".join(f"{part['total_ms']:.1f} with {name}" for name, part in sizes)
    said = (
        f"By the planner's count p is {of_each} (ms). From {narrow} to {wide} {_cause(shared)} "
        f"goes from {first[shared]:.1f} to {last[shared]:.1f} ms, and above all {_cause(more)} "
        f"({change[more]:.1f} ms) and {_cause(less)} ({change[less]:.1f} ms) come in its place."
    )
    if more == "host_ms" and change[more] > LEAST_MS:
        said += (
            " It assumes that each rank's CPU launches all kernels of such a step one by one, "
            "however small its share of the work."
        )
    return said


def about_batches(predicted: dict[str, list[SpeedPrediction]]) -> str:
    """Under that picture: why TPOT grows with the widest tensor parallel size."""
    layout = max(predicted, key=lambda name: predicted[name][-1].tp)
    some = predicted[layout][-1]
    pure = (short_name(*sizes) for sizes in pure_layouts(some.tp * some.pp * some.dp))
    missing = [name for name in pure if name not in predicted]
    does_not_fit = f" {' and '.join(missing)}: does not fit on this box." if missing else ""
    return f"{what_grows(layout, predicted[layout])}{does_not_fit}"


def most_tokens(predicted: dict[str, list[SpeedPrediction]], at: int) -> str:
    """The layout with most tokens/s. at: 0 with the fewest requests at once, -1 with the most."""
    return max(predicted, key=lambda name: predicted[name][at].output_tokens_per_s)


def _leaders(predicted: dict[str, list[SpeedPrediction]]) -> str:
    """Which layout gives most tokens/s, and from how many requests on another does."""
    sizes = [p.workload.concurrency for p in next(iter(predicted.values()))]
    few, many = (most_tokens(predicted, at) for at in (0, -1))
    if few == many:
        return f"{few} gives most tokens/s, however many requests there are."
    pairs = list(zip(sizes, predicted[few], predicted[many], strict=True))
    early = [n for n, a, b in pairs if _surely_more(a, b)]
    late = [n for n, a, b in pairs if _surely_more(b, a)]
    until = "few requests (within the errors)"
    if early:
        until = f"up to {early[-1]} request{'s' * (early[-1] > 1)} at once"
    since = f"{sizes[-1]} (within the errors)"
    if late:
        since = f"{late[0]}{f' to {sizes[-1]}' * (late[0] < sizes[-1])}"
    return (
        f"{few} is predicted to give most tokens/s with {until}, {many} with {since}; between them "
        "the planner's errors explain the difference."
    )


def _surely_more(one: SpeedPrediction, other: SpeedPrediction) -> bool:
    """Whether the planner's errors do not explain that the first gives more tokens/s."""
    choices = (Choice(p.tp, p.pp, p.dp, p, fits=True) for p in (one, other))
    return speedup_range(*choices)[0] > 1


def speed_in_short(predicted: dict[str, list[SpeedPrediction]]) -> list[str]:
    """What to keep of the predicted speeds, by layout."""
    if not predicted:
        return []
    fastest = min(predicted, key=lambda name: predicted[name][0].tpot_s)
    few = predicted[fastest][0].workload.concurrency
    requests = f"{few} request{'s' * (few > 1)} at once"
    short = f"With {requests} {fastest} is predicted to have the shortest TPOT."
    return [short, _leaders(predicted)]


def what_grows(layout: str, predictions: list[SpeedPrediction]) -> str:
    """Why a layout's TPOT grows from the fewest requests at once to the most."""
    few, many = predictions[0], predictions[-1]
    was, now = few.decode.ms(), many.decode.ms()
    step = {part: now[part] - was[part] for part in now}
    prompts_ms = [1e3 * (p.tpot_s - float(p.decode.total)) for p in (few, many)]
    grown = {**step, "the prompts of others in the same steps": prompts_ms[1] - prompts_ms[0]}
    running, wanted = many.streams_per_replica * many.dp, many.workload.concurrency
    waiting = f" Only {running} of the {wanted} run at once: the others wait."
    return (
        f"{layout}, from {few.workload.concurrency} to {wanted} requests: TPOT grows from "
        f"{few.tpot_s * 1e3:.1f} to {many.tpot_s * 1e3:.1f} ms. Largest of the parts "
        f"of these {1e3 * (many.tpot_s - few.tpot_s):.1f} ms: {main_causes(grown, 1)}."
        f"{waiting if running < wanted else ''}"
    )


# ---------------------------------------------------------------------- 4. measured here
def _told(*trials: Trial) -> str:
    """What a reader must know of trials that were disturbed; "" where none was."""
    return _mind({trial.name: ", ".join(trial.disturbed) for trial in trials})


def _mind(disturbed: dict[str, str]) -> str:
    """disturbed: by layout, in words; "" for one that was alone."""
    found = [f"{name}: {why}" for name, why in disturbed.items() if why]
    return f" Mind that the machine was disturbed meanwhile ({'; '.join(found)})." if found else ""


def what_else(gain: Gain, one: Trial, two: Trial, cores: int) -> str:
    """What the trials tell of the cores: who waited for one."""
    alone, waited = (trial.disturbance.waited_share for trial in (one, two))
    others = max(trial.disturbance.others_share for trial in (one, two))
    if others > LITTLE_OF_OTHERS:
        return f"Other programs took {others:.0%} of the cores, so who waited for whom is open."
    if None in (alone, waited):
        return "How long the threads waited for a core is not known here."
    said = (
        f"The threads of TP 2 waited for a core for {waited:.2f} s in each second, all together, "
        f"those of TP 1 for {alone:.2f}"
    )
    if waited < MUCH_WAITING:
        return f"{said}: hardly, so the cores are not why TP 2 is what it is.{_told(one, two)}"
    shared = f" on {cores} cores" * (cores < 3)
    said += f". TP 2 has three processes{shared}, two ranks and the engine"
    again = "; a machine with more cores would tell whether they are why" * (
        gain.verdict != "better"
    )
    return f"{said}{again}.{_told(one, two)}"


def about_stages(gain: Gain, one: Trial, staged: Trial) -> str:
    """What PP 2 did to one stream, and what is known of why."""
    alone, waited = (trial.disturbance.waited_share for trial in (one, staged))
    said = (
        f"PP 2, which has no all-reduce, against TP 1, one request: {gain.sentence()}. One stage "
        "works at a time, so no gain was to be expected."
    )
    if None not in (alone, waited):
        said += (
            f" Its threads waited for a core for {waited:.2f} s in each second, those of TP 1 for "
            f"{alone:.2f}."
        )
    if gain.verdict == "worse":
        said += " What its longer step is made of this notebook does not measure."
    return f"{said}{_told(one, staged)}"


def most_off(rows: list[dict]) -> str:
    """The title of that picture: which times the planner misses most, and by how much."""
    found = {}
    for quantity, what in (("tpot_ms", "Decode steps"), ("prefill_ms", "Prompts")):
        off = [row["measured"] / row["predicted"] for row in rows if row["quantity"] == quantity]
        if off:
            found[what] = min(off), max(off)
    what = max(found, key=lambda name: max(abs(math.log(times)) for times in found[name]))
    low, high = found[what]
    return f"{what} took {low:.1f} to {high:.1f} times as long as predicted"


def beside_planner(rows: list[dict]) -> str:
    """Under the planner's times beside measured ones. rows: of layouts.beside_predictions."""
    within = sum(row["low"] <= row["predicted"] <= row["high"] for row in rows)
    mind = _mind({row["layout"]: row["disturbed"] for row in rows})
    return f"{within} of {len(rows)} predictions lie within the measured rounds.{mind}"


def how_long(rows: list[dict], where: str) -> str:
    """What to keep of the planner's times beside those of a machine."""
    steps, prompts = (
        [row["measured"] / row["predicted"] for row in rows if row["quantity"] == quantity]
        for quantity in ("tpot_ms", "prefill_ms")
    )
    return (
        f"On {where} decode steps took {min(steps):.2f} to {max(steps):.2f} times as long as "
        f"predicted, prompts {min(prompts):.2f} to {max(prompts):.2f} times, by their median "
        "rounds."
    )


def kv_on_two_gpus() -> str:
    """How many tokens TP 1 and TP 2 kept on two H100s."""
    rows, label = recorded_on_two_gpus()
    kept = {row["layout"]: row["kv_cache_tokens"] for row in rows}
    return (
        f"Measured once on {label}: {kept['TP 1']:,} tokens with TP 1 and "
        f"{kept['TP 2']:,} with TP 2, {kept['TP 2'] / kept['TP 1']:.2f} times as many."
    )


def on_two_gpus() -> str:
    """What TP 2 and PP 2 did to a step of 8 requests on two H100s, and what was predicted."""
    said = [f"{name} {_on_two_gpus(name, requests=8)}" for name in ("TP 2", "PP 2")]
    return (
        f"On {recorded_on_two_gpus()[1]}, a decode step of 8 short requests against TP 1's, by the "
        f"median rounds of one start of each: {', '.join(said)}. Both are less than predicted, and "
        "why was not measured."
    )


def _on_two_gpus(layout: str, requests: int) -> str:
    """How many times as fast as TP 1's a step was there, by the median rounds."""
    rows = [
        r for r in recorded_on_two_gpus()[0] if (r["quantity"], r["case"]) == ("tpot_ms", requests)
    ]
    one, step = (next(r for r in rows if r["layout"] == name) for name in ("TP 1", layout))
    took, predicted = (one[key] / step[key] for key in ("measured", "predicted"))
    return f"{took:.2f} times as fast (predicted: {predicted:.2f})"


# ---------------------------------------------------------------------- the choice of both plans
def why_tp(wide: Choice, narrow: Choice) -> str:
    """Why Week 5 measures tensor parallelism, and what is expected of it."""
    share = {1: "all", 2: "half", 4: "a quarter"}.get(wide.tp, f"1/{wide.tp}")
    said = (
        f"With {wide.short} each GPU reads {share} of the weights in a step, so a token can come "
        "sooner."
    )
    if wide is narrow:
        return said
    low, high = speedup_range(wide, narrow)
    return (
        f"{said} With {_load(wide)} the planner expects {low:.2f} to {high:.2f} times the tokens/s "
        f"of {narrow.short}."
    )


def reason_for(choices, taken: Choice, goal_ms: float, by_rule: bool) -> str:
    """Why this layout, by the ranges of all. by_rule: nobody chose another one."""
    rule, verdict = take(choices, goal_ms), within(taken, goal_ms)
    if not by_rule:
        goal = f"TPOT of at most {goal_ms:g} ms with {_load(taken)}"
        said = f"{taken.short} was chosen for a {goal}: {verdict_of(taken, goal_ms)}."
        does = "The rule would take" if within(rule, goal_ms) == KEEPS else "Nearest comes"
        other = f" {does} {rule.short} ({_gpus(rule)}): {verdict_of(rule, goal_ms)}."
        return said + other * (taken is not rule)
    if verdict != KEEPS:
        return (
            f"No layout stays within {goal_ms:g} ms at both ends of its range with {_load(taken)}. "
            f"{taken.short} ({_gpus(taken)}) comes nearest: {verdict_of(taken, goal_ms)}."
        )
    said = (
        f"{_with_range(taken)} has the fewest GPUs ({taken.gpus}) whose TPOT stays within "
        f"{goal_ms:g} ms at both ends of its range, {_load(taken)}."
    )
    found = [c for c in choices if c.fits and c is not taken]
    sure = [c for c in found if c.gpus == taken.gpus and within(c, goal_ms) == KEEPS]
    if peers := [c for c in level([taken, *sure]) if c is not taken]:
        first = ": only a measurement tells which is faster"
        if taken.tp * taken.pp == 1:
            first = f", and copies on one GPU go first{_under_load([taken, *peers])}"
        listed = " and ".join(f"{c.short} (up to {far_ms(c):.1f} ms)" for c in peers)
        said += f" By its far end {listed} is level with it, within the usual error{first}."
    if may := _may_do(choices, rule, goal_ms):
        listed = " and ".join(c.short for c in may)
        said += f" With fewer GPUs {listed} may keep it, too: only measuring decides."
    return said


def _may_do(choices, rule: Choice, goal_ms: float) -> list[Choice]:
    """Those that may keep the goal; beside a rule that is sure only those with fewer GPUs."""
    sure = within(rule, goal_ms) == KEEPS
    found = [c for c in choices if c.fits and within(c, goal_ms) == CANNOT_TELL]
    return [c for c in found if c.gpus < rule.gpus or not sure]


def order(choices, chosen: Choice, goal_ms: float) -> str:
    """What to measure in Week 5, and why so: fewest GPUs first, and what was recorded."""
    rule, runs = take(choices, goal_ms), {c.short: on_record(c) for c in choices if c.fits}
    ran_ms = {short: run[0] for short, run in runs.items() if run}
    may = [c for c in _may_do(choices, rule, goal_ms) if ran_ms.get(c.short, 0) <= goal_ms]
    wanted = [*may, rule, *[chosen] * (within(chosen, goal_ms) != MISSES)]
    wanted.sort(key=lambda c: (c.gpus, c.short not in ran_ms, ran_ms.get(c.short, far_ms(c))))
    named = {c.short: _with_range(c) for c in wanted}
    ran = [short for short in named if short in ran_ms]
    named |= {short: f"{short} (recorded: {ran_ms[short]:.1f} ms)" for short in ran}
    on = {f" Recorded: on {runs[short][1]}, one run of each." for short in ran}
    return (
        f"{', then '.join(named.values())}, to the first that keeps {goal_ms:g} ms: those with "
        f"fewest GPUs come first.{''.join(on)}"
    )


def _under_load(choices: list[Choice]) -> str:
    """What these layouts gave under the recorded load, as far as they were run, and why first."""
    rows = {row["layout"]: row for row in beside_load()[0]}
    gave = [_gave(rows[c.short]) for c in choices if c.short in rows]
    on = recorded_on(LEARNED)
    return (
        f": under the load recorded on {on}, one run of each, {' and '.join(gave)}" if gave else ""
    )


def _gave(row: dict) -> str:
    return (
        f"{row['layout']} gave {row['speedup']:.2f} times the tokens/s of TP 1 (expected: "
        f"{row['expected_speedup']:.2f})"
    )


def _load(choice: Choice) -> str:
    n = choice.prediction.workload.concurrency
    return f"{n} request{'s' * (n > 1)} at once"


def _gpus(choice: Choice) -> str:
    return f"{choice.gpus} GPU{'s' * (choice.gpus > 1)}"


def _with_range(choice: Choice) -> str:
    low_ms, high_ms = tpot_range_ms(choice)
    return f"{choice.short} ({low_ms:.1f} to {high_ms:.1f} ms)"


def verdict_of(choice: Choice, goal_ms: float) -> str:
    """Whether a layout keeps the goal, as a clause."""
    if not choice.fits:
        return choice.why
    (low_ms, high_ms), verdict = tpot_range_ms(choice), within(choice, goal_ms)
    wanted = choice.prediction.workload.concurrency
    if choice.at_once < wanted:
        return f"only {choice.at_once} of the {wanted} requests run at once"
    span = f"{low_ms:.1f} to {high_ms:.1f} ms"
    if verdict == KEEPS:
        return f"both ends of its range keep it ({span})"
    if verdict == CANNOT_TELL:
        return f"the planner cannot tell ({span})"
    return f"both ends of its range miss it ({span})"


def cost(taken: Choice, over: Choice) -> str:
    """What each token costs with more GPUs; "" where the planner is not sure that it is more."""
    more = taken.gpus / over.gpus
    if taken is over or speedup_range(taken, over)[1] >= more:
        return ""
    each, alone = (c.prediction.output_tokens_per_s / c.gpus for c in (taken, over))
    bought = "At this load these GPUs buy a shorter TPOT, and tokens that cost more."
    if taken.prediction.tpot_s >= over.prediction.tpot_s:
        bought = "TPOT is not shorter either."
    if taken.dp > 1 and (taken.tp, taken.pp) == (over.tp, over.pp):
        bought += f" With as many requests on each copy a token costs what {over.short}'s does."
    return (
        f"With {_load(taken)} each GPU of {taken.short} gives {each:,.0f} output tokens/s, each of "
        f"{over.short} {alone:,.0f}: a token takes {alone / each:.1f} times the GPU time. {bought}"
    )


def plan_in_short(taken: Choice, over: Choice) -> list[str]:
    """What to keep of a plan beside its reason. over: the smallest that fits."""
    if taken is over:
        return []
    (low, high), share = speedup_range(taken, over), taken.gpus / over.gpus
    tpot_ms, was_ms = (number(1e3 * c.prediction.tpot_s) for c in (taken, over))
    said = (
        f"Expected of {taken.short}: {speedup(taken, over):.2f} times the tokens/s of {over.short} "
        f"({low:.2f} to {high:.2f}) with {share:g} times the GPUs, TPOT {tpot_ms} instead of "
        f"{was_ms} ms."
    )
    wanted = over.prediction.workload.concurrency
    if over.at_once < wanted:
        said += (
            f" {over.short} has KV cache for {over.at_once} of the {wanted} requests at once, and "
            f"the others wait. So part of this gain is memory: {taken.short} runs "
            f"{taken.at_once} at once."
        )
    return list(filter(None, [said, cost(taken, over)]))


def by_number_alone(ranking: Ranking, taken: Choice, goal_ms: float) -> str:
    """What would be cheaper if the plan's numbers were exact; "" where nothing would be."""
    goal = Goal(tpot_ms=goal_ms, prefer="price")
    best = rank_again(ranking, goal).best
    if best is None or best.gpus >= taken.gpus:
        return ""
    a, b = best.price_per_million, taken.price_per_million
    price = f": a million output tokens for {a:.2f} instead of {b:.2f}" if a and b else ""
    return (
        f"By its number alone {best.short} would do, with {_gpus(best)} instead of {taken.gpus}"
        f"{price}. Nobody should buy on a margin that is smaller than the planner's error, and one "
        "measurement may save the difference."
    )


def memory_of(choice: Choice) -> str:
    """What each GPU of a plan holds, and how much of its KV cache the load needs."""
    memory, mix = choice.prediction.memory, choice.prediction.workload
    tokens = mix.input_tokens + mix.output_tokens
    return (
        f"Each GPU of {choice.short} holds {memory.weights_gib_per_gpu:.1f} GiB of weights, and "
        f"the KV cache of a replica has room for {memory.kv_cache_tokens:,} tokens: "
        f"{memory.room_for(tokens):,} requests of this load, at {tokens:,} tokens each."
    )


def about_choices(taken: Choice, goal_ms: float) -> str:
    """Under the picture of choices."""
    wanted = taken.prediction.workload.concurrency
    return (
        f"Star: what the rule takes, {taken.short}. Bars: the range of TPOT. A bar that crosses "
        f"{goal_ms:g} ms is “cannot tell”. Ring: the plan of vLLM's page. A cross left of the goal "
        f"does not run all {wanted} requests at once. {BORROWED}"
    )


def how_decided() -> str:
    """What a range is and what the rule takes, for the plan's document."""
    return (
        f"a range is TPOT within {recorded.usual_error()[0]:.0%} of what is expected, and at the "
        f"far end {longer(2):.2f} times as long where TP cuts the model, as under a recorded load; "
        "the rule takes the fewest GPUs whose whole range keeps the goal"
    )


def load_in_short(rows: list[dict]) -> str:
    """What to keep of the load that gave m."""
    copies, cut = (_times_off(rows, cut) for cut in (False, True))
    return (
        f"TPOT was {copies} times what was expected where a copy has one "
        f"GPU, {cut} times where TP cuts the model. {fastest_under_load(rows)}"
    )


def held_in_short(rows: list[dict]) -> str:
    """What the other load says of the ranges."""
    held = sum(row["may_tpot_ms"][0] <= row["tpot_ms"] <= row["may_tpot_ms"][1] for row in rows)
    return (
        f"{held} of {len(rows)} ranges held: TPOT was {_span(rows)} times what was expected. "
        f"{' and '.join(map(_gave, rows[1:]))}. That is one load, and one run of each."
    )


def fastest_under_load(rows: list[dict]) -> str:
    """Which layout was expected to be the fastest there, and which one was."""
    expected, was = (
        min(rows, key=lambda row, x=x: row[x]) for x in ("expected_tpot_ms", "tpot_ms")
    )

    def came(row: dict) -> str:
        over = f"{row['speedup']:.2f} times the tokens/s of {rows[0]['layout']}"
        return f"{row['layout']} (TPOT {row['tpot_ms']:.1f} ms, {over})"

    if expected is was:
        return f"The fastest was {came(was)}, as expected."
    return f"The fastest was {came(was)}, where {came(expected)} was expected to be."


def _times_off(rows: list[dict], cut: bool) -> str:
    """The range of measured / expected TPOT. cut: of the layouts that cut the model, or do not."""
    return _span([row for row in rows if row["cut"] == cut])


def _span(rows: list[dict]) -> str:
    found = sorted(f"{row['tpot_ms'] / row['expected_tpot_ms']:.2f}" for row in rows)
    return found[0] if found[0] == found[-1] else f"{found[0]} to {found[-1]}"


def in_the_end(chosen: Choice, over: Choice, gain: Gain | None, *trials: Trial) -> list[str]:
    """What two ranks brought here and on two H100s, and what is expected of the plan."""
    here = "not measured on this machine"
    if gain:
        here = f"{gain.sentence()} on this machine, in one start of each"
    return [
        f"TP 2 against TP 1, one request: {here}; on two recorded H100s, by the median rounds: "
        f"{_on_two_gpus('TP 2', requests=1)}. Before you keep a second GPU, measure your load with "
        f"it and without.{_told(*trials)}",
        *plan_in_short(chosen, over)[:1],
    ]


# ---------------------------------------------------------------------- the plan for Week 5
def filled_in(rows: list[Choice], found: list[dict], goal_ms: float) -> str:
    """What Week 5 measured beside what was expected. found: of results.week5.filled_in."""
    if not found:
        return (
            "Nothing is filled in yet. In Week 5 write what you measured into the table at the\n"
            "end of distributed_planning.md, save it, and run this cell again."
        )
    planned = {row.short: row.prediction for row in rows}
    lines = []
    for one in (one for one in found if one["layout"] in planned):
        p = planned[one["layout"]]
        if "ttft_ms" in one:
            lines.append(f"{one['layout']}: {one['ttft_ms']:,.1f} ms TTFT measured")
        for name, unit, expected in (
            ("output_tokens_per_s", "tokens/s", p.output_tokens_per_s),
            ("tpot_ms", "ms TPOT", 1e3 * p.tpot_s),
        ):
            if name in one:
                said = f"{one['layout']}: {one[name]:,.1f} {unit} measured, {expected:,.1f} "
                lines.append(f"{said}expected ({one[name] / expected:.2f} times)")
        if "tpot_ms" in one:
            kept = "is kept" if one["tpot_ms"] <= goal_ms else "is missed"
            lines[-1] += f": the goal of {goal_ms:g} ms {kept}"
    return "\n".join(lines)


def measured_speedup(first: Choice, other: Choice, found: list[dict]) -> float | None:
    """Tokens/s of a layout over the first's, as filled in; None while one is missing."""
    rates = {row["layout"]: row.get("output_tokens_per_s") for row in found}
    one, best = rates.get(first.short), rates.get(other.short)
    return best / one if one and best else None


# ---------------------------------------------------------------------- launch, in words
def launch_lines(launch: Launch) -> str:
    """Commands with what vLLM said of each; of several each begins with its machine."""
    verdicts = {True: "   # accepted", None: ""}
    lines = []
    for command in launch.commands:
        where = f"  [{command.where}] " if len(launch.commands) > 1 else ""
        refused = f"   # REFUSED: {command.objection}"
        typed = where + command.text
        if len(typed) > LONG:
            typed = typed.replace(" --", " \\\n      --")
        lines.append(typed + verdicts.get(command.accepted, refused))
    return "\n".join(lines)


def concerns(box: Box, chosen: Choice, over: Choice) -> list[str]:
    """What to check before the plan is believed, and what it costs. over: the smallest layout."""
    check = f"TP counts on {box.link_for(2).kind} between the GPUs: check nvidia-smi topo -m first."
    if chosen.dp > 1:
        check += " Replicas count on an even share of the requests: check /metrics by engine."
    (held, _), on, there = beside_load(HELD), recorded_on(LEARNED), recorded_on(HELD)
    said = [
        check,
        f"Where TP cuts the model, TPOT was up to {longer(2):.2f} times what was expected under "
        f"the recorded load on {on}, and {_times_off(held, True)} times on {there}: measure it on "
        "yours. TTFT rose with TP on the former and fell on the latter, and why is open.",
    ]
    return [*said, *filter(None, [cost(chosen, over)])]
