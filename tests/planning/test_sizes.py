"""Sizes against vLLM's own model classes, built on torch's "meta" device, byte for byte."""

import pytest

from helpers.engine.start import quiet
from helpers.planning import (
    EngineOptions,
    load_shape,
    make_box,
    plan_memory,
    weight_bytes,
    why_invalid,
)
from helpers.planning.ask_vllm import build, rank_bytes
from helpers.planning.kv_cache import block_bytes, block_tokens, blocks_of_request
from helpers.planning.models import rank_tensors, shape_from_config

# Layers that a family needs to show all that it is made of.
LAYERS = {"DeepSeek-V3": 5, "Gemma-3-27B": 7, "GLM-4.5": 5, "Llama-4-Scout": 5}


def kv_blocks(
    config: dict, tp: int, available: int, max_model_len: int, **engine_args
) -> tuple[int, float]:
    """Of vLLM: (blocks that ``available`` bytes hold, requests of max_model_len at once) on a rank.

    From the groups that it makes of the layers, with async scheduling as on GPUs.
    """
    with quiet():
        from vllm.v1.core import kv_cache_utils as utils

        _, config = build(config, tp, 1, 0, max_model_len=max_model_len, **engine_args)
        config.scheduler_config.async_scheduling = True
        config.cache_config.kv_cache_layout = "LBNHC"  # FlashAttention's
        layers = config.compilation_config.static_forward_context.items()
        kept = [(name, layer) for name, layer in layers if hasattr(layer, "get_kv_cache_spec")]
        specs = {name: layer.get_kv_cache_spec(config) for name, layer in kept}
        specs = {name: spec for name, spec in specs.items() if spec}
        groups = utils.get_kv_cache_groups(config, specs)
        cache = utils.get_kv_cache_config_from_groups(config, groups, available)
        return cache.num_blocks, utils.get_max_concurrency_for_kv_cache_config(config, cache)


def short_model(name):
    """The shipped config as vLLM can build it here: few layers, and in 16 bits."""
    config = dict(load_shape(name).config)
    config.update(num_hidden_layers=LAYERS.get(name, 4))
    # the CPU build has no fp8 and no mxfp4 kernels to build layers for
    config.pop("quantization_config", None)
    return shape_from_config(config, name)


DENSE = [
    "Qwen2.5-0.5B",
    "Qwen2.5-3B",
    "Qwen2.5-7B",
    "Qwen2.5-72B",
    "Llama-3.1-8B",
    "Llama-3.1-405B",
]


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_bytes_of_a_rank_are_those_of_vllms_layers(name, tp):
    shape = load_shape(name)
    if why_invalid(shape, tp):
        with pytest.raises((AssertionError, ValueError)):
            rank_bytes(shape, tp)
        return
    assert weight_bytes(shape, tp) == rank_bytes(shape, tp)


@pytest.mark.parametrize(
    "name, pp", [("Qwen2.5-0.5B", 2), ("Qwen2.5-7B", 3), ("Llama-3.1-405B", 4)]
)
def test_bytes_of_a_pipeline_stage_are_those_of_vllms_layers(name, pp):
    shape = load_shape(name)
    for rank in range(pp):
        assert weight_bytes(shape, 2, pp, rank) == rank_bytes(shape, 2, pp, rank), f"stage {rank}"


@pytest.mark.parametrize(
    "name, tp",
    [
        ("Mixtral-8x7B", 4),
        ("Qwen3-30B-A3B", 2),
        ("DeepSeek-V3", 2),
        ("Kimi-K2", 4),
        ("Gemma-3-27B", 2),
        ("gpt-oss-20b", 2),
        ("Llama-4-Scout", 4),
        ("GLM-4.5", 2),
        ("GLM-4.5-Air", 4),
        ("Qwen3-Next-80B-A3B", 2),
    ],
)
def test_bytes_of_every_family_are_those_of_vllms_layers(name, tp):
    shape = short_model(name)
    assert weight_bytes(shape, tp) == rank_bytes(shape, tp)


def test_bytes_of_the_shipped_model_are_those_of_its_file():
    from safetensors.torch import load_file

    from helpers.tiny_model import TARGET

    stored = sum(tensor.nbytes for tensor in load_file(TARGET / "model.safetensors").values())
    assert weight_bytes(load_shape(TARGET)) == stored


@pytest.mark.parametrize("tp, dp", [(1, 2), (2, 4), (1, 8)])
def test_replicas_share_the_experts_as_vllm_shares_them(tp, dp, monkeypatch):
    """Data parallelism copies a dense model, and of a mixture all but the experts."""
    from vllm.model_executor.layers.fused_moe import config

    monkeypatch.setattr(config, "get_tensor_model_parallel_rank", lambda: 0)
    flatten = config.FusedMoEParallelConfig.flatten_tp_across_dp_and_pcp
    ranks, _ = flatten(tp, dp, 0, 1, 0)

    def parts(shape, dp):
        held: dict[str, int] = {}
        for tensor in rank_tensors(shape, tp, dp=dp):
            held[tensor.part] = held.get(tensor.part, 0) + tensor.bytes
        return held

    mixture = load_shape("Mixtral-8x7B")
    one, shared = parts(mixture, 1), parts(mixture, dp)
    assert shared.pop("experts") * ranks == one.pop("experts") * tp
    assert shared == one
    dense = load_shape("Llama-3.1-8B")
    assert parts(dense, dp) == parts(dense, 1)


def test_a_mixture_whose_experts_are_shared_fits_two_replicas():
    shape, box = load_shape("Mixtral-8x7B"), make_box("H100-SXM", 2)
    options = EngineOptions(max_model_len=8192)
    assert not plan_memory(shape, make_box("H100-SXM", 1), options=options).fits
    assert plan_memory(shape, box, dp=2, options=options).fits


@pytest.mark.parametrize(
    "name, layers, tp, block",
    [
        ("Gemma-3-27B", 14, 2, 32),  # five sliding layers for each full one, in seven groups
        ("gpt-oss-20b", 6, 2, 32),  # half of each
        ("Llama-4-Scout", 8, 4, 32),  # chunked
        ("Qwen3-Next-80B-A3B", 8, 2, 16),  # states
    ],
)
def test_kv_groups_are_those_that_vllm_makes(name, layers, tp, block):
    config = {**load_shape(name).config, "num_hidden_layers": layers}
    config.pop("quantization_config", None)
    shape, length, available = shape_from_config(config, name), 32_768, 4 * 2**30
    tokens = block_tokens(shape, tp, "auto", block)
    theirs = kv_blocks(
        config, tp, available, length, block_size=tokens, max_num_batched_tokens=8192
    )
    blocks = available // block_bytes(shape, range(layers), tp, "auto", tokens)
    per_request = blocks_of_request(shape, length, 2 * 8192, tokens)
    assert theirs == (blocks, pytest.approx(blocks / per_request))


def test_windows_leave_room_for_more_requests():
    """gpt-oss: of a long request half of the layers keep the window and what is in flight."""
    memory = plan_memory(load_shape("gpt-oss-120b"), make_box("H100", 2), tp=2)
    per_token = 36 * 2 * 4 * 64 * 2
    bytes_kept = memory.blocks_of(131_072) * memory.stages[0].kv_page
    assert 0.5 < bytes_kept / (131_072 * per_token) < 0.65
    assert memory.room_for(1_000) > 50 * memory.room_for(131_072)
