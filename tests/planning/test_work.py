"""What a step reads, computes and sends, by hand; all-reduces against vLLM's published tables."""

from collections import Counter

import numpy as np
import pytest

from helpers.planning import Tuning, load_shape, make_box
from helpers.planning.collectives import allreduce_seconds, exchange_seconds
from helpers.planning.models import rank_tensors
from helpers.planning.work import experts_touched, model_stage

KIB, MIB = 2**10, 2**20


def product(work, part):
    return next(p for p in work.products if p.part == part)


def test_a_dense_step_reads_every_weight_once_and_computes_two_flops_for_each():
    shape = load_shape("Qwen2.5-7B")
    step = model_stage(shape, tp=2).step(streams=8, context=1000, prompt_tokens=100, prompt_keys=50)
    matrices = Counter()
    for tensor in rank_tensors(shape, 2):
        if tensor.kernel or tensor.part == "lm_head":
            matrices[tensor.part] += tensor.numel
    assert matrices.keys() == {"attention", "mlp", "lm_head"}
    for part, parameters in matrices.items():
        now = product(step, part)
        assert now.read_bytes == 2 * parameters
        assert now.flops == 2 * parameters * (8 if part == "lm_head" else 108)
    assert step.kv_read_bytes == 8 * 1000 * shape.kv_bytes_per_token(2)
    assert step.sends[0] == (2 * 28 + 1, 108 * 3584 * 2, 0) and len(step.sends) == 2


def test_the_stages_of_a_pipeline_together_are_the_model():
    shape = load_shape("DeepSeek-V3")
    whole = model_stage(shape, tp=8).step(4, 100)
    parts = [model_stage(shape, tp=8, pp=3, pp_rank=rank).step(4, 100) for rank in range(3)]
    for name in ("attention", "experts", "router", "mlp"):
        summed = sum(product(p, name).flops for p in parts)
        assert summed == pytest.approx(product(whole, name).flops, rel=1e-9), name
    assert sum(p.kv_read_bytes for p in parts) == whole.kv_read_bytes


def test_a_batch_reads_the_experts_that_it_touches():
    shape = load_shape("Qwen3-30B-A3B")
    assert experts_touched(128, 8, 1) == pytest.approx(8)
    one, many = (product(model_stage(shape).step(n, 10), "experts") for n in (1, 4096))
    assert one.read_bytes == pytest.approx(many.read_bytes * 8 / 128, rel=1e-6)
    assert many.flops == pytest.approx(4096 * one.flops)


@pytest.mark.parametrize("ep", [1, 8])
def test_replicas_bring_their_tokens_together_at_the_experts(ep):
    """DP 8: each rank holds an eighth of the experts' weights, and sees the tokens of all."""
    shape = load_shape("DeepSeek-V3")
    alone = model_stage(shape).step(64, 1000)
    shared = model_stage(shape, dp=8, ep=ep).step(8, 1000)
    a, b = product(alone, "experts"), product(shared, "experts")
    assert b.flops == pytest.approx(a.flops / 8) and b.read_bytes == pytest.approx(a.read_bytes / 8)
    assert shared.sends == ((58, 64 * 7168 * 2, 8),)
    # attention stays with its replica: that is why DP beats TP where the latent is copied
    assert shared.kv_read_bytes == alone.kv_read_bytes / 8
    assert model_stage(shape, tp=8).step(64, 1000).kv_read_bytes == alone.kv_read_bytes


def test_windows_states_and_indexers_bound_what_a_long_context_reads():
    for name, most in (("gpt-oss-120b", 0.51), ("Gemma-3-27B", 0.17), ("Qwen3-Next-80B-A3B", 1.01)):
        shape, tokens = load_shape(name), 100_000
        read = model_stage(shape).step(1, tokens).kv_read_bytes
        assert read < most * tokens * shape.kv_bytes_per_token() + 2e8, name
    sparse, dense = (
        model_stage(load_shape(n)).step(1, 100_000) for n in ("DeepSeek-V3.2", "DeepSeek-V3")
    )
    assert sparse.kv_read_bytes < 0.2 * dense.kv_read_bytes


def test_counts_may_be_arrays():
    stage = model_stage(load_shape("gpt-oss-20b"), tp=2)
    streams = np.array([1.0, 8.0, 64.0])
    work = stage.step(streams, streams * 10, streams * 2, streams)
    for i, n in enumerate(streams):
        one = stage.step(n, n * 10, n * 2, n)
        assert work.kv_read_bytes[i] == one.kv_read_bytes
        assert product(work, "experts").read_bytes[i] == product(one, "experts").read_bytes
        assert work.prompt_flops[i] == one.prompt_flops


@pytest.mark.parametrize(
    "gpu, tp, size, us",
    [
        # pull request 42324: symmetric memory to 64 MiB, then NCCL
        ("H100-SXM", 8, 512 * KIB, 11), ("H100-SXM", 8, MIB, 14), ("H100-SXM", 8, 4 * MIB, 27),
        ("H100-SXM", 8, 16 * MIB, 87), ("H100-SXM", 8, 64 * MIB, 316),
        ("H100-SXM", 8, 128 * MIB, 561),
        # 37756
        ("B300-SXM", 8, 16 * KIB, 7), ("B300-SXM", 8, 8 * MIB, 43),
        # two H200s, measured with NCCL (benchmarks/planner)
        ("H200-SXM", 2, 64 * MIB, 248), ("H200-SXM", 2, 256 * MIB, 1060),
    ],
)  # fmt: skip
def test_allreduces_take_what_vllm_published(gpu, tp, size, us):
    seconds = sum(allreduce_seconds(size, tp, make_box(gpu, tp), Tuning()))
    assert seconds * 1e6 == pytest.approx(us, rel=0.17)


@pytest.mark.parametrize("gpu", ["H100-SXM", "H200-SXM", "B200-SXM", "A100", "L40S", "RTX-4090"])
def test_a_larger_payload_never_takes_less(gpu):
    sizes = np.geomspace(1, 2e9, 200)
    for tp in (2, 3, 4, 6, 8):
        seconds = np.add(*allreduce_seconds(sizes, tp, make_box(gpu, 8), Tuning()))
        assert (np.diff(seconds) >= -1e-12).all(), tp


def test_between_machines_the_network_decides():
    near, far = make_box("H100-SXM", 8), make_box("H100-SXM", 16, 2)
    inside = sum(allreduce_seconds(8 * MIB, 8, near, Tuning()))
    across = sum(allreduce_seconds(8 * MIB, 16, far, Tuning()))
    assert across > 2 * inside
    assert sum(exchange_seconds(8 * MIB, 16, far, Tuning())) > sum(
        exchange_seconds(8 * MIB, 8, near, Tuning())
    )
