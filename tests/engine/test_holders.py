"""Who holds this machine: other notebooks, and the other one of this notebook."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace

import psutil
import pytest

from helpers.engine import holders, processes
from helpers.engine.cache import new_log
from helpers.engine.failure import EngineError
from helpers.engine.profile import load_profile

CPU = load_profile()
GPU = replace(CPU, name="gpu")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "vllm-workbook" / "open-engines"
    folder.mkdir(parents=True)
    return folder


def held(folder, pid):
    return sorted(path.name.split("-")[0] for path in folder.glob(f"*-{pid}.json"))


# Another kernel: it takes the machine when told to, and then is there until it is told again.
KERNEL = """
import os, sys
from dataclasses import replace
from helpers.engine import holders
from helpers.engine.profile import load_profile
print("ready", flush=True)
sys.stdin.readline()
with holders.taken("engine", replace(load_profile(), name=sys.argv[1]), close=lambda: None):
    print("taken", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def kernel():
    with ExitStack() as started:

        def start(name):
            env = {**os.environ, "WORKBOOK_NOTEBOOK": "02_other.ipynb"}
            process = subprocess.Popen(
                [sys.executable, "-c", KERNEL, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=env,
            )
            started.enter_context(process)
            started.callback(process.kill)
            assert process.stdout.readline() == "ready\n"
            return process

        yield start


def go(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def test_a_second_kernel_is_told_on_a_cpu_and_refused_on_a_gpu(kernel, capsys):
    other = kernel("cpu")
    go(other)
    assert other.stdout.readline() == "taken\n"
    note = f"another kernel has an engine open: 02_other.ipynb (process {other.pid}). Numbers may"
    for said in (note, ""):
        with holders.taken("engine", CPU, close=lambda: None):
            told = capsys.readouterr().out
            assert said in told and bool(told) == bool(said), "it is said once"
        holders.release("engine")
    with (
        pytest.raises(EngineError, match=f"GPU is taken: .*process {other.pid}"),
        holders.taken("engine", GPU, close=lambda: None),
    ):
        pytest.fail("two engines on one GPU")


def test_of_two_kernels_that_start_at_once_one_is_refused(kernel):
    kernels = [kernel("gpu"), kernel("gpu")]
    for one in kernels:
        go(one)
    said = [one.stdout.readline() for one in kernels]
    errors = "".join(one.communicate("end\n")[1] for one in kernels)
    assert sorted(said) == ["", "taken\n"] and "The GPU is taken" in errors, (said, errors[-500:])


def test_a_killed_kernel_leaves_no_entry_behind(kernel, folder):
    other = kernel("cpu")
    go(other)
    assert other.stdout.readline() == "taken\n"
    assert held(folder, other.pid) == ["engine"]
    assert [entry["pid"] for entry in holders.others()] == [other.pid]
    os.kill(other.pid, signal.SIGKILL)
    while processes.alive(other.pid):  # it is not waited for: a zombie holds nothing
        time.sleep(0.02)
    assert holders.others() == [] and held(folder, other.pid) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(folder, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    said = "Nothing can be written to .*No space left on device.*XDG_CACHE_HOME"
    with pytest.raises(EngineError, match=said), holders.taken("engine", CPU, close=lambda: None):
        pytest.fail("it was started")
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_made_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(EngineError, match="Nothing can be written to .*Not a directory"):
        new_log("engine")


def test_an_entry_is_believed_only_if_it_is_whole_and_its_process_still_the_same(folder):
    with subprocess.Popen(["sleep", "60"]) as other:
        entry = {
            "pid": other.pid,
            "started": psutil.Process(other.pid).create_time(),
            "host": socket.gethostname(),
            "notebook": "02",
        }
        files = {
            "good": entry,
            "pid-used-again": {**entry, "started": entry["started"] - 1},
            "another-machine": {**entry, "host": "elsewhere"},
            "old-shape": {"pid": other.pid, "notebook": "02"},
            "list": [1, 2],
            "words": {**entry, "pid": "x"},
        }
        for name, what in files.items():
            (folder / f"{name}.json").write_text(json.dumps(what))
        (folder / "cut-off.json").write_text('{"pid": ')
        assert holders.others() == [entry]
        assert not (folder / "pid-used-again.json").exists(), "it is stale and can go"
        assert (folder / "another-machine.json").exists(), "its process cannot be asked from here"
        other.kill()


def test_engine_and_server_of_one_kernel_have_entries_of_their_own(folder):
    me = os.getpid()
    with (
        holders.taken("engine", CPU, close=lambda: None),
        holders.taken("server", CPU, close=lambda: None),
    ):
        holders.release("engine")
        assert held(folder, me) == ["server"]
    with pytest.raises(ZeroDivisionError), holders.taken("engine", CPU, close=lambda: None):
        assert held(folder, me) == ["engine", "server"]
        raise ZeroDivisionError
    assert held(folder, me) == ["server"], "a start that failed is still registered"


@pytest.mark.parametrize(
    "first, second, words",
    [
        ("engine", "server", "engine was closed first, the server needs its memory: gone"),
        ("server", "engine", "server was stopped first, the engine needs its memory: gone"),
    ],
)
def test_on_a_gpu_the_other_one_of_this_kernel_is_closed_first(first, second, words, capsys):
    closed = []

    def close():
        closed.append(first)
        holders.release(first)
        return "gone"

    with holders.taken(first, CPU, close), holders.taken(second, CPU, close=lambda: None):
        assert not closed, "a CPU has room for both"
    with holders.taken(first, GPU, close), holders.taken(second, GPU, close=lambda: None):
        assert closed == [first]
    assert words in capsys.readouterr().out
    holders.release(second)
