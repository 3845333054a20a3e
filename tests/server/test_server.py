"""helpers/server/server.py, load.py and experiments.py against a real server.

One server for the whole file (tests/conftest.py), one more that is stopped under load, one that dies while it loads.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from helpers import tiny_model
from helpers.display import card
from helpers.engine import processes as lifeline
from helpers.engine.profile import load_profile
from helpers.lessons.server_mode import experiments
from helpers.server import load
from helpers.server import server as servers
from helpers.server.load import run_load, timed_stream, together
from helpers.server.server import ServerError, connect, flags_of, start_server

QUESTION = [{"role": "user", "content": "What is a KV cache?"}]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(card, "kernel", lambda: None)


def wait_gone(pids, within_s):
    deadline = time.monotonic() + within_s
    while any(lifeline.alive(p) for p in pids):
        left = {p: lifeline.title(p)[:80] for p in pids if lifeline.alive(p)}
        assert time.monotonic() < deadline, f"still there after {within_s} s: {left}"
        time.sleep(0.05)


# --- the endpoints ----------------------------------------------------------------------------------------------


def test_every_endpoint_answers_and_those_below_v1_want_the_key(server):
    for row in experiments.endpoints(server):
        assert row["with key"] == 200, row
        assert row["without key"] == (401 if "/v1" in row["request"] else 200), row


def test_completion_chat_and_tokenize_count_the_same_tokens(server):
    client = server.openai()
    tokens = httpx.post(
        f"{server.url}/tokenize", json={"model": server.model, "messages": QUESTION}
    ).json()
    chat = client.chat.completions.create(
        model=server.model, messages=QUESTION, max_tokens=7, temperature=0
    )
    assert chat.usage.prompt_tokens == tokens["count"] == len(tokens["tokens"])
    plain = client.completions.create(
        model=server.model, prompt=tokens["tokens"], max_tokens=7, temperature=0
    )
    assert plain.usage.prompt_tokens == tokens["count"]
    assert plain.choices[0].text == chat.choices[0].message.content, (
        "the chat template's tokens give the same answer"
    )


def test_a_stream_comes_in_order_and_its_usage_is_right(server):
    whole = server.openai().completions.create(
        model=server.model,
        prompt="vLLM is",
        max_tokens=40,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    stream = timed_stream(server, prompt="vLLM is", max_tokens=40, temperature=0, ignore_eos=True)
    assert stream.error == "" and stream.finish_reason == "length"
    assert stream.text == whole.choices[0].text
    assert (stream.prompt_tokens, stream.output_tokens) == (whole.usage.prompt_tokens, 40)
    assert len(stream.chunks) == len(stream.times_s) <= 40
    assert stream.times_s == sorted(stream.times_s) and 0 < stream.ttft_s <= stream.e2e_s
    assert stream.tpot_s == pytest.approx((stream.times_s[-1] - stream.times_s[0]) / 39)


def test_choices_stop_strings_log_probabilities_and_structured_output(server):
    client, base = server.openai(), {"model": server.model, "messages": QUESTION}
    drawn = client.chat.completions.create(**base, n=3, temperature=1.0, seed=1, max_tokens=8)
    assert [c.index for c in drawn.choices] == [0, 1, 2]
    again = client.chat.completions.create(**base, n=3, temperature=1.0, seed=1, max_tokens=8)
    assert [c.message.content for c in again.choices] == [
        c.message.content for c in drawn.choices
    ], "a seed repeats the draw"

    greedy = (
        client.chat.completions.create(**base, temperature=0, max_tokens=20)
        .choices[0]
        .message.content
    )
    stop = greedy[len(greedy) // 2 :][:2]
    cut = client.chat.completions.create(**base, temperature=0, max_tokens=20, stop=[stop]).choices[
        0
    ]
    assert (
        cut.finish_reason == "stop"
        and stop not in cut.message.content
        and greedy.startswith(cut.message.content)
    )

    probabilities = client.chat.completions.create(
        **base, temperature=0, max_tokens=3, logprobs=True, top_logprobs=2
    )
    for token in probabilities.choices[0].logprobs.content:
        assert token.logprob == max(t.logprob for t in token.top_logprobs), (
            "greedy takes the likeliest token"
        )

    form = {"structured_outputs": {"regex": r"[1-9][0-9]{2} MB"}}
    text = (
        client.chat.completions.create(**base, temperature=1.0, max_tokens=20, extra_body=form)
        .choices[0]
        .message.content
    )
    assert len(text) == 6 and text[:3].isdigit() and text.endswith(" MB")


def test_mistakes_get_the_status_that_the_notebook_explains(server):
    rows = {
        row["mistake"]: row["status"] for row in experiments.mistakes(server, max_model_len=4096)
    }
    assert rows == {
        "wrong API key": 401, "unknown model": 404, "prompt longer than max_model_len": 400, "more max_tokens than fit": 400,
        "JSON that is cut off": 400, "a word where a number belongs": 400, "temperature below 0": 400,
        "a chat without messages": 400, "a path that does not exist": 404, "a parameter that does not exist": 200,
    }  # fmt: skip


def test_metrics_count_the_tokens_that_clients_got(server):
    before = server.metrics()
    answer = server.openai().completions.create(
        model=server.model,
        prompt="Count my tokens, please",
        max_tokens=11,
        extra_body={"ignore_eos": True},
    )
    deadline = time.monotonic() + 10
    while (after := server.metrics())["generation_tokens"] < before.get(
        "generation_tokens", 0
    ) + 11:
        assert time.monotonic() < deadline, "the counter did not move"
        time.sleep(0.05)
    assert after["generation_tokens"] - before.get("generation_tokens", 0) == 11
    assert after["prompt_tokens"] - before.get("prompt_tokens", 0) == answer.usage.prompt_tokens
    assert int(server.cache_config()["num_gpu_blocks"]) > 0


# --- who can reach it, and the key ------------------------------------------------------------------------------


def test_everything_listens_on_loopback_only(served):
    open_to = {
        c.laddr.ip
        for pid in served.pids
        for c in psutil.Process(pid).net_connections()
        if c.status == psutil.CONN_LISTEN
    }
    assert open_to == {"127.0.0.1"}


def test_the_key_is_nowhere_to_be_read(served, server):
    key = served.about["key"]
    assert len(key) >= 24
    for pid in psutil.pids():
        assert key not in lifeline.title(pid), f"in the command of process {pid}"
    run_load(server, requests=2, input_tokens=8, output_tokens=2)
    assert key not in Path(served.about["log"]).read_text(), "in the server's log"
    assert key not in served.about["command"] + served.about["shown"]
    assert "VLLM_API_KEY=..." in served.about["command"]


def test_connect_takes_a_running_server_and_leaves_it_alone(served, server):
    assert server.model == "tiny-qwen2" and server.is_up
    server.stop()
    assert server.is_up, "stop() of a connection must not end somebody else's server"
    with pytest.raises(ServerError, match="does not accept this API key"):
        connect(served.about["url"], "wrong")
    with pytest.raises(
        ServerError, match="No OpenAI-compatible server answers at http://127.0.0.1:9"
    ):
        connect("http://127.0.0.1:9/v1")


# --- many clients -----------------------------------------------------------------------------------------------


def test_64_clients_lose_nothing_and_mix_nothing(server):
    client = server.openai(timeout=240)

    def ask(i: int) -> str:
        # The only answer that the server may give to this client, and to no other.
        form = {"structured_outputs": {"choice": [f"answer {i} for you"]}}
        got = client.chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": f"I am client {i}"}],
            max_tokens=40,
            extra_body=form,
        )
        return got.choices[0].message.content

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    assert answers == [f"answer {i} for you" for i in range(64)]


def test_together_keeps_the_order_of_its_requests(server):
    prompts = [f"number {i} " * (i + 1) for i in range(8)]
    streams = together(
        server, [{"prompt": p, "echo": True} for p in prompts], max_tokens=3, temperature=0
    )
    for prompt, stream in zip(prompts, streams, strict=True):
        assert stream.error == "" and stream.text.startswith(prompt)


def test_load_counts_what_it_sent(server):
    result = run_load(
        server,
        requests=12,
        input_tokens=32,
        output_tokens=9,
        concurrency=3,
        goals_ms={"ttft": 1e6, "tpot": 1e6},
    )
    m = result.metrics
    assert (m["completed"], m["failed"]) == (12, 0)
    assert m["output_tokens_per_s"] == pytest.approx(12 * 9 / m["duration_s"], rel=1e-6)
    assert m["goodput_per_s"] == pytest.approx(m["requests_per_s"]), (
        "every request meets a goal of 1,000 s"
    )
    assert m["good_share"] == pytest.approx(1)
    assert 1 < m["in_flight_mean"] <= 3.001
    assert m["ttft_ms_p50"] <= m["ttft_ms_p90"] <= m["ttft_ms_p99"]
    assert [r["output_tokens"] for r in result.requests] == [9] * 12
    assert "vllm bench serve" in result.command and "--max-concurrency 3" in result.command
    assert "Serving Benchmark Result" in result.report


def test_load_never_repeats_its_prompts(server):
    before = server.metrics().get("prefix_cache_hits", 0)
    for _ in range(2):
        run_load(server, requests=2, input_tokens=300, output_tokens=2)
    assert server.metrics().get("prefix_cache_hits", 0) == before, (
        "the second run found its prompts in the cache"
    )


def test_a_load_nobody_answers_is_one_sentence(server):
    gone = servers.Server(
        "http://127.0.0.1:9", "", "m", engine_args={"model": str(tiny_model.TARGET)}
    )
    with pytest.raises(ServerError, match="http://127.0.0.1:9 is not up"):
        run_load(gone, requests=1, input_tokens=8, output_tokens=1)
    with pytest.raises(ServerError, match="No request was answered"):
        run_load(server, requests=2, input_tokens=8, output_tokens=99_999)


def test_the_knee_is_where_rate_over_latency_is_highest():
    rows = [{"requests_per_s": r, "e2e_ms_mean": w} for r, w in ((10, 100), (18, 120), (20, 400))]
    assert load.knee(rows) is rows[1]
    with pytest.raises(ValueError):
        load.knee([])


def test_the_answered_rate_knows_no_drain(server):
    """At 10 a second for 1 s nothing is overloaded: what arrives is answered, although the last answer comes later."""
    m = run_load(
        server,
        requests=10,
        input_tokens=32,
        output_tokens=150,
        rate_per_s=10,
        goals_ms={"ttft": 0.001},
    ).metrics
    assert m["requests_per_s"] < m["answered_per_s"]
    rows = [{"start_s": i / 10, "ttft_s": 0.5, "e2e_s": 2.0, "error": None} for i in range(11)]
    names = {
        f"{s}_{t}_ms": 1.0
        for s in ("median", "mean", "p90", "p99")
        for t in ("ttft", "tpot", "itl", "e2el")
    }
    result = {
        "completed": 11,
        "failed": 0,
        "duration": 3.0,
        "request_throughput": 11 / 3,
        "output_throughput": 1,
        "total_token_throughput": 1,
    }
    assert load._metrics(result | names, rows, False, True)["answered_per_s"] == pytest.approx(
        11
    ), "11 / 3 with the drain"
    assert m["good_share"] == 0


def test_a_load_says_what_the_prefix_cache_answered(server):
    fresh = run_load(server, requests=4, input_tokens=32, output_tokens=2)
    shared = run_load(
        server, requests=8, input_tokens=32, output_tokens=2, prefix_tokens=512, concurrency=1
    )
    assert fresh.metrics["prefix_hit_share"] == 0 and "prefix cache" not in str(fresh)
    share = shared.metrics["prefix_hit_share"]
    assert (
        0.5 < share < 1
        and f"{100 * share:.0f} % of the prompt tokens came from the prefix cache" in str(shared)
    )


def test_the_dashboard_shows_the_prefix_hits_of_this_moment(server):
    run_load(
        server, requests=8, input_tokens=300, output_tokens=2
    )  # a past without hits, which a share of all would remember
    read = experiments.watch(server)
    assert set(read()) == {"running", "waiting", "kv_cache_usage"}, (
        "no prompt came: there is no share"
    )
    prompt = [300 + i % 700 for i in range(1300)]
    timed_stream(server, prompt=prompt, max_tokens=2)
    read()
    timed_stream(server, prompt=prompt, max_tokens=2)
    assert read()["prefix_hits"] > 0.9


def test_a_client_that_hangs_up_keeps_what_it_has(server):
    enough = threading.Event()
    enough.set()
    stream = timed_stream(server, prompt="go on", max_tokens=2000, ignore_eos=True, until=enough)
    assert stream.error == "" and len(stream.chunks) == 1 and stream.finish_reason is None
    deadline = time.monotonic() + 10
    while server.metrics()["num_requests_running"]:
        assert time.monotonic() < deadline, "the server goes on for nobody"
        time.sleep(0.05)


def test_the_longest_gap_is_that_of_the_prefill(server):
    """The streams run before and after the long prompt, so one of their gaps holds its whole computation."""
    client = server.openai()
    gap_s, ttft_s = experiments._gap_under_prefill(
        server, client, [[i + 300] * 16 for i in range(3)], [i % 900 + 300 for i in range(2000)]
    )
    usual = timed_stream(server, prompt="go on", max_tokens=40, ignore_eos=True).gaps_s
    assert sorted(usual)[len(usual) // 2] * 4 < gap_s and ttft_s > 0.3 * gap_s


def test_the_rate_to_size_by_is_the_highest_at_which_the_goal_holds():
    rows = [
        {"offered_per_s": rate, "good_share": share}
        for rate, share in ((10, 0.96), (21, 0.91), (31, 0.62), (42, 0.3))
    ]
    assert load.best_rate(rows) is rows[1], (
        "31 a second have more answers in time (19), and 38 % of the users wait too long"
    )
    assert load.best_rate(rows, 0.95) is rows[0] and load.best_rate(rows, 0.99) is None


def test_levels_of_a_closed_loop_get_eight_requests_a_client_where_time_allows():
    assert load.closed_loop_requests(1, 5) == 8
    assert load.closed_loop_requests(32, 5, {"clients": 8, "requests_per_s": 40}) == 256
    assert load.closed_loop_requests(256, 5, {"clients": 128, "requests_per_s": 60}) == 600
    assert load.closed_loop_requests(256, 1, {"clients": 128, "requests_per_s": 60}) == 512, (
        "two each at least"
    )


@pytest.mark.parametrize("api_s, cores, ratio, said", [
    (5.5, 16, 0.64, "filled its core"), (0.4, 2, 0.64, "3 processes shared 2 cores"), (0.4, 16, 0.64, "No process was short of a core"),
    (5.5, 16, 1.0, "cost next to nothing"), (5.5, 16, 1.3, "one process does both in turn"),
])  # fmt: skip
def test_why_a_server_differs_depends_on_the_machine(api_s, cores, ratio, said):
    sentence = experiments.why_server_differs(
        {"client (this kernel)": 2.5, "API server": api_s, "engine": 1.8}, 5.67, cores
    )(ratio)
    assert said in sentence
    assert ("--api-server-count" in sentence) == (said == "filled its core")
    assert ("shared" in sentence) == ("shared" in said)


def test_trades_claim_nothing_within_20_percent():
    one = {
        "ttft_ms_p50": 50.0,
        "tpot_ms_p50": 6.4,
        "gap_ms": 39.1,
        "long_ttft_ms": 80.0,
        "ttft_again_x": 0.4,
        "fit_together": 125.0,
        "too_long_status": 200.0,
    }
    two = one | {"ttft_ms_p50": 747.0, "tpot_ms_p50": 6.3, "gap_ms": 44.6, "long_ttft_ms": 60.0}
    said = experiments.trades(one, two)
    assert "TTFT longer: 747.0 ms instead of 50.0; TPOT no difference above 20 %" in said
    assert (
        "running streams no difference above 20 % (39.1 and 44.6 ms); the long prompt's TTFT shorter: 60.0"
        in said
    )


def test_who_ended_a_stopped_server_is_told_as_it_was():
    report = lambda how, code: servers.StopReport(3.1, how, 4, code, ())
    assert "killed it after 3 s" in experiments.how_it_stopped(report("aborted", 137))
    assert "ended by itself with exit code 0" in experiments.how_it_stopped(report("aborted", 0))
    assert "no requests left to give up" in experiments.how_it_stopped(report("idle", 0))


def test_an_event_is_cut_down_to_what_a_client_reads():
    line = (
        'data: {"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":" KV","logprobs":null,"finish_reason":null}],'
        '"usage":{"prompt_tokens":6,"completion_tokens":2,"prompt_tokens_details":null}}'
    )
    assert experiments.event(line) == (
        'data: {"object": "text_completion", "choices": [{"text": " KV", "finish_reason": null}], '
        '"usage": {"prompt_tokens": 6, "completion_tokens": 2}}'
    )
    assert experiments.event("data: [DONE]") == "data: [DONE]"


def test_mean_in_system_weighs_by_time():
    readings = [
        {"t_s": t, "running": r, "waiting": w} for t, r, w in ((0, 0, 0), (1, 2, 2), (4, 2, 2))
    ]
    assert experiments.mean_in_system(readings) == pytest.approx((2 * 1 + 4 * 3) / 4)


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
    gone = servers.Server(
        "http://127.0.0.1:9", "key", "m", process=ended, log_path=Path("server.log")
    )
    with pytest.raises(
        ServerError,
        match=r"does not answer .*The server has ended: start it again. Its log: server.log",
    ) as error:
        ask(gone)
    assert "\n" not in str(error.value)


def test_streams_that_break_off_while_options_are_measured_are_one_sentence(server, monkeypatch):
    broken = load.Stream(error="RemoteProtocolError: peer closed connection")
    monkeypatch.setattr(
        experiments,
        "run_load",
        lambda *_, **__: load.Load({"ttft_ms_p50": 1.0, "output_tokens_per_s": 1.0}, [], {}, ""),
    )
    monkeypatch.setattr(experiments, "timed_stream", lambda *_, **__: broken)
    monkeypatch.setattr(experiments, "together", lambda *_, **__: [broken] * 3)
    with pytest.raises(ServerError, match="broke a stream off .*peer closed connection"):
        experiments.options(server, 64, 4096, 1000)


# --- starting ---------------------------------------------------------------------------------------------------


def test_the_phases_of_the_start_add_up(served):
    phases = served.about["phases"]
    assert sum(phases.values()) == pytest.approx(served.about["startup_s"], abs=0.2)
    assert {"load vLLM", "load the weights", "open the port"} <= set(phases)


def test_flags_are_what_vllm_reads():
    assert flags_of(
        {"max_num_seqs": 4, "enforce_eager": True, "enable_prefix_caching": False, "model": "a b"}
    ) == ["--max-num-seqs", "4", "--enforce-eager", "--no-enable-prefix-caching", "--model", "a b"]
    assert flags_of({"speculative_config": {"method": "ngram"}, "allowed_origins": ["x", "y"]}) == [
        "--speculative-config",
        '{"method": "ngram"}',
        "--allowed-origins",
        "x",
        "y",
    ]


def test_a_taken_port_is_refused_before_anything_starts():
    before = set(lifeline.descendants(os.getpid()))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(ServerError, match=f"Port {port} cannot be used"):
            start_server(load_profile(), port=port)
        assert time.monotonic() - started < 5
    assert set(lifeline.descendants(os.getpid())) <= before
    with pytest.raises(ServerError, match="from 1 to 65535"):
        start_server(load_profile(), port=70_000)


def test_a_server_that_dies_while_it_loads_says_why_and_leaves_nothing(tmp_path):
    broken = tmp_path / "broken-model"
    shutil.copytree(tiny_model.TARGET, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    before = set(lifeline.descendants(os.getpid()))
    started = time.monotonic()
    with pytest.raises(ServerError) as caught:
        start_server(replace(load_profile(), model=str(broken)), max_wait_s=250)
    assert time.monotonic() - started < 240, "it must not wait for its time limit"
    assert "It stopped at the step: load the weights" in str(caught.value)
    log = Path(str(caught.value).split("log: ")[-1])
    assert "Starting to load model" in log.read_text(), "it died before it loaded anything"
    assert set(lifeline.descendants(os.getpid())) <= before
    assert "\n" not in str(caught.value)


LOGS = {
    "api_server.py: error: unrecognized arguments: --max-num-sequences 4": "Did you mean 'max_num_seqs'?",
    "  Value error, User-specified max_model_len (9) is greater than ... [type=value_error, input_value=x]": "max_model_len (9) is greater",
    "OSError: [Errno 98] Address already in use": "Another program took the port",
    "(EngineCore pid=1) ERROR [core.py:1] torch.OutOfMemoryError: CUDA out of memory. Tried\n"
    "RuntimeError: Engine core initialization failed. See root cause above.": "not enough memory",
    "INFO all is well\nlast words": "its last line is: last words",
}


@pytest.mark.parametrize("log, said", LOGS.items())
def test_the_cause_is_found_in_the_log(tmp_path, log, said):
    path = tmp_path / "log.txt"
    path.write_text("INFO first line\n" + log + "\n")
    assert said in servers._cause(path, 1, load_profile())


# --- stopping ---------------------------------------------------------------------------------------------------


def test_shutdown_under_load_answers_or_refuses_every_client():
    profile = load_profile()
    with start_server(profile, shutdown_timeout=150, max_num_seqs=8) as server:
        assert start_server(profile, shutdown_timeout=150, max_num_seqs=8) is server, (
            "the same configuration is used again"
        )
        pids, port = server.pids, int(server.url.rpartition(":")[2])
        assert len(pids) >= 2
        rows, report = experiments.stop_under_load(server, clients=8, max_tokens=200)
    assert [row["outcome"] for row in rows] == ["complete"] * 8 + ["refused"], rows
    assert (report.how, report.exit_code) == ("drained", 0) and 1 <= report.requests_at_stop <= 8
    assert report.processes_left == () and not [p for p in pids if lifeline.alive(p)]
    assert server.stop() is report, "stopping twice returns the first report"
    assert not server.is_up and server.pids == []
    servers._check_port(port)
    with pytest.raises(ServerError, match="The server has ended"):
        server.metrics()


def test_an_interrupted_start_leaves_nothing():
    code = (
        "from helpers.engine.profile import load_profile\nfrom helpers.server.server import start_server\nprint('go', flush=True)\n"
        "start_server(load_profile())"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert parent.stdout.readline() == "go\n"
    deadline = time.monotonic() + 60
    while not any(
        "quick_server" in lifeline.title(p) and not lifeline.is_lifeline(p)
        for p in lifeline.descendants(parent.pid)
    ):
        assert time.monotonic() < deadline, "the server's process did not come up"
        time.sleep(0.1)
    time.sleep(1)
    tree = lifeline.descendants(parent.pid)
    parent.send_signal(2)
    _, errors = parent.communicate(timeout=60)
    assert parent.returncode == 1 and "The start was stopped" in errors
    wait_gone(tree, 10)


def test_kill_9_of_the_parent_leaves_nothing_within_10_s(served):
    """The last test of this file that uses the server: it ends it, in the middle of its work."""
    server = served.server
    tree = lifeline.descendants(served.parent.pid)
    assert set(served.pids) <= set(tree) and any(
        lifeline.title(p).startswith("VLLM::") for p in tree
    )
    worker = threading.Thread(
        target=timed_stream,
        args=(server,),
        kwargs={"prompt": "go on", "max_tokens": 3000, "ignore_eos": True},
    )
    worker.start()
    time.sleep(0.5)
    served.parent.kill()
    served.parent.wait()
    wait_gone(tree, 10)
    worker.join(30)
    assert not server.is_up
    assert not [o for o in lifeline.find_orphans() if o["pid"] in tree]
