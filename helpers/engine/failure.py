"""What went wrong, in one sentence: from an exception or a log of vLLM to cause and advice."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from helpers import OneLineError, gpu_memory

# At the start of a line, or after what vLLM's logger or a process's name puts before it.
_EXCEPTION = re.compile(r"(?:^|\] |\) )((?:\w+\.)*\w*(?:Error|Exception)): (.+)", re.MULTILINE)
_NO_MEMORY = re.compile(
    r"out of memory|Free memory on device|less than desired|No available memory|"
    r"Available memory on node"
)
_NO_MODEL = re.compile(
    r"is not a local folder|not a valid model identifier|Repository Not Found|couldn't connect|"
    r"offline mode|Cannot find|does not appear to have|Invalid repository ID|Repo id must",
    re.IGNORECASE,
)


class ProfileError(OneLineError, ValueError):
    """A parameter of the run that cannot be used; the message says what to give instead."""


class EngineError(OneLineError, RuntimeError):
    """An engine that could not be started or used: one sentence on what happened and what to do."""


def last_exception(log: str) -> str:
    """The last exception's text in a log, "" when there is none; a process's end is no cause."""
    found = [text for kind, text in _EXCEPTION.findall(log) if "EngineDead" not in kind]
    causes = [text for text in found if "Engine core init" not in text]
    return causes[-1] if causes else ""


def one_line(error: Exception) -> str:
    """The error's text on one line; of pydantic's errors one part for each argument refused."""
    text = str(error)
    if hasattr(error, "errors"):
        parts = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        text = "; ".join(part.removeprefix(": ") for part in parts)
    return " ".join(text.split()).removeprefix("Value error, ")


def why(error: Exception, log: str, model: str) -> str:
    """One sentence: what stopped the start of an engine, and what to do about it."""
    if "Engine core initialization failed" in str(error):
        # The engine's process died; the cause is in its log.
        return explain(last_exception(log) or str(error), model)
    return explain(one_line(error), model)


def explain(message: str, model: str) -> str:
    """A `message` of vLLM as one sentence, with advice where there is one."""
    said = " ".join(message.split()).rstrip(".")
    if unknown := re.search(r"unexpected keyword argument '(\w+)'", said):
        import vllm

        name = unknown[1]
        advice = closest_argument(name)
        return f"vLLM {vllm.__version__} has no engine argument {name!r} ({said}). {advice}"
    if _NO_MEMORY.search(said):
        what = f"There is not enough memory for this engine ({gpu_memory.free_text()}): {said}"
        lower = "gpu_memory_utilization, max_model_len or kv_cache_memory_bytes"
        return f"{what}. Close other engines (`nvidia-smi` names them), or lower {lower}."
    if _NO_MODEL.search(said):
        return not_found(model, said)
    return f"vLLM did not start: {said[:500]}."


def died(log_path: Path) -> str:
    """What to say of an engine whose processes have ended by themselves."""
    what = "The engine's process has ended by itself, often because the machine ran out of memory"
    return f"{what}: run the cell with open_engine(...) again. vLLM's log: {log_path}"


def not_found(model: str, cause: str) -> str:
    """One sentence for a `model` that cannot be loaded; `cause` is what the library says of it."""
    what = "it is neither a folder with a config.json nor can it be downloaded from here"
    return f"The model {model!r} was not found: {what} ({cause[:200]})."


def closest_argument(name: str) -> str:
    """One sentence that helps somebody who has misspelt an engine argument."""
    from vllm.engine.arg_utils import EngineArgs

    near = difflib.get_close_matches(name, EngineArgs.__dataclass_fields__, n=1)
    return f"Did you mean {near[0]!r}?" if near else "Notebook 3 lists the arguments that exist."
