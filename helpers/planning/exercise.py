"""Services to plan, for the puzzle of the cheapest plan; drawn with a seed, so none repeats."""

import random
from dataclasses import dataclass

from .choose import combinations
from .hardware import PlanningError, make_box
from .load import RequestMix, SpeedPrediction, predict_speed
from .memory import EngineOptions, plan_memory
from .models import load_shape

FOR_RENT = 8  # GPUs of one kind


@dataclass(frozen=True)
class Task:
    """A service to plan: model, requests, limit, and what a GPU of each kind costs an hour."""

    model: str
    max_model_len: int
    input_tokens: int
    output_tokens: int
    users: int
    tpot_ms: float
    prices: dict


BASE = Task(
    model="Llama-3.1-70B",
    max_model_len=8192,
    input_tokens=1024,
    output_tokens=256,
    users=64,
    tpot_ms=40.0,
    prices={"A100-SXM-80GB": 1.6, "H100-SXM": 2.6, "H200-SXM": 3.4, "L40S": 0.9},
)


def variant(seed: int) -> Task:
    """The exercise with other numbers; seed 0 is the one of the text."""
    if seed == 0:
        return BASE
    r = random.Random(seed)
    while cheapest(task := _draw(r)) is None:  # a target that nothing meets is no exercise
        pass
    return task


def _draw(r: random.Random) -> Task:
    model = r.choice(["Llama-3.1-70B", "Qwen2.5-72B", "Qwen2.5-32B", "Llama-3.1-8B"])
    prices = {gpu: round(price * r.uniform(0.7, 1.4), 2) for gpu, price in BASE.prices.items()}
    return Task(
        model,
        max_model_len=r.choice([4096, 8192, 16384]),
        input_tokens=r.choice([512, 1024, 2048]),
        output_tokens=r.choice([128, 256, 512]),
        users=r.choice([16, 32, 64, 128]),
        tpot_ms=r.choice([25.0, 40.0, 60.0]),
        prices=prices,
    )


def _plan(task: Task, gpu: str, tp: int, pp: int, dp: int) -> SpeedPrediction:
    shape, box = load_shape(task.model), make_box(gpu, tp * pp * dp)
    options = EngineOptions(max_model_len=task.max_model_len)
    memory = plan_memory(shape, box, tp, pp, dp, options)
    if not memory.fits:
        raise PlanningError(
            f"{task.model} does not fit on {gpu} with TP {tp} x PP {pp}: {memory.problem}."
        )
    workload = RequestMix(task.input_tokens, task.output_tokens, task.users)
    return predict_speed(shape, box, tp, pp, dp, workload, options, memory=memory)


def cheapest(task: Task) -> tuple | None:
    """(price an hour, gpu, tp, pp, dp, speed) of the cheapest plan that meets the target."""
    best = None
    for gpu, price in task.prices.items():
        for tp, pp, dp in combinations(FOR_RENT):
            cost = price * tp * pp * dp
            if best is not None and cost >= best[0]:
                continue
            try:
                p = _plan(task, gpu, tp, pp, dp)
            except PlanningError:
                continue
            if p.tpot_s * 1e3 <= task.tpot_ms and p.streams_per_replica * dp >= task.users:
                best = (cost, gpu, tp, pp, dp, p)
    return best
