"""How far the planner was off, as a margin: what looks better by less is not known to be better.

One margin for the range of Week 5's speed-up, for a goal that is kept, and for the rule of thumb.
"""

from . import recorded
from .choose import Choice, Goal, Ranking, order
from .layouts import recorded_on_two_gpus

# Tokens of the prompt that says how far off the planner can be: prompts are much of what a loaded
# server computes.
PROMPT_TOKENS = 1024
SAME, CANNOT_TELL, AHEAD, MISSES = "same plan", "cannot tell", "ranking ahead", "rule misses"
ALL_MISS = "all miss"  # no plan runs all requests at once


def slower(gpus: int = 2) -> float:
    """How much of a replica's time the planner may leave out, as a share of what is measured.

    gpus: that TP and PP cut the model over. Of one: the usual error; of several: what it had left
    out of recorded_prompt.
    """
    if gpus == 1:
        return recorded.usual_error()[0]
    prompt = recorded_prompt()
    return 1 - prompt["before"] / prompt["measured"]


def recorded_prompt(tp: int = 2) -> dict:
    """Such a prompt as it was predicted ("before") and "measured" in ms; one run.

    tp: 1 or 2, which were run on a box of two H100s.
    """
    rows, _ = recorded_on_two_gpus()
    this = (f"TP {tp}", "prefill_ms", PROMPT_TOKENS)
    [prompt] = [row for row in rows if (row["layout"], row["quantity"], row["case"]) == this]
    return prompt


def explained(gpus: int = 1) -> float:
    """How many times as good a plan may look by the planner's errors alone.

    gpus: of one of its replicas. Its own time may have been predicted too short, the other's too
    long.
    """
    return (1 + recorded.usual_error()[0]) / (1 - slower(gpus))


def time_range(predicted: float, gpus: int) -> tuple[float, float]:
    """(shortest, longest) that a predicted time may turn out. gpus: of one replica."""
    return predicted / (1 + recorded.usual_error()[0]), predicted / (1 - slower(gpus))


def tpot_range_ms(choice: Choice) -> tuple[float, float]:
    """The same of a plan's TPOT."""
    return time_range(1e3 * choice.prediction.tpot_s, choice.tp * choice.pp)


def speedup_range(times: float, most: float, gpus: int) -> tuple[float, float]:
    """(low, high) of a predicted speed-up by several GPUs, when both predictions may be off.

    most: the share of the GPUs, such as 2 for TP 2 over TP 1. gpus: of one replica. Cutting the
    work adds all-reduces to it, so an error does not take the speed-up beyond that, unless more
    memory has done so already.
    """
    low, high = times / explained(gpus), times * explained()
    return low, high if times > most else min(high, most)


def against_rule(case: str, ranking: Ranking, goal: Goal) -> dict:
    """Compare the best plan of a ranking with the rule of thumb's, by what the goal prefers.

    goal: "latency" (TPOT; for so many requests at once the plan with most tokens/s is the same) or
    "price" (tokens/s per GPU), without limits. A difference that the planner's errors explain is
    "cannot tell". Returns {"case", "best by", "requests", "ranking", "rule of thumb", "times",
    "verdict", "why"}; times: how many times as good the ranking's plan is predicted to be, 1 for
    the same.
    """
    first, rule = ranking.choices[0], _replicas_for(ranking, goal)
    row = {"case": case, "best by": "tokens/s per GPU" if goal.prefer == "price" else "latency"}
    row |= {"requests": first.prediction.workload.concurrency, "ranking": first.name()}
    row["rule of thumb"] = rule.name() if rule else "none fits"
    if rule is None or (ranking.best and not rule.meets):
        why = rule.why if rule else "no plan of the rule fits"
        return {**row, "times": None, "verdict": MISSES, "why": why}
    times = order(rule, goal)[0] / order(first, goal)[0]
    verdict = AHEAD if times > explained(first.tp * first.pp) else CANNOT_TELL
    if ranking.best is None:
        verdict = ALL_MISS
    elif first.layout == rule.layout:
        verdict = SAME
    return {**row, "times": times, "verdict": verdict, "why": first.why}


def _replicas_for(ranking: Ranking, goal: Goal) -> Choice | None:
    """The rule of thumb's plan: for the price with no more replicas than the requests need."""
    thumb = ranking.thumb
    if thumb is None or goal.prefer != "price":
        return thumb
    enough = [c for c in ranking.choices if c.meets and c.layout[:2] == thumb.layout[:2]]
    return min(enough, key=lambda c: c.gpus, default=thumb)
