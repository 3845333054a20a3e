"""Time an all-reduce between processes of this machine.

    rows = measure_allreduce()               # [{"bytes", "seconds", "usual_s"}, ...]

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
from .worker_probe import time_allreduce

RANKS, TIMEOUT_S = 2, 60


def measure_allreduce() -> list[dict]:
    """Time one all-reduce by payload between two processes: NCCL on GPUs, gloo on the CPU.

    Returns rows of time_allreduce. One process for each rank; all are gone at the end. Raises
    PlanningError when they cannot start or do not finish in time.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if len(take_inventory().devices) < RANKS:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command, port = [sys.executable, "-m", "helpers.planning.allreduce"], str(free_port())
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    children = [subprocess.Popen([*command, str(rank), port], **both) for rank in range(RANKS)]
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


# ---------------------------------------------------------------------- one rank
def _rank(rank: int, port: int) -> None:
    import torch
    import torch.distributed as dist

    gpu = torch.cuda.is_available()
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if gpu else torch.device("cpu")
    address = f"tcp://127.0.0.1:{port}"
    backend = "nccl" if gpu else "gloo"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=RANKS)
    sizes = [2**k for k in (range(10, 29, 3) if gpu else range(9, 22, 3))]
    if gpu:
        torch.cuda.set_device(device)
    rows = time_allreduce(dist.all_reduce, sizes, device)
    if rank == 0:
        print(json.dumps(rows), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    _rank(*map(int, sys.argv[1:]))
