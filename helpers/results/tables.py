"""The tables and lists of the documents: regions of several lines, worked out from the facts."""

from __future__ import annotations

import re
from dataclasses import replace

from helpers.display.as_typed import in_markdown
from helpers.display.numbers import number
from helpers.results import week5
from helpers.results.facts import NO_LINES, Facts, Fill, Part, answer, from_record
from helpers.results.merge import BLANK
from helpers.results.wording import (
    ONE_RUN,
    as_code,
    by_person,
    chief_metrics,
    count,
    finite,
    kind_of,
    numbers_of,
    one_line,
    question_of,
    source_of,
    spaced,
    table_row,
    unit_of,
    where,
    with_range,
)

CLOSE = 0.10  # a prediction that is off by less needs no reason
FORMULA = (
    "A formula takes the shape of the model, the load, recorded numbers, or what the same notebook "
    "measured before, such as the time of one long prompt alone."
)
ONE_MOMENT = (
    " A row of one run is one moment: where a row with a range has the same setting, that counts."
)
OF_CHOICE = " For max_num_seqs=1 (the initial throughput) and the best setting it is *optimised*."


def results_table(facts: Facts) -> Fill:
    """Everything that was measured or calculated."""
    rows = [r for r in facts.results() if chief_metrics(r)]
    parts = []
    for notebook in dict.fromkeys(r["notebook"] for r in rows):
        lines = _table_of_notebook(notebook, [r for r in rows if r["notebook"] == notebook])
        parts += [Part(f"{notebook}.{key}", text) for key, text in lines.items()]
    if not parts:
        return NO_LINES
    parts.pop()  # the template has the blank line before the next heading
    kinds = {kind_of(r) for r in rows}
    best = next(kind for kind in ("measured", "calculated", "typed") if kind in kinds)
    return Fill(parts, best, count(len(rows), "result"))


def _table_of_notebook(notebook: str, rows: list[dict]) -> dict[str, str | None]:
    """A heading, the machine (once), and a row a result."""
    measured = where([r for r in rows if kind_of(r) == "measured"])
    elsewhere = "Not measured on this machine; see the source."
    about = f"Measured on {measured}." if measured else elsewhere
    lines = {
        "title": f"### Notebook {one_line(notebook, 80)}",
        "gap1": "",
        "about": about
        + ONE_MOMENT * any(r["experiment"] in ONE_RUN for r in rows)
        + OF_CHOICE * any(r["experiment"] == "optimised" for r in rows),
        "gap2": "",
        "head": "| experiment | variant | result | source |",
        "rule": "|---|---|---|---|",
    }
    for experiment in dict.fromkeys(r["experiment"] for r in rows):
        found = sorted((r for r in rows if r["experiment"] == experiment), key=_number_in_front)
        earlier = _of_earlier_rates(found)
        lines |= {f"row.{experiment}.{r['variant']}": None for r in earlier}
        for r in (r for r in found if r not in earlier):
            cells = (spaced(experiment), _variant(r), ", ".join(chief_metrics(r)), source_of(r))
            lines[f"row.{experiment}.{r['variant']}"] = table_row(*cells)
    return lines | {"gap3": ""}


def _variant(record: dict) -> str:
    """A row's variant, in words where the record says what its number is: "paper: what, in %"."""
    if not isinstance(record.get("what"), str):
        return spaced(record["variant"])
    unit = unit_of(record).strip()
    named = f"{record['variant'].partition(':')[0]}: {record['what']}"
    return spaced(f"{named}, in {unit}" if unit else named)


def _of_earlier_rates(rows: list[dict]) -> list[dict]:
    """Of rates that a load was sent at, those of earlier sessions.

    They follow from what a session measured before: the next one has others, and another capacity.
    """
    rates = [r for r in rows if re.fullmatch(r"[\d.]+_per_s", r["variant"])]
    made = [(r.get("provenance") or {}) for r in rates]
    last = max(made, key=lambda place: place.get("time_utc") or "", default={}).get("session")
    return [r for r, place in zip(rates, made, strict=True) if place.get("session") != last]


def _number_in_front(record: dict) -> float:
    """The number that a variant begins with, such as a rate; the others keep their order."""
    found = re.match(r"\d+(\.\d+)?", record["variant"])
    return float(found[0]) if found else -1.0


def predictions_table(facts: Facts) -> Fill:
    """Each prediction against what came out; below them why those differ that are far off."""
    rows = {
        f"{r['notebook']}.{r['variant']}": r
        for r in facts.all("prediction")
        if None not in numbers_of(r, "predicted", "measured")
    }
    table = [Part(f"row.{name}", _prediction(r)) for name, r in rows.items()]
    columns = ("prediction", "predicted", "measured", "ratio", "predicted by")
    shown = count(sum(part.text is not None for part in table), "prediction")
    fill = replace(_table(columns, table, "measured", "prediction"), note=shown)
    if any(r.get("how") != "calculated" and not by_person(r) for r in rows.values()):
        about = [Part("formula", FORMULA), Part("gap0", "")]
        fill = replace(fill, value=[*about, *fill.value])
    why = [Part(f"why.{name}", _prediction(r) and _why(r)) for name, r in rows.items()]
    if not any(part.text for part in why):
        return fill
    head = [Part("gap", ""), Part("why", "Why those differ that are more than a tenth off:")]
    return replace(fill, value=[*fill.value, *head, Part("gap2", ""), *why])


def _why(record: dict) -> str | None:
    """What a prediction left out; None for one that was near, or within the measured range."""
    predicted, measured = numbers_of(record, "predicted", "measured")
    if abs(measured - predicted) <= CLOSE * abs(predicted) or _in_range(record):
        return None
    why = record.get("why", record.get("residual"))
    said = in_markdown(one_line(why)) if why else "The notebook gives no cause."
    return f"- *{question_of(record)}* {said}"


def _in_range(record: dict) -> bool:
    """Whether a prediction lies in the range that was measured; False without a range."""
    low, predicted, high = numbers_of(record, "measured_low", "predicted", "measured_high")
    return None not in (low, high) and low <= predicted <= high


def _table(columns: tuple[str, ...], rows: list[Part], kind: str, what: str) -> Fill:
    """A table of such rows, each of them `what`; nothing where there is none."""
    if not rows:
        return NO_LINES
    rule = "|" + "---|" * len(columns)
    lines = [Part("head", table_row(*columns)), Part("rule", rule), *rows]
    return Fill(lines, kind, count(len(rows), what))


def _prediction(record: dict) -> str | None:
    """A prediction's row; None for a formula beside the calculation that it is itself."""
    predicted, measured, ratio = numbers_of(record, "predicted", "measured", "ratio")
    if ratio is None and predicted:
        ratio = measured / predicted
    times = "" if ratio is None else number(ratio)
    if ratio is not None and 0.01 <= abs(ratio) < 100:
        times = f"{ratio:.2f}"
    came = f"{number(measured)}{unit_of(record)}"
    if unit_of(record) == "x":
        came = with_range(record["metrics"], "measured", alone="")
    if _in_range(record) or came.startswith("undecided"):
        times = "inside" if _in_range(record) else "outside"  # of the range: no middle to judge by
    kind = record.get("how") or "measured"
    if kind == "calculated" and not by_person(record):
        return None
    how = "" if kind == "measured" else f" ({one_line(kind, 20)})"
    return table_row(
        question_of(record),
        f"{number(predicted)}{unit_of(record)}",
        came + how,
        times,
        _predicted_by(record),
    )


def _predicted_by(record: dict) -> str:
    """Whose prediction it was; one that was changed with the outcome in sight says so."""
    if not by_person(record):
        return one_line(record.get("source") or "formula", 30)
    if not record.get("changed_after_measuring"):
        return "you"
    before = finite(record.get("said_before"))
    first = "" if before is None else f" (before: {number(before)}{unit_of(record)})"
    return f"you, after the measurement{first}"


def decisions_table(facts: Facts) -> Fill:
    """Each choice of notebooks 2 and 5: what was measured, and what the student would do."""
    rows = []
    for record in facts.all("decision"):
        decided = facts.get("answer", f"decision_{record['variant']}") or {}
        cells = record.get("choice"), record.get("measured"), decided.get("text")
        text = table_row(*(in_markdown(one_line(cell or "", 300)) for cell in cells))
        rows.append(Part(f"row.{record['variant']}", text))
    columns = ("choice", "what I measured", "what I would do")
    return _table(columns, rows, "measured", "decision")


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
    expected = ("GPUs", "tokens/s", "speed-up", "TPOT ms", kept, "TTFT ms")
    fill = _table(("layout", *expected, *week5.CELLS), rows, "calculated", "row")
    how = _how_to_measure(records)
    return replace(fill, value=[*how, *fill.value]) if how else fill


def _how_to_measure(records: list[dict]) -> list[Part]:
    """How to start the servers, the load that all of them get, and what the numbers are."""
    first = next((r for r in records if isinstance(r.get("command"), str)), {})
    start, load, refused = (first.get(name) for name in ("command", "load", "refused"))
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
            "are the planner's, in brackets what it may be by the planner's recorded errors. TTFT "
            "has no such range: see Concerns.",
        ),
        Part("refused", f"- {in_markdown(one_line(refused))}" if refused else None),
        Part("gap", ""),
    ]


def _to_fill_in(record: dict, chosen: str | None) -> str:
    numbers, planned = record["metrics"], week5.PLANNED * (record["variant"] == chosen)
    gpus, rate, tpot, ttft = (
        "" if value is None else number(value)
        for value in numbers_of(record, "gpus", "output_tokens_per_s", "tpot_ms", "ttft_ms")
    )
    low, high = (finite(numbers.get(f"tpot_ms_{end}")) for end in ("low", "high"))
    if None not in (low, high):
        tpot += f" ({low:.1f} to {high:.1f})"
    expected = gpus, rate, with_range(numbers, "speedup_x", alone=""), tpot
    within = record.get("within") or ""
    blanks = [BLANK] * len(week5.CELLS)
    return table_row(spaced(record["variant"]) + planned, *expected, within, ttft, *blanks)
