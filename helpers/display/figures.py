"""One look for every figure of the workbook.

A figure is shown as a light card with its one-line reading below it and its
values in a table that opens on request. The same output works in JupyterLab,
in VS Code, in an HTML export (with alt text) and, as text, in a terminal.

    from helpers.display import figures
    fig, ax = figures.figure("Throughput grows until the cores are full")
    ax.plot(batch, tokens_per_s)
    ax.set(xlabel="requests at a time", ylabel="output tokens/s")
    figures.show(fig, reading="32 requests at a time give 9 times the tokens of one.",
               table=rows, name="throughput_by_batch")
"""

from __future__ import annotations

import base64
import html
import io
import math
import warnings
from pathlib import Path

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure


class _Palette(tuple):
    """Colours by position, ``COLORS[0]``, or by name, ``COLORS["blue"]``."""

    _names = ("blue", "vermillion", "green", "purple", "orange", "sky", "black", "yellow")

    def __getitem__(self, key):
        if isinstance(key, str):
            if key not in self._names:
                raise KeyError(f"No colour is called {key!r}. There are: {', '.join(self._names)}.")
            key = self._names.index(key)
        elif isinstance(key, int):
            key %= len(self)
        return super().__getitem__(key)


# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), told apart by
# people with any of the common colour-vision deficiencies. The order puts the
# ones with the most contrast on white first; yellow is for areas, not lines.
COLORS = _Palette(
    ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
)
# Colour is never the only difference: give each line a marker of its own.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#6B6B6B"
PAPER, INK = "#FFFFFF", "#1F1F1F"

DPI = 110
MAX_PNG_BYTES = 60_000

_RC = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8A8A8A",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=list(COLORS)[:7]),
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "hatch.linewidth": 0.8,
}
# For the whole kernel: legends and lines take their style when they are drawn,
# and a student's own plt.plot() then looks like the rest.
mpl.rcParams.update(_RC)


def figure(
    title: str, rows: int = 1, cols: int = 1, size: tuple[float, float] = (7, 4), **subplots
):
    """A new figure in the workbook's style.

    ``size`` is the whole figure's width and height in inches. With one row
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
    axes = fig.subplots(rows, cols, **subplots)
    if rows * cols == 1:
        axes.set_title(title)
    else:
        fig.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold", color=INK)
    fig._workbook_title = title.strip()
    return fig, axes


def recorded(kind: str = "line", color: str = GREY) -> dict:
    """Keywords that draw numbers recorded on another machine: dashed and hollow.

    ``kind`` is "line" (for ``plot``), "bar" or "points" (for ``scatter``).
    Say in the label where it was recorded: ``label="recorded: H100"``.
    """
    if kind == "line":
        return {
            "color": color,
            "linestyle": (0, (5, 2.5)),
            "linewidth": 1.6,
            "markerfacecolor": PAPER,
            "markeredgecolor": color,
            "markeredgewidth": 1.3,
        }
    if kind == "bar":
        return {
            "facecolor": PAPER,
            "edgecolor": color,
            "linestyle": "--",
            "linewidth": 1.3,
            "hatch": "///",
        }
    if kind == "points":
        return {"facecolors": "none", "edgecolors": color, "linewidths": 1.3}
    raise ValueError(f'kind is {kind!r}; it can be "line", "bar" or "points".')


def show(
    fig, reading: str, table: list[dict] | None = None, name: str = "figure", alt: str | None = None
) -> None:
    """Display ``fig`` with its one-line reading; the figure is closed after it.

    ``table`` is the values behind the picture, one dict for each row, shown
    when the reader opens it. ``alt`` is the text for people who do not see
    the picture; without it the title and the reading are used.
    In a terminal the title and the reading are printed.
    """
    picture = Picture(fig, reading, table, name, alt)
    try:
        from IPython import get_ipython
    except ImportError:
        get_ipython = lambda: None
    if get_ipython() is None:
        print(picture)
        return
    from IPython.display import display

    display(picture)


class Picture:
    """A drawn figure: PNG bytes, reading and values. ``show`` displays it.

    Notebooks show its HTML form, terminals its text. ``save(folder)`` writes
    ``<name>.png`` and returns the path.
    """

    def __init__(
        self,
        fig,
        reading: str,
        table: list[dict] | None = None,
        name: str = "figure",
        alt: str | None = None,
    ):
        self.title = _title_of(fig)
        self.reading = " ".join((reading or "").split())
        self.table = [dict(row) for row in table] if table else []
        self.name = name
        self.alt = alt or f"{self.title}. {self.reading}"
        for problem in problems(fig, self.reading):
            warnings.warn(f"Figure {name!r}: {problem}", stacklevel=3)
        self.png = _png(fig)
        _close(fig)

    def save(self, folder) -> Path:
        """Write ``<name>.png`` into ``folder`` (made if missing); return its path."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.png"
        path.write_bytes(self.png)
        return path

    def __str__(self) -> str:
        return f"[figure] {self.title}\n{self.reading}"

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self.html(), "text/plain": str(self)}

    def html(self) -> str:
        """The card as HTML. Inline styles only: notebooks drop <style> of untrusted output."""
        source = "data:image/png;base64," + base64.b64encode(self.png).decode()
        return (
            f'<figure style="{_CARD}">'
            f'<img alt="{html.escape(self.alt, quote=True)}" src="{source}" '
            f'style="max-width:100%;height:auto;display:block;background:{PAPER}">'
            f'<figcaption style="padding:4px 6px 2px;font-size:14px;line-height:1.45;color:{INK}">'
            f"{html.escape(self.reading)}</figcaption>"
            f"{values_table(self.table)}</figure>"
        )


# An opaque light card, so that a dark theme changes neither picture nor text.
_CARD = (
    f"display:inline-block;max-width:100%;margin:6px 0;padding:8px;background:{PAPER};color:{INK};"
    "border:1px solid #D0D0D0;border-radius:6px;box-sizing:border-box;font-family:sans-serif"
)


def values_table(rows: list[dict], summary: str = "Show the values") -> str:
    """``rows`` as a closed <details> table; "" when there are none."""
    if not rows:
        return ""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    line = f"background:{PAPER};color:{INK};border-bottom:1px solid #E4E4E4"
    numeric = {
        c: all(isinstance(r.get(c), (int, float, type(None))) for r in rows) for c in columns
    }

    def cell(tag: str, column: str, text: str) -> str:
        side = "right" if numeric[column] else "left"
        return f'<{tag} style="padding:2px 10px;text-align:{side};color:{INK}">{html.escape(text)}</{tag}>'

    head = "".join(cell("th", c, str(c)) for c in columns)
    body = "".join(
        f'<tr style="{line}">'
        + "".join(cell("td", c, number(row.get(c))) for c in columns)
        + "</tr>"
        for row in rows
    )
    return (
        f'<details style="padding:2px 6px;color:{INK}"><summary style="cursor:pointer;font-size:13px">{html.escape(summary)}'
        f'</summary><div style="overflow-x:auto"><table style="border-collapse:collapse;font-size:12px;margin:4px 0;color:{INK}">'
        f'<thead><tr style="{line}">{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )


def number(value) -> str:
    """A value as a reader wants it: four significant digits, no long tails; "" for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "no data"
        if value and not 1e-3 <= abs(value) < 1e9:
            return f"{value:.3g}"
        digits = 3 - math.floor(math.log10(abs(value))) if value else 0
        return f"{value:,.{max(0, min(digits, 6))}f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def problems(fig, reading: str) -> list[str]:
    """What a reader would miss in ``fig``: a title, a reading, a label on an axis."""
    found = []
    if not _title_of(fig):
        found.append("it has no title.")
    if not reading:
        found.append("it has no reading: give the one line that a reader should take away.")
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


def _title_of(fig) -> str:
    titles = [getattr(fig, "_workbook_title", ""), fig.get_suptitle()]
    titles += [ax.get_title(loc) for ax in fig.axes for loc in ("left", "center")]
    return next((t.strip() for t in titles if t and t.strip()), "")


def _png(fig) -> bytes:
    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=DPI, facecolor=PAPER, pil_kwargs={"optimize": True})
    data = out.getvalue()
    colours = 256
    # A crowded plot is stored with fewer colours, so that executed notebooks stay small.
    while len(data) > MAX_PNG_BYTES and colours >= 32:
        from PIL import Image

        small = io.BytesIO()
        image = Image.open(io.BytesIO(out.getvalue())).convert("RGB")
        image.quantize(colours, dither=Image.Dither.NONE).save(small, format="PNG", optimize=True)
        data, colours = small.getvalue(), colours // 2
    return data


def _close(fig) -> None:
    number_of = getattr(fig, "number", None)
    if number_of is not None:  # made with pyplot
        import matplotlib.pyplot as plt

        plt.close(fig)
    else:
        fig.clear()
