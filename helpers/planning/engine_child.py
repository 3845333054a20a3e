"""A process that opens engines and measures them for this one: one command, one answer.

    with EngineChild(environment) as child:
        started = child.ask("open", deadline, model=..., tensor_parallel_size=2)
        numbers = child.ask("measure", deadline, decode=[(1, 64)], prefill=[256], output=48)

Notebook 4 tries layouts through it (layouts.py, ray_nodes.py), and benchmarks/planner records with
it. The child runs this module: python -m helpers.planning.engine_child SOCKET
"""

import contextlib
import gc
import os
import random
import statistics
import sys
import tempfile
import time
import traceback
from multiprocessing.connection import Client, Listener
from pathlib import Path

from helpers.engine import processes
from helpers.engine.start import defaults, imports_without_gc

LATE = "no answer in the time allowed"
TOGETHER_S = 2e-3  # streams that were prefilled so close to the last one decode undisturbed


# ---------------------------------------------------------------------- in the parent
class EngineChild:
    """A child process with vLLM; it and whatever it starts are gone after ``end``.

    environment: added to this process's own. ``log``: the file with what the child and vLLM say.
    """

    def __init__(self, environment: dict[str, str]):
        self._folder = tempfile.TemporaryDirectory(prefix="engine-child-")
        self._socket = str(Path(self._folder.name) / "socket")
        self.log = Path(self._folder.name) / "log"
        self._connection = None
        self.process = processes.spawn(
            [sys.executable, "-P", "-m", "helpers.planning.engine_child", self._socket],
            env={**defaults(), **os.environ, **environment},
            log=str(self.log),
        )

    def tell(self, command: str, deadline: float, **arguments) -> None:
        """Give a command and do not wait: "open", "generate", "measure", "wait_for_ray_nodes"."""
        if self._connection is None:
            self._connect(deadline)
        with contextlib.suppress(AttributeError, OSError):  # it is gone: ``hear`` says so
            self._connection.send((command, arguments))

    def _connect(self, deadline: float) -> None:
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                self._connection = Client(self._socket)
                return
            time.sleep(0.05)

    def hear(self, deadline: float) -> dict:
        """The answer to the last command, and "problem" when it is not whole.

        deadline: by time.monotonic(). A child that is late, has ended or whose command failed
        leaves what it had found until then.
        """
        heard: dict = {}
        while self._connection is not None:
            left = deadline - time.monotonic()
            try:
                if left <= 0 or not self._connection.poll(left):
                    return heard | {"problem": LATE}
                part = self._connection.recv()
            except (EOFError, OSError):
                break
            if part is None:
                return heard
            heard |= part
        late = self.process.poll() is None and time.monotonic() >= deadline
        return heard | {
            "problem": LATE if late else f"the process ended: {self.last_words() or 'no message'}"
        }

    def ask(self, command: str, deadline: float, **arguments) -> dict:
        """``tell`` and ``hear``."""
        self.tell(command, deadline, **arguments)
        return self.hear(deadline)

    def last_words(self) -> str:
        """The last line of the log; "" when nothing was said."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " ".join(lines[-1:])[-300:]

    def end(self) -> None:
        """End the child and everything that it started. Safe to call twice."""
        processes.stop(self.process)
        if self._connection is not None:
            self._connection.close()
        with contextlib.suppress(OSError):
            self._folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        self.end()


def as_problem(problem: BaseException) -> str:
    """The type and the last line of an exception, or of the worker's exception that it carries."""
    text = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {text[-1] if text else ''}"[:300]


# ---------------------------------------------------------------------- measuring an engine
def measure(llm, decode=(), prefill=(), output=1, repeats=3, seed=0):
    """Yield what is known so far, a dict of times in ms: medians of rounds that time all in turn.

    decode: (streams, prompt tokens) that start together, so that no prompt comes between their
    steps; keys are "8x64". prefill: prompt lengths. output: tokens of a stream. repeats: rounds;
    "values" has the times of every round.
    seed: another for each call, since a prompt that was seen before would be found in the prefix
    cache.
    """
    vocabulary, rng = llm.model_config.get_vocab_size(), random.Random(seed)
    slots = llm.llm_engine.vllm_config.scheduler_config.max_num_seqs
    values: dict = {name: {} for name in ("tpot_ms", "mean_tpot_ms", "prefill_ms", "ttft_ms")}

    def generate(count: int, tokens: int, output: int) -> list:
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0, max_tokens=output, ignore_eos=True, detokenize=False
        )
        draw = ([rng.randrange(3, vocabulary) for _ in range(tokens)] for _ in range(count))
        prompts = [{"prompt_token_ids": ids} for ids in draw]
        return [o.metrics for o in llm.generate(prompts, params, use_tqdm=False)]

    def note(case: str, **seconds: float) -> None:
        for name, value in seconds.items():
            values[name].setdefault(case, []).append(value * 1e3)

    for streams, tokens in decode:  # the first steps of a shape are slower
        generate(streams, tokens, 8)
    for _ in range(repeats):
        for streams, tokens in decode:
            step, mean = step_seconds(generate(streams, tokens, output))
            note(f"{streams}x{tokens}", tpot_ms=step, mean_tpot_ms=mean)
            yield _medians(values, slots)
        for tokens in prefill:
            m = generate(1, tokens, 1)[0]
            prefill_s = m.first_token_ts - m.scheduled_ts
            note(str(tokens), prefill_ms=prefill_s, ttft_ms=m.first_token_latency)
            yield _medians(values, slots)


def _medians(values: dict, slots: int) -> dict:
    """The numbers of a measurement from the times of its rounds so far."""
    found = {
        name: {case: statistics.median(times) for case, times in cases.items()}
        for name, cases in values.items()
    }
    streams = {case: min(int(case.split("x")[0]), slots) for case in found["tpot_ms"]}
    rates = {case: 1e3 * streams[case] / ms for case, ms in found["tpot_ms"].items()}
    return {**found, "output_tokens_per_s": rates, "values": values}


def step_seconds(metrics) -> tuple[float, float]:
    """(median, mean) seconds of a decode step.

    The median is that of the streams whose prompts were computed last, so that no prompt came
    between their steps; the mean is that of all.
    """
    last = max(m.first_token_ts for m in metrics)

    def step(m) -> float:
        return (m.last_token_ts - m.first_token_ts) / (m.num_generation_tokens - 1)

    together = [step(m) for m in metrics if last - m.first_token_ts < TOGETHER_S]
    return statistics.median(together), statistics.fmean(map(step, metrics))


# ---------------------------------------------------------------------- in the child
class _Engines:
    """The commands; each yields parts of its answer. At most one engine is open."""

    def __init__(self):
        self.llm = None

    def open(self, fork: bool = False, **arguments):
        """Open an engine. fork: its workers are copies of this process, which takes 10 s less."""
        from vllm import LLM

        self._close()
        if fork:
            import multiprocessing

            import vllm.v1.executor.multiproc_executor as executor

            executor.get_mp_context = lambda: multiprocessing.get_context("fork")
        gc.freeze()  # vLLM's collections, here and in the ranks, look at what this engine makes
        begin = time.perf_counter()
        self.llm = LLM(skip_tokenizer_init=True, disable_log_stats=False, **arguments)
        config = self.llm.llm_engine.vllm_config
        yield {
            "startup_s": time.perf_counter() - begin,
            "kv_cache_tokens": config.cache_config.kv_cache_size_tokens,
            "num_gpu_blocks": config.cache_config.num_gpu_blocks,
            "block_size": config.cache_config.block_size,
            "max_model_len": config.model_config.max_model_len,
            "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
            "max_num_seqs": config.scheduler_config.max_num_seqs,
        }
        if arguments.get("worker_extension_cls"):
            if config.parallel_config.pipeline_parallel_size > 1:
                self.llm.collective_rpc("planning_pipeline")
            yield {"memory_by_rank": self.llm.collective_rpc("planning_memory")}

    def _close(self) -> None:
        if self.llm is not None:
            with contextlib.suppress(Exception):
                self.llm.llm_engine.engine_core.shutdown()
            self.llm = None

    def generate(self, prompts, sampling_params):
        """LLM.generate of the engine that is open."""
        yield {"outputs": self.llm.generate(prompts, sampling_params, use_tqdm=False)}

    def measure(self, allreduce=(), **what):
        """``measure``, then vLLM's own all-reduce between the ranks for these payloads in bytes."""
        yield from measure(self.llm, **what)
        if allreduce:
            yield {"allreduce": self.llm.collective_rpc("planning_allreduce", args=allreduce)[0]}

    def wait_for_ray_nodes(self, address: str, nodes: int):
        """Join Ray at ``address`` and wait up to 30 s for so many nodes."""
        import ray

        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
        for _ in range(100):
            alive = sum(node["Alive"] for node in ray.nodes())
            if alive >= nodes:
                break
            time.sleep(0.3)
        yield {"nodes": alive}


def _serve(socket: str) -> None:
    with Listener(socket) as listener:
        with imports_without_gc():
            import vllm  # noqa: F401  (before the first command: the parent may be busy meanwhile)
        connection = listener.accept()
    engines = _Engines()
    while True:
        try:
            command, arguments = connection.recv()
        except EOFError:
            return
        try:
            for part in getattr(engines, command)(**arguments):
                connection.send(part)
        except Exception as problem:
            traceback.print_exc()  # the log has the whole story
            connection.send({"problem": as_problem(problem)})
        connection.send(None)


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # the parent does not listen any more
        _serve(sys.argv[1])
    os._exit(0)
