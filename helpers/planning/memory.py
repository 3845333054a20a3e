"""How vLLM 0.32 divides one GPU's memory, part by part, down to the tokens of KV cache.

The KV cache gets what is left (vllm/v1/worker/gpu_worker.py, determine_available_memory):

    total x gpu_memory_utilization - consumed - peak activation - estimated CUDA graphs

Every part is computed from what vLLM allocates. Only what the driver and the kernels' libraries take, and
the driver's own cost of a CUDA graph, are measured constants; each says on which GPU.
"""

import math
from dataclasses import dataclass, field

from .errors import PlanningError
from .hardware import GIB, Box, Gpu
from .models import ModelShape, kv_element_bytes, rank_tensors, stage_layers, why_invalid

MIB = 2**20

# ---------------------------------------------------------------------- measured constants
# Measured on H100 SXMs with vLLM 0.32.0, Qwen2.5-0.5B to 32B (benchmarks/records/gpu1_H100-SXM*.jsonl).
# Other GPUs use the same numbers until a record says otherwise; NON_TORCH_TP_GIB is a guess (no record of two GPUs).
NON_TORCH_GIB = 0.29  # kernels' code, cuBLAS workspace, attention scratch: 0.27 to 0.33 seen
NON_TORCH_TP_GIB = (
    0.15  # more for a tensor-parallel group: NCCL channels opened in the first forward pass
)
COMPILE_GIB = (
    0.05  # a start that compiles keeps this much more at its peak than one that finds compiled code
)
GRAPH_BASE_MIB = 60  # graph pool and driver state, whatever the model
FULL_GRAPH_MIB = 2  # a full decode graph: the driver's smallest piece
PIECES_MIB = (
    3  # the graphs of all pieces for one batch size, and the kernels that capturing it loads
)
FLASH_SPLITS = 32  # flash_attn_max_num_splits_for_cuda_graph

# Sampler state that vLLM keeps on the GPU for every request slot (vllm/v1/worker/gpu/sample): a count for
# each vocabulary entry (int32), two bit masks of the vocabulary, and tables of fixed width.
SAMPLER_FIXED_INTS = 3 * 1024 + 128 + 1024 + 129 + 128


@dataclass(frozen=True)
class EngineOptions:
    """vLLM's own engine arguments that decide memory. None means vLLM's default for the hardware."""

    gpu_memory_utilization: float = 0.92
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    kv_cache_dtype: str = "auto"
    kv_cache_memory_bytes: int | None = None
    block_size: int | None = None
    enforce_eager: bool = False
    enable_expert_parallel: bool = False


@dataclass(frozen=True)
class StageMemory:
    """Bytes on each GPU of one pipeline stage."""

    layers: int
    weights: int  # what vLLM logs as "Model loading took"
    sampler_state: int
    non_torch: int
    activation: int
    graphs_estimate: int
    budget: int  # total x utilisation
    kv_available: int
    kv_page: int  # one block of tokens over this stage's layers

    @property
    def consumed(self) -> int:
        """As vLLM's start message counts it: weights + non-torch + buffers that stay."""
        return self.weights + self.sampler_state + self.non_torch

    @property
    def taken(self) -> int:
        """Everything together, the KV cache included."""
        return self.consumed + self.activation + self.graphs_estimate + self.kv_available


@dataclass(frozen=True)
class MemoryPlan:
    """How the memory of every GPU is used, and what the KV cache holds. Bytes unless named otherwise."""

    stages: tuple
    options: EngineOptions  # with vLLM's defaults filled in
    num_blocks: int
    block_size: int
    kv_cache_tokens: int  # of one replica, as vLLM's "GPU KV cache size" line reports it
    max_concurrency: float  # requests of max_model_len tokens at once
    fits: bool
    problem: str = ""
    notes: tuple = field(default_factory=tuple)

    @property
    def worst(self) -> StageMemory:
        return min(self.stages, key=lambda s: s.kv_available // s.kv_page)

    @property
    def weights_gib_per_gpu(self) -> float:
        return max(s.weights for s in self.stages) / GIB


# ---------------------------------------------------------------------- vLLM's defaults
def default_options(
    gpu: Gpu, shape: ModelShape, options: EngineOptions, world_size=1, usage="server"
) -> EngineOptions:
    """Fill in vLLM's defaults for this hardware (EngineArgs.get_batch_defaults in vllm/engine/arg_utils.py).

    usage: "server" for `vllm serve`, "llm" for the Python class LLM: their batch limits differ.
    """
    if gpu.family == "cpu":
        tokens, seqs = (2048, 128) if usage == "server" else (4096, 256)
        tokens, seqs = tokens * world_size, seqs * world_size
    elif gpu.usable_gib >= 160:
        tokens, seqs = 16384, 1024
    elif gpu.usable_gib >= 70 and "A100" not in gpu.full_name:
        tokens, seqs = (8192 if usage == "server" else 16384), 1024
    else:
        tokens, seqs = (2048 if usage == "server" else 8192), 256
    length = options.max_model_len or shape.max_positions
    seqs = options.max_num_seqs or seqs
    if options.max_num_batched_tokens is None:
        tokens = min(seqs * length, tokens)
    else:
        tokens = options.max_num_batched_tokens
    if options.max_num_seqs is None:
        seqs = min(seqs, tokens)
    block = options.block_size or (128 if gpu.family == "cpu" else 64 if shape.mla else 16)
    if gpu.family == "cpu" and shape.mla:
        block = 16
    return EngineOptions(
        gpu_memory_utilization=options.gpu_memory_utilization,
        max_model_len=length,
        max_num_batched_tokens=tokens,
        max_num_seqs=seqs,
        kv_cache_dtype=options.kv_cache_dtype,
        kv_cache_memory_bytes=options.kv_cache_memory_bytes,
        block_size=block,
        enforce_eager=options.enforce_eager,
        enable_expert_parallel=options.enable_expert_parallel,
    )


def check_options(options: EngineOptions, shape: ModelShape) -> None:
    """Raise PlanningError for values that vLLM refuses, in its words where it has some."""
    for name in (
        "max_model_len",
        "max_num_batched_tokens",
        "max_num_seqs",
        "kv_cache_memory_bytes",
    ):
        value = getattr(options, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise PlanningError(f"{name} must be a whole number of at least 1, not {value!r}.")
    if not 0 < options.gpu_memory_utilization <= 1:
        raise PlanningError(
            f"gpu_memory_utilization is a share of the GPU's memory, above 0 and at most 1, not "
            f"{options.gpu_memory_utilization!r}; vLLM's default is 0.92."
        )
    if options.max_model_len and options.max_model_len > shape.max_positions:
        raise PlanningError(
            f'vLLM refuses max_model_len {options.max_model_len}: "User-specified max_model_len '
            f'({options.max_model_len}) is greater than the derived max_model_len" ({shape.max_positions}); '
            f"plan with at most {shape.max_positions}."
        )
    tokens, seqs = options.max_num_batched_tokens, options.max_num_seqs
    if tokens and seqs and tokens < seqs:
        raise PlanningError(
            f"vLLM refuses max_num_batched_tokens {tokens} with max_num_seqs {seqs}: every running request needs "
            f"one token in a step; give max_num_batched_tokens of at least {seqs}."
        )
    kv_element_bytes(options.kv_cache_dtype, shape)


def graph_sizes(options: EngineOptions, gpu: Gpu) -> list[int]:
    """Batch sizes that vLLM captures as CUDA graphs (VllmConfig._set_cudagraph_sizes)."""
    if options.enforce_eager or gpu.family == "cpu":
        return []
    largest = min(
        options.max_num_seqs * 2,
        1024 if gpu.family == "blackwell" and gpu.capability[:2] == "10" else 512,
    )
    largest = min(largest, options.max_num_batched_tokens)
    sizes = [i for i in (1, 2, 4) if i <= largest]
    sizes += list(range(8, min(largest + 1, 256), 8))
    sizes += list(range(256, largest + 1, 16))
    if options.max_num_batched_tokens <= largest:
        sizes.append(options.max_num_batched_tokens)
    if options.max_num_seqs <= largest:
        sizes.append(options.max_num_seqs)
    return sorted(set(sizes))


# ---------------------------------------------------------------------- the parts
def allocated_bytes(sizes, split_limit_mib: int = 20) -> int:
    """Bytes that PyTorch's CUDA allocator counts for tensors of these sizes, made one after another.

    vLLM loads a model with max_split_size_mb=20 (GPUWorker.load_model), and then a block of 20 MiB or more is
    never split: a tensor takes whole 2 MiB pages. Smaller ones share segments of 20 MiB (or 2 MiB up to
    1 MiB), and the last piece of a segment is given away whole when less than 1 MiB would be left.
    Source: c10/cuda/CUDACachingAllocator.cpp (round_size, get_allocation_size, should_split).
    """
    total, free_large = 0, []
    for size in sizes:
        size = max(512, math.ceil(size / 512) * 512)
        if size <= MIB:  # small pool: blocks are split down to 512 bytes
            total += size
            continue
        if size >= split_limit_mib * MIB:
            total += math.ceil(size / (2 * MIB)) * 2 * MIB
            continue
        fitting = [block for block in free_large if block >= size]
        if fitting:
            block = min(fitting)
            free_large.remove(block)
        else:
            block = 20 * MIB if size < 10 * MIB else math.ceil(size / (2 * MIB)) * 2 * MIB
        if block - size > MIB:
            free_large.append(block - size)
            block = size
        total += block
    return total


def loaded_bytes(shape: ModelShape, tp=1, pp=1, pp_rank=0, ep=1, gpu: Gpu | None = None) -> int:
    """What vLLM logs as "Model loading took": parameters and rotary table, as the allocator counts them."""
    sizes = [t.bytes for t in rank_tensors(shape, tp, pp, pp_rank, ep) if t.part != "scales"]
    scales = sum(t.bytes for t in rank_tensors(shape, tp, pp, pp_rank, ep) if t.part == "scales")
    if gpu is not None and gpu.family == "cpu":
        return sum(sizes) + scales
    return allocated_bytes(sizes) + scales


def sampler_state_bytes(shape: ModelShape, options: EngineOptions) -> int:
    """Buffers of the sampler for every request slot, on the last pipeline stage of each replica.

    output_bin_counts (int32 for each vocabulary entry) is by far the largest: 0.58 GiB for 1,024 slots and a
    vocabulary of 152,064. It is not sharded by tensor parallelism. (vllm/v1/worker/gpu/sample/penalties.py)
    """
    words = math.ceil(shape.vocab / 32)
    return options.max_num_seqs * 4 * (shape.vocab + 2 * words + SAMPLER_FIXED_INTS)


def qkv_width(shape: ModelShape, tp: int) -> int:
    """Elements of q, k and v of one token in one layer, on one rank."""
    return (shape.heads // tp + 2 * max(1, shape.kv_heads // tp)) * shape.head_dim


def activation_bytes(
    shape: ModelShape,
    options: EngineOptions,
    tp: int,
    is_last: bool = True,
    ep: int = 1,
    is_first: bool = True,
) -> int:
    """Peak of temporary tensors in vLLM's profiling pass: one forward of max_num_batched_tokens tokens without
    attention, then the sampler on max_num_seqs rows of logits. The larger of the two counts.

    In a dense layer the peak is in the MLP: gate_up (2f), the product (f), and three rows of width h that the compiled
    graph holds meanwhile: attention output, residual in, residual out. (On an H100 2.06 GiB for Qwen2.5-7B and 16,384
    tokens, 2.11 when that start also compiled: COMPILE_GIB is counted, as on a machine's first start.)

    A start that compiles has another peak, which is the larger one for few tokens: vLLM lets Inductor time fused kernels
    (benchmark_combo_kernel in vllm/config/compilation.py), among them the one that looks up the embedding, on a random
    copy of the table and its two outputs. It comes before what COMPILE_GIB stands for is allocated. (H100: 1,053 MiB
    for 7B and 4,096 tokens, 1,595 for 14B and 8,192, 559 for 3B and 2,048; each within 8 MiB of this.)
    """
    tokens, b, h = options.max_num_batched_tokens, shape.dtype_bytes, shape.hidden
    dense = 3 * shape.intermediate // tp if shape.moe_layers < shape.layers else 0
    shared = 3 * shape.shared_width // tp
    width = max(dense, shared)
    if shape.experts:
        # fused experts: workspaces of tokens x top-k rows: 2 x width (or h, shared), width, and the output h
        expert = shape.expert_width if ep > 1 else shape.expert_width // tp
        rows = shape.experts_per_token
        width = max(width, rows * (max(2 * expert, h) + max(expert, h)))
    forward = tokens * b * (max(width, qkv_width(shape, tp)) + 3 * h)
    rows = min(options.max_num_seqs, tokens)
    sampler = tokens * h * b + rows * shape.vocab * b * (1 if tp == 1 else 2) if is_last else 0
    if options.enforce_eager:
        return max(forward, sampler)
    kept = int(COMPILE_GIB * GIB)
    timed = -(-shape.vocab // tp) * h * b + 2 * tokens * h * b - kept if is_first else 0
    return max(max(forward, sampler) + kept, timed)


def graph_bytes(shape: ModelShape, options: EngineOptions, gpu: Gpu, layers: int, tp: int) -> int:
    """The CUDA graph memory that vLLM takes off the KV cache before it captures (profile_cudagraph_memory).

    vLLM captures the graphs of all pieces, and the two largest full decode graphs, of which it counts the second once
    for every other. The estimate is about twice what the graphs really take (on the H100): kernels that are loaded at
    the first capture count here and not again. Three things grow with the largest batch: its activations, what the
    pieces hand to attention and to each other (q, k, v and the residual of every layer stay allocated), and the scratch
    of FlashAttention: 32 partial results (float32) for every head of every token. (Twelve starts on H100s: nine within
    35 MiB; Qwen2.5-14B 210 and an fp8 KV cache 240 MiB too low, 32B 160 too high.)
    """
    sizes = graph_sizes(options, gpu)
    if not sizes:
        return 0
    largest, decode = max(sizes), [n for n in sizes if n <= options.max_num_seqs]
    driver = (
        GRAPH_BASE_MIB + PIECES_MIB * len(sizes) + FULL_GRAPH_MIB * max(0, len(decode) - 1)
    ) * MIB
    dense = (
        3
        * max(shape.intermediate if shape.moe_layers < shape.layers else 0, shape.shared_width)
        // tp
    )
    rows = (
        largest
        * shape.dtype_bytes
        * (dense + 3 * shape.hidden + layers * (shape.hidden + qkv_width(shape, tp)))
    )
    if shape.mla:
        return int(driver + rows)  # the MLA kernels keep their own workspace
    scratch = FLASH_SPLITS * (shape.heads // tp) * max(decode, default=1) * (shape.head_dim + 1) * 4
    return int(driver + rows + scratch)


def non_torch_bytes(tp: int) -> int:
    return int((NON_TORCH_GIB + (NON_TORCH_TP_GIB if tp > 1 else 0)) * GIB)


# ---------------------------------------------------------------------- the plan
def plan_memory(
    shape: ModelShape,
    box: Box,
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    options: EngineOptions | None = None,
    usage: str = "server",
) -> MemoryPlan:
    """Divide the memory of every GPU as vLLM would.

    Raises PlanningError for sizes that vLLM refuses. A model that is valid but does not fit gives a plan with
    ``fits`` False and ``problem`` in vLLM's words.
    """
    gpu = box.gpu
    given = options or EngineOptions()
    check_options(given, shape)
    ep = tp * dp if given.enable_expert_parallel else 1
    if problem := why_invalid(shape, tp, pp, dp, ep):
        raise PlanningError(problem)
    options = default_options(gpu, shape, given, tp * pp, usage)
    budget = math.ceil(gpu.usable_bytes * options.gpu_memory_utilization)
    stages = []
    for rank, layers in enumerate(stage_layers(shape.layers, pp)):
        last = rank == pp - 1
        weights = loaded_bytes(shape, tp, pp, rank, ep, gpu)
        page = shape.kv_bytes_per_token(tp, options.kv_cache_dtype, layers) * options.block_size
        if gpu.family == "cpu":
            parts = dict(sampler_state=0, non_torch=0, activation=0, graphs_estimate=0)
        else:
            relay = (
                0
                if rank == 0
                else 2 * options.max_num_batched_tokens * shape.hidden * shape.dtype_bytes
            )
            parts = dict(
                sampler_state=(sampler_state_bytes(shape, options) if last else 0) + relay,
                non_torch=non_torch_bytes(tp),
                activation=activation_bytes(shape, options, tp, last, ep, rank == 0),
                graphs_estimate=graph_bytes(shape, options, gpu, layers, tp),
            )
        left = budget - weights - sum(parts.values())
        if options.kv_cache_memory_bytes is not None:
            left = options.kv_cache_memory_bytes
        stages.append(
            StageMemory(
                layers=layers,
                weights=weights,
                budget=budget,
                kv_available=left,
                kv_page=page,
                **parts,
            )
        )
    return _kv_plan(shape, gpu, tuple(stages), options)


def _kv_plan(shape, gpu, stages, options) -> MemoryPlan:
    blocks = max(0, min(s.kv_available // s.kv_page for s in stages))
    per_request = math.ceil(options.max_model_len / options.block_size)
    concurrency = blocks / per_request
    tokens = int(concurrency * options.max_model_len)
    worst = min(stages, key=lambda s: s.kv_available // s.kv_page)
    problem = ""
    if worst.weights >= gpu.usable_bytes:
        problem = (
            f"the weights alone take {worst.weights / GIB:.1f} GiB on each GPU, and a {gpu.name} has "
            f"{gpu.usable_gib:.1f} GiB"
        )
    elif options.kv_cache_memory_bytes is not None and worst.taken > gpu.usable_bytes:
        problem = (
            f"weights, working memory and the KV cache of kv_cache_memory_bytes take {worst.taken / GIB:.1f} GiB on each GPU, "
            f"and a {gpu.name} has {gpu.usable_gib:.1f} GiB"
        )
    elif worst.kv_available <= 0:
        problem = (
            f"weights and working memory take {(worst.budget - worst.kv_available) / GIB:.1f} GiB of the "
            f'{worst.budget / GIB:.1f} GiB that vLLM may use, and it stops with "No available memory for the '
            'cache blocks"'
        )
    elif blocks - 1 < per_request:
        need = per_request * worst.kv_page
        length = max(0, (blocks - 1)) * options.block_size
        problem = (
            f"vLLM stops with \"To serve at least one request with the model's max seq len "
            f"({options.max_model_len}), ({need / GIB:.2f} GiB KV cache is needed, which is larger than the "
            f'available KV cache memory ({worst.kv_available / GIB:.2f} GiB)"; max_model_len {length} fits'
        )
    return MemoryPlan(
        stages=stages,
        options=options,
        num_blocks=blocks,
        block_size=options.block_size,
        kv_cache_tokens=tokens,
        max_concurrency=concurrency,
        fits=not problem,
        problem=problem,
        notes=shape.notes,
    )
