"""The planning exercises of notebook 4: a target, the student's plan, a check by the planner.

Each check plans the student's answer and compares it with the best answer found by trying
everything. The numbers of the target vary with a seed: a remembered answer does not pass twice.
"""

import random
from dataclasses import dataclass

from .choose import combinations, price_per_million
from .hardware import PlanningError, get_gpu, make_box
from .memory import EngineOptions, plan_memory
from .models import load_shape, why_invalid
from .predict import RequestMix, SpeedPrediction, predict_speed

FOR_RENT = 8  # GPUs of one kind
TOLERANCE = 0.05  # an answer may cost so much more than the best that is found


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

    def __str__(self) -> str:
        rent = ", ".join(f"{gpu} at {price:.2f}" for gpu, price in self.prices.items())
        return (
            f"Serve {self.model} with a context of {self.max_model_len:,} tokens to {self.users} "
            f"users at once ({self.input_tokens:,} tokens in, {self.output_tokens} out) with TPOT "
            f"under {self.tpot_ms:g} ms, new prompts included, at the lowest price an hour. For "
            f"rent, per GPU and hour, up to {FOR_RENT} of a kind: {rent}."
        )


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


@dataclass(frozen=True)
class Check:
    """What the planner says of an answer.

    passed: the plan works and costs at most 5 % more than the best that was found.
    """

    passed: bool
    text: str

    def __str__(self) -> str:
        return ("[OK] " if self.passed else "[not yet] ") + self.text


def _plan(task: Task, gpu: str, tp: int, pp: int, dp: int) -> SpeedPrediction:
    shape, box = load_shape(task.model), make_box(gpu, tp * pp * dp)
    options = EngineOptions(max_model_len=task.max_model_len)
    if problem := why_invalid(shape, tp, pp, dp):
        raise PlanningError(problem)
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
            if p.mixed_tpot_s * 1e3 <= task.tpot_ms and p.streams_per_replica * dp >= task.users:
                best = (cost, gpu, tp, pp, dp, p)
    return best


def check_plan(task: Task, gpu: str, tp: int, pp: int = 1, dp: int = 1) -> Check:
    """Check a student's plan against the target and against the best that the planner finds."""
    for size, given in {"tp": tp, "pp": pp, "dp": dp}.items():
        if type(given) is not int or given < 1:
            return Check(False, f"{size} is {given!r}: write a whole number from 1 on, such as 4.")
    try:
        name = get_gpu(str(gpu)).name
        if name not in task.prices:
            choice = ", ".join(task.prices)
            return Check(False, f"{gpu} is not for rent here: choose among {choice}.")
        if tp * pp * dp > FOR_RENT:
            needs = f"TP {tp} x PP {pp} x DP {dp} needs {tp * pp * dp} GPUs"
            return Check(False, f"{needs}, and there are {FOR_RENT} of a kind.")
        p = _plan(task, name, tp, pp, dp)
    except PlanningError as problem:
        return Check(False, str(problem))
    price = task.prices[name] * p.gpus
    tpot_ms = p.mixed_tpot_s * 1e3
    per_million = price_per_million(task.prices[name], p.gpus, p.output_tokens_per_s)
    yours = (
        f"yours: {p.gpus} x {name}, {price:.2f} an hour, TPOT {tpot_ms:.1f} ms (target "
        f"{task.tpot_ms:g}), {per_million:.2f} for a million tokens"
    )
    at_once = p.streams_per_replica * dp
    if at_once < task.users:
        served = f"only {at_once} of {task.users} users are served at once"
        return Check(False, f"{yours}; {served}, because the KV cache is full.")
    if tpot_ms > task.tpot_ms:
        parts = p.decode.ms()
        largest = max(parts, key=parts.get).removesuffix("_ms").replace("_", " ")
        return Check(
            False,
            f"{yours}: too slow; the largest part of a step is {largest}, and new prompts in the "
            f"same steps add {tpot_ms - p.tpot_s * 1e3:.1f} ms.",
        )
    best_price = cheapest(task)[0]
    if price <= best_price * (1 + TOLERANCE):
        return Check(True, f"{yours}; nothing cheaper was found.")
    return Check(False, f"{yours}: it works, but something at {best_price:.2f} an hour does too.")
