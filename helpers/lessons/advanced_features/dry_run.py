"""What vLLM makes of engine arguments, without an engine: its choices, warnings or refusal.

    checked = dry_run(profile, enable_chunked_prefill=False)
    checked.warnings      # ["This model does not officially support disabling chunked ..."]

Takes less than a second and no GPU memory: vLLM builds its configuration from the model's
config.json.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from helpers.engine.cache import new_log
from helpers.engine.failure import message_of
from helpers.engine.profile import Profile
from helpers.engine.start import logged_to, prepare_environment


@dataclass(frozen=True)
class Checked:
    """vLLM's answer. `values` is empty when it refused; `refusal` is its own text then, else ""."""

    values: dict
    warnings: list[str]
    refusal: str = ""

    def __str__(self) -> str:
        if self.refusal:
            return f"refused: {self.refusal}"
        return ", ".join(f"{name} = {value}" for name, value in self.values.items())

    def about(self, word: str) -> list[str]:
        """The warnings that mention `word`."""
        return [text for text in self.warnings if word.lower() in text.lower()]


def dry_run(profile: Profile, plain: bool = False, **engine_args) -> Checked:
    """Check `engine_args` on top of the profile's.

    plain: the model alone, without the profile's arguments: what `LLM(model=..., **engine_args)`
        would do.
    """
    given = profile.engine_args
    if plain:
        given = {name: given[name] for name in ("load_format",) if name in given}
    args = {"model": profile.model, **given, **engine_args}
    prepare_environment(profile, {**profile.engine_args, **args})
    log = new_log("engine")
    config, refusal = None, ""
    with logged_to(log):
        from vllm import logger as vllm_logger
        from vllm.engine.arg_utils import EngineArgs
        from vllm.usage.usage_lib import UsageContext

        # Else a warning comes only the first time; vLLM has no public way.
        vllm_logger._print_warning_once.cache_clear()  # noqa: SLF001
        try:
            config = EngineArgs(**args).create_engine_config(UsageContext.LLM_CLASS)
        except Exception as error:
            refusal = message_of(error)
    warnings = re.findall(r"WARNING [^\[\n]*\[[^\]]*\] (.+)", log.read_text(errors="replace"))
    if config is None:
        return Checked({}, warnings, refusal)
    scheduler = config.scheduler_config
    values = {
        "enable_chunked_prefill": scheduler.enable_chunked_prefill,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "max_num_seqs": scheduler.max_num_seqs,
        "enable_prefix_caching": config.cache_config.enable_prefix_caching,
        "max_model_len": config.model_config.max_model_len,
    }
    return Checked(values, warnings)
