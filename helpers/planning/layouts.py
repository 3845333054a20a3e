"""Try layouts for real on this machine: TP 1, TP 2 and PP 2 of the same model, and two replicas.

    for trial in run_trials(profile, [(1, 1), (2, 1), (1, 2)]):
        print(trial)

On GPUs each layout is a process of its own. On the CPU one rank runs in this process, as in the
other notebooks; the layouts of several ranks share one child, whose workers are forked instead of
started anew (vLLM's own way imports PyTorch again in every worker); one core a rank, and 64 MiB of
KV cache on each, whatever its weights: TP 2, with half the heads on a rank, then keeps twice the
tokens. Times are medians of rounds that measure everything in turn; a layout that was disturbed by
other programs is measured once more. What PP 2 needs on a CPU before its first step, worker_probe
makes.
"""

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean

from helpers.engine import open_engine
from helpers.results import recorded as reference
from helpers.verdicts.gain import Gain, gain_of_ranks
from helpers.verdicts.machine import Disturbance, MachineWatch, less_slowed, most_disturbed

from . import recorded
from .allreduce import fit_allreduce
from .calibration import Point
from .choose import short_name
from .engine_child import LATE, EngineChild, measure
from .hardware import Box, make_box
from .inventory import take_inventory
from .models import ModelShape, load_shape
from .predict import Tuning, decode_parts, default_tuning, prefill_parts
from .worker_probe import WORKER_PROBE, allreduce_sizes

RECORDED = ("Qwen2.5-7B", "H100-SXM")  # model and GPU of recorded_on_two_gpus
INPUT_TOKENS, OUTPUT_TOKENS = 64, 32  # of the streams whose decode steps are timed
WHAT = {
    "decode": [(1, INPUT_TOKENS), (8, INPUT_TOKENS)],
    "prefill": [256, 1024],
    "output": OUTPUT_TOKENS,
    "repeats": 10,  # as few as let a range by ranks leave out two rounds that waited
}
FITTED = {"tpot_ms": 1, "prefill_ms": max(WHAT["prefill"])}  # what of a run calibrates
CONTEXT = INPUT_TOKENS + OUTPUT_TOKENS / 2  # tokens in the KV cache of a stream on average
CPU_KV_CACHE_BYTES = 64 * 2**20
CASES = {"tpot_ms": "streams", "prefill_ms": "tokens"}  # what a quantity is measured by
CHUNK = 4096  # more tokens than the prompts have
CHILD_S, CPU_CHILD_S = 300, 80  # for one layout on GPUs; for all of a CPU together


@dataclass(frozen=True)
class Trial:
    """What one layout did. ``problem``: why the rest is empty or not whole.

    tpot_ms: {streams: ms of one decode step}; prefill_ms: {prompt tokens: ms}, both medians of
    ``rounds``: {"tpot_ms": {streams: [ms, ...]}, "prefill_ms": ...}. allreduce: rows {"bytes",
    "seconds"} of vLLM's own all-reduce between the ranks. disturbance: what else the machine did.
    """

    tp: int
    pp: int
    startup_s: float = 0.0
    kv_cache_tokens: int = 0
    tpot_ms: dict = field(default_factory=dict)
    prefill_ms: dict = field(default_factory=dict)
    allreduce: list = field(default_factory=list)
    problem: str = ""
    rounds: dict = field(default_factory=dict)
    disturbance: Disturbance = Disturbance(0.0, 0.0)

    @property
    def disturbed(self) -> list[str]:
        """Why this trial was not alone on its machine; empty when it was."""
        return self.disturbance.reasons

    @property
    def name(self) -> str:
        """The layout in words: sizes of 1 are left out."""
        return short_name(self.tp, self.pp, 1, alone="TP 1")

    @property
    def call(self) -> str:
        """What a person would type to start it."""
        sizes = {"tensor_parallel_size": self.tp, "pipeline_parallel_size": self.pp}
        given = [f"{name}={size}" for name, size in sizes.items() if size > 1]
        return f"LLM({', '.join(['model', *given])})"

    def points(self) -> list[Point]:
        """What a calibration needs of one run: a step of one stream, the longest prefill."""
        step_s, prefill_s = (getattr(self, name)[case] / 1e3 for name, case in FITTED.items())
        lengths = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
        prompt = Point(self.tp, self.pp, input_tokens=FITTED["prefill_ms"], prefill_s=prefill_s)
        return [Point(self.tp, self.pp, **lengths, tpot_s=step_s), prompt]

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
        values = self.rounds.get(quantity, {}).get(case) or [getattr(self, quantity)[case]]
        return min(values), max(values)

    def __str__(self) -> str:
        started = f"{self.name}: started in {self.startup_s:.1f} s"
        if self.problem and not self.startup_s:
            return f"{self.name}: {self.problem}"
        if self.problem:
            return f"{started}, then failed: {self.problem}"
        times = ", ".join(self._time(streams) for streams in self.tpot_ms)
        kept = f"{self.kv_cache_tokens:,} tokens of KV cache"
        return f"{started}, {kept}; TPOT {times}{self.disturbance.label()}"

    def _time(self, streams: int) -> str:
        low, high = self.span("tpot_ms", streams)
        with_streams = f"with {streams} stream{'s' * (streams > 1)}"
        return f"{self.tpot_ms[streams]:.2f} ms ({low:.2f} to {high:.2f}) {with_streams}"


def _trial(layout: tuple[int, int], heard: dict) -> Trial:
    """A Trial from what was measured; keys "8x64" become numbers of streams."""
    values = heard.get("values", {})
    rounds = {name: _by_number(values.get(name, {})) for name in ("tpot_ms", "prefill_ms")}
    return Trial(
        *layout,
        startup_s=heard.get("startup_s", 0.0),
        kv_cache_tokens=heard.get("kv_cache_tokens", 0),
        tpot_ms=_by_number(heard.get("tpot_ms", {})),
        prefill_ms=_by_number(heard.get("prefill_ms", {})),
        allreduce=heard.get("allreduce", []),
        problem=heard.get("problem", ""),
        rounds=rounds,
        disturbance=heard.get("disturbance", Disturbance(0.0, 0.0)),
    )


def _by_number(cases: dict) -> dict:
    return {int(case.split("x")[0]): value for case, value in cases.items()}


@dataclass(frozen=True)
class _Heard:
    """What a trial's process told. disturbance: None where it told of a problem."""

    told: dict
    disturbance: Disturbance | None


def _less_slowed(measure_once) -> dict:
    """What ``measure_once(seed)`` found, with the "disturbance" meanwhile."""

    def heard(seed: int) -> _Heard:
        watch = MachineWatch()
        told = measure_once(seed)
        return _Heard(told, None if "problem" in told else watch.stop())

    run = less_slowed(heard)
    return run.told | ({"disturbance": run.disturbance} if run.disturbance else {})


def run_trials(profile, layouts):
    """Yield one Trial for each (tp, pp) as it ends. No process is left, whatever happens.

    A layout that needs more GPUs or cores than there are gives a Trial with that as its problem.
    """
    found = take_inventory()
    on_cpu = profile.name == "cpu"
    have = found.cpu_cores if on_cpu else len(found.devices)
    # On two busy cores the ranks of TP 2 wait for each other at every all-reduce: it comes last,
    # so that it holds up nobody.
    several = sorted(one for one in layouts if 1 < one[0] * one[1] <= have)
    trials: dict[tuple[int, int], Trial] = {}
    for layout in layouts:
        ranks = layout[0] * layout[1]
        if ranks > have:
            what = "cores" if on_cpu else "GPUs"
            problem = f"needs {ranks} {what}, and this machine has {have}; nothing was run."
            trials[layout] = Trial(*layout, problem=problem)
        elif on_cpu and ranks == 1:
            trials[layout] = _in_this_process(profile)
        elif layout not in trials:
            trials |= _in_a_child(profile, several if on_cpu else [layout])
        yield trials[layout]


def _in_this_process(profile) -> Trial:
    with open_engine(profile, kv_cache_memory_bytes=CPU_KV_CACHE_BYTES) as engine:
        info = engine.info
        heard = {"startup_s": info.startup_s, "kv_cache_tokens": info.kv_cache_tokens}
        heard |= _less_slowed(lambda seed: list(measure(engine.llm, seed=seed, **WHAT))[-1])
        return _trial((1, 1), heard)


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


def _in_a_child(profile, layouts) -> dict[tuple[int, int], Trial]:
    on_cpu = profile.name == "cpu"
    environment = trial_environment(profile)
    arguments = {**trial_arguments(profile), "worker_extension_cls": WORKER_PROBE}
    if on_cpu:
        cores = sorted(os.sched_getaffinity(0))[: max(tp * pp for tp, pp in layouts)]
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, cores))
        arguments |= {"distributed_executor_backend": "mp", "fork": True}
    trials = {}
    deadline = time.monotonic() + (CPU_CHILD_S if on_cpu else CHILD_S)
    with EngineChild(environment) as child:
        for layout in layouts:
            heard = _open_and_measure(child, profile.model, layout, arguments, on_cpu, deadline)
            trials[layout] = _trial(layout, heard)
    return trials


def _open_and_measure(child, model, layout, arguments, on_cpu, deadline) -> dict:
    tp, pp = layout
    if time.monotonic() >= deadline:
        return {"problem": "was not reached in the time allowed."}
    sizes = {"tensor_parallel_size": tp, "pipeline_parallel_size": pp}
    heard = child.ask("open", deadline, model=model, **arguments, **sizes)
    if heard.get("problem") == LATE:
        why = child.last_words() or "vLLM was still being imported"
        return {"problem": f"did not begin in the time allowed: {why}"}
    if "problem" in heard:
        return heard
    allreduce = allreduce_sizes(on_cpu) if tp > 1 else ()

    def measure_once(seed: int) -> dict:
        return child.ask("measure", deadline, allreduce=allreduce, seed=seed, **WHAT)

    heard |= _less_slowed(measure_once)
    if heard.get("problem") == LATE:
        waiting = "its ranks wait for each other on busy cores."
        heard["problem"] = f"did not end in the time allowed: {waiting}"
    return heard


# ---------------------------------------------------------------------- beside the predictions
def speedup(plain: Trial, changed: Trial, less_ms: float = 0.0) -> Gain:
    """How many times as fast a step of one stream is, with its range; of two engines, not in turn.

    By ranks: of several ranks on few cores a round now and then waits for a core. less_ms: of each
    step of the changed one is left out.
    """
    one, other = (t.rounds.get("tpot_ms", {}).get(1) or [t.tpot_ms[1]] for t in (plain, changed))
    return gain_of_ranks(one, [ms - less_ms for ms in other], better="lower")


def save_speedup(store, plain: Trial, changed: Trial) -> Gain:
    """``speedup`` of one stream, saved with what else the machine did during the busier trial."""
    gain = speedup(plain, changed)
    busier = most_disturbed(trial.disturbance for trial in (plain, changed))
    metrics, name = gain.metrics("speedup_x"), f"{changed.name} against {plain.name}"
    store.save("trial", name, metrics, machine=busier.record())
    return gain


def own_allreduce_s(box: Box) -> float:
    """Latency of vLLM's own all-reduce between two ranks, before it is measured here.

    Between cores as recorded elsewhere; between GPUs the planner's assumption.
    """
    if box.gpu.family != "cpu":
        return default_tuning(box.gpu).allreduce_s
    return fit_allreduce(recorded.allreduce(has_gpu=False)[0])[0]


def beside_predictions(trials, shape: ModelShape, box: Box, tuning: Tuning | None) -> list[dict]:
    """Rows {"what", "measured", "before", "after"} in ms: before and after the calibration.

    tuning: of the calibration; None: there was none, and "after" is "before". Also "low" and "high"
    of the rounds, "disturbed" (reasons in words), "layout", "quantity", as in recorded.errors,
    "case" (streams, or tokens of a prompt), and "fitted": the calibration, by TP 1, was made to
    meet it.
    """
    rows = []

    def add(trial: Trial, quantity: str, case: int, what: str, predict) -> None:
        before, after = (float(predict(tuning=t).total) * 1e3 for t in (None, tuning))
        low, high = trial.span(quantity, case)
        row = {"what": what, "measured": getattr(trial, quantity)[case]}
        row |= {"low": low, "high": high, "before": before, "after": after, "layout": trial.name}
        row |= {"quantity": quantity, "case": case, "disturbed": "; ".join(trial.disturbed)}
        rows.append({**row, "fitted": trial.name == "TP 1" and case == FITTED[quantity]})

    for t in trials:
        for n in t.tpot_ms:
            step = partial(decode_parts, shape, box, t.tp, t.pp, n, CONTEXT)
            add(t, "tpot_ms", n, f"step of {n} stream{'s' * (n > 1)}", step)
        for n in t.prefill_ms:
            prefill = partial(prefill_parts, shape, box, t.tp, t.pp, n, CHUNK)
            add(t, "prefill_ms", n, f"prompt of {n:,}", prefill)
    return rows


@lru_cache(maxsize=1)
def recorded_on_two_gpus() -> tuple[list[dict], str]:
    """What this notebook's trials took on two H100s, TP 1, TP 2 and PP 2; and where that was.

    Rows as of beside_predictions, not calibrated, with "kv_cache_tokens". The record of TP 1 calls
    it disturbed by a GPU at 17 % of its clock: the lowest of both cards was kept, and 345 of 1,980
    MHz is the resting clock of the second, which TP 1 does not use. At that clock a prompt of 1,024
    tokens would take more than 70 ms; TP 1 took 24 to 35. So all its rows count.
    """
    records = {record["variant"]: record for record in reference.records("trial")}
    model, gpu = RECORDED
    shape, box = load_shape(model), make_box(gpu, 2)
    layouts = {"TP 1": (1, 1), "TP 2": (2, 1), "PP 2": (1, 2)}
    trials = [_recorded(*sizes, records[name]) for name, sizes in layouts.items()]
    rows = beside_predictions(trials, shape, box, None)
    kept = {trial.name: trial.kv_cache_tokens for trial in trials}
    gpus, *_, day = reference.label_of(records["TP 2"]).split(", ")
    rows = [{**row, "kv_cache_tokens": kept[row["layout"]]} for row in rows]
    return rows, f"{gpus}, {shape.name}, {day}"


def errors(rows: list[dict], machine: str) -> list[dict]:
    """How many times too long or too short the planner was before any calibration.

    rows: of beside_predictions. Rows as of recorded.errors.
    """
    out = []
    for quantity in dict.fromkeys(row["quantity"] for row in rows):
        ratios = [row["before"] / row["measured"] for row in rows if row["quantity"] == quantity]
        if times := [max(ratio, 1 / ratio) for ratio in ratios]:
            row = {"machine": machine, "quantity": quantity, "numbers": len(times)}
            out.append({**row, "mean_times": fmean(times), "worst_times": max(times)})
    return out


def _recorded(tp: int, pp: int, record: dict) -> Trial:
    """A Trial of its record, which keeps the shortest and the longest round."""
    metrics, cases = record["metrics"], {"tpot_ms": (1, 8), "prefill_ms": WHAT["prefill"]}

    def numbers(quantity: str, end: str = "") -> dict[int, float]:
        of = CASES[quantity]
        return {case: metrics[f"{quantity}_{case}_{of}{end}"] for case in cases[quantity]}

    rounds = {}
    for name in cases:
        low, high = numbers(name, "_low"), numbers(name, "_high")
        rounds[name] = {case: [low[case], high[case]] for case in cases[name]}
    kept, shares = int(metrics["kv_cache_tokens"]), dict(record["machine"])
    shares.pop("disturbed", None)
    about = {"rounds": rounds, "disturbance": Disturbance(**shares)}
    times = {name: numbers(name) for name in cases}
    return Trial(tp, pp, kv_cache_tokens=kept, **times, **about)


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
    same = {"model": server.model, "max_tokens": OUTPUT_TOKENS, "extra_body": {"ignore_eos": True}}

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
