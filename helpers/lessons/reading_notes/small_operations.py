"""How close small operations come to the limits of this machine: short timings of torch.

    limits = measure_limits()           # helpers.lessons.machine_limits
    rows = product_sweep(limits)        # matrix products by batch size, against those limits

One core of the CPU, or one GPU, in bfloat16 where nothing else is said.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math

import torch
from torch.nn.functional import linear

from helpers import REPO
from helpers.lessons.machine_limits import MachineLimits, default_device, on_one_core, seconds_of
from helpers.lessons.papers.deepspeed_inference import Product, chain_bytes, roofline_s

# ---------------------------------------------------------------- products with few rows


@on_one_core
def product_sweep(
    limits: MachineLimits,
    batches=(1, 2, 4, 8, 16, 32, 64, 128),
    k: int | None = None,
    n: int | None = None,
) -> list[dict]:
    """Time (batch x k) times (k x n) for each batch, as a layer with `k` x `n` weights does it.

    One row a batch: `gb_per_s` and `tflop_per_s` that it reached, both as a share of the limits,
    and what the two limits would allow.
    """
    gpu = limits.device == "cuda"
    k, n = k or (8192 if gpu else 4096), n or (8192 if gpu else 4096)
    format_ = {"dtype": torch.bfloat16, "device": limits.device}
    # Enough copies of the weights that none is still in a cache when its turn comes again.
    copies = max(1, round((512 if gpu else 128) * 2**20 / (k * n * 2)))
    turn = itertools.cycle([torch.randn(n, k, **format_) for _ in range(copies)])
    rows = []
    for batch in batches:
        x = torch.randn(batch, k, **format_)
        took = seconds_of(lambda x=x: linear(x, next(turn)), limits.device, 0.12)
        product = Product(batch, k, n)
        allowed = roofline_s(product.flop, product.bytes, limits.flop_per_s, limits.bytes_per_s)
        rows.append({
            "batch": batch,
            "ms": 1000 * took,
            "gb_per_s": product.bytes / took / 1e9,
            "tflop_per_s": product.flop / took / 1e12,
            "share_of_bandwidth": product.bytes / took / limits.bytes_per_s,
            "share_of_arithmetic": product.flop / took / limits.flop_per_s,
            "allowed_ms": 1000 * allowed,
        })  # fmt: skip
    return rows


def measured_knee(rows: list[dict]) -> float | None:
    """The batch that takes 1.5 times as long as the fastest, or None when none takes so long.

    Below it another row is almost free. Between two measured batches the time is interpolated, both
    on log axes: the batches are powers of two, and the first one beyond the knee may lie far off.
    """
    fastest = min(range(len(rows)), key=lambda i: rows[i]["ms"])
    limit = 1.5 * rows[fastest]["ms"]
    for before, beyond in itertools.pairwise(rows[fastest:]):
        if beyond["ms"] > limit:
            share = math.log(limit / before["ms"]) / math.log(beyond["ms"] / before["ms"])
            return before["batch"] * (beyond["batch"] / before["batch"]) ** share
    return None


# ---------------------------------------------------------------- fusion

OPERATIONS = 8  # of the chain below


def chain(source, add, target, scratch):
    """Scale, twice (bias, activation, scale), residual: each operation reads and writes memory."""
    torch.mul(source, 1.5, out=scratch)
    for _ in range(2):
        scratch.add_(0.25)
        scratch.clamp_(min=0)
        scratch.mul_(1.5)
    return torch.add(scratch, add, out=target)


def compiled_chain(x, residual):
    """The chain as one kernel of torch.compile; None where nothing can be compiled.

    That is where a C compiler or Triton is missing, for example.
    """

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


def _chain_by_pieces(x, residual, size: int):
    """The chain piece by piece, so that what lies between two operations stays in the cache."""
    together = torch.empty_like(x)
    pieces = list(zip(x.split(size), residual.split(size), together.split(size), strict=True))
    scratch = torch.empty(size, dtype=x.dtype, device=x.device)

    def run():
        for source, add, target in pieces:
            chain(source, add, target, scratch[: target.numel()])
        return together

    return run


@on_one_core
def fusion(device: str | None = None, mib: int | None = None, piece_kib: int = 512) -> dict:
    """The same eight elementwise operations twice: over the whole tensor one by one, and fused.

    On a GPU torch.compile writes one kernel. On the CPU, and where nothing can be compiled, the
    chain runs piece by piece. `how` says which. Returns seconds, the bytes (read, written) of both
    counts, and the largest difference between the two results.
    """
    device = device or default_device()
    gpu = device == "cuda"
    dtype, width = (torch.bfloat16, 2) if gpu else (torch.float32, 4)
    values = (mib or (512 if gpu else 64)) * 2**20 // width
    x, residual = (torch.randn(values, dtype=dtype, device=device) for _ in range(2))
    out, between = torch.empty_like(x), torch.empty_like(x)

    def apart():
        return chain(x, residual, out, between)

    fused, how = compiled_chain(x, residual) if gpu else None, "one compiled kernel"
    if fused is None:
        # Large enough for the calls not to dominate, small enough for the cache (a GPU's is 10
        # MiB).
        size = (8 * 2**20 if gpu else piece_kib * 1024) // width
        fused, how = _chain_by_pieces(x, residual, size), "piece by piece in the cache"
    apart_s, fused_s = seconds_of(apart, device), seconds_of(fused, device)
    return {
        "apart_s": apart_s,
        "fused_s": fused_s,
        "apart_bytes": chain_bytes(values, OPERATIONS, False, width),
        "fused_bytes": chain_bytes(values, OPERATIONS, True, width),
        "difference": float((apart().float() - fused().float()).abs().max()),
        "how": how,
    }


# ---------------------------------------------------------------- attention


@contextlib.contextmanager
def _math_in_two_bytes():
    """Let the backend "math" work in 16 bits on a GPU.

    torch converts to float32 otherwise, which no other backend does.
    """
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

    Without a mask, so that all compute the same scores (tiled kernels skip half of a causal
    mask's), and in the same number format. Also its extra memory beside inputs and output on a GPU
    (`extra_mib`; None on the CPU, where torch does not count it). A backend that refuses gives no
    row.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    device = device or default_device()
    gpu = device == "cuda"
    format_ = {"dtype": torch.bfloat16 if gpu else torch.float32, "device": device}
    names = {"math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION}
    if gpu:
        names |= {"efficient": SDPBackend.EFFICIENT_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    rows = []
    for tokens in lengths:
        inputs = [torch.randn(1, heads, tokens, head_dim, **format_) for _ in range(3)]
        for name, backend in names.items():
            try:
                with sdpa_kernel(backend), _math_in_two_bytes():
                    ms, extra_mib = _time_attention(inputs, device)
            except RuntimeError:  # not built, not for this GPU or shape, or out of memory
                if gpu:
                    torch.cuda.empty_cache()
                continue
            rows.append({"tokens": tokens, "backend": name, "ms": ms, "extra_mib": extra_mib})
    return rows


def _time_attention(inputs, device: str) -> tuple[float, float | None]:
    """Milliseconds of a call, and the MiB it needs besides inputs and output (None on the CPU)."""

    def run():
        return torch.nn.functional.scaled_dot_product_attention(*inputs)

    ms = 1000 * seconds_of(run, device, 0.1)
    if device != "cuda":
        return ms, None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    return ms, (torch.cuda.max_memory_allocated() - before - result.nbytes) / 2**20


def tiled_against_math(rows: list[dict]) -> dict:
    """The standard way against the best known tiled kernel, at the longest prompt that both took.

    Returns tokens, backend (the tiled one), math_ms, tiled_ms, gain, the `gains` by length; and,
    where torch counted the memory, `memory`: from and to how many tokens it was followed, how many
    times each grew, and the short prompt whose keys the tiled kernel divided (`divided`, or None).
    Raises ValueError when no length was taken by both.
    """
    by_key = {(r["backend"], r["tokens"]): r for r in rows}
    for backend in ("flash", "efficient", "cudnn"):
        both = sorted(t for name, t in by_key if name == backend and ("math", t) in by_key)
        if both:
            break
    else:
        raise ValueError("no tiled attention kernel took a prompt that the standard one took")
    standard, tiled = by_key["math", both[-1]], by_key[backend, both[-1]]
    pairs = {t: (by_key["math", t]["extra_mib"], by_key[backend, t]["extra_mib"]) for t in both}
    # For a short prompt flash divides the keys among idle parts of the GPU, as torch's
    # flash_api.cpp has it (num_splits_heuristic). Some kernels need nothing at all.
    counted = [t for t, pair in pairs.items() if t >= 2048 and all(pair)]
    memory = None
    if len(counted) > 1:
        first, last = counted[0], counted[-1]
        math, flash = (b / a for a, b in zip(pairs[first], pairs[last], strict=True))
        divided = both[0] if pairs[both[0]][1] > pairs[first][1] else None
        memory = {"from": first, "to": last, "math": math, "tiled": flash, "divided": divided}
    return {
        "tokens": both[-1],
        "backend": backend,
        "math_ms": standard["ms"],
        "tiled_ms": tiled["ms"],
        "gain": standard["ms"] / tiled["ms"],
        "gains": {n: by_key["math", n]["ms"] / by_key[backend, n]["ms"] for n in both},
        "memory": memory,
    }


def recorded_on_h100() -> dict:
    """The same from an H100: limits, products, fusion, attention, provenance."""
    path = REPO / "notebooks" / "reference" / "ceilings_h100.json"
    return json.loads(path.read_text(encoding="utf-8"))
