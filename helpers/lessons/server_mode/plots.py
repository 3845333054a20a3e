"""Figures of notebook 5. Each function draws what it is given and shows it; nothing is measured."""

from __future__ import annotations

import itertools

from matplotlib.ticker import LogLocator, NullLocator

from helpers.display import figures
from helpers.display.figures import curve
from helpers.lessons.server_mode import wording
from helpers.results.recorded import label_of
from helpers.server.load import Stream

_HELD = {"color": figures.BLACK, "lw": 1.2, "linestyle": "-."}
_MARKS = {"held": "✓", "cannot tell": "?", "missed": "✗"}
_MARKED = ",  ".join(f"{mark} {verdict}" for verdict, mark in _MARKS.items())
_SMALL = {"fontsize": 8.5, "fontweight": "normal"}


def startup(phases_s: dict[str, float], total_s: float, recorded: dict | None = None) -> None:
    """Where the seconds of a server's start go: one bar a phase that takes 0.5 %, in order.

    recorded: such a record of another machine, drawn hollow below it.
    """
    starts = [("measured", phases_s, total_s)]
    if recorded:
        found = dict(recorded["metrics"])
        there_s = found.pop("startup_s")
        named = {name.removesuffix("_s").replace("_", " "): found[name] for name in found}
        starts.append((f"recorded: {label_of(recorded)}", named, there_s))
    starts = [start for start in starts if start[1]]
    if not starts:
        print("The server's log names no phases.")
        return
    shown = [[n for n in phases if phases[n] >= 0.005 * total] for _, phases, total in starts]
    rows = [len(names) + 1 for names in shown]
    layout = {"rows": len(rows), "size": (7.5, 0.9 + 0.3 * sum(rows)), "height_ratios": rows}
    fig, axes = figures.figure(
        "Where the start of a server goes", sharex=True, squeeze=False, **layout
    )
    table = []
    for ax, names, (label, phases, _) in zip(axes[:, 0], shown, starts, strict=True):
        begins = dict(zip(phases, itertools.accumulate(phases.values(), initial=0.0), strict=False))
        for y, name in enumerate(names):
            color = figures.ORANGE if name == max(phases, key=phases.get) else figures.BLUE
            fill = figures.PAPER if phases is not phases_s else color
            ax.barh(name, phases[name], left=begins[name], height=0.6, color=fill, edgecolor=color)
            at = begins[name] + phases[name], y
            figures.note(ax, f"{phases[name]:.1f} s", at, (5, 0), va="center")
        figures.rows_down(ax)
        ax.set_ylabel("phase")
        ax.set_title(label, loc="left", x=-0.3, **_SMALL)
        table += [{"start": label, "phase": n, "seconds": s} for n, s in phases.items()]
    right = 1.1 * max(total for _, _, total in starts)
    axes[-1, 0].set(xlabel="seconds since the command", xlim=(0, right))
    figures.show(fig, wording.startup(starts), table, "server_start")


def token_times(stream: Stream) -> None:
    """One streamed answer: when each chunk came, and the gaps between them."""
    if not stream.times_s:
        print(f"No chunk came: {stream.error or 'the answer was empty'}.")
        return
    times = [1e3 * t for t in stream.times_s]
    gaps = [1e3 * g for g in stream.gaps_s]
    layout = {"rows": 2, "size": (7.5, 4.2), "sharex": True, "height_ratios": [2, 1]}
    fig, (ax, low) = figures.figure("A streamed answer, chunk by chunk", **layout)
    ax.step([0, *times], range(len(times) + 1), where="post", color=figures.BLUE)
    ax.axvspan(0, times[0], color=figures.YELLOW, alpha=0.35, lw=0)
    # The line begins at the bottom there and climbs to the right.
    offset, side = ((6, 0), "left") if times[0] < times[-1] / 2 else ((-6, 0), "right")
    look = {"ha": side, "xycoords": ax.get_xaxis_transform()}
    figures.note(ax, f"TTFT {times[0]:.0f} ms", (times[0], 0.88), offset, **look)
    ax.set(ylabel="chunks received", ylim=(0, None), xlim=(0, times[-1] * 1.03))
    ax.yaxis.get_major_locator().set_params(integer=True)
    low.bar(times[1:], gaps, width=times[-1] / len(times) * 0.6, color=figures.SKY)
    low.set(xlabel="ms since the request was sent", ylabel="gap (ms)", ylim=(0, None))
    chunks = enumerate(zip(times, stream.chunks, strict=True), 1)
    table = [{"chunk": i, "ms": ms, "text": text} for i, (ms, text) in chunks]
    figures.show(fig, wording.token_times(stream), table, "streamed_tokens")


def _measured(ax, rows: list[dict], x: str, y: str, index: int = 0, **look) -> None:
    """A line through the runs; a ring around each that other programs disturbed."""
    curve(ax, rows, x, y, index, **look)
    ring = {"marker": "o", "markersize": 12, "markerfacecolor": "none", "linestyle": ""}
    known = "disturbed" in ax.get_legend_handles_labels()[1]
    ring |= {"color": figures.BLACK, "label": None if known else "disturbed"}
    if others := [row for row in rows if row["disturbed"]]:
        curve(ax, others, x, y, index, **ring)


def closed_loop(rows: list[dict], recorded: tuple[list[dict], str] = ((), "")) -> None:
    """Throughput and latency over the number of clients.

    rows: clients, output_tokens_per_s, ttft_ms_p50, tpot_ms_p50, e2e_ms_mean,
    disturbed (what disturbed the run, in words).
    recorded: the same of another machine and its label, of helpers.results.recorded.curve.
    """
    there = [{**row, "clients": int(row["variant"].split("_")[0])} for row in recorded[0]]
    where = recorded[1].removeprefix("recorded: ")
    title = "Tokens a second and latency, by the number of clients"
    fig, (left, right) = figures.figure(title, cols=2, size=(9, 4.4))
    _measured(left, rows, "clients", "output_tokens_per_s", label="tokens a second")
    speed = rows[0]["output_tokens_per_s"] / rows[0]["clients"]
    ideal = [{"clients": row["clients"], "free": speed * row["clients"]} for row in rows]
    free = {"marker": "", "color": figures.ORANGE, "linestyle": ":"}
    curve(left, ideal, "clients", "free", label="if batching were free", **free)
    _measured(right, rows, "clients", "e2e_ms_mean", 0, label="whole answer, mean")
    _measured(right, rows, "clients", "ttft_ms_p50", 1, label="TTFT p50")
    _measured(right, rows, "clients", "tpot_ms_p50", 2, label="TPOT p50")
    if there:
        hollow = figures.hollow_line()
        curve(
            left, there, "clients", "output_tokens_per_s", label="tokens a second there", **hollow
        )
        curve(right, there, "clients", "ttft_ms_p50", label="TTFT p50 there", **hollow)
    left.set(ylabel="output tokens/s", yscale="log")
    right.set(ylabel="ms", yscale="log")
    for ax in (left, right):
        ax.set(xscale="log", xlabel="clients at a time")
        if there:
            ax.set_title(f"filled: here; hollow: {where.partition(',')[0]}", **_SMALL)
        _plain_log(ax.yaxis)
        figures.ticks(ax, (row["clients"] for row in (*rows, *there)))
        figures.legend_below(ax)
    names = ("clients", "output_tokens_per_s", "e2e_ms_mean", "ttft_ms_p50", "tpot_ms_p50")
    table = [{name: row[name] for name in (*names, "disturbed")} for row in rows]
    figures.show(fig, wording.closed_loop(rows, where), table, "closed_loop")


def open_loop(
    rows: list[dict],
    goals_ms: dict[str, float],
    ends: tuple[dict | None, dict | None],
    capacity: float,
) -> None:
    """Latency, answers and goodput over the rate of arrivals, with each run's verdict on top.

    rows: arrived_per_s, requests_per_s, goodput_per_s, ttft_ms_p90, tpot_ms_p90 (of `run_load`),
    verdict, disturbed. ends: the row with the highest rate that held and the lowest above it that
    missed, if there are any. capacity: answers a second of the closed loop.
    """
    rows = sorted(rows, key=lambda row: row["arrived_per_s"])
    arrived = [row["arrived_per_s"] for row in rows]
    title = "What arrives, what is answered, and what is answered in time"
    fig, (left, right) = figures.figure(title, cols=2, size=(9, 4.4))
    for name, index in (("ttft", 0), ("tpot", 3)):
        label = name.upper()
        _measured(left, rows, "arrived_per_s", f"{name}_ms_p90", index, label=f"{label} p90")
        if name in goals_ms:
            goal = {"color": figures.COLORS[index], "lw": 1.2, "linestyle": "--"}
            left.axhline(goals_ms[name], label=f"{label} goal", **goal)
    left.set(yscale="log", ylabel="ms, at the clients")
    _plain_log(left.yaxis)
    right.plot([0, *arrived], [0, *arrived], color=figures.GREY, linestyle=":", label="arrivals")
    _measured(right, rows, "arrived_per_s", "requests_per_s", 0, label="answers")
    _measured(right, rows, "arrived_per_s", "goodput_per_s", 2, label="goodput: answers in time")
    right.axhline(
        capacity, label="capacity (closed loop)", color=figures.BLACK, lw=1.2, linestyle="--"
    )
    right.set(ylabel="requests a second", ylim=(0, 1.1 * max(capacity, *arrived)))
    low, high = (row and row["arrived_per_s"] for row in ends)
    for ax in (left, right):
        if low:
            ax.axvline(low, label="highest rate that held", **_HELD)
        if high:
            look = {"color": figures.YELLOW, "alpha": 0.3, "lw": 0}
            ax.axvspan(low or 0, high, label="not decided", **look)
        top = {"xycoords": ax.get_xaxis_transform(), "ha": "center", "fontsize": 10}
        for row in rows:
            figures.note(ax, _MARKS[row["verdict"]], (row["arrived_per_s"], 1), (0, 3), **top)
        ax.set_title(_MARKED, loc="left", pad=17, **_SMALL)
        ax.set(xlabel="requests arriving a second", xlim=(0, None))
        figures.legend_below(ax)
    names = ("arrived_per_s", "requests_per_s", "goodput_per_s", "ttft_ms_p90", "tpot_ms_p90")
    table = [{name: row[name] for name in (*names, "verdict", "disturbed")} for row in rows]
    figures.show(fig, wording.open_loop(rows, goals_ms), table, "open_loop")


def _plain_log(axis) -> None:
    """Ticks of an axis with a log scale as plain numbers, 1, 2 and 5 of each power of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_locator(NullLocator())
