"""Where a decode step's time goes, from a trace of vLLM's own torch profiler.

vLLM marks every step in the trace (`execute_context_0(0)_generation_32(32)`,
vllm/v1/worker/gpu_worker.py). The window of a step is from its first kernel to the first kernel of
the next step; what no kernel covers in it is a gap, in which the GPU waits for the CPU. Only steps
of pure decoding count. Without a GPU in the trace, the CPU's operators are counted by their own
time.
"""

from __future__ import annotations

import gzip
import json
import re
import statistics
from itertools import pairwise
from pathlib import Path

# The first pattern that fits a kernel's name decides. Names as vLLM 0.32 has them on Hopper, and
# torch's on the CPU.
CLASSES = (
    ("KV cache write", r"reshape_and_cache|cache_kernel|kv_cache_update|slot_mapping"),
    ("attention", r"flash|fmha|attention|attn|paged"),
    (
        "matrix products",
        r"gemm|nvjet|cutlass|cublas|wgmma|splitk|gemv|onednn|mkldnn|"
        r"aten::(mm|addmm|bmm|linear|matmul)",
    ),
    (
        "sampling",
        r"argmax|topk|top_k|softmax|sample|sampler|gumbel|multinomial|penalt|sort|ArgMax|logits",
    ),
    ("norms, activations, rotary", r"triton_|rms_norm|rotary|silu|act_and_mul|layernorm|fused_add"),
    ("copies", r"memcpy|memset|copy_|Memcpy|Memset|CatArray|index_select|gather|scatter"),
)
GPU_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
STEP = re.compile(r"context_(\d+)\D.*generation_(\d+)")


def class_of(name: str) -> str:
    """Which part of a step a kernel belongs to, by its name."""
    return next(
        (label for label, pattern in CLASSES if re.search(pattern, name, re.IGNORECASE)), "other"
    )


def read_events(path: str | Path) -> list[dict]:
    """The complete events of a trace in Chrome's format; times and durations in microseconds."""
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8", errors="replace") as file:
        events = json.load(file)["traceEvents"]
    return [e for e in events if e.get("ph") == "X" and "dur" in e]


def summarise(events: list[dict], streams: int) -> dict:
    """The table: {"steps", "step_ms", "busy_ms", "gap_ms", "classes", "kernels", "device"}.

    All times are of one step. streams: only steps that decode so many sequences count.
    Raises ValueError when the trace holds no two such steps in a row.
    """
    on_gpu = any(e.get("cat") == "kernel" for e in events)
    windows = _decode_windows(events, streams, on_gpu)
    if on_gpu:
        work = [{**e, "own": e["dur"]} for e in events if e.get("cat") in GPU_WORK]
    else:
        work = _own_times(events)
    work.sort(key=lambda e: e["ts"])
    by_class: dict[str, list[float]] = {}
    by_name: dict[str, list[float]] = {}
    busy = 0.0
    for start, end in windows:
        inside = [e for e in work if start <= e["ts"] < end]
        busy += _covered(inside, end)
        for e in inside:
            copied = e.get("cat") in ("gpu_memcpy", "gpu_memset")
            by_class.setdefault("copies" if copied else class_of(e["name"]), []).append(e["own"])
            by_name.setdefault(e["name"][:120], []).append(e["own"])
    n = len(windows)
    step_us = sum(end - start for start, end in windows) / n

    def rows(times: dict[str, list[float]], key: str) -> list[dict]:
        found = [
            {key: name, "us": sum(us) / n, "calls": len(us) / n, "share": sum(us) / n / step_us}
            for name, us in times.items()
        ]
        return sorted(found, key=lambda row: -row["us"])

    return {
        "device": "GPU" if on_gpu else "CPU operators",
        "streams": streams,
        "steps": n,
        "step_ms": step_us / 1e3,
        "busy_ms": busy / n / 1e3,
        "gap_ms": (step_us - busy / n) / 1e3,
        "gap_share": 1 - busy / n / step_us,
        "classes": rows(by_class, "class"),
        "kernels": rows(by_name, "kernel")[:12],
        "launched": sum(len(us) for us in by_class.values()) / n,
    }


def _decode_windows(events: list[dict], streams: int, on_gpu: bool) -> list[tuple[float, float]]:
    """(start, end) in microseconds of each step that decodes so many and reads no prompt."""
    marks: list[dict] = []
    # On the GPU's own clock if the trace has the marks there; else the CPU's, at most a step ahead.
    for category in ("gpu_user_annotation", "user_annotation") if on_gpu else ("user_annotation",):
        marked = [e for e in events if e.get("cat") == category and STEP.search(e["name"])]
        marks = marks or sorted(marked, key=lambda e: e["ts"])
    wanted = ("0", str(streams))
    windows = [
        (this["ts"], following["ts"])
        for this, following in pairwise(marks)
        if STEP.search(this["name"]).groups() == wanted
    ]
    if not windows:
        raise ValueError(f"The trace holds no two steps in a row that decode {streams} sequences.")
    # Steps that were held up (by the trace's own writing, say) would hide where a usual step's time
    # goes.
    usual = statistics.median(end - start for start, end in windows)
    return [(start, end) for start, end in windows if end - start < 1.5 * usual]


def _covered(events: list[dict], end: float) -> float:
    """Microseconds in which at least one of the events runs."""
    total, reached = 0.0, float("-inf")
    for e in events:
        begin, stop = max(e["ts"], reached), min(e["ts"] + e["dur"], end)
        total += max(0.0, stop - begin)
        reached = max(reached, stop)
    return total


def _own_times(events: list[dict]) -> list[dict]:
    """CPU operators with "own": their duration less that of the operators inside them."""
    found = []
    by_thread: dict = {}
    for e in events:
        if e.get("cat") == "cpu_op":
            by_thread.setdefault((e.get("pid"), e.get("tid")), []).append(e)
    for thread in by_thread.values():
        open_ops: list[dict] = []
        for e in sorted(thread, key=lambda e: (e["ts"], -e["dur"])):
            e = {**e, "own": e["dur"]}
            while open_ops and open_ops[-1]["ts"] + open_ops[-1]["dur"] <= e["ts"]:
                open_ops.pop()
            if open_ops:
                open_ops[-1]["own"] -= e["dur"]
            open_ops.append(e)
            found.append(e)
    return found
