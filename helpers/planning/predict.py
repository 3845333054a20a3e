"""Predict how long a step takes: rooflines, all-reduces, pipeline hops and fixed costs, by part.

    step = matrices + elementwise + attention + sampling + all-reduce + hops + overhead, but never
           shorter than the CPU needs to prepare it: what is missing is the part "host"

Matrices take the time to read their weights or to compute, whichever is longer, with a soft corner
between the two. Every efficiency is a parameter; ``calibrate`` fits them to a machine.
"""

import math
from dataclasses import dataclass, field, fields

from .hardware import Box, Gpu, Link, PlanningError
from .memory import EngineOptions, MemoryPlan, plan_memory
from .models import ModelShape, matmul_parameters, stage_layers
from .work import experts_touched


# ---------------------------------------------------------------------- parameters of the model
@dataclass(frozen=True)
class Tuning:
    """What the datasheet does not say about a machine. Times in seconds, efficiencies as shares.

    Defaults: H100 SXMs beside a Xeon, vLLM 0.32.0, Qwen2.5-0.5B to 32B (benchmarks/planner). For
    all-reduces: NCCL's times on two H200s joined by NVLink. On other machines they are guesses
    until a point is measured.
    """

    read_efficiency: float = 0.85  # of the memory bandwidth, by matrix products of small batches
    compute_efficiency: float = 0.77  # of the dense FLOPs, by large matrix products
    kv_efficiency: float = 0.75  # of the memory bandwidth, by reading the KV cache
    attention_efficiency: float = 0.50  # of the dense FLOPs, by attention in prefill
    layer_s: float = 25e-6  # small kernels of one layer in one step, replayed from a CUDA graph
    step_s: float = 450e-6  # scheduler, launch and sampler of one step
    prefill_step_s: float = 4e-3  # the same for a step that is too large for a CUDA graph
    stream_s: float = 1.5e-6  # bookkeeping for one running request in one step
    allreduce_s: float = 9e-6  # vLLM's own all-reduce between GPUs that see each other, small
    nccl_s: float = 20e-6  # NCCL's all-reduce, small payload
    link_efficiency: float = 0.60  # of the link's one-way rate, by a large all-reduce
    hop_s: float = 50e-6  # handing a step from one pipeline stage to the next
    # CPU time of a step; it overlaps with the GPU's, so it counts only where it is longer.
    host_s: float = 2.55e-3
    host_stream_s: float = 29e-6  # more for each stream
    host_prefill_s: float = 27.5e-3  # of a step too large for a CUDA graph


GRAPHED_TOKENS = 512  # steps of up to so many tokens are replayed from CUDA graphs

# A CPU's bandwidth and FLOPs are measured (inventory.probe_cpu). The rest: the shipped model on one
# core of an AMD EPYC (benchmarks/planner, tiny-tp1).
CPU_TUNING = Tuning(
    read_efficiency=0.60,
    compute_efficiency=0.65,
    kv_efficiency=0.20,
    attention_efficiency=0.35,
    layer_s=180e-6,
    step_s=600e-6,
    prefill_step_s=600e-6,
    stream_s=26e-6,
    allreduce_s=60e-6,
    nccl_s=60e-6,
    link_efficiency=0.30,
    hop_s=300e-6,
    host_s=0.0,
    host_stream_s=0.0,
    host_prefill_s=0.0,
)
# Ranks on cores of one socket slow each other: two of the shipped model side by side on two cores.
CPU_CROWDED = 1.13
# Then vLLM's front end has no core of its own: more bookkeeping for each stream (tiny-tp2).
CPU_FRONT_END = 0.4
NETWORK_S = 10e-6  # one crossing of the network between machines


def default_tuning(gpu: Gpu) -> Tuning:
    """The parameters to start from on this kind of device."""
    return CPU_TUNING if gpu.family == "cpu" else Tuning()


# ---------------------------------------------------------------------- one forward pass
@dataclass(frozen=True)
class Parts:
    """Seconds of one step by cause."""

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
        """Seconds of the whole step."""
        return sum(getattr(self, f.name) for f in fields(self))

    def __add__(self, other: "Parts") -> "Parts":
        return Parts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def scaled(self, factor: float) -> "Parts":
        """Every part times ``factor``."""
        return Parts(*(getattr(self, f.name) * factor for f in fields(self)))

    def ms(self) -> dict:
        """{"matrices_ms": ..., ...}: the parts in milliseconds."""
        return {f.name + "_ms": round(getattr(self, f.name) * 1e3, 6) for f in fields(self)}


def soft_max(a: float, b: float) -> float:
    """A roofline with a round corner, sqrt(a^2 + b^2): reading and computing nearly overlap."""
    return math.hypot(a, b)


def moved_per_token(shape: ModelShape, tp: int) -> int:
    """Bytes that the small kernels of one layer read and write for one token.

    Two norms with their residual (4h each), rotary embedding of queries and keys, the new KV entry,
    and the MLP's activation (2f in, f out).
    """
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

    vllm/distributed/device_communicators/custom_all_reduce.py and all_reduce_utils.py: 2, 4, 6 or 8
    ranks, at most 8 MiB and a cap by compute capability; more than 2 ranks need NVLink between all.
    """
    without_peers = gpu.family == "cpu" or gpu.name == "RTX-4090"
    if without_peers or tp not in (2, 4, 6, 8) or (tp > 2 and gpu.link is None):
        return 0
    mib = 2**20
    caps = {
        "9.0": {2: 64 * mib, 4: 32 * mib, 6: mib // 2, 8: mib // 4},
        "10.0": {2: 2 * mib, 4: 2 * mib, 6: mib, 8: mib},
    }
    return min(8 * mib, caps.get(gpu.capability, {}).get(tp, 8 * mib))


def allreduce_seconds(nbytes: float, tp: int, box: Box, tuning: Tuning) -> tuple[float, float]:
    """(latency, bandwidth) seconds of one all-reduce of ``nbytes`` on each of ``tp`` ranks.

    Ring: every GPU sends and receives 2 (t - 1) / t of the payload, in 2 (t - 1) steps; the latency
    grows by a tenth for each rank beyond two.
    """
    if tp == 1:
        return 0.0, 0.0
    link = box.link_for(tp)
    own = nbytes <= custom_allreduce_limit(box.gpu, tp) and tp <= box.gpus_per_node
    latency = (tuning.allreduce_s if own else tuning.nccl_s) * (1 + 0.1 * (tp - 2))
    if tp > box.gpus_per_node:
        latency += 2 * NETWORK_S
    return latency, 2 * (tp - 1) / tp * nbytes / _link_rate(link, tuning)


def _link_rate(link: Link, tuning: Tuning) -> float:
    """Bytes per second that large transfers reach on a link."""
    return link.gb_s * 1e9 * tuning.link_efficiency


@dataclass(frozen=True)
class Pass:
    """One forward pass of a rank.

    layers: how many this rank runs, the last ones of the model when ``last``. streams: rows of
    logits that are sampled. context: tokens of KV cache that each stream reads (decode), or that
    lie before the chunk (prefill, where tokens attend to half of their own chunk on average).
    """

    tp: int
    layers: int
    tokens: float
    streams: float
    context: float
    prefill: bool
    last: bool = True
    kv_dtype: str = "auto"


def forward_parts(shape: ModelShape, box: Box, run: Pass, tuning: Tuning) -> Parts:
    """One forward pass on one rank of a tensor-parallel group, by cause."""
    gpu = box.gpu
    streaming = gpu.bandwidth_gb_s * 1e9 * tuning.read_efficiency
    moved = run.layers * run.tokens * moved_per_token(shape, run.tp)
    # logits (16 bits) are written once and read about three times; then argmax
    logits = 4 * run.streams * shape.vocab * shape.dtype_bytes if run.last else 0
    own = Parts(
        matrices=_matrices(shape, gpu, run, tuning),
        elementwise=moved / streaming,
        attention=_attention(shape, gpu, run, tuning),
        sampling=logits / streaming,
        overhead=_overhead(gpu, run, tuning),
    )
    crowded = CPU_CROWDED if gpu.family == "cpu" and run.tp > 1 else 1.0
    latency, volume = _communication(shape, box, run, tuning)
    return own.scaled(crowded) + Parts(allreduce_latency=latency, allreduce_bandwidth=volume)


def _matrices(shape: ModelShape, gpu: Gpu, run: Pass, tuning: Tuning) -> float:
    bandwidth, flops = gpu.bandwidth_gb_s * 1e9, gpu.tflops_16bit * 1e12
    fast = gpu.tflops_fp8 * 1e12 if shape.quantisation == "fp8" and gpu.tflops_fp8 else flops
    seconds = 0.0
    parts = matmul_parameters(shape, run.tp, run.layers, run.last)
    for part, (params, size) in parts.items():
        rows = run.streams if part == "lm_head" else run.tokens
        read = params * size
        if part == "experts":
            touched = experts_touched(shape.experts, shape.experts_per_token, run.tokens)
            read = read / shape.experts_per_token * touched
        rate = flops if part in ("lm_head", "router") else fast
        seconds += soft_max(
            read / (bandwidth * tuning.read_efficiency),
            2 * params * rows / (rate * tuning.compute_efficiency),
        )
    return seconds


def _attention(shape: ModelShape, gpu: Gpu, run: Pass, tuning: Tuning) -> float:
    if not run.prefill:
        each = shape.kv_bytes_per_token(run.tp, run.kv_dtype, run.layers)
        bandwidth = gpu.bandwidth_gb_s * 1e9
        return each * run.context * run.streams / (bandwidth * tuning.kv_efficiency)
    pairs = run.tokens * (run.context + run.tokens / 2)
    latent = (shape.nope_dim + shape.rope_dim + shape.v_dim) / 2
    width = latent if shape.mla else shape.head_dim
    flops = 4 * run.layers * (shape.heads // run.tp) * width * pairs
    return flops / (gpu.tflops_16bit * 1e12 * tuning.attention_efficiency)


def _communication(shape: ModelShape, box: Box, run: Pass, tuning: Tuning) -> tuple[float, float]:
    """(latency, bandwidth) seconds of all all-reduces, and of gathering the logits."""
    tp = run.tp
    if tp == 1:
        return 0.0, 0.0
    payload = run.tokens * shape.hidden * shape.dtype_bytes
    one_latency, one_volume = allreduce_seconds(payload, tp, box, tuning)
    count = 2 * run.layers + (1 if run.last else 0)
    latency, volume = count * one_latency, count * one_volume
    if run.last:
        gather = run.streams * shape.vocab * shape.dtype_bytes * (tp - 1) / tp
        latency += tuning.nccl_s
        volume += gather / _link_rate(box.link_for(tp), tuning)
    return latency, volume


def _overhead(gpu: Gpu, run: Pass, tuning: Tuning) -> float:
    seconds = tuning.layer_s * run.layers
    if not run.last:
        return seconds
    seconds += (tuning.prefill_step_s if run.prefill else tuning.step_s) + (
        tuning.stream_s * run.streams
    )
    if gpu.family == "cpu" and run.tp > 1:
        seconds += CPU_FRONT_END * tuning.stream_s * run.streams
    return seconds


# ---------------------------------------------------------------------- a plan's speed
@dataclass(frozen=True)
class RequestMix:
    """Requests: tokens in, tokens out, and how many are in flight at once over the whole box."""

    input_tokens: int = 1024
    output_tokens: int = 128
    concurrency: int = 1


@dataclass(frozen=True)
class SpeedPrediction:
    """Speed of one plan for one workload. Seconds and tokens; parts add up to their totals."""

    tp: int
    pp: int
    dp: int
    workload: RequestMix
    decode: Parts  # one output token of one stream
    prefill: Parts  # one prompt alone
    streams_per_replica: int
    tpot_s: float  # decode step with all streams running, no prefill between
    prefill_s: float
    ttft_s: float
    # TPOT when new prompts keep coming: each is counted as a whole prefill more for all streams.
    # vLLM computes it in the same steps, so under load this is an upper estimate.
    mixed_tpot_s: float
    output_tokens_per_s: float
    memory: MemoryPlan
    notes: tuple = field(default_factory=tuple)

    @property
    def gpus(self) -> int:
        """GPUs of all replicas together."""
        return self.tp * self.pp * self.dp


def streams_at_once(concurrency: int, dp: int, options: EngineOptions) -> int:
    """Streams that one of dp replicas decodes at once of so many requests; the others wait."""
    return min(max(1, -(-concurrency // dp)), options.max_num_seqs)


def _stages(shape, box, tp, pp, tuning, **run) -> Parts:
    """One batch through all pipeline stages, one after the other, hops included."""
    total = Parts()
    for rank, layers in enumerate(stage_layers(shape.layers, pp)):
        one = Pass(tp, layers, last=rank == pp - 1, **run)
        total += forward_parts(shape, box, one, tuning)
    if pp > 1:
        payload = 2 * run["tokens"] * shape.hidden * shape.dtype_bytes / tp
        hop = tuning.hop_s + payload / _link_rate(box.link_for(tp * pp), tuning)
        total += Parts(hops=(pp - 1) * hop)
    return total


def decode_parts(shape, box, tp, pp, streams, context, *, kv_dtype="auto", tuning=None) -> Parts:
    """One decode step as a stream sees it: with a pipeline, its own batch passes every stage."""
    tuning = tuning or default_tuning(box.gpu)
    batch = streams if pp == 1 else max(1.0, streams / pp)
    total = _stages(
        shape,
        box,
        tp,
        pp,
        tuning,
        tokens=batch,
        streams=batch,
        context=context,
        prefill=False,
        kv_dtype=kv_dtype,
    )
    # One scheduler prepares the batches of all stages, one after the other.
    host = min(pp, streams) * (tuning.host_s + tuning.host_stream_s * batch)
    return total + Parts(host=max(0.0, host - total.total))


def prefill_parts(shape, box, tp, pp, prompt, chunk, *, tuning=None) -> Parts:
    """One prompt alone, in chunks of at most ``chunk`` tokens (max_num_batched_tokens).

    With a pipeline the chunks follow each other through the stages, so m chunks take
    (m + p - 1) / m of the time that one stage needs for all (GPipe's bubble, arXiv 1811.06965).
    """
    tuning = tuning or default_tuning(box.gpu)
    total, m = Parts(), 0
    for done in range(0, prompt, chunk):
        now = min(chunk, prompt - done)
        step = _stages(
            shape, box, tp, pp, tuning, tokens=now, streams=1, context=done, prefill=True
        )
        host = tuning.host_prefill_s if now > GRAPHED_TOKENS else tuning.host_s
        total += step + Parts(host=max(0.0, host - step.total))
        m += 1
    return total.scaled((m + pp - 1) / (m * pp)) if pp > 1 and m > 1 else total


def check_counts(of, names) -> None:
    """Raise PlanningError unless the named fields are whole numbers of at least 1."""
    for name in names:
        value = getattr(of, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise PlanningError(f"{name} must be a whole number of at least 1, not {value!r}.")


def predict_speed(
    shape: ModelShape,
    box: Box,
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    workload: RequestMix | None = None,
    options: EngineOptions | None = None,
    tuning: Tuning | None = None,
    usage: str = "server",
    memory: MemoryPlan | None = None,
) -> SpeedPrediction:
    """Predict TPOT, prefill, TTFT and throughput of one plan. The memory must fit (plan_memory).

    Raises PlanningError for sizes that vLLM refuses and for requests longer than max_model_len.
    """
    workload = workload or RequestMix()
    check_counts(workload, ("input_tokens", "output_tokens", "concurrency"))
    memory = memory or plan_memory(shape, box, tp, pp, dp, options, usage)
    tuning = tuning or default_tuning(box.gpu)
    opts, out = memory.options, workload.output_tokens
    _check_length(workload, opts, shape)
    streams, notes = _streams(shape, workload, tp, dp, memory)
    context = workload.input_tokens + out / 2
    decode = decode_parts(
        shape, box, tp, pp, streams, context, kv_dtype=opts.kv_cache_dtype, tuning=tuning
    )
    prefill = prefill_parts(
        shape, box, tp, pp, workload.input_tokens, opts.max_num_batched_tokens, tuning=tuning
    )
    tpot, prefill_s = decode.total, prefill.total
    # In steady state each stream costs one prefill for every output_tokens steps; a pipeline
    # overlaps them. vLLM schedules the running requests first and the prompt's tokens into the same
    # step (v1/core/sched/scheduler.py), so reading the weights is counted twice here: under load
    # this is pessimistic. A prompt that arrives waits for half of a step on average.
    stall = streams * prefill_s / pp / out if streams > 1 else 0.0
    waiting = tpot / 2 if streams > 1 else 0.0
    mixed = tpot + stall
    per_request = prefill_s + (out - 1) * mixed if streams == 1 else out * mixed
    at_once = min(workload.concurrency, dp * streams)  # fewer than replicas leave some idle
    return SpeedPrediction(
        tp=tp,
        pp=pp,
        dp=dp,
        workload=workload,
        decode=decode,
        prefill=prefill,
        streams_per_replica=streams,
        tpot_s=tpot,
        prefill_s=prefill_s,
        ttft_s=prefill_s + waiting,
        mixed_tpot_s=mixed,
        output_tokens_per_s=at_once / per_request * out,
        memory=memory,
        notes=(*memory.notes, *notes),
    )


def _check_length(workload: RequestMix, options: EngineOptions, shape: ModelShape) -> None:
    length = workload.input_tokens + workload.output_tokens
    if length <= options.max_model_len:
        return
    more = f" or --max-model-len {length}." if length <= shape.max_positions else "."
    raise PlanningError(
        f"A request of {workload.input_tokens} + {workload.output_tokens} tokens is longer than "
        f"max_model_len {options.max_model_len}: give shorter requests{more}"
    )


def _streams(shape, workload: RequestMix, tp: int, dp: int, memory: MemoryPlan):
    """(streams of one replica that run at once, a list of what is to be said about it)."""
    opts, notes = memory.options, []
    if opts.enable_expert_parallel and tp * dp > 1:
        notes.append(
            "expert parallelism is sized here, its speed is not predicted: the times are those "
            "without it"
        )
    elif shape.experts and dp > 1:
        notes.append(
            "the replicas share the experts and step together: that is sized here, and not in the "
            "times, which are those of replicas with experts of their own"
        )
    wanted = math.ceil(workload.concurrency / dp)
    room = memory.room_for(workload.input_tokens + workload.output_tokens)
    room = room if memory.num_blocks else wanted
    streams = max(1, min(wanted, opts.max_num_seqs, room))
    if streams < wanted:
        limit = "KV cache" if room < opts.max_num_seqs else "max_num_seqs"
        notes.append(
            f"{wanted} requests on a replica are more than {streams} at once: the others wait in "
            f"the queue ({limit} is the limit)"
        )
    return streams, notes


def tp_speedup_parts(shape, box, tps, streams, context) -> list[dict]:
    """Decode step by cause for several tensor parallel sizes: why t GPUs are not t times faster.

    Rows: {"layout", "tp", "speedup", "total_ms", part_ms...}; the first of ``tps`` has speed-up 1.
    """
    rows, first = [], None
    for tp in tps:
        parts = decode_parts(shape, box, tp, 1, streams, context)
        first = first or parts.total
        row = {"layout": f"TP {tp}", "tp": tp, "speedup": first / parts.total}
        rows.append({**row, "total_ms": parts.total * 1e3, **parts.ms()})
    return rows
