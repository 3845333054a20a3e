"""The life of an engine, with real vLLM on the CPU and the model that ships."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest

from helpers.engine import engine as engine_module
from helpers.engine import processes
from helpers.engine.engine import EngineError, close_engine, open_engine
from helpers.engine.profile import load_profile
from helpers.measure import run_workload
from helpers.workloads import uniform

PROFILE = load_profile()
SMALL = {"max_model_len": 512, "kv_cache_memory_bytes": 64 * 2**20}


@pytest.fixture
def engine():
    engine = open_engine(PROFILE, **SMALL)
    yield engine
    close_engine()


def test_info_is_what_vllm_reports(engine):
    info, cache = engine.info, engine.llm.llm_engine.vllm_config.cache_config
    assert info.kv_cache_tokens == cache.kv_cache_size_tokens
    assert (info.num_blocks, info.block_size) == (cache.num_gpu_blocks, cache.block_size)
    assert info.max_model_len == 512
    log = engine.log_path.read_text()
    assert f"KV cache size: {info.kv_cache_tokens:,} tokens" in log, (
        "the engine's log is not in its file"
    )
    assert 0 < sum(info.startup_phases_s.values()) == pytest.approx(info.startup_s, abs=1.0)
    assert info.weights_gib == pytest.approx(4.5e6 * 2 / 2**30, rel=0.25)


def test_same_configuration_is_the_same_engine_and_another_closes_it(engine):
    assert open_engine(PROFILE, **SMALL) is engine
    other = open_engine(PROFILE, **{**SMALL, "max_num_seqs": 4})
    assert other is not engine and other.is_open and not engine.is_open
    assert other.info.max_num_seqs == 4
    with pytest.raises(EngineError, match="closed: run the cell"):
        engine.llm


def test_close_gives_the_memory_back_although_it_is_displayed_and_an_exception_is_kept(engine):
    kept = [engine, engine.llm, engine.llm.llm_engine]  # what IPython's Out[] would hold
    try:
        engine.llm.generate(
            [{"prompt_token_ids": [5] * 600}], use_tqdm=False
        )  # longer than max_model_len
    except Exception as error:
        kept.append(error)
    assert len(kept) == 4, "vLLM accepted a prompt that is longer than max_model_len"
    run_workload(engine, uniform(engine.tokenizer, 8, 64, 16), progress=False)
    report = engine.close()
    assert report.processes_left == []
    assert report.loaded_gib - report.before_gib > 0.05, (
        f"the KV cache is not in the report: {report}"
    )
    # The allocator keeps a little; of what loading took, nearly all must be back.
    assert report.after_gib - report.before_gib < 0.3 * (report.loaded_gib - report.before_gib), (
        str(report)
    )
    assert engine.close() is report, "closing twice did something"


def test_memory_comes_back_every_time():
    open_engine(PROFILE, **SMALL).close()  # the first pays for imports
    gc.collect()
    start = psutil.Process().memory_info().rss
    for _ in range(6):
        with open_engine(PROFILE, **SMALL) as engine:
            run_workload(engine, uniform(engine.tokenizer, 4, 32, 4), progress=False)
    grown = psutil.Process().memory_info().rss - start
    assert grown < 0.03 * start, (
        f"{grown / 2**20:.0f} MiB more after 6 engines, of {start / 2**20:.0f}"
    )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"model": "/no/such/folder"}, "was not found"),
        ({"swap_space": 4}, "no engine argument 'swap_space'"),
        ({"max_num_seq": 4}, "Did you mean 'max_num_seqs'"),
        ({"max_num_seqs": -1}, "max_num_seqs: Input should be greater"),
        ({"max_model_len": 100_000}, "max_model_len .100000. is greater than"),
        ({"kv_cache_memory_bytes": 2**50}, "not enough memory for this engine .*GiB free"),
        ({"kv_cache_memory_bytes": 2**16}, "not enough memory"),
    ],
)
def test_a_start_that_fails_says_why_and_the_next_one_works(arguments, sentence):
    with pytest.raises(EngineError, match=sentence) as failure:
        open_engine(PROFILE, **arguments)
    assert ".log" in str(failure.value), "the message does not name the log"
    assert failure.value.__cause__ is None and failure.value.__suppress_context__, (
        "vLLM's traceback is shown"
    )
    assert engine_module._open is None
    assert entries_of(os.getpid()) == [], "other notebooks are told of an engine that did not start"


def test_the_engine_works_after_failed_starts(engine):
    assert (
        run_workload(engine, uniform(engine.tokenizer, 2, 16, 4), progress=False).metrics[
            "output_tokens"
        ]
        == 8
    )


def test_the_stop_button_leaves_the_engine_usable(engine):
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(EngineError, match="stopped.*ready for the next cell"):
        run_workload(engine, uniform(engine.tokenizer, 64, 100, 400), progress=False)
    after = run_workload(engine, uniform(engine.tokenizer, 4, 20, 5), progress=False)
    assert after.metrics["output_tokens"] == 20
    assert after.timeline[-1]["running"] in (0, 4), "requests of the stopped run are still there"


def test_a_second_kernel_is_told_who_has_an_engine(engine, capsys):
    code = (
        "from helpers.engine import engine; from helpers.engine.profile import load_profile;"
        "engine._warn_of_other_engines(load_profile())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "WORKBOOK_NOTEBOOK": "x"},
    ).stdout
    assert f"process {os.getpid()}" in said and "has an engine open" in said


def test_nothing_is_printed_by_vllm(capfd):
    with open_engine(PROFILE, **SMALL) as engine:
        engine.llm.generate([{"prompt_token_ids": [5] * 8}], use_tqdm=False)
    printed = "".join(capfd.readouterr())
    assert "INFO" not in printed and "WARNING" not in printed, printed[:500]


def entries_of(pid):
    return sorted(
        path.name.split("-")[0] for path in engine_module._registry().glob(f"*-{pid}.json")
    )


def test_a_killed_kernel_leaves_no_entry_behind():
    code = (
        "import os, signal; from helpers.engine.engine import open_engine; from helpers.engine.profile import load_profile;"
        "open_engine(load_profile(), max_model_len=512); print(os.getpid(), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert child.stdout, child.stderr[-500:]
    pid = int(child.stdout.split()[-1])
    assert entries_of(pid) == ["engine"]
    time.sleep(0.2)
    assert (
        pid not in [other["pid"] for other in engine_module.other_engines()]
        and entries_of(pid) == []
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A registry of this test's own."""
    monkeypatch.setattr(engine_module, "_registry", lambda: tmp_path)
    return tmp_path


def test_an_entry_is_believed_only_if_it_is_whole_and_its_process_still_the_same(folder):
    other = subprocess.Popen(["sleep", "60"])
    try:
        entry = {
            "pid": other.pid,
            "started": processes.started(other.pid),
            "host": engine_module.socket.gethostname(),
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
        assert engine_module.other_engines() == [entry]
        assert not (folder / "pid-used-again.json").exists(), "it is stale and can go"
        assert (folder / "another-machine.json").exists(), "its process cannot be asked from here"
    finally:
        other.kill()
        other.wait()


def test_engine_and_server_of_one_kernel_have_entries_of_their_own(folder):
    with engine_module.registered("engine", PROFILE), engine_module.registered("server", PROFILE):
        engine_module._unregister("engine")
        assert entries_of(os.getpid()) == ["server"]
    with pytest.raises(ZeroDivisionError), engine_module.registered("engine", PROFILE):
        assert entries_of(os.getpid()) == ["engine", "server"]
        1 / 0
    assert entries_of(os.getpid()) == ["server"], "a start that failed is still registered"


def test_of_two_kernels_that_start_at_once_one_is_refused(folder):
    code = (
        "import sys, time; from pathlib import Path; from helpers.engine import engine; from helpers.engine.profile import load_profile\n"
        "from dataclasses import replace\n"
        "engine._registry = lambda: Path(sys.argv[1])\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "with engine.registered('engine', replace(load_profile(), name='gpu')):\n"
        "    print('started', flush=True); sys.stdin.readline()"
    )
    kernels = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [kernel.stdout.readline() for kernel in kernels] == ["ready\n"] * 2
    for kernel in kernels:
        kernel.stdin.write("go\n")
        kernel.stdin.flush()
    said = [kernel.stdout.readline() for kernel in kernels]
    errors = "".join(kernel.communicate("end\n")[1] for kernel in kernels)
    assert sorted(said) == ["", "started\n"] and "The GPU is taken" in errors, (said, errors[-500:])


def test_an_interrupted_close_can_be_repeated(monkeypatch):
    engine = open_engine(PROFILE, **SMALL)
    thread = engine._sampler._thread
    for interrupted in ("_shut_down", "_settled_memory_gib"):
        with monkeypatch.context() as patch:
            patch.setattr(
                engine_module, interrupted, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
            )
            with pytest.raises(KeyboardInterrupt):
                engine.close()
        assert not engine.is_open and not thread.is_alive(), (
            "the sampler goes on after an interrupted close"
        )
        with pytest.raises(EngineError, match="closed: run the cell"):
            engine.llm
    report = close_engine()
    assert report is engine.close_report and report.processes_left == []
    assert report.after_gib - report.before_gib < 0.3 * (report.loaded_gib - report.before_gib), (
        str(report)
    )
    assert close_engine() is None and entries_of(os.getpid()) == []


def test_a_close_goes_on_inside_what_was_interrupted(monkeypatch):
    engine = open_engine(PROFILE, **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(
            engine_module,
            "_give_back_host_memory",
            lambda: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            engine.close()  # the objects are empty already
    # A driver that stopped answering leaves the sampler without a number.
    engine._sampler.samples.clear()
    engine._sampler.stopped_early = "Sampling stopped."
    assert engine.close().peak_gib == engine.close().loaded_gib


def test_a_run_that_fails_leaves_the_engine_usable(engine):
    good, bad = uniform(engine.tokenizer, 4, 20, 5), uniform(engine.tokenizer, 1, 20, 5)
    bad.requests[0].prompt_token_ids[3] = 10**7
    both = replace(good, requests=(*good.requests, *bad.requests))
    with pytest.raises(
        EngineError, match="failed.*out of vocabulary.*ready for the next cell"
    ) as failure:
        run_workload(engine, both, progress=False)
    assert "VLLMValidationError" in repr(failure.value.__cause__) and "\n" not in str(failure.value)
    assert not engine.llm.llm_engine.has_unfinished_requests()
    assert run_workload(engine, good, progress=False).metrics["output_tokens"] == 20


def test_requests_that_another_cell_left_are_not_measured(engine):
    from vllm import SamplingParams

    core = engine.llm.llm_engine  # as after LLM.generate and the stop button
    core.add_request(
        "left", {"prompt_token_ids": [5] * 8}, SamplingParams(max_tokens=50, ignore_eos=True)
    )
    run = run_workload(engine, uniform(engine.tokenizer, 2, 16, 4), progress=False)
    assert run.metrics["output_tokens"] == 8 == run.counters["generation_tokens"]


def test_an_engine_of_several_processes_works_on_after_an_error_and_is_replaced_when_killed(
    monkeypatch, folder
):
    """As on a GPU: the engine has a process of its own, works ahead of this one, and can be killed without it."""
    engine = open_engine(replace(PROFILE, name="gpu"), **SMALL)
    core = engine.llm.llm_engine
    work = uniform(engine.tokenizer, 4, 20, 5)
    steps = iter([core.step] * 3)

    def failing_step():
        if (step := next(steps, None)) is None:
            time.sleep(0.3)  # meanwhile the engine has done many steps more
            raise RuntimeError("boom")
        return step()

    monkeypatch.setattr(core, "step", failing_step)
    with pytest.raises(EngineError, match="boom.*ready for the next cell"):
        run_workload(engine, uniform(engine.tokenizer, 8, 32, 100), progress=False)
    monkeypatch.undo()
    run = run_workload(engine, work, progress=False)
    assert run.metrics["output_tokens"] == 20 and sum(step["tokens"] for step in run.timeline) == 20

    [killed] = [pid for pid in engine.pids if processes.title(pid).startswith("VLLM::EngineCore")]
    threading.Timer(0.3, os.kill, (killed, signal.SIGKILL)).start()
    with pytest.raises(EngineError, match=r"process has ended.*open_engine\(.*\.log") as failure:
        run_workload(engine, uniform(engine.tokenizer, 64, 100, 400), progress=False)
    assert "EngineDeadError" in repr(failure.value.__cause__)
    assert engine.close().processes_left == []


def test_an_engine_whose_process_is_gone_is_not_used_again(engine):
    gone = subprocess.Popen(
        ["sleep", "60"]
    )  # stands for vLLM's process; the test above has a real one
    engine._needed = {gone.pid: processes.started(gone.pid)}
    assert open_engine(PROFILE, **SMALL) is engine
    gone.kill()
    gone.wait()
    assert not engine.is_open and "its process has ended" in repr(engine)
    with pytest.raises(EngineError, match=r"process has ended.*open_engine\(.*\.log"):
        engine.llm
    fresh = open_engine(PROFILE, **SMALL)
    assert fresh is not engine and fresh.is_open and engine.close_report is not None
