"""The figures of notebook 1: the sweeps and the map of throughput against latency."""

from __future__ import annotations

from helpers.display import figures as style


def sweep(rows: list[dict], x: str, title: str, xlabel: str, caption: str, name: str) -> None:
    """Throughput (left) and TTFT, p50 and p99 (right), over one setting.

    rows: dicts with `x`, output_tokens_per_s, ttft_ms_p50, ttft_ms_p99; one a measured value, in order.
    """
    fig, (left, right) = style.figure(title, cols=2, size=(9, 3.6))
    labels = [f"{row[x]:,}" if isinstance(row[x], (int, float)) else str(row[x]) for row in rows]
    positions = range(len(rows))
    left.bar(positions, [row["output_tokens_per_s"] for row in rows], color=style.BLUE)
    left.set(title="Throughput", xlabel=xlabel, ylabel="output tokens/s")
    for i, (metric, label) in enumerate((("ttft_ms_p50", "p50"), ("ttft_ms_p99", "p99"))):
        right.plot(
            positions,
            [row[metric] for row in rows],
            marker=style.MARKERS[i],
            label=f"TTFT {label}",
            color=style.COLORS[i],
        )
    right.set(title="Wait for the first token", xlabel=xlabel, ylabel="ms", ylim=(0, None))
    right.legend()
    for axis in (left, right):
        axis.set_xticks(list(positions), labels)
    style.show(fig, caption=caption, table=rows, name=name)


def throughput_latency(
    rows: list[dict],
    best: str,
    caption: str,
    typed_tokens_per_s: float | None = None,
    recorded: tuple[list[dict], str] = ((), ""),
) -> None:
    """Every configuration as a point: output tokens/s over TPOT p50; the best marked, the student's own as a line.

    rows: dicts with configuration, output_tokens_per_s, tpot_ms_p50. best: the configuration to mark.
    recorded: the same of another machine and its label, as helpers.results.recorded.curve gives them.
    """
    fig, ax = style.figure(
        "More requests together: more tokens for all, fewer for each", size=(7.5, 4.4)
    )
    for i, row in enumerate(sorted(rows, key=lambda row: row["tpot_ms_p50"])):
        chosen = row["configuration"] == best
        ax.scatter(
            row["tpot_ms_p50"],
            row["output_tokens_per_s"],
            s=110 if chosen else 45,
            marker="*" if chosen else "o",
            color=(style.RED if chosen else style.BLUE),
            zorder=3,
        )
        ax.annotate(
            row["configuration"] + (" (chosen)" if chosen else ""),
            (row["tpot_ms_p50"], row["output_tokens_per_s"]),
            xytext=(7, -12 if i % 2 else 5),
            textcoords="offset points",
            fontsize=8,
        )
    there, where = recorded
    if there:
        ax.scatter(
            [r["tpot_ms_p50"] for r in there],
            [r["output_tokens_per_s"] for r in there],
            s=40,
            label=where,
            **style.hollow_points(),
        )
        for r in there:
            ax.annotate(
                r["variant"],
                (r["tpot_ms_p50"], r["output_tokens_per_s"]),
                xytext=(6, -10),
                textcoords="offset points",
                fontsize=8,
                color=style.GREY,
            )
        ax.legend(loc="lower right", fontsize=7.5, frameon=True)
    if typed_tokens_per_s:
        ax.axhline(typed_tokens_per_s, **style.hollow_line())
        ax.annotate(
            "your Week 2 number (typed)",
            (ax.get_xlim()[0], typed_tokens_per_s),
            xytext=(6, -11),
            textcoords="offset points",
            fontsize=8,
            color=style.GREY,
        )
    ax.set(
        xlabel="TPOT p50 (ms per output token)",
        ylabel="output tokens/s, all requests",
        ylim=(0, None),
    )
    ax.margins(x=0.18)
    style.show(fig, caption=caption, table=rows, name="throughput_latency")
