"""What a running vLLM says about its memory: read from its log, or asked of its workers.

``WorkerProbe`` is given to vLLM as worker_extension_cls="helpers.planning.worker_probe.WorkerProbe"; its methods then
answer llm.collective_rpc("planning_memory") on every rank, without pickled code. ``parse_log`` reads the same
figures, rounded to 0.01 GiB, from vLLM's start messages.
"""

import re

PATTERNS = {
    "weights_gib": r"Model loading took ([\d.]+) GiB memory",
    "kv_available_gib": r"Available KV cache memory: ([\d.]+) GiB",
    "graphs_estimate_gib": r"CUDA graph pool memory: [\d.]+ GiB \(actual\), ([\d.]+) GiB \(estimated\)",
    "graphs_gib": r"CUDA graph pool memory: ([\d.]+) GiB \(actual\)",
    "graph_capture_s": r"Graph capturing finished in ([\d.]+) secs",
    "compile_s": r"torch\.compile.*? (?:took|in total:?|takes) ([\d.]+) s",
    "load_s": r"Model loading took [\d.]+ GiB memory and ([\d.]+) seconds",
    "engine_init_s": r"init engine .*? took ([\d.]+) s",
}
MESSAGE = re.compile(
    r"Free memory on device \(([\d.]+)/([\d.]+) GiB\) on startup\. Desired GPU memory utilization is "
    r"\(([\d.]+), ([\d.]+) GiB\)\. Actual usage is ([\d.]+) GiB for consumed memory.*?, ([\d.]+) GiB for peak "
    r"activation, and ([\d.]+) GiB for CUDAGraph memory"
)
TOKENS = re.compile(
    r"([A-Z]+) KV cache size: ([\d,]+) tokens, Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x"
)


def parse_log(text: str) -> dict:
    """Figures of vLLM's start messages: GiB and seconds of the first rank that logs them; absent when not logged.

    peak_activation_gib is without the CUDA graph estimate, which vLLM adds to it in that message.
    """
    found: dict = {}
    for name, pattern in PATTERNS.items():
        if match := re.search(pattern, text):
            found[name] = float(match.group(1))
    if match := MESSAGE.search(text):
        free, total, share, budget, consumed, activation, graphs = map(float, match.groups())
        found.update(
            device_free_gib=free, device_total_gib=total, utilisation=share, budget_gib=budget,
            consumed_gib=consumed, graphs_gib=graphs,
            peak_activation_gib=round(activation - found.get("graphs_estimate_gib", 0.0), 3),
        )  # fmt: skip
    if match := TOKENS.search(text):
        found["kv_cache_tokens"] = int(match.group(2).replace(",", ""))
        found["max_concurrency"] = float(match.group(4))
    return found


class WorkerProbe:
    """Methods that vLLM mixes into each of its workers. They only read, except planning_allreduce, which runs some."""

    def planning_memory(self) -> dict:
        """Bytes as this worker accounted for them at the start (vllm/v1/worker/gpu_worker.py); {} on the CPU."""
        runner = self.model_runner
        out = {"weights": int(getattr(runner, "model_memory_usage", 0) or 0)}
        parameters = {id(p): p for p in runner.get_model().parameters()}
        out["parameter_bytes"] = sum(p.numel() * p.element_size() for p in parameters.values())
        snapshot = getattr(self, "init_snapshot", None)
        if snapshot is not None:
            out["total"] = int(snapshot.total_memory)
            out["free_at_start"] = int(snapshot.free_memory)
        for ours, theirs in (
            ("budget", "requested_memory"),
            ("consumed", "total_consumed"),
            ("activation_with_graphs", "peak_activation_memory"),
            ("graphs_estimate", "cudagraph_memory_estimate"),
            ("kv_available", "available_kv_cache_memory_bytes"),
        ):
            value = getattr(self, theirs, None)
            if value is not None:
                out[ours] = int(value)
        return out

    def planning_allreduce(self, sizes: list, repeats: int = 50) -> list:
        """Seconds of one all-reduce of this rank's tensor-parallel group, as vLLM does it, by payload in bytes."""
        import time

        import torch
        from vllm.distributed.parallel_state import get_tp_group

        group, rows = get_tp_group(), []
        device = getattr(self, "device", torch.device("cpu"))
        wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
        for size in sizes:
            x = torch.ones(max(8, size // 2), dtype=torch.bfloat16, device=device)
            count = max(5, min(repeats, int(5e8 / size)))
            for _ in range(3):
                group.all_reduce(x)
            wait()
            start = time.perf_counter()
            for _ in range(count):
                group.all_reduce(x)
            wait()
            rows.append({"bytes": x.numel() * 2, "seconds": (time.perf_counter() - start) / count})
        return rows
