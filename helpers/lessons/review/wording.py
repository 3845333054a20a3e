"""What notebook 1 says of its numbers: the captions of its figures, and why they are so.

A row is a run of a sweep: `max_num_seqs`, `kv_cache_tokens`, and its metrics
(helpers/measure.py).
"""

from __future__ import annotations

from helpers.lessons.review.choice import ONE, SPEED, TPOT, InTurn
from helpers.measure import Measurement
from helpers.verdicts.gain import Gain
from helpers.verdicts.machine import busy, most_disturbed


def terms(ms: dict[str, float]) -> list[str]:
    """What the labelled timeline says of one request. ms: as step_chart.label gives them."""
    return [
        f"The user waited {ms['ttft_ms']:.1f} ms for the first token (TTFT), "
        f"{ms['queue_ms']:.1f} ms of them in the queue: the part that max_num_seqs changes.",
        f"All the others took {ms['e2e_ms'] - ms['ttft_ms']:.1f} ms, one every "
        f"{ms['tpot_ms']:.2f} ms (TPOT), and the whole answer {ms['e2e_ms']:.0f} ms (E2E).",
    ]


def together(rows: list[dict], runs: list[Measurement], most_tokens: int, room: int) -> list[str]:
    """What the sweep over max_num_seqs shows, each measured once, the smallest value first.

    runs: what the rows are of. most_tokens: max_num_batched_tokens. room: requests that the KV
    cache holds at once.
    """
    one, most = rows[0], rows[-1]
    limits = "limits none of these values" if room >= most["max_num_seqs"] else "is a limit here"
    faster, slower, more = (most[of] / one[of] for of in (SPEED, TPOT, "max_num_seqs"))
    return [
        f"In one run each, {more:.0f} times as many requests in a step gave {faster:.1f} times "
        f"the tokens/s, and each request's TPOT became {slower:.1f} times as long; section 4 "
        f"measures both again, with a range.{busy(runs)}",
        f"TTFT p50 is {one['ttft_ms_p50']:,.0f} ms with max_num_seqs={one['max_num_seqs']}, of "
        f"which the queue takes {one['queue_ms_p50']:,.0f} ms, and {most['ttft_ms_p50']:,.0f} ms "
        f"with {most['max_num_seqs']}.",
        *_read_in_turn(runs[-1], runs[0], most_tokens),
        f"The KV cache has room for {room:,} such requests at once: it {limits}.",
    ]


def _read_in_turn(run: Measurement, one: Measurement, most_tokens: int) -> list[str]:
    """That the prompts of requests that all run at once took several steps; none for one step."""
    n, read = run.metrics["requests"], run.metrics["input_tokens"]
    steps = len({request.token_times_s[0] for request in run.requests})
    if read <= most_tokens or steps == 1:
        return []
    return [
        f"Part of that TPOT is reading: {n} prompts of {read // n} tokens are more than the "
        f"{most_tokens:,} of one step (max_num_batched_tokens), and the first to be read wait for "
        "the others. The usual gap (ITL p50) became "
        f"{run.metrics['itl_ms_p50'] / one.metrics['itl_ms_p50']:.1f} times as long."
    ]


def rounds_run(turns: InTurn) -> str:
    """How many rounds were run and count, and what disturbed those that do."""
    made, counted = len(turns.runs[ONE]), turns.counted
    worst = most_disturbed(run.disturbance for runs in counted.values() for run in runs)
    said = f"{made} rounds of {len(turns.runs)} values"
    left_out = made - len(counted[ONE])
    slowed = f": {left_out} left out, which other programs slowed, {made - left_out} counted"
    said += slowed if left_out else ", all counted"
    alone = [run.metrics[SPEED] for run in counted[ONE]]
    speed = f"{turns.mean(ONE, SPEED):,.0f} output tokens/s in them"
    ends = f"{min(alone):,.0f} to {max(alone):,.0f}"
    return f"{said}{worst.label()}. One at a time made {speed} ({ends})."


def chosen_for(turns: InTurn, best: int, goal_x: float) -> str:
    """What a max_num_seqs was chosen for, as it stands beside the value in my_learnings.md.

    goal_x: the most that TPOT may be, over that of one request at a time.
    """
    said = f"TPOT at most {goal_x:g} times that of one at a time"
    said += f"; measured: {_price(turns, best, goal_x)}" if best != ONE else ""
    return said + "; the most that was tried" * (best == turns.most)


def chosen(turns: InTurn, best: int, goal_x: float, vllm_default: int) -> str:
    """Why this max_num_seqs: its gain, what keeps each larger one from it, and vLLM's default.

    The default runs as many of these requests as the largest value tried.
    """
    tried = ", ".join(str(value) for value in turns.runs)
    said = f"of {tried}. {chosen_for(turns, best, goal_x)}."
    if best != ONE:
        said += f" Output tokens/s: {_times(turns.faster(best))} those of one at a time."
    for value in turns.runs:
        if value > best:
            misses = " misses it" * (turns.meets(value, goal_x) is False)
            speed = turns.faster(value, than=best).sentence(f"times those of {best}")
            said += f" {value}{misses}: TPOT {_price(turns, value, goal_x)}; tokens/s {speed}."
    default = f" vLLM's default ({vllm_default}) runs all {turns.most} at once here"
    return f"{said}{default}{', as your setting does' * (best == turns.most)}."


def by_goal(turns: InTurn, chosen: dict[float, int]) -> list[str]:
    """Which value each goal leads to, and what stays undecided. chosen: goal -> value."""
    said, undecided = [], []
    for goal_x, best in chosen.items():
        gain = f", {turns.faster(best).sentence('times its tokens/s')}" * (best != ONE)
        one = f"A TPOT of at most {goal_x:g} times that of one at a time"
        most = ", the most that was tried" * (best == turns.most)
        said.append(f"{one}: max_num_seqs={best}{most}{gain}.")
        open_ = [str(value) for value in turns.runs if turns.meets(value, goal_x) is None]
        undecided += [f"max_num_seqs={', '.join(open_)} for {goal_x:g} times"] * bool(open_)
    if undecided:
        said.append(f"Undecided, because the goal lies inside the range: {'; '.join(undecided)}.")
    return said


def on_both(turns: InTurn, chosen: dict, price_there: dict, chosen_there: dict) -> list[str]:
    """What each goal keeps here and on the recorded machine, and what a full step costs on both.

    chosen, chosen_there: goal -> value. price_there: value -> its TPOT over that of one at a time.
    """
    kept = [
        f"of at most {goal_x:g} times that of one at a time keeps {best} here"
        f"{', undecided,' * (turns.meets(best, goal_x) is None)} and {chosen_there[goal_x]} there"
        for goal_x, best in chosen.items()
    ]
    said = [f"A TPOT {', one '.join(kept)} (recorded, one run each)."]
    if both := [value for value in turns.runs if value in price_there and value != ONE]:
        here, there = _times(turns.slower(both[-1])), price_there[both[-1]]
        said.append(
            f"With {both[-1]} at once TPOT is {here} that of one here and {there:.2f} there."
        )
    most = max(price_there)
    ends = f"; {most} ends that sweep, so try more" * (most in chosen_there.values())
    begin = "On the course's GPU begin with the recorded value"
    return [*said, f"{begin}{ends}; measure it in turn again."]


def in_turn(turns: InTurn, chosen: dict[float, int]) -> list[dict[str, str | int]]:
    """A table's row for each value: its gain, its price, and which goals it meets.

    chosen: goal -> the value that is best for it.
    """
    answers = {True: "yes", False: "no", None: "undecided"}
    rows = []
    for value in turns.runs:
        row: dict[str, str | int] = {
            "max_num_seqs": value,
            "output tokens/s, over one at a time": _times(turns.faster(value)),
            "TPOT, over one at a time": _times(turns.slower(value)),
        }
        for goal_x, best in chosen.items():
            mark = ", best" if value == best else ""
            row[f"at most {goal_x:g} times?"] = answers[turns.meets(value, goal_x)] + mark
        rows.append(row)
    return rows


def engine_life(before_gib: float, phases: list[dict], memory: dict[str, float]) -> list[str]:
    """What each phase added to memory, and where the load shows instead.

    phases: as MemorySampler.summary() has them. memory: the record's metrics.
    """
    added, last = {}, before_gib
    for phase in phases:  # one that was over between two samples has no end
        if phase["end_gib"] is not None and phase["label"] != "close":
            added[phase["label"]], last = phase["end_gib"] - last, phase["end_gib"]
    grew = ", ".join(f"{gib:+.2f} GiB during {label}" for label, gib in added.items())
    prefill, decode = (memory[f"kv_cache_{phase}_percent"] for phase in ("prefill", "decode"))
    return [
        f"Memory changed by {grew}: most during {max(added, key=added.get)}.",
        f"To see the load, watch the gauge kv_cache_usage: at most {prefill:.1f} % during prefill, "
        f"{decode:.1f} % during decode.",
    ]


def reasons(why: str, rows: list[dict], memory: str) -> dict[str, str]:
    """Why each argument of the chosen configuration is so, for my_learnings.md.

    why: of `chosen`. memory: the argument that sets the memory.
    """
    return {
        "max_num_seqs": why,
        memory: f"default, not varied: {rows[0]['kv_cache_tokens']:,} tokens of KV cache; what "
        "too few do is in section 6 of notebook 2",
    }


def _price(turns: InTurn, value: int, goal_x: float) -> str:
    """The range of its TPOT over that of one at a time, and whether it leaves the goal open."""
    said = _times(turns.slower(value))
    if turns.meets(value, goal_x) is not None:
        return said
    middle = "met" if turns.slower(value).estimate <= goal_x else "missed"
    return f"{said}, undecided, {middle} by the middle of the range"


def _times(gain: Gain) -> str:
    """The measured range alone: no verdict. One at a time is 1 by definition."""
    alone = gain.low == gain.high == 1
    return "1" if alone else f"{gain.low:.2f} to {gain.high:.2f} times"
