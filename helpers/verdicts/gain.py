"""How many times as good one setting is as another, with the range that was measured.

Every sentence, colour, tick and star that calls one thing better than another asks a `Gain`.
A single run is no verdict: with fewer than three values on a side there is no range, and `verdict`
is "open".
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from helpers.verdicts.machine import SLOWED

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom; the last one for more.
# NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2.
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
T_95 += (2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)

LEAST_VALUES = 3
# A difference smaller than this is nothing that a student should choose by.
MARGIN = 0.03
BORDERS = (f"{1 / (1 + MARGIN):.2f}", f"{1 + MARGIN:.2f}")
# A range that lies within so much of 1 says that nothing larger is there.
SMALL = 0.10


@dataclass(frozen=True)
class Gain:
    """`estimate` times as good, between `low` and `high` (95 %); above 1 is better.

    `values` is how many measurements (pairs, or the smaller group) it rests on; with fewer than
    three the range is 0 to infinity.
    """

    estimate: float
    low: float
    high: float
    values: int

    @property
    def verdict(self) -> str:
        """One of "better", "worse", "same" (within 3 %) and "open" (this run cannot tell)."""
        if self.low > 1 + MARGIN:
            return "better"
        if self.high < 1 / (1 + MARGIN):
            return "worse"
        return "same" if self.low > 1 / (1 + MARGIN) and self.high < 1 + MARGIN else "open"

    @property
    def decided(self) -> bool:
        """True when more measurements would not change what is said."""
        return self.verdict != "open"

    @property
    def undecided(self) -> bool:
        """True where a difference of more than 10 % may well be there, by the digits shown."""
        small = round(1 / (1 + SMALL), 2) <= round(self.low, 2) and round(self.high, 2) <= 1 + SMALL
        return not self.decided and not small

    @property
    def little(self) -> str:
        """How small a difference is at most, of a gain that is neither decided nor undecided."""
        most = MARGIN if self.verdict == "same" else SMALL
        return f"no difference of more than {100 * most:.0f} %"

    @property
    def word(self) -> str:
        """Its verdict in a table: "gain", "loss", "undecided", or how small a difference is."""
        words = {"better": "gain", "worse": "loss"}
        return words.get(self.verdict) or ("undecided" if self.undecided else self.little)

    @property
    def span(self) -> tuple[float, float] | None:
        """(low, high), or None where too few values give no range."""
        return (self.low, self.high) if self.values >= LEAST_VALUES else None

    @property
    def ends(self) -> str:
        """Such as "1.80 to 2.10"; with a third digit where two stand on a verdict's border."""
        two = ((end, f"{end:.2f}") for end in (self.low, self.high))
        return " to ".join(f"{end:.3f}" if text in BORDERS else text for end, text in two)

    def sentence(self, better: str = "times as fast") -> str:
        """Say "1.8 to 2.1 times as fast", or how small a difference is at most, with the range.

        "undecided" where one of more than 10 % may well be there.
        """
        if self.values < LEAST_VALUES:
            runs = "one run" if self.values == 1 else f"{self.values} runs"
            return f"{self.estimate:.2f} {better} in {runs}, too few for a range"
        if self.verdict in ("better", "worse"):
            return f"{self.ends} {better}"
        if self.undecided:
            return f"undecided, {self.ends} {better}"
        return f"{self.little} ({self.ends})"

    def metrics(self, name: str = "improvement_x") -> dict[str, float]:
        """The estimate under its name, the range under `name`_low and `name`_high."""
        known = {name: self.estimate}
        if self.values >= LEAST_VALUES:
            known |= {f"{name}_low": self.low, f"{name}_high": self.high}
        return known | {f"{name}_values": self.values}

    @classmethod
    def read(cls, metrics: dict[str, float], name: str) -> Gain | None:
        """What `metrics` wrote under this name; None where there is nothing."""
        if metrics.get(name) is None:
            return None
        low, high = metrics.get(f"{name}_low", 0.0), metrics.get(f"{name}_high", math.inf)
        return cls(metrics[name], low, high, metrics.get(f"{name}_values", 1))


def gain_of_pairs(pairs: list[tuple[float, float]], better: str) -> Gain:
    """From values measured in turn: pairs of (plain, changed).

    The range is that of the mean of the pairs' logarithms (Student's t), so drift that both halves
    of a pair share cancels. better: "higher" or "lower" values are good.
    Raises ValueError for no pairs, for values that are not positive, or another `better`.
    """
    ratios = [_log_gain(plain, changed, better) for plain, changed in pairs]
    if not ratios:
        raise ValueError("a gain needs at least one pair of values")
    spread = statistics.stdev(ratios) if len(ratios) > 1 else 0.0
    error = spread / math.sqrt(len(ratios))
    return _gain(statistics.fmean(ratios), error, len(ratios) - 1, len(ratios))


def gain_of_groups(plain: list[float], changed: list[float], better: str) -> Gain:
    """From values that could not be measured in turn, as of two engines one after the other.

    Welch's interval of the difference of the logarithms; wider than that of pairs.
    Raises ValueError as `gain_of_pairs` does.
    """
    if not plain or not changed:
        raise ValueError("a gain needs values of both settings")
    logs = [[_log_gain(1.0, value, better) for value in group] for group in (plain, changed)]
    shares = [statistics.variance(g) / len(g) if len(g) > 1 else 0.0 for g in logs]
    smaller = min(len(group) for group in logs)
    total = sum(shares)
    freedom = smaller - 1
    if total:
        parts = [s**2 / max(1, len(g) - 1) for s, g in zip(shares, logs, strict=True)]
        freedom = max(freedom, int(total**2 / sum(parts)))
    middle = statistics.fmean(logs[1]) - statistics.fmean(logs[0])
    return _gain(middle, math.sqrt(total), freedom, smaller)


def gain_of_ranks(plain: list[float], changed: list[float], better: str) -> Gain:
    """How many times as good, where a value may lie far off, such as a run that waited.

    The median of the gains of every changed value over every plain one, and the range that the rank
    test of Mann and Whitney leaves (Hodges and Lehmann; Hollander and Wolfe, Nonparametric
    Statistical Methods, 4.2 and 4.3): a value far off counts as one value, however far it is. With
    fewer than four in a group ranks say too little: then the range is Welch's.
    """
    # the logarithm of changed / plain, or of plain / changed where lower is better
    ratios = sorted(_log_gain(a, b, better) for a in plain for b in changed)
    n, m = len(plain), len(changed)
    outside = int((n * m - 1.96 * math.sqrt(n * m * (n + m + 1) / 3)) / 2)  # at either end
    if outside < 1:
        return gain_of_groups(plain, changed, better)
    middle, low, high = statistics.median(ratios), ratios[outside - 1], ratios[-outside]
    return Gain(math.exp(middle), math.exp(low), math.exp(high), min(n, m))


def rounds_that_count(rounds: list[tuple]) -> list[tuple]:
    """The rounds that count: without those in which others slowed a run much, if enough remain.

    A line says how many were left out, or why none was. rounds: the Measurements that were made
    together, or alone, one tuple each time.
    """
    calm = [runs for runs in rounds if not any(run.disturbance.slowed for run in runs)]
    slowed = len(rounds) - len(calm)
    if not slowed:
        return rounds
    why = f"other programs can have made a run more than {SLOWED:g} times as long"
    enough = len(calm) >= LEAST_VALUES
    done = "Left out" if enough else f"Fewer than {LEAST_VALUES} calm rounds, so all count"
    print(f"{done}: in {slowed} of {len(rounds)} rounds {why}.")
    return calm if enough else rounds


def t_95(freedom: int) -> float:
    """How many standard errors a 95 % range reaches to either side, with so much freedom."""
    return T_95[min(freedom, len(T_95)) - 1]


def _log_gain(plain: float, changed: float, better: str) -> float:
    if better not in ("higher", "lower"):
        raise ValueError(f'better is {better!r}; it can be "higher" or "lower"')
    if not (plain > 0 and changed > 0 and math.isfinite(plain) and math.isfinite(changed)):
        raise ValueError(f"a gain compares positive numbers, not {plain} and {changed}")
    return math.log(changed / plain) * (1 if better == "higher" else -1)


def _gain(middle: float, error: float, freedom: int, values: int) -> Gain:
    if values < LEAST_VALUES:
        return Gain(math.exp(middle), 0.0, math.inf, values)
    reach = t_95(freedom) * error
    return Gain(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach), values)
