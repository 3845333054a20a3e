"""Submissions as tasks on a Ray cluster that is there already.

Nothing travels but names and results: the submissions, --out and this repository lie in folders
that all machines of the cluster share, at the same paths, as clusters have them. That needs no copy
of 300 archives, and a result is on disk even when this command is killed.
"""

from __future__ import annotations

import dataclasses
import logging
import signal
import socket
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from helpers import REPO
from helpers.engine import processes
from helpers.run.classroom.attempt import Class
from helpers.run.classroom.intake import Submission
from helpers.run.classroom.results import Student
from helpers.run.classroom.workers import Workers
from helpers.run.course_file import UsageError
from helpers.run.stopping import sweep

ATTEMPTS = 3  # of a submission whose machine is lost
CHECK_S = 120


def on_ray(address: str, jobs: int) -> Workers:
    """`jobs` submissions at a time on each machine, on a GPU each where there are GPUs.

    Raises UsageError when no cluster answers, or one of its machines does not see the folders.
    """

    def run(work: Class, todo: list[Submission]) -> Iterator[Student]:
        import ray

        machines = _connect(address)
        try:
            _check_folders(machines, work.out)
            # Memory that a student fills is ours to limit, and a lost task ours to repeat.
            resources = _resources(machines, jobs, on_gpus=not work.read_only)
            task = ray.remote(_one).options(
                max_retries=0, scheduling_strategy="SPREAD", **resources
            )
            most = max(machine["Resources"]["CPU"] // resources["num_cpus"] for machine in machines)
            work = dataclasses.replace(work, at_once=int(most))
            yield from _results(task, work, todo)
        finally:
            ray.shutdown()  # ends this job's tasks, and with them what they have started

    return run


def _results(task, work: Class, todo: list[Submission]) -> Iterator[Student]:
    import ray

    running = {task.remote(work, submission): submission for submission in todo}
    attempts = Counter(submission.slug for submission in todo)
    while running:
        for ended in ray.wait(list(running), timeout=0.5)[0]:
            submission = running.pop(ended)
            try:
                yield ray.get(ended)
                continue
            except ray.exceptions.RayError as error:
                why = str(error).strip().splitlines()[-1][:200]
            if attempts[submission.slug] < ATTEMPTS:
                attempts[submission.slug] += 1
                print(f"\n{submission.name} begins again elsewhere: {why}", file=sys.stderr)
                running[task.remote(work, submission)] = submission
            else:
                why = f"Lost on {ATTEMPTS} machines: {why}"
                yield Student(submission.name, submission.slug, "error", why)


def _one(work: Class, submission: Submission) -> Student:
    """The task, in a worker of Ray."""
    import ray

    processes.adopt_orphans()  # for sweep()
    gpus = ",".join(map(str, ray.get_gpu_ids()))
    try:
        return work.one(submission, gpus or None)
    finally:
        sweep()


def _connect(address: str) -> list[dict]:
    """The machines that can run something, as ray.nodes() describes them."""
    import ray

    ours = signal.getsignal(signal.SIGTERM)
    try:
        if address != "auto":  # Ray would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(
            address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": str(REPO)}},
        )
        signal.signal(signal.SIGTERM, ours)  # ray.init takes it
    except (OSError, RuntimeError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        start = "`ray start --head` starts one, `ray start --address=HEAD:6379` adds a machine"
        raise UsageError(f"No Ray cluster at {address} ({why}): {start}.") from None
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _resources(machines: list[dict], jobs: int, on_gpus: bool) -> dict:
    """What a task asks for, so that the smallest machine holds `jobs` of them."""
    machines = [machine["Resources"] for machine in machines]
    with_gpu = [machine for machine in machines if machine.get("GPU")] if on_gpus else []
    cores = min(machine["CPU"] for machine in with_gpu or machines)
    if jobs > cores:
        raise UsageError(f"--jobs {jobs} on a machine of {cores:.0f} cores: at most one per core.")
    return {"num_cpus": int(cores // jobs), "num_gpus": 1 if with_gpu else 0}


def _check_folders(machines: list[dict], out: Path) -> None:
    """Every machine must see what is in --out, by the same name, and have the workbook."""
    import ray
    from ray.exceptions import RayError, RayTaskError, RuntimeEnvSetupError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    marker = out / f".seen-{uuid.uuid4().hex}"
    marker.touch()
    look = ray.remote(_sees)
    try:
        for machine in machines:
            name, there = machine["NodeManagerHostname"], On(machine["NodeID"], soft=False)
            seen = look.options(num_cpus=0, scheduling_strategy=there).remote(marker)
            try:
                if not ray.get(seen, timeout=CHECK_S):
                    raise UsageError(f"{name} does not see {out}: all machines must share it.")
            except (RayTaskError, RuntimeEnvSetupError) as error:
                why = str(error).strip().splitlines()[-1][:200]
                needs = f"it needs this workbook and its environment at {REPO}"
                raise UsageError(f"{name} cannot run submissions ({why}): {needs}.") from None
            except RayError:
                continue  # lost just now; its tasks will go elsewhere
    finally:
        marker.unlink(missing_ok=True)


def _sees(marker: Path) -> bool:
    return marker.exists()
