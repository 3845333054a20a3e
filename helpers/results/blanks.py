"""What the results say, slot by slot: the values that helpers/results/documents.py writes into the templates.

A slot is a function of the facts that returns a Fill: the text for the blank (or a list of lines
for a whole region), whether it was measured, calculated, typed or is missing, and where it is from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from helpers.results.store import latest_of, load

# What a record's `source` says about its numbers. No source: measured.
KINDS = {
    "typed": "typed",
    "student": "typed",
    "parameter": "typed",
    "form": "typed",
    "formula": "calculated",
    "planner": "calculated",
    "example": "calculated",
    "recorded": "calculated",
    "default": "calculated",
    "catalogue": "calculated",
    "reference": "calculated",
}
# Experiments that have their own place in the documents and are not rows of the results table.
NOT_RESULTS = {
    "answer",
    "prediction",
    "checklist",
    "hardware",
    "strategy",
    "self_check",
    "exercise",
}
# Chief metrics: the first that a record has of each group, at most three; then whatever else it has.
CHIEF = (
    ("output_tokens_per_s", "total_tokens_per_s", "requests_per_s"),
    ("speedup_x", "improvement_x", "acceptance_rate", "prefix_cache_hit_rate"),
    ("ttft_ms_p50", "ttft_ms_mean", "ttft_ms_p99"),
    ("tpot_ms_p50", "itl_ms_p50", "itl_ms_p99"),
    ("e2e_ms_p50", "e2e_ms_mean"),
    ("peak_gib",),
    ("kv_cache_tokens",),
    ("score",),
)
# What was asked for, not what came out.
WORKLOAD = {
    "requests",
    "input_tokens",
    "output_tokens",
    "duration_s",
    "max_num_seqs",
    "max_num_batched_tokens",
}
ROWS_PER_EXPERIMENT = 10
ABOUT_ARGUMENT = {
    "max_num_seqs": "most requests that the engine works on at once",
    "gpu_memory_utilization": "share of the GPU's memory that vLLM may use",
    "kv_cache_memory_bytes": "memory for the KV cache, set directly",
    "max_num_batched_tokens": "most tokens in one step; smaller steps mean smoother output, larger ones more throughput",
    "max_model_len": "longest prompt plus output",
    "enforce_eager": "no CUDA graphs or torch.compile: starts sooner, decodes slower on a GPU",
    "enable_prefix_caching": "reuses the KV cache of prompts that begin alike",
    "enable_chunked_prefill": "long prompts are processed in pieces between decode steps",
    "tensor_parallel_size": "GPUs that share every layer",
    "dtype": "number format of the weights",
}


@dataclass(frozen=True)
class Part:
    key: str
    text: str


@dataclass(frozen=True)
class Fill:
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
        records, problems = load(folder)
        return cls(latest_of(records), problems)

    def all(self, experiment: str) -> list[dict]:
        return [record for record in self.records if record["experiment"] == experiment]

    def get(self, experiment: str, variant: str) -> dict | None:
        found = [record for record in self.all(experiment) if record["variant"] == variant]
        return found[-1] if found else None


# ---------------------------------------------------------------- text for numbers


def number(value) -> float | None:
    """A finite number, or None for everything else that a record may hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def show(value: float) -> str:
    """Three to four significant digits, thousands grouped: 1,843 / 81.4 / 0.0123."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.1f}"
    return f"{value:.3g}"


UNITS_IN_NAMES = (
    ("_tokens_per_s", "tokens/s"),
    ("_gb_per_s", "GB/s"),
    ("_tflop_per_s", "TFLOP/s"),
    ("_per_s", "/s"),
    ("_ms", "ms"),
    ("_us", "us"),
    ("_gib", "GiB"),
    ("_mib", "MiB"),
    ("_kib", "KiB"),
    ("_s", "s"),
    ("_x", "x"),
    ("_tokens", "tokens"),
    ("_percent", "%"),
    ("_pct", "%"),
)


def show_metric(name: str, value: float) -> str:
    """A metric with its unit, read from its name: ttft_ms_p50 -> 'TTFT p50 12.1 ms'."""
    stat = re.search(r"_(p\d+|mean|max|min)$", name)
    base, unit = name[: stat.start()] if stat else name, ""
    for ending, meaning in UNITS_IN_NAMES:
        if base == ending[1:]:
            base, unit = "", meaning
        elif base.endswith(ending) and not ("_per_" in base and ending == "_tokens"):
            base, unit = base[: -len(ending)], meaning
        elif f"{ending}_" in base and len(ending) < 4:  # tpot_ms_1_streams
            base, unit = base.replace(f"{ending}_", "_", 1), meaning
        else:
            continue
        break
    if unit == "GiB" and 0 < abs(value) < 0.1:
        value, unit = value * 1024, "MiB"
    words = re.sub(
        r"\b(ttft|tpot|itl|e2e|kv|gpu)\b", lambda m: m[0].upper(), base.replace("_", " ")
    )
    words += f" {stat[1]}" if stat else ""
    return f"{words} {show(value)}{'' if unit in ('x', '%', '/s') else ' '}{unit}".strip()


def count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def one_line(text, limit: int = 2000) -> str:
    """A student's or a model's text as it may stand in one line of Markdown or a table's cell."""
    whole = str(text).encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    return " ".join(whole.split())[:limit]


def cell(text) -> str:
    return one_line(text, 300).replace("|", "\\|")


def chief_metrics(record: dict, most: int = 3) -> list[str]:
    metrics = {
        name: value for name, raw in record["metrics"].items() if (value := number(raw)) is not None
    }
    names = [
        next(name for name in group if name in metrics)
        for group in CHIEF
        if any(name in metrics for name in group)
    ]
    known = {name for group in CHIEF for name in group} | WORKLOAD
    names += [
        name for name in metrics if name not in known and not re.search(r"_(p\d+|mean)$", name)
    ]
    return [show_metric(name, metrics[name]) for name in names or metrics][:most]


def kind_of(record: dict) -> str:
    source = record.get("source")
    return KINDS.get(source, "measured") if isinstance(source, str) else "measured"


def machine_of(record: dict) -> str:
    place = record.get("provenance") or {}
    return one_line(place.get("machine") or "an unknown machine", 120)


def _from(record: dict) -> str:
    if kind_of(record) == "typed":
        return f"typed, {record.get('origin', record['notebook'])}"
    return f"{record['notebook']} on {machine_of(record)}"


def _metric(record: dict | None, *names: str) -> Fill:
    for name in names if record else ():
        value = number(record["metrics"].get(name))
        if value is not None:
            return Fill(show(value), kind_of(record), _from(record))
    return MISSING


def _first(*fills: Fill) -> Fill:
    return next((fill for fill in fills if fill.kind != "missing"), MISSING)


def _text(record: dict | None, *names: str) -> Fill:
    for name in names if record else ():
        value = record.get(name)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool) and one_line(value):
            return Fill(one_line(value), kind_of(record), _from(record))
    return MISSING


def answer(variant: str) -> Callable[[Facts], Fill]:
    def slot(facts: Facts) -> Fill:
        fill = _text(facts.get("answer", variant), "text")
        return (
            Fill(fill.value, "typed", fill.note) if fill.kind == "measured" else fill
        )  # words are never measured

    return slot


# ---------------------------------------------------------------- my_learnings.md


def _baseline(facts: Facts) -> dict | None:
    """The student's own baseline if there is one, else the one measured this week."""
    typed = facts.get("baseline", "typed")
    if typed and number(typed["metrics"].get("output_tokens_per_s")) is not None:
        return typed
    return facts.get("baseline", "one_at_a_time") or next(iter(facts.all("baseline")), None)


def initial_throughput(facts: Facts) -> Fill:
    return _metric(_baseline(facts), "output_tokens_per_s", "tokens_per_s")


def gpu_model(facts: Facts) -> Fill:
    record = _baseline(facts) or facts.get("optimised", "best")
    if not record:
        return MISSING
    texts = record.get("texts") if isinstance(record.get("texts"), dict) else {}
    if texts.get("gpu_model"):
        return Fill(one_line(texts["gpu_model"], 120), "typed", _from(record))
    place = record.get("provenance") or {}
    if kind_of(record) == "typed":  # the machine of the import is not the machine of the number
        measured = facts.get("baseline", "one_at_a_time") or facts.get("optimised", "best")
        if not measured:
            return MISSING
        record, place = measured, measured.get("provenance") or {}
    name = place.get("gpu") or (f"none, CPU run ({machine_of(record)})" if place else "")
    return Fill(one_line(name, 160), "measured", _from(record)) if name else MISSING


def memory_setting(facts: Facts) -> Fill:
    record = facts.get("optimised", "best")
    args = (record or {}).get("engine_args") or {}
    share = number(args.get("gpu_memory_utilization"))
    if share is not None:
        return Fill(f"{share:.2f}", kind_of(record), _from(record))
    size = number(args.get("kv_cache_memory_bytes"))
    if size is not None:
        amount = (
            f"{show(size / 2**30)} GiB" if size >= 2**30 else f"{show(round(size / 2**20, 1))} MiB"
        )
        return Fill(f"not used; KV cache set to {amount} instead", kind_of(record), _from(record))
    return MISSING


def max_num_seqs(facts: Facts) -> Fill:
    record = facts.get("optimised", "best")
    value = number(((record or {}).get("engine_args") or {}).get("max_num_seqs"))
    return MISSING if value is None else Fill(f"{value:g}", kind_of(record), _from(record))


def final_throughput(facts: Facts) -> Fill:
    return _metric(facts.get("optimised", "best"), "output_tokens_per_s", "tokens_per_s")


def improvement(facts: Facts) -> Fill:
    """Final over measured baseline. Where "Initial throughput" shows a typed number, that is another baseline: the line says so."""
    base, fill = facts.get("baseline", "one_at_a_time"), _improvement(facts)
    if fill.kind not in ("measured", "calculated") or initial_throughput(facts).kind != "typed":
        return fill
    over = _metric(base, "output_tokens_per_s")
    return replace(
        fill,
        value=(
            f"over the {over.value} tokens/sec measured this week"
            if over.value
            else "over a measured baseline"
        )
        + f": {fill.value}",
    )


def _improvement(facts: Facts) -> Fill:
    best = facts.get("optimised", "best")
    given = _metric(best, "improvement_x")
    if given.kind != "missing":
        return given
    # Only like with like: both numbers from one machine and one model.
    base = facts.get("baseline", "one_at_a_time")
    values = [number(r["metrics"].get("output_tokens_per_s")) if r else None for r in (base, best)]
    if all(values) and all(
        (base.get("provenance") or {}).get(k) == (best.get("provenance") or {}).get(k)
        for k in ("machine", "model")
    ):
        return Fill(
            show(values[1] / values[0]),
            kind_of(best),
            "final over the measured baseline, same machine and model",
        )
    return MISSING


def results_table(facts: Facts) -> Fill:
    rows = [r for r in facts.records if r["experiment"] not in NOT_RESULTS and chief_metrics(r)]
    return _table(rows)


def _table(rows: list[dict]) -> Fill:
    """Tables of results, one per notebook; the machine stands above the table, once."""
    parts: list[Part] = []
    for notebook in dict.fromkeys(r["notebook"] for r in rows):
        mine = [r for r in rows if r["notebook"] == notebook]
        machines = list(dict.fromkeys(machine_of(r) for r in mine if kind_of(r) == "measured"))
        place = next((r.get("provenance") or {} for r in mine if kind_of(r) == "measured"), {})
        model = (
            f", model {one_line(place['model'], 80)}"
            + (f" ({place['weights']} weights)" if place.get("weights") else "")
            if place.get("model")
            else ""
        )
        about = (
            f"Measured on {'; '.join(machines)}, vLLM {place.get('vllm')}{model}."
            if machines
            else "Not measured on this machine; see the source."
        )
        parts += [
            Part(f"{notebook}.title", f"### Notebook {one_line(notebook, 80)}"),
            Part(f"{notebook}.gap1", ""),
            Part(f"{notebook}.about", about),
            Part(f"{notebook}.gap2", ""),
            Part(f"{notebook}.head", "| experiment | variant | result | source |"),
            Part(f"{notebook}.rule", "|---|---|---|---|"),
        ]
        for experiment in dict.fromkeys(r["experiment"] for r in mine):
            variants = [r for r in mine if r["experiment"] == experiment]
            # A long sweep shows its first rows and its last ones: the ends of the curve.
            shown = (
                variants
                if len(variants) <= ROWS_PER_EXPERIMENT
                else variants[: ROWS_PER_EXPERIMENT - 3] + variants[-3:]
            )
            for r in shown:
                parts.append(
                    Part(
                        f"{notebook}.row.{experiment}.{r['variant']}",
                        f"| {cell(experiment.replace('_', ' '))} | {cell(r['variant'].replace('_', ' '))} | {cell(', '.join(chief_metrics(r)))} | {kind_of(r)} |",
                    )
                )
            if len(shown) < len(variants):
                parts.append(
                    Part(
                        f"{notebook}.more.{experiment}",
                        f"| {cell(experiment.replace('_', ' '))} | {len(variants) - len(shown)} more | in measurements.jsonl | |",
                    )
                )
        parts.append(Part(f"{notebook}.gap3", ""))
    if parts:
        parts.pop()  # the template has the blank line before the next heading
    kinds = [kind_of(r) for r in rows]
    best = next((k for k in ("measured", "calculated", "typed") if k in kinds), "missing")
    return Fill(parts, best if parts else "missing", count(len(rows), "result") if parts else "")


def predictions_table(facts: Facts) -> Fill:
    parts = []
    for record in facts.all("prediction"):
        values = [number(record["metrics"].get(k)) for k in ("predicted", "measured", "ratio")]
        if values[0] is None or values[1] is None:
            continue
        unit = cell(record["unit"]) if record.get("unit") else ""
        unit = unit if unit in ("", "x", "%") else " " + unit
        ratio = (
            values[2] if values[2] is not None else (values[1] / values[0] if values[0] else None)
        )
        how = " (calculated)" if record.get("how") == "calculated" else ""
        by = (
            "you"
            if record.get("source") in ("student", "typed", "form")
            else cell(record.get("source") or "formula")
        )
        parts.append(
            Part(
                f"row.{record['notebook']}.{record['variant']}",
                f"| {cell(record['variant'].replace('_', ' '))} | {show(values[0])}{unit} | {show(values[1])}{unit}{how} | "
                f"{'' if ratio is None else f'{ratio:.2f}' if 0.01 <= abs(ratio) < 100 else show(ratio)} | {by} | {cell(record.get('residual') or '')} |",
            )
        )
    if not parts:
        return NO_LINES
    head = [
        Part(
            "head", "| prediction | predicted | measured | ratio | predicted by | why they differ |"
        ),
        Part("rule", "|---|---|---|---|---|---|"),
    ]
    return Fill(head + parts, "measured", count(len(parts), "prediction"))


def configuration(facts: Facts) -> Fill:
    """The best configuration, each argument under vLLM's own name, with why it is so."""
    record = facts.get("optimised", "best")
    args = (record or {}).get("engine_args") or {}
    if not args:
        return NO_LINES
    comments = record.get("comments") if isinstance(record.get("comments"), dict) else {}
    parts = []
    for name, value in args.items():
        why = one_line(comments.get(name) or ABOUT_ARGUMENT.get(name, ""), 300)
        parts.append(Part(f"arg.{name}", f"- `{name}={value!r}`" + (f": {why}" if why else "")))
    for n, comment in enumerate(c for key, c in comments.items() if key not in args):
        parts.append(Part(f"comment.{n}", f"- {one_line(comment, 500)}"))
    comment = _text(facts.get("answer", "configuration_comment"), "text")
    if comment.value:
        parts.append(Part("comment", f"- Why: {comment.value}"))
    return Fill(parts, kind_of(record), _from(record))


def listed(*prefixes: str) -> Callable[[Facts], Fill]:
    """A list that grows: one line for each answer whose variant starts so (concern_1, concern_2)."""

    def slot(facts: Facts) -> Fill:
        found = [
            r
            for r in facts.all("answer")
            if r["variant"].startswith(prefixes)
            and isinstance(r.get("text"), str)
            and one_line(r["text"])
        ]
        parts = [Part(r["variant"], f"- {one_line(r['text'])}") for r in found]
        kinds = {kind_of(r) for r in found}
        return (
            Fill(
                parts,
                "calculated" if kinds == {"calculated"} else "typed",
                count(len(parts), "answer"),
            )
            if parts
            else NO_LINES
        )

    return slot


def reading_notes(facts: Facts) -> Fill:
    """A line for each note of notebook 3, with what it is about: "PagedAttention: ..." (answers note_...)."""
    found = [
        r
        for r in facts.all("answer")
        if r["variant"].startswith("note_")
        and isinstance(r.get("text"), str)
        and one_line(r["text"])
    ]
    parts = [
        Part(
            r["variant"],
            f"- {r['variant'].removeprefix('note_').replace('_', ' ')}: {one_line(r['text'])}",
        )
        for r in found
    ]
    return Fill(parts, "typed", f"{len(parts)} notes") if parts else NO_LINES


def self_check(facts: Facts) -> Fill:
    record = facts.get("self_check", "score")
    right, asked = (
        number((record or {}).get("metrics", {}).get(name)) for name in ("correct", "questions")
    )
    return (
        MISSING
        if right is None or not asked
        else Fill(f"{right:g} of {asked:g} questions right", "measured", _from(record))
    )


# ---------------------------------------------------------------- the checklist


def _ticked(item: str, evidence: Callable[[Facts], str] | None = None) -> Callable[[Facts], Fill]:
    """A checklist item: ticked by the student, by what the notebook saw, or by the results."""

    def slot(facts: Facts) -> Fill:
        record = facts.get("checklist", item)
        if record and record.get("done"):
            why = one_line(record.get("evidence") or "", 200)
            if record.get("source") == "evidence" and why:
                return Fill(f"evidence: {why}", "measured", record["notebook"])
            return Fill(
                "ticked by the student" + (f": {why}" if why else ""), "typed", record["notebook"]
            )
        if record and record.get("done") is False and record.get("source") != "evidence":
            return TAKEN_BACK
        why = evidence(facts) if evidence else ""
        return Fill(f"evidence: {why}", "measured", "from the results") if why else MISSING

    return slot


def _documented(facts: Facts) -> str:
    core = [
        slot(facts)
        for (document, section, _), slot in SLOTS.items()
        if section in ("## Week 1-2: Baseline", "## Week 3: Optimization")
    ]
    filled = sum(fill.kind != "missing" for fill in core)
    # What a notebook fills in documents nothing.
    written = [
        r
        for r in facts.all("answer")
        if r["variant"].startswith(("key_challenge", "insight", "question"))
        and kind_of(r) == "typed"
        and one_line(r.get("text") or "")
    ]
    return (
        f"{filled} of {len(core)} blanks of Weeks 1 to 3 are filled, {count(len(written), 'answer')} written"
        if written and filled >= len(core) - 1
        else ""
    )


def _served(facts: Facts) -> str:
    found = [
        r
        for r in facts.records
        if r["notebook"].startswith("05")
        and r["experiment"] not in NOT_RESULTS
        and kind_of(r) == "measured"
    ]
    return (
        f"{count(len(found), 'measurement')} against a server in notebook {found[0]['notebook']}"
        if found
        else ""
    )


def _planned(facts: Facts) -> str:
    record = facts.get("strategy", "chosen")
    return f"strategy chosen in notebook {record['notebook']}" if record else ""


def _tried(facts: Facts) -> str:
    found = [
        r
        for r in facts.records
        if r["notebook"].startswith("02")
        and r["experiment"] not in NOT_RESULTS
        and kind_of(r) == "measured"
    ]
    names = list(dict.fromkeys(r["experiment"].replace("_", " ") for r in found))
    return (
        "measured " + ", ".join(names[:4]) + (" and more" if len(names) > 4 else "")
        if names
        else ""
    )


# ---------------------------------------------------------------- distributed_planning.md


def _hardware(*names: str) -> Callable[[Facts], Fill]:
    def slot(facts: Facts) -> Fill:
        record = facts.get("hardware", "week5")
        return _first(_metric(record, *names), _text(record, *names))

    return slot


def week5_gpu(facts: Facts) -> Fill:
    fill = _hardware("gpu_model")(facts)
    return (
        replace(fill, value=f"{fill.value} (planned, not on this machine)")
        if fill.kind == "calculated"
        else fill
    )


def reason(facts: Facts) -> Fill:
    return _first(answer("tp_reason")(facts), _strategy("reason")(facts))


def expected_speedup(facts: Facts) -> Fill:
    record = facts.get("strategy", "chosen")
    fill = _metric(record, "expected_speedup_x", "speedup_x")
    if fill.kind == "missing":
        return MISSING
    # A speed-up that is expected is a calculation, unless it says that it was measured or typed.
    kind = fill.kind if record.get("source") else "calculated"
    what = one_line(record.get("speedup_of") or "")
    return Fill(f"{fill.value}x" + (f" ({what})" if what else ""), kind, fill.note)


def _strategy(*names: str, code: bool = False) -> Callable[[Facts], Fill]:
    def slot(facts: Facts) -> Fill:
        record = facts.get("strategy", "chosen")
        fill = _text(record, *names)
        if fill.kind == "missing":
            return MISSING
        text = f"`{fill.value.replace('`', '')}`" if code else fill.value
        return Fill(text, fill.kind if record.get("source") else "calculated", fill.note)

    return slot


def plan_table(facts: Facts) -> Fill:
    """What the planner expects of the chosen layout, then what was measured here."""
    chosen = facts.get("strategy", "chosen")
    plan = (
        [{"source": "planner", **chosen, "experiment": "plan", "variant": chosen["layout"]}]
        if chosen and chosen.get("layout")
        else []
    )
    return _table(
        plan
        + [
            r
            for r in facts.records
            if r["notebook"].startswith("04")
            and r["experiment"] not in NOT_RESULTS
            and chief_metrics(r)
        ]
    )


# ---------------------------------------------------------------- which line is which slot

_L, _D = "my_learnings", "distributed_planning"
_TODO = "## Week 4 checklist"
SLOTS: dict[tuple[str, str, str], Callable[[Facts], Fill]] = {
    (_L, "## Week 1-2: Baseline", "- Initial throughput: ___ tokens/sec"): initial_throughput,
    (_L, "## Week 1-2: Baseline", "- GPU model: ___"): gpu_model,
    (_L, "## Week 1-2: Baseline", "- Key challenge: ___"): answer("key_challenge"),
    (_L, "## Week 3: Optimization", "- Optimal gpu_memory_utilization: ___"): memory_setting,
    (_L, "## Week 3: Optimization", "- Optimal max_num_seqs: ___"): max_num_seqs,
    (_L, "## Week 3: Optimization", "- Final throughput: ___ tokens/sec"): final_throughput,
    (_L, "## Week 3: Optimization", "- Improvement: ___x"): improvement,
    (_L, "## Key Insights", "1. ___"): answer("insight_1"),
    (_L, "## Key Insights", "2. ___"): answer("insight_2"),
    (_L, "## Key Insights", "3. ___"): answer("insight_3"),
    (_L, "## Questions for Week 5+", "1. ___"): answer("question_1"),
    (_L, "## Questions for Week 5+", "2. ___"): answer("question_2"),
    (_L, "## Week 4 results by experiment", "___"): results_table,
    (_L, "## Predictions against measurements", "___"): predictions_table,
    (_L, "## Optimal configuration", "___"): configuration,
    (_L, "## Issues and workarounds", "- ___"): listed("issue", "workaround"),
    (_L, "## Reading notes", "- Self-check of notebook 3: ___"): self_check,
    (_L, "## Reading notes", "- ___"): reading_notes,
    (_L, _TODO, "- [ ] Documented my progress in this file"): _ticked("documented", _documented),
    (
        _L,
        _TODO,
        "- [ ] Read the PagedAttention paper (abstract and introduction at least)",
    ): _ticked("paper"),
    (_L, _TODO, "- [ ] Reviewed vLLM's documentation on distributed inference"): _ticked(
        "docs_distributed"
    ),
    (_L, _TODO, "- [ ] Tried server mode"): _ticked("server_mode", _served),
    (_L, _TODO, "- [ ] Planned the multi-GPU strategy for Week 5"): _ticked(
        "multi_gpu_plan", _planned
    ),
    (_L, _TODO, "- [ ] Reviewed and improved the code documentation of Weeks 1-3"): _ticked(
        "code_docs"
    ),
    (_L, _TODO, "- [ ] Understood tensor parallelism"): _ticked("tensor_parallelism"),
    (_L, _TODO, "- [ ] Optional: tried one advanced feature"): _ticked("advanced_feature", _tried),
    (_D, "## Hardware Available", "- Number of GPUs: ___"): _hardware("gpu_count"),
    (_D, "## Hardware Available", "- GPU Model: ___"): week5_gpu,
    (_D, "## Hardware Available", "- GPU Memory: ___ GB each"): _hardware("gpu_memory_gb"),
    (_D, "## Hardware Available", "- Inter-GPU Link: ___ (NVLink/PCIe)"): _hardware("link"),
    (_D, "## Strategy", "- Reason: ___"): reason,
    (_D, "## Strategy", "- Expected speedup: ___"): expected_speedup,
    (_D, "## Concerns", "- ___"): listed("concern"),
    (_D, "## What the planner recommends", "- Layout for this hardware: ___"): _strategy(
        "layout", "parallelism"
    ),
    (_D, "## What the planner recommends", "- Command to start it: ___"): _strategy(
        "command", code=True
    ),
    (_D, "## Numbers behind the plan", "___"): plan_table,
}


def slot_for(document: str, section: str, line: str) -> Callable[[Facts], Fill] | None:
    return SLOTS.get((document, section, line))
