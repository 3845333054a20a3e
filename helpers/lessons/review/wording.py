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
    others_ms = ms["e2e_ms"] - ms["ttft_ms"]
    longer = "The wait took longer" if ms["ttft_ms"] > others_ms else "The others took longer"
    return [
        f"{longer}: the first token came after {ms['ttft_ms']:.1f} ms (TTFT), all the others "
        f"within {others_ms:.1f} ms more, one every {ms['tpot_ms']:.2f} ms (TPOT).",
        f"For {ms['queue_ms']:.1f} ms of its TTFT the question stood in the queue, because "
        f"max_num_seqs=1 let one run at a time. The whole answer took {ms['e2e_ms']:.0f} ms (E2E).",
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
        f"the tokens/s, and each request's TPOT became {slower:.1f} times as long.{busy(runs)}",
        f"With max_num_seqs={one['max_num_seqs']} the p50 of TTFT was "
        f"{one['ttft_ms_p50']:,.0f} ms and that of the queue time {one['queue_ms_p50']:,.0f} ms; "
        f"with {most['max_num_seqs']} they were {most['ttft_ms_p50']:,.0f} and "
        f"{most['queue_ms_p50']:,.0f} ms. The KV cache has room for {room:,} such requests at "
        f"once: it {limits}.",
        *_read_in_turn(runs[-1], runs[0], most_tokens),
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
    """How many rounds were run and count, what disturbed them most, and the baseline."""
    counted = turns.counted
    worst = most_disturbed(run.disturbance for runs in counted.values() for run in runs).reasons
    made, left = len(turns.runs[ONE]), len(counted[ONE])
    said = f"{made} rounds of {len(turns.runs)} values, {'all' if left == made else left} counted."
    said += f" At worst, during one of these runs, {'; '.join(worst)}." * bool(worst)
    alone = [run.metrics[SPEED] for run in counted[ONE]]
    ends = f"{min(alone):,.0f} to {max(alone):,.0f}"
    return f"{said}\nThe baseline, one at a time: {turns.mean(ONE, SPEED):,.0f} tokens/s ({ends})."


def chosen_for(turns: InTurn, best: int, goal_x: float) -> str:
    """What a max_num_seqs was chosen for, as it stands beside the value in my_learnings.md.

    goal_x: the most that TPOT may be, over that of one request at a time.
    """
    said = f"TPOT at most {goal_x:g} times that of one at a time"
    said += f"; measured: {_times(turns.slower(best))}" * (best != ONE)
    if undecided := turns.undecided(goal_x):
        said += f"; undecided whether {' and '.join(map(str, undecided))} would do"
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
            meets, price = turns.meets(value, goal_x), _times(turns.slower(value))
            misses, price = " misses it" * (meets is False), price + ", undecided" * (meets is None)
            speed = turns.faster(value, than=best).sentence(f"times those of {best}")
            said += f" {value}{misses}: TPOT {price}; tokens/s {speed}."
    default = f" vLLM's default ({vllm_default}) runs all {turns.most} at once here"
    return f"{said}{default}{', as your setting does' * (best == turns.most)}."


def by_goal(turns: InTurn, chosen: dict[float, int]) -> list[str]:
    """Which value each goal leads to, and which may meet it, too. chosen: goal -> value."""
    said = []
    for goal_x, best in chosen.items():
        one = f"A TPOT of at most {goal_x:g} times that of one at a time"
        most = ", the most that was tried" * (best == turns.most)
        gain = f", {turns.faster(best).sentence('times its tokens/s')}" * (best != ONE)
        undecided = ", ".join(
            f"{n} (TPOT {_times(turns.slower(n))}, tokens/s {_times(turns.faster(n))})"
            for n in turns.undecided(goal_x)
        )
        undecided = f" Undecided: {undecided}." * bool(undecided)
        said.append(f"{one}: max_num_seqs={best}{most}{gain}.{undecided}")
    return said


def on_both(
    turns: InTurn, chosen: dict, there: dict[int, dict], price_there: dict, chosen_there: dict
) -> list[str]:
    """What each goal keeps here and on the recorded machine, and what a full step costs on both.

    chosen, chosen_there: goal -> value. there: value -> a recorded run; price_there: its TPOT over
    that of one at a time.
    """
    said = []
    for goal_x, best in chosen.items():
        undecided = ", ".join(map(str, turns.undecided(goal_x)))
        undecided = f" (undecided: {undecided})" * bool(undecided)
        kept = chosen_there[goal_x]
        one = f"A TPOT of at most {goal_x:g} times that of one at a time keeps {best}{undecided}"
        said.append(f"{one} here and, by one run each, {kept} there. {_next_there(kept, [*there])}")
    if both := [value for value in turns.runs if value in price_there and value != ONE]:
        n, here = both[-1], turns.middle(both[-1]).metrics
        said.append(
            f"With {n} at once TPOT is {_times(turns.slower(n))} that of one here "
            f"({_size(here)}), {price_there[n]:.2f} times there ({_size(there[n])}): "
            "another model, machine or load; these runs cannot tell which."
        )
    return said


def _next_there(kept: int, recorded: list[int]) -> str:
    """Where to begin on such a GPU, and what to try beside it."""
    larger = min((value for value in recorded if value > kept), default=None)
    if larger is None:
        return f"Begin there with {kept}; it ends that sweep, so try more."
    if larger <= 2 * kept:
        return f"Begin there with {kept}."
    between = f"nothing was recorded between {kept} and {larger}"
    return f"Begin there with {kept}, and try {2 * kept}: {between}."


def _size(metrics: dict) -> str:
    """The mean lengths of a run's requests."""
    n = metrics["requests"]
    return f"{metrics['input_tokens'] / n:.0f} tokens in, {metrics['output_tokens'] / n:.0f} out"


def in_turn(turns: InTurn, chosen: dict[float, int]) -> list[dict[str, str | int]]:
    """A table's row for each value: its gain, its price, and which goals it meets.

    chosen: goal -> the value that is kept for it.
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
            mark = ", kept" if value == best else ""
            row[f"at most {goal_x:g} times?"] = answers[turns.meets(value, goal_x)] + mark
        rows.append(row)
    return rows


def engine_life(
    before_gib: float, phases: list[dict], memory: dict[str, float], said: str = ""
) -> list[str]:
    """What each phase added to memory, and where the load shows instead.

    phases: as MemorySampler.summary() has them. memory: the record's metrics. said: the phase that
    the student chose.
    """
    added, last = {}, before_gib
    for phase in phases:  # one that was over between two samples has no end
        if phase["end_gib"] is not None and phase["label"] != "close":
            added[phase["label"]], last = phase["end_gib"] - last, phase["end_gib"]
    grew = ", ".join(f"{gib:+.2f} GiB during {label}" for label, gib in added.items())
    prefill, decode = (memory[f"kv_cache_{phase}_percent"] for phase in ("prefill", "decode"))
    chose = f" (you said {said})" * bool(said)
    return [
        f"Memory changed by {grew}: most during {max(added, key=added.get)}{chose}.",
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


def _times(gain: Gain) -> str:
    """The measured range alone: no verdict. One at a time is 1 by definition."""
    alone = gain.low == gain.high == 1
    return "1" if alone else f"{gain.ends} times"
