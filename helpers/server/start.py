"""What a server's start needs: command, environment and port, the wait, and why it failed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import sys
import time
from pathlib import Path

import httpx

from helpers.engine import failure
from helpers.engine.failure import EngineError
from helpers.engine.profile import Profile
from helpers.engine.start import MODEL_PHASES, defaults
from helpers.engine.steps import steps_path

# What the log says when a phase of the start begins, in the order of the start.
_ENGINE_STARTS = r"Final IR op priority|Enabled custom fusions|Chunked prefill is enabled"
PHASES = (
    ("read the configuration", r"non-default args"),
    ("start the engine's process", _ENGINE_STARTS),
    ("set up the engine", r"Initializing a V1 LLM engine"),
    *MODEL_PHASES,
    ("set up the routes", r"Supported tasks"),
    ("open the port", r"Starting vLLM server on"),
)
HOST = "127.0.0.1"
POLL_S = 0.1


class ServerError(EngineError):
    """A server that could not be started or reached: what happened and what to do."""


def served_name(profile: Profile) -> str:
    """The name that clients ask for: a Hugging Face id as it is, a folder by a short name."""
    if profile.weights == "shipped":
        return "tiny-qwen2"
    return Path(profile.model).name if Path(profile.model).exists() else profile.model


def flags_of(args: dict) -> list[str]:
    """Arguments as the command line takes them: {"max_num_seqs": 4} -> ["--max-num-seqs", "4"]."""
    flags = []
    for name, value in args.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, dict):
            flags += [f"--{flag}", json.dumps(value)]
        elif isinstance(value, (list, tuple)):
            flags += [f"--{flag}", *map(str, value)]
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def commands(profile: Profile, args: dict, quick: bool) -> tuple[str, list[str]]:
    """(what a person would type, one option a line; what is run)."""
    shown = dict(args)
    if profile.name == "gpu":
        module, program, model = "vllm.entrypoints.cli.main", ["vllm"], ["serve", profile.model]
    else:
        # In the CPU package the command `vllm serve` does not start; its module does.
        module, model = "vllm.entrypoints.openai.api_server", ["--model", profile.model]
        program = ["python", "-m", module]
        if quick:
            module = "helpers.server.quick_server"
            shown.pop("distributed_executor_backend", None)
    typed = shlex.join([*program, *model, *flags_of(shown)])
    by_line = re.sub(r" (--[a-z])", r" \\\n    \1", typed)
    argv = [sys.executable, "-P", "-m", module, *model, *flags_of(args)]
    return f"VLLM_API_KEY=... {by_line}", argv


def environment(profile: Profile, api_key: str, quick: bool, log_path: Path) -> dict[str, str]:
    """The child's environment. The key goes here: `ps` shows commands to everybody."""
    env = {
        **defaults(profile.model),
        **os.environ,
        "VLLM_API_KEY": api_key,
        "WORKBOOK_STEPS": str(steps_path(log_path)),
        # What the engine's processes say to each other stays on this machine, too.
        "VLLM_HOST_IP": HOST,
        "VLLM_LOGGING_STREAM": "ext://sys.stdout",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        # An engine opened in this kernel has set this for itself.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if quick else "1",
    }
    if quick:
        # One core stays free for the API server and the clients, as vLLM does with its workers.
        env["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) - 1))
    return env


def without_proxy() -> None:
    """A proxy in the environment is for the internet: nobody must ask it for 127.0.0.1."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        hosts += [host for host in (HOST, "localhost") if host not in hosts]
        os.environ[name] = ",".join(hosts)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def check_port(port: int) -> None:
    """Raises ServerError when the port is no number of one, or cannot be listened on."""
    if not isinstance(port, int) or not 1 <= port <= 65535:
        raise ServerError(f"port must be a whole number from 1 to 65535, not {port!r}.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            why = f"({error.strerror}): leave it out to take a free one"
            raise ServerError(f"Port {port} cannot be used {why}.") from None


def wait_until_up(process, url: str, log_path: Path, limit_s: float, view, model: str) -> None:
    """Wait until the server answers. Raises ServerError when it ends, or after so many seconds."""
    deadline = time.perf_counter() + limit_s
    with httpx.Client(timeout=2) as client:
        while True:
            if (code := process.poll()) is not None:
                why = f"{cause(log_path, code, model)} It stopped at the step: {view.phase()}."
                raise ServerError(f"{why} The server's log: {log_path}")
            with contextlib.suppress(httpx.HTTPError):
                if client.get(f"{url}/health").status_code == 200:
                    return
            if time.perf_counter() > deadline:
                late = f"The server was not up after {limit_s:g} s (last step: {view.phase()})"
                raise ServerError(f"{late}: give it max_wait_s, or read its log: {log_path}")
            time.sleep(POLL_S)


def cause(log_path: Path, exit_code: int, model: str) -> str:
    """One sentence on why the server ended while it was starting."""
    log = log_path.read_text(errors="replace")
    if refused := re.findall(r"^\S*: error: (.+)", log, re.MULTILINE):
        unknown = re.search(r"unrecognized arguments: --(?:no-)?([\w-]+)", refused[-1])
        advice = f" {failure.closest_argument(unknown[1].replace('-', '_'))}" if unknown else ""
        return f"vLLM refused the options: {refused[-1].rstrip('.')}.{advice}"
    if "Address already in use" in log:
        return "Another program took the port meanwhile: start again, a free one is chosen anew."
    if exit_code == 128 + signal.SIGKILL:
        return "The server was killed while it started; most often the machine ran out of memory."
    by_pydantic = r"^(?:(\w+)\n)?  (?:Value error, )?(.+?) \[type=\w+,"
    refused = [": ".join(filter(None, one)) for one in re.findall(by_pydantic, log, re.MULTILINE)]
    if message := refused[-1] if refused else failure.last_exception(log):
        return failure.explain(message, model)
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "nothing").strip()
    said = f"The server ended while it started (exit code {exit_code})"
    return f"{said}; its last line is: {last[:300]}."
