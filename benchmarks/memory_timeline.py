"""The sampled memory of an engine's life against the figures that vLLM logs. Target: within 3 %.

    python -m benchmarks.memory_timeline [--model Qwen/Qwen2.5-7B-Instruct --load-format dummy]

vLLM's log says what it put on the device: "consumed" memory (weights and what is not PyTorch's), the KV cache and the
CUDA graphs. The sampler sees the device from outside, ten times a second. Their sums must agree, and the step at which
the KV cache is reserved must be as large as the log says. On the CPU vLLM logs the KV cache alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from benchmarks.record import keep
from helpers import gpu_memory
from helpers.engine.engine import open_engine
from helpers.engine.profile import load_profile
from helpers.gpu_memory import MemorySampler
from helpers.planning.worker_probe import parse_log

TARGET = 0.03


def compare(sampler: MemorySampler, engine, before_gib: float, opened_s: float) -> dict:
    """Lines {"what", "log_gib", "sampled_gib", "ratio"} and the raw figures; call it while the engine is open and idle.

    before_gib: device memory before the start. opened_s: the sampler's clock when the start was over.
    """
    log = parse_log(Path(engine.log_path).read_text(errors="replace"))
    after = [sampler.used(s) for s in sampler.samples if s["t_s"] >= opened_s] or [
        gpu_memory.memory_now()["used_gib"]
    ]
    loaded = statistics.median(after)
    rows = []
    kv_gib = engine.info.kv_cache_gib
    if "consumed_gib" in log and kv_gib:
        graphs = log.get("graphs_gib", 0.0)
        rows.append(
            _row(
                "everything: consumed + KV cache + CUDA graphs",
                log["consumed_gib"] + kv_gib + graphs,
                loaded - before_gib,
            )
        )
    elif log.get("weights_gib") and kv_gib:
        # kv_cache_memory_bytes given: vLLM skips its accounting, so what is not PyTorch's is unknown to the log.
        rows.append(
            _row(
                "weights + KV cache + CUDA graphs (the log has no more)",
                log["weights_gib"] + kv_gib + log.get("graphs_gib", 0.0),
                loaded - before_gib,
            )
        )
    if kv_gib and (step := largest_step(sampler)) and sampler.devices:
        rows.append(_row("the step in which the KV cache is reserved", kv_gib, step))
    return {
        "rows": rows,
        "log": log,
        "before_gib": before_gib,
        "loaded_gib": loaded,
        "kv_cache_gib": kv_gib,
        "source": sampler.source,
    }


def _row(what: str, log_gib: float, sampled_gib: float) -> dict:
    return {
        "what": what,
        "log_gib": log_gib,
        "sampled_gib": sampled_gib,
        "ratio": sampled_gib / log_gib,
    }


def largest_step(sampler: MemorySampler) -> float | None:
    """GiB of the largest rise within half a second: on a GPU, the allocation of the KV cache."""
    used = [(s["t_s"], sampler.used(s)) for s in sampler.samples]
    rises = [
        later - now
        for i, (t, now) in enumerate(used)
        for (u, later) in used[i + 1 : i + 6]
        if u - t <= 0.6
    ]
    return max(rises, default=None)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--load-format")
    options = parser.parse_args(argv)
    profile = load_profile("auto", options.model, options.load_format)
    before = gpu_memory.memory_now()["used_gib"]
    with MemorySampler(hz=10) as sampler:
        with open_engine(profile) as engine:
            opened = sampler.elapsed_s
            time.sleep(1.0)
            found = compare(sampler, engine, before, opened)
    return report(found, profile, engine.close_report)


def report(found: dict, profile, closed=None) -> int:
    """Print and keep the comparison; 1 when a line is farther off than the target, on a GPU."""
    metrics = {**found, "after_gib": closed.after_gib if closed else None}
    keep("timeline_vs_log", profile, metrics)
    for row in found["rows"]:
        print(
            f"{row['what']:58} log {row['log_gib']:8.3f} GiB, sampled {row['sampled_gib']:8.3f} GiB, ratio {row['ratio']:.4f}"
        )
    if not found["rows"]:
        print(
            f"vLLM logged nothing to compare with on this machine ({found['source']}): {found['log']}"
        )
    if closed:
        print(closed)
    # Host memory is handed out when it is first written: only a device's figures can agree.
    on_gpu = found["source"] == gpu_memory.DEVICE
    return int(on_gpu and any(abs(row["ratio"] - 1) > TARGET for row in found["rows"]))


if __name__ == "__main__":
    raise SystemExit(main())
