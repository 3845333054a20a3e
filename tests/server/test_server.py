"""A running server: what it answers, who can reach it, what its load says, and how it ends.

One server for them all (conftest.py), and one that is stopped under load.
"""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from helpers import tiny_model
from helpers.engine import holders, processes
from helpers.engine.profile import load_profile
from helpers.lessons.exercises import Answer
from helpers.lessons.server_mode import experiments
from helpers.server.load import Stream, metrics_of, run_load, timed_stream
from helpers.server.server import Server, ServerError, connect, start_server, stop_server
from helpers.server.start import check_port
from tests.test_explore_server_mode import run as explore

# What a server that ends may do to a client who comes too late.
REFUSED = ("error 500", "error 503", "connection refused", "connection reset")
QUESTION = [{"role": "user", "content": "What is a KV cache?"}]


def wait_gone(pids, within_s):
    deadline = time.monotonic() + within_s
    while left := {pid: processes.title(pid)[:80] for pid in pids if processes.alive(pid)}:
        assert time.monotonic() < deadline, f"still there after {within_s} s: {left}"
        time.sleep(0.05)


# --- the endpoints --------------------------------------------------------------------------------


def test_completion_chat_and_tokenize_count_the_same_tokens(server):
    client, greedy = server.openai(), {"model": server.model, "max_tokens": 7, "temperature": 0}
    body = {"model": server.model, "messages": QUESTION}
    tokens = httpx.post(f"{server.url}/tokenize", json=body).json()
    chat = client.chat.completions.create(messages=QUESTION, **greedy)
    assert chat.usage.prompt_tokens == tokens["count"] == len(tokens["tokens"])
    plain = client.completions.create(prompt=tokens["tokens"], **greedy)
    assert plain.usage.prompt_tokens == tokens["count"]
    assert plain.choices[0].text == chat.choices[0].message.content, (
        "the chat template's tokens give the same answer"
    )


def test_choices_stop_strings_log_probabilities_and_structured_output(server):
    client = server.openai()

    def ask(**options):
        return client.chat.completions.create(
            model=server.model, messages=QUESTION, **options
        ).choices

    draw = {"n": 3, "temperature": 1.0, "seed": 1, "max_tokens": 8}
    drawn, again = ask(**draw), ask(**draw)
    assert [choice.index for choice in drawn] == [0, 1, 2]
    texts, repeated = ([choice.message.content for choice in one] for one in (drawn, again))
    assert texts == repeated, "a seed repeats the draw"

    greedy = ask(temperature=0, max_tokens=20)[0].message.content
    stop = greedy[len(greedy) // 2 :][:2]
    cut = ask(temperature=0, max_tokens=20, stop=[stop])[0]
    assert cut.finish_reason == "stop" and stop not in cut.message.content
    assert greedy.startswith(cut.message.content)

    likely = ask(temperature=0, max_tokens=3, logprobs=True, top_logprobs=2)[0].logprobs.content
    for token in likely:
        best = max(other.logprob for other in token.top_logprobs)
        assert token.logprob == best, "greedy takes the likeliest token"

    form = {"structured_outputs": {"regex": r"[1-9][0-9]{2} MB"}}
    text = ask(temperature=1.0, max_tokens=20, extra_body=form)[0].message.content
    assert len(text) == 6 and text[:3].isdigit() and text.endswith(" MB")


def test_metrics_count_the_tokens_that_clients_got(server):
    before = server.metrics()
    answer = server.openai().completions.create(
        model=server.model,
        prompt="Count my tokens, please",
        max_tokens=11,
        extra_body={"ignore_eos": True},
    )
    made = before.get("generation_tokens", 0)
    deadline = time.monotonic() + 10
    while (after := server.metrics())["generation_tokens"] < made + 11:
        assert time.monotonic() < deadline, "the counter did not move"
        time.sleep(0.05)
    assert after["generation_tokens"] - made == 11
    assert after["prompt_tokens"] - before.get("prompt_tokens", 0) == answer.usage.prompt_tokens


# --- who can reach it, and the key ----------------------------------------------------------------


def test_everything_listens_on_loopback_only(served):
    connections = [c for pid in served.pids for c in psutil.Process(pid).net_connections()]
    open_to = {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    assert open_to == {"127.0.0.1"}


def test_the_key_is_nowhere_to_be_read(served, server):
    key = served.about["key"]
    assert len(key) >= 24
    for pid in psutil.pids():
        assert key not in processes.title(pid), f"in the command of process {pid}"
    run_load(server, requests=2, input_tokens=8, output_tokens=2)
    assert key not in Path(served.about["log"]).read_text(), "in the server's log"
    assert key not in served.about["command"] + served.about["shown"]
    assert "VLLM_API_KEY=..." in served.about["command"]


def test_connect_takes_a_running_server_and_leaves_it_alone(served, server):
    assert server.model == "tiny-qwen2" and server.is_up
    assert server.engine_args == {"model": served.about["engine_args"]["model"]}
    server.stop()
    assert server.is_up, "stop() of a connection must not end somebody else's server"
    with pytest.raises(ServerError, match="does not accept this API key"):
        connect(served.about["url"], "wrong")
    nobody = "No OpenAI-compatible server answers at http://127.0.0.1:9"
    with pytest.raises(ServerError, match=nobody):
        connect("http://127.0.0.1:9/v1")


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


def test_the_phases_of_the_start_add_up(served):
    phases = served.about["phases"]
    # What starts the process before the first phase takes hundredths of it.
    assert sum(phases.values()) == pytest.approx(served.about["startup_s"], rel=0.1)
    assert {"load vLLM", "load the weights", "open the port"} <= set(phases)


def test_a_server_that_is_there_is_used_and_left_up(served, tmp_path):
    report = tmp_path / "report.json"
    there = ("--connect", served.about["url"])
    size = ("--concurrency", 4, "--requests", 6, "--max-tokens", 16)
    key = {"VLLM_API_KEY": served.about["key"]}
    done = explore(*there, *size, "--json", report, cwd=tmp_path, **key)
    assert done.returncode == 0, done.stderr
    assert served.server.is_up
    found = json.loads(report.read_text())
    assert found["concurrent"]["requests"] == 6 and found["concurrent"]["concurrency"] == 4
    assert found["completion"]["output_tokens"] <= 24
    assert found["chat"]["finish_reason"] in ("stop", "length")
    assert found["stream"]["ttft_ms_p50"] > 0 and found["startup_s"] is None
    lines = [line for line in done.stdout.splitlines() if str(report) not in line]
    assert max(map(len, lines)) <= 100
    assert found["stream"]["text"] == found["chat"]["text"], (
        "streamed or not, the greedy answer is the same"
    )
    parts = ("1. A completion", "2. A chat", "3. A streamed chat", "4. Concurrent chats")
    for word in (*parts, "times the tokens of one client"):
        assert word in done.stdout
    assert served.about["key"] not in done.stdout + report.read_text()

    wrong = explore(*there, "--api-key", "nope", cwd=tmp_path)
    assert wrong.returncode == 1 and "does not accept this API key" in wrong.stderr


# --- load -----------------------------------------------------------------------------------------


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
    assert found["in_flight_last"] == 3
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


# --- the experiments of notebook 5 ----------------------------------------------------------------


def test_a_mistake_is_told_in_the_servers_words(server):
    guessed = {"a path": Answer("status_1", "404 Not Found", "typed")}
    guessed["a name"] = Answer("status_2", "400 Bad Request", "typed")
    asked = {"model": "gpt-99", "prompt": "Hello"}
    nowhere = httpx.post(server.url + "/v1/complete", headers=server.headers)
    unknown = httpx.post(server.url + "/v1/completions", json=asked, headers=server.headers)
    row = experiments.mistake("a path", nowhere, guessed)
    assert (row["status"], row["you said"]) == (404, "404 Not Found: right")
    row = experiments.mistake("a name", unknown, guessed)
    assert row["you said"] == "400 Bad Request: wrong"
    assert "gpt-99" in row["the server says"] and "{" not in row["the server says"]
    ordinary = httpx.get(server.url + "/v1/models", headers=server.headers)
    row = experiments.mistake("none", ordinary, {"none": Answer("status_3")})
    assert row == {"mistake": "none", "status": 200, "the server says": "(an ordinary answer)"}


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


def test_a_run_at_a_rate_is_seen_from_both_sides(server):
    size = {"input_tokens": 32, "output_tokens": 40}
    m = experiments.at_rate(server, 15, 30, **size).metrics
    assert m["completed"] == 30
    by_clients = m["requests_per_s"] * m["e2e_ms_mean"] / 1000
    assert 0 < m["in_server_mean"] < 1.1 * by_clients, "the server's clock runs inside the clients'"
    assert m["read_mean"] > 0
    assert 0 <= m["in_flight_last"] <= 30
    assert m["arrived_per_s"] == pytest.approx(15, rel=0.1), "the benchmark stretches the gaps"
    assert m["requests_per_s"] < m["arrived_per_s"], "a run lasts until its last answer"


# --- stopping -------------------------------------------------------------------------------------


def test_shutdown_under_load_answers_or_refuses_every_client():
    profile = load_profile()
    with start_server(profile, shutdown_timeout=150, max_num_seqs=8) as server:
        assert start_server(profile, shutdown_timeout=150, max_num_seqs=8) is server, (
            "the same configuration is used again"
        )
        pids, port = server.pids, int(server.url.rpartition(":")[2])
        assert len(pids) >= 2
        streams = [Stream() for _ in range(8)]
        asked = {"max_tokens": 200, "ignore_eos": True, "temperature": 0}
        with ThreadPoolExecutor(9) as pool:
            for into in streams:
                pool.submit(timed_stream, server, prompt="Go on", into=into, **asked)
            while not all(stream.times_s or stream.error for stream in streams):
                time.sleep(0.01)
            late = pool.submit(experiments.come_too_late, server)
            report = server.stop()
    rows = experiments.seen(streams, late.result())
    *outcomes, latecomer = (row["outcome"] for row in rows)
    assert outcomes == ["complete"] * 8 and latecomer in REFUSED, rows
    assert (report.how, report.exit_code) == ("drained", 0) and 1 <= report.requests_at_stop <= 8
    assert report.processes_left == () and not [p for p in pids if processes.alive(p)]
    assert server.stop() is report, "stopping twice returns the first report"
    assert not server.is_up and server.pids == []
    check_port(port)
    with pytest.raises(ServerError, match="The server has ended"):
        server.metrics()


def test_the_machine_is_held_until_the_processes_are_gone(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    server = Server("http://127.0.0.1:9", "", "m", process=processes.spawn(["sleep", "60"]))
    monkeypatch.setattr("helpers.server.server._current", (server, ""))
    held, stop = [], processes.stop

    def entries():
        return [path.name.split("-")[0] for path in tmp_path.rglob("*.json")]

    def stop_and_look(process, grace_s):
        held.append(entries())
        if len(held) == 1:
            raise KeyboardInterrupt
        return stop(process, grace_s)

    monkeypatch.setattr(processes, "stop", stop_and_look)
    with (
        holders.taken("server", load_profile(), close=server.stop),
        pytest.raises(KeyboardInterrupt),
    ):
        server.stop()
    assert server.stop_report is None and stop_server().processes_left == ()
    assert held == [["server"], ["server"]] and entries() == []


def test_kill_9_of_the_parent_leaves_nothing_within_10_s(served):
    """The last test of this file that uses the server: it ends it, in the middle of its work."""
    server = served.server
    tree = processes.descendants(served.parent.pid)
    assert set(served.pids) <= set(tree)
    assert any(processes.title(pid).startswith("VLLM::") for pid in tree)
    request = {"prompt": "go on", "max_tokens": 3000, "ignore_eos": True}
    worker = threading.Thread(target=timed_stream, args=(server,), kwargs=request)
    worker.start()
    time.sleep(0.5)
    served.parent.kill()
    served.parent.wait()
    wait_gone(tree, 10)
    worker.join(30)
    assert not server.is_up
    assert not [orphan for orphan in processes.find_orphans() if orphan["pid"] in tree]
