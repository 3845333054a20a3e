"""helpers/results/recorded.py: records of other machines, read back."""

import json

import pytest

from helpers.results import recorded as reference  # noqa: E402

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
