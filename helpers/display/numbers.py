"""The one way to write a number, and the one way to read one that a person typed with its unit."""

from __future__ import annotations

import math
import re


def number(value) -> str:
    """A value as a reader wants it: up to three significant digits, no zeros at the end.

    Text stays as it is, None is "", True is "yes", NaN and infinity are "no data".
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
    if value and not 1e-3 <= abs(value) < 1e9:
        return f"{value:.3g}"
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 0
    text = f"{value:,.{max(0, min(decimals, 6))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


MOST = 1e15  # nothing in this workbook is larger, and nothing smaller than 1 / MOST but 0
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
_RATES = {"tps": "tokens/s", "rps": "requests/s", "qps": "requests/s"}


class NotANumber(ValueError):
    """A text that is no number in the wanted unit; its words say what was understood."""


def read_number(text: str, unit: str = "", least: float = 0.0, most: float = MOST) -> float:
    """The number that a person typed, in ``unit``.

    Understood are "1,200" (as this workbook writes it), "1_200", "1 200", "0,008" and "12,5" (a
    decimal comma), "104k tokens", "1.2M", "12 %", "~4e5", and units of the same kind: with GiB
    "512 MiB" is 0.5, with tokens/s "120 tokens/min" is 2. Everything else raises NotANumber: no
    number or several, words that are no such unit, "12 G" of a size (GB or GiB?), a value that is
    not in ``least`` to ``most``.
    """
    value, rest = split_number(text)
    if value is None:
        example = f"3.5 {unit}".strip()
        how = f"cannot be read as one number: write one such as {example}"
        raise NotANumber(f"“{text.strip()}” {how}.")
    factor, rest = _magnitude(rest, unit)
    scale = _scale(rest, unit)
    if scale is None:
        wanted = f"{value * factor:.10g} {unit}".strip()
        understood = f"{value:.10g} was understood, “{rest}” was not"
        raise NotANumber(f"“{text.strip()}”: {understood}; if you mean {wanted}, write that.")
    value *= factor * scale
    if not least <= value <= most:
        said = f"{value:.4g} {unit}".strip()
        bound = f"at least {least:g}" if value < least else f"at most {most:g}"
        raise NotANumber(f"“{text.strip()}” is {said}, and it has to be {bound}.")
    return value


def split_number(text: str) -> tuple[float | None, str]:
    """The number at the beginning and what stands behind it: (1200.0, "tokens").

    The number is None when there is none or more than one: "3 or 4", "nan", "0x10", "1.234,5".
    """
    text = re.sub(r"^(~|≈|about |ca\.? |[$€£])\s*", "", text.strip())
    decimal = re.match(r"[-+]?(0,\d+|\d+,(\d{1,2}|\d{4,}))(?![\d.,])", text)
    if decimal:
        text = text.replace(",", ".", 1)
    else:
        text = re.sub(r"(?<=\d)[,_\s'](?=\d{3}(\D|$))", "", text)
    found = _NUMBER.match(text)
    rest = text[found.end() :].strip() if found else text
    if not found or re.search(r"\d", rest):
        return None, rest
    value = float(found.group())
    return (value if value == 0 or 1 / MOST <= abs(value) < math.inf else None), rest


def is_unit(text: str) -> bool:
    """Whether a text is a unit known here: a size, time, factor, share, or something per time."""
    return _kind_and_size(text)[0] is not None or _seconds_below(text) is not None


def _magnitude(rest: str, unit: str) -> tuple[float, str]:
    """(1000.0, "tokens") of "k tokens"; a size has none: 12 G may be GB or GiB."""
    for word, factor in _MAGNITUDES.items():
        if re.match(rf"{word}\b", rest) and not (
            len(word) == 1 and _kind_and_size(unit)[0] is _BYTES
        ):
            return factor, rest[len(word) :].strip()
    return 1.0, rest


def _scale(given: str, wanted: str) -> float | None:
    """What a number in the unit ``given`` is multiplied with to be in ``wanted``; None: nothing."""
    given = _RATES.get(given, given)
    if not given or given.casefold() == wanted.casefold():
        return 1.0
    if per := _seconds_below(wanted):
        below = _seconds_below(given)
        return per / below if below and _same_word(_above(given), _above(wanted)) else None
    if _seconds_below(given):  # a rate where none is wanted
        return None
    kind, size = _kind_and_size(wanted)
    given = re.sub(r"\s*(/\s*|\b(per|an?)\s+)[a-z]+$", "", given)  # "12 ms/token"
    if kind:
        given_kind, given_size = _kind_and_size(given)
        return given_size / size if given_kind is kind else None if given else 1.0
    if "currency" in wanted and _kind_and_size(given)[0] is None:
        return 1.0 if re.fullmatch(r"[$€£]|[A-Za-z]{1,8}", given) else None
    return 1.0 if _same_word(given, wanted) else None


def _kind_and_size(text: str) -> tuple[dict | None, float]:
    """The kind of a unit and its size in it; None if it is unknown."""
    word = text.casefold()
    return next(((kind, kind[word]) for kind in _KINDS if word in kind), (None, 1))


def _seconds_below(text: str) -> float | None:
    """60 of "tokens/min" and "tokens per minute"; None when it is not a rate."""
    below = re.search(r"(?:/|\bper\b)\s*([a-z]+)$", text.casefold())
    return _SECONDS.get(below.group(1)) if below else None


def _above(rate: str) -> str:
    return re.split(r"/|\bper\b", rate)[0].strip()


def _same_word(given: str, wanted: str) -> bool:
    """Whether "tok", "output tokens" or nothing at all may stand for "tokens"."""
    word = given.casefold().rsplit(" ", maxsplit=1)[-1]
    return not word or (len(word) >= 3 and wanted.casefold().startswith(word.rstrip("s")))
