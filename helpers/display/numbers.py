"""The one way to write a number, and the one way to read one that a person typed with its unit."""

from __future__ import annotations

import math
import re


def number(value, digits: int = 4, trim: bool = False) -> str:
    """A value as a reader wants it: ``digits`` significant digits, no long tails; "" for None.

    trim: a float that is whole is written without decimals ("32" instead of "32.00").
    Text stays as it is, True is "yes", NaN and infinity are "no data".
    """
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return "no data"
    if trim and value.is_integer() and abs(value) < 1e9:
        return f"{int(value):,}"
    if value and not 1e-3 <= abs(value) < 1e9:
        return f"{value:.3g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, min(decimals, 6))}f}"


_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_MAGNITUDES = {"thousand": 1e3, "million": 1e6, "billion": 1e9}
_MAGNITUDES |= {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
# Units that are typed for each other, by kind, and how large each is. KiB is 1024, kB 1000 bytes.
_BYTES = {"b": 1, "byte": 1, "bytes": 1} | {
    letter + ending: base**power
    for power, letter in enumerate("kmgt", 1)
    for ending, base in (("b", 1000), ("ib", 1024), ("i", 1024))
}
_SECONDS = (
    dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1)
    | dict.fromkeys(("ms", "msec", "milliseconds"), 1e-3)
    | dict.fromkeys(("us", "μs"), 1e-6)  # casefold() makes the micro sign a Greek mu
    | {"ns": 1e-9, "min": 60, "minute": 60, "minutes": 60, "h": 3600, "hour": 3600, "hours": 3600}
)
_TIMES = {"x": 1, "times": 1}
_SHARE = {"share": 1, "%": 0.01, "percent": 0.01}
_KINDS = (_BYTES, _SECONDS, _TIMES, _SHARE)


def read_number(text: str, unit: str = "") -> float | None:
    """The number a person typed, in ``unit``; None if it is unclear.

    Understood are "1,200", "1_200", "1 200", "104k tokens", "1.2M", "12 %", "~4e5". With the unit
    GiB "512 MiB" is 0.5; seconds are unclear there, and so is "12 G" (GB or GiB?). With tokens/s
    "120 tokens/min" is 2. Words that are no unit are ignored; without ``unit``, units are too.
    """
    value, given = with_magnitude(*split_number(text), unit)
    return None if value is None else convert(value, given, unit)


def with_magnitude(value: float | None, rest: str, unit: str) -> tuple[float | None, str]:
    """What `split_number` found, its magnitude worked in: (1.2, "k tokens") is (1200.0, "tokens").

    The number is None where a letter is unclear: "G" of a size (GB or GiB?), "m" anywhere.
    """
    if value is None:
        return None, rest
    for word, factor in _MAGNITUDES.items():
        if re.match(rf"{word}\b", rest):
            if len(word) == 1 and _kind_and_size(unit)[0] is _BYTES:
                return None, rest
            return value * factor, rest[len(word) :].strip()
    unclear = re.match(r"[mgtT]\b", rest)  # milli, mega, minutes?
    return (None if unclear else value), rest


def split_number(text: str) -> tuple[float | None, str]:
    """The number at the beginning and what stands behind it: (1200.0, "tokens").

    The number is None when it cannot be read for sure: "812,5" (a decimal comma or a slip?),
    "3 or 4", "nan", "0x10".
    """
    text = text.strip().lstrip("~≈").strip()
    text = re.sub(r"(?<=\d)[,_\s'](?=\d{3}(\D|$))", "", text)
    found = _NUMBER.match(text)
    rest = text[found.end() :].strip() if found else text
    if not found or re.search(r"\d", rest) or not math.isfinite(float(found.group())):
        return None, rest
    return float(found.group()), rest


def convert(value: float, given: str, wanted: str) -> float | None:
    """``value``, in the unit ``given``, as a number in ``wanted``; None for two different kinds.

    A text that is no unit known here ("tokens") counts as the wanted one.
    """
    kind, size = _kind_and_size(given)
    wanted_kind, wanted_size = _kind_and_size(wanted)
    if not wanted:
        return value
    if kind is not None:
        return value * size / wanted_size if kind is wanted_kind else None
    per, wanted_per = _seconds_below(given), _seconds_below(wanted)
    return value * wanted_per / per if per and wanted_per else value


def is_unit(text: str) -> bool:
    """Whether `convert` knows this unit: a size, time, factor, share, or something per time."""
    return _kind_and_size(text)[0] is not None or _seconds_below(text) is not None


def _kind_and_size(text: str) -> tuple[dict | None, float]:
    """The kind of the unit that ``text`` begins with, and its size in it; None if unknown."""
    word = re.split(r"[\s/,;.]", text, maxsplit=1)[0].casefold()
    return next(((kind, kind[word]) for kind in _KINDS if word in kind), (None, 1))


def _seconds_below(text: str) -> float | None:
    """60 of "tokens/min" and "tokens per minute"; None when it is not a rate."""
    below = re.search(r"(?:/|\bper\b)\s*([a-z]+)", text.casefold())
    return _SECONDS.get(below.group(1)) if below else None
