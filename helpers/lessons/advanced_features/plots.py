"""The figures of notebook 2: each feature's gain, and where it turns into a loss.

``caption`` is the sentence below.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from helpers.display import figures
from helpers.display.figures import (
    BLUE,
    COLORS,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    curve,
    hollow_line,
    note,
    ticks,
)
from helpers.lessons import gain_ranges
from helpers.lessons.advanced_features.services import LEFT_OUT, NOTHING, Verdict
from helpers.verdicts.gain import LEAST_VALUES, Gain

SPEED_UP = "speed-up of the tokens after the first"
LINES = ("-", "--", "-.")
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


def chunk_tradeoff(
    rows: list[dict], by: dict[str, int], promise_ms: float, there: list[dict], caption: str
) -> None:
    """p99 ITL of the streams and TTFT of the long prompts, over the budget; a column a machine.

    rows, there (recorded elsewhere): one a budget: max_num_batched_tokens, itl_ms_p99,
    ttft_long_ms_p50. by: whose budget -> the budget. It and promise_ms, a p99, are drawn as lines.
    """
    title = "The chunk budget: smooth streams against waiting prompts"
    columns = {"this machine": rows} | ({"recorded elsewhere": there} if there else {})
    wide = len(columns)
    fig, panels = figures.figure(title, 2, wide, (4.3 * wide, 5.6), sharex="col", squeeze=False)
    x, values = "max_num_batched_tokens", []
    for (top, low), (machine, points) in zip(panels.T, columns.items(), strict=True):
        for ax, metric, label, color in (
            (top, "itl_ms_p99", "ITL of the streams, p99 (ms)", GREEN),
            (low, "ttft_long_ms_p50", "TTFT, long prompts, p50 (ms)", RED),
        ):
            look = hollow_line(color) if points is there else {"color": color}
            curve(ax, points, x, metric, **look | {"linestyle": ""})
            ax.set(ylabel=label, ylim=(0, 1.1 * max(row[metric] for row in points)))
        top.set_title(machine, fontsize=9)
        low.set_xlabel("tokens a step, at most (log scale)")
        budgets = [row[x] for row in points]
        _plain_log_axis(low, budgets)
        low.set_xlim(min(budgets) / 1.4, 1.4 * max(budgets))
        kept = (x, "itl_ms_p99", "ttft_long_ms_p50")
        values += [{"machine": machine} | {name: row[name] for name in kept} for row in points]
    mine = panels[0][0]
    for i, (name, budget) in enumerate(by.items()):
        label = f"{name}: {budget:,} tokens"
        mine.axvline(budget, color=COLORS[3 + i], linestyle=LINES[i], label=label, zorder=1)
    mine.axhline(promise_ms, color=GREY, linestyle=":", label=f"promise: {promise_ms} ms")
    mine.set_ylim(0, 1.15 * max(promise_ms, *(row["itl_ms_p99"] for row in rows)))
    mine.legend(loc="center right", fontsize=8, frameon=True, framealpha=1)
    figures.show(fig, caption, values, "chunked_tradeoff")


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
    figures.show(fig, caption, _flat(rows), "prefix_conversation")


def _break_even(ax, label: str) -> None:
    """Mark where speculation is neither gain nor loss, and shade the loss; "" beside another."""
    ax.set(ylabel=label, ylim=(0, max(1.08 * ax.get_ylim()[1], 1.15)))
    ax.axhspan(0, 1, color=RED, alpha=0.07, linewidth=0)
    ax.axhline(1, color=RED, linewidth=1.1, linestyle="--")


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
    curve(here, rows, "requests", "measured_x", linestyle="")
    gain_ranges.draw(here, rows, "requests")
    here.set_title("this machine", fontsize=9)
    ticks(here, (row["requests"] for row in rows))
    for i, (name, points) in enumerate(there.items(), start=1):
        look = {"label": name, **hollow_line(COLORS[i]), "linestyle": ""}
        curve(axes[0][1], points, "requests", "speedup_x", i, **look)
        ranged = [row | {"gain": Gain.read(row, "speedup_x")} for row in points]
        gain_ranges.draw(axes[0][1], ranged, "requests", COLORS[i])
    if there:
        axes[0][1].set_title("recorded elsewhere", fontsize=9)
        ticks(axes[0][1], {row["requests"] for row in chain(*there.values())})
        axes[0][1].legend(loc="best", fontsize=8)
    for ax in axes[0]:
        _break_even(ax, "times the output tokens/s without drafts" if ax is here else "")
    _show(fig, caption, rows, "speculation_by_batch")


def speedup_by_acceptance(
    rows: list[dict], k: int, formula: Callable[[float], tuple[float, float, float]], caption: str
) -> None:
    """Speed-up over the chance that a draft was accepted, beside what the formula makes of it.

    rows: a, measured_x, gain. formula: its least, middle and most for an a.
    """
    fig, ax = figures.figure(f"What acceptance is worth, with {k} drafted tokens", size=(6.2, 3.6))
    chances = [i / 50 for i in range(51)]
    low, middle, high = zip(*map(formula, chances), strict=True)
    ax.fill_between(chances, low, high, color=ORANGE, alpha=0.25, label="for the range of c")
    ax.plot(chances, middle, color=ORANGE, label="formula, measured c")
    curve(ax, rows, "a", "measured_x", linestyle="", label="measured (TPOT)")
    top = max(gain_ranges.end(row["gain"]) for row in rows)
    gain_ranges.draw(ax, rows, "a", room=top)
    ax.legend(loc="upper left", fontsize=8)
    ax.set_ylim(0, top)
    ax.set(xlabel="a: a draft is accepted, given that those before it were", xlim=(0, 1))
    _break_even(ax, SPEED_UP)
    _show(fig, caption, rows, "speculation_by_acceptance", room=top)


def strategies(rows: list[dict], caption: str) -> None:
    """Sampling strategies as points: quality, variety and speed.

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
        ax.plot([row[metric] for row in rows], names, "o", color=color)
        for row in rows:
            note(ax, fmt.format(row[metric]), (row[metric], row["strategy"]), ha="center")
        ax.set_xlabel(label)
        ax.margins(x=0.35, y=0.25)
        ax.locator_params(axis="x", nbins=3)
    if told:
        for ax in (axes[0], axes[2]):
            ax.set_xlim(-0.1 * rows[0]["stories"], 1.3 * rows[0]["stories"])
    else:  # differences of log-probabilities in the third digit are none
        axes[0].set_xlim(1.3 * min(-0.1, *(row["mean_logprob"] for row in rows)), 0)
    figures.show(fig, caption, rows, "sampling_strategies")


def services(verdicts: list[Verdict], caption: str) -> None:
    """Gain of each feature for each service, with its whole range; the chosen one is marked.

    Below the name of a service a row for each feature that can act on it.
    """
    rows = [(verdict, feature) for verdict in verdicts for feature in (None, *verdict.gains)]
    title = "What each feature does for each service"
    fig, ax = figures.figure(title, size=(8.0, 1.0 + 0.3 * len(rows)))
    names, table = [], []
    for place, (verdict, feature) in enumerate(rows):
        if feature is None:
            guess, name = verdict.chosen or NOTHING, verdict.service.name
            if guess not in (NOTHING, *verdict.gains):
                name += f" (your guess: {LEFT_OUT[guess]})"
            names.append(name)
            continue
        gain = verdict.gains[feature]
        names.append(feature + " (your guess)" * (feature == verdict.chosen))
        low, high = gain.span or (gain.estimate, gain.estimate)
        color = VERDICT_COLORS.get(gain.verdict, GREY)
        reach = [[gain.estimate - low], [high - gain.estimate]]
        ax.errorbar(gain.estimate, place, xerr=reach, fmt="o", color=color, capsize=3)
        beside = {"xycoords": ax.get_yaxis_transform(), "va": "center", "color": color}
        note(ax, gain_ranges.in_words(gain), (1, place), (6, 0), **beside)
        row = {"service": verdict.service.name, "judged by": verdict.service.metric_label}
        row |= {"switched on": feature, **gain.metrics()}
        row["verdict"] = gain.word
        table.append(row)
    ax.axvline(1, color=figures.INK, linewidth=0.9)
    ends = [end for one in verdicts for gain in one.gains.values() for end in gain.span or ()]
    _plain_log_axis(ax, [0.5, 2, *ends])
    ax.set(xlabel="times as good as with “nothing”", ylim=(len(rows) - 0.4, -0.6))
    ax.set_ylabel("service, and what is switched on")
    ax.set_yticks(range(len(rows)), names)
    for label, (_, feature) in zip(ax.get_yticklabels(), rows, strict=True):
        label.set_fontweight("normal" if feature else "bold")
    ax.grid(axis="y", visible=False)
    figures.show(fig, caption, table, "services")


def _show(fig, caption: str, rows: list[dict], name: str, room: float = 0) -> None:
    """A figure of gains: what an arrow head means below it, the ranges in its values."""
    caption += gain_ranges.of_arrows((row["gain"] for row in rows), room)
    figures.show(fig, caption, _flat(rows), name)


def _flat(rows: list[dict]) -> list[dict]:
    """Rows for the table of values: the range instead of the gain itself."""
    plain, heads = [], {"drafts": "steps that drafted"}
    for row in rows:
        values = {heads.get(name, name): row[name] for name in row if name != "gain"}
        gain = row["gain"]
        span = {"low": gain.low, "high": gain.high} if gain.values >= LEAST_VALUES else {}
        plain.append(values | span | {"verdict": gain.word})
    return plain
