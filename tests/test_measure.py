"""What measure says, against vLLM's own counters and against arithmetic."""

from itertools import pairwise

import pytest

from helpers.engine import EngineError, close_engine, load_profile, open_engine
from helpers.measure import counters, run_workload
from helpers.workloads import Workload, chat, mixed, questions, shared_prefix, uniform


@pytest.fixture(scope="module")
def engine():
    yield open_engine(load_profile(), max_model_len=1024, max_num_seqs=16)
    close_engine()


def test_totals_equal_vllms_counters(engine):
    m = run_workload(engine, uniform(engine.tokenizer, 24, 40, 12))
    assert m.counters["prompt_tokens"] == 24 * 40 == m.metrics["input_tokens"]
    assert m.counters["generation_tokens"] == 24 * 12 == m.metrics["output_tokens"]
    assert sum(step["tokens"] for step in m.timeline) == 24 * 12
    assert max(step["running"] for step in m.timeline) <= 16, "more requests ran than max_num_seqs"


def test_times_of_a_request_fit_together(engine):
    m = run_workload(engine, uniform(engine.tokenizer, 6, 40, 10))
    for r in m.requests:
        assert len(r.token_times_s) == len(r.token_ids) == 10 and r.finish_reason == "length"
        assert r.token_times_s == sorted(r.token_times_s)
        assert r.e2e_s == pytest.approx(r.ttft_s + sum(r.itl_s))
        assert r.tpot_s == pytest.approx((r.e2e_s - r.ttft_s) / 9)
        assert 0 <= r.queue_s <= r.ttft_s and r.e2e_s <= m.duration_s


def test_ttft_agrees_with_vllms_own_histogram(engine):
    def histogram():
        metric = next(
            m for m in engine.llm.get_metrics() if m.name == "vllm:time_to_first_token_seconds"
        )
        return metric.sum, metric.count

    before = histogram()
    # One at a time: of many, all count as arrived when the first is sent.
    m = run_workload(engine, uniform(engine.tokenizer, 12, 60, 6), concurrency=1)
    after = histogram()
    vllm_mean_ms = 1000 * (after[0] - before[0]) / (after[1] - before[1])
    assert m.metrics["ttft_ms_mean"] == pytest.approx(vllm_mean_ms, rel=0.25)


def test_requests_arrive_when_they_should(engine):
    work = mixed(engine.tokenizer, 2, 16, 40, 3, 200, 2, every_s=0.15, first_s=0.1)
    m = run_workload(engine, work)
    longs = [r for r in m.requests if r.kind == "long"]
    assert [r.arrival_s for r in longs] == pytest.approx([0.1, 0.25, 0.4])
    assert all(r.token_times_s[0] > r.arrival_s for r in longs), "a token came before its request"
    assert m.duration_s >= 0.4
    assert m.summary("long")["requests"] == 3 and m.summary("short")["requests"] == 2


def test_one_at_a_time_never_overlaps(engine):
    m = run_workload(engine, uniform(engine.tokenizer, 4, 20, 8), concurrency=1)
    spans = sorted((r.arrival_s, r.token_times_s[-1]) for r in m.requests)
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(spans))
    assert max(step["running"] for step in m.timeline) == 1


def test_cached_tokens_are_seen(engine):
    engine.llm.reset_prefix_cache()
    work = shared_prefix(engine.tokenizer, 3, 300, 20, 2, seed=11)
    cold = run_workload(engine, Workload("one", work.requests[:1], 0))
    warm = run_workload(engine, Workload("rest", work.requests[1:], 0))
    whole_blocks = 300 // engine.info.block_size * engine.info.block_size
    assert cold.requests[0].cached_tokens == 0
    assert [r.cached_tokens for r in warm.requests] == [whole_blocks] * 2
    assert warm.counters["prefix_cache_hits"] == 2 * whole_blocks


def test_greedy_is_the_default_and_repeats(engine):
    work = questions(engine.tokenizer, 3, seed=5)
    texts = [[r.text for r in run_workload(engine, work).requests] for _ in range(2)]
    assert texts[0] == texts[1] and all(texts[0])


def test_a_request_can_stop_at_its_end(engine):
    request = chat(engine.tokenizer, [{"role": "user", "content": "What is a KV cache?"}], 200)
    [record] = run_workload(engine, Workload("one", (request,), 0)).requests
    assert record.finish_reason == "stop" and record.output_tokens < 200


def test_a_request_that_does_not_fit_is_refused_before_anything_runs(engine):
    before = counters(engine.llm)["prompt_tokens"]
    with pytest.raises(
        EngineError, match=r"Request 0 needs 1020 \+ 10 tokens.*max_model_len = 1024"
    ):
        run_workload(engine, uniform(engine.tokenizer, 1, 1020, 10))
    assert counters(engine.llm)["prompt_tokens"] == before


@pytest.mark.parametrize(
    "sampling, instead",
    [
        ({"max_tokens": 2}, "'max_tokens' cannot.*give it to the workload"),
        ({"n": 2}, "'n' cannot.*into the workload n times"),
        ({"ignore_eos": False}, "'ignore_eos' cannot.*stop_at_eos"),
        ({"output_kind": 0}, "'output_kind' cannot.*leave it out"),
        ({"temprature": 0.5}, "SamplingParams refuse .*temprature"),
        ({"temperature": -1}, "SamplingParams refuse .*temperature"),
    ],
)
def test_sampling_that_is_not_for_a_workload_is_refused_in_one_sentence(engine, sampling, instead):
    with pytest.raises(EngineError, match=instead):
        run_workload(engine, uniform(engine.tokenizer, 1, 8, 2), sampling)
    assert not engine.llm.llm_engine.has_unfinished_requests()
