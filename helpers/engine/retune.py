"""Change arguments of a running engine, so that a sweep needs one start instead of one for each value.

    engine = open_engine(profile, **RETUNABLE)
    with retuned(engine, max_num_batched_tokens=512) as engine_args:
        run_workload(engine, workload)          # as LLM(max_num_batched_tokens=512) would

vLLM reads these arguments once, when it starts: on a GPU that is a minute for each value. All of
them end up in plain numbers of the scheduler, the block pool and the sampler, which this module
sets while no request is running. Names and meaning are vLLM's. A value can be at most what the
engine was started with, because buffers and memory were laid out for that. `tests/test_retune.py`
compares a retuned engine with a restarted one.

How it gets there: vLLM mixes `worker_extension_cls` into its worker, and `LLM.collective_rpc` calls
a method of it by name. With one GPU (or one CPU process) the worker lives in the process of the
engine core, whose scheduler is found in the frames above the call.
"""

from __future__ import annotations

import contextlib
import sys
from numbers import Integral, Real

from helpers.engine.engine import Engine
from helpers.engine.failure import EngineError

RETUNABLE = {"worker_extension_cls": "helpers.engine.retune.WorkerExtension"}
ARGUMENTS = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "num_gpu_blocks_override",
    "synthetic_acceptance_rates",
)


@contextlib.contextmanager
def retuned(engine: Engine, **values):
    """Inside the block the engine works as if it had been started with `values`; afterwards as before.

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
    args = engine.engine_args
    if args.get("worker_extension_cls") != RETUNABLE["worker_extension_cls"]:
        raise EngineError(
            "This engine cannot be retuned: open it with open_engine(profile, ..., **RETUNABLE)."
        )
    speculative = dict(args.get("speculative_config") or {})
    drafts = speculative.get("num_speculative_tokens", 0)
    largest = {
        "max_num_seqs": engine.info.max_num_seqs,
        "max_num_batched_tokens": engine.info.max_num_batched_tokens,
        "num_gpu_blocks_override": engine.info.num_blocks,
        "synthetic_acceptance_rates": drafts
        if speculative.get("rejection_sample_method") == "synthetic"
        else 0,
    }
    for name, value in values.items():
        if name not in ARGUMENTS:
            raise EngineError(
                f"{name!r} cannot be changed while an engine runs: open another engine with it."
            )
        asked = _checked(name, value)
        if asked > largest[name]:
            raise EngineError(
                f"{name} = {value} is more than this engine was started for ({largest[name]})."
            )
    shown = dict(values)
    if rates := shown.pop("synthetic_acceptance_rates", None):
        shown["speculative_config"] = {**speculative, "synthetic_acceptance_rates": rates}
    before = _call(engine, values)
    engine.engine_args = {**args, **shown}
    try:
        yield engine.engine_args
    finally:
        engine.engine_args = args
        # An engine whose values are not the ones that `engine.info` tells would spoil every later
        # measurement.
        if engine.is_open:
            engine.end_requests()  # an error in the block may have left some
        if engine.is_open:
            try:
                _call(engine, before)
            except BaseException as error:
                engine.close()
                raise EngineError(
                    "The engine did not take its own values back and was closed: run the cell with "
                    "open_engine(...) again."
                ) from error


def _checked(name: str, value) -> int:
    """What is compared with the largest: the number, or how many rates there are. Refuses what no engine can do."""
    if name == "synthetic_acceptance_rates":
        rates = value if isinstance(value, (list, tuple)) else ["no list"]
        if not all(
            isinstance(rate, Real) and 0 <= rate <= before
            for before, rate in zip([1, *rates], rates)
        ):
            raise EngineError(
                f"{name} must be a list of numbers from 0 to 1, none above the one before it, not {value!r}."
            )
        return len(rates)
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise EngineError(f"{name} must be a whole number of at least 1, not {value!r}.")
    return value


def _call(engine: Engine, values: dict) -> dict:
    if engine.llm.llm_engine.has_unfinished_requests():
        raise EngineError(
            "The engine is still working on requests: change it before or after a workload."
        )
    try:
        return engine.llm.collective_rpc("retune_engine", args=(values,))[0]
    except Exception as error:
        raise EngineError(
            f"The running engine could not be changed ({error}): start it with the argument instead."
        ) from None


# --- in the engine's process
# ----------------------------------------------------------------------------------


class WorkerExtension:
    """Mixed into vLLM's worker."""

    def retune_engine(self, values: dict) -> dict:
        """Set `values`; return the ones that were in force before."""
        scheduler = _scheduler_above()
        if (
            getattr(
                getattr(self.model_runner, "rejection_sampler", None),
                "synthetic_conditional_rates",
                None,
            )
            is not None
        ):
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
                rates = self.model_runner.rejection_sampler.synthetic_conditional_rates
                before[name] = _unconditional(rates.tolist())
                rates.copy_(rates.new_tensor(_conditional(value)))
        return before


def _scheduler_above():
    frame = sys._getframe()
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
    """The chance of each position once those before it were accepted, as vLLM's sampler keeps them."""
    return [
        rate / before if before else 0.0
        for rate, before in zip(rates, [1.0, *rates[:-1]], strict=True)
    ]


def _unconditional(conditional: list[float]) -> list[float]:
    rates, product = [], 1.0
    for chance in conditional:
        product *= chance
        rates.append(product)
    return rates


def _synthetic_acceptance_on_the_cpu() -> None:
    """vLLM 0.32's CPU kernels refuse rejection_sample_method="synthetic"; this is its GPU kernel in Python.

    Source: rejection_greedy_sample_kernel in vllm/v1/sample/rejection_sampler.py. Greedy requests
        only. It takes the place of the CPU kernel when `retuned` is first used.
    """
    from vllm.triton_utils.dispatcher import KernelOverride
    from vllm.v1.sample import rejection_sampler

    kernel = rejection_sampler.rejection_greedy_sample_kernel
    if not isinstance(kernel, KernelOverride) or hasattr(kernel._impl, "synthetic"):
        return
    refusing = kernel._impl

    def sample(
        output_token_ids,
        cu_num_draft_tokens,
        draft_token_ids,
        target_argmax,
        bonus_token_ids,
        is_greedy,
        max_spec_len,
        uniform_probs=None,
        synthetic_conditional_rates=None,
        SYNTHETIC_MODE=False,
    ):
        if not SYNTHETIC_MODE:
            return refusing(
                output_token_ids,
                cu_num_draft_tokens,
                draft_token_ids,
                target_argmax,
                bonus_token_ids,
                is_greedy,
                max_spec_len,
            )
        drafts, chosen = draft_token_ids.tolist(), target_argmax.tolist()
        luck, rates = uniform_probs.tolist(), synthetic_conditional_rates.tolist()
        start = 0
        for request, end in enumerate(cu_num_draft_tokens.tolist()):
            tokens = []
            for i in range(start, end):
                accepted = drafts[i] >= 0 and luck[i] < rates[i - start]
                tokens.append(drafts[i] if accepted else chosen[i])
                if not accepted:
                    break
            else:
                tokens.append(int(bonus_token_ids.view(-1)[request]))
            output_token_ids[request, : len(tokens)] = output_token_ids.new_tensor(tokens)
            start = end

    sample.synthetic = True
    kernel._impl = sample
