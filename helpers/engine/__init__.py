"""vLLM's engine: opened, changed while it runs, closed.

`load_profile` looks at the machine and says which model and arguments a run uses; `open_engine`
starts vLLM with them; inside `retuned` the running engine (opened with `**RETUNABLE`) works with
other arguments; `close_engine` ends it and proves that its memory came back. What goes wrong is an
`EngineError` of one sentence.
"""

from helpers.engine.engine import close_engine, open_engine
from helpers.engine.failure import EngineError
from helpers.engine.profile import load_profile
from helpers.engine.retune import RETUNABLE, retuned

__all__ = ["RETUNABLE", "EngineError", "close_engine", "load_profile", "open_engine", "retuned"]
