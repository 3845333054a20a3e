"""The least time of a step: max(bytes / read bandwidth, operations / matrix rate).

Bytes: the weights once and the KV cache of all sequences. Operations: 2 for each weight and token,
4 x layers x query heads x head size for each pair of tokens that meet in attention. What the model
must do at least; activations and the sampler come on top.
"""

from __future__ import annotations

from dataclasses import dataclass

from helpers.planning import ModelShape
from helpers.planning.work import model_stage


@dataclass(frozen=True)
class Work:
    """The least that a step must move (bytes) and compute (floating-point operations)."""

    bytes: float
    flop: float

    def against(self, limits: dict | None, seconds: float) -> dict:
        """What a step that took so long achieved of the limits; {} when those were not measured.

        limits: read_gb_per_s and tflop_per_s, as helpers.lessons.machine_limits measures them.
        """
        if limits is None:
            return {}
        by_bytes = self.bytes / (limits["read_gb_per_s"] * 1e9)
        by_flop = self.flop / (limits["tflop_per_s"] * 1e12)
        least = max(by_bytes, by_flop)
        return {
            "roofline_ms": 1e3 * least,
            "roofline_share": least / seconds,
            "bound": "memory" if by_bytes >= by_flop else "arithmetic",
        }


def active_parameters(shape: ModelShape) -> float:
    """Parameters that one token passes through, without the embedding table."""
    products = model_stage(shape).step(streams=1, context=0).products
    return sum(product.flops for product in products) / 2


def decode_work(shape: ModelShape, streams: int, context: float) -> Work:
    """One decode step: `streams` sequences of `context` tokens each, one new token each."""
    weights = active_parameters(shape)
    attention = 4 * shape.layers * shape.heads * shape.head_dim * context
    moved = weights * shape.dtype_bytes + streams * context * shape.kv_bytes_per_token()
    return Work(moved, streams * (2 * weights + attention))


def prefill_work(shape: ModelShape, tokens: int, prompts: int) -> Work:
    """`tokens` in one step, as so many prompts.

    The output layer runs for last tokens alone; attention is causal.
    """
    weights = active_parameters(shape)
    head = shape.vocab * shape.hidden
    length = tokens // prompts
    pairs = prompts * length * (length + 1) / 2
    linear = 2 * (weights - head) * tokens + 2 * head * prompts
    attention = 4 * shape.layers * shape.heads * shape.head_dim * pairs
    return Work(
        weights * shape.dtype_bytes + tokens * shape.kv_bytes_per_token(), linear + attention
    )
