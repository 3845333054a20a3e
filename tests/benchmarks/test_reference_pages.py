"""benchmarks/reference_pages.py: small pages and records from a run."""

import json
import re

import nbformat
import pytest

from benchmarks import example_student, reference_pages
from helpers.lessons.puzzles.check import PUZZLES
from helpers.results.store import Results
from helpers.run.course_file import parameters_of

H100 = {
    "gpu": "NVIDIA H100 80GB HBM3",
    "vllm": "0.32.0",
    "model": "Qwen2.5-7B-Instruct",
    "weights": "dummy",
    "time_utc": "2026-11-23T20:00:00+00:00",
}


def test_a_run_becomes_pages_and_records(tmp_path):
    run = tmp_path / "run"
    store = Results("01_review", run)
    store.save("sweep", "8", {"tokens_per_s": 5.0}, rows=[{"ms": 1}], every_token=list(range(1000)))
    store.save("sweep", "8", {"tokens_per_s": 6.0})
    store.save("long", "all", {"n": 1}, every_token=list(range(1000)), rows=[1, 2])
    book = nbformat.v4.new_notebook()
    output = nbformat.v4.new_output
    cell = nbformat.v4.new_code_cell("print(1)")
    cell.outputs = [
        output("stream", name="stdout", text="y" * 50_000),
        output("stream", name="stderr", text="a warning"),
        output(
            "display_data",
            data={
                "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
                "text/html": "<b>view</b><script>evil()</script>",
            },
        ),
    ]
    book.cells = [nbformat.v4.new_markdown_cell("# Title <b>x</b>"), cell]
    nbformat.write(book, run / "01_review.ipynb")
    records = tmp_path / "records"
    records.mkdir()
    (records / "limits.jsonl").write_text(
        json.dumps(
            {
                "benchmark": "limits",
                "metrics": {"part": "decode", "streams": 8, "step_ms": 7.0},
                "provenance": H100,
            }
        )
        + "\n{cut off"
    )
    written = reference_pages.make(run, tmp_path / "out", records)
    assert [p.name for p in written] == ["measurements.jsonl", "01_review.html"] and written[
        0
    ].parent.name == "h100"
    rows = {
        (r["experiment"], r["variant"]): r
        for r in map(json.loads, written[0].read_text().splitlines())
    }
    assert rows["sweep", "8"]["metrics"] == {"tokens_per_s": 6.0}
    assert rows["limits", "decode 8"]["metrics"]["step_ms"] == 7.0
    assert rows["long", "all"]["left_out"] == ["every_token"] and rows["long", "all"]["rows"] == [
        1,
        2,
    ]
    page = written[1].read_text()
    assert "<b>view</b>" in page and "characters left out" in page and len(page) < 100_000
    for gone in ("evil()", "widget-view", "a warning", "<script"):
        assert gone not in page
    # A second run on the machine adds to the first.
    more = tmp_path / "more"
    Results("02_advanced_features", more).save("chunked", "512", {"ms": 1.0})
    again = {
        r["experiment"]
        for r in map(
            json.loads,
            reference_pages.make(more, tmp_path / "out", records)[0].read_text().splitlines(),
        )
    }
    assert again == {"sweep", "long", "limits", "chunked"}


def test_a_run_without_measurements_is_refused(tmp_path, capsys):
    assert reference_pages.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "no measurements" in capsys.readouterr().err


def test_the_example_student_solves_every_puzzle_and_answers_what_the_notebooks_ask(tmp_path):
    example_student.fill_in(tmp_path)
    declared, asked, solved = set(), set(), []
    for path in sorted(tmp_path.glob("*.ipynb")):
        sources = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        solved += [source for source in sources if source.startswith(example_student.LABEL)]
        declared |= parameters_of(path)
        asked |= set(re.findall(r'\bpredict\(\s*"(\w+)"', "".join(sources)))
    assert len(solved) == PUZZLES
    said = example_student.answers()
    assert said.keys() <= declared
    assert said["PREDICTIONS"].keys() == asked


@pytest.mark.parametrize(
    "gpu, name",
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("2 x NVIDIA H200", "2xh200"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla T4", "t4"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        (None, "cpu"),
    ],
)
def test_a_machine_has_a_short_name(gpu, name):
    assert reference_pages.slug({"gpu": gpu}) == name


def test_a_run_replaces_the_records_of_its_notebooks_and_says_how_far_it_came(tmp_path):
    for number, experiments in enumerate((("sweep", "old"), ("sweep",))):
        run = tmp_path / f"run{number}"
        store = Results("01_review", run)
        for experiment in experiments:
            store.save(experiment, "8", {"tokens_per_s": 5.0})
        other = Results("02_advanced_features", run)
        if number == 0:
            other.save("kept", "all", {"n": 1})
        book = nbformat.v4.new_notebook()
        book.cells = [nbformat.v4.new_code_cell("1", execution_count=1)]
        book.cells += [nbformat.v4.new_code_cell("2")] * number
        nbformat.write(book, run / "01_review.ipynb")
        records, page = reference_pages.make(run, tmp_path / "out")
        limit = "A time limit ended this run after 1 of 2 cells." in page.read_text()
        assert limit == bool(number)
    kept = {json.loads(line)["experiment"] for line in records.read_text().splitlines()}
    assert kept == {"sweep", "kept"}
