"""One look for every figure of the workbook.

A figure is shown as an ordinary picture, its caption as text below it and its
values in a table that opens on request: copying it, VS Code, GitHub and every
export of nbconvert work as with any other picture.

    from helpers.display import figures
    fig, ax = figures.figure("Throughput grows until the cores are full")
    ax.plot(batch, tokens_per_s)
    ax.set(xlabel="requests at a time", ylabel="output tokens/s")
    figures.show(fig, caption="32 requests at a time give 9 times the tokens of one.",
               table=rows, name="throughput_by_batch")
"""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.text import Text

from helpers.display import card
from helpers.display.as_typed import in_markdown

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), told apart by
# people with any of the common colour-vision deficiencies. The order puts the
# ones with the most contrast on white first; yellow is for areas, not lines.
BLUE, RED, GREEN, PURPLE = card.BLUE, "#D55E00", card.GREEN, "#CC79A7"
ORANGE, SKY, BLACK, YELLOW = "#E69F00", "#56B4E9", "#000000", "#F0E442"
COLORS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW)
# Colour is never the only difference: give each line a marker of its own.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#6B6B6B"
PAPER, INK = card.PAPER, card.INK

DPI = 110
# JupyterLab's page on a screen of 1280 px beside the file browser, or of 1000 px alone.
PAGE_PX, SMALLEST_PX = 800, 9

# For the whole kernel: legends and lines take their style when they are drawn,
# and a student's own plt.plot() then looks like the rest.
style.use(Path(__file__).with_name("workbook.mplstyle"))


def figure(
    title: str, rows: int = 1, cols: int = 1, size: tuple[float, float] = (7, 4), **subplots
):
    """A new figure in the workbook's style.

    ``size`` is the whole figure's width and height in inches; from 7.2 inches
    on a narrow page shrinks it, and its text with it (see ``problems``). With one row
    and one column the second value is one Axes, else an array of them as
    ``plt.subplots`` gives. Further keywords go to ``Figure.subplots``
    (``sharex=True``, ``width_ratios=[2, 1]``). Write the title as the
    sentence that the picture shows, not as the names of its axes.
    """
    if not title or not title.strip():
        raise ValueError("A figure needs a title: one line that says what it shows.")
    # A Figure of its own, not pyplot's: nothing stays open in the kernel and
    # the inline backend cannot draw it a second time.
    fig = Figure(figsize=size, dpi=DPI, layout="constrained")
    fig.suptitle(title, x=0.012, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    return fig, fig.subplots(rows, cols, **subplots)


# ---------------------------------------------------------------- what many figures draw


def hollow_line(color: str = GREY) -> dict:
    """Keywords of ``plot`` for numbers from elsewhere (recorded, printed): dashed and hollow.

    Say in the label where they are from: ``label="recorded: H100"``.
    """
    edge = {"markerfacecolor": PAPER, "markeredgecolor": color, "markeredgewidth": 1.3}
    return {"color": color, "linestyle": (0, (5, 2.5)), "linewidth": 1.6, **edge}


def hollow_points(color: str | list[str] = GREY) -> dict:
    """The same for ``scatter``; a list has a colour for each point."""
    return {"facecolors": "none", "edgecolors": color, "linewidths": 1.3}


def curve(ax, rows: list[dict], x: str, y: str, index: int = 0, scale: float = 1.0, **look) -> None:
    """A line through ``rows``: ``y`` (times ``scale``) over ``x``, two of their names.

    index: which colour and marker. look: keywords of ``plot`` that go before them, such as
    ``label``, ``color`` or ``**hollow_line()``.
    """
    look = {"marker": MARKERS[index], "color": COLORS[index], **look}
    ax.plot([row[x] for row in rows], [scale * row[y] for row in rows], **look)


def note(ax, text: str, at: tuple, offset: tuple = (0, 7), **look) -> None:
    """Small text beside a point: ``offset`` in points from ``at``."""
    look = {"fontsize": 8.5, **look}
    ax.annotate(text, at, xytext=offset, textcoords="offset points", **look)


def inside(ax, text: str, x: float, y: float, **look) -> None:
    """Small text in the middle of a bar, white on its colour."""
    look = {"fontsize": 8, "color": "white", **look}
    ax.text(x, y, text, ha="center", va="center", **look)


def ticks(ax, values, **look) -> None:
    """An x axis whose ticks are the values that were tried and no others."""
    values = sorted(set(values))
    ax.set_xticks(values, [f"{value:,}" for value in values], **look)
    ax.minorticks_off()


def rows_down(ax) -> None:
    """For horizontal bars: the first row on top, no lines along them."""
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)


def legend_below(ax, ncols: int = 2, drop: float = 0.2) -> None:
    """The legend below the axis, where it covers no data. drop: how far, in heights of the axes."""
    ax.legend(ncols=ncols, loc="upper center", bbox_to_anchor=(0.5, -drop))


# ---------------------------------------------------------------- how a figure is shown


def show(fig, caption: str, table: list[dict] | None = None, name: str = "figure") -> None:
    """Display ``fig``, its caption and its values: three outputs; the figure is cleared after it.

    caption: the one line that a reader should take away. table: the values
    behind the picture, one dict for each row, shown when the reader opens it.
    In a terminal title and caption are printed.
    """
    card.show(Picture(fig, caption, table, name))


class Picture:
    """A drawn figure: PNG bytes, caption and values.

    As an output it is an ordinary ``image/png``. Its alt text is title and caption, in the
    output's metadata, where nbconvert looks for it, and in its ``text/plain``, where VS Code does.
    """

    def __init__(self, fig, caption: str, table: list[dict] | None = None, name: str = "figure"):
        self.title = fig.get_suptitle()
        self.caption = " ".join((caption or "").split())
        self.table = [dict(row) for row in table] if table else []
        self.name = name
        self.alt = f"{self.title}. {self.caption}"
        for problem in problems(fig, self.caption):
            warnings.warn(f"Figure {name!r}: {problem}", stacklevel=3)
        self.png = _png(fig)
        fig.clear()

    def outputs(self) -> list:
        """What a notebook shows: the picture, the caption as text, the values as a closed table."""
        values = [card.table(self.table, "Show the values", closed=True)] if self.table else []
        return [self, Caption(self.caption), *values]

    def __str__(self) -> str:
        return f"[figure] {self.title}\n{self.caption}"

    def _repr_mimebundle_(self, include=None, exclude=None):
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt}}


class Caption(str):
    """Text that a notebook shows as text: Markdown in which nothing is markup."""

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/markdown": in_markdown(self), "text/plain": str(self)}


def problems(fig, caption: str) -> list[str]:
    """What a reader would miss in ``fig``: a title, a caption, a label on an axis, small text."""
    found = []
    shrunk = min(1.0, PAGE_PX / (fig.get_figwidth() * DPI))
    texts = [text for text in fig.findobj(Text) if text.get_visible() and text.get_text().strip()]
    smallest = min(text.get_fontsize() for text in texts) * DPI / 72 * shrunk
    if smallest < SMALLEST_PX:
        small = f"on a page of {PAGE_PX} px its smallest text is {smallest:.1f} px"
        found.append(f"{small}, less than {SMALLEST_PX}: put its panels below each other.")
    if not caption:
        found.append("it has no caption: give the one line that a reader should take away.")
    axes = [ax for ax in fig.axes if ax.get_visible() and ax.axison]
    for which in ("x", "y"):
        for ax in axes:
            axis = getattr(ax, f"{which}axis")
            if not axis.get_visible() or not len(axis.get_ticklocs()):
                continue
            # A label counts for all axes that share the scale (subplots, twins).
            group = getattr(ax, f"get_shared_{which}_axes")().get_siblings(ax)
            labels = [getattr(one, f"get_{which}label")() for one in group]
            labels.append(getattr(fig, f"get_sup{which}label")())
            if not any(text.strip() for text in labels):
                found.append(f"a {which} axis has no label; write what it counts and its unit.")
    return list(dict.fromkeys(found))


def _png(fig) -> bytes:
    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=DPI, facecolor=PAPER, pil_kwargs={"optimize": True})
    return out.getvalue()
