"""The planner as a command: python -m helpers.planning plan --model Qwen2.5-7B --gpu H200-SXM --gpus 2"""

import argparse
import contextlib
import json
import sys

from . import (
    GIB,
    SHIPPED,
    EngineOptions,
    Goal,
    PlanningError,
    Point,
    Workload,
    calibrate,
    catalogue,
    commands,
    default_tuning,
    load_hardware,
    load_shape,
    make_box,
    nearest_valid,
    plan_memory,
    predict,
    rank,
    why_invalid,
)  # fmt: skip
from .choose import nearest_that_fits, price_per_million
from .launch import check_all


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m helpers.planning", description=__doc__)
    sub = top.add_subparsers(dest="what", required=True)
    plan = sub.add_parser("plan", help="size, predict and launch one plan, or rank all of them")
    plan.add_argument(
        "--model",
        required=True,
        help=f"a folder, a config.json, a Hugging Face id, or one of {', '.join(SHIPPED)}",
    )
    plan.add_argument(
        "--gpu",
        required=True,
        help="a name of the catalogue (see: python -m helpers.planning gpus), or 'cpu' for this machine's cores",
    )
    plan.add_argument("--gpus", type=int, default=1, help="GPUs in all")
    plan.add_argument("--nodes", type=int, default=1, help="machines that they are spread over")
    plan.add_argument(
        "--gpu-memory-gib", type=float, help="memory of one GPU as the driver reports it"
    )
    plan.add_argument("--hardware", help="a JSON file with more GPUs")
    for short in ("tp", "pp", "dp"):
        plan.add_argument(f"--{short}", type=int)
    plan.add_argument("--max-model-len", type=int)
    plan.add_argument("--gpu-memory-utilization", type=float, default=0.92)
    plan.add_argument("--kv-cache-dtype", default="auto")
    plan.add_argument("--kv-cache-memory-bytes", type=int)
    plan.add_argument("--max-num-batched-tokens", type=int)
    plan.add_argument("--max-num-seqs", type=int)
    plan.add_argument("--enforce-eager", action="store_true")
    plan.add_argument("--enable-expert-parallel", action="store_true")
    plan.add_argument(
        "--usage",
        choices=("server", "llm"),
        default="server",
        help="whose defaults: `vllm serve` or the class LLM",
    )
    plan.add_argument("--input-tokens", type=int, default=None)
    plan.add_argument("--output-tokens", type=int, default=None)
    plan.add_argument("--concurrency", type=int, default=1)
    plan.add_argument("--tpot-ms", type=float, help="limit for the ranking")
    plan.add_argument("--ttft-ms", type=float, help="limit for the ranking")
    plan.add_argument("--prefer", choices=("throughput", "latency", "price"), default="throughput")
    plan.add_argument("--price", type=float, help="price of one GPU for an hour")
    plan.add_argument(
        "--calibrate",
        action="append",
        default=[],
        metavar="tp=1,concurrency=1,tpot_ms=4.9",
        help="a measured point: tp, pp, dp, concurrency, input_tokens, output_tokens, tpot_ms or prefill_ms",
    )
    plan.add_argument("--launcher", choices=("mp", "ray"), default="mp")
    plan.add_argument(
        "--no-check",
        action="store_true",
        help="print the command without asking the installed vLLM",
    )
    plan.add_argument("--json", action="store_true", help="one JSON object")
    sub.add_parser("gpus", help="the catalogue, with sources and doubts")
    sub.add_parser("models", help="the shipped model configs")
    return top


POINT_KEYS = {
    "tp",
    "pp",
    "dp",
    "concurrency",
    "input_tokens",
    "output_tokens",
    "tpot_ms",
    "prefill_ms",
}


def parse_point(text: str, defaults: dict) -> Point:
    """'tp=1,concurrency=1,tpot_ms=4.9' as a Point; ``defaults`` fill in what is not said."""
    values = dict(defaults)
    for pair in text.split(","):
        key, _, value = pair.strip().partition("=")
        if key not in POINT_KEYS or not value:
            raise PlanningError(
                f"--calibrate cannot read {pair!r}: write pairs of {', '.join(sorted(POINT_KEYS))}, such as tp=1,concurrency=1,tpot_ms=4.9."
            )
        try:
            values[key] = float(value) if key.endswith("_ms") else int(value)
        except ValueError:
            raise PlanningError(
                f"--calibrate cannot read {pair!r}: {value!r} is not a number."
            ) from None
    for key in ("tpot", "prefill"):
        milliseconds = values.pop(key + "_ms", None)
        values[key + "_s"] = None if milliseconds is None else milliseconds / 1e3
    return Point(**values)


def gpu_for(args):
    if args.hardware:
        load_hardware(args.hardware)
    if args.gpu.lower() == "cpu":
        from .inventory import cpu_box

        return cpu_box(args.gpus)
    return make_box(args.gpu, args.gpus, args.nodes, usable_gib=args.gpu_memory_gib)


def plan(args) -> dict:
    """The whole answer of the command as one dict (what --json prints)."""
    box = gpu_for(args)
    shape = load_shape(args.model)
    given = {name: getattr(args, name) for name in (
        "max_model_len", "gpu_memory_utilization", "kv_cache_dtype", "max_num_batched_tokens", "max_num_seqs",
        "kv_cache_memory_bytes", "enforce_eager", "enable_expert_parallel")}  # fmt: skip
    options = EngineOptions(**given)
    limit = args.max_model_len or shape.max_positions
    output = min(128, max(1, limit // 4)) if args.output_tokens is None else args.output_tokens
    prompt = max(1, min(1024, limit - output)) if args.input_tokens is None else args.input_tokens
    workload = Workload(prompt, output, args.concurrency)
    tuning, calibration = default_tuning(box.gpu), None
    if args.calibrate:
        defaults = {"input_tokens": workload.input_tokens, "output_tokens": workload.output_tokens}
        points = [parse_point(text, defaults) for text in args.calibrate]
        for point in points:
            if problem := why_invalid(shape, point.tp, point.pp, point.dp):
                raise PlanningError(f"The calibration point cannot have been measured: {problem}")
        calibration = calibrate(shape, box, points)
        tuning = calibration.tuning
    ranking = None
    if args.tp is None and args.pp is None and args.dp is None:
        goal = Goal(args.tpot_ms, args.ttft_ms, args.prefer)
        ranking = rank(shape, box, workload, options, goal, tuning, args.price, usage=args.usage)
        chosen = ranking.best or ranking.choices[0]
        tp, pp, dp, prediction = chosen.tp, chosen.pp, chosen.dp, chosen.prediction
    else:
        tp, pp, dp = (1 if size is None else size for size in (args.tp, args.pp, args.dp))
        prediction = one_plan(shape, box, tp, pp, dp, workload, options, tuning, args.usage)
    launch = commands(shape, tp, pp, dp, _machines(box, tp, pp, dp), args.launcher, given)
    if not args.no_check:
        with contextlib.redirect_stdout(
            sys.stderr
        ):  # what vLLM has to say while it is imported is not the answer
            launch = check_all(launch, shape)
    return report(shape, box, prediction, launch, ranking, calibration, args.price)


def one_plan(shape, box, tp, pp, dp, workload, options, tuning, usage):
    for label, size in (("tp", tp), ("pp", pp), ("dp", dp)):
        if size < 1:
            raise PlanningError(f"--{label} must be at least 1, not {size}.")
    if tp * pp * dp > box.gpus:
        near = nearest_valid(shape, box, tp, pp, dp, options, usage)
        raise PlanningError(
            f"TP {tp} x PP {pp} x DP {dp} needs {tp * pp * dp} GPUs and the box has {box.gpus}"
            + (f": {near}." if near else ": give more GPUs with --gpus.")
        )
    if problem := why_invalid(shape, tp, pp, dp):
        near = nearest_valid(shape, box, tp, pp, dp, options, usage)
        raise PlanningError(f"{problem.rstrip('.')}" + (f"; {near}." if near else "."))
    memory = plan_memory(shape, box, tp, pp, dp, options, usage)
    if not memory.fits:
        near = nearest_valid(shape, box, tp, pp, dp, options, usage)
        if near:
            raise PlanningError(
                f"{shape.name} does not fit with TP {tp} x PP {pp} x DP {dp} on {box.gpu.name}: {memory.problem}; {near}."
            )
        from .choose import Choice

        raise PlanningError(
            nearest_that_fits(
                shape, box, options, usage, [Choice(tp, pp, dp, None, False, False, memory.problem)]
            )
        )
    return predict(shape, box, tp, pp, dp, workload, options, tuning, usage, memory)


def _machines(box, tp, pp, dp) -> int:
    world = tp * pp * dp
    nodes = min(box.nodes, max(1, -(-world // box.gpus_per_node)))
    while world % nodes:
        nodes += 1
    return nodes


def report(shape, box, p, launch, ranking, calibration, price) -> dict:
    m, stage = p.memory, p.memory.worst
    gib = lambda b: round(b / GIB, 4)  # noqa: E731
    serve = [c for c in launch.commands if c.argv[:2] == ("vllm", "serve")]
    out = {
        "model": shape.name,
        "gpu": box.gpu.name,
        "box": box.label(),
        "gpus": p.gpus,
        "tp": p.tp, "pp": p.pp, "dp": p.dp,
        "options": m.options.__dict__,
        "workload": p.workload.__dict__,
        "parameters": shape.parameters(),
        "weights_gib_per_gpu": round(m.weights_gib_per_gpu, 4),
        "memory_gib_per_gpu": {
            "usable": round(box.gpu.usable_gib, 3), "budget": gib(stage.budget), "weights": gib(stage.weights),
            "sampler_state": gib(stage.sampler_state), "non_torch": gib(stage.non_torch),
            "peak_activation": gib(stage.activation), "cuda_graphs": gib(stage.graphs_estimate),
            "kv_cache": gib(stage.kv_available),
        },
        "kv_bytes_per_token_per_gpu": stage.kv_page // m.block_size,
        "kv_cache_tokens": m.kv_cache_tokens,
        "kv_cache_tokens_all_replicas": m.kv_cache_tokens * p.dp,
        "max_concurrency": round(m.max_concurrency, 3),
        "streams_per_replica": p.streams_per_replica,
        "tpot_ms": round(p.tpot_s * 1e3, 4),
        "tpot_parts_ms": p.decode.ms(),
        "mixed_tpot_ms": round(p.mixed_tpot_s * 1e3, 4),
        "prefill_ms": round(p.prefill_s * 1e3, 4),
        "prefill_parts_ms": p.prefill.ms(),
        "ttft_ms": round(p.ttft_s * 1e3, 4),
        "ttft_parts_ms": {"prefill_ms": round(p.prefill_s * 1e3, 4), "waiting_ms": round((p.ttft_s - p.prefill_s) * 1e3, 4)},
        "output_tokens_per_s": round(p.output_tokens_per_s, 2),
        "output_tokens_per_s_parts": {
            "replicas": p.dp, "streams_per_replica": p.streams_per_replica,
            "decode_step_ms": round(p.tpot_s * 1e3, 4), "prefill_between_steps_ms": round((p.mixed_tpot_s - p.tpot_s) * 1e3, 4),
        },
        "launch": launch.text,
        "launch_accepted": all(c.accepted for c in serve) if all(c.accepted is not None for c in serve) else None,
        "launch_objection": "; ".join(dict.fromkeys(c.objection for c in serve if c.objection)),
        "check_first": list(launch.check_first),
        "notes": list(p.notes),
    }  # fmt: skip
    if price is not None:
        out["price_per_million_output_tokens"] = round(
            price_per_million(price, p.gpus, p.output_tokens_per_s), 4
        )
    if calibration:
        out["calibration"] = {
            "error_before": [round(e, 5) for e in calibration.before],
            "error_after": [round(e, 5) for e in calibration.after],
            "factors": {k: round(v, 4) for k, v in calibration.moved.items()},
        }
    if ranking:
        out["goal_met"] = ranking.best is not None
        out["reasons"] = list(ranking.reasons)
        out["rule_of_thumb"] = ranking.thumb.name() if ranking.thumb else None
        out["ranking"] = [
            {"tp": c.tp, "pp": c.pp, "dp": c.dp, "gpus": c.gpus, "fits": c.fits, "meets": c.meets, "why": c.why,
             **({"kv_cache_tokens": c.prediction.memory.kv_cache_tokens,
                 "weights_gib_per_gpu": round(c.prediction.memory.weights_gib_per_gpu, 4),
                 "tpot_ms": round(c.prediction.tpot_s * 1e3, 4), "mixed_tpot_ms": round(c.prediction.mixed_tpot_s * 1e3, 4),
                 "ttft_ms": round(c.prediction.ttft_s * 1e3, 4),
                 "output_tokens_per_s": round(c.prediction.output_tokens_per_s, 2),
                 "price_per_million": c.price_per_million} if c.prediction else {})}
            for c in ranking.choices
        ]  # fmt: skip
    return out


def readable(r: dict) -> str:
    o, w, mem = r["options"], r["workload"], r["memory_gib_per_gpu"]
    lines = [
        f"{r['model']} on {r['box']}: TP {r['tp']} x PP {r['pp']} x DP {r['dp']} = {r['gpus']} {'core' if r['gpu'] == 'CPU' else 'GPU'}{'s' * (r['gpus'] > 1)}",
        f"  engine      max_model_len {o['max_model_len']:,}, max_num_batched_tokens {o['max_num_batched_tokens']:,}, max_num_seqs {o['max_num_seqs']:,}, KV cache {o['kv_cache_dtype']}, utilisation {o['gpu_memory_utilization']}",
        f"  memory      of {mem['usable']:.1f} GiB vLLM may use {mem['budget']:.1f}: weights {mem['weights']:.2f}, sampler state {mem['sampler_state']:.2f}, kernels and libraries {mem['non_torch']:.2f}, peak activation {mem['peak_activation']:.2f}, CUDA graphs {mem['cuda_graphs']:.2f}, KV cache {mem['kv_cache']:.2f}",
        f"  KV cache    {r['kv_cache_tokens']:,} tokens a replica, {r['max_concurrency']:.1f} requests of {o['max_model_len']:,} tokens ({r['kv_bytes_per_token_per_gpu']:,} bytes a token on each GPU)",
        f"  requests    {w['input_tokens']:,} tokens in, {w['output_tokens']:,} out, {w['concurrency']} at once",
        f"  TPOT        {r['tpot_ms']:.2f} ms  ({_parts(r['tpot_parts_ms'])})",
        f"  prefill     {r['prefill_ms']:.1f} ms  ({_parts(r['prefill_parts_ms'])})",
        f"  TTFT        {r['ttft_ms']:.1f} ms",
        f"  throughput  {r['output_tokens_per_s']:,.0f} output tokens/s with new prompts between the steps (TPOT then {r['mixed_tpot_ms']:.2f} ms)",
    ]
    if "price_per_million_output_tokens" in r:
        lines.append(
            f"  price       {r['price_per_million_output_tokens']:.2f} for a million output tokens"
        )
    if "calibration" in r:
        c = r["calibration"]
        lines.append(
            f"  calibrated  error of the points before {', '.join(f'{e:+.1%}' for e in c['error_before'])}, after {', '.join(f'{e:+.1%}' for e in c['error_after'])}"
        )
    if "ranking" in r:
        lines.append("  ranking     " + ("" if r["goal_met"] else "(no plan meets the goal) "))
        for row in r["ranking"]:
            if not row["fits"]:
                continue
            lines.append(
                f"    TP {row['tp']:>2} PP {row['pp']:>2} DP {row['dp']:>2}  {row['output_tokens_per_s']:>10,.0f} tokens/s  TPOT {row['mixed_tpot_ms']:>7.2f} ms  TTFT {row['ttft_ms']:>7.1f} ms  {'' if row['meets'] else 'misses: ' + row['why']}"
            )
        rest = [row for row in r["ranking"] if not row["fits"]]
        if rest:
            lines.append(
                f"    {len(rest)} more are refused or do not fit; the first: TP {rest[0]['tp']} PP {rest[0]['pp']} DP {rest[0]['dp']}: {rest[0]['why']}"
            )
        lines += [f"  why         {reason}" for reason in r["reasons"]]
    verdict = {
        True: "accepted by the installed vLLM's parser and configuration checks",
        False: "REFUSED by the installed vLLM",
        None: "not checked",
    }[r["launch_accepted"]]
    lines.append(
        f"  launch      {verdict}"
        + (f" ({r['launch_objection']})" if r["launch_objection"] else "")
    )
    lines += ["    " + line for line in r["launch"].splitlines()]
    lines += [f"  note        {note}" for note in r["notes"]]
    return "\n".join(lines)


def _parts(parts: dict) -> str:
    return ", ".join(
        f"{k.removesuffix('_ms').replace('_', ' ')} {v:.2f}" for k, v in parts.items() if v >= 0.005
    )


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    try:
        if args.what == "gpus":
            for gpu in catalogue().values():
                link = f"{gpu.link.kind} {gpu.link.gb_s:g} GB/s" if gpu.link else gpu.pcie.kind
                print(
                    f"{gpu.name:16} {gpu.usable_gib:6.1f} GiB  {gpu.bandwidth_gb_s:6g} GB/s  {gpu.tflops_16bit:6g} TFLOP/s  {link}\n{'':17}source: {gpu.source}"
                )
                for what, doubt in gpu.doubts.items():
                    print(f"{'':17}doubt, {what}: {doubt}")
        elif args.what == "models":
            for name in SHIPPED:
                shape = load_shape(name)
                print(
                    f"{name:16} {shape.parameters() / 1e9:8.2f} B parameters, {shape.kv_bytes_per_token():,} bytes of KV cache a token"
                )
        else:
            answer = plan(args)
            print(json.dumps(answer, indent=1) if args.json else readable(answer))
    except PlanningError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
