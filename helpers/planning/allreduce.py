"""Time an all-reduce between processes of this machine, and the line through its times.

    rows = measure_allreduce()               # [{"bytes", "seconds"}, ...]
    latency_s, rate = fit_allreduce(rows)    # seconds = latency_s + bytes / rate

Each rank is a process that runs this module: python -m helpers.planning.allreduce RANK PORT
"""

import json
import os
import subprocess
import sys
import time

from helpers.server.start import free_port

from .hardware import PlanningError
from .inventory import take_inventory

RANKS, TIMEOUT_S = 2, 60


def measure_allreduce() -> list[dict]:
    """Time one all-reduce by payload between two processes: NCCL on GPUs, gloo on the CPU.

    Returns rows {"bytes", "seconds"} (mean of a run on GPUs; lower quartile of calls on the CPU).
    One process for each rank; all are gone at the end. Raises PlanningError when they cannot start
    or do not finish in time.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if len(take_inventory().devices) < RANKS:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-m", "helpers.planning.allreduce"]
    port = str(free_port())
    children = [
        subprocess.Popen(
            [*command, str(rank), port],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(RANKS)
    ]
    deadline = time.monotonic() + TIMEOUT_S
    try:
        out, problem = children[0].communicate(timeout=TIMEOUT_S)
        for child in children[1:]:
            child.communicate(timeout=max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise PlanningError(
            f"The all-reduce of {RANKS} processes did not finish in {TIMEOUT_S} s; nothing was "
            "measured."
        ) from None
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.communicate()
    if children[0].returncode:
        last = (problem.strip().splitlines() or ["a process stopped"])[-1]
        raise PlanningError(f"The all-reduce could not be measured: {last}.")
    return json.loads(out.strip().splitlines()[-1])


def fit_allreduce(rows) -> tuple[float, float]:
    """(latency in s, bytes per second) of seconds = latency + bytes / rate through measured rows.

    Relative errors count: small payloads matter as much as large ones. Raises PlanningError for
    fewer than two rows.
    """
    import numpy as np

    rows = [r for r in rows if r["seconds"] > 0]
    if len(rows) < 2:
        raise PlanningError("A line through all-reduce times needs at least two payloads.")
    x = np.array([[1.0, r["bytes"]] for r in rows])
    y = np.array([r["seconds"] for r in rows])
    solution, *_ = np.linalg.lstsq(x / y[:, None], np.ones(len(y)), rcond=None)
    latency, slope = max(float(solution[0]), 1e-9), max(float(solution[1]), 1e-15)
    return latency, 1 / slope


# ---------------------------------------------------------------------- one rank
def _rank(rank: int, port: int) -> None:
    import torch
    import torch.distributed as dist

    gpu = torch.cuda.is_available()
    torch.set_num_threads(1)
    if gpu:
        torch.cuda.set_device(rank)
    address = f"tcp://127.0.0.1:{port}"
    backend = "nccl" if gpu else "gloo"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=RANKS)
    rows = []
    for size in (2**k for k in (range(10, 29, 3) if gpu else range(9, 25, 3))):
        x = torch.ones(size // 2, dtype=torch.bfloat16, device="cuda" if gpu else "cpu")
        for _ in range(3):
            dist.all_reduce(x)
        seconds = _seconds_on_gpus(x) if gpu else _seconds_on_cores(x)
        rows.append({"bytes": size, "seconds": seconds})
    if rank == 0:
        print(json.dumps(rows), flush=True)
    dist.destroy_process_group()


def _seconds_on_gpus(x) -> float:
    """The mean of a run: calls queue up on the GPU."""
    import torch
    import torch.distributed as dist

    count = max(5, min(200, int(2e8 / x.nbytes)))
    dist.barrier()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        dist.all_reduce(x)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def _seconds_on_cores(x) -> float:
    """The lower quartile of the calls: other work on the machine only ever adds time."""
    import torch
    import torch.distributed as dist

    def once() -> float:
        start = time.perf_counter()
        dist.all_reduce(x)
        return time.perf_counter() - start

    first = (once() + once()) / 2
    # Rank 0 says how often, so that all ranks do the same number of calls.
    count = torch.tensor([max(5, min(200, int(0.3 / max(1e-5, first))))])
    dist.broadcast(count, 0)
    times = sorted(once() for _ in range(count.item()))
    return times[len(times) // 4]


if __name__ == "__main__":
    _rank(*map(int, sys.argv[1:]))
