"""How vLLM 0.32 divides one GPU's memory, part by part, down to the tokens of KV cache.

The KV cache gets what is left (vllm/v1/worker/gpu_worker.py, determine_available_memory):

    total x gpu_memory_utilization - consumed - peak activation - estimated CUDA graphs

Every part is computed from what vLLM allocates. Only what the driver and the kernels' libraries
take, and the driver's own cost of a CUDA graph, are measured constants.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass, field, replace

from .hardware import GIB, Box, Gpu, PlanningError
from .kv_cache import block_bytes, block_tokens, blocks_of_request
from .models import ModelShape, Tensor, kv_element_bytes, rank_tensors, stage_range, why_invalid
from .speculation import Speculation

MIB = 2**20

# ---------------------------------------------------------------------- measured constants
# H100 SXMs, vLLM 0.32.0, Qwen2.5-0.5B to 32B (benchmarks/planner); a guess for other GPUs.
NON_TORCH_GIB = 0.29  # kernels' code, cuBLAS workspace, attention scratch: 0.27 to 0.33 seen
# More in a tensor-parallel group: NCCL's channels (0.33 GiB for 2 GPUs, 0.38 for 4 and 8 by
# AIConfigurator's system files), buffers of symmetric memory and of vLLM's own all-reduce.
NON_TORCH_TP_GIB = 0.65
COMPILE_GIB = 0.05  # more at the peak of a start that compiles than of one that finds the code
GRAPH_BASE_MIB = 60  # graph pool and driver state, whatever the model
FULL_GRAPH_MIB = 2  # a full decode graph: the driver's smallest piece
PIECES_MIB = 3  # the graphs of all pieces for one batch size, and the kernels they load
FLASH_SPLITS = 32  # flash_attn_max_num_splits_for_cuda_graph
LARGE_BLOCK_MIB = 20  # larger blocks are not split: max_split_size_mb of GPUWorker.load_model

# Sampler state that vLLM keeps on the GPU for every request slot (vllm/v1/worker/gpu/sample): a
# count for each vocabulary entry (int32), two bit masks of the vocabulary, tables of fixed width.
SAMPLER_FIXED_INTS = 3 * 1024 + 128 + 1024 + 129 + 128


OWN = ("speculative", "usage")  # of these options: not vLLM's names


@dataclass(frozen=True)
class EngineOptions:
    """Engine arguments that decide memory, by vLLM's names. None: its default for the hardware."""

    gpu_memory_utilization: float = 0.92
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    kv_cache_dtype: str = "auto"
    kv_cache_memory_bytes: int | None = None
    block_size: int | None = None
    enforce_eager: bool = False
    enable_expert_parallel: bool = False
    decode_context_parallel_size: int = 1
    speculative: Speculation | None = None
    usage: str = "server"  # whose defaults: "server" for `vllm serve`, "llm" for the class LLM

    def given(self) -> dict:
        """What is not vLLM's default, by the names of its engine arguments."""
        said = {k: v for k, v in vars(self).items() if v != getattr(EngineOptions, k)}
        drafts = {"speculative_config": self.speculative.vllm_config()} if self.speculative else {}
        return {k: v for k, v in said.items() if k not in OWN} | drafts

    def expert_ranks(self, tp: int, dp: int) -> int:
        """Over how many ranks whole experts are spread; 1: every expert is cut instead."""
        return tp * dp if self.enable_expert_parallel else 1


def why_refused(
    shape: ModelShape, tp: int, pp: int, dp: int, options: EngineOptions | None = None
) -> str | None:
    """None when vLLM accepts these sizes with these options, else one sentence."""
    options = options or EngineOptions()
    if problem := why_invalid(shape, tp, pp, dp, options.expert_ranks(tp, dp)):
        return problem
    if problem := _contexts_invalid(shape, tp, options.decode_context_parallel_size):
        return problem
    return options.speculative and options.speculative.why_invalid(shape, tp, pp)


def _contexts_invalid(shape: ModelShape, tp: int, dcp: int) -> str | None:
    """Why the KV cache of a request cannot be shared by so many of the ranks.

    (ModelConfig.verify_with_parallel_config)
    """
    if dcp == 1:
        return None
    if tp % dcp:
        return f'vLLM refuses this: "tp_size={tp} must be divisible by dcp_size={dcp}."'
    if len(set(shape.attention)) > 1 or shape.attention[0] not in ("full", "latent"):
        return f"No data for --decode-context-parallel-size with the attention of {shape.name}."
    if not shape.mla and dcp > tp // shape.kv_heads:
        return (
            f"vLLM refuses --decode-context-parallel-size {dcp} with tensor parallel size {tp}: it "
            f"shares what TP copies, and {shape.name} has {shape.kv_heads} KV heads, so "
            f"{max(1, tp // shape.kv_heads)} is the most."
        )
    if not shape.mla and shape.heads // shape.kv_heads % dcp:
        queries = shape.heads // shape.kv_heads
        return (
            f"vLLM refuses --decode-context-parallel-size {dcp}: \"The model's number of query "
            f'heads per KV head ({queries}) must be divisible" by it.'
        )
    return None


@dataclass(frozen=True)
class StageMemory:
    """Bytes on each GPU of one pipeline stage."""

    layers: int
    weights: int  # what vLLM logs as "Model loading took"
    sampler_state: int
    non_torch: int
    peak_activation: int
    cuda_graphs: int
    budget: int  # total x utilisation
    kv_cache: int
    kv_page: int  # one block of the pool, over the layers of a group

    @property
    def consumed(self) -> int:
        """As vLLM's start message counts it: weights + non-torch + buffers that stay."""
        return self.weights + self.sampler_state + self.non_torch

    @property
    def taken(self) -> int:
        """Everything together, the KV cache included."""
        return self.consumed + self.peak_activation + self.cuda_graphs + self.kv_cache


@dataclass(frozen=True)
class MemoryPlan:
    """How the memory of every GPU is used, and what the KV cache holds."""

    stages: tuple
    options: EngineOptions  # with vLLM's defaults filled in
    num_blocks: int
    kv_cache_tokens: int  # of one replica, as vLLM's "GPU KV cache size" line reports it
    max_concurrency: float  # requests of max_model_len tokens at once
    shape: ModelShape = field(repr=False)
    in_flight: int = 0  # tokens that are scheduled and not yet settled
    problem: str = ""  # why it does not fit
    notes: tuple = ()

    @property
    def fits(self) -> bool:
        """Whether vLLM would start."""
        return not self.problem

    def blocks_of(self, length: int) -> int:
        """Blocks that a request of so many tokens holds at most."""
        return blocks_of_request(self.shape, length, self.in_flight, self.options.block_size)

    def room_for(self, length: int) -> int:
        """Requests of so many tokens that the KV cache holds at once."""
        return self.num_blocks // self.blocks_of(length)

    def at_once(self, length: int) -> int:
        """Requests of so many tokens that run at once; a plan without room is timed, too."""
        most = self.options.max_num_seqs
        return max(1, min(most, self.room_for(length) if self.num_blocks else most))

    @property
    def longest(self) -> int:
        """Tokens of the longest request that the blocks hold, in whole blocks."""
        lengths = range(0, self.options.max_model_len, self.options.block_size)
        fitting = bisect_right(lengths, self.num_blocks - 1, key=self.blocks_of)
        return lengths[max(0, fitting - 1)]

    @property
    def worst(self) -> StageMemory:
        """The stage with room for the fewest blocks: it decides."""
        return min(self.stages, key=lambda s: s.kv_cache // s.kv_page)

    def shares_gib(self) -> dict[str, float]:
        """GiB of weights, working memory and KV cache on the GPU that decides."""
        s = self.worst
        working = s.taken - s.weights - s.kv_cache
        parts = {"weights": s.weights, "working memory": working, "KV cache": s.kv_cache}
        return {name: max(0, size) / GIB for name, size in parts.items()}

    @property
    def weights_gib_per_gpu(self) -> float:
        """GiB of weights on the GPU that holds most."""
        return max(s.weights for s in self.stages) / GIB


# ---------------------------------------------------------------------- vLLM's defaults
def default_options(
    gpu: Gpu, shape: ModelShape, options: EngineOptions, world_size=1
) -> EngineOptions:
    """Fill in vLLM's defaults for this hardware (EngineArgs.get_batch_defaults)."""
    server = options.usage == "server"
    if gpu.family == "cpu":
        tokens, seqs = (2048, 128) if server else (4096, 256)
        tokens, seqs = tokens * world_size, seqs * world_size
    elif gpu.usable_gib >= 160:
        tokens, seqs = 16384, 1024
    elif gpu.usable_gib >= 70 and "A100" not in gpu.full_name:
        tokens, seqs = (8192 if server else 16384), 1024
    else:
        tokens, seqs = (2048 if server else 8192), 256
    length = options.max_model_len or shape.max_positions
    seqs = options.max_num_seqs or seqs
    tokens = options.max_num_batched_tokens or min(seqs * length, tokens)
    sizes = {"max_model_len": length, "max_num_batched_tokens": tokens}
    sizes["max_num_seqs"] = options.max_num_seqs or min(seqs, tokens)
    block = {"cpu": 16 if shape.mla else 128}.get(gpu.family, 64 if shape.mla else 16)
    if options.block_size and not (gpu.family == "cpu" and shape.mla):
        block = options.block_size
    return replace(options, **sizes, block_size=block)


def check_options(options: EngineOptions, shape: ModelShape) -> None:
    """Raise PlanningError for values that vLLM refuses, in its words where it has some."""
    sizes = ("max_model_len", "max_num_batched_tokens", "max_num_seqs", "kv_cache_memory_bytes")
    for name in sizes:
        value = getattr(options, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise PlanningError(f"{name} must be a whole number of at least 1, not {value!r}.")
    if not 0 < options.gpu_memory_utilization <= 1:
        raise PlanningError(
            f"gpu_memory_utilization is a share of the GPU's memory, above 0 and at most 1, not "
            f"{options.gpu_memory_utilization!r}; vLLM's default is 0.92."
        )
    says = shape.config.get("max_position_embeddings")
    if says and options.max_model_len and options.max_model_len > shape.max_positions:
        raise PlanningError(
            f'vLLM refuses max_model_len {options.max_model_len}: "User-specified max_model_len '
            f'({options.max_model_len}) is greater than the derived max_model_len" '
            f"({shape.max_positions}); plan with at most {shape.max_positions}.",
            f"--max-model-len {shape.max_positions}",
        )
    tokens, seqs = options.max_num_batched_tokens, options.max_num_seqs
    if tokens and seqs and tokens < seqs:
        raise PlanningError(
            f"vLLM refuses max_num_batched_tokens {tokens} with max_num_seqs {seqs}: every running "
            f"request needs one token in a step; give max_num_batched_tokens of at least {seqs}."
        )
    if options.enable_expert_parallel and not shape.experts:
        raise PlanningError(
            f"{shape.name} has no experts, so vLLM refuses --enable-expert-parallel: plan without."
        )
    kv_element_bytes(options.kv_cache_dtype, shape)


def graph_sizes(options: EngineOptions, gpu: Gpu) -> list[int]:
    """Batch sizes that vLLM captures as CUDA graphs (VllmConfig._set_cudagraph_sizes)."""
    if options.enforce_eager or gpu.family == "cpu":
        return []
    most = 1024 if gpu.family == "blackwell" and gpu.capability[:2] == "10" else 512
    drafted = options.speculative.num_speculative_tokens if options.speculative else 0
    rows = options.max_num_seqs * (1 + drafted)
    largest = min(rows * 2, most, options.max_num_batched_tokens)
    sizes = [i for i in (1, 2, 4) if i <= largest]
    sizes += list(range(8, min(largest + 1, 256), 8))
    sizes += list(range(256, largest + 1, 16))
    if options.max_num_batched_tokens <= largest:
        sizes.append(options.max_num_batched_tokens)
    if rows <= largest:
        sizes.append(rows)
    return sorted(set(sizes))


# ---------------------------------------------------------------------- the parts
def allocated_bytes(sizes) -> int:
    """Bytes that PyTorch's CUDA allocator counts for tensors of these sizes, made in this order.

    A tensor of 20 MiB or more takes whole 2 MiB pages. Smaller ones share segments of 20 MiB (or
    2 MiB up to 1 MiB), and the last piece of a segment is given away whole when less than 1 MiB
    would be left. (round_size and should_split of c10/cuda/CUDACachingAllocator.cpp)
    """
    total, free_large = 0, []
    for size in sizes:
        size = max(512, math.ceil(size / 512) * 512)
        if size <= MIB:  # small pool: blocks are split down to 512 bytes
            total += size
            continue
        if size >= LARGE_BLOCK_MIB * MIB:
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


def loaded_bytes(tensors: list[Tensor], gpu: Gpu) -> int:
    """What vLLM logs as "Model loading took": parameters and rotary table, as allocated."""
    sizes = [t.bytes for t in tensors if t.part != "scales"]
    scales = sum(t.bytes for t in tensors if t.part == "scales")
    return scales + (sum(sizes) if gpu.family == "cpu" else allocated_bytes(sizes))


def sampler_state_bytes(shape: ModelShape, options: EngineOptions) -> int:
    """Buffers of the sampler for every request slot, on the last pipeline stage of each replica.

    output_bin_counts (int32 for each vocabulary entry) is by far the largest: 0.58 GiB for 1,024
    slots and a vocabulary of 152,064. It is not sharded by tensor parallelism.
    (vllm/v1/worker/gpu/sample/penalties.py)
    """
    words = math.ceil(shape.vocab / 32)
    return options.max_num_seqs * 4 * (shape.vocab + 2 * words + SAMPLER_FIXED_INTS)


def qkv_width(shape: ModelShape, tp: int) -> int:
    """Elements of q, k and v of one token in one layer, on one rank."""
    return (shape.heads // tp + 2 * max(1, shape.kv_heads // tp)) * shape.head_dim


def activation_bytes(
    shape: ModelShape, options: EngineOptions, tp: int, ep: int, is_first: bool, is_last: bool
) -> int:
    """Peak of temporary tensors in vLLM's profiling pass.

    One forward of max_num_batched_tokens tokens without attention, then the sampler on max_num_seqs
    rows of logits; the larger of the two counts. In a dense layer the peak is in the MLP: gate_up
    (2f), the product (f), and three rows of width h that the compiled graph holds meanwhile.

    A start that compiles has another peak, the larger one for few tokens: Inductor times fused
    kernels (benchmark_combo_kernel in vllm/config/compilation.py), among them the look-up of the
    embedding, on a random copy of the table and its two outputs, before what COMPILE_GIB stands for
    is allocated. Counted as on a machine's first start, which compiles.
    """
    tokens, b, h = options.max_num_batched_tokens, shape.dtype_bytes, shape.hidden
    width = max(_mlp_width(shape, tp), qkv_width(shape, tp))
    if shape.experts:
        # workspaces of tokens x top-k rows: 2 x width (or h, shared), width, and the output h;
        # with replicas the rows of all of them meet a share of each expert that is as much smaller
        expert = shape.expert_width if ep > 1 else shape.expert_width // tp
        width = max(width, shape.experts_per_token * (max(2 * expert, h) + max(expert, h)))
    forward = tokens * b * (width + 3 * h)
    rows = min(options.max_num_seqs, tokens)
    sampler = tokens * h * b + rows * shape.vocab * b * (1 if tp == 1 else 2) if is_last else 0
    if options.enforce_eager:
        return max(forward, sampler)
    kept = int(COMPILE_GIB * GIB)
    timed = -(-shape.vocab // tp) * h * b + 2 * tokens * h * b - kept if is_first else 0
    return max(max(forward, sampler) + kept, timed)


def _mlp_width(shape: ModelShape, tp: int) -> int:
    """Elements of gate, up and their product for one token, on one rank."""
    dense = 3 * shape.intermediate // tp if shape.moe_layers < shape.layers else 0
    return max(dense, 3 * shape.shared_width // tp)


def graph_bytes(shape: ModelShape, options: EngineOptions, gpu: Gpu, layers: int, tp: int) -> int:
    """The CUDA graph memory that vLLM takes off the KV cache (profile_cudagraph_memory).

    vLLM captures the graphs of all pieces and the two largest full decode graphs, of which it
    counts the second once for every other. Three things grow with the largest batch: its
    activations, what the pieces hand to attention and to each other (q, k, v and the residual of
    every layer stay allocated), and FlashAttention's scratch: 32 partial results (float32) for
    every head of every token. Off by up to 0.25 GiB on recorded starts.
    """
    sizes = graph_sizes(options, gpu)
    if not sizes:
        return 0
    largest, decode = max(sizes), [n for n in sizes if n <= options.max_num_seqs]
    full = FULL_GRAPH_MIB * max(0, len(decode) - 1)
    driver = (GRAPH_BASE_MIB + PIECES_MIB * len(sizes) + full) * MIB
    handed_on = layers * (shape.hidden + qkv_width(shape, tp))
    width = _mlp_width(shape, tp) + 3 * shape.hidden + handed_on
    rows = largest * shape.dtype_bytes * width
    if shape.mla:
        return int(driver + rows)  # the MLA kernels keep their own workspace
    scratch = FLASH_SPLITS * (shape.heads // tp) * max(decode, default=1) * (shape.head_dim + 1) * 4
    return int(driver + rows + scratch)


# ---------------------------------------------------------------------- the plan
def plan_memory(
    shape: ModelShape, box: Box, tp=1, pp=1, dp=1, options: EngineOptions | None = None
) -> MemoryPlan:
    """Divide the memory of every GPU as vLLM would.

    dp: replicas. Each holds all of the model but the experts, which are cut (or, with expert
    parallelism, spread) over the GPUs of all replicas.

    Raises PlanningError for sizes that vLLM refuses. A model that is valid but does not fit gives a
    plan with ``problem`` in vLLM's words.
    """
    gpu, given = box.gpu, options or EngineOptions()
    check_options(given, shape)
    if problem := why_refused(shape, tp, pp, dp, given):
        raise PlanningError(problem)
    ep, drafts = given.expert_ranks(tp, dp), given.speculative
    options = default_options(gpu, shape, given, tp * pp)
    tokens = block_tokens(shape, tp, options.kv_cache_dtype, options.block_size)
    # a block is spread over the ranks that share a context: each keeps an equal share of its tokens
    options = replace(options, block_size=tokens * given.decode_context_parallel_size)
    draft_bytes = drafts.weight_bytes(tp) if drafts else 0
    draft_page = tokens * drafts.kv_bytes_per_token(tp, options.kv_cache_dtype) if drafts else 0
    budget = math.ceil(gpu.usable_bytes * options.gpu_memory_utilization)
    stages = []
    for rank in range(pp):
        layers = stage_range(shape.layers, pp, rank)
        weights = loaded_bytes(rank_tensors(shape, tp, pp, rank, ep, dp), gpu) + draft_bytes
        parts = _working_memory(shape, gpu, options, len(layers), tp, ep, rank == 0, rank == pp - 1)
        left = options.kv_cache_memory_bytes
        if left is None:
            left = budget - weights - sum(parts.values())
        page = block_bytes(shape, layers, tp, options.kv_cache_dtype, tokens) + draft_page
        sizes = {"weights": weights, "budget": budget, "kv_cache": left, "kv_page": page}
        stages.append(StageMemory(layers=len(layers), **sizes, **parts))
    blocks = max(0, min(s.kv_cache // s.kv_page for s in stages))
    # async scheduling: a step is planned while another runs (VllmConfig.max_concurrent_batches)
    in_flight = (pp + 1) * options.max_num_batched_tokens
    per_request = blocks_of_request(shape, options.max_model_len, in_flight, options.block_size)
    concurrency = blocks / per_request
    plan = MemoryPlan(
        stages=tuple(stages),
        options=options,
        num_blocks=blocks,
        kv_cache_tokens=int(concurrency * options.max_model_len),
        max_concurrency=concurrency,
        shape=shape,
        in_flight=in_flight,
        notes=(*shape.notes, *_about_options(options)),
    )
    return replace(plan, problem=_why_it_does_not_fit(gpu, plan))


def _working_memory(shape, gpu, options, layers, tp, ep, is_first, is_last) -> dict:
    """Bytes of a stage beside weights and KV cache."""
    if gpu.family == "cpu":
        return dict(sampler_state=0, non_torch=0, peak_activation=0, cuda_graphs=0)
    sampler = sampler_state_bytes(shape, options) if is_last else 0
    relay = 2 * options.max_num_batched_tokens * shape.hidden * shape.dtype_bytes
    return dict(
        sampler_state=sampler + (0 if is_first else relay),
        non_torch=int((NON_TORCH_GIB + (NON_TORCH_TP_GIB if tp > 1 else 0)) * GIB),
        peak_activation=activation_bytes(shape, options, tp, ep, is_first, is_last),
        cuda_graphs=graph_bytes(shape, options, gpu, layers, tp),
    )


def _about_options(options: EngineOptions) -> list[str]:
    """What is to be known of the options, and what of them is not in the numbers."""
    notes, drafts = [], options.speculative
    if options.decode_context_parallel_size > 1:
        notes.append(
            "the KV cache is shared over the ranks of --decode-context-parallel-size: that is "
            "sized here; no data for its exchanges, so the times are those without it"
        )
    if drafts and drafts.shape:
        notes.append("no data for the drafter's own CUDA graphs and working memory: leave room")
    if drafts and drafts.method == "draft_model":
        notes.append(
            "vLLM 0.32 launches the kernels of a draft model one by one, which costs the CPU most "
            "of a step; heads (eagle3, mtp) are replayed from CUDA graphs"
        )
    if drafts and drafts.method == "ngram":
        notes.append(
            "with n-grams vLLM switches async scheduling off, so the CPU's time is added to the "
            "GPU's; no data for the time of looking them up"
        )
    return notes


def _why_it_does_not_fit(gpu: Gpu, plan: MemoryPlan) -> str:
    worst, options = plan.worst, plan.options
    has = f"one {gpu.name} has {gpu.usable_gib:.1f} GiB"
    per_request = plan.blocks_of(options.max_model_len)
    if worst.weights >= gpu.usable_bytes:
        return f"the weights alone take {worst.weights / GIB:.1f} GiB on each GPU, and {has}"
    if options.kv_cache_memory_bytes is not None and worst.taken > gpu.usable_bytes:
        return (
            "weights, working memory and the KV cache of kv_cache_memory_bytes take "
            f"{worst.taken / GIB:.1f} GiB on each GPU, and {has}"
        )
    if worst.kv_cache <= 0:
        return (
            f"weights and working memory take {(worst.budget - worst.kv_cache) / GIB:.1f} GiB "
            f"of the {worst.budget / GIB:.1f} GiB that vLLM may use, and it stops with "
            '"No available memory for the cache blocks"'
        )
    if plan.num_blocks - 1 < per_request:
        need = per_request * worst.kv_page / GIB
        return (
            "vLLM stops with \"To serve at least one request with the model's max seq len "
            f"({options.max_model_len}), ({need:.2f} GiB KV cache is needed, which is larger than "
            f'the available KV cache memory ({worst.kv_cache / GIB:.2f} GiB)"; max_model_len '
            f"{plan.longest} fits"
        )
    return ""
