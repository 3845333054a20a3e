"""What this machine can do at most, and how close small operations come: short timings of torch.

    limits = measure_ceilings()                    # GB/s and FLOP/s that big, simple operations reach
    rows = product_sweep(limits)                   # matrix products by batch size, against those limits

The limits are measured here, not copied from a data sheet, so that a fraction of them means something on any
machine. Each number is the best of several runs: other programs can only make a run slower.
Works on one core of the CPU (two that wait for each other measure the scheduler) and on one GPU, in bfloat16;
sizes are chosen so that the data does not fit into a cache.
"""

from __future__ import annotations

import contextlib
import functools
import time
from dataclasses import dataclass

import torch

from helpers.lessons.papers.deepspeed_inference import Product, chain_bytes, knee_batch, roofline_s

WIDTH = 2  # bytes of a bfloat16


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def _one_core():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_one_core(function):
    """Run `function` with one thread of torch's and give the others back afterwards."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        with _one_core():
            return function(*args, **kwargs)

    return run


def seconds_of(function, device: str, budget_s: float = 0.25, least: int = 3) -> float:
    """Best time of one call in seconds, after a first call that does not count."""
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    best, spent, runs = float("inf"), 0.0, 0
    while runs < least or spent < budget_s:
        if device == "cuda":
            # Queued back to back between two events: the host's launch time is not the kernel's.
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(10):
                function()
            end.record()
            end.synchronize()
            took = begin.elapsed_time(end) / 1000 / 10
        else:
            # This thread's own time: what other programs do on the core meanwhile does not count.
            start = time.thread_time()
            function()
            took = time.thread_time() - start
        best, spent, runs = min(best, took), spent + took, runs + 1
        if runs >= 200:
            break
    return best


@dataclass(frozen=True)
class Ceilings:
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
        return self.tflop_per_s * 1e12

    @property
    def knee(self) -> float:
        """Batch from which a large product is limited by arithmetic, by these two ceilings."""
        return knee_batch(self.flop_per_s, self.bytes_per_s, WIDTH)

    def __str__(self) -> str:
        return (
            f"{'GPU' if self.device == 'cuda' else 'one core of the CPU'}, bfloat16: reads {self.read_gb_per_s:,.1f} GB/s, copies {self.copy_gb_per_s:,.1f} GB/s, "
            f"{self.tflop_per_s:,.2f} TFLOP/s; knee at a batch of {self.knee:,.0f}"
        )


@on_one_core
def measure_ceilings(
    device: str | None = None, mib: int | None = None, size: int | None = None
) -> Ceilings:
    """Time one pass of reading, one of copying, and one large product (about 1 s).

    mib: size of the tensor that is read. size: rows and columns of the product.
    """
    device = device or default_device()
    gpu = device == "cuda"
    width = 4  # adding up float32 needs no conversion: it is memory that is timed
    values = (mib or (2048 if gpu else 256)) * 2**20 // width
    source = torch.ones(values, device=device)
    read = seconds_of(lambda: source.sum(), device)
    target = torch.empty_like(source)
    copy = seconds_of(lambda: target.copy_(source), device)
    n = size or (8192 if gpu else 2048)
    a = torch.randn(n, n, dtype=torch.bfloat16, device=device)
    product = seconds_of(lambda: a @ a, device)
    return Ceilings(
        device,
        values * width / read / 1e9,
        2 * values * width / copy / 1e9,
        2 * n**3 / product / 1e12,
    )


@on_one_core
def product_sweep(
    limits: Ceilings,
    batches=(1, 2, 4, 8, 16, 32, 64, 128),
    k: int | None = None,
    n: int | None = None,
) -> list[dict]:
    """Time (batch x k) times (k x n) for each batch, as a layer with `k` x `n` weights does it.

    One row a batch: `gb_per_s` and `tflop_per_s` that it reached, both as a share of the ceilings, and what
    the two ceilings would allow.
    """
    gpu = limits.device == "cuda"
    k, n = k or (8192 if gpu else 4096), n or (8192 if gpu else 4096)
    # Enough copies of the weights that none is still in a cache when its turn comes again.
    copies = max(1, round((512 if gpu else 128) * 2**20 / (k * n * WIDTH)))
    weights = [torch.randn(n, k, dtype=torch.bfloat16, device=limits.device) for _ in range(copies)]
    rows = []
    for batch in batches:
        x = torch.randn(batch, k, dtype=torch.bfloat16, device=limits.device)
        turn = iter(range(10**9))
        took = seconds_of(
            lambda: torch.nn.functional.linear(x, weights[next(turn) % copies]), limits.device, 0.12
        )
        one = Product(batch, k, n, WIDTH)
        allowed = roofline_s(one.flop, one.bytes, limits.flop_per_s, limits.bytes_per_s)
        rows.append(
            {
                "batch": batch,
                "ms": 1000 * took,
                "gb_per_s": one.bytes / took / 1e9,
                "tflop_per_s": one.flop / took / 1e12,
                "share_of_bandwidth": one.bytes / took / limits.bytes_per_s,
                "share_of_arithmetic": one.flop / took / limits.flop_per_s,
                "allowed_ms": 1000 * allowed,
            }
        )
    return rows


def measured_knee(rows: list[dict]) -> int | None:
    """The smallest batch that takes more than 1.5 times as long as the fastest one; None when none does.

    Below it another row is almost free.
    """
    floor = min(r["ms"] for r in rows)
    return next((r["batch"] for r in rows if r["ms"] > 1.5 * floor), None)


OPERATIONS = 8  # of the chain below


def _chain(source, add, target, scratch):
    """Scale, twice bias and activation and scale, residual: each operation reads and writes memory."""
    torch.mul(source, 1.5, out=scratch)
    for _ in range(2):
        scratch.add_(0.25)
        scratch.clamp_(min=0)
        scratch.mul_(1.5)
    return torch.add(scratch, add, out=target)


@on_one_core
def fusion(
    device: str | None = None, mib: int | None = None, piece_kib: int = 512
) -> dict[str, float | str]:
    """The same eight elementwise operations twice: over the whole tensor one by one, and fused.

    On a GPU torch.compile writes one kernel. On the CPU, and where nothing can be compiled, the chain runs
    piece by piece, so that what lies between two operations stays in the cache. `how` says which.
    Returns seconds, the bytes of both counts, and the largest difference between the two results.
    """
    device = device or default_device()
    gpu = device == "cuda"
    dtype, width = (torch.bfloat16, 2) if gpu else (torch.float32, 4)
    values = (mib or (512 if gpu else 64)) * 2**20 // width
    x = torch.randn(values, dtype=dtype, device=device)
    residual = torch.randn(values, dtype=dtype, device=device)
    out, between = torch.empty_like(x), torch.empty_like(x)

    def apart():
        return _chain(x, residual, out, between)

    fused, how = _compiled(x, residual) if gpu else None, "one compiled kernel"
    if fused is None:
        # Large enough for the calls not to dominate, small enough for the cache (a GPU's is some 10 MiB).
        size, how = (8 * 2**20 if gpu else piece_kib * 1024) // width, "piece by piece in the cache"
        together = torch.empty_like(x)
        pieces = list(zip(x.split(size), residual.split(size), together.split(size), strict=True))
        scratch = torch.empty(size, dtype=dtype, device=device)

        def fused():
            for source, add, target in pieces:
                _chain(source, add, target, scratch[: target.numel()])
            return together

    apart_s, fused_s = seconds_of(apart, device), seconds_of(fused, device)
    return {
        "apart_s": apart_s,
        "fused_s": fused_s,
        "apart_bytes": chain_bytes(values, OPERATIONS, False, width, extra_inputs=1),
        "fused_bytes": chain_bytes(values, OPERATIONS, True, width, extra_inputs=1),
        "difference": float((apart().float() - fused().float()).abs().max()),
        "how": how,
    }


def _compiled(x, residual):
    """The chain as one kernel of torch.compile; None where nothing can be compiled (no C compiler, no Triton)."""

    def plain(source, add):
        scratch = source * 1.5
        for _ in range(2):
            scratch = torch.clamp(scratch + 0.25, min=0) * 1.5
        return scratch + add

    compiled = torch.compile(plain)
    try:
        compiled(x, residual)
    except Exception:  # whatever its cause, fusion is then shown without a compiler
        return None
    return lambda: compiled(x, residual)


@contextlib.contextmanager
def _math_in_two_bytes():
    """Let the backend "math" work in 16 bits on a GPU: torch converts to float32 otherwise, which no other backend does."""
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


@on_one_core
def attention_backends(
    lengths, heads: int = 8, head_dim: int = 64, device: str | None = None
) -> list[dict]:
    """Time torch's scaled_dot_product_attention with each backend that takes the shape.

    Without a mask, so that all compute the same scores (tiled kernels skip half of a causal mask's), and in the same
    number format. Also its extra memory beside inputs and output on a GPU (`extra_mib`; None on the CPU, where torch
    does not count it). A backend that refuses gives no row.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    device = device or default_device()
    gpu = device == "cuda"
    names = {"math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION}
    if gpu:
        names |= {"efficient": SDPBackend.EFFICIENT_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    rows = []
    for tokens in lengths:
        shape = (1, heads, tokens, head_dim)
        q, k, v = (
            torch.randn(shape, dtype=torch.bfloat16 if gpu else torch.float32, device=device)
            for _ in range(3)
        )
        for name, backend in names.items():

            def run():
                return torch.nn.functional.scaled_dot_product_attention(q, k, v)

            try:
                with sdpa_kernel(backend), _math_in_two_bytes():
                    took, extra = seconds_of(run, device, 0.1), None
                    if gpu:
                        torch.cuda.reset_peak_memory_stats()
                        before = torch.cuda.memory_allocated()
                        result = run()
                        extra = (torch.cuda.max_memory_allocated() - before - result.nbytes) / 2**20
                        del result
            except RuntimeError:  # not built, not for this GPU or shape, or out of memory
                if gpu:
                    torch.cuda.empty_cache()
                continue
            rows.append({"tokens": tokens, "backend": name, "ms": 1000 * took, "extra_mib": extra})
    return rows


def tiled_against_math(rows: list[dict]) -> dict:
    """The standard way against the best known tiled kernel, at the longest prompt that both took.

    Returns tokens, backend (the tiled one), math_ms, tiled_ms, gain; and, where torch counted the memory,
    `memory`: from and to how many tokens it was followed, and how many times each grew.
    Raises ValueError when no length was taken by both.
    """
    by_key = {(r["backend"], r["tokens"]): r for r in rows}
    for backend in ("flash", "efficient", "cudnn"):
        both = sorted(t for name, t in by_key if name == backend and ("math", t) in by_key)
        if not both:
            continue
        longest = both[-1]
        standard, tiled = by_key["math", longest], by_key[backend, longest]
        # Short prompts have a workspace of their own, and some kernels need nothing at all.
        counted = [
            t
            for t in both
            if t >= 2048 and by_key["math", t]["extra_mib"] and by_key[backend, t]["extra_mib"]
        ]
        memory = None
        if len(counted) > 1:
            grew = [
                by_key[n, counted[-1]]["extra_mib"] / by_key[n, counted[0]]["extra_mib"]
                for n in ("math", backend)
            ]
            memory = {"from": counted[0], "to": counted[-1], "math": grew[0], "tiled": grew[1]}
        return {
            "tokens": longest, "backend": backend, "math_ms": standard["ms"], "tiled_ms": tiled["ms"],
            "gain": standard["ms"] / tiled["ms"], "memory": memory,
        }  # fmt: skip
    raise ValueError("no tiled attention kernel took a prompt that the standard one took")


def link_gb_per_s(mib: int = 256) -> float | None:
    """GB/s from the host's pinned memory to the GPU; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    host = torch.empty(mib * 2**20, dtype=torch.uint8, pin_memory=True)
    there = torch.empty_like(host, device="cuda")
    return mib * 2**20 / seconds_of(lambda: there.copy_(host, non_blocking=True), "cuda") / 1e9
