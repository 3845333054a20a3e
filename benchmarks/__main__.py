"""The claims of the README, measured in stages: `make bench`, or `python -m benchmarks STAGE ...`.

    python -m benchmarks --list             the stages, and how long each may take on this machine
    python -m benchmarks                    all of them; again: those that have not succeeded yet
    python -m benchmarks limits 01 --model Qwen/Qwen2.5-7B-Instruct --load-format dummy

Every stage is a process of its own with a time limit, and writes what it measures as it is
measured: to results/benchmarks/, or $BENCHMARK_RECORDS. A stage that was cut off, or that missed
its target, is not done: the same command goes on with it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from typing import NamedTuple

from benchmarks import record
from helpers import REPO, gpu_memory

GRACE_S = 12  # for what a stage writes at its end


class Stage(NamedTuple):
    """command: {left} is the time limit less GRACE_S, {out} the folder of the records.

    {model} and {parameters}: the model that was asked for, as arguments or as a notebook's
    parameters. cpu_s, gpu_s: the time limit; None where it is not measured.
    """

    command: str
    cpu_s: int | None
    gpu_s: int | None
    answers: str

    @property
    def limit_s(self) -> int | None:
        """Seconds that it may take on this machine."""
        return self.gpu_s if gpu_memory.has_gpu() else self.cpu_s


LIMITS = "-m benchmarks.limits {model} --parts "
# On a CPU that is `make run`. The runner ends a notebook itself before the stage's limit.
NOTEBOOK = (
    "-m benchmarks.example_student --out {out}/notebooks --timeout {left} {parameters} --notebooks "
)
PLANNER = (
    "-m benchmarks.planner.record measure benchmarks/planner/configs/gpu1.json "
    "--budget-s {left} --timeout-s 150 --folder {out}/planner"
)
STAGES = {
    "engine_start": Stage(
        "-m benchmarks.opens {model} --opens 6 --budget-s {left}", 180, 600,
        "How long does an engine take to start and to close, after the first?",
    ),
    "limits": Stage(
        LIMITS + "ceilings,timeline,decode,prefill,profile", 300, 300,
        "Decode, prefill and memory against what the machine and vLLM's log say; parts of a step.",
    ),
    "truth": Stage(
        LIMITS + "truth,sampling --rounds 9", 600, 420,
        "Does measure agree with vLLM's benchmarks (2 %)? What does sampling memory cost (1 %)?",
    ),
    "server_start": Stage(
        "-m benchmarks.server_start {model}", 300, 600,
        "How long does a server take to start, and what does the quick way of the CPU change?",
    ),
    "01": Stage(NOTEBOOK + "01", None, 300, "Notebook 1 as it is."),
    "05": Stage(NOTEBOOK + "05", None, 300, "Notebook 5 as it is."),
    "03": Stage(NOTEBOOK + "03", None, 180, "Notebook 3 as it is."),
    "04": Stage(NOTEBOOK + "04", None, 180, "Notebook 4 as it is."),
    "02": Stage(NOTEBOOK + "02", None, 480, "Notebook 2 as it is."),
    "planner": Stage(
        PLANNER, None, 480,
        "What do engines do in the configurations that the planner has predicted?",
    ),
    "planner_accuracy": Stage(
        "-m benchmarks.planner.accuracy", 60, 60,
        "How far are the planner's predictions from every recorded configuration?",
    ),
    "drafters": Stage(
        "-m benchmarks.drafters {model}", 120, 480,
        "What do an EAGLE-3 head, n-gram and a draft model gain, by acceptance and by batch?",
    ),
    "kills": Stage(
        "-m benchmarks.kills --times 5", None, 200,
        "Is all memory free within 10 s after SIGKILL of kernels and servers?",
    ),
    "memory_returns": Stage(
        "-m benchmarks.opens --small --opens 20 --budget-s {left}", 240, 300,
        "Does all memory come back (1 %) after 20 engines were opened and closed?",
    ),
}  # fmt: skip


def command_of(stage: Stage, model: dict[str, str | None]) -> list[str]:
    """The command of a stage. model: "model" and "load_format", None where none was asked for."""
    asked = {name: shlex.quote(value) for name, value in model.items() if value}
    words = stage.command.format(
        left=stage.limit_s - GRACE_S,
        out=shlex.quote(str(record.records_folder())),
        model=" ".join(f"--{name.replace('_', '-')} {value}" for name, value in asked.items()),
        parameters=" ".join(f"-p {name.upper()} {value}" for name, value in asked.items()),
    )
    return [sys.executable, *shlex.split(words)]


def run(command: list[str], seconds: float) -> int:
    """The exit code of the command; 124 when its time was up, and everything below it was ended.

    SIGTERM comes first: a notebook's runner then writes its summary.
    """
    process = subprocess.Popen(command, cwd=REPO, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return 124
    finally:  # after Ctrl-C too
        for ending in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, ending)
                try:
                    process.wait(GRACE_S)
                except subprocess.TimeoutExpired:
                    continue


def done_before(this: dict) -> bool:
    """Whether the stage has succeeded on this kind of machine with this model."""
    rows = [row["metrics"] for row in record.read(record.records_folder() / "stages.jsonl")]
    return any(row["code"] == 0 and this.items() <= row.items() for row in rows)


def main(argv: list[str] | None = None) -> int:
    """Run the stages; 0 when all of them have succeeded, now or before."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = [name for name, stage in STAGES.items() if stage.limit_s]
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="of --list")
    parser.add_argument("--list", action="store_true", help="show the stages and end")
    parser.add_argument("--again", action="store_true", help="stages that have succeeded, too")
    parser.add_argument("--model", help="instead of this machine's default model")
    parser.add_argument("--load-format", help="dummy: random weights, nothing is downloaded")
    options = parser.parse_args(argv)
    if options.list:
        for name, stage in STAGES.items():
            limit = f"{stage.limit_s} s" if stage.limit_s else "GPU"
            print(f"{name:17} {limit:>6}  {stage.answers}")
        return 0
    if unknown := set(options.stages) - set(here):
        parser.error(
            f"not measured here: {', '.join(sorted(unknown))}; there are {', '.join(here)}"
        )
    model = {"model": options.model, "load_format": options.load_format}
    left = []
    for name in options.stages or here:
        stage = STAGES[name]
        print(f"\n== {name}: {stage.answers}", flush=True)
        this = {"stage": name, "gpu": gpu_memory.has_gpu(), **model}
        if done_before(this) and not options.again:
            print("done before (--again repeats it)")
            continue
        began = time.monotonic()
        code = run(command_of(stage, model), stage.limit_s)
        took = time.monotonic() - began
        after = gpu_memory.memory_now()["used_gib"]
        record.keep("stages", None, {**this, "code": code, "seconds": took, "after_gib": after})
        if code:
            left.append(name)
    if left:
        print(f"\nCut off, or a target was missed: {', '.join(left)}. The same command goes on.")
    return int(bool(left))


if __name__ == "__main__":
    raise SystemExit(main())
