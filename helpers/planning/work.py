"""What one step makes a GPU read, compute and send: facts of a model and a layout, no seconds.

    stage = model_stage(shape, tp=2)                 # a rank's part of the model
    work = stage.step(streams=32, context=1024)      # one decode step of 32 streams
    work = stage.step(streams=32, context=1024, prompt_tokens=2048, prompt_keys=1024)

Counts may be numpy arrays: every formula works on them element by element.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .models import ModelShape, rank_tensors, stage_range

# Small kernels of a layer that dense layers do not have, seconds in one step: routing and sorting
# for experts (25 us with 8, 90 us with 128), the latent's projections and its cache. From the gap
# between predictions for dense layers and engines of these kinds on H100s; a doubt of 30 %.
EXPERTS_S = {8: 25e-6, 128: 90e-6}
LATENT_S = 100e-6


@dataclass(frozen=True)
class Product:
    """Matrix products of one part in one step."""

    part: str
    kernel: str  # see Gpu.flops
    read_bytes: float
    flops: float


@dataclass(frozen=True)
class Work:
    """One step on one rank.

    products: matrix products. kv_read_bytes: KV cache and states. decode_flops, prompt_flops:
    attention's. moved_bytes: by the small kernels; logits_bytes: by sampling. sends: (count, bytes,
    ranks) of all-reduces of the tensor-parallel group (ranks 0) and of exchanges between experts.
    """

    products: tuple
    kv_read_bytes: float
    decode_flops: float
    prompt_flops: float
    moved_bytes: float
    logits_bytes: float
    sends: tuple


def experts_touched(experts: int, per_token: int, tokens: float) -> float:
    """Distinct experts that a batch reads when each token picks k of E at random.

    E (1 - (1 - k/E)^tokens)
    """
    return experts * (1 - (1 - per_token / experts) ** tokens)


@dataclass(frozen=True)
class Stage:
    """The layers of one pipeline stage, on one rank of its tensor-parallel group."""

    shape: ModelShape
    tp: int
    dp: int
    ep: int
    layers: range
    is_last: bool
    kv_dtype: str
    # (part, kernel, bytes read, parameters) of the matrices
    matrices: tuple

    @property
    def mixtures(self) -> int:
        """Layers of this stage with experts."""
        return sum(self.shape.mixtures[i] for i in self.layers)

    def count(self, kind: str) -> int:
        """Layers of this stage that attend in this way."""
        return sum(self.shape.attention[i] == kind for i in self.layers)

    def extra_s(self) -> float:
        """Seconds of small kernels beyond those of dense layers, in one step."""
        few, many = EXPERTS_S.values()
        share = min(1.0, max(0.0, (self.shape.experts - 8) / 120))
        return self.mixtures * (few + share * (many - few)) + self.count("latent") * LATENT_S

    def step(self, streams, context, prompt_tokens=0, prompt_keys=0, rows=None) -> Work:
        """One step of ``streams`` decoding streams and ``prompt_tokens`` tokens of prompts.

        context: tokens of KV cache that a stream reads, on average; prompt_keys: tokens that a
        token of a prompt attends to, on average (d + n/2 for a chunk of n after d). rows: rows of
        logits, by default one for each stream. Counts are those of one replica; the replicas of a
        mixture of experts step together, so that the experts see the tokens of all.
        """
        shape, tokens = self.shape, streams + prompt_tokens
        rows = streams if rows is None else rows
        payload = tokens * shape.hidden * shape.dtype_bytes
        logits = rows * shape.vocab * shape.dtype_bytes if self.is_last else 0 * rows
        return Work(
            products=tuple(self._product(m, tokens, rows) for m in self.matrices),
            kv_read_bytes=streams * self._kv_read(context),
            decode_flops=streams * self._decode_flops(context),
            prompt_flops=prompt_tokens * self._prompt_flops(prompt_keys),
            moved_bytes=len(self.layers) * tokens * self._moved_per_token(),
            logits_bytes=4 * logits,  # written once and read about three times, in 16 bits
            sends=self._sends(payload, logits),
        )

    def _product(self, matrix, tokens, rows) -> Product:
        part, kernel, size, parameters = matrix
        if part == "lm_head":
            return Product(part, kernel, size, 2 * parameters * rows)
        if part != "experts":
            return Product(part, kernel, size, 2 * parameters * tokens)
        shape, together = self.shape, tokens * self.dp
        touched = experts_touched(shape.experts, shape.experts_per_token, together)
        used = shape.experts_per_token / shape.experts
        read = size * touched / shape.experts
        return Product(part, kernel, read, 2 * parameters * used * together)

    def _met(self, keys):
        """Tokens that one token attends to, of so many, over the layers that keep keys of heads."""
        near = np.minimum(keys, self.shape.window or np.inf)
        windowed = self.count("sliding") + self.count("chunked")
        return self.count("full") * keys + windowed * near

    def _chosen(self, keys):
        """The same of one layer of latent attention, whose indexer may pick some."""
        return np.minimum(keys, self.shape.index_topk or np.inf)

    def _picking_flops(self, keys):
        """FLOPs of the indexers for one token."""
        shape = self.shape
        return self.count("latent") * 2 * shape.index_heads * shape.index_dim * keys

    def _kv_read(self, context) -> float:
        """Bytes of KV cache and states that one stream reads (and of states, writes) in a step."""
        shape = self.shape
        each = shape.layer_kv_bytes(self.tp, self.kv_dtype)
        keys = (shape.index_dim + 4) if shape.index_heads else 0
        latents = (each - keys) * self._chosen(context) + keys * context
        states = 2 * self.count("linear") * shape.linear_state_bytes(self.tp)
        return each * self._met(context) + self.count("latent") * latents + states

    def _decode_flops(self, context) -> float:
        """FLOPs of attention for one token that is decoded (on latents themselves)."""
        shape, heads = self.shape, self.shape.heads // self.tp
        flops = 4 * heads * shape.head_dim * self._met(context) + self._state_flops()
        width = 2 * shape.kv_lora + shape.rope_dim
        flops = flops + self.count("latent") * 2 * heads * width * self._chosen(context)
        return flops + self._picking_flops(context)

    def _prompt_flops(self, keys) -> float:
        """FLOPs of attention for one token of a prompt."""
        shape, heads = self.shape, self.shape.heads // self.tp
        width = (shape.head_dim + shape.v_dim) / 2 if shape.mla else shape.head_dim
        met = self._met(keys) + self.count("latent") * self._chosen(keys)
        return 4 * heads * width * met + self._picking_flops(keys) + self._state_flops()

    def _state_flops(self) -> float:
        """FLOPs of one token in the layers of linear attention: decay, read, write of a state."""
        shape = self.shape
        state = shape.linear_v_heads // self.tp * shape.linear_k_dim * shape.linear_v_dim
        return 6 * self.count("linear") * state

    def _moved_per_token(self) -> float:
        """Bytes that the small kernels of a layer read and write for one token, on average.

        Two norms with their residual (4h each), rotary embedding of queries and keys, the new KV
        entry, and the MLP's activation (2f in, f out).
        """
        shape, tp, h = self.shape, self.tp, self.shape.hidden
        heads = (shape.heads // tp + max(1, shape.kv_heads // tp)) * shape.head_dim
        share = self.mixtures / len(self.layers)
        routed = shape.experts_per_token * (shape.expert_width // tp + h)
        width = (1 - share) * shape.intermediate // tp
        width += share * (routed + shape.shared_width // tp)
        return shape.dtype_bytes * (8 * h + 3 * heads + 3 * width)

    def _sends(self, payload, logits) -> tuple:
        """What ranks send each other, as of Work.

        With replicas, the tokens of all go to where the experts are, and the sums come back: an
        all-gather and a reduce-scatter in each mixture (--all2all-backend's default). Gathering
        the logits moves half of what an all-reduce does.
        """
        sends = []
        if self.tp > 1:
            sends.append((2 * len(self.layers) + self.is_last, payload, 0))
        if self.dp > 1 and self.mixtures:
            ranks = self.dp * self.tp if self.ep > 1 else self.dp
            sends.append((self.mixtures, payload * self.dp, ranks))
        if self.tp > 1:
            sends.append((0.5, logits, 0))
        return tuple(sends)


@lru_cache(maxsize=4096)
def model_stage(
    shape: ModelShape, tp=1, pp=1, pp_rank=0, dp=1, ep=1, kv_dtype: str = "auto"
) -> Stage:
    """The part of a model on one rank; raises PlanningError for sizes that vLLM refuses."""
    parts: dict[tuple[str, str], list[float]] = {}
    for tensor in rank_tensors(shape, tp, pp, pp_rank, ep, dp):
        kernel = tensor.kernel or ("16bit" if tensor.part == "lm_head" else "")
        if kernel:
            sums = parts.setdefault((tensor.part, kernel), [0.0, 0.0])
            sums[0] += tensor.bytes
            sums[1] += tensor.numel
    is_last = pp_rank == pp - 1
    if is_last and shape.tied:
        rows = next(t for t in rank_tensors(shape, tp, pp, pp_rank, ep, dp) if t.part[:3] == "emb")
        parts["lm_head", "16bit"] = [float(rows.bytes), float(rows.numel)]
    matrices = tuple((*key, *sums) for key, sums in parts.items())
    layers = stage_range(shape.layers, pp, pp_rank)
    return Stage(shape, tp, dp, ep, layers, is_last, kv_dtype, matrices)
