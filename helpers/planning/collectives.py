"""Seconds of what GPUs send each other: all-reduces as vLLM measured them, exchanges of experts.

Inside a machine the times come from ``allreduce.json``: vLLM's own dispatch (custom kernels,
symmetric memory, NCCL by size) on each kind of GPU. Elsewhere a formula: a ring.
"""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np

from .hardware import Box, Gpu

TIMES_FILE = Path(__file__).with_name("allreduce.json")
NETWORK_S = 10e-6  # one crossing of the network between machines


@lru_cache(maxsize=1)
def _measured() -> tuple[np.ndarray, dict]:
    """(payloads in bytes, {(gpu, tp): seconds of each payload})."""
    file = json.loads(TIMES_FILE.read_text())
    rows = {(row["gpu"], row["tp"]): np.array(row["us"]) / 1e6 for row in file["times"]}
    return np.array(file["bytes"], dtype=float), rows


def measured_on(gpu: Gpu) -> str | None:
    """The kind of GPU whose measured times stand for this one; None: no data, so a formula."""
    if gpu.family == "cpu" or gpu.name.startswith(("MI", "V100", "T4")):
        return None
    if gpu.link is None:
        if gpu.full_name.startswith("NVIDIA GeForce"):
            return None  # the driver lets these reach each other through the CPU's memory only
        return "RTX-PRO-6000" if gpu.pcie.gb_s >= 60 else "L40S"
    if any(name == gpu.name for name, _ in _measured()[1]):
        return gpu.name
    kinds = {"8.0": "A100-SXM", "9.0": "H100-SXM", "10.0": "B200-SXM", "10.3": "B300-SXM"}
    return kinds.get(gpu.capability) if gpu.link.spans > 2 else None


def allreduce_seconds(nbytes, tp: int, box: Box, tuning) -> tuple:
    """(latency, bandwidth) seconds of one all-reduce of ``nbytes`` on each of ``tp`` ranks.

    nbytes: a number or a numpy array. tuning: its allreduce_s and link_efficiency scale what was
    measured, relative to their defaults. For sizes of a group that nobody measured, those of the
    next larger one.
    """
    if tp == 1:
        return 0.0 * nbytes, 0.0 * nbytes
    kind = measured_on(box.gpu)
    if kind is None or tp > 8 or tp > box.gpus_per_node:
        return _ring(nbytes, tp, box, tuning)
    sizes, rows = _measured()
    size = next((t for t in (2, 4, 8) if t >= tp and (kind, t) in rows), None)
    if size is None:
        return _ring(nbytes, tp, box, tuning)
    times = rows[kind, size]
    beyond = np.maximum(nbytes / sizes[-1], 1.0)
    seconds = np.exp(np.interp(np.log(np.maximum(nbytes, 1)), np.log(sizes), np.log(times)))
    latency, defaults = times[0], type(tuning)()
    volume = (seconds * beyond - latency) * defaults.link_efficiency / tuning.link_efficiency
    return latency * tuning.allreduce_s / defaults.allreduce_s + 0.0 * nbytes, volume


def _ring(nbytes, tp: int, box: Box, tuning) -> tuple:
    """NCCL's ring: every GPU sends and receives 2 (t - 1) / t of the payload.

    Its latency grows by a tenth for each rank beyond two. Between machines every GPU has its own
    adapter, and the rings share them.
    """
    link = box.link_for(tp)
    latency = tuning.nccl_s * (1 + 0.1 * (tp - 2))
    rate = link.gb_s * 1e9 * tuning.link_efficiency
    if tp > box.gpus_per_node:
        latency += 2 * NETWORK_S * (box.nodes - 1)
        rate *= box.gpus_per_node
    return latency + 0.0 * nbytes, 2 * (tp - 1) / tp * nbytes / rate


def exchange_seconds(nbytes, ranks: int, box: Box, tuning) -> tuple:
    """(latency, bandwidth) seconds of an all-gather and a reduce-scatter of ``nbytes`` in all.

    Together they move what one all-reduce of NCCL moves, in two calls. Published measurements of
    vLLM's exchanges are few, so this is a ring on the link.
    """
    latency, volume = _ring(nbytes, ranks, box, tuning)
    return 2 * latency, volume
