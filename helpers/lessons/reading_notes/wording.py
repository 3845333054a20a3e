"""Sentences of notebook 3 that depend on what was measured, whichever way the numbers fall.

First the captions of its figures, then the reasons in its cards and tables.
"""

import math

from helpers.lessons.papers import speculative

NO_DIFFERENCE = 0.1  # step times (quartiles of many) that differ by less are called equal
AHEAD = "vLLM plans a step while the one before runs (asynchronous scheduling)"

# ---------------------------------------------------------------- captions


def allocators(usage: dict) -> str:
    """What the four allocators keep for tokens. usage: policy -> `paged_attention.Usage`."""
    tokens = {policy: f"{100 * used.tokens:.0f} %" for policy, used in usage.items()}
    return (
        f"Tokens fill {tokens['max']} of the cache when the maximum is reserved, "
        f"{tokens['oracle']} for an oracle that still needs one piece, "
        f"and {tokens['paged']} when paged."
    )


def blocks_in_use(rows: list[dict], block_size: int, plans_ahead: bool) -> str:
    """What vLLM's gauge said and how much of it was empty. rows: see `gauge`, and tokens."""
    empty = empty_share(rows, block_size)
    return (
        f"{gauge(rows, plans_ahead)}. {100 * empty:.0f} % of the places in them were empty, "
        f"for short requests and blocks of {block_size}."
    )


def empty_share(rows: list[dict], block_size: int) -> float:
    """Share of the slots in use that held no token. rows: tokens, blocks."""
    return 1 - sum(r["tokens"] for r in rows) / sum(r["blocks"] * block_size for r in rows)


def gauge(rows: list[dict], plans_ahead: bool) -> str:
    """In how many steps vLLM held the predicted blocks, and what it held in the others.

    rows: blocks, blocks_predicted. plans_ahead: `static_batching.plans_ahead` of the engine.
    """
    differ = [i for i, r in enumerate(rows) if r["blocks"] != r["blocks_predicted"]]
    share = f"{100 * (1 - len(differ) / len(rows)):.0f} % of the steps"
    said = f"In {share} vLLM held exactly the blocks that the sum predicts"
    following = [r["blocks_predicted"] for r in rows[1:]]
    early = [i for i in differ if i < len(following) and rows[i]["blocks"] == following[i]]
    if not early:
        return said
    which = "in the others"
    if len(early) < len(differ):
        which = f"in {len(early)} of the {len(differ)} others"
    reason = f": {AHEAD}" if plans_ahead else ""
    return f"{said}; {which} already those of the next step{reason}"


def attention(against: dict, recorded: dict | None = None) -> str:
    """The standard way against tiles: `small_operations.tiled_against_math` of what was timed here.

    recorded: the same of the H100, whose memory stands in where torch does not count it.
    """
    times = (
        f"At {against['tokens']:,} tokens the tiled kernel ({against['backend']}) takes "
        f"{against['tiled_ms']:.3g} ms and the standard way {against['math_ms']:.3g} ms. "
        f"Tiles are {_by_length(against['gains'])}"
    )
    if recorded:
        times += f"; on the H100 {_by_length(recorded['gains'])}"
    times += "."
    memory = (recorded or against)["memory"]
    if not memory:
        return f"{times} The tiled kernel needed no extra memory."
    start = "On the H100, from" if recorded else "From"
    return (
        f"{times} {start} {memory['from']:,} to {memory['to']:,} tokens the extra memory grew "
        f"{memory['math']:.0f} times (math) and {memory['tiled']:.0f} times (tiled)."
        f"{divided_keys(memory['divided'])}"
    )


def _by_length(gains: dict[int, float]) -> str:
    """How many times as fast tiles are at each length. gains: tokens -> times."""
    times = " / ".join(f"{gain:.2g}" for gain in gains.values())
    return f"{times} times as fast at {' / '.join(f'{tokens:,}' for tokens in gains)} tokens"


def divided_keys(tokens: int | None) -> str:
    """Why a short prompt needs more memory than a long one in tiles; "" where none did."""
    if tokens is None:
        return ""
    return (
        f" At {tokens:,} tokens flash needs more than for the next length: its blocks of queries "
        "alone would leave part of the GPU idle, so it divides the keys too, and keeps a result "
        "of each part."
    )


def products(rows: list[dict], knee: float) -> str:
    """What more rows cost. rows: of `small_operations.product_sweep`; knee: from the ceilings."""
    first, middle, last = rows[0], rows[3], rows[-1]
    near = min(rows, key=lambda row: abs(math.log(row["batch"] / knee)))
    reading, computing = (100 * near[f"share_of_{name}"] for name in ("bandwidth", "arithmetic"))
    return (
        f"One row takes {first['ms']:.3g} ms, {middle['batch']} rows {middle['ms']:.3g} ms, "
        f"{last['batch']} rows {last['ms']:.3g} ms; one row reaches "
        f"{100 * first['share_of_bandwidth']:.0f} % of the memory ceiling, {last['batch']} rows "
        f"{100 * last['share_of_arithmetic']:.0f} % of the arithmetic one. "
        f"Next to the ceilings' knee, {near['batch']} rows reach {reading:.0f} % of the one and "
        f"{computing:.0f} % of the other."
    )


def speculation(own_cost: tuple[float, float, float] | None) -> str:
    """What four drafted tokens are worth at two acceptance rates. own_cost: its range, or None."""
    if own_cost is None:
        good, poor = (f"{speculative.speedup(alpha, 4, 0.05):.1f}" for alpha in (0.8, 0.3))
        cost = "as small as the paper's (c = 0.05)"
    else:
        low, _, high = own_cost
        good, poor = (
            f"{speculative.speedup(alpha, 4, high):.2f} to {speculative.speedup(alpha, 4, low):.2f}"
            for alpha in (0.8, 0.3)
        )
        cost = f"as large as yours (all-in c = {low:.2f} to {high:.2f})"
    return (
        f"With a draft cost {cost}, four drafted tokens give {good} times the speed at a = 0.8 "
        f"and {poor} times at a = 0.3."
    )


def left_out(measured: list[dict], least: int) -> str:
    """Which runs of `claims.speculation_on_record` have fewer than `least` drafts; "" if none."""
    judged = [run for run in measured if run["speedup"]]
    few = [f"{run['label']} ({run['drafts']})" for run in judged if run["drafts"] < least]
    if not few:
        return ""
    return f"Left out (drafts), as fewer than {least} say too little of a: {'; '.join(few)}."


def curve_tested(own_cost: tuple[float, float, float] | None, marks: list[dict]) -> str:
    """How many of the marks whose rate was set by hand reach the curve's range; "" without any."""
    by_hand = [mark for mark in marks if mark["label"].startswith("synthetic")]
    if own_cost is None or not by_hand:
        return ""
    low, middle, high = own_cost
    reach = [
        mark
        for mark in by_hand
        if mark["gain"].high >= speculative.speedup(mark["alpha"], 4, high)
        and mark["gain"].low <= speculative.speedup(mark["alpha"], 4, low)
    ]
    return (
        " Your curve is fitted to the draft model's mark, which therefore tests nothing. Of the "
        f"{len(by_hand)} marks whose rate was set by hand (section 8 of notebook 2) "
        f"{len(reach)} have a range that reaches the curve's{_side(reach, middle)}."
    )


def elsewhere(drafters: dict[str, list[dict]], where: str, gamma: int) -> str:
    """What the drafts of `claims.speculation_elsewhere` cost there; "" without any."""
    if not drafters:
        return ""
    costs = []
    for name, runs in drafters.items():
        low, _, high = speculative.draft_cost(runs[-1]["gain"], runs[-1]["alpha"], gamma)
        costs.append(f"{name} {low:.2f} to {high:.2f}")
    return (
        f" Hollow, {where}, one stream, by output tokens/s; all-in c at the largest a: "
        f"{', '.join(costs)} (vLLM launches the kernels of a draft model one by one)."
    )


def _side(marks: list[dict], cost: float) -> str:
    """Where several marks lie on one side of the curve with this draft cost: which; else ""."""
    above = {mark["gain"].estimate > speculative.speedup(mark["alpha"], 4, cost) for mark in marks}
    if len(marks) < 2 or len(above) > 1:
        return ""
    return f", all {'above' if above == {True} else 'below'} its middle"


def chunks(rows: list[dict], where: str) -> str:
    """What the smallest token budget gave and cost. rows, where: of `claims.chunks_on_record`."""
    whole, small = rows[0], rows[-1]
    gaps, firsts = (
        f"{whole[name]:.0f} to {small[name]:.0f} ms" for name in ("itl_ms_max", "ttft_long_ms_p50")
    )
    return (
        f"From a token budget of {whole['max_num_batched_tokens']:,} to one of "
        f"{small['max_num_batched_tokens']:,} the longest gap in a stream went from {gaps}, the "
        f"TTFT of the long prompts from {firsts} (one run each{where and f'; {where}'})."
    )


def reserved(both) -> str:
    """Why paging gains what it gains; both: `static_batching.Reserving`."""
    running = both.running
    said = (
        f"Paged, {running['paged']:.1f} requests shared a step on average, reserved "
        f"{running['reserved']:.1f}: {both.running_x:.1f} times as many."
    )
    said += " More fit at first; towards the end few are left."
    if both.gain.high < both.running_x:
        said += " A fuller step takes longer, so the gain in tokens/s is smaller than that."
    return said


def price(yours: tuple[float, float], break_even: dict[float, float]) -> str:
    """The price and when it is an API's. yours: (share of busy hours, price).

    break_even: price of an API -> the share at which the machine costs as much.
    """
    busy, per_million = yours
    when = [
        f"at {price:g} {'never' if share > 1 else f'when busy {100 * share:.2g} % of the hours'}"
        for price, share in break_even.items()
    ]
    return (
        f"Busy {100 * busy:.0f} % of the hours, a million tokens cost {per_million:.2g}; half as "
        f"busy, twice that. As cheap as an API {', '.join(when)}."
    )


# ---------------------------------------------------------------- reasons


def paged_waste(used) -> str:
    """What a paged cache does not fill; used: its `paged_attention.Usage`."""
    free = f"{100 * used.external:.1f} % were free blocks"
    return f"{100 * used.internal:.1f} % is the rest of last blocks, {free}."


def blocks_reached(plans_ahead: bool) -> str:
    """Why vLLM holds the blocks that it holds."""
    ahead = ", or reaches in the step that is planned already" if plans_ahead else ""
    held = f"Every block that vLLM holds is one that a request has reached{ahead}"
    return f"{held}: nothing is set aside for its longest answer."


def step_cost(step_ms: dict[int, float]) -> str:
    """Whether a step with few requests is cheaper than a full one.

    step_ms: milliseconds by the requests in a step.
    """
    few, many = min(step_ms), max(step_ms)
    small = f"a step with {few} request{'s' * (few > 1)} takes {step_ms[few]:.2f} ms"
    times = f"{small}, one with {many} {step_ms[many]:.2f} ms"
    if step_ms[few] < (1 - NO_DIFFERENCE) * step_ms[many]:
        return f"Small batches are cheaper steps: {times}."
    said = f"Small batches are no cheaper steps here: {times}"
    if step_ms[few] < (1 + NO_DIFFERENCE) * step_ms[many]:
        said += f", no difference above {100 * NO_DIFFERENCE:.0f} %"
    return f"{said}."


def gain_in_time(waves) -> str:
    """Why continuous admission gains what it gains; waves: `static_batching.Waves`."""
    counted = f"The engine needed {waves.steps_x:.2f} times fewer steps"
    return f"{counted}; in seconds it was {waves.gain.sentence()}. {step_cost(waves.step_ms)}"


def knee(rows: list[dict], predicted: float, found: float | None) -> str:
    """Which two misses move the knee from where the ceilings alone put it.

    rows: of `small_operations.product_sweep`; predicted: from the ceilings; found: measured.
    """
    fastest = min(rows, key=lambda row: row["ms"])
    reading = fastest["share_of_bandwidth"]
    said = (
        f"Between two batches the time is interpolated. {_rows(fastest)} reached "
        f"{100 * reading:.0f} % of the memory ceiling, which alone would move the knee up to "
        f"{predicted / reading:.3g}"
    )
    if not found:
        return f"{said}."
    at = min(rows, key=lambda row: abs(row["batch"] - found))
    computing = at["share_of_arithmetic"]
    return (
        f"{said}; {_rows(at).lower()} reached {100 * computing:.0f} % of the arithmetic one, which "
        f"alone would move it down to {predicted * computing:.3g}: two misses that partly cancel."
    )


def _rows(row: dict) -> str:
    return "One row" if row["batch"] == 1 else f"{row['batch']:,} rows"


def fused(how: str, recorded_x: float) -> str:
    """Why fusing gains what it gains. how: of `small_operations.fusion`; recorded_x: on an H100."""
    if "kernel" in how:
        return "Fused into one kernel, which rounds once instead of eight times."
    return (
        f"Fused by running it {how}: bytes are one of the costs, arithmetic and the calls stay. "
        f"With one compiled kernel, {recorded_x:.2f}x was recorded on an H100."
    )


def tiles(counted: list[dict]) -> str:
    """What tiles change. counted: see `claims.flash`."""
    first, longer, larger = (row["tiles move"] for row in counted[:3])
    differ = max(row["largest difference"] for row in counted)
    return (
        f"Tiles gave the same result (largest difference {differ:.1e}). Twice the tokens moved "
        f"{longer / first:.1f} times as much, twice the fast memory {larger / longer:.1f} times."
    )


def then_and_now(rows: list[dict]) -> list[dict]:
    """Lines of `then_and_now` as the notebook shows them: what was seen only where one differs."""
    words = {True: "yes", None: "not checked"}
    return [
        {
            "older material": f"{row['topic']}: {row['older material']}",
            "now": row["now"],
            "holds": words.get(row["holds"], f"NO: {row['seen']}"),
        }
        for row in rows
    ]
