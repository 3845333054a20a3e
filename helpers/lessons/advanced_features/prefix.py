"""Prefix caching: the same requests without and with the cache, and a conversation."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from helpers.engine.engine import Engine
from helpers.lessons import kv_blocks
from helpers.measure import Measurement, run_workload, warm_up
from helpers.verdicts.gain import LEAST_VALUES, Gain, gain_of_groups, gain_of_pairs
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
    """A chat, with the cache and without it in turn; numbers: what a record keeps.

    rows: one a turn: turn, cached_tokens, computed_tokens, ttft_ms, ttft_ms_without (medians) and
    gain, how many times as soon the first token came. share: of all prompt tokens, those found (0
    to 1).
    """

    run: Measurement
    rows: list[dict]
    share: float
    numbers: dict[str, float]


def conversation(engine: Engine, talk: Workload) -> Conversation:
    """Measure the turns one after the other, three times without the cache and with it."""
    warm_up(engine)
    not_read = {"skip_reading_prefix_cache": True}
    without, runs = [], []
    for _ in range(LEAST_VALUES):
        without.append(run_workload(engine, talk, not_read, concurrency=1, progress=False))
        engine.llm.reset_prefix_cache()
        runs.append(run_workload(engine, talk, concurrency=1, progress=False))
    rows = []
    for i, request in enumerate(runs[0].requests):
        pairs = [
            (a.requests[i].ttft_s, b.requests[i].ttft_s) for a, b in zip(without, runs, strict=True)
        ]
        before, after = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
        row = {"turn": i + 1, "cached_tokens": request.cached_tokens}
        row["computed_tokens"] = request.input_tokens - request.cached_tokens
        row |= {"ttft_ms": after, "ttft_ms_without": before, "gain": gain_of_pairs(pairs, "lower")}
        rows.append(row)
    sent = [request.prompt_token_ids for request in talk.requests]
    answers = [request.token_ids for request in runs[0].requests]
    found = sum(row["cached_tokens"] for row in rows)
    share = found / sum(request.input_tokens for request in runs[0].requests)
    numbers = {
        "prefix_cache_hit_rate": share,
        **middle_turn(rows)["gain"].metrics("ttft_gain_middle_turn_x"),
        **rows[-1]["gain"].metrics("ttft_gain_last_turn_x"),
        **rows[0]["gain"].metrics("ttft_gain_first_turn_x"),
        "turns": len(rows),
        "hit_tokens": int(runs[0].counters["prefix_cache_hits"]),
        "predicted_tokens": sum(kv_blocks.predicted_hits(sent, engine.info.block_size, answers)),
    }
    return Conversation(runs[0], rows, share, numbers)


def middle_turn(rows: list[dict]) -> dict:
    """The row of the turn in the middle: the gain grows from turn to turn."""
    return rows[(len(rows) - 1) // 2]
