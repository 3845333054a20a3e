"""The range of a gain in a figure: a bar with caps, or an arrow head where it is cut."""

from __future__ import annotations

from collections.abc import Iterable

from helpers.display import figures
from helpers.verdicts.gain import Gain

ARROW = {"color": figures.INK, "s": 26, "zorder": 5}


def end(gain: Gain, room: float = 0) -> float:
    """How far its bar is drawn: to the end of its range, at most to twice the gain or `room`."""
    return min(gain.high, max(2 * gain.estimate, room))


def is_cut(gain: Gain, room: float = 0) -> bool:
    """Whether its range goes on where its bar ends, in an arrow head."""
    return gain.span is not None and end(gain, room) < gain.high


def in_words(gain: Gain) -> str:
    """Such as "0.90 to 1.40"; of too few values that there is none."""
    return gain.ends if gain.span else "none"


def bars(gains: Iterable[Gain], room: float = 0) -> list[list[float]]:
    """Error bars (below, above) of gains; none for one without a range; see `is_cut`."""
    ranged = [(g.estimate, g.low, end(g, room)) if g.span else (1, 1, 1) for g in gains]
    below = [max(0.0, middle - low) for middle, low, _ in ranged]
    above = [max(0.0, last - middle) for middle, _, last in ranged]
    return [below, above]


def draw(ax, rows: list[dict], x: str, color: str = figures.INK, room: float = 0) -> None:
    """A vertical line over the range of each row's "gain"; the axis has `room` up to there."""
    look = {"fmt": "none", "ecolor": color, "elinewidth": 1, "capsize": 3, "zorder": 4}
    gains = [row["gain"] for row in rows]
    places, middles = [row[x] for row in rows], [gain.estimate for gain in gains]
    ax.errorbar(places, middles, yerr=bars(gains, room), **look)
    for place, gain in zip(places, gains, strict=True):
        if is_cut(gain, room):
            ax.scatter(place, end(gain, room), marker="^", **ARROW | {"color": color})


def of_arrows(gains: Iterable[Gain], room: float = 0) -> str:
    """What an arrow head means, where there is one: the end of a caption."""
    cut = any(is_cut(gain, room) for gain in gains)
    return " An arrow head: the range goes on; the values have its end." * cut
