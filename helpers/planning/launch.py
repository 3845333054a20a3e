"""The exact commands for a plan, and a check of each by the installed vLLM itself.

``commands`` writes what a person types; ``check`` gives every ``vllm serve`` line to vLLM's own
parser and its configuration checks (no engine is started) and returns vLLM's objection, if any.
"""

import contextlib
import io
import json
import shlex
import tempfile
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from unittest import mock

from .hardware import PlanningError
from .models import ModelShape


@dataclass(frozen=True)
class Command:
    """One line to type.

    ``where``: on which machine. ``accepted``: None before check, else what vLLM says.
    """

    where: str
    argv: tuple
    accepted: bool | None = None
    objection: str = ""

    @property
    def text(self) -> str:
        """The line, quoted for a shell."""
        return shlex.join(self.argv)


@dataclass(frozen=True)
class Launch:
    """Commands in the order in which to type them, and what to look at first."""

    commands: tuple
    check_first: tuple = field(default_factory=tuple)

    @property
    def text(self) -> str:
        """One line for each command; of several each says where it is typed."""
        if len(self.commands) == 1:
            return self.commands[0].text
        return "\n".join(f"{c.text}  # {c.where}" for c in self.commands)


def serve_arguments(shape: ModelShape, tp: int, pp: int, dp: int, given: dict) -> list[str]:
    """`vllm serve` for a plan. given: engine arguments by vLLM's names."""
    argv = ["vllm", "serve", shape.source]
    for flag, size in (
        ("--tensor-parallel-size", tp),
        ("--pipeline-parallel-size", pp),
        ("--data-parallel-size", dp),
    ):
        if size > 1:
            argv += [flag, str(size)]
    for name, value in given.items():
        text = json.dumps(value) if isinstance(value, dict) else str(value)
        argv += ["--" + name.replace("_", "-")] + ([] if value is True else [text])
    return argv


def commands(
    shape: ModelShape, tp=1, pp=1, dp=1, nodes=1, launcher="mp", given: dict | None = None
) -> Launch:
    """Commands for one machine, for several with vLLM's own launcher ("mp"), or on Ray ("ray").

    Several machines: with dp = 1 the group of tp x pp ranks spans them (--nnodes, --node-rank);
    with dp > 1 each machine runs its share of the replicas. HEAD_IP stands for the first machine's
    address. given: engine arguments by vLLM's names. Raises PlanningError for ranks that the
    machines cannot share.
    """
    serve = serve_arguments(shape, tp, pp, dp, given or {})
    world = tp * pp * dp
    if nodes < 1 or world % nodes:
        raise PlanningError(
            f"{world} ranks cannot be shared evenly by {nodes} machines: choose a number of "
            f"machines that divides {world}."
        )
    if launcher not in ("mp", "ray"):
        raise PlanningError(f'The launcher is "mp" (vLLM\'s own) or "ray", not {launcher!r}.')
    if nodes == 1:
        if launcher == "ray":
            serve += RAY
        lines = [Command("this machine", tuple(serve))]
    elif launcher == "ray":
        lines = _on_ray(serve, dp, nodes)
    elif dp > 1:
        lines = _replicas(serve, dp, nodes)
    else:
        lines = _one_group(serve, nodes)
    return Launch(tuple(lines), _check_first(tp, dp, nodes, launcher))


HEAD = "HEAD_IP"
RAY = ["--distributed-executor-backend", "ray"]


def _on_ray(serve: list[str], dp: int, nodes: int) -> list[Command]:
    joins = ("ray", "start", f"--address={HEAD}:6379")
    replicas = ["--data-parallel-backend", "ray"] if dp > 1 else []
    return [
        Command("machine 1", ("ray", "start", "--head", "--port=6379")),
        *(Command(f"machine {n + 1}", joins) for n in range(1, nodes)),
        Command("machine 1, to see that all GPUs are there", ("ray", "status")),
        Command("machine 1, once", (*serve, *RAY, *replicas)),
    ]


def _replicas(serve: list[str], dp: int, nodes: int) -> list[Command]:
    """Each machine runs its share of the replicas; the first has the address."""
    if dp % nodes:
        raise PlanningError(
            f"{dp} replicas cannot be shared evenly by {nodes} machines with vLLM's own launcher: "
            f"choose a data parallel size that {nodes} divides, or use Ray."
        )
    local = dp // nodes
    serve = [*serve, "--data-parallel-size-local", str(local), "--data-parallel-address", HEAD]
    serve += ["--data-parallel-rpc-port", "13345"]
    later = [("--headless", "--data-parallel-start-rank", str(n * local)) for n in range(1, nodes)]
    return _on_each(serve, [(), *later])


def _one_group(serve: list[str], nodes: int) -> list[Command]:
    """One tensor and pipeline parallel group over all machines; the first has the address."""
    serve = [*serve, "--nnodes", str(nodes), "--master-addr", HEAD]
    later = [("--node-rank", str(n), "--headless") for n in range(1, nodes)]
    return _on_each(serve, [("--node-rank", "0"), *later])


def _on_each(serve: list[str], flags: list[tuple]) -> list[Command]:
    """The same command on each machine, but for its flags."""
    return [Command(f"machine {n}", (*serve, *more)) for n, more in enumerate(flags, 1)]


def _check_first(tp: int, dp: int, nodes: int, launcher: str) -> tuple[str, ...]:
    several, ray = nodes > 1, nodes > 1 and launcher == "ray"
    port = "29501 (--master-port)" if dp == 1 else "13345 (--data-parallel-rpc-port)"
    advice = {
        "The GPUs are free: nvidia-smi shows no process and the memory that the plan counts "
        "on.": True,
        "Links inside a machine: nvidia-smi topo -m shows NV# between the GPUs of one "
        "tensor-parallel group.": tp > 1,
        f"Ports: {'6379 (Ray)' if ray else port} and 8000 of the first machine are reachable from "
        "the others, and NCCL's ports between all.": several,
        "The model lies under the same path on every machine, or every machine can download "
        "it.": several,
        "The same vLLM, Python and driver on every machine; VLLM_HOST_IP is each machine's own "
        "address where there are several.": several,
        "Ray lets nobody join without a token (2.60): the same RAY_AUTH_TOKEN on every machine, or "
        "RAY_AUTH_MODE=disabled on a private network.": ray,
        "NCCL uses the fast network: NCCL_DEBUG=INFO names the interface (NCCL_SOCKET_IFNAME, "
        "NCCL_IB_HCA set it).": several,
    }
    return tuple(line for line, applies in advice.items() if applies)


# ---------------------------------------------------------------------- asking the installed vLLM
@lru_cache(maxsize=1)
def _parser():
    """The parser of `vllm serve`. Importing vLLM takes some seconds, once."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser(prog="vllm serve", add_help=False))


def check(command: Command, shape: ModelShape, drafter: ModelShape | None = None) -> Command:
    """Give one `vllm serve` line to vLLM's parser and checks; other lines come back unchanged.

    The models' configs come from the planner (nothing is downloaded); the machine may have no GPU,
    or fewer than the plan. vLLM's objection, if it has one, is in ``objection``, in its own words.
    """
    if command.argv[:2] != ("vllm", "serve"):
        return command
    from helpers.engine.start import quiet  # the engine's room: a plan alone does not need it

    with quiet(), tempfile.TemporaryDirectory() as folder:
        target = _folder_of(shape, folder, "target")
        arguments = [target, *command.argv[3:], "--skip-tokenizer-init"]
        if drafter:
            i = arguments.index("--speculative-config") + 1
            drafts = json.loads(arguments[i]) | {"model": _folder_of(drafter, folder, "drafter")}
            arguments[i] = json.dumps(drafts)
        objection = _objection(arguments)
    return replace(command, accepted=not objection, objection=objection)


def _folder_of(shape: ModelShape, parent: str, name: str) -> str:
    folder = Path(parent) / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape.config))
    return str(folder)


def _objection(arguments: list[str]) -> str:
    """What vLLM says against the arguments of `vllm serve`; "" when it accepts them."""
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            from vllm.config import parallel
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args
            from vllm.usage.usage_lib import UsageContext

            from helpers.engine.failure import message_of

            args = _parser().parse_args(arguments)
            args.model = args.model_tag or args.model
            validate_parsed_serve_args(args)
            # More GPUs than any plan needs: with its own count of them vLLM would stop there.
            with mock.patch.object(parallel.current_platform, "device_count", lambda: 2**20):
                engine_args = AsyncEngineArgs.from_cli_args(args)
                engine_args.create_engine_config(UsageContext.OPENAI_API_SERVER)
        except SystemExit:
            said = errors.getvalue().strip().rpartition("\n")[2].strip()
            return said or "vLLM's parser refused the arguments"
        except Exception as problem:  # ValueError, pydantic's errors, NotImplementedError, ...
            return message_of(problem)[:500]
    return ""


def check_all(launch: Launch, shape: ModelShape, drafter: ModelShape | None = None) -> Launch:
    """``check`` every command of a launch."""
    return replace(launch, commands=tuple(check(c, shape, drafter) for c in launch.commands))
