"""Which blank of the two documents is filled from which record.

`SLOTS`, at the end, has a line for each blank. A slot is a function of the facts that returns a
Fill: the text for the blank (or a list of parts for a whole region), whether it was measured,
calculated, typed or is missing, and where it is from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from helpers.results.store import latest_of, load
from helpers.results.wording import (
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
)

# Experiments that have their own place in the documents and are not rows of the results table.
NOT_RESULTS = {
    *("answer", "prediction", "checklist", "hardware", "strategy", "self_check", "exercise"),
    "puzzle",
}
ROWS_PER_EXPERIMENT, LAST_ROWS = 10, 3


@dataclass(frozen=True)
class Part:
    """One line of a region. key: its identity over exports."""

    key: str
    text: str


@dataclass(frozen=True)
class Fill:
    """What a slot has for its blank. note: where it is from."""

    value: str | list[Part]
    kind: str  # measured | calculated | typed | missing
    note: str = ""


MISSING = Fill("", "missing")
TAKEN_BACK = Fill("", "missing", "the student took the tick away")
NO_LINES = Fill([], "missing")


@dataclass
class Facts:
    """The latest record of every (notebook, experiment, variant) in a results folder."""

    records: list[dict]
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> Facts:
        """The facts of a results folder; `problems` names its damaged lines."""
        records, problems = load(folder)
        return cls(latest_of(records), problems)

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
    return _from(record, one_line(value) if isinstance(value, str) else "")


def _answer(variant: str) -> Slot:
    def slot(facts: Facts) -> Fill:
        fill = _text(facts.get("answer", variant), "text")
        # Words are never measured.
        return replace(fill, kind="typed") if fill.kind == "measured" else fill

    return slot


def _list_of(prefix: str, thing: str = "answer", label: Callable[[str], str] | None = None) -> Slot:
    """A list that grows: a line for each answer whose variant begins so (concern_1, concern_2)."""

    def slot(facts: Facts) -> Fill:
        found = [(r, _text(r, "text").value) for r in facts.all("answer", prefix)]
        found = [(record, text) for record, text in found if text]
        parts = [
            Part(r["variant"], f"- {label(r['variant']) if label else ''}{text}")
            for r, text in found
        ]
        calculated = {kind_of(record) for record, _ in found} == {"calculated"}
        kind = "calculated" if calculated else "typed"
        return Fill(parts, kind, count(len(parts), thing)) if parts else NO_LINES

    return slot


def _about(variant: str) -> str:
    """What a note of notebook 3 is about: "paged attention: " of note_paged_attention."""
    return spaced(variant.removeprefix("note_")) + ": "


# ---------------------------------------------------------------- Weeks 1 to 3


def _measured_baseline(facts: Facts) -> dict | None:
    return facts.get("baseline", "one_at_a_time")


def _best(facts: Facts) -> dict | None:
    return facts.get("optimised", "best")


def _baseline(facts: Facts) -> dict | None:
    """The student's own baseline if there is one, else the one measured this week."""
    typed = facts.get("baseline", "typed")
    if typed and finite(typed["metrics"].get("output_tokens_per_s")) is not None:
        return typed
    return _measured_baseline(facts) or typed


def initial_throughput(facts: Facts) -> Fill:
    """Output tokens/s of the baseline."""
    return _metric(_baseline(facts), "output_tokens_per_s")


def gpu_model(facts: Facts) -> Fill:
    """The GPU of the baseline, or that there was none."""
    record = _baseline(facts) or _best(facts)
    texts = (record or {}).get("texts")
    if isinstance(texts, dict) and texts.get("gpu_model"):
        return Fill(one_line(texts["gpu_model"], 120), "typed", origin_of(record))
    if record and kind_of(record) == "typed":
        # The machine of the import is not the machine of the number.
        record = _measured_baseline(facts) or _best(facts)
    place = (record or {}).get("provenance")
    if not place:
        return MISSING
    name = place.get("gpu") or f"none, CPU run ({machine_of(record)})"
    return Fill(one_line(name, 160), "measured", origin_of(record))


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
    return _metric(_best(facts), "output_tokens_per_s")


def improvement(facts: Facts) -> Fill:
    """Final over measured baseline.

    Where "Initial throughput" shows a typed number, that is another baseline: the line says so.
    """
    fill = _metric(_best(facts), "improvement_x")
    if fill.kind in ("missing", "typed") or initial_throughput(facts).kind != "typed":
        return fill
    over = _metric(_measured_baseline(facts), "output_tokens_per_s").value
    what = f"the {over} tokens/sec measured this week" if over else "a measured baseline"
    return replace(fill, value=f"over {what}: {fill.value}")


# ---------------------------------------------------------------- tables and lists


def results_table(facts: Facts) -> Fill:
    """Everything that was measured or calculated."""
    return _table(r for r in facts.results() if chief_metrics(r))


def _table(rows: Iterable[dict]) -> Fill:
    """Tables of results, one per notebook."""
    rows = list(rows)
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
    machines = "; ".join(dict.fromkeys(machine_of(r) for r in measured))
    place = measured[0].get("provenance") or {}
    text = f"Measured on {machines}, vLLM {place.get('vllm')}"
    if place.get("model"):
        text += f", model {one_line(place['model'], 80)}"
        text += f" ({place['weights']} weights)" if place.get("weights") else ""
    return text + "."


def predictions_table(facts: Facts) -> Fill:
    """Each prediction against what came out, with the student's words on why they differ."""
    rows = [
        Part(f"row.{r['notebook']}.{r['variant']}", _prediction(r))
        for r in facts.all("prediction")
        if finite(r["metrics"].get("predicted")) is not None
        and finite(r["metrics"].get("measured")) is not None
    ]
    if not rows:
        return NO_LINES
    head = "| prediction | predicted | measured | ratio | predicted by | why they differ |"
    lines = [Part("head", head), Part("rule", "|---|---|---|---|---|---|"), *rows]
    return Fill(lines, "measured", count(len(rows), "prediction"))


def _prediction(record: dict) -> str:
    predicted, measured, ratio = (
        finite(record["metrics"].get(name)) for name in ("predicted", "measured", "ratio")
    )
    if ratio is None and predicted:
        ratio = measured / predicted
    times = "" if ratio is None else rounded(ratio)
    if ratio is not None and 0.01 <= abs(ratio) < 100:
        times = f"{ratio:.2f}"
    unit = one_line(record.get("unit") or "")
    unit = unit if unit in ("", "x", "%") else f" {unit}"
    kind = record.get("how") or "measured"
    how = "" if kind == "measured" else f" ({one_line(kind, 20)})"
    by = "you" if kind_of(record) == "typed" else record.get("source") or "formula"
    return table_row(
        spaced(record["variant"]),
        f"{rounded(predicted)}{unit}",
        f"{rounded(measured)}{unit}{how}",
        times,
        by,
        record.get("residual") or "",
    )


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
        why = one_line(comments.get(name) or "", 300)
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
    """A checklist item: ticked by the student, by what the notebook saw, or by the results."""

    def slot(facts: Facts) -> Fill:
        record = facts.get("checklist", item) or {}
        by_notebook = record.get("source") == "evidence"
        if record.get("done"):
            why = one_line(record.get("evidence") or "", 200)
            if by_notebook and why:
                return Fill(f"evidence: {why}", "measured", record["notebook"])
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


def _documented(facts: Facts) -> str:
    core = [
        slot(facts)
        for (_, section, _), slot in SLOTS.items()
        if section in ("## Week 1-2: Baseline", "## Week 3: Optimization")
    ]
    filled = sum(fill.kind != "missing" for fill in core)
    # What a notebook fills in documents nothing.
    written = sum(
        kind_of(record) == "typed" and _text(record, "text").kind == "typed"
        for prefix in ("key_challenge", "insight_", "question_")
        for record in facts.all("answer", prefix)
    )
    if not written or filled < len(core) - 1:
        return ""
    answers = count(written, "answer")
    return f"{filled} of {len(core)} blanks of Weeks 1 to 3 are filled, {answers} written"


def _served(facts: Facts) -> str:
    found = [r for r in facts.results("05") if kind_of(r) == "measured"]
    if not found:
        return ""
    return f"{count(len(found), 'measurement')} against a server in notebook {found[0]['notebook']}"


def _planned(facts: Facts) -> str:
    record = facts.get("strategy", "chosen")
    return f"strategy chosen in notebook {record['notebook']}" if record else ""


def _tried(facts: Facts) -> str:
    found = [r for r in facts.results("02") if kind_of(r) == "measured"]
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


def _strategy(name: str, code: bool = False) -> Slot:
    """A text of the chosen strategy: calculated, unless it says that it was measured or typed."""

    def slot(facts: Facts) -> Fill:
        record = facts.get("strategy", "chosen")
        fill = _text(record, name)
        if fill.kind == "missing":
            return MISSING
        text = f"`{fill.value.replace('`', '')}`" if code else fill.value
        return Fill(text, fill.kind if record.get("source") else "calculated", fill.note)

    return slot


def reason(facts: Facts) -> Fill:
    """Why this strategy: the student's words, else the planner's."""
    own = _answer("tp_reason")(facts)
    return _strategy("reason")(facts) if own.kind == "missing" else own


def expected_speedup(facts: Facts) -> Fill:
    """The planner's speed-up, and of what: calculated, unless the record says otherwise."""
    record = facts.get("strategy", "chosen")
    fill = _metric(record, "expected_speedup_x", "x")
    if fill.kind == "missing":
        return MISSING
    what = one_line(record.get("speedup_of") or "")
    kind = fill.kind if record.get("source") else "calculated"
    return Fill(fill.value + (f" ({what})" if what else ""), kind, fill.note)


def plan_table(facts: Facts) -> Fill:
    """What the planner expects of the chosen layout, then what was measured here."""
    chosen = facts.get("strategy", "chosen")
    plan = []
    if chosen and chosen.get("layout"):
        plan = [{"source": "planner", **chosen, "experiment": "plan", "variant": chosen["layout"]}]
    return _table(plan + [r for r in facts.results("04") if chief_metrics(r)])


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
    "## Week 4 results by experiment": {"___": results_table},
    "## Predictions against measurements": {"___": predictions_table},
    "## Optimal configuration": {"___": configuration},
    "## Issues and workarounds": {"- ___": _list_of("issue_")},
    "## Reading notes": {
        "- Self-check of notebook 3: ___": self_check,
        "- ___": _list_of("note_", "note", _about),
    },
    "## Week 4 checklist": {
        "- [ ] Documented my progress in this file": _evident(_documented),
        "- [ ] Read the PagedAttention paper (abstract and introduction at least)": _ticked(
            "paper"
        ),
        "- [ ] Reviewed vLLM's documentation on distributed inference": _ticked("docs_distributed"),
        "- [ ] Tried server mode": _ticked("server_mode", _served),
        "- [ ] Planned the multi-GPU strategy for Week 5": _ticked("multi_gpu_plan", _planned),
        "- [ ] Reviewed and improved the code documentation of Weeks 1-3": _ticked("code_docs"),
        "- [ ] Understood tensor parallelism": _ticked("tensor_parallelism"),
        "- [ ] Optional: tried one advanced feature": _ticked("advanced_feature", _tried),
    },
}
_DISTRIBUTED_PLANNING = {
    "## Hardware Available": {
        "- Number of GPUs: ___": _hardware("gpu_count"),
        "- GPU Model: ___": week5_gpu,
        "- GPU Memory: ___ GB each": _hardware("gpu_memory_gb"),
        "- Inter-GPU Link: ___ (NVLink/PCIe)": _hardware("link"),
    },
    "## Strategy": {"- Reason: ___": reason, "- Expected speedup: ___": expected_speedup},
    "## Concerns": {"- ___": _list_of("concern_")},
    "## What the planner recommends": {
        "- Layout for this hardware: ___": _strategy("layout"),
        "- Command to start it: ___": _strategy("command", code=True),
    },
    "## Numbers behind the plan": {"___": plan_table},
}
SLOTS: dict[tuple[str, str, str], Slot] = {
    (document, section, line): slot
    for document, sections in (
        ("my_learnings", _MY_LEARNINGS),
        ("distributed_planning", _DISTRIBUTED_PLANNING),
    )
    for section, lines in sections.items()
    for line, slot in lines.items()
}
