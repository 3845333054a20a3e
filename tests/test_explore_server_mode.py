"""explore_server_mode.py as a person runs it: from another folder, in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.engine import processes

SCRIPT = Path(__file__).resolve().parents[1] / "explore_server_mode.py"


def run(*args, cwd, **environment):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, **environment},
    )


def test_help_teaches(tmp_path):
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    options = ("--connect", "--keep-running", "--option NAME=VALUE")
    for word in ("TTFT", "TPOT", "examples:", "/v1/chat/completions", *options):
        assert word in done.stdout, f"--help does not mention {word}"


NOBODY = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "args, said",
    [
        (["--concurrency", "0"], "--concurrency must be at least 1"),
        (["--concurrency", "many"], "invalid int value: 'many'"),
        (["--option", "max_num_seqs"], "write NAME=VALUE"),
        (["--connect", NOBODY, "--port", "8000"], "--connect uses a server as it is"),
        (["--connect", NOBODY], f"No OpenAI-compatible server answers at {NOBODY}"),
        (["--model", "./no/such/folder"], "is no model folder"),
        (["--port", "70000"], "port must be a whole number from 1 to 65535"),
        (["--json", "/no/such/x.json"], "the folder of /no/such/x.json does not exist"),
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    ],
)
def test_every_failure_is_one_sentence_and_exit_code_1(tmp_path, args, said):
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, f"more than one line: {done.stderr}"


def test_it_starts_a_server_with_options_and_ctrl_c_ends_it(tmp_path):
    """The whole path: start, four kinds of requests, stay up, Ctrl-C."""
    args = "--concurrency 3 --requests 3 --max-tokens 12 --option max_num_seqs=2 --keep-running"
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *args.split()],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C ends it" in line:
            break
    text = "".join(lines)
    assert "Ctrl-C ends it" in text, text + process.stderr.read()
    assert "max_num_seqs=2" in text and "--max-num-seqs 2" in text and "output tokens/s" in text
    tree = processes.descendants(process.pid)
    assert any(processes.title(p).startswith("VLLM::") for p in tree)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "no process left" in rest
    deadline = time.monotonic() + 10
    while any(processes.alive(p) for p in tree) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [p for p in tree if processes.alive(p)]
