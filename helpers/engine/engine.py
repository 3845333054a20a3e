"""Open a vLLM engine, know what it took, close it and prove that everything came back.

    with open_engine(profile, max_num_seqs=16) as engine:
        engine.llm.generate(...)           # vllm.LLM, the real one

In a notebook the two halves often stand in two cells: `engine = open_engine(profile)` and, at the
end, `engine.close()`. A kernel holds one engine at a time. Opening the same configuration again
returns the open engine at once; another configuration closes the first one.

On the CPU the engine lives in this process; on a GPU in processes of its own, as vLLM does by
default. vLLM's log goes to a file that `engine.log_path` and every error name.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from helpers import gpu_memory
from helpers.display import live
from helpers.engine import holders, processes
from helpers.engine.cache import new_log
from helpers.engine.failure import EngineError, died, why
from helpers.engine.info import EngineInfo, read_info
from helpers.engine.interrupts import Stopped, children_deaf_to_ctrl_c, ctrl_c_calls, stopped
from helpers.engine.profile import Profile
from helpers.engine.start import (
    PHASES,
    collecting_nothing,
    give_back_host_memory,
    imports_without_gc,
    leave_out_modules,
    logged_to,
    prepare_environment,
    register_kernels_once,
)
from helpers.engine.steps import steps_path

_open: Engine | None = None  # the engine of this kernel


@dataclass(frozen=True)
class CloseReport:
    """Memory (GiB) before the engine, after its start, at most and after its end; what stayed."""

    before_gib: float
    loaded_gib: float
    peak_gib: float
    after_gib: float
    source: str  # "device memory (NVML)" or "host memory (resident, no GPU)"
    processes_left: list[int]
    seconds: float

    def __str__(self) -> str:
        left = "no process left"
        if self.processes_left:
            left = f"processes left: {self.processes_left}"
        start = f"{self.before_gib:.2f} GiB before, {self.loaded_gib:.2f} loaded"
        end = f"{self.peak_gib:.2f} peak, {self.after_gib:.2f} after"
        return f"closed in {self.seconds:.1f} s; {self.source}: {start}, {end}; {left}"


@dataclass(eq=False, repr=False)
class Engine:
    """An open engine. Made by `open_engine`; see the module's text."""

    _llm: object
    profile: Profile
    started_with: dict
    log_path: Path
    info: EngineInfo
    _before_gib: float
    _processes: list[psutil.Process]  # its own

    def __post_init__(self):
        self.engine_args = self.started_with  # those in force: `retuned` changes them for its block
        self._closed = False  # no longer to be used; `close_report` when all of it has gone
        self.close_report: CloseReport | None = None
        # The engine's core ends when one of its workers does. Others only compile for it, and end
        # by themselves.
        own = [child for child in psutil.Process().children() if child in self._processes]
        self._needed = [one for one in own if processes.title(one.pid).startswith("VLLM::")]
        self._loaded_gib = _memory_gib()
        self.sampler = gpu_memory.MemorySampler(hz=4).start()  # until the engine is closed
        if self._needed:
            outputs = self._llm.llm_engine.engine_core.outputs_queue
            waker = threading.Thread(target=self._wake_who_waits, args=(outputs,), daemon=True)
            waker.start()

    def _wake_who_waits(self, outputs) -> None:
        """End a wait for output of an engine that was killed: vLLM 0.32 lets it go on for ever."""
        from vllm.v1.engine.exceptions import EngineDeadError

        while self.is_open:
            time.sleep(0.5)
        outputs.put(EngineDeadError())  # read by nobody when the engine was closed

    @property
    def llm(self):
        """The `vllm.LLM`. Raises EngineError when it is closed or its processes are gone."""
        if self._closed:
            raise EngineError("This engine is closed: run the cell with open_engine(...) again.")
        if not self.is_open:
            raise EngineError(died(self.log_path))
        return self._llm

    @property
    def tokenizer(self):
        """The model's tokenizer (transformers). Raises EngineError as `llm` does."""
        return self.llm.get_tokenizer()

    @property
    def pids(self) -> list[int]:
        """The engine's own processes; empty when it lives in this one."""
        return [process.pid for process in self._processes]

    @property
    def is_open(self) -> bool:
        """Neither closed nor without its processes, which can be killed while this one lives."""
        return not self._closed and all(map(processes.runs, self._needed))

    def end_requests(self) -> None:
        """End what vLLM still works on: the next cell finds an idle engine, or a closed one."""
        with contextlib.suppress(Exception):
            core = self.llm.llm_engine
            core.abort_request(list(core.output_processor.request_states), internal=True)
            for _ in range(100):
                if not core.has_unfinished_requests():
                    return
                core.step()
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "its process has ended"
        if self.is_open:
            state = str(self.info)
        return f"<Engine {self.profile.model_label} on {self.profile.machine}: {state}>"

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def close(self) -> CloseReport:
        """End the engine, give its memory back and say so. Closing twice returns the first report.

        One that was interrupted (the stop button) is done again by the next call, from where it
        stopped.
        """
        global _open
        if self.close_report:
            return self.close_report
        began = time.perf_counter()
        self._closed = True
        try:
            if self._llm is not None:
                with logged_to(self.log_path):
                    _shut_down(self._llm)
                self._llm = None
            processes.end(self._processes)  # a worker outlives an engine that was killed
            after = _settled_memory_gib(self._before_gib)
            left = [process.pid for process in self._processes if processes.runs(process)]
            holders.release("engine")  # others may take the GPU once its memory is back
        finally:
            seen = self.sampler.stop()
        self.close_report = CloseReport(
            before_gib=self._before_gib,
            loaded_gib=self._loaded_gib,
            # None: the sampler could not read
            peak_gib=max(seen["peak_gib"] or 0.0, self._loaded_gib),
            after_gib=after,
            source=seen["source"],
            processes_left=left,
            seconds=time.perf_counter() - began,
        )
        if _open is self:
            _open = None
        return self.close_report


def open_engine(profile: Profile, **engine_args) -> Engine:
    """Start vLLM with the profile's arguments, changed by `engine_args` (vLLM's own names).

    An argument given as None is left to vLLM's default. Returns the open engine when it has these
    arguments already; closes it first when it has others.
    Raises EngineError, with the cause in one sentence, when vLLM does not start.
    """
    global _open
    args = {"model": profile.model, **profile.engine_args, **engine_args}
    args = {name: value for name, value in args.items() if value is not None}
    if _open is not None:
        same = (_open.profile.name, _open.started_with) == (profile.name, args)
        if _open.is_open and same:
            _open.profile = profile  # another draft model may go with the same engine
            return _open
        _open.close()
    with holders.taken("engine", profile, close=close_engine):
        _open = _start(profile, args)
    return _open


def close_engine() -> CloseReport | None:
    """Close the engine of this kernel, if one is open. For the last cell of a notebook."""
    return _open.close() if _open is not None else None


# --- starting -------------------------------------------------------------------------------------


def _start(profile: Profile, args: dict) -> Engine:
    log_path = new_log("engine")
    prepare_environment(profile, args)
    os.environ["WORKBOOK_STEPS"] = str(steps_path(log_path))
    known = set(processes.started_here())
    began = time.perf_counter()
    try:
        starting = live.EngineStart(log_path, PHASES)
        with ctrl_c_calls(stopped), starting as view, logged_to(log_path):
            with imports_without_gc():
                from vllm import LLM, envs

            envs.disable_envs_cache()  # an earlier engine of this process may have had others
            if args.get("distributed_executor_backend") == "uni":
                register_kernels_once()
            before = _memory_gib()  # after the import: Python's modules stay when the engine goes
            leave_out_modules()
            with children_deaf_to_ctrl_c():
                llm = LLM(**args, use_tqdm_on_load=False)
    except (KeyboardInterrupt, Stopped):
        _clean_up_failed_start(known)
        raise EngineError("The start was stopped and ended: run the cell again.") from None
    except Exception as error:
        sentence = why(error, log_path.read_text(errors="replace"), args["model"])
        _clean_up_failed_start(known)
        raise EngineError(f"{sentence} vLLM's log: {log_path}") from None
    startup_s = time.perf_counter() - began
    log = log_path.read_text(errors="replace")
    info = read_info(llm.llm_engine.vllm_config, log, startup_s, view.phases_s())
    new = [process for process in processes.started_here() if process not in known]
    return Engine(llm, profile, args, log_path, info, before, new)


def _clean_up_failed_start(known: set[psutil.Process]) -> None:
    processes.kill(set(processes.started_here()) - known)
    with contextlib.suppress(Exception):
        from vllm.distributed import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()
    give_back_host_memory()


# --- closing --------------------------------------------------------------------------------------


def _shut_down(llm) -> None:
    """End vLLM's processes, then empty the objects, which a displayed engine or an error may hold.

    vLLM 0.32 has no LLM.shutdown(); the client of the engine core has one
    (vllm/v1/engine/core_client.py).
    """
    # Any of these may be gone when this goes on after an interruption.
    engine = getattr(llm, "llm_engine", None)
    core = getattr(engine, "engine_core", None)
    wrapper = getattr(getattr(engine, "model_executor", None), "driver_worker", None)
    worker = getattr(wrapper, "worker", wrapper)  # only of an engine in this process
    # Collected below, when the objects are empty.
    with contextlib.suppress(Exception), collecting_nothing():
        core.shutdown()
    for holder in (getattr(worker, "model_runner", None), worker, core, engine, llm):
        with contextlib.suppress(TypeError):
            vars(holder).clear()
    give_back_host_memory()


def _settled_memory_gib(target: float) -> float:
    """Memory once it is back at `target`, or falls no more: a driver frees it after the process."""
    deadline = time.perf_counter() + 5
    now = _memory_gib()
    while now > target * 1.01 + 0.01 and time.perf_counter() < deadline:
        time.sleep(0.1)
        previous, now = now, _memory_gib()
        if not gpu_memory.has_gpu() and now >= previous:
            break  # host memory does not come back by waiting
    return now


def _memory_gib() -> float:
    return gpu_memory.memory_now()["used_gib"]
