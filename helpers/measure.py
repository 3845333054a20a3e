"""Run a workload on an engine and write down, for every request, when each of its tokens came.

`run_workload` does what `LLM.generate` does (vllm/entrypoints/llm.py: add the requests, call
`step()` until none is left), and adds each request when it arrives. The times are taken when an
engine step hands its tokens over, so they cost nothing per token. vLLM's own counters are read
before and after.

Definitions, the same everywhere in the workbook, and, but for ITL, in vllm.benchmarks:
    TTFT  arrival to first token
    ITL   gap between two tokens of a request; tokens of one speculative step have gaps of 0, where
          vllm.benchmarks takes one gap for each chunk that arrives
    E2E   arrival to last token
    TPOT  (E2E - TTFT) / (output tokens - 1)
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from helpers.display import live
from helpers.engine.engine import Engine
from helpers.engine.failure import EngineError, died
from helpers.engine.interrupts import ctrl_c_calls
from helpers.verdicts.machine import Disturbance, MachineWatch
from helpers.workloads import Workload, uniform

PERCENTILES = (50, 90, 99)
_runs = itertools.count()


@dataclass
class RequestRecord:
    """One request as it was measured. Times in seconds; `arrival_s` since the workload's start."""

    kind: str
    input_tokens: int
    arrival_s: float
    token_times_s: list[float] = field(default_factory=list)  # since the start, one a token
    cached_tokens: int = 0  # prompt tokens whose KV cache was found
    queue_s: float = 0.0  # from vLLM's own stamps: in the queue until first scheduled
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def output_tokens(self) -> int:
        """How many tokens were generated."""
        return len(self.token_times_s)

    @property
    def ttft_s(self) -> float:
        """Arrival to first token."""
        return self.token_times_s[0] - self.arrival_s

    @property
    def e2e_s(self) -> float:
        """Arrival to last token."""
        return self.token_times_s[-1] - self.arrival_s

    @property
    def itl_s(self) -> list[float]:
        """Gaps between tokens, output_tokens - 1 of them; 0 between tokens of one step."""
        return [b - a for a, b in itertools.pairwise(self.token_times_s)]

    @property
    def tpot_s(self) -> float | None:
        """Mean time of the tokens after the first; None for a request of a single token."""
        gaps = self.output_tokens - 1
        return (self.e2e_s - self.ttft_s) / gaps if gaps > 0 else None


@dataclass
class Measurement:
    """What `run_workload` returns."""

    requests: list[RequestRecord]
    duration_s: float
    counters: dict[str, float | list[float]]  # vLLM's counters: after minus before
    timeline: list[dict]  # one a step: t_s, running, waiting, kv_cache_usage (0 to 1), tokens
    workload: dict
    engine_args: dict  # those in force, also inside `retuned`
    disturbance: Disturbance  # what else the machine did meanwhile

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Totals and percentiles of all requests."""
        return self.summary()

    def summary(self, kind: str | None = None) -> dict[str, float]:
        """Totals and percentiles, of all requests or of one kind. Units are in the names.

        Raises ValueError when no request of that kind has a token.
        """
        chosen = [r for r in self.requests if kind in (None, r.kind) and r.token_times_s]
        if not chosen:
            raise ValueError(f"No finished request of kind {kind!r} in this measurement.")
        outputs = sum(r.output_tokens for r in chosen)
        inputs = sum(r.input_tokens for r in chosen)
        summary = {
            "requests": len(chosen),
            "duration_s": self.duration_s,
            "input_tokens": inputs,
            "output_tokens": outputs,
            "requests_per_s": len(chosen) / self.duration_s,
            "output_tokens_per_s": outputs / self.duration_s,
            "total_tokens_per_s": (inputs + outputs) / self.duration_s,
        }
        for name, values in (
            ("ttft", [r.ttft_s for r in chosen]),
            ("tpot", [r.tpot_s for r in chosen if r.tpot_s is not None]),
            ("itl", [gap for r in chosen for gap in r.itl_s]),
            ("e2e", [r.e2e_s for r in chosen]),
            ("queue", [r.queue_s for r in chosen]),
        ):
            if values:
                summary[f"{name}_ms_mean"] = 1000 * sum(values) / len(values)
                at_ms = (1000 * np.percentile(values, PERCENTILES)).tolist()
                summary |= {f"{name}_ms_p{p}": ms for p, ms in zip(PERCENTILES, at_ms, strict=True)}
        return summary

    def __str__(self) -> str:
        m = self.metrics
        tpot = f", TPOT p50 {m['tpot_ms_p50']:.2f} ms" if "tpot_ms_p50" in m else ""
        return (
            f"{m['requests']} requests in {m['duration_s']:.2f} s: "
            f"{m['output_tokens_per_s']:,.0f} output tokens/s, "
            f"TTFT p50 {m['ttft_ms_p50']:.1f} ms{tpot}{self.disturbance.label()}"
        )


def counters(llm) -> dict[str, float | list[float]]:
    """Counters and gauges of vLLM now, without "vllm:"; a vector (per draft position) is a list.

    Needs `disable_log_stats=False`, which the profiles set. Names: vllm/v1/metrics/loggers.py.
    """
    found: dict[str, float | list[float]] = {}
    for metric in llm.get_metrics():
        name = metric.name.removeprefix("vllm:")
        if hasattr(metric, "values"):
            found[name] = list(metric.values)
        elif hasattr(metric, "value"):  # one counter can come once for each label
            found[name] = found.get(name, 0) + metric.value
    return found


def run_workload(
    engine: Engine,
    workload: Workload,
    sampling: dict | None = None,
    concurrency: int | None = None,
    progress: bool = True,
) -> Measurement:
    """Send the workload's requests at their arrival times and measure until the last has ended.

    sampling: vLLM's SamplingParams by name, the same for all requests; greedy (temperature 0) when
        not given.
    concurrency: at most so many requests are in flight; the next is sent, and arrives, when one has
        ended. 1 is one request at a time. None sends each at its arrival time, whatever is running
        (as `LLM.generate` does).
    progress: show requests and steps done meanwhile, where there is a place to show it; without it
        only what is measured, and only while the cell runs.
    Raises EngineError when a request does not fit the engine, or when the run fails or is stopped
    by hand: the engine is then still usable, unless the message says that it was closed.
    """
    run = _Run(engine, workload, sampling or {}, concurrency)
    if engine.llm.llm_engine.has_unfinished_requests():
        # Of another cell that was stopped: they would run along and be measured.
        engine.end_requests()
    before = counters(engine.llm)
    watch = MachineWatch()
    label = _label(engine, workload)
    view = live.Progress(label, len(workload)) if progress else None
    if not progress:
        live.mention(label)
    try:
        run.work(view)
    except KeyboardInterrupt:
        raise EngineError(_give_up(engine, "The measurement was stopped")) from None
    except Exception as error:
        cause = " ".join(str(error).split())[:300].rstrip(".")
        what = f"The measurement failed ({type(error).__name__}: {cause})"
        raise EngineError(_give_up(engine, what, error)) from error
    finally:
        if view:
            view.close()
    disturbance = watch.stop()
    run.complete()
    after = counters(engine.llm)
    return Measurement(
        requests=list(run.records.values()),
        duration_s=run.duration_s,
        counters={n: np.subtract(v, before.get(n, 0)).tolist() for n, v in after.items()},
        timeline=run.timeline(),
        workload=workload.describe(),
        engine_args=engine.engine_args,
        disturbance=disturbance,
    )


def _label(engine: Engine, workload: Workload) -> str:
    """The workload's name, with what has been changed since the engine's start."""
    started = engine.started_with
    changed = {n: v for n, v in engine.engine_args.items() if v != started.get(n)}
    settings = [f"{n}={v}" for n, v in changed.items() if isinstance(v, int)]
    return ", ".join([workload.name, *settings])


# What the workload or the measurement decides, and where to say it instead.
_NOT_SAMPLING = {
    "max_tokens": "give it to the workload (its output tokens)",
    "ignore_eos": "give the workload's requests stop_at_eos=True or False",
    "n": "put the same request into the workload n times",
    "output_kind": "leave it out, a measurement has the time of every token anyway",
}


class _Run:
    """One run of a workload: its requests by an id of their own, and what each step handed over."""

    def __init__(self, engine: Engine, workload: Workload, sampling: dict, concurrency: int | None):
        """Raises EngineError for what cannot run."""
        for name in sampling:
            if name in _NOT_SAMPLING:
                instead = _NOT_SAMPLING[name]
                raise EngineError(f"{name!r} cannot be set by sampling: {instead}.")
        self.core = engine.llm.llm_engine
        self.concurrency = concurrency
        number = next(_runs)
        self.requests = {f"{number}-{i}": request for i, request in enumerate(workload.requests)}
        self.records: dict[str, RequestRecord] = {}
        self.params = {}
        for i, (key, request) in enumerate(self.requests.items()):
            tokens = len(request.prompt_token_ids)
            limit = engine.info.max_model_len
            if tokens + request.max_tokens > limit:
                needs = f"Request {i} needs {tokens} + {request.max_tokens} tokens"
                takes = f"this engine takes max_model_len = {limit}"
                raise EngineError(f"{needs}, {takes}: open it with more, or ask for less.")
            self.records[key] = RequestRecord(request.kind, tokens, request.arrival_s)
            try:
                self.params[key] = _sampling_params(request, sampling)
            except Exception as error:
                refused = f"vLLM's SamplingParams refuse {sampling} for request {i}"
                raise EngineError(f"{refused}: {error}") from error
        self.sent: dict[str, str] = {}  # vLLM's id of a request: ours
        self.steps: list[tuple[float, list, object]] = []  # time, outputs, scheduler's numbers
        self.finished = []  # vLLM's final outputs
        self.start = self.duration_s = 0.0

    def work(self, view) -> None:
        """Send the requests and step until all have ended; `view` is told of each step."""
        waiting = sorted(self.requests, key=lambda key: self.requests[key].arrival_s)
        with _interrupt_between_steps() as stop, self._noting_steps():
            self.start = time.perf_counter()
            while waiting or self.core.has_unfinished_requests():
                now = time.perf_counter() - self.start
                while waiting and self._is_due(waiting[0], now):
                    self._send(waiting.pop(0), now)
                if self.core.has_unfinished_requests():
                    self.finished += [output for output in self.core.step() if output.finished]
                elif waiting:
                    until = self.requests[waiting[0]].arrival_s - now
                    time.sleep(max(0.0, min(0.05, until)))
                if view:
                    view.update(len(self.finished), steps=len(self.steps))
                if stop.is_set():
                    raise KeyboardInterrupt
            self.duration_s = time.perf_counter() - self.start

    def _is_due(self, key: str, now: float) -> bool:
        in_flight = len(self.sent) - len(self.finished)
        full = self.concurrency and in_flight >= self.concurrency
        return not full and self.requests[key].arrival_s <= now

    def _send(self, key: str, now: float) -> None:
        if self.concurrency:
            self.records[key].arrival_s = now
        prompt = {"prompt_token_ids": self.requests[key].prompt_token_ids}
        # The engine gives each request an id of its own; its outputs carry that one.
        self.sent[self.core.add_request(key, prompt, self.params[key])] = key

    @contextlib.contextmanager
    def _noting_steps(self):
        client = self.core.engine_core
        original = client.get_output

        def get_output():
            outputs = original()
            self.steps.append((time.perf_counter(), outputs.outputs, outputs.scheduler_stats))
            return outputs

        client.get_output = get_output
        try:
            yield
        finally:
            client.get_output = original

    def complete(self) -> None:
        """Put into the records when their tokens came, and what vLLM's final outputs say."""
        for at_s, outputs, _ in self._own_steps():
            for output in outputs:
                times = self.records[self.sent[output.request_id]].token_times_s
                times += [at_s] * len(output.new_token_ids)
        for output in self.finished:
            record, answer = self.records[output.request_id], output.outputs[0]
            record.text, record.token_ids = answer.text, list(answer.token_ids)
            record.finish_reason = answer.finish_reason
            record.cached_tokens = output.num_cached_tokens or 0
            if (stamps := output.metrics) is not None:
                record.queue_s = max(0.0, stamps.scheduled_ts - stamps.queued_ts)

    def timeline(self) -> list[dict]:
        """One row a step that the scheduler has numbers of."""
        return [
            {
                "t_s": at_s,
                "running": stats.num_running_reqs,
                "waiting": stats.num_waiting_reqs,
                "kv_cache_usage": stats.kv_cache_usage,
                "tokens": sum(len(output.new_token_ids) for output in outputs),
            }
            for at_s, outputs, stats in self._own_steps()
            if stats is not None
        ]

    def _own_steps(self) -> Iterator[tuple[float, list, object]]:
        """Each step: seconds since the start, the outputs of this run, the scheduler's numbers."""
        for when, outputs, stats in self.steps:
            ours = [output for output in outputs if output.request_id in self.sent]
            # An engine in another process may have worked ahead for a run that was stopped.
            if ours or not outputs:
                yield when - self.start, ours, stats


def _sampling_params(request, sampling: dict):
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        **{"temperature": 0.0, **sampling},
        max_tokens=request.max_tokens,
        ignore_eos=not request.stop_at_eos,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


@contextlib.contextmanager
def _interrupt_between_steps():
    """Ctrl-C (Jupyter's stop button) sets a flag in here, which is read between two engine steps.

    A step that is interrupted half-way leaves vLLM's scheduler and worker disagreeing; a step takes
    milliseconds, so waiting for its end costs nothing. A second Ctrl-C interrupts at once.
    """
    stop = threading.Event()

    def handler(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    with ctrl_c_calls(handler):
        yield stop


def _give_up(engine: Engine, what: str, error: Exception | None = None) -> str:
    """End the requests in flight after an error or a stop; a sentence on what comes next."""
    from vllm.v1.engine.exceptions import EngineDeadError

    if isinstance(error, EngineDeadError) or not engine.is_open:
        engine.close()
        return died(engine.log_path)
    engine.end_requests()  # closes an engine that cannot end them
    if engine.is_open:
        return f"{what}; its requests were ended and the engine is ready for the next cell."
    closed = "its requests did not end and the engine was closed"
    return f"{what}, {closed}: run the cell with open_engine(...) again."


def warm_up(engine: Engine) -> None:
    """A few small requests, not measured: the first steps pay for what later ones find done."""
    run_workload(engine, uniform(engine.tokenizer, 4, 32, 8, seed=-1), progress=False)
