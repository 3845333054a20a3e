"""FlashAttention: exact attention in tiles, and the memory traffic that this saves.

Paper: Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
NeurIPS 2022, arXiv 2205.14135. Algorithm 0 is the standard way, Algorithm 1 the tiled one; N
tokens, head size d, fast memory ("SRAM") of M numbers.
"""

import math
from dataclasses import dataclass

# Figure 2 (left), GB moved, exists in two versions with different numbers. Both: sequence 1024,
# head 64, 16 heads, batch 64, A100, forward and backward. arXiv (v2) names GPT-2 medium and prints
# 41.7 and 7.3 ms; the other edition says "key-padding mask and no dropout", 35.1 and 11.7 ms.
FIGURE_2 = {"arXiv": {"standard": 40.3, "flash": 4.4}, "masked": {"standard": 35.3, "flash": 4.4}}
FIGURE_2_SHAPE = {"tokens": 1024, "head_dim": 64, "heads": 16, "batch": 64, "bytes_per_value": 2}


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


def standard_traffic(tokens: int, head_dim: int) -> int:
    """Numbers moved by Algorithm 0: Q, K, V, O once, 4 passes over N x N (Theorem 2: Nd + N^2)."""
    return 4 * tokens * head_dim + 4 * tokens**2


def flash_traffic(tokens: int, head_dim: int, sram: int) -> int:
    """Numbers moved by Algorithm 1 (Theorem 2: N^2 d^2 / M for d <= M <= N d).

    K and V once; for each tile of keys all of Q, O in and out, and l, m in and out.
    """
    _, columns = tile_sizes(head_dim, sram)
    tiles = math.ceil(tokens / columns)
    return 2 * tokens * head_dim + tiles * (3 * tokens * head_dim + 4 * tokens)


def standard_traffic_backward(tokens: int, head_dim: int) -> int:
    """Numbers moved by the standard backward pass.

    P twice, dP and dS out and in, dS once more, and 8 N d.
    """
    return 7 * tokens**2 + 8 * tokens * head_dim


def flash_traffic_backward(tokens: int, head_dim: int, sram: int) -> int:
    """Numbers moved by the tiled backward pass.

    K, V, dK, dV once; for each tile Q, O, dO, dQ in, dQ out, l, m.
    """
    _, columns = tile_sizes(head_dim, sram)
    tiles = math.ceil(tokens / columns)
    return 4 * tokens * head_dim + tiles * (5 * tokens * head_dim + 2 * tokens)


def slope(x, y) -> float:
    """Slope of log y over log x, by least squares: the exponent of a power law."""
    lx, ly = [math.log(v) for v in x], [math.log(v) for v in y]
    mx, my = sum(lx) / len(lx), sum(ly) / len(ly)
    return sum((a - mx) * (b - my) for a, b in zip(lx, ly, strict=True)) / sum(
        (a - mx) ** 2 for a in lx
    )


def caption_traffic_gb(sram_bytes: int = 192 * 1024) -> dict[str, float]:
    """GB moved at the shape of Figure 2: `standard`, `flash`, and `one_pass` over N x N.

    192 KiB is what one multiprocessor of an A100 has; no mask and no dropout are counted.
    """
    s = FIGURE_2_SHAPE
    n, d, sram = s["tokens"], s["head_dim"], sram_bytes // s["bytes_per_value"]
    gb = s["heads"] * s["batch"] * s["bytes_per_value"] / 1e9
    standard = standard_traffic(n, d) + standard_traffic_backward(n, d)
    flash = flash_traffic(n, d, sram) + flash_traffic_backward(n, d, sram)
    return {"standard": gb * standard, "flash": gb * flash, "one_pass": gb * n**2}
