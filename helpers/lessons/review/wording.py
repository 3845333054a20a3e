"""What notebook 1 says of its numbers: the captions of its figures, and why they are so.

A row is a run of a sweep: `max_num_seqs`, `kv_cache_tokens`, `preemptions`, and its metrics
(helpers/measure.py).
"""

from __future__ import annotations

from helpers.engine.engine import CloseReport
from helpers.lessons.review.choice import ONE, SPEED, TPOT, InTurn
from helpers.measure import Measurement
from helpers.verdicts.gain import Gain
from helpers.verdicts.machine import busy, most_disturbed


def terms(ms: dict[str, float]) -> list[str]:
    """What the labelled timeline says of one request. ms: as step_chart.label gives them."""
    return [
        f"The user waited {ms['ttft_ms']:.1f} ms for the first token (TTFT), of which "
        f"{ms['queue_ms']:.1f} ms were spent in the queue.",
        f"After that a token came every {ms['tpot_ms']:.2f} ms (TPOT), and the whole answer took "
        f"{ms['e2e_ms']:.0f} ms (E2E).",
    ]


def together(rows: list[dict], runs: list[Measurement]) -> list[str]:
    """What the sweep over max_num_seqs shows, each measured once, the smallest value first.

    runs: what the rows are of.
    """
    one, most = rows[0], rows[-1]
    faster = _throughput(most) / _throughput(one)
    slower = most["tpot_ms_p50"] / one["tpot_ms_p50"]
    more = most["max_num_seqs"] / one["max_num_seqs"]
    return [
        f"In one run each, {more:.0f} times as many requests in a step gave {faster:.1f} times "
        f"the tokens/s, and each request's TPOT became {slower:.1f} times as long; section 4 "
        f"measures both again, with a range.{busy(runs)}",
        f"TTFT p50 is {one['ttft_ms_p50']:,.0f} ms with max_num_seqs={one['max_num_seqs']}: that "
        f"is the queue. With {most['max_num_seqs']} it is {most['ttft_ms_p50']:,.0f} ms: that is "
        "the step that reads all the prompts.",
    ]


def once_each(rows: list[dict]) -> str:
    """Rows of the sweep over max_num_seqs, the smallest value first, each measured once."""
    said = ", ".join(f"{_throughput(row):,.0f} with {row['max_num_seqs']}" for row in rows)
    return f"One run each, output tokens/s by max_num_seqs: {said}."


def room(rows: list[dict], blocks: int, block_size: int) -> str:
    """Rows of the sweep over the KV cache, the smallest first. blocks: what all requests need."""
    small, large = rows[0], rows[-1]
    return (
        f"One run each: {_throughput(small):,.0f} output tokens/s with "
        f"{small['kv_cache_tokens']:,} tokens of KV cache ({small['preemptions']:.0f} "
        f"preemptions), {_throughput(large):,.0f} with {large['kv_cache_tokens']:,}; the requests "
        f"need {blocks:,} blocks ({blocks * block_size:,})."
    )


def smaller_cache(rows: list[dict]) -> list[str]:
    """What the smallest KV cache did to throughput, to those that ran and to those that waited."""
    small, large = rows[0], rows[-1]
    sooner = [row for row in rows[1:-1] if row["ttft_ms_p50"] < large["ttft_ms_p50"]]

    def both(name: str, digits: int) -> str:
        return f"{small[name]:,.{digits}f} instead of {large[name]:,.{digits}f}"

    said = [
        f"With {small['kv_cache_tokens']:,} tokens of KV cache a step made "
        f"{both('tokens_per_step', 1)} tokens on average, which gave "
        f"{both('output_tokens_per_s', 0)} tokens/s: {_throughput(small) / _throughput(large):.2f} "
        "times (one run each).",
        f"Fewer ran at once: TPOT p50 was {both('tpot_ms_p50', 2)} ms. The others waited: TTFT "
        f"p99 was {both('ttft_ms_p99', 0)} ms.",
    ]
    for row in sooner:
        said.append(
            f"In between, with {row['kv_cache_tokens']:,} tokens, half of the requests had their "
            f"first token sooner than with the whole cache: TTFT p50 {row['ttft_ms_p50']:.0f} ms "
            f"instead of {large['ttft_ms_p50']:.0f}. Fewer prompts share the first step."
        )
    return said


def rounds_run(turns: InTurn) -> str:
    """How many rounds were run, and why a range may be too wide to choose by."""
    said = f"{len(turns.runs[ONE])} rounds of {len(turns.runs)} values."
    if turns.told():
        return said
    worst = most_disturbed(run.disturbance for runs in turns.counted.values() for run in runs)
    return (
        f"{said}\nSome ranges are still too wide to choose by{worst.label()}.\n"
        "Run this cell again when the machine is quiet."
    )


def from_one_to_best(turns: InTurn, best: int) -> str:
    """From one request at a time to what was chosen, by the means of the runs in turn."""
    speeds, tpots = ([turns.mean(value, of) for value in (ONE, best)] for of in (SPEED, TPOT))
    return (
        f"From {speeds[0]:,.0f} to {speeds[1]:,.0f} output tokens/s, while TPOT went from "
        f"{tpots[0]:.2f} to {tpots[1]:.2f} ms (means of the runs)."
    )


def chosen_for(turns: InTurn, best: int, goal_x: float) -> str:
    """What a max_num_seqs was chosen for, as it stands beside the value in my_learnings.md.

    goal_x: the most that TPOT may be, over that of one request at a time.
    """
    most = "the most that was tried; " * (best == turns.most)
    return f"{most}TPOT at most {goal_x:g} times that of one at a time{_by(turns, goal_x, best)}"


def chosen(turns: InTurn, best: int, goal_x: float, vllm_default: int) -> str:
    """Which max_num_seqs was chosen for a goal, what it gains and costs, and what lies beyond.

    goal_x: the most that TPOT may be, over that of one request at a time.
    """
    said = f"TPOT at most {goal_x:g} times that of one at a time: max_num_seqs={best} is chosen"
    if best == ONE:
        return f"{said}, for no other value meets it.{beyond(turns, best, vllm_default)}"
    said += (
        f". Over one at a time it has {_times(turns.faster(best))} the output tokens/s, and a TPOT "
        f"{_times(turns.slower(best))} as long."
    )
    if best < turns.most:
        said += (
            f" {turns.most} at once have {_times(turns.faster(turns.most, than=best))} the output "
            f"tokens/s of this, but a TPOT {_times(turns.slower(turns.most))} as long as one at a "
            "time."
        )
    return said + beyond(turns, best, vllm_default)


def beyond(turns: InTurn, best: int, vllm_default: int) -> str:
    """What vLLM's default would do, " " before it; "" where as many were tried."""
    if turns.most >= vllm_default:
        return ""
    return (
        f" vLLM's default ({vllm_default}) lets in more than the {turns.most} that were tried, and "
        f"what TPOT is then was not measured: with max_num_seqs={best} the others wait."
    )


def _by(turns: InTurn, goal_x: float, value: int) -> str:
    """What a goal was met by, where the whole range did not meet it."""
    sure = value == ONE or turns.slower(value).high <= goal_x
    return "" if sure else ", by the middle of its range"


def in_turn(turns: InTurn, chosen: dict[float, int]) -> list[dict[str, str | int]]:
    """A table's row for each value: its gain, its price, and the goals it was chosen for."""
    rows = []
    for value in turns.runs:
        goals = [
            f"at most {goal_x:g} times{_by(turns, goal_x, value)}"
            for goal_x, best in chosen.items()
            if best == value
        ]
        rows.append(
            {
                "max_num_seqs": value,
                "output tokens/s, over one at a time": _times(turns.faster(value)),
                "TPOT, over one at a time": _times(turns.slower(value)),
                "best for a TPOT of": " and ".join(goals),
            }
        )
    return rows


def why_improvement(turns: InTurn, best: int) -> str:
    """Where the time of `best` answers goes, one at a time and together: it adds up to the gain."""
    one, together = (_time_of_answers(turns, value) for value in (ONE, best))
    gain = best * one["all_ms"] / together["all_ms"]
    return (
        f"One at a time, an answer took {one['all_ms']:.0f} ms: {one['steps']} usual steps of "
        f"{one['step_ms']:.2f} ms, and {one['rest_ms']:.0f} ms for the step that reads the prompt "
        f"and for slower ones. With {best} at once, {best} answers took {together['all_ms']:.0f} "
        f"ms: {together['steps']} usual steps of {together['step_ms']:.2f} ms, which work on more "
        f"tokens and read more KV cache, and {together['rest_ms']:.0f} ms for the steps that read "
        f"{best} prompts, which gain little from company, and for slower ones. {best} x "
        f"{one['all_ms']:.1f} / {together['all_ms']:.1f} = {gain:.1f} (runs of median speed)."
    )


def _time_of_answers(turns: InTurn, value: int) -> dict[str, float]:
    """Of the middle run, for as many answers as run at once: usual decode steps, and the rest."""
    run = turns.middle(value)
    answers, seconds = run.metrics["requests"], run.metrics["duration_s"]
    all_ms = 1000 * seconds * value / answers
    steps = run.metrics["output_tokens"] // answers - 1
    step_ms = run.metrics["itl_ms_p50"]
    return {
        "all_ms": all_ms,
        "steps": steps,
        "step_ms": step_ms,
        "rest_ms": all_ms - steps * step_ms,
    }


def engine_life(closed: CloseReport, phases: list[dict], kv_cache_gib: float) -> str:
    """Memory of an engine that was closed. phases: as MemorySampler.summary() has them."""
    working, before = "", closed.loaded_gib
    for phase in phases:
        # A phase that was over between two samples has no end.
        if phase["label"] in ("prefill", "decode") and phase["end_gib"] is not None:
            working += f"{phase['label']} added {phase['end_gib'] - before:+.2f} GiB, "
            before = phase["end_gib"]
    return (
        f"The start took {closed.loaded_gib - closed.before_gib:.2f} GiB, the KV cache "
        f"{kv_cache_gib:.2f} of them; {working}while the KV cache's own use (below) rose and "
        f"fell; {closed.after_gib - closed.before_gib:+.2f} GiB stayed after the end."
    )


def reasons(why: str, rows: list[dict], memory: str) -> dict[str, str]:
    """Why each argument of the chosen configuration is so, for my_learnings.md.

    why: of `chosen`. memory: the argument that sets the memory.
    """
    tried = ", ".join(str(row["max_num_seqs"]) for row in rows)
    return {
        "max_num_seqs": f"of {tried}: {why}",
        memory: f"default, not varied: {rows[0]['kv_cache_tokens']:,} tokens of KV cache; what "
        "fewer do is in section 5 of notebook 1",
    }


def _times(gain: Gain) -> str:
    """The measured range alone: no verdict. One at a time is 1 by definition."""
    return f"{gain.low:.2f} to {gain.high:.2f} times" if gain.low < gain.high else "1"


def _throughput(row: dict) -> float:
    return row["output_tokens_per_s"]
