"""Predict how long a step takes: rooflines, all-reduces, pipeline hops and fixed costs, each as a named part.

    step = matrices + elementwise + attention + sampling + all-reduce + hops + overhead, but never shorter than the
           CPU needs to prepare it: what is missing is the part "host"

Matrices take the time to read their weights or to compute, whichever is longer, with a soft corner between the
two. Every efficiency is a parameter with a stated doubt; ``calibrate`` moves the parameters that a measurement
speaks about, in proportion to their doubt, and keeps the rest.
"""

import math
from dataclasses import dataclass, field, fields, replace

from .errors import PlanningError
from .hardware import Box, Gpu
from .memory import EngineOptions, MemoryPlan, plan_memory
from .models import ModelShape, matmul_parameters, stage_layers


# ---------------------------------------------------------------------- parameters of the model
@dataclass(frozen=True)
class Tuning:
    """What the datasheet does not say about a machine. Times in seconds.

    Defaults come from H100 SXMs with vLLM 0.32.0 (Qwen2.5-0.5B to 32B, records in benchmarks/records; the CPU of
    those boxes is a Xeon, 16 cores, Python 3.12) and, for all-reduces, from two H200s joined by NVLink, of which only
    NCCL's times are known (22 us for small payloads, 1,060 us for 256 MiB). On other machines they are guesses until a
    point is measured.
    """

    read_efficiency: float = (
        0.85  # share of the memory bandwidth that matrix products reach at small batches
    )
    compute_efficiency: float = 0.77  # share of the dense FLOPs that large matrix products reach
    kv_efficiency: float = 0.75  # share of the memory bandwidth that reading the KV cache reaches
    attention_efficiency: float = 0.50  # share of the dense FLOPs that attention reaches in prefill
    layer_s: float = 25e-6  # small kernels of one layer in one step, replayed from a CUDA graph
    step_s: float = 450e-6  # scheduler, launch and sampler of one step
    prefill_step_s: float = 4e-3  # the same for a step that is too large for a CUDA graph
    stream_s: float = 1.5e-6  # bookkeeping for one running request in one step
    allreduce_s: float = (
        9e-6  # vLLM's own all-reduce between GPUs that see each other, small payload
    )
    nccl_s: float = 20e-6  # NCCL's all-reduce, small payload
    link_efficiency: float = (
        0.60  # share of the link's one-way rate that a large all-reduce reaches
    )
    hop_s: float = 50e-6  # handing a step from one pipeline stage to the next
    # CPU time of a step; it overlaps with the GPU's, so it counts only where it is longer. Two lent boxes of one kind
    # differed: steps of 256 streams took 12.1 ms on one (Qwen2.5-0.5B) and 7.9 on the other (1.5B). This is between.
    host_s: float = 2.55e-3
    host_stream_s: float = 29e-6  # more for each stream
    host_prefill_s: float = (
        27.5e-3  # CPU time of a step too large for a CUDA graph: 23 to 32 ms, 24 to 36 layers
    )


# One standard deviation of the logarithm of each parameter: how wrong the default may be.
DOUBT = {
    "read_efficiency": 0.08,
    "compute_efficiency": 0.15,
    "kv_efficiency": 0.25,
    "attention_efficiency": 0.30,
    "layer_s": 0.35,
    "step_s": 0.60,
    "prefill_step_s": 0.60,
    "stream_s": 1.0,
    "allreduce_s": 0.50,
    "nccl_s": 0.30,
    "link_efficiency": 0.25,
    "hop_s": 0.70,
    "host_s": 0.50,
    "host_stream_s": 0.50,
    "host_prefill_s": 0.50,
}
GRAPHED_TOKENS = 512  # steps of up to so many tokens are replayed from CUDA graphs
# A CPU's bandwidth and FLOPs are measured (helpers.planning.inventory.probe_cpu); what vLLM adds for each step is not
# in any datasheet, so nearly everything is in doubt until a point is measured. These are from the shipped model at TP 1
# on one core of an AMD EPYC (benchmarks/records/cpu_CPU*.jsonl, tiny-tp1: TPOT 1.8 to 2.1 ms for one stream, 5.4 to
# 5.9 for 32, 4.7 to 5.6 for 8 of 1,024 tokens; prefill of 1,024 tokens 44 to 47 ms). Attention on the CPU reaches a
# fifth of the memory bandwidth.
CPU_TUNING = Tuning(
    read_efficiency=0.60, compute_efficiency=0.65, kv_efficiency=0.20, attention_efficiency=0.35,
    layer_s=180e-6, step_s=600e-6, prefill_step_s=600e-6, stream_s=26e-6,
    allreduce_s=60e-6, nccl_s=60e-6, link_efficiency=0.30, hop_s=300e-6,
    host_s=0.0, host_stream_s=0.0, host_prefill_s=0.0,
)  # fmt: skip

# Ranks that work at the same time on cores of one socket slow each other. Measured beside the records, on the same two
# cores: the shipped model at TP 1 alone, and with the same beside it (TPOT 1.08 to 1.24 times, prefill 1.11 times).
CPU_CROWDED = 1.13
# Then vLLM's front end has no core of its own either: this share of the bookkeeping for each stream comes on top
# (TPOT of 32 streams at TP 2, six recordings: 4.5 to 6.4 ms, without it predicted at 4.5).
CPU_FRONT_END = 0.4


def default_tuning(gpu: Gpu) -> Tuning:
    return CPU_TUNING if gpu.family == "cpu" else Tuning()


def doubt_for(gpu: Gpu) -> dict:
    """Doubt of each parameter for this GPU: larger where nothing was recorded."""
    if gpu.family == "cpu":
        # The probe shares its core with whatever else runs, and a small model's weights are read from the cache.
        return dict.fromkeys(DOUBT, 1.0)
    wider = 1.0 if gpu.family == "hopper" else 1.5
    return {name: min(1.2, value * wider) for name, value in DOUBT.items()}


# ---------------------------------------------------------------------- one forward pass
@dataclass(frozen=True)
class Parts:
    """Seconds of one step by cause. ``total`` is their sum."""

    matrices: float = 0.0
    elementwise: float = 0.0
    attention: float = 0.0
    sampling: float = 0.0
    allreduce_latency: float = 0.0
    allreduce_bandwidth: float = 0.0
    hops: float = 0.0
    overhead: float = 0.0
    host: float = 0.0

    @property
    def total(self) -> float:
        return sum(getattr(self, f.name) for f in fields(self))

    def __add__(self, other: "Parts") -> "Parts":
        return Parts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def scaled(self, factor: float) -> "Parts":
        return Parts(*(getattr(self, f.name) * factor for f in fields(self)))

    def ms(self) -> dict:
        return {f.name + "_ms": round(getattr(self, f.name) * 1e3, 6) for f in fields(self)}


def soft_max(a: float, b: float) -> float:
    """A roofline with a round corner: sqrt(a^2 + b^2). Reading and computing overlap, but not perfectly."""
    return math.hypot(a, b)


def experts_touched(experts: int, per_token: int, tokens: float) -> float:
    """Distinct experts that a batch reads when each token picks ``per_token`` of ``experts`` at random:
    E (1 - (1 - k/E)^tokens)."""
    return experts * (1 - (1 - per_token / experts) ** tokens)


def moved_per_token(shape: ModelShape, tp: int) -> int:
    """Bytes that the small kernels of one layer read and write for one token: two norms with their residual (4h each),
    rotary embedding of queries and keys, the new KV entry, and the MLP's activation (2f in, f out)."""
    h = shape.hidden
    heads = (shape.heads // tp + max(1, shape.kv_heads // tp)) * shape.head_dim
    width = shape.intermediate // tp if shape.moe_layers < shape.layers else 0
    if shape.experts:
        width = max(
            width,
            shape.experts_per_token * (shape.expert_width // tp + h) + shape.shared_width // tp,
        )
    return shape.dtype_bytes * (8 * h + 3 * heads + 3 * width)


def custom_allreduce_limit(gpu: Gpu, tp: int) -> int:
    """Largest payload in bytes that vLLM gives to its own all-reduce, 0 when it cannot be used.

    vllm/distributed/device_communicators/custom_all_reduce.py and all_reduce_utils.py: 2, 4, 6 or 8 ranks, at most
    8 MiB and a cap by compute capability; more than 2 ranks need NVLink between all.
    """
    if (
        gpu.family == "cpu"
        or tp not in (2, 4, 6, 8)
        or (tp > 2 and gpu.link is None)
        or gpu.name == "RTX-4090"
    ):
        return 0
    mib = 2**20
    caps = {
        "9.0": {2: 64 * mib, 4: 32 * mib, 6: mib // 2, 8: mib // 4},
        "10.0": {2: 2 * mib, 4: 2 * mib, 6: mib, 8: mib},
    }
    return min(8 * mib, caps.get(gpu.capability, {}).get(tp, 8 * mib))


def allreduce_seconds(nbytes: float, tp: int, box: Box, tuning: Tuning) -> tuple[float, float]:
    """(latency, bandwidth) seconds of one all-reduce of ``nbytes`` on each of ``tp`` ranks.

    Ring: every GPU sends and receives 2 (t - 1) / t of the payload, in 2 (t - 1) steps; the latency grows by a
    tenth for each rank beyond two.
    """
    if tp == 1:
        return 0.0, 0.0
    link = box.link_for(tp)
    own = nbytes <= custom_allreduce_limit(box.gpu, tp) and tp <= box.gpus_per_node
    latency = (tuning.allreduce_s if own else tuning.nccl_s) * (1 + 0.1 * (tp - 2))
    if tp > box.gpus_per_node:
        latency += 2 * 10e-6  # two crossings of the network
    return latency, 2 * (tp - 1) / tp * nbytes / (link.gb_s * 1e9 * tuning.link_efficiency)


def forward_parts(
    shape: ModelShape,
    box: Box,
    tp: int,
    layers: int,
    *,
    tokens: float,
    streams: float,
    context: float,
    prefill: bool,
    last: bool = True,
    kv_dtype: str = "auto",
    tuning: Tuning | None = None,
) -> Parts:
    """One forward pass of ``tokens`` tokens through ``layers`` layers on one rank of a tensor-parallel group.

    streams: rows of logits that are sampled; context: tokens of KV cache that each stream reads (decode), or that
    lie before the chunk (prefill, where tokens attend to half of their own chunk on average).
    """
    gpu, tuning = box.gpu, tuning or default_tuning(box.gpu)
    bandwidth, flops = gpu.bandwidth_gb_s * 1e9, gpu.tflops_16bit * 1e12
    if shape.quantisation == "fp8" and gpu.tflops_fp8:
        fast = gpu.tflops_fp8 * 1e12
    else:
        fast = flops
    matrices = 0.0
    for part, (params, size) in matmul_parameters(shape, tp, layers, last).items():
        rows = streams if part == "lm_head" else tokens
        read = params * size
        if part == "experts":
            read = (
                read
                / shape.experts_per_token
                * experts_touched(shape.experts, shape.experts_per_token, tokens)
            )
        rate = flops if part in ("lm_head", "router") else fast
        matrices += soft_max(
            read / (bandwidth * tuning.read_efficiency),
            2 * params * rows / (rate * tuning.compute_efficiency),
        )
    elementwise = (
        layers * tokens * moved_per_token(shape, tp) / (bandwidth * tuning.read_efficiency)
    )
    heads = shape.heads // tp
    if prefill:
        pairs = tokens * (context + tokens / 2)
        width = (shape.nope_dim + shape.rope_dim + shape.v_dim) / 2 if shape.mla else shape.head_dim
        attention = 4 * layers * heads * width * pairs / (flops * tuning.attention_efficiency)
    else:
        kv = shape.kv_bytes_per_token(tp, kv_dtype, layers) * context * streams
        attention = kv / (bandwidth * tuning.kv_efficiency)
    sampling = 0.0
    if last:
        # logits (16 bits) are written once and read about three times; then argmax
        sampling = (
            4 * streams * shape.vocab * shape.dtype_bytes / (bandwidth * tuning.read_efficiency)
        )
    latency = volume = 0.0
    if tp > 1:
        payload = tokens * shape.hidden * shape.dtype_bytes
        one_latency, one_volume = allreduce_seconds(payload, tp, box, tuning)
        count = 2 * layers + (1 if last else 0)
        latency, volume = count * one_latency, count * one_volume
        if last:
            gather = streams * shape.vocab * shape.dtype_bytes * (tp - 1) / tp
            link = box.link_for(tp)
            latency += tuning.nccl_s
            volume += gather / (link.gb_s * 1e9 * tuning.link_efficiency)
    overhead = tuning.layer_s * layers
    if last:
        overhead += (
            tuning.prefill_step_s if prefill else tuning.step_s
        ) + tuning.stream_s * streams
    crowded = 1.0
    if gpu.family == "cpu" and tp > 1:
        crowded = CPU_CROWDED
        if last:
            overhead += CPU_FRONT_END * tuning.stream_s * streams
    own = Parts(matrices, elementwise, attention, sampling, overhead=overhead).scaled(crowded)
    return own + Parts(allreduce_latency=latency, allreduce_bandwidth=volume)


# ---------------------------------------------------------------------- a plan's speed
@dataclass(frozen=True)
class Workload:
    """Requests: tokens in, tokens out, and how many are in flight at once over the whole box."""

    input_tokens: int = 1024
    output_tokens: int = 128
    concurrency: int = 1


@dataclass(frozen=True)
class Prediction:
    """Speed of one plan for one workload. Seconds and tokens; parts add up to their totals."""

    tp: int
    pp: int
    dp: int
    workload: Workload
    decode: Parts  # one output token of one stream
    prefill: Parts  # one prompt alone
    streams_per_replica: int
    tpot_s: float  # decode step with all streams running, no prefill between
    prefill_s: float
    ttft_s: float
    mixed_tpot_s: float  # TPOT when new prompts keep coming and are prefilled between the steps
    output_tokens_per_s: float
    requests_per_s: float
    memory: MemoryPlan | None = None
    notes: tuple = field(default_factory=tuple)

    @property
    def gpus(self) -> int:
        return self.tp * self.pp * self.dp


def streams_at_once(concurrency: int, dp: int, options: EngineOptions) -> int:
    """Streams that one of dp replicas decodes at once when so many requests are in flight; the others wait."""
    return min(max(1, -(-concurrency // dp)), options.max_num_seqs)


def decode_parts(shape, box, tp, pp, streams, context, *, kv_dtype="auto", tuning=None) -> Parts:
    """One decode step as a stream sees it: with a pipeline, its own batch passes every stage in turn."""
    tuning = tuning or default_tuning(box.gpu)
    batch = streams if pp == 1 else max(1.0, streams / pp)
    total = Parts()
    for rank, layers in enumerate(stage_layers(shape.layers, pp)):
        total += forward_parts(
            shape, box, tp, layers, tokens=batch, streams=batch, context=context, prefill=False,
            last=rank == pp - 1, kv_dtype=kv_dtype, tuning=tuning,
        )  # fmt: skip
    if pp > 1:
        payload = 2 * batch * shape.hidden * shape.dtype_bytes / tp
        link = box.link_for(tp * pp)
        hop = tuning.hop_s + payload / (link.gb_s * 1e9 * tuning.link_efficiency)
        total += Parts(hops=(pp - 1) * hop)
    # One scheduler prepares the batches of all stages, one after the other (one stream is one batch, whatever pp is).
    host = min(pp, streams) * (tuning.host_s + tuning.host_stream_s * batch)
    return total + Parts(host=max(0.0, host - total.total))


def prefill_parts(shape, box, tp, pp, prompt, chunk, *, tuning=None) -> Parts:
    """One prompt alone, in chunks of at most ``chunk`` tokens (max_num_batched_tokens).

    With a pipeline the chunks follow each other through the stages, so m chunks take (m + p - 1) / m of the time
    that one stage needs for all of them (GPipe's bubble, arXiv 1811.06965).
    """
    tuning = tuning or default_tuning(box.gpu)
    done, chunks = 0, []
    while done < prompt:
        now = min(chunk, prompt - done)
        step = Parts()
        for rank, layers in enumerate(stage_layers(shape.layers, pp)):
            step += forward_parts(
                shape, box, tp, layers, tokens=now, streams=1, context=done, prefill=True,
                last=rank == pp - 1, tuning=tuning,
            )  # fmt: skip
        if pp > 1:
            payload = 2 * now * shape.hidden * shape.dtype_bytes / tp
            link = box.link_for(tp * pp)
            step += Parts(
                hops=(pp - 1)
                * (tuning.hop_s + payload / (link.gb_s * 1e9 * tuning.link_efficiency))
            )
        host = tuning.host_prefill_s if now > GRAPHED_TOKENS else tuning.host_s
        chunks.append(step + Parts(host=max(0.0, host - step.total)))
        done += now
    total = Parts()
    for step in chunks:
        total += step
    if pp > 1 and len(chunks) > 1:
        m = len(chunks)
        total = total.scaled((m + pp - 1) / (m * pp))
    return total


def _check_counts(of, names) -> None:
    for name in names:
        value = getattr(of, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise PlanningError(f"{name} must be a whole number of at least 1, not {value!r}.")


def predict(
    shape: ModelShape,
    box: Box,
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    workload: Workload | None = None,
    options: EngineOptions | None = None,
    tuning: Tuning | None = None,
    usage: str = "server",
    memory: MemoryPlan | None = None,
) -> Prediction:
    """Predict TPOT, prefill, TTFT and throughput of one plan. The memory must fit (see plan_memory)."""
    workload = workload or Workload()
    _check_counts(workload, ("input_tokens", "output_tokens", "concurrency"))
    memory = memory or plan_memory(shape, box, tp, pp, dp, options, usage)
    tuning = tuning or default_tuning(box.gpu)
    opts = memory.options
    notes = list(memory.notes)
    if opts.enable_expert_parallel and tp * dp > 1:
        notes.append(
            "expert parallelism is sized here, its speed is not predicted: the times are those without it"
        )
    length = workload.input_tokens + workload.output_tokens
    if length > opts.max_model_len:
        raise PlanningError(
            f"A request of {workload.input_tokens} + {workload.output_tokens} tokens is longer than max_model_len "
            f"{opts.max_model_len}: give shorter requests"
            + (f" or --max-model-len {length}." if length <= shape.max_positions else ".")
        )
    wanted = math.ceil(workload.concurrency / dp)
    block = opts.block_size
    room = memory.num_blocks // math.ceil(length / block) if memory.num_blocks else wanted
    streams = max(1, min(wanted, opts.max_num_seqs, room))
    if streams < wanted:
        notes.append(
            f"{wanted} requests on a replica are more than {streams} at once: the others wait in the queue "
            f"({'KV cache' if room < opts.max_num_seqs else 'max_num_seqs'} is the limit)"
        )
    context = workload.input_tokens + workload.output_tokens / 2
    decode = decode_parts(
        shape, box, tp, pp, streams, context, kv_dtype=opts.kv_cache_dtype, tuning=tuning
    )
    prefill = prefill_parts(
        shape, box, tp, pp, workload.input_tokens, opts.max_num_batched_tokens, tuning=tuning
    )
    tpot, prefill_s = decode.total, prefill.total
    # In steady state each of the streams costs one prefill for every output_tokens steps; a pipeline overlaps them.
    out = workload.output_tokens
    stall = streams * prefill_s / pp / out if streams > 1 else 0.0
    mixed = tpot + stall
    # A prompt that arrives waits for the step that is running (half of one on average), then is prefilled.
    waiting = tpot / 2 if streams > 1 else 0.0
    ttft = prefill_s + waiting
    per_request = prefill_s + (out - 1) * mixed if streams == 1 else out * mixed
    rate = (
        min(workload.concurrency, dp * streams) / per_request
    )  # fewer requests than replicas leave some idle
    return Prediction(
        tp=tp, pp=pp, dp=dp, workload=workload, decode=decode, prefill=prefill, streams_per_replica=streams,
        tpot_s=tpot, prefill_s=prefill_s, ttft_s=ttft, mixed_tpot_s=mixed, output_tokens_per_s=rate * out,
        requests_per_s=rate, memory=memory, notes=tuple(notes),
    )  # fmt: skip


# ---------------------------------------------------------------------- calibration
@dataclass(frozen=True)
class Point:
    """One measurement. Give ``tpot_s`` (a decode step with ``concurrency`` streams) or ``prefill_s`` (one prompt)."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    concurrency: int = 1
    input_tokens: int = 128
    output_tokens: int = 64
    tpot_s: float | None = None
    prefill_s: float | None = None
    shape: ModelShape | None = None  # when the point was measured with another model
    chunk: int = 8192
    kv_dtype: str = "auto"


@dataclass(frozen=True)
class Calibration:
    """Parameters after looking at measurements, with the error of each point before and after (ratio - 1)."""

    tuning: Tuning
    before: tuple
    after: tuple
    moved: dict  # parameter -> factor

    def __str__(self) -> str:
        def show(errors):
            return ", ".join(f"{e:+.1%}" for e in errors)

        moved = (
            ", ".join(f"{k} x{v:.2f}" for k, v in self.moved.items() if abs(v - 1) > 0.005)
            or "nothing"
        )
        return f"error before {show(self.before)}; after {show(self.after)}; moved: {moved}"


def _predicted(point: Point, shape, box, tuning) -> list[tuple[float, float]]:
    """(predicted, measured) seconds of what the point measured."""
    shape, pairs = point.shape or shape, []
    if point.tpot_s is not None:
        streams = max(1, math.ceil(point.concurrency / point.dp))
        context = point.input_tokens + point.output_tokens / 2
        parts = decode_parts(
            shape, box, point.tp, point.pp, streams, context, kv_dtype=point.kv_dtype, tuning=tuning
        )
        pairs.append((parts.total, point.tpot_s))
    if point.prefill_s is not None:
        parts = prefill_parts(
            shape, box, point.tp, point.pp, point.input_tokens, point.chunk, tuning=tuning
        )
        pairs.append((parts.total, point.prefill_s))
    return pairs


def calibrate(
    shape: ModelShape, box: Box, points, tuning: Tuning | None = None, trust: float = 0.02
) -> Calibration:
    """Move the parameters so that the points are met, each in proportion to its doubt.

    Least squares on logarithms (Gauss-Newton): (log predicted / measured)^2 / trust^2 for every point plus
    (log factor)^2 / doubt^2 for every parameter. One point cannot tell slow memory from costly launches; it moves
    both, the more doubtful one more. Points with tp 1 leave the all-reduce alone.
    """
    points = list(points)
    if not points:
        raise PlanningError(
            "A calibration needs at least one measured point, such as tp=1,concurrency=1,tpot_ms=4.9."
        )
    for point in points:
        _check_counts(
            point, ("tp", "pp", "dp", "concurrency", "input_tokens", "output_tokens", "chunk")
        )
        for value in (point.tpot_s, point.prefill_s):
            if value is not None and not (isinstance(value, (int, float)) and 0 < value < 1e4):
                raise PlanningError(
                    f"A measured time must be a positive number, and {value!r} is not one."
                )
        if point.tpot_s is None and point.prefill_s is None:
            raise PlanningError(
                "A calibration point needs tpot_ms or prefill_ms, the time that was measured."
            )
    start = tuning or default_tuning(box.gpu)
    doubt = doubt_for(box.gpu)
    names = list(doubt)
    factors = [0.0] * len(names)

    def tuned(logs):
        return replace(
            start, **{n: getattr(start, n) * math.exp(x) for n, x in zip(names, logs, strict=True)}
        )

    def residuals(logs):
        now = tuned(logs)
        return [math.log(p / m) for point in points for p, m in _predicted(point, shape, box, now)]

    import numpy as np

    prior = np.array([1 / doubt[n] for n in names])

    def cost(logs):
        return sum((r / trust) ** 2 for r in residuals(logs)) + sum(
            (x * w) ** 2 for x, w in zip(logs, prior, strict=True)
        )

    for _ in range(40):
        base = np.array(residuals(factors))
        jacobian = np.zeros((len(base), len(names)))
        for i in range(len(names)):
            moved = list(factors)
            moved[i] += 1e-4
            jacobian[:, i] = (np.array(residuals(moved)) - base) / 1e-4
        a = np.vstack([jacobian / trust, np.diag(prior)])
        b = np.concatenate([-base / trust, -np.array(factors) * prior])
        step, *_ = np.linalg.lstsq(a, b, rcond=None)
        scale, here = 1.0, cost(factors)
        while (
            scale > 1e-3
        ):  # a full step may overshoot where the roofline bends: take half of it until it helps
            tried = [
                f + scale * float(np.clip(x, -1, 1)) for f, x in zip(factors, step, strict=True)
            ]
            if cost(tried) < here:
                factors = tried
                break
            scale /= 2
        if max(abs(step)) < 1e-4 or scale <= 1e-3:
            break
    result = tuned(factors)
    if (
        box.gpu.family != "cpu"
    ):  # efficiencies stay below the datasheet; a CPU's cache is faster than its memory
        caps = {n: min(getattr(result, n), 1.0) for n in names if n.endswith("efficiency")}
        result = replace(result, **caps)
    before = tuple(math.exp(r) - 1 for r in residuals([0.0] * len(names)))
    after = tuple(p / m - 1 for point in points for p, m in _predicted(point, shape, box, result))
    worst = max(range(len(after)), key=lambda i: abs(after[i]))
    if abs(after[worst]) > 0.5 and box.gpu.family != "cpu":
        raise PlanningError(
            f"No reasonable setting of {box.gpu.name} explains the calibration: after moving every parameter as far as "
            f"its doubt allows, a point is still predicted {after[worst] + 1:.2f} times what was measured; check its "
            "unit (ms), its model, tp and concurrency."
        )
    moved = {n: getattr(result, n) / getattr(start, n) if getattr(start, n) else 1.0 for n in names}
    return Calibration(result, before, after, moved)


def tp_speedup_parts(shape, box, tps, streams, context, tuning=None, kv_dtype="auto") -> list[dict]:
    """Decode step by cause for several tensor parallel sizes: the stacked picture of why t GPUs are not t times
    faster. Rows: {"tp", "speedup", part_ms...}."""
    rows, first = [], None
    for tp in tps:
        parts = decode_parts(shape, box, tp, 1, streams, context, tuning=tuning, kv_dtype=kv_dtype)
        first = first or parts.total
        rows.append(
            {"tp": tp, "speedup": first / parts.total, "total_ms": parts.total * 1e3, **parts.ms()}
        )
    return rows
