"""vLLM's own scheduler, which also writes down what it decided in each step.

It is given to vLLM as `scheduler_cls`, so it works wherever vLLM's scheduler runs: in this process,
in the engine's process of a GPU, in a server. It changes no decision. While the file named in the
environment (`WORKBOOK_STEPS`) is there, it adds a line of JSON a step; `helpers.engine.steps` makes
the file and reads it. Without the file a step costs one question to the file system, microseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler


class RecordingScheduler(Scheduler):
    """The scheduler that vLLM would have taken, with a notebook."""

    def __new__(cls, *, vllm_config, **others):
        """With asynchronous scheduling vLLM has a scheduler of its own."""
        ahead = vllm_config.scheduler_config.async_scheduling
        return super().__new__(_RecordingAsyncScheduler if ahead else cls)

    def __init__(self, **config):
        super().__init__(**config)
        self._path = os.environ.get("WORKBOOK_STEPS", "")
        self._planned: dict[int, dict] = {}  # steps that the model works on
        self._to_prefill: dict[str, int] = {}  # tokens to read before a request gives the next one

    def add_request(self, request) -> None:
        """As vLLM does."""
        super().add_request(request)
        self._write(
            {
                "request": request.request_id,
                "arrival": time.monotonic(),
                "prompt_tokens": request.num_prompt_tokens,
            }
        )

    def schedule(self, *args, **kwargs):
        """As vLLM does."""
        start = time.monotonic()
        planned = super().schedule(*args, **kwargs)
        if planned.total_num_scheduled_tokens and os.path.exists(self._path):
            self._planned[id(planned)] = self._plan(planned, start)
        return planned

    def update_from_output(self, planned, output):
        """As vLLM does."""
        step = self._planned.pop(id(planned), None)
        if step is None:
            return super().update_from_output(planned, output)
        requests = {name: self.requests[name] for name in step["work"] if name in self.requests}
        before = {name: request.num_output_tokens for name, request in requests.items()}
        sampled = {
            name: len(output.sampled_token_ids[output.req_id_to_index[name]])
            for name in requests
            if output.sampled_token_ids
        }
        told = super().update_from_output(planned, output)
        for name, work in step["work"].items():
            grown = requests[name].num_output_tokens - before[name] if name in requests else 0
            accepted = sampled.get(name, 0) - 1 if work["drafted"] else 0
            work |= {"new": grown, "accepted": max(0, accepted)}
        self._write({**step, "end": time.monotonic()})
        return told

    def _plan(self, planned, start: float) -> dict:
        cached = planned.scheduled_cached_reqs
        admitted = {new.req_id for new in planned.scheduled_new_reqs} | cached.resumed_req_ids
        work = {}
        for name, tokens in planned.num_scheduled_tokens.items():
            request = self.requests[name]
            before = request.num_computed_tokens - tokens
            if name in admitted:  # one that was preempted reads its own answer again
                self._to_prefill[name] = request.num_tokens
            prefill = before < self._to_prefill.get(name, request.num_prompt_tokens)
            drafted = len(planned.scheduled_spec_decode_tokens.get(name, ()))
            found = before if name in admitted else 0  # in the prefix cache
            work[name] = {"tokens": tokens, "prefill": prefill, "drafted": drafted, "found": found}
        pool = self.kv_cache_manager.block_pool
        blocks = pool.num_gpu_blocks - 1  # vLLM keeps one
        return {
            "start": start,
            "budget": self.max_num_scheduled_tokens,
            "blocks": blocks - pool.get_num_free_blocks(),
            "of_blocks": blocks,
            "preempted": sorted(planned.preempted_req_ids or ()),
            "work": work,
        }

    def _write(self, line: dict) -> None:
        try:  # without O_CREAT: no file means that nobody records
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            return
        try:
            os.write(file, json.dumps(line).encode() + b"\n")
        except OSError:  # a full disk ends the recording, not the engine
            with contextlib.suppress(FileNotFoundError):  # the recording has just ended
                os.unlink(self._path)
        finally:
            os.close(file)


class _RecordingAsyncScheduler(RecordingScheduler, AsyncScheduler):
    """The same on top of the scheduler that plans a step while the one before runs."""
