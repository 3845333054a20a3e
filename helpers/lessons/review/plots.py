"""The figures of notebook 1: the sweeps and the map of throughput against latency."""

from __future__ import annotations

from helpers.display import figures
from helpers.display.figures import BLACK, BLUE, GREY, RED, curve, hollow_line, hollow_points, note
from helpers.display.numbers import number
from helpers.lessons.review.choice import ONE, SPEED, TPOT, InTurn
from helpers.measure import Measurement


def sweep(rows: list[dict], runs: list[Measurement], caption: str) -> None:
    """Over max_num_seqs: throughput, TTFT p50, and TPOT p50, the price of a full step.

    rows: one a measured value, in order: max_num_seqs, output_tokens_per_s, ttft_ms_p50,
    tpot_ms_p50. runs: what they are of; a star marks a disturbed one.
    """
    title = "More requests in a step: what it gains, and what it costs"
    fig, (speed, wait, price) = figures.figure(title, cols=3, size=(10, 3.4))
    rows = [{**row, "place": place} for place, row in enumerate(rows)]
    places = range(len(rows))
    speed.bar(places, [row["output_tokens_per_s"] for row in rows], color=BLUE)
    speed.set(title="Throughput", ylabel="output tokens/s, all requests")
    curve(wait, rows, "place", "ttft_ms_p50", 0)
    wait.set(title="Until the first token", ylabel="TTFT p50 (ms)")
    curve(price, rows, "place", "tpot_ms_p50", 2)
    price.set(title="Each token after that", ylabel="TPOT p50 (ms per output token)")
    stars = ["*" * bool(run.disturbance.reasons) for run in runs]
    labels = [number(row["max_num_seqs"]) + star for row, star in zip(rows, stars, strict=True)]
    caption += " A star: other programs disturbed the run." * any(stars)
    for ax in (speed, wait, price):
        ax.set_xticks(places, labels)
        ax.set(
            xlabel="max_num_seqs", xlim=(-0.6, len(rows) - 0.4), ylim=(0, 1.08 * ax.get_ylim()[1])
        )
    shown = ("max_num_seqs", "output_tokens_per_s", "ttft_ms_p50", "tpot_ms_p50")
    table = [{name: row[name] for name in shown} for row in rows]
    figures.show(fig, caption, table, "sweep_max_num_seqs")


def throughput_latency(
    turns: InTurn,
    chosen: dict[float, int],
    recorded: tuple[dict[int, dict], str],
    chosen_there: dict[float, int],
    caption: str,
    typed: dict | None = None,
) -> None:
    """Every max_num_seqs as a point: output tokens/s over TPOT p50; those that were chosen marked.

    chosen: the most that TPOT may be, over that of one at a time, -> the max_num_seqs chosen for
    it. recorded: the rows of another machine and its name, in a panel of their own; chosen_there:
    what was chosen of them. typed: the record of the student's own numbers; its speed is a line.
    """
    title = "More requests together: what all gain, and what each pays"
    fig, (here, elsewhere) = figures.figure(title, cols=2, size=(9.4, 4.3))
    rows = [
        {"max_num_seqs": value, SPEED: turns.mean(value, SPEED), TPOT: turns.mean(value, TPOT)}
        for value in turns.runs
    ]
    _points(here, rows, turns.runs, c=_colors(turns.runs, chosen, BLUE))
    _whiskers(here, turns, rows)
    undecided = {value for goal_x in chosen for value in turns.undecided(goal_x)}
    _diamonds(here, [row for row in rows if row["max_num_seqs"] in undecided], chosen)
    here.set_title("this machine: means of the runs in turn, with ranges", fontsize=9)
    _limits(here, chosen, turns.mean(ONE, TPOT))
    if typed_tokens_per_s := typed and typed["metrics"].get(SPEED):
        here.axhline(typed_tokens_per_s, **hollow_line())
        here.set_ylim(0, max(here.get_ylim()[1], 1.5 * typed_tokens_per_s))
        place = (here.get_xlim()[1], typed_tokens_per_s)
        note(here, "your Week 2 number (typed)", place, (-4, 4), ha="right", fontsize=8, color=GREY)
    there, where = recorded
    _points(
        elsewhere, [*there.values()], there, **hollow_points(_colors(there, chosen_there, GREY))
    )
    lines = where.split(", ")
    elsewhere.set_title(f"{', '.join(lines[:2])},\n{', '.join(lines[2:])}", fontsize=9)
    _limits(elsewhere, chosen_there, there[ONE][TPOT])
    figures.show(fig, caption, rows, "throughput_latency")


def _whiskers(ax, turns: InTurn, rows: list[dict]) -> None:
    look = {"fmt": "none", "ecolor": GREY, "elinewidth": 1, "capsize": 2, "zorder": 2}
    one = {of: turns.mean(ONE, of) for of in (TPOT, SPEED)}
    most = {TPOT: 0.0, SPEED: 0.0}
    for row in rows:
        value, reach = row["max_num_seqs"], {}
        for of, gain in ((TPOT, turns.slower(value)), (SPEED, turns.faster(value))):
            low, high = (one[of] * end for end in (gain.low, gain.high))
            reach[of] = [[max(0, row[of] - low)], [max(0, high - row[of])]]
            most[of] = max(most[of], high)
        ax.errorbar(row[TPOT], row[SPEED], xerr=reach[TPOT], yerr=reach[SPEED], **look)
    # A whisker may leave the frame: the points are what is compared. Above them is room for names.
    far, high = (max(row[of] for row in rows) for of in (TPOT, SPEED))
    right, top = min(1.1 * most[TPOT], 2 * far), min(1.1 * most[SPEED], 2 * high)
    ax.set(xlim=(0, max(1.3 * far, right)), ylim=(0, max(1.4 * high, top)))


def _colors(values, chosen: dict[float, int], other: str) -> list[str]:
    return [RED if value in chosen.values() else other for value in values]


def _diamonds(ax, rows: list[dict], chosen: dict[float, int]) -> None:
    """Over the points of what is undecided; one that is kept for another goal stays orange."""
    look = {"marker": "D", "s": 60, "edgecolors": BLACK, "linewidths": 1.5}
    look["c"] = _colors([row["max_num_seqs"] for row in rows], chosen, "white")
    ax.scatter([row[TPOT] for row in rows], [row[SPEED] for row in rows], zorder=4, **look)


def _limits(ax, chosen: dict[float, int], one_ms: float) -> None:
    """A line at each goal, named at the top right of it, above the points."""
    at = {"xycoords": ax.get_xaxis_transform(), "rotation": 90, "va": "top", "color": GREY}
    for goal_x, value in chosen.items():
        if (ms := goal_x * one_ms) < ax.get_xlim()[1]:
            ax.axvline(ms, color=GREY, linewidth=1, linestyle="--")
            note(ax, f"goal {goal_x:g} x: {value}", (ms, 0.98), (3, 0), fontsize=8, **at)


def _points(ax, rows: list[dict], names, **look) -> None:
    """Labelled points; each label stands on the side that is away from the nearest other point."""
    xs = [row["tpot_ms_p50"] for row in rows]
    ys = [row["output_tokens_per_s"] for row in rows]
    ax.scatter(xs, ys, s=50, zorder=3, clip_on=False, **look)
    for name, x, y in zip(names, xs, ys, strict=True):
        away = [((x - x2) / max(xs), (y - y2) / max(ys)) for x2, y2 in zip(xs, ys, strict=True)]
        right, up = min(filter(any, away), key=lambda d: d[0] ** 2 + d[1] ** 2, default=(1, -1))
        above = up > 0 or y < 0.1 * max(ys)  # not into the axis
        offset = (7 if right >= 0 else -7, 4 if above else -9)
        note(ax, str(name), (x, y), offset, ha="left" if right >= 0 else "right", fontsize=8)
    ax.set(xlabel="TPOT p50 (ms per output token)", ylabel="output tokens/s, all requests")
    ax.set(xlim=(0, 1.3 * max(xs)), ylim=(0, 1.12 * max(ys)))
