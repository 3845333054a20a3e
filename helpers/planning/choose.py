"""Compare every way to use a box, and say which one to take and why.

``rank`` looks at all TP x PP x DP that vLLM accepts, sizes and predicts each, drops what does not
fit or misses the goal, and orders the rest by what the goal asks for. ``rule_of_thumb`` is vLLM's
documented advice beside it.
"""

import math
from dataclasses import dataclass, field, replace

from .hardware import Box, PlanningError, make_box
from .load import RequestMix, SpeedPrediction, predict_speed
from .memory import EngineOptions, plan_memory, why_refused
from .models import ModelShape
from .predict import Tuning

MOST_GPUS = 64  # whose layouts are compared
PREFERENCES = ("throughput", "latency", "price")


@dataclass(frozen=True)
class Goal:
    """What the service must do. Times in ms; None means no limit.

    tpot_ms, ttft_ms: the mean under the load. prefer: which of the plans that meet the
    limits is best. "throughput": most tokens per second of the whole box; "latency": lowest TPOT;
    "price": with a limit the fewest GPUs, then most tokens (the hour is what costs), without one
    the fewest GPUs per token per second (the cheapest token).
    """

    tpot_ms: float | None = None
    ttft_ms: float | None = None
    prefer: str = "throughput"


@dataclass(frozen=True)
class Choice:
    """One plan of the ranking; ``why`` says what is missed, or why there is no prediction."""

    tp: int
    pp: int
    dp: int
    prediction: SpeedPrediction | None = None
    fits: bool = False
    meets: bool = False
    why: str = ""
    price_per_million: float | None = None

    @property
    def layout(self) -> tuple[int, int, int]:
        """(tp, pp, dp)."""
        return self.tp, self.pp, self.dp

    @property
    def gpus(self) -> int:
        """GPUs of all replicas together."""
        return self.tp * self.pp * self.dp

    @property
    def at_once(self) -> int:
        """Requests that run at once on all replicas; the others wait."""
        return self.prediction.streams_per_replica * self.dp

    @property
    def short(self) -> str:
        """The sizes that are more than 1: "TP 4 x DP 2"."""
        return short_name(*self.layout, alone="TP 1")

    def name(self) -> str:
        """The layout in words."""
        return layout_name(*self.layout)


@dataclass(frozen=True)
class Ranking:
    """Choices, best first, then those that miss the goal or do not fit; reasons in sentences."""

    choices: tuple
    best: Choice | None
    thumb: Choice | None
    box: Box
    reasons: tuple = field(default_factory=tuple)

    @property
    def smallest(self) -> Choice:
        """The best of the plans that fit on the fewest GPUs."""
        fitting = [c for c in self.choices if c.fits]
        return min(fitting, key=lambda c: c.gpus)


def price_per_million(price_per_gpu_hour: float, gpus: int, tokens_per_s: float) -> float:
    """Price of a million output tokens at full load: price x GPUs / (tokens per hour) x 1e6.

    Raises PlanningError for a price that is none.
    """
    if not 0 <= price_per_gpu_hour < math.inf:
        raise PlanningError(
            "The price of a GPU for an hour must be a number of at least 0, not "
            f"{price_per_gpu_hour:g}."
        )
    return price_per_gpu_hour * gpus / (tokens_per_s * 3600) * 1e6


def combinations(gpus: int) -> list[tuple[int, int, int]]:
    """All (tp, pp, dp) whose product is at most ``gpus``. Raises PlanningError for very many."""
    if gpus > MOST_GPUS:
        raise PlanningError(
            f"The layouts of up to {MOST_GPUS} GPUs can be compared, not of {gpus}: say which one "
            "with --tp, --pp and --dp."
        )
    return [
        (tp, pp, dp)
        for tp in range(1, gpus + 1)
        for pp in range(1, gpus // tp + 1)
        for dp in range(1, gpus // (tp * pp) + 1)
    ]


def pure_layouts(gpus: int) -> list[tuple[int, int, int]]:
    """The (tp, pp, dp) that spread a model over all the GPUs in one way only: PP, TP or DP."""
    return list(dict.fromkeys([(1, 1, gpus), (1, gpus, 1), (gpus, 1, 1)]))


def rank(
    shape: ModelShape,
    box: Box,
    workload: RequestMix | None = None,
    options: EngineOptions | None = None,
    goal: Goal | None = None,
    tuning: Tuning | None = None,
    price_per_gpu_hour: float | None = None,
) -> Ranking:
    """Rank all plans of a box for a model, a request mix and a goal.

    Raises PlanningError, naming the nearest thing that works, when no plan fits.
    """
    workload = workload or RequestMix()
    choices = [
        choice_of(shape, box, layout, workload, options, tuning, price_per_gpu_hour)
        for layout in combinations(box.gpus)
    ]
    if not any(c.fits for c in choices):
        raise does_not_fit(shape, box, options)
    return _ranked(choices, box, goal or Goal())


def rank_again(ranking: Ranking, goal: Goal) -> Ranking:
    """The same plans for another goal: nothing is predicted anew."""
    return _ranked(ranking.choices, ranking.box, goal)


def _ranked(choices, box: Box, goal: Goal) -> Ranking:
    check_goal(goal)
    choices = [judged(c, goal) if c.fits else c for c in choices]
    fitting = [c for c in choices if c.fits]
    fitting.sort(key=lambda c: (not c.meets, *order(c, goal)))
    ordered = (*fitting, *(c for c in choices if not c.fits))
    best = ordered[0] if ordered[0].meets else None
    thumb = rule_of_thumb(box, ordered)
    return Ranking(ordered, best, thumb, box, tuple(_reasons(ordered, best, thumb, goal)))


def check_goal(goal: Goal) -> None:
    """Raise PlanningError for a goal that cannot be one."""
    if goal.prefer not in PREFERENCES:
        raise PlanningError(
            f'A goal prefers "throughput", "latency" or "price", not {goal.prefer!r}.'
        )
    for name in ("tpot_ms", "ttft_ms"):
        limit = getattr(goal, name)
        if limit is not None and not 0 < limit < math.inf:
            raise PlanningError(f"The limit {name} must be a number above 0, not {limit}.")


def short_name(tp: int, pp: int, dp: int, alone: str = "one GPU") -> str:
    """A layout by the sizes that are more than 1: "TP 4", "PP 2 x DP 2". alone: without any."""
    sizes = {"TP": tp, "PP": pp, "DP": dp}
    return " x ".join(f"{way} {n}" for way, n in sizes.items() if n > 1) or alone


def order(choice: Choice, goal: Goal) -> tuple[float, float]:
    """The smaller, the better for this goal."""
    p = choice.prediction
    if goal.prefer == "throughput":
        return -p.output_tokens_per_s, p.tpot_s
    if goal.prefer == "latency":
        return p.tpot_s, -p.output_tokens_per_s
    by_token = goal.tpot_ms is None and goal.ttft_ms is None
    price = choice.gpus / p.output_tokens_per_s if by_token else choice.gpus
    return price, -p.output_tokens_per_s


def choice_of(shape, box, layout, workload, options, tuning=None, price=None) -> Choice:
    """One layout (tp, pp, dp), sized and predicted; not yet judged by a goal."""
    tp, pp, dp = layout
    if problem := why_impossible(shape, box, tp, pp, dp, options):
        return Choice(tp, pp, dp, why=problem)
    memory = plan_memory(shape, box, tp, pp, dp, options)
    if not memory.fits:
        return Choice(tp, pp, dp, why=memory.problem)
    p = predict_speed(shape, box, tp, pp, dp, workload, options, tuning, memory)
    cost = None if price is None else price_per_million(price, tp * pp * dp, p.output_tokens_per_s)
    return Choice(tp, pp, dp, p, fits=True, price_per_million=cost)


def judged(choice: Choice, goal: Goal) -> Choice:
    """Whether a plan that fits meets the goal, and why not."""
    p, mix, missed = choice.prediction, choice.prediction.workload, []
    tpot_ms, ttft_ms = p.tpot_s * 1e3, p.ttft_s * 1e3
    if goal.tpot_ms is not None and tpot_ms > goal.tpot_ms:
        missed.append(f"TPOT {tpot_ms:.1f} ms is over {goal.tpot_ms:g} ms")
    if mix.rate is not None and math.isinf(p.ttft_s):
        missed.append(f"it serves {p.requests_per_s:.2f} of {mix.rate:g} requests/s")
    elif goal.ttft_ms is not None and ttft_ms > goal.ttft_ms:
        missed.append(f"TTFT {ttft_ms:.0f} ms is over {goal.ttft_ms:g} ms")
    if mix.rate is None and choice.at_once < mix.concurrency:
        missed.append(f"only {choice.at_once} of {mix.concurrency} requests run at once")
    return replace(choice, meets=not missed, why="; ".join(missed))


def rule_of_thumb(box: Box, choices) -> Choice | None:
    """The advice of vLLM's documentation (parallelism_scaling); None when nothing of it fits.

    It is about one replica: one GPU if the model fits, else TP over the GPUs of a machine, else
    over those of each machine with PP over the machines; PP instead of TP without NVLink, or where
    the model cannot be cut by the number of GPUs. It speaks of memory, and of no load.
    """
    fits = {c.layout[:2]: c for c in choices if c.fits and c.dp == 1}
    inside = [(box.gpus_per_node, 1), (1, box.gpus_per_node)]
    if box.gpu.link is None:  # no NVLink: stages instead of slices
        inside.reverse()
    layouts = [(1, 1), *inside, (box.gpus_per_node, box.nodes)]
    return next((fits[layout] for layout in layouts if layout in fits), None)


def _reasons(ordered, best, thumb, goal):
    if best is None:
        nearest = min((c for c in ordered if c.fits), key=lambda c: c.prediction.tpot_s)
        yield (
            f"No plan on this box meets the goal; the nearest is {nearest.name()}, which misses "
            f"because {nearest.why}."
        )
        return
    p, m = best.prediction, best.prediction.memory
    yield (
        f"{best.name()} is predicted to give {p.output_tokens_per_s:,.0f} output tokens/s, TPOT "
        f"{p.tpot_s * 1e3:.1f} ms and TTFT {p.ttft_s * 1e3:.0f} ms for {_load(p.workload)}."
    )
    yield (
        f"Each GPU holds {m.weights_gib_per_gpu:.1f} GiB of weights, and a replica has room for "
        f"{m.kv_cache_tokens:,} tokens of KV cache, or {m.max_concurrency:.1f} requests of "
        f"{m.options.max_model_len:,} tokens; one of this load has "
        f"{p.workload.input_tokens + p.workload.output_tokens:,}."
    )
    if p.tpot_s:  # an answer of one token has none
        part, ms = max(p.tpot.ms().items(), key=lambda item: item[1])
        words = part.removesuffix("_ms").replace("_", " ")
        yield (
            f"The largest part of its steps is {words} ({ms / p.tpot_s / 1e3:.0%}); the prompts of "
            f"others in the same steps are {p.prompts_s / p.tpot_s:.0%} of TPOT."
        )
    second = next((c for c in ordered[1:] if c.meets), None)
    if second:
        yield f"Next comes {second.name()} with {_speed(second, ' and ')}."
    if thumb is None:
        return
    if thumb.layout == best.layout:
        yield f"The rule of thumb for one replica says the same: {thumb.name()}."
        return
    why = f"for this goal ({goal.prefer}) the ranking disagrees."
    if not thumb.meets:
        why = f"it misses the goal, because {thumb.why}."
    yield f"The rule of thumb for one replica says {thumb.name()} ({_speed(thumb, ', ')}): {why}"


def _load(mix: RequestMix) -> str:
    """What comes, in words."""
    if mix.rate is not None:
        return f"{mix.rate:g} requests/s"
    return f"{mix.concurrency} request{'s' * (mix.concurrency > 1)} at once"


def _speed(choice: Choice, between: str) -> str:
    p = choice.prediction
    tokens, tpot_ms = f"{p.output_tokens_per_s:,.0f} tokens/s", p.tpot_s * 1e3
    return f"{tokens}{between}TPOT {tpot_ms:.1f} ms"


def machines_for(box: Box, tp: int, pp: int, dp: int) -> int | None:
    """The fewest machines of a box that share a layout's ranks, and its replicas, evenly."""
    ranks = tp * pp * dp
    for nodes in range(1, box.nodes + 1):
        even = ranks % nodes == 0 and (dp == 1 or dp % nodes == 0)
        if even and ranks // nodes <= box.gpus_per_node:
            return nodes
    return None


def why_impossible(
    shape: ModelShape, box: Box, tp: int, pp: int, dp: int, options=None
) -> str | None:
    """None when vLLM accepts these sizes and the box has GPUs for them, else one sentence."""
    if problem := why_refused(shape, tp, pp, dp, options):
        return problem
    ranks, sizes = tp * pp * dp, layout_name(tp, pp, dp)
    if ranks > box.gpus:
        return f"{sizes} needs {ranks} GPUs and the box has {box.gpus}."
    if machines_for(box, tp, pp, dp) is None:
        return f"{sizes} cannot be shared out evenly over up to {box.nodes} machines."
    return None


def holds(shape: ModelShape, box: Box, tp: int, pp: int, dp: int = 1, options=None) -> bool:
    """Whether vLLM accepts these sizes and every GPU of the box has room for its part."""
    return (
        why_impossible(shape, box, tp, pp, dp, options) is None
        and plan_memory(shape, box, tp, pp, dp, options).fits
    )


def smallest_box(
    shape: ModelShape, gpu, options=None, more_than: int = 0
) -> tuple[Box, int, int] | None:
    """(box, TP, PP) of the fewest GPUs of a kind that hold the model; None when 64 do not.

    Looks at 1 to 64 in powers of two that are more than ``more_than``.
    """
    for gpus in (n for n in (1, 2, 4, 8, 16, 32, 64) if n > more_than):
        box = make_box(gpu, gpus, max(1, math.ceil(gpus / 8)))
        for tp in (t for t in (8, 4, 2, 1) if t <= gpus):
            pp = gpus // tp
            if holds(shape, box, tp, pp, 1, options):
                return box, tp, pp
    return None


def planned_box(
    here: Box, shape: ModelShape, gpu=None, gpus: int | None = None, nodes: int = 1, options=None
) -> Box:
    """The box to plan for: the one asked for, or else a sensible one.

    gpu, gpus, nodes: a kind of the catalogue, how many in all, on how many machines. Without them:
    the GPUs that are here, when there are several and they hold the model; else eight of their kind
    (H100-SXM on a machine without), or as many more as the model needs.
    """
    on_cpu = here.gpu.family == "cpu"
    kind = gpu or ("H100-SXM" if on_cpu else here.gpu)
    if gpus:
        return make_box(kind, gpus, nodes)
    several_here = gpu is None and here.present and here.gpus > 1 and not on_cpu
    if several_here and any(
        holds(shape, here, t, p, 1, options) for t, p, d in combinations(here.gpus) if d == 1
    ):
        return here
    needed = smallest_box(shape, kind, options)
    return needed[0] if needed and needed[0].gpus > 8 else make_box(kind, 8, nodes)


def does_not_fit(shape: ModelShape, box: Box, options) -> PlanningError:
    """The error for a box that has no plan: why its most hopeful layout fails, and what works."""
    memories = {
        layout: plan_memory(shape, box, *layout, options)
        for layout in combinations(min(box.gpus, MOST_GPUS))
        if why_impossible(shape, box, *layout, options) is None
    }

    if not memories:
        widest = (why_refused(shape, tp, 1, 1, options) for tp in (box.gpus_per_node, 1))
        return PlanningError(next(filter(None, widest)))

    hope = {c: (m.max_concurrency, m.worst.kv_cache) for c, m in memories.items()}
    tp, pp, dp = best = max(hope, key=hope.get)
    memory, longest = memories[best], memories[best].longest
    where = f"{box.gpus} x {box.gpu.name} ({layout_name(*best)})"
    head = f"{shape.name} does not fit on {where}: {memory.problem}"
    nearest = f"{layout_flags(tp, pp, dp)} --max-model-len {longest}" if longest else ""
    if found := smallest_box(shape, box.gpu, options, more_than=box.gpus):
        bigger, tp, pp = found
        flags = layout_flags(tp, pp, 1)
        nearest = nearest or f"--gpus {bigger.gpus} {flags}"
        works = f"the nearest that works is {bigger.gpus} GPUs of this kind with {flags}"
        return PlanningError(f"{head}; {works}.", nearest)
    works = "take a smaller model or a GPU with more memory"
    return PlanningError(f"{head}; no box of up to 64 of these GPUs holds it: {works}.", nearest)


def layout_name(tp: int, pp: int, dp: int) -> str:
    """A layout in words."""
    return f"TP {tp} x PP {pp} x DP {dp}"


def layout_flags(tp: int, pp: int, dp: int) -> str:
    """A layout as the command's flags; sizes of 1 are left out, but for --tp."""
    return f"--tp {tp}" + f" --pp {pp}" * (pp > 1) + f" --dp {dp}" * (dp > 1)


def nearest_valid(shape: ModelShape, box: Box, tp: int, pp: int, dp: int, options=None) -> str:
    """Flags of the valid plan of this box nearest to (tp, pp, dp); "" without one."""

    def distance(layout):
        t, p, d = layout
        between = abs(math.log(t / tp)) * 2 + abs(math.log(p / pp))
        return between, -(t * p * d), abs(math.log(d / dp)), layout

    layouts = combinations(min(box.gpus, MOST_GPUS))
    found = [c for c in layouts if holds(shape, box, *c, options)]
    return layout_flags(*min(found, key=distance)) if found else ""
