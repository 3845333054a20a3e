"""Where a prediction is a range, and why: the CPU beside the GPU, numbers of the catalogue."""

import math
from dataclasses import dataclass, replace

from .calibration import doubt_for
from .hardware import Box
from .load import SpeedPrediction, predict_speed
from .predict import Tuning

MATTERS = 1.05  # a doubt that changes the answer by fewer times is not worth a range
# Parameters that are doubtful together, and why.
DOUBTFUL = {
    ("host_s", "host_stream_s", "host_layer_s"): "steps wait for the CPU that prepares them, and "
    "CPUs differ: --calibrate with a run of this machine",
    ("experts_efficiency",): "how fast experts compute prompts differs by kernel, and none was "
    "measured here",
}


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
        more = fast.output_tokens_per_s > MATTERS * slow.output_tokens_per_s
        return more or slow.tpot_s > MATTERS * fast.tpot_s

    doubt, because = doubt or doubt_for(box.gpu), []
    slow, fast = (box, tuning), (box, tuning)
    for names, why in DOUBTFUL.items():
        if matters(*(predicted(box, _moved(tuning, doubt, names, way)) for way in (1, -1))):
            slow = (box, _moved(slow[1], doubt, names, 1))
            fast = (box, _moved(fast[1], doubt, names, -1))
            because.append(why)
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


def _moved(tuning: Tuning, doubt: dict, names, way: int) -> Tuning:
    """The same machine with these parameters slower (1) or faster (-1) by a standard deviation."""

    def factor(name: str) -> float:
        slower = -1 if name.endswith("efficiency") else 1
        return math.exp(slower * way * doubt[name])

    return replace(tuning, **{name: getattr(tuning, name) * factor(name) for name in names})
