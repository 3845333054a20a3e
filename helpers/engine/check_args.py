"""What vLLM makes of engine arguments, without starting an engine: the values it chose, its warnings, or its refusal.

    checked = dry_run(profile, enable_chunked_prefill=False)
    checked.warnings      # ["This model does not officially support disabling chunked prefill. ..."]

Takes less than a second and no GPU memory: vLLM builds its configuration from the model's config.json.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from helpers.engine.engine import Engine, _new_log, _prepare_environment, _redirected
from helpers.engine.profile import Profile


@dataclass(frozen=True)
class Checked:
    """vLLM's answer. `values` is empty when it refused; `refusal` is its own text then, else ""."""

    values: dict = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    refusal: str = ""

    def __str__(self) -> str:
        if self.refusal:
            return f"refused: {self.refusal}"
        return ", ".join(f"{name} = {value}" for name, value in self.values.items())

    def about(self, word: str) -> list[str]:
        """The warnings that mention `word`."""
        return [text for text in self.warnings if word.lower() in text.lower()]


def dry_run(where: Profile | Engine, plain: bool = False, **engine_args) -> Checked:
    """Check `engine_args` on top of the profile's (or the engine's).

    plain: the model alone, without the profile's arguments: what `LLM(model=..., **engine_args)` would do.
    """
    profile = where.profile if isinstance(where, Engine) else where
    args = {"model": profile.model, **({} if plain else profile.engine_args), **engine_args}
    if plain and "load_format" in profile.engine_args:
        args["load_format"] = profile.engine_args["load_format"]
    _prepare_environment(profile, {**profile.engine_args, **args})
    log = _new_log()
    with _redirected(log):
        from vllm import logger as vllm_logger
        from vllm.engine.arg_utils import EngineArgs
        from vllm.usage.usage_lib import UsageContext

        vllm_logger._print_warning_once.cache_clear()  # else a warning comes only the first time
        try:
            config, refusal = EngineArgs(**args).create_engine_config(UsageContext.LLM_CLASS), ""
        except Exception as error:
            refusal = (
                "; ".join(e["msg"] for e in error.errors())
                if hasattr(error, "errors")
                else str(error)
            )
    warnings = re.findall(r"WARNING [^\[\n]*\[[^\]]*\] (.+)", log.read_text(errors="replace"))
    if refusal:
        return Checked(
            refusal=" ".join(refusal.split()).removeprefix("Value error, "), warnings=warnings
        )
    scheduler, cache = config.scheduler_config, config.cache_config
    values = {
        "enable_chunked_prefill": scheduler.enable_chunked_prefill,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "max_num_seqs": scheduler.max_num_seqs,
        "enable_prefix_caching": cache.enable_prefix_caching,
        "max_model_len": config.model_config.max_model_len,
    }
    return Checked(values, warnings)
