"""Ask vLLM's own model classes how much one rank holds, without a GPU and without weights.

The classes are built on torch's "meta" device, where tensors have shapes and no memory, with
stand-ins for the process groups, so that one process can be any rank of any layout.
"""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

from helpers.engine.start import imports_without_gc

from .launch import quiet
from .models import ModelShape


class _Group:
    """Stands in for a process group of ``size`` ranks, seen from ``rank``."""

    def __init__(self, size: int, rank: int):
        self.world_size, self.rank_in_group, self.rank, self.local_rank = size, rank, rank, rank
        self.is_first_rank, self.is_last_rank = rank == 0, rank == size - 1
        self.ranks, self.unique_name, self.use_custom_op_call = list(range(size)), "stand-in", False
        self.device_group = self.cpu_group = SimpleNamespace(size=lambda: size, rank=lambda: rank)
        self.device_communicator = None


def rank_bytes(model: ModelShape, tp: int = 1, pp: int = 1, pp_rank: int = 0) -> int:
    """Bytes of the parameters that vLLM creates on this rank, in bfloat16.

    Raises what vLLM raises for sizes that it refuses. A quantised model cannot be asked on a
    machine whose vLLM has no kernels for it (the CPU build has none for fp8).
    """
    with quiet():
        return _rank_bytes(model, tp, pp, pp_rank)


def _rank_bytes(model, tp, pp, pp_rank) -> int:
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
        (Path(folder) / "config.json").write_text(json.dumps(model.config))
        config = EngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            load_format="dummy",
            max_model_len=128,
            dtype="bfloat16",
        ).create_engine_config()
        try:
            for name, (size, rank) in groups.items():
                setattr(state, name, _Group(size, rank))
            torch.set_default_dtype(torch.bfloat16)
            with set_current_vllm_config(config), torch.device("meta"):
                built = initialize_model(config)
        finally:
            torch.set_default_dtype(dtype)
            for name, group in before.items():
                setattr(state, name, group)
    parameters = {id(p): p for p in built.parameters()}
    return sum(p.numel() * p.element_size() for p in parameters.values())
