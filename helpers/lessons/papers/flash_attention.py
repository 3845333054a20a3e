"""FlashAttention: exact attention in tiles, and the memory traffic that this saves.

Paper: Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
NeurIPS 2022, arXiv 2205.14135. Algorithm 0 is the standard way, Algorithm 1 the tiled one; N
tokens, head size d, fast memory ("SRAM") of M numbers.
"""

import math

import torch


def tile_sizes(head_dim: int, sram: int) -> tuple[int, int]:
    """(Br, Bc): rows of queries and of keys in a tile (Algorithm 1, line 1); `sram` in numbers."""
    columns = math.ceil(sram / (4 * head_dim))
    return min(columns, head_dim), columns


def tiled_attention(q, k, v, block_q: int, block_k: int):
    """The same result without ever holding an N x N matrix (Algorithm 1, forward). Shapes (N, d).

    For every query it keeps the largest score so far `m` and the sum of exponentials `l`; a new
    tile of keys rescales what was summed under the old maximum. Keys are the outer loop, as in the
    paper. Notebook 3 counts what these loops load and store. Returns the result, `m` and `l`.
    """
    n, d = q.shape
    out = q.new_zeros(n, d)
    largest = q.new_full((n,), float("-inf"))
    total = q.new_zeros(n)
    for c in range(0, len(k), block_k):
        keys, values = k[c : c + block_k], v[c : c + block_k]
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
    return out, largest, total


def one_query(q, tiles):
    """Algorithm 1 for a single query. q: (d,); tiles: pairs of keys and values, as many in each."""
    keys, values = (torch.cat(parts) for parts in zip(*tiles, strict=True))
    return tiled_attention(q[None], keys, values, 1, len(tiles[0][0]))[0][0]


def compare(tokens: int, sram: int, head_dim: int = 64) -> dict[str, float]:
    """Both ways on random numbers, for a fast memory of `sram`: what each keeps besides its result.

    `largest difference` is between the two results, in float32.
    """
    q, k, v = (torch.randn(tokens, head_dim) for _ in range(3))
    scores = q @ k.T / math.sqrt(head_dim)
    weights = scores.softmax(-1)
    out, largest, total = tiled_attention(q, k, v, *tile_sizes(head_dim, sram))
    return {
        "standard keeps": scores.numel() + weights.numel(),
        "tiles keep": largest.numel() + total.numel(),
        "largest difference": float((out - weights @ v).abs().max()),
    }
