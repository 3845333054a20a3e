"""Prefix caching: the same requests without and with the cache, and a conversation."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from helpers.engine.engine import Engine
from helpers.lessons import kv_blocks
from helpers.lessons.advanced_features.services import UNREAD
from helpers.measure import Measurement, run_workload, warm_up
from helpers.verdicts.gain import Gain, gain_of_groups
from helpers.workloads import Workload


@dataclass(frozen=True)
class ColdAndWarm:
    """The same requests, one after the other, without reading the cache and with it.

    gain: of the TTFT of all requests but the first, which fills the cache. numbers: what a record
    keeps; the hits that vLLM counted stand beside those that its rule predicts.
    """

    gain: Gain
    numbers: dict[str, float]

    @classmethod
    def of(cls, load: Workload, block_size: int, cold: Measurement, warm: Measurement):
        """Of both runs of the requests."""
        ttft_cold = [request.ttft_s for request in cold.requests]
        ttft_warm = [request.ttft_s for request in warm.requests[1:]]
        gain = gain_of_groups(ttft_cold, ttft_warm, better="lower")
        sent = [request.prompt_token_ids for request in load.requests]
        asked = int(warm.counters["prefix_cache_queries"])
        found = int(warm.counters["prefix_cache_hits"])
        numbers = {
            "ttft_cold_ms": cold.metrics["ttft_ms_p50"],
            "ttft_warm_ms": 1000 * statistics.median(ttft_warm),
            "prompt_tokens": asked,
            "predicted_tokens": sum(kv_blocks.predicted_hits(sent, block_size)),
            "hit_tokens": found,
            "prefix_cache_hit_rate": found / asked,
            **gain.metrics("ttft_gain_x"),
        }
        return cls(gain, numbers)


@dataclass(frozen=True)
class Conversation:
    """A chat, once with the cache and once without; numbers: what a record keeps.

    rows: one a turn: turn, cached_tokens, computed_tokens, ttft_ms, ttft_ms_without. share: of all
    prompt tokens, those found (0 to 1).
    """

    run: Measurement
    rows: list[dict]
    share: float
    numbers: dict[str, float]


def conversation(engine: Engine, talk: Workload) -> Conversation:
    """Measure the turns one after the other."""
    warm_up(engine)  # else it is the run without the cache that pays for the first steps
    without = run_workload(engine, talk, UNREAD, concurrency=1)
    engine.llm.reset_prefix_cache()
    turns = run_workload(engine, talk, concurrency=1)
    rows = [
        {
            "turn": i,
            "cached_tokens": request.cached_tokens,
            "computed_tokens": request.input_tokens - request.cached_tokens,
            "ttft_ms": 1000 * request.ttft_s,
            "ttft_ms_without": 1000 * other.ttft_s,
        }
        for i, (request, other) in enumerate(zip(turns.requests, without.requests, strict=True), 1)
    ]
    sent = [request.prompt_token_ids for request in talk.requests]
    answers = [request.token_ids for request in turns.requests]
    found = sum(row["cached_tokens"] for row in rows)
    share = found / sum(request.input_tokens for request in turns.requests)
    numbers = {
        "prefix_cache_hit_rate": share,
        "ttft_gain_middle_turn_x": sooner(middle_turn(rows)),
        "ttft_gain_last_turn_x": sooner(rows[-1]),
        "turns": len(rows),
        "hit_tokens": int(turns.counters["prefix_cache_hits"]),
        "predicted_tokens": sum(kv_blocks.predicted_hits(sent, engine.info.block_size, answers)),
    }
    return Conversation(turns, rows, share, numbers)


def middle_turn(rows: list[dict]) -> dict:
    """The row of the turn in the middle: the gain grows from turn to turn."""
    return rows[(len(rows) - 1) // 2]


def sooner(row: dict) -> float:
    """How many times as soon a turn's first token came with the cache, in one run."""
    return row["ttft_ms_without"] / row["ttft_ms"]
