"""Sentences of notebook 3 that depend on what was measured, whichever way the numbers fall.

First the captions of its figures, then the reasons in its cards and tables.
"""

from helpers.lessons.papers import speculative

WAITS = 0.7  # of the memory ceiling: who reaches less waits for something else, too
NEAR = 0.1  # a prediction that is off by less is called near
BY_HAND, OWN_TEXT = "the rates set by hand", "your draft model"  # what a c was fitted to
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
    """What vLLM's gauge said and how much of it was empty. rows: see `as_predicted`, and tokens."""
    empty = empty_share(rows, block_size)
    return (
        f"{as_predicted(rows, plans_ahead)}. {100 * empty:.0f} % of the places in them were empty, "
        f"for short requests and blocks of {block_size}."
    )


def empty_share(rows: list[dict], block_size: int) -> float:
    """Share of the slots in use that held no token. rows: tokens, gauge."""
    return 1 - sum(r["tokens"] for r in rows) / sum(r["gauge"] * block_size for r in rows)


def as_predicted(rows: list[dict], plans_ahead: bool) -> str:
    """In how many steps vLLM held the predicted blocks, and what it held in the others.

    rows: gauge and predicted, in blocks. plans_ahead: `static_batching.plans_ahead` of the engine.
    """
    differ = [i for i, r in enumerate(rows) if r["gauge"] != r["predicted"]]
    share = f"{100 * (1 - len(differ) / len(rows)):.0f} % of the steps"
    said = f"In {share} vLLM held exactly the blocks that the sum predicts"
    following = [r["predicted"] for r in rows[1:]]
    early = [i for i in differ if i < len(following) and rows[i]["gauge"] == following[i]]
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
    times = f"The tiled kernel ({against['backend']}) is {_by_length(against['gains'])}"
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
    said = f"{times} times as fast at {' / '.join(f'{tokens:,}' for tokens in gains)} tokens"
    largest, last = max(gains, key=gains.get), max(gains)
    return f"{said} (most at {largest:,})" if gains[largest] > 1.1 * gains[last] else said


def divided_keys(tokens: int | None) -> str:
    """Why a short prompt needs more memory than a long one in tiles; "" where none did."""
    if tokens is None:
        return ""
    return (
        f" At {tokens:,} tokens flash needs more than for the next length: its blocks of queries "
        "alone would leave part of the GPU idle, so it divides the keys too, and keeps a result "
        "of each part."
    )


def products(
    rows: list[dict], knee: float, there: list[dict] = (), their_knee: float | None = None
) -> str:
    """What more rows cost. rows, there: of `small_operations.product_sweep`; there: the H100's."""
    first, middle, last = rows[0], rows[3], rows[-1]
    fastest = min(rows, key=lambda row: row["ms"])
    best = f"{_count(fastest['batch'])}, the fastest product, {fastest['ms']:.3g} ms, "
    said = (
        f"One row takes {first['ms']:.3g} ms, {best * (fastest['batch'] > 1)}"
        f"{middle['batch']} rows {middle['ms']:.3g} ms, {last['batch']} rows {last['ms']:.3g} ms. "
        f"The ceilings meet at {knee:.3g} rows. "
        f"{_one_row(first)}; {last['batch']} rows compute at "
        f"{100 * last['share_of_arithmetic']:.0f} % of the arithmetic one."
    )
    if there:
        said += f" The H100's ceilings meet at {their_knee:.3g} rows. {_one_row(there[0])} there."
    return said


def _one_row(row: dict) -> str:
    share = row["share_of_bandwidth"]
    said = f"One row reads at {100 * share:.0f} % of the memory ceiling"
    return said if share >= WAITS else f"{said}, so it does not wait for memory alone"


def nearly_free(rows: list[dict], there: list[dict]) -> str:
    """Up to how many rows another one costs next to nothing.

    rows, there: batch and ms of each product; there: the H100's.
    """
    here = _hardly_longer(rows)
    beyond = next((row for row in rows if row["batch"] > here), None)
    said = (
        f"Another row, a request more in a step, is nearly free here up to {_count(here)}, whose "
        f"product takes at most {100 * NEAR:.0f} % longer than the fastest"
    )
    if beyond:
        slower = 100 * (beyond["ms"] / min(row["ms"] for row in rows) - 1)
        said += f"; that of {_count(beyond['batch'])} takes {slower:.0f} % longer"
    return f"{said}. On a recorded H100 it is so up to {_count(_hardly_longer(there))}."


def _hardly_longer(rows: list[dict]) -> int:
    """The most rows, of those tried, whose product takes hardly longer than the fastest."""
    fastest = min(row["ms"] for row in rows)
    return max(row["batch"] for row in rows if row["ms"] <= (1 + NEAR) * fastest)


def speculation(own: tuple[tuple[float, float, float], str] | None) -> str:
    """What four drafted tokens are worth at two rates. own: of `claims.own_draft_cost`."""
    costs, said = (0.05, 0.05, 0.05), "as little as the paper's largest (c = 0.05)"
    if own:
        costs = own[0]
        said = f"what yours do (all-in c = {costs[1]:.2f}; {costs[0]:.2f} to {costs[2]:.2f})"

    def worth(alpha: float) -> str:
        slow, middle, fast = (f"{speculative.speedup(alpha, 4, c):.2f}" for c in reversed(costs))
        return middle + f" ({slow} to {fast})" * bool(own)

    return (
        f"Speculation pays where a is high and a draft is cheap: with drafts that cost {said}, "
        f"four drafted tokens give {worth(0.8)} times the speed at a = 0.8 and {worth(0.3)} times "
        "at a = 0.3."
    )


def curve_tested(own: tuple[tuple[float, float, float], str] | None, runs: list[dict]) -> str:
    """Whether the marks lie on the curve of `own`, of `claims.own_draft_cost`.

    runs: with label, alpha and gain, of four drafted tokens.
    """
    above = "Above the line at 1 speculation gains."
    if own is None:
        return above
    (low, middle, high), fitted_to = own
    if fitted_to != BY_HAND:
        return f"{above} Your curve is fitted to the draft model's mark, which tests nothing then."
    by_hand = [run for run in runs if run["label"].startswith("synthetic")]
    missed = [run["label"] for run in by_hand if not _meets(run, middle, middle)]
    said = f"{above} Your curve is fitted to the rates set by hand (section 8 of notebook 2)"
    if missed:
        said += f", and misses the ranges of {', '.join(missed)}: one c is not enough."
    else:
        wide = ", which are wide" * any(run["gain"].wide for run in by_hand)
        said += f", and meets all their ranges{wide}: they do not ask for more than one c."
    for run in runs:
        if run["label"].startswith("draft model"):
            expected = speculative.speedup(run["alpha"], 4, middle)
            off = "lies below" if run["speedup"] < expected else "lies above"
            where = "meets" if _meets(run, low, high) else off
            said += f" The range of the draft model's own answers, another text, {where} its band."
    return said


def _meets(run: dict, low: float, high: float) -> bool:
    """Whether its range reaches the curves of costs from `low` to `high`."""
    slow, fast = (speculative.speedup(run["alpha"], 4, c) for c in (high, low))
    return run["gain"].high >= slow and run["gain"].low <= fast


def elsewhere(drafters: dict[str, list[dict]], where: str, gamma: int) -> str:
    """What the drafts of `claims.speculation_elsewhere` cost there; "" without any."""
    if not drafters:
        return ""
    costs = []
    for name, runs in drafters.items():
        low, _, high = speculative.draft_cost(runs[-1]["gain"], runs[-1]["alpha"], gamma)
        costs.append(f"{name} {low:.2f} to {high:.2f}")
    return (
        f" Dotted, {where}, one stream, rates set by hand, by output tokens/s; all-in c at the "
        f"largest a: {', '.join(costs)} (vLLM launches the kernels of a draft model one by one)."
    )


def chunks(rows: list[dict], where: str) -> str:
    """What the budget with the shortest gap gave and cost. rows, where: claims.chunks_on_record."""
    whole = rows[0]
    short = min(rows, key=lambda row: row["itl_ms_max"])
    gaps, firsts = (
        f"{whole[name]:.0f} to {short[name]:.0f} ms" for name in ("itl_ms_max", "ttft_long_ms_p50")
    )
    return (
        "A smaller token budget bounds how long a stream waits for others' prompts: the longest "
        f"gap was shortest with {short['max_num_batched_tokens']:,} tokens; from "
        f"{whole['max_num_batched_tokens']:,} to these it went from {gaps}, the TTFT of the long "
        f"prompts from {firsts} (one run each{where and f'; {where}'})."
    )


def steps(runs: dict) -> str:
    """How many steps each of two recordings took. runs: label -> Steps, the longer one first."""
    (first, longer), (second, shorter) = ((label, len(run.steps)) for label, run in runs.items())
    return (
        f"{first.capitalize()}, the requests need {longer} engine steps, {second} {shorter}: "
        f"{longer / shorter:.1f} times fewer."
    )


def reserved(gain, shared: dict[str, float], step_ms: dict[str, float]) -> str:
    """Why paging gains what it gains. By way: mean requests in a step, and its milliseconds."""
    more = shared["paged"] / shared["reserved"]
    said = (
        f"Paged, {shared['paged']:.1f} requests shared a step on average, reserved "
        f"{shared['reserved']:.1f}: {more:.1f} times as many. More fit at first; towards the end "
        f"few are left. The mean step took {step_ms['paged']:.2f} ms paged, "
        f"{step_ms['reserved']:.2f} ms reserved"
    )
    if gain.high < more:
        said += ": a fuller one takes longer, so the gain in tokens/s is smaller"
    return f"{said}."


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


def gain_in_time(gain, steps: dict[str, int], step_ms: dict[str, float], tokens: int) -> str:
    """Why continuous admission gains what it gains. By way: its steps, and the mean step."""
    fewer = steps["waves"] / steps["continuous"]
    means = "; ".join(
        f"{way} {step_ms[way]:.2f} ms with {tokens / steps[way]:.1f} requests in it"
        for way in ("waves", "continuous")
    )
    said = f"The engine needed {fewer:.2f} times fewer steps. The mean step: {means}"
    if gain.high < fewer:
        said += ". A fuller one takes longer, so in time the gain is smaller"
    return f"{said}."


def knee(rows: list[dict], predicted: float, found: float | None) -> str:
    """Which two misses move the knee from where the ceilings alone put it.

    rows: of `small_operations.product_sweep`; predicted: from the ceilings; found: measured.
    """
    fastest = min(rows, key=lambda row: row["ms"])
    reading = fastest["share_of_bandwidth"]
    said = (
        f"{_count(fastest['batch']).capitalize()} reached {100 * reading:.0f} % of the memory "
        f"ceiling, which alone would move the knee up to {predicted / reading:.3g}"
    )
    if not found:
        return f"{said}."
    at = min(rows, key=lambda row: abs(row["batch"] - found))
    computing = at["share_of_arithmetic"]
    luck = abs(found / predicted - 1) <= NEAR and reading < WAITS
    return (
        f"{'That is luck. ' * luck}{said}; {_count(at['batch'])} reached {100 * computing:.0f} % "
        f"of the arithmetic one, which alone would move it down to {predicted * computing:.3g}: "
        "two misses that partly cancel."
    )


def _count(rows: int) -> str:
    return "one row" if rows == 1 else f"{rows:,} rows"


def fused(compiled: bool, recorded_x: float) -> str:
    """Why fusing gains what it gains. compiled: into one kernel; recorded_x: on an H100."""
    if compiled:
        return "Fused into one kernel, which rounds once instead of eight times."
    return (
        "Fused by running it piece by piece in the cache: bytes are one of the costs, arithmetic "
        f"and the calls stay. With one compiled kernel, {recorded_x:.2f}x was recorded on an H100."
    )


def tiles(counted: list[dict]) -> str:
    """What tiles change. counted: see `claims.flash`."""
    first, longer, larger = (row["tiles move"] for row in counted[:3])
    differ = max(row["largest difference"] for row in counted)
    return (
        f"Attention in tiles is exact (largest difference {differ:.1e}) and moves less, but its "
        f"traffic still grows with the square of the prompt: {longer / first:.1f} times for twice "
        f"the tokens. Twice the fast memory makes it {larger / longer:.2f} times as much."
    )


def then_and_now(rows: list[dict]) -> list[dict]:
    """Lines of `then_and_now` as the notebook shows them: what was seen only where one differs."""
    shown = []
    for row in rows:
        line = {"older material": f"{row['topic']}: {row['older material']}", "now": row["now"]}
        if not row["holds"]:
            line["holds"] = "not checked" if row["holds"] is None else f"NO: {row['seen']}"
        shown.append(line)
    return shown
