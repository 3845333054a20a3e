"""Sentences of notebook 3 that depend on what was measured, whichever way the numbers fall.

First the captions of its figures, then the reasons in its cards and tables.
"""

from helpers.lessons.papers import cost, speculative
from helpers.verdicts.gain import LEAST_VALUES, Gain

NO_DIFFERENCE = 0.1  # step times (quartiles of many) that differ by less are called equal
AHEAD = "vLLM plans a step while the one before runs (asynchronous scheduling)"

# ---------------------------------------------------------------- captions


def reserved_bar(moments: dict[str, float]) -> str:
    """What Figure 2's first bar says. moments: of `paged_attention.moments_from_figure_2`."""
    return (
        f"Seven requests share the cache, so one holds {moments['held']:.0f} tokens on average "
        f"(blue) and ends with {moments['final']:.0f} (blue and light blue). From the blue part "
        f"alone follow answers that spread by {moments['output_cv']:.2f} times their mean and "
        f"{moments['final_predicted']:.0f} tokens at the end."
    )


def allocators(usage: dict) -> str:
    """What the four allocators keep for tokens. usage: policy -> `paged_attention.Usage`."""
    tokens = {policy: f"{100 * used.tokens:.0f} %" for policy, used in usage.items()}
    return (
        f"Tokens fill {tokens['max']} of the cache when the maximum is reserved, "
        f"{tokens['oracle']} for an oracle that still needs one piece, "
        f"and {tokens['paged']} when paged."
    )


def block_sizes(rows: list[dict]) -> str:
    """Blocks of 16 against the largest. rows: block_size, tokens (percent)."""
    share = {row["block_size"]: f"{row['tokens']:.1f} %" for row in rows}
    largest = max(share)
    return (
        f"Blocks of 16 keep {share[16]} for tokens, blocks of {largest} only {share[largest]}; "
        "the waste is half a block per request."
    )


def sharing(rows: list[dict]) -> str:
    """Six parallel samples and six beams. rows: kind, width, saved_percent, printed."""
    six = {row["kind"]: row for row in rows if row["width"] == 6}
    samples, beams = six["parallel"], six["beam"]
    return (
        f"Six parallel samples save {samples['saved_percent']:.0f} % of the blocks "
        f"(paper: {samples['printed']:.0f}), six beams {beams['saved_percent']:.0f} % "
        f"(paper: {beams['printed']:.0f})."
    )


def blocks_in_use(rows: list[dict], block_size: int, plans_ahead: bool) -> str:
    """What vLLM's gauge said and how much of it was empty. rows: see `gauge`, and tokens."""
    empty = empty_share(rows, block_size)
    return (
        f"{gauge(rows, plans_ahead)}. {empty:.0%} of the slots in them were empty, "
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
    share = f"{1 - len(differ) / len(rows):.0%} of the steps"
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


def traffic(slopes: dict[str, float], slope_m: float, by_tokens: list[dict]) -> str:
    """The exponents. slopes: in N, by way. by_tokens: tokens, standard, flash; longest last."""
    longest = by_tokens[-1]
    fewer = longest["standard"] / longest["flash"]
    return (
        f"Slopes: {slopes['standard']:.2f} in N for the standard way, {slopes['flash']:.2f} for "
        f"tiles, {slope_m:.2f} in M; at {longest['tokens']:,} tokens tiles move {fewer:.1f} times "
        "less."
    )


def attention(against: dict, recorded: dict | None = None) -> str:
    """The standard way against tiles: `small_operations.tiled_against_math` of what was timed here.

    recorded: the same of the H100, whose memory stands in where torch does not count it.
    """
    times = (
        f"At {against['tokens']:,} tokens the tiled kernel ({against['backend']}) takes "
        f"{against['tiled_ms']:.3g} ms and the standard way {against['math_ms']:.3g} ms: "
        f"{against['gain']:.1f} times."
    )
    memory = (recorded or against)["memory"]
    if not memory:
        return f"{times} The tiled kernel needed no extra memory."
    start = "On the H100, from" if recorded else "From"
    return (
        f"{times} {start} {memory['from']:,} to {memory['to']:,} tokens the extra memory grew "
        f"{memory['math']:.0f} times (math) and {memory['tiled']:.0f} times (tiled)."
    )


def products(rows: list[dict]) -> str:
    """What more rows cost. rows: of `small_operations.product_sweep`."""
    first, middle, last = rows[0], rows[3], rows[-1]
    return (
        f"One row takes {first['ms']:.3g} ms, {middle['batch']} rows {middle['ms']:.3g} ms, "
        f"{last['batch']} rows {last['ms']:.3g} ms; one row reaches "
        f"{first['share_of_bandwidth']:.0%} of the memory ceiling, {last['batch']} rows "
        f"{last['share_of_arithmetic']:.0%} of the arithmetic one."
    )


def budgets(whole: dict, chunks: dict, rows: list[dict]) -> str:
    """Gaps with whole prompts and with chunks. All: metrics; rows: by token_budget, rising."""
    first, last = rows[0], rows[-1]
    return (
        f"Prompt first: gaps up to {whole['itl_ms_max']:.0f} ms. Chunks of 512: at most "
        f"{chunks['itl_ms_max']:.0f} ms. TTFT is {first['ttft_ms_p50']:.0f} ms with a budget of "
        f"{first['token_budget']:,}, {last['ttft_ms_p50']:.0f} with {last['token_budget']:,}."
    )


def policies(rows: list[dict]) -> str:
    """Which column of the table of policies changes most. rows: policy and metrics."""
    numbers = [name for name in rows[0] if name != "policy"]
    spread = {name: max(r[name] for r in rows) / min(r[name] for r in rows) for name in numbers}
    most = max(spread, key=spread.get)
    high, low = max(rows, key=lambda r: r[most]), min(rows, key=lambda r: r[most])
    return (
        f"{most} changes most: {high[most]:,.0f} with {high['policy']}, {low[most]:,.0f} with "
        f"{low['policy']}, {spread[most]:.0f} times less. output_tokens_per_s changes "
        f"{spread['output_tokens_per_s']:.2f} times, because every request is answered in the end."
    )


def speculation(own_cost: float | None) -> str:
    """What four drafted tokens are worth at two acceptance rates. own_cost: c of notebook 2."""
    c = 0.05 if own_cost is None else own_cost
    good, poor = (speculative.speedup(alpha, 4, c) for alpha in (0.8, 0.3))
    whose = "as small as the paper's" if own_cost is None else "as large as yours"
    return (
        f"With a draft cost {whose} (c = {c:.2f}), four drafted tokens give {good:.2f}x at alpha "
        f"0.8 and {poor:.2f}x at 0.3."
    )


def reserved(both) -> str:
    """Why paging gains what it gains; both: `static_batching.Reserving`."""
    running = both.running
    said = (
        f"Paged, {running['paged']:.1f} requests shared a step on average, reserved "
        f"{running['reserved']:.1f}: {both.running_x:.1f} times as many."
    )
    if both.gain.high < both.running_x:
        said += " A fuller step takes longer, so the gain in tokens/s is smaller than that."
    return said


def prices(inputs: cost.CostInputs, rows: list[dict]) -> str:
    """The price and what lowers it most. rows: change, per_million; cheapest first."""
    best = rows[0]
    return (
        f"At {inputs.tokens_per_s:,.0f} tokens/s when busy, a million tokens cost "
        f"{cost.cost_per_million(inputs):.4g}; of these changes, "
        f"'{best['change']}' lowers it most, to {best['per_million']:.4g}."
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
        said += f", no difference above {NO_DIFFERENCE:.0%}"
    return f"{said}."


def refills(steps: int, simulated: int, plans_ahead: bool) -> str:
    """How soon vLLM refills a place.

    steps: of the engine. simulated: with places refilled in the very next step.
    """
    if steps == simulated:
        return "vLLM refills a place in the very next step."
    said = f"{steps} steps, simulated {simulated}."
    if plans_ahead and steps > simulated:
        said += f" One reason: {AHEAD}, so a place is refilled one step later."
    return said


def gain_in_time(gain: Gain, steps_x: float, calibrated_x: float) -> str:
    """The measured gain of continuous admission, in seconds, beside the two that explain it."""
    counted = f"Counting its steps, the engine gained {steps_x:.2f}x"
    said = f"{counted}, and with its own step times the simulation says {calibrated_x:.2f}x. "
    said += f"In seconds the runs say: {gain.sentence()}"
    if gain.values < LEAST_VALUES:
        return f"{said}."
    if gain.low <= calibrated_x <= gain.high:
        return f"{said}; the simulated gain lies within that."
    causes = "prompts, time between steps, other programs on this machine"
    return f"{said}; the rest is not explained by steps: {causes}."


def knee(first: dict) -> str:
    """Why the knee is where it is; first: the row of one row of `product_sweep`."""
    share = f"{first['share_of_bandwidth']:.0%} of the memory ceiling"
    between = "Between two batches in the plot the time is interpolated."
    return f"{between} One row reached {share}: the slower the reading, the later the knee."


def table_2(alpha: float, gamma: int, speed: float) -> str:
    """Why theorem 3.8 with c = 0.02 is off what the paper measured; a row of its Table 2."""
    assumed = "The paper gives c only as below 0.05; 0.02 is assumed here."
    free = speculative.speedup(alpha, gamma)
    if speed <= free:
        return assumed
    return (
        f"{assumed} With free drafts the formula gives {free:.2f}x, less than was measured: "
        "acceptance is not independent from token to token, and the two "
        "programs that were compared differ in more than the drafts."
    )


def fused(how: str, recorded_x: float) -> str:
    """Why fusing gains what it gains. how: of `small_operations.fusion`; recorded_x: on an H100."""
    if "kernel" in how:
        return "Fused into one kernel, which rounds once instead of eight times."
    return (
        f"Fused by running it {how}: bytes are one of the costs, arithmetic and the calls stay. "
        f"With one compiled kernel, {recorded_x:.2f}x was recorded on an H100."
    )
