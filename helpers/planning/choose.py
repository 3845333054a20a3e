"""Compare every way to use a box, and say which one to take and why.

``rank`` looks at all TP x PP x DP that vLLM accepts, sizes and predicts each, drops what does not fit or misses
the goal, and orders the rest by what the goal asks for. ``rule_of_thumb`` is vLLM's documented advice beside it.
"""

import math
from dataclasses import dataclass, field

from .errors import PlanningError
from .hardware import Box, make_box
from .memory import EngineOptions, plan_memory
from .models import ModelShape, why_invalid
from .predict import Prediction, Tuning, Workload, predict


@dataclass(frozen=True)
class Goal:
    """What the service must do. Times in ms; None means no limit. TPOT is the one with new prompts between the steps.

    prefer: which of the plans that meet the limits is best. "throughput": most tokens per second of the whole box;
    "latency": lowest TPOT; "price": with a limit the fewest GPUs, then most tokens (the hour is what costs), without
    one the fewest GPUs per token per second (the cheapest token).
    """

    tpot_ms: float | None = None
    ttft_ms: float | None = None
    prefer: str = "throughput"


@dataclass(frozen=True)
class Choice:
    """One plan of the ranking. ``meets`` is False when a limit of the goal is missed; ``why`` says it."""

    tp: int
    pp: int
    dp: int
    prediction: Prediction | None
    fits: bool
    meets: bool
    why: str
    price_per_million: float | None = None

    @property
    def gpus(self) -> int:
        return self.tp * self.pp * self.dp

    def name(self) -> str:
        return f"TP {self.tp} x PP {self.pp} x DP {self.dp}"


@dataclass(frozen=True)
class Ranking:
    """Choices, best first; then those that miss the goal or do not fit. ``reasons``: sentences for a person."""

    choices: tuple
    best: Choice | None
    thumb: Choice | None
    reasons: tuple = field(default_factory=tuple)


def price_per_million(price_per_gpu_hour: float, gpus: int, tokens_per_s: float) -> float:
    """Price of a million output tokens at full load: price x GPUs / (tokens per hour) x 1e6."""
    if not 0 <= price_per_gpu_hour < math.inf:
        raise PlanningError(
            f"The price of a GPU for an hour must be a number of at least 0, not {price_per_gpu_hour:g}."
        )
    return price_per_gpu_hour * gpus / (tokens_per_s * 3600) * 1e6


def combinations(gpus: int, use_all: bool = False) -> list[tuple[int, int, int]]:
    """All (tp, pp, dp) whose product is at most ``gpus`` (equal to it when ``use_all``)."""
    found = []
    for tp in range(1, gpus + 1):
        for pp in range(1, gpus // tp + 1):
            for dp in range(1, gpus // (tp * pp) + 1):
                if not use_all or tp * pp * dp == gpus:
                    found.append((tp, pp, dp))
    return found


def rank(
    shape: ModelShape,
    box: Box,
    workload: Workload | None = None,
    options: EngineOptions | None = None,
    goal: Goal | None = None,
    tuning: Tuning | None = None,
    price_per_gpu_hour: float | None = None,
    use_all: bool = False,
    usage: str = "server",
    sizes=None,
) -> Ranking:
    """Rank all plans of a box for a model, a request mix and a goal.

    sizes: (tp, pp, dp) to look at instead of all. Raises PlanningError, naming the nearest thing that works, when
    no plan fits.
    """
    workload, goal = workload or Workload(), goal or Goal()
    if goal.prefer not in ("throughput", "latency", "price"):
        raise PlanningError(
            f'A goal prefers "throughput", "latency" or "price", not {goal.prefer!r}.'
        )
    choices = []
    for tp, pp, dp in sizes or combinations(box.gpus, use_all):
        choices.append(
            _one(shape, box, tp, pp, dp, workload, options, goal, tuning, price_per_gpu_hour, usage)
        )
    fitting = [c for c in choices if c.fits]
    if not fitting:
        raise PlanningError(nearest_that_fits(shape, box, options, usage, choices))

    def order(c: Choice):
        p = c.prediction
        by = {
            "throughput": (-p.output_tokens_per_s, p.mixed_tpot_s),
            "latency": (p.mixed_tpot_s, -p.output_tokens_per_s),
            "price": (c.gpus / p.output_tokens_per_s if goal.tpot_ms is None and goal.ttft_ms is None else c.gpus,
                      -p.output_tokens_per_s),
        }[goal.prefer]  # fmt: skip
        return (not c.meets, *by)

    ordered = tuple(sorted(fitting, key=order)) + tuple(c for c in choices if not c.fits)
    best = ordered[0] if ordered[0].meets else None
    thumb = rule_of_thumb(box, ordered)
    return Ranking(ordered, best, thumb, tuple(_reasons(ordered, best, thumb, goal, workload)))


def _one(shape, box, tp, pp, dp, workload, options, goal, tuning, price, usage) -> Choice:
    ep = tp * dp if options and options.enable_expert_parallel else 1
    if problem := why_invalid(shape, tp, pp, dp, ep):
        return Choice(tp, pp, dp, None, False, False, problem)
    memory = plan_memory(shape, box, tp, pp, dp, options, usage)
    if not memory.fits:
        return Choice(tp, pp, dp, None, False, False, memory.problem)
    p = predict(shape, box, tp, pp, dp, workload, options, tuning, usage, memory)
    missed = []
    if goal.tpot_ms is not None and p.mixed_tpot_s * 1e3 > goal.tpot_ms:
        missed.append(f"TPOT {p.mixed_tpot_s * 1e3:.1f} ms is over {goal.tpot_ms:g} ms")
    if goal.ttft_ms is not None and p.ttft_s * 1e3 > goal.ttft_ms:
        missed.append(f"TTFT {p.ttft_s * 1e3:.0f} ms is over {goal.ttft_ms:g} ms")
    if p.streams_per_replica * dp < workload.concurrency:
        missed.append(
            f"only {p.streams_per_replica * dp} of {workload.concurrency} requests run at once"
        )
    cost = None if price is None else price_per_million(price, tp * pp * dp, p.output_tokens_per_s)
    return Choice(tp, pp, dp, p, True, not missed, "; ".join(missed), cost)


def rule_of_thumb(box, choices) -> Choice | None:
    """vLLM's advice (docs, parallelism_scaling): one GPU if the model fits, else TP inside a machine, else TP x PP
    across machines (PP instead of TP without NVLink); what is left of the box serves replicas (DP)."""
    fits = {(c.tp, c.pp, c.dp): c for c in choices if c.fits}

    def with_replicas(tp, pp):
        for dp in range(box.gpus // (tp * pp), 0, -1):
            if (tp, pp, dp) in fits:
                return fits[(tp, pp, dp)]
        return None

    if any(key[:2] == (1, 1) for key in fits):
        return with_replicas(1, 1)
    node = box.gpus_per_node
    inside = [tp for tp in range(2, node + 1) if any(k[:2] == (tp, 1) for k in fits)]
    if box.gpu.link is None:  # no NVLink: stages instead of slices
        staged = [pp for pp in range(2, node + 1) if any(k[:2] == (1, pp) for k in fits)]
        if staged:
            return with_replicas(1, staged[0])
    if inside:
        return with_replicas(inside[0], 1)
    for nodes in range(2, box.nodes + 1):
        if any(k[:2] == (node, nodes) for k in fits):
            return with_replicas(node, nodes)
    rest = [k for k in fits if k[0] <= node]
    return fits[min(rest, key=lambda k: (k[0] * k[1], k[1]))] if rest else None


def _reasons(ordered, best, thumb, goal, workload):
    if best is None:
        nearest = min((c for c in ordered if c.fits), key=lambda c: c.prediction.mixed_tpot_s)
        yield (
            f"No plan on this box meets the goal; the nearest is {nearest.name()}, which misses because "
            f"{nearest.why}."
        )
        return
    p, m = best.prediction, best.prediction.memory
    yield (
        f"{best.name()} is predicted to give {p.output_tokens_per_s:,.0f} output tokens/s, TPOT "
        f"{p.mixed_tpot_s * 1e3:.1f} ms and TTFT {p.ttft_s * 1e3:.0f} ms for {workload.concurrency} request{'s' * (workload.concurrency > 1)} at once."
    )
    yield (
        f"Each GPU holds {m.weights_gib_per_gpu:.1f} GiB of weights, and a replica has room for "
        f"{m.kv_cache_tokens:,} tokens of KV cache, or {m.max_concurrency:.1f} requests of {m.options.max_model_len:,} "
        "tokens."
    )
    largest = max(p.decode.ms().items(), key=lambda item: item[1])
    yield f"The largest part of a decode step is {largest[0].removesuffix('_ms').replace('_', ' ')} ({largest[1] / (p.decode.total * 1e3):.0%})."
    second = next((c for c in ordered[1:] if c.meets), None)
    if second:
        q = second.prediction
        yield (
            f"Next comes {second.name()} with {q.output_tokens_per_s:,.0f} tokens/s and TPOT "
            f"{q.mixed_tpot_s * 1e3:.1f} ms."
        )
    if thumb is None:
        return
    if (thumb.tp, thumb.pp, thumb.dp) == (best.tp, best.pp, best.dp):
        yield f"The rule of thumb says the same: {thumb.name()}."
    else:
        t = thumb.prediction
        yield (
            f"The rule of thumb says {thumb.name()} ({t.output_tokens_per_s:,.0f} tokens/s, TPOT "
            f"{t.mixed_tpot_s * 1e3:.1f} ms): "
            + (
                f"it misses the goal, because {thumb.why}."
                if not thumb.meets
                else f"for this goal ({goal.prefer}) the ranking disagrees."
            )
        )


def holds(
    shape: ModelShape, box: Box, tp: int, pp: int, dp: int = 1, options=None, usage="server"
) -> bool:
    """Whether vLLM accepts these sizes for the model and every GPU of the box has room for its part."""
    return (
        why_invalid(shape, tp, pp, dp) is None
        and plan_memory(shape, box, tp, pp, dp, options, usage).fits
    )


def smallest_box(
    shape: ModelShape, gpu, options=None, usage="server", more_than: int = 0
) -> tuple[Box, int, int] | None:
    """(box, TP, PP) of the fewest GPUs of a kind, 1 to 64 in powers of two and more than `more_than`, that hold the model."""
    for gpus in (n for n in (1, 2, 4, 8, 16, 32, 64) if n > more_than):
        box = make_box(gpu, gpus, max(1, math.ceil(gpus / 8)))
        for tp in (t for t in (8, 4, 2, 1) if t <= gpus):
            pp = gpus // tp
            if holds(shape, box, tp, pp, 1, options, usage):
                return box, tp, pp
    return None


def planned_box(
    here: Box, shape: ModelShape, gpu=None, gpus: int | None = None, nodes: int = 1, options=None
) -> Box:
    """The box to plan for: the one asked for, or else a sensible one.

    gpu, gpus, nodes: a kind of the catalogue, how many in all, on how many machines. Without them: the GPUs that are
    here, when there are several and they hold the model; else eight of their kind (H100-SXM on a machine without), or
    as many more as the model needs.
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


def nearest_that_fits(shape, box, options=None, usage="server", tried=()) -> str:
    """One sentence: why nothing fits this box, and the nearest change that does."""
    first = next(
        (c for c in tried if c.tp * c.pp * c.dp == box.gpus and c.dp == 1 and c.why), None
    ) or (tried[0] if tried else None)
    cause = first.why if first else "no plan fits"
    where = f" ({first.name()})" if first else ""
    head = f"{shape.name} does not fit on {box.gpus} x {box.gpu.name}{where}: {cause}"
    if found := smallest_box(shape, box.gpu, options, usage, more_than=box.gpus):
        bigger, tp, pp = found
        size = f"--tp {tp}" + (f" --pp {pp}" if pp > 1 else "")
        return f"{head}; the nearest that works is {bigger.gpus} GPUs of this kind with {size}."
    return f"{head}; no box of up to 64 of these GPUs holds it: take a smaller model or a GPU with more memory."


def nearest_valid(
    shape: ModelShape, box: Box, tp: int, pp: int, dp: int, options=None, usage="server"
) -> str:
    """A clause that names the valid plan nearest to (tp, pp, dp) on this box, or says what box would do."""
    found = []
    for t, p, d in combinations(box.gpus):
        if holds(shape, box, t, p, d, options, usage):
            distance = abs(math.log(t / tp)) * 2 + abs(math.log(p / pp))
            found.append((distance, -(t * p * d), abs(math.log(d / dp)), (t, p, d)))
    if not found:
        return ""
    t, p, d = min(found)[3]
    return f"the nearest that works here is --tp {t} --pp {p} --dp {d}"
