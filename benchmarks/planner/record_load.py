"""What a server does under constant load, beside what the planner says of it.

    python -m benchmarks.planner.record_load predict benchmarks/planner/configs/load1.json  # commit
    python -m benchmarks.planner.record_load measure benchmarks/planner/configs/load1.json \
        --budget-s 560

A list is {"gpu": name of the catalogue or "CPU", "loads": [...], "configs": [...]}, the most worth
measuring first. A load is "64x1024+128" (64 clients, 1,024 tokens in, 128 out) or "90%x1024+128"
(requests arrive at random, so often as 90 % of what the server serves at most: measured with the
list's most clients of that size before it, predicted with the planner's own number). Every load
goes into the file as it is measured; what is there is skipped, and what may not end in the time
that is left is not begun: run the same command again to go on.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

from benchmarks.planner import RECORDS
from benchmarks.planner.clients import Clients, Load
from benchmarks.planner.planned import Planned
from benchmarks.planner.record import (
    command,
    commit,
    describe_machine,
    now,
    read_records,
    write_predictions,
)
from helpers.engine.profile import load_profile
from helpers.planning import SHIPPED, RequestMix, SpeedPrediction
from helpers.results.store import append
from helpers.server import start_server
from helpers.server.server import Server, ServerError

NUMBERS = ("output_tokens_per_s", "requests_per_s", "tpot_ms", "ttft_ms", "ttft_p50_ms")
SIZES = {"tensor": "tp", "pipeline": "pp", "data": "dp"}
START_S = 120.0  # for a server; a first start that compiles takes the longest


def read_loads(path) -> dict:
    """The list, every configuration with its loads and with the defaults filled in."""
    listing = json.loads(Path(path).read_text())
    one = {"tp": 1, "pp": 1, "dp": 1, "engine_args": {}, "env": {}, "loads": listing["loads"]}
    return listing | {"configs": [{**one, **c} for c in listing["configs"]]}


def loads_of(config: dict) -> list[Load]:
    """The loads of a configuration: clients first, so that its capacity is known to arrivals."""
    return sorted(map(Load.read, config["loads"]), key=lambda load: load.clients is None)


def case(load: Load) -> str:
    """A load as the list writes it."""
    many = f"{load.clients}" if load.clients else f"{load.share:.0%}"
    return f"{many}x{load.input_tokens}+{load.output_tokens}"


def capacity(load: Load, found: dict[str, dict]) -> float | None:
    """The most requests per second of this size among cases that were found; None without one."""
    same = (
        numbers["requests_per_s"]
        for name, numbers in found.items()
        if name.partition("x")[2] == case(load).partition("x")[2] and "%" not in name
    )
    return max(same, default=None)


# ---------------------------------------------------------------------- predictions
def predict_one(config: dict, gpu: str, probe: dict | None) -> dict:
    """{case: numbers} of one configuration, in the units of a record."""
    planned, found = Planned(config, gpu, probe, usage="server"), {}
    for load in loads_of(config):
        rate = None if load.clients else load.share * capacity(load, found)
        mix = RequestMix(load.input_tokens, load.output_tokens, load.clients or 1, rate)
        found[case(load)] = numbers_of(planned.under(mix))
    return found


def numbers_of(p: SpeedPrediction) -> dict:
    """A prediction with the names and units of a record."""
    return {
        "output_tokens_per_s": p.output_tokens_per_s,
        "requests_per_s": p.requests_per_s,
        "tpot_ms": p.tpot_s * 1e3,
        "ttft_ms": p.ttft_s * 1e3,
        "ttft_p50_ms": p.ttft_percentiles_s[0] * 1e3,
    }


def predict(path, folder: Path = RECORDS, gpu: str | None = None) -> Path:
    """Write what the planner says of a list, once; returns the file."""
    return write_predictions(read_loads(path), predict_one, path, folder, gpu)


# ---------------------------------------------------------------------- measurements
@contextlib.contextmanager
def server_of(config: dict, max_wait_s: float):
    """A running server of one configuration; environment as the configuration says."""
    before = dict(os.environ)
    os.environ.update(config["env"])
    shipped = config["model"] == "shipped"
    name = SHIPPED.get(config["model"], config["model"])
    profile = load_profile() if shipped else load_profile("gpu", name, "dummy")
    sizes = {f"{name}_parallel_size": config[short] for name, short in SIZES.items()}
    arguments = {"max_model_len": None, "max_num_batched_tokens": None, **config["engine_args"]}
    try:
        quick = config["tp"] * config["dp"] == 1
        with start_server(
            profile, max_wait_s=max_wait_s, quick=quick, **sizes, **arguments
        ) as server:
            yield server
    finally:
        os.environ.clear()
        os.environ.update(before)


def wait_until_idle(server: Server, limit_s: float = 20.0) -> None:
    """Until the requests that were cut off are gone from the engine."""
    stop = time.monotonic() + limit_s
    while time.monotonic() < stop:
        counts = server.metrics()  # several front ends list a gauge only once it was set
        if not any(counts.get(f"num_requests_{what}") for what in ("running", "waiting")):
            return
        time.sleep(0.2)


def measure(
    path, folder=RECORDS, budget_s=560.0, window_s=20.0, only=None, gpu: str | None = None
) -> int:
    """Measure the list; returns the number of loads that are still without a record."""
    deadline = time.monotonic() + budget_s
    listing = read_loads(path)
    gpu = gpu or listing["gpu"]
    written = json.loads(predict(path, folder, gpu).read_text())
    out = folder / f"{Path(path).stem}_{gpu}.jsonl"
    machine, left = {**describe_machine(), "probe": written["probe"]}, 0

    for config in listing["configs"]:
        done = _done(out, config)
        todo = [load for load in loads_of(config) if case(load) not in done]
        if not todo or (only and config["id"] not in only):
            continue
        left += len(todo)
        if deadline - time.monotonic() < START_S / 2 + 3 * window_s:
            continue
        about = {
            "config": {k: v for k, v in config.items() if k not in ("id", "loads")},
            "gpu": gpu,
            "machine": machine,
            "commit": commit(),
            "weights": "shipped" if config["model"] == "shipped" else "dummy",
        }
        try:
            with server_of(config, deadline - time.monotonic()) as server:
                for load in todo:
                    if deadline - time.monotonic() < 4 * window_s:
                        print(f"time is up before {case(load)} of {config['id']}", flush=True)
                        break
                    measured = measure_one(server, load, done, window_s)
                    if "ttft_ms" not in measured:
                        print(f"{case(load)} of {config['id']}: {measured}", flush=True)
                        continue
                    done[case(load)] = measured
                    predicted = written["predictions"].get(config["id"], {}).get(case(load))
                    record = {"id": f"{config['id']} {case(load)}", "case": case(load), **about}
                    record |= {"predicted": predicted, "measured": measured, "time_utc": now()}
                    append(out, record)
                    print(in_short(record), flush=True)
                    left -= 1
        except ServerError as problem:
            print(f"{config['id']}: {problem}", flush=True)
    print(f"{left} loads are without a record; {out}")
    return left


def _done(out: Path, config: dict) -> dict[str, dict]:
    """{case: measured} of a configuration."""
    mine = (r for i, r in read_records(out).items() if i.rpartition(" ")[0] == config["id"])
    return {r["case"]: r["measured"] for r in mine}


def measure_one(server: Server, load: Load, done: dict[str, dict], window_s: float) -> dict:
    """One load, after the one before it has gone. Arrivals come at a share of what was measured."""
    wait_until_idle(server)
    rate = None
    if load.share:
        rate = load.share * capacity(load, done)
    folder = Path(server.engine_args["model"])
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    clients = Clients(server, load, vocabulary, seed=time.time_ns())
    try:
        measured = clients.measure(window_s, limit_s=3 * window_s, rate_per_s=rate)
    except TimeoutError:
        measured = {"problem": "not every client had an answer in the time allowed"}
    return {"rate_per_s": rate, **measured}


def in_short(record: dict) -> str:
    """What was measured, and in brackets how far the prediction was off."""
    m, p = record["measured"], record["predicted"] or {}
    parts = []
    for name in NUMBERS:
        if m.get(name):
            off = f" ({p[name] / m[name] - 1:+.0%})" if p.get(name) else ""
            parts.append(f"{name} {m[name]:,.1f}{off}")
    disturbed = "; ".join(m.get("disturbed", []))
    return f"{record['id']:32} {', '.join(parts)} {disturbed}"


LIMITS = {
    "budget_s": (560, "end before so many seconds"),
    "window_s": (20, "of each load that counts"),
}

if __name__ == "__main__":
    sys.exit(command(__doc__, predict, measure, LIMITS))
