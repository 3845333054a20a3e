"""The figures of notebook 4: memory, speed-up by cause, all-reduces, choices.

``caption`` is always the sentence below the figure.
"""

from __future__ import annotations

from matplotlib.ticker import LogLocator, NullFormatter

from helpers.display import figures
from helpers.display.figures import (
    BLUE,
    COLORS,
    GREEN,
    GREY,
    INK,
    MARKERS,
    ORANGE,
    RED,
    YELLOW,
    curve,
    hollow_points,
    inside,
    legend_below,
    note,
    rows_down,
    ticks,
)
from helpers.planning import margins
from helpers.planning.wording import PART_NAMES, most_tokens

# The same colour for a part in every figure.
PART_COLORS = dict(zip(PART_NAMES, (*COLORS[:7], GREY, YELLOW), strict=True))


def memory(memories: dict, capacity_gib: float, caption: str, title: str) -> None:
    """One stacked bar for each plan, the first on top.

    memories: {name of a plan: its MemoryPlan}; capacity_gib: of one GPU.
    """
    rows = [
        {"plan": name, **plan.shares_gib(), "tokens": plan.kv_cache_tokens}
        for name, plan in memories.items()
    ]
    share = next(iter(memories.values())).options.gpu_memory_utilization
    size = (8, 0.55 * len(rows) + 2.0)
    fig, ax = figures.figure(title, size=size)
    places, left = range(len(rows)), [0.0] * len(rows)
    for i, part in enumerate(name for name in rows[0] if name not in ("plan", "tokens")):
        gib = [row[part] for row in rows]
        ax.barh(places, gib, left=left, color=COLORS[i], label=part, height=0.62)
        for y in places:
            middle = left[y] + gib[y] / 2
            if gib[y] > 0.03 * capacity_gib and middle < capacity_gib:
                tokens = f": {rows[y]['tokens']:,} tokens" * (part == "KV cache")
                inside(ax, f"{gib[y]:.1f}{tokens}", middle, y)
        left = [a + b for a, b in zip(left, gib, strict=True)]
    for gib, what, style in (
        (share * capacity_gib, f"vLLM's share: x {share:g}", ":"),
        (capacity_gib, "all", "-"),
    ):
        ax.axvline(gib, color=INK, lw=1.2, ls=style)
        note(ax, what, (gib, -0.45), (-4, 0), ha="right", fontsize=8)
    ax.set_yticks(places, [row["plan"] for row in rows])
    ax.set(xlabel="GiB on each GPU", ylabel="layout", xlim=(0, capacity_gib * 1.04))
    ax.set_ylim(-0.7, len(rows) - 0.5)
    rows_down(ax)
    legend_below(ax, ncols=3, drop=0.28 if len(rows) < 4 else 0.18)
    figures.show(fig, caption, rows, "memory_by_plan")


def step_by_cause(
    rows: list[dict], caption: str, title: str, xlabel="layout", name="step_by_cause"
) -> None:
    """A step as a stacked bar for each row, a label above it.

    rows: {"layout", "total_ms", "above", part_ms...}. name: of the figure's file.
    """
    fig, ax = figures.figure(title, size=(7.5, 4.2))
    seen_ms = 0.005 * max(row["total_ms"] for row in rows)  # less is not drawn
    parts = [p for p in PART_NAMES if any(row.get(f"{p}_ms", 0) > seen_ms for row in rows)]
    places, bottom = range(len(rows)), [0.0] * len(rows)
    for part in parts:
        ms = [row[f"{part}_ms"] for row in rows]
        look = {"color": PART_COLORS[part], "label": PART_NAMES[part], "width": 0.55}
        ax.bar(places, ms, bottom=bottom, **look)
        bottom = [a + b for a, b in zip(bottom, ms, strict=True)]
    for x, row in enumerate(rows):
        note(ax, row["above"], (x, bottom[x]), (0, 4), ha="center", fontsize=9)
    ax.set_xticks(places, [row["layout"] for row in rows])
    ax.set(ylabel="ms per step", xlabel=xlabel, ylim=(0, max(bottom) * 1.18))
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    figures.show(fig, caption, rows, name)


def over_batch(predicted: dict, caption: str) -> None:
    """TPOT, of the widest TP with its decode step alone (left), tokens/s (right).

    predicted: {layout: [SpeedPrediction, ...]}, by requests at once.
    """
    rows = [
        {
            "layout": layout,
            "requests": p.workload.concurrency,
            "tpot_ms": 1e3 * p.tpot_s,
            "decode_step_ms": 1e3 * float(p.decode.total),
            "output_tokens_per_s": p.output_tokens_per_s,
        }
        for layout, predictions in predicted.items()
        for p in predictions
    ]
    sizes = [p.workload.concurrency for p in next(iter(predicted.values()))]
    first, last = (most_tokens(predicted, at) for at in (0, -1))
    title = f"Most tokens/s predicted: {first} at {sizes[0]} at once, {last} at {sizes[-1]}"
    widest = max(predicted, key=lambda name: predicted[name][0].tp)
    fig, (left, right) = figures.figure(title, cols=2, size=(9.4, 4.2))
    for i, layout in enumerate(dict.fromkeys(row["layout"] for row in rows)):
        mine = [row for row in rows if row["layout"] == layout]
        curve(left, mine, "requests", "tpot_ms", i, label=layout)
        if layout == widest:
            alone = {"marker": "", "linestyle": ":", "label": f"{layout}, decode step alone"}
            curve(left, mine, "requests", "decode_step_ms", i, **alone)
        curve(right, mine, "requests", "output_tokens_per_s", i)
    left.set(ylabel="TPOT, prompts in the same steps (ms)", ylim=(0, None))
    right.set(ylabel="output tokens/s of all together", yscale="log")
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter("{x:,.0f}")
    right.yaxis.set_minor_formatter(NullFormatter())
    for ax in (left, right):
        ax.set(xscale="log", xlabel="requests at once")
        ticks(ax, (row["requests"] for row in rows))
    handles, names = left.get_legend_handles_labels()
    fig.legend(handles, names, ncols=len(handles), loc="outside lower center")
    figures.show(fig, caption, rows, "over_batch")


def allreduce(timed: dict, caption: str, title: str, recorded: bool = False) -> None:
    """Microseconds of an all-reduce by its payload.

    timed: label -> rows {"bytes", "seconds"}. recorded: the first are another machine's.
    """
    fig, ax = figures.figure(title, size=(7.5, 4))
    rows = []
    for i, (label, mine) in enumerate(timed.items()):
        look = {"marker": MARKERS[i], "color": COLORS[i], "ms": 5, "label": label}
        look |= {"mfc": "white"} if recorded and i == 0 else {}
        sizes, us = [r["bytes"] for r in mine], [1e6 * r["seconds"] for r in mine]
        ax.plot(sizes, us, **look)
        rows += [{"timed": label, **row} for row in mine]
    ax.set(xscale="log", yscale="log", xlabel="bytes on each rank", ylabel="microseconds")
    legend_below(ax, ncols=2)
    figures.show(fig, caption, rows, "allreduce")


def choices(ranking, taken, goal_ms: float, caption: str) -> None:
    """Every plan that fits: the range of its latency, and its throughput for each GPU.

    taken: what the rule takes, a star. The plan of vLLM's page is ringed.
    """
    thumb, fitting = ranking.thumb, [choice for choice in ranking.choices if choice.fits]
    sure = sum(margins.within(choice, goal_ms) == margins.KEEPS for choice in fitting)
    title = (
        f"Of {len(fitting)} plans that fit {sure} are predicted to keep {goal_ms:g} ms at both ends"
    )
    fig, ax = figures.figure(title, size=(7.5, 4.6))
    looks = {
        margins.KEEPS: ("keeps the goal", {"fmt": "o", "color": BLUE}),
        margins.CANNOT_TELL: ("cannot tell", {"fmt": "D", "color": ORANGE, "mfc": "none"}),
        margins.MISSES: ("misses it", {"fmt": "x", "color": GREY}),
    }
    named = {}  # a label for each verdict once
    for choice in fitting:
        verdict, (x, y) = margins.within(choice, goal_ms), _point(choice)
        label, look = looks[verdict]
        low, high, bars = x, x, {}
        if verdict != margins.MISSES:
            low, high = margins.tpot_range_ms(choice)
            bars = {"xerr": [[x - low], [high - x]], "elinewidth": 1.2, "capsize": 3}
        if choice is taken:
            look = {"fmt": "*", "color": RED, "markersize": 13}
            label = "taken"
        named[label] = ax.errorbar(x, y, zorder=4, **look, **bars)
        if verdict != margins.MISSES or choice is thumb:  # named on the far side of the goal
            left = verdict == margins.KEEPS
            place, beside = ((low, y), (-8, 0)) if left else ((high, y), (8, 0))
            look = {"fontsize": 8, "va": "center", "ha": "right" if left else "left"}
            note(ax, choice.short, place, beside, **look)
    if thumb is not None:
        ring = {**hollow_points(GREEN), "linewidths": 1.5}
        named["vLLM's page"] = ax.scatter(*_point(thumb), s=230, **ring)
    ax.set(xlabel="TPOT under the load (ms)", ylabel="output tokens/s per GPU")
    ax.axvline(goal_ms, color=INK, lw=1, ls=":")
    note(ax, "goal", (goal_ms, ax.get_ylim()[0]), (3, 4), fontsize=8)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if str(value)[0] in "1235" else "")
    ax.margins(x=0.15, y=0.15)
    fig.legend(named.values(), named, ncols=len(named), loc="outside lower center")
    figures.show(fig, caption, [_values(choice, goal_ms) for choice in fitting], "choices")


def _point(choice) -> tuple[float, float]:
    prediction = choice.prediction
    return 1e3 * prediction.tpot_s, prediction.output_tokens_per_s / choice.gpus


def _values(choice, goal_ms: float) -> dict:
    (tpot_ms, each), (low, high) = _point(choice), margins.tpot_range_ms(choice)
    row = {"plan": choice.short, "GPUs": choice.gpus, "TPOT ms": tpot_ms}
    row |= {"from": low, "to": high}
    row |= {"tokens/s": choice.prediction.output_tokens_per_s, "tokens/s per GPU": each}
    kept = margins.within(choice, goal_ms)
    return row | {"run at once": choice.at_once, "keeps the goal, by a borrowed range": kept}


def predicted_measured(rows: list[dict], caption: str, title: str, name: str) -> None:
    """Each time's rounds as a bar with their median, and what was predicted: steps, prompts.

    rows: of layouts.beside_predictions. name: of the figure's file.
    """
    fig, panels = figures.figure(title, cols=2, size=(9.4, 0.34 * len(rows) / 2 + 1.8))
    for ax, quantity in zip(panels, ("tpot_ms", "prefill_ms"), strict=True):
        mine = [row for row in rows if row["quantity"] == quantity]
        names = [f"{row['layout']}, {row['what']}" for row in mine]
        _bars(ax, names, [(row["low"], row["high"]) for row in mine], "measured, all rounds")
        middle = {"marker": "|", "s": 130, "color": INK, "label": "measured, the median round"}
        ax.scatter([row["measured"] for row in mine], range(len(mine)), **middle)
        predicted = {"color": RED, "s": 24, "zorder": 3, "label": "predicted"}
        ax.scatter([row["predicted"] for row in mine], range(len(mine)), **predicted)
        ax.set(xscale="log", xlabel="ms", ylabel="layout, and what it computes")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        times = [row[x] for row in mine for x in ("low", "high", "predicted")]
        ax.set_xlim(min(times) / 1.2, 1.2 * max(times))
    fig.legend(*panels[0].get_legend_handles_labels(), ncols=3, loc="outside lower center")
    figures.show(fig, caption, rows, name)


def _bars(ax, names: list[str], ends: list[tuple[float, float]], label: str) -> None:
    """A bar from low to high for each name, the first on top."""
    look = {"color": GREY, "alpha": 0.45, "height": 0.5, "label": label}
    wide = [high - low for low, high in ends]
    ax.barh(range(len(names)), wide, left=[low for low, _ in ends], **look)
    ax.set_yticks(range(len(names)), names)
    rows_down(ax)


def ranges(rows: list[dict], caption: str, title: str, goal: float) -> None:
    """What a plan's TPOT may turn out to be as bars, what it expects, and what was measured.

    rows: {"layout", "may_tpot_ms" (low, high), "expected_tpot_ms"}, and "tpot_ms" if it was
    measured. goal: a line.
    """
    fig, ax = figures.figure(title, size=(7.05, 0.34 * len(rows) + 1.8))
    ends = [row["may_tpot_ms"] for row in rows]
    _bars(ax, [row["layout"] for row in rows], ends, "may be")
    expected = {**hollow_points(RED), "s": 70, "zorder": 4, "label": "expected"}
    ax.scatter([row["expected_tpot_ms"] for row in rows], range(len(rows)), **expected)
    if ran := {i: row["tpot_ms"] for i, row in enumerate(rows) if "tpot_ms" in row}:
        was = {"marker": "D", "color": BLUE, "s": 18, "zorder": 5, "label": "measured"}
        ax.scatter(ran.values(), ran.keys(), **was)
    shown = [goal, *ran.values(), *(ms for pair in ends for ms in pair)]
    ax.set(xlabel="TPOT (ms)", ylabel="layout", xlim=(0.9 * min(shown), 1.05 * max(shown)))
    ax.axvline(goal, color=INK, lw=1.2, ls=":", label=f"goal, {goal:g} ms")
    handles, names = ax.get_legend_handles_labels()
    fig.legend(handles, names, ncols=len(names), loc="outside lower center")
    values = [
        {k: x for k, x in row.items() if k != "may_tpot_ms"}
        | {"tpot_ms from": low, "tpot_ms to": high}
        for row, (low, high) in zip(rows, ends, strict=True)
    ]
    figures.show(fig, caption, values, "week5_ranges")
