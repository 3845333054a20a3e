"""Starting a server: its command, what is refused, and what is left of a start that failed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import tiny_model
from helpers.engine import processes
from helpers.engine.profile import load_profile
from helpers.server.server import ServerError, start_server
from helpers.server.start import cause, flags_of


def test_flags_are_what_vllm_reads():
    args = {"max_num_seqs": 4, "enforce_eager": True, "enable_prefix_caching": False}
    flags = ["--max-num-seqs", "4", "--enforce-eager", "--no-enable-prefix-caching"]
    assert flags_of({**args, "model": "a b"}) == [*flags, "--model", "a b"]
    json = ["--speculative-config", '{"method": "ngram"}']
    many = {"speculative_config": {"method": "ngram"}, "allowed_origins": ["x", "y"]}
    assert flags_of(many) == [*json, "--allowed-origins", "x", "y"]


def test_a_taken_port_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setattr(processes, "spawn", lambda *_, **__: pytest.fail("it was started"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServerError, match=f"Port {port} cannot be used"):
            start_server(load_profile(), port=port)
    with pytest.raises(ServerError, match="from 1 to 65535"):
        start_server(load_profile(), port=70_000)


def test_a_server_that_dies_while_it_loads_says_why_and_leaves_nothing(tmp_path):
    broken = tmp_path / "broken-model"
    shutil.copytree(tiny_model.TARGET, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    before = set(processes.descendants(os.getpid()))
    with pytest.raises(ServerError) as caught:
        start_server(replace(load_profile(), model=str(broken)), max_wait_s=250)
    assert "It stopped at the step: load the weights" in str(caught.value), "and not: it is late"
    log = Path(str(caught.value).split("log: ")[-1])
    assert "Starting to load model" in log.read_text(), "it died before it loaded anything"
    assert set(processes.descendants(os.getpid())) <= before
    assert "\n" not in str(caught.value)


LOGS = {
    "api_server.py: error: unrecognized arguments: --max-num-sequences 4": (
        "Did you mean 'max_num_seqs'?"
    ),
    "  Value error, User-specified max_model_len (9) is greater than ... [type=value_error, x]": (
        "max_model_len (9) is greater"
    ),
    "ValidationError: 1 validation error for SchedulerConfig\n"
    "max_num_seqs\n  Input should be greater than or equal to 1 [type=greater_than_equal, x]": (
        "max_num_seqs: Input should be greater"
    ),
    "OSError: [Errno 98] Address already in use": "Another program took the port",
    "(EngineCore pid=1) ERROR [core.py:1] torch.OutOfMemoryError: CUDA out of memory. Tried\n"
    "RuntimeError: Engine core initialization failed. See root cause above.": "not enough memory",
    "INFO all is well\nlast words": "its last line is: last words",
}


@pytest.mark.parametrize("log, said", LOGS.items())
def test_the_cause_is_found_in_the_log(tmp_path, log, said):
    path = tmp_path / "log.txt"
    path.write_text("INFO first line\n" + log + "\n")
    assert said in cause(path, 1, load_profile().model)


def test_an_interrupted_start_leaves_nothing():
    code = (
        "from helpers.engine.profile import load_profile\n"
        "from helpers.server import start_server\n"
        "print('go', flush=True)\n"
        "start_server(load_profile())"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert parent.stdout.readline() == "go\n"

    def is_server(pid: int) -> bool:
        return "quick_server" in processes.title(pid) and not processes.is_helper(pid)

    deadline = time.monotonic() + 60
    while not any(map(is_server, processes.descendants(parent.pid))):
        assert time.monotonic() < deadline, "the server's process did not come up"
        time.sleep(0.1)
    time.sleep(1)
    tree = processes.descendants(parent.pid)
    parent.send_signal(signal.SIGINT)
    _, errors = parent.communicate(timeout=60)
    assert parent.returncode == 1 and "The start was stopped" in errors
    deadline = time.monotonic() + 10
    while left := {pid: processes.title(pid)[:80] for pid in tree if processes.alive(pid)}:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)
