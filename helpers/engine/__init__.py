"""vLLM's engine: opened, changed while it runs, recorded, closed.

`load_profile` looks at the machine and says which model and arguments a run uses; `open_engine`
starts vLLM with them; inside `retuned` the running engine (opened with `**RETUNABLE`) works with
other arguments, inside `record_steps` its scheduler writes down every step; `close_engine` ends it
and proves that its memory came back. What goes wrong is an `EngineError` of one sentence.
"""

from helpers.engine.engine import close_engine, open_engine
from helpers.engine.failure import EngineError
from helpers.engine.profile import load_profile
from helpers.engine.retune import RETUNABLE, retuned
from helpers.engine.steps import RECORDABLE, record_steps

__all__ = [
    "RECORDABLE",
    "RETUNABLE",
    "EngineError",
    "close_engine",
    "load_profile",
    "open_engine",
    "record_steps",
    "retuned",
]
