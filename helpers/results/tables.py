"""The tables and lists of the documents: regions of several lines, worked out from the facts."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from typing import NamedTuple

from helpers.display.as_typed import in_markdown
from helpers.display.numbers import number
from helpers.results import recorded, week5
from helpers.results.facts import NO_LINES, Facts, Fill, Part, answer, from_record
from helpers.results.merge import BLANK
from helpers.results.wording import (
    RECORDED_GPU,
    all_numbers,
    as_code,
    by_person,
    count,
    expected_x,
    finite,
    foretold,
    in_range,
    notebook_of,
    numbers_of,
    one_line,
    outcome_of,
    prediction_of,
    source_of,
    spaced,
    subject_of,
    table_row,
    unit_of,
    value_of,
    was_disturbed,
    where,
)
from helpers.verdicts.gain import MARGIN, SMALL

SPEED = "output_tokens_per_s"
CLOSE = 0.10  # a prediction that is off by less needs no reason
FORMULA = (
    "The ratio is measured over predicted. Where a range was measured, *inside* is a prediction "
    "within it, *outside* one beside a range that has no middle, and *too wide to tell* one within "
    "a range whose high end is more than twice its low one. Below the table stands why a formula "
    "was more than a tenth off, where that is known."
)
SEVERAL = "more, which nobody typed, were within a tenth or within the range that was measured."
RANGES = (
    "*Times as good* is better above 1, *times as long* is worse. A range (95 %) decides if all of "
    f"it is more than {100 * MARGIN:.0f} % to one side of 1. One from {1 / (1 + MARGIN):.2f} to "
    f"{1 + MARGIN:.2f} or from {1 / (1 + SMALL):.2f} to {1 + SMALL:.2f} leaves no difference of "
    f"more than {100 * MARGIN:.0f} or {100 * SMALL:.0f} %; any other is undecided."
)
EVERYTHING = (
    "Every number of the week is in `measurements.jsonl`. Gains and losses have ranges of 95 %, "
    "judged as the decisions' are; the middle of TP and PP is a median. Speeds and times have "
    "their lowest and highest round."
)


class Row(NamedTuple):
    """A row of the results table: a number of each record whose variant matches.

    variant: a regular expression; its group, if it has one, is what tells several numbers apart.
    label: another metric in words that tells them apart better, as "a = {a:.2f}".
    """

    what: str
    experiment: str
    variant: str
    metric: str
    label: str = ""


# Of two rows for the same thing the first that has a number stands there.
# fmt: off
ROWS = tuple(Row(*row) for row in (
    ("One request at a time (initial throughput): output tokens/s",
     "optimised", "best", "baseline_tokens_per_s"),
    ("One request at a time (initial throughput): output tokens/s",
     "baseline", "one_at_a_time", SPEED),
    ("The best max_num_seqs (final throughput): output tokens/s", "optimised", "best", SPEED),
    ("The best max_num_seqs over one request at a time: output tokens/s",
     "optimised", "best", "improvement_x"),
    ("Each max_num_seqs above 1, before the best was chosen: output tokens/s",
     "sweep_max_num_seqs", r"(?!1$)(\d+)", SPEED),
    ("A prompt's beginning in the prefix cache: gain in time to first token",
     "prefix_caching", "(system prompt|few-shot.*)", "ttft_gain_x"),
    ("Prefix caching at a conversation's last turn: gain in time to first token",
     "prefix_caching", "conversation", "ttft_gain_last_turn_x"),
    ("n-gram drafts, one stream: speed-up of the tokens after the first",
     "speculation", "ngram, (.+)", "tpot_gain_x"),
    ("A draft model that drafts k tokens, one stream: speed-up of the tokens after the first",
     "speculation", r"draft model, (k=\d+)", "tpot_gain_x"),
    ("Drafts accepted at a rate set by hand, one stream, by the a met: speed-up of the tokens "
     "after the first",
     "speculation", r"synthetic, (a=[\d.]+)", "tpot_gain_x", "a = {a:.2f}"),
    ("Drafts accepted at a rate set by hand, a = 0.8, several streams: gain in output tokens/s",
     "speculation", r"synthetic, a=0\.8, (\d+ at once)", "throughput_gain_x"),
    ("Paged over reserved KV cache: time", "reserving", "paged", "speedup_x"),
    ("Continuous batching over waves: time",
     "continuous_batching", "continuous", "speedup_x"),
    ("One stream on this machine: time for each token after the first",
     "trial", "([TP]P [12])", "tpot_ms_1_streams"),
    ("One stream on this machine: how many times as fast as TP 1",
     "trial", "([TP]P 2) against TP 1", "speedup_x"),
    ("Several clients of the server, each waiting for its answer: output tokens/s by their number",
     "closed_loop", r"(?!1_)(\d+_clients)", SPEED),
    ("Requests that arrive at random: share of them within the server's goal (chance moves it)",
     "open_loop", r"([\d.]+_per_s)", "good_share", "{arrived_per_s:.3g} per s"),
))
# fmt: on


def results_table(facts: Facts) -> Fill:
    """What stands behind the numbers of page one, a row each, with where it was measured."""
    found: dict[str, tuple[Row, list[dict]]] = {}
    for row in ROWS:
        of_it = [r for r in facts.all(row.experiment) if re.fullmatch(row.variant, r["variant"])]
        of_it = [r for r in of_last_session(of_it) if value_of(r, row.metric)]
        if of_it:
            found.setdefault(row.what, (row, sorted(of_it, key=_number_in_front)))
    if not found:
        return NO_LINES
    places = list(dict.fromkeys(where([r]) for _, records in found.values() for r in records))
    marks = {place: f" ({chr(ord('a') + i)})" for i, place in enumerate(places)}
    if len(places) == 1:
        marks = dict.fromkeys(places, "")
    on = "; ".join(f"{place}{marks[place]}" for place in places)
    rows = [Part(f"row.{what}", _result(*of_it, marks)) for what, of_it in found.items()]
    fill = _table(("what", "result", "how", "notebook"), rows, "measured", "result")
    head = [Part("about", f"{EVERYTHING} All of these were measured on {on}."), Part("gap", "")]
    return replace(fill, value=[*head, *fill.value])


def _result(row: Row, records: list[dict], marks: dict[str, str]) -> str:
    """The row's line, with a number of each record and the mark of its machine."""
    said = [": ".join([*_told_apart(row, r), value_of(r, row.metric)]) for r in records]
    numbers = [f"{notebook_of(r)}{marks[where([r])]}" for r in records]
    how, notebooks = (
        ", ".join(dict.fromkeys(texts)) for texts in (map(source_of, records), numbers)
    )
    return table_row(row.what, "; ".join(said), how, one_line(notebooks))


def _told_apart(row: Row, record: dict) -> list[str]:
    """What tells this record's number apart from the row's others; nothing for a lone one."""
    if row.label:
        with contextlib.suppress(KeyError):  # a record of an older version
            return [row.label.format_map(all_numbers(record))]
    return [spaced(group) for group in re.fullmatch(row.variant, record["variant"]).groups()]


def of_last_session(rows: list[dict]) -> list[dict]:
    """Without the rates of earlier sessions that a load was sent at.

    They follow from what a session measured before: the next one has others, and another capacity.
    """
    rates = [r for r in rows if re.fullmatch(r"[\d.]+_per_s", r["variant"])]
    made = [(r.get("provenance") or {}) for r in rates]
    last = max(made, key=lambda place: place.get("time_utc") or "", default={}).get("session")
    left = [r for r, place in zip(rates, made, strict=True) if place.get("session") != last]
    return [r for r in rows if r not in left]


def _number_in_front(record: dict) -> float:
    """The first number in a variant, such as a rate; the others keep their order."""
    found = re.match(r"\d+(\.\d+)?", record["variant"])
    return float(found[0]) if found else -1.0


def predictions_table(facts: Facts) -> Fill:
    """Each prediction of a person against what came out, and of the others those that were off."""
    records = [
        r
        for r in facts.all("prediction")
        if None not in numbers_of(r, "predicted", "measured")
        and (foretold(r) or r.get("how") != "calculated")
    ]
    shown = [r for r in records if foretold(r) or not _near(r, r["metrics"]["predicted"])]
    rows = [
        Part(f"row.{r['notebook']}.{r['variant']}", _prediction(r, facts) if r in shown else None)
        for r in records
    ]
    columns = ("notebook", "what", "predicted", "measured", "ratio")
    fill = _table(columns, rows, "measured", "prediction")
    if not records:
        return fill
    fill = replace(fill, note=count(len(shown), "prediction"))
    if not shown:  # a table without a row
        fill = replace(fill, value=[])
    left = len(records) - len(shown)
    given = sum(foretold(r) and not by_person(r) for r in shown)
    about = FORMULA + f" {left} {SEVERAL}" * bool(left)
    about += f" Given as a parameter of the run: {count(given, 'prediction')}." * bool(given)
    reasons = {r["id"]: _why(r) for r in shown}
    below = [Part("gap1", "" if any(reasons.values()) else None)]
    for r in records:
        said = f"- {subject_of(r)}: {why}" if (why := reasons.get(r["id"])) else None
        below.append(Part(f"why.{r['notebook']}.{r['variant']}", said))
    return replace(fill, value=[Part("formula", about), Part("gap0", ""), *fill.value, *below])


def _near(record: dict, said: float) -> bool:
    """Whether a number was at most a tenth off, or within the measured range."""
    off = abs(record["metrics"]["measured"] - said)
    return off <= CLOSE * abs(said) or in_range(record, said)


def _formula(record: dict) -> float | None:
    """The formula's number beside a person's; None for one that was the calculation itself."""
    formula = finite(record.get("formula")) if foretold(record) else None
    itself = record.get("how") == "calculated" and formula == record["metrics"]["measured"]
    return None if itself else formula


def _why(record: dict) -> str:
    """Why the formula differs, or a prediction that has none; "" for one that was near."""
    why = record.get("why", record.get("residual")) or ""
    formula = _formula(record)
    judged = record["metrics"]["predicted"] if formula is None else formula
    return "" if _near(record, judged) else in_markdown(one_line(why))


def _table(columns: tuple[str, ...], rows: list[Part], kind: str, what: str) -> Fill:
    """A table of such rows, each of them `what`; nothing where there is none."""
    if not rows:
        return NO_LINES
    rule = "|" + "---|" * len(columns)
    lines = [Part("head", table_row(*columns)), Part("rule", rule), *rows]
    return Fill(lines, kind, count(len(rows), what))


def _prediction(record: dict, facts: Facts) -> str:
    """A prediction's row."""
    predicted, measured, ratio = numbers_of(record, "predicted", "measured", "ratio")
    if ratio is None and predicted:
        ratio = measured / predicted
    times = "" if ratio is None else number(ratio)
    if ratio is not None and 0.01 <= abs(ratio) < 100:
        times = f"{ratio:.2f}"
    came = outcome_of(record) + facts.disturbed(record["notebook"], measured)
    if (inside := in_range(record, predicted)) or (" to " in came and "(" not in came):
        times = "inside" if inside else "outside"  # of a range that has no middle to judge by
        low, high = numbers_of(record, "measured_low", "measured_high")
        times = "too wide to tell" if inside and high > 2 * low else times
    times = in_markdown(one_line(record.get("grade") or times, 40))
    return table_row(notebook_of(record), subject_of(record), _predicted(record), came, times)


def _predicted(record: dict) -> str:
    """A person's number, also one changed late, with the formula's; or the formula's alone."""
    said = prediction_of(record)
    if not foretold(record):
        return f"formula: {said}"
    if record.get("changed_after_measuring"):
        before = finite(record.get("said_before"))
        first = "" if before is None else f", before: {number(before)}{unit_of(record)}"
        said += f", after the measurement{first}"
    formula = _formula(record)
    return said if formula is None else f"{said} (formula: {number(formula)})"


def decisions(facts: Facts) -> Fill:
    """Each choice of notebooks 2 and 5: what was measured, and what the student would do."""
    records, parts = facts.all("decision"), []
    services = [r["variant"].partition(", ") for r in facts.all("services") if was_disturbed(r)]
    for record in records:
        key = record["variant"]
        own = one_line((facts.get("answer", f"decision_{key}") or {}).get("text") or "")
        busy = ", ".join(feature for service, _, feature in services if service == key)
        measured = one_line(record.get("measured") or "")
        here, gpu, there = measured.partition(f" {RECORDED_GPU}: ")
        lines = {
            "here": here,
            "there": f"{RECORDED_GPU}: {there}" * bool(gpu),
            "busy": f"machine disturbed: {busy}" * bool(busy),
            "own": f"I would: {own}" * bool(own),
        }
        name = in_markdown(one_line(record.get("choice") or key))
        parts.append(Part(f"row.{key}", f"- **{name}** (notebook {notebook_of(record)})"))
        for line, said in lines.items():
            parts.append(Part(f"row.{key}.{line}", f"  - {in_markdown(said)}" if said else None))
    if not parts:
        return NO_LINES
    head = [Part("ranges", RANGES)]
    if there := recorded.records("services"):
        label = in_markdown(recorded.label_of(there[0]))
        head.append(Part("gpu", f"The *{RECORDED_GPU}*: {label}."))
    # An older workbook had a table here.
    head += [Part("gap0", ""), Part("head", None), Part("rule", None)]
    return Fill([*head, *parts], "measured", count(len(records), "decision"))


def configuration(facts: Facts) -> Fill:
    """The best configuration, each argument under vLLM's own name, with why it is so.

    The reasons are the record's `comments`: {argument: text}.
    """
    record = facts.best
    args = (record or {}).get("engine_args")
    if not args:
        return NO_LINES
    comments = record.get("comments") if isinstance(record.get("comments"), dict) else {}
    parts = []
    for name, value in args.items():
        why = in_markdown(one_line(comments.get(name) or "", 900))
        parts.append(Part(f"arg.{name}", f"- `{name}={value!r}`" + (f": {why}" if why else "")))
    comment = answer("configuration_comment")(facts).value
    if comment:
        parts.append(Part("comment", f"- Why: {comment}"))
    return from_record(record, parts)


def week5_table(facts: Facts) -> Fill:
    """What the planner expects of each layout, how to measure it, and the blanks for Week 5."""
    records = facts.all("week5_plan")
    chosen = (facts.get("strategy", "chosen") or {}).get("layout")
    rows = [Part(f"row.{r['variant']}", _to_fill_in(r, chosen)) for r in records]
    goal = next((goal for r in records if (goal := finite(r["metrics"].get("goal_ms")))), None)
    kept = "within the goal" if goal is None else f"within {number(goal)} ms"
    expected = ("GPUs", "tokens/s", "speed-up", "TPOT ms", kept)
    fill = _table(("layout", *expected, *week5.CELLS), rows, "calculated", "row")
    how = _how_to_measure(records)
    return replace(fill, value=[*how, *fill.value]) if how else fill


def _how_to_measure(records: list[dict]) -> list[Part]:
    """How to start the servers, the load that all of them get, and what the numbers are."""
    first = next((r for r in records if isinstance(r.get("command"), str)), {})
    start, load, ranges = (first.get(name) for name in ("command", "load", "ranges"))
    if not start or not isinstance(load, str):
        return []
    sizes = f"{as_code('--tensor-parallel-size')} and {as_code('--data-parallel-size')}"
    return [
        Part(
            "start",
            f"- Start {spaced(first['variant'])}: {as_code(start)} (the other layouts have {sizes} "
            "with their own sizes)",
        ),
        Part("load", f"- Load, the same for each: {as_code(load)}"),
        Part(
            "read",
            "- Fill in its Output token throughput, Mean TPOT and Mean TTFT. The columns before "
            f"are the planner's{f', {in_markdown(one_line(ranges))}' if ranges else ''}. For TTFT "
            "it has none: see Concerns.",
        ),
        Part("gap", ""),
    ]


def _to_fill_in(record: dict, chosen: str | None) -> str:
    numbers, planned = record["metrics"], week5.PLANNED * (record["variant"] == chosen)
    gpus, rate, tpot = (
        "" if value is None else number(value)
        for value in numbers_of(record, "gpus", "output_tokens_per_s", "tpot_ms")
    )
    low, high = (finite(numbers.get(f"tpot_ms_{end}")) for end in ("low", "high"))
    if None not in (low, high):
        tpot += f" ({low:.1f} to {high:.1f})"
    expected = gpus, rate, expected_x(numbers, "speedup_x"), tpot
    within = record.get("within") or ""
    blanks = [BLANK] * len(week5.CELLS)
    return table_row(spaced(record["variant"]) + planned, *expected, within, *blanks)
