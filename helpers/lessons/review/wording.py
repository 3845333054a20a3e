"""What notebook 1 says of its numbers: the captions of its figures, and why they are so.

A row is a configuration: `configuration`, `max_num_seqs`, `kv_cache_tokens`, `preemptions`, and
the metrics of its run (helpers/measure.py).
"""

from __future__ import annotations

from helpers.engine.engine import CloseReport
from helpers.lessons.review.choice import Choice


def once_each(rows: list[dict]) -> str:
    """Rows of the sweep over max_num_seqs, the smallest value first, each measured once."""
    said = ", ".join(f"{_throughput(row):,.0f} with {row['max_num_seqs']}" for row in rows)
    return f"One run each, output tokens/s by max_num_seqs: {said}."


def room(rows: list[dict], needed: int) -> str:
    """Rows of the sweep over the KV cache, the smallest first. needed: tokens of all requests."""
    small, large = rows[0], rows[-1]
    return (
        f"One run each: {_throughput(small):,.0f} output tokens/s with "
        f"{small['kv_cache_tokens']:,} tokens of KV cache ({small['preemptions']:.0f} "
        f"preemptions), {_throughput(large):,.0f} with {large['kv_cache_tokens']:,}; the requests "
        f"need {needed:,}."
    )


def from_one_to_best(one: dict, choice: Choice) -> str:
    """The row of one request at a time and what was chosen."""
    best = choice.row
    return (
        f"From {_throughput(one):,.0f} to {_throughput(best):,.0f} output tokens/s, while TPOT "
        f"went from {one['tpot_ms_p50']:.2f} to {best['tpot_ms_p50']:.2f} ms."
    )


def chosen(choice: Choice, default: int) -> str:
    """What was chosen, and by what; default: vLLM's own max_num_seqs."""
    name, rival = choice.row["configuration"], choice.rival
    what = f"{name} is chosen"
    if choice.is_default:
        what = f"vLLM's default is kept (max_num_seqs={default}, with which no request here waits)"
    said = [f"{what}. Against one request at a time: {choice.improvement.sentence()}."]
    if rival:
        against = choice.over_rival.sentence()
        said.append(f"Against {rival['configuration']}: {against}.")
    slower = f"Its TPOT is {choice.slower.estimate:.2f} times that of one request at a time"
    if choice.meets_goal:
        said.append(f"{slower}; the goal allows {choice.goal_x:g}.")
    else:
        said.append(f"{slower}: nothing that was tried meets the goal of {choice.goal_x:g}.")
    busy = choice.run.disturbance.label()
    return " ".join(said) + busy


def why_improvement(one: dict, choice: Choice) -> str:
    """Why the best configuration gains less than the number of its requests."""
    best, gain = choice.row, choice.improvement
    return (
        f"Measured in turn, {gain.values} times each: {gain.sentence()}. "
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


def reasons(
    choice: Choice, default: int, rows: list[dict], small_caches: list[dict], memory: str
) -> dict[str, str]:
    """Why each argument of the chosen configuration is so, for my_learnings.md.

    default: vLLM's own max_num_seqs. small_caches: rows with less KV cache than the engine has.
    memory: the argument that sets the memory.
    """
    tried = ", ".join(str(row["max_num_seqs"]) for row in rows)
    less = " and ".join(
        f"{_throughput(row):,.0f} output tokens/s with {row['kv_cache_tokens']:,}"
        for row in small_caches
    )
    kept = f"default kept: {rows[0]['kv_cache_tokens']:,} tokens of KV cache"
    return {
        "max_num_seqs": f"of {tried}: {chosen(choice, default)}",
        memory: f"{kept}; with less, one run each gave {less}",
    }


def keep(arguments: dict, choice: Choice, default: int) -> str:
    """The comment on the chosen configuration, until the student writes one."""
    goal = f"TPOT p50 at most {choice.goal_x:g} times that of one request at a time"
    return (
        f"Chosen for the most output tokens/s with {goal}: {arguments}. {chosen(choice, default)}"
    )


def _throughput(row: dict) -> float:
    return row["output_tokens_per_s"]
