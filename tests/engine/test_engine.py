"""The life of an engine, with real vLLM on the CPU and the model that ships."""

import contextlib
import functools
import gc
import itertools
import os
import signal
import time
from dataclasses import replace

import psutil
import pytest

from helpers import gpu_memory
from helpers.engine import EngineError, close_engine, load_profile, open_engine, processes
from helpers.engine.cache import cache_dir
from helpers.engine.interrupts import Stopped, ctrl_c_calls, stopped
from helpers.measure import run_workload
from helpers.workloads import uniform

PROFILE = load_profile()
GPU_LIKE = replace(PROFILE, name="gpu")  # an engine in processes of its own
# A size of this file alone: vLLM logs a line of the same words once a process.
SMALL = {"max_model_len": 512, "kv_cache_memory_bytes": 60 * 2**20}


@pytest.fixture
def engine():
    return open_engine(PROFILE, **SMALL)  # that of the test before, unless it was closed


@pytest.fixture(scope="module", autouse=True)
def closed_at_the_end():
    yield
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
    other_draft = replace(PROFILE, draft_model="another")
    assert open_engine(other_draft, **SMALL) is engine and engine.profile is other_draft
    other = open_engine(PROFILE, **{**SMALL, "max_num_seqs": 4})
    assert other is not engine and other.is_open and not engine.is_open
    assert other.info.max_num_seqs == 4
    with pytest.raises(EngineError, match="closed: run the cell"):
        assert engine.llm


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
    with open_engine(PROFILE, **SMALL) as engine:  # the first pays for imports, its run too
        run_workload(engine, uniform(engine.tokenizer, 4, 32, 4), progress=False)
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
    assert close_engine() is None
    told = list(cache_dir("open-engines").glob(f"*-{os.getpid()}.json"))
    assert told == [], "another notebook is told of an engine that did not start"


def test_the_engine_works_after_failed_starts(engine):
    assert (
        run_workload(engine, uniform(engine.tokenizer, 2, 16, 4), progress=False).metrics[
            "output_tokens"
        ]
        == 8
    )


@contextlib.contextmanager
def in_its_tenth_step(engine, what):
    """Do something while the engine works, however fast or slow this machine is."""
    core, steps = engine.llm.llm_engine, itertools.count(1)
    real_step = core.step

    def step():
        if next(steps) == 10:
            what()
        return real_step()

    core.step = step
    try:
        yield
    finally:
        del core.step


def test_the_stop_button_leaves_the_engine_usable(engine):
    press = functools.partial(os.kill, os.getpid(), signal.SIGINT)
    words = "stopped.*ready for the next cell"
    with pytest.raises(EngineError, match=words), in_its_tenth_step(engine, press):
        run_workload(engine, uniform(engine.tokenizer, 64, 100, 400), progress=False)
    after = run_workload(engine, uniform(engine.tokenizer, 4, 20, 5), progress=False)
    assert after.metrics["output_tokens"] == 20
    assert after.timeline[-1]["running"] in (0, 4), "requests of the stopped run are still there"


def test_the_stop_button_is_heard_while_vllm_waits_for_its_processes():
    """It waits inside this context, which ends a KeyboardInterrupt as if nothing had been."""
    import zmq
    from vllm.utils.network_utils import zmq_socket_ctx

    with (
        pytest.raises(Stopped),
        ctrl_c_calls(stopped),
        zmq_socket_ctx("inproc://handshake", zmq.ROUTER, bind=True) as socket,
    ):
        os.kill(os.getpid(), signal.SIGINT)
        socket.poll(10_000)
    assert signal.getsignal(signal.SIGINT) is not stopped


def test_nothing_is_printed_by_vllm(capfd):
    close_engine()
    with open_engine(PROFILE, **SMALL) as engine:
        engine.llm.generate([{"prompt_token_ids": [5] * 8}], use_tqdm=False)
    printed = "".join(capfd.readouterr())
    assert "INFO" not in printed and "WARNING" not in printed, printed[:500]


def test_an_interrupted_close_goes_on_where_it_stopped(monkeypatch):
    """The stop button while vLLM ends, when its objects are empty, and while memory comes back."""
    engine = open_engine(PROFILE, **SMALL)
    core = engine.llm.llm_engine.engine_core
    for place, name in ((core, "shutdown"), (gc, "unfreeze"), (gpu_memory, "memory_now")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                engine.close()
        assert not engine.is_open and engine.close_report is None
        taken = len(engine.sampler.samples)
        time.sleep(0.6)
        assert len(engine.sampler.samples) == taken, "the sampler goes on"
        with pytest.raises(EngineError, match="closed: run the cell"):
            assert engine.llm
    # A driver that stopped answering leaves the sampler without a number.
    engine.sampler.samples.clear()
    report = close_engine()
    assert report is engine.close_report and report.processes_left == []
    assert report.peak_gib == report.loaded_gib
    assert report.after_gib - report.before_gib < 0.3 * (report.loaded_gib - report.before_gib), (
        str(report)
    )
    assert close_engine() is None


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


@pytest.mark.slow  # starts of several processes, one after the other
def test_an_engine_of_several_processes_works_on_after_an_error_and_is_replaced_when_killed(
    monkeypatch, tmp_path
):
    """As on a GPU: the engine has a process of its own, works ahead of this one, can be killed."""
    monkeypatch.setenv(
        "XDG_CACHE_HOME", str(tmp_path)
    )  # other notebooks of this machine do not count
    engine = open_engine(GPU_LIKE, **SMALL)
    work = uniform(engine.tokenizer, 4, 20, 5)

    def fail():
        time.sleep(0.3)  # meanwhile the engine has done many steps more
        raise RuntimeError("boom")

    words = "boom.*ready for the next cell"
    with pytest.raises(EngineError, match=words), in_its_tenth_step(engine, fail):
        run_workload(engine, uniform(engine.tokenizer, 8, 32, 100), progress=False)
    run = run_workload(engine, work, progress=False)
    assert run.metrics["output_tokens"] == 20 and sum(step["tokens"] for step in run.timeline) == 20

    def press_stop():
        for pid in (*engine.pids, os.getpid()):  # Jupyter signals the kernel's whole group
            os.kill(pid, signal.SIGINT)

    words = "stopped.*ready for the next cell"
    with pytest.raises(EngineError, match=words), in_its_tenth_step(engine, press_stop):
        run_workload(engine, uniform(engine.tokenizer, 8, 32, 100), progress=False)
    assert run_workload(engine, work, progress=False).metrics["output_tokens"] == 20

    engine.close = lambda: None  # what is said of an engine before it is closed
    [killed] = [pid for pid in engine.pids if processes.title(pid).startswith("VLLM::EngineCore")]
    kill = functools.partial(os.kill, killed, signal.SIGKILL)
    words = r"process has ended.*open_engine\(.*\.log"
    with pytest.raises(EngineError, match=words) as failure, in_its_tenth_step(engine, kill):
        run_workload(engine, uniform(engine.tokenizer, 64, 100, 400), progress=False)
    assert "EngineDeadError" in repr(failure.value.__cause__)
    assert not engine.is_open and "its process has ended" in repr(engine)
    with pytest.raises(EngineError, match=words):
        assert engine.llm
    del engine.close

    fresh = open_engine(PROFILE, **SMALL)  # the same arguments, and a quicker start
    assert fresh is not engine and fresh.is_open
    assert engine.close_report.processes_left == []
    close_engine()
