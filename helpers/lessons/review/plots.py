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
    shown = (x, "output_tokens_per_s", "ttft_ms_p50", "ttft_ms_p99", "tpot_ms_p50", "preemptions")
    table = [{name: row[name] for name in shown} for row in rows]
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
    their label, as helpers.results.recorded.curve gives them: a panel of their own.
    """
    title = "More requests together: more tokens for all, fewer for each"
    there, where = recorded
    cols = 2 if there else 1
    fig, axes = figures.figure(title, cols=cols, size=(5 + 4.4 * (cols - 1), 4), squeeze=False)
    here = axes[0, 0]
    marks = [row["configuration"] == best for row in rows]
    short = [row["configuration"].removeprefix("max_num_seqs=") for row in rows]
    names = [name + " (chosen)" * mark for name, mark in zip(short, marks, strict=True)]
    _points(here, rows, names, c=[RED if mark else BLUE for mark in marks])
    here.set_title("this machine (at each point: max_num_seqs)", fontsize=9)
    here.axvline(limit_ms, color=GREY, linewidth=1, linestyle=":")
    top = {"xycoords": here.get_xaxis_transform(), "rotation": 90, "va": "top", "color": GREY}
    note(here, "the goal's limit", (limit_ms, 0.98), (-12, 0), fontsize=8, **top)
    if typed_tokens_per_s:
        here.axhline(typed_tokens_per_s, **hollow_line())
        place = (0, typed_tokens_per_s)
        note(here, "your Week 2 number (typed)", place, (6, -11), fontsize=8, color=GREY)
    if there:
        _points(axes[0, 1], there, [row["variant"] for row in there], **hollow_points())
        lines = where.split(",\n")
        axes[0, 1].set_title(f"{', '.join(lines[:2])},\n{', '.join(lines[2:])}", fontsize=9)
    shown = ("configuration", "output_tokens_per_s", "tpot_ms_p50", "ttft_ms_p50")
    table = [{name: row[name] for name in shown} for row in rows]
    figures.show(fig, caption, table, "throughput_latency")


def _points(ax, rows: list[dict], names: list[str], **look) -> None:
    """Labelled points; each label stands on the side that is away from the nearest other point."""
    xs = [row["tpot_ms_p50"] for row in rows]
    ys = [row["output_tokens_per_s"] for row in rows]
    ax.scatter(xs, ys, s=50, zorder=3, **look)
    for name, x, y in zip(names, xs, ys, strict=True):
        away = [((x - x2) / max(xs), (y - y2) / max(ys)) for x2, y2 in zip(xs, ys, strict=True)]
        right, up = min(filter(any, away), key=lambda d: d[0] ** 2 + d[1] ** 2, default=(1, -1))
        offset = (7 if right >= 0 else -7, 4 if up > 0 else -9)
        note(ax, name, (x, y), offset, ha="left" if right >= 0 else "right", fontsize=8)
    ax.set(xlabel="TPOT p50 (ms per output token)", ylabel="output tokens/s, all requests")
    ax.set_ylim(0, 1.12 * max(ys))
    ax.set_xlim(0, 1.3 * max(xs))
