"""What a started engine has, read from vLLM's configuration and its log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from helpers.gpu_memory import GIB


@dataclass(frozen=True)
class EngineInfo:
    """What an engine took to start and what it has. Sizes in GiB (2**30 bytes), times in s."""

    startup_s: float
    startup_phases_s: dict[str, float]
    weights_gib: float | None  # on each GPU; None when vLLM did not say
    kv_cache_tokens: int
    kv_cache_gib: float | None
    max_concurrency: float  # requests of max_model_len tokens that fit the KV cache together
    block_size: int  # tokens
    num_blocks: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int

    def __str__(self) -> str:
        weights = "weights size not reported"
        if self.weights_gib is not None:
            weights = f"weights {self.weights_gib:.3g} GiB"
        return (
            f"started in {self.startup_s:.1f} s; {weights}; KV cache {self.kv_cache_tokens:,} "
            f"tokens in {self.num_blocks:,} blocks of {self.block_size} "
            f"({self.max_concurrency:.1f} requests of {self.max_model_len} tokens)"
        )


def read_info(config, log: str, startup_s: float, phases_s: dict[str, float]) -> EngineInfo:
    """Put together what vLLM's configuration (updated by the start) and its log say."""
    cache, scheduler = config.cache_config, config.scheduler_config
    reserved = cache.kv_cache_memory_bytes
    kv_gib = _logged_gib(r"Available KV cache memory", log)
    weights = _logged_gib(r"Model loading took", log)
    return EngineInfo(
        startup_s=startup_s,
        startup_phases_s=phases_s,
        weights_gib=_checkpoint_gib(config.model_config.model) if weights is None else weights,
        kv_cache_tokens=cache.kv_cache_size_tokens,
        kv_cache_gib=reserved / GIB if kv_gib is None and reserved else kv_gib,
        max_concurrency=cache.kv_cache_max_concurrency,
        block_size=cache.block_size,
        num_blocks=cache.num_gpu_blocks,
        max_model_len=config.model_config.max_model_len,
        max_num_seqs=scheduler.max_num_seqs,
        max_num_batched_tokens=scheduler.max_num_batched_tokens,
    )


def _logged_gib(words: str, log: str) -> float | None:
    found = re.search(words + r":? ([\d.]+) GiB", log)
    return float(found[1]) if found else None


def _checkpoint_gib(model: str) -> float | None:
    """Size of the weights on disk: on the CPU vLLM logs none, and repacks them as it loads them."""
    files = list(Path(model).glob("*.safetensors"))
    return sum(file.stat().st_size for file in files) / GIB if files else None
