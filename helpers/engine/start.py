"""What surrounds an engine's start: its environment, log and phases, and Python's collections."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import sys
from pathlib import Path

from helpers.engine import processes
from helpers.engine.cache import cache_dir
from helpers.engine.profile import Profile

# What the log says when a phase of the start begins, in the order of the start.
MODEL_PHASES = (
    ("load the weights", r"Starting to load model|Loading model from scratch"),
    ("compile", r"Starting torch\.compile|Dynamo bytecode|Compiling a graph"),
    # with a trial capture of CUDA graphs
    ("profile the memory", r"torch\.compile took|Initial profiling"),
    ("reserve the KV cache", r"Available KV cache memory|KV cache size: [\d,]+ tokens"),
    # a GPU's first start compiles Triton's kernels here
    ("prepare kernels and graphs", r"JIT kernel warmup starting"),
    # the trial came before
    ("capture CUDA graphs", r"(?s)JIT kernel warmup starting.*Capturing CUDA graphs"),
)
PHASES = (
    ("read the configuration", r"Initializing a V1 LLM engine"),
    *MODEL_PHASES,
    ("warm up", r"init engine \(profile"),
)


def defaults(model: str = "") -> dict[str, str]:
    """The environment of vLLM's processes where the user has set nothing else."""
    found = {
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Without it torch takes one folder for a model's first start and another for the later ones
        # (torch/_inductor/runtime/triton_heuristics.py): an H100 compiles the same kernels twice,
        # 25 s each time, and again for each other set of engine arguments.
        "TRITON_CACHE_DIR": str(cache_dir("triton")),
    }
    return found | ({"HF_HUB_OFFLINE": "1"} if model and Path(model).exists() else {})


def prepare_environment(profile: Profile, args: dict) -> None:
    """Set what vLLM reads from the environment when it is imported; the user's values are kept."""
    one_process = profile.name == "cpu" and args.get("distributed_executor_backend") == "uni"
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if one_process else "1"
    # A kernel that has threads or has touched CUDA should not fork an engine. (Where importing vLLM
    # is slow, "fork" saves the import in the engine's process.)
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.update(defaults(args["model"]) | os.environ)
    if "kv_cache_memory_bytes" in args:
        # It would overrule the argument (vllm/platforms/cpu.py).
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
    if not one_process:
        processes.guard_children()
        return
    keep_freed_memory()
    # The shipped model is too small to share out: a second thread gains little on an idle machine,
    # and beside another program on the same cores the two threads wait for each other (measured: 15
    # times slower).
    import torch

    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # the same for the n-gram drafter


def keep_freed_memory() -> None:
    """Let the C library keep what a step frees for the next one, here and in children.

    By default it gives large blocks back to the operating system and gets them anew, page by page:
    17,000 page faults and a fifth of the time of a prompt of 3,072 tokens, in some runs and not in
    others. Settings of one's own are kept; a C library that is not glibc has none.
    """
    names = "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"
    if any(name in os.environ for name in names):
        return
    for name, option, size in zip(names, (-1, -3), (2**30, 2**25), strict=True):  # malloc.h
        os.environ[name] = str(size)
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).mallopt(option, size)


def register_kernels_once() -> None:
    """Register the CPU's kernels in this process, once, without a look into llvmlite.

    vLLM registers them at every start by looking into every object of every module, and stops at
    those of llvmlite, which numba brings in and the n-gram drafter numba:
    "'_lib_fn_wrapper' object has no attribute 'get'" (vllm/triton_utils/dispatcher.py).
    """
    from vllm.platforms import current_platform
    from vllm.triton_utils import dispatcher

    if not dispatcher._registry:  # noqa: SLF001 - vLLM has no public way to ask
        names = [name for name in sys.modules if name.partition(".")[0] == "llvmlite"]
        hidden = {name: sys.modules.pop(name) for name in names}
        try:
            current_platform.register_triton_kernel_overrides()
        finally:
            sys.modules.update(hidden)
    type(current_platform).register_triton_kernel_overrides = classmethod(lambda cls: None)


def say_nothing_of_triton() -> None:
    """Torch says at its import that Triton is missing, which is as it should be on the CPU."""
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)


@contextlib.contextmanager
def quiet():
    """Keep vLLM and torch from saying anything below an error, such as a page of configuration.

    Imports of vLLM in here are quick, too.
    """
    say_nothing_of_triton()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # of all loggers: vLLM sets levels while it is imported
    try:
        with imports_without_gc():
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def logged_to(log_path: Path):
    """Send all that vLLM prints to the log: Python's streams, its logger, C++'s fd 1 and 2.

    Processes that vLLM starts meanwhile inherit the redirection and keep it.
    """
    say_nothing_of_triton()
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
                import vllm.logger  # noqa: F401 - configures the logger "vllm", once

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


# Importing vLLM makes a million objects that stay. Python looks through them again and again while
# they are made (2 of the 7 s of the import on one core), and vLLM asks for such a look four times
# in an engine's start and twice in its end (0.4 s each). So nothing is collected during the import,
# what it made is left out while an engine lives, and after the end all is looked at once.


@contextlib.contextmanager
def imports_without_gc():
    """Nothing is collected meanwhile."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def leave_out_modules() -> None:
    """What is there now is not collected until `give_back_host_memory`."""
    gc.freeze()


def give_back_host_memory() -> None:
    """Collect everything, also what was left out, and hand free memory to the system."""
    gc.unfreeze()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextlib.contextmanager
def collecting_nothing():
    """Also ``gc.collect()`` does nothing in here; the caller collects afterwards, once."""
    collect, gc.collect = gc.collect, lambda generation=2: 0
    try:
        with imports_without_gc():
            yield
    finally:
        gc.collect = collect
