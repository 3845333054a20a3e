"""Notebook 4: executed whole with other plans than its own, and what it leaves for the export."""

import json
import os
import re
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import nbformat
import pytest

from helpers.planning.engine_child import step_seconds
from tests.notebook_tools import SMALL, execute, texts

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "04_multi_gpu_planning.ipynb"


def test_it_has_its_sections():
    notebook = nbformat.read(NOTEBOOK, 4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for number, word in enumerate(
        (
            "What is here",
            "What each GPU holds",
            "How fast a step",
            "Two ranks on this machine",
            "The plan for Week 5",
            "A model that needs several GPUs (optional",
            "Replicas, several machines, Ray (optional",
            "What you take along",
        ),
        1,
    ):
        assert f"## {number}. {word}" in text


def test_its_decode_step_is_the_one_of_the_records():
    notebook = nbformat.read(NOTEBOOK, 4)
    source = next(cell.source for cell in notebook.cells if cell.id == "trial-rounds")
    names = {"median": median}
    exec(re.search(r"^def step_ms.*?\n(?=\S)", source, re.M | re.S)[0], names)
    metrics = [
        SimpleNamespace(first_token_ts=first, last_token_ts=last, num_generation_tokens=32)
        for first, last in ((0.01, 0.5), (0.0979, 0.49), (0.0981, 0.47), (0.1, 0.45), (0.099, 0.4))
    ]
    step, mean = step_seconds(metrics)
    taken = [SimpleNamespace(metrics=m) for m in metrics]
    assert names["step_ms"](taken) == pytest.approx(1e3 * step) != pytest.approx(1e3 * mean)


MIXTURE = {"PLAN_MODEL": "Mixtral-8x7B", "PLAN_GPU": "A100-SXM-80GB", "PLAN_GPUS": 16}
OTHER = SMALL["04_multi_gpu_planning"] | MIXTURE | {"PLAN_NODES": 2}


@pytest.mark.slow
@pytest.mark.parametrize("plan", [{}, OTHER], ids=["as it is", "mixture, one core"])
def test_it_runs_and_saves_what_the_export_needs(plan, tmp_path):
    # The other plan on one core, where TP 2 and PP 2 cannot be tried: the notebook goes on.
    cores = {min(os.sched_getaffinity(0))} if plan else None
    notebook = execute("04_multi_gpu_planning", tmp_path, plan, cores)
    records = [
        json.loads(line)
        for line in (tmp_path / "results" / "measurements.jsonl").read_text().splitlines()
    ]
    have = {(r["experiment"], r["variant"]) for r in records}
    assert (("trial", "TP 2") in have) == (not plan), have
    trials = {r["variant"]: r for r in records if r["experiment"] == "trial"}
    assert trials["TP 1"]["metrics"]["tpot_ms_1_streams_low"] > 0
    assert "others_share" in trials["TP 1"]["machine"], "what else ran is kept with the trial"
    if not plan:
        assert trials["TP 2 against TP 1"]["metrics"]["speedup_x_values"] >= 3
        assert (
            trials["PP 2"]["problem"] == "" and trials["PP 2"]["metrics"]["tpot_ms_8_streams"] > 0
        )
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        outputs = "".join(map(texts, code))
        assert "With all-reduces as long as the shortest of gloo" in outputs
        assert "vLLM uses its own, not gloo" in outputs or "disturbed" in outputs
        assert re.search(r"beyond half of TP 1's. (Refuted|It stands|Undecided): the 11 ", outputs)
        assert "by the loop above" in outputs
    for key in (
        ("hardware", "week5"),
        ("strategy", "chosen"),
        ("strategy", "second"),
        ("week5_plan", "TP 2"),
        ("answer", "tp_reason"),
        ("answer", "concern_1"),
        ("trial", "TP 1"),
    ):
        assert key in have, f"{key} was not saved"
    for strategy in (r for r in records if r["experiment"] == "strategy"):
        numbers = strategy["metrics"]
        assert numbers["expected_speedup_x"] >= 0.99 and "vllm serve" in strategy["command"]
        span = [numbers.get(f"expected_speedup_x_{end}") for end in ("low", "high")]
        assert span[0] is None or span[0] < span[1]
    chosen = next(r for r in records if r["experiment"] == "strategy" and r["variant"] == "chosen")
    assert ("week5_plan", chosen["layout"]) in have and chosen["layout"] in chosen["reason"]
    exported = (tmp_path / "results" / "distributed_planning.md").read_text()
    plans, heading, table = exported.partition("## Results of Week 5")
    blanks = [line for line in plans.splitlines() if "___" in line]
    assert not blanks, f"left blank: {blanks}"
    assert heading and "| TP 2 |" in table and "___" in table, "the table for Week 5 is to fill in"
