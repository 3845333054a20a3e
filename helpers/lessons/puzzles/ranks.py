"""Run a function on several ranks, each a process; they talk through gloo on this machine.

Each rank is `python -m helpers.lessons.puzzles.ranks RANK WORLD PORT` and reads from its standard
input, by cloudpickle, the function and the arguments of every call.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

LIMIT_S = 30  # two processes that import PyTorch, on a busy machine too
ALONE = "one rank is in an all-reduce, the other one is not"


def on_ranks(function, calls: list[tuple], world: int = 2) -> list[list]:
    """What each rank returns for each call: function(*call, rank, world, all_reduce).

    all_reduce(tensor) returns the sum of all ranks' tensors. All processes are gone at the end.
    Raises RuntimeError with a sentence when a rank fails or waits for another in vain.
    """
    import cloudpickle

    from helpers.server.start import free_port

    work = cloudpickle.dumps((function, calls))
    command = [sys.executable, "-m", "helpers.lessons.puzzles.ranks"]
    port = str(free_port())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    ranks = [
        subprocess.Popen([*command, str(rank), str(world), port], env=environment, **pipes)
        for rank in range(world)
    ]
    try:
        for rank in ranks:
            rank.stdin.write(work)
            rank.stdin.close()
            rank.stdin = None
        told = [rank.communicate(timeout=LIMIT_S) for rank in ranks]
    except (subprocess.TimeoutExpired, BrokenPipeError):
        raise RuntimeError("no answer from the two ranks; does a loop end?") from None
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    problems = [_last_line(err) for out, err in told if not out]
    if problems:
        # A rank that failed leaves the other one alone in its all-reduce: that is not the cause.
        raise RuntimeError(min(problems, key=lambda text: ALONE in text))
    return [cloudpickle.loads(out) for out, _ in told]


def _last_line(errors: bytes) -> str:
    lines = errors.decode(errors="replace").strip().splitlines() or ["a rank ended by itself"]
    return lines[-1].split("RuntimeError: ")[-1]


def _rank(rank: int, world: int, port: int) -> None:
    import cloudpickle
    import torch
    import torch.distributed as dist

    answers, sys.stdout = sys.stdout, sys.stderr  # what the student prints is no answer
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=LIMIT_S / 3),
    )

    def all_reduce(tensor):
        tensor = tensor.clone()
        try:
            dist.all_reduce(tensor)
        except RuntimeError:
            raise RuntimeError(ALONE) from None
        return tensor

    function, calls = cloudpickle.load(sys.stdin.buffer)
    results = [function(*call, rank, world, all_reduce) for call in calls]
    answers.buffer.write(cloudpickle.dumps(results))
    answers.flush()
    dist.destroy_process_group()


if __name__ == "__main__":
    _rank(*map(int, sys.argv[1:]))
