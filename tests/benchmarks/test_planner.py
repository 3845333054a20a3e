"""The planner's records: sizes within their targets, what notebook 4 shows of them, vLLM's log."""

import json

import pytest

from benchmarks.engine_log import parse_log
from benchmarks.planner import accuracy
from helpers.planning.recorded import FILE


@pytest.fixture(scope="module")
def records():
    return accuracy.load_records()


@pytest.fixture(scope="module")
def rows(records):
    return accuracy.compare(records)


def test_sizes_of_every_recorded_engine_are_within_their_targets(rows):
    """KV-cache tokens within 3 %, weights within 1 %, nothing calibrated."""
    sizes = [row for row in rows if row.quantity in ("kv_cache_tokens", "weights_gib")]
    assert len({(row.machine, row.config) for row in sizes}) >= 17
    wrong = [row for row in sizes if abs(row.error()) > accuracy.TARGETS[row.quantity]]
    assert not wrong, wrong


def test_what_notebook_4_shows_is_what_the_records_say_now(records):
    stored = json.loads(FILE.read_text())
    now = json.loads(json.dumps(accuracy.recorded(records)))
    for name in ("tp2", "usual_error"):
        assert stored[name] == now[name], "python -m benchmarks.planner.accuracy --write"


def test_the_report_is_the_one_that_is_kept(records):
    assert accuracy.report(records) == (accuracy.FOLDER / "planner_accuracy.md").read_text()


def test_a_recorded_speed_up_counts_only_streams_that_run_at_once():
    """One GPU runs 4 of 32 requests at once, two run all: compared are those steps."""
    config = {"model": "Qwen2.5-7B", "pp": 1, "dp": 1, "output": 64}
    measured = {
        "kv_cache_tokens": 1,
        "max_num_batched_tokens": 8192,
        "tpot_ms": {"1x128": 5.0, "32x128": 8.0},
        "prefill_ms": {"1024": 30.0},
    }
    records = [
        {
            "id": str(tp),
            "file": "f",
            "gpu": "H100-SXM",
            "machine": {},
            "config": {**config, "tp": tp, "engine_args": {"max_num_seqs": seqs}},
            "measured": measured,
        }
        for tp, seqs in ((1, 4), (2, 256))
    ]
    rows = {(row.config, row.quantity, row.case): row.plain for row in accuracy.compare(records)}
    assert rows["2", "speedup", "32x128"] == pytest.approx(
        rows["1", "tpot_ms", "32x128"] / rows["2", "tpot_ms", "32x128"]
    )


def test_start_messages_are_read():
    text = (
        "INFO [gpu_model_runner.py:1] Model loading took 14.29 GiB memory and 3.1 seconds\n"
        "INFO [gpu_worker.py:1] Available KV cache memory: 54.68 GiB\n"
        "INFO [kv_cache_utils.py:1] GPU KV cache size: 1,023,936 tokens, Maximum concurrency for "
        "32,768 tokens per request: 31.25x\n"
        "INFO CUDA graph pool memory: 0.45 GiB (actual), 0.61 GiB (estimated), difference: 0.16\n"
        "INFO Free memory on device (78.6/79.18 GiB) on startup. Desired GPU memory utilization is "
        "(0.92, 72.85 GiB). Actual usage is 15.2 GiB for consumed memory (weights + non-torch), "
        "2.97 GiB for peak activation, and 0.45 GiB for CUDAGraph memory. Replace\n"
    )
    found = parse_log(text)
    assert found["weights_gib"] == 14.29 and found["consumed_gib"] == 15.2
    assert found["kv_cache_tokens"] == 1_023_936 and found["graphs_estimate_gib"] == 0.61
    assert found["peak_activation_gib"] == pytest.approx(2.36)
    assert parse_log("nothing") == {}
