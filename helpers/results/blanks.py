"""Which blank of the two documents is filled from which record.

`SLOTS`, at the end, has a line for each blank. A slot is a function of the facts that returns a
Fill: the text for the blank (or a list of parts for a whole region), whether it was measured,
calculated, typed or is missing, and where it is from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from helpers.display.as_typed import in_markdown
from helpers.results.merge import BLANK
from helpers.results.one_run import OTHER_RUN, latest_that_agree, measured_again
from helpers.results.store import load
from helpers.results.wording import (
    by_person,
    chief_metrics,
    count,
    finite,
    kind_of,
    machine_of,
    one_line,
    origin_of,
    rounded,
    source_of,
    spaced,
    table_row,
    with_range,
)

# Experiments that have their own place in the documents and are not rows of the results table.
NOT_RESULTS = {
    "answer", "prediction", "checklist", "hardware", "strategy", "self_check", "exercise",
    "puzzle", "week5_plan", "decision",
}  # fmt: skip
ROWS_PER_EXPERIMENT, LAST_ROWS = 10, 3
SPEED = "output_tokens_per_s"
MOST_SURPRISES = 2


@dataclass(frozen=True)
class Part:
    """One line of a region. key: its identity over exports. text: None takes the line out.

    replaces: as of a Fill.
    """

    key: str
    text: str | None
    replaces: str = ""


@dataclass(frozen=True)
class Fill:
    """What a slot has for its blank, as Markdown. note: where it is from.

    replaces: the line that a person wrote into the document and gave up for the form's words.
    """

    value: str | list[Part]
    kind: str  # measured | calculated | typed | missing
    note: str = ""
    replaces: str = ""


MISSING = Fill("", "missing")
TAKEN_BACK = Fill("", "missing", "the student took it back")
NO_LINES = Fill([], "missing")


@dataclass
class Facts:
    """The record of every (notebook, experiment, variant) that counts; see one_run.py.

    stale: part of Weeks 1 to 3 was measured again after the choice that the numbers belong to.
    """

    records: list[dict]
    problems: list[str] = field(default_factory=list)
    stale: bool = False

    @classmethod
    def of(cls, folder: Path) -> Facts:
        """The facts of a results folder; `problems` names its damaged lines."""
        records, problems = load(folder)
        return cls.of_records(records, problems)

    @classmethod
    def of_records(cls, records: list[dict], problems: Iterable[str] = ()) -> Facts:
        """The facts of all records of a folder, in the order in which they were written."""
        return cls(latest_that_agree(records), list(problems), measured_again(records))

    def all(self, experiment: str, prefix: str = "") -> list[dict]:
        """The records of an experiment whose variant begins so."""
        of_experiment = [r for r in self.records if r["experiment"] == experiment]
        return [r for r in of_experiment if r["variant"].startswith(prefix)]

    def get(self, experiment: str, variant: str) -> dict | None:
        """The record saved last under these names, or None."""
        found = [r for r in self.all(experiment, variant) if r["variant"] == variant]
        return found[-1] if found else None

    def results(self, notebook: str = "") -> list[dict]:
        """What was measured or calculated in the notebooks whose name begins so."""
        return [
            r
            for r in self.records
            if r["notebook"].startswith(notebook) and r["experiment"] not in NOT_RESULTS
        ]


Slot = Callable[[Facts], Fill]


# ---------------------------------------------------------------- what many slots do


def _from(record: dict | None, text: str | list[Part]) -> Fill:
    return Fill(text, kind_of(record), origin_of(record)) if record and text else MISSING


def _metric(record: dict | None, name: str, ending: str = "") -> Fill:
    value = finite(record["metrics"].get(name)) if record else None
    return MISSING if value is None else _from(record, rounded(value) + ending)


def _text(record: dict | None, name: str) -> Fill:
    value = record.get(name) if record else None
    return _from(record, in_markdown(value[:2000]) if isinstance(value, str) else "")


def _answer(variant: str) -> Slot:
    def slot(facts: Facts) -> Fill:
        record = facts.get("answer", variant)
        if record and record.get("withdrawn"):
            return TAKEN_BACK
        fill = _text(record, "text")
        # Words are never measured.
        kind = "typed" if fill.kind == "measured" else fill.kind
        return replace(fill, kind=kind, replaces=_given_up(record))

    slot.answer = variant
    return slot


def _given_up(record: dict | None) -> str:
    line = (record or {}).get("replaces")
    return line if isinstance(line, str) else ""


def _unlabelled(variant: str) -> str:
    return ""


def _list_of(prefix: str, thing: str = "answer", label: Callable[[str], str] = _unlabelled) -> Slot:
    """A list that grows: a line for each answer whose variant begins so (concern_1, concern_2)."""

    def slot(facts: Facts) -> Fill:
        parts, kinds = [], set()
        for record in facts.all("answer", prefix):
            text = _text(record, "text").value
            if text:
                kinds.add(kind_of(record))
                text = f"- {label(record['variant'])}{text}"
            if text or record.get("withdrawn"):
                parts.append(Part(record["variant"], text or None, _given_up(record)))
        if not kinds:
            return replace(NO_LINES, value=parts)
        written = sum(part.text is not None for part in parts)
        kind = "calculated" if kinds == {"calculated"} else "typed"
        return Fill(parts, kind, count(written, thing))

    slot.label = label
    return slot


def _about(variant: str) -> str:
    """What a note of notebook 3 is about: "paged attention: " of note_paged_attention."""
    return spaced(variant.removeprefix("note_")) + ": "


# ---------------------------------------------------------------- Weeks 1 to 3


def _best(facts: Facts) -> dict | None:
    return facts.get("optimised", "best")


def _typed_baseline(facts: Facts) -> dict | None:
    """The student's own number of Week 2, where there is one."""
    typed = facts.get("baseline", "typed")
    return typed if typed and finite(typed["metrics"].get("output_tokens_per_s")) else None


def _measured_baseline(facts: Facts) -> Fill:
    """Output tokens/s of one request at a time: measured in turn with the choice, else before."""
    in_turn = _metric(_best(facts), "baseline_tokens_per_s")
    if in_turn.kind != "missing":
        return in_turn
    record = facts.get("baseline", "one_at_a_time")
    best = _best(facts)
    return MISSING if best and (record or {}).get(OTHER_RUN) else _metric(record, SPEED)


def initial_throughput(facts: Facts) -> Fill:
    """Output tokens/s of the baseline: the student's own, else the one measured this week."""
    typed = _typed_baseline(facts)
    return _metric(typed, SPEED) if typed else _measured_baseline(facts)


def gpu_model(facts: Facts) -> Fill:
    """The GPU of the baseline, or that there was none."""
    typed = _typed_baseline(facts)
    texts = (typed or {}).get("texts")
    if isinstance(texts, dict) and texts.get("gpu_model"):
        return Fill(in_markdown(str(texts["gpu_model"])[:120]), "typed", origin_of(typed))
    # The machine of the import is not the machine of the number.
    record = _best(facts) or facts.get("baseline", "one_at_a_time")
    place = (record or {}).get("provenance")
    if not place:
        return MISSING
    name = place.get("gpu") or f"none, CPU run ({machine_of(record)})"
    return Fill(in_markdown(one_line(name, 160)), "measured", origin_of(record))


def memory_setting(facts: Facts) -> Fill:
    """The best gpu_memory_utilization; on a CPU the size of the KV cache stands for it."""
    share = _engine_arg(facts, "gpu_memory_utilization")
    size = _engine_arg(facts, "kv_cache_memory_bytes")
    if share is not None:
        return _from(_best(facts), f"{share:.2f}")
    if size is None:
        return MISSING
    mib = size / 2**20
    amount = f"{rounded(mib / 1024)} GiB" if mib >= 1024 else f"{rounded(round(mib, 1))} MiB"
    return _from(_best(facts), f"not used; KV cache set to {amount} instead")


def max_num_seqs(facts: Facts) -> Fill:
    """The best max_num_seqs."""
    value = _engine_arg(facts, "max_num_seqs")
    return MISSING if value is None else _from(_best(facts), f"{value:g}")


def _engine_arg(facts: Facts, name: str) -> float | None:
    return finite(((_best(facts) or {}).get("engine_args") or {}).get(name))


def final_throughput(facts: Facts) -> Fill:
    """Output tokens/s of the best configuration."""
    return _metric(_best(facts), SPEED)


def improvement(facts: Facts) -> Fill:
    """Final over measured baseline: the two numbers that the document shows.

    Where "Initial throughput" shows a typed number, that is another baseline: the line says so.
    """
    value = _improvement(facts)
    if value is None:
        return MISSING
    fill = _from(_best(facts), rounded(value))
    if _typed_baseline(facts) is None:
        return fill
    over = f"over the {_measured_baseline(facts).value} tokens/sec measured this week: "
    return replace(fill, value=over + fill.value)


def _improvement(facts: Facts) -> float | None:
    first, last = _measured_baseline(facts).value, final_throughput(facts).value
    if not first or not last:
        return None
    numbers = [float(str(text).replace(",", "")) for text in (first, last)]
    return numbers[1] / numbers[0] if numbers[0] else None


# ---------------------------------------------------------------- five numbers, two surprises


def tuning(facts: Facts) -> Fill:
    """The improvement, and the range that was measured in turn."""
    value, record = _improvement(facts), _best(facts)
    if value is None:
        return MISSING
    return _from(record, with_range({**record["metrics"], "improvement_x": value}, "improvement_x"))


def _ranged(experiment: str, variant: str, name: str) -> Slot:
    def slot(facts: Facts) -> Fill:
        record = facts.get(experiment, variant)
        return _from(record, with_range(record["metrics"], name)) if record else MISSING

    return slot


def speculation(facts: Facts) -> Fill:
    """The number of drafted tokens that gained most, of those that were tried."""
    tried = facts.all("speculation", "draft model, k=")
    tried = [r for r in tried if finite(r["metrics"].get("speedup_x")) is not None]
    if not tried:
        return MISSING
    best = max(tried, key=lambda r: r["metrics"]["speedup_x"])
    k = in_markdown(best["variant"].rpartition("=")[2])
    return _from(best, f"{with_range(best['metrics'], 'speedup_x')}, {k} tokens drafted")


def where_measured(facts: Facts) -> Fill:
    """The one run that the numbers of Weeks 1 to 3 are from."""
    record = _best(facts) or facts.get("baseline", "one_at_a_time")
    if record is None:
        return MISSING
    place = record.get("provenance") or {}
    text = f"{_where([record])}, {(place.get('time_utc') or '')[:10]}, in one run"
    if facts.stale:
        text += (
            "; part of it was measured again later, and is left out until the cell that "
            "chooses the best configuration is run again"
        )
    return _from(record, text)


def _surprise(rank: int) -> Slot:
    """The student's own prediction that missed most; `rank` 0, or 1 for the next."""

    def slot(facts: Facts) -> Fill:
        missed = sorted(_missed(facts), key=_factor, reverse=True)
        if len(missed) <= rank:
            return MISSING
        record = missed[rank]
        numbers = record["metrics"]
        unit = _unit(record)
        said, came = (f"{rounded(numbers[n])}{unit}" for n in ("predicted", "measured"))
        question = in_markdown(str(record.get("question") or record["variant"])[:300])
        return _from(record, f"{question} I said {said}, it was {came}.")

    return slot


def _missed(facts: Facts) -> list[dict]:
    """The student's own predictions, made before the outcome was seen, that have one."""
    own = [r for r in facts.all("prediction") if by_person(r)]
    return [r for r in own if not r.get("changed_after_measuring") and _factor(r) > 1]


def _factor(record: dict) -> float:
    """How many times too high or too low a prediction was; 0 for one that cannot be said."""
    predicted, measured = (finite(record["metrics"].get(n)) for n in ("predicted", "measured"))
    if not predicted or measured is None:
        return 0.0
    ratio = measured / predicted
    return max(ratio, 1 / ratio) if ratio > 0 else math.inf


def puzzles(facts: Facts) -> Fill:
    """How many code puzzles were solved, and which."""
    tried = facts.all("puzzle")
    solved = [r for r in tried if r.get("solved") is True]
    if not solved:
        return MISSING
    of = max((int(finite(r.get("of")) or 0) for r in tried), default=0)
    names = ", ".join(in_markdown(str(r.get("title") or r["variant"])[:80]) for r in solved)
    return Fill(f"{len(solved)} of {max(of, len(solved))} ({names})", "measured", "its checks")


# ---------------------------------------------------------------- tables and lists


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


def _table_of_notebook(notebook: str, rows: list[dict]) -> dict[str, str]:
    """A heading, the machine (once), and a row a result; of a long sweep both ends."""
    lines = {
        "title": f"### Notebook {one_line(notebook, 80)}",
        "gap1": "",
        "about": _about_machine([r for r in rows if kind_of(r) == "measured"]),
        "gap2": "",
        "head": "| experiment | variant | result | source |",
        "rule": "|---|---|---|---|",
    }
    for experiment in dict.fromkeys(r["experiment"] for r in rows):
        shown = [r for r in rows if r["experiment"] == experiment]
        hidden = len(shown) - ROWS_PER_EXPERIMENT
        if hidden > 0:
            shown = shown[: ROWS_PER_EXPERIMENT - LAST_ROWS] + shown[-LAST_ROWS:]
        name = spaced(experiment)
        for r in shown:
            cells = (name, spaced(r["variant"]), ", ".join(chief_metrics(r)), source_of(r))
            lines[f"row.{experiment}.{r['variant']}"] = table_row(*cells)
        if hidden > 0:
            cells = (name, f"{hidden} more", "in measurements.jsonl", "")
            lines[f"more.{experiment}"] = table_row(*cells)
    return lines | {"gap3": ""}


def _about_machine(measured: list[dict]) -> str:
    if not measured:
        return "Not measured on this machine; see the source."
    return f"Measured on {_where(measured)}."


def _where(records: list[dict]) -> str:
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


def predictions_table(facts: Facts) -> Fill:
    """Each prediction against what came out, with the student's words on why they differ."""
    rows = [
        Part(f"row.{r['notebook']}.{r['variant']}", _prediction(r))
        for r in facts.all("prediction")
        if finite(r["metrics"].get("predicted")) is not None
        and finite(r["metrics"].get("measured")) is not None
    ]
    columns = ("prediction", "predicted", "measured", "ratio", "predicted by", "why they differ")
    return _table(columns, rows, "measured", "prediction")


def _table(columns: tuple[str, ...], rows: list[Part], kind: str, what: str) -> Fill:
    """A table of such rows, each of them `what`; nothing where there is none."""
    if not rows:
        return NO_LINES
    rule = "|" + "---|" * len(columns)
    lines = [Part("head", table_row(*columns)), Part("rule", rule), *rows]
    return Fill(lines, kind, count(len(rows), what))


def _prediction(record: dict) -> str:
    predicted, measured, ratio = (
        finite(record["metrics"].get(name)) for name in ("predicted", "measured", "ratio")
    )
    if ratio is None and predicted:
        ratio = measured / predicted
    times = "" if ratio is None else rounded(ratio)
    if ratio is not None and 0.01 <= abs(ratio) < 100:
        times = f"{ratio:.2f}"
    kind = record.get("how") or "measured"
    how = "" if kind == "measured" else f" ({one_line(kind, 20)})"
    return table_row(
        spaced(record["variant"]),
        f"{rounded(predicted)}{_unit(record)}",
        f"{rounded(measured)}{_unit(record)}{how}",
        times,
        _predicted_by(record),
        in_markdown(one_line(record.get("residual") or "")),
    )


def _unit(record: dict) -> str:
    unit = in_markdown(one_line(record.get("unit") or "", 30))
    return unit if unit in ("", "x", "%") else f" {unit}"


def _predicted_by(record: dict) -> str:
    """Whose prediction it was; one that was changed with the outcome in sight says so."""
    if not by_person(record):
        return one_line(record.get("source") or "formula", 30)
    if not record.get("changed_after_measuring"):
        return "you"
    before = finite(record.get("said_before"))
    first = "" if before is None else f" (before: {rounded(before)}{_unit(record)})"
    return f"you, after the measurement{first}"


def decisions_table(facts: Facts) -> Fill:
    """Each choice of notebook 5: what was measured, and what the student would do."""
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
    record = _best(facts)
    args = (record or {}).get("engine_args")
    if not args:
        return NO_LINES
    comments = record.get("comments") if isinstance(record.get("comments"), dict) else {}
    parts = []
    for name, value in args.items():
        why = in_markdown(one_line(comments.get(name) or "", 300))
        parts.append(Part(f"arg.{name}", f"- `{name}={value!r}`" + (f": {why}" if why else "")))
    comment = _answer("configuration_comment")(facts).value
    if comment:
        parts.append(Part("comment", f"- Why: {comment}"))
    return _from(record, parts)


def self_check(facts: Facts) -> Fill:
    """How many questions of notebook 3 were answered right."""
    record = facts.get("self_check", "score")
    metrics = (record or {}).get("metrics", {})
    right, asked = finite(metrics.get("correct")), finite(metrics.get("questions"))
    if right is None or not asked:
        return MISSING
    return Fill(f"{right:g} of {asked:g} questions right", "measured", origin_of(record))


# ---------------------------------------------------------------- the checklist


def _ticked(item: str, evidence: Callable[[Facts], str] | None = None) -> Slot:
    """A checklist item: ticked by the student, by what the notebook saw, or by the results.

    What ran where nobody looked on (`make run`) ticks nothing.
    """

    def slot(facts: Facts) -> Fill:
        record = facts.get("checklist", item) or {}
        by_notebook = record.get("source") == "evidence"
        why = in_markdown(one_line(record.get("evidence") or "", 200))
        if record.get("done") and by_notebook and why and _attended(record):
            return Fill(f"evidence: {why}", "measured", record["notebook"])
        if record.get("done") and not by_notebook:
            why = f": {why}" if why else ""
            return Fill(f"ticked by the student{why}", "typed", record["notebook"])
        if record.get("done") is False and not by_notebook:
            return TAKEN_BACK
        return _evident(evidence)(facts) if evidence else MISSING

    return slot


def _evident(evidence: Callable[[Facts], str]) -> Slot:
    """A checklist item that the results themselves tick."""

    def slot(facts: Facts) -> Fill:
        why = evidence(facts)
        return Fill(f"evidence: {why}", "measured", "from the results") if why else MISSING

    return slot


def _attended(record: dict) -> bool:
    """Whether a person ran the cell that saved it."""
    return (record.get("provenance") or {}).get("attended") is True


def _documented(facts: Facts) -> str:
    core = [
        slot(facts)
        for (_, section, _), slot in SLOTS.items()
        if section in ("## Week 1-2: Baseline", "## Week 3: Optimization")
    ]
    filled = sum(fill.kind != "missing" for fill in core)
    # What a notebook fills in documents nothing.
    written = sum(
        by_person(record) and _text(record, "text").kind == "typed"
        for prefix in ("key_challenge", "insight_", "question_")
        for record in facts.all("answer", prefix)
    )
    if not written or filled < len(core) - 1:
        return ""
    answers = count(written, "answer")
    return f"{filled} of {len(core)} blanks of Weeks 1 to 3 are filled, {answers} written"


def _served(facts: Facts) -> str:
    found = [r for r in facts.results("05") if kind_of(r) == "measured" and _attended(r)]
    return f"{count(len(found), 'measurement')} against a server in notebook 5" if found else ""


def _tried(facts: Facts) -> str:
    found = [r for r in facts.results("02") if kind_of(r) == "measured" and _attended(r)]
    names = list(dict.fromkeys(spaced(r["experiment"]) for r in found))
    more = " and more" if len(names) > 4 else ""
    return f"measured {', '.join(names[:4])}{more}" if names else ""


# ---------------------------------------------------------------- distributed_planning.md


def _hardware(name: str) -> Slot:
    def slot(facts: Facts) -> Fill:
        record = facts.get("hardware", "week5")
        number = _metric(record, name)
        return _text(record, name) if number.kind == "missing" else number

    return slot


def week5_gpu(facts: Facts) -> Fill:
    """The GPU of Week 5; a box of the catalogue is said to be only planned."""
    fill = _hardware("gpu_model")(facts)
    if fill.kind != "calculated":
        return fill
    return replace(fill, value=f"{fill.value} (planned, not on this machine)")


def _strategy(which: str, name: str, code: bool = False) -> Slot:
    """A text of a strategy: calculated, unless it says that it was measured or typed."""

    def slot(facts: Facts) -> Fill:
        record = facts.get("strategy", which)
        fill = _text(record, name)
        if fill.kind == "missing":
            return MISSING
        text = f"`{one_line(record[name]).replace('`', '')}`" if code else fill.value
        return Fill(text, fill.kind if record.get("source") else "calculated", fill.note)

    return slot


def reason(facts: Facts) -> Fill:
    """Why this strategy: the student's words, else the planner's."""
    own = _answer("tp_reason")(facts)
    return _strategy("chosen", "reason")(facts) if own.kind == "missing" else own


def _speedup(which: str) -> Slot:
    """The planner's speed-up with its range, and of what: calculated, unless the record says."""

    def slot(facts: Facts) -> Fill:
        record = facts.get("strategy", which)
        fill = _metric(record, "expected_speedup_x", "x")
        if fill.kind == "missing":
            return MISSING
        text = with_range(record["metrics"], "expected_speedup_x", alone="")
        what = in_markdown(record.get("speedup_of") or "")
        text += f" ({what})" if what else ""
        kind = fill.kind if record.get("source") else "calculated"
        return Fill(text, kind, fill.note)

    return slot


def week5_table(facts: Facts) -> Fill:
    """What the planner expects of each size, and the blanks for what Week 5 measures."""
    rows = [Part(f"row.{r['variant']}", _to_fill_in(r)) for r in facts.all("week5_plan")]
    expected = ("expected tokens/s", "expected TPOT ms", "expected speed-up")
    return _table(("layout", *expected, "tokens/s", "TPOT ms"), rows, "calculated", "row")


def _to_fill_in(record: dict) -> str:
    numbers = record["metrics"]
    speed, tpot = (finite(numbers.get(name)) for name in (SPEED, "tpot_ms"))
    cells = ["" if value is None else rounded(value) for value in (speed, tpot)]
    cells.append(with_range(numbers, "speedup_x", alone=""))
    return table_row(spaced(record["variant"]), *cells, BLANK, BLANK)


# ---------------------------------------------------------------- which line is which slot

_MY_LEARNINGS = {
    "## Week 1-2: Baseline": {
        "- Initial throughput: ___ tokens/sec": initial_throughput,
        "- GPU model: ___": gpu_model,
        "- Key challenge: ___": _answer("key_challenge"),
    },
    "## Week 3: Optimization": {
        "- Optimal gpu_memory_utilization: ___": memory_setting,
        "- Optimal max_num_seqs: ___": max_num_seqs,
        "- Final throughput: ___ tokens/sec": final_throughput,
        "- Improvement: ___x": improvement,
    },
    "## Key Insights": {f"{n}. ___": _answer(f"insight_{n}") for n in (1, 2, 3)},
    "## Questions for Week 5+": {f"{n}. ___": _answer(f"question_{n}") for n in (1, 2)},
    "## Five numbers of this week": {
        "- Tuning, output tokens/s over one request at a time: ___": tuning,
        "- Prefix caching in a conversation, time to first token: ___": _ranged(
            "prefix_caching", "conversation", "ttft_gain_x"
        ),
        "- Speculative decoding with a draft model, one stream: ___": speculation,
        "- Tensor parallelism on two ranks of this machine: ___": _ranged(
            "trial", "TP 2 against TP 1", "speedup_x"
        ),
        "- Server over the engine inside a notebook, tokens/s: ___": _ranged(
            "server", "all_at_once", "server_share_x"
        ),
        "- Weeks 1 to 3 measured on: ___": where_measured,
    },
    "## My largest surprises": {
        f"{rank + 1}. ___": _surprise(rank) for rank in range(MOST_SURPRISES)
    },
    "## Issues and workarounds": {"- ___": _list_of("issue_")},
    "## What I built and checked": {
        "- Code puzzles solved: ___": puzzles,
        "- Self-check of notebook 3: ___": self_check,
    },
    "## Week 4 checklist": {
        "- [ ] Documented my progress in this file": _evident(_documented),
        "- [ ] Read the PagedAttention paper (abstract and introduction at least)": _ticked(
            "paper"
        ),
        "- [ ] Reviewed vLLM's documentation on distributed inference": _ticked("docs_distributed"),
        "- [ ] Tried server mode": _ticked("server_mode", _served),
        "- [ ] Planned the multi-GPU strategy for Week 5": _ticked("multi_gpu_plan"),
        "- [ ] Reviewed and improved the code documentation of Weeks 1-3": _ticked("code_docs"),
        "- [ ] Understood tensor parallelism": _ticked("tensor_parallelism"),
        "- [ ] Optional: tried one advanced feature": _ticked("advanced_feature", _tried),
    },
}
_APPENDIX = {
    "## Optimal configuration": {"___": configuration},
    "## Predictions against measurements": {"___": predictions_table},
    "## Production decisions": {"___": decisions_table},
    "## Reading notes": {"- ___": _list_of("note_", "note", _about)},
    "## Week 4 results by experiment": {"___": results_table},
}
_DISTRIBUTED_PLANNING = {
    "## Hardware Available": {
        "- Number of GPUs: ___": _hardware("gpu_count"),
        "- GPU Model: ___": week5_gpu,
        "- GPU Memory: ___ GB each": _hardware("gpu_memory_gb"),
        "- Inter-GPU Link: ___ (NVLink/PCIe)": _hardware("link"),
    },
    "## Strategy": {"- Reason: ___": reason, "- Expected speedup: ___": _speedup("chosen")},
    "## Concerns": {"- ___": _list_of("concern_")},
    "## The plan for the course's model": {
        "- Layout: ___": _strategy("chosen", "layout"),
        "- Command to start it: ___": _strategy("chosen", "command", code=True),
    },
    "## A model that needs several GPUs": {
        "- Layout: ___": _strategy("second", "layout"),
        "- Reason: ___": _strategy("second", "reason"),
        "- Expected speedup: ___": _speedup("second"),
        "- Command to start it: ___": _strategy("second", "command", code=True),
    },
    "## Results of Week 5, to be filled in": {"___": week5_table},
}
SLOTS: dict[tuple[str, str, str], Slot] = {
    (document, section, line): slot
    for document, sections in (
        ("my_learnings", _MY_LEARNINGS),
        ("my_learnings_appendix", _APPENDIX),
        ("distributed_planning", _DISTRIBUTED_PLANNING),
    )
    for section, lines in sections.items()
    for line, slot in lines.items()
}
