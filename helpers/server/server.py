"""vLLM's OpenAI-compatible server as a child process of the notebook.

    with start_server(profile, max_num_seqs=16) as server:
        server.openai().completions.create(model=server.model, prompt="...")

In a notebook the two halves often stand in two cells: `server = start_server(profile)` and `server.stop()`. A kernel
holds one server at a time. Asking for the same configuration again returns the running server at once; another
configuration stops it first. The server listens on 127.0.0.1 only, wants an API key that is made for it, and writes
its log to a file that every error names. Its processes end with this one, also on `kill -9` (helpers/engine/processes.py).

vLLM does the serving and the `openai` package the asking: this module starts, watches and stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from helpers.display import live
from helpers.engine import holders
from helpers.engine import processes as lifeline
from helpers.engine.cache import new_log
from helpers.engine.failure import EngineError, closest_argument, explain, last_exception
from helpers.engine.profile import Profile
from helpers.engine.start import MODEL_PHASES

# What the log says when a phase of the start begins, in the order of the start.
PHASES = (
    ("read the configuration", r"non-default args"),
    (
        "start the engine's process",
        r"Final IR op priority|Enabled custom fusions|Chunked prefill is enabled",
    ),
    ("set up the engine", r"Initializing a V1 LLM engine"),
    *MODEL_PHASES,
    ("set up the routes", r"Supported tasks"),
    ("open the port", r"Starting vLLM server on"),
)
HOST = "127.0.0.1"
_POLL_S = 0.1
_current: Server | None = None


class ServerError(EngineError):
    """A server that could not be started or reached: one sentence on what happened and what to do."""


@dataclass(frozen=True)
class StopReport:
    """How a server ended. `requests_at_stop`: running and waiting when it was told to; None when it did not say."""

    seconds: float
    how: str  # "idle", "drained", "aborted", "killed" (it did not drain in time) or "had ended"
    requests_at_stop: int | None
    exit_code: int
    processes_left: tuple[int, ...]

    def __str__(self) -> str:
        said = {
            "idle": "with nothing to do",
            "drained": "after its requests had ended",
            "aborted": "without waiting for its requests",
            "killed": "by force, its requests had not ended in time",
            "had ended": "before it was told to",
        }[self.how]
        requests = f", {self.requests_at_stop} requests in flight" if self.requests_at_stop else ""
        left = (
            f"processes left: {list(self.processes_left)}"
            if self.processes_left
            else "no process left"
        )
        return (
            f"stopped in {self.seconds:.1f} s, {said}{requests}; exit code {self.exit_code}; {left}"
        )


class Server:
    """A running server. Made by `start_server`, or by `connect` for one that somebody else started."""

    def __init__(
        self,
        url: str,
        api_key: str,
        model: str,
        *,
        process=None,
        log_path=None,
        command="",
        engine_args=None,
        startup_s=0.0,
        startup_phases_s=None,
    ):
        self.url = url  # "http://127.0.0.1:40123"; the OpenAI paths are below url + "/v1"
        self.api_key = api_key
        self.model = model  # the name to ask for
        self.log_path = log_path
        self.command = command  # what a person would type; the key is left out
        self.engine_args = engine_args or {}
        self.startup_s = startup_s
        self.startup_phases_s = startup_phases_s or {}
        self.stop_report: StopReport | None = None
        self._process = process
        self._key = None  # what start_server was asked for

    def __repr__(self) -> str:
        state = (
            "stopped"
            if self.stop_report
            else f"up after {self.startup_s:.1f} s"
            if self._process
            else "connected"
        )
        return f"<Server {self.model} at {self.url}: {state}; log {self.log_path}>"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc) -> None:
        self.stop()

    def command_lines(self) -> str:
        """The command in lines that can be copied: one option a line."""
        return re.sub(r" (--[a-z])", r" \\\n    \1", self.command)

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP header that carries the key."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    @property
    def pids(self) -> list[int]:
        """The server's processes: the API server, the engine, its workers. Empty once it has stopped."""
        return lifeline.descendants(self._process.pid) if self._process else []

    @property
    def is_up(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            return False
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        return False

    def openai(self, **options):
        """A client of the `openai` package for this server; options go to `openai.OpenAI`. It does not retry."""
        import openai

        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=self.api_key or "none",
            **{"max_retries": 0, **options},
        )

    def metrics(self) -> dict[str, float]:
        """What GET /metrics says now, without the prefix "vllm:": counters, gauges, and `_sum` and `_count` of histograms.

        The labels (model, engine) are summed over. Raises ServerError when the server does not answer.
        """
        found: dict[str, float] = {}
        for family in self._metric_families():
            for sample in family.samples:
                if sample.name.startswith("vllm:") and not sample.name.endswith(
                    ("_bucket", "_created", "_info")
                ):
                    name = sample.name.removeprefix("vllm:").removesuffix("_total")
                    found[name] = found.get(name, 0.0) + sample.value
        return found

    def cache_config(self) -> dict[str, str]:
        """vLLM's cache settings as the server reports them (labels of vllm:cache_config_info). Raises ServerError as `metrics`."""
        for family in self._metric_families():
            if family.name.startswith("vllm:cache_config"):
                return dict(family.samples[0].labels)
        return {}

    def _metric_families(self) -> list:
        from prometheus_client.parser import text_string_to_metric_families

        answer = self._get("/metrics")
        if not answer.is_success:
            raise ServerError(
                f"{self.url}/metrics has no metrics (status {answer.status_code}). {self._hint()}"
            )
        return list(text_string_to_metric_families(answer.text))

    def check_answers(self) -> None:
        """Raises ServerError when nothing answers (any more): to be called before requests that are sent in other ways."""
        self._get("/health")

    def _get(self, path: str) -> httpx.Response:
        try:
            return httpx.get(self.url + path, timeout=10)
        except httpx.HTTPError as error:
            raise ServerError(
                f"{self.url}{path} does not answer ({error}). {self._hint()}"
            ) from None

    def stop(self, drain_s: float | None = None) -> StopReport:
        """End the server and all its processes. Stopping twice returns the first report.

        drain_s: seconds that running requests may still take; None takes the server's own `shutdown_timeout`, 0 if it has
        none. A server with `shutdown_timeout` drains by itself: it takes no new request and ends when the last has ended.
        Without it, this waits for the running requests, and the server takes new ones meanwhile. With 0, vLLM ends its
        engine at once and would then wait for its clients to hang up; after 3 s it is killed, and they see the
        connection close.
        """
        global _current
        if self.stop_report or self._process is None:
            return self.stop_report or StopReport(0.0, "had ended", None, 0, ())
        if _current is self:
            _current = None
            holders.release("server")
        started = time.perf_counter()
        pids, how, requests = self.pids, "had ended", None
        own = float(self.engine_args.get("shutdown_timeout") or 0)
        patience = own if drain_s is None else drain_s
        try:
            if self._process.poll() is None:
                requests = self._in_flight()
                how = (
                    self._drain(patience, own)
                    if patience and requests
                    else "aborted"
                    if requests
                    else "idle"
                )
        except KeyboardInterrupt:
            how = "aborted"  # the stop button: no more waiting
        code = lifeline.stop(self._process, grace_s=3 if how == "aborted" else None)
        self.stop_report = StopReport(
            time.perf_counter() - started,
            how,
            requests,
            code,
            tuple(p for p in pids if lifeline.alive(p)),
        )
        return self.stop_report

    def _drain(self, patience_s: float, own_s: float) -> str:
        """Let running requests end, in the server if it can (`own_s` > 0), else by waiting here: "drained", "aborted" or "killed"."""
        if own_s:
            return "drained" if self._end_politely(min(patience_s, own_s) + 5) else "killed"
        deadline = time.perf_counter() + patience_s
        while (left := self._in_flight()) and time.perf_counter() < deadline:
            time.sleep(0.1)
        return "aborted" if left else "drained"

    def _end_politely(self, patience_s: float) -> bool:
        """SIGTERM to vLLM's own process and wait; whether it ended in time."""
        for pid in self.pids[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.perf_counter() + patience_s
        while self._process.poll() is None and time.perf_counter() < deadline:
            time.sleep(0.02)
        return self._process.poll() is not None

    def _in_flight(self) -> int | None:
        with contextlib.suppress(EngineError):
            now = self.metrics()
            return int(now.get("num_requests_running", 0) + now.get("num_requests_waiting", 0))
        return None

    def _hint(self) -> str:
        if self._process is not None and self._process.poll() is not None:
            return f"The server has ended: start it again. Its log: {self.log_path}"
        return (
            "Is the address right, and is the server up?"
            if self._process is None
            else f"Its log: {self.log_path}"
        )


def connect(url: str, api_key: str = "") -> Server:
    """A Server for one that is up already and belongs to somebody else: `stop()` leaves it alone.

    Raises ServerError when nothing answers there, or when it does not accept the key.
    """
    url = url.rstrip("/").removesuffix("/v1")
    _no_proxy_for_this_machine()
    try:
        answer = httpx.get(
            f"{url}/v1/models",
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=10,
        )
        if answer.status_code == 401:
            raise ServerError(
                f"The server at {url} does not accept this API key: give the one it was started with."
            )
        model = answer.raise_for_status().json()["data"][0]["id"]
    except httpx.HTTPError as error:
        raise ServerError(f"No OpenAI-compatible server answers at {url} ({error}).") from None
    except (httpx.InvalidURL, ValueError, KeyError, IndexError, TypeError):
        raise ServerError(f"What answers at {url} is not an OpenAI-compatible server.") from None
    return Server(url, api_key, model)


def start_server(
    profile: Profile,
    *,
    max_wait_s: float | None = None,
    port: int | None = None,
    api_key: str | None = None,
    quick: bool = True,
    **engine_args,
) -> Server:
    """Start vLLM's server with the profile's arguments, changed by `engine_args` (vLLM's own names), and wait until it serves.

    max_wait_s: give up after so long; None is 300 s on the CPU and 1,200 s on a GPU. port: None takes a free one.
    api_key: None makes one. quick: on a CPU, start as helpers/server/quick_server.py does; False takes vLLM's own way.
    engine_args: True and False become `--flag` and `--no-flag`, dicts and lists JSON, None leaves vLLM's default.
    Options of the server itself work too (`shutdown_timeout=20`, `enable_prompt_tokens_details=True`).

    Returns the running server when it has this configuration already; stops it first when it has another.
    Raises ServerError, with the cause in one sentence, when the server does not come up; nothing of it stays.
    """
    global _current
    quick = quick and profile.name == "cpu"
    args = {"served_model_name": _served_name(profile), **profile.engine_args, **engine_args}
    if not quick and profile.name == "cpu":
        args.pop("distributed_executor_backend", None)  # a server needs vLLM's default there
    if not args.get("disable_log_stats"):
        args.pop("disable_log_stats", None)  # a server keeps its counters by default
    args = {name: value for name, value in args.items() if value is not None}
    key = json.dumps([profile.model, args, port, api_key, quick], sort_keys=True, default=str)
    if _current is not None:
        if _current._key == key and _current.is_up:
            return _current
        _current.stop()
    if port is not None:
        _check_port(port)
    with holders.taken("server", profile, close=stop_server):
        _current = _start(profile, args, port, api_key, quick, max_wait_s)
    _current._key = key
    return _current


def stop_server() -> StopReport | None:
    """Stop the server of this kernel, if there is one. For the last cell of a notebook."""
    return _current.stop() if _current is not None else None


def flags_of(args: dict) -> list[str]:
    """vLLM's names and values as the command line takes them: {"max_num_seqs": 4} -> ["--max-num-seqs", "4"]."""
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


# --- starting -------------------------------------------------------------------------------------------------


def _start(
    profile: Profile,
    args: dict,
    port: int | None,
    api_key: str | None,
    quick: bool,
    max_wait_s: float | None,
) -> Server:
    _no_proxy_for_this_machine()
    log_path = new_log("server")
    number = port or _free_port()
    secret = api_key or secrets.token_urlsafe(24)
    flags = ["--host", HOST, "--port", str(number), *flags_of(args)]
    for_people, cmd = _commands(profile, flags, quick)
    environment = _environment(profile, secret, quick)

    started = time.perf_counter()
    process = lifeline.spawn(cmd, env=environment, log=log_path, grace_s=15)
    url = f"http://{HOST}:{number}"
    limit = max_wait_s or (300 if profile.name == "cpu" else 1200)
    try:
        with live.engine_start(log_path, PHASES, what="server") as view:
            _wait_until_up(process, url, log_path, limit, view, profile)
    except BaseException as error:  # KeyboardInterrupt too: an interrupted start leaves nothing
        lifeline.stop(process, grace_s=3)
        if isinstance(error, KeyboardInterrupt):
            raise ServerError(
                "The start was stopped, and what had begun was ended: start again when you like."
            ) from None
        raise
    return Server(
        url,
        secret,
        args["served_model_name"],
        process=process,
        log_path=log_path,
        command=for_people,
        engine_args={"model": profile.model, **args},
        startup_s=time.perf_counter() - started,
        startup_phases_s=view.phases_s(),
    )


def _served_name(profile: Profile) -> str:
    """The name that clients ask for: a Hugging Face id as it is, a folder by a short name."""
    if profile.weights == "shipped":
        return "tiny-qwen2"
    return Path(profile.model).name if Path(profile.model).exists() else profile.model


def _commands(profile: Profile, flags: list[str], quick: bool) -> tuple[str, list[str]]:
    """(what a person would type, what is run)."""
    if profile.name == "gpu":
        typed = ["vllm", "serve", profile.model, *flags]
        run = [
            sys.executable,
            "-P",
            "-m",
            "vllm.entrypoints.cli.main",
            "serve",
            profile.model,
            *flags,
        ]
    else:
        # In the CPU package the command `vllm serve` does not start; its module does.
        module = "vllm.entrypoints.openai.api_server"
        typed = [
            "python",
            "-m",
            module,
            "--model",
            profile.model,
            *_without(flags, "--distributed-executor-backend"),
        ]
        run = [
            sys.executable,
            "-P",
            "-m",
            "helpers.server.quick_server" if quick else module,
            "--model",
            profile.model,
            *flags,
        ]
    return "VLLM_API_KEY=... " + shlex.join(typed), run


def _without(flags: list[str], flag: str) -> list[str]:
    if flag not in flags:
        return flags
    at = flags.index(flag)
    return flags[:at] + flags[at + 2 :]


def _environment(profile: Profile, api_key: str, quick: bool) -> dict[str, str]:
    """The child's environment. The key goes here, not into the command: `ps` shows commands to everybody."""
    env = {
        **os.environ,
        "VLLM_API_KEY": api_key,
        # What the engine's processes say to each other stays on this machine, too.
        "VLLM_HOST_IP": HOST,
        "VLLM_LOGGING_STREAM": "ext://sys.stdout",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
    }
    env.setdefault("VLLM_NO_USAGE_STATS", "1")
    env.setdefault("TOKENIZERS_PARALLELISM", "false")
    if Path(profile.model).exists():
        env.setdefault("HF_HUB_OFFLINE", "1")
    # An engine opened in this kernel has set this for itself.
    env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if quick else "1"
    if quick:
        # One core stays free for the API server and the clients, as vLLM itself does with its workers.
        env["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) - 1))
    return env


def _no_proxy_for_this_machine() -> None:
    """A proxy in the environment is for the internet: curl, httpx, openai and the benchmark must not ask it for 127.0.0.1."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(
            [*hosts, *(host for host in (HOST, "localhost") if host not in hosts)]
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def _check_port(port: int) -> None:
    if not isinstance(port, int) or not 1 <= port <= 65535:
        raise ServerError(f"port must be a whole number from 1 to 65535, not {port!r}.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServerError(
                f"Port {port} cannot be used ({error.strerror}): stop what listens there, or leave the port out and take a free one."
            ) from None


def _wait_until_up(
    process, url: str, log_path: Path, limit_s: float, view, profile: Profile
) -> None:
    deadline = time.perf_counter() + limit_s
    with httpx.Client(timeout=2) as client:
        while True:
            if (code := process.poll()) is not None:
                raise ServerError(
                    f"{_cause(log_path, code, profile)} It stopped at the step: {view.phase()}. The server's log: {log_path}"
                )
            with contextlib.suppress(httpx.HTTPError):
                if client.get(f"{url}/health").status_code == 200:
                    return
            if time.perf_counter() > deadline:
                raise ServerError(
                    f"The server was not up after {limit_s:g} s (last step: {view.phase()}); it was ended. Give it longer "
                    f"with max_wait_s, or read its log: {log_path}"
                )
            time.sleep(_POLL_S)


def _cause(log_path: Path, code: int, profile: Profile) -> str:
    """One sentence on why the server ended while it was starting."""
    log = log_path.read_text(errors="replace")
    if found := re.findall(r"^\S*: error: (.+)", log, re.MULTILINE):
        unknown = re.search(r"unrecognized arguments: --(?:no-)?([\w-]+)", found[-1])
        advice = f" {closest_argument(unknown[1].replace('-', '_'))}" if unknown else ""
        return f"vLLM refused the options: {found[-1].rstrip('.')}.{advice}"
    if "Address already in use" in log:
        return "Another program took the port meanwhile: start again, a free one is chosen anew."
    if code in (137, 128 + signal.SIGKILL):
        return "The server was killed while it started; most often the machine ran out of memory."
    message = ""
    if found := re.findall(r"Value error, (.+?)(?: \[type=|$)", log, re.MULTILINE):
        message = found[-1]
    else:
        message = last_exception(log)
    if message:
        return explain(message, profile.model)
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "nothing")
    return f"The server ended while it started (exit code {code}); its last line is: {last.strip()[:300]}."
