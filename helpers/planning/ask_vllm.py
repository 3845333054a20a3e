"""Ask vLLM's own model classes how much one rank holds, without a GPU and without weights.

For a family that the planner does not know: python -m helpers.planning.ask_vllm FOLDER --tp 1 2 4

The classes are built on torch's "meta" device, where tensors have shapes and no memory, with
stand-ins for the process groups, so that one process can be any rank of any layout.
"""

import argparse
import json
import tempfile
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


def rank_bytes(model: ModelShape | dict, tp: int = 1, pp: int = 1, pp_rank: int = 0) -> int:
    """Bytes of the parameters that vLLM creates on this rank, in bfloat16.

    model: a shape of the planner, or the dict of any config.json. Raises what vLLM raises for sizes
    that it refuses. A quantised model cannot be asked on a machine whose vLLM has no kernels for it
    (the CPU build has none for fp8).
    """
    with quiet():
        built, _ = build(model, tp, pp, pp_rank, max_model_len=128)
    parameters = {id(p): p for p in built.parameters()}
    return sum(p.numel() * p.element_size() for p in parameters.values())


def build(model, tp: int, pp: int, pp_rank: int, **engine_args) -> tuple:
    """(vLLM's model of this rank on the meta device, its configuration); model: see rank_bytes."""
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
                return initialize_model(config, model_config=kind), config
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
