"""Ask vLLM's own model classes how much one rank holds, without a GPU and without weights.

For a family that the planner does not know: python -m helpers.planning.ask_vllm FOLDER --tp 1 2 4

The classes are built on torch's "meta" device, where tensors have shapes and no memory, with
stand-ins for the process groups, so that one process can be any rank of any layout.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from helpers.engine.start import imports_without_gc, quiet

from .hardware import GIB, PlanningError
from .models import ModelShape, load_config


class _Group:
    """Stands in for a process group of ``size`` ranks, seen from ``rank``."""

    def __init__(self, size: int, rank: int):
        self.world_size, self.rank_in_group, self.rank, self.local_rank = size, rank, rank, rank
        self.is_first_rank, self.is_last_rank = rank == 0, rank == size - 1
        self.ranks, self.unique_name, self.use_custom_op_call = list(range(size)), "stand-in", False
        self.device_group = self.cpu_group = SimpleNamespace(size=lambda: size, rank=lambda: rank)
        self.device_communicator = None


@dataclass(frozen=True)
class Built:
    """A model of vLLM on the meta device, and the configuration that it was built with."""

    model: object
    config: object


def rank_bytes(model: ModelShape | dict, tp: int = 1, pp: int = 1, pp_rank: int = 0) -> int:
    """Bytes of the parameters that vLLM creates on this rank, in bfloat16.

    model: a shape of the planner, or the dict of any config.json. Raises what vLLM raises for sizes
    that it refuses. A quantised model cannot be asked on a machine whose vLLM has no kernels for it
    (the CPU build has none for fp8).
    """
    with quiet():
        built = _build(model, tp, pp, pp_rank, max_model_len=128)
    parameters = {id(p): p for p in built.model.parameters()}
    return sum(p.numel() * p.element_size() for p in parameters.values())


def kv_blocks(
    model: ModelShape | dict, tp: int, available: int, max_model_len: int, **engine_args
) -> tuple[int, float]:
    """(blocks that ``available`` bytes hold, requests of max_model_len at once) on this rank.

    From the groups that vLLM makes of the layers (get_kv_cache_groups), with async scheduling as on
    GPUs. Raises what vLLM raises.
    """
    with quiet():
        from vllm.v1.core import kv_cache_utils as utils

        built = _build(model, tp, 1, 0, max_model_len=max_model_len, **engine_args)
        config = built.config
        config.scheduler_config.async_scheduling = True
        config.cache_config.kv_cache_layout = "LBNHC"  # FlashAttention's
        layers = config.compilation_config.static_forward_context.items()
        kept = [(name, layer) for name, layer in layers if hasattr(layer, "get_kv_cache_spec")]
        specs = {name: layer.get_kv_cache_spec(config) for name, layer in kept}
        specs = {name: spec for name, spec in specs.items() if spec}
        groups = utils.get_kv_cache_groups(config, specs)
        cache = utils.get_kv_cache_config_from_groups(config, groups, available)
        return cache.num_blocks, utils.get_max_concurrency_for_kv_cache_config(config, cache)


def head_bytes(target: ModelShape, tp: int, speculative_config: dict) -> int:
    """Bytes that a drafting head adds to this rank, in bfloat16: all but what is the target's."""
    with quiet():
        drafts = speculative_config
        head = _build(target, tp, 1, 0, max_model_len=128, speculative_config=drafts).model
    own = {name: p for name, p in head.named_parameters() if "embed_tokens" not in name}
    if drafts["method"] == "mtp":  # its output layer is a copy of the target's, and given up
        own = {name: p for name, p in own.items() if "shared_head.head" not in name}
    return sum(p.numel() * p.element_size() for p in own.values())


def _build(model, tp, pp, pp_rank, **engine_args) -> Built:
    with imports_without_gc():
        import torch
        import vllm.distributed.parallel_state as state
        from vllm.config import set_current_vllm_config
        from vllm.engine.arg_utils import EngineArgs
        from vllm.model_executor.model_loader.utils import initialize_model

    one = dict.fromkeys(("_DP", "_PCP", "_DCP"), (1, 0))
    groups = {"_TP": (tp, 0), "_PP": (pp, pp_rank), "_EP": (tp, 0), **one}
    before = {name: getattr(state, name, None) for name in groups}
    dtype = torch.get_default_dtype()
    with tempfile.TemporaryDirectory() as folder:
        settings = model if isinstance(model, dict) else model.config
        (Path(folder) / "config.json").write_text(json.dumps(settings))
        config = EngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            load_format="dummy",
            dtype="bfloat16",
            **engine_args,
        ).create_engine_config()
        config.parallel_config.tensor_parallel_size = tp
        try:
            for name, (size, rank) in groups.items():
                setattr(state, name, _Group(size, rank))
            torch.set_default_dtype(torch.bfloat16)
            with set_current_vllm_config(config), torch.device("meta"):
                drafts = config.speculative_config
                kind = drafts.draft_model_config if drafts else config.model_config
                return Built(initialize_model(config, model_config=kind), config)
        finally:
            torch.set_default_dtype(dtype)
            for name, group in before.items():
                setattr(state, name, group)


def main(arguments: list[str] | None = None) -> None:
    """Print what one rank holds, for each tensor parallel size."""
    parser = argparse.ArgumentParser(prog="python -m helpers.planning.ask_vllm")
    parser.add_argument("model", help="a folder with a config.json")
    parser.add_argument("--tp", type=int, nargs="+", default=[1])
    args = parser.parse_args(arguments)
    try:
        config, name, _ = load_config(args.model)
        config.pop("quantization_config", None)
        for tp in args.tp:
            size = rank_bytes(config, tp) / GIB
            print(f"{name}, TP {tp}: {size:.2f} GiB of weights on each GPU, in 16 bits")
    except PlanningError as problem:
        raise SystemExit(str(problem)) from None
    except Exception as problem:  # what vLLM raises for a model or a size that it refuses
        said = str(problem).strip().splitlines() or [type(problem).__name__]
        raise SystemExit(f"vLLM refuses TP {tp} of {name}: {said[-1]}") from None


if __name__ == "__main__":
    main()
