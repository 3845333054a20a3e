"""Try layouts for real on this machine: TP 1, TP 2 and PP 2 of the same model, and two replicas.

    engines = Engines(profile)
    with engines.open(tensor_parallel_size=2) as trial:
        outputs = trial.llm.generate(prompts, sampling_params, use_tqdm=False)
    engines.end()

On GPUs each layout is a process of its own. On the CPU one rank runs in this process, as in the
other notebooks; the layouts of several ranks share one child, whose workers are forked instead of
started anew (vLLM's own way imports PyTorch again in every worker); one core a rank, and 64 MiB of
KV cache on each. What PP 2 needs on a CPU before its first step, worker_probe makes.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from helpers.engine import close_engine, open_engine
from helpers.results import recorded as reference
from helpers.verdicts.gain import Gain, gain_of_ranks
from helpers.verdicts.machine import Disturbance, MachineWatch, most_disturbed

from .choose import short_name
from .engine_child import LATE, EngineChild
from .hardware import Box, make_box
from .models import ModelShape, load_shape
from .predict import decode_parts, prefill_parts
from .worker_probe import WORKER_PROBE, allreduce_sizes

RECORDED = ("Qwen2.5-7B", "H100-SXM")  # model and GPU of recorded_on_two_gpus
ROUNDS = 10  # as few as let a range by ranks leave out two rounds that waited
# Tokens in the KV cache of a request on average: notebook 4 asks for 32 tokens after 64.
CONTEXT = 64 + 32 / 2
CPU_KV_CACHE_BYTES = 64 * 2**20
CASES = {"tpot_ms": "streams", "prefill_ms": "tokens"}  # by what a record names its cases
CHUNK = 4096  # more tokens than the prompts have
TRIAL_S, CPU_TRIAL_S = 300, 90  # for one layout


class LayoutError(RuntimeError):
    """An engine of several ranks did not start, or has ended."""


@dataclass
class Trial:
    """What one layout did. ``problem``: why the rest is empty or not whole.

    rounds: {"tpot_ms": {requests: [ms of one decode step, ...]}, "prefill_ms": {prompt tokens:
    [ms, ...]}}. allreduce: rows {"bytes", "seconds"} of vLLM's own all-reduce between the ranks.
    disturbance: what else the machine did.
    """

    tp: int
    pp: int
    startup_s: float = 0.0
    kv_cache_tokens: int = 0
    allreduce: list = field(default_factory=list)
    problem: str = ""
    rounds: dict = field(default_factory=lambda: {name: {} for name in CASES})
    disturbance: Disturbance = Disturbance(0.0, 0.0)
    llm: Any = field(default=None, repr=False)  # vLLM's LLM, or one that asks that of a child

    @property
    def tpot_ms(self) -> dict[int, float]:
        """{requests: ms of one decode step, the median round}."""
        return {requests: median(ms) for requests, ms in self.rounds["tpot_ms"].items()}

    @property
    def prefill_ms(self) -> dict[int, float]:
        """{prompt tokens: ms, the median round}."""
        return {tokens: median(ms) for tokens, ms in self.rounds["prefill_ms"].items()}

    @property
    def disturbed(self) -> list[str]:
        """Why this trial was not alone on its machine; empty when it was."""
        return self.disturbance.reasons

    @property
    def name(self) -> str:
        """The layout in words: sizes of 1 are left out."""
        return short_name(self.tp, self.pp, 1, alone="TP 1")

    def note(self, quantity: str, case: int, ms: float) -> None:
        """Keep one round of "tpot_ms" or "prefill_ms"."""
        self.rounds[quantity].setdefault(case, []).append(ms)

    def record(self) -> dict:
        """What to save; numbers with units in their names, _low and _high: of the rounds."""
        numbers = {"startup_s": self.startup_s, "kv_cache_tokens": self.kv_cache_tokens}
        for quantity, of in CASES.items():
            for case, ms in getattr(self, quantity).items():
                name, (low, high) = f"{quantity}_{case}_{of}", self.span(quantity, case)
                numbers |= {name: ms, f"{name}_low": low, f"{name}_high": high}
        machine = self.disturbance.record()
        return {"metrics": numbers, "problem": self.problem, "machine": machine}

    def span(self, quantity: str, case: int) -> tuple[float, float]:
        """The shortest and the longest round in ms. quantity: "tpot_ms" or "prefill_ms"."""
        values = self.rounds[quantity][case]
        return min(values), max(values)

    def __str__(self) -> str:
        if self.problem:
            return f"{self.name}: {self.problem}"
        steps = ", ".join(map(self._step, self.tpot_ms))
        return f"{self.name}: a decode step takes {steps}{self.disturbance.label()}"

    def _step(self, requests: int) -> str:
        low, high = self.span("tpot_ms", requests)
        of = f"with {requests} request{'s' * (requests > 1)}"
        return f"{self.tpot_ms[requests]:.2f} ms ({low:.2f} to {high:.2f}) {of}"


class Engines:
    """Engines of a profile's model, one layout at a time. What fails is the trial's ``problem``."""

    def __init__(self, profile):
        self.profile, self.on_cpu = profile, profile.name == "cpu"
        self._child = None

    @contextmanager
    def open(
        self, tensor_parallel_size: int = 1, pipeline_parallel_size: int = 1
    ) -> Iterator[Trial]:
        """An engine of this layout, as LLM(model, tensor_parallel_size=..., ...) makes it.

        At the end vLLM's own all-reduce is timed between the ranks, and the engine closed.
        """
        tp, pp = tensor_parallel_size, pipeline_parallel_size
        deadline = time.monotonic() + (CPU_TRIAL_S if self.on_cpu else TRIAL_S)
        trial = Trial(tp, pp)
        if self.on_cpu and tp * pp == 1:
            engine = open_engine(self.profile, kv_cache_memory_bytes=CPU_KV_CACHE_BYTES)
            trial.startup_s = engine.info.startup_s
            trial.kv_cache_tokens, trial.llm = engine.info.kv_cache_tokens, engine.llm
        else:
            self._open_in_child(trial, deadline)
        watch = MachineWatch()
        try:
            with suppress(LayoutError):  # the trial has it as its problem
                yield trial
            trial.disturbance = watch.stop()
            if tp > 1 and not trial.problem:
                sizes = allreduce_sizes(self.on_cpu)
                heard = self.ask("measure", deadline, allreduce=sizes)
                trial.allreduce = heard.get("allreduce", [])
        finally:
            trial.llm = None
            close_engine()
            if trial.problem or not self.on_cpu:
                self.end()

    def end(self) -> None:
        """End the child process, if there is one, and all that it started."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _open_in_child(self, trial: Trial, deadline: float) -> None:
        environment = trial_environment(self.profile)
        arguments = {**trial_arguments(self.profile), "worker_extension_cls": WORKER_PROBE}
        if self.on_cpu:
            cores = sorted(os.sched_getaffinity(0))[:2]
            environment["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, cores))
            arguments |= {"distributed_executor_backend": "mp", "fork": True}
        self._child = child = self._child or EngineChild(environment)
        sizes = {"tensor_parallel_size": trial.tp, "pipeline_parallel_size": trial.pp}
        heard = self.ask("open", deadline, model=self.profile.model, **arguments, **sizes)
        trial.startup_s = heard.get("startup_s", 0.0)
        trial.kv_cache_tokens = heard.get("kv_cache_tokens", 0)
        trial.problem = heard.get("problem", "")
        if trial.problem == LATE:
            why = child.last_words() or "vLLM was still being imported"
            trial.problem = f"did not begin in the time allowed: {why}"
        trial.llm = _ChildsLLM(self, trial, deadline)

    def ask(self, *command, **arguments) -> dict:
        """What the child answers."""
        try:
            return self._child.ask(*command, **arguments)
        except KeyboardInterrupt:  # the answer would come to the next question
            self.end()
            raise


@dataclass
class _ChildsLLM:
    """The LLM of a child: its ``generate`` runs there, and what it returns comes here."""

    engines: Engines
    trial: Trial
    deadline: float

    def generate(self, prompts, sampling_params, use_tqdm: bool = False) -> list:
        """As vLLM's, without a progress bar. Raises LayoutError with the trial's problem."""
        heard = {}
        if not self.trial.problem:
            given = {"prompts": prompts, "sampling_params": sampling_params}
            heard = self.engines.ask("generate", self.deadline, **given)
            self.trial.problem = heard.get("problem", "")
        if self.trial.problem:
            raise LayoutError(self.trial.problem)
        return heard["outputs"]


def trial_arguments(profile) -> dict:
    """The profile's engine arguments without those that decide where the ranks run."""
    args = dict(profile.engine_args)
    for name in ("distributed_executor_backend", "disable_log_stats"):
        args.pop(name, None)
    if profile.name == "cpu":
        args |= {"enforce_eager": True, "kv_cache_memory_bytes": CPU_KV_CACHE_BYTES}
    return args


def trial_environment(profile) -> dict[str, str]:
    """Environment of a child that tries layouts: quiet, offline where the model is here."""
    environment = {"PYTHONWARNINGS": "ignore", "VLLM_LOGGING_LEVEL": "ERROR"}
    if profile.name == "cpu":
        # The engine's core stays in the child: one start of Python less.
        environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
    if Path(profile.model).exists():
        environment["HF_HUB_OFFLINE"] = "1"
    return environment


# ---------------------------------------------------------------------- beside the predictions
def speedup(plain: Trial, changed: Trial) -> Gain:
    """How many times as fast a step of one request is, with its range; of two starts, not in turn.

    The range is one by ranks, since a round now and then waits for a core.
    """
    one, other = (trial.rounds["tpot_ms"][1] for trial in (plain, changed))
    return gain_of_ranks(one, other, better="lower")


def save_speedup(store, plain: Trial, changed: Trial) -> Gain:
    """``speedup`` of one request, saved with what else the machine did during the busier trial."""
    gain = speedup(plain, changed)
    busier = most_disturbed(trial.disturbance for trial in (plain, changed))
    metrics, name = gain.metrics("speedup_x"), f"{changed.name} against {plain.name}"
    store.save("trial", name, metrics, machine=busier.record())
    return gain


def beside_predictions(trials, shape: ModelShape, box: Box) -> list[dict]:
    """Rows {"layout", "what", "measured" (the median round), "low", "high", "predicted"} in ms.

    Also "quantity", "case" (requests, or tokens of a prompt) and "disturbed" (reasons in words).
    """
    rows = []

    def add(trial: Trial, quantity: str, case: int, what: str, predicted) -> None:
        low, high = trial.span(quantity, case)
        row = {"layout": trial.name, "what": what, "measured": getattr(trial, quantity)[case]}
        row |= {"low": low, "high": high, "predicted": 1e3 * float(predicted.total)}
        row |= {"quantity": quantity, "case": case, "disturbed": "; ".join(trial.disturbed)}
        rows.append(row)

    for t in trials:
        for n in t.tpot_ms:
            step = decode_parts(shape, box, t.tp, t.pp, n, CONTEXT)
            add(t, "tpot_ms", n, f"step of {n} request{'s' * (n > 1)}", step)
        for n in t.prefill_ms:
            prefill = prefill_parts(shape, box, t.tp, t.pp, n, CHUNK)
            add(t, "prefill_ms", n, f"prompt of {n:,}", prefill)
    return rows


@lru_cache(maxsize=1)
def recorded_on_two_gpus() -> tuple[list[dict], str]:
    """What this notebook's trials took on two H100s, TP 1, TP 2 and PP 2; and where that was.

    Rows as of beside_predictions, with "kv_cache_tokens". The record of TP 1 calls it disturbed by
    a GPU at 17 % of its clock: the lowest of both cards was kept, and 345 of 1,980 MHz is the
    resting clock of the second, which TP 1 does not use. At that clock a prompt of 1,024 tokens
    would take more than 70 ms; TP 1 took 24 to 35. So all its rows count as undisturbed.
    """
    records = {record["variant"]: record for record in reference.records("trial")}
    model, gpu = RECORDED
    shape, box = load_shape(model), make_box(gpu, 2)
    layouts = {"TP 1": (1, 1), "TP 2": (2, 1), "PP 2": (1, 2)}
    trials = [_recorded(*sizes, records[name]) for name, sizes in layouts.items()]
    rows = beside_predictions(trials, shape, box)
    kept = {trial.name: trial.kv_cache_tokens for trial in trials}
    gpus, *_, day = reference.label_of(records["TP 2"]).split(", ")
    rows = [{**row, "kv_cache_tokens": kept[row["layout"]]} for row in rows]
    return rows, f"{gpus}, {shape.name}, {day}"


def _recorded(tp: int, pp: int, record: dict) -> Trial:
    """A Trial of its record, which keeps the shortest, the median and the longest round."""
    metrics, kept = record["metrics"], int(record["metrics"]["kv_cache_tokens"])
    trial = Trial(tp, pp, kv_cache_tokens=kept)
    for quantity, cases in (("tpot_ms", (1, 8)), ("prefill_ms", (256, 1024))):
        for case in cases:
            name = f"{quantity}_{case}_{CASES[quantity]}"
            trial.rounds[quantity][case] = [metrics[name + end] for end in ("_low", "", "_high")]
    return trial


# ---------------------------------------------------------------------- data parallelism, a server
REPLICAS, REQUESTS, SERVER_S = 2, 8, 120


@dataclass(frozen=True)
class DataParallelTrial:
    """A server with two replicas: which replica answered how many requests.

    requests_by_engine: by vLLM's label ``engine`` in the server's metrics.
    """

    startup_s: float = 0.0
    command: str = ""
    requests_by_engine: dict = field(default_factory=dict)
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"DP {REPLICAS}: {self.problem}"
        shares = ", ".join(f"engine {k}: {v}" for k, v in sorted(self.requests_by_engine.items()))
        return f"{self.command}\nup in {self.startup_s:.1f} s; requests answered by {shares}"


def measure_dp(profile) -> DataParallelTrial:
    """Start `vllm serve --data-parallel-size`, send requests at once, read which replica did what.

    The server is gone at the end, whatever happens. A server that does not come up is a
    ``problem``, not an exception.
    """
    import httpx
    from openai import OpenAIError

    from helpers.server.server import ServerError, start_server

    extra = {"kv_cache_memory_bytes": CPU_KV_CACHE_BYTES} if profile.name == "cpu" else {}
    try:
        server = start_server(profile, max_wait_s=SERVER_S, data_parallel_size=REPLICAS, **extra)
    except ServerError as problem:
        return DataParallelTrial(problem=str(problem))
    try:
        shares = _send_requests(server)
    except (OpenAIError, httpx.HTTPError) as problem:
        failed = f"the server came up, then a request failed: {problem}"
        return DataParallelTrial(server.startup_s, server.command, problem=failed)
    finally:
        server.stop()
    return DataParallelTrial(server.startup_s, server.command, shares)


def _send_requests(server) -> dict[str, int]:
    """Requests at once: how many each engine answered."""
    from concurrent.futures import ThreadPoolExecutor

    client = server.openai(timeout=120)
    same = {"model": server.model, "max_tokens": 32, "extra_body": {"ignore_eos": True}}

    def send(i: int) -> None:
        client.completions.create(prompt=[3 + i] * 32, temperature=0, **same)

    send(0)
    before = _answered(server)
    with ThreadPoolExecutor(REQUESTS) as pool:
        list(pool.map(send, range(REQUESTS)))
    after = _answered(server)
    return {engine: after[engine] - before[engine] for engine in after}


def _answered(server) -> Counter:
    """Requests that each engine has answered so far, from the server's counters."""
    import httpx
    from prometheus_client.parser import text_string_to_metric_families

    text, by_engine = httpx.get(f"{server.url}/metrics", timeout=30).text, Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "vllm:request_success_total":
                by_engine[sample.labels.get("engine", "0")] += int(sample.value)
    return by_engine
