"""Sentences of notebook 3 that depend on what was measured, whichever way the numbers fall.

First the captions of its figures, then the reasons in its cards and tables.
"""

from statistics import fmean

from helpers.lessons.papers.speculative import alpha_from_length, speedup

H100_HEADS = 16  # of the attention that was recorded there
H100_SHAPE = f"{H100_HEADS} heads in bfloat16"
NEAR = 0.1  # a product that takes at most so much longer is called nearly free
BY_HAND, OWN_TEXT = "the rates set by hand", "your draft model"  # what a c was fitted to
AHEAD = "vLLM plans a step while the one before runs (asynchronous scheduling)"

# ---------------------------------------------------------------- captions


def allocators(usage: dict) -> str:
    """What the four allocators keep for tokens. usage: policy -> `paged_attention.Usage`."""
    tokens = {policy: f"{100 * used.tokens:.0f} %" for policy, used in usage.items()}
    return (
        f"Tokens fill {tokens['max']} of the cache when the maximum is reserved, "
        f"{tokens['oracle']} for an oracle that still needs one piece, "
        f"and {tokens['paged']} when paged. The answers' spread is fitted to the paper's "
        "tokens held with the maximum reserved, so that number is no reproduction."
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
        most = max(recorded["ms"], key=lambda n: recorded["ms"][n][0] / recorded["ms"][n][1])
        times += f"; on the H100 {_by_length(recorded['ms'])}, most at {most:,}"
    memory = (recorded or against)["memory"]
    if not memory:
        return f"{times}. The tiled kernel needed no extra memory."
    start = "On the H100, from" if recorded else "From"
    said = (
        f"{times}. {start} {memory['from']:,} to {memory['to']:,} tokens the extra memory grew "
        f"{memory['math']:.0f} times (math) and {memory['tiled']:.0f} times (tiled)."
    )
    return said + _parts(*memory["short"])


def _parts(tokens: int, mib: float | None) -> str:
    """What torch's flash_api.cpp keeps where it divides the keys of a short prompt; else ""."""
    one = tokens * H100_HEADS * (64 + 1) * 4 / 2**20  # float32: a result and a sum for each query
    if (parts := int((mib or 0) / one)) < 2:
        return ""
    return (
        f" At {tokens:,} tokens flash cuts the keys in {parts}, so that more of the GPU works, and "
        f"keeps the result of each: {parts * one:.3g} of its {mib:.3g} MiB."
    )


def _by_length(ms: dict[int, tuple[float, float]]) -> str:
    """How many times as fast tiles are at each length. ms: tokens -> both ways."""
    times = " / ".join(f"{math / tiled:.2g}" for math, tiled in ms.values())
    return f"{times} times as fast at {' / '.join(f'{tokens:,}' for tokens in ms)} tokens"


def products_title(rows: list[dict], knee: float) -> str:
    """What the figure shows. rows: batch and ms of each product; knee: where the ceilings meet."""
    if _hardly_longer(rows)[-1] < knee:
        return "A row is nearly free only below where the ceilings meet"
    return "What a product takes, and what the ceilings allow"


def products(
    rows: list[dict], knee: float, there: list[dict] = (), their_knee: float | None = None
) -> str:
    """What more rows cost. rows, there: of `small_operations.beside_limits`; there: the H100's."""
    said = f"Here the ceilings meet at {knee:.3g} rows"
    if there:
        said += f", on the H100 at {their_knee:.3g}"
    said = f"{said}. Best of three passes. {_near(rows, there, 'on the H100')}"
    if fast := [row for row in rows if row["ms"] < row["allowed_ms"]]:
        row = fast[-1]
        count = "one row" if row["batch"] == 1 else f"{row['batch']:,} rows"
        said += (
            f" With {count} it took {row['ms']:.3g} ms, less than the {row['allowed_ms']:.3g} "
            "allowed: that ceiling is what another product reached."
        )
    return said


def nearly_free(rows: list[dict], there: list[dict]) -> str:
    """What another row costs. rows, there: batch and ms of each product; there: the H100's."""
    return f"A row is a request in a step. {_near(rows, there, 'on a recorded H100')}"


def _near(rows: list[dict], there: list[dict], where: str) -> str:
    """Which of the batches that were tried took hardly longer than the fastest."""
    said = f"here {_listed(_hardly_longer(rows))}"
    if there:
        said += f"; {where} {_listed(_hardly_longer(there))}"
    return f"Rows within {100 * NEAR:.0f} % of the fastest product, so nearly free: {said}."


def _listed(batches: list[int]) -> str:
    *most, last = (f"{batch:,}" for batch in batches)
    return f"{', '.join(most)} and {last}" if most else last


def _hardly_longer(rows: list[dict]) -> list[int]:
    most = (1 + NEAR) * min(row["ms"] for row in rows)
    return [row["batch"] for row in rows if row["ms"] <= most]


def speculation(own: tuple[tuple[float, float, float], str] | None) -> str:
    """What four drafts are worth. own: of `claims.own_draft_cost`."""
    costs, said = (0.05, 0.05, 0.05), "c = 0.05 (the paper's largest)"
    if own:
        costs, fitted_to = own
        said = f"c = {costs[1]:.2f} ({costs[0]:.2f} to {costs[2]:.2f}, of {fitted_to})"

    def worth(alpha: float) -> str:
        slow, middle, fast = (f"{speedup(alpha, 4, c):.2f}" for c in reversed(costs))
        return middle + f" ({slow} to {fast})" * bool(own)

    return (
        f"By theorem 3.8, with {said}, four drafts give {worth(0.8)} times the speed at a = 0.8 "
        f"and {worth(0.5)} at a = 0.5."
    )


def speculation_there(drafters: dict[str, list[dict]]) -> list[str]:
    """What the large model's drafters gave near a = 0.8; of `claims.speculation_elsewhere`."""
    near = {name: near_08(runs) for name, runs in drafters.items()}
    gave = ", ".join(f"{name} {run['speedup']:.2f}" for name, run in near.items())
    there = "Recorded with a 7B on an H100 (one stream), four drafts at a = 0.8 set by hand"
    costs = ", ".join(f"{name} {_costs(runs)}" for name, runs in drafters.items())
    backwards = f"Their c (theorem 3.8, backwards) over all the rates set by hand: {costs}"
    dear = (
        "; above 1, a draft costs more than a step without drafts (notebook 2, section 3, on why)"
    )
    return [f"{there}: {gave} times the speed.", f"{backwards}{dear}."] if gave else []


def near_08(runs: list[dict]) -> dict:
    """The run whose acceptance is nearest to 0.8."""
    return min(runs, key=lambda run: abs(run["alpha"] - 0.8))


def _costs(runs: list[dict]) -> str:
    """The range of c, all-in, that explains runs with four drafts. runs: alpha and speedup."""
    costs = [(speedup(run["alpha"], 4, 0) / run["speedup"] - 1) / 4 for run in runs]
    return f"{min(costs):.2f} to {max(costs):.2f}"


def curve_tested(own: tuple[tuple[float, float, float], str] | None, runs: list[dict]) -> str:
    """Whether the marks lie on the curve of `own`, of `claims.own_draft_cost`.

    runs: with label, alpha and gain, of four drafts.
    """
    costs, fitted_to = own or ((0.05,) * 3, None)
    c = costs[1]
    above = f"By theorem 3.8, with c = {c:.2f}, {_gains_from(costs)}."
    if own is None:
        return above
    if fitted_to != BY_HAND:
        return f"{above} Your curve is fitted to the draft model's mark, which tests nothing then."
    missed, wide = [], False
    for run in (run for run in runs if run["label"].startswith("synthetic")):
        fast, _, slow = (speedup(run["alpha"], 4, c) for c in costs)
        low, high = run["gain"].low, run["gain"].high
        if low > fast or slow > high:
            missed.append(run["label"])
        wide |= fast > 2 * slow or high > 2 * low
    if missed:
        missed = ", ".join(missed)
        return f"{above} Your band (shaded) misses the ranges of {missed}: one c is not enough."
    met = f"{above} Your band (shaded) meets the ranges of all rates set by hand"
    return met + (
        ", but they are too wide to tell whether one c is enough."
        if wide
        else ": no more than one c is needed to explain them."
    )


def _gains_from(costs: tuple[float, float, float]) -> str:
    """From which acceptance on drafting gains. costs: low, middle and high c."""

    def four_gain(c: float) -> str:  # they make up for the longer step
        return "never" if c >= 1 else f"from about a = {alpha_from_length(4 * c + 1, 4):.1f} on"

    low, c, high = costs
    if c >= 1:
        return "four drafts never gain"
    ends = f" (c = {low:.2f}: {four_gain(low)}; c = {high:.2f}: {four_gain(high)})"
    return f"four drafts gain {four_gain(c)}" + ends * (low < high)


def elsewhere(where: str) -> str:
    """What the runs of `claims.speculation_elsewhere` are; "" without any."""
    return f" Dotted, {where}: one stream, rates set by hand, by output tokens/s." if where else ""


def chunks(rows: list[dict], where: str) -> str:
    """What the budget with the shortest gap gave and cost. rows, where: claims.chunks_on_record."""
    whole, short = rows[0], min(rows, key=lambda row: row["itl_ms_p99"])
    (budget, gap, first), (few, short_gap, late) = (
        (row["max_num_batched_tokens"], row["itl_ms_p99"], row["ttft_long_ms_p50"])
        for row in (whole, short)
    )
    return (
        f"In notebook 2, with {few:,} tokens a step instead of {budget:,} (whole prompts), the "
        f"p99 of the gaps in a stream went from {gap:.0f} to {short_gap:.0f} ms, the TTFT of long "
        f"prompts from {first:.0f} to {late:.0f} ms (one run each{where and f'; {where}'})."
    )


def steps(runs: dict) -> str:
    """What two recordings took, of requests that are all there at the start.

    runs: label -> Steps, the longer one first.
    """
    (first, longer), (second, shorter) = ((label, len(run.steps)) for label, run in runs.items())
    return (
        f"{first.capitalize()}, the requests need {longer} engine steps, {second} {shorter}: "
        f"{longer / shorter:.1f} times fewer. A request waits {_waits(runs[first]):.0f} steps on "
        f"average, {second} {_waits(runs[second]):.0f}."
    )


def _waits(run) -> float:
    """Steps before a request's first, on average."""
    first = {}
    for i, step in enumerate(run.steps):
        first = dict.fromkeys(step.work, i) | first
    return fmean(first.values())


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


def fuller_steps(fit: float, waited: float, after: float) -> str:
    """How many requests share a paged step by the formula, and by `static_batching`'s count."""
    if not waited:
        return ""
    return (
        f" The formula has {fit:.1f} requests in every paged step. There were {waited:.1f} while "
        f"others waited, and {after:.1f} after."
    )


def fused(apart_ms: float, fused_ms: float, cached_ms: float | None, recorded_x: float) -> str:
    """Why fusing gains what it gains. recorded_x: on an H100.

    cached_ms: of the same calls on data that stays in the cache; None: it is one compiled kernel.
    """
    if cached_ms is None:
        return "Fused into one kernel, which rounds once instead of eight times."
    return (
        f"The same calls on one piece, which stays in the cache, take {cached_ms:.3g} ms (fused: "
        f"{fused_ms:.3g}); as fast as that, the factor would be {apart_ms / cached_ms:.3g}. "
        f"With one compiled kernel, {recorded_x:.2f}x was recorded on an H100."
    )


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
    """Lines of `then_and_now` as the notebook shows them."""
    begins = {True: "", False: "NO: ", None: "not checked: "}
    return [
        {
            "older material": f"{row['topic']}: {row['older material']}",
            "now": row["now"],
            "seen here": begins[row["holds"]] + row["seen"],
        }
        for row in rows
    ]
