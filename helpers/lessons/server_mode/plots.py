"""Figures of notebook 5. Each function draws what it is given and shows it; nothing is measured."""

from __future__ import annotations

import itertools

from helpers.display import figures
from helpers.display.figures import curve
from helpers.lessons.server_mode import sizing, wording
from helpers.server.load import Stream

_KNEE = {"color": figures.RED, "lw": 1.2, "linestyle": "-."}


def startup(phases_s: dict[str, float], total_s: float) -> None:
    """Where the seconds of a server's start go: one bar a phase that takes 0.5 %, in order."""
    begins = dict(zip(phases_s, itertools.accumulate(phases_s.values(), initial=0.0), strict=False))
    shown = [name for name in phases_s if phases_s[name] >= 0.005 * total_s]
    longest = max(phases_s, key=phases_s.get)
    size = (7.5, 0.9 + 0.32 * len(shown))
    fig, ax = figures.figure("Where the start of a server goes", size=size)
    for y, name in enumerate(shown):
        begin, seconds = begins[name], phases_s[name]
        color = figures.ORANGE if name == longest else figures.BLUE
        ax.barh(name, seconds, left=begin, height=0.62, color=color)
        figures.note(ax, f"{seconds:.1f} s", (begin + seconds, y), (5, 0), va="center")
    figures.rows_down(ax)
    ax.set(xlabel="seconds since the command", ylabel="phase", xlim=(0, total_s * 1.1))
    table = [{"phase": name, "seconds": seconds} for name, seconds in phases_s.items()]
    figures.show(fig, wording.startup(phases_s, total_s), table, "server_start")


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
    """A line through the runs that nothing disturbed; the others are orange points beside it."""
    curve(ax, sizing.undisturbed(rows), x, y, index, **look)
    others = [row for row in rows if row["disturbed"]]
    curve(ax, others, x, y, index, color=figures.ORANGE, linestyle="", zorder=3)


def closed_loop(rows: list[dict], knee: dict, recorded: tuple[list[dict], str] = ((), "")) -> None:
    """Throughput and latency over the number of clients.

    rows: clients, output_tokens_per_s, ttft_ms_p50, ttft_ms_p90, tpot_ms_p50, e2e_ms_mean,
    disturbed (what disturbed the run, in words). knee: one of them.
    recorded: the same of another machine and its label, of helpers.results.recorded.curve.
    """
    there = [{**row, "clients": int(row["variant"].split("_")[0])} for row in recorded[0]]
    title = "Tokens a second and latency, by the number of clients"
    fig, (left, right) = figures.figure(title, cols=2, size=(9, 4.4))
    _measured(left, rows, "clients", "output_tokens_per_s", label="measured")
    fewest = sizing.undisturbed(rows)[0]
    speed = fewest["output_tokens_per_s"] / fewest["clients"]
    ideal = [{"clients": row["clients"], "free": speed * row["clients"]} for row in rows]
    free = {"marker": "", "color": figures.GREY, "linestyle": ":"}
    curve(left, ideal, "clients", "free", label="if batching were free", **free)
    _measured(right, rows, "clients", "ttft_ms_p50", 1, label="TTFT p50")
    _measured(right, rows, "clients", "ttft_ms_p90", 3, label="TTFT p90")
    _measured(right, rows, "clients", "tpot_ms_p50", 2, label="TPOT p50")
    _measured(right, rows, "clients", "e2e_ms_mean", 0, label="whole answer, mean")
    if there:
        hollow, where = figures.hollow_line(), recorded[1].replace(", ", ",\n")
        curve(left, there, "clients", "output_tokens_per_s", label=where, **hollow)
        curve(right, there, "clients", "ttft_ms_p50", label="TTFT p50, recorded", **hollow)
    left.set(ylabel="output tokens/s (log scale)", yscale="log")
    right.set(ylabel="ms (log scale)", yscale="log")
    for ax in (left, right):
        ax.axvline(knee["clients"], label="knee", **_KNEE)
        ax.set(xscale="log", xlabel="clients at a time")
        figures.ticks(ax, (row["clients"] for row in (*rows, *there)))
        figures.legend_below(ax)
    figures.show(fig, wording.closed_loop(rows, knee), rows, "closed_loop")


def open_loop(
    rows: list[dict], goals_ms: dict[str, float], best: dict | None, share: float
) -> None:
    """Latency and goodput over the rate of arrivals.

    rows: offered_per_s, requests_per_s, goodput_per_s, good_share, ttft_ms_p90, tpot_ms_p90,
    disturbed. best: of sizing.best_rate, the highest rate at which
    `share` of the requests meet the goal.
    """
    rows = sorted(rows, key=lambda row: row["offered_per_s"])
    offered = [row["offered_per_s"] for row in rows]
    title = "What arrives, what is answered, and what is answered in time"
    fig, (left, right) = figures.figure(title, cols=2, size=(9, 3.8))
    for name, index in (("ttft", 0), ("tpot", 3)):
        label = name.upper()
        _measured(left, rows, "offered_per_s", f"{name}_ms_p90", index, label=f"{label} p90")
        if name in goals_ms:
            goal = {"color": figures.COLORS[index], "lw": 1.2, "linestyle": "--"}
            left.axhline(goals_ms[name], label=f"{label} goal", **goal)
    lowest, highest = left.dataLim.intervaly
    left.set(yscale="log", xlabel="requests arriving a second", ylabel="ms (log scale)")
    left.set(xlim=(0, None), ylim=(0.7 * lowest, 6 * highest))
    left.legend(ncols=2, loc="upper left")
    right.plot(offered, offered, color=figures.GREY, linestyle=":", label="what arrives")
    answered = "what is answered, to the last answer"
    _measured(right, rows, "offered_per_s", "requests_per_s", 0, label=answered)
    _measured(right, rows, "offered_per_s", "goodput_per_s", 2, label="answered within the goal")
    if best:
        label = f"goal met by {100 * share:.0f} % or more"
        right.axvline(best["offered_per_s"], ymax=0.68, label=label, **_KNEE)
    right.set(xlabel="requests arriving a second", ylabel="requests a second")
    right.set(xlim=(0, None), ylim=(0, 1.45 * max(offered)))
    right.legend(loc="upper left", fontsize=8)
    figures.show(fig, wording.open_loop(rows, goals_ms, best, share), rows, "open_loop")


def cpu_shares(used_s: dict[str, float], duration_s: float) -> None:
    """CPU time of each process during one run, against the time the run took."""
    size = (7, 1.1 + 0.4 * len(used_s))
    fig, ax = figures.figure("Who used the CPU while the server worked", size=size)
    ax.barh(list(used_s), used_s.values(), height=0.6, color=figures.COLORS[: len(used_s)])
    ax.axvline(duration_s, color=figures.INK, lw=1.2, linestyle="--")
    ax.text(duration_s, 0.5, f" the run\n took {duration_s:.2f} s", fontsize=9, va="center")
    figures.rows_down(ax)
    right = 1.25 * max(duration_s, *used_s.values())
    ax.set(xlabel="CPU seconds", ylabel="process", xlim=(0, right))
    table = [{"process": name, "CPU seconds": seconds} for name, seconds in used_s.items()]
    figures.show(fig, wording.cpu_shares(used_s, duration_s), table, "cpu_by_process")
