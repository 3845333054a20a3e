"""Two Ray nodes on this one machine, then vLLM with the Ray backend: the multi-node commands, tried for real.

Everything is started so that it ends with this process; nothing of Ray that was here before is touched.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class RayTrial:
    """What happened: the commands, the nodes that Ray counts, and what vLLM did on them."""

    commands: tuple = ()
    nodes: int = 0
    seconds: float = 0.0
    engine: str = ""
    problem: str = ""
    steps: tuple = field(default_factory=tuple)

    def __str__(self) -> str:
        lines = [f"$ {c}" for c in self.commands] + list(self.steps)
        if self.problem:
            lines.append(self.problem)
        elif self.engine:
            lines.append(self.engine)
        return "\n".join(lines)


ENGINE = """
import json, os, sys, time
job = json.loads(sys.argv[1])
import ray
ray.init(address=job["address"], logging_level="ERROR", log_to_driver=False)
for _ in range(100):
    alive = [n for n in ray.nodes() if n["Alive"]]
    if len(alive) > 1:
        break
    time.sleep(0.3)
print("@nodes", len(alive), flush=True)
from vllm import LLM, SamplingParams
start = time.perf_counter()
llm = LLM(model=job["model"], tensor_parallel_size=2, distributed_executor_backend="ray", skip_tokenizer_init=True,
          disable_log_stats=False, **job["args"])
print("@started", time.perf_counter() - start, flush=True)
params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, detokenize=False)
out = llm.generate([{"prompt_token_ids": list(range(10, 42))}], params, use_tqdm=False)[0]
print("@tokens", len(out.outputs[0].token_ids), flush=True)
os._exit(0)
"""


def run(profile, timeout_s: float = 60.0) -> RayTrial:
    """Start two nodes, open an engine with TP 2 on them, generate 16 tokens, and end everything.

    Never raises for what Ray or vLLM do: their words are in ``problem``.
    """
    from helpers.engine import processes

    from .layouts import _arguments

    executable = shutil.which("ray") or str(Path(sys.executable).with_name("ray"))
    if not Path(executable).exists():
        return RayTrial(
            problem="Ray is not installed here, so nothing was started: pip install ray."
        )
    begin, started, steps = time.monotonic(), [], []
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        port = _free_port()
        environment = {
            **os.environ, "RAY_USAGE_STATS_ENABLED": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR",
            "PYTHONWARNINGS": "ignore", "RAY_DEDUP_LOGS": "0", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        # On the CPU the engine's core stays in the process that asks: one start of Python less.
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if profile.name == "cpu" else "1"
        # Ray 2.60 lets nobody join without a token: one for this trial alone.
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        if Path(profile.model).exists():
            environment["HF_HUB_OFFLINE"] = "1"
        resources = ["--num-cpus=1"] if profile.name == "cpu" else ["--num-cpus=1", "--num-gpus=1"]
        memory = f"--object-store-memory={80 * 2**20}"
        head = [
            executable,
            "start",
            "--head",
            f"--port={port}",
            "--include-dashboard=false",
            f"--temp-dir={folder}",
            memory,
            *resources,
            "--block",
        ]
        worker = [executable, "start", "--address=HEAD", memory, *resources, "--block"]
        logs = [Path(folder) / "head.log", Path(folder) / "worker.log", Path(folder) / "engine.log"]
        try:
            env_head, env_worker = dict(environment), dict(environment)
            if profile.name == "gpu":
                env_head["CUDA_VISIBLE_DEVICES"], env_worker["CUDA_VISIBLE_DEVICES"] = "0", "1"
            started.append(processes.spawn(head, env=env_head, log=str(logs[0])))
            address = _address(logs[0], begin + timeout_s / 2, started[0])
            shown = tuple(
                " ".join(["ray", *c[1:-1]])
                .replace(f" {memory}", "")
                .replace(f" --temp-dir={folder}", "")
                for c in (head, worker)
            )
            if address is None:
                return RayTrial(
                    shown,
                    seconds=time.monotonic() - begin,
                    problem=f"The first Ray node did not start within {timeout_s / 2:.0f} s: {_tail(logs[0])}",
                )
            worker[2] = f"--address={address}"
            shown = (shown[0], shown[1].replace("HEAD", address))
            started.append(processes.spawn(worker, env=env_worker, log=str(logs[1])))
            job = {"address": address, "model": profile.model, "args": _arguments(profile)}
            started.append(
                processes.spawn(
                    [sys.executable, "-P", "-c", ENGINE, json.dumps(job)],
                    env=environment,
                    log=str(logs[2]),
                )
            )
            try:
                started[2].wait(max(5.0, timeout_s - (time.monotonic() - begin)))
                late = False
            except subprocess.TimeoutExpired:
                late = True
            said = _said(logs[2])
            steps.append(f"Ray counts {said.get('nodes', 'no')} nodes on this machine.")
            nodes = int(said.get("nodes", 0))
            if "tokens" in said:
                text = f"vLLM started on them in {float(said['started']):.1f} s (TP 2, one rank a node) and generated {said['tokens']} tokens."
                return RayTrial(
                    shown, nodes, time.monotonic() - begin, engine=text, steps=tuple(steps)
                )
            where = (
                f"vLLM started in {float(said['started']):.1f} s and then stopped"
                if "started" in said
                else "vLLM did not start"
            )
            words = f"no answer within {timeout_s:.0f} s" if late else _tail(logs[2])
            return RayTrial(
                shown,
                nodes,
                time.monotonic() - begin,
                problem=f"{where} on the Ray backend here; its words: {words}",
                steps=tuple(steps),
            )
        finally:
            for process in reversed(started):
                processes.stop(process)
            if os.environ.get("PLANNING_KEEP_LOGS"):
                for log in logs:
                    if log.exists():
                        shutil.copy(log, os.environ["PLANNING_KEEP_LOGS"])


def _said(log: Path) -> dict:
    found = {}
    if log.exists():
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith("@"):
                key, _, value = line[1:].partition(" ")
                found[key] = value
    return found


def _tail(log: Path) -> str:
    """The most telling last line: the innermost exception if there is one."""
    if not log.exists():
        return "no message"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    lines = [line for line in lines if " WARNING " not in line and " INFO " not in line] or lines
    lines = [line for line in lines if "Engine core initialization failed" not in line] or lines
    wrong = [line for line in lines if "Error:" in line or "Exception:" in line or "Failed" in line]
    last = (wrong or lines or ["no message"])[-1]
    return re.sub(r"^.*?(?=\b\w+(?:Error|Exception): )", "", last)[-400:]


def _address(log: Path, deadline: float, process) -> str | None:
    """Where the first node says that others can join it; None when it does not come up."""
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and (
            found := re.search(r"--address='([\d.]+:\d+)'", log.read_text(errors="replace"))
        ):
            return found.group(1)
        time.sleep(0.2)
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
