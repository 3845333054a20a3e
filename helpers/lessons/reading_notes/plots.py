"""The figures of notebook 3: what helpers.lessons.papers and the measurements return, drawn.

``caption`` is always the sentence below the figure. What was printed in a paper or recorded on
another machine is hollow and dashed.
"""

from __future__ import annotations

from matplotlib.patches import Patch

from helpers.display import figures
from helpers.display.figures import (
    BLACK,
    BLUE,
    COLORS,
    GREY,
    INK,
    MARKERS,
    ORANGE,
    RED,
    SKY,
    YELLOW,
    curve,
    hollow_line,
    inside,
    legend_below,
    ticks,
)
from helpers.display.step_chart import LOOK
from helpers.lessons import gain_ranges
from helpers.lessons.papers.speculative import speedup
from helpers.lessons.reading_notes import wording

PARTS = {
    "tokens": ("tokens held", BLUE),
    "reserved": ("filled later by its request", SKY),
    "internal": ("never used by its request", ORANGE),
    "external": ("free or lost between", YELLOW),
}
POLICIES = {"max": "reserve\nmaximum", "pow2": "powers\nof two"}  # the others are called so

# What notebook 2 ran: the start of a variant's name.
DRAFTERS = {
    "ngram": "n-gram lookup, measured",
    "draft model": "draft model, measured",
    "synthetic": "draft model, rate set by hand, measured",
}


def allocators(
    ours: dict[str, dict[str, float]], printed: dict[str, dict[str, float]], caption: str
) -> None:
    """Stacked bars in percent by policy: our simulation beside Figure 2 (hatched)."""
    title = "Paging keeps nearly all of the KV cache for tokens"
    fig, ax = figures.figure(title, size=(8, 4.2))
    rows = []
    for who, shift, source, look in (
        ("ours", -0.21, ours, {}),
        ("paper", 0.21, printed, {"hatch": "///", "edgecolor": "white", "linewidth": 0}),
    ):
        for i, policy in enumerate(ours):
            bottom = 0.0
            row = {"policy": policy, "who": who}
            for key, (label, color) in PARTS.items():
                value = source[policy].get(key, 0.0)
                named = label if (who, i) == ("ours", 0) else None
                bar = {"bottom": bottom, "color": color, "label": named}
                ax.bar(i + shift, value, 0.38, **bar, **look)
                if value >= 6:
                    ink = "white" if color == BLUE else INK
                    box = {"facecolor": color, "edgecolor": "none", "pad": 1.2}  # over the hatching
                    middle = bottom + value / 2
                    inside(ax, f"{value:.0f}", i + shift, middle, color=ink, bbox=box)
                bottom += value
                row[label] = source[policy].get(key)
            rows.append(row)
    ax.set_xticks(range(len(ours)), [POLICIES.get(policy, policy) for policy in ours])
    ax.set(xlabel="left bar: our simulation; hatched: Figure 2 of the paper", ylim=(0, 100))
    ax.set_ylabel("share of the KV cache (%)")
    legend_below(ax, ncols=4, drop=0.24)
    ax.grid(axis="x", visible=False)
    figures.show(fig, caption, rows, "papers_allocators")


def blocks_in_use(rows: list[dict], block_size: int, caption: str) -> None:
    """The real engine, step by step. rows: step, gauge and predicted (in blocks), tokens."""
    fig, ax = figures.figure("vLLM hands out a block when a request reaches it", size=(7.5, 3.8))
    gauge = {"drawstyle": "steps-mid", "marker": "", "label": "in use (vLLM's gauge)"}
    curve(ax, rows, "step", "gauge", linewidth=2.4, **gauge)
    formula = {"color": BLACK, "markersize": 3, "linestyle": "", "marker": "o"}
    curve(ax, rows[::4], "step", "predicted", label="predicted: tokens, rounded up", **formula)
    most = max(rows, key=lambda row: row["gauge"])
    figures.note(ax, f"{most['gauge']}", (most["step"], most["gauge"]), (0, 6))
    held = {"color": RED, "marker": "", "label": f"tokens held / {block_size}"}
    curve(ax, rows, "step", "tokens", scale=1 / block_size, **held)
    ax.set(xlabel="engine step", ylabel="blocks", ylim=(0, None))
    legend_below(ax)
    figures.show(fig, caption, rows[:: max(1, len(rows) // 40)], "papers_blocks_in_use")


def places(
    title: str,
    caption: str,
    runs: dict,
    reserved: dict[str, int] | None = None,
    places: int | None = None,
) -> None:
    """Which request each engine step worked for, in two recordings (label -> Steps) side by side.

    All requests are there at the start, whenever they are sent. Below: KV blocks in use, and for
    `reserved` (label -> blocks of each running request) those that are set aside and empty; with
    `places` the busy ones of so many.
    """
    layout = {"sharex": True, "sharey": "row", "height_ratios": (3, 1)}
    fig, axes = figures.figure(title, rows=2, cols=2, size=(9.4, 5.2), **layout)
    rows = []
    for (above, below), (label, run) in zip(axes.T, runs.items(), strict=True):
        steps = run.steps
        for number in range(len(run.requests)):
            mine = [i for i, step in enumerate(steps) if number in step.work]
            across = (number - 0.4, 0.8)
            reads = [i for i in mine if steps[i].work[number].prefill]
            above.broken_barh([(0, mine[0])], across, **LOOK["waiting"])
            for kind, some in (("prefill", reads), ("decode", sorted({*mine} - {*reads}))):
                bars = [(i, 1) for i in some]
                look = LOOK[kind] | {"edgecolor": figures.PAPER, "linewidth": 0.4}
                above.broken_barh(bars, across, **look)
            row = {"run": label, "request": number, "first step": mine[0] + 1}
            rows.append(row | {"last step": mine[-1] + 1})
        busy = [len(step.work) for step in steps]
        used, most, kept = busy, places, [places] * len(steps)
        if not places:
            each = (reserved or {}).get(label, 0)
            used, most = [step.blocks for step in steps], steps[0].of_blocks
            kept = [max(now, each * n) for now, n in zip(used, busy, strict=True)]
        below.stairs(used, fill=True, color=ORANGE, alpha=0.75)
        empty = {"facecolor": "none", "edgecolor": GREY, "hatch": "////", "linewidth": 0}
        below.stairs(kept, baseline=used, fill=True, **empty)
        every = below.axhline(most, color=RED, lw=1.2, linestyle="--", label=f"all {most}")
        above.set(title=f"{label}: {len(steps)} steps", ylim=(len(run.requests) - 0.4, -0.6))
        above.grid(axis="y", visible=False)
        below.set(xlabel="engine steps", ylim=(0, 1.2 * most))
    axes[0, 0].set(ylabel="request")
    axes[1, 0].set(ylabel=f"{'places' if places else 'KV blocks'}\n(of {most})")
    named = {"waiting": LOOK["waiting"], "reads its prompt": LOOK["prefill"]}
    named |= {"makes a token": LOOK["decode"], "in use": {"facecolor": ORANGE, "alpha": 0.75}}
    named["empty" if places else "set aside and empty"] = empty
    handles = [*(Patch(label=name, **look) for name, look in named.items()), every]
    fig.legend(handles=handles, loc="outside lower center", ncols=6)
    figures.show(fig, caption, rows, "papers_places")


def attention_times(
    rows: list[dict], caption: str, device: str, shape: str, recorded: list[dict] = ()
) -> None:
    """Attention in torch by backend: time and, where torch counts it, memory.

    rows: tokens, backend, ms, extra_mib (or None). shape: of theirs, such as "4 heads in float32".
    recorded: from an H100.
    """
    everything = [*rows, *recorded]
    panels = {"ms": "ms per call"}
    if any(row.get("extra_mib") for row in everything):
        panels["extra_mib"] = "memory besides inputs and output (MiB)"
    title = "Attention in tiles against the standard way"
    layout = {"cols": len(panels), "size": (9.4 if len(panels) > 1 else 7, 4.6)}
    fig, axes = figures.figure(title, squeeze=False, **layout)
    for ax, (key, label) in zip(axes[0], panels.items(), strict=True):
        for i, backend in enumerate(dict.fromkeys(row["backend"] for row in rows)):
            look = {"marker": MARKERS[i], "color": COLORS[i]}
            mine, theirs = (
                [r for r in source if r["backend"] == backend and r.get(key)]
                for source in (rows, recorded)
            )
            if mine:
                curve(ax, mine, "tokens", key, i, label=f"{backend}, {device}")
            if key == "extra_mib" and any(
                row["backend"] == backend and row.get(key) == 0 for row in everything
            ):
                ax.plot([], [], label=f"{backend}: 0 MiB, below a log axis", **look)
            if theirs:
                named = {"label": f"{backend}, recorded: H100", **hollow_line(COLORS[i])}
                curve(ax, theirs, "tokens", key, i, **named)
        where = [f"{shape} here"] * any(row.get(key) is not None for row in rows)
        where += [f"{wording.H100_SHAPE} on the H100"] * bool(recorded)
        about = f"tokens ({', '.join(where)})"
        ax.set(xscale="log", yscale="log", xlabel=about, ylabel=label)
        sizes = {row["tokens"] for row in everything if row.get(key) is not None}
        ticks(ax, sizes, rotation=40 if len(sizes) > 3 else 0)
        legend_below(ax, drop=0.3)
    figures.show(fig, caption, _by_machine(rows, device, recorded), "papers_attention_times")


def _by_machine(rows, here: str, recorded) -> list[dict]:
    return [{**r, "machine": here} for r in rows] + [{**r, "machine": "H100"} for r in recorded]


def products(
    rows: list[dict],
    knee: float,
    caption: str,
    recorded: list[dict] = (),
    their_knee: float | None = None,
) -> None:
    """Time of a layer's product by batch, over the fastest, beside what both ceilings allow.

    rows: batch, ms, allowed_ms. knee: the batch at which the two ceilings meet on this machine;
    their_knee: on the one that `recorded` is from.
    """
    over_fastest = {"scale": 1 / min(row["ms"] for row in rows)}
    fig, ax = figures.figure(wording.products_title(rows, knee), size=(7.5, 4.2))
    curve(ax, rows, "batch", "ms", label="measured here", **over_fastest)
    allowed = {"label": "what the ceilings allow here", "marker": "s", "color": SKY}
    curve(ax, rows, "batch", "allowed_ms", **allowed, **over_fastest)
    ax.axhline(1.5, color=RED, linewidth=1, label="1.5 times")
    ax.axvline(knee, color=BLACK, linewidth=1, linestyle=":", label="where the ceilings meet here")
    if recorded:
        theirs = {"scale": 1 / min(row["ms"] for row in recorded), **hollow_line()}
        curve(ax, recorded, "batch", "ms", label="recorded: H100", **theirs)
        there = "where the H100's ceilings meet"
        ax.axvline(their_knee, color=GREY, linewidth=1, linestyle="--", label=there)
    label = "times as long as that\nmachine's fastest product"
    ax.set(xlabel="rows in the batch", ylabel=label, ylim=(0, None))
    ax.set_xscale("log", base=2)
    ticks(ax, {row["batch"] for row in (*rows, *recorded)})
    legend_below(ax, ncols=3)
    figures.show(fig, caption, _by_machine(rows, "here", recorded), "papers_products")


def speculation(
    measured: list[dict],
    own: tuple[tuple[float, float, float], str] | None,
    gamma: int,
    caption: str,
    recorded: dict[str, list[dict]],
) -> None:
    """Speed-up over the acceptance rate with `gamma` drafts.

    measured: alpha, speedup, gain and label; the label up to its comma is the drafter, each
    with a marker of its own. own: (low, middle, high) of their c, and what it was fitted to.
    recorded: a drafter's name -> alpha and speedup on an H100.
    """
    costs, of = (0.05,) * 3, "the paper's largest c (0.05)"
    if own:
        costs, of_runs = own
        of = f"c = {costs[1]:.2f} ({costs[0]:.2f} to {costs[2]:.2f}), of {of_runs}"
    title = "What drafts gain depends on how many are accepted"
    fig, ax = figures.figure(title, size=(9.4, 4.4))
    label = f"k = {gamma}, {of}"
    points = [(a / 50, *(speedup(a / 50, gamma, c) for c in costs)) for a in range(51)]
    alphas, fast, middle, slow = zip(*points, strict=True)
    ax.plot(alphas, middle, color=BLUE, label=label)
    ax.fill_between(alphas, slow, fast, color=BLUE, alpha=0.2, lw=0)
    rows = [{"a": a, "speed-up": speed, "from": label} for a, _, speed, _ in points[::10]]
    drafters = dict.fromkeys(run["label"].split(",")[0] for run in measured)
    for drafter, marker in zip(drafters, "osD", strict=False):  # no "^": it is an arrow's head
        runs = [run for run in measured if run["label"].split(",")[0] == drafter]
        at = [run["alpha"] for run in runs], [run["speedup"] for run in runs]
        look = {"marker": marker, "s": 60, "color": BLACK, "zorder": 4}
        ax.scatter(*at, label=DRAFTERS.get(drafter, drafter), **look)
        for run in runs:
            row = {"a": run["alpha"], "speed-up": run["speedup"], "from": run["label"]}
            rows.append(row | {"range": gain_ranges.in_words(run["gain"])})
    for i, (name, runs) in enumerate(recorded.items(), len(drafters)):
        look = hollow_line(GREY) | {"linestyle": ":", "label": f"{name}, recorded: H100"}
        curve(ax, runs, "alpha", "speedup", i, **look)
        rows += [{"a": r["alpha"], "speed-up": r["speedup"], "from": look["label"]} for r in runs]
    room = speedup(1, gamma, costs[0])
    gain_ranges.draw(ax, measured, "alpha", room=room)
    caption += gain_ranges.of_arrows((run["gain"] for run in measured), room)
    ax.axhline(1, color=GREY, linewidth=1)
    ax.set(
        xlabel="chance a that a draft is accepted, given that those before it were",
        ylabel="speed-up (x)",
        xlim=(0, 1.02),
    )
    ends = [gain_ranges.end(run["gain"], room) for run in measured if run["gain"].span]
    ends += [run["speedup"] for runs in recorded.values() for run in runs]
    ax.set_ylim(0, 1.03 * max([room, *ends]))
    legend_below(ax)
    figures.show(fig, caption, rows, "papers_speculation")


def price(
    machine: list[tuple[float, float]],
    yours: tuple[float, float],
    break_even: dict[float, float],
    caption: str,
) -> None:
    """Price of a million tokens over the share of the hours that are busy.

    machine, yours: (share, price). break_even: price of an API -> the share at which the machine
    costs as much; above 1 it never does.
    """
    fig, ax = figures.figure("How busy a machine is decides what its tokens cost")
    rows = [{"busy (%)": 100 * share, "price of a million": costs} for share, costs in machine]
    curve(ax, rows, "busy (%)", "price of a million", marker="", label="the machine")
    for asked, share in break_even.items():
        ax.axhline(asked, color=GREY, linewidth=1, linestyle="--")
        figures.note(ax, f"an API at {asked:g}", (rows[0]["busy (%)"], asked), (0, 4))
        if share <= 1:
            named = "as cheap as an API" if share == min(break_even.values()) else None
            ax.plot(100 * share, asked, color=BLACK, marker="o", ls="", label=named)
            figures.note(ax, f"{100 * share:.2g} %", (100 * share, asked), (6, 4))
    busy, per_million = yours
    ax.plot(100 * busy, per_million, color=RED, marker="s", ls="", label="as busy as you set it")
    figures.note(ax, f"{per_million:.2g}", (100 * busy, per_million), (6, 4))
    label = "price of a million output tokens\n(your currency, log scale)"
    ax.set(xscale="log", yscale="log", ylabel=label)
    lowest, highest = ax.get_ylim()
    prices = [n * 10.0**power for power in range(-6, 7) for n in (1, 3)]
    prices = [price for price in prices if lowest <= price <= highest]
    ax.set_yticks(prices, [f"{price:g}" for price in prices])
    ticks(ax, [n for n in (1, 2, 5, 10, 20, 50, 100) if n >= rows[0]["busy (%)"]])
    ax.set_xlabel("share of the paid hours in which the machine is busy (%)")
    legend_below(ax)
    figures.show(fig, caption, rows[::10], "papers_price")
