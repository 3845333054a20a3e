"""Puzzle: an MLP under tensor parallelism, on two real ranks."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator

from helpers.lessons.puzzles.check import Case, Puzzle
from helpers.lessons.puzzles.ranks import on_ranks

WORLD = 2


def sharded_mlp(x, up, down, rank, world, all_reduce):
    """This rank's share of relu(x @ up) @ down, added up over the ranks."""
    part = (x @ up.chunk(world, dim=1)[rank]).relu()
    return all_reduce(part @ down.chunk(world, dim=0)[rank])


def _layers(draw: random.Random) -> Iterator[Case]:
    """First what one rank computes, without another one; then the results on both ranks."""
    import torch

    random_numbers = torch.Generator().manual_seed(draw.randrange(2**32))
    small, *large = [
        tuple(
            torch.randint(-3, 4, size, generator=random_numbers).float()
            for size in ((n, d), (d, h), (h, d))
        )
        for n, d, h in ((1, 2, 4), (3, 8, 32), (16, 4, 6))
    ]
    shown = {"x": small[0], "up": small[1], "down": small[2]}
    alone = {"all-reduces": 1, "share of the arithmetic": 1 / WORLD}
    yield Case(shown, alone, lambda function: _one_rank(function, *(t.clone() for t in large[0])))
    results = functools.cache(lambda function: _on_ranks(function, [small, *large]))
    for i, layer in enumerate((small, *large)):
        whole = [((layer[0] @ layer[1]).relu() @ layer[2]).tolist()] * WORLD
        yield Case(shown if layer is small else _shapes(layer), whole, _result(results, i))


def _result(results, layer: int):
    return lambda function: results(function)[layer]


def _shapes(layer) -> dict:
    return {
        f"shape of {name}": list(t.shape)
        for name, t in zip(("x", "up", "down"), layer, strict=True)
    }


def _one_rank(function, x, up, down) -> dict | None:
    """What rank 0 does in a call: how many all-reduces, and its share of the multiplications."""
    from torch.utils.flop_counter import FlopCounterMode

    calls = []

    def all_reduce(tensor):
        calls.append(tensor.shape)
        return tensor

    with FlopCounterMode(display=False) as counted:
        out = function(x, up, down, 0, WORLD, all_reduce)
    if out is None:
        return None
    share = counted.get_total_flops() / (4 * x.shape[0] * up.numel())
    return {"all-reduces": len(calls), "share of the arithmetic": share}


def _on_ranks(function, layers) -> list:
    """For each layer what each rank returns."""
    by_rank = on_ranks(function, layers, WORLD)
    return [[out.tolist() for out in outs] for outs in zip(*by_rank, strict=True)]


SHARDED_MLP = Puzzle(
    "sharded_mlp",
    "A layer on two ranks",
    _layers,
    against="torch's product of the whole matrices, on both of two real ranks",
    proved="Columns first and rows second need a single all-reduce: relu works on each column by "
    "itself, so nothing has to be exchanged between the two products. An attention block does "
    "the same with its heads: two all-reduces a layer.",
    where=("vllm/model_executor/layers/linear.py", "RowParallelLinear.forward"),
    hints=(
        "`t.chunk(world, dim=1)[rank]` is the rank's share of a matrix by columns, with dim=0 by "
        "rows.",
        "relu of a sum is not the sum of the relus. Which cut of `up` gives each rank whole "
        "columns of `x @ up`, so that relu can come at once?",
        "The rank then has some of the columns of relu(x @ up). They meet the same rows of "
        "`down`, and the products of the ranks add up to the result.",
    ),
)
