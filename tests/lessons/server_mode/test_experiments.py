"""The experiments of notebook 5 on a real server (tests/conftest.py)."""

import subprocess
from pathlib import Path

import pytest

from helpers.lessons.server_mode import experiments
from helpers.server.load import LoadRun, Stream, run_load, timed_stream
from helpers.server.server import Server, ServerError


def test_every_endpoint_answers_and_those_below_v1_want_the_key(server):
    for row in experiments.endpoints(server):
        assert row["with key"] == 200, row
        assert row["without key"] == (401 if "/v1" in row["request"] else 200), row


def test_mistakes_get_the_status_that_the_notebook_explains(server):
    found = experiments.mistakes(server, max_model_len=4096)
    assert {row["mistake"]: row["status"] for row in found} == {
        "wrong API key": 401,
        "unknown model": 404,
        "prompt longer than max_model_len": 400,
        "more max_tokens than fit": 400,
        "JSON that is cut off": 400,
        "a word where a number belongs": 400,
        "temperature below 0": 400,
        "a chat without messages": 400,
        "a path that does not exist": 404,
        "a parameter that does not exist": 200,
    }
    said = {row["mistake"]: row["the server says"] for row in found}
    assert "gpt-99" in said["unknown model"] and "{" not in said["unknown model"]
    assert said["a parameter that does not exist"] == "(an ordinary answer)"


def test_the_dashboard_shows_the_prefix_hits_of_this_moment(server):
    # A past without hits, which a share of all would remember.
    run_load(server, requests=8, input_tokens=300, output_tokens=2)
    read = experiments.watch(server)
    assert set(read()) == {"running", "waiting", "kv_cache_usage"}, (
        "no prompt came: there is no share"
    )
    prompt = [300 + i % 700 for i in range(1300)]
    timed_stream(server, prompt=prompt, max_tokens=2)
    read()
    timed_stream(server, prompt=prompt, max_tokens=2)
    assert read()["prefix_hits"] > 0.9


def test_growth_is_that_of_the_block(server):
    timed_stream(server, prompt="before", max_tokens=3, ignore_eos=True)
    with experiments.growth(server.metrics) as grown:
        timed_stream(server, prompt="inside", max_tokens=2, ignore_eos=True)
    assert grown["e2e_request_latency_seconds_count"] == 1
    assert grown["generation_tokens"] == 2 and grown["no such counter"] == 0


def test_cpu_seconds_are_those_of_the_block(served):
    server = served.server
    with experiments.cpu_seconds(server) as used:
        sum(i * i for i in range(2_000_000))
    assert set(used) == {"client (this kernel)", "API server", "engine"}
    assert used["client (this kernel)"] > 0 and used["engine"] == 0, "of a connection nothing"


def test_the_longest_gap_is_that_of_the_prefill(server):
    """The streams run before and after the long prompt: one of their gaps holds its computation."""
    prompts, long_prompt = [[i + 300] * 16 for i in range(3)], [i % 900 + 300 for i in range(2000)]
    gap_s, ttft_s = experiments.gap_under_prefill(server, prompts, long_prompt)
    usual = timed_stream(server, prompt="go on", max_tokens=40, ignore_eos=True).gaps_s
    assert sorted(usual)[len(usual) // 2] * 4 < gap_s and ttft_s > 0.3 * gap_s


def test_an_event_is_cut_down_to_what_a_client_reads():
    line = (
        'data: {"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":" KV",'
        '"logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":6,"completion_tokens":2,'
        '"prompt_tokens_details":null}}'
    )
    assert experiments.event(line) == (
        'data: {"object": "text_completion", "choices": [{"text": " KV", "finish_reason": null}], '
        '"usage": {"prompt_tokens": 6, "completion_tokens": 2}}'
    )
    assert experiments.event("data: [DONE]") == "data: [DONE]"


def test_mean_in_system_weighs_by_time_while_there_are_requests():
    counts = ((0, 0, 0), (1, 0, 2), (3, 2, 2), (6, 2, 2), (7, 0, 0), (9, 5, 5))
    readings = [{"t_s": t, "running": r, "waiting": w} for t, r, w in counts]
    mean = experiments.mean_in_system(readings, until_s=8)
    assert mean == pytest.approx((2 * 3 + 3 * 4) / 5), "from 1 s to 6 s; later ones do not count"
    nothing = experiments.mean_in_system(readings, until_s=0.5)
    assert nothing != nothing


ASKING = {
    "cache_config": lambda gone: gone.cache_config(),
    "metrics": lambda gone: gone.metrics(),
    "endpoints": experiments.endpoints,
    "curl": lambda gone: experiments.ask_with_curl(gone, "/v1/completions", {}),
    "mistakes": lambda gone: experiments.mistakes(gone, 64),
    "options": lambda gone: experiments.options(gone, 64, 4096, 1000),
    "stop_under_load": lambda gone: experiments.stop_under_load(gone, 2, 8),
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_asking_a_server_that_has_ended_is_one_sentence(ask):
    ended = subprocess.Popen(["true"])
    ended.wait()
    gone = Server("http://127.0.0.1:9", "key", "m", process=ended, log_path=Path("server.log"))
    said = r"does not answer .*The server has ended: start it again. Its log: server.log"
    with pytest.raises(ServerError, match=said) as error:
        ask(gone)
    assert "\n" not in str(error.value)


def test_streams_that_break_off_while_options_are_measured_are_one_sentence(server, monkeypatch):
    broken = Stream(error="RemoteProtocolError: peer closed connection")
    load = LoadRun({"ttft_ms_p50": 1.0, "output_tokens_per_s": 1.0}, {}, {}, "")
    monkeypatch.setattr(experiments, "run_load", lambda *_, **__: load)
    monkeypatch.setattr(experiments, "timed_stream", lambda *_, **__: broken)
    monkeypatch.setattr(experiments, "together", lambda *_, **__: [broken] * 3)
    with pytest.raises(ServerError, match="broke a stream off .*peer closed connection"):
        experiments.options(server, 64, 4096, 1000)
