"""Sentences of notebook 3 that depend on what was measured: what a reader should see, whichever way the numbers fall."""

NO_DIFFERENCE = (
    0.1  # times of steps, and speed-ups of whole runs, that differ by less are called equal
)
AHEAD = "vLLM plans a step while the one before runs (asynchronous scheduling)"


def gauge(rows: list[dict], plans_ahead: bool) -> str:
    """In how many steps vLLM held the predicted blocks, and what it held in the others; rows: blocks, blocks_predicted."""
    differ = [i for i, r in enumerate(rows) if r["blocks"] != r["blocks_predicted"]]
    said = f"In {1 - len(differ) / len(rows):.0%} of the steps vLLM held exactly the blocks that the sum predicts"
    early = [
        i
        for i in differ
        if i + 1 < len(rows) and rows[i]["blocks"] == rows[i + 1]["blocks_predicted"]
    ]
    if not early:
        return said
    which = (
        "in the others"
        if len(early) == len(differ)
        else f"in {len(early)} of the {len(differ)} others"
    )
    return f"{said}; {which} already those of the next step" + (f": {AHEAD}" if plans_ahead else "")


def step_cost(step_ms: dict[int, float]) -> str:
    """Whether a step with few requests is cheaper than a full one; step_ms: by the requests in a step."""
    few, many = min(step_ms), max(step_ms)
    times = f"a step with {few} request{'s' * (few > 1)} takes {step_ms[few]:.2f} ms, one with {many} {step_ms[many]:.2f} ms"
    if step_ms[few] < (1 - NO_DIFFERENCE) * step_ms[many]:
        return f"Small batches are cheaper steps: {times}."
    return f"Small batches are no cheaper steps here: {times}" + (
        f", no difference above {NO_DIFFERENCE:.0%}."
        if step_ms[few] < (1 + NO_DIFFERENCE) * step_ms[many]
        else "."
    )


def refills(steps: int, simulated: int, plans_ahead: bool) -> str:
    """How soon vLLM refills a place; steps of the engine and of the simulation, which refills it in the very next step."""
    if steps == simulated:
        return "vLLM refills a place in the very next step."
    said = f"{steps} steps, simulated {simulated}."
    return (
        f"{said} One reason: {AHEAD}, so a place is refilled one step later."
        if plans_ahead and steps > simulated
        else said
    )


def gain_in_time(measured_x: float, steps_x: float, calibrated_x: float) -> str:
    """The measured gain of continuous admission beside the two that explain it."""
    said = f"Counting its steps, the engine gained {steps_x:.2f}x, and with its own step times the simulation says {calibrated_x:.2f}x; "
    if abs(measured_x / calibrated_x - 1) < NO_DIFFERENCE:
        return said + f"the measured gain is within {NO_DIFFERENCE:.0%} of that."
    return (
        said
        + "the rest is not explained by steps: prompts, time between steps, other programs on this machine."
    )
