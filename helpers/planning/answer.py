"""What the command answers: a plan as one dict (--json prints it), and the same in lines."""

import math

from .calibration import Calibration
from .choose import Choice, Ranking, price_per_million
from .doubts import Range
from .hardware import GIB, Box
from .launch import Launch
from .load import SpeedPrediction
from .memory import OWN
from .models import ModelShape


def answer(
    shape: ModelShape,
    box: Box,
    p: SpeedPrediction,
    between: Range | None,
    launch: Launch,
    price_per_gpu_hour: float | None = None,
    calibration: Calibration | None = None,
    ranking: Ranking | None = None,
) -> dict:
    """A plan as one dict; a key ends in the unit of its value. between: of its speed."""
    said = {"model": shape.name, "gpu": box.gpu.name, "box": box.label()}
    said |= {**_sizes(shape, box, p), **_speed(p), **_launch(launch)}
    said |= {"range": _range(between), "notes": list(p.notes), "doubts": box.gpu.doubts}
    if box.gpu.family not in ("hopper", "cpu") and not calibration:
        said["notes"].append(
            f"the fixed costs and efficiencies are those of H100s: what a {box.gpu.name} reaches "
            "is a guess until a measured point is given (--calibrate)"
        )
    if price_per_gpu_hour is not None:
        price = price_per_million(price_per_gpu_hour, p.gpus, p.output_tokens_per_s)
        said["price_per_million_output_tokens"] = round(price, 4)
    if calibration:
        said["calibration"] = {
            "error_before": [round(e, 5) for e in calibration.before],
            "error_after": [round(e, 5) for e in calibration.after],
            "factors": {k: round(v, 4) for k, v in calibration.moved.items()},
        }
    return said | (_ranking(ranking) if ranking else {})


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
        "options": {k: v for k, v in vars(m.options).items() if k not in OWN},
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


def _range(r: Range | None) -> dict | None:
    """Lowest and highest; None: no doubt changes the answer."""
    return r and {
        "tpot_ms": list(map(_ms, r.tpot_s)),
        "ttft_ms": list(map(_ms, r.ttft_s)),
        "output_tokens_per_s": [round(n, 2) for n in r.output_tokens_per_s],
        "because": list(r.because),
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
    beside_ms = r["output_tokens_per_s_parts"]["prompts_in_the_same_steps_ms"]
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
        ("requests", f"{w['input_tokens']:,} tokens in, {w['output_tokens']:,} out, {_load(w)}"),
        ("TPOT", f"{r['tpot_ms']:.2f} ms{_spread(r, 'tpot')}  ({_parts(r['tpot_parts_ms'])})"),
        ("prefill", f"{r['prefill_ms']:.1f} ms  ({_parts(r['prefill_parts_ms'])})"),
        ("TTFT", f"{_duration(r['ttft_ms'])}{_spread(r, 'ttft')}"),
        (
            "throughput",
            f"{r['output_tokens_per_s']:,.0f} output tokens/s, {r['requests_per_s']:.2f} "
            f"requests/s; prompts in the same steps are {beside_ms:.2f} ms of TPOT",
        ),
    ]
    if between := r["range"]:
        rows.append(("range", f"{_between(between)}: {'; '.join(between['because'])}"))
    if split := r.get("disaggregated"):
        rows += _split(split)
    if drafts := r.get("speculative"):
        rows.append(("drafts", _drafts(drafts)))
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
    lines += [f"  note        {note}" for note in r["notes"]]
    lines += [f"  doubt       {what}: {doubt}" for what, doubt in r["doubts"].items()]
    return "\n".join(lines)


def _load(workload: dict) -> str:
    found = workload["prefix_hit_rate"]
    cached = f", {found:.0%} of each prompt cached" if found else ""
    if workload["rate"] is None:
        return f"{workload['concurrency']} at once{cached}"
    return f"{workload['rate']:g} requests/s at random{cached}"


def _split(d: dict) -> list[tuple[str, str]]:
    """Prefill and decode apart, under the same GPUs together."""
    return [
        (
            "apart",
            f"{d['prefill_instances']} instances for prompts ({d['prompts_per_s']:.2f}/s) and "
            f"{d['decode_instances']} for answers ({d['answers_per_s']:.2f}/s): at most "
            f"{d['requests_per_s']:.2f} requests/s with TPOT {d['tpot_ms']:.2f} ms and TTFT of "
            f"{d['ttft_ms_at_least']:.1f} ms and more",
        ),
        (
            "",
            f"{d['kv_bytes_of_a_prompt_per_gpu'] / 1e6:,.1f} MB of KV cache from each GPU for a "
            f"prompt, {d['kv_transfer_ms_at_least']:.2f} ms at the full rate of {d['link']}; no "
            f"data: {d['no_data']}",
        ),
    ]


def _drafts(d: dict) -> str:
    held = ""
    if d["drafter"]:
        held = (
            f"; {d['drafter']} takes {d['drafter_weights_gib_per_gpu']:.2f} GiB and "
            f"{d['drafter_kv_bytes_per_token_per_gpu']:,} bytes a token on each GPU"
        )
    return (
        f"{d['num_speculative_tokens']} by {d['method']}, {d['tokens_per_step']:.2f} tokens a step "
        f"when each is kept with probability {d['acceptance']:g} (TPOT without: "
        f"{d['tpot_ms_without']:.2f} ms){held}"
    )


def _duration(ms: float | None) -> str:
    return "without end" if ms is None else f"{ms:.1f} ms"


def _spread(r: dict, name: str) -> str:
    """The percentiles, where requests differ."""
    p50, p99 = r[f"{name}_p50_ms"], r[f"{name}_p99_ms"]
    return "" if p50 == p99 or p50 is None else f", p50 {p50:.1f}, p99 {p99:.1f}"


def _between(r: dict) -> str:
    tpot, ttft = (" to ".join(map(_duration, r[key])) for key in ("tpot_ms", "ttft_ms"))
    low, high = r["output_tokens_per_s"]
    tokens = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
    return f"TPOT {tpot}, TTFT {ttft}, {tokens} tokens/s"


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
            f"TTFT {_duration(row['ttft_ms']):>10}  {misses}"
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
