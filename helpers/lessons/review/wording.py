"""What notebook 1 says of its numbers: the captions of its figures, and why they are so.

A row is a configuration: `configuration`, `max_num_seqs`, `kv_cache_tokens`, `preemptions`, and
the metrics of its run (helpers/measure.py).
"""

from __future__ import annotations

from helpers.engine.engine import CloseReport
from helpers.lessons.review.choice import Choice


def terms(ms: dict[str, float]) -> list[str]:
    """What the labelled timeline says of one request. ms: as step_chart.label gives them."""
    return [
        f"The user waited {ms['ttft_ms']:.1f} ms for the first token (TTFT), of which "
        f"{ms['queue_ms']:.1f} ms were spent in the queue.",
        f"After that a token came every {ms['tpot_ms']:.2f} ms (TPOT), and the whole answer took "
        f"{ms['e2e_ms']:.0f} ms (E2E).",
    ]


def together(rows: list[dict]) -> list[str]:
    """What the sweep over max_num_seqs shows, each measured once, the smallest value first."""
    one, most = rows[0], rows[-1]
    faster = _throughput(most) / _throughput(one)
    slower = most["tpot_ms_p50"] / one["tpot_ms_p50"]
    more = most["max_num_seqs"] / one["max_num_seqs"]
    return [
        f"In this run {more:.0f} times as many requests in a step gave {faster:.1f} times the "
        f"tokens/s, and each request's TPOT became {slower:.1f} times as long.",
        f"TTFT p50 is {one['ttft_ms_p50']:,.0f} ms with max_num_seqs={one['max_num_seqs']}: that "
        f"is the queue. With {most['max_num_seqs']} it is {most['ttft_ms_p50']:,.0f} ms: that is "
        "the step that reads all the prompts.",
    ]


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


def from_one_to_best(choice: Choice) -> str:
    """What was chosen, over one request at a time."""
    one, best = choice.baseline.metrics, choice.row
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


def why_improvement(choice: Choice) -> str:
    """Why the best configuration gains less than the number of its requests."""
    one, best, gain = choice.baseline.metrics, choice.row, choice.improvement
    return (
        f"Measured in turn, {gain.values} times each: {gain.sentence()}. With "
        f"{best['configuration']} a usual step took {best['itl_ms_p50']:.2f} ms instead of "
        f"{one['itl_ms_p50']:.2f}, because it works on more tokens and reads more KV cache."
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


def reasons(choice: Choice, default: int, rows: list[dict], memory: str) -> dict[str, str]:
    """Why each argument of the chosen configuration is so, for my_learnings.md.

    default: vLLM's own max_num_seqs. memory: the argument that sets the memory.
    """
    tried = ", ".join(str(row["max_num_seqs"]) for row in rows)
    return {
        "max_num_seqs": f"of {tried}: {chosen(choice, default)}",
        memory: f"default kept: {rows[0]['kv_cache_tokens']:,} tokens of KV cache; with fewer, "
        "requests can only wait",
    }


def keep(arguments: dict, choice: Choice, default: int) -> str:
    """The comment on the chosen configuration, until the student writes one."""
    goal = f"TPOT p50 at most {choice.goal_x:g} times that of one request at a time"
    return (
        f"Chosen for the most output tokens/s with {goal}: {arguments}. {chosen(choice, default)}"
    )


def _throughput(row: dict) -> float:
    return row["output_tokens_per_s"]
