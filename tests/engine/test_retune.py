"""An engine that was changed while it ran does what an engine started with the value does."""

import errno
import os

import pytest
from vllm import SamplingParams

from helpers.display import live
from helpers.engine import (
    RETUNABLE,
    EngineError,
    close_engine,
    load_profile,
    open_engine,
    record_steps,
    retuned,
)
from helpers.engine.steps import steps_path
from helpers.measure import run_workload
from helpers.workloads import Workload, uniform

PROFILE = load_profile("cpu")
SMALL = {"max_model_len": 2048, "max_num_seqs": 16}
NO_CACHE = {"skip_reading_prefix_cache": True}


@pytest.fixture(scope="module", autouse=True)
def closed_at_the_end():
    yield
    close_engine()


def steps_and_tokens(engine, workload):
    run = run_workload(engine, workload, NO_CACHE, progress=False)
    return len(run.timeline), [r.token_ids for r in run.requests]


def preempted(engine, workload):
    run = run_workload(engine, workload, NO_CACHE, progress=False)
    # The last steps of a preempted request compute it in another shape: only lengths are compared.
    return int(run.counters["num_preemptions"]), [len(r.token_ids) for r in run.requests]


def test_chunk_budget_and_cache_size_as_if_restarted():
    engine = open_engine(PROFILE, **SMALL, **RETUNABLE)
    one_prompt = uniform(engine.tokenizer, 1, 1500, 4, seed=1)
    growing = uniform(engine.tokenizer, 12, 100, 150, seed=2)
    found = {}
    for budget in (2048, 512, 128):
        with retuned(engine, max_num_batched_tokens=budget) as engine_args:
            assert engine_args["max_num_batched_tokens"] == budget
            found[budget] = steps_and_tokens(engine, one_prompt)
        assert found[budget][0] == -(-1500 // budget) + 3, (
            "steps: the chunks of the prompt, then one for each later token"
        )
    with retuned(engine, num_gpu_blocks_override=17):
        few_blocks = preempted(engine, growing)
    assert few_blocks[0] > 0, "16 blocks did not run out, 24 are needed"
    assert preempted(engine, growing)[0] == 0, "the blocks did not come back after the block"
    assert steps_and_tokens(engine, one_prompt) == found[2048], (
        "the budget did not come back after the block"
    )

    restarted = open_engine(PROFILE, **SMALL, max_num_batched_tokens=512)
    assert steps_and_tokens(restarted, one_prompt) == found[512]
    restarted = open_engine(PROFILE, **SMALL, num_gpu_blocks_override=17)
    assert preempted(restarted, growing) == few_blocks


def test_a_measurement_carries_the_arguments_in_force():
    engine = open_engine(PROFILE, **SMALL, **RETUNABLE)
    started = engine.engine_args
    work = uniform(engine.tokenizer, 1, 8, 2)
    with retuned(engine, max_num_batched_tokens=512):
        with retuned(engine, max_num_seqs=4):
            both = run_workload(engine, work, progress=False).engine_args
        small_chunks = run_workload(engine, work, progress=False).engine_args
        assert open_engine(PROFILE, **SMALL, **RETUNABLE) is engine
    assert small_chunks == {**started, "max_num_batched_tokens": 512}
    assert both == {**small_chunks, "max_num_seqs": 4}
    assert run_workload(engine, work, progress=False).engine_args == started == engine.engine_args


def recorded(engine, workload, sampling=NO_CACHE):
    with record_steps(engine) as steps:
        run = run_workload(engine, workload, sampling, progress=False)
    return steps, run


def disk_is_full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_steps_that_the_scheduler_recorded_are_those_of_the_run(monkeypatch):
    engine = open_engine(PROFILE, **SMALL, **RETUNABLE)
    long, short = (
        uniform(engine.tokenizer, n, size, 20, seed=n) for n, size in ((1, 1500), (3, 40))
    )
    mixed = Workload("mixed", (*long.requests, *short.requests), 0, "")
    with retuned(engine, max_num_batched_tokens=256):
        steps, run = recorded(engine, mixed)
    assert [request.prompt_tokens for request in steps.requests] == [1500, 40, 40, 40]
    assert all(step.tokens <= step.budget == 256 for step in steps.steps)
    assert len([work for _, work in steps.of(0) if work.prefill]) > 1500 // 256
    for i, request in enumerate(run.requests):
        # all tokens but the last of an answer go through the model
        went_through = sum(work.tokens for _, work in steps.of(i))
        assert went_through == request.input_tokens + request.output_tokens - 1
        times = steps.token_times_s(i)
        assert len(times) == request.output_tokens
        handed_over = zip(times, request.token_times_s, strict=True)
        assert all(made_s <= got_s for made_s, got_s in handed_over), "on one clock"
        assert times[0] > request.ttft_s / 2, "in one unit"
        assert times[-1] > request.e2e_s / 2

    recorded(engine, uniform(engine.tokenizer, 1, 700, 4, seed=3), {})
    once_more, run = recorded(engine, uniform(engine.tokenizer, 1, 700, 4, seed=3), {})
    assert once_more.of(0)[0][1].found == run.requests[0].cached_tokens > 0
    assert not steps_path(engine.log_path).exists(), "it goes on recording"

    growing = uniform(engine.tokenizer, 12, 100, 150, seed=2)
    with monkeypatch.context() as patch, pytest.raises(EngineError, match="no more room"):
        patch.setattr(os, "write", disk_is_full)
        recorded(engine, growing)
    assert not steps_path(engine.log_path).exists()
    with retuned(engine, num_gpu_blocks_override=17):
        steps, run = recorded(engine, growing)
    times = sum(len(step.preempted) for step in steps.steps)
    assert times == run.counters["num_preemptions"] > 0
    assert max(step.blocks for step in steps.steps) == steps.steps[0].of_blocks == 16


def test_places_in_the_batch_as_if_restarted(monkeypatch):
    labels, progress = [], live.Progress
    note = lambda label, total: labels.append(label) or progress(label, total)  # noqa: E731
    monkeypatch.setattr(live, "Progress", note)

    def steps(engine):
        run = run_workload(engine, asked, NO_CACHE)
        return [step["running"] for step in run.timeline]

    engine = open_engine(PROFILE, **SMALL, **RETUNABLE)
    asked = uniform(engine.tokenizer, 12, 40, 20, seed=6)
    with retuned(engine, max_num_seqs=5) as engine_args:
        assert engine_args["max_num_seqs"] == 5
        five = steps(engine)
    assert labels == ["uniform, max_num_seqs=5"], "a sweep's lines say which is which"
    assert max(five) == 5, five
    assert max(steps(engine)) == 12, "the limit stayed after the block"
    assert steps(open_engine(PROFILE, **SMALL | {"max_num_seqs": 5})) == five


def test_synthetic_acceptance_has_the_rate_that_was_set():
    config = {
        "method": "draft_model",
        "model": PROFILE.draft_model,
        "rejection_sample_method": "synthetic",
        "num_speculative_tokens": 3,
        "synthetic_acceptance_rates": [0.5, 0.25, 0.125],
    }
    engine = open_engine(PROFILE, **SMALL, speculative_config=config, **RETUNABLE)
    stream = uniform(engine.tokenizer, 8, 16, 120, seed=4)
    for alpha in (0.0, 0.6, 1.0):
        with retuned(engine, synthetic_acceptance_rates=[alpha, alpha**2, alpha**3]):
            steps, run = recorded(engine, stream, {})
        drafts = run.counters["spec_decode_num_drafts"]
        kept = sum(work.accepted for step in steps.steps for work in step.work.values())
        assert kept == run.counters["spec_decode_num_accepted_tokens"]
        share = [
            count / drafts for count in run.counters["spec_decode_num_accepted_tokens_per_pos"]
        ]
        assert share == pytest.approx([alpha, alpha**2, alpha**3], abs=0.08), f"alpha {alpha}"
        assert all(len(r.token_ids) == 120 for r in run.requests)


def test_what_cannot_be_changed_is_said_in_one_sentence():
    engine = open_engine(PROFILE, **SMALL, **RETUNABLE)
    for values, words in (
        ({"max_model_len": 512}, "'max_model_len' cannot be changed"),
        ({"max_num_batched_tokens": 10**6}, "more than"),
        ({"num_speculative_tokens": 2}, "cannot be changed"),
        ({"max_num_seqs": 0}, "max_num_seqs must be a whole number of at least 1, not 0"),
        ({"max_num_batched_tokens": -5}, "at least 1, not -5"),
        ({"num_gpu_blocks_override": 12.5}, "a whole number of at least 1, not 12.5"),
        ({"max_num_seqs": "4"}, "a whole number of at least 1, not '4'"),
        ({"synthetic_acceptance_rates": [0.5, 1.5]}, "numbers from 0 to 1"),
        ({"synthetic_acceptance_rates": [-0.5]}, "numbers from 0 to 1"),
        ({"synthetic_acceptance_rates": [0.2, 0.5]}, "none above the one before"),
        ({"synthetic_acceptance_rates": 0.5}, "a list of numbers"),
    ):
        with pytest.raises(EngineError, match=words), retuned(engine, **values):
            pass
    plain = open_engine(PROFILE, **SMALL)
    with pytest.raises(EngineError, match="RETUNABLE"), retuned(plain, max_num_batched_tokens=256):
        pass
    with pytest.raises(EngineError, match="cannot be recorded"), record_steps(plain):
        pass


def test_values_come_back_after_a_failure_or_the_engine_is_closed():
    engine = open_engine(PROFILE, **SMALL, **RETUNABLE)
    scheduler = engine.llm.llm_engine.engine_core.engine_core.scheduler
    bad = uniform(engine.tokenizer, 3, 16, 8)
    bad.requests[2].prompt_token_ids[0] = 10**7
    with pytest.raises(EngineError, match="out of vocabulary"), retuned(engine, max_num_seqs=1):
        run_workload(engine, bad, progress=False)
    assert scheduler.max_num_running_reqs == 16

    with pytest.raises(KeyboardInterrupt), retuned(engine, max_num_seqs=1):
        engine.llm.llm_engine.add_request(
            "left", {"prompt_token_ids": [5] * 8}, SamplingParams(max_tokens=50)
        )
        raise KeyboardInterrupt  # the stop button in LLM.generate
    assert (
        scheduler.max_num_running_reqs == 16
        and len(run_workload(engine, uniform(engine.tokenizer, 2, 8, 2)).requests) == 2
    )

    def refuse(*args, **kwargs):
        raise RuntimeError("no answer")

    with (
        pytest.raises(EngineError, match="was closed: run the cell"),
        retuned(engine, max_num_seqs=1),
    ):
        engine.llm.collective_rpc = refuse
    assert not engine.is_open and engine.close_report is not None
