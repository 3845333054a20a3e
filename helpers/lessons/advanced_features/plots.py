"""The figures of notebook 2: each feature's gain, and where it turns into a loss.

``recorded`` is rows of another machine and their label, as helpers.results.recorded.curve gives
them, or of several drafters there by their names; ``caption`` the sentence below.
"""

from __future__ import annotations

import math
from itertools import chain

from matplotlib.patheffects import withStroke

from helpers.display import figures
from helpers.display.figures import (
    BLUE,
    COLORS,
    GREEN,
    GREY,
    ORANGE,
    PAPER,
    PURPLE,
    RED,
    curve,
    hollow_line,
    note,
    ticks,
)
from helpers.lessons import gain_ranges
from helpers.lessons.advanced_features.services import Verdict
from helpers.verdicts.gain import LEAST_VALUES, Gain

SPEED_UP = "speed-up of the tokens after the first"
VERDICT_COLORS = {"better": GREEN, "worse": RED}  # all others: grey
# What is drawn of sampled texts: metric -> (label, colour, format).
OF_STORIES = {
    "faultless": ("stories without a fault", GREEN, "{:.0f}"),
    "mean_chance": ("mean chance of a story", ORANGE, "{:.4f}"),
    "distinct_stories": ("different stories", PURPLE, "{:.0f}"),
    "output_tokens_per_s": ("tokens/s, one run", BLUE, "{:.0f}"),
}
OF_TEXTS = {
    "mean_logprob": ("mean log-probability of a token", GREEN, "{:.2f}"),
    "distinct_2grams": ("distinct 2-grams (share)", PURPLE, "{:.2f}"),
    "output_tokens_per_s": ("tokens/s, one run", BLUE, "{:.0f}"),
}
HALO = [withStroke(linewidth=3, foreground=PAPER)]  # a label stays readable on a line


def chunk_tradeoff(
    rows: list[dict], caption: str, recorded: tuple[list[dict], str] = ((), "")
) -> None:
    """p99 ITL of the streams, TTFT of the long prompts and throughput, over the budget.

    rows: one a budget: max_num_batched_tokens, itl_ms_p99, ttft_long_ms_p50, total_tokens_per_s.
    """
    there, where = recorded
    machines = {"this machine": rows} | ({where: there} if there else {})
    title = "The chunk budget: smooth streams against waiting prompts"
    size = (9.4, 1 + 2.9 * len(machines))
    fig, grid = figures.figure(title, len(machines), 3, size, squeeze=False)
    for panels, (machine, points) in zip(grid, machines.items(), strict=True):
        look = {} if points is rows else {"markerfacecolor": PAPER, "linestyle": (0, (5, 2.5))}
        for ax, metric, label, color in (
            (panels[0], "itl_ms_p99", "ITL of the streams, p99 (ms)", GREEN),
            (panels[1], "ttft_long_ms_p50", "TTFT of the long prompts, p50 (ms)", RED),
            (panels[2], "total_tokens_per_s", "tokens/s, in and out", BLUE),
        ):
            curve(ax, points, "max_num_batched_tokens", metric, color=color, **look)
            top = max(row[metric] for row in points)
            ax.set(xlabel="tokens a step, at most", ylabel=label, xscale="log", ylim=(0, 1.1 * top))
            ticks(ax, (row["max_num_batched_tokens"] for row in points), fontsize=8)
        lines = machine.split(", ")
        panels[0].set_title(f"{', '.join(lines[:2])}\n{', '.join(lines[2:])}".strip(), fontsize=9)
    figures.show(fig, caption, rows, "chunked_tradeoff")


def _plain_log_axis(ax, values) -> None:
    """A logarithmic x axis with ticks that read as numbers."""
    steps = [m * 10**e for e in range(-2, 6) for m in (1, 2, 5)]
    shown = [step for step in steps if min(values) / 1.6 <= step <= max(values) * 1.6]
    ax.set_xscale("log")
    ax.set_xticks(shown, [f"{step:g}" for step in shown])
    ax.minorticks_off()


def conversation(rows: list[dict], caption: str) -> None:
    """A chat turn by turn: prompt tokens found and computed (top), TTFT with and without the cache.

    rows: turn, cached_tokens, computed_tokens, ttft_ms, ttft_ms_without, gain.
    """
    title = "A conversation: what each turn finds, and what it computes"
    fig, (top, low) = figures.figure(title, rows=2, size=(7.5, 4.8), sharex=True)
    turns = [row["turn"] for row in rows]
    found, computed = ([row[f"{kind}_tokens"] for row in rows] for kind in ("cached", "computed"))
    top.bar(turns, found, color=GREEN, label="found in the cache")
    hatched = {"hatch": "//", "edgecolor": "white"}
    top.bar(turns, computed, bottom=found, color=BLUE, label="computed", **hatched)
    top.set_ylabel("prompt tokens")
    top.legend(loc="upper left")
    without = {"label": "cache not read", "marker": "s", "color": GREY}
    curve(low, rows, "turn", "ttft_ms_without", **without)
    curve(low, rows, "turn", "ttft_ms", label="cache read", color=GREEN)
    high = max(max(row["ttft_ms"], row["ttft_ms_without"]) for row in rows)
    low.set(xlabel="turn of the conversation", ylabel="TTFT, median (ms)", ylim=(0, 1.4 * high))
    low.set_xticks(turns)
    low.legend(loc="upper left", ncols=2)
    _show(fig, caption, rows, "prefix_conversation")


def _break_even(ax, label: str) -> None:
    """Mark where speculation is neither gain nor loss, and shade the loss; "" beside another."""
    ax.set(ylabel=label, ylim=(0, max(1.08 * ax.get_ylim()[1], 1.15)))
    ax.axhspan(0, 1, color=RED, alpha=0.07, linewidth=0)
    ax.axhline(1, color=RED, linewidth=1.1, linestyle="--")
    look = {"ha": "right", "va": "bottom", "fontsize": 8.5, "color": RED}
    said = "a loss: a range that lies in here whole" * bool(label)
    ax.text(0.99, 0.03, said, transform=ax.transAxes, **look)


def speedup_by_batch(
    rows: list[dict], caption: str, recorded: dict[str, list[dict]] | None = None
) -> None:
    """Throughput with over throughput without speculation.

    rows: requests (at once), measured_x, gain. recorded: a drafter's name -> requests, speedup_x.
    """
    title = "What speculation gains or loses, by requests at once"
    there = recorded or {}
    panels = 2 if there else 1
    fig, axes = figures.figure(title, 1, panels, (4.7 * panels, 3.8), sharey=True, squeeze=False)
    here = axes[0][0]
    for ax in axes[0]:
        ax.set(xlabel="requests at once", xscale="log")
    curve(here, rows, "requests", "measured_x")
    gain_ranges.draw(here, rows, "requests")
    for row in rows:
        offset, side = ((-6, 6), "right") if row is rows[-1] else ((6, 6), "left")
        at = row["requests"], row["measured_x"]
        note(here, f"{row['measured_x']:.2f}x", at, offset, ha=side)
    here.set_title("this machine", fontsize=9)
    ticks(here, (row["requests"] for row in rows))
    for i, (name, points) in enumerate(there.items(), start=1):
        # beside the others: ranges at the same place could not be told apart
        beside = [row | {"requests": row["requests"] * 1.06 ** (i - 2)} for row in points]
        look = {"label": name, **hollow_line(COLORS[i])}
        curve(axes[0][1], beside, "requests", "speedup_x", i, **look)
        ranged = [row | {"gain": Gain.read(row, "speedup_x")} for row in beside]
        gain_ranges.draw(axes[0][1], ranged, "requests", COLORS[i])
    if there:
        a = points[-1]["alpha"]
        axes[0][1].set_title(f"recorded elsewhere, a = {a:g} set for each", fontsize=9)
        ticks(axes[0][1], {row["requests"] for row in chain(*there.values())})
    for ax in axes[0]:
        _break_even(ax, "times the output tokens/s without drafts" if ax is here else "")
    if there:
        axes[0][1].legend(loc="best", fontsize=8)
    _show(fig, caption, rows, "speculation_by_batch")


def speedup_by_acceptance(
    rows: list[dict], formula: list[tuple[float, float, float]], k: int, caption: str
) -> None:
    """Speed-up over the chance that a draft of ``k`` tokens was accepted, as measured.

    rows: a, measured_x and gain. formula: (chance, lowest, highest speed-up) points.
    """
    title = f"What acceptance is worth, with {k} drafted tokens"
    fig, ax = figures.figure(title, size=(7, 4))
    look = {"color": GREY, "alpha": 0.3, "linewidth": 0}
    ax.fill_between(*zip(*formula, strict=True), label="formula, c of section 3", **look)
    points = {"linestyle": "", "markersize": 8, "label": "measured"}
    curve(ax, rows, "a", "measured_x", **points)
    gain_ranges.draw(ax, rows, "a")
    ax.set_xlabel("a: a draft is accepted, given that those before it were")
    ax.set_xlim(0, 1)
    _break_even(ax, SPEED_UP)
    ax.legend(loc="upper left", fontsize=8)
    _show(fig, caption, rows, "speculation_by_acceptance")


def _panels(title: str, panels: int, height: float, label: str):
    """(figure, axes) for bars that lie: panels two beside each other, which share their rows."""
    down = math.ceil(panels / 2)
    fig, grid = figures.figure(title, down, 2, (8.6, height * down), sharey=True, squeeze=False)
    for ax in grid.flat[panels:]:
        ax.set_axis_off()
    for ax in grid[:, 0]:
        ax.set_ylabel(label)
    grid[0][0].invert_yaxis()
    return fig, grid.flat[:panels]


def strategies(rows: list[dict], caption: str) -> None:
    """Sampling strategies as bars: quality, variety and speed.

    rows: strategy; of stories faultless, mean_chance and distinct_stories
    (helpers.lessons.advanced_features.sampling.story_scores), else mean_logprob and
    distinct_2grams.
    """
    told = "stories" in rows[0]
    metrics = OF_STORIES if told else OF_TEXTS
    title = "Quality, variety and speed of four ways to choose tokens"
    fig, axes = figures.figure(title, 1, len(metrics), (9.4, 2.6), sharey=True)
    axes[0].set_ylabel("strategy")
    axes[0].invert_yaxis()
    names = [row["strategy"] for row in rows]
    for ax, (metric, (label, color, fmt)) in zip(axes, metrics.items(), strict=True):
        bars = ax.barh(names, [row[metric] for row in rows], color=color, height=0.6)
        ax.bar_label(bars, fmt=fmt, fontsize=8.5, padding=3)
        ax.set_xlabel(label)
        ax.margins(x=0.35)
        ax.locator_params(axis="x", nbins=3)
    if told:
        for ax in (axes[0], axes[2]):
            ax.set_xlim(0, 1.3 * rows[0]["stories"])
    else:  # differences of log-probabilities in the third digit are none
        axes[0].set_xlim(1.3 * min(-0.1, *(row["mean_logprob"] for row in rows)), 0)
    figures.show(fig, caption, rows, "sampling_strategies")


def services(verdicts: list[Verdict], caption: str) -> None:
    """Gain of each feature for each service, with its whole range; the chosen one is marked."""
    title = "What each feature does for each service"
    fig, axes = _panels(title, len(verdicts), 2.4, "switched on")
    table = []
    for ax, verdict in zip(axes, verdicts, strict=True):
        for place, (feature, gain) in enumerate(verdict.gains.items()):
            low, high = gain.span or (gain.estimate, gain.estimate)
            color = VERDICT_COLORS.get(verdict.of(feature), GREY)
            reach = [[gain.estimate - low], [high - gain.estimate]]
            ax.errorbar(gain.estimate, place, xerr=reach, fmt="o", color=color, capsize=3)
            label = gain_ranges.in_words(gain)
            if (share := verdict.accepted_of(feature)) is not None:
                label += f", {100 * share:.0f} % accepted"
            label += ", cannot act" * (feature in verdict.service.cannot_act)
            label += " (your guess)" * (feature == verdict.chosen)
            note(ax, label, (gain.estimate, place), ha="center", path_effects=HALO)
            table.append(_in_words(verdict, feature))
        ax.axvline(1, color=figures.INK, linewidth=0.9)
        ax.set_title(verdict.service.name, fontsize=9)
        ax.set_xlabel("times as good as with “nothing”")
        ax.set_yticks(range(len(verdict.gains)), verdict.gains)
        ax.set_ylim(len(verdict.gains) - 0.6, -0.6)
    ends = [end for one in verdicts for gain in one.gains.values() for end in gain.span or ()]
    for ax in axes:
        _plain_log_axis(ax, [0.5, 2, *ends])
        ax.set_xlim(min(0.5, *ends) / 1.7, 1.7 * max(2, *ends))
    figures.show(fig, caption, table, "services")


def _in_words(verdict: Verdict, feature: str) -> dict:
    service, gain = verdict.service, verdict.gains[feature]
    row = {"service": service.name, "judged by": service.metric_label, "switched on": feature}
    row |= gain.metrics() | {"verdict": verdict.of(feature)}
    return row | {"acceptance_rate": verdict.accepted_of(feature)}


def _show(fig, caption: str, rows: list[dict], name: str) -> None:
    """A figure of gains: what an arrow head means below it, the ranges in its values."""
    caption += gain_ranges.of_arrows(row["gain"] for row in rows)
    figures.show(fig, caption, _flat(rows), name)


def _flat(rows: list[dict]) -> list[dict]:
    """Rows for the table of values: the range instead of the gain itself."""
    plain, heads = [], {"drafts": "steps that drafted"}
    for row in rows:
        values = {heads.get(name, name): row[name] for name in row if name != "gain"}
        gain = row["gain"]
        span = {"low": gain.low, "high": gain.high} if gain.values >= LEAST_VALUES else {}
        plain.append(values | span | {"verdict": gain.verdict})
    return plain
