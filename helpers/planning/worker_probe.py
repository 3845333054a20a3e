"""What vLLM's workers are asked: the memory that they account for, and the time of an all-reduce.

And what a pipeline on the CPU needs before its first step.

``WorkerProbe`` is given to vLLM as worker_extension_cls=WORKER_PROBE; its methods then answer
llm.collective_rpc("planning_memory") on every rank, without pickled code.
"""

import time
from statistics import median

WORKER_PROBE = "helpers.planning.worker_probe.WorkerProbe"


class WorkerProbe:
    """Methods that vLLM mixes into each of its workers."""

    def planning_memory(self) -> dict:
        """Bytes as this worker accounted for them at the start (vllm/v1/worker/gpu_worker.py)."""
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

    def planning_pipeline(self) -> None:
        """Make the buffer for what the stage before sends, where the start has not made it.

        vLLM makes it in a dummy run (vllm/v1/worker/gpu_model_runner.py, _dummy_run), which the
        CPU's start leaves out when nothing is compiled (cpu_worker.py, _should_warm_up_model): the
        first step would then fail with a KeyError of the scheduler. A GPU's start always makes it.
        """
        runner = self.model_runner
        if runner.device.type == "cpu" and runner.intermediate_tensors is None:
            runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
                batch_size=runner.max_num_tokens,
                dtype=runner.model_config.dtype,
                device=runner.device,
            )

    def planning_allreduce(self, *sizes: int) -> list[dict]:
        """Rows of time_allreduce, of the tensor-parallel group as vLLM does it."""
        import torch
        from vllm.distributed.parallel_state import get_tp_group

        device = getattr(self, "device", torch.device("cpu"))
        return time_allreduce(get_tp_group().all_reduce, sizes, device)


def time_allreduce(all_reduce, sizes, device) -> list[dict]:
    """Rows {"bytes", "seconds" (the shortest of 50: other work only adds), "usual_s" (median)}."""
    import torch

    rows, timed = [], seconds_on_gpu if device.type == "cuda" else seconds_on_cpu
    for size in sizes:
        x = torch.ones(size // 2, dtype=torch.bfloat16, device=device)
        times = [timed(all_reduce, x) for _ in range(50)]
        rows.append({"bytes": size, "seconds": min(times), "usual_s": median(times)})
    return rows


def seconds_on_cpu(call, x) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    call(x)
    return time.perf_counter() - begin


def seconds_on_gpu(call, x, calls: int = 10) -> float:
    """Seconds of one call by the GPU's own clock, without its launch (a CUDA graph has none)."""
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    # It sleeps for about 5 ms, and meanwhile all that follows is launched.
    torch.cuda._sleep(10_000_000)  # noqa: SLF001
    call(x)  # after it every rank is here
    begin.record()
    for _ in range(calls):
        call(x)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


def allreduce_sizes(on_cpu: bool) -> tuple[int, ...]:
    """Payloads in bytes that are worth timing on this kind of device."""
    return tuple(2**k for k in range(10, 22 if on_cpu else 27, 2))
