"""How long a step takes: streams that decode and prompt tokens, computed together by vLLM.

    GPU = matrices + elementwise + attention + sampling + all-reduce + hops + overhead
    step = the larger of GPU and CPU: what is missing to the CPU's time is the part "host"

Weights are read once a step, however many streams and prompt tokens share it. Matrices take the
time to read them or to compute, whichever is longer, with a soft corner between the two. Every
efficiency is a parameter; ``calibrate`` fits them to a machine. ``load`` makes TPOT, TTFT and
throughput of these steps.
"""

import math
from dataclasses import dataclass, fields

import numpy as np

from .collectives import allreduce_seconds, exchange_seconds
from .hardware import Box, Gpu
from .memory import EngineOptions, default_options, graph_sizes
from .models import ModelShape, stage_layers
from .work import Stage, Work, model_stage


# ---------------------------------------------------------------------- parameters of the model
@dataclass(frozen=True)
class Tuning:
    """What the datasheet does not say about a machine. Times in seconds, efficiencies as shares.

    Defaults: H100 SXMs beside a Xeon, vLLM 0.32.0, Qwen2.5-1.5B to 32B (benchmarks/planner). For
    all-reduces: NCCL's times on two H200s joined by NVLink. On other machines they are guesses
    until a point is measured.
    """

    read_efficiency: float = 0.85  # of the memory bandwidth, by matrix products of small batches
    compute_efficiency: float = 0.77  # of the dense FLOPs, by large matrix products
    # The same for the products of experts, which are many small ones. Kernels of Qwen3-30B-A3B's
    # shape on an H100, not vLLM's own: 215 TFLOP/s (ByteDance-Seed/VeOmni, pull request 460), 523
    # (linkedin/Liger-Kernel, 1294); the middle of the two.
    experts_efficiency: float = 0.34
    kv_efficiency: float = 0.75  # of the memory bandwidth, by reading the KV cache
    attention_efficiency: float = 0.50  # of the dense FLOPs, by attention of prompt tokens
    layer_s: float = 25e-6  # small kernels of one layer in one step, replayed from a CUDA graph
    step_s: float = 450e-6  # launch and sampler of one step
    eager_step_s: float = 4e-3  # the same for a step that is too large for a CUDA graph
    stream_s: float = 1.5e-6  # more on the GPU for each row that is sampled
    allreduce_s: float = 9e-6  # vLLM's own all-reduce between GPUs that see each other, small
    nccl_s: float = 20e-6  # NCCL's all-reduce, small payload
    link_efficiency: float = 0.60  # of the link's one-way rate, by a large all-reduce
    hop_s: float = 50e-6  # handing a step from one pipeline stage to the next
    # CPU time of a step. It overlaps with the GPU's, so it counts only where it is longer.
    host_s: float = 2.4e-3
    host_stream_s: float = 23e-6  # more for each stream
    host_layer_s: float = 0.64e-3  # more for each layer of a step too large for a CUDA graph
    # What a request waits for before and after its steps: tokenised, handed over, sent.
    frontend_s: float = 1.6e-3
    frontend_token_s: float = 0.35e-6  # more for each prompt token


# A CPU's bandwidth and FLOPs are measured (inventory.probe_cpu). The rest: the shipped model on one
# core of an AMD EPYC (benchmarks/planner, tiny-tp1). Its scheduler runs between the steps.
CPU_TUNING = Tuning(
    read_efficiency=0.60,
    compute_efficiency=0.65,
    experts_efficiency=0.65,
    kv_efficiency=0.20,
    attention_efficiency=0.35,
    layer_s=180e-6,
    step_s=600e-6,
    eager_step_s=600e-6,
    stream_s=26e-6,
    allreduce_s=60e-6,
    nccl_s=60e-6,
    link_efficiency=0.30,
    hop_s=1.2e-3,  # four small messages of gloo (parallel_state.py, isend_tensor_dict), 0.3 ms each
    host_s=0.0,
    host_stream_s=0.0,
    host_layer_s=0.0,
    frontend_s=1.5e-3,
)
# Ranks on cores of one socket slow each other: two of the shipped model side by side on two cores.
# A stage of a pipeline that waits for the other spins (vLLM's shm_broadcast), which is as bad.
CPU_CROWDED = 1.13
# Then vLLM's front end has no core of its own: more bookkeeping for each stream (tiny-tp2).
CPU_FRONT_END = 0.4


def default_tuning(gpu: Gpu) -> Tuning:
    """The parameters to start from on this kind of device."""
    return CPU_TUNING if gpu.family == "cpu" else Tuning()


# ---------------------------------------------------------------------- parts of a step
@dataclass(frozen=True)
class Parts:
    """Seconds of one step by cause; numbers, or numpy arrays of one shape for many steps."""

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

    def each(self, change) -> "Parts":
        """``change`` applied to every part."""
        return Parts(*(change(getattr(self, f.name)) for f in fields(self)))

    def scaled(self, factor) -> "Parts":
        """Every part times ``factor``."""
        return self.each(lambda seconds: seconds * factor)

    def ms(self) -> dict:
        """{"matrices_ms": ..., ...}: the parts in milliseconds."""
        return {f.name + "_ms": round(float(getattr(self, f.name)) * 1e3, 6) for f in fields(self)}


def soft_max(a, b):
    """A roofline with a round corner, sqrt(a^2 + b^2): reading and computing nearly overlap."""
    return np.hypot(a, b)


# ---------------------------------------------------------------------- one plan's steps
class Steps:
    """The steps of one replica: how long each takes, given what it computes.

    A step of a pipeline is a round: every stream gets one token, in ``batches`` that follow each
    other through the stages. vLLM keeps a stream in the batch that its prompt was scheduled with.
    """

    query_len = 1  # tokens that a stream has computed in a step
    tokens_per_step = 1.0  # and gets; both are more with drafts (speculation.py)

    def __init__(self, shape: ModelShape, box: Box, tp=1, pp=1, dp=1, options=None, tuning=None):
        options = options or EngineOptions()
        if options.max_num_seqs is None or options.max_num_batched_tokens is None:
            options = default_options(box.gpu, shape, options, tp * pp)
        self.shape, self.box, self.tp, self.pp = shape, box, tp, pp
        self.options, self.tuning = options, tuning or default_tuning(box.gpu)
        sizes = stage_layers(shape.layers, pp)
        ep = options.expert_ranks(tp, dp)
        self.stages = [
            model_stage(shape, tp, pp, rank, dp, ep, options.kv_cache_dtype) for rank in range(pp)
        ]
        self.slowest = max(sizes) / shape.layers  # share of a step in the stage that decides
        self.graphed = max(graph_sizes(options, box.gpu), default=0)

    def parts(self, streams, context, prompt_tokens=0, prompt_keys=0, rows=None) -> Parts:
        """One step by cause; numbers, or numpy arrays of one shape for many steps.

        streams: that decode, each with ``context`` tokens in the KV cache. prompt_tokens: computed
        in the same step; each attends to ``prompt_keys`` tokens on average. rows: of logits, one
        for each stream and each prompt that ends here. In a pipeline the streams are in as
        many batches as it has stages, if they are enough.
        """
        streams, context, prompt_tokens, prompt_keys = (
            np.asarray(x, float) for x in (streams, context, prompt_tokens, prompt_keys)
        )
        rows = streams + (prompt_tokens > 0) if rows is None else np.asarray(rows, float)
        k = np.clip(streams, 1, self.pp)
        j = self.prompt_batches(prompt_tokens, rows - streams)
        if self.pp == 1:
            whole = self._one_batch(streams, context, prompt_tokens, prompt_keys, rows)
            host = self.schedule_seconds(streams) + self.launch_seconds(streams + prompt_tokens)
            return whole + Parts(host=np.maximum(0.0, host - whole.total))
        share, tokens, ending = streams / k, prompt_tokens / j, (rows - streams) / j
        small = self._one_batch(share, context, 0 * share, 0 * share, share)
        big = self._one_batch(share, context, tokens, prompt_keys, share + ending)
        seconds = self.round_seconds(small.total, big.total, k, j, share, tokens)
        gpu = self.round_seconds(small.total, big.total, k, j, share, tokens, with_host=False)
        whole = big.scaled(gpu / big.total)
        return whole + Parts(host=seconds - gpu)

    def prompt_batches(self, prompt_tokens, prompts):
        """How many of a round's batches carry prompt tokens: as many as can, one prompt each."""
        full = np.ceil(prompt_tokens / self.options.max_num_batched_tokens)
        return np.clip(np.maximum(full, prompts), 1, self.pp)

    def round_seconds(self, small, big, k, j, streams, prompt_tokens, with_host=True):
        """Seconds of a round: k batches, j of them with prompts, through all the stages.

        small, big: seconds of a batch on the GPUs, of ``streams`` without and with so many
        ``prompt_tokens``. Either the last of the batches with prompts has to come out, or the
        slowest stage has to work on all the batches. Each stage launches its own layers, beside the
        others. One scheduler plans a batch while the workers prepare the one before it.
        """
        host = 0.0
        if with_host:
            small = np.maximum(small, self.launch_seconds(streams))
            big = np.maximum(big, self.launch_seconds(streams + prompt_tokens))
            host = np.maximum(1, np.maximum(k, j) / 2) * self.schedule_seconds(streams)
        through = big + (j - 1) * self.slowest * big
        in_turn = self.slowest * (np.maximum(k - j, 0) * small + j * big)
        decode = np.maximum(small, self.slowest * k * small)
        gpus = np.where(prompt_tokens > 0, np.maximum(through, in_turn), decode)
        return np.maximum(gpus, host)

    def _one_batch(self, streams, context, prompt_tokens, prompt_keys, rows) -> Parts:
        """One batch through all stages, one after the other, on the GPU."""
        total = Parts()
        for stage in self.stages:
            work = stage.step(streams, context, prompt_tokens, prompt_keys, rows)
            total += self._stage_parts(stage, work, streams + prompt_tokens, rows)
        if self.pp > 1:
            tokens = streams + prompt_tokens
            payload = 2 * tokens * self.shape.hidden * self.shape.dtype_bytes / self.tp
            link = self.box.link_for(self.tp * self.pp)
            rate = link.gb_s * 1e9 * self.tuning.link_efficiency
            total += Parts(hops=(self.pp - 1) * (self.tuning.hop_s + payload / rate))
        return total

    def _stage_parts(self, stage: Stage, work: Work, tokens, rows) -> Parts:
        gpu, tuning = self.box.gpu, self.tuning
        bandwidth = gpu.bandwidth_gb_s * 1e9
        streaming = bandwidth * tuning.read_efficiency
        attending = gpu.flops("16bit") * tuning.attention_efficiency
        matrices = 0.0
        for product in work.products:
            experts = product.part == "experts"
            efficiency = tuning.experts_efficiency if experts else tuning.compute_efficiency
            compute = product.flops / (gpu.flops(product.kernel) * efficiency)
            matrices = matrices + soft_max(product.read_bytes / streaming, compute)
        decoding = soft_max(
            work.kv_read_bytes / (bandwidth * tuning.kv_efficiency), work.decode_flops / attending
        )
        own = Parts(
            matrices=matrices,
            elementwise=work.moved_bytes / streaming,
            attention=decoding + work.prompt_flops / attending,
            sampling=work.logits_bytes / streaming,
            overhead=self._overhead(stage, tokens, rows),
        )
        crowded = CPU_CROWDED if gpu.family == "cpu" and self.tp * self.pp > 1 else 1.0
        latency, volume = self._communication(work)
        return own.scaled(crowded) + Parts(allreduce_latency=latency, allreduce_bandwidth=volume)

    def _communication(self, work: Work):
        """(latency, bandwidth) seconds of all-reduces, experts' exchanges, gathered logits."""
        latency, volume = 0.0, 0.0
        for count, nbytes, ranks in work.sends:
            seconds = exchange_seconds if ranks else allreduce_seconds
            one_latency, one_volume = seconds(nbytes, ranks or self.tp, self.box, self.tuning)
            latency, volume = latency + count * one_latency, volume + count * one_volume
        return latency, volume

    def _overhead(self, stage: Stage, tokens, rows):
        tuning = self.tuning
        seconds = tuning.layer_s * len(stage.layers) + stage.extra_s() + 0.0 * tokens
        if not stage.is_last:
            return seconds
        step_s = np.where(tokens <= self.graphed, tuning.step_s, tuning.eager_step_s)
        stream_s = tuning.stream_s
        if self.box.gpu.family == "cpu" and self.tp > 1:
            stream_s *= 1 + CPU_FRONT_END
        return seconds + step_s + stream_s * rows

    def schedule_seconds(self, streams):
        """CPU seconds of one batch: scheduler, inputs, outputs."""
        return self.tuning.host_s + self.tuning.host_stream_s * streams

    def launch_seconds(self, tokens):
        """CPU seconds of launching the kernels of a batch that is too large for a CUDA graph."""
        return self.tuning.host_layer_s * self.shape.layers * (tokens > self.graphed)

    def prompt(self, tokens: int, found: int = 0) -> Parts:
        """One prompt alone, in chunks of max_num_batched_tokens; ``found`` tokens are cached.

        With a pipeline the chunks follow each other through the stages, so m chunks take
        (m + p - 1) / m of the time that one stage needs for all (GPipe's bubble, arXiv 1811.06965).
        """
        chunk = self.options.max_num_batched_tokens
        done = np.arange(found, tokens, chunk)
        now = np.minimum(chunk, tokens - done).astype(float)
        m = len(done)
        each = self.parts(0 * now, 0 * now, now, done + now / 2, done + now >= tokens)
        total = each.each(np.sum)
        return total.scaled((m + self.pp - 1) / (m * self.pp)) if m > 1 else total

    def tabulate(self, most_context: int) -> None:
        """Make the tables of ``seconds``, up to so many tokens in a stream's KV cache.

        The formulas of ``parts``: a step's time is a sum of what depends on its tokens, on its
        rows, on the KV cache that it reads, and on its prompts' attention.
        """
        most_rows = self.options.max_num_seqs * self.query_len
        tokens = np.arange(self.options.max_num_batched_tokens + most_rows + 2.0)
        self.by_tokens = self._one_batch(tokens, *(0 * tokens,) * 4).total.tolist()
        rows = np.arange(most_rows + 2.0)
        seconds = self._one_batch(0 * rows + 1, *(0 * rows,) * 3, rows).total
        self.by_rows = (seconds - seconds[0]).tolist()
        contexts = np.linspace(0, most_context, 65)
        alone = self._one_batch(0 * contexts + 1, contexts, *(0 * contexts,) * 3).total
        every = np.arange(most_context + 1)
        self.by_context = np.interp(every, contexts, alone - alone[0]).tolist()
        self.pair_s = float(self._one_batch(0.0, 0.0, 1.0, 1.0, 0.0).attention)

    def batch_s(self, streams, context, prompt_tokens, prompt_keys, rows) -> float:
        """Seconds of one batch on the GPU, through all stages, from the tables."""
        tokens, context = math.ceil(streams + prompt_tokens), min(context, len(self.by_context) - 1)
        rows = min(math.ceil(rows), len(self.by_rows) - 1)
        return (
            self.by_tokens[tokens]
            + self.by_rows[rows]
            + streams * self.by_context[int(context)]
            + prompt_tokens * prompt_keys * self.pair_s
        )

    def seconds(self, streams, context, prompt_tokens, prompt_keys, rows) -> float:
        """Seconds of one step (of a round of a pipeline), from the tables."""
        if self.pp == 1:
            gpu = self.batch_s(streams, context, prompt_tokens, prompt_keys, rows)
            launches = self.launch_seconds(streams + prompt_tokens)
            return max(gpu, self.schedule_seconds(streams) + launches)
        k = min(max(streams, 1), self.pp)
        j = float(self.prompt_batches(prompt_tokens, rows - streams))
        share, tokens, ending = streams / k, prompt_tokens / j, (rows - streams) / j
        small = self.batch_s(share, context, 0, 0, share)
        big = self.batch_s(share, context, tokens, prompt_keys, share + ending)
        return float(self.round_seconds(small, big, k, j, share, tokens))


# ---------------------------------------------------------------------- steps that are measured
def decode_parts(shape, box, tp, pp, streams, context, *, kv_dtype="auto", tuning=None) -> Parts:
    """One decode step of ``streams`` with so many tokens each in the KV cache, no prompt."""
    options = EngineOptions(kv_cache_dtype=kv_dtype)
    steps = Steps(shape, box, tp, pp, 1, options, tuning)
    return steps.parts(streams, context)


def prefill_parts(shape, box, tp, pp, prompt, chunk, *, tuning=None) -> Parts:
    """One prompt alone, in chunks of at most ``chunk`` tokens (max_num_batched_tokens)."""
    options = EngineOptions(max_num_batched_tokens=chunk)
    return Steps(shape, box, tp, pp, 1, options, tuning).prompt(prompt)


def tp_speedup_parts(shape, box, tps, streams, context) -> list[dict]:
    """Decode step by cause for several tensor parallel sizes: why t GPUs are not t times faster.

    Rows: {"layout", "tp", "speedup", "total_ms", "above", part_ms...}; the first of ``tps`` has
    speed-up 1; "above" is the label of a bar.
    """
    rows, first = [], None
    for tp in tps:
        parts = decode_parts(shape, box, tp, 1, streams, context)
        first = first or parts.total
        speedup = float(first / parts.total)
        row = {"layout": f"TP {tp}", "tp": tp, "speedup": speedup, "above": f"{speedup:.2f}x"}
        rows.append({**row, "total_ms": float(parts.total) * 1e3, **parts.ms()})
    return rows


def prompt_beside_parts(shape, box, tp, streams, context, prompt) -> list[dict]:
    """A step of ``streams``, the same with a prompt in it, and the prompt alone, by cause.

    Rows: {"layout", "total_ms", "above", part_ms...}; "above" is the label of a bar.
    """
    steps = Steps(shape, box, tp)
    parts = {
        f"{streams} requests": steps.parts(streams, context),
        f"{streams} requests\nand a prompt": steps.parts(streams, context, prompt, prompt / 2),
        "the prompt\nalone": steps.parts(0, 0, prompt, prompt / 2),
    }
    return [
        {"layout": name, "total_ms": ms, "above": f"{ms:.1f} ms", **one.ms()}
        for name, one in parts.items()
        for ms in [float(one.total) * 1e3]
    ]
