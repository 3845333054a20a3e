"""The plan for Week 5: one model, several layouts, and how sure the planner is.

    rows = layouts(shape, box, [1, 2, 4], requests, options)

Each of them stands in the table that distributed_planning.md leaves to be filled in.
"""

import shlex

from .choose import Choice, choice_of, holds
from .hardware import Box, PlanningError, make_box
from .launch import Command, check, serve_arguments
from .load import RequestMix
from .margins import recorded_speedups, speedup, speedup_range, tpot_range_ms
from .models import ModelShape


def layouts(shape: ModelShape, box: Box, tps, requests: RequestMix, options) -> list[Choice]:
    """Every TP x DP on as many GPUs as each size has; fewest first.

    Raises PlanningError when none of the sizes can hold the model.
    """
    fitting = [t for t in tps if t <= box.gpus_per_node and holds(shape, box, t, 1, 1, options)]
    if not fitting:
        sizes = ", ".join(f"TP {tp}" for tp in tps)
        raise PlanningError(
            f"{shape.name} cannot be held by {sizes} on {box.label()}: give WEEK5_TP other sizes, "
            "or plan for a GPU with more memory."
        )
    shares = [
        (tp, gpus // tp)
        for gpus in sorted(fitting)
        for tp in sorted(fitting, reverse=True)
        if gpus % tp == 0
    ]
    return [
        choice_of(shape, make_box(box.gpu, tp * dp), (tp, 1, dp), requests, options)
        for tp, dp in shares
    ]


def row(choice: Choice, over: Choice) -> dict:
    """A row of the table in the notebook. over: what the speed-up is over."""
    rate = choice.prediction.output_tokens_per_s
    return {
        "layout": choice.short,
        "GPUs": choice.gpus,
        "tokens/s": rate,
        "tokens/s per GPU": rate / choice.gpus,
        "TPOT (ms)": 1e3 * choice.prediction.tpot_s,
        "speed-up": f"{speedup(choice, over):.2f}x",
    }


def metrics(choice: Choice, over: Choice) -> dict[str, float]:
    """The numbers of a layout to save; what the others are compared with has no speed-up."""
    p = choice.prediction
    numbers = {"tp": choice.tp, "dp": choice.dp, "gpus": choice.gpus}
    numbers |= {"output_tokens_per_s": p.output_tokens_per_s, "tpot_ms": 1e3 * p.tpot_s}
    numbers["tpot_ms_low"], numbers["tpot_ms_high"] = tpot_range_ms(choice)
    if choice is not over:
        low, high = speedup_range(choice, over)
        numbers |= {"speedup_x": speedup(choice, over), "speedup_x_low": low}
        numbers["speedup_x_high"] = high
    return numbers


def of_layout(choice: Choice, over: Choice, goal_ms: float) -> dict:
    """What to save of a chosen layout. over: the smallest that fits."""
    found, mix = metrics(choice, over), choice.prediction.workload
    numbers = {f"expected_{name}": found[name] for name in found if "speedup" in name}
    numbers.setdefault("expected_speedup_x", 1.0)
    numbers |= {name: found[name] for name in ("output_tokens_per_s", "tpot_ms")}
    requests = f"{mix.concurrency} requests at once"
    of = f"output tokens/s of {choice.short} over {over.short}, {requests}"
    if choice.gpus > over.gpus:
        of += f", with {choice.gpus / over.gpus:g} times the GPUs"
    if over.at_once < mix.concurrency:
        of += f"; the KV cache of {over.short} holds only {over.at_once} of them"
    tokens = f"{mix.input_tokens:,} tokens in, {mix.output_tokens:,} out on average"
    runs = [f"{x:.2f}x on {on} (TPOT {ms:.1f} ms)" for x, ms, on in recorded_speedups(choice, over)]
    return {
        "metrics": numbers,
        "layout": choice.short,
        "ran": f"recorded, one run each: {', '.join(runs)}" if runs else "",
        "goal": f"TPOT of at most {goal_ms:g} ms with {requests} ({tokens})",
        "speedup_of": of,
    }


def serve_line(shape: ModelShape, tp: int, max_model_len: int, dp: int = 1) -> Command:
    """The `vllm serve` line of one layout, with what vLLM's parser says of it."""
    argv = serve_arguments(shape, tp, 1, dp, {"max_model_len": max_model_len})
    return check(Command("this machine", tuple(argv)), shape)


def load_line(shape: ModelShape, requests: RequestMix) -> str:
    """The `vllm bench serve` line of this load: ten answers from each client, after a first.

    Of half to one and a half times their mean length, as those of the recorded load: of equal ones
    that begin at once the prompts would go on coming at once.
    """
    clients, model = requests.concurrency, shlex.quote(shape.source)
    return (
        f"vllm bench serve --model {model} --random-input-len {requests.input_tokens} "
        f"--random-output-len {requests.output_tokens} "
        """--random-range-ratio '{"input": 0, "output": 0.5}' """
        f"--ignore-eos --max-concurrency {clients} "
        f"--num-warmups {clients} --num-prompts {10 * clients}"
    )
