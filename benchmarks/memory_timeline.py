"""The sampled memory of an engine's start against the figures that vLLM logs. Target: within 3 %.

vLLM's log says what it put on the device: "consumed" memory (weights and what is not PyTorch's),
the KV cache and the CUDA graphs. The sampler sees the device from outside, ten times a second.
Their sums must agree, and the step at which the KV cache is reserved must be as large as the log
says. On the CPU vLLM logs the KV cache alone.

    python -m benchmarks.limits --parts timeline
"""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.engine_log import parse_log
from helpers import gpu_memory
from helpers.engine.engine import Engine
from helpers.gpu_memory import MemorySampler

TARGET = 0.03


def compare(sampler: MemorySampler, engine: Engine, before_gib: float, opened_s: float) -> dict:
    """Lines {"what", "log_gib", "sampled_gib", "ratio"} and the raw figures of an idle engine.

    before_gib: device memory before the start. opened_s: the sampler's clock when the start was
    over.
    """
    log = parse_log(Path(engine.log_path).read_text(errors="replace"))
    idle = [s["used_gib"] for s in sampler.samples if s["t_s"] >= opened_s]
    loaded = statistics.median(idle or [gpu_memory.memory_now()["used_gib"]])
    kv_gib = engine.info.kv_cache_gib
    compared = {}
    if kv_gib:
        rest = kv_gib + log.get("graphs_gib", 0.0)
        taken = loaded - before_gib
        if "consumed_gib" in log:
            what = "everything: consumed + KV cache + CUDA graphs"
            compared[what] = (log["consumed_gib"] + rest, taken)
        elif log.get("weights_gib"):
            # kv_cache_memory_bytes given: vLLM skips its accounting, and the log has no more.
            what = "weights + KV cache + CUDA graphs (the log has no more)"
            compared[what] = (log["weights_gib"] + rest, taken)
        if sampler.devices and (step := largest_step(sampler)):
            compared["the step in which the KV cache is reserved"] = (kv_gib, step)
    rows = [
        {"what": what, "log_gib": said, "sampled_gib": seen, "ratio": seen / said}
        for what, (said, seen) in compared.items()
    ]
    return {
        "rows": rows,
        "log": log,
        "before_gib": before_gib,
        "loaded_gib": loaded,
        "kv_cache_gib": kv_gib,
        "source": sampler.source,
    }


def largest_step(sampler: MemorySampler) -> float | None:
    """GiB of the largest rise within half a second: on a GPU, the allocation of the KV cache."""
    used = [(s["t_s"], s["used_gib"]) for s in sampler.samples]
    rises = [
        later - now
        for i, (t, now) in enumerate(used)
        for (u, later) in used[i + 1 : i + 6]
        if u - t <= 0.6
    ]
    return max(rises, default=None)


def met(found: dict) -> bool:
    """Whether the target is met. Host memory comes when it is first written: it always is."""
    off = [abs(row["ratio"] - 1) for row in found["rows"]]
    return found["source"] != gpu_memory.DEVICE or max(off, default=0.0) <= TARGET
