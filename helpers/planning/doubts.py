"""Where a prediction is a range, and why: the CPU beside the GPU, numbers of the catalogue."""

import math
from dataclasses import dataclass, replace

from .calibration import doubt_for
from .hardware import Box
from .load import SpeedPrediction, predict_speed
from .predict import Tuning

MATTERS = 1.05  # a doubt that changes the answer by fewer times is not worth a range
CPU_PARAMETERS = ("host_s", "host_stream_s", "host_layer_s")


@dataclass(frozen=True)
class Range:
    """Lowest and highest of what is predicted, over the doubts that change it."""

    tpot_s: tuple[float, float]
    ttft_s: tuple[float, float]
    output_tokens_per_s: tuple[float, float]
    because: tuple[str, ...]


def speed_range(
    p: SpeedPrediction, box: Box, tuning: Tuning, doubt: dict | None = None
) -> Range | None:
    """The range of a plan's speed; None where no doubt changes TPOT or tokens/s by 5 %.

    doubt: what a calibration left of each parameter's doubt.
    """

    def predicted(box: Box, tuning: Tuning) -> SpeedPrediction:
        return predict_speed(
            p.memory.shape, box, p.tp, p.pp, p.dp, p.workload, tuning=tuning, memory=p.memory
        )

    def matters(slow: SpeedPrediction, fast: SpeedPrediction) -> bool:
        tokens = fast.output_tokens_per_s / slow.output_tokens_per_s
        return max(tokens, slow.tpot_s / fast.tpot_s) > MATTERS

    slow, fast, because = (box, tuning), (box, tuning), []
    slower, faster = _cpus(tuning, doubt or doubt_for(box.gpu))
    if matters(predicted(box, slower), predicted(box, faster)):
        slow, fast = (box, slower), (box, faster)
        because.append(
            "steps wait for the CPU that prepares them, and CPUs differ: --calibrate with a run of "
            "this machine"
        )
    for name, (low, high) in box.gpu.between.items():
        lower, higher = (replace(box.gpu, **{name: value}) for value in (low, high))
        if matters(*(predicted(replace(box, gpu=gpu), tuning) for gpu in (lower, higher))):
            slow = (replace(slow[0], gpu=replace(slow[0].gpu, **{name: low})), slow[1])
            fast = (replace(fast[0], gpu=replace(fast[0].gpu, **{name: high})), fast[1])
            because.append(f"{name} of {box.gpu.name} is between {low:g} and {high:g}")
    if not because:
        return None
    a, b = predicted(*slow), predicted(*fast)
    return Range(
        (b.tpot_s, a.tpot_s),
        (b.ttft_s, a.ttft_s),
        (a.output_tokens_per_s, b.output_tokens_per_s),
        tuple(because),
    )


def _cpus(tuning: Tuning, doubt: dict) -> tuple[Tuning, Tuning]:
    """The same machine beside a slower and a faster CPU, one standard deviation each."""
    factors = {name: math.exp(doubt[name]) for name in CPU_PARAMETERS}
    slower = {name: getattr(tuning, name) * factor for name, factor in factors.items()}
    faster = {name: getattr(tuning, name) / factor for name, factor in factors.items()}
    return replace(tuning, **slower), replace(tuning, **faster)
