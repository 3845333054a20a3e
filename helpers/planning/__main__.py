"""The planner as a command.

python -m helpers.planning plan --model Qwen2.5-7B --gpu H200-SXM --gpus 2
"""

import argparse
import contextlib
import json
import math
import sys

from . import (
    GIB,
    SHIPPED,
    Calibration,
    Choice,
    EngineOptions,
    Goal,
    Launch,
    PlanningError,
    Point,
    Ranking,
    RequestMix,
    SpeedPrediction,
    calibrate,
    catalogue,
    check_all,
    commands,
    cpu_box,
    default_tuning,
    load_hardware,
    load_shape,
    make_box,
    nearest_that_fits,
    nearest_valid,
    plan_memory,
    predict_speed,
    price_per_million,
    rank,
    why_invalid,
)
from .calibration import COUNTS
from .launch import OPTIONS

POINT_KEYS = (*COUNTS, "tpot_ms", "prefill_ms")


def parser() -> argparse.ArgumentParser:
    """The command line; engine arguments have vLLM's names."""
    top = argparse.ArgumentParser(prog="python -m helpers.planning", description=__doc__)
    sub = top.add_subparsers(dest="what", required=True)
    plan = sub.add_parser("plan", help="size, predict and launch one plan, or rank all of them")
    add = plan.add_argument
    shipped = ", ".join(SHIPPED)
    add(
        "--model",
        required=True,
        help=f"a folder, a config.json, a Hugging Face id, or one of {shipped}",
    )
    add(
        "--gpu",
        required=True,
        help="a name of the catalogue (see: python -m helpers.planning gpus), or 'cpu' for this "
        "machine's cores",
    )
    add("--gpus", type=int, default=1, help="GPUs in all")
    add("--nodes", type=int, default=1, help="machines that they are spread over")
    add("--gpu-memory-gib", type=float, help="memory of one GPU as the driver reports it")
    add("--hardware", help="a JSON file with more GPUs")
    for short in ("tp", "pp", "dp"):
        add(f"--{short}", type=int)
    add("--max-model-len", type=int)
    add("--gpu-memory-utilization", type=float, default=0.92)
    add("--kv-cache-dtype", default="auto")
    add("--kv-cache-memory-bytes", type=int)
    add("--max-num-batched-tokens", type=int)
    add("--max-num-seqs", type=int)
    add("--enforce-eager", action="store_true")
    add("--enable-expert-parallel", action="store_true")
    add(
        "--usage",
        choices=("server", "llm"),
        default="server",
        help="whose defaults: `vllm serve` or the class LLM",
    )
    add("--input-tokens", type=int)
    add("--output-tokens", type=int)
    add("--concurrency", type=int, default=1)
    add("--tpot-ms", type=float, help="limit for the ranking")
    add("--ttft-ms", type=float, help="limit for the ranking")
    add("--prefer", choices=("throughput", "latency", "price"), default="throughput")
    add("--price", type=float, help="price of one GPU for an hour")
    add(
        "--calibrate",
        action="append",
        default=[],
        metavar="tp=1,concurrency=1,tpot_ms=4.9",
        help="a measured point: tp, pp, dp, concurrency, input_tokens, output_tokens, tpot_ms or "
        "prefill_ms",
    )
    add("--launcher", choices=("mp", "ray"), default="mp")
    add(
        "--no-check",
        action="store_true",
        help="print the command without asking the installed vLLM",
    )
    add("--json", action="store_true", help="one JSON object")
    sub.add_parser("gpus", help="the catalogue, with sources and doubts")
    sub.add_parser("models", help="the shipped model configs")
    return top


def parse_point(text: str, workload: RequestMix) -> Point:
    """'tp=1,concurrency=1,tpot_ms=4.9' as a Point; the lengths that it does not say are the plan's.

    Raises PlanningError for what cannot be read.
    """
    values: dict = {"input_tokens": workload.input_tokens, "output_tokens": workload.output_tokens}
    for pair in text.split(","):
        key, _, value = pair.strip().partition("=")
        if key not in POINT_KEYS or not value:
            raise PlanningError(
                f"--calibrate cannot read {pair!r}: write pairs of "
                f"{', '.join(sorted(POINT_KEYS))}, such as tp=1,concurrency=1,tpot_ms=4.9."
            )
        try:
            if key.endswith("_ms"):
                values[key.replace("_ms", "_s")] = float(value) / 1e3
            else:
                values[key] = int(value)
        except ValueError:
            raise PlanningError(
                f"--calibrate cannot read {pair!r}: {value!r} is not a number."
            ) from None
    return Point(**values)


def plan(args) -> dict:
    """The whole answer of the command as one dict (what --json prints)."""
    if args.hardware:
        load_hardware(args.hardware)
    if args.gpu.lower() == "cpu":
        box = cpu_box(args.gpus)
    else:
        box = make_box(args.gpu, args.gpus, args.nodes, usable_gib=args.gpu_memory_gib)
    shape = load_shape(args.model)
    given = {name: getattr(args, name) for name in OPTIONS}
    options, workload = EngineOptions(**given), _workload(args, shape)
    calibration = _calibration(args, shape, box, workload)
    tuning = calibration.tuning if calibration else default_tuning(box.gpu)
    ranking = None
    if args.tp is None and args.pp is None and args.dp is None:
        goal = Goal(args.tpot_ms, args.ttft_ms, args.prefer)
        ranking = rank(shape, box, workload, options, goal, tuning, args.price, args.usage)
        prediction = (ranking.best or ranking.choices[0]).prediction
    else:
        layout = tuple(1 if size is None else size for size in (args.tp, args.pp, args.dp))
        prediction = _one_plan(shape, box, layout, workload, options, tuning, args.usage)
    tp, pp, dp = prediction.tp, prediction.pp, prediction.dp
    launch = commands(shape, tp, pp, dp, _machines(box, prediction.gpus), args.launcher, given)
    if not args.no_check:
        # what vLLM has to say while it is imported is not the answer
        with contextlib.redirect_stdout(sys.stderr):
            launch = check_all(launch, shape)
    answer = {"model": shape.name, "gpu": box.gpu.name, "box": box.label()}
    answer |= {**_sizes(shape, box, prediction), **_speed(prediction), **_launch(launch)}
    answer["notes"] = list(prediction.notes)
    if args.price is not None:
        price = price_per_million(args.price, prediction.gpus, prediction.output_tokens_per_s)
        answer["price_per_million_output_tokens"] = round(price, 4)
    if calibration:
        answer["calibration"] = {
            "error_before": [round(e, 5) for e in calibration.before],
            "error_after": [round(e, 5) for e in calibration.after],
            "factors": {k: round(v, 4) for k, v in calibration.moved.items()},
        }
    return answer | (_ranking(ranking) if ranking else {})


def _workload(args, shape) -> RequestMix:
    limit = args.max_model_len or shape.max_positions
    output, prompt = args.output_tokens, args.input_tokens
    if output is None:
        output = min(128, max(1, limit // 4))
    if prompt is None:
        prompt = max(1, min(1024, limit - output))
    return RequestMix(prompt, output, args.concurrency)


def _calibration(args, shape, box, workload) -> Calibration | None:
    points = [parse_point(text, workload) for text in args.calibrate]
    for point in points:
        if problem := why_invalid(shape, point.tp, point.pp, point.dp):
            raise PlanningError(f"The calibration point cannot have been measured: {problem}")
    return calibrate(shape, box, points) if points else None


def _one_plan(shape, box, layout, workload, options, tuning, usage) -> SpeedPrediction:
    tp, pp, dp = layout
    for label, size in zip(("tp", "pp", "dp"), layout, strict=True):
        if size < 1:
            raise PlanningError(f"--{label} must be at least 1, not {size}.")
    sizes, gpus = f"TP {tp} x PP {pp} x DP {dp}", tp * pp * dp
    near = nearest_valid(shape, box, tp, pp, dp, options, usage)
    if gpus > box.gpus:
        instead = f"{near}." if near else "give more GPUs with --gpus."
        raise PlanningError(f"{sizes} needs {gpus} GPUs and the box has {box.gpus}: {instead}")
    if problem := why_invalid(shape, tp, pp, dp):
        raise PlanningError(problem.rstrip(".") + (f"; {near}." if near else "."))
    memory = plan_memory(shape, box, tp, pp, dp, options, usage)
    if memory.fits:
        return predict_speed(shape, box, tp, pp, dp, workload, options, tuning, usage, memory)
    if near:
        where = f"with {sizes} on {box.gpu.name}"
        raise PlanningError(f"{shape.name} does not fit {where}: {memory.problem}; {near}.")
    tried = [Choice(tp, pp, dp, why=memory.problem)]
    raise PlanningError(nearest_that_fits(shape, box, options, usage, tried))


def _machines(box, ranks: int) -> int:
    """The fewest machines that share the ranks evenly."""
    nodes = min(box.nodes, max(1, -(-ranks // box.gpus_per_node)))
    while ranks % nodes:
        nodes += 1
    return nodes


def _sizes(shape, box, p: SpeedPrediction) -> dict:
    m, stage = p.memory, p.memory.worst
    parts = {
        "budget": stage.budget,
        "weights": stage.weights,
        "sampler_state": stage.sampler_state,
        "non_torch": stage.non_torch,
        "peak_activation": stage.activation,
        "cuda_graphs": stage.graphs_estimate,
        "kv_cache": stage.kv_available,
    }
    in_gib = {name: round(b / GIB, 4) for name, b in parts.items()}
    return {
        "gpus": p.gpus,
        "tp": p.tp,
        "pp": p.pp,
        "dp": p.dp,
        "options": vars(m.options),
        "workload": vars(p.workload),
        "parameters": shape.parameters(),
        "weights_gib_per_gpu": round(m.weights_gib_per_gpu, 4),
        "memory_gib_per_gpu": {"usable": round(box.gpu.usable_gib, 3), **in_gib},
        "kv_bytes_per_token_per_gpu": shape.kv_bytes_per_token(
            p.tp, m.options.kv_cache_dtype, stage.layers
        ),
        "kv_cache_tokens": m.kv_cache_tokens,
        "kv_cache_tokens_all_replicas": m.kv_cache_tokens * p.dp,
        "max_concurrency": round(m.max_concurrency, 3),
    }


def _speed(p: SpeedPrediction) -> dict:
    tpot_ms, step_ms = _ms(p.tpot_s), _ms(p.decode.total)
    prefill_ms, ttft_ms = _ms(p.prefill_s), _ms(p.ttft_s)
    ttft, tpot = map(_ms, p.ttft_percentiles_s), map(_ms, p.tpot_percentiles_s)
    return {
        "streams_per_replica": p.streams_per_replica,
        "tpot_ms": tpot_ms,
        "tpot_parts_ms": p.tpot.ms(),
        "mixed_tpot_ms": tpot_ms,  # the name that it had beside a TPOT without prompts
        "tpot_p50_ms": next(tpot),
        "tpot_p99_ms": next(tpot),
        "decode_step_ms": step_ms,
        "decode_step_parts_ms": p.decode.ms(),
        "prefill_ms": prefill_ms,
        "prefill_parts_ms": p.prefill.ms(),
        "ttft_ms": ttft_ms,
        "ttft_parts_ms": {"prefill_ms": prefill_ms, "waiting_ms": _ms(p.ttft_s - p.prefill_s)},
        "ttft_p50_ms": next(ttft),
        "ttft_p99_ms": next(ttft),
        "requests_per_s": round(p.requests_per_s, 4),
        "output_tokens_per_s": round(p.output_tokens_per_s, 2),
        "output_tokens_per_s_parts": {
            "replicas": p.dp,
            "streams_per_replica": p.streams_per_replica,
            "decode_step_ms": step_ms,
            "prompts_in_the_same_steps_ms": _ms(p.prompts_s),
        },
    }


def _ms(seconds: float) -> float | None:
    """Milliseconds for JSON, which has no infinity: None."""
    return None if math.isinf(seconds) else round(float(seconds) * 1e3, 4)


def _launch(launch: Launch) -> dict:
    serve = [c for c in launch.commands if c.argv[:2] == ("vllm", "serve")]
    checked = all(c.accepted is not None for c in serve)
    objections = dict.fromkeys(c.objection for c in serve if c.objection)
    return {
        "launch": launch.text,
        "launch_accepted": all(c.accepted for c in serve) if checked else None,
        "launch_objection": "; ".join(objections),
        "check_first": list(launch.check_first),
    }


def _ranking(ranking: Ranking) -> dict:
    return {
        "goal_met": ranking.best is not None,
        "reasons": list(ranking.reasons),
        "rule_of_thumb": ranking.thumb.name() if ranking.thumb else None,
        "ranking": [_row(choice) for choice in ranking.choices],
    }


def _row(c: Choice) -> dict:
    row = {"tp": c.tp, "pp": c.pp, "dp": c.dp, "gpus": c.gpus}
    row |= {"fits": c.fits, "meets": c.meets, "why": c.why}
    p = c.prediction
    if p is None:
        return row
    return row | {
        "kv_cache_tokens": p.memory.kv_cache_tokens,
        "weights_gib_per_gpu": round(p.memory.weights_gib_per_gpu, 4),
        "tpot_ms": _ms(p.tpot_s),
        "mixed_tpot_ms": _ms(p.tpot_s),
        "ttft_ms": _ms(p.ttft_s),
        "ttft_p99_ms": _ms(p.ttft_percentiles_s[1]),
        "output_tokens_per_s": round(p.output_tokens_per_s, 2),
        "price_per_million": c.price_per_million,
    }


# ---------------------------------------------------------------------- the answer in lines
def readable(r: dict) -> str:
    """The answer of ``plan`` for a terminal."""
    o, w, mem = r["options"], r["workload"], r["memory_gib_per_gpu"]
    device = f"{'core' if r['gpu'] == 'CPU' else 'GPU'}{'s' * (r['gpus'] > 1)}"
    rows = [
        (
            "engine",
            f"max_model_len {o['max_model_len']:,}, max_num_batched_tokens "
            f"{o['max_num_batched_tokens']:,}, max_num_seqs {o['max_num_seqs']:,}, KV cache "
            f"{o['kv_cache_dtype']}, utilisation {o['gpu_memory_utilization']}",
        ),
        (
            "memory",
            f"of {mem['usable']:.1f} GiB vLLM may use {mem['budget']:.1f}: weights "
            f"{mem['weights']:.2f}, sampler state {mem['sampler_state']:.2f}, kernels and "
            f"libraries {mem['non_torch']:.2f}, peak activation {mem['peak_activation']:.2f}, "
            f"CUDA graphs {mem['cuda_graphs']:.2f}, KV cache {mem['kv_cache']:.2f}",
        ),
        (
            "KV cache",
            f"{r['kv_cache_tokens']:,} tokens a replica, {r['max_concurrency']:.1f} requests of "
            f"{o['max_model_len']:,} tokens ({r['kv_bytes_per_token_per_gpu']:,} bytes a token on "
            "each GPU)",
        ),
        (
            "requests",
            f"{w['input_tokens']:,} tokens in, {w['output_tokens']:,} out, {w['concurrency']} at "
            "once",
        ),
        ("TPOT", f"{r['tpot_ms']:.2f} ms  ({_parts(r['tpot_parts_ms'])})"),
        ("prefill", f"{r['prefill_ms']:.1f} ms  ({_parts(r['prefill_parts_ms'])})"),
        ("TTFT", f"{r['ttft_ms']:.1f} ms"),
        (
            "throughput",
            f"{r['output_tokens_per_s']:,.0f} output tokens/s with new prompts in the same steps "
            f"(TPOT then {r['mixed_tpot_ms']:.2f} ms)",
        ),
    ]
    if (price := r.get("price_per_million_output_tokens")) is not None:
        rows.append(("price", f"{price:.2f} for a million output tokens"))
    if c := r.get("calibration"):
        before, after = (
            ", ".join(f"{e:+.1%}" for e in c[key]) for key in ("error_before", "error_after")
        )
        rows.append(("calibrated", f"error of the points before {before}, after {after}"))
    sizes = f"TP {r['tp']} x PP {r['pp']} x DP {r['dp']} = {r['gpus']} {device}"
    lines = [f"{r['model']} on {r['box']}: {sizes}"]
    lines += [f"  {label:<12}{text}" for label, text in rows]
    if "ranking" in r:
        lines += _ranking_lines(r)
    lines += _launch_lines(r)
    return "\n".join(lines + [f"  note        {note}" for note in r["notes"]])


def _parts(parts: dict) -> str:
    return ", ".join(
        f"{k.removesuffix('_ms').replace('_', ' ')} {v:.2f}" for k, v in parts.items() if v >= 0.005
    )


def _ranking_lines(r: dict) -> list[str]:
    lines = ["  ranking     " + ("" if r["goal_met"] else "(no plan meets the goal) ")]
    for row in (row for row in r["ranking"] if row["fits"]):
        misses = "" if row["meets"] else "misses: " + row["why"]
        lines.append(
            f"    TP {row['tp']:>2} PP {row['pp']:>2} DP {row['dp']:>2}  "
            f"{row['output_tokens_per_s']:>10,.0f} tokens/s  TPOT {row['mixed_tpot_ms']:>7.2f} ms  "
            f"TTFT {row['ttft_ms']:>7.1f} ms  {misses}"
        )
    rest = [row for row in r["ranking"] if not row["fits"]]
    if rest:
        first = rest[0]
        sizes = f"TP {first['tp']} PP {first['pp']} DP {first['dp']}"
        lines.append(
            f"    {len(rest)} more are refused or do not fit; the first: {sizes}: {first['why']}"
        )
    return lines + [f"  why         {reason}" for reason in r["reasons"]]


def _launch_lines(r: dict) -> list[str]:
    verdict = {
        True: "accepted by the installed vLLM's parser and configuration checks",
        False: "REFUSED by the installed vLLM",
        None: "not checked",
    }[r["launch_accepted"]]
    objection = f" ({r['launch_objection']})" if r["launch_objection"] else ""
    lines = ["    " + line for line in r["launch"].splitlines()]
    return [f"  launch      {verdict}{objection}", *lines]


def list_gpus() -> None:
    """Print the catalogue with its sources and doubts."""
    for gpu in catalogue().values():
        link = f"{gpu.link.kind} {gpu.link.gb_s:g} GB/s" if gpu.link else gpu.pcie.kind
        print(
            f"{gpu.name:16} {gpu.usable_gib:6.1f} GiB  {gpu.bandwidth_gb_s:6g} GB/s  "
            f"{gpu.tflops_16bit:6g} TFLOP/s  {link}"
        )
        print(f"{'':17}source: {gpu.source}")
        for what, doubt in gpu.doubts.items():
            print(f"{'':17}doubt, {what}: {doubt}")


def list_models() -> None:
    """Print the shipped model configs."""
    for name in SHIPPED:
        shape = load_shape(name)
        print(
            f"{name:16} {shape.parameters() / 1e9:8.2f} B parameters, "
            f"{shape.kv_bytes_per_token():,} bytes of KV cache a token"
        )


def main(argv=None) -> int:
    """Run the command; returns the exit code (2 for what cannot be planned)."""
    args = parser().parse_args(argv)
    try:
        if args.what == "gpus":
            list_gpus()
        elif args.what == "models":
            list_models()
        else:
            answer = plan(args)
            print(json.dumps(answer, indent=1) if args.json else readable(answer))
    except PlanningError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
