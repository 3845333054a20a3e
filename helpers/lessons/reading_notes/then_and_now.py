"""What older texts say of vLLM and what holds now, checked by running the installed version."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from helpers.lessons.reading_notes.engine_args import catalogue, in_use

Seen = tuple[bool | None, str]  # whether it holds (None: no engine to look at), and what was seen


@dataclass(frozen=True)
class Change:
    """What older material says, what holds now, and a check that takes an open engine or None."""

    topic: str
    then: str
    now: str
    check: Callable[[Any], Seen]


def then_and_now(engine=None) -> list[dict]:
    """Every line, checked now: `holds` is True, False, or None where an engine would be needed."""
    rows = []
    for change in CHANGES:
        try:
            holds, seen = change.check(engine)
        except Exception as error:  # a newer vLLM may have moved what is looked at: news, too
            holds, seen = False, f"{type(error).__name__}: {error}"
        row = {"topic": change.topic, "older material": change.then, "now": change.now}
        rows.append({**row, "holds": holds, "seen": seen})
    return rows


# ---------------------------------------------------------------- checks


def rejects(kind: str, **argument) -> Callable[[Any], Seen]:
    """A check that the installed class ("EngineArgs", "SamplingParams") refuses an argument."""

    def check(engine) -> Seen:
        import vllm

        (name,) = argument
        try:
            getattr(vllm, kind)(**argument)
        except TypeError as error:
            return name in str(error), f"TypeError: {error}"
        return False, f"{kind}({name}=...) is accepted"

    return check


def default(name: str, expected: Any) -> Callable[[Any], Seen]:
    """A check of the default in vLLM's parser."""

    def check(engine) -> Seen:
        (row,) = [r for r in catalogue() if r.name == name]
        return row.default == expected, f"default of {row.flags[0]}: {row.default!r}"

    return check


def switched_on(name: str, group: str) -> Callable[[Any], Seen]:
    """A check that a running engine has switched this on, when nothing was asked for."""

    def check(engine) -> Seen:
        if engine is None:
            return None, "needs an open engine"
        value = in_use(engine, name, group)
        if name in engine.engine_args:
            return None, f"this engine was given {name}={engine.engine_args[name]!r}"
        return value is True, f"this engine: {name} = {value!r}"

    return check


def has_argument(*names: str) -> Callable[[Any], Seen]:
    """A check that vLLM's parser knows these arguments."""

    def check(engine) -> Seen:
        present = {r.name for r in catalogue()}
        missing = [name for name in names if name not in present]
        said = "missing" if missing else "in the parser"
        return not missing, f"{said}: {', '.join(missing or names)}"

    return check


def both(*checks: Callable[[Any], Seen]) -> Callable[[Any], Seen]:
    """Holds when all of them do."""

    def check(engine) -> Seen:
        seen = [one(engine) for one in checks]
        holds = None if any(s[0] is None for s in seen) else all(s[0] for s in seen)
        return holds, "; ".join(s[1] for s in seen)

    return check


def _beam_search(engine) -> Seen:
    from vllm import LLM
    from vllm.sampling_params import BeamSearchParams

    names = list(inspect.signature(BeamSearchParams).parameters)
    said = f"LLM.beam_search takes BeamSearchParams({', '.join(names[:3])}, ...)"
    return hasattr(LLM, "beam_search") and "beam_width" in names, said


def _generate_signature(engine) -> Seen:
    from vllm import LLM

    names = list(inspect.signature(LLM.generate).parameters)
    return "prompt_token_ids" not in names, f"LLM.generate({', '.join(names[1:4])}, ...)"


def _structured_outputs(engine) -> Seen:
    from vllm import SamplingParams

    names = inspect.signature(SamplingParams).parameters
    holds = "structured_outputs" in names and "guided_decoding" not in names
    return holds, "SamplingParams has structured_outputs"


def _metric_names(engine) -> Seen:
    if engine is None:
        return None, "needs an open engine"
    names = {metric.name for metric in engine.llm.get_metrics()}
    kv = sorted(name for name in names if name.endswith("cache_usage_perc"))
    return kv == ["vllm:kv_cache_usage_perc"], f"gauges of the KV cache: {', '.join(kv)}"


def _no_v0(engine) -> Seen:
    from vllm.engine.llm_engine import LLMEngine

    where = LLMEngine.__module__
    return where.startswith("vllm.v1."), f"vllm.engine.llm_engine.LLMEngine is {where}.LLMEngine"


def _llm_without_shutdown(engine) -> Seen:
    from vllm import LLM
    from vllm.v1.engine.core_client import EngineCoreClient

    there = hasattr(LLM, "shutdown")
    said = f"LLM.shutdown: {'there' if there else 'not there'}; engine_core.shutdown: there"
    return not there and hasattr(EngineCoreClient, "shutdown"), said


def _bench_serve(engine) -> Seen:
    there = importlib.util.find_spec("vllm.benchmarks.serve") is not None
    return there, "vllm.benchmarks.serve is installed"


# ---------------------------------------------------------------- the table

# fmt: off
CHANGES: tuple[Change, ...] = (
    Change("chunked prefill", "switch it on with enable_chunked_prefill=True",
           "on by default", both(default("enable_chunked_prefill", None),
                switched_on("enable_chunked_prefill", "SchedulerConfig"))),
    Change("prefix caching", "switch it on with enable_prefix_caching=True", "on by default",
           both(default("enable_prefix_caching", None),
                switched_on("enable_prefix_caching", "CacheConfig"))),
    Change("gpu_memory_utilization", "0.90 by default", "0.92 by default",
           default("gpu_memory_utilization", 0.92)),
    Change("max_num_batched_tokens", "one fixed default (2,048, 512 with chunks)",
           "None: vLLM decides at the start", default("max_num_batched_tokens", None)),
    Change("beam search", "SamplingParams(use_beam_search=True, best_of=4)",
           "LLM.beam_search(prompts, BeamSearchParams(...))",
           both(rejects("SamplingParams", use_beam_search=True), _beam_search)),
    Change("best_of", "SamplingParams(best_of=4)", "n=4, and choose yourself",
           rejects("SamplingParams", best_of=4)),
    Change("guided decoding", "SamplingParams(guided_decoding=...)",
           "structured_outputs=StructuredOutputsParams(...)",
           both(rejects("SamplingParams", guided_decoding={}), _structured_outputs)),
    Change("speculation", "speculative_model=..., num_speculative_tokens=...",
           "speculative_config={...}",
           both(rejects("EngineArgs", speculative_model="x"), has_argument("speculative_config"))),
    Change("swap space", "swap_space=4 moves KV blocks to the host",
           "gone: an evicted request is computed again", rejects("EngineArgs", swap_space=4)),
    Change("task", "task=\"generate\"", "runner and convert",
           both(rejects("EngineArgs", task="generate"), has_argument("runner", "convert"))),
    Change("prompts as token ids", "llm.generate(prompt_token_ids=[...])",
           "llm.generate([{\"prompt_token_ids\": [...]}])", _generate_signature),
    Change("KV-cache gauge", "vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc",
           _metric_names),
    Change("engine", "choose V0 or V1 with VLLM_USE_V1", "there is one engine", _no_v0),
    Change("closing an engine", "del llm; torch.cuda.empty_cache()",
           "llm.llm_engine.engine_core.shutdown()", _llm_without_shutdown),
    Change("benchmark script", "benchmarks/benchmark_serving.py in a clone", "vllm bench serve",
           _bench_serve),
)
# fmt: on
