"""Where submissions are run: side by side on this machine, or as tasks on a Ray cluster."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from helpers.run.classroom.attempt import Class
from helpers.run.classroom.intake import Submission
from helpers.run.classroom.results import Student
from helpers.run.stopping import Stopped

Workers = Callable[[Class, list[Submission]], Iterator[Student]]
"""Runs the submissions and gives each result as it comes; closing it ends what is running."""


def on_this_machine(jobs: int, gpus: list[str]) -> Workers:
    """So many at a time, on GPUs one per GPU. gpus: [] where there is none."""

    def run(work: Class, todo: list[Submission]) -> Iterator[Student]:
        stop = threading.Event()
        free: queue.SimpleQueue = queue.SimpleQueue()
        for place in gpus or [None] * jobs:
            free.put(place)

        def check_stop() -> None:
            if stop.is_set():
                raise Stopped(2)

        def do(submission: Submission) -> Student:
            check_stop()
            gpu = free.get()
            try:
                return work.one(submission, gpu, check_stop)
            finally:
                free.put(gpu)

        pool = ThreadPoolExecutor(jobs, thread_name_prefix="student")
        waiting = {pool.submit(do, submission) for submission in todo}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.1, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)

    return run
