"""Size a model from its config.json: every tensor that one rank of vLLM holds, and its KV cache.

Nothing here starts vLLM. The rules are read from vLLM 0.32's layers and checked against them: the
tests build the same models on torch's "meta" device with vLLM's own classes and compare bytes.
"""

import json
import math
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from helpers import REPO

from .hardware import PlanningError

CONFIG_FOLDER = REPO / "helpers" / "engine" / "model_configs"

# Shipped configs: the short name, and the Hugging Face id that a launch command names.
SHIPPED = {
    "Qwen2.5-0.5B": "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen2.5-1.5B": "Qwen/Qwen2.5-1.5B-Instruct",
    "Qwen2.5-3B": "Qwen/Qwen2.5-3B-Instruct",
    "Qwen2.5-7B": "Qwen/Qwen2.5-7B-Instruct",
    "Qwen2.5-14B": "Qwen/Qwen2.5-14B-Instruct",
    "Qwen2.5-32B": "Qwen/Qwen2.5-32B-Instruct",
    "Qwen2.5-72B": "Qwen/Qwen2.5-72B-Instruct",
    "Llama-3.1-8B": "meta-llama/Llama-3.1-8B-Instruct",
    "Llama-3.1-70B": "meta-llama/Llama-3.1-70B-Instruct",
    "Llama-3.1-405B": "meta-llama/Llama-3.1-405B-Instruct",
    "Mixtral-8x7B": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "Qwen3-30B-A3B": "Qwen/Qwen3-30B-A3B",
    "DeepSeek-V3": "deepseek-ai/DeepSeek-V3",
}

# What differs between the families that the planner can size. Everything else is in the config.
FAMILIES = {
    "llama": {},
    "mistral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
    "mixtral": {"moe": True},
    "qwen2_moe": {"qkv_bias": True, "moe": True},
    "qwen3_moe": {"qk_norm": True, "moe": True},
    "deepseek_v2": {"mla": True, "moe": True},
    "deepseek_v3": {"mla": True, "moe": True},
}

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "float32": 4}
# The KV cache's bytes for one element, by vLLM's --kv-cache-dtype ("auto" is the model's own).
KV_BYTES = {
    "auto": None, "bfloat16": 2, "float16": 2, "half": 2,
    "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1,
}  # fmt: skip
# DEFAULT_VOCAB_PADDING_SIZE in vllm/model_executor/layers/vocab_parallel_embedding.py
VOCAB_PADDING = 64


@dataclass(frozen=True)
class Tensor:
    """One tensor on one rank.

    ``part``: embedding, attention, mlp, experts, router, norms, lm_head, scales; rope and absorbed
    are made by vLLM and not in the checkpoint.
    """

    part: str
    numel: int
    element_bytes: float

    @property
    def bytes(self) -> int:
        """Whole bytes."""
        return math.ceil(self.numel * self.element_bytes)


@dataclass(frozen=True)
class ModelShape:
    """What of a config.json decides sizes and speed. Widths in elements, heads of all ranks."""

    name: str
    source: str  # what a launch command names: a folder or a Hugging Face id
    config: dict = field(repr=False, compare=False)
    family: str = "llama"
    layers: int = 0
    hidden: int = 0
    intermediate: int = 0  # of a dense layer; 0 when every layer is a mixture of experts
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    vocab: int = 0
    max_positions: int = 0
    tied: bool = False
    dtype_bytes: int = 2
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False
    # mixture of experts
    experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    shared_width: int = 0  # all shared experts together
    shared_gate: bool = False
    expert_bias: bool = False
    moe_layers: int = 0
    # multi-head latent attention
    q_lora: int = 0
    kv_lora: int = 0
    nope_dim: int = 0
    rope_dim: int = 0
    v_dim: int = 0
    # quantised weights: bytes of one linear weight, and of its scales per weight
    weight_bytes: float = 2.0
    scale_bytes: float = 0.0
    quantisation: str = ""
    quant_group: int = 0
    notes: tuple = ()

    # ------------------------------------------------------------------ totals
    @property
    def mla(self) -> bool:
        """Whether attention keeps one latent for all heads."""
        return self.kv_lora > 0

    def parameters(self) -> int:
        """All parameters of the model, once (without padding or copies)."""
        stored = [t for t in rank_tensors(self) if t.part not in ("scales", *NOT_STORED)]
        padding = padded_vocab(self.vocab) - self.vocab
        copies = 1 if self.tied else 2
        return sum(t.numel for t in stored) - padding * self.hidden * copies

    def active_parameters(self) -> int:
        """Parameters that one token passes through, without the embedding table."""
        return sum(n for n, _ in matmul_parameters(self).values())

    def kv_bytes_per_token(
        self, tp: int = 1, kv_dtype: str = "auto", layers: int | None = None
    ) -> int:
        """Bytes of KV cache that one token takes on one rank that holds ``layers`` of the layers.

        GQA: 2 (K and V) x layers x max(1, kv_heads // tp) x head_dim x bytes. A KV head is copied,
        not split, when tp is larger than kv_heads. MLA: one latent for all heads, on every rank.
        """
        size = kv_element_bytes(kv_dtype, self)
        layers = self.layers if layers is None else layers
        if self.mla:
            return layers * (self.kv_lora + self.rope_dim) * size
        return 2 * layers * max(1, self.kv_heads // tp) * self.head_dim * size


def kv_element_bytes(kv_dtype: str, shape: ModelShape) -> int:
    """Bytes of one element of the KV cache; raises PlanningError for a type without sizes."""
    if kv_dtype not in KV_BYTES:
        raise PlanningError(
            f"The planner has no sizes for --kv-cache-dtype {kv_dtype}: it knows "
            f"{', '.join(KV_BYTES)}."
        )
    return KV_BYTES[kv_dtype] or shape.dtype_bytes


# ---------------------------------------------------------------------- reading a config
def load_config(model) -> tuple[dict, str, str]:
    """(config, short name, what a command names) of a model.

    model: a dict, a folder, a config.json, a shipped name, or a Hugging Face id (which needs
    internet when the config is not shipped). Raises PlanningError when there is no such config.
    """
    if isinstance(model, dict):
        return model, str(model.get("_name", "a config")), str(model.get("_name", "MODEL"))
    text = str(model)
    path = Path(text).expanduser()
    if path.is_dir() or text.endswith(".json") or path.is_file():
        return _config_of_file(path)
    if short := _shipped_name(text):
        file = CONFIG_FOLDER / f"{Path(SHIPPED[short]).name}.json"
        return json.loads(file.read_text()), short, text if "/" in text else SHIPPED[short]
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        return _config_of_hub(text)
    near = get_close_matches(text, SHIPPED, 3, 0.3) or list(SHIPPED)[:3]
    raise PlanningError(
        f"There is no model {text!r}: the nearest shipped configs are {', '.join(near)}; a folder "
        "with a config.json and a Hugging Face id work too."
    )


def _config_of_file(path: Path) -> tuple[dict, str, str]:
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as problem:
        raise PlanningError(
            f"The config {file} cannot be read ({problem}): give a folder with a config.json, "
            f"or one of {', '.join(list(SHIPPED)[:4])}, ..."
        ) from None
    if not isinstance(config, dict):
        raise PlanningError(f"The config {file} is not a JSON object, so it describes no model.")
    folder = path if path.is_dir() else path.parent
    name = folder.name if file.name == "config.json" else file.stem
    named = SHIPPED.get(_shipped_name(name) or "", str(folder))
    return config, name, named if file.parent == CONFIG_FOLDER else str(folder)


def _config_of_hub(model: str) -> tuple[dict, str, str]:
    try:
        from huggingface_hub import hf_hub_download

        file = hf_hub_download(model, "config.json", etag_timeout=5)
        return json.loads(Path(file).read_text()), Path(model).name, model
    except Exception as problem:  # the hub raises many kinds; each means "no config from there"
        raise PlanningError(
            f"The config of {model!r} could not be fetched from Hugging Face "
            f"({type(problem).__name__}): give a folder with its config.json, or one of "
            f"{', '.join(SHIPPED)}."
        ) from None


def _shipped_name(text: str) -> str | None:
    """'Qwen/Qwen2.5-7B-Instruct', 'qwen2.5-7b' and 'Qwen2.5-7B' are one shipped config."""
    tail = text.split("/")[-1].lower()
    for suffix in ("-instruct-v0.1", "-v0.1", "-instruct", "-base", "-chat"):
        tail = tail.removesuffix(suffix)
    tail = tail.removeprefix("meta-")
    return next((name for name in SHIPPED if name.lower() == tail), None)


def load_shape(model) -> ModelShape:
    """The ModelShape of a config (see load_config for what ``model`` may be)."""
    if isinstance(model, ModelShape):
        return model
    config, name, source = load_config(model)
    return shape_from_config(config, name, source)


class _Config:
    """The numbers of a config.json, checked."""

    def __init__(self, config: dict, name: str):
        self.config, self.name = config, name

    def number(self, *keys: str, default: int | None = None) -> int:
        """The first of the keys that is there. Raises PlanningError for what is not a size."""
        for key in keys:
            value = self.config.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise PlanningError(
                    f"The config of {self.name} has {key} = {value!r}, which is not a size."
                )
            return value
        if default is None:
            raise PlanningError(
                f"The config of {self.name} has no {keys[0]}: is it the config.json of a language "
                "model?"
            )
        return default

    def dtype(self) -> str:
        """The number format that vLLM's dtype "auto" loads a checkpoint in, or of the config."""
        said = str(self.config.get("dtype") or self.config.get("torch_dtype") or "bfloat16")
        dtype = said.removeprefix("torch.")
        if dtype not in DTYPE_BYTES:
            raise PlanningError(
                f"The config of {self.name} asks for dtype {dtype!r}, which vLLM does not load."
            )
        return dtype

    def sliding_window(self) -> int | None:
        """Tokens of a sliding window that is in use."""
        return self.config.get("sliding_window") if self.config.get("use_sliding_window", 1) else 0


def shape_from_config(config: dict, name: str = "model", source: str = "MODEL") -> ModelShape:
    """Read a ModelShape from the dict of a config.json.

    Raises PlanningError for what cannot be sized.
    """
    config = config.get("text_config") or config
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise PlanningError(
            f"The planner cannot size the model type {kind!r} of {name}: it knows "
            f"{', '.join(FAMILIES)}."
        )
    family, read = FAMILIES[kind], _Config(config, name)
    number = read.number
    layers, hidden = number("num_hidden_layers"), number("hidden_size")
    heads = number("num_attention_heads")
    kv_heads = number("num_key_value_heads", default=heads)
    if not (layers and hidden and heads and kv_heads):
        raise PlanningError(f"The config of {name} has a size of 0, so there is nothing to plan.")
    head_dim = number("head_dim", default=hidden // heads)
    notes = []
    if window := read.sliding_window():
        notes.append(
            f"{name} uses a sliding window of {window} tokens: vLLM keeps less KV cache for a long "
            "request than this plan counts"
        )
    dtype = read.dtype()
    if dtype == "float32":  # config/model.py, _get_and_verify_dtype
        notes.append("a float32 checkpoint: vLLM's default dtype loads it in 16 bits")
        dtype = "bfloat16"
    shape = ModelShape(
        name=name,
        source=source,
        config=config,
        family=kind,
        layers=layers,
        hidden=hidden,
        intermediate=number("intermediate_size", default=0 if family.get("moe") else None),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=number("vocab_size"),
        max_positions=number("max_position_embeddings", default=4096),
        tied=bool(config.get("tie_word_embeddings", False)),
        dtype_bytes=DTYPE_BYTES[dtype],
        weight_bytes=float(DTYPE_BYTES[dtype]),
        qkv_bias=bool(family.get("qkv_bias") or config.get("attention_bias")),
        o_bias=bool(kind == "llama" and config.get("attention_bias")),
        qk_norm=bool(family.get("qk_norm")),
        notes=tuple(notes),
    )
    if family.get("moe"):
        shape = replace(shape, **_moe_fields(config, kind, number, layers))
    if family.get("mla"):
        shape = replace(
            shape,
            q_lora=number("q_lora_rank", default=0),
            kv_lora=number("kv_lora_rank"),
            nope_dim=number("qk_nope_head_dim"),
            rope_dim=number("qk_rope_head_dim"),
            v_dim=number("v_head_dim"),
            head_dim=number("qk_nope_head_dim") + number("qk_rope_head_dim"),
        )
    return _with_quantisation(shape, config.get("quantization_config"))


def _moe_fields(config, kind, number, layers) -> dict:
    width = number("moe_intermediate_size", "intermediate_size")
    dense = number("first_k_dense_replace", default=0) if kind.startswith("deepseek") else 0
    step = config.get("decoder_sparse_step", config.get("moe_layer_freq", 1)) or 1
    only_mlp = set(config.get("mlp_only_layers") or ())
    sparse = [
        i for i in range(dense, layers) if i not in only_mlp and (i + (not dense)) % step == 0
    ]
    own_width = config.get("shared_expert_intermediate_size")
    return dict(
        experts=number("num_local_experts", "num_experts", "n_routed_experts"),
        experts_per_token=number("num_experts_per_tok"),
        expert_width=width,
        shared_width=own_width or (config.get("n_shared_experts") or 0) * width,
        shared_gate=bool(own_width),
        expert_bias=config.get("topk_method") == "noaux_tc",
        moe_layers=len(sparse),
    )


def _with_quantisation(shape: ModelShape, quant: dict | None) -> ModelShape:
    if not quant:
        return shape
    method = quant.get("quant_method")
    if method == "fp8":
        block = quant.get("weight_block_size")
        scale = 4 / (block[0] * block[1]) if block else 0.0
        return replace(
            shape,
            weight_bytes=1.0,
            scale_bytes=scale,
            quantisation="fp8",
            quant_group=block[1] if block else 0,
        )
    if method in ("awq", "gptq"):
        bits, group = quant.get("bits", 4), quant.get("group_size", 128)
        return replace(
            shape,
            weight_bytes=bits / 8,
            # a 16-bit scale and a zero point of `bits` for each group of weights
            scale_bytes=(2 + bits / 8) / group if group > 0 else 0.0,
            quantisation=method,
            quant_group=group if group > 0 else 0,
        )
    raise PlanningError(
        f"The planner has no sizes for the quantisation {method!r} of {shape.name}: it knows fp8, "
        "awq and gptq."
    )


# ---------------------------------------------------------------------- what one rank holds
NOT_STORED = ("rope", "absorbed")  # parts that vLLM makes, beside what a checkpoint holds


def padded_vocab(vocab: int) -> int:
    """Rows of the embedding as vLLM keeps it: a multiple of 64."""
    return math.ceil(vocab / VOCAB_PADDING) * VOCAB_PADDING


def stage_layers(layers: int, pp: int) -> list[int]:
    """Layers of each pipeline stage, as vllm.distributed.utils.get_pp_indices splits them.

    The remainder goes to the last stages but one, counted backwards.
    """
    split = [layers // pp] * pp
    for i in range(2, layers % pp + 2):
        split[-i] += 1
    return split


@dataclass
class _Rank:
    """One rank's tensors, as they are added."""

    shape: ModelShape
    tp: int
    ep: int
    dp: int
    tensors: list[Tensor] = field(default_factory=list)

    def linear(self, part: str, rows: int, columns: int) -> None:
        self.tensors.append(Tensor(part, rows * columns, self.shape.weight_bytes))
        if self.shape.scale_bytes:
            self.tensors.append(Tensor("scales", rows * columns, self.shape.scale_bytes))

    def plain(self, part: str, numel: int, size: float | None = None) -> None:
        if numel:
            self.tensors.append(Tensor(part, numel, size or self.shape.dtype_bytes))

    def attention(self) -> None:
        shape, tp = self.shape, self.tp
        queries, keys = shape.heads // tp, max(1, shape.kv_heads // tp)
        width = (queries + 2 * keys) * shape.head_dim
        self.linear("attention", width, shape.hidden)
        if shape.qkv_bias:
            self.plain("attention", width)
        self.linear("attention", shape.hidden, queries * shape.head_dim)
        if shape.o_bias:
            self.plain("attention", shape.hidden)
        if shape.qk_norm:
            self.plain("norms", shape.head_dim)
            self.plain("norms", shape.head_dim)

    def latent_attention(self) -> None:
        shape = self.shape
        h, heads = shape.hidden, shape.heads // self.tp
        qk = shape.nope_dim + shape.rope_dim
        if shape.q_lora:
            # the two down-projections are one matrix, whole on every rank
            self.linear("attention", shape.q_lora + shape.kv_lora + shape.rope_dim, h)
            self.plain("norms", shape.q_lora)
            self.linear("attention", heads * qk, shape.q_lora)
        else:
            self.linear("attention", heads * qk, h)
            self.linear("attention", shape.kv_lora + shape.rope_dim, h)
        self.plain("norms", shape.kv_lora)
        self.linear("attention", heads * (shape.nope_dim + shape.v_dim), shape.kv_lora)
        self.linear("attention", h, heads * shape.v_dim)
        # vLLM keeps 16-bit copies of the up-projection, for keys and for values, so that decoding
        # can work on the latent (MLACommonImpl.process_weights_after_loading).
        self.plain("absorbed", heads * shape.nope_dim * shape.kv_lora, 2)
        self.plain("absorbed", heads * shape.v_dim * shape.kv_lora, 2)

    def mlp(self) -> None:
        width = self.shape.intermediate
        self.linear("mlp", 2 * width // self.tp, self.shape.hidden)
        self.linear("mlp", self.shape.hidden, width // self.tp)

    def experts(self) -> None:
        shape, h = self.shape, self.shape.hidden
        self.plain("router", shape.experts * h)
        if shape.expert_bias:
            self.plain("router", shape.experts, 4)
        if shape.shared_width:
            self.linear("mlp", 2 * shape.shared_width // self.tp, h)
            self.linear("mlp", h, shape.shared_width // self.tp)
            if shape.shared_gate:
                self.plain("router", h)
        experts, width = shape.experts, shape.expert_width
        if self.ep > 1:
            experts = math.ceil(experts / self.ep)
        else:
            width //= self.tp * self.dp
        self.linear("experts", experts * 2 * width, h)
        self.linear("experts", experts * h, width)


def rank_tensors(
    shape: ModelShape, tp: int = 1, pp: int = 1, pp_rank: int = 0, ep: int = 1, dp: int = 1
) -> list[Tensor]:
    """The tensors of one rank in the order in which vLLM creates them.

    tp, dp: tensor and data parallel size; pp, pp_rank: pipeline parallel size and stage; ep: over
    how many ranks whole experts are spread (with --enable-expert-parallel: tp x dp). With ep 1 each
    expert is cut over tp x dp ranks: data parallelism copies everything but the experts
    (FusedMoEParallelConfig.make in vllm/model_executor/layers/fused_moe/config.py). Sharding
    (vllm/model_executor/layers/linear.py): columns of qkv and gate_up, rows of o and down, the
    vocabulary of embedding and lm_head are split by tp; norms and routers are whole on every rank;
    a KV head is copied when tp > kv_heads. Raises PlanningError for sizes that vLLM refuses.
    """
    if problem := why_invalid(shape, tp, pp, dp, ep):
        raise PlanningError(problem)
    rank = _Rank(shape, tp, ep, dp)
    split = stage_layers(shape.layers, pp)
    first = sum(split[:pp_rank])
    vocab_rows = padded_vocab(shape.vocab) // tp
    is_first, is_last = pp_rank == 0, pp_rank == pp - 1
    if is_first or (is_last and shape.tied):
        rank.plain("embedding", vocab_rows * shape.hidden)
    # one rotary table for the whole model: (positions, rotary width), made when the first layer is
    rank.plain("rope", shape.max_positions * (shape.rope_dim or shape.head_dim))
    for layer in range(first, first + split[pp_rank]):
        if shape.mla:
            rank.latent_attention()
        else:
            rank.attention()
        if layer >= shape.layers - shape.moe_layers:
            rank.experts()
        else:
            rank.mlp()
        rank.plain("norms", shape.hidden)
        rank.plain("norms", shape.hidden)
    if is_last:
        rank.plain("norms", shape.hidden)
        if not shape.tied:
            rank.plain("lm_head", vocab_rows * shape.hidden)
    return rank.tensors


def weight_bytes(shape: ModelShape, tp: int = 1, pp: int = 1, pp_rank: int = 0) -> int:
    """Bytes of parameters on one rank (without the rotary table and other buffers)."""
    tensors = rank_tensors(shape, tp, pp, pp_rank)
    return sum(t.bytes for t in tensors if t.part not in NOT_STORED)


def weight_parts(shape: ModelShape, tp: int) -> dict[str, int]:
    """Bytes on one rank by part (attention, mlp, experts, norms, embedding, lm_head, ...)."""
    parts: dict[str, int] = {}
    for tensor in rank_tensors(shape, tp):
        parts[tensor.part] = parts.get(tensor.part, 0) + tensor.bytes
    return parts


# ---------------------------------------------------------------- valid sizes, in vLLM's words
def why_invalid(shape: ModelShape, tp: int, pp: int = 1, dp: int = 1, ep: int = 1) -> str | None:
    """None when vLLM accepts these sizes for this model, else one sentence that quotes vLLM.

    Sources: ModelConfig.verify_with_parallel_config and the divisions in the layers (vLLM 0.32.0).
    """
    for label, size in (("tensor", tp), ("pipeline", pp), ("data", dp)):
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            return f"The {label} parallel size must be a whole number of at least 1, not {size!r}."
    why = _heads_invalid(shape, tp) or _widths_invalid(shape, tp)
    if why:
        return f"vLLM refuses tensor parallel size {tp}{why}"
    if why := _experts_invalid(shape, tp * dp, ep):
        size = f"{tp}" if dp == 1 else f"{tp} x data parallel size {dp}"
        return f"vLLM refuses tensor parallel size {size}{why}"
    if ep > 1 and not shape.experts:
        return f"{shape.name} has no experts, so --enable-expert-parallel has nothing to spread."
    if pp > shape.layers:
        return (
            f"A pipeline of {pp} stages needs at least {pp} layers, and {shape.name} has "
            f"{shape.layers}."
        )
    return None


def _heads_invalid(shape: ModelShape, tp: int) -> str:
    if shape.heads % tp:
        return (
            f': "Total number of attention heads ({shape.heads}) must be divisible by tensor '
            f'parallel size ({tp})."'
        )
    many, few = max(shape.kv_heads, tp), min(shape.kv_heads, tp)
    if many % few and not shape.mla:
        return (
            f": the {shape.kv_heads} KV heads can be neither shared out nor copied evenly "
            f'("{many} is not divisible by {few}").'
        )
    return ""


def _widths_invalid(shape: ModelShape, tp: int) -> str:
    mlp = shape.intermediate if shape.moe_layers < shape.layers else 0
    for what, width in (
        ("MLP width", mlp),
        ("width of the shared experts", shape.shared_width),
        ("vocabulary, padded to a multiple of 64,", padded_vocab(shape.vocab)),
    ):
        if width % tp:
            return f': the {what} does not divide ("{width} is not divisible by {tp}").'
    return _blocks_invalid(shape, mlp, tp)


def _experts_invalid(shape: ModelShape, ranks: int, ep: int) -> str:
    """Each expert is cut over all ranks, unless whole experts are spread over them."""
    width = shape.expert_width
    if ep > 1 or not width:
        return ""
    if width % ranks:
        return (
            f': the width of an expert does not divide ("{width} is not divisible by {ranks}"); '
            "--enable-expert-parallel spreads whole experts instead."
        )
    return _blocks_invalid(shape, width, ranks)


def _blocks_invalid(shape: ModelShape, width: int, ranks: int) -> str:
    if not shape.quant_group or ranks == 1 or not (width // ranks) % shape.quant_group:
        return ""
    return (
        f' with {shape.quantisation} weights: "Weight input_size_per_partition = '
        f"{width // ranks} is not divisible by weight quantization block_k = "
        f'{shape.quant_group}."'
    )


def valid_sizes(shape: ModelShape, up_to: int) -> list[dict]:
    """One row for every tensor parallel size up to ``up_to``: {"tp", "valid", "why"}."""
    reasons = {tp: why_invalid(shape, tp) for tp in range(1, up_to + 1)}
    return [{"tp": tp, "valid": why is None, "why": why or ""} for tp, why in reasons.items()]


# ---------------------------------------------------------------------- work of one token
def matmul_parameters(
    shape: ModelShape, tp: int = 1, layers: int | None = None, last: bool = True
) -> dict:
    """Parameters that matrix products use for one token, on one rank that holds ``layers`` layers.

    {"attention": (active, element bytes), ...}; experts counted as a token uses them.
    """
    scale = 1.0 if layers is None else layers / shape.layers
    h, w = shape.hidden, shape.weight_bytes
    dense_layers = shape.layers - shape.moe_layers
    mlp = (
        dense_layers * 3 * h * shape.intermediate // tp
        + shape.moe_layers * 3 * h * shape.shared_width // tp
    )
    experts = shape.moe_layers * (3 * h * shape.expert_width // tp * shape.experts_per_token)
    router = shape.moe_layers * shape.experts * h
    parts = {
        "attention": (int(shape.layers * _attention_parameters(shape, tp) * scale), w),
        "mlp": (int(mlp * scale), w),
        "experts": (int(experts * scale), w),
        "router": (int(router * scale), float(shape.dtype_bytes)),
    }
    if last:
        parts["lm_head"] = (padded_vocab(shape.vocab) // tp * h, float(shape.dtype_bytes))
    return {k: v for k, v in parts.items() if v[0]}


def _attention_parameters(shape: ModelShape, tp: int) -> int:
    """Parameters of one layer's attention on one rank."""
    h, heads = shape.hidden, shape.heads // tp
    if not shape.mla:
        return (2 * heads + 2 * max(1, shape.kv_heads // tp)) * shape.head_dim * h
    down = (shape.q_lora + shape.kv_lora + shape.rope_dim) * h
    up = heads * (shape.nope_dim + shape.rope_dim) * (shape.q_lora or h)
    up += heads * (shape.nope_dim + shape.v_dim) * shape.kv_lora
    return down + up + h * heads * shape.v_dim
