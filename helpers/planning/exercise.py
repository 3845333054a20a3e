"""The planning exercises of notebook 4: a target, the student's plan, a check by the planner.

Each check plans the student's answer and compares it with the best answer found by trying everything. The numbers of
the target vary with a seed, so a remembered constant does not pass twice.
"""

import random
from dataclasses import dataclass

from .choose import Goal, combinations, price_per_million
from .errors import PlanningError
from .hardware import get_gpu, make_box
from .memory import EngineOptions, plan_memory
from .models import load_shape, why_invalid
from .predict import Workload, predict


@dataclass(frozen=True)
class Task:
    """A service to plan: the model, the requests, the limit, and prices per GPU and hour of what can be rented."""

    model: str
    max_model_len: int
    input_tokens: int
    output_tokens: int
    users: int
    tpot_ms: float
    prices: dict

    def __str__(self) -> str:
        rent = ", ".join(f"{gpu} at {price:.2f}" for gpu, price in self.prices.items())
        return (
            f"Serve {self.model} with a context of {self.max_model_len:,} tokens to {self.users} users at once "
            f"({self.input_tokens:,} tokens in, {self.output_tokens} out) with TPOT under {self.tpot_ms:g} ms, new prompts "
            f"included, at the lowest price an hour. For rent, per GPU and hour, up to 8 of a kind: {rent}."
        )


BASE = Task(
    "Llama-3.1-70B",
    8192,
    1024,
    256,
    64,
    40.0,
    {"A100-SXM-80GB": 1.6, "H100-SXM": 2.6, "H200-SXM": 3.4, "L40S": 0.9},
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
    return Task(model, r.choice([4096, 8192, 16384]), r.choice([512, 1024, 2048]), r.choice([128, 256, 512]),
                r.choice([16, 32, 64, 128]), r.choice([25.0, 40.0, 60.0]), prices)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What the planner says of an answer. ``passed``: it works and costs at most 5 % more than the best found."""

    passed: bool
    text: str
    price: float | None = None
    tpot_ms: float | None = None

    def __str__(self) -> str:
        return ("[OK] " if self.passed else "[not yet] ") + self.text


def _plan(task: Task, gpu: str, tp: int, pp: int, dp: int):
    shape, box = load_shape(task.model), make_box(gpu, tp * pp * dp)
    options = EngineOptions(max_model_len=task.max_model_len)
    if problem := why_invalid(shape, tp, pp, dp):
        raise PlanningError(problem)
    memory = plan_memory(shape, box, tp, pp, dp, options)
    if not memory.fits:
        raise PlanningError(
            f"{task.model} does not fit on {gpu} with TP {tp} x PP {pp}: {memory.problem}."
        )
    workload = Workload(task.input_tokens, task.output_tokens, task.users)
    return predict(shape, box, tp, pp, dp, workload, options, memory=memory)


def cheapest(task: Task):
    """(price an hour, gpu, tp, pp, dp, Prediction) of the cheapest plan that meets the target, or None."""
    best = None
    for gpu, price in task.prices.items():
        for tp, pp, dp in combinations(8):
            cost = price * tp * pp * dp
            if best is not None and cost >= best[0]:
                continue
            try:
                p = _plan(task, gpu, tp, pp, dp)
            except PlanningError:
                continue
            if p.mixed_tpot_s * 1e3 <= task.tpot_ms and p.streams_per_replica * dp >= task.users:
                best = (cost, gpu, tp, pp, dp, p)
    return best


def check_plan(task: Task, gpu: str, tp: int, pp: int = 1, dp: int = 1) -> Verdict:
    """Check a student's plan: yours against the target and against the best that the planner finds."""
    try:
        name = get_gpu(gpu).name
        if name not in task.prices:
            return Verdict(
                False, f"{gpu} is not for rent here: choose among {', '.join(task.prices)}."
            )
        if tp * pp * dp > 8:
            return Verdict(
                False,
                f"TP {tp} x PP {pp} x DP {dp} needs {tp * pp * dp} GPUs, and there are 8 of a kind.",
            )
        p = _plan(task, name, tp, pp, dp)
    except PlanningError as problem:
        return Verdict(False, str(problem))
    tpot, price = p.mixed_tpot_s * 1e3, task.prices[name] * tp * pp * dp
    yours = f"yours: {tp * pp * dp} x {name}, {price:.2f} an hour, TPOT {tpot:.1f} ms (target {task.tpot_ms:g}), {price_per_million(task.prices[name], tp * pp * dp, p.output_tokens_per_s):.2f} for a million tokens"
    if p.streams_per_replica * dp < task.users:
        return Verdict(
            False,
            f"{yours}; only {p.streams_per_replica * dp} of {task.users} users are served at once, because the KV cache is full.",
            price,
            tpot,
        )
    if tpot > task.tpot_ms:
        largest = (
            max(p.decode.ms().items(), key=lambda item: item[1])[0]
            .removesuffix("_ms")
            .replace("_", " ")
        )
        return Verdict(
            False,
            f"{yours}: too slow; the largest part of a step is {largest}, and prefill between the steps adds {tpot - p.tpot_s * 1e3:.1f} ms.",
            price,
            tpot,
        )
    best = cheapest(task)
    if price <= best[0] * 1.05:
        return Verdict(True, f"{yours}; nothing cheaper was found.", price, tpot)
    return Verdict(
        False, f"{yours}: it works, but something at {best[0]:.2f} an hour does too.", price, tpot
    )


__all__ = ["Task", "variant", "check_plan", "cheapest", "Goal", "Verdict"]
