"""Load and single requests on a real server (tests/conftest.py)."""

import threading
import time

import pytest

from helpers import tiny_model
from helpers.server.load import metrics_of, run_load, timed_stream
from helpers.server.server import Server, ServerError


def test_a_stream_comes_in_order_and_its_usage_is_right(server):
    request = {"prompt": "vLLM is", "max_tokens": 40, "temperature": 0}
    whole = server.openai().completions.create(
        model=server.model, extra_body={"ignore_eos": True}, **request
    )
    stream = timed_stream(server, ignore_eos=True, **request)
    assert stream.error == "" and stream.finish_reason == "length"
    assert stream.text == whole.choices[0].text
    assert (stream.prompt_tokens, stream.output_tokens) == (whole.usage.prompt_tokens, 40)
    assert len(stream.chunks) == len(stream.times_s) <= 40
    assert stream.times_s == sorted(stream.times_s) and 0 < stream.ttft_s <= stream.e2e_s
    assert stream.tpot_s == pytest.approx((stream.times_s[-1] - stream.times_s[0]) / 39)


def test_a_client_that_hangs_up_keeps_what_it_has(server):
    enough = threading.Event()
    enough.set()
    stream = timed_stream(server, prompt="go on", max_tokens=2000, ignore_eos=True, until=enough)
    assert stream.error == "" and len(stream.chunks) == 1 and stream.finish_reason is None
    deadline = time.monotonic() + 10
    while server.metrics()["num_requests_running"]:
        assert time.monotonic() < deadline, "the server goes on for nobody"
        time.sleep(0.05)


def test_load_counts_what_it_sent(server):
    size = {"requests": 12, "input_tokens": 32, "output_tokens": 9, "concurrency": 3}
    run = run_load(server, goals_ms={"ttft": 1e6, "tpot": 1e6}, **size)
    m = run.metrics
    assert (m["completed"], m["failed"]) == (12, 0)
    assert m["output_tokens_per_s"] == pytest.approx(12 * 9 / m["duration_s"], rel=1e-6)
    assert m["goodput_per_s"] == pytest.approx(m["requests_per_s"]), (
        "every request meets a goal of 1,000 s"
    )
    assert m["good_share"] == pytest.approx(1)
    assert 1 < m["in_flight_mean"] <= 3.001
    assert m["ttft_ms_p50"] <= m["ttft_ms_p90"] <= m["ttft_ms_p99"]
    assert run.workload.items() >= size.items() and run.engine_args == server.engine_args
    assert "vllm bench serve" in run.command and "--max-concurrency 3" in run.command


def test_load_prints_nothing_of_its_own(server, capfd):
    run_load(server, requests=2, input_tokens=8, output_tokens=2)
    assert "Serving Benchmark Result" not in capfd.readouterr().out


def test_load_never_repeats_its_prompts(server):
    before = server.metrics().get("prefix_cache_hits", 0)
    for _ in range(2):
        run_load(server, requests=2, input_tokens=300, output_tokens=2)
    assert server.metrics().get("prefix_cache_hits", 0) == before, (
        "the second run found its prompts in the cache"
    )


def test_a_load_nobody_answers_is_one_sentence(server):
    model = {"model": str(tiny_model.TARGET)}
    gone = Server("http://127.0.0.1:9", "", "m", engine_args=model)
    with pytest.raises(ServerError, match="http://127.0.0.1:9/health does not answer"):
        run_load(gone, requests=1, input_tokens=8, output_tokens=1)
    with pytest.raises(ServerError, match="No request was answered"):
        run_load(server, requests=2, input_tokens=8, output_tokens=99_999)


def test_a_load_says_what_its_clients_saw(server):
    """At 10 a second for 1 s nothing is overloaded: what arrives is answered, if later."""
    size = {"requests": 10, "input_tokens": 32, "output_tokens": 150}
    run = run_load(server, rate_per_s=10, goals_ms={"ttft": 0.001}, **size)
    m = run.metrics
    assert len(run.answers) == 10 and all(one["ok"] for one in run.answers)
    e2e_ms = [1e3 * one["latency_s"] for one in run.answers]
    assert sum(e2e_ms) / 10 == pytest.approx(m["e2e_ms_mean"], rel=0.01), "as the benchmark counts"
    assert m["good_share"] == 0
    statistics, times = ("median", "mean", "p90", "p99"), ("ttft", "tpot", "itl", "e2el")
    result = {
        "completed": 11,
        "failed": 0,
        "duration": 12.9,
        "request_throughput": 11 / 12.9,
        "output_throughput": 1,
        "total_token_throughput": 1,
        "ttfts": [0.1] * 4 + [0.5] * 3 + [0.9] * 4,
        "itls": [[1.0, 0.5]] * 11,
        "output_lens": [3] * 11,
        "errors": [""] * 11,
        "start_times": [float(i) for i in range(11)],
        **{f"{statistic}_{time}_ms": 1.0 for statistic in statistics for time in times},
    }
    found = metrics_of(result, goals=False, arrivals=True)
    # One comes each second and stays for 1.6, 2.0 or 2.4 s.
    assert (found["in_flight_halfway"], found["in_flight_last"]) == (2, 3)
    # The run begins half a second before the first one: 11 in 10.5 s.
    assert found["arrived_per_s"] == pytest.approx(11 / 10.5)
    assert found["in_flight_mean"] == pytest.approx(11 * 2.0 / 12.9)


def test_a_load_says_what_the_prefix_cache_answered(server):
    load = {"requests": 4, "input_tokens": 512, "output_tokens": 2, "concurrency": 1, "seed": 77}
    fresh, again = run_load(server, **load), run_load(server, **load)
    assert fresh.metrics["prefix_hit_share"] == 0 and "prefix cache" not in str(fresh)
    share = again.metrics["prefix_hit_share"]
    assert 0.5 < share < 1
    assert f"{100 * share:.0f} % of the prompt tokens came from the prefix cache" in str(again)
