"""What went wrong, in one sentence: from an exception or a log of vLLM to cause and advice."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from helpers import OneLineError, gpu_memory

# At the start of a line, or after what vLLM's logger or a process's name puts before it.
_EXCEPTION = re.compile(r"(?:^|\] |\) )((?:\w+\.)*\w*(?:Error|Exception)): (.+)", re.MULTILINE)
_NO_ROOM_FOR_KV_CACHE = "No available memory for the cache blocks"
_NO_MEMORY = re.compile(
    r"out of memory|Free memory on device|less than desired|Available memory on node|"
    r"(?:can't|cannot) allocate memory|MemoryError|" + _NO_ROOM_FOR_KV_CACHE,
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"is not a local folder|not a valid model identifier|Repository Not Found|couldn't connect|"
    r"offline mode|Cannot find an appropriate cached snapshot|does not appear to have|"
    r"Invalid repository ID|Repo id must",
    re.IGNORECASE,
)
_DAMAGED_WEIGHTS = "Error while deserializing header"


class ProfileError(OneLineError, ValueError):
    """A parameter of the run that cannot be used; the message says what to give instead."""


class EngineError(OneLineError, RuntimeError):
    """An engine that could not be started or used: one sentence on what happened and what to do."""


def last_exception(log: str) -> str:
    """The last exception's text in a log, "" when there is none; a process's end is no cause."""
    found = [text for kind, text in _EXCEPTION.findall(log) if "EngineDead" not in kind]
    causes = [text for text in found if "Engine core init" not in text]
    return causes[-1] if causes else ""


def message_of(error: Exception) -> str:
    """What an error says, on one line, or its name; of pydantic's one part an argument refused."""
    text = str(error)
    if hasattr(error, "errors"):
        parts = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        text = "; ".join(part.removeprefix(": ") for part in parts)
    return " ".join(text.split()).removeprefix("Value error, ") or type(error).__name__


def why(error: Exception, log: str, model: str) -> str:
    """One sentence: what stopped the start of an engine, and what to do about it."""
    if "Engine core initialization failed" in str(error):
        # The engine's process died; the cause is in its log.
        return explain(last_exception(log) or str(error), model)
    return explain(message_of(error), model)


def explain(message: str, model: str) -> str:
    """A `message` of vLLM as one sentence, with advice where there is one."""
    said = " ".join(message.split())
    first = _first_sentence(said)
    if unknown := re.search(r"unexpected keyword argument '(\w+)'", said):
        import vllm

        name = unknown[1]
        advice = closest_argument(name)
        return f"vLLM {vllm.__version__} has no engine argument {name!r}. {advice}"
    if _NO_MEMORY.search(said):
        what = f"There is not enough memory for this engine ({gpu_memory.free_text()})"
        return f"{what}: {first}. {_memory_advice(said)}"
    if _NO_MODEL.search(said):
        return not_found(model, message)
    if _DAMAGED_WEIGHTS in said:
        what = f"The weights of {model!r} are damaged or not all there"
        return f"{what} ({first}): download or copy them again."
    return f"vLLM did not start: {first}."


def _first_sentence(text: str) -> str:
    """What happened stands there; behind it vLLM often gives a page of advice."""
    said = re.sub(r"^\[enforce fail at [^]]*\] err == 0\. ", "", text)  # torch's place in its code
    return re.split(r"\. |\n", said.strip(), maxsplit=1)[0].rstrip(".")[:400]


def _memory_advice(said: str) -> str:
    if _NO_ROOM_FOR_KV_CACHE in said:  # the weights fit, and nothing is left
        return "Raise gpu_memory_utilization or kv_cache_memory_bytes, or take a smaller model."
    others = "other engines (`nvidia-smi` names them)" if gpu_memory.has_gpu() else "other programs"
    lower = "gpu_memory_utilization, max_model_len or kv_cache_memory_bytes"
    return f"Close {others}, or lower {lower}."


def died(log_path: Path) -> str:
    """What to say of an engine whose processes have ended by themselves."""
    what = "The engine's process has ended by itself, often because the machine ran out of memory"
    return f"{what}: run the cell with open_engine(...) again. vLLM's log: {log_path}"


def not_found(model: str, cause: str) -> str:
    """One sentence for a `model` that cannot be loaded; `cause` is what the library says of it."""
    what = "it is neither a folder with a config.json nor can it be downloaded from here"
    return f"The model {model!r} was not found: {what} ({_first_sentence(cause)})."


def closest_argument(name: str) -> str:
    """One sentence that helps somebody who has misspelt an engine argument."""
    from vllm.engine.arg_utils import EngineArgs

    near = difflib.get_close_matches(name, EngineArgs.__dataclass_fields__, n=1)
    return f"Did you mean {near[0]!r}?" if near else "Notebook 3 lists the arguments that exist."
