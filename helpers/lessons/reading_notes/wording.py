"""Sentences of notebook 3 that depend on what was measured, whichever way the numbers fall.

First the captions of its figures, then the reasons in its cards and tables.
"""

from helpers.lessons.papers import speculative

H100_HEADS = 16  # of the attention that was recorded there
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
    empty = f"{100 * empty_share(rows, block_size):.0f} %"
    return f"{as_predicted(rows, plans_ahead)}. {empty} of the places in them were empty."


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
    memory = (recorded or against)["memory"]
    if not memory:
        return f"{times}. The tiled kernel needed no extra memory."
    start = "On the H100, from" if recorded else "From"
    said = (
        f"{times}. {start} {memory['from']:,} to {memory['to']:,} tokens the extra memory grew "
        f"{memory['math']:.0f} times (math) and {memory['tiled']:.0f} times (tiled)."
    )
    if memory["divided"]:
        said += (
            f" At {memory['divided']:,} tokens flash divides the keys among idle parts of the GPU, "
            "and keeps a result of each."
        )
    return said


def _by_length(ms: dict[int, tuple[float, float]]) -> str:
    """How many times as fast tiles are at each length. ms: tokens -> both ways."""
    times = " / ".join(f"{math / tiled:.2g}" for math, tiled in ms.values())
    return f"{times} times as fast at {' / '.join(f'{tokens:,}' for tokens in ms)} tokens"


def products_title(rows: list[dict]) -> str:
    """What holds of the products. rows: batch and ms of each."""
    return f"Here {_against_one(rows)} as one"


def _against_one(rows: list[dict]) -> str:
    last = rows[-1]
    return f"{last['batch']:,} rows take {last['ms'] / rows[0]['ms']:.2g} times as long"


def products(
    rows: list[dict], knee: float, there: list[dict] = (), their_knee: float | None = None
) -> str:
    """What more rows cost. rows, there: of `small_operations.beside_limits`; there: the H100's."""
    said = f"Here the ceilings meet at {knee:.3g} rows"
    free = f"{_count(_hardly_longer(rows))} here"
    if there:
        said += f", on the H100 at {their_knee:.3g}"
        free += f", {_hardly_longer(there):,} on the H100"
    return f"{said}. At most {100 * NEAR:.0f} % longer than the fastest: {free}."


def nearly_free(rows: list[dict], there: list[dict]) -> str:
    """What another row costs. rows, there: batch and ms of each product; there: the H100's."""
    return (
        f"{_against_one(rows)} as one here; a row is a request in a step. On a recorded H100 up to "
        f"{_count(_hardly_longer(there))} take at most {100 * NEAR:.0f} % longer than the fastest."
    )


def _hardly_longer(rows: list[dict]) -> int:
    """The most rows, of those tried, whose product takes hardly longer than the fastest."""
    fastest = min(row["ms"] for row in rows)
    return max(row["batch"] for row in rows if row["ms"] <= (1 + NEAR) * fastest)


def speculation(own: tuple[tuple[float, float, float], str] | None) -> str:
    """What four drafted tokens are worth at two rates. own: of `claims.own_draft_cost`."""
    costs, said = (0.05, 0.05, 0.05), "c = 0.05 (the paper's largest)"
    if own:
        costs, fitted_to = own
        said = f"c = {costs[1]:.2f} ({costs[0]:.2f} to {costs[2]:.2f}, of {fitted_to})"

    def worth(alpha: float) -> str:
        slow, middle, fast = (f"{speculative.speedup(alpha, 4, c):.2f}" for c in reversed(costs))
        return middle + f" ({slow} to {fast})" * bool(own)

    return (
        f"By theorem 3.8, with {said}, four drafted tokens give {worth(0.8)} times the speed at "
        f"a = 0.8 and {worth(0.3)} times at a = 0.3."
    )


def curve_tested(own: tuple[tuple[float, float, float], str] | None, runs: list[dict]) -> str:
    """Whether the marks lie on the curve of `own`, of `claims.own_draft_cost`.

    runs: with label, alpha and gain, of four drafted tokens.
    """
    above = "Above the line at 1 speculation gains."
    if own is None:
        return above
    (_, c, _), fitted_to = own
    if fitted_to != BY_HAND:
        return f"{above} Your curve is fitted to the draft model's mark, which tests nothing then."
    by_hand = [run for run in runs if run["label"].startswith("synthetic")]
    missed = [run["label"] for run in by_hand if not _meets(run, c)]
    if missed:
        return f"{above} Your curve misses the ranges of {', '.join(missed)}: one c is not enough."
    return f"{above} Your curve meets the ranges of all rates set by hand with one c."


def _meets(run: dict, c: float) -> bool:
    """Whether its range holds what drafts of this cost give."""
    return run["gain"].low <= speculative.speedup(run["alpha"], 4, c) <= run["gain"].high


def elsewhere(where: str) -> str:
    """What the runs of `claims.speculation_elsewhere` are; "" without any."""
    return f" Dotted, {where}: one stream, rates set by hand, by output tokens/s." if where else ""


def chunks(rows: list[dict], where: str) -> str:
    """What the budget with the shortest gap gave and cost. rows, where: claims.chunks_on_record."""
    whole, short = rows[0], min(rows, key=lambda row: row["itl_ms_max"])
    gaps, firsts = (
        f"{whole[name]:.0f} to {short[name]:.0f} ms" for name in ("itl_ms_max", "ttft_long_ms_p50")
    )
    return (
        f"With a token budget of {short['max_num_batched_tokens']:,} instead of "
        f"{whole['max_num_batched_tokens']:,}, the longest gap in a stream went from {gaps}, the "
        f"TTFT of the long prompts from {firsts} (one run each{where and f'; {where}'})."
    )


def steps(runs: dict) -> str:
    """How many steps each of two recordings took. runs: label -> Steps, the longer one first."""
    (first, longer), (second, shorter) = ((label, len(run.steps)) for label, run in runs.items())
    return (
        f"{first.capitalize()}, the requests need {longer} engine steps, {second} {shorter}: "
        f"{longer / shorter:.1f} times fewer."
    )


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


def fewer_steps(steps: dict[str, int], step_ms: dict[str, float]) -> str:
    """Why one way is faster: its steps and the mean step. By way, the slower one first."""
    slow, fast = steps
    longer = step_ms[fast] / step_ms[slow]
    return (
        f"{fast.capitalize()}, the engine needed {steps[slow] / steps[fast]:.2f} times fewer "
        f"steps, and the mean step took {longer:.2f} times as long ({step_ms[fast]:.2f} against "
        f"{step_ms[slow]:.2f} ms)."
    )


def knee(rows: list[dict], found: float | None) -> str:
    """What part of both ceilings was reached; found: where 1.5 times the fastest was measured."""
    if not found:
        return ""
    fastest = min(rows, key=lambda row: row["ms"])
    at = min(rows, key=lambda row: abs(row["batch"] - found))
    return (
        f"{_count(fastest['batch']).capitalize()} reached {100 * fastest['share_of_bandwidth']:.0f}"
        f" % of the memory ceiling, {_count(at['batch'])} {100 * at['share_of_arithmetic']:.0f} % "
        "of the arithmetic one. The lower the first share, the later the point; the lower the "
        "second, the earlier."
    )


def _count(rows: int) -> str:
    return "one row" if rows == 1 else f"{rows:,} rows"


def fused(compiled: bool, reading: float, recorded_x: float) -> str:
    """Why fusing gains what it gains. compiled: into one kernel; recorded_x: on an H100.

    reading: the share of the reading ceiling that the fused chain reached.
    """
    if compiled:
        return "Fused into one kernel, which rounds once instead of eight times."
    said = f"Fused, it reads at {100 * reading:.0f} % of the ceiling"
    said += ": it no longer waits for memory alone." if reading < 0.5 else "."
    return f"{said} With one compiled kernel, {recorded_x:.2f}x was recorded on an H100."


def tiles(counted: list[dict]) -> str:
    """What tiles change. counted: see `claims.flash`."""
    first, longer, larger = (row["tiles move"] for row in counted[:3])
    differ = max(row["largest difference"] for row in counted)
    return (
        f"Attention in tiles is exact (largest difference {differ:.1e}). Twice the tokens make its "
        f"traffic {longer / first:.3g} times as much, twice the fast memory "
        f"{larger / longer:.2g} times."
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
