"""Puzzles about the KV cache: its blocks, its bytes, its prefixes; vLLM's own classes answer."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from helpers.engine.dummy_model import CONFIGS
from helpers.engine.start import quiet
from helpers.lessons.puzzles.check import Case, Puzzle
from helpers.lessons.puzzles.desk import Desk

BLOCK_SIZES = (16, 32, 128)


# ---------------------------------------------------------------- blocks that a request holds


def _requests(draw: random.Random) -> Iterator[Case]:
    """Prompts that end before, on and after the edge of a block, and some output tokens."""
    for block_size in BLOCK_SIZES:
        lengths = [(block_size + edge, 1) for edge in (-1, 0, 1)]
        lengths += [(block_size, 2), (draw.randrange(1, 300), draw.randrange(1, 150))]
        for prompt, outputs in lengths:
            given = {"prompt_tokens": prompt, "output_tokens": outputs, "block_size": block_size}
            yield Case(given, blocks_of_vllm(**given))


def blocks_of_vllm(prompt_tokens: int, output_tokens: int, block_size: int) -> int:
    """Blocks in vLLM's block table of a request that has generated so many tokens."""
    desk = Desk(block_size=block_size, max_num_batched_tokens=1024)
    desk.add("request", prompt_tokens, answer=output_tokens + 1)
    while desk.requests["request"].num_output_tokens < output_tokens:
        desk.step()
    return desk.blocks_of("request")


BLOCKS_HELD = Puzzle(
    "blocks_held",
    "Blocks that a request holds",
    _requests,
    against="the block table of vLLM's KV cache manager",
    proved="A request wastes less than one block, whatever its length: that is PagedAttention's "
    "point. And the newest token has no keys and values yet: they are computed in the next step.",
    where=(
        "vllm/v1/core/single_type_kv_cache_manager.py",
        "SingleTypeKVCacheManager.allocate_new_blocks",
    ),
    hints=(
        "Which tokens have keys and values? A token gets them when it goes through the model.",
        "The newest output token has not gone through yet. So it is one token fewer than you see.",
        "Whole blocks only: round up. `-(-a // b)` is a / b rounded up.",
    ),
)


# ---------------------------------------------------------------- bytes that a token takes

# Every layer of these keeps the keys and values of all tokens: no latent, window or state.
PLAIN = ("Qwen2.5", "Llama-3", "Mixtral")


def _shapes(draw: random.Random) -> Iterator[Case]:
    """Real models and variations of them, with a cache of 16 and of 8 bits."""
    names = [path.stem for path in CONFIGS.glob("*.json") if path.stem.startswith(PLAIN)]
    for name in ["Qwen2.5-7B-Instruct", "Qwen3-30B-A3B", *draw.sample(sorted(names), 4)]:
        changed = {"num_hidden_layers": draw.randrange(2, 100)}
        for changes, bytes_per_value in (({}, 2), (changed, 1)):
            shape, spec = _asked(name, changes, bytes_per_value)
            yield Case({"shape": shape, "bytes_per_value": bytes_per_value}, spec)


class Shape:
    """What a model's config.json says of attention, under its own names."""

    NAMES = (
        "num_hidden_layers",
        "hidden_size",
        "head_dim",
        "num_attention_heads",
        "num_key_value_heads",
    )

    def __init__(self, config):
        for name in self.NAMES:
            setattr(self, name, getattr(config, name, None))
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads

    def __repr__(self) -> str:
        return ", ".join(f"{name} {getattr(self, name)}" for name in self.NAMES)


def _asked(name: str, changes: dict, bytes_per_value: int) -> tuple[Shape, int]:
    """(shape of the model, bytes of KV cache for a token of it as vLLM's classes count them)."""
    import torch

    with quiet(), tempfile.TemporaryDirectory() as folder:
        from vllm.config import ModelConfig
        from vllm.v1.kv_cache_interface import FullAttentionSpec

        config = json.loads((CONFIGS / f"{name}.json").read_text()) | changes
        (Path(folder) / "config.json").write_text(json.dumps(config))
        model = ModelConfig(model=folder, skip_tokenizer_init=True)
    block = FullAttentionSpec(
        block_size=16,
        num_kv_heads=model.get_total_num_kv_heads(),
        head_size=model.get_head_size(),
        dtype={1: torch.float8_e4m3fn, 2: torch.bfloat16}[bytes_per_value],
    )
    layers = model.get_total_num_hidden_layers()
    return Shape(model.hf_text_config), layers * block.page_size_bytes // block.block_size


KV_BYTES_PER_TOKEN = Puzzle(
    "kv_bytes_per_token",
    "Bytes of KV cache for a token",
    _shapes,
    against="vLLM's ModelConfig and FullAttentionSpec, for real models and changed ones",
    proved="The query heads do not count: with grouped-query attention several of them share one "
    "key and value. An fp8 cache halves what a token takes, so twice as many fit.",
    where=("vllm/v1/kv_cache_interface.py", "AttentionSpec.page_size_bytes"),
    hints=(
        "Every layer keeps a key and a value for each KV head.",
        "A key has `shape.head_dim` numbers, and so has a value. In some models that is not "
        "hidden_size / num_attention_heads.",
        "A factor 2 for keys and values, and `bytes_per_value` for each number.",
    ),
)


# ---------------------------------------------------------------- tokens found in the prefix cache


def _prompts(draw: random.Random) -> Iterator[Case]:
    """A prompt after others that begin like it: up to an edge of a block, beyond, wholly."""
    for block_size in (4, 16):
        base = [draw.randrange(100) for _ in range(4 * block_size)]
        for shared in (0, block_size - 1, block_size, 2 * block_size + 1):
            yield _found(base[:shared] + [101, 102], [base], block_size)
        yield _found(base, [base], block_size)  # all of it is there
        yield _found(base[:-1], [base], block_size)
        shifted = [101, *base[1:]]  # only its first token is new
        yield _found(shifted, [base], block_size)
        short, long = base[: block_size + 1], base[: 3 * block_size] + [103]
        yield _found([*base, 104], [short, long], block_size)
        yield _found([*base, 104], [long, short], block_size)
        others = [base[: draw.randrange(1, len(base))] + [105] * 9 for _ in range(3)]
        yield _found([*base, 106], others, block_size)


def _found(prompt: list[int], earlier: list[list[int]], block_size: int) -> Case:
    desk = Desk(block_size=block_size)
    for i, tokens in enumerate([*earlier, prompt]):
        desk.add(f"request {i}", tokens, answer=1)
        desk.step()
    given = {"prompt": prompt, "earlier": earlier, "block_size": block_size}
    return Case(given, desk.prefix_cache.hits)


TOKENS_FOUND = Puzzle(
    "tokens_found",
    "Tokens found in the prefix cache",
    _prompts,
    against="vLLM's counter prefix_cache_hits",
    proved="Only whole blocks are found, only from the start on, and never the last token of a "
    "prompt: its output is needed, so its whole block is computed again.",
    where=("vllm/v1/core/kv_cache_manager.py", "KVCacheManager.get_computed_blocks"),
    hints=(
        "For each earlier prompt count the tokens that agree from the start on, and stop at the "
        "first that differs. The longest run counts.",
        "The last token of the prompt is always computed: look at `prompt[:-1]`.",
        "Round down to whole blocks: `n // block_size * block_size`.",
    ),
)
