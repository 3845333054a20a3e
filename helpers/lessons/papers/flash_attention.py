"""FlashAttention: exact attention in tiles, and the memory traffic that this saves.

Paper: Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
NeurIPS 2022, arXiv 2205.14135. Algorithm 0 is the standard way, Algorithm 1 the tiled one; N
tokens, head size d, fast memory ("SRAM") of M numbers.
"""

import math
from dataclasses import dataclass

import torch


@dataclass
class Traffic:
    """Numbers moved between slow and fast memory, and the extra slow memory that is needed."""

    read: int = 0
    written: int = 0
    extra: int = 0  # besides Q, K, V and O

    @property
    def moved(self) -> int:
        """Numbers read and written."""
        return self.read + self.written


def tile_sizes(head_dim: int, sram: int) -> tuple[int, int]:
    """(Br, Bc): rows of queries and of keys in a tile (Algorithm 1, line 1); `sram` in numbers."""
    columns = math.ceil(sram / (4 * head_dim))
    return min(columns, head_dim), columns


def standard_attention(q, k, v, traffic: Traffic | None = None):
    """softmax(Q K^T / sqrt(d)) V with every step in slow memory (Algorithm 0). Shapes (N, d)."""
    n, d = q.shape
    scores = q @ k.T / math.sqrt(d)  # reads Q and K, writes S
    weights = scores.softmax(-1)  # reads S, writes P
    out = weights @ v  # reads P and V, writes O
    if traffic is not None:
        traffic.read += 2 * n * d + n * n + n * n + n * d
        traffic.written += n * n + n * n + n * d
        traffic.extra = max(traffic.extra, 2 * n * n)
    return out


def tiled_attention(q, k, v, block_q: int, block_k: int, traffic: Traffic | None = None):
    """The same result without ever holding an N x N matrix (Algorithm 1, forward). Shapes (N, d).

    For every query it keeps the largest score so far `m` and the sum of exponentials `l`; a new
    tile of keys rescales what was summed under the old maximum. Keys are the outer loop, as in the
    paper. `traffic` counts each load and store of slow memory as it happens.
    """
    n, d = q.shape
    out = q.new_zeros(n, d)
    largest = q.new_full((n,), float("-inf"))
    total = q.new_zeros(n)
    traffic = traffic or Traffic()
    for c in range(0, n, block_k):
        keys, values = k[c : c + block_k], v[c : c + block_k]
        traffic.read += 2 * keys.shape[0] * d
        for r in range(0, n, block_q):
            rows = slice(r, min(r + block_q, n))
            scores = q[rows] @ keys.T / math.sqrt(d)
            new_largest = scores.max(-1).values.maximum(largest[rows])
            weights = (scores - new_largest[:, None]).exp()
            shrink = (largest[rows] - new_largest).exp()  # 0 at the first tile: exp(-inf)
            before = shrink * total[rows]
            new_total = before + weights.sum(-1)
            out[rows] = (before[:, None] * out[rows] + weights @ values) / new_total[:, None]
            largest[rows], total[rows] = new_largest, new_total
            height = rows.stop - r
            traffic.read += 2 * height * d + 2 * height  # Q, O, l, m
            traffic.written += height * d + 2 * height  # O, l, m
    traffic.extra = max(traffic.extra, 2 * n)
    return out


def count_both_ways(tokens: int, sram: int, head_dim: int = 64) -> dict[str, float]:
    """Both ways on random numbers, for a fast memory of `sram` numbers: what each has moved.

    `largest difference` is between the two results, in float32.
    """
    q, k, v = (torch.randn(tokens, head_dim) for _ in range(3))
    standard, tiled = Traffic(), Traffic()
    reference = standard_attention(q, k, v, standard)
    ours = tiled_attention(q, k, v, *tile_sizes(head_dim, sram), traffic=tiled)
    return {
        "tokens": tokens,
        "fast memory": sram,
        "d^2 / M": head_dim**2 / sram,
        "standard moves": standard.moved,
        "tiles move": tiled.moved,
        "tiles / standard": tiled.moved / standard.moved,
        "standard keeps": standard.extra,
        "tiles keep": tiled.extra,
        "largest difference": float((ours - reference).abs().max()),
    }
