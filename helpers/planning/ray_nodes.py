"""Two Ray nodes on this one machine, then vLLM on them: the commands for several machines, tried.

Everything is started so that it ends with this process; nothing of Ray that was here before is
touched.
"""

import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from helpers.engine import processes
from helpers.engine.failure import last_exception
from helpers.server.start import free_port

from .engine_child import LATE, EngineChild
from .layouts import trial_arguments, trial_environment

TIMEOUT_S = 60.0
OUTPUT_TOKENS = 16


@dataclass(frozen=True)
class RayTrial:
    """What happened: the commands, the nodes that Ray counts, and what vLLM did on them."""

    commands: tuple = ()
    nodes: int | None = None
    engine: str = ""
    problem: str = ""

    def __str__(self) -> str:
        lines = [f"$ {command}" for command in self.commands]
        if self.nodes is not None:
            lines.append(f"Ray counts {self.nodes or 'no'} nodes on this machine.")
        return "\n".join([*lines, self.problem or self.engine])


def run(profile, devices: int) -> RayTrial:
    """Start two nodes, open an engine with TP 2 on them, generate 16 tokens, and end everything.

    Never raises for what Ray or vLLM do: their words are in ``problem``. Where vLLM would refuse
    Ray, nothing is started.
    """
    ray = shutil.which("ray") or str(Path(sys.executable).with_name("ray"))
    if not Path(ray).exists():
        return RayTrial(
            problem="Ray is not installed here, so nothing was started: pip install ray."
        )
    if refused := refusal():
        return RayTrial(problem=refused)
    if devices < 2:
        return RayTrial(problem=f"Two Ray nodes need a GPU each, and this machine has {devices}.")
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        nodes = _Nodes(ray, profile, Path(folder))
        try:
            return _try_engine(profile, nodes)
        finally:
            nodes.end()


def refusal() -> str:
    """Why vLLM's Ray executor cannot run on this platform; "" where it can.

    Its placement asks the platform under which name Ray counts its devices, and raises when there
    is none (vllm/v1/executor/ray_utils.py). Here the platform is asked, and no node is started.
    """
    from vllm.platforms import current_platform

    if current_platform.ray_device_key:
        return ""
    return (
        "vLLM's Ray executor refuses this machine: current platform "
        f"{current_platform.device_name} does not support ray. So no node was started."
    )


class _Nodes:
    """Two Ray nodes with a GPU each; ``commands``: as a person types them."""

    def __init__(self, ray: str, profile, folder: Path):
        self.ray, self.folder, self.processes = ray, folder, []
        self.commands: list[str] = []
        self.options = ["--num-cpus=1", "--num-gpus=1"]
        # Ray 2.60 lets nobody join without a token: one for this trial alone.
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "OMP_NUM_THREADS": "1"}
        self.environment = {**trial_environment(profile), **quiet, **token}
        self.device = [{"CUDA_VISIBLE_DEVICES": str(i)} for i in range(2)]

    def start_head(self, deadline: float) -> str | None:
        """Where the second node can join, as the first one says; None when it does not come up."""
        where = [f"--port={free_port()}", "--include-dashboard=false"]
        process, log = self.start(["--head", *where], [f"--temp-dir={self.folder}"])
        while time.monotonic() < deadline and process.poll() is None:
            said = log.read_text(errors="replace") if log.exists() else ""
            if found := re.search(r"--address='([\d.]+:\d+)'", said):
                return found.group(1)
            time.sleep(0.2)
        return None

    def start(self, shown: list[str], hidden: list[str]):
        """(process, log) of one more node. hidden: options that a person would not type."""
        number = len(self.processes)
        log = self.folder / f"node{number}.log"
        self.commands.append(" ".join(["ray", "start", *shown, *self.options]))
        hidden = [*hidden, f"--object-store-memory={80 * 2**20}", "--block"]
        environment = {**os.environ, **self.environment, **self.device[number]}
        command = [self.ray, "start", *shown, *self.options, *hidden]
        self.processes.append(processes.spawn(command, env=environment, log=str(log)))
        return self.processes[-1], log

    def end(self) -> None:
        """End both nodes and what they started."""
        for process in reversed(self.processes):
            processes.stop(process)


def _try_engine(profile, nodes: _Nodes) -> RayTrial:
    deadline = time.monotonic() + TIMEOUT_S
    address = nodes.start_head(deadline - TIMEOUT_S / 2)
    if address is None:
        words = _words(nodes.folder / "node0.log")
        late = f"The first Ray node did not start within {TIMEOUT_S / 2:.0f} s: {words}"
        return RayTrial(tuple(nodes.commands), problem=late)
    nodes.start([f"--address={address}"], [])
    commands = tuple(nodes.commands)
    with EngineChild(nodes.environment) as child:
        heard = child.ask("wait_for_ray_nodes", deadline, address=address, nodes=2)
        heard |= child.ask(
            "open",
            deadline,
            model=profile.model,
            tensor_parallel_size=2,
            distributed_executor_backend="ray",
            **trial_arguments(profile),
        )
        count = heard.get("nodes", 0)
        started = heard.get("startup_s")
        if started:
            heard |= child.ask(
                "measure", deadline, decode=[(1, 32)], prefill=[], output=OUTPUT_TOKENS, repeats=1
            )
        if "problem" not in heard:
            done = f"vLLM started on them in {started:.1f} s (TP 2, one rank a node)"
            return RayTrial(commands, count, engine=f"{done} and generated {OUTPUT_TOKENS} tokens.")
        late = heard["problem"] == LATE
        words = f"no answer within {TIMEOUT_S:.0f} s" if late else _words(child.log)
    what = f"vLLM started in {started:.1f} s and then stopped" if started else "vLLM did not start"
    problem = f"{what} on the Ray backend here; its words: {words}"
    return RayTrial(commands, count, problem=problem)


def _words(log: Path) -> str:
    """The exception that a log ends with, or its last line."""
    text = log.read_text(errors="replace").strip() if log.exists() else ""
    return (last_exception(text) or text.rpartition("\n")[2] or "no message")[-400:]
