"""A server in the notebook, and load on it.

`start_server` starts vLLM's OpenAI-compatible server as a child process, `connect` takes one that
is up already (server.py; start.py: command, environment, why a start failed; quick_server.py: the
fast start on a CPU). `run_load` puts the load of `vllm bench serve` on it, and `timed_stream` sends
one request with a clock beside it (load.py).
"""

from helpers.server.load import import_early, run_load, timed_stream
from helpers.server.server import connect, start_server

__all__ = ["connect", "import_early", "run_load", "start_server", "timed_stream"]
