"""Which blank of the documents is filled from which record.

`SLOTS`, at the end, has a line for each blank (`CHECKLIST` those of the checklist, by their words);
what a slot is, is said in facts.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from helpers.display.as_typed import in_markdown
from helpers.display.numbers import number
from helpers.results import tables
from helpers.results.facts import (
    MISSING,
    TAKEN_BACK,
    Facts,
    Fill,
    Slot,
    answer,
    from_record,
    list_of,
    metric_of,
    text_of,
)
from helpers.results.merge import OPEN_BOX
from helpers.results.one_run import OTHER_RUN
from helpers.results.tables import SPEED
from helpers.results.wording import (
    all_numbers,
    as_code,
    by_person,
    count,
    expected_x,
    finite,
    foretold,
    if_disturbed,
    in_range,
    judged,
    kind_of,
    machine_of,
    notebook_of,
    numbers_of,
    one_line,
    origin_of,
    outcome_of,
    prediction_of,
    share_range,
    spaced,
    subject_of,
    value_of,
    where,
    with_range,
)
from helpers.verdicts.gain import Gain

MOST_SURPRISES = 2
UNATTENDED = ", run unattended"
# What the results have for an item of the checklist, and whether that ticks it.
Evidence = Callable[[Facts], tuple[str, bool]]


# ---------------------------------------------------------------- Weeks 1 to 3


def _typed_baseline(facts: Facts) -> dict | None:
    """The student's own number of Week 2, where there is one."""
    typed = facts.get("baseline", "typed")
    return typed if typed and finite(typed["metrics"].get("output_tokens_per_s")) else None


def _measured_baseline(facts: Facts) -> Fill:
    """Output tokens/s of one request at a time: measured in turn with the choice, else before."""
    in_turn = metric_of(facts.best, "baseline_tokens_per_s")
    if in_turn.kind != "missing":
        return in_turn
    record = facts.get("baseline", "one_at_a_time")
    best = facts.best
    return MISSING if best and (record or {}).get(OTHER_RUN) else metric_of(record, SPEED)


def initial_throughput(facts: Facts) -> Fill:
    """Output tokens/s of the baseline: the student's own, else the one measured this week."""
    if typed := _typed_baseline(facts):
        return metric_of(typed, SPEED)
    return _with_rounds(facts, _measured_baseline(facts), "baseline_tokens_per_s")


def gpu_model(facts: Facts) -> Fill:
    """The GPU of the baseline, or that there was none."""
    typed = _typed_baseline(facts)
    texts = (typed or {}).get("texts")
    if isinstance(texts, dict) and texts.get("gpu_model"):
        return Fill(in_markdown(str(texts["gpu_model"])[:120]), "typed", origin_of(typed))
    # The machine of the import is not the machine of the number.
    record = facts.best or facts.get("baseline", "one_at_a_time")
    place = (record or {}).get("provenance")
    if not place:
        return MISSING
    name = place.get("gpu") or f"none: {machine_of(record)}"
    return Fill(in_markdown(one_line(name, 160)), "measured", origin_of(record))


def memory_setting(facts: Facts) -> Fill:
    """The best gpu_memory_utilization; on a CPU the size of the KV cache stands for it."""
    share = _engine_arg(facts, "gpu_memory_utilization")
    size = _engine_arg(facts, "kv_cache_memory_bytes")
    if share is not None:
        said = _not_varied(facts, "gpu_memory_utilization")
        return from_record(facts.best, f"{share:.2f}{said}")
    if size is None:
        return MISSING
    mib = size / 2**20
    amount = f"{number(mib / 1024)} GiB" if mib >= 1024 else f"{number(round(mib, 1))} MiB"
    said = _not_varied(facts, "kv_cache_memory_bytes")
    return from_record(facts.best, f"not used, the KV cache was set to {amount}{said}")


def _not_varied(facts: Facts, argument: str) -> str:
    """The words for it, with a space before them, where the record says so; else ""."""
    comments = facts.best.get("comments")
    why = comments.get(argument) if isinstance(comments, dict) else None
    return " (default, not varied)" if str(why).startswith("default, not varied") else ""


def max_num_seqs(facts: Facts) -> Fill:
    """The best max_num_seqs, and what it was chosen for."""
    value = _engine_arg(facts, "max_num_seqs")
    if value is None:
        return MISSING
    why = in_markdown(one_line(facts.best.get("chosen_for") or "", 200))
    return from_record(facts.best, f"{value:g} ({why})" if why else f"{value:g}")


def _engine_arg(facts: Facts, name: str) -> float | None:
    return finite(((facts.best or {}).get("engine_args") or {}).get(name))


def final_throughput(facts: Facts) -> Fill:
    """Output tokens/s of the best configuration."""
    return _with_rounds(facts, metric_of(facts.best, SPEED), SPEED)


def _with_rounds(facts: Facts, speed: Fill, name: str) -> Fill:
    """A mean of runs in turn, with the slowest and the fastest of them."""
    low, high = numbers_of(facts.best or {"metrics": {}}, f"{name}_low", f"{name}_high")
    if None in (low, high):
        return speed
    return replace(speed, value=f"{speed.value} ({number(low)} to {number(high)} by round)")


def improvement(facts: Facts) -> Fill:
    """Final over measured baseline, with its range.

    Where "Initial throughput" shows a typed number, that is another baseline: the line says so.
    """
    said = _improvement(facts)
    if not said:
        return MISSING
    of = ", the mean of the rounds with its range of 95 %" * (" to " in said)
    if _typed_baseline(facts) is None:
        said += f", over one request at a time{of}"
    else:
        over = f"over the {_measured_baseline(facts).value} tokens/sec measured this week: "
        said = over + said + of
    return from_record(facts.best, said + if_disturbed(facts.best))


def _improvement(facts: Facts) -> str:
    """As the runs in turn gave it, with its range; else from the two numbers that are shown."""
    record = facts.best or {"metrics": {}}
    in_turn, gain = numbers_of(record, "baseline_tokens_per_s", "improvement_x")
    if in_turn and gain:
        return with_range(record["metrics"], "improvement_x", alone="")
    first, last = _measured_baseline(facts).value, metric_of(facts.best, SPEED).value
    if not first or not last:
        return ""
    numbers = [float(str(text).replace(",", "")) for text in (first, last)]
    return f"{number(numbers[1] / numbers[0])}x" if numbers[0] else ""


# ---------------------------------------------------------------- five results, two surprises


def two_ranks(facts: Facts) -> Fill:
    """How many times as fast a stream decodes on two ranks, and what its range says of it."""
    record = facts.get("trial", "TP 2 against TP 1")
    gain = Gain.read(all_numbers(record), "speedup_x") if record else None
    if gain is None:
        return MISSING
    said = judged(record["metrics"], "speedup_x")
    said += f", {gain.values:g} rounds in one start of each" * (gain.span is not None)
    return from_record(record, said + if_disturbed(record))


def papers_mechanisms(facts: Facts) -> Fill:
    """Notebook 3's two gains of this engine over older ways to serve, and what they were."""
    ways = {
        "paged over reserved KV cache": ("reserving", "paged", "reserved"),
        "continuous batching over waves": ("continuous_batching", "continuous", "waves"),
    }
    said, found = [], None
    for way, (name, new, old) in ways.items():
        record = facts.get(name, new)
        if record and (gain := value_of(record, "speedup_x")):
            said.append(f"{way}{_places(facts.get(name, old))}: {gain}")
            found = record
    return from_record(found, "; ".join(said))


def _places(record: dict | None) -> str:
    """How many requests an older way served at once, and the tokens that it kept for each."""
    names = ("max_num_seqs", "num_gpu_blocks_override", "block_size")
    arguments = {"metrics": (record or {}).get("engine_args") or {}}
    places, blocks, size = numbers_of(arguments, *names)
    if not places:
        return ""
    # One block is vLLM's own.
    each = f" of {(blocks - 1) * size / places:.0f} tokens" if blocks and size else ""
    return f" ({places:g} places{each})"


def _sizes(record: dict) -> str:
    """What the requests of a record were like; "" where it does not say."""
    requests, read, made = numbers_of(record, "requests", "input_tokens", "output_tokens")
    if not requests or None in (read, made):
        return ""
    return f"; on average {read / requests:,.0f} tokens in and {made / requests:,.0f} out a request"


def load_of_one_copy(facts: Facts) -> Fill:
    """At how many requests a second notebook 5's goal held, and where it was missed."""
    record = facts.get("sizing", "copies")
    goals = (record or {}).get("goals_ms")
    if not record or not isinstance(goals, dict):
        return MISSING
    names = ("arrivals_per_s", "good_share", "missed_per_s", "missed_share", "goal_share")
    rate, share, missed, missed_share, asked = numbers_of(record, *names)
    if rate is None or share is None:
        return from_record(record, "no rate that was tried")
    goal = " and ".join(f"{name.upper()} {number(ms)} ms" for name, ms in goals.items())
    goal += f" (the goal: {100 * asked:.0f} %)" if asked else ""

    def at(per_s: float, within: str = "") -> str:
        return f"{number(per_s)} requests/s{within}{facts.disturbed(record['notebook'], per_s)}"

    text = f"held at {at(rate, f', {100 * share:.0f} % of them within {goal}')}"
    if missed:
        met = "" if missed_share is None else f" ({100 * missed_share:.0f} % within)"
        text += f"; missed at {at(missed)}{met}"
        names = ("arrived_per_s", "good_share", "completed", "failed")
        loads = [numbers_of(r, *names) for r in tables.of_last_session(facts.all("open_loop"))]
        open_ = sorted(one for one in loads if None not in one[:2] and rate < one[0] < missed)
        text += f"; cannot tell at {' and '.join(_open_rate(*one) for one in open_)}" * bool(open_)
    return from_record(record, f"{text}; one run{' each' * bool(missed)}")


def _open_rate(tried: float, met: float, completed: float | None, failed: float | None) -> str:
    """A rate at which the goal was neither held nor missed, with the range of its share."""
    requests = (completed or 0) + (failed or 0)  # of those that were sent, as in notebook 5
    if not requests:
        return f"{number(tried)} ({100 * met:.0f} %)"
    low, high = share_range(met, requests)
    span = f"{100 * low:.0f} to {100 * high:.0f} % by chance"
    return f"{number(tried)} ({100 * met:.0f} % of {requests:.0f} requests, {span})"


def conversation(facts: Facts) -> Fill:
    """The gain at the last turn."""
    record = facts.get("prefix_caching", "conversation")
    if not record:
        return MISSING
    last = judged(record["metrics"], "ttft_gain_last_turn_x")
    [turns] = numbers_of(record, "turns")
    if not last or turns is None:
        return MISSING
    text = f"{last} at turn {int(turns)}{if_disturbed(record)}"
    return from_record(record, text)


def speculation(facts: Facts) -> Fill:
    """What the number of drafted tokens gained that notebook 2 measures first.

    Not the best of those it tries later: the highest of several is high by luck, too.
    """
    tried = facts.all("speculation", "draft model, k=")
    first = next((r for r in tried if with_range(r["metrics"], "tpot_gain_x")), None)
    if first is None:
        return MISSING
    drafted = in_markdown(first["variant"].rpartition("=")[2])
    gain = Gain.read(all_numbers(first), "tpot_gain_x")
    said = judged(first["metrics"], "tpot_gain_x")
    if gain.span and gain.undecided:
        said = f"this machine cannot tell ({said})"
    text = f"{said}, {drafted} tokens drafted at a time{if_disturbed(first)}"
    served = facts.get("services", "assistant, speculative decoding")
    gain = Gain.read(all_numbers(served), "improvement_x") if served else None
    if gain and gain.decided:
        text += "; whole answers of one developer's assistant (section 4 of notebook 2): "
        text += value_of(served, "improvement_x")
    return from_record(first, text)


def where_measured(facts: Facts) -> Fill:
    """The one run that the numbers of Weeks 1 to 3 are from."""
    record = facts.best or facts.get("baseline", "one_at_a_time")
    if record is None:
        return MISSING
    place = record.get("provenance") or {}
    text = f"{where([record])}, {(place.get('time_utc') or '')[:10]}, in one session"
    text += _sizes(record)
    if numbers_of(record, "baseline_tokens_per_s")[0]:
        text += "; each round ran every setting once"
    if facts.stale:
        text += "; part of it was measured again later: left out until the best is chosen again"
    return from_record(record, text)


def _surprise(rank: int) -> Slot:
    """The student's own prediction, made before the outcome was seen, that missed most.

    rank: 0, or 1 for the next.
    """

    def slot(facts: Facts) -> Fill:
        own = [r for r in facts.all("prediction") if foretold(r)]
        own = [r for r in own if not r.get("changed_after_measuring") and _factor(r) > 1]
        missed = sorted(own, key=_factor, reverse=True)
        if len(missed) <= rank:
            return MISSING
        record = missed[rank]
        text = f"I had expected {prediction_of(record)} and found {outcome_of(record)}"
        what = subject_of(record)
        return from_record(
            record, f"{text}: {what[0].lower()}{what[1:]} (notebook {notebook_of(record)})."
        )

    return slot


def _factor(record: dict) -> float:
    """How many times too high or too low a prediction was; 0 for one of which neither is known."""
    predicted, measured = numbers_of(record, "predicted", "measured")
    if not predicted or measured is None or in_range(record, predicted):
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


def self_check(facts: Facts) -> Fill:
    """How many questions of notebook 3 were answered right."""
    record = facts.get("self_check", "score")
    metrics = (record or {}).get("metrics", {})
    right, asked = finite(metrics.get("correct")), finite(metrics.get("questions"))
    if right is None or not asked:
        return MISSING
    return Fill(f"{right:g} of {asked:g} questions right", "measured", origin_of(record))


# ---------------------------------------------------------------- the checklist


def _ticked(item: str, evidence: Evidence | None = None) -> Slot:
    """A checklist item: ticked by the student, or by the results.

    What ran where nobody looked on (`make run`) ticks nothing.
    """

    def slot(facts: Facts) -> Fill:
        record = facts.get("checklist", item) or {}
        if by_person(record) and record.get("done"):
            return Fill("ticked by the student", "typed", record["notebook"])
        if by_person(record) and record.get("done") is False:
            return TAKEN_BACK
        return _evident(evidence)(facts) if evidence else MISSING

    return slot


def _evident(evidence: Evidence) -> Slot:
    """A checklist item that the results themselves tick, or beside which they say what is there."""

    def slot(facts: Facts) -> Fill:
        why, done = evidence(facts)
        if done:
            return Fill(f"evidence: {why}", "measured", "from the results")
        return replace(MISSING, value=why)

    return slot


def _attended(record: dict) -> bool:
    """Whether a person ran the cell that saved it."""
    return (record.get("provenance") or {}).get("attended") is True


def _documented(facts: Facts) -> tuple[str, bool]:
    core = [
        slot(facts)
        for (_, section, _), slot in SLOTS.items()
        if section in ("## Week 1-2: Baseline", "## Week 3: Optimization")
    ]
    filled = sum(fill.kind != "missing" for fill in core)
    # What a notebook fills in documents nothing.
    answers = [
        record
        for prefix in ("key_challenge", "insight_", "question_")
        for record in facts.all("answer", prefix)
        if text_of(record, "text").kind == "typed"
    ]
    written = sum(map(by_person, answers))
    if not filled:
        return "", False
    said = f"{filled} of {len(core)} blanks of Weeks 1 to 3 are filled"
    said += f", {count(written, 'answer')} written"
    given = len(answers) - written
    said += f", {given} given as parameters of the run" * bool(given)
    return said, written > 0 and filled >= len(core) - 1


def _runs(facts: Facts, notebook: str) -> tuple[list[dict], bool]:
    """What a notebook measured: of what a person ran, if there is any."""
    measured = [r for r in facts.results(notebook) if kind_of(r) == "measured"]
    attended = [r for r in measured if _attended(r)]
    return attended or measured, bool(attended)


def _served(facts: Facts) -> tuple[str, bool]:
    found, done = _runs(facts, "05")
    said = f"{count(len(found), 'measurement')} against a server in notebook 5"
    return (said + UNATTENDED * (not done)) * bool(found), done


def _tried(facts: Facts) -> tuple[str, bool]:
    found, done = _runs(facts, "02")
    names = list(dict.fromkeys(spaced(r["experiment"]) for r in found))
    more = " and more" if len(names) > 4 else ""
    return f"measured {', '.join(names[:4])}{more}{UNATTENDED * (not done)}" * bool(names), done


# ---------------------------------------------------------------- distributed_planning.md


def _hardware(name: str) -> Slot:
    def slot(facts: Facts) -> Fill:
        record = facts.get("hardware", "week5")
        fill = metric_of(record, name)
        return text_of(record, name) if fill.kind == "missing" else fill

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
        fill = text_of(record, name)
        if fill.kind == "missing":
            return MISSING
        text = as_code(record[name]) if code else fill.value
        return Fill(text, fill.kind if record.get("source") else "calculated", fill.note)

    return slot


def reason(facts: Facts) -> Fill:
    """Why tensor parallelism: the student's words, else the planner's."""
    own = answer("tp_reason")(facts)
    return _strategy("week5", "reason")(facts) if own.kind == "missing" else own


def chosen_reason(facts: Facts) -> Fill:
    """The student's words who took another layout than the rule, else the rule's."""
    fill, own = _strategy("chosen", "reason")(facts), answer("layout_reason")(facts)
    taken = facts.get("strategy", "chosen") or {}
    by_rule = taken.get("rule") in (None, taken.get("layout"))
    if not fill.value:
        return fill
    if own.value and not by_rule:
        return own
    said = "the planner's rule takes it" if by_rule else "my choice, no reason written yet"
    return replace(fill, value=said)


def parallelism(facts: Facts) -> Fill:
    """The course's line: what Week 5 measures. The layout to serve with has its own."""
    fill = _strategy("chosen", "layout")(facts)
    if not fill.value:
        return fill
    line = "- Parallelism type: Tensor Parallelism"
    return replace(fill, value=f"{line} (what Week 5 measures; to serve with: {fill.value})")


def gpu_count(facts: Facts) -> Fill:
    """The machine's GPUs, and how many of them the chosen layout uses."""
    fill = _hardware("gpu_count")(facts)
    layout = (facts.get("strategy", "chosen") or {}).get("layout")
    planned = facts.get("week5_plan", layout) if layout else None
    sizes = (planned or {}).get("metrics", {})
    used = number(sizes.get("gpus", 0))
    if not fill.value or used in ("0", fill.value):
        return fill
    return replace(fill, value=f"{fill.value} (the plan uses {used})")


def _speedup(which: str) -> Slot:
    """The planner's speed-up with its range, and of what: calculated, unless the record says."""

    def slot(facts: Facts) -> Fill:
        record = facts.get("strategy", which)
        fill = metric_of(record, "expected_speedup_x", "x")
        if fill.kind == "missing":
            return MISSING
        text = expected_x(record["metrics"], "expected_speedup_x")
        what = in_markdown(record.get("speedup_of") or "")
        ran = in_markdown(record.get("ran") or "")
        text += f": {what}" * bool(what) + f"; {ran}" * bool(ran)
        kind = fill.kind if record.get("source") else "calculated"
        return Fill(text, kind, fill.note)

    return slot


def plan_and_widest(facts: Facts) -> Fill:
    """The speed-up of the plan's layout, then that of the widest TP, which Week 5 measures."""
    plan, widest = (_speedup(which)(facts) for which in ("chosen", "week5"))
    if not plan.value or plan.value == widest.value:
        return widest
    return replace(widest, value=f"{plan.value}. And {widest.value}")


def _about(variant: str) -> str:
    """What a note of notebook 3 is about: "paged attention: " of note_paged_attention."""
    return spaced(variant.removeprefix("note_")) + ": "


# ---------------------------------------------------------------- which line is which slot

_MY_LEARNINGS = {
    "## Week 1-2: Baseline": {
        "- Initial throughput: ___ tokens/sec": initial_throughput,
        "- GPU model: ___": gpu_model,
        "- Key challenge: ___": answer("key_challenge"),
    },
    "## Week 3: Optimization": {
        "- Optimal gpu_memory_utilization: ___": memory_setting,
        "- Optimal max_num_seqs: ___": max_num_seqs,
        "- Final throughput: ___ tokens/sec": final_throughput,
        "- Improvement: ___x": improvement,
    },
    "## Key Insights": {f"{n}. ___": answer(f"insight_{n}") for n in (1, 2, 3)},
    "## Questions for Week 5+": {f"{n}. ___": answer(f"question_{n}") for n in (1, 2)},
    "## How Weeks 1 to 3 were measured": {"- On: ___": where_measured},
    "## Five results of this week (ranges are of 95 % where one is given)": {
        "- Prefix caching in a conversation, time to first token: ___": conversation,
        "- Speculative decoding with a draft model, one stream, tokens after the first: ___": (
            speculation
        ),
        "- Two papers' ideas on this engine, in time: ___": papers_mechanisms,
        "- Decoding one stream, TP 2 over TP 1 on this machine: ___": two_ranks,
        "- Load of one copy of the server within its goal: ___": load_of_one_copy,
    },
    "## My largest surprises": {
        f"{rank + 1}. ___": _surprise(rank) for rank in range(MOST_SURPRISES)
    },
    "## Issues and workarounds": {"- ___": list_of("issue_")},
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
    "## Optimal configuration": {"___": tables.configuration},
    "## Predictions against measurements": {"___": tables.predictions_table},
    "## Production decisions": {"___": tables.decisions},
    "## Reading notes": {"- ___": list_of("note_", "note", _about)},
    "## Week 4 results by notebook": {"___": tables.results_table},
}
_DISTRIBUTED_PLANNING = {
    "## Hardware Available": {
        "- Number of GPUs: ___": gpu_count,
        "- GPU Model: ___": week5_gpu,
        "- GPU Memory: ___ GB each": _hardware("gpu_memory_gb"),
        "- Inter-GPU Link: ___ (NVLink/PCIe)": _hardware("link"),
    },
    "## Strategy": {
        "- Parallelism type: Tensor Parallelism": parallelism,
        "- Reason: ___": reason,
        "- Expected speedup: ___": plan_and_widest,
    },
    "## Concerns": {"- ___": list_of("concern_")},
    "## The plan for the course's model": {
        "- Goal: ___": _strategy("chosen", "goal"),
        "- How the planner decides: ___": _strategy("chosen", "decides"),
        "- Layout: ___": _strategy("chosen", "layout"),
        "- Reason: ___": chosen_reason,
        "- By the planner's ranges: ___": _strategy("chosen", "reason"),
        "- Measure in Week 5, in this order: ___": _strategy("chosen", "order"),
        "- Memory: ___": _strategy("chosen", "memory"),
        "- Command to start it: ___": _strategy("chosen", "command", code=True),
    },
    "## A model that needs several GPUs": {
        "- Goal: ___": _strategy("second", "goal"),
        "- Layout: ___": _strategy("second", "layout"),
        "- Reason: ___": _strategy("second", "reason"),
        "- Memory: ___": _strategy("second", "memory"),
        "- Expected speedup: ___": _speedup("second"),
        "- Command to start it: ___": _strategy("second", "command", code=True),
    },
    "## Results of Week 5, to be filled in": {"___": tables.week5_table},
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
BOXES = [(line, slot) for (_, _, line), slot in SLOTS.items() if line.startswith(OPEN_BOX)]
CHECKLIST = {line.removeprefix(OPEN_BOX): slot for line, slot in BOXES}
