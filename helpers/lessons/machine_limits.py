"""What this machine can do at most: GB/s and FLOP/s, timed with big, simple operations of torch.

    limits = measure_limits()       # of the GPU, or of one core of the CPU
    limits.flop_per_s, limits.bytes_per_s, limits.knee
    python -m helpers.lessons.machine_limits cpu     # in a process of its own, as a line of JSON

The limits are measured here, not copied from a data sheet, so that a fraction of them means
something on any machine. Each number is the best of several runs: other programs can only make a
run slower. Works on one core of the CPU (two that wait for each other measure the scheduler) and on
one GPU; sizes are chosen so that the data does not fit into a cache.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from dataclasses import dataclass

import torch

from helpers.lessons.papers.deepspeed_inference import knee_batch


def default_device() -> str:
    """The device that is timed: "cuda" where there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def one_core():
    """In the block torch uses one thread: two that wait for each other measure the scheduler."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds_of(function, device: str, budget_s: float = 0.25) -> float:
    """Best time of one call in seconds, after a first call that does not count: 3 to 200 calls."""
    time_once = _on_the_gpu if device == "cuda" else _on_this_core
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget_s and len(times) < 200):
        times.append(time_once(function))
    return min(times)


def _on_the_gpu(function, calls: int = 10) -> float:
    """Queued back to back between two events: the host's launch time is not the kernel's."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / calls


def _on_this_core(function) -> float:
    """This thread's own time: what other programs do on the core meanwhile does not count."""
    start = time.thread_time()
    function()
    return time.thread_time() - start


@dataclass(frozen=True)
class MachineLimits:
    """Measured limits of a device. `read_gb_per_s` is what one pass over memory reaches."""

    device: str
    read_gb_per_s: float
    copy_gb_per_s: float  # bytes read plus bytes written
    tflop_per_s: float  # of a large product in bfloat16

    @property
    def bytes_per_s(self) -> float:
        """Reading: a product with few rows reads its weights and writes next to nothing."""
        return self.read_gb_per_s * 1e9

    @property
    def flop_per_s(self) -> float:
        """Floating-point operations a second, in bfloat16."""
        return self.tflop_per_s * 1e12

    @property
    def knee(self) -> float:
        """Batch from which a large product is limited by arithmetic, by these two limits."""
        return knee_batch(self.flop_per_s, self.bytes_per_s)

    def __str__(self) -> str:
        where = "GPU" if self.device == "cuda" else "one core of the CPU"
        memory = f"reads {self.read_gb_per_s:,.1f} GB/s, copies {self.copy_gb_per_s:,.1f} GB/s"
        knee = f"knee at a batch of {self.knee:,.0f}"
        return f"{where}, bfloat16: {memory}, {self.tflop_per_s:,.2f} TFLOP/s; {knee}"


@one_core()
def measure_limits(
    device: str | None = None, mib: int | None = None, size: int | None = None
) -> MachineLimits:
    """Time one pass of reading, one of copying, and one large product (about 1 s).

    mib: size of the tensor that is read. size: rows and columns of the product.
    """
    device = device or default_device()
    gpu = device == "cuda"
    width = 4  # adding up float32 needs no conversion: it is memory that is timed
    values = (mib or (2048 if gpu else 256)) * 2**20 // width
    source = torch.ones(values, device=device)
    read_s = seconds_of(lambda: source.sum(), device)
    target = torch.empty_like(source)
    copy_s = seconds_of(lambda: target.copy_(source), device)
    n = size or (8192 if gpu else 2048)
    square = torch.randn(n, n, dtype=torch.bfloat16, device=device)
    product_s = seconds_of(lambda: square @ square, device)
    return MachineLimits(
        device=device,
        read_gb_per_s=values * width / read_s / 1e9,
        copy_gb_per_s=2 * values * width / copy_s / 1e9,
        tflop_per_s=2 * n**3 / product_s / 1e12,
    )


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(measure_limits(*sys.argv[1:2]))))
