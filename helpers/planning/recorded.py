"""What was recorded on other machines, for a reader who does not have them.

``recorded.json`` is written by ``python -m benchmarks.planner.accuracy --write`` from the records
of benchmarks/planner: how wrong the planner is, and what TP 2 did on two cores. Every recorded
configuration by itself stands in benchmarks/planner/planner_accuracy.md.
"""

import json
from functools import lru_cache
from pathlib import Path

FILE = Path(__file__).with_name("recorded.json")

# NCCL between two H200s of one host joined by NVLink, payload in bytes: microseconds.
H200_NCCL_US = {2**10: 22, 2**20: 22, 2**22: 32, 2**24: 74, 2**26: 248, 2**28: 1060}


@lru_cache(maxsize=1)
def _recorded() -> dict:
    return json.loads(FILE.read_text())


def usual_error() -> tuple[float, int, int]:
    """(error as a share, how many times of recorded GPUs are within it, of how many)."""
    return tuple(_recorded()["usual_error"])


def loads(gpu: str) -> list[dict]:
    """Layouts of Week 5's model and load on a host of several such GPUs; nothing was fitted.

    Rows: {"model", "gpu", "gpus", "name", "day", "sizes" (tp, pp, dp), "load" (tokens in, out,
    clients), "max_model_len", "output_tokens_per_s", "tpot_ms", "ttft_ms"}.
    """
    wanted = {"gpu": gpu, "model": "Qwen2.5-7B", "load": [1024, 256, 64]}
    return [row for row in _recorded()["loads"] if wanted.items() <= row.items()]


def allreduce(has_gpu: bool) -> tuple[list[dict], str]:
    """For a machine that cannot run all-reduces: rows {"bytes", "seconds"}, and their source."""
    if has_gpu:
        rows = [{"bytes": n, "seconds": us / 1e6} for n, us in H200_NCCL_US.items()]
        return rows, "NCCL, recorded on two H200s with NVLink"
    two = _recorded()["tp2"]
    return two["allreduce"], f"vLLM's own, recorded on {two['machine']}"


def tp2() -> str:
    """What TP 2 did where it was recorded: the shipped model on two cores."""
    two = _recorded()["tp2"]
    times = "; ".join(
        f"{step['streams']} request{'s' * (step['streams'] != 1)}: TPOT {step['tp1_ms']:.2f} ms "
        f"with TP 1, {step['tp2_ms']:.2f} with TP 2 ({step['tp1_ms'] / step['tp2_ms']:.2f} times "
        "as fast)"
        for step in two["steps"]
    )
    return (
        f"No times of TP 2 from this machine. Recorded on {two['machine']} with the shipped "
        f"model: {times}."
    )
