"""vLLM's OpenAI-compatible server as a child process of the notebook.

    with start_server(profile, max_num_seqs=16) as server:
        server.openai().completions.create(model=server.model, prompt="...")

In a notebook the two halves often stand in two cells: `server = start_server(profile)` and
`server.stop()`. A kernel holds one server at a time. Asking for the same configuration again
returns the running server at once; another configuration stops it first. The server listens on
127.0.0.1 only, wants an API key that is made for it, and writes its log to a file that every error
names. Its processes end with this one, also on `kill -9` (helpers/engine/processes.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from helpers.display import live
from helpers.engine import holders, processes
from helpers.engine.cache import new_log
from helpers.engine.profile import Profile
from helpers.server import start
from helpers.server.start import ServerError

_current: tuple[Server, str] | None = None  # this kernel's server, and what it was asked for


@dataclass(frozen=True)
class StopReport:
    """How a server ended."""

    seconds: float
    how: str  # "idle", "drained", "aborted", "killed" (it did not drain in time) or "had ended"
    requests_at_stop: int | None  # running and waiting when it was told to; None: it did not say
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
        if self.requests_at_stop:
            said += f", {self.requests_at_stop} requests in flight"
        left = f"processes left: {list(self.processes_left)}" if self.processes_left else ""
        ended = f"stopped in {self.seconds:.1f} s, {said}; exit code {self.exit_code}"
        return f"{ended}; {left or 'no process left'}"


@dataclass(eq=False, repr=False)
class Server:
    """A running server. Made by `start_server`, or by `connect` for somebody else's."""

    url: str  # "http://127.0.0.1:40123"; the OpenAI paths are below url + "/v1"
    api_key: str
    model: str  # the name to ask for
    process: subprocess.Popen | None = None  # None: somebody else's
    log_path: Path | None = None
    command: str = ""  # what a person would type, one option a line; the key is left out
    engine_args: dict = field(default_factory=dict)
    startup_s: float = 0.0
    startup_phases_s: dict[str, float] = field(default_factory=dict)
    stop_report: StopReport | None = None

    def __repr__(self) -> str:
        state = f"up after {self.startup_s:.1f} s" if self.process else "connected"
        if self.stop_report:
            state = "stopped"
        return f"<Server {self.model} at {self.url}: {state}; log {self.log_path}>"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc) -> None:
        self.stop()

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP header that carries the key."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    @property
    def pids(self) -> list[int]:
        """Its processes: the API server, the engine, its workers. Empty once it has stopped."""
        return processes.descendants(self.process.pid) if self.process else []

    @property
    def has_ended(self) -> bool:
        """Whether the process that was started here is gone."""
        return self.process is not None and self.process.poll() is not None

    @property
    def is_up(self) -> bool:
        """Whether it answers that its engine is alive."""
        with contextlib.suppress(ServerError):
            return not self.has_ended and self._get("/health").is_success
        return False

    @property
    def advice(self) -> str:
        """What to look at when it does not do what it should: the end of an error's sentence."""
        if self.process is None:
            return "Is the address right, and is the server up?"
        if self.has_ended:
            return f"The server has ended: start it again. Its log: {self.log_path}"
        return f"Its log: {self.log_path}"

    def openai(self, **options):
        """A client that does not retry; options go to `openai.OpenAI`."""
        import openai

        options = {"api_key": self.api_key or "none", "max_retries": 0, **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", **options)

    def metrics(self) -> dict[str, float]:
        """What GET /metrics says now: counters, gauges, and `_sum` and `_count` of histograms.

        Names are without the prefix "vllm:", labels (model, engine) are summed over.
        Raises ServerError when the server does not answer.
        """
        found: dict[str, float] = {}
        for sample in (sample for family in self._metric_families() for sample in family.samples):
            part = sample.name.endswith(("_bucket", "_created", "_info"))
            if sample.name.startswith("vllm:") and not part:
                name = sample.name.removeprefix("vllm:").removesuffix("_total")
                found[name] = found.get(name, 0.0) + sample.value
        return found

    def _metric_families(self) -> list:
        from prometheus_client.parser import text_string_to_metric_families

        answer = self._get("/metrics")
        if not answer.is_success:
            status = answer.status_code
            raise ServerError(f"{self.url}/metrics has no metrics (status {status}). {self.advice}")
        return list(text_string_to_metric_families(answer.text))

    def check_answers(self) -> None:
        """Raises ServerError when nothing answers (any more), or its engine has died."""
        if not self._get("/health").is_success:
            raise ServerError(f"The engine of {self.url} has died: start it again. {self.advice}")

    def _get(self, path: str) -> httpx.Response:
        # Certificates take longer to read than the answer: only where there will be one to check.
        verify = self.url.startswith("https:")
        try:
            return httpx.get(self.url + path, timeout=10, verify=verify)
        except httpx.HTTPError as error:
            said = f"{self.url}{path} does not answer ({error}). {self.advice}"
            raise ServerError(said) from None

    def stop(self) -> StopReport:
        """End the server and all its processes. Stopping twice returns the first report.

        The stop button ends its waiting; pressed once more, it leaves the rest to the next call.
        A server with `shutdown_timeout` drains: it takes no new request and ends when the last has
        ended. Without it, vLLM ends its engine at once and would then wait for its clients to hang
        up; after 3 s it is killed, and they see the connection close.
        """
        global _current
        if self.stop_report or self.process is None:
            return self.stop_report or StopReport(0.0, "had ended", None, 0, ())
        started, pids = time.perf_counter(), self.pids
        how, requests = "had ended", None
        try:
            if not self.has_ended:
                requests = self._in_flight()
                how = self._drain() if requests else "idle"
        except KeyboardInterrupt:
            how = "aborted"  # the stop button: no more waiting
        code = processes.stop(self.process, grace_s=3 if how == "aborted" else None)
        left = tuple(pid for pid in pids if processes.alive(pid))
        if _current is not None and _current[0] is self:
            _current = None
            holders.release("server")  # others may take the GPU once its processes are gone
        seconds = time.perf_counter() - started
        self.stop_report = StopReport(seconds, how, requests, code, left)
        return self.stop_report

    def _drain(self) -> str:
        """Tell vLLM to end and wait until its requests have, if it lets them: how it went."""
        timeout_s = float(self.engine_args.get("shutdown_timeout") or 0)
        if not timeout_s:
            return "aborted"
        for pid in self.pids[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.perf_counter() + timeout_s + 5
        while not self.has_ended and time.perf_counter() < deadline:
            time.sleep(0.02)
        return "drained" if self.has_ended else "killed"

    def _in_flight(self) -> int | None:
        with contextlib.suppress(ServerError):
            now = self.metrics()
            return int(now.get("num_requests_running", 0) + now.get("num_requests_waiting", 0))
        return None


def connect(url: str, api_key: str = "") -> Server:
    """A Server for one that is up already and belongs to somebody else: `stop()` leaves it alone.

    Raises ServerError when nothing answers there, or when it does not accept the key.
    """
    url = url.rstrip("/").removesuffix("/v1")
    start.without_proxy()
    server = Server(url, api_key, model="")
    try:
        answer = httpx.get(f"{url}/v1/models", headers=server.headers, timeout=10)
        if answer.status_code == 401:
            raise ServerError(f"{url} does not accept this API key: give the server's own.")
        served = answer.raise_for_status().json()["data"][0]
        server.model = served["id"]
    except httpx.HTTPError as error:
        raise ServerError(f"No OpenAI-compatible server answers at {url} ({error}).") from None
    except (httpx.InvalidURL, ValueError, KeyError, IndexError, TypeError):
        raise ServerError(f"What answers at {url} is not an OpenAI-compatible server.") from None
    if served.get("root"):
        server.engine_args["model"] = served["root"]
    return server


def start_server(
    profile: Profile,
    *,
    max_wait_s: float | None = None,
    port: int | None = None,
    api_key: str | None = None,
    quick: bool = True,
    **engine_args,
) -> Server:
    """Start vLLM's server with the profile's arguments, changed by `engine_args`, until it serves.

    max_wait_s: give up after so long; None is 300 s on the CPU and 1,200 s on a GPU.
    port: None takes a free one. api_key: None makes one.
    quick: on a CPU, start as helpers/server/quick_server.py does; False takes vLLM's own way.
    engine_args: by vLLM's own names. True and False become `--flag` and `--no-flag`, dicts JSON,
    None leaves vLLM's default. Options of the server itself work too (`shutdown_timeout=20`).

    Returns the running server when it has this configuration already; stops it first when it has
    another. Raises ServerError, with the cause in one sentence, when the server does not come up;
    nothing of it stays.
    """
    global _current
    quick = quick and profile.name == "cpu"
    args = {"served_model_name": start.served_name(profile), **profile.engine_args, **engine_args}
    if not quick and profile.name == "cpu":
        args.pop("distributed_executor_backend", None)  # a server needs vLLM's default there
    if not args.get("disable_log_stats"):
        args.pop("disable_log_stats", None)  # a server keeps its counters by default
    args = {name: value for name, value in args.items() if value is not None}
    asked = json.dumps([profile.model, args, port, api_key, quick], sort_keys=True, default=str)
    if _current is not None:
        server, known = _current
        if known == asked and server.is_up:
            return server
        server.stop()
    if port is not None:
        start.check_port(port)
    with holders.taken("server", profile, close=stop_server):
        server = _launch(profile, args, port or start.free_port(), api_key, quick, max_wait_s)
    _current = server, asked
    return server


def _launch(profile: Profile, args: dict, port: int, api_key, quick: bool, max_wait_s) -> Server:
    start.without_proxy()
    api_key, log_path = api_key or secrets.token_urlsafe(24), new_log("server")
    command, argv = start.commands(profile, {"host": start.HOST, "port": port, **args}, quick)
    server = Server(f"http://{start.HOST}:{port}", api_key, args["served_model_name"])
    server.log_path, server.command = log_path, command
    server.engine_args = {"model": profile.model, **args}
    began = time.perf_counter()
    env = start.environment(profile, api_key, quick, log_path)
    server.process = processes.spawn(argv, env=env, log=log_path, grace_s=15)
    patience_s = max_wait_s or (300 if profile.name == "cpu" else 1200)
    try:
        with live.EngineStart(log_path, start.PHASES, what="server") as view:
            start.wait_until_up(
                server.process, server.url, log_path, patience_s, view, profile.model
            )
    except BaseException as error:
        processes.stop(server.process, grace_s=3)
        if isinstance(error, KeyboardInterrupt):
            raise ServerError("The start was stopped and ended: start again.") from None
        raise
    server.startup_s, server.startup_phases_s = time.perf_counter() - began, view.phases_s()
    return server


def stop_server() -> StopReport | None:
    """Stop the server of this kernel, if there is one. For the last cell of a notebook."""
    return _current[0].stop() if _current is not None else None
