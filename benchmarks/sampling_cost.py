"""What does sampling memory cost the engine? Target: under 1 % of throughput at 10 Hz.

One engine, one workload, run without sampling and with it, in turn (each goes first as often as the others), so
that a slow minute of the machine hits all of them. Beside the throughputs stands the sampler's own
work: the CPU time of its thread as a share of one core; noise hides small costs in throughputs, but not there.

    python -m benchmarks.sampling_cost [--rounds 9] [--hz 10 50] [--requests 64] [--model NAME --load-format dummy]
"""

from __future__ import annotations

import argparse
import statistics
import time

from benchmarks.record import keep
from helpers.engine import open_engine
from helpers.gpu_memory import MemorySampler
from helpers.measure import run_workload, warm_up
from helpers.profile import load_profile
from helpers.workloads import uniform


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--hz", type=float, nargs="+", default=[10.0, 50.0])
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--model")
    parser.add_argument("--load-format")
    options = parser.parse_args(argv)
    profile = load_profile("auto", options.model, options.load_format)
    rates = [0.0, *options.hz]
    found: dict[float, list[float]] = {hz: [] for hz in rates}
    with open_engine(profile, max_model_len=options.input_tokens + options.output_tokens) as engine:
        engine._sampler.stop()  # the engine watches its own memory, four times a second: not in these runs
        pids = engine.pids or None
        shares = {hz: core_share(hz, pids) for hz in options.hz}
        warm_up(engine)
        for turn in range(options.rounds + 1):
            work = uniform(
                engine.tokenizer, options.requests, options.input_tokens, options.output_tokens, seed=turn
            )
            start = turn % len(rates)
            for hz in rates[start:] + rates[:start]:
                engine.llm.reset_prefix_cache()
                speed = _run(engine, work, hz, pids)
                if turn:  # the first round is a warm-up
                    found[hz].append(speed)
    metrics = {
        "rounds": options.rounds,
        "tokens_per_s_without": statistics.median(found[0.0]),
    }
    spread = _spread([a / b for a, b in zip(found[0.0][1:], found[0.0])])
    metrics["noise_percent"] = 100 * spread
    print(
        f"without sampling: median {metrics['tokens_per_s_without']:,.0f} tokens/s; from one such run to the next +- {100 * spread:.1f} %"
    )
    for hz in options.hz:
        ratios = [sampled / plain for sampled, plain in zip(found[hz], found[0.0])]
        cost = 100 * (1 - statistics.median(ratios))
        metrics[f"cost_percent_at_{hz:g}_hz"] = cost
        metrics[f"cpu_percent_of_a_core_at_{hz:g}_hz"] = 100 * shares[hz]
        print(
            f"{hz:5g} Hz: throughput {-cost:+.2f} % (median of {len(ratios)} pairs); its own work: {100 * shares[hz]:.3f} % of a core"
        )
    print(f"On {profile.machine}. Target: under 1 % at 10 Hz.")
    keep("sampling_cost", profile, metrics)
    return (
        0
        if metrics.get("cpu_percent_of_a_core_at_10_hz", 0) < 1
        and metrics.get("cost_percent_at_10_hz", 0) < 1 + 100 * spread
        else 1
    )


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


def _spread(ratios: list[float]) -> float:
    """Median distance of a ratio from 1."""
    return statistics.median(abs(ratio - 1) for ratio in ratios) if ratios else 0.0


if __name__ == "__main__":
    raise SystemExit(main())
