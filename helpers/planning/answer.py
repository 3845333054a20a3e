"""What the command answers: a plan as one dict (--json prints it), and the same in lines."""

import math

from .choose import Choice, Ranking, price_per_million
from .doubts import Range
from .hardware import GIB, Box
from .launch import Launch
from .load import SpeedPrediction
from .memory import OWN

# Fields of StageMemory: the budget of a GPU's memory and the parts that it is divided into.
IN_GIB = ("budget", "weights", "sampler_state", "non_torch", "peak_activation", "cuda_graphs")
IN_GIB += ("kv_cache",)
# What a row of the ranking says of a plan's speed.
SPEEDS = ("tpot_ms", "mixed_tpot_ms", "ttft_ms", "ttft_p99_ms", "output_tokens_per_s")


def answer(p: SpeedPrediction, box: Box, between, launch, price, calibration, ranking) -> dict:
    """A plan as one dict; a key ends in the unit of its value.

    between: Range of its speed, or None. price: of a GPU for an hour, or None; None, too, without
    a Calibration and without a Ranking.
    """
    said = {"model": p.memory.shape.name, "gpu": box.gpu.name, "box": box.label()}
    said |= {**_sizes(box, p), **_speed(p), **_launch(launch)}
    said |= {"range": _range(between), "notes": list(p.notes), "doubts": box.gpu.doubts}
    if box.gpu.family not in ("hopper", "cpu") and not calibration:
        said["notes"].append(
            f"the fixed costs and efficiencies are those of H100s: what a {box.gpu.name} reaches "
            "is a guess until a measured point is given (--calibrate)"
        )
    if price is not None:
        each = price_per_million(price, p.gpus, p.output_tokens_per_s)
        said["price_per_million_output_tokens"] = round(each, 4)
    if calibration:
        said["calibration"] = {
            "error_before": [round(e, 5) for e in calibration.before],
            "error_after": [round(e, 5) for e in calibration.after],
            "factors": {k: round(v, 4) for k, v in calibration.moved.items()},
        }
    return said | (_ranking(ranking) if ranking else {})


def _sizes(box: Box, p: SpeedPrediction) -> dict:
    m, shape, stage = p.memory, p.memory.shape, p.memory.worst
    in_gib = {part: round(getattr(stage, part) / GIB, 4) for part in IN_GIB}
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
    if (p := c.prediction) is None:
        return row
    row["kv_cache_tokens"] = p.memory.kv_cache_tokens
    row["weights_gib_per_gpu"] = round(p.memory.weights_gib_per_gpu, 4)
    said = _speed(p)
    row |= {key: said[key] for key in SPEEDS}
    return row | {"price_per_million": c.price_per_million}


# ---------------------------------------------------------------------- the answer in lines
# Of every plan: {label: text with what the answer says}.
PLAN = {
    "engine": "max_model_len {options[max_model_len]:,}, max_num_batched_tokens "
    "{options[max_num_batched_tokens]:,}, max_num_seqs {options[max_num_seqs]:,}, KV cache "
    "{options[kv_cache_dtype]}, utilisation {options[gpu_memory_utilization]}",
    "memory": "of {memory_gib_per_gpu[usable]:.1f} GiB vLLM may use "
    "{memory_gib_per_gpu[budget]:.1f}: weights {memory_gib_per_gpu[weights]:.2f}, sampler state "
    "{memory_gib_per_gpu[sampler_state]:.2f}, kernels and libraries "
    "{memory_gib_per_gpu[non_torch]:.2f}, peak activation "
    "{memory_gib_per_gpu[peak_activation]:.2f}, CUDA graphs "
    "{memory_gib_per_gpu[cuda_graphs]:.2f}, KV cache {memory_gib_per_gpu[kv_cache]:.2f}",
    "KV cache": "{kv_cache_tokens:,} tokens a replica, {max_concurrency:.1f} requests of "
    "{options[max_model_len]:,} tokens ({kv_bytes_per_token_per_gpu:,} bytes a token on each GPU)",
    "requests": "{workload[input_tokens]:,} tokens in, {workload[output_tokens]:,} out, {load}",
    "TPOT": "{tpot_ms:.2f} ms{tpot_spread}  ({tpot_parts})",
    "prefill": "{prefill_ms:.1f} ms  ({prefill_parts})",
    "TTFT": "{ttft}{ttft_spread}",
    "throughput": "{output_tokens_per_s:,.0f} output tokens/s, {requests_per_s:.2f} requests/s; "
    "prompts in the same steps are "
    "{output_tokens_per_s_parts[prompts_in_the_same_steps_ms]:.2f} ms of TPOT",
}
# Prefill and decode apart, under the same GPUs together.
SPLIT = (
    "{prefill_instances} instances for prompts ({prompts_per_s:.2f}/s) and {decode_instances} for "
    "answers ({answers_per_s:.2f}/s): at most {requests_per_s:.2f} requests/s with TPOT "
    "{tpot_ms:.2f} ms and TTFT of {ttft_ms_at_least:.1f} ms and more",
    "{megabytes:,.1f} MB of KV cache from each GPU for a prompt, {kv_transfer_ms_at_least:.2f} ms "
    "at the full rate of {link}; no data: {no_data}",
)
DRAFTS = (
    "{num_speculative_tokens} by {method}, {tokens_per_step:.2f} tokens a step when each is kept "
    "with probability {acceptance:g} (TPOT without: {tpot_ms_without:.2f} ms)"
)
DRAFTER = (
    "; {drafter} takes {drafter_weights_gib_per_gpu:.2f} GiB and "
    "{drafter_kv_bytes_per_token_per_gpu:,} bytes a token on each GPU"
)
VERDICTS = {
    True: "accepted by the installed vLLM's parser and configuration checks",
    False: "REFUSED by the installed vLLM",
    None: "not checked",
}


def readable(r: dict) -> str:
    """The answer of ``plan`` for a terminal."""
    words = {
        "load": _load(r["workload"]),
        "ttft": _duration(r["ttft_ms"]),
        **{f"{name}_spread": _spread(r, name) for name in ("tpot", "ttft")},
        **{f"{name}_parts": _parts(r[f"{name}_parts_ms"]) for name in ("tpot", "prefill")},
    }
    rows = [(label, text.format_map(r | words)) for label, text in PLAN.items()]
    if between := r["range"]:
        rows.append(("range", f"{_between(between)}: {'; '.join(between['because'])}"))
    if split := r.get("disaggregated"):
        split = split | {"megabytes": split["kv_bytes_of_a_prompt_per_gpu"] / 1e6}
        rows += zip(("apart", ""), (text.format_map(split) for text in SPLIT), strict=True)
    if drafts := r.get("speculative"):
        rows.append(("drafts", (DRAFTS + DRAFTER * bool(drafts["drafter"])).format_map(drafts)))
    if (price := r.get("price_per_million_output_tokens")) is not None:
        rows.append(("price", f"{price:.2f} for a million output tokens"))
    if c := r.get("calibration"):
        before, after = (
            ", ".join(f"{e:+.1%}" for e in c[key]) for key in ("error_before", "error_after")
        )
        rows.append(("calibrated", f"error of the points before {before}, after {after}"))
    device = f"{'core' if r['gpu'] == 'CPU' else 'GPU'}{'s' * (r['gpus'] > 1)}"
    lines = [f"{r['model']} on {r['box']}: {_layout(r, ' x ')} = {r['gpus']} {device}"]
    lines += [f"  {label:<12}{text}" for label, text in rows]
    if "ranking" in r:
        lines += _ranking_lines(r)
    objection = f" ({r['launch_objection']})" if r["launch_objection"] else ""
    lines.append(f"  launch      {VERDICTS[r['launch_accepted']]}{objection}")
    lines += [f"    {line}" for line in r["launch"].splitlines()]
    lines += [f"  note        {note}" for note in r["notes"]]
    lines += [f"  doubt       {what}: {doubt}" for what, doubt in r["doubts"].items()]
    return "\n".join(lines)


def _layout(row: dict, between: str) -> str:
    return between.join(f"{size.upper()} {row[size]}" for size in ("tp", "pp", "dp"))


def _load(workload: dict) -> str:
    found = workload["prefix_hit_rate"]
    cached = f", {found:.0%} of each prompt cached" if found else ""
    if workload["rate"] is None:
        return f"{workload['concurrency']} at once{cached}"
    return f"{workload['rate']:g} requests/s at random{cached}"


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
    if rest := [row for row in r["ranking"] if not row["fits"]]:
        first = f"{_layout(rest[0], ' ')}: {rest[0]['why']}"
        lines.append(f"    {len(rest)} more are refused or do not fit; the first: {first}")
    return lines + [f"  why         {reason}" for reason in r["reasons"]]
