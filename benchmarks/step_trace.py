"""Where a decode step's time goes, from a trace of vLLM's own torch profiler.

    python -m benchmarks.step_trace TRACE.pt.trace.json.gz [--streams 32]

vLLM marks every step in the trace (`execute_context_0(0)_generation_32(32)`, vllm/v1/worker/gpu_worker.py). The window of
a step is from its first kernel to the first kernel of the next step; what no kernel covers in it is a gap, in which the
GPU waits for the CPU. Only steps of pure decoding count. Without a GPU in the trace, the CPU's operators are counted
by their own time.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import statistics
from pathlib import Path

# The first pattern that fits a kernel's name decides. Names as vLLM 0.32 has them on Hopper, and torch's on the CPU.
CLASSES = (
    ("KV cache write", r"reshape_and_cache|cache_kernel|kv_cache_update|slot_mapping"),
    ("attention", r"flash|fmha|attention|attn|paged"),
    (
        "matrix products",
        r"gemm|nvjet|cutlass|cublas|wgmma|splitk|sgemm|gemv|aten::(mm|addmm|bmm|linear|matmul)|onednn|mkldnn",
    ),
    (
        "sampling",
        r"argmax|topk|top_k|softmax|sample|sampler|gumbel|multinomial|penalt|sort|ArgMax|logits",
    ),
    ("norms, activations, rotary", r"triton_|rms_norm|rotary|silu|act_and_mul|layernorm|fused_add"),
    ("copies", r"memcpy|memset|copy_|Memcpy|Memset|CatArray|index_select|gather|scatter"),
)
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


def summarise(events: list[dict], streams: int | None = None, top: int = 12) -> dict:
    """The table: {"steps", "step_ms", "busy_ms", "gap_ms", "classes", "kernels", "device"}; all times per step.

    streams: count only steps that decode so many sequences; None takes the most frequent number.
    Raises ValueError when the trace holds no step of pure decoding.
    """
    on_gpu = any(e.get("cat") == "kernel" for e in events)
    marks: list[dict] = []
    # On the GPU's own clock if the trace has the marks there; else the CPU's, which is at most a step ahead.
    for category in ("gpu_user_annotation", "user_annotation") if on_gpu else ("user_annotation",):
        marks = marks or sorted(
            (e for e in events if e.get("cat") == category and STEP.search(e["name"])),
            key=lambda e: e["ts"],
        )
    decoding = [int(m[2]) for e in marks if (m := STEP.search(e["name"])) and m[1] == "0"]
    if not decoding:
        raise ValueError(
            "The trace holds no step of pure decoding: profile a run that generates more tokens."
        )
    streams = streams or statistics.mode(decoding)
    windows = []
    for this, following in zip(marks, marks[1:]):
        found = STEP.search(this["name"])
        if found[1] == "0" and int(found[2]) == streams:
            windows.append((this["ts"], following["ts"]))
    if not windows:
        raise ValueError(f"The trace holds no two steps in a row that decode {streams} sequences.")
    work = (
        [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
        if on_gpu
        else _own_times(events)
    )
    work.sort(key=lambda e: e["ts"])
    # Steps that were held up (by the trace's own writing, say) would hide where a usual step's time goes.
    usual = statistics.median(end - start for start, end in windows)
    windows = [w for w in windows if w[1] - w[0] < 1.5 * usual]
    by_class: dict[str, list[float]] = {}
    by_name: dict[str, list[float]] = {}
    busy = 0.0
    for start, end in windows:
        inside = [e for e in work if start <= e["ts"] < end]
        busy += _covered(inside, end)
        for e in inside:
            label = (
                "copies" if e.get("cat") in ("gpu_memcpy", "gpu_memset") else class_of(e["name"])
            )
            for table, key in ((by_class, label), (by_name, e["name"])):
                entry = table.setdefault(key, [0.0, 0])
                entry[0] += e["own"] if "own" in e else e["dur"]
                entry[1] += 1
    n = len(windows)
    step_us = sum(end - start for start, end in windows) / n
    rows = lambda table, key: [
        {key: name[:120], "us": us / n, "calls": calls / n, "share": us / n / step_us}
        for name, (us, calls) in sorted(table.items(), key=lambda item: -item[1][0])
    ]
    return {
        "device": "GPU" if on_gpu else "CPU operators", "streams": streams, "steps": n, "step_ms": step_us / 1e3,
        "busy_ms": busy / n / 1e3, "gap_ms": (step_us - busy / n) / 1e3, "gap_share": 1 - busy / n / step_us,
        "classes": rows(by_class, "class"), "kernels": rows(by_name, "kernel")[:top],
        "launched": sum(calls for _, calls in by_class.values()) / n,
    }  # fmt: skip


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


def table_of(summary: dict) -> str:
    """The summary as text, for a log."""
    lines = [f"{summary['device']}: {summary['steps']} decode steps of {summary['streams']} sequences, {summary['step_ms']:.3f} ms each; "
             f"busy {summary['busy_ms']:.3f} ms, gaps {summary['gap_ms']:.3f} ms ({summary['gap_share']:.1%}); "
             f"{summary['launched']:.0f} kernels or operators a step"]  # fmt: skip
    lines += [
        f"  {row['class']:28} {row['us']:9.1f} us {row['share']:6.1%}  {row['calls']:6.1f} calls"
        for row in summary["classes"]
    ]
    lines += [
        f"    {row['us']:8.1f} us {row['calls']:6.1f} x {row['kernel'][:90]}"
        for row in summary["kernels"][:6]
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path)
    parser.add_argument("--streams", type=int)
    options = parser.parse_args(argv)
    print(table_of(summarise(read_events(options.trace), options.streams)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
