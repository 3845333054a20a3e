"""The life of an engine, with real vLLM on the CPU and the model that ships."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from helpers import engine as engine_module
from helpers.engine import EngineError, close_engine, open_engine
from helpers.measure import run_workload
from helpers.profile import load_profile
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
    assert f"KV cache size: {info.kv_cache_tokens:,} tokens" in log, "the engine's log is not in its file"
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
        engine.llm.generate([{"prompt_token_ids": [5] * 600}], use_tqdm=False)  # longer than max_model_len
    except Exception as error:
        kept.append(error)
    assert len(kept) == 4, "vLLM accepted a prompt that is longer than max_model_len"
    run_workload(engine, uniform(engine.tokenizer, 8, 64, 16), progress=False)
    report = engine.close()
    assert report.processes_left == []
    assert report.loaded_gib - report.before_gib > 0.05, f"the KV cache is not in the report: {report}"
    # The allocator keeps a little; of what loading took, nearly all must be back.
    assert report.after_gib - report.before_gib < 0.3 * (report.loaded_gib - report.before_gib), str(report)
    assert engine.close() is report, "closing twice did something"


def test_memory_comes_back_every_time():
    open_engine(PROFILE, **SMALL).close()  # the first pays for imports
    gc.collect()
    start = psutil.Process().memory_info().rss
    for _ in range(6):
        with open_engine(PROFILE, **SMALL) as engine:
            run_workload(engine, uniform(engine.tokenizer, 4, 32, 4), progress=False)
    grown = psutil.Process().memory_info().rss - start
    assert grown < 0.03 * start, f"{grown / 2**20:.0f} MiB more after 6 engines, of {start / 2**20:.0f}"


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
    assert failure.value.__cause__ is None and failure.value.__suppress_context__, "vLLM's traceback is shown"
    assert engine_module._open is None


def test_the_engine_works_after_failed_starts(engine):
    assert run_workload(engine, uniform(engine.tokenizer, 2, 16, 4), progress=False).metrics["output_tokens"] == 8


def test_the_stop_button_leaves_the_engine_usable(engine):
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(EngineError, match="stopped.*ready for the next cell"):
        run_workload(engine, uniform(engine.tokenizer, 64, 100, 400), progress=False)
    after = run_workload(engine, uniform(engine.tokenizer, 4, 20, 5), progress=False)
    assert after.metrics["output_tokens"] == 20
    assert after.timeline[-1]["running"] in (0, 4), "requests of the stopped run are still there"


def test_a_second_kernel_is_told_who_has_an_engine(engine, capsys):
    code = (
        "from helpers import engine; from helpers.profile import load_profile;"
        "engine._warn_of_other_engines(load_profile())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "WORKBOOK_NOTEBOOK": "x"}).stdout
    assert f"process {os.getpid()}" in said and "has an engine open" in said


def test_nothing_is_printed_by_vllm(capfd):
    with open_engine(PROFILE, **SMALL) as engine:
        engine.llm.generate([{"prompt_token_ids": [5] * 8}], use_tqdm=False)
    printed = "".join(capfd.readouterr())
    assert "INFO" not in printed and "WARNING" not in printed, printed[:500]


def test_a_killed_kernel_leaves_no_entry_behind():
    code = (
        "import os, signal; from helpers.engine import open_engine; from helpers.profile import load_profile;"
        "open_engine(load_profile(), max_model_len=512); print('open', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert child.stdout.strip().endswith("open"), child.stderr[-500:]
    time.sleep(0.2)
    assert engine_module.other_engines() == []
