"""What notebook 1 says of its numbers: the captions of its figures, and why they are so.

A row is a configuration: `configuration`, `max_num_seqs`, `kv_cache_tokens`, `preemptions`, and
the metrics of its run (helpers/measure.py).
"""

from __future__ import annotations

from helpers.engine.engine import CloseReport


def fastest_of(rows: list[dict]) -> str:
    """Rows of the sweep over max_num_seqs, the smallest value first."""
    first, fastest = rows[0], max(rows, key=_throughput)
    return (
        f"{fastest['configuration']} gives the most: {_throughput(fastest):,.0f} output tokens/s, "
        f"{_throughput(fastest) / _throughput(first):.1f} times {first['configuration']}."
    )


def room(rows: list[dict], needed: int) -> str:
    """Rows of the sweep over the KV cache, the smallest first. needed: tokens of all requests."""
    small, large = rows[0], rows[-1]
    share = _throughput(small) / _throughput(large)
    return (
        f"With {small['kv_cache_tokens']:,} tokens of KV cache ({small['preemptions']:.0f} "
        f"preemptions) the throughput is {share:.2f} of that with {large['kv_cache_tokens']:,}; "
        f"the requests need {needed:,}."
    )


def from_one_to_best(one: dict, best: dict) -> str:
    """The rows of one request at a time and of the best configuration."""
    return (
        f"From {_throughput(one):,.0f} to {_throughput(best):,.0f} output tokens/s, while TPOT "
        f"went from {one['tpot_ms_p50']:.2f} to {best['tpot_ms_p50']:.2f} ms."
    )


def why_improvement(one: dict, best: dict) -> str:
    """Why the best configuration gains less than the number of its requests."""
    return (
        f"With {best['configuration']} a usual step (ITL p50) took {best['itl_ms_p50']:.2f} ms "
        f"instead of {one['itl_ms_p50']:.2f}: more KV cache to read, more arithmetic, more tokens "
        f"to hand out. TPOT, {best['tpot_ms_p50']:.2f} instead of {one['tpot_ms_p50']:.2f} ms, "
        "also holds the steps that read other requests' prompts."
    )


def engine_life(closed: CloseReport, phases: list[dict]) -> str:
    """Memory of an engine that was closed. phases: as MemorySampler.summary() has them."""
    # A phase that was over between two samples has no end.
    working = [phase["end_gib"] for phase in phases if phase["label"] in ("prefill", "decode")]
    ends = [closed.loaded_gib, *(gib for gib in working if gib is not None)]
    return (
        f"The start took {closed.loaded_gib - closed.before_gib:.2f} GiB; prefill and decode added "
        f"{ends[-1] - closed.loaded_gib:+.2f} GiB, while the KV cache's own use (below) rose and "
        f"fell; {closed.after_gib - closed.before_gib:+.2f} GiB stayed after the end."
    )


def reasons(chosen: dict, rows: list[dict], small_caches: list[dict]) -> dict[str, str]:
    """Why each argument of the chosen configuration is so, for my_learnings.md.

    chosen: {"max_num_seqs": ..., the argument that sets the memory: ...}. small_caches: the rows
    with less KV cache than the engine has by default.
    """
    tried = ", ".join(str(row["max_num_seqs"]) for row in rows)
    fastest = max(rows, key=_throughput)
    shares = " and ".join(
        f"{_throughput(row) / _throughput(fastest):.2f} of it with {row['kv_cache_tokens']:,}"
        for row in small_caches
    )
    memory = f"with {fastest['kv_cache_tokens']:,} tokens of KV cache; the throughput was {shares}"
    return {name: memory for name in chosen} | {
        "max_num_seqs": f"the most output tokens/s of {tried}"
    }


def keep(chosen: dict, best: dict) -> str:
    """The comment on the chosen configuration, until the student writes one."""
    return (
        f"Highest throughput measured: {_throughput(best):,.0f} output tokens/s with {chosen}, "
        f"TPOT p50 {best['tpot_ms_p50']:.2f} ms."
    )


def _throughput(row: dict) -> float:
    return row["output_tokens_per_s"]
