"""The plan for Week 5: one model, several layouts, and how sure the planner is.

    rows = expected(shape, box, [1, 2, 4], requests, options)

Each row stands in the table that distributed_planning.md leaves to be filled in.
"""

import shlex
from dataclasses import dataclass

from .choose import Choice, holds, short_name
from .hardware import Box, PlanningError, make_box
from .launch import Command, check, serve_arguments
from .layouts import RECORDED
from .load import RequestMix, predict_speed
from .margins import PROMPT_TOKENS, recorded_prompt, speedup_range, time_range
from .models import ModelShape


@dataclass(frozen=True)
class Expected:
    """What the planner expects of one layout. speedup_x: of tokens/s, over the first layout.

    streams_per_replica: requests that run at once on one of its replicas. tpot_recorded_ms: TPOT
    with prompts that take as much longer than predicted as margins.recorded_prompt did (of a larger
    TP as that of TP 2 did); None where that says nothing of this layout.
    """

    tp: int
    dp: int
    streams_per_replica: int
    output_tokens_per_s: float
    tpot_ms: float
    speedup_x: float
    speedup_x_low: float | None
    speedup_x_high: float | None
    tpot_recorded_ms: float | None

    @property
    def name(self) -> str:
        """The layout in words."""
        return short_name(self.tp, 1, self.dp, alone="TP 1")

    @property
    def known_tpot_ms(self) -> float:
        """The TPOT to choose by: what was recorded tells more than what was predicted."""
        return self.tpot_recorded_ms or self.tpot_ms

    @property
    def gpus(self) -> int:
        """GPUs of all replicas together."""
        return self.tp * self.dp

    @property
    def speedup(self) -> str:
        """The speed-up with its range."""
        if self.speedup_x_low is None:
            return f"{self.speedup_x:.2f} x"
        return f"{self.speedup_x:.2f} x ({self.speedup_x_low:.2f} to {self.speedup_x_high:.2f})"

    def metrics(self) -> dict[str, float]:
        """The numbers to save; the first layout has no range."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def row(self) -> dict:
        """A row of the table in the notebook."""
        return {
            "layout": self.name,
            "GPUs": self.gpus,
            "expected tokens/s": self.output_tokens_per_s,
            "expected TPOT (ms)": self.tpot_ms,
            "expected speed-up": self.speedup,
        }


def expected(shape: ModelShape, box: Box, tps, requests, options) -> list[Expected]:
    """Tokens/s and TPOT of each layout that a machine holds, the speed-up over the first of them.

    The sizes; as many replicas of the first as the second has GPUs; as many of the largest as fill
    the machine. Raises PlanningError when none of the sizes can hold the model.
    """
    fitting = [t for t in tps if t <= box.gpus_per_node and holds(shape, box, t, 1, 1, options)]
    if not fitting:
        sizes = ", ".join(f"TP {tp}" for tp in tps)
        raise PlanningError(
            f"{shape.name} cannot be held by {sizes} on {box.label()}: give WEEK5_TP other sizes, "
            "or plan for a GPU with more memory."
        )
    layouts, filling = [(tp, 1) for tp in fitting], box.gpus_per_node // fitting[-1]
    if fitting[1:] and fitting[1] % fitting[0] == 0:
        layouts.insert(2, (fitting[0], fitting[1] // fitting[0]))
    if filling > 1:
        layouts.append((fitting[-1], filling))
    rows = []
    for tp, dp in layouts:
        one = predict_speed(shape, make_box(box.gpu, tp * dp), tp, 1, dp, requests, options)
        rate, tpot_ms = one.output_tokens_per_s, one.tpot_s * 1e3
        times = rate / rows[0].output_tokens_per_s if rows else 1.0
        low, high = speedup_range(times, tp * dp / fitting[0], tp) if rows else (None, None)
        n = one.streams_per_replica
        more_ms = _prompt_took_longer_ms(shape, box, tp, requests.input_tokens)
        recorded_ms = more_ms and tpot_ms + n / requests.output_tokens * more_ms
        rows.append(Expected(tp, dp, n, rate, tpot_ms, times, low, high, recorded_ms))
    return rows


def _prompt_took_longer_ms(shape: ModelShape, box: Box, tp: int, tokens: int) -> float | None:
    """How much longer than predicted the recorded prompt took, if it was such a prompt.

    TP 1 and TP 2 were run; what cuts the model further borrows from TP 2.
    """
    if tokens != PROMPT_TOKENS or (shape.name, box.gpu.name) != RECORDED:
        return None
    prompt = recorded_prompt(min(tp, 2))
    return prompt["measured"] - prompt["before"]


def without_a_choice(rows: list[Expected], tpot_goal_ms: float) -> Expected:
    """The layout with the fewest GPUs that meets the goal, else the one with the shortest TPOT.

    Of several with as few GPUs the one whose TPOT the planner's errors can make least long.
    """
    meeting = [row for row in rows if row.known_tpot_ms <= tpot_goal_ms]
    nearest = min(rows, key=lambda row: row.known_tpot_ms)

    def cost(row: Expected) -> tuple[int, float]:
        return row.gpus, time_range(row.tpot_ms, row.tp)[1]

    return min(meeting, key=cost, default=nearest)


def of_layout(first: Expected, chosen: Expected, requests: int) -> dict:
    """What to save of the chosen layout; requests: at once."""
    ways = ["Tensor"] * (chosen.tp > 1) + ["Data"] * (chosen.dp > 1)
    metrics = chosen.metrics()
    numbers = {f"expected_{name}": metrics[name] for name in metrics if "speedup" in name}
    numbers |= {name: metrics[name] for name in ("output_tokens_per_s", "tpot_ms")}
    return {
        "metrics": numbers,
        "layout": chosen.name,
        "parallelism": f"{' and '.join(ways)} Parallelism" if ways else "none, one GPU",
        "speedup_of": f"output tokens/s, {requests} requests at once, over {first.name}",
    }


def of_choice(best: Choice, smallest: Choice, model: str) -> dict:
    """What to save of a plan for another model; its speed-up is over the smallest plan."""
    a, b = best.prediction, smallest.prediction
    times = a.output_tokens_per_s / b.output_tokens_per_s
    low, high = speedup_range(times, best.gpus / smallest.gpus, best.tp * best.pp)
    numbers = {
        "expected_speedup_x": times,
        "expected_speedup_x_low": low,
        "expected_speedup_x_high": high,
        "output_tokens_per_s": a.output_tokens_per_s,
        "tpot_ms": a.tpot_s * 1e3,
    }
    requests = f"{a.workload.concurrency} requests at once"
    return {
        "metrics": numbers,
        "layout": f"{best.name()} for {model}",
        "speedup_of": f"output tokens/s, {requests}, over {smallest.name()}",
    }


def serve_line(shape: ModelShape, tp: int, max_model_len: int, dp: int = 1) -> Command:
    """The `vllm serve` line of one layout, with what vLLM's parser says of it."""
    argv = serve_arguments(shape, tp, 1, dp, {"max_model_len": max_model_len})
    return check(Command("this machine", tuple(argv)), shape)


def load_line(shape: ModelShape, requests: RequestMix) -> str:
    """The `vllm bench serve` line of this load: ten answers from each client, after a first."""
    clients, model = requests.concurrency, shlex.quote(shape.source)
    return (
        f"vllm bench serve --model {model} --random-input-len {requests.input_tokens} "
        f"--random-output-len {requests.output_tokens} --ignore-eos --max-concurrency {clients} "
        f"--num-warmups {clients} --num-prompts {10 * clients}"
    )
