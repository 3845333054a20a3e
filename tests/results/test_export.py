"""What an export fills in, and that what the student typed survives."""

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.results import documents, week5
from helpers.results import store as store_module
from helpers.results.blanks import SLOTS
from helpers.results.documents import export, hand_edits
from helpers.results.merge import Base, Line, merge
from helpers.results.store import Results, ResultsError
from helpers.results.wording import metric, source_of, value_of

DOC = "my_learnings.md"
APPENDIX = "my_learnings_appendix.md"
# The course's lines, as the issue gives them: they must stand in the templates as they are.
COURSE = {
    "my_learnings": """# My LLM Inference Optimization Journey
## Week 1-2: Baseline
- Initial throughput: ___ tokens/sec
- GPU model: ___
- Key challenge: ___
## Week 3: Optimization
- Optimal gpu_memory_utilization: ___
- Optimal max_num_seqs: ___
- Final throughput: ___ tokens/sec
- Improvement: ___x
## Key Insights
1. ___
2. ___
3. ___
## Questions for Week 5+
1. ___
2. ___""",
    "distributed_planning": """# Multi-GPU Strategy for Week 5
## Hardware Available
- Number of GPUs: ___
- GPU Model: ___
- GPU Memory: ___ GB each
- Inter-GPU Link: ___ (NVLink/PCIe)
## Strategy
- Parallelism type: Tensor Parallelism
- Reason: ___
- Expected speedup: ___
## Concerns
- ___""",
}


ONE = "One request at a time (initial throughput): output tokens/s"
EACH = "Each max_num_seqs above 1, before the best was chosen: output tokens/s"


def measure(folder, throughput=812.4, best=9000.0, seqs=64):
    store = Results("01_review", folder)
    store.save("baseline", "one_at_a_time", {"output_tokens_per_s": throughput, "ttft_ms_p50": 3.2})
    store.save(
        "optimised",
        "best",
        {"output_tokens_per_s": best, "improvement_x": best / throughput},
        {"max_num_seqs": seqs, "gpu_memory_utilization": 0.9},
        comments={"max_num_seqs": "the sweep's knee"},
    )
    store.save("sweep_max_num_seqs", str(seqs), {"output_tokens_per_s": best})
    return store


def text(folder, name=DOC):
    return (Path(folder) / name).read_text(encoding="utf-8")


def edit(folder, old, new, name=DOC):
    before = text(folder, name)
    assert before.count(old) == 1, f"{old!r} stands {before.count(old)} times in {name}"
    (Path(folder) / name).write_text(before.replace(old, new), encoding="utf-8", newline="")


def blank(report, label):
    return next(b for b in report.blanks if b.label == label)


@pytest.mark.parametrize("document", COURSE)
def test_templates_carry_the_courses_lines_in_order(document):
    lines = (documents.TEMPLATES / f"{document}.md").read_text().splitlines()
    course = COURSE[document].splitlines()
    assert [line for line in lines if line.strip()][: len(course)] == course


def test_every_slot_is_a_line_of_its_template_and_every_blank_has_a_slot():
    found = set()
    for document in documents.DOCUMENTS:
        section = ""
        for line in (documents.TEMPLATES / f"{document}.md").read_text().splitlines():
            section = line if line.startswith("#") else section
            if "___" in line or line.startswith(("- [ ]", "- Parallelism type")):
                found.add((document, section, line))
    assert found == set(SLOTS)


def test_nothing_measured_leaves_the_templates_as_they_are(tmp_path):
    report = export(tmp_path)
    for document in documents.DOCUMENTS:
        assert (
            text(tmp_path, f"{document}.md") == (documents.TEMPLATES / f"{document}.md").read_text()
        )
    assert [b.kind for b in report.blanks] == ["missing"] * len(SLOTS)


def test_an_argument_that_nobody_varied_is_not_called_optimal_alone(tmp_path):
    why = {"gpu_memory_utilization": "default, not varied: 1,000 tokens of KV cache"}
    speed = {"output_tokens_per_s": 900.0}
    store = Results("01_review", tmp_path)
    store.save("optimised", "best", speed, {"gpu_memory_utilization": 0.92}, comments=why)
    export(tmp_path)
    line = "- Optimal gpu_memory_utilization: 0.92 (default, not varied)"
    assert line in text(tmp_path).splitlines()


def test_measured_values_fill_the_blanks(tmp_path):
    measure(tmp_path)
    report = export(tmp_path)
    got = text(tmp_path)
    for line in (
        "- Initial throughput: 812 tokens/sec",
        "- Optimal gpu_memory_utilization: 0.90",
        "- Optimal max_num_seqs: 64",
        "- Final throughput: 9,000 tokens/sec",
        "- Improvement: 11.1x, over one request at a time",
    ):
        assert line in got.splitlines(), f"{line!r} not in\n{got}"
    for line in (
        "- `max_num_seqs=64`: the sweep's knee",
        f"| {ONE} | 812 tokens/s | measured, one run | 1 |",
    ):
        assert line in text(tmp_path, APPENDIX).splitlines(), line
    assert blank(report, "Initial throughput").kind == "measured" and "812" in str(report)
    assert blank(report, "Key challenge").kind == "missing"


def test_a_second_export_updates_what_was_measured_and_keeps_the_version_before(tmp_path):
    measure(tmp_path)
    export(tmp_path)
    first = text(tmp_path)
    export(tmp_path)
    assert not (tmp_path / (DOC + documents.PREVIOUS)).exists(), "nothing new, nothing to write"
    measure(tmp_path, throughput=500.0)
    export(tmp_path)
    assert "- Initial throughput: 500 tokens/sec" in text(tmp_path)
    assert text(tmp_path, DOC + documents.PREVIOUS) == first
    assert sorted(path.name for path in tmp_path.glob("*.previous")) == sorted(
        name + documents.PREVIOUS for name in (DOC, APPENDIX)
    )


def test_what_the_student_does_to_the_document_stays(tmp_path):
    measure(tmp_path)
    export(tmp_path)
    edit(
        tmp_path,
        "- Initial throughput: 812 tokens/sec",
        "- Initial throughput: 500 tokens/sec (on my A10G)",
    )
    edit(tmp_path, "## Week 3: Optimization", "## Woche 3: Optimierung — 優化")
    edit(tmp_path, "- Improvement: 11.1x, over one request at a time\n", "")
    edit(tmp_path, "1. ___\n2. ___\n3. ___", "1. Batching wins.\n   Really.\n2. ___\n3. ___")
    edit(tmp_path, "## Week 4 checklist", "## My own section\nΚάτι δικό μου\n\n## Week 4 checklist")
    measure(tmp_path, throughput=700.0, best=7000.0)
    report = export(tmp_path)
    got = text(tmp_path)
    for line in (
        "- Initial throughput: 500 tokens/sec (on my A10G)",
        "## Woche 3: Optimierung — 優化",
        "1. Batching wins.",
        "   Really.",
        "Κάτι δικό μου",
    ):
        assert line in got.splitlines(), f"{line!r} was lost:\n{got}"
    assert "- Final throughput: 7,000 tokens/sec" in got, (
        "the lines under a renamed heading are still ours"
    )
    assert "Improvement:" not in got, "a deleted line stays deleted"
    assert (
        blank(report, "Initial throughput").kind == "typed"
        and "A10G" in blank(report, "Initial throughput").value
    )
    assert (
        blank(report, "Key Insights 1").kind == "typed"
        and blank(report, "Key Insights 2").kind == "missing"
    )
    assert blank(report, "Improvement").note == "the student removed the line"


def test_a_blank_between_lines_that_the_student_wrote_is_filled(tmp_path):
    store = measure(tmp_path)
    export(tmp_path)
    edit(tmp_path, "1. ___\n2. ___\n3. ___", "1. by hand\n2. ___\n3. also by hand")
    store.save("answer", "insight_2", {}, text="in the form", source="typed")
    export(tmp_path)
    assert "1. by hand\n2. in the form\n3. also by hand" in text(tmp_path)


def test_a_blank_put_back_is_filled_again(tmp_path):
    measure(tmp_path)
    export(tmp_path)
    edit(tmp_path, "- Initial throughput: 812 tokens/sec", "- Initial throughput: mine")
    export(tmp_path)
    edit(tmp_path, "- Initial throughput: mine", "- Initial throughput: ___ tokens/sec")
    export(tmp_path)
    assert "- Initial throughput: 812 tokens/sec" in text(tmp_path)


def test_moved_sections_stay_where_they_are_and_are_kept_up_to_date(tmp_path):
    measure(tmp_path)
    export(tmp_path)
    got = text(tmp_path)
    start, end = got.index("## Week 1-2"), got.index("## Week 3")
    (tmp_path / DOC).write_text(got[:start] + got[end:] + "\n" + got[start:end])
    measure(tmp_path, throughput=600.0)
    export(tmp_path)
    got = text(tmp_path)
    assert got.index("## Week 3") < got.index("## Week 1-2"), "the student's order is kept"
    assert got.count("Initial throughput") == 1 and "- Initial throughput: 600 tokens/sec" in got


def test_rows_are_added_to_a_table_and_an_edited_row_is_left(tmp_path):
    store = measure(tmp_path)
    export(tmp_path)
    before = f"| {ONE} | 812 tokens/s | measured, one run | 1 |"
    edit(tmp_path, before, "| baseline, mine | 1 | typed | 1 |", APPENDIX)
    store.save("sweep_max_num_seqs", "8", {"output_tokens_per_s": 4500.0})
    measure(tmp_path)
    gain = {"ttft_gain_x": 3.4, "ttft_gain_x_low": 3.0, "ttft_gain_x_high": 3.8}
    Results("02_advanced_features", tmp_path).save("prefix_caching", "system prompt", gain)
    export(tmp_path)
    lines = text(tmp_path, APPENDIX).splitlines()
    assert "| baseline, mine | 1 | typed | 1 |" in lines
    assert ONE not in "".join(lines), "an edited row must not come back"
    swept = f"| {EACH} | 8: 4,500 tokens/s; 64: 9,000 tokens/s | measured, one run | 1 |"
    assert any("| system prompt: gain, 3.40x (3.00 to 3.80) | " in line for line in lines)
    assert "system prompt: gain, 3.40x" in lines[lines.index(swept) + 1]


@pytest.mark.parametrize(
    "damage",
    [
        None,
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"lines": [["a"]], "known": []}',
        b'{"lines": [["k", 3]], "known": []}',
        b'{"lines": [], "known": [[]]}',
    ],
)
def test_a_lost_or_damaged_record_costs_updates_never_words(tmp_path, damage):
    measure(tmp_path).save("answer", "question_1", {}, text="why?", source="typed")
    export(tmp_path)
    edit(tmp_path, "1. ___\n2. ___\n3. ___", "1. mine\n2. ___\n3. ___")
    before = text(tmp_path)
    record = tmp_path / ".my_learnings.export.json"
    record.unlink() if damage is None else record.write_bytes(damage)
    measure(tmp_path, throughput=10.0)
    Results("01_review", tmp_path).save("answer", "insight_2", {}, text="second", source="typed")
    report = export(tmp_path)
    assert text(tmp_path) == before.replace("1. mine\n2. ___", "1. mine\n2. second"), (
        "only an open blank may change"
    )
    assert any("record of the last export" in note for note in report.notes)


def test_results_that_are_gone_do_not_empty_the_document(tmp_path):
    measure(tmp_path)
    export(tmp_path)
    before = text(tmp_path)
    (tmp_path / "measurements.jsonl").write_bytes(b"\x00damaged")
    report = export(tmp_path)
    assert text(tmp_path) == before and "skipped" in str(report)
    assert blank(report, "Initial throughput").note.startswith("from an earlier export")
    assert blank(report, "Initial throughput").value == "812"


@pytest.mark.parametrize(
    "style", ["crlf", "no end", "mixed", "bom", "latin-1", "utf-16", "empty", "other breaks"]
)
def test_the_students_bytes_are_kept(tmp_path, style):
    measure(tmp_path)
    export(tmp_path)
    path, data = tmp_path / DOC, (tmp_path / DOC).read_bytes()
    data = {
        "crlf": data.replace(b"\n", b"\r\n"),
        "no end": data.rstrip(b"\n"),
        "mixed": data.replace(b"\n", b"\r\n", 9),
        "bom": b"\xef\xbb\xbf" + data,
        "latin-1": data + "für mich\n".encode("latin-1"),
        "utf-16": data.decode().encode("utf-16"),
        "empty": b"",
        "other breaks": data + "a\x0bb\x85c\u2028d\re\n".encode(),
    }[style]
    path.write_bytes(data)
    export(tmp_path)
    assert path.read_bytes() == data
    measure(tmp_path, throughput=777.0)
    export(tmp_path)
    expected = (
        data
        if style in ("utf-16", "empty")
        else data.replace(b"812", b"777").replace(b"11.1x", b"11.6x")
    )
    assert path.read_bytes() == expected, path.read_bytes().decode(errors="replace")


def test_answers_stand_in_one_line_as_they_were_typed(tmp_path):
    Results("01_review", tmp_path).save(
        "answer", "insight_1", {}, text="# two\nlines ___ | \ud800 漢字", source="typed"
    )
    report = export(tmp_path)
    assert r"1. \# two<br>lines \_\_\_ \| ? 漢字" in text(tmp_path).splitlines()
    assert blank(report, "Key Insights 1").kind == "typed"


def test_an_answer_that_is_cleared_leaves_the_document(tmp_path):
    store = Results("01_review", tmp_path)
    for key in ("insight_1", "issue_review", "issue_server"):
        store.save("answer", key, {}, text=f"about {key}", source="typed")
    export(tmp_path)
    assert text(tmp_path).count("about") == 3
    for key in ("insight_1", "issue_review"):
        store.save("answer", key, {}, text="", source="typed", withdrawn=True)
    report = export(tmp_path)
    assert "about insight" not in text(tmp_path) and "- about issue_server" in text(tmp_path)
    assert "about issue_review" not in text(tmp_path)
    assert blank(report, "Key Insights 1").kind == "missing"
    for key in ("insight_1", "issue_review"):
        store.save("answer", key, {}, text=f"{key} again", source="typed")
    export(tmp_path)
    assert {"1. insight_1 again", "- issue_review again"} <= set(text(tmp_path).splitlines())


def test_the_rates_of_an_earlier_session_leave_the_results(tmp_path, monkeypatch):
    rates = {"47.1_per_s": 1, "102.1_per_s": 1, "56.6_per_s": 2, "1_clients": 1, "8_clients": 1}
    for rate, session in rates.items():
        place = {"session": f"session {session}", "time_utc": f"2026-11-26T0{session}:00:00"}
        monkeypatch.setattr(store_module, "provenance", lambda profile=None, place=place: place)
        name = "open_loop" if rate.endswith("s") and "per" in rate else "closed_loop"
        numbers = {"good_share": 0.9, "output_tokens_per_s": 40.0}
        numbers["arrived_per_s"] = float(rate.partition("_")[0])
        Results("05_server_mode", tmp_path).save(name, rate, numbers)
        export(tmp_path)
    load = {"arrivals_per_s": 40.0, "good_share": 1.0, "missed_per_s": 110.0}
    Results("05_server_mode", tmp_path).save("sizing", "copies", load, goals_ms={"ttft": 85})
    export(tmp_path)
    assert "; cannot tell at 56.6 (90 %); one run each\n" in text(tmp_path)
    appendix = text(tmp_path, APPENDIX)
    assert "(chance moves it) | 56.6 per s: 90 % |" in appendix, (
        "other rates, made after another capacity"
    )
    assert "by their number | 8 clients: 40 tokens/s |" in appendix


def test_a_number_of_the_week_says_that_the_machine_was_disturbed(tmp_path):
    store, about = Results("04_multi_gpu_planning", tmp_path), ("trial", "TP 2 against TP 1")
    metrics = {"speedup_x": 0.7, "speedup_x_low": 0.6, "speedup_x_high": 0.8}
    line = "- Decoding one stream, TP 2 over TP 1 on this machine: loss, 0.70x (0.60 to 0.80)"
    for machine, more in (({}, ""), ({"disturbed": ["other programs"]}, ", machine disturbed")):
        store.save(*about, metrics, machine=machine)
        export(tmp_path)
        assert line + more in text(tmp_path).splitlines()


def test_a_disturbed_number_says_so_wherever_it_is_quoted(tmp_path):
    store, busy = Results("02_advanced_features", tmp_path), {"disturbed": ["other programs"]}
    gain = {"tpot_gain_x": 2.19, "tpot_gain_x_low": 1.4, "tpot_gain_x_high": 3.44}
    store.save("speculation", "draft model, k=4", gain, machine=busy)
    foretold = {"predicted": 1.0, "measured": 2.19, "measured_low": 1.4, "measured_high": 3.44}
    store.save("prediction", "draft_speedup", foretold, unit="x", question="Speed-up?")
    for feature in ("small chunks", "nothing"):
        store.save("services", f"chat, {feature}", {}, machine=busy if feature != "nothing" else {})
    store.save("decision", "chat", {}, choice="chat", measured="Faster.")
    export(tmp_path)
    said = "2.19x (1.40 to 3.44), machine disturbed"
    assert f"first: gain, 2.19x (1.40 to 3.44), 4 tokens drafted at a time{said[-19:]}\n" in text(
        tmp_path
    )
    for line in (f'"Speed-up?" | formula: 1x | {said} |', f"| k=4: gain, {said} |"):
        assert line in text(tmp_path, APPENDIX)
    chat = "- **chat** (notebook 2)\n  - Faster.\n  - machine disturbed: small chunks\n\n"
    assert chat in text(tmp_path, APPENDIX)


def test_an_issue_that_is_written_alike_in_several_notebooks_stands_once(tmp_path):
    stores = [Results(notebook, tmp_path) for notebook in ("01_review", "04_multi_gpu_planning")]
    first, second = stores
    for store, key in ((first, "issue_review"), (second, "issue_planning")):
        store.save("answer", key, {}, text="the first start compiles", source="typed")
    report = export(tmp_path)
    assert text(tmp_path).count("- the first start compiles") == 1
    assert blank(report, "Issues and workarounds").value == "1 answer"
    second.save("answer", "issue_planning", {}, text="two ranks wait", source="typed")
    export(tmp_path)
    assert text(tmp_path).count("- the first start compiles") == 1
    assert "- two ranks wait" in text(tmp_path).splitlines()
    first.save("answer", "issue_review", {}, text="two ranks wait", source="typed")
    export(tmp_path)
    assert text(tmp_path).count("- two ranks wait") == 1
    assert "the first start compiles" not in text(tmp_path)


EDITS = [  # an answer, its document, its line and what a student makes of it, what that reads
    (
        "key_challenge",
        "my_learnings.md",
        r"- Key challenge: \$2 a GPU",
        r"- Key challenge: \$2, *always*",
        "$2, *always*",
    ),
    (
        "concern_1",
        "distributed_planning.md",
        r"- \$2 a GPU",
        r"- \$2 and slow links",
        "$2 and slow links",
    ),
    (
        "note_orca",
        "my_learnings_appendix.md",
        r"- orca: \$2 a GPU",
        r"- orca: in waves, \$2",
        "in waves, $2",
    ),
]


@pytest.mark.parametrize(("key", "document", "ours", "theirs", "reads"), EDITS)
def test_a_hand_edit_is_named_and_given_up_only_by_the_students_word(
    tmp_path, key, document, ours, theirs, reads
):
    store = Results("01_review", tmp_path)
    store.save("answer", key, {}, text="$2 a GPU", source="typed")
    export(tmp_path)
    assert hand_edits(tmp_path) == {}
    edit(tmp_path, ours, theirs, document)
    assert hand_edits(tmp_path) == {key: (reads, theirs)}
    store.save("answer", key, {}, text="time", source="typed")
    report = export(tmp_path)
    assert theirs in text(tmp_path, document).splitlines(), "never silently"
    assert key.replace("_", " ") in report.notes[0], "and the export says so"
    given_up = {"text": "time", "source": "typed", "replaces": hand_edits(tmp_path)[key].line}
    store.save("answer", key, {}, **given_up)
    assert not export(tmp_path).notes
    assert ours.replace(r"\$2 a GPU", "time") in text(tmp_path, document).splitlines()
    assert hand_edits(tmp_path) == {}


def test_an_answer_joins_a_list_in_which_the_student_wrote(tmp_path):
    store = Results("04_multi_gpu_planning", tmp_path)
    export(tmp_path)
    document = "distributed_planning.md"
    edit(tmp_path, "## Concerns\n- ___", "## Concerns\n- my own", document)
    for number in (1, 2):
        store.save("answer", f"concern_{number}", {}, text=f"form {number}", source="typed")
        export(tmp_path)
    assert "## Concerns\n- my own\n- form 1\n- form 2\n" in text(tmp_path, document)


def test_typed_numbers_of_week_2_come_before_the_measured_ones(tmp_path):
    from helpers.results import import_numbers

    store = measure(tmp_path)
    import_numbers({"throughput": 55, "gpu": "NVIDIA A10G"}, store)
    report = export(tmp_path)
    assert "- Initial throughput: 55 tokens/sec" in text(
        tmp_path
    ) and "- GPU model: NVIDIA A10G" in text(tmp_path)
    assert (
        blank(report, "Initial throughput").kind == "typed"
        and blank(report, "Final throughput").kind == "measured"
    )


def test_an_improvement_over_another_baseline_than_the_typed_one_says_so(tmp_path):
    from helpers.results import import_numbers

    store = measure(tmp_path, throughput=600.0, best=3000.0)
    export(tmp_path)
    assert "- Improvement: 5x, over one request at a time" in text(tmp_path).splitlines(), (
        "both numbers stand above it"
    )
    import_numbers({"throughput": 50}, store)
    report = export(tmp_path)
    got = text(tmp_path).splitlines()
    assert (
        "- Initial throughput: 50 tokens/sec" in got
        and "- Final throughput: 3,000 tokens/sec" in got
    )
    assert "- Improvement: over the 600 tokens/sec measured this week: 5x" in got
    assert blank(report, "Improvement").kind == "measured"


@pytest.mark.parametrize("looked_at", [True, False])
def test_checklist_says_who_ticked_and_what_nobody_looked_at_ticks_nothing(
    tmp_path, monkeypatch, looked_at
):
    monkeypatch.setenv("WORKBOOK_WIDGETS", "1" if looked_at else "0")
    store = Results("03_reading_notes", tmp_path)
    store.save("checklist", "paper", {}, done=True, source="student")
    Results("05_server_mode", tmp_path).save("throughput", "c4", {"output_tokens_per_s": 3.0})
    Results("02_advanced_features", tmp_path).save("preemption", "half", {"requests_per_s": 3.0})
    Results("04_multi_gpu_planning", tmp_path).save("strategy", "chosen", {}, layout="TP 2")
    export(tmp_path)
    lines = text(tmp_path).splitlines()
    paper = "Read the PagedAttention paper (abstract and introduction at least)"
    assert f"- [x] {paper} (ticked by the student)" in lines
    assert "- [ ] Reviewed vLLM's documentation on distributed inference" in lines
    assert "- [ ] Planned the multi-GPU strategy for Week 5" in lines, "a planner plans, no person"
    by_evidence = [
        "Tried server mode (evidence: 1 measurement against a server in notebook 5)",
        "Optional: tried one advanced feature (evidence: measured preemption)",
    ]
    for item in by_evidence:
        alone = item.replace("evidence: ", "").replace(")", ", run unattended)")
        expected = f"- [x] {item}" if looked_at else f"- [ ] {alone}"
        assert expected in lines, expected
    edit(
        tmp_path,
        "- [ ] Reviewed vLLM's documentation on distributed inference",
        "- [x] Reviewed vLLM's documentation on distributed inference",
    )
    report = export(tmp_path)
    assert blank(report, "Reviewed vLLM's documentation on distributed inference").kind == "typed"


def test_a_tick_that_the_student_takes_back_goes(tmp_path):
    store = Results("03_reading_notes", tmp_path)
    store.save("checklist", "paper", {}, done=True, source="student")
    export(tmp_path)
    store.save("checklist", "paper", {}, done=False, source="student")
    export(tmp_path)
    assert (
        "- [ ] Read the PagedAttention paper (abstract and introduction at least)"
        in text(tmp_path).splitlines()
    )


def test_a_document_that_only_the_notebooks_have_filled_is_not_ticked_as_documented(tmp_path):
    store = measure(tmp_path)
    export(tmp_path)
    counted = "6 of 7 blanks of Weeks 1 to 3 are filled, 0 answers written"
    line = f"- [ ] Documented my progress in this file ({counted})"
    assert line in text(tmp_path).splitlines()
    store.save("answer", "insight_1", {}, text="batching pays", source="typed")
    export(tmp_path)
    evidence = "evidence: 6 of 7 blanks of Weeks 1 to 3 are filled, 1 answer written"
    assert f"- [x] Documented my progress in this file ({evidence})" in text(tmp_path)


def test_who_takes_another_layout_than_the_rule_says_why_in_a_line_of_its_own(tmp_path):
    store = Results("04_multi_gpu_planning", tmp_path)
    store.save("answer", "layout_reason", {}, text="Two GPUs do.", source="typed")
    for rule, own in (("DP 4", "Two GPUs do."), ("TP 2", "the planner's rule takes it")):
        about = {"layout": "TP 2", "rule": rule, "reason": "It is to be measured."}
        store.save("strategy", "chosen", {"expected_speedup_x": 1.4}, **about)
        export(tmp_path)
        said = f"- Reason: {own}\n- By the planner's ranges: It is to be measured.\n"
        assert said in text(tmp_path, "distributed_planning.md")


def test_the_plan(tmp_path):
    store = Results("04_multi_gpu_planning", tmp_path)
    store.save(
        "hardware",
        "week5",
        {"gpu_count": 2, "gpu_memory_gb": 141},
        gpu_model="NVIDIA H200",
        link="NVLink",
        source="parameter",
    )
    store.save(
        "strategy",
        "chosen",
        {
            "expected_speedup_x": 1.62,
            "expected_speedup_x_low": 1.5,
            "expected_speedup_x_high": 1.75,
        },
        layout="DP 2",
        goal="TPOT of at most 10 ms",
        speedup_of="decode step, against TP 1",
        reason="one copy fits",
        order="TP 2, then DP 2",
        decides="the fewest GPUs",
        memory="7 GiB of weights",
        command="vllm serve m -dp 2",
    )
    store.save("strategy", "week5", {"expected_speedup_x": 1.7}, reason="TP cuts the weights")
    store.save("strategy", "second", {"expected_speedup_x": 1.9}, layout="TP 4")
    numbers = {"output_tokens_per_s": 4321.0, "tpot_ms": 9.5, "goal_ms": 10.0}
    numbers |= {"tpot_ms_low": 8.26, "tpot_ms_high": 11.18}
    how = {"command": "vllm serve m", "load": "vllm bench serve m", "within": "cannot tell"}
    how["ranges"] = "in brackets 15 % off"
    gain = {"speedup_x": 1.6, "speedup_x_low": 1.4, "speedup_x_high": 2}
    for tp in (1, 2):
        row = {"gpus": tp, **numbers, **(gain if tp > 1 else {})}
        store.save("week5_plan", f"TP {tp}", row, source="planner", **how)
    for n in (1, 2):
        store.save("answer", f"concern_{n}", {}, text=f"worry {n}", source="typed")
    report = export(tmp_path)
    got = text(tmp_path, "distributed_planning.md").splitlines()
    for line in (
        "- Number of GPUs: 2",
        "- GPU Model: NVIDIA H200",
        "- GPU Memory: 141 GB each",
        "- Inter-GPU Link: NVLink",
        "- Parallelism type: Tensor Parallelism (what Week 5 measures; to serve with: DP 2)",
        "- Reason: TP cuts the weights",
        "- Expected speedup: 1.62x (1.50 to 1.75): decode step, against TP 1. And 1.7x",
        "- Layout: DP 2",
        "- Reason: the planner's rule takes it",
        "- By the planner's ranges: one copy fits",
        "- How the planner decides: the fewest GPUs",
        "- Measure in Week 5, in this order: TP 2, then DP 2",
        "- Memory: 7 GiB of weights",
        "- worry 1",
        "- worry 2",
        "- Goal: TPOT of at most 10 ms",
        "- Command to start it: `vllm serve m -dp 2`",
        "- Layout: TP 4",
        "- Expected speedup: 1.9x",
        "- Start TP 1: `vllm serve m` (the other layouts have `--tensor-parallel-size` and "
        "`--data-parallel-size` with their own sizes)",
        "- Load, the same for each: `vllm bench serve m`",
        "- Fill in its Output token throughput, Mean TPOT and Mean TTFT. The columns before are "
        "the planner's, in brackets 15 % off. For TTFT it has none: see Concerns.",
        "| layout | GPUs | tokens/s | speed-up | TPOT ms | within 10 ms | "
        "measured tokens/s | measured TPOT ms | measured TTFT ms |",
        "| TP 2 | 2 | 4,321 | 1.60x (1.40 to 2.00) | 9.5 (8.3 to 11.2) | cannot tell | ___ | "
        "___ | ___ |",
    ):
        assert line in got, f"{line!r} not in {got}"
    assert (
        blank(report, "Expected speedup").kind == "calculated"
        and blank(report, "GPU Model").kind == "typed"
    )


def test_what_week_5_measures_is_read_back_and_stays(tmp_path):
    store = Results("04_multi_gpu_planning", tmp_path)
    plan = "distributed_planning.md"
    store.save("strategy", "chosen", {"expected_speedup_x": 1.9}, layout="TP 2")
    for tp in (1, 2):
        row = {"tp": tp, "output_tokens_per_s": 4000.0 * tp, "tpot_ms": 9.5}
        store.save("week5_plan", f"TP {tp}", row, source="planner")
    assert week5.filled_in(tmp_path) == []
    export(tmp_path)
    assert week5.filled_in(tmp_path) == []
    row = "| TP 2 (the plan) | | 8,000 | | 9.5 | | "
    edit(tmp_path, f"{row}___ | ___ | ___ |", f"{row}7,100 | ___ | 150 |", plan)
    measured = [{"layout": "TP 2", "output_tokens_per_s": 7100.0, "ttft_ms": 150.0}]
    assert week5.filled_in(tmp_path) == measured
    store.save("week5_plan", "TP 2", {"tp": 2, "output_tokens_per_s": 1.0}, source="planner")
    export(tmp_path)
    assert week5.filled_in(tmp_path) == measured, "what was filled in, and what was expected then"
    assert f"{row}7,100 | ___ | 150 |" in text(tmp_path, plan)
    edit(tmp_path, " | measured TTFT ms |", " |", plan)
    assert week5.filled_in(tmp_path) == [], "a row that does not fit its heads is not guessed at"


def test_the_largest_surprises_are_the_students_own_predictions(tmp_path):
    store = Results("01_review", tmp_path)

    def predicted(key, said, came, span=(), **extra):
        span = dict(zip(("measured_low", "measured_high"), span, strict=False))
        about = {"unit": "tokens", "source": "student", "question": f"How many {key}?"}
        numbers = {"predicted": said, "measured": came, **span}
        store.save("prediction", key, numbers, **{**about, **extra})

    predicted("a", 100.0, 110.0)
    predicted("b", 100.0, 10.0)
    predicted("peak_blocks", 100.0, 300.0, source="parameter", formula=250.0, how="simulated")
    predicted("within its range", 100.0, 20.0, span=(4.0, 120.0))
    predicted("formula", 1.0, 1e6, source="formula")
    predicted("sums", 3.7, 3.7, source="formula", how="calculated")
    predicted("late", 1.0, 1e5, changed_after_measuring=True, said_before=6.0)
    store.save("prediction", "withdrawn", {}, source="student", withdrawn=True)
    export(tmp_path)
    lines = text(tmp_path).splitlines()
    at = lines.index("## My largest surprises")
    assert lines[at + 1 : at + 3] == [
        "1. I had expected 100 tokens and found 10 tokens: the answer to "
        '"How many b?" (notebook 1).',
        "2. I had expected 100 tokens and found 300 tokens, simulated: the largest number of KV "
        "blocks in use at once (notebook 1).",
    ]
    table = text(tmp_path, APPENDIX)
    late = "1 tokens, after the measurement, before: 6 tokens | 100,000 tokens | 100,000 |"
    assert f'| 1 | The answer to "How many late?" | {late}' in table
    given = "100 tokens (formula: 250) | 300 tokens, simulated | 3.00 |"
    assert f"| 1 | The largest number of KV blocks in use at once | {given}" in table
    assert "Given as a parameter of the run: 1 prediction." in table
    within = "100 tokens | 4 to 120 tokens | too wide to tell |"
    assert f'| 1 | The answer to "How many within its range?" | {within}' in table
    assert "How many sums?" not in table, "nobody typed a prediction: a formula beside itself"
    assert "withdrawn" not in table


def test_a_prediction_that_is_far_off_has_its_reason_and_a_formula_s_hit_is_left_out(tmp_path):
    store = Results("01_review", tmp_path)
    for key, measured, about in (
        ("near", 104.0, {"why": "rounding"}),
        ("mine", 104.0, {"why": "rounding", "source": "student"}),
        ("mine, its formula far", 104.0, {"why": "half", "source": "student", "formula": 50.0}),
        ("mine far, its formula near", 104.0, {"why": "a", "source": "student", "formula": 100.0}),
        ("far", 150.0, {"why": "it leaves out A | B", "residual": "1.50 times. It leaves"}),
        ("older", 150.0, {"residual": "The whole sentence."}),
        ("no reason", 150.0, {"why": "", "residual": "The measurement is 1.50 times."}),
    ):
        about = {"unit": "MiB", "source": "formula", "question": f"How {key}?"} | about
        said = 50.0 if key.startswith("mine far") else 100.0
        store.save("prediction", key, {"predicted": said, "measured": measured}, **about)
    ranged = {"predicted": 100.0, "measured": 150.0, "measured_low": 90.0, "measured_high": 240.0}
    store.save("prediction", "within", ranged, question="How wide?", why="noise")
    store.save("prediction", "sum", {"predicted": 1.0, "measured": 4.0}, how="calculated", why="2")
    export(tmp_path)
    got = text(tmp_path, APPENDIX)
    start = '| 1 | The answer to "How '
    assert [row.removeprefix(start) for row in got.splitlines() if row.startswith(start)] == [
        'mine?" | 100 MiB | 104 MiB | 1.04 |',
        'mine, its formula far?" | 100 MiB (formula: 50) | 104 MiB | 1.04 |',
        'mine far, its formula near?" | 50 MiB (formula: 100) | 104 MiB | 2.08 |',
        'far?" | formula: 100 MiB | 150 MiB | 1.50 |',
        'older?" | formula: 100 MiB | 150 MiB | 1.50 |',
        'no reason?" | formula: 100 MiB | 150 MiB | 1.50 |',
    ]
    start = '- The answer to "How '
    assert [line.removeprefix(start) for line in got.splitlines() if line.startswith(start)] == [
        'mine, its formula far?": half',
        r'far?": it leaves out A \| B',
        'older?": The whole sentence.',
    ]
    assert "2 more, which nobody typed, were within a tenth" in got
    store.save("prediction", "far", {"predicted": 148.0, "measured": 150.0}, question="How far?")
    export(tmp_path)
    assert "How far?" not in text(tmp_path, APPENDIX), "it is near now"


def test_page_one_has_a_line_of_each_notebook(tmp_path):
    two, three, five = (
        Results(name, tmp_path)
        for name in ("02_advanced_features", "03_reading_notes", "05_server_mode")
    )
    for k, gain in ((4, 1.84), (8, 2.4)):
        two.save("speculation", f"draft model, k={k}", {"tpot_gain_x": gain})
    ranges = {"speedup_x": 1.83, "speedup_x_low": 1.52, "speedup_x_high": 2.21}
    cache = {"num_gpu_blocks_override": 33, "block_size": 32}
    three.save("reserving", "reserved", {}, cache | {"max_num_seqs": 4})
    three.save("reserving", "paged", ranges, cache)
    goals = {"goals_ms": {"ttft": 70, "tpot": 13}}
    load = {"arrivals_per_s": 30.0, "good_share": 0.98, "missed_per_s": 39.7}
    load |= {"goal_share": 0.9, "missed_share": 0.62}
    five.save("sizing", "copies", load, **goals)
    five.save("open_loop", "35_per_s", {"arrived_per_s": 35.0, "good_share": 0.91})
    busy = {"machine": {"disturbed": ["other programs"]}}
    five.save("open_loop", "40_per_s", {"arrived_per_s": 39.7, "good_share": 0.62}, **busy)
    export(tmp_path)
    for line in (
        "- Speculative decoding with a draft model, one stream, tokens after the first: 1.84x "
        "(one run), 4 tokens drafted at a time",
        "- Two papers' ideas on this engine, in time: paged over reserved KV cache (4 places of "
        "256 tokens): gain, 1.83x (1.52 to 2.21)",
        "- Load of one copy of the server within its goal: held at 30 requests/s, 98 % of them "
        "within TTFT 70 ms and TPOT 13 ms (the goal: 90 %); missed "
        "at 39.7 requests/s, machine disturbed (62 % within); cannot tell at 35 (91 %); one run "
        "each",
    ):
        assert line in text(tmp_path).splitlines(), line
    five.save("sizing", "copies", {"arrivals_per_s": 30.0}, **goals)
    export(tmp_path)
    assert "within its goal: no rate that was tried\n" in text(tmp_path)


def test_a_rate_that_is_open_has_the_range_of_its_share(tmp_path):
    store = Results("05_server_mode", tmp_path)
    load = {"arrivals_per_s": 20.0, "good_share": 1.0, "missed_per_s": 50.0, "missed_share": 0.03}
    store.save("sizing", "copies", load, goals_ms={"ttft": 85})
    tried = {"arrived_per_s": 32.3, "good_share": 63 / 65, "completed": 64.0, "failed": 1.0}
    store.save("open_loop", "32_per_s", tried)
    store.save("open_loop", "30_per_s", {"good_share": 1.0, "completed": 60.0})  # of no known rate
    export(tmp_path)
    assert "cannot tell at 32.3 (97 % of 65 requests, 89 to 99 % by chance)" in text(tmp_path)


def test_a_gain_that_is_too_wide_to_judge_is_no_result_on_page_one(tmp_path):
    store = Results("02_advanced_features", tmp_path)
    wide = {"tpot_gain_x": 2.3, "tpot_gain_x_low": 0.87, "tpot_gain_x_high": 6.29}
    store.save("speculation", "draft model, k=4", wide | {"tpot_gain_x_values": 3})
    served = {"improvement_x": 0.4, "improvement_x_low": 0.3, "improvement_x_high": 0.5}
    store.save("services", "assistant, speculative decoding", served | {"improvement_x_values": 3})
    export(tmp_path)
    line = "first: this machine cannot tell (undecided, 0.87 to 6.29x), 4 tokens drafted at a time"
    whole = "; whole answers of one developer's assistant (section 4 of notebook 2): loss, 0.40x"
    assert line + whole in text(tmp_path)
    below_zero = {"predicted": 0.2, "measured": 0.5, "measured_low": -0.06, "measured_high": 1.1}
    store.save("prediction", "draft_c", below_zero, source="student", question="A time?")
    export(tmp_path)
    assert "| 0.2 | 0 to 1.1 | too wide to tell |" in text(tmp_path, APPENDIX)


def test_the_documents_have_the_third_digit_of_a_border_as_the_notebooks_do(tmp_path):
    store = Results("02_advanced_features", tmp_path)
    for high, said in ((0.972, "undecided, 0.48 to 0.972x"), (0.961, "loss, 0.70x (0.48 to 0.96)")):
        gain = {"tpot_gain_x": 0.7, "tpot_gain_x_low": 0.48, "tpot_gain_x_high": high}
        store.save("speculation", "draft model, k=4", gain)
        export(tmp_path)
        assert f"| k=4: {said} |" in text(tmp_path, APPENDIX)


def test_a_prediction_of_which_only_the_ends_were_tried_is_graded_in_words(tmp_path):
    store = Results("05_server_mode", tmp_path)
    ends = {"predicted": 0.9, "measured": 0.8, "measured_low": 0.8, "measured_high": 0.99}
    about = {"stated": "held at 0.8, missed at 0.99", "grade": "among those left open"}
    store.save("prediction", "held_share", ends, source="student", unit="x", **about)
    export(tmp_path)
    row = "0.9x | held at 0.8, missed at 0.99 | among those left open |"
    assert row in text(tmp_path, APPENDIX)


def test_a_decision_is_a_list_of_what_was_measured_where(tmp_path):
    store = Results("02_advanced_features", tmp_path)
    said = "here: small chunks gain, 1.96 to 2.40. recorded GPU: small chunks gain, 2.43 to 9.96."
    store.save("decision", "mixed", {}, choice="mixed *load*", measured=said)
    store.save("answer", "decision_mixed", {}, text="Small chunks.", source="typed")
    export(tmp_path)
    got = text(tmp_path, APPENDIX)
    assert "The *recorded GPU*: NVIDIA H100" in got and r"- **mixed \*load\*** (notebook 2)" in got
    for line in ("here: small chunks gain, 1.96 to 2.40.", "I would: Small chunks."):
        assert f"\n  - {line}\n" in got
    assert "\n  - recorded GPU: small chunks gain, 2.43 to 9.96.\n" in got


def test_answers_that_a_run_was_given_are_not_called_written(tmp_path):
    store = measure(tmp_path)
    store.save("answer", "insight_1", {}, text="batching pays", source="parameter")
    export(tmp_path)
    said = "filled, 0 answers written, 1 given as parameters of the run)\n"
    assert f"(6 of 7 blanks of Weeks 1 to 3 are {said}" in text(tmp_path)


def test_puzzles_that_were_solved_are_counted(tmp_path):
    store = Results("01_review", tmp_path)
    store.save("puzzle", "blocks_held", {}, title="Blocks held", solved=True, of=10)
    store.save("puzzle", "draft", {}, title="Draft", solved=False, of=10)
    export(tmp_path)
    assert "- Code puzzles solved: 1 of 10 (Blocks held)" in text(tmp_path).splitlines()


def test_gpus_that_are_only_planned_are_said_to_be(tmp_path):
    store = Results("04_multi_gpu_planning", tmp_path)
    store.save("hardware", "week5", {"gpu_count": 8}, gpu_model="NVIDIA H100", source="catalogue")
    export(tmp_path)
    assert (
        "- GPU Model: NVIDIA H100 (planned, not on this machine)"
        in text(tmp_path, "distributed_planning.md").splitlines()
    )


def test_odd_records_do_not_stop_an_export(tmp_path):
    store = Results("01_review", tmp_path)
    store.save("baseline", "one_at_a_time", {"output_tokens_per_s": "fast"}, texts=3, source=["x"])
    store.save(
        "optimised",
        "best",
        {"output_tokens_per_s": True},
        {"max_num_seqs": "many"},
        comments="none",
    )
    store.save("prediction", "p", {"predicted": 0, "measured": 3}, unit=5, residual=["a"])
    store.save("answer", "insight_1", {}, text=["not a text"])
    store.save("checklist", "paper", {}, done="yes", evidence=3)
    store.save("hardware", "week5", {"gpu_count": None}, gpu_model={})
    report = export(tmp_path)
    assert (
        blank(report, "Initial throughput").kind == "missing"
        and blank(report, "Key Insights 1").kind == "missing"
    )


def test_a_full_disk_leaves_the_document_as_it_was(tmp_path, monkeypatch):
    measure(tmp_path)
    export(tmp_path)
    measure(tmp_path, throughput=1.0)
    before = text(tmp_path)
    monkeypatch.setattr(
        os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(ResultsError, match="No space left on device"):
        export(tmp_path)
    monkeypatch.undo()
    assert text(tmp_path) == before and not list(tmp_path.glob("*.part")) + list(
        tmp_path.glob(".*.part")
    )


def test_a_metric_in_words():
    assert (
        metric("ttft_ms_p99", 12.1) == "TTFT p99 12.1 ms"
        and metric("output_tokens_per_s", 5) == "output 5 tokens/s"
    )
    assert metric("speedup_x", 1.5) == "speedup 1.5x" and metric("score", 3) == "score 3"
    assert (
        metric("tpot_ms_4_streams", 3.1) == "TPOT 4 streams 3.1 ms"
        and metric("rate_gb_per_s", 1.19) == "rate 1.19 GB/s"
    )
    assert (
        metric("ms", 2.07) == "2.07 ms"
        and metric("cost_per_million_tokens", 0.242) == "cost per million tokens 0.242"
    )
    assert (
        metric("requests_per_s", 6.3) == "requests 6.3/s"
        and metric("weights_gib", 0.05) == "weights 51.2 MiB"
    )


# ------------------------------------------------------ whatever the student types survives


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(any(x == y for y in rest) for x in part)


few_lines = st.lists(
    st.sampled_from(
        ["", "- a: ___", "- a: 1", "- a: 2", "# h", "| r |", "___", "mine", "yours", "- a: mine"]
    ),
    max_size=12,
)


@given(
    few_lines,
    st.lists(st.sampled_from(["", "- a: 1", "# h", "| r |", "___", "# old"]), max_size=6),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=400)
def test_a_line_that_is_not_ours_is_never_touched(current, written, lost, filled):
    base = Base(
        [(f"# h|k{n}", line) for n, line in enumerate(written)],
        {f"# h|k{n}" for n in range(len(written))},
        lost,
    )
    new = [
        Line("# h|# h", "# h", "# h"),
        Line("# h|- a: ___", "- a: 2" if filled else "- a: ___", "- a: ___", missing=not filled),
        Line("# h|k0", "", ""),
        Line("# h|___", None if filled else "___", "___"),
    ]
    new += [Line("# h|___||row", "| r |")] if filled else []
    merged = merge(list(current), base, new)
    ours = (
        {text for _, text in base.lines} | {line.open for line in new} | {line.text for line in new}
    )
    theirs = [line for line in current if line not in ours]
    assert [line for line in merged.lines if line not in ours] == theirs
    assert is_subsequence([text for _, text in merged.base.lines], merged.lines), (
        "the record must hold what was written"
    )


student = st.text(st.characters(exclude_characters="\n§", exclude_categories=["Cs"]), max_size=25)
steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "edit",
                "append to",
                "insert",
                "delete",
                "move section",
                "copy",
                "measure",
                "answer",
                "crlf",
                "cut end",
                "lose record",
                "damage record",
                "export",
            ]
        ),
        st.integers(0, 10_000),
        student,
    ),
    min_size=1,
    max_size=14,
)


RECORD = ".my_learnings.export.json"


def by_the_student(what, lines, where, words, mark):
    """The document's lines after the student has done something to them."""
    at = where % len(lines)
    before, line, after = lines[:at], lines[at], lines[at + 1 :]
    if what == "move section":
        heads = [i for i, line in enumerate(lines) if line.startswith("## ")]
        if len(heads) < 2:
            return lines
        cut, end = heads[where % (len(heads) - 1) :][:2]
        return lines[:cut] + lines[end:] + [""] + lines[cut:end]
    done = {
        "edit": [mark + words],
        "append to": [line + words + mark],
        "insert": [words + mark, line],
        "copy": [lines[where // 7 % len(lines)], line],
        "delete": [],
    }
    return before + done.get(what, [line]) + after


def in_the_folder(what, folder, where, words):
    """What a notebook saves, or what happens to the record of the last export."""
    if what == "measure":
        measure(folder, throughput=1.0 + where, seqs=1 + where % 3)
    elif what == "answer":
        insight = f"insight_{1 + where % 3}"
        Results("01_review", folder).save("answer", insight, {}, text=words, source="typed")
    elif what == "lose record":
        (folder / RECORD).unlink(missing_ok=True)
    elif what == "damage record":
        (folder / RECORD).write_bytes(words.encode())


def marked(data):
    return [line.rstrip("\r") for line in data.decode().split("\n") if "§" in line]


@given(steps)
@settings(max_examples=120)
def test_whatever_the_student_typed_survives_any_sequence_of_exports(tmp_path_factory, plan):
    folder = tmp_path_factory.mktemp("week")
    path = folder / DOC
    measure(folder)
    export(folder, which=["my_learnings"])
    removed = False  # the student took out our line of the throughput
    for count, (what, where, words) in enumerate(plan):
        data = path.read_bytes().decode()
        newline = "\r\n" if "\r\n" in data else "\n"
        mark = f"§{count}§"  # makes the student's line one that we cannot have written
        there = any(line.startswith("- Initial") for line in data.split(newline))
        lines = by_the_student(what, data.split(newline), where, words, mark)
        if what == "delete" and there:
            removed |= not any(line.startswith("- Initial") for line in lines)
        if what == "crlf":
            newline = "\r\n"
        data = newline.join(lines)
        path.write_bytes((data.rstrip("\r\n") if what == "cut end" else data).encode())
        in_the_folder(what, folder, where, words)

        before = path.read_bytes()
        export(folder, which=["my_learnings"])
        after = path.read_bytes()
        assert marked(after) == marked(before), f"step {count} ({what}) lost words"
        same_end = before.endswith(b"\n") == after.endswith(b"\n")
        assert same_end or not after, "the last line's end is the student's too"
        if removed and what != "copy":
            ours = [line for line in after.decode().split("\n") if "- Initial throughput" in line]
            assert not ours or any("§" in line for line in ours), "a line that was removed is back"
    assert json.loads((folder / RECORD).read_text())["lines"] is not None


def test_a_range_stands_beside_its_number_and_a_disturbed_run_is_named():
    gain = {"improvement_x": 7.87, "improvement_x_low": 7.6, "improvement_x_high": 8.14}
    step = {"tpot_ms_1_streams": 3.91, "tpot_ms_1_streams_low": 3.62, "tpot_ms_1_streams_high": 5.2}
    record = {"metrics": {**gain, **step, "ms": 2.0, "found": True, "text": "x"}}
    assert value_of(record, "improvement_x") == "gain, 7.87x (7.60 to 8.14)"
    assert value_of(record, "tpot_ms_1_streams") == "3.91 ms (3.62 to 5.20)"
    assert [value_of(record, name) for name in ("ms", "found", "text")] == ["2 ms", "", ""]
    assert source_of(record) == "measured"
    busy = {**record, "machine": {"others_share": 0.4, "disturbed": ["x"]}}
    assert value_of(busy, "ms") == "2 ms, machine disturbed" and source_of(busy) == "measured"
    assert value_of({**record, "machine": "forged"}, "ms") == "2 ms"


def test_a_range_that_leaves_the_winner_open_says_so(tmp_path):
    store = Results("02_advanced_features", tmp_path)
    open_one = {"tpot_gain_x": 1.74, "tpot_gain_x_low": 0.761, "tpot_gain_x_high": 3.96}
    store.save("speculation", "draft model, k=4", open_one)
    export(tmp_path)
    text = (tmp_path / "my_learnings.md").read_text()
    assert "after the first: undecided, 0.76 to 3.96x, 4 tokens drafted at a time\n" in text
    assert "| k=4: undecided, 0.76 to 3.96x | measured | 2 |" in (tmp_path / APPENDIX).read_text()
    above = {"gain_x": 1.38, "gain_x_low": 1.02, "gain_x_high": 1.87}
    assert value_of({"metrics": above}, "gain_x") == "undecided, 1.02 to 1.87x"


def test_page_one_has_the_drafts_that_are_tried_first_not_the_luckiest(tmp_path):
    store = Results("02_advanced_features", tmp_path)
    for k, gain, low, high in ((4, 1.67, 1.56, 1.8), (8, 1.81, 1.39, 2.36)):
        ranged = {"tpot_gain_x": gain, "tpot_gain_x_low": low, "tpot_gain_x_high": high}
        store.save("speculation", f"draft model, k={k}", ranged)
    export(tmp_path)
    for a, met, x in ((0.5, 0.54, 0.89), (0.95, 0.94, 1.99)):
        ranged = {"tpot_gain_x": x, "tpot_gain_x_low": x - 0.05, "tpot_gain_x_high": x + 0.05}
        store.save("speculation", f"synthetic, a={a}", ranged | {"a": met})
    export(tmp_path)
    by_a = "a = 0.54: loss, 0.89x (0.84 to 0.94); a = 0.94: gain, 1.99x (1.94 to 2.04)"
    assert f"| {by_a} | measured | 2 |" in (tmp_path / APPENDIX).read_text(), "as the notebook says"
    text = (tmp_path / "my_learnings.md").read_text()
    assert "after the first: gain, 1.67x (1.56 to 1.80), 4 tokens drafted at a time\n" in text


def test_the_appendix_has_one_initial_throughput_and_says_what_was_one_run(tmp_path):
    review = Results("01_review", tmp_path)
    review.save("baseline", "one_at_a_time", {"output_tokens_per_s": 626.0})
    export(tmp_path)
    assert f"| {ONE} | 626 tokens/s | measured, one run | 1 |" in text(tmp_path, APPENDIX)
    speeds = {"output_tokens_per_s": 6173.0, "baseline_tokens_per_s": 658.0}
    review.save("optimised", "best", speeds)
    export(tmp_path)
    appendix = text(tmp_path, APPENDIX)
    assert f"| {ONE} | 658 tokens/s | measured | 1 |" in appendix and "626" not in appendix
    best = "| The best max_num_seqs (final throughput): output tokens/s | 6,173 tokens/s |"
    assert f"{best} measured | 1 |" in appendix


def test_of_a_conversation_the_last_turn_stands_in_both_documents(tmp_path):
    store = Results("02_advanced_features", tmp_path)
    gain = {"ttft_gain_last_turn_x": 4.5, "turns": 7}
    gain |= {"ttft_gain_last_turn_x_low": 4.2, "ttft_gain_last_turn_x_high": 4.8}
    store.save("prefix_caching", "conversation", gain)
    export(tmp_path)
    assert "time to first token: gain, 4.50x (4.20 to 4.80) at turn 7\n" in text(tmp_path)
    assert "first token | gain, 4.50x (4.20 to 4.80) | measured | 2 |" in text(tmp_path, APPENDIX)


def test_rows_of_two_machines_say_which_is_whose(tmp_path, monkeypatch):
    one = "what | result | how | notebook |"
    measure(tmp_path)
    export(tmp_path)
    assert one in text(tmp_path, APPENDIX) and "(a)" not in text(tmp_path, APPENDIX)
    place = {"machine": "NVIDIA L4", "vllm": "0.32.0"}
    monkeypatch.setattr(store_module, "provenance", lambda profile=None: place)
    store = Results("05_server_mode", tmp_path)
    store.save("closed_loop", "8_clients", {"output_tokens_per_s": 1019.0})
    export(tmp_path)
    appendix = text(tmp_path, APPENDIX)
    assert " (a); NVIDIA L4, vLLM 0.32.0 (b)." in appendix
    assert "| 8 clients: 1,019 tokens/s | measured, one run | 5 (b) |" in appendix
    assert "| 812 tokens/s | measured, one run | 1 (a) |" in appendix


def test_the_improvement_in_turn_is_one_number_in_both_documents(tmp_path):
    """Not the ratio of the rounded speeds, which is 8.53."""
    of_turns = {"improvement_x": 8.538, "improvement_x_low": 8.25, "improvement_x_high": 8.85}
    speeds = {"output_tokens_per_s": 5197.4, "baseline_tokens_per_s": 608.7}
    load = {"requests": 32, "input_tokens": 3072, "output_tokens": 1024}
    store = Results("01_review", tmp_path)
    store.save("optimised", "best", speeds | of_turns | load, {"max_num_seqs": 32})
    export(tmp_path)
    got = text(tmp_path).splitlines()
    assert "- Initial throughput: 609 tokens/sec" in got
    assert "- Final throughput: 5,197 tokens/sec" in got
    assert (
        "- Improvement: 8.54x (8.25 to 8.85), over one request at a time, the mean of the rounds "
        "with its range of 95 %" in got
    )
    assert text(tmp_path).count("8.54x") == 1
    assert "96 tokens in and 32 out a request; each round ran every setting once\n" in text(
        tmp_path
    )
    assert f"| {ONE} | 609 tokens/s | measured | 1 |" in text(tmp_path, APPENDIX)
    speeds |= {"baseline_tokens_per_s_low": 598.0, "baseline_tokens_per_s_high": 620.0}
    store.save("optimised", "best", speeds | of_turns | load, {"max_num_seqs": 32})
    export(tmp_path)
    assert "- Initial throughput: 609 (598 to 620 by round) tokens/sec\n" in text(tmp_path)
    assert f"| {ONE} | 609 tokens/s (598 to 620) | measured | 1 |" in text(tmp_path, APPENDIX)
    busy = {"machine": {"disturbed": ["other programs"]}}
    store.save("optimised", "best", speeds | of_turns | load, {"max_num_seqs": 32}, **busy)
    export(tmp_path)
    assert "with its range of 95 %, machine disturbed\n" in text(tmp_path)


def test_the_setting_stands_with_what_it_was_chosen_for(tmp_path):
    store = Results("01_review", tmp_path)
    why = "the most that was tried; TPOT at most 3 times that of one at a time"
    metrics = {"output_tokens_per_s": 5000.0, "improvement_x": 10.0}
    store.save("optimised", "best", metrics, {"max_num_seqs": 32}, chosen_for=why)
    export(tmp_path)
    text = (tmp_path / "my_learnings.md").read_text()
    assert f"- Optimal max_num_seqs: 32 ({why})" in text


def test_rates_stand_in_order(tmp_path):
    store = Results("05_server_mode", tmp_path)
    for rate in ("41.8", "106", "55.3"):
        store.save("open_loop", f"{rate}_per_s", {"good_share": 1.0})
    export(tmp_path)
    assert re.findall(r"([\d.]+) per s: 100 %", text(tmp_path, APPENDIX)) == ["41.8", "55.3", "106"]
