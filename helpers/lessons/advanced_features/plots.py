"""The figures of notebook 2: each feature's gain, and where it turns into a loss."""

from __future__ import annotations

from helpers.display import figures as style
from helpers.lessons.advanced_features.services import NOISE
from helpers.lessons.papers.speculative import alpha_from_length

BLUE, RED, GREEN, PURPLE, ORANGE = style.COLORS[:5]


def interruptions(runs: dict, caption: str) -> None:
    """Each gap between two tokens of the short streams at its time, one panel a run; arrivals of long prompts marked.

    runs: label -> Measurement of a workload with requests of kinds "short" and "long".
    """
    longest = [
        max(max(r.itl_s) for r in run.requests if r.kind == "short") for run in runs.values()
    ]
    title = (
        "A long prompt stops every stream, unless it is cut into chunks"
        if longest[-1] < 0.7 * longest[0]
        else "Gaps in the streams while long prompts are read"
    )
    fig, axes = style.figure(
        title, rows=len(runs), size=(8, 2.1 * len(runs) + 0.6), sharex=True, sharey=True
    )
    rows = []
    for ax, (label, run) in zip(axes, runs.items(), strict=True):
        short = [r for r in run.requests if r.kind == "short"]
        points = [
            (t, 1000 * gap)
            for r in short
            for t, gap in zip(r.token_times_s[1:], r.itl_s, strict=True)
        ]
        arrivals = [r.arrival_s for r in run.requests if r.kind == "long"]
        for i, arrival in enumerate(arrivals):
            ax.axvline(
                arrival,
                color=RED,
                linewidth=1.2,
                linestyle=":",
                label="a long prompt arrives" if i == 0 else None,
            )
        ax.scatter(
            *zip(*points, strict=True),
            s=7,
            color=BLUE,
            alpha=0.5,
            linewidths=0,
            label="gap before a token",
        )
        ax.set_title(label, fontsize=9.5)
        ax.set(ylabel="gap (ms)", yscale="log")
        rows.append(
            {
                "step budget": label,
                "longest gap (ms)": max(gap for _, gap in points),
                "gaps": len(points),
                "long prompts": len(arrivals),
            }
        )
    axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8)
    axes[-1].set_xlabel("seconds since the streams began")
    style.show(fig, caption=caption, table=rows, name="chunked_interruptions")


def chunk_tradeoff(
    rows: list[dict], caption: str, recorded: tuple[list[dict], str] = ((), "")
) -> None:
    """p99 ITL of the streams against TTFT of the long prompts (left) and throughput (right), one point a budget.

    rows: dicts with max_num_batched_tokens, itl_ms_p99, ttft_long_ms_p50, total_tokens_per_s, in order of the budget.
    recorded: the same of another machine and its label, as helpers.results.recorded.curve gives them.
    """
    there, where = recorded
    fig, (left, right) = style.figure(
        "The chunk budget: smooth streams against waiting prompts", cols=2, size=(9.4, 4)
    )
    x = [row["itl_ms_p99"] for row in rows]
    for ax, metric, label, color in (
        (left, "ttft_long_ms_p50", "TTFT of the long prompts, p50 (ms)", RED),
        (right, "total_tokens_per_s", "tokens/s, in and out", BLUE),
    ):
        ax.plot(x, [row[metric] for row in rows], marker="o", color=color)
        for i, row in enumerate(
            rows
        ):  # neighbours can lie close together: labels above and below in turn
            above = i % 2 == 1
            ax.annotate(
                f"{row['max_num_batched_tokens']:,}",
                (row["itl_ms_p99"], row[metric]),
                xytext=(3, 8) if above else (-3, -15),
                ha="left" if above else "right",
                textcoords="offset points",
                fontsize=8.5,
                zorder=5,
                path_effects=_halo(),
            )
        if there:
            ax.plot(
                [r["itl_ms_p99"] for r in there],
                [r[metric] for r in there],
                marker="o",
                label=where,
                **style.hollow_line(),
            )
        top = max(row[metric] for row in (*rows, *there))
        ax.set(
            xlabel="ITL of the streams, p99 (ms)", ylabel=label, ylim=(0, 1.25 * top), xscale="log"
        )
        _plain_ticks(ax, [*x, *(r["itl_ms_p99"] for r in there)])
    if there:
        left.legend(fontsize=7, loc="lower left")
    style.show(fig, caption=caption, table=rows, name="chunked_tradeoff")


def _halo() -> list:
    """A white edge that keeps a label readable on a line."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3, foreground=style.PAPER)]


def _plain_ticks(ax, values) -> None:
    """A logarithmic x axis with ticks that read as numbers."""
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = min(values), max(values)
    steps = [m * 10**e for e in range(-2, 6) for m in (1, 2, 5)]
    ticks = [s for s in steps if low / 1.6 <= s <= high * 1.6]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])


def prefix_hits(rows: list[dict], caption: str) -> None:
    """TTFT without and with a filled prefix cache (left), tokens found against the prediction (right).

    rows: dicts with workload, ttft_cold_ms, ttft_warm_ms, predicted_tokens, hit_tokens, prompt_tokens.
    """
    fig, (left, right) = style.figure(
        "The prefix cache finds what begins alike, block by block", cols=2, size=(9.6, 3.8)
    )
    places = range(len(rows))
    names = [row["workload"].replace(", ", ",\n") for row in rows]
    for offset, metric, label, color in (
        (-0.2, "ttft_cold_ms", "cold", style.GREY),
        (0.2, "ttft_warm_ms", "warm", BLUE),
    ):
        bars = left.bar(
            [p + offset for p in places],
            [row[metric] for row in rows],
            0.38,
            color=color,
            label=label,
        )
        left.bar_label(bars, fmt="%.3g", fontsize=8, padding=2)
    left.set(ylabel="TTFT p50 (ms)", title="Time to the first token")
    for offset, metric, label, color in (
        (-0.27, "prompt_tokens", "asked for", "#BDBDBD"),
        (0.0, "predicted_tokens", "predicted to be found", ORANGE),
        (0.27, "hit_tokens", "found (vLLM's counter)", GREEN),
    ):
        bars = right.bar(
            [p + offset for p in places],
            [row[metric] for row in rows],
            0.26,
            color=color,
            label=label,
        )
        right.bar_label(
            bars, [f"{row[metric]:,}" for row in rows], fontsize=8, padding=2, rotation=90
        )
    right.set(ylabel="prompt tokens, all requests", title="Tokens")
    for ax in (left, right):
        ax.set_xticks(list(places), names, fontsize=8.5)
        ax.set_xlabel("workload")
        ax.margins(
            y=0.5 if ax is left else 0.9
        )  # room for the legend, and on the right for labels that stand
        ax.legend(fontsize=8, loc="upper right")
    style.show(fig, caption=caption, table=rows, name="prefix_hits")


def conversation(rows: list[dict], caption: str) -> None:
    """A chat turn by turn: prompt tokens found and computed (top), TTFT with and without the cache (bottom).

    rows: dicts with turn, cached_tokens, computed_tokens, ttft_ms, ttft_ms_without.
    """
    fig, (top, low) = style.figure(
        "A conversation: what each turn finds, and what it computes",
        rows=2,
        size=(7.5, 4.8),
        sharex=True,
    )
    turns = [row["turn"] for row in rows]
    found = [row["cached_tokens"] for row in rows]
    top.bar(turns, found, color=GREEN, label="found in the cache")
    top.bar(
        turns,
        [row["computed_tokens"] for row in rows],
        bottom=found,
        color=BLUE,
        label="computed",
        hatch="//",
        edgecolor="white",
    )
    top.set_ylabel("prompt tokens")
    top.legend(loc="upper left")
    low.plot(
        turns,
        [row["ttft_ms_without"] for row in rows],
        marker="s",
        color=style.GREY,
        label="cache not read",
    )
    low.plot(turns, [row["ttft_ms"] for row in rows], marker="o", color=GREEN, label="cache read")
    high = max(max(row["ttft_ms"], row["ttft_ms_without"]) for row in rows)
    low.set(
        xlabel="turn of the conversation", ylabel="TTFT (ms)", ylim=(0, 1.4 * high), xticks=turns
    )
    low.legend(loc="upper left", ncols=2)
    style.show(fig, caption=caption, table=rows, name="prefix_conversation")


def acceptance(positions: dict[str, list[float]], caption: str) -> None:
    """Share of drafts whose first, second, ... token was accepted, one line for each source of drafts."""
    fig, ax = style.figure("How much of a draft is accepted, position by position", size=(7, 3.8))
    for i, (label, shares) in enumerate(positions.items()):
        ax.plot(
            range(1, len(shares) + 1),
            [100 * s for s in shares],
            marker=style.MARKERS[i],
            color=style.COLORS[i],
            label=label,
        )
    most = max(len(shares) for shares in positions.values())
    ax.set(
        xlabel="position in the draft",
        ylabel="accepted (% of drafts)",
        ylim=(0, 104),
        xticks=range(1, most + 1),
    )
    ax.legend(loc="lower left")
    table = [
        {"drafts": label, **{f"position {i}": 100 * s for i, s in enumerate(shares, 1)}}
        for label, shares in positions.items()
    ]
    style.show(fig, caption=caption, table=table, name="speculation_acceptance")


def _break_even(ax) -> None:
    """Mark where speculation is neither gain nor loss, and shade the loss."""
    high = ax.get_ylim()[1]
    ax.set_ylim(0, max(1.08 * high, 1.15))
    ax.axhspan(0, 1, color=RED, alpha=0.07, linewidth=0)
    ax.axhline(1, color=RED, linewidth=1.1, linestyle="--")
    ax.annotate(
        "below 1 speculation is a loss",
        (0.99, 0.03),
        xycoords="axes fraction",
        ha="right",
        fontsize=8.5,
        color=RED,
    )


def speedup_by_drafts(rows: list[dict], caption: str) -> None:
    """Single-stream speed-up over drafted tokens: measured, the formula, the formula with the fixed cost of a step.

    rows: dicts with k, measured_x, formula_x and, where there is a fixed cost, with_overhead_x.
    """
    fig, ax = style.figure("How many drafts are worth it for one stream", size=(7, 4))
    k = [row["k"] for row in rows]
    ax.plot(
        k, [row["measured_x"] for row in rows], marker="o", color=BLUE, label="measured", zorder=3
    )
    ax.plot(
        k,
        [row["formula_x"] for row in rows],
        marker="^",
        color=style.GREY,
        linestyle="--",
        linewidth=1.5,
        label="formula, with a and c as measured",
    )
    if "with_overhead_x" in rows[0]:
        ax.plot(
            k,
            [row["with_overhead_x"] for row in rows],
            marker="v",
            color=ORANGE,
            linestyle=":",
            linewidth=1.8,
            label="formula, and the fixed cost of a step",
        )
    ax.set(
        xlabel="drafted tokens in a step (num_speculative_tokens)",
        ylabel="times faster than without",
        xticks=k,
    )
    _break_even(ax)
    ax.legend(loc="lower left", fontsize=8.5)
    style.show(fig, caption=caption, table=rows, name="speculation_by_drafts")


def speedup_by_batch(rows: list[dict], caption: str) -> None:
    """Throughput with over throughput without speculation, by requests at once. rows: dicts with requests, speedup_x."""
    fig, ax = style.figure("What speculation gains or loses, by requests at once", size=(7, 3.8))
    x = [row["requests"] for row in rows]
    ax.plot(x, [row["speedup_x"] for row in rows], marker="o", color=BLUE)
    for row in rows:
        ax.annotate(
            f"{row['speedup_x']:.2f}x",
            (row["requests"], row["speedup_x"]),
            xytext=(0, 7),
            ha="center",
            textcoords="offset points",
            fontsize=8.5,
        )
    ax.set(xlabel="requests at once", ylabel="times faster than without", xscale="log")
    ax.set_xticks(x, [str(n) for n in x])
    ax.minorticks_off()
    _break_even(ax)
    style.show(fig, caption=caption, table=rows, name="speculation_by_batch")


def speedup_by_acceptance(
    rows: list[dict],
    curve: list[tuple[float, float]],
    k: int,
    caption: str,
    recorded: tuple[list[dict], str] = ((), ""),
) -> None:
    """Speed-up over the chance that a draft was accepted, as measured. rows: dicts with measured_x and
    mean_acceptance_length; curve: the formula.

    recorded: rows of another machine and its label, as helpers.results.recorded.curve gives them.
    """
    fig, ax = style.figure(
        f"What an acceptance rate is worth, with {k} drafted tokens", size=(7, 4)
    )
    ax.plot(
        *zip(*curve, strict=True),
        color=style.GREY,
        linestyle="--",
        linewidth=1.6,
        label="formula, c as measured",
    )
    there, where = recorded
    points = lambda rows: zip(
        *sorted(
            (alpha_from_length(row["mean_acceptance_length"], k), row["measured_x"]) for row in rows
        ),
        strict=True,
    )
    ax.plot(*points(rows), "o", color=BLUE, markersize=8, label="measured")
    if there:
        ax.plot(*points(there), marker="o", label=where, **style.hollow_line())
    ax.set(
        xlabel="share of drafted tokens accepted, each given that those before it were",
        ylabel="times faster than without",
        xlim=(0, 1),
    )
    _break_even(ax)
    ax.legend(loc="upper left", fontsize=8)
    style.show(fig, caption=caption, table=rows, name="speculation_by_acceptance")


def strategies(rows: list[dict], caption: str) -> None:
    """Sampling strategies as bars: speed, mean log-probability, distinct 2-grams.

    rows: dicts with strategy, output_tokens_per_s, mean_logprob, distinct_2grams.
    """
    fig, axes = style.figure(
        "Speed, likelihood and variety of four ways to choose tokens",
        cols=3,
        size=(10, 3),
        sharey=True,
    )
    names = [row["strategy"] for row in rows]
    for ax, (metric, label), color in zip(
        axes,
        (("output_tokens_per_s", "output tokens/s"), ("mean_logprob", "mean log-probability of a token"),
         ("distinct_2grams", "distinct 2-grams (share)")),
        (BLUE, GREEN, PURPLE),
        strict=True,
    ):  # fmt: skip
        bars = ax.barh(names, [row[metric] for row in rows], color=color, height=0.6)
        ax.bar_label(
            bars,
            [
                f"{row[metric]:,.0f}" if abs(row[metric]) > 20 else f"{row[metric]:.2f}"
                for row in rows
            ],
            fontsize=8.5,
            padding=3,
        )
        ax.set_xlabel(label)
        ax.margins(x=0.22)
        if metric == "mean_logprob":
            ax.set_xlim(
                1.3 * min(-0.1, *(row[metric] for row in rows)), 0
            )  # differences in the third digit are none
    axes[0].invert_yaxis()
    axes[0].set_ylabel("strategy")
    style.show(fig, caption=caption, table=rows, name="sampling_strategies")


def preemption(runs: dict, caption: str) -> None:
    """Requests running and waiting (top) and use of the KV cache (bottom) over time, one column a run.

    runs: label -> Measurement.
    """
    fig, axes = style.figure(
        "When the KV cache is too small: requests lose their blocks and wait again",
        rows=2,
        cols=len(runs),
        size=(9.4, 4.4),
        sharex=True,
        sharey="row",
        height_ratios=[1.3, 1],
    )
    rows = []
    for column, (label, run) in enumerate(runs.items()):
        top, low = axes[0][column], axes[1][column]
        t = [step["t_s"] for step in run.timeline]
        top.step(
            t, [step["running"] for step in run.timeline], where="post", color=BLUE, label="running"
        )
        top.step(
            t,
            [step["waiting"] for step in run.timeline],
            where="post",
            color=ORANGE,
            linestyle="--",
            label="waiting",
        )
        top.set_title(label, fontsize=9.5)
        low.plot(t, [100 * step["kv_cache_usage"] for step in run.timeline], color=GREEN)
        low.set(xlabel="seconds", ylim=(0, 105))
        rows.append(
            {
                "run": label,
                "preemptions": int(run.counters.get("num_preemptions", 0)),
                "e2e p50 (ms)": run.metrics["e2e_ms_p50"],
                "e2e p99 (ms)": run.metrics["e2e_ms_p99"],
                "output tokens/s": run.metrics["output_tokens_per_s"],
            }
        )
    axes[0][0].set_ylabel("requests")
    axes[1][0].set_ylabel("KV cache in use (%)")
    axes[0][0].legend(loc="upper right", fontsize=8.5)
    style.show(fig, caption=caption, table=rows, name="memory_preemption")


def waste(rows: list[dict], caption: str) -> None:
    """Slots that requests in flight hold, with blocks and with contiguous reservation.

    rows: dicts with scheme, used_slots, unused_slots (averages over the steps).
    """
    fig, ax = style.figure("What requests in flight hold, and what of it is empty", size=(8, 2.6))
    names = [row["scheme"] for row in rows]
    used = [row["used_slots"] for row in rows]
    ax.barh(names, used, color=GREEN, label="holds keys and values", height=0.55)
    ax.barh(
        names,
        [row["unused_slots"] for row in rows],
        left=used,
        color="#D9D9D9",
        hatch="//",
        edgecolor=style.GREY,
        height=0.55,
        label="reserved and empty",
        linewidth=0,
    )
    for i, row in enumerate(rows):
        total = row["used_slots"] + row["unused_slots"]
        ax.annotate(
            f"{100 * row['unused_slots'] / total:.1f} % empty",
            (total, i),
            xytext=(5, 0),
            va="center",
            textcoords="offset points",
            fontsize=9,
        )
    ax.set(xlabel="token slots held, on average over the steps", ylabel="scheme")
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.2)
    ax.invert_yaxis()
    ax.legend(loc="upper right", fontsize=8.5)
    style.show(fig, caption=caption, table=rows, name="memory_waste")


def services(rows: list[dict], features: tuple[str, ...], caption: str) -> None:
    """Gain of each feature for each service; the chosen one is marked.

    rows: dicts with service, metric, better, chosen, and for each feature its gain (times better than with nothing).
    """
    fig, axes = style.figure(
        "The same feature, four services", cols=len(rows), size=(11, 3.2), sharey=True
    )
    for ax, row in zip(axes, rows, strict=True):
        gains = [row[feature] for feature in features]
        colors = [
            GREEN if gain >= 1 + NOISE else RED if gain <= 1 - NOISE else style.GREY
            for gain in gains
        ]
        bars = ax.barh(features, gains, color=colors, height=0.6)
        for bar, feature in zip(bars, features, strict=True):
            if feature == row["chosen"]:
                bar.set(hatch="///", edgecolor="white")
        labels = [
            f"{gain:.2f}x" + (" (chosen)" if feature == row["chosen"] else "")
            for gain, feature in zip(gains, features, strict=True)
        ]
        ax.bar_label(bars, labels, fontsize=8, padding=3)
        ax.axvline(1, color=style.INK, linewidth=0.9)
        ax.set_title(
            row["service"]
            .replace(" at ", "\nat ")
            .replace(" with ", "\nwith ")
            .replace(" long and", "\nlong and"),
            fontsize=9,
        )
        ax.set(xlabel="times better than nothing", xlim=(0, max(1.2, max(gains)) * 1.5))
    axes[0].invert_yaxis()
    axes[0].set_ylabel("switched on")
    style.show(fig, caption=caption, table=rows, name="services")
