"""How far off the planner may be, and the one rule by which both plans of notebook 4 choose.

A time may turn out shorter or longer by the usual error. At the far end it is also as many times
longer than expected as a load was that has been recorded on several GPUs.
"""

import math
from functools import lru_cache

from . import recorded
from .choose import Choice, choice_of
from .hardware import make_box
from .load import RequestMix
from .memory import EngineOptions
from .models import load_shape

KEEPS, CANNOT_TELL, MISSES = "yes", "cannot tell", "no"
# Where the load was recorded that ranges count with, and where one that they were held against.
LEARNED, HELD = "H200-SXM", "H100-SXM"


@lru_cache(maxsize=2)
def beside_load(gpu: str = LEARNED) -> tuple[list[dict], str]:
    """Layouts that were recorded under load on several GPUs, beside their plans; where that was.

    Rows, fewest GPUs first: {"layout", "cut" (whether TP or PP cuts the model), "tp", "ttft_ms",
    "tpot_ms", "speedup" over the first}, the last two also as "expected_..."; "may_tpot_ms" is
    (low, high): the usual error about what is expected, for another than LEARNED its whole range.
    """
    found = sorted(recorded.loads(gpu), key=lambda one: math.prod(one["sizes"]))
    first, rows, over = found[0], [], None
    shape = load_shape(first["model"])
    options = EngineOptions(max_model_len=first["max_model_len"])
    for one in found:
        box, mix = make_box(one["gpu"], math.prod(one["sizes"])), RequestMix(*one["load"])
        plan = choice_of(shape, box, tuple(one["sizes"]), mix, options)
        over = over or plan
        tpot_ms = 1e3 * plan.prediction.tpot_s
        row = {"layout": plan.short, "tp": plan.tp, "cut": plan.tp * plan.pp > 1}
        row |= {name: one[name] for name in ("tpot_ms", "ttft_ms")}
        row["speedup"] = one["output_tokens_per_s"] / first["output_tokens_per_s"]
        row["expected_speedup"] = speedup(plan, over)
        row["expected_tpot_ms"] = tpot_ms
        row["may_tpot_ms"] = tpot_range_ms(plan, 1.0 if gpu == LEARNED else None)
        rows.append(row)
    given, answered, clients = first["load"]
    load = f"{clients} requests at once of {given:,} + {answered} tokens"
    return rows, f"{recorded_on(gpu)} ({first['model']}, {load}, {first['day']})"


def recorded_on(gpu: str) -> str:
    """The machine of that load, such as "4 x NVIDIA H200"."""
    one, *_ = recorded.loads(gpu)
    return f"{one['gpus']} x {one['name']}"


def on_record(choice: Choice) -> tuple[float, str] | None:
    """(TPOT in ms, on which GPUs) of the run of this plan: same expected TPOT."""
    for gpu in (HELD, LEARNED):
        for row in beside_load(gpu)[0]:
            same = math.isclose(row["expected_tpot_ms"], 1e3 * choice.prediction.tpot_s)
            if same and row["layout"] == choice.short:
                return row["tpot_ms"], recorded_on(gpu)
    return None


def recorded_speedups(choice: Choice, over: Choice) -> list[tuple[float, float, str]]:
    """(speed-up over `over`, TPOT in ms, on which GPUs) of each run of a plan that is on record."""
    found = []
    for gpu in (HELD, LEARNED) if on_record(over) else ():
        rows = {row["layout"]: row for row in beside_load(gpu)[0]}
        if one := rows.get(choice.short):
            times = one["speedup"] / rows[over.short]["speedup"]
            found.append((times, one["tpot_ms"], recorded_on(gpu)))
    return found


def longer(gpus: int) -> float:
    """The most times as long as expected that TPOT was under that load.

    gpus: that TP and PP cut a copy over: one, or any more.
    """
    rows, _ = beside_load()
    took = [row["tpot_ms"] / row["expected_tpot_ms"] for row in rows if row["cut"] == (gpus > 1)]
    return max(took)


def tpot_range_ms(choice: Choice, m: float | None = None) -> tuple[float, float]:
    """(shortest, longest) that a plan's TPOT may turn out. m: of its far end; None: `longer`."""
    usual, tpot_ms = recorded.usual_error()[0], 1e3 * choice.prediction.tpot_s
    m = longer(choice.tp * choice.pp) if m is None else m
    return tpot_ms / (1 + usual), m * tpot_ms / (1 - usual)


def within(choice: Choice, goal_ms: float, m: float | None = None) -> str:
    """Whether a plan runs all requests at once and keeps TPOT within the goal."""
    low_ms, high_ms = tpot_range_ms(choice, m)
    if choice.at_once < choice.prediction.workload.concurrency or low_ms > goal_ms:
        return MISSES
    return KEEPS if high_ms <= goal_ms else CANNOT_TELL


def far_ms(choice: Choice, m: float | None = None) -> float:
    """The longest that a plan's TPOT may turn out."""
    return tpot_range_ms(choice, m)[1]


def level(choices, m: float | None = None) -> list[Choice]:
    """Those whose far ends the usual error does not tell from the shortest one."""
    shortest = min(far_ms(c, m) for c in choices)
    return [c for c in choices if far_ms(c, m) <= (1 + recorded.usual_error()[0]) * shortest]


def take(choices, goal_ms: float, m: float | None = None) -> Choice:
    """The layout that the rule takes. m: None: as recorded; 1: if the load took no longer."""
    fitting = [c for c in choices if c.fits]
    sure = [c for c in fitting if within(c, goal_ms, m) == KEEPS]
    if not sure:
        return nearest(fitting, goal_ms, m)
    fewest = min(c.gpus for c in sure)
    peers = level([c for c in sure if c.gpus == fewest], m)
    copies = [c for c in peers if c.tp * c.pp == 1]  # a GPU for each copy
    return min(copies or peers, key=lambda c: far_ms(c, m))


def nearest(choices, goal_ms: float, m: float | None = None) -> Choice:
    """The shortest far end, of those that may keep the goal or at least run all at once."""

    def far(choice: Choice) -> tuple[bool, bool, float]:
        waits = choice.at_once < choice.prediction.workload.concurrency
        return within(choice, goal_ms, m) == MISSES, waits, far_ms(choice, m)

    return min(choices, key=far)


def speedup(choice: Choice, over: Choice) -> float:
    """Output tokens/s of one plan over those of another."""
    return choice.prediction.output_tokens_per_s / over.prediction.output_tokens_per_s


def speedup_range(choice: Choice, over: Choice) -> tuple[float, float]:
    """(low, high) of a predicted speed-up over another plan of the same model on the same GPUs.

    An error that both share leaves a ratio as it is. It counts the usual error once, as if one of
    the two were off by it and the other not, and what the recorded load took longer in both plans.
    """
    usual, times = recorded.usual_error()[0], speedup(choice, over)
    ends = times, times * longer(over.tp * over.pp) / longer(choice.tp * choice.pp)
    return min(ends) / (1 + usual), max(ends) / (1 - usual)
