"""helpers/results/recorded.py: records of other machines, read back."""

import json

import pytest

from helpers.results import recorded

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


@pytest.fixture
def machines(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "FOLDER", tmp_path)
    return tmp_path


def test_records_are_those_of_the_machine_recorded_last_that_has_the_experiment(machines):
    older = {**H100, "gpu": "NVIDIA H200", "time_utc": "2026-01-01T00:00:00+00:00"}
    write(machines / "h100", {"experiment": "sweep", "metrics": {"x": 1}, "provenance": H100})
    write(
        machines / "h200",
        {"experiment": "sweep", "metrics": {"x": 2}, "provenance": older},
        {"experiment": "only_here", "metrics": {"x": 3}, "provenance": older},
    )
    assert [r["metrics"]["x"] for r in recorded.records("sweep")] == [1]
    assert [r["metrics"]["x"] for r in recorded.records("only_here")] == [3]
    assert recorded.records("nothing") == []
    label = recorded.curve("sweep")[1]
    assert all(word in label for word in ("H100", "0.32.0", "dummy weights", "2026-11-23"))


def test_a_curve_has_the_variants_that_are_asked_for(machines):
    alphas = {"synthetic, a=0.9": 0.9, "ngram": 0.5, "synthetic, a=0.1": 0.1}
    rows = [
        {"experiment": "drafts", "variant": v, "metrics": {"alpha": a}, "provenance": H100}
        for v, a in alphas.items()
    ]
    write(machines / "h100", *rows)
    points, label = recorded.curve("drafts", "alpha", "synthetic")
    assert [p["alpha"] for p in points] == [0.1, 0.9] and label.startswith("recorded: NVIDIA H100")
    assert recorded.curve("drafts", "alpha", "eagle") == ([], "")
