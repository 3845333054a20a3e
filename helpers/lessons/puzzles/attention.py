"""Puzzle: attention of one query over tiles of keys and values (the online softmax)."""

from __future__ import annotations

import random
from collections.abc import Iterator

from helpers.lessons.puzzles.check import Case, Puzzle


def _queries(draw: random.Random) -> Iterator[Case]:
    """One tile and several, scores that grow, a short last tile, scores that exp cannot take."""
    import torch

    random_numbers = torch.Generator().manual_seed(draw.randrange(2**32))
    for tokens, tile, shift in ((2, 2, 0), (4, 2, 0), (7, 3, 0), (50, 16, 300), (50, 16, -300)):
        d = 4
        keys, values = torch.randn(2, tokens, d, generator=random_numbers)
        q = torch.randn(d, generator=random_numbers)
        keys += shift * q / (q @ q)  # moves all scores
        keys = keys[(keys @ q).argsort()]  # a later tile has larger ones
        spec = torch.nn.functional.scaled_dot_product_attention(q[None], keys, values)[0]
        given = {"q": q, "keys": keys, "values": values, "tokens in a tile": tile}
        yield Case(given, spec.tolist(), _in_tiles(q, keys, values, tile))


def _in_tiles(q, keys, values, tile: int):
    """Calls the function with tiles that share one piece of memory, as a GPU's do."""
    import torch

    def tiles(memory):
        for start in range(0, len(keys), tile):
            part = slice(start, start + tile)
            held = memory[:, : len(keys[part])]
            held[0], held[1] = keys[part], values[part]
            yield held[0], held[1]
            memory.fill_(torch.nan)

    def run(tiled_attention):
        out = tiled_attention(q.clone(), tiles(torch.empty(2, tile, len(q))))
        return None if out is None else torch.as_tensor(out).tolist()

    return run


def _alike(yours: list[float], spec: list[float]) -> bool:
    import torch

    return torch.allclose(torch.tensor(yours), torch.tensor(spec), rtol=1e-3, atol=1e-4)


TILED_ATTENTION = Puzzle(
    "tiled_attention",
    "Attention in tiles",
    _queries,
    against="torch's scaled_dot_product_attention, which sees all keys at once",
    proved="Attention needs no memory for its matrix of scores: a maximum, a sum and one vector "
    "are enough, and the result is exact. That is FlashAttention; vLLM's kernel looks up in the "
    "block table where the keys of its next tile lie.",
    where=("vllm/v1/attention/ops/triton_unified_attention.py", "kernel_unified_attention"),
    hints=(
        "Without the overflow: keep `total`, the sum of exp(score), and `out`, the sum of "
        "exp(score) * value; at the end `out / total`.",
        "So that exp does not overflow, keep the largest score so far, `top`, and use "
        "exp(score - top). It begins at minus infinity.",
        "A tile may bring a larger score. What was summed before was too large by "
        "exp(new top - old top): multiply `total` and `out` by exp(old top - new top) first.",
    ),
    same=_alike,
)
