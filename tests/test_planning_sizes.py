"""Sizes against vLLM itself: its own model classes, built on torch's "meta" device for every rank, byte for byte."""

import functools
import json
import os
from types import SimpleNamespace

import pytest
import torch

from helpers.planning import (
    SHIPPED, EngineOptions, PlanningError, load_shape, make_box, plan_memory, rank_tensors, stage_layers, weight_bytes,
    why_invalid,
)  # fmt: skip
from helpers.planning.memory import GIB, MIB, allocated_bytes, default_options, graph_sizes, loaded_bytes

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


class FakeGroup:
    """Stands in for a process group, so that one process can build the layers of any rank."""

    def __init__(self, size, rank):
        self.world_size, self.rank_in_group, self.rank, self.local_rank = size, rank, rank, rank
        self.is_first_rank, self.is_last_rank = rank == 0, rank == size - 1
        self.ranks, self.unique_name, self.use_custom_op_call = list(range(size)), "fake", False
        self.device_group = self.cpu_group = SimpleNamespace(size=lambda: size, rank=lambda: rank)
        self.device_communicator = None


@functools.lru_cache(maxsize=None)
def model_folder(name):
    import tempfile

    shape = load_shape(name)
    folder = tempfile.mkdtemp()
    config = dict(shape.config)
    if name == "DeepSeek-V3":  # fewer layers, bfloat16: the CPU build has no fp8 kernels to build layers for
        config.update(num_hidden_layers=5)
        config.pop("quantization_config")
    elif shape.experts:
        config.update(num_hidden_layers=4)
    with open(f"{folder}/config.json", "w") as file:
        json.dump(config, file)
    return folder


def vllm_bytes(folder, tp, pp=1, pp_rank=0):
    """Bytes of the parameters that vLLM's own model class creates for this rank."""
    import vllm.distributed.parallel_state as state
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.utils import initialize_model

    config = EngineArgs(
        model=folder, skip_tokenizer_init=True, load_format="dummy", max_model_len=2048, dtype="bfloat16"
    ).create_engine_config()
    names = {"_TP": (tp, 0), "_PP": (pp, pp_rank), "_DP": (1, 0), "_EP": (tp, 0), "_PCP": (1, 0), "_DCP": (1, 0)}
    before = {name: getattr(state, name, None) for name in names}
    dtype = torch.get_default_dtype()
    try:
        for name, group in names.items():
            setattr(state, name, FakeGroup(*group))
        torch.set_default_dtype(torch.bfloat16)
        with set_current_vllm_config(config), torch.device("meta"):
            model = initialize_model(config)
        seen = {id(p): p for p in model.parameters()}
        return sum(p.numel() * p.element_size() for p in seen.values())
    finally:
        torch.set_default_dtype(dtype)
        for name, group in before.items():
            setattr(state, name, group)


DENSE = ["Qwen2.5-0.5B", "Qwen2.5-3B", "Qwen2.5-7B", "Qwen2.5-72B", "Llama-3.1-8B", "Llama-3.1-405B"]


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_bytes_of_a_rank_are_those_of_vllms_layers(name, tp):
    shape = load_shape(name)
    if why_invalid(shape, tp):
        with pytest.raises((AssertionError, ValueError)):
            vllm_bytes(model_folder(name), tp)
        return
    assert weight_bytes(shape, tp) == vllm_bytes(model_folder(name), tp)


@pytest.mark.parametrize("name, pp", [("Qwen2.5-0.5B", 2), ("Qwen2.5-7B", 3), ("Llama-3.1-405B", 4)])
def test_bytes_of_a_pipeline_stage_are_those_of_vllms_layers(name, pp):
    shape = load_shape(name)
    for rank in range(pp):
        assert weight_bytes(shape, 2, pp, rank) == vllm_bytes(model_folder(name), 2, pp, rank), f"stage {rank}"


@pytest.mark.parametrize("name", ["Mixtral-8x7B", "Qwen3-30B-A3B", "DeepSeek-V3"])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_bytes_of_a_mixture_of_experts_are_those_of_vllms_layers(name, tp):
    folder = model_folder(name)
    assert weight_bytes(load_shape(folder), tp) == vllm_bytes(folder, tp)
