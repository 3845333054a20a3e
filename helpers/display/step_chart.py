"""The step chart: what vLLM's scheduler did for every request in every step of a run.

    with record_steps(engine) as steps:              # helpers.engine
        run_workload(engine, workload)
    step_chart.show("A long prompt holds up the others", "...", steps)
    step_chart.show("...", "...", {"whole": steps, "in chunks": others})   # one above the other
    step_chart.label("...", steps, 0)                # TTFT, TPOT, ITL and queue time of one request

A request is a row, time goes to the right. Below the rows: tokens in each step against the budget
(max_num_batched_tokens), and KV blocks in use, unless `below` names fewer. A front end that shows
HTML gets the drawing with what stands behind each bar when the mouse is over it, and a slider that
widens it; all others get the picture.
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

import jinja2
import matplotlib as mpl
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path

from helpers.display import card, figures
from helpers.display.figures import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, SKY
from helpers.display.numbers import number

FOUND = "found in the prefix cache"
BESIDE = "decode beside a prefill"
LOOK = {
    "waiting": {"facecolor": "#EDEDED", "hatch": "////", "edgecolor": "#BDBDBD"},
    FOUND: {"facecolor": GREEN},  # below the prefill of what was not
    "prefill": {"facecolor": BLUE},
    "decode": {"facecolor": SKY},
    BESIDE: {"facecolor": "#2A8FC9"},  # between the two: such a step takes as long as both
    "drafts thrown away": {"facecolor": "#F0D3E3"},
    "decode, drafts accepted": {"facecolor": PURPLE},
    "preempted": {"facecolor": "#FBE3D6", "hatch": "xxxx", "edgecolor": RED},
}
COMPUTED = 0.7  # of a bar's height, where a part of the prompt was found: that took no time
LABELLED = 8  # tokens of the one request
PAGE = FilePath(__file__).with_name("step_chart.html.j2")
BELOW = {"tokens": 0.95, "blocks": 0.7}  # what stands below the rows, and its height
MOST_BARS = 700  # in a chart; beyond that a request's decode steps in a row become one bar


@dataclass
class Bar:
    """Something that a request did, from `start_ms` to `end_ms`."""

    row: int
    kind: str
    start_ms: float
    end_ms: float
    said: str  # what the reader sees with the mouse over it
    text: str = ""  # in the bar, where it fits
    kept: float = 1.0  # share of the height
    steps: int = 1
    new: int = 0


# ---------------------------------------------------------------- from steps to bars


def bars_of(steps) -> list[Bar]:
    """Every bar of a recording (helpers.engine.steps.Steps), request by request."""
    begins = _begins_ms(steps)
    bars = []
    for row in range(len(steps.requests)):
        bars += _bars_of_request(steps, row, begins)
    return bars if len(bars) <= MOST_BARS else _joined(bars)


def _begins_ms(steps) -> list[float]:
    """When the model began each step: one that was planned ahead waits for the step before it."""
    ends = [0.0, *(1000 * step.end_s for step in steps.steps)]
    return [max(1000 * step.start_s, end) for step, end in zip(steps.steps, ends, strict=False)]


def _bars_of_request(steps, row: int, begins: list[float]) -> list[Bar]:
    free_ms = 1000 * steps.requests[row].arrival_s
    idle = "waiting"
    bars = []
    for i, (step, begin) in enumerate(zip(steps.steps, begins, strict=True)):
        if row in step.preempted:
            free_ms, idle = begin, "preempted"
        if row not in step.work:
            continue
        if idle:
            bars.append(Bar(row, idle, free_ms, begin, f"{idle} {number(begin - free_ms)} ms"))
            idle = ""
        bars += _work_bars(row, i, step, begin)
    if idle:
        last = 1000 * steps.steps[-1].end_s if steps.steps else free_ms
        bars.append(Bar(row, idle, free_ms, last, f"{idle}, not served in this recording"))
    return bars


def _work_bars(row: int, i: int, step, begin: float) -> list[Bar]:
    work, end = step.work[row], 1000 * step.end_s
    took = f"step {i}, {number(end - begin)} ms"
    bars = []
    if work.found:
        said = f"{work.found:,} tokens found in the prefix cache"
        text = f"{work.found:,} found"
        bars.append(Bar(row, FOUND, begin, end, said, text))
    if work.prefill:
        found = f"{work.found:,} found, " if work.found else ""
        said = f"prefill of {work.tokens:,} tokens, {found}{took}"
        computed = COMPUTED if work.found else 1.0
        bars.append(Bar(row, "prefill", begin, end, said, f"{work.tokens:,}", computed))
    elif work.drafted:
        said = f"{work.drafted} drafted, {work.accepted} accepted, {work.new} new tokens, {took}"
        text = f"{work.accepted}/{work.drafted}"
        kept = (work.accepted + 1) / (work.drafted + 1)
        if work.accepted < work.drafted:
            bars.append(Bar(row, "drafts thrown away", begin, end, said))
        bars.append(Bar(row, "decode, drafts accepted", begin, end, said, text, kept))
    else:
        kind = BESIDE if step.prompts else "decode"
        said = f"{kind}, {work.new} new token, {took}"
        bars.append(Bar(row, kind, begin, end, said, new=work.new))
    return bars


def _joined(bars: list[Bar]) -> list[Bar]:
    """Decode steps of a request that follow each other as one bar."""
    joined: list[Bar] = []
    for bar in bars:
        last = joined[-1] if joined else None
        follows = last and (last.row, last.kind) == (bar.row, bar.kind)
        follows = follows and bar.kind in ("decode", BESIDE)
        if follows and bar.start_ms - last.end_ms < 0.5 * (bar.end_ms - bar.start_ms):
            last.steps, last.new, last.end_ms = last.steps + 1, last.new + bar.new, bar.end_ms
            each = number((last.end_ms - last.start_ms) / last.steps)
            last.said = f"{last.kind}: {last.steps} steps, {last.new} new tokens, {each} ms each"
        else:
            joined.append(bar)
    return joined


# ---------------------------------------------------------------- the chart


def show(title: str, caption: str, steps, names: list[str] | None = None, below=BELOW) -> None:
    """Draw one recording, or several (label -> recording) above each other on one time axis.

    names: what the requests are called, in the order of their arrival; their numbers without it.
    below: those of BELOW that say something here.
    """
    recordings = steps if isinstance(steps, dict) else {"": steps}
    card.show(picture(title, caption, recordings, names, below))


def picture(
    title: str, caption: str, recordings: dict, names: list[str] | None = None, below=BELOW
) -> Chart:
    """The chart that `show` displays. Raises ValueError when nothing was recorded."""
    if not all(steps.steps for steps in recordings.values()):
        raise ValueError("No step was recorded: send requests inside the block of record_steps.")
    tall = [min(4.5, max(0.9, 0.3 * len(steps.requests))) for steps in recordings.values()]
    heights = [height for rows in tall for height in (rows, *(BELOW[what] for what in below))]
    size = (9.0, 1.1 + sum(heights) + 0.35 * len(recordings))
    fig, grid = figures.figure(
        title, len(heights), size=size, sharex=True, height_ratios=heights, squeeze=False
    )
    axes, every = grid[:, 0], 1 + len(below)
    marks: list[tuple] = []
    bars = [bars_of(steps) for steps in recordings.values()]
    for i, (label, steps) in enumerate(recordings.items()):
        rows, *others = axes[every * i : every * (i + 1)]
        marks += _draw_rows(rows, bars[i], _called(names, len(steps.requests)))
        rows.set_title(label)
        for ax, what in zip(others, below, strict=True):
            marks += _draw_tokens(ax, steps) if what == "tokens" else _draw_blocks(ax, steps)
    axes[-1].set_xlabel("ms since the first request arrived")
    _add_legend(fig, bars)
    fig.canvas.draw()
    for i, of_one in enumerate(bars):
        _write_into_bars(axes[every * i], of_one)
    table = [row for label, steps in recordings.items() for row in _table(label, steps)]
    return Chart(fig, caption, table, marks)


def _called(names: list[str] | None, requests: int) -> list[str]:
    return names or [str(i) for i in range(requests)]


def _draw_rows(ax, bars: list[Bar], names: list[str]) -> list[tuple]:
    """A row for each request; the marks for the mouse."""
    for row in range(len(names)):
        mine = [bar for bar in bars if bar.row == row]
        if mine:
            life = mine[0].start_ms, mine[-1].end_ms
            ax.plot(life, (row, row), color=GREY, linewidth=0.6, zorder=1)
    for kind, look in LOOK.items():
        boxes = [_box(bar) for bar in bars if bar.kind == kind]
        if boxes:  # as one path: a drawing of many steps stays small
            look = {"edgecolor": figures.PAPER, "linewidth": 0.4, **look}
            ax.add_patch(PathPatch(Path.make_compound_path(*boxes), zorder=2, **look))
    ax.autoscale_view()
    few = len(names) <= 40
    ax.set_yticks(range(len(names)) if few else [], names if few else [])
    ax.set(ylabel="request", ylim=(len(names) - 0.4, -0.6))
    ax.grid(axis="y", visible=False)
    return [(ax, bar.start_ms, bar.end_ms, bar.row - 0.4, 0.8, bar.said) for bar in bars]


def _box(bar: Bar) -> Path:
    left, right = bar.start_ms, bar.end_ms
    low, high = bar.row + 0.4, bar.row + 0.4 - 0.8 * bar.kept
    corners = [(left, low), (right, low), (right, high), (left, high), (left, low)]
    return Path(corners, closed=True)


def _write_into_bars(ax, bars: list[Bar]) -> None:
    """What fits into its bar; the size of the axes has to be known."""
    room = ax.transData.transform([(0, 0), (1, 1)])
    wide, high = abs(room[1] - room[0]) * 72 / figures.DPI
    if high < 11:
        return
    _write_found(ax, bars)
    for bar in bars:
        fits = (bar.end_ms - bar.start_ms) * wide > 6.2 * len(bar.text) + 2
        if bar.text and fits and bar.kind != FOUND:
            middle = (bar.start_ms + bar.end_ms) / 2
            figures.inside(ax, bar.text, middle, bar.row, fontsize=9, zorder=3)


def _write_found(ax, bars: list[Bar]) -> None:
    """Beside its row, what a request found: no bar is as long as tokens that took no time."""
    _, right = ax.get_xlim()
    found = {bar.row: bar.text for bar in bars if bar.kind == FOUND}
    for row, text in found.items():
        life = [bar for bar in bars if bar.row == row]
        late = life[-1].end_ms > 0.8 * right
        x, side, gap = (life[0].start_ms, "right", -5) if late else (life[-1].end_ms, "left", 5)
        figures.note(ax, text, (x, row), (gap, 0), ha=side, va="center", fontsize=9)


def _draw_tokens(ax, steps) -> list[tuple]:
    """Tokens a step, decode below and prefill on top of it; the marks for the mouse."""
    xs, decode, total, marks = [], [], [], []
    budget = max(step.budget for step in steps.steps)
    top = _up_to(ax, max(step.tokens for step in steps.steps), budget, "of the budget of")
    for i, (step, begin) in enumerate(zip(steps.steps, _begins_ms(steps), strict=True)):
        end = 1000 * step.end_s
        tokens = sum(work.tokens for work in step.work.values() if not work.prefill)
        xs += [begin, begin, end, end]
        decode += [0, tokens, tokens, 0]
        total += [0, step.tokens, step.tokens, 0]
        said = f"step {i}: {step.tokens:,} of {step.budget:,} tokens, {len(step.work)} requests"
        marks.append((ax, begin, end, 0, top, f"{said}, {step.blocks:,} KV blocks"))
    ax.fill_between(xs, decode, total, color=BLUE, linewidth=0)
    ax.fill_between(xs, 0, decode, color=SKY, linewidth=0)
    ax.set(ylabel="tokens\na step")
    ax.yaxis.set_major_formatter("{x:,.0f}")
    return marks if len(marks) <= MOST_BARS else []


def _draw_blocks(ax, steps) -> list[tuple]:
    """Blocks in use; no marks."""
    used = [step.blocks for step in steps.steps]
    times = [*_begins_ms(steps), 1000 * steps.steps[-1].end_s]
    ax.stairs(used, times, fill=True, color=ORANGE, alpha=0.75)
    _up_to(ax, max(used), steps.steps[0].of_blocks, "of")
    ax.set(ylabel="KV\nblocks")
    return []


def _up_to(ax, peak: int, most: int, word: str) -> float:
    """Say how much of what there is was used; draw the limit where it is in sight. The axis' top.

    word: before the limit.
    """
    near = peak > most / 3
    if near:
        ax.axhline(most, color=RED, linewidth=1.2, linestyle="--")
    said = f"at most {peak:,} {word} {most:,}"
    at = {"xycoords": "axes fraction", "ha": "right", "va": "top"}
    figures.note(ax, said, (1, 1), (-2, -1), fontsize=9, **at)
    top = 1.35 * (most if near else peak)
    ax.set_ylim(0, top)
    return top


def _add_legend(fig, recordings: list[list[Bar]]) -> None:
    """Of what can be seen in some row: hardly anybody waits for no time at all."""
    least_ms = max(bar.end_ms for bars in recordings for bar in bars) / 200
    seen = set()
    for bars in recordings:
        spent_ms: Counter = Counter()
        for bar in bars:
            spent_ms[bar.row, bar.kind] += bar.end_ms - bar.start_ms
        seen |= {kind for (_, kind), ms in spent_ms.items() if ms > least_ms}
    shown = [kind for kind in LOOK if kind in seen]
    patches = [Patch(label=kind, **LOOK[kind]) for kind in shown]
    fig.legend(handles=patches, loc="outside lower center", ncols=min(5, len(shown)), fontsize=9)


def _table(label: str, steps) -> list[dict]:
    """One row a request."""
    rows = []
    for i, request in enumerate(steps.requests):
        work = steps.of(i)
        times = steps.token_times_s(i)
        queue_s = steps.queue_s(i)
        rows.append(
            {
                **({"run": label} if label else {}),
                "request": str(i),
                "prompt tokens": request.prompt_tokens,
                "found": sum(w.found for _, w in work),
                "prefill steps": sum(w.prefill for _, w in work),
                "decode steps": sum(not w.prefill for _, w in work),
                "preempted": sum(i in step.preempted for step in steps.steps),
                "queue ms": None if queue_s is None else 1000 * queue_s,
                "TTFT ms": 1000 * (times[0] - request.arrival_s) if times else None,
            }
        )
    return rows


# ---------------------------------------------------------------- one request, its times labelled


def label(caption: str, steps, request: int = 0) -> dict[str, float]:
    """One request with its queue time, TTFT, ITL and TPOT drawn where they are; in ms, returned.

    The values are of the whole answer, of which LABELLED tokens are drawn. A request before it, for
    which it may have waited, has a row above.
    Raises ValueError when the request has fewer than two tokens.
    """
    times = [1000 * t for t in steps.token_times_s(request)]
    if len(times) < 2:
        raise ValueError("The request needs an answer of at least two tokens.")
    arrival = 1000 * steps.requests[request].arrival_s
    terms = {
        "queue_ms": 1000 * steps.queue_s(request),
        "ttft_ms": times[0] - arrival,
        "first_itl_ms": times[1] - times[0],
        "tpot_ms": (times[-1] - times[0]) / (len(times) - 1),
        "e2e_ms": times[-1] - arrival,
    }
    last = times[:LABELLED][-1]
    fig, ax = figures.figure(f"Request {request + 1}: where its milliseconds are", size=(9.0, 3.6))
    begins = _begins_ms(steps)
    rows = {request - 1: -1.4, request: 0} if request else {request: 0}  # row -> its height
    bars = [
        replace(bar, row=height)
        for row, height in rows.items()
        for bar in _bars_of_request(steps, row, begins)
        if bar.start_ms < last
    ]
    marks = _draw_rows(ax, bars, [""])
    ax.set_yticks([*rows.values()], [str(row + 1) for row in rows])
    for i, when in enumerate(times[:LABELLED]):
        ax.plot(when, -0.5, marker="v", color=INK, markersize=6)
        figures.note(ax, str(i + 1), (when, -0.5), (0, 6), fontsize=7.5, ha="center")
    gaps = len(times) - 1
    for start, end, y, name, called, meaning in (
        (arrival, times[0], 0.75, "ttft", "TTFT", "until the first token"),
        (times[0], last, 0.75, "tpot", "TPOT", f"a token, mean of the {gaps} gaps"),
        (arrival, arrival + terms["queue_ms"], 1.3, "queue", "queue time", "until its first step"),
        (times[0], times[1], 1.3, "first_itl", "first ITL", "between two tokens"),
    ):
        said = f"{called} {number(terms[f'{name}_ms'])} ms: {meaning}"
        _measure(ax, start, end, y, said, at_end=name == "tpot")
    ax.set(ylim=(1.7, min(rows.values()) - 0.8), xlabel="ms since the first request arrived")
    ax.set_xlim(arrival - 0.02 * (last - arrival), last + 0.1 * (last - arrival))
    _add_legend(fig, [bars])
    fig.canvas.draw()
    card.show(Chart(fig, caption, [terms], marks))
    return terms


def _measure(ax, start: float, end: float, y: float, text: str, at_end: bool) -> None:
    """A line with two ends, and what it measures."""
    ends = {"arrowstyle": "|-|,widthA=.3,widthB=.3", "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (start, y), (end, y), arrowprops=ends)
    at, side = (end, "right") if at_end else (start, "left")
    figures.note(ax, text, (at, y), (0, -11), fontsize=8, ha=side)


# ---------------------------------------------------------------- what a front end shows


class Chart(figures.Picture):
    """A picture that as HTML says more where the mouse is, and can be widened."""

    def __init__(self, fig, caption: str, table: list[dict], marks: list[tuple]):
        width, height = fig.bbox.size
        self._areas = []
        for ax, start, end, low, tall, said in marks:
            (x0, y0), (x1, y1) = ax.transData.transform([(start, low), (end, low + tall)])
            box = 100 * x0 / width, 100 - 100 * max(y0, y1) / height
            size = 100 * (x1 - x0) / width, 100 * abs(y1 - y0) / height
            self._areas.append((*box, *size, said))
        self._svg = _svg(fig)
        super().__init__(fig, caption, table, "steps")

    def _repr_mimebundle_(self, include=None, exclude=None):
        data, about = super()._repr_mimebundle_()
        return {**data, "text/html": self.html()}, about

    def html(self) -> str:
        """The drawing, areas over its bars that say what they are, and a slider for its width.

        Without scripts (a notebook that is not trusted) the drawing stays.
        """
        page = jinja2.Template(PAGE.read_text(encoding="utf-8"), autoescape=True)
        picture = base64.b64encode(self._svg).decode()
        return page.render(
            paper=card.PAPER, ink=INK, alt=self.alt, areas=self._areas, picture=picture
        )


def _svg(fig) -> bytes:
    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "steps"}):
        fig.savefig(out, format="svg", facecolor=figures.PAPER, metadata={"Date": None})
    hundredths = re.sub(rb"([1-9]\d*\.\d\d)\d+", rb"\1", out.getvalue())  # of a point are enough
    return re.sub(rb"\s+", b" ", hundredths)
