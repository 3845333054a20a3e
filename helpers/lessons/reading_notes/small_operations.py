"""How close small operations come to the limits of this machine: what notebook 3 times with torch.

    weights = cold_weights(4096, "cpu")
    took_s = seconds_of(lambda: linear(x, next(weights)), "cpu")     # of machine_limits
    beside_limits(limits, batch, 4096, took_s)                       # against those limits

One core of the CPU, or one GPU, in bfloat16 where nothing else is said.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from helpers import REPO
from helpers.lessons.machine_limits import MachineLimits
from helpers.lessons.papers.deepspeed_inference import Product, roofline_s

# ---------------------------------------------------------------- products with few rows


def cold_weights(size: int, device: str) -> Iterator[torch.Tensor]:
    """Weights of a layer, `size` x `size`, without end: none is still in a cache at its turn."""
    mib = 512 if device == "cuda" else 128
    copies = max(1, round(mib * 2**20 / (size * size * 2)))
    format_ = {"dtype": torch.bfloat16, "device": device}
    return itertools.cycle([torch.randn(size, size, **format_) for _ in range(copies)])


def beside_limits(limits: MachineLimits, batch: int, size: int, took_s: float) -> dict:
    """What a product of `batch` rows with such weights reached of both limits, and may at most."""
    product = Product(batch, size, size)
    allowed_s = roofline_s(product.flop, product.bytes, limits.flop_per_s, limits.bytes_per_s)
    return {
        "batch": batch,
        "ms": 1000 * took_s,
        "gb_per_s": product.bytes / took_s / 1e9,
        "tflop_per_s": product.flop / took_s / 1e12,
        "allowed_ms": 1000 * allowed_s,
    }


def half_as_long_again(rows: list[dict]) -> tuple[int, int] | tuple[None, None]:
    """The batches between which a product reaches 1.5 times the fastest; None where none does."""
    fastest = min(range(len(rows)), key=lambda i: rows[i]["ms"])
    for before, beyond in itertools.pairwise(rows[fastest:]):
        if beyond["ms"] > 1.5 * rows[fastest]["ms"]:
            return before["batch"], beyond["batch"]
    return None, None


# ---------------------------------------------------------------- fusion


def compiled_chain(x, residual):
    """Notebook 3's chain of eight operations as one kernel of torch.compile.

    None where nothing can be compiled: without a C compiler or Triton, for example.
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


# ---------------------------------------------------------------- attention

BACKENDS = {"math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION}
ON_A_GPU = {"efficient": SDPBackend.EFFICIENT_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


@contextlib.contextmanager
def only(backend: SDPBackend):
    """In the block torch's attention uses this backend; one that refuses ends it quietly.

    "math" works in 16 bits as the others do: on a GPU torch would convert to float32.
    """
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(backend):
            yield
    except RuntimeError:  # not built, not for this GPU or shape, or out of memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


def extra_mib(call, device: str) -> float | None:
    """The MiB that `call` needs besides inputs and output; None on the CPU: torch counts none."""
    if device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    return (torch.cuda.max_memory_allocated() - before - result.nbytes) / 2**20


def tiled_against_math(rows: list[dict]) -> dict:
    """The standard way against the best known tiled kernel, at the longest prompt that both took.

    Returns tokens, backend (the tiled one), gain, the times of both ways by length (`ms`); and,
    where torch counted the memory, `memory`: from and to how many tokens it was followed, how many
    times each grew, and the tokens and MiB of the shortest prompt's tiles (`short`).
    Raises ValueError when no length was taken by both.
    """
    by_key = {(r["backend"], r["tokens"]): r for r in rows}
    for backend in ("flash", "efficient", "cudnn"):
        both = sorted(t for name, t in by_key if name == backend and ("math", t) in by_key)
        if both:
            break
    else:
        raise ValueError("no tiled attention kernel took a prompt that the standard one took")
    ms = {t: (by_key["math", t]["ms"], by_key[backend, t]["ms"]) for t in both}
    pairs = {t: (by_key["math", t]["extra_mib"], by_key[backend, t]["extra_mib"]) for t in both}
    # A shorter prompt's keys may be divided (num_splits_heuristic of torch's flash_api.cpp). Some
    # kernels need nothing at all.
    counted = [t for t, pair in pairs.items() if t >= 2048 and all(pair)]
    memory = None
    if len(counted) > 1:
        first, last = counted[0], counted[-1]
        math, flash = (b / a for a, b in zip(pairs[first], pairs[last], strict=True))
        short = both[0], pairs[both[0]][1]
        memory = {"from": first, "to": last, "math": math, "tiled": flash, "short": short}
    return {
        "tokens": both[-1],
        "backend": backend,
        "gain": ms[both[-1]][0] / ms[both[-1]][1],
        "ms": ms,
        "memory": memory,
    }


def recorded_on_h100() -> dict:
    """The same from an H100: limits, products, fusion, attention, provenance."""
    path = REPO / "notebooks" / "reference" / "ceilings_h100.json"
    return json.loads(path.read_text(encoding="utf-8"))
