"""What does sampling memory cost the engine? Target: under 1 % of throughput at 10 Hz.

The same workload without sampling and with it, in turn. Beside the throughputs stands the sampler's
own work: the CPU time of its thread as a share of one core; noise hides small costs in throughputs,
but not there. Every engine watches its own memory four times a second, in all of these runs.

    python -m benchmarks.limits --parts sampling [--rounds 5]
"""

from __future__ import annotations

import statistics
import time
from itertools import pairwise

from benchmarks.in_turns import in_turns
from helpers.engine.engine import Engine
from helpers.gpu_memory import MemorySampler
from helpers.measure import run_workload
from helpers.workloads import Workload

RATES_HZ = (10, 50)


def measure(engine: Engine, rounds: int) -> dict:
    """The record.

    tokens_per_s_without, noise_percent (from one run without sampling to the next), and for each
    rate the throughput that it costs and the sampler's own work.
    """
    pids = engine.pids or None

    def plain(work: Workload) -> float:
        return run_workload(engine, work, progress=False).metrics["total_tokens_per_s"]

    def sampled_at(hz: int):
        def sampled(work: Workload) -> float:
            with MemorySampler(pids=pids, hz=hz):
                return plain(work)

        return sampled

    ways = {"without": plain, **{f"{hz}_hz": sampled_at(hz) for hz in RATES_HZ}}
    rows = in_turns(engine, ways, rounds)
    without = [row["without"] for row in rows]
    apart = [abs(this / before - 1) for before, this in pairwise(without)]
    found = {
        "rounds": rounds,
        "tokens_per_s_without": statistics.median(without),
        "noise_percent": 100 * statistics.median(apart or [0.0]),
    }
    for hz in RATES_HZ:
        kept = statistics.median(row[f"{hz}_hz"] / row["without"] for row in rows)
        found[f"cost_percent_at_{hz}_hz"] = 100 * (1 - kept)
        found[f"cpu_percent_of_a_core_at_{hz}_hz"] = 100 * core_share(hz, pids)
    return found


def met(found: dict) -> bool:
    """Whether the target is met: its own work, and throughput as far as noise lets it be seen."""
    within_noise = found["cost_percent_at_10_hz"] < 1 + found["noise_percent"]
    return found["cpu_percent_of_a_core_at_10_hz"] < 1 and within_noise


def core_share(hz: float, pids=None, seconds: float = 8) -> float:
    """CPU time of the sampler's thread as a share of one core, over so many seconds."""
    times: list[float] = []
    sampler = MemorySampler(pids=pids, hz=hz).start()
    sampler.on_sample = lambda sample: times.append(time.thread_time())  # in the sampler's thread
    time.sleep(seconds)
    sampler.on_sample = None  # stop() takes its last sample in this thread
    sampler.stop()
    return (times[-1] - times[0]) / seconds
