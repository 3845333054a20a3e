"""The figures of notebook 1: the sweeps and the map of throughput against latency."""

from __future__ import annotations

from helpers.display import figures
from helpers.display.figures import BLUE, GREY, RED, curve, hollow_line, hollow_points, note
from helpers.display.numbers import number


def sweep(rows: list[dict], x: str, title: str, xlabel: str, caption: str, name: str) -> None:
    """Throughput (left) and TTFT, p50 and p99 (right), over one setting.

    rows: one a measured value, in order: `x`, output_tokens_per_s, ttft_ms_p50, ttft_ms_p99.
    """
    fig, (left, right) = figures.figure(title, cols=2, size=(9, 3.6))
    rows = [{**row, "place": place} for place, row in enumerate(rows)]
    places = range(len(rows))
    left.bar(places, [row["output_tokens_per_s"] for row in rows], color=BLUE)
    left.set(title="Throughput", xlabel=xlabel, ylabel="output tokens/s")
    curve(right, rows, "place", "ttft_ms_p50", 0, label="TTFT p50")
    curve(right, rows, "place", "ttft_ms_p99", 1, label="TTFT p99")
    right.set(title="Wait for the first token", xlabel=xlabel, ylabel="ms", ylim=(0, None))
    right.legend()
    labels = [number(row[x]) for row in rows]
    for ax in (left, right):
        ax.set_xticks(places, labels)
    table = [{name: row[name] for name in row if name != "place"} for row in rows]
    figures.show(fig, caption, table, name)


def throughput_latency(
    rows: list[dict],
    best: str,
    caption: str,
    limit_ms: float,
    typed_tokens_per_s: float | None = None,
    recorded: tuple[list[dict], str] = ((), ""),
) -> None:
    """Every configuration as a point: output tokens/s over TPOT p50; the best one marked.

    rows: configuration, output_tokens_per_s, tpot_ms_p50. best: the configuration to mark.
    limit_ms: the goal, the longest TPOT p50 that is allowed, a line.
    typed_tokens_per_s: the student's own number, a line. recorded: rows of another machine and
    their label, as helpers.results.recorded.curve gives them.
    """
    title = "More requests together: more tokens for all, fewer for each"
    fig, ax = figures.figure(title, size=(7.5, 4.4))

    def at(row: dict) -> tuple[float, float]:
        return row["tpot_ms_p50"], row["output_tokens_per_s"]

    for i, row in enumerate(sorted(rows, key=at)):
        chosen = row["configuration"] == best
        look = {"s": 110, "marker": "*", "color": RED} if chosen else {"s": 45, "color": BLUE}
        ax.scatter(*at(row), zorder=3, **look)
        name = row["configuration"] + (" (chosen)" if chosen else "")
        note(ax, name, at(row), (7, -12 if i % 2 else 5), fontsize=8)
    there, where = recorded
    if there:
        ax.scatter(*zip(*map(at, there), strict=True), s=40, label=where, **hollow_points())
        for row in there:
            note(ax, row["variant"], at(row), (6, -10), fontsize=8, color=GREY)
        ax.legend(loc="lower right", fontsize=7.5, frameon=True)
    if typed_tokens_per_s:
        ax.axhline(typed_tokens_per_s, **hollow_line())
        place = (ax.get_xlim()[0], typed_tokens_per_s)
        note(ax, "your Week 2 number (typed)", place, (6, -11), fontsize=8, color=GREY)
    ax.axvline(limit_ms, color=GREY, linewidth=1, linestyle=":")
    top = {"xycoords": ax.get_xaxis_transform(), "rotation": 90, "va": "top", "color": GREY}
    note(ax, "the goal's limit", (limit_ms, 0.98), (-11, 0), fontsize=8, **top)
    ax.set(xlabel="TPOT p50 (ms per output token)", ylabel="output tokens/s, all requests")
    ax.set_ylim(0, None)
    ax.margins(x=0.18)
    figures.show(fig, caption, rows, "throughput_latency")
