"""Open a vLLM engine, know what it took, close it and prove that everything came back.

    with open_engine(profile, max_num_seqs=16) as engine:
        engine.llm.generate(...)           # vllm.LLM, the real one

In a notebook the two halves often stand in two cells: `engine = open_engine(profile)` and, at the end,
`engine.close()`. A kernel holds one engine at a time. Opening the same configuration again returns the open
engine at once; another configuration closes the first one.

On the CPU the engine lives in this process; on a GPU in processes of its own, as vLLM does by default. vLLM's log
goes to a file that `engine.log_path` and every error name.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import psutil

from helpers import OneLineError, gpu_memory
from helpers.display import live
from helpers.engine import processes as lifeline
from helpers.engine import start as garbage
from helpers.engine.profile import GIB, Profile, cache_dir

_open: Engine | None = None  # the engine of this kernel
_guard = None  # the watcher that ends vLLM's processes should this one be killed

# What the log says when a phase of the start begins, in the order of the start.
MODEL_PHASES = (
    ("load the weights", r"Starting to load model|Loading model from scratch"),
    ("compile", r"Starting torch\.compile|Dynamo bytecode|Compiling a graph"),
    (
        "profile the memory",
        r"torch\.compile took|Initial profiling",
    ),  # with a trial capture of CUDA graphs
    ("reserve the KV cache", r"Available KV cache memory|KV cache size: [\d,]+ tokens"),
    (
        "prepare kernels and graphs",
        r"JIT kernel warmup starting",
    ),  # a GPU's first start compiles Triton's kernels here
    (
        "capture CUDA graphs",
        r"(?s)JIT kernel warmup starting.*Capturing CUDA graphs",
    ),  # the trial came before
)
PHASES = (
    ("read the configuration", r"Initializing a V1 LLM engine"),
    *MODEL_PHASES,
    ("warm up", r"init engine \(profile"),
)


class EngineError(OneLineError, RuntimeError):
    """An engine that could not be started or used: one sentence on what happened and what to do."""


@dataclass(frozen=True)
class EngineInfo:
    """What an engine took to start and what it has. Sizes in GiB (2**30 bytes), times in seconds."""

    startup_s: float
    startup_phases_s: dict[str, float]
    weights_gib: float | None  # on each GPU; None when vLLM did not say
    kv_cache_tokens: int
    kv_cache_gib: float | None
    max_concurrency: float  # requests of max_model_len tokens that fit the KV cache together
    block_size: int  # tokens
    num_blocks: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int

    def __str__(self) -> str:
        weights = (
            "weights size not reported"
            if self.weights_gib is None
            else f"weights {self.weights_gib:.3g} GiB"
        )
        return (
            f"started in {self.startup_s:.1f} s; {weights}; KV cache {self.kv_cache_tokens:,} tokens in "
            f"{self.num_blocks:,} blocks of {self.block_size} "
            f"({self.max_concurrency:.1f} requests of {self.max_model_len} tokens)"
        )


@dataclass(frozen=True)
class CloseReport:
    """Memory in GiB before the engine, right after its start, at most, and after its end; and what stayed."""

    before_gib: float
    loaded_gib: float
    peak_gib: float
    after_gib: float
    source: str  # "device memory (NVML)" or "host memory (resident, no GPU)"
    processes_left: list[int] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        left = (
            f"processes left: {self.processes_left}" if self.processes_left else "no process left"
        )
        return (
            f"closed in {self.seconds:.1f} s; {self.source}: {self.before_gib:.2f} GiB before, "
            f"{self.loaded_gib:.2f} loaded, {self.peak_gib:.2f} peak, {self.after_gib:.2f} after; {left}"
        )


class Engine:
    """An open engine. Made by `open_engine`; see the module's text."""

    def __init__(
        self,
        llm,
        profile: Profile,
        engine_args: dict,
        log_path: Path,
        info: EngineInfo,
        before: float,
        sampler,
        new_pids: list[int],
    ):
        self._llm = llm
        self._closing = False
        self.profile = profile
        self.started_with = engine_args
        self.engine_args = engine_args  # those in force: `retuned` changes them for its block
        self.log_path = log_path
        self.info = info
        self.pids = new_pids  # vLLM's own processes; empty when the engine lives in this one
        self._began = {pid: lifeline.started(pid) for pid in new_pids}
        # The engine's core ends when one of its workers does. Others only compile for it, and end by themselves.
        children = {child.pid for child in psutil.Process().children()}
        self._needed = {
            pid: since
            for pid, since in self._began.items()
            if pid in children and lifeline.title(pid).startswith("VLLM::")
        }
        self._before_gib = before
        self._loaded_gib = _memory_gib()
        self._sampler = sampler
        self.close_report: CloseReport | None = None
        if self._needed:
            outputs = llm.llm_engine.engine_core.outputs_queue
            threading.Thread(
                target=self._wake_who_waits, args=(outputs,), name="engine's processes", daemon=True
            ).start()

    def _wake_who_waits(self, outputs) -> None:
        """vLLM 0.32 notices that an engine's process was killed, but lets who waits for its next output wait for ever."""
        from vllm.v1.engine.exceptions import EngineDeadError

        while self.is_open:
            time.sleep(0.5)
        outputs.put(EngineDeadError())  # read by nobody when the engine was closed

    @property
    def llm(self):
        """The `vllm.LLM`. Raises EngineError when the engine is closed or its processes have ended."""
        if self._closing:
            raise EngineError("This engine is closed: run the cell with open_engine(...) again.")
        if not self.is_open:
            raise EngineError(self.ended)
        return self._llm

    @property
    def ended(self) -> str:
        """What to say of an engine whose processes have ended by themselves."""
        return (
            "The engine's process has ended by itself, often because the machine ran out of memory: run the cell with "
            f"open_engine(...) again. Why it ended may be in vLLM's log: {self.log_path}"
        )

    @property
    def tokenizer(self):
        return self.llm.get_tokenizer()

    @property
    def is_open(self) -> bool:
        """Neither closed nor without its processes: those of a large engine can be killed while the notebook lives on."""
        return not self._closing and all(
            lifeline.same(pid, since) for pid, since in self._needed.items()
        )

    @property
    def kv_cache_usage(self) -> float | None:
        """Share of the KV cache in use after the last step, 0 to 1; None when the engine keeps no statistics.

        It is vLLM's gauge, which `step()` sets from the numbers that a Measurement's timeline has. Another thread may
        read it while the engine works: prometheus_client keeps it in this process, under a lock of its own. It is read
        alone, because `llm.get_metrics()` reads all of vLLM's metrics and takes milliseconds.
        """
        from prometheus_client import REGISTRY

        if not self.llm.llm_engine.log_stats:
            return None
        gauge = "vllm:kv_cache_usage_perc"
        return next(
            (s.value for m in REGISTRY.restricted_registry([gauge]).collect() for s in m.samples),
            None,
        )

    def end_requests(self) -> None:
        """End what vLLM still works on, so that the next cell finds an idle engine; one that does not obey is closed."""
        with contextlib.suppress(Exception):
            core = self.llm.llm_engine
            core.abort_request(list(core.output_processor.request_states), internal=True)
            for _ in range(100):
                if not core.has_unfinished_requests():
                    return
                core.step()
        self.close()

    def __repr__(self) -> str:
        state = (
            str(self.info)
            if self.is_open
            else "closed"
            if self._closing
            else "its process has ended"
        )
        return f"<Engine {self.profile.model_label} on {self.profile.machine}: {state}>"

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def close(self) -> CloseReport:
        """End the engine, give its memory back and say so. Closing twice returns the first report.

        One that was interrupted (the stop button) is done again by the next call, from where it stopped.
        """
        global _open
        if self.close_report:
            return self.close_report
        started = time.perf_counter()
        self._closing = True
        try:
            if self._llm is not None:
                with _redirected(self.log_path):
                    _shut_down(self._llm)
                self._llm = None
            lifeline.end(
                self._began, lifeline.GRACE_S
            )  # a worker outlives an engine that was killed
            _unregister("engine")
            after = _settled_memory_gib(self._before_gib)
            left = _still_there(self.pids)
        finally:
            summary = self._sampler.stop()
        self.close_report = CloseReport(
            before_gib=self._before_gib,
            loaded_gib=self._loaded_gib,
            peak_gib=max(
                summary["peak_gib"] or 0.0, self._loaded_gib
            ),  # None: the sampler could not read
            after_gib=after,
            source=summary["source"],
            processes_left=left,
            seconds=time.perf_counter() - started,
        )
        if _open is self:
            _open = None
        return self.close_report


def open_engine(profile: Profile, **engine_args) -> Engine:
    """Start a vLLM engine with the profile's arguments, changed by `engine_args` (vLLM's own names).

    An argument given as None is left to vLLM's default. Returns the open engine when it has this configuration
    already; closes it first when it has another.
    Raises EngineError, with the cause in one sentence, when vLLM does not start.
    """
    global _open
    args = {"model": profile.model, **profile.engine_args, **engine_args}
    args = {name: value for name, value in args.items() if value is not None}
    if _open is not None:
        if _open.is_open and _open.started_with == args:
            return _open
        _open.close()
    # helpers/server/server.py closes the engine likewise; a module that nobody has imported has no server running.
    if (
        profile.name == "gpu"
        and (module := sys.modules.get("helpers.server.server"))
        and (stopped := module.stop_server())
    ):
        print(f"The notebook's server was stopped first, the engine needs its memory: {stopped}")
    with registered("engine", profile):
        _open = _start(profile, args)
    return _open


def close_engine() -> CloseReport | None:
    """Close the engine of this kernel, if one is open. For the last cell of a notebook."""
    return _open.close() if _open is not None else None


# --- starting -------------------------------------------------------------------------------------------------


def _start(profile: Profile, args: dict) -> Engine:
    log_path = _new_log("engine")
    _prepare_environment(profile, args)
    children = set(_children())
    sampler = gpu_memory.MemorySampler(hz=4)
    started = time.perf_counter()
    try:
        with live.engine_start(log_path, PHASES) as view, _redirected(log_path):
            with garbage.paused():
                from vllm import LLM

            if args.get("distributed_executor_backend") == "uni":
                _keep_registered_kernels()
            before = _memory_gib()  # after the import: Python's modules stay when the engine goes
            gc.freeze()  # vLLM's collections look at what this engine makes, not at all modules (helpers/engine/start.py)
            llm = LLM(**args, use_tqdm_on_load=False)
    except KeyboardInterrupt:
        _clean_up_failed_start(children)
        raise EngineError(
            "The start was stopped; what had begun was ended. Run the cell again."
        ) from None
    except Exception as error:
        sentence = _root_cause(error, log_path, args)
        _clean_up_failed_start(children)
        raise EngineError(f"{sentence} vLLM's log: {log_path}") from None
    startup_s = time.perf_counter() - started
    sampler.start()
    info = _read_info(llm, log_path, startup_s, view.phases_s())
    return Engine(
        llm, profile, args, log_path, info, before, sampler, sorted(set(_children()) - children)
    )


def _prepare_environment(profile: Profile, args: dict) -> None:
    """What vLLM reads from the environment, set before it is imported. Values that the user set are kept."""
    global _guard
    one_process = profile.name == "cpu" and args.get("distributed_executor_backend") == "uni"
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if one_process else "1"
    # A kernel that has threads or has touched CUDA should not fork an engine. (Where importing vLLM is slow, "fork"
    # saves the import in the engine's process: benchmarks/gpu_session.sh.)
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if "kv_cache_memory_bytes" in args:
        os.environ.pop(
            "VLLM_CPU_KVCACHE_SPACE", None
        )  # it would overrule the argument (vllm/platforms/cpu.py)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if one_process:
        # The shipped model is too small to share out: a second thread gains little on an idle machine, and beside
        # another program on the same cores the two threads wait for each other (measured: 15 times slower).
        import torch

        torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
        os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # the same for the n-gram drafter
    if Path(args["model"]).exists():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a local folder needs no hub
    if not one_process and (_guard is None or _guard.poll() is not None):
        _guard = lifeline.guard_children()


def _keep_registered_kernels() -> None:
    """Later engines of this process use the CPU kernels that the first one registered.

    vLLM would register them again by looking into every object of every module, and stops at numba's, which the
    n-gram drafter brings in: "'_lib_fn_wrapper' object has no attribute 'get'" (vllm/triton_utils/dispatcher.py).
    """
    from vllm.platforms import current_platform
    from vllm.triton_utils import dispatcher

    if dispatcher._registry:
        type(current_platform).register_triton_kernel_overrides = classmethod(lambda cls: None)


def _new_log(kind: str = "engine") -> Path:
    """An empty file for the log of an "engine" or a "server"; the 40 before it are kept."""
    folder = cache_dir() / "logs"
    folder.mkdir(exist_ok=True)
    for old in sorted(folder.glob(f"{kind}-*.log"))[:-40]:
        old.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=time.strftime(f"{kind}-%Y%m%d-%H%M%S-"), suffix=".log", dir=folder
    )
    os.close(handle)
    return Path(name)


@contextlib.contextmanager
def _redirected(log_path: Path):
    """Send everything that vLLM prints to the log: Python's streams, its logger, and what C++ writes to fd 1 and 2.

    Processes that vLLM starts meanwhile inherit the redirection and keep it.
    """
    # Torch says at its import that Triton is missing, which is as it should be on the CPU.
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    with open(log_path, "a", buffering=1, encoding="utf-8", errors="replace") as log:
        handler = logging.FileHandler(log_path)
        handler.setFormatter(logging.Formatter("%(levelname)s %(asctime)s [%(name)s] %(message)s"))
        saved = os.dup(1), os.dup(2)
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                import vllm.logger  # noqa: F401  configures the logger "vllm", once

                _replace_handlers(handler)
                yield
        finally:
            # vLLM may have configured its logger anew: from here on the file alone.
            _replace_handlers(handler)
            for copy, fd in zip(saved, (1, 2), strict=True):
                os.dup2(copy, fd)
                os.close(copy)


def _replace_handlers(handler: logging.Handler) -> None:
    logger = logging.getLogger("vllm")
    for old in logger.handlers:
        if isinstance(old, logging.FileHandler) and old is not handler:
            old.close()
    logger.handlers = [handler]
    logger.propagate = False


def _read_info(llm, log_path: Path, startup_s: float, phases_s: dict[str, float]) -> EngineInfo:
    """Put together what vLLM's configuration objects and its log say (vllm_config is updated after the start)."""
    config = llm.llm_engine.vllm_config
    cache, scheduler = config.cache_config, config.scheduler_config
    log = log_path.read_text(errors="replace")
    weights = re.search(r"Model loading took ([\d.]+) GiB", log)
    kv_gib = re.search(r"Available KV cache memory: ([\d.]+) GiB", log)
    reserved = cache.kv_cache_memory_bytes
    return EngineInfo(
        startup_s=startup_s,
        startup_phases_s=phases_s,
        weights_gib=float(weights[1]) if weights else _checkpoint_gib(config.model_config.model),
        kv_cache_tokens=cache.kv_cache_size_tokens,
        kv_cache_gib=float(kv_gib[1]) if kv_gib else (reserved / GIB if reserved else None),
        max_concurrency=cache.kv_cache_max_concurrency,
        block_size=cache.block_size,
        num_blocks=cache.num_gpu_blocks,
        max_model_len=config.model_config.max_model_len,
        max_num_seqs=scheduler.max_num_seqs,
        max_num_batched_tokens=scheduler.max_num_batched_tokens,
    )


def _checkpoint_gib(model: str) -> float | None:
    """Size of the weights on disk: on the CPU vLLM logs none, and repacks the weights as it loads them."""
    files = list(Path(model).glob("*.safetensors"))
    return sum(file.stat().st_size for file in files) / GIB if files else None


def _worker_of(llm_engine):
    """The worker of an engine in this process, else None."""
    executor = getattr(llm_engine, "model_executor", None)
    wrapper = getattr(executor, "driver_worker", None)
    return getattr(wrapper, "worker", wrapper)


# --- failing --------------------------------------------------------------------------------------------------


def _root_cause(error: Exception, log_path: Path, args: dict) -> str:
    """One sentence: what stopped the start and what to do about it."""
    message = str(error)
    log = log_path.read_text(errors="replace") if log_path.exists() else ""
    if "Engine core initialization failed" in message:
        # The engine's process died; the cause is the last exception in its log.
        causes = re.findall(r"((?:\w+\.)*\w*(?:Error|Exception)): (.+)", log)
        causes = [
            text
            for kind, text in causes
            if "Engine core init" not in text and "EngineDead" not in kind
        ]
        message = causes[-1] if causes else message
    if hasattr(error, "errors"):  # pydantic: one entry for each argument that it refused
        message = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}".lstrip(": ") for e in error.errors()
        )
    first = " ".join(message.split()).removeprefix("Value error, ").rstrip(".")
    if unknown := re.search(r"unexpected keyword argument '(\w+)'", first):
        return f"vLLM {_version()} has no engine argument {unknown[1]!r} ({first}). {_closest_argument(unknown[1])}"
    if re.search(
        r"out of memory|Free memory on device|less than desired|No available memory|Available memory on node",
        first,
    ):
        return (
            f"There is not enough memory for this engine ({gpu_memory.free_text()}): {first}. Close other "
            "engines and notebooks (`nvidia-smi` names them), or lower gpu_memory_utilization, max_model_len or "
            "kv_cache_memory_bytes."
        )
    if re.search(
        r"is not a local folder|not a valid model identifier|Repository Not Found|couldn't connect|"
        r"offline mode|Cannot find|does not appear to have|Invalid repository ID|Repo id must",
        first,
        re.IGNORECASE,
    ):
        return (
            f"The model {args['model']!r} was not found: it is neither a folder with a config.json nor a model "
            f"that can be downloaded from here ({first[:200]})."
        )
    return f"vLLM did not start: {first[:500]}."


def _closest_argument(name: str) -> str:
    import difflib

    from vllm.engine.arg_utils import EngineArgs

    near = difflib.get_close_matches(name, EngineArgs.__dataclass_fields__, n=1)
    return f"Did you mean {near[0]!r}?" if near else "Notebook 3 lists the arguments that exist."


def _version() -> str:
    import vllm

    return vllm.__version__


def _clean_up_failed_start(children: set[int]) -> None:
    for pid in set(_children()) - children:
        with contextlib.suppress(psutil.Error):
            psutil.Process(pid).kill()
    with contextlib.suppress(Exception):
        from vllm.distributed import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()
    _give_back_host_memory()


# --- closing --------------------------------------------------------------------------------------------------


def _shut_down(llm) -> None:
    """End vLLM's processes, then empty the objects: a displayed engine or a kept exception may hold references.

    vLLM 0.32 has no LLM.shutdown(); the client of the engine core has one (vllm/v1/engine/core_client.py).
    """
    engine = getattr(
        llm, "llm_engine", None
    )  # any of these may be gone when this goes on after an interruption
    core, worker = getattr(engine, "engine_core", None), _worker_of(engine)
    with (
        contextlib.suppress(Exception),
        garbage.never_now(),
    ):  # collected below, when the objects are empty
        core.shutdown()
    runner = getattr(worker, "model_runner", None)
    for holder in (runner, worker, core, engine, llm):
        with contextlib.suppress(TypeError):
            vars(holder).clear()
    _give_back_host_memory()


def _give_back_host_memory() -> None:
    gc.unfreeze()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _settled_memory_gib(target: float, patience_s: float = 5.0) -> float:
    """Memory once it has come back to `target`, or stopped falling: the driver frees it some time after the process."""
    deadline = time.perf_counter() + patience_s
    now = _memory_gib()
    while now > target * 1.01 + 0.01 and time.perf_counter() < deadline:
        time.sleep(0.1)
        previous, now = now, _memory_gib()
        if gpu_memory.has_gpu() is False and now >= previous:
            break  # host memory does not come back by waiting
    return now


def _still_there(pids: list[int], patience_s: float = 3.0) -> list[int]:
    """Those that have not ended by then: a process that compiled for the engine notices a moment later that it is alone."""
    deadline = time.perf_counter() + patience_s
    while (left := [pid for pid in pids if lifeline.alive(pid)]) and time.perf_counter() < deadline:
        time.sleep(0.1)
    return left


def _memory_gib() -> float:
    return gpu_memory.memory_now()["used_gib"]


def _children() -> list[int]:
    """This process's descendants, without the helpers that live as long as it does: lifeline's and multiprocessing's."""
    with contextlib.suppress(psutil.Error):
        pids = [child.pid for child in psutil.Process().children(recursive=True)]
        return [
            p
            for p in pids
            if not lifeline.is_lifeline(p) and "resource_tracker" not in lifeline.title(p)
        ]
    return []


# --- two notebooks at once ------------------------------------------------------------------------------------


@contextlib.contextmanager
def registered(kind: str, profile: Profile):
    """Inside the block other kernels are told that this one holds an "engine" or a "server"; afterwards too, unless it fails.

    Known from before the start, and under a lock: of two notebooks that start at once, the second sees the first.
    """
    with filelock.FileLock(_registry() / ".lock", timeout=30):
        _warn_of_other_engines(profile)
        me = {
            "pid": os.getpid(),
            "started": lifeline.started(os.getpid()),
            "host": socket.gethostname(),
        }
        _entry(kind).write_text(json.dumps({**me, "notebook": _notebook_name()}))
    try:
        yield
    except BaseException:
        _unregister(kind)
        raise


def _unregister(kind: str) -> None:
    _entry(kind).unlink(missing_ok=True)


def _registry() -> Path:
    folder = cache_dir() / "open-engines"
    folder.mkdir(exist_ok=True)
    return folder


def _entry(kind: str) -> Path:
    # A home may be shared by several machines, whose pids mean nothing to each other.
    return _registry() / f"{kind}-{socket.gethostname()}-{os.getpid()}.json"


def other_engines() -> list[dict]:
    """Engines and servers that other kernels of this user hold on this machine: {"pid", "started", "host", "notebook"}."""
    found = []
    for path in _registry().glob("*.json"):
        try:
            entry = json.loads(path.read_text())
            pid, since, host = int(entry["pid"]), int(entry["started"]), entry["host"]
            entry["notebook"]
        except (OSError, ValueError, TypeError, KeyError):
            continue  # damaged, or not ours
        if host != socket.gethostname():
            continue
        if not lifeline.same(pid, since):
            path.unlink(
                missing_ok=True
            )  # a kernel that was killed; its pid may belong to another program by now
        elif pid != os.getpid():
            found.append(entry)
    return found


def _warn_of_other_engines(profile: Profile) -> None:
    others = other_engines()
    if not others:
        return
    names = ", ".join(f"{other['notebook']} (process {other['pid']})" for other in others)
    if profile.name == "gpu":
        raise EngineError(
            f"The GPU is taken: {names} has an engine open. Run its last cell, or shut its kernel down, then run this "
            "cell again."
        )
    print(
        f"Note: {names} has an engine open on this machine; the numbers of both will be slower than alone."
    )


def _notebook_name() -> str:
    """The notebook that this kernel runs, as well as it can be known."""
    path = os.environ.get("WORKBOOK_NOTEBOOK") or os.environ.get("JPY_SESSION_NAME") or ""
    return Path(path).name or "another program"


# --- the stop button ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def interrupt_between_steps():
    """Within this block Ctrl-C (Jupyter's stop button) sets a flag that the caller reads between two engine steps.

    A step that is interrupted half-way leaves vLLM's scheduler and worker disagreeing; a step takes milliseconds, so
    waiting for its end costs nothing. A second Ctrl-C interrupts at once.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = signal.getsignal(signal.SIGINT)

    def handler(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, handler)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
