"""Change arguments of a running engine, so that a sweep needs one start instead of one each value.

    engine = open_engine(profile, **RETUNABLE)
    with retuned(engine, max_num_batched_tokens=512):
        run_workload(engine, workload)          # as LLM(max_num_batched_tokens=512) would

vLLM reads these arguments once, when it starts: on a GPU that is a minute for each value. All of
them end up in plain numbers of the scheduler, the block pool and the sampler, which this module
sets while no request is running. Names and meaning are vLLM's. A value can be at most what the
engine was started with, because buffers and memory were laid out for that.
`tests/engine/test_retune.py` compares a retuned engine with a restarted one.

How it gets there: vLLM mixes `worker_extension_cls` into its worker, and `LLM.collective_rpc` calls
a method of it by name. With one GPU (or one CPU process) the worker lives in the process of the
engine core, whose scheduler is found in the frames above the call.
"""

from __future__ import annotations

import contextlib
import inspect
from numbers import Integral, Real

from helpers.engine.engine import Engine
from helpers.engine.failure import EngineError
from helpers.engine.steps import RECORDABLE

RETUNABLE = {"worker_extension_cls": "helpers.engine.retune.WorkerExtension", **RECORDABLE}


@contextlib.contextmanager
def retuned(engine: Engine, **values):
    """In the block the engine works as if it had been started with `values`; afterwards as before.

    max_num_seqs: requests that run at once. max_num_batched_tokens: tokens in one engine step.
    num_gpu_blocks_override: blocks in the KV cache (on the CPU too). The largest request must fit,
        or it waits for ever.
    synthetic_acceptance_rates: one number for each drafted token the engine was started with, each
        the chance that all drafts up to this one are accepted (vllm/config/speculative.py). On the
        CPU, vLLM can do this only here.
    Yields the engine's arguments with the new values; `engine.engine_args` and every Measurement
    have them too.
    Raises EngineError when the engine was not started for it.
    """
    outside = engine.engine_args
    _check(engine, values)
    in_force = {**outside, **values}
    if rates := in_force.pop("synthetic_acceptance_rates", None):
        drafting = {**outside["speculative_config"], "synthetic_acceptance_rates": rates}
        in_force["speculative_config"] = drafting
    before = _call(engine, values)
    engine.engine_args = in_force
    try:
        yield in_force
    finally:
        engine.engine_args = outside
        if engine.is_open:
            engine.end_requests()  # an error in the block may have left some
        if engine.is_open:
            _put_back(engine, before)


def _check(engine: Engine, values: dict) -> None:
    """Raises EngineError for what this engine, or any, cannot do."""
    args, info = engine.engine_args, engine.info
    if args.get("worker_extension_cls") != RETUNABLE["worker_extension_cls"]:
        how = "open it with open_engine(profile, ..., **RETUNABLE)"
        raise EngineError(f"This engine cannot be retuned: {how}.")
    drafting = args.get("speculative_config") or {}
    synthetic = drafting.get("rejection_sample_method") == "synthetic"
    largest = {
        "max_num_seqs": info.max_num_seqs,
        "max_num_batched_tokens": info.max_num_batched_tokens,
        "num_gpu_blocks_override": info.num_blocks,
        "synthetic_acceptance_rates": drafting["num_speculative_tokens"] if synthetic else 0,
    }
    for name, value in values.items():
        if name not in largest:
            raise EngineError(f"{name!r} cannot be changed while an engine runs: open another.")
        if name == "synthetic_acceptance_rates":
            _check_rates(value)
            asked = len(value)
        elif not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise EngineError(f"{name} must be a whole number of at least 1, not {value!r}.")
        else:
            asked = value
        if asked > largest[name]:
            most = f"more than this engine was started for ({largest[name]})"
            raise EngineError(f"{name} = {value} is {most}.")


def _check_rates(rates) -> None:
    falling = isinstance(rates, (list, tuple)) and all(
        isinstance(rate, Real) and 0 <= rate <= before
        for before, rate in zip([1, *rates], rates, strict=False)  # one more before than there are
    )
    if not falling:
        wanted = "a list of numbers from 0 to 1, none above the one before it"
        raise EngineError(f"synthetic_acceptance_rates must be {wanted}, not {rates!r}.")


def _put_back(engine: Engine, before: dict) -> None:
    """Close an engine that does not obey: its values would spoil every later measurement."""
    try:
        _call(engine, before)
    except BaseException as error:
        engine.close()
        what = "The engine did not take its own values back and was closed"
        raise EngineError(f"{what}: run the cell with open_engine(...) again.") from error


def _call(engine: Engine, values: dict) -> dict:
    if engine.llm.llm_engine.has_unfinished_requests():
        raise EngineError("The engine is working: change it before or after a workload.")
    try:
        return engine.llm.collective_rpc("retune_engine", args=(values,))[0]
    except Exception as error:
        what = f"The running engine could not be changed ({error})"
        raise EngineError(f"{what}: start it with the argument instead.") from None


# --- in the engine's process ----------------------------------------------------------------------


class WorkerExtension:
    """Mixed into vLLM's worker."""

    def retune_engine(self, values: dict) -> dict:
        """Set `values`; return the ones that were in force before."""
        scheduler = _scheduler_above()
        sampler = getattr(self.model_runner, "rejection_sampler", None)
        rates = getattr(sampler, "synthetic_conditional_rates", None)
        if rates is not None:
            _synthetic_acceptance_on_the_cpu()
        before = {}
        for name, value in values.items():
            if name == "max_num_seqs":
                # Places in the batch and, since vLLM 0.32, a limit of its own on how many requests
                # are admitted to them.
                before[name] = scheduler.max_num_running_reqs
                scheduler.max_num_running_reqs = scheduler.max_num_active_reqs = value
            elif name == "max_num_batched_tokens":
                before[name] = scheduler.max_num_scheduled_tokens
                scheduler.max_num_scheduled_tokens = value
            elif name == "num_gpu_blocks_override":
                pool = scheduler.kv_cache_manager.block_pool
                before[name] = pool.num_gpu_blocks
                _resize(pool, value)
            elif name == "synthetic_acceptance_rates":
                before[name] = rates.cumprod(0).tolist()
                rates.copy_(rates.new_tensor(_conditional(value)))
        return before


def _scheduler_above():
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if hasattr(owner, "scheduler") and hasattr(owner, "model_executor"):
            return owner.scheduler
        frame = frame.f_back
    raise RuntimeError("the worker does not run in the process of the engine core")


def _resize(pool, blocks: int) -> None:
    """Take free blocks out of vLLM's block pool, or put back the ones that were taken out."""
    held = vars(pool).setdefault("_workbook_held", [])
    change = pool.num_gpu_blocks - blocks
    if change > 0:
        held += pool.get_new_blocks(change)
    elif change < 0:
        pool.free_blocks([held.pop() for _ in range(-change)])
    pool.num_gpu_blocks = blocks  # the gauge kv_cache_usage divides by it


def _conditional(rates: list[float]) -> list[float]:
    """The chance of each position once those before it were accepted, as vLLM's sampler has it."""
    before = [1.0, *rates[:-1]]
    return [rate / b if b else 0.0 for rate, b in zip(rates, before, strict=True)]


def _synthetic_acceptance_on_the_cpu() -> None:
    """Let the CPU do rejection_sample_method="synthetic", which vLLM 0.32's kernel for it refuses.

    This is the GPU's kernel in Python, for greedy requests only; it takes the CPU kernel's place
    when `retuned` is first used.
    Source: rejection_greedy_sample_kernel in vllm/v1/sample/rejection_sampler.py.
    """
    from vllm.triton_utils.dispatcher import KernelOverride
    from vllm.v1.sample.rejection_sampler import rejection_greedy_sample_kernel as kernel

    if not isinstance(kernel, KernelOverride) or hasattr(kernel.func, "synthetic"):
        return
    refusing = kernel.func

    def sample(
        out,
        ends,
        drafted,
        best,
        bonus,
        is_greedy,
        longest,
        uniform=None,
        rates=None,
        synthetic=False,
    ):
        if not synthetic:
            refusing(out, ends, drafted, best, bonus, is_greedy, longest)
            return
        drafts, chosen = drafted.tolist(), best.tolist()
        luck, chances = uniform.tolist(), rates.tolist()
        start = 0
        for request, end in enumerate(ends.tolist()):
            tokens = []
            for i in range(start, end):
                accepted = drafts[i] >= 0 and luck[i] < chances[i - start]
                tokens.append(drafts[i] if accepted else chosen[i])
                if not accepted:
                    break
            else:
                tokens.append(int(bonus.view(-1)[request]))
            out[request, : len(tokens)] = out.new_tensor(tokens)
            start = end

    sample.synthetic = True
    kernel.func = kernel._impl = sample  # noqa: SLF001 - vLLM registers a kernel only once
