"""Move the planner's parameters by what was measured, each in proportion to its doubt.

Least squares on logarithms (Gauss-Newton): (log predicted / measured)^2 / TRUST^2 for every point
plus (log factor)^2 / doubt^2 for every parameter. One point cannot tell slow memory from costly
launches; it moves both, the more doubtful one more. Points with TP 1 leave the all-reduce alone.
"""

import math
from dataclasses import dataclass, replace

from .hardware import Box, Gpu, PlanningError
from .load import check_counts
from .models import ModelShape
from .predict import Tuning, decode_parts, default_tuning, prefill_parts

TRUST = 0.02  # one standard deviation of a measured time, as a share of it
COUNTS = ("tp", "pp", "dp", "concurrency", "input_tokens", "output_tokens")

# One standard deviation of the logarithm of each parameter: how wrong the default may be.
DOUBT = {
    "read_efficiency": 0.08,
    "compute_efficiency": 0.15,
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
    """One measurement: ``tpot_s`` (a decode step of ``concurrency`` streams) or ``prefill_s``."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    concurrency: int = 1
    input_tokens: int = 128
    output_tokens: int = 64
    tpot_s: float | None = None
    prefill_s: float | None = None
    chunk: int = 8192  # max_num_batched_tokens of the engine that was measured


@dataclass(frozen=True)
class Calibration:
    """Parameters after measurements, with each point's error before and after (ratio - 1)."""

    tuning: Tuning
    before: tuple
    after: tuple
    moved: dict  # parameter -> factor

    def __str__(self) -> str:
        before, after = (
            ", ".join(f"{e:+.1%}" for e in errors) for errors in (self.before, self.after)
        )
        moved = [f"{name} x{x:.2f}" for name, x in self.moved.items() if abs(x - 1) > 0.005]
        return f"error before {before}; after {after}; moved: {', '.join(moved) or 'nothing'}"


def calibrate(shape: ModelShape, box: Box, points) -> Calibration:
    """Move the parameters so that the points are met.

    Raises PlanningError for points that cannot have been measured, and when no reasonable setting
    explains one of them.
    """
    points = list(points)
    _check(points)
    start, doubt = default_tuning(box.gpu), doubt_for(box.gpu)
    names = list(doubt)

    def tuned(logs) -> Tuning:
        moved = zip(names, logs, strict=True)
        return replace(start, **{n: getattr(start, n) * math.exp(x) for n, x in moved})

    def ratios(tuning) -> list[float]:
        return [r for point in points for r in _ratios(point, shape, box, tuning)]

    factors = _fit(
        lambda logs: [math.log(r) for r in ratios(tuned(logs))], [doubt[n] for n in names]
    )
    result = tuned(factors)
    if box.gpu.family != "cpu":  # efficiencies stay below the datasheet; a CPU's cache does not
        efficiencies = [n for n in names if n.endswith("efficiency")]
        result = replace(result, **{n: min(getattr(result, n), 1.0) for n in efficiencies})
    before = tuple(r - 1 for r in ratios(start))
    after = tuple(r - 1 for r in ratios(result))
    worst = max(after, key=abs)
    if abs(worst) > 0.5 and box.gpu.family != "cpu":
        raise PlanningError(
            f"No reasonable setting of {box.gpu.name} explains the calibration: after moving every "
            f"parameter as far as its doubt allows, a point is still predicted {worst + 1:.2f} "
            "times what was measured; check its unit (ms), its model, tp and concurrency."
        )
    moved = {n: getattr(result, n) / getattr(start, n) if getattr(start, n) else 1.0 for n in names}
    return Calibration(result, before, after, moved)


def _check(points: list[Point]) -> None:
    if not points:
        raise PlanningError(
            "A calibration needs at least one measured point, such as "
            "tp=1,concurrency=1,tpot_ms=4.9."
        )
    for point in points:
        check_counts(point, (*COUNTS, "chunk"))
        times = [t for t in (point.tpot_s, point.prefill_s) if t is not None]
        if not times:
            raise PlanningError(
                "A calibration point needs tpot_ms or prefill_ms, the time that was measured."
            )
        for value in times:
            if not (isinstance(value, (int, float)) and 0 < value < 1e4):
                raise PlanningError(
                    f"A measured time must be a positive number, and {value!r} is not one."
                )


def _ratios(point: Point, shape, box, tuning) -> list[float]:
    """Predicted / measured of what the point measured."""
    ratios = []
    if point.tpot_s is not None:
        streams = max(1, math.ceil(point.concurrency / point.dp))
        context = point.input_tokens + point.output_tokens / 2
        parts = decode_parts(shape, box, point.tp, point.pp, streams, context, tuning=tuning)
        ratios.append(parts.total / point.tpot_s)
    if point.prefill_s is not None:
        parts = prefill_parts(
            shape, box, point.tp, point.pp, point.input_tokens, point.chunk, tuning=tuning
        )
        ratios.append(parts.total / point.prefill_s)
    return ratios


def _fit(residuals, doubts: list[float]) -> list[float]:
    """Logarithms of the factors that make the residuals and the moves small together."""
    import numpy as np

    prior = 1 / np.array(doubts)
    factors = [0.0] * len(doubts)

    def cost(logs) -> float:
        moves = sum((x * w) ** 2 for x, w in zip(logs, prior, strict=True))
        return sum((r / TRUST) ** 2 for r in residuals(logs)) + moves

    for _ in range(40):
        base = np.array(residuals(factors))
        jacobian = np.zeros((len(base), len(factors)))
        for i in range(len(factors)):
            moved = list(factors)
            moved[i] += 1e-4
            jacobian[:, i] = (np.array(residuals(moved)) - base) / 1e-4
        a = np.vstack([jacobian / TRUST, np.diag(prior)])
        b = np.concatenate([-base / TRUST, -np.array(factors) * prior])
        step, *_ = np.linalg.lstsq(a, b, rcond=None)
        scale, here = 1.0, cost(factors)
        # A full step may overshoot where the roofline bends: half of it, until it helps.
        while scale > 1e-3:
            clipped = [scale * float(np.clip(x, -1, 1)) for x in step]
            tried = [f + x for f, x in zip(factors, clipped, strict=True)]
            if cost(tried) < here:
                factors = tried
                break
            scale /= 2
        if max(abs(step)) < 1e-4 or scale <= 1e-3:
            break
    return factors
