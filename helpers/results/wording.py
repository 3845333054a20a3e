"""How a record reads in the documents: numbers with units, where they are from, one line each."""

from __future__ import annotations

import contextlib
import math
import re

import yaml

from helpers import REPO
from helpers.display.as_typed import in_markdown
from helpers.display.numbers import number
from helpers.results.one_run import OTHER_RUN
from helpers.verdicts.gain import LEAST_VALUES, Gain

SUBJECTS = yaml.safe_load((REPO / "templates/predictions.yaml").read_text(encoding="utf-8"))
# What a record's `source` says about its numbers. No source, or another one: measured.
TYPED = {"typed", "student", "parameter", "form"}
CALCULATED = {"formula", "planner", "example", "recorded", "default", "catalogue", "reference"}
DISTURBED = ", machine disturbed"
RECORDED_GPU = "recorded GPU"  # its name in notebook 2's decisions, and where they are split
# Experiments whose speed is that of a single run, not of several in turn.
ONE_RUN = ("baseline", "sweep_max_num_seqs", "closed_loop", "open_loop")
UNITS_IN_NAMES = {
    "_tokens_per_s": "tokens/s",
    "_gb_per_s": "GB/s",
    "_per_s": "/s",
    "_ms": "ms",
    "_us": "us",
    "_gib": "GiB",
    "_mib": "MiB",
    "_s": "s",
    "_x": "x",
    "_tokens": "tokens",
    "_percent": "%",
}


def finite(value) -> float | None:
    """A finite number, or None for everything else that a record may hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def numbers_of(record: dict, *names: str) -> list[float | None]:
    """These metrics of a record; None for one that is no finite number."""
    return [finite(record["metrics"].get(name)) for name in names]


def all_numbers(record: dict) -> dict[str, float]:
    """The metrics of a record that are finite numbers."""
    return {k: float(v) for k, v in record["metrics"].items() if finite(v) is not None}


def metric(name: str, value: float) -> str:
    """A metric with its unit, read from its name: ttft_ms_p50 -> 'TTFT p50 12.1 ms'."""
    words, unit = _words_and_unit(name)
    if unit == "GiB" and 0 < abs(value) < 0.1:
        value, unit = value * 1024, "MiB"
    return f"{words} {_quantity(value, unit)}".strip()


def value_of(record: dict, name: str) -> str:
    """A metric of a record without its name: "3.91 ms (3.62 to 5.24)"; "" where it has none.

    A factor has its verdict before it; each says behind it that the machine was disturbed, if so.
    """
    metrics, [value] = record["metrics"], numbers_of(record, name)
    if value is None:
        return ""
    if name.endswith("_x"):
        said = judged(metrics, name)
    elif name.endswith("_share"):
        said = f"{100 * value:.0f} %"
    else:
        low, high = _ends(metrics, name)
        said = _quantity(value, _words_and_unit(name)[1])
        said += "" if None in (low, high) else f" ({_span(low, high)})"
    return said + if_disturbed(record)


def _quantity(value: float, unit: str) -> str:
    return f"{number(value)}{'' if unit in ('x', '%', '/s') else ' '}{unit}".strip()


def _words_and_unit(name: str) -> tuple[str, str]:
    statistic = re.search(r"_(p\d+|mean|max|min)$", name)
    words, unit = _split_unit(name[: statistic.start()] if statistic else name)
    words = re.sub(r"\b(ttft|tpot|itl|e2e|kv|gpu)\b", lambda m: m[0].upper(), words)
    words = words.replace(" 1 streams", " 1 stream")
    return words + (f" {statistic[1]}" if statistic else ""), unit


def _split_unit(name: str) -> tuple[str, str]:
    """The words of a metric's name and its unit: ("rate", "GB/s") of rate_gb_per_s."""
    for ending, unit in UNITS_IN_NAMES.items():
        if name == ending[1:]:
            return "", unit
        if name.endswith(ending) and not ("_per_" in name and ending == "_tokens"):
            return name[: -len(ending)].replace("_", " "), unit
        if f"{ending}_" in name and len(ending) < 4:  # tpot_ms_1_streams
            return name.replace(f"{ending}_", "_", 1).replace("_", " "), unit
    return name.replace("_", " "), ""


def _span(low: float, high: float) -> str:
    return f"{_as_precise(low, high)} to {_as_precise(high, high)}"


def count(number: int, thing: str) -> str:
    """Such as "1 answer" and "3 answers"."""
    return f"{number} {thing}" + ("" if number == 1 else "s")


def one_line(text, limit: int = 2000) -> str:
    """A text without line breaks, of limited length."""
    whole = str(text).encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    return " ".join(whole.split())[:limit]


def as_code(text) -> str:
    """The same as code in Markdown."""
    return f"`{one_line(text).replace('`', '')}`"


def table_row(*cells: str) -> str:
    """A row of a Markdown table; the cells are Markdown."""
    return "".join(f"| {text} " if text else "| " for text in cells) + "|"


def spaced(name: str) -> str:
    """An experiment's or variant's name in words, as Markdown."""
    return in_markdown(one_line(name, 300).replace("_", " "))


def subject_of(record: dict) -> str:
    """What a prediction was made of, in Markdown that needs no notebook beside it."""
    question = str(record.get("question") or record["variant"])
    with contextlib.suppress(KeyError, IndexError):  # a record of another version
        return SUBJECTS[record["variant"]].format(*re.findall(r"\d[\d,.]*(?<=\d)", question))
    return f'The answer to "{in_markdown(one_line(question, 300))}"'


def kind_of(record: dict) -> str:
    """Whether a record's numbers are measured, calculated or typed."""
    source = record.get("source")
    if not isinstance(source, str):
        return "measured"
    return "typed" if source in TYPED else "calculated" if source in CALCULATED else "measured"


def source_of(record: dict) -> str:
    """Its kind, and what is to be known of it: another run, one run, a failure."""
    at_once = (record.get("provenance") or {}).get("at_once", 1)
    one_run = kind_of(record) == "measured" and record.get("experiment") in ONE_RUN
    notes = [
        "of another run" if record.get(OTHER_RUN) else "one run" * one_run,
        "then failed" * bool(record.get("problem")),
        f"{at_once} submissions at a time" * (kind_of(record) == "measured" and at_once != 1),
    ]
    return ", ".join(filter(None, [kind_of(record), *notes]))


def was_disturbed(record: dict) -> bool:
    """Whether something else on the machine disturbed the measurement."""
    machine = record.get("machine")
    return isinstance(machine, dict) and bool(machine.get("disturbed"))


def share_range(share: float, n: float) -> tuple[float, float]:
    """Between which shares the true one lies, of n requests: Wilson's, to two standard errors."""
    middle, half = share + 2 / n, 2 * math.sqrt(share * (1 - share) / n + 1 / n**2)
    return (middle - half) / (1 + 4 / n), (middle + half) / (1 + 4 / n)


def if_disturbed(record: dict) -> str:
    """What to add to its number then; "" else."""
    return DISTURBED * was_disturbed(record)


def with_range(metrics: dict[str, float], name: str, alone: str = " (one run)") -> str:
    """A factor with its range: "7.87x (7.60 to 8.14)"; "" without the factor.

    alone: what is said of one that has no range. A range that leaves open which of the two is
    larger says so first, as verdicts do, and has no middle: "undecided, 0.76 to 3.96x".
    """
    value, gain = finite(metrics.get(name)), _gain(metrics, name)
    if value is None:
        return ""
    if gain is None:
        return f"{number(value)}x{alone}"
    span = gain.ends if gain.high < 10 else _span(gain.low, gain.high)
    if gain.verdict in ("same", "open"):
        return f"{gain.word}, {span}x"
    return f"{_as_precise(value, gain.high)}x ({span})"


def expected_x(metrics: dict[str, float], name: str) -> str:
    """A factor that was calculated, with the range that it may have: "1.45x (1.03 to 1.71)"."""
    value, gain = finite(metrics.get(name)), _gain(metrics, name)
    if value is None or gain is None:
        return "" if value is None else f"{number(value)}x"
    return f"{_as_precise(value, gain.high)}x ({_span(gain.low, gain.high)})"


def judged(metrics: dict[str, float], name: str) -> str:
    """A factor with its verdict before it: "gain, 7.87x (7.60 to 8.14)"."""
    gain = _gain(metrics, name)
    decided = gain is not None and gain.verdict in ("better", "worse")
    return (f"{gain.word}, " if decided else "") + with_range(metrics, name)


def prediction_of(record: dict) -> str:
    """The number that was said, with its unit."""
    return f"{number(record['metrics']['predicted'])}{unit_of(record)}"


def in_range(record: dict, said: float) -> bool:
    """Whether a number lies in the range that was measured; False without a range."""
    low, high = numbers_of(record, "measured_low", "measured_high")
    return None not in (low, high) and low <= said <= high


def notebook_of(record: dict) -> str:
    """The number of the notebook that saved it."""
    return record["notebook"].partition("_")[0].lstrip("0")


def outcome_of(record: dict) -> str:
    """What came out of a prediction: in its own words, a factor with its range, or the range."""
    metrics, unit, ends = record["metrics"], unit_of(record), _ends(record["metrics"], "measured")
    if None not in ends:
        said = f"{number(max(0.0, ends[0]))} to {number(ends[1])}{unit}"  # nothing is below 0
    elif unit == " rows" and metrics["measured"] % 1:  # between two numbers of rows
        said = f"about {metrics['measured']:.0f} rows"
    else:
        said = number(metrics["measured"]) + unit
    if unit == "x":
        said = with_range(metrics, "measured", alone="")
    if stated := record.get("stated"):  # its ends were tried, and nothing between them
        said = one_line(stated, 80)
    how = one_line(record.get("how") or "measured", 20)
    return said + f", {how}" * (how != "measured")


def _gain(metrics: dict[str, float], name: str) -> Gain | None:
    """A factor whose range was measured; None without a range."""
    value, (low, high) = finite(metrics.get(name)), _ends(metrics, name)
    return None if None in (value, low, high) else Gain(value, low, high, LEAST_VALUES)


def _ends(metrics: dict[str, float], name: str) -> list[float | None]:
    return [finite(metrics.get(name + end)) for end in ("_low", "_high")]


def _as_precise(value: float, high: float) -> str:
    """A number of a range that ends at `high`, with no more digits than such a range carries."""
    return f"{value:.{1 if high >= 10 else 2}f}" if high < 100 else number(value)


def by_person(record: dict) -> bool:
    """Whether a person typed or chose it in a form; a parameter proves nothing that was done."""
    return record.get("source") in ("typed", "student", "form")


def foretold(record: dict) -> bool:
    """Whether a prediction is a person's, from a form or given with the run; else a formula's."""
    return kind_of(record) == "typed"


def machine_of(record: dict) -> str:
    """The machine that a record was made on."""
    place = record.get("provenance") or {}
    return one_line(place.get("machine") or "an unknown machine", 120)


def origin_of(record: dict) -> str:
    """Where a number is from: the notebook and the machine, or what was typed where."""
    if kind_of(record) == "typed":
        return f"typed, {record.get('origin', record['notebook'])}"
    return f"{record['notebook']} on {machine_of(record)}"


def where(records: list[dict]) -> str:
    """Machine, vLLM, model and weights; of several machines or models all."""
    texts = []
    for record in records:
        place = record.get("provenance") or {}
        text = f"{machine_of(record)}, vLLM {place.get('vllm')}"
        if place.get("model"):
            text += f", model {one_line(place['model'], 80)}"
            text += f" ({place['weights']} weights)" if place.get("weights") else ""
        texts.append(in_markdown(text))
    return "; ".join(dict.fromkeys(texts))


def unit_of(record: dict) -> str:
    """Its unit behind a number, with a space where one belongs."""
    unit = in_markdown(one_line(record.get("unit") or "", 30))
    return unit if unit in ("", "x", "%") else f" {unit}"
