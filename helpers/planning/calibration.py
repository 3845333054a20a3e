"""Move the planner's parameters by what was measured, each in proportion to its doubt.

Least squares on logarithms (Gauss-Newton): (log predicted / measured)^2 / trust^2 for every number
plus (log factor)^2 / doubt^2 for every parameter. One point cannot tell slow memory from costly
launches; it moves both, the more doubtful one more. Points with TP 1 leave the all-reduce alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .hardware import Box, Gpu, PlanningError
from .load import RequestMix, check_counts, predict_speed
from .memory import EngineOptions, plan_memory
from .models import ModelShape
from .predict import Tuning, default_tuning

SIZES = ("tp", "pp", "dp", "concurrency", "input_tokens", "output_tokens")
# What a point may have measured: field of a Point and of a SpeedPrediction, in words.
MEASURED = {
    "tpot_s": "TPOT",
    "ttft_s": "TTFT",
    "prefill_s": "prefill",
    "output_tokens_per_s": "output tokens/s",
}
# One standard deviation of such a number, as a share of it.
TRUST = {"tpot_s": 0.02, "ttft_s": 0.10, "prefill_s": 0.02, "output_tokens_per_s": 0.02}
MOST = 3.0  # a parameter that has to move further than so many times is not what was wrong
UNIT = 300.0  # a point that is so many times off was typed in another unit

# One standard deviation of the logarithm of each parameter: how wrong the default may be.
DOUBT = {
    "read_efficiency": 0.08,
    "compute_efficiency": 0.15,
    "experts_efficiency": 0.45,
    "kv_efficiency": 0.25,
    "attention_efficiency": 0.30,
    "layer_s": 0.35,
    "step_s": 0.60,
    "eager_step_s": 0.60,
    "stream_s": 1.0,
    "allreduce_s": 0.50,
    "nccl_s": 0.30,
    "link_efficiency": 0.25,
    "hop_s": 0.70,
    "host_s": 0.50,
    "host_stream_s": 0.50,
    "host_layer_s": 0.50,
    "frontend_s": 0.70,
}


def doubt_for(gpu: Gpu) -> dict:
    """Doubt of each parameter for this GPU: larger where nothing was recorded."""
    if gpu.family == "cpu":
        # The probe's core may be busy, and a small model's weights are read from the cache.
        return dict.fromkeys(DOUBT, 1.0)
    wider = 1.0 if gpu.family == "hopper" else 1.5
    return {name: min(1.2, value * wider) for name, value in DOUBT.items()}


@dataclass(frozen=True)
class Point:
    """One measurement of ``concurrency`` clients, each with one request at a time.

    shape: the model that was measured; None: the planned one. tpot_s, ttft_s: means under that
    load; prefill_s: one prompt alone; output_tokens_per_s: of all replicas.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    concurrency: int = 1
    input_tokens: int = 128
    output_tokens: int = 64
    tpot_s: float | None = None
    ttft_s: float | None = None
    prefill_s: float | None = None
    output_tokens_per_s: float | None = None
    shape: ModelShape | None = None

    def measured(self) -> dict[str, float]:
        """{field: what was measured}."""
        values = {name: getattr(self, name) for name in MEASURED}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Calibration:
    """Parameters after measurements, with each number's error before and after (ratio - 1).

    moved: factor of each parameter. doubt: what is left of each parameter's doubt, one standard
    deviation of its logarithm.
    """

    tuning: Tuning
    before: tuple
    after: tuple
    moved: dict
    doubt: dict

    def __str__(self) -> str:
        before, after = (
            ", ".join(f"{e:+.1%}" for e in errors) for errors in (self.before, self.after)
        )
        moved = [f"{name} x{x:.2f}" for name, x in self.moved.items() if abs(x - 1) > 0.005]
        fitted = f"fitted: {before} off before, {after} after"
        return f"{fitted};\nmoved: {', '.join(moved) or 'nothing'}"


def calibrate(
    shape: ModelShape, box: Box, points, options: EngineOptions | None = None
) -> Calibration:
    """Move the parameters of a machine so that the points are met.

    options: of the engines that were measured. Raises PlanningError for points that cannot have
    been measured, and for those that only parameters far from any machine's would explain.
    """
    points = list(points)
    _check(points)
    start, doubt = default_tuning(box.gpu), doubt_for(box.gpu)
    names, on_cpu = list(doubt), box.gpu.family == "cpu"
    predict = [_predictor(point, shape, box, options) for point in points]

    def tuned(logs) -> Tuning:
        moved = zip(names, logs, strict=True)
        return replace(start, **{n: getattr(start, n) * math.exp(x) for n, x in moved})

    def ratios(tuning) -> list[float]:
        return [ratio for of_point in predict for ratio in of_point(tuning)]

    trust = np.array([TRUST[name] for point in points for name in point.measured()])
    doubts = np.array([doubt[n] for n in names])
    factors, left = _fit(lambda logs: np.log(ratios(tuned(logs))) / trust, doubts)
    result = tuned(factors)
    if not on_cpu:  # efficiencies stay below the datasheet; a CPU's cache does not
        efficiencies = [n for n in names if n.endswith("efficiency")]
        result = replace(result, **{n: min(getattr(result, n), 1.0) for n in efficiencies})
    moved = {n: getattr(result, n) / getattr(start, n) if getattr(start, n) else 1.0 for n in names}
    before, after = ratios(start), ratios(result)
    if not on_cpu:
        _refuse_the_impossible(points, shape, box, before, after, moved)
    return Calibration(
        result,
        tuple(r - 1 for r in before),
        tuple(r - 1 for r in after),
        moved,
        dict(zip(names, left.tolist(), strict=True)),
    )


def _check(points: list[Point]) -> None:
    if not points:
        raise PlanningError(
            "A calibration needs at least one measured point, such as "
            "tp=1,concurrency=1,tpot_ms=4.9."
        )
    for point in points:
        check_counts(point, SIZES)
        if not point.measured():
            raise PlanningError(
                "A calibration point needs what was measured: tpot_ms, ttft_ms, prefill_ms or "
                "output_tokens_per_s."
            )
        for name, value in point.measured().items():
            most = 1e4 if name.endswith("_s") and "per" not in name else 1e7
            if not (isinstance(value, (int, float)) and 0 < value < most):
                raise PlanningError(
                    f"{MEASURED[name]} of a calibration point must be a positive number, and "
                    f"{value!r} is not one."
                )
        if point.tpot_s is not None and point.output_tokens == 1:
            raise PlanningError("An answer of one token has no TPOT: give output_tokens.")


def _predictor(point: Point, shape, box, options) -> Callable[[Tuning], list[float]]:
    """A function that gives predicted / measured of what the point measured."""
    if point.shape is not None and options:  # the planned model's length says nothing of this one
        options = replace(options, max_model_len=None)
    shape = point.shape or shape
    sizes = point.tp, point.pp, point.dp
    mix = RequestMix(point.input_tokens, point.output_tokens, point.concurrency)
    try:
        memory = plan_memory(shape, box, *sizes, options)
        if not memory.fits:
            raise PlanningError(f"{shape.name} does not fit: {memory.problem}")
        predict_speed(shape, box, *sizes, mix, memory=memory)
    except PlanningError as problem:
        raise PlanningError(f"The calibration point cannot have been measured: {problem}") from None

    def ratios(tuning: Tuning) -> list[float]:
        p = predict_speed(shape, box, *sizes, mix, tuning=tuning, memory=memory)
        return [getattr(p, name) / value for name, value in point.measured().items()]

    return ratios


def _fit(residuals, doubts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(logarithms of the factors that make residuals and moves small together, doubt that is left).

    A load is played, so its numbers change in small jumps: the slopes are taken over 1 %.
    """
    prior = 1 / doubts
    factors = np.zeros(len(doubts))

    def cost(logs, found) -> float:
        return float((found**2).sum() + ((logs * prior) ** 2).sum())

    base = residuals(factors)
    for _ in range(15):
        moves = 0.01 * np.eye(len(factors))
        jacobian = np.stack([(residuals(factors + one) - base) / 0.01 for one in moves], axis=1)
        a = np.vstack([jacobian, np.diag(prior)])
        b = np.concatenate([-base, -factors * prior])
        step, *_ = np.linalg.lstsq(a, b, rcond=None)
        scale, here = 1.0, cost(factors, base)
        # A full step may overshoot where the roofline bends: half of it, until it helps.
        while scale > 0.05:
            tried = factors + scale * np.clip(step, -1, 1)
            found = residuals(tried)
            if cost(tried, found) < here:
                factors, base = tried, found
                break
            scale /= 2
        if scale <= 0.05 or here - cost(factors, base) < 1e-3 * (1 + here):
            break
    return factors, np.sqrt(np.diag(np.linalg.inv(a.T @ a)))


def _refuse_the_impossible(points, shape, box, before, after, moved) -> None:
    """Raise PlanningError when a point needs parameters that no machine has."""
    numbers = [(point, name, value) for point in points for name, value in point.measured().items()]
    name, factor = max(moved.items(), key=lambda item: abs(math.log(item[1])))
    worst = max(range(len(after)), key=lambda i: abs(math.log(after[i])))
    if max(factor, 1 / factor) <= MOST and abs(after[worst] - 1) <= 0.5:
        return
    worst = max(range(len(before)), key=lambda i: abs(math.log(before[i])))
    point, quantity, value = numbers[worst]
    model = (point.shape or shape).name
    unit = 1.0 if quantity == "output_tokens_per_s" else 1e3
    in_unit = "" if unit == 1.0 else " ms"
    times = f"{factor:,.0f}" if factor >= 10 else f"{factor:.2g}"
    raise PlanningError(
        f"The calibration is refused, because {name} would have to be {times} times what it is for "
        f"{box.gpu.name}: {MEASURED[quantity]} of {model} was given as {value * unit:.4g}{in_unit} "
        f"where {value * unit * before[worst]:.4g}{in_unit} is predicted; likely "
        f"{_likely_cause(quantity, before[worst])}."
    )


def _likely_cause(quantity: str, ratio: float) -> str:
    """Why a number is so far from its prediction. ratio: predicted / measured."""
    if not 1 / UNIT < ratio < UNIT:
        per_s = "tokens a second" if quantity == "output_tokens_per_s" else "milliseconds"
        return f"its unit is not {per_s}"
    slower = ratio > 1 if quantity == "output_tokens_per_s" else ratio < 1
    if slower:
        return (
            "another program used the GPU or its CPU, the engine ran without CUDA graphs, or the "
            "point is of a larger model (model=) or a heavier load (concurrency=, input_tokens=)"
        )
    if quantity in ("ttft_s", "prefill_s"):
        return (
            "the prefix cache held the prompts, or the point is of a smaller model (model=), "
            "shorter prompts (input_tokens=) or more GPUs (tp=)"
        )
    return "the point is of a smaller or quantised model (model=), more GPUs (tp=) or another load"
