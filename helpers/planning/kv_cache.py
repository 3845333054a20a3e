"""KV cache by groups of layers, as vLLM 0.32's hybrid manager gives out blocks.

Layers that attend alike are cut into groups of equally many layers. Every group has its own table
of blocks for a request, and all draw from one pool whose blocks have room for one group's layers.
A layer with a window keeps the blocks of the window (and of the steps in flight), a layer of linear
attention one state. (get_kv_cache_groups in vllm/v1/core/kv_cache_utils.py)
"""

import math
from dataclasses import dataclass

from .models import ModelShape


@dataclass(frozen=True)
class KvGroup:
    """Layers that share a table of blocks, by number."""

    kind: str
    layers: tuple


def kv_groups(shape: ModelShape) -> tuple[KvGroup, ...]:
    """The groups of a model: one, unless its layers attend in several ways."""
    kinds: dict[str, list[int]] = {}
    for layer, kind in enumerate(shape.attention):
        kinds.setdefault(kind, []).append(layer)
    fewest, most = min(map(len, kinds.values())), max(map(len, kinds.values()))
    size = most if most < 1.5 * fewest else fewest
    groups = []
    for kind, layers in kinds.items():
        count = math.ceil(len(layers) / size)
        groups += [KvGroup(kind, tuple(layers[i::count])) for i in range(count)]
    return tuple(groups)


def block_tokens(shape: ModelShape, tp: int, kv_dtype: str, asked: int) -> int:
    """Tokens of a block: more than asked for where it must have room for a state, too.

    (Platform._align_hybrid_block_size in vllm/platforms/interface.py)
    """
    if "linear" not in shape.attention or "full" not in shape.attention:
        return asked
    each = shape.layer_kv_bytes(tp, kv_dtype)
    return asked * math.ceil(shape.linear_state_bytes(tp) / (asked * each))


def block_bytes(shape: ModelShape, layers: range, tp: int, kv_dtype: str, tokens: int) -> int:
    """Bytes of a block of the pool of a pipeline stage that holds these layers."""
    held = set(layers)
    widest = max(len(held.intersection(group.layers)) for group in kv_groups(shape))
    if set(shape.attention) == {"linear"}:
        return widest * shape.linear_state_bytes(tp)
    return widest * tokens * shape.layer_kv_bytes(tp, kv_dtype)


def blocks_of_request(shape: ModelShape, length: int, in_flight: int, tokens: int) -> int:
    """Blocks that a request of ``length`` tokens holds at most, over all groups.

    in_flight: tokens that are scheduled and not yet settled. A state takes two blocks with prefix
    caching, which is on by default (mamba_cache_mode "align").
    """

    def held(group: KvGroup) -> int:
        if group.kind == "linear":
            return 2
        if group.kind == "sliding":
            return math.ceil(min(shape.window - 1 + in_flight, length) / tokens) + 1
        if group.kind == "chunked":
            return math.ceil(min(shape.window + in_flight, length) / tokens)
        return math.ceil(length / tokens)

    return sum(map(held, kv_groups(shape)))
