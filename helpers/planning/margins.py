"""How far off the planner may be, and the one rule by which both plans of notebook 4 choose.

A time may turn out shorter by the usual error. It may turn out longer by as much, and with prompts
that take as many times as long as predicted as a recorded one of 1,024 tokens did.
"""

from . import recorded
from .choose import Choice
from .layouts import recorded_on_two_gpus

PROMPT_TOKENS = 1024  # of the recorded prompt that ranges count with: as long as a load's
KEEPS, CANNOT_TELL, MISSES = "yes", "cannot tell", "no"


def recorded_prompt(tp: int = 2, tokens: int = PROMPT_TOKENS) -> dict:
    """A prompt as it was "predicted" and "measured" in ms, with its rounds' "low" and "high".

    tp: 1 or 2, tokens: 256 or 1024, which were run on a box of two H100s, one start of each.
    """
    rows, _ = recorded_on_two_gpus()
    this = (f"TP {tp}", "prefill_ms", tokens)
    [prompt] = [row for row in rows if (row["layout"], row["quantity"], row["case"]) == this]
    return prompt


def prompt_takes(gpus: int, tokens: int = PROMPT_TOKENS) -> float:
    """How many times as long as predicted such a prompt took, by the median round.

    gpus: that TP and PP cut the model over. TP 1 and TP 2 were run; more GPUs borrow from TP 2.
    """
    prompt = recorded_prompt(min(gpus, 2), tokens)
    return prompt["measured"] / prompt["predicted"]


def as_recorded_ms(choice: Choice) -> float:
    """A plan's TPOT if its prompts take as many times as long as the recorded one."""
    p = choice.prediction
    return 1e3 * (p.tpot_s + (prompt_takes(choice.tp * choice.pp) - 1) * p.prompts_s)


def tpot_range_ms(choice: Choice) -> tuple[float, float]:
    """(shortest, longest) that a plan's TPOT may turn out."""
    usual = recorded.usual_error()[0]
    return 1e3 * choice.prediction.tpot_s / (1 + usual), as_recorded_ms(choice) / (1 - usual)


def within(choice: Choice, goal_ms: float) -> str:
    """Whether a plan runs all requests at once and keeps TPOT within the goal."""
    low_ms, high_ms = tpot_range_ms(choice)
    if choice.at_once < choice.prediction.workload.concurrency or low_ms > goal_ms:
        return MISSES
    return KEEPS if high_ms <= goal_ms else CANNOT_TELL


def level(choices) -> list[Choice]:
    """Those whose far ends the usual error does not tell from the shortest one."""
    most_ms = (1 + recorded.usual_error()[0]) * min(tpot_range_ms(c)[1] for c in choices)
    return [c for c in choices if tpot_range_ms(c)[1] <= most_ms]


def take(choices, goal_ms: float) -> Choice:
    """The plan that keeps the goal with the fewest GPUs; where none does, that which comes nearest.

    Of those that are level the one whose copies have a GPU each, as the recorded load has it.
    """
    fitting = [c for c in choices if c.fits]
    sure = [c for c in fitting if within(c, goal_ms) == KEEPS]
    if sure:
        fewest = min(c.gpus for c in sure)
        peers = level([c for c in sure if c.gpus == fewest])
        return min(peers, key=lambda c: (c.tp * c.pp > 1, tpot_range_ms(c)[1]))

    def far(choice: Choice) -> tuple[bool, bool, float]:
        waits = choice.at_once < choice.prediction.workload.concurrency
        return within(choice, goal_ms) == MISSES, waits, tpot_range_ms(choice)[1]

    return min(fitting, key=far)


def speedup(choice: Choice, over: Choice) -> float:
    """Output tokens/s of one plan over those of another."""
    return choice.prediction.output_tokens_per_s / over.prediction.output_tokens_per_s


def speedup_range(choice: Choice, over: Choice) -> tuple[float, float]:
    """(low, high) of a predicted speed-up over another plan of the same model on the same GPUs.

    What is wrong with both predictions alike cancels out: the usual error counts once, and the
    recorded prompts in both plans.
    """
    usual, times = recorded.usual_error()[0], speedup(choice, over)
    longer = [as_recorded_ms(c) / (1e3 * c.prediction.tpot_s) for c in (over, choice)]
    ends = times, times * longer[0] / longer[1]
    return min(ends) / (1 + usual), max(ends) / (1 - usual)
