"""The exact commands for a plan, and a check of each by the installed vLLM itself.

``commands`` writes what a person types; ``check`` gives every ``vllm serve`` line to vLLM's own parser and its
configuration checks (no engine is started) and returns vLLM's objection, if it has one.
"""

import contextlib
import io
import json
import re
import shlex
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from .errors import PlanningError
from .models import ModelShape


@dataclass(frozen=True)
class Command:
    """One line to type. ``where``: on which machine. ``accepted``: None before check, else vLLM's verdict."""

    where: str
    argv: tuple
    env: tuple = ()
    accepted: bool | None = None
    objection: str = ""

    @property
    def text(self) -> str:
        prefix = " ".join(f"{k}={shlex.quote(v)}" for k, v in self.env)
        return (prefix + " " if prefix else "") + shlex.join(self.argv)


@dataclass(frozen=True)
class Launch:
    """Commands in the order in which to type them, and what to look at first."""

    commands: tuple
    check_first: tuple = field(default_factory=tuple)

    @property
    def text(self) -> str:
        return "\n".join(
            c.text if len(self.commands) == 1 else f"{c.text}  # {c.where}" for c in self.commands
        )


OPTION_FLAGS = {
    "max_model_len": "--max-model-len",
    "gpu_memory_utilization": "--gpu-memory-utilization",
    "kv_cache_dtype": "--kv-cache-dtype",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "max_num_seqs": "--max-num-seqs",
    "kv_cache_memory_bytes": "--kv-cache-memory-bytes",
    "enforce_eager": "--enforce-eager",
    "enable_expert_parallel": "--enable-expert-parallel",
}


def serve_arguments(shape: ModelShape, tp=1, pp=1, dp=1, given: dict | None = None) -> list[str]:
    """The arguments of `vllm serve` for a plan: only what differs from vLLM's defaults."""
    argv = ["vllm", "serve", shape.source]
    for flag, size in (
        ("--tensor-parallel-size", tp),
        ("--pipeline-parallel-size", pp),
        ("--data-parallel-size", dp),
    ):
        if size > 1:
            argv += [flag, str(size)]
    for name, value in (given or {}).items():
        if value is None or value is False:
            continue
        if name not in OPTION_FLAGS:
            raise PlanningError(f"The planner knows no engine option {name!r}.")
        if (
            name == "gpu_memory_utilization"
            and value == 0.92
            or name == "kv_cache_dtype"
            and value == "auto"
        ):
            continue
        argv += [OPTION_FLAGS[name]] + ([] if value is True else [str(value)])
    return argv


def commands(
    shape: ModelShape,
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    nodes: int = 1,
    launcher: str = "mp",
    given: dict | None = None,
    head: str = "HEAD_IP",
) -> Launch:
    """Commands for one machine, for several with vLLM's own launcher ("mp"), or for several on Ray ("ray").

    Several machines: with dp = 1 the group of tp x pp ranks spans them (--nnodes, --node-rank); with dp > 1 each
    machine runs its share of the replicas. ``head`` is the first machine's address.
    """
    base = serve_arguments(shape, tp, pp, dp, given)
    world = tp * pp * dp
    if nodes < 1 or world % nodes:
        raise PlanningError(
            f"{world} ranks cannot be shared evenly by {nodes} machines: choose a number of machines that divides "
            f"{world}."
        )
    first = [
        "The GPUs are free: nvidia-smi shows no process and the memory that the plan counts on."
    ]
    if tp > 1:
        first.append(
            "Links inside a machine: nvidia-smi topo -m shows NV# between the GPUs of one tensor-parallel group."
        )
    if nodes > 1:
        first += [
            f"Ports: {'6379 (Ray)' if launcher == 'ray' else '29501 (--master-port)' if dp == 1 else '13345 (--data-parallel-rpc-port)'} "
            "and 8000 of the first machine are reachable from the others, and NCCL's ports between all.",
            "The model lies under the same path on every machine, or every machine can download it.",
            "The same vLLM, Python and driver on every machine; VLLM_HOST_IP is each machine's own address where "
            "there are several.",
            *(
                [
                    "Ray lets nobody join without a token (2.60): the same RAY_AUTH_TOKEN on every machine, or RAY_AUTH_MODE=disabled on a private network."
                ]
                if launcher == "ray"
                else []
            ),
            "NCCL uses the fast network: NCCL_DEBUG=INFO names the interface (NCCL_SOCKET_IFNAME, NCCL_IB_HCA set it).",
        ]
    if nodes == 1:
        if launcher == "ray":
            base += ["--distributed-executor-backend", "ray"]
        return Launch((Command("this machine", tuple(base)),), tuple(first))
    if launcher == "ray":
        lines = [Command("machine 1", ("ray", "start", "--head", "--port=6379"))]
        lines += [
            Command(f"machine {n + 1}", ("ray", "start", f"--address={head}:6379"))
            for n in range(1, nodes)
        ]
        lines.append(Command("machine 1, to see that all GPUs are there", ("ray", "status")))
        serve = base + ["--distributed-executor-backend", "ray"]
        if dp > 1:
            serve += ["--data-parallel-backend", "ray"]
        lines.append(Command("machine 1, once", tuple(serve)))
        return Launch(tuple(lines), tuple(first))
    if launcher != "mp":
        raise PlanningError(f'The launcher is "mp" (vLLM\'s own) or "ray", not {launcher!r}.')
    lines = []
    if dp > 1:
        if dp % nodes:
            raise PlanningError(
                f"{dp} replicas cannot be shared evenly by {nodes} machines with vLLM's own launcher: choose a "
                f"data parallel size that {nodes} divides, or use Ray."
            )
        local = dp // nodes
        shared = [
            "--data-parallel-size-local",
            str(local),
            "--data-parallel-address",
            head,
            "--data-parallel-rpc-port",
            "13345",
        ]
        lines.append(Command("machine 1", tuple(base + shared)))
        for n in range(1, nodes):
            extra = ["--headless", "--data-parallel-start-rank", str(n * local)]
            lines.append(Command(f"machine {n + 1}", tuple(base + shared + extra)))
    else:
        for n in range(nodes):
            extra = ["--nnodes", str(nodes), "--node-rank", str(n), "--master-addr", head]
            lines.append(
                Command(f"machine {n + 1}", tuple(base + extra + (["--headless"] if n else [])))
            )
    return Launch(tuple(lines), tuple(first))


# ---------------------------------------------------------------------- asking the installed vLLM
@lru_cache(maxsize=1)
def _parser():
    """vLLM's own server parser. Importing vLLM takes some seconds, once."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser(prog="vllm serve", add_help=False))


def check(command: Command, shape: ModelShape, folder=None) -> Command:
    """Give one `vllm serve` line to vLLM's parser and configuration checks; other lines come back unchanged.

    The model's config comes from the planner (nothing is downloaded); the machine may have no GPU, or fewer than the
    plan. vLLM's objection, when it has one, is in ``objection``, in its own words.
    """
    if command.argv[:2] != ("vllm", "serve"):
        return command
    from .ask_vllm import quiet

    with quiet():
        return _check(command, shape, folder)


@contextlib.contextmanager
def _gpus_enough():
    """vLLM counts more GPUs than any plan needs: with its own count it stops there, before it looks at the model's heads."""
    from unittest import mock

    from vllm.config import parallel

    with mock.patch.object(parallel.current_platform, "device_count", lambda: 2**20):
        yield


def _check(command: Command, shape: ModelShape, folder) -> Command:
    import tempfile

    arguments = list(command.argv[2:])
    with (
        tempfile.TemporaryDirectory() as temporary,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        model = Path(folder or temporary)
        if folder is None:
            (model / "config.json").write_text(json.dumps(shape.config))
        arguments[0] = str(model)
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args
            from vllm.usage.usage_lib import UsageContext

            args = _parser().parse_args(arguments + ["--skip-tokenizer-init"])
            args.model = args.model_tag or args.model
            validate_parsed_serve_args(args)
            with _gpus_enough():
                AsyncEngineArgs.from_cli_args(args).create_engine_config(
                    UsageContext.OPENAI_API_SERVER
                )
        except SystemExit:
            return replace(command, accepted=False, objection=_last_line(errors.getvalue()))
        except (
            Exception
        ) as problem:  # vLLM raises ValueError, pydantic's errors, NotImplementedError, ...
            return replace(command, accepted=False, objection=quoted_objection(problem))
    return replace(command, accepted=True)


def check_all(launch: Launch, shape: ModelShape) -> Launch:
    """``check`` every command of a launch."""
    return replace(launch, commands=tuple(check(c, shape) for c in launch.commands))


def quoted_objection(problem: BaseException) -> str:
    """vLLM's own sentence out of an exception: pydantic wraps it in a header and an input dump."""
    text = str(problem)
    found = re.search(r"(?:Value error|Assertion failed), (.*?)(?: \[type=|$)", text, re.S)
    return " ".join((found.group(1) if found else text).split())[:500]


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "vLLM's parser refused the arguments"
