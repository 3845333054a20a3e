"""helpers/results/recorded.py and benchmarks/make_reference.py: small pages and records from a run, and reading them back."""

import json

import nbformat
import pytest

from benchmarks import make_reference  # noqa: E402
from helpers.results import recorded as reference  # noqa: E402
from helpers.results.store import Results  # noqa: E402

H100 = {
    "gpu": "NVIDIA H100 80GB HBM3",
    "vllm": "0.32.0",
    "model": "Qwen2.5-7B-Instruct",
    "weights": "dummy",
    "time_utc": "2026-11-23T20:00:00+00:00",
}


def write(place, *rows):
    place.mkdir(parents=True, exist_ok=True)
    text = "".join(
        json.dumps(
            {"notebook": "01_review", "variant": "8", "engine_args": {}, "workload": {}, **row}
        )
        + "\n"
        for row in rows
    )
    (place / "measurements.jsonl").write_text(text)


def test_recorded_takes_the_newest_machine_that_has_the_experiment(tmp_path):
    older = {**H100, "gpu": "NVIDIA H200", "time_utc": "2026-01-01T00:00:00+00:00"}
    write(tmp_path / "h100", {"experiment": "sweep", "metrics": {"x": 1}, "provenance": H100})
    write(
        tmp_path / "h200",
        {"experiment": "sweep", "metrics": {"x": 2}, "provenance": older},
        {"experiment": "only_here", "metrics": {"x": 3}, "provenance": older},
    )
    assert reference.machines(tmp_path) == ["h100", "h200"]
    assert [r["metrics"]["x"] for r in reference.records("sweep", folder=tmp_path)] == [1]
    assert [r["recorded_on"] for r in reference.records("only_here", folder=tmp_path)] == ["h200"]
    assert reference.records("sweep", machine="h200", folder=tmp_path)[0]["metrics"]["x"] == 2
    assert (
        reference.records("sweep", variant="9", folder=tmp_path)
        == []
        == reference.records("nothing", folder=tmp_path)
    )
    label = reference.records("sweep", folder=tmp_path)[0]["label"]
    assert all(word in label for word in ("H100", "0.32.0", "dummy weights", "2026-11-23"))


def test_a_curve_has_the_variants_that_are_asked_for(tmp_path, monkeypatch):
    write(tmp_path / "h100", *[{"experiment": "drafts", "variant": v, "metrics": m, "provenance": H100}
                               for v, m in (("synthetic, a=0.9", {"alpha": 0.9}), ("ngram", {"drafts": 3}), ("synthetic, a=0.1", {"alpha": 0.1}))])  # fmt: skip
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    points, label = reference.curve("drafts", "alpha", "synthetic")
    assert [p["alpha"] for p in points] == [0.1, 0.9] and label.startswith("recorded: NVIDIA H100")
    assert reference.curve("drafts", "alpha", "eagle") == ([], "")


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
    assert reference.slug({"gpu": gpu}) == name


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
    written = make_reference.make(run, tmp_path / "out", records)
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
            make_reference.make(more, tmp_path / "out", records)[0].read_text().splitlines(),
        )
    }
    assert again == {"sweep", "long", "limits", "chunked"}


def test_a_run_without_measurements_is_refused(tmp_path, capsys):
    assert make_reference.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "no measurements" in capsys.readouterr().err
