"""The range of a gain in a figure: a bar with caps, or an arrow head where it is cut."""

from __future__ import annotations

from collections.abc import Iterable

from helpers.display import figures
from helpers.verdicts.gain import Gain

ARROW = {"color": figures.INK, "s": 26, "zorder": 5}


def end(gain: Gain) -> float:
    """How far its bar is drawn: to the end of its range, and never beyond twice the gain."""
    return min(gain.high, 2 * gain.estimate)


def is_cut(gain: Gain) -> bool:
    """Whether its range goes on where its bar ends, in an arrow head."""
    return gain.span is not None and end(gain) < gain.high


def in_words(gain: Gain) -> str:
    """Such as "0.90 to 1.40"; of too few values that there is none."""
    return f"{gain.low:.2f} to {gain.high:.2f}" if gain.span else "none"


def bars(gains: Iterable[Gain]) -> list[list[float]]:
    """Error bars (below, above) of gains; none for one without a range; see `is_cut`."""
    ranged = [(g.estimate, g.low, end(g)) if g.span else (1, 1, 1) for g in gains]
    below = [max(0.0, middle - low) for middle, low, _ in ranged]
    above = [max(0.0, last - middle) for middle, _, last in ranged]
    return [below, above]


def draw(ax, rows: list[dict], x: str, color: str = figures.INK) -> None:
    """A vertical line over the range of each row's "gain"."""
    look = {"fmt": "none", "ecolor": color, "elinewidth": 1, "capsize": 3, "zorder": 4}
    gains = [row["gain"] for row in rows]
    places, middles = [row[x] for row in rows], [gain.estimate for gain in gains]
    ax.errorbar(places, middles, yerr=bars(gains), **look)
    for place, gain in zip(places, gains, strict=True):
        if is_cut(gain):
            ax.scatter(place, end(gain), marker="^", **ARROW | {"color": color})


def of_arrows(gains: Iterable[Gain]) -> str:
    """What an arrow head means, where there is one: the end of a caption."""
    return " An arrow head: the range goes on; the values have its end." * any(map(is_cut, gains))
