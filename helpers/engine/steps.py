"""What vLLM's scheduler did in every step of a run, written down by the scheduler itself.

    engine = open_engine(profile, **RETUNABLE)        # or start_server(profile, **RECORDABLE)
    with record_steps(engine) as steps:
        run_workload(engine, workload)                # or engine.llm.generate(...), or a load
    step_chart.show("title", "caption", steps)        # helpers.display.step_chart

`steps.requests` are in the order of their arrival, `steps.steps` in the order of their end. Times
are seconds since the first arrival, on the clock of the scheduler's process.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from helpers.engine.failure import EngineError

RECORDABLE = {"scheduler_cls": "helpers.engine.recording_scheduler.RecordingScheduler"}


@dataclass(frozen=True)
class Work:
    """What one step did for one request."""

    tokens: int  # scheduled: the prompt's, or the last token and the drafts behind it
    prefill: bool
    drafted: int
    found: int  # tokens found in the prefix cache when the request was admitted
    accepted: int  # of the drafted
    new: int  # tokens of the answer that came out


@dataclass(frozen=True)
class Step:
    """One step of the engine. Times in seconds; `work` by the request's number."""

    start_s: float
    end_s: float
    budget: int  # max_num_batched_tokens
    blocks: int  # KV blocks in use, once the step was planned
    of_blocks: int
    work: dict[int, Work]
    preempted: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """All that it worked on; at most `budget`."""
        return sum(work.tokens for work in self.work.values())

    @cached_property
    def prompts(self) -> int:
        """How many prompts it worked on, beside answers or alone."""
        return sum(work.prefill for work in self.work.values())


@dataclass(frozen=True)
class RecordedRequest:
    """A request as the scheduler saw it arrive."""

    arrival_s: float
    prompt_tokens: int


@dataclass
class Steps:
    """A recording; empty until its block has ended."""

    requests: list[RecordedRequest] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def of(self, request: int) -> list[tuple[Step, Work]]:
        """The steps that worked for one request."""
        return [(step, step.work[request]) for step in self.steps if request in step.work]

    def queue_s(self, request: int) -> float | None:
        """From its arrival to the start of its first step; None when no step worked for it."""
        first = next((step for step, _ in self.of(request)), None)
        return first.start_s - self.requests[request].arrival_s if first else None

    def token_times_s(self, request: int) -> list[float]:
        """When each token of its answer was there."""
        return [step.end_s for step, work in self.of(request) for _ in range(work.new)]


@contextlib.contextmanager
def record_steps(engine) -> Iterator[Steps]:
    """Record every step that an engine, or a server started here, makes in the block.

    Only requests that arrive in the block are recorded.
    Raises EngineError when it was not started for that, or when the disk filled up meanwhile.
    """
    if engine.engine_args.get("scheduler_cls") != RECORDABLE["scheduler_cls"]:
        how = "open it with **RETUNABLE, start a server with **RECORDABLE"
        raise EngineError(f"The steps of this engine cannot be recorded: {how}.")
    path = steps_path(engine.log_path)
    recorded = Steps()
    path.write_bytes(b"")
    try:
        yield recorded
        _read(path, recorded)
    finally:
        path.unlink(missing_ok=True)


def steps_path(log_path: Path) -> Path:
    """Where the scheduler of the engine with this log writes its steps."""
    return log_path.with_suffix(".steps")


def _read(path: Path, recorded: Steps) -> None:
    if not path.exists():  # the scheduler has taken it away
        raise EngineError(f"The steps were not recorded: there is no more room in {path.parent}.")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    arrived = [line for line in lines if "request" in line]
    if not arrived:
        return
    number = {line["request"]: i for i, line in enumerate(arrived)}
    zero = arrived[0]["arrival"]
    for line in arrived:
        recorded.requests.append(RecordedRequest(line["arrival"] - zero, line["prompt_tokens"]))
    for line in lines:
        work = {number[n]: Work(**w) for n, w in line.get("work", {}).items() if n in number}
        if work:
            recorded.steps.append(
                Step(
                    start_s=line["start"] - zero,
                    end_s=line["end"] - zero,
                    budget=line["budget"],
                    blocks=line["blocks"],
                    of_blocks=line["of_blocks"],
                    work=work,
                    preempted=tuple(number[n] for n in line["preempted"] if n in number),
                )
            )
