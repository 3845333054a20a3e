"""Sentences of notebook 3 that depend on what was measured, whichever way the numbers fall.

First the captions of its figures, then the reasons in its cards and tables.
"""

from helpers.lessons.papers import speculative
from helpers.lessons.reading_notes.small_operations import price_of_a_row

H100_HEADS = 16  # of the attention that was recorded there
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
    times = f"The tiled kernel ({against['backend']}) is {_by_length(against['ms'])}"
    if recorded:
        times += f"; on the H100 {_by_length(recorded['ms'])}"
    times += f".{_drop((recorded or against)['ms'])}"
    memory = (recorded or against)["memory"]
    if not memory:
        return f"{times} The tiled kernel needed no extra memory."
    start = "On the H100, from" if recorded else "From"
    return (
        f"{times} {start} {memory['from']:,} to {memory['to']:,} tokens the extra memory grew "
        f"{memory['math']:.0f} times (math) and {memory['tiled']:.0f} times (tiled)."
        f"{divided_keys(memory['divided'])}"
    )


def _by_length(ms: dict[int, tuple[float, float]]) -> str:
    """How many times as fast tiles are at each length. ms: tokens -> both ways."""
    times = " / ".join(f"{math / tiled:.2g}" for math, tiled in ms.values())
    return f"{times} times as fast at {' / '.join(f'{tokens:,}' for tokens in ms)} tokens"


def _drop(ms: dict[int, tuple[float, float]]) -> str:
    """Which of both ways the gain shrank by, where it is not largest at the longest prompt."""
    peak, last = max(ms, key=lambda n: ms[n][0] / ms[n][1]), max(ms)
    math, tiled = (after / before for before, after in zip(ms[peak], ms[last], strict=True))
    if tiled < 1.1 * math:
        return ""
    scores = (last / peak) ** 2
    return (
        f" From {peak:,} to {last:,} tokens the scores grew {scores:.3g} times, math's time "
        f"{math:.1f} and that of tiles {tiled:.1f} times."
    )


def divided_keys(tokens: int | None) -> str:
    """Why a short prompt needs more memory than a long one in tiles; "" where none did."""
    if tokens is None:
        return ""
    return (
        f" At {tokens:,} tokens flash needs more than for the next length: its source divides the "
        "keys of a short prompt among idle parts of the GPU, and keeps a result of each; "
        f"two of {tokens:,} x {H100_HEADS} x 64 numbers of 4 bytes are "
        f"{2 * tokens * H100_HEADS * 64 * 4 / 2**20:.0f} MiB."
    )


def products_title(rows: list[dict], knee: float) -> str:
    """What holds of the products. rows: of `small_operations.beside_limits`."""
    price = price_of_a_row(rows, knee)
    if price["knee"]:
        return "Up to a knee one more row is nearly free"
    if 4 * price["row_us"] < 1000 * rows[0]["ms"]:
        return "One more row costs far less than the first"
    return "What one more row costs"


def products(
    rows: list[dict], knee: float, there: list[dict] = (), their_knee: float | None = None
) -> str:
    """What more rows cost. rows, there: of `small_operations.beside_limits`; there: the H100's."""
    first, last = rows[0], rows[-1]
    fastest = min(rows, key=lambda row: row["ms"])
    best = f"{_count(fastest['batch'])}, the fastest product, {fastest['ms']:.3g} ms, "
    said = (
        f"One row takes {first['ms']:.3g} ms, {best * (fastest['batch'] > 1)}"
        f"{last['batch']} rows {last['ms']:.3g} ms. The ceilings meet at {knee:.3g} rows."
        f"{_prices(rows, knee)} {_one_row(first)}; {last['batch']} rows compute at "
        f"{100 * last['share_of_arithmetic']:.0f} % of the arithmetic one."
    )
    if there:
        said += f" The H100's ceilings meet at {their_knee:.3g} rows.{_prices(there, their_knee)}"
    return said


def _prices(rows: list[dict], knee: float) -> str:
    """What a row costs on both sides of where the ceilings meet."""
    price = price_of_a_row(rows, knee)
    if price["before"] is None:
        return ""
    verdict = {True: ": a knee", False: ": no knee (on log axes a line bends)", None: ""}[
        price["knee"]
    ]
    first, at, last = (f"{batch:,}" for batch in price["batches"])
    return (
        f" From {first} to {at} rows each one more costs {_us(price['before'])}, from {at} to "
        f"{last} {_us(price['beyond'])}{verdict}."
    )


def _us(price: float) -> str:
    return f"{price:,.0f} µs" if price >= 10 else f"{price:.2g} µs"


def _one_row(row: dict) -> str:
    share = row["share_of_bandwidth"]
    said = f"One row reads at {100 * share:.0f} % of the memory ceiling"
    return said if share >= WAITS else f"{said}, so it does not wait for memory alone"


def nearly_free(rows: list[dict], knee: float, there: list[dict]) -> str:
    """What another row costs. rows, there: batch and ms of each product; there: the H100's."""
    price = price_of_a_row(rows, knee)
    free = f"whose product takes at most {100 * NEAR:.0f} % longer than the fastest"
    if price["knee"]:
        said = f"is nearly free here up to {_count(_hardly_longer(rows))}, {free}"
        there_too = f"it is so up to {_count(_hardly_longer(there))}"
    else:
        said = f"costs {_us(price['row_us'])} here, the first one {_us(1000 * rows[0]['ms'])}"
        there_too = f"it is nearly free up to {_count(_hardly_longer(there))}, {free}"
    return f"Another row, a request more in a step, {said}. On a recorded H100 {there_too}."


def _hardly_longer(rows: list[dict]) -> int:
    """The most rows, of those tried, whose product takes hardly longer than the fastest."""
    fastest = min(row["ms"] for row in rows)
    return max(row["batch"] for row in rows if row["ms"] <= (1 + NEAR) * fastest)


def speculation(own: tuple[tuple[float, float, float], str] | None, runs: list[dict] = ()) -> str:
    """What four drafted tokens are worth at two rates. own: of `claims.own_draft_cost`.

    runs: as for `curve_tested`, with c.
    """
    costs, said = (0.05, 0.05, 0.05), "as little as the paper's largest (c = 0.05)"
    if own:
        costs, fitted_to = own
        said = f"what those of {fitted_to} do (all-in c = {costs[1]:.2f}; "
        said += f"{costs[0]:.2f} to {costs[2]:.2f})"

    def worth(alpha: float) -> str:
        slow, middle, fast = (f"{speculative.speedup(alpha, 4, c):.2f}" for c in reversed(costs))
        return middle + f" ({slow} to {fast})" * bool(own)

    real = ""
    for run in runs:
        if own and own[1] == BY_HAND and run["label"].startswith("draft model"):
            real = f" On the draft model's own answers c was {run['c']:.2f}."
    return (
        f"Speculation pays where a is high and a draft is cheap: with drafts that cost {said}, "
        f"four drafted tokens give {worth(0.8)} times the speed at a = 0.8 and {worth(0.3)} times "
        f"at a = 0.3.{real}"
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
        "busy, twice that. As cheap as an API that charges for output tokens alone, "
        f"{', '.join(when)}."
    )


# ---------------------------------------------------------------- reasons


def paged_waste(used) -> str:
    """What a paged cache does not fill; used: its `paged_attention.Usage`."""
    return (
        f"{100 * used.reserved:.1f} % is the rest of last blocks that their requests still fill, "
        f"{100 * used.internal:.2f} % what they never will; {100 * used.external:.1f} % were free "
        "blocks."
    )


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


def knee(rows: list[dict], meet: float, found: float | None) -> str:
    """Why a product took 1.5 times as long as the fastest where it did.

    rows: of `small_operations.beside_limits`; meet: where the ceilings do; found: measured.
    """
    price = price_of_a_row(rows, meet)
    if price["knee"] is False:
        luck = found and abs(found / (1.5 * meet) - 1) <= NEAR
        alike = " That both come out alike is luck." if luck else ""
        return (
            f"A product takes about {price['start_ms']:.2g} ms plus {_us(price['row_us'])} a row, "
            f"before the ceilings meet and after: a line without a knee.{alike} Of the fixed cost, "
            f"reading the weights at the ceiling takes {rows[0]['allowed_ms']:.2g} ms; what else "
            "is in it was not measured."
        )
    fastest = min(rows, key=lambda row: row["ms"])
    reading, predicted = fastest["share_of_bandwidth"], 1.5 * meet
    said = (
        f"{_count(fastest['batch']).capitalize()} reached {100 * reading:.0f} % of the memory "
        f"ceiling, which alone would move the point up to {predicted / reading:.3g} rows"
    )
    if not found:
        return f"{said}."
    at = min(rows, key=lambda row: abs(row["batch"] - found))
    computing = at["share_of_arithmetic"]
    return (
        f"{said}; {_count(at['batch'])} reached {100 * computing:.0f} % of the arithmetic one, "
        f"which alone would move it down to {predicted * computing:.3g}; both, to "
        f"{predicted * computing / reading:.3g}."
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
