"""Prefix caching: the same requests with the cache and without it, and a conversation."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from helpers.lessons import kv_blocks
from helpers.verdicts.gain import Gain, gain_of_pairs


@dataclass(frozen=True)
class Shared:
    """Requests that begin alike, each sent with the cache (warm) and then without it (cold).

    gain: of the time to the first token. numbers: what a record keeps; the tokens found stand
    beside those that vLLM's rule predicts.
    """

    gain: Gain
    numbers: dict[str, float]

    @classmethod
    def of(cls, warm: Sequence, times_s: list[tuple[float, float]], block_size: int):
        """warm: vLLM's answers. times_s: (cold, warm) pairs, without the first request's."""
        gain = gain_of_pairs(times_s, "lower")
        cold_ms, warm_ms = (1000 * statistics.median(side) for side in zip(*times_s, strict=True))
        times = {"ttft_cold_ms": cold_ms, "ttft_warm_ms": warm_ms}
        return cls(gain, times | hits(warm, block_size) | gain.metrics("ttft_gain_x"))


def tokens_found(prompt: list[int], earlier: list[list[int]], block_size: int) -> int:
    """What the puzzle of the same name asks for."""
    return kv_blocks.predicted_hits([*earlier, prompt], block_size)[-1]


def hits(answers: Sequence, block_size: int) -> dict[str, float]:
    """Of vLLM's answers to requests sent one after the other, into a cache that was empty."""
    sent = [answer.prompt_token_ids for answer in answers]
    said = [list(answer.outputs[0].token_ids) for answer in answers]
    tokens, found = sum(map(len, sent)), sum(answer.num_cached_tokens for answer in answers)
    return {
        "prompt_tokens": tokens,
        "predicted_tokens": sum(kv_blocks.predicted_hits(sent, block_size, said)),
        "hit_tokens": found,
        "prefix_cache_hit_rate": found / tokens,
    }


def turns(cold: list[Sequence], warm: list[Sequence]) -> list[dict]:
    """A row for each turn of a chat that was had several times, without the cache and with it.

    cold, warm: vLLM's answers, chat by chat. A row: turn, cached_tokens, computed_tokens, ttft_ms,
    ttft_ms_without (medians) and gain, how many times as soon the first token came.
    """
    rows = []
    for i, answer in enumerate(warm[0]):
        pairs = [
            (before[i].metrics.first_token_latency, after[i].metrics.first_token_latency)
            for before, after in zip(cold, warm, strict=True)
        ]
        before, after = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
        found = answer.num_cached_tokens
        row = {"turn": i + 1, "cached_tokens": found}
        row["computed_tokens"] = len(answer.prompt_token_ids) - found
        row |= {"ttft_ms": after, "ttft_ms_without": before, "gain": gain_of_pairs(pairs, "lower")}
        rows.append(row)
    return rows


def turn_gains(rows: list[dict]) -> dict[str, float]:
    """What a record keeps of the turns."""
    return {
        **rows[-1]["gain"].metrics("ttft_gain_last_turn_x"),
        **rows[0]["gain"].metrics("ttft_gain_first_turn_x"),
        "turns": len(rows),
    }
