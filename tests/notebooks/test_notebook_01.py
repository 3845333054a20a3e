"""Notebook 1 through plain papermill, from another working directory, with parameters."""

import json
import re

import pytest

from helpers.results import documents
from helpers.results import store as results
from tests.notebook_tools import SMALL, execute

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "week2.json").write_text('{"throughput": "212 tokens/sec", "gpu": "A10G"}')
    given = {
        "PROFILE": "cpu",
        "BASELINE_FILE": str(folder / "week2.json"),
        "KEY_CHALLENGE": "Understanding TTFT",
        "INSIGHTS": ["batching pays"],
        "QUESTIONS": ["what about TP"],
    }
    execute("01_review", folder, SMALL["01_review"] | given)
    return folder


@pytest.fixture(scope="module")
def store(run):
    return results.Results("test", run / "results")


def test_every_experiment_is_saved_with_its_provenance(store):
    saved = {record["experiment"] for record in store.records(notebook="01_review")}
    assert {
        "engine",
        "baseline",
        "sweep_max_num_seqs",
        "memory",
        "optimised",
        "prediction",
    } <= saved
    for record in store.records():
        assert record["provenance"]["vllm"].startswith("0.32"), record["provenance"]
    weights = {r["provenance"]["weights"] for r in store.records()}
    assert weights == {"shipped"}
    assert store.problems == []


def test_parameters_reach_the_workloads(store):
    sweep = store.records(experiment="sweep_max_num_seqs")
    assert {record["variant"] for record in sweep} == {"1", "8", "24"}, (
        "the two asked for, and as many as there are requests"
    )
    assert all(
        record["metrics"]["requests"] == 24 and record["metrics"]["output_tokens"] == 24 * 24
        for record in sweep
    )


def test_more_requests_together_are_faster_than_one_at_a_time(store):
    best = store.get("optimised", "best")["metrics"]
    of_means = best["output_tokens_per_s"] / best["baseline_tokens_per_s"]
    assert best["improvement_x"] == pytest.approx(of_means), "of the same runs"
    assert best["improvement_x_values"] >= 3, "the baseline and the best, in turn"
    assert best["improvement_x_low"] <= best["improvement_x"] <= best["improvement_x_high"]
    assert best["improvement_x"] > 1.2


def test_the_optimum_names_its_goal_and_never_a_smaller_cache(store):
    best = store.get("optimised", "best")
    default = store.get("engine", "default")["engine_args"]
    assert best["engine_args"]["kv_cache_memory_bytes"] == default["kv_cache_memory_bytes"]
    assert best["engine_args"]["max_num_seqs"] in (1, 8, 24), "it was never run"
    why = best["comments"]["max_num_seqs"]
    assert "TPOT at most 3 times" in why and "vLLM's default" in why
    assert best["comments"]["kv_cache_memory_bytes"].startswith("default, not varied")
    assert "others_share" in best["machine"], "what else the machine did stands with the number"


def test_the_timeline_of_one_request_adds_up(store):
    ms = store.get("timeline", "one request")["metrics"]
    assert 0 < ms["queue_ms"] < ms["ttft_ms"] < ms["e2e_ms"], "the request did not wait"
    assert ms["ttft_ms"] + ms["tpot_ms"] < ms["e2e_ms"]


def test_prompts_and_answers_leave_a_trace_in_the_gauge(store):
    memory = store.get("memory", "engine_life")["metrics"]
    assert memory["kv_cache_prefill_percent"] > 1 and memory["kv_cache_decode_percent"] > 1


def test_predictions_of_memory_are_right(store):
    for name, tolerance in (("weights", 0.02), ("kv_cache_tokens", 0.01)):
        prediction = store.get("prediction", name)
        assert prediction["metrics"]["ratio"] == pytest.approx(1, abs=tolerance), prediction
        assert prediction["source"] == "formula", "a headless run claims a student's prediction"


def test_my_learnings_is_filled_with_these_numbers(run, store):
    text = (run / "results/my_learnings.md").read_text()
    best = store.get("optimised", "best")["metrics"]
    baseline = store.get("baseline", "one_at_a_time")["metrics"]
    initial = best.get("baseline_tokens_per_s", baseline["output_tokens_per_s"])
    final = best["output_tokens_per_s"]
    # Over what is said, since "Initial throughput" shows the typed number.
    shown = re.search(r"over the ([\d,.]+) tokens/sec measured this week: ([\d.]+)x \(", text)
    last = re.search(
        r"- Final throughput: ([\d,.]+) \([\d,.]+ to [\d,.]+ by round\) tokens/sec\n", text
    )
    first, last = (float(found[1].replace(",", "")) for found in (shown, last))
    # Three digits of each: as many as their ranges carry.
    assert (first, last) == (pytest.approx(initial, rel=5e-3), pytest.approx(final, rel=5e-3))
    assert float(shown[2]) == pytest.approx(last / first, rel=0.015), "they do not fit each other"
    assert "Understanding TTFT" in text and "batching pays" in text and "what about TP" in text
    assert "(default, not varied)" in text, "a size that nobody varied is called optimal"
    assert "212" in text, "the typed number of Week 2 is not in the document"


def test_what_a_student_adds_survives_the_next_export(run):
    path = run / "results/my_learnings.md"
    edited = (
        path.read_text().replace("2. ___", "2. my own words, ein Satz, 一句话")
        + "\n## Mine\nstays\n"
    )
    path.write_text(edited)
    documents.export(run / "results")
    after = path.read_text()
    assert "2. my own words, ein Satz, 一句话" in after and after.rstrip().endswith("stays")


def test_outputs_hold_pictures_with_alt_text_and_no_logs(run):
    notebook = json.loads((run / "out.ipynb").read_text())
    outputs = [o for cell in notebook["cells"] for o in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 4 and all(o["metadata"]["image/png"]["alt"] for o in pictures)
    stream = "".join("".join(o.get("text", "")) for o in outputs if o["output_type"] == "stream")
    assert "INFO" not in stream and "Traceback" not in stream and len(stream) < 6000, stream[:800]
