"""What does sampling memory cost the engine? Target: under 1 % of throughput at 10 Hz.

One engine, one workload, run without sampling and with it, in turn (each goes first as often as the others), so
that a slow minute of the machine hits all of them. Beside the throughputs stands the sampler's own
work: the CPU time of its thread as a share of one core; noise hides small costs in throughputs, but not there.

    python -m benchmarks.sampling_cost [--rounds 9] [--requests 64] [--model NAME --load-format dummy]
"""

from __future__ import annotations

import argparse
import statistics
import time

from benchmarks.record import keep
from helpers.engine.engine import open_engine
from helpers.engine.profile import load_profile
from helpers.gpu_memory import MemorySampler
from helpers.measure import run_workload, warm_up
from helpers.workloads import uniform

RATES_HZ = (10, 50)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--model")
    parser.add_argument("--load-format")
    options = parser.parse_args(argv)
    profile = load_profile("auto", options.model, options.load_format)
    with open_engine(profile, max_model_len=options.input_tokens + options.output_tokens) as engine:
        engine.sampler.stop()  # the engine watches its own memory, four times a second: not in these runs
        warm_up(engine)
        found = measure(
            engine, options.rounds, options.input_tokens, options.output_tokens, options.requests
        )
    keep("sampling_cost", profile, found)
    print(f"{describe(found)}\nOn {profile.machine}. Target: under 1 % at 10 Hz.")
    within_noise = found["cost_percent_at_10_hz"] < 1 + found["noise_percent"]
    return 0 if found["cpu_percent_of_a_core_at_10_hz"] < 1 and within_noise else 1


def measure(engine, rounds: int, input_tokens: int, output_tokens: int, requests: int) -> dict:
    """The record: tokens_per_s_without, noise_percent (from one run without sampling to the next), and for each rate the
    throughput that it costs and the sampler's own work."""
    pids = engine.pids or None
    rates = (0, *RATES_HZ)
    speeds: dict[int, list[float]] = {hz: [] for hz in rates}
    shares = {hz: core_share(hz, pids) for hz in RATES_HZ}
    for turn in range(rounds + 1):
        work = uniform(engine.tokenizer, requests, input_tokens, output_tokens, seed=turn)
        start = turn % len(rates)
        for hz in rates[start:] + rates[:start]:
            engine.llm.reset_prefix_cache()
            speed = _run(engine, work, hz, pids)
            if turn:  # the first round is a warm-up
                speeds[hz].append(speed)
    plain = speeds[0]
    apart = [abs(this / before - 1) for this, before in zip(plain[1:], plain)]
    found = {"rounds": rounds, "tokens_per_s_without": statistics.median(plain),
             "noise_percent": 100 * statistics.median(apart) if apart else 0.0}  # fmt: skip
    for hz in RATES_HZ:
        ratio = statistics.median(sampled / without for sampled, without in zip(speeds[hz], plain))
        found[f"cost_percent_at_{hz}_hz"] = 100 * (1 - ratio)
        found[f"cpu_percent_of_a_core_at_{hz}_hz"] = 100 * shares[hz]
    return found


def describe(found: dict) -> str:
    """The record for a reader."""
    lines = [f"without sampling: median {found['tokens_per_s_without']:,.0f} tokens/s; "
             f"from one such run to the next +- {found['noise_percent']:.1f} %"]  # fmt: skip
    for hz in RATES_HZ:
        lines.append(f"{hz:5} Hz: throughput {-found[f'cost_percent_at_{hz}_hz']:+.2f} % (median of {found['rounds']} pairs); "
                     f"its own work: {found[f'cpu_percent_of_a_core_at_{hz}_hz']:.3f} % of a core")  # fmt: skip
    return "\n".join(lines)


def core_share(hz: float, pids=None, seconds: float = 8) -> float:
    """CPU time of the sampler's thread as a share of one core, while it samples for so many seconds."""
    times: list[float] = []
    sampler = MemorySampler(pids=pids, hz=hz).start()
    sampler.on_sample = lambda sample: times.append(time.thread_time())  # in the sampler's thread
    time.sleep(seconds)
    sampler.on_sample = None  # stop() takes its last sample in this thread
    sampler.stop()
    return (times[-1] - times[0]) / seconds


def _run(engine, work, hz: float, pids) -> float:
    if not hz:
        return run_workload(engine, work, progress=False).metrics["total_tokens_per_s"]
    with MemorySampler(pids=pids, hz=hz):
        return run_workload(engine, work, progress=False).metrics["total_tokens_per_s"]


if __name__ == "__main__":
    raise SystemExit(main())
