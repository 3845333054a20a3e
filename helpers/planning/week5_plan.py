"""The plan for Week 5: one model, several layouts, and how sure the planner is.

    rows = expected(shape, box, [1, 2, 4], requests, options)

Each row stands in the table that distributed_planning.md leaves to be filled in.
"""

from dataclasses import dataclass

from .choose import Choice, holds
from .hardware import Box, PlanningError, make_box
from .launch import Command, check, serve_arguments
from .load import predict_speed
from .margins import speedup_range
from .models import ModelShape


@dataclass(frozen=True)
class Expected:
    """What the planner expects of one layout. speedup_x: of tokens/s, over the first layout.

    streams_per_replica: requests that run at once on one of its replicas.
    """

    tp: int
    dp: int
    streams_per_replica: int
    output_tokens_per_s: float
    tpot_ms: float
    speedup_x: float
    speedup_x_low: float
    speedup_x_high: float

    @property
    def name(self) -> str:
        """The layout in words."""
        return f"TP {self.tp}" + (f" x DP {self.dp}" if self.dp > 1 else "")

    @property
    def gpus(self) -> int:
        """GPUs of all replicas together."""
        return self.tp * self.dp

    @property
    def speedup(self) -> str:
        """The speed-up with its range."""
        if self.speedup_x_low == self.speedup_x_high:
            return f"{self.speedup_x:.2f} x"
        return f"{self.speedup_x:.2f} x ({self.speedup_x_low:.2f} to {self.speedup_x_high:.2f})"

    def metrics(self) -> dict[str, float]:
        """The numbers to save; the first layout has no range."""
        first = self.speedup_x_low == self.speedup_x_high
        left_out = {"speedup_x_low", "speedup_x_high"} if first else set()
        return {name: value for name, value in vars(self).items() if name not in left_out}


def expected(shape: ModelShape, box: Box, tps, requests, options) -> list[Expected]:
    """Tokens/s and TPOT of each layout that a machine holds, the speed-up over the first of them.

    The sizes, and as many replicas of the largest as fill the machine. Raises PlanningError when
    none of the sizes can hold the model.
    """
    fitting = [t for t in tps if t <= box.gpus_per_node and holds(shape, box, t, 1, 1, options)]
    if not fitting:
        sizes = ", ".join(f"TP {tp}" for tp in tps)
        raise PlanningError(
            f"{shape.name} cannot be held by {sizes} on {box.label()}: give WEEK5_TP other sizes, "
            "or plan for a GPU with more memory."
        )
    layouts, filling = [(tp, 1) for tp in fitting], box.gpus_per_node // fitting[-1]
    if filling > 1:
        layouts.append((fitting[-1], filling))
    rows = []
    for tp, dp in layouts:
        one = predict_speed(shape, make_box(box.gpu, tp * dp), tp, 1, dp, requests, options)
        rate, tpot_ms = one.output_tokens_per_s, one.tpot_s * 1e3
        times = rate / rows[0].output_tokens_per_s if rows else 1.0
        low, high = speedup_range(times, tp * dp / fitting[0]) if rows else (1.0, 1.0)
        rows.append(Expected(tp, dp, one.streams_per_replica, rate, tpot_ms, times, low, high))
    return rows


def without_a_choice(rows: list[Expected], tpot_goal_ms: float) -> Expected:
    """The layout with the fewest GPUs that meets the goal, else the one with the shortest TPOT."""
    meeting = [row for row in rows if row.tpot_ms <= tpot_goal_ms]
    return min(meeting, key=lambda row: row.gpus, default=min(rows, key=lambda row: row.tpot_ms))


def of_choice(best: Choice, smallest: Choice) -> dict[str, float]:
    """The numbers to save of a plan; its speed-up is that of tokens/s, over the smallest."""
    a, b = best.prediction, smallest.prediction
    times = a.output_tokens_per_s / b.output_tokens_per_s
    low, high = speedup_range(times, best.gpus / smallest.gpus)
    return {
        "expected_speedup_x": times,
        "expected_speedup_x_low": low,
        "expected_speedup_x_high": high,
        "output_tokens_per_s": a.output_tokens_per_s,
        "tpot_ms": a.tpot_s * 1e3,
    }


def serve_line(shape: ModelShape, tp: int, max_model_len: int, dp: int = 1) -> Command:
    """The `vllm serve` line of one layout, with what vLLM's parser says of it."""
    argv = serve_arguments(shape, tp, 1, dp, {"max_model_len": max_model_len})
    return check(Command("this machine", tuple(argv)), shape)
