"""Size a model from its config.json: every tensor that one rank of vLLM holds.

Nothing here starts vLLM. The rules are read from vLLM 0.32's layers and checked against them: the
tests build the same models on torch's "meta" device with vLLM's own classes and compare bytes.
"""

import contextlib
import json
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from helpers import REPO

from .formats import Formats, read_formats
from .hardware import PlanningError

CONFIG_FOLDER = REPO / "helpers" / "engine" / "model_configs"

# What comes along, and what differs between families: families.json says what its words mean.
_DATA = json.loads(Path(__file__).with_name("families.json").read_text())
SHIPPED, FAMILIES = _DATA["shipped"], _DATA["families"]
KEYS, MAY_BE_MISSING = _DATA["keys"], _DATA["may_be_missing"]
CONFIG_KEYS = ("qkv_bias", "o_bias", "qk_norm")  # traits that a string looks up in the config
LAYER_TYPES = {
    "full_attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
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
    are made by vLLM and not in the checkpoint. ``kernel``: of a matrix (Gpu.flops), "" for others.
    """

    part: str
    numel: int
    element_bytes: float
    kernel: str = ""

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
    formats: Formats = field(repr=False)
    family: str = "llama"
    traits: tuple = ()  # what FAMILIES says of the family, as (name, value), keys looked up
    # how each layer attends: "full", "sliding", "chunked", "linear" or "latent"
    attention: tuple = ()
    mixtures: tuple = ()  # whether each layer is a mixture of experts
    hidden: int = 0
    intermediate: int = 0  # of a dense layer
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    vocab: int = 0
    max_positions: int = 0
    tied: bool = False
    dtype_bytes: int = 2
    window: int = 0  # tokens that a sliding or chunked layer looks back
    rotary_dim: int = 0
    # mixture of experts
    experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    shared_width: int = 0  # all shared experts together
    shared_gate: bool = False
    # multi-head latent attention
    q_lora: int = 0
    kv_lora: int = 0
    nope_dim: int = 0
    rope_dim: int = 0
    v_dim: int = 0
    # its indexer (sparse attention): heads, width of a head, and tokens that it picks
    index_heads: int = 0
    index_dim: int = 0
    index_topk: int = 0
    # linear attention (gated delta net)
    linear_k_heads: int = 0
    linear_v_heads: int = 0
    linear_k_dim: int = 0
    linear_v_dim: int = 0
    linear_conv: int = 0
    quantisation: str = ""
    notes: tuple = ()

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return len(self.attention)

    @property
    def moe_layers(self) -> int:
        """Layers with a mixture of experts."""
        return sum(self.mixtures)

    @property
    def mla(self) -> bool:
        """Whether attention keeps one latent for all heads."""
        return self.kv_lora > 0

    def trait(self, name: str):
        """What FAMILIES says of this model; None for what it does not say."""
        return dict(self.traits).get(name)

    # ------------------------------------------------------------------ totals
    def parameters(self) -> int:
        """All parameters of the model, once (without padding or copies)."""
        plain = replace(self, formats=Formats(self.formats.plain))
        stored = [t for t in rank_tensors(plain) if t.part not in NOT_STORED]
        padding = padded_vocab(self.vocab) - self.vocab
        copies = 1 if self.tied else 2
        return sum(t.numel for t in stored) - padding * self.hidden * copies

    def kv_bytes_per_token(
        self, tp: int = 1, kv_dtype: str = "auto", layers: int | None = None
    ) -> int:
        """Bytes of KV cache that one token takes on one rank that holds ``layers`` of the layers.

        GQA: 2 (K and V) x layers x max(1, kv_heads // tp) x head_dim x bytes. A KV head is copied,
        not split, when tp is larger than kv_heads. MLA: one latent for all heads, on every rank.
        Layers of linear attention keep a state for the whole request and nothing for a token.
        """
        kept = self.layers - self.attention.count("linear")
        layers = kept if layers is None else layers * kept // self.layers
        return layers * self.layer_kv_bytes(tp, kv_dtype)

    def layer_kv_bytes(self, tp: int, kv_dtype: str) -> int:
        """Bytes of KV cache of one token in one layer that attends to tokens."""
        size = kv_element_bytes(kv_dtype, self)
        if not self.mla:
            return 2 * max(1, self.kv_heads // tp) * self.head_dim * size
        if not self.index_heads:
            return (self.kv_lora + self.rope_dim) * size
        # DeepSeek-V3.2 keeps its own layout with fp8 (fp8_ds_mla), and a key of the indexer in fp8
        latent = 656 if size == 1 else (self.kv_lora + self.rope_dim) * size
        return latent + self.index_dim + 4

    def linear_state_bytes(self, tp: int) -> int:
        """Bytes that one request keeps in one layer of linear attention, on one rank.

        The convolution's last inputs in the model's type and, for each value head, a matrix in
        float32 (MambaStateShapeCalculator.gated_delta_net_state_shape).
        """
        keys, values = (
            self.linear_k_heads * self.linear_k_dim,
            self.linear_v_heads * self.linear_v_dim,
        )
        conv = (2 * keys + values) // tp * (self.linear_conv - 1)
        return conv * self.dtype_bytes + values // tp * self.linear_k_dim * 4


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
        "with a config.json and a Hugging Face id work too.",
        f"--model {near[0]}",
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
    """The config of the hub's cache, or of the hub itself where it answers within a second."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        try:
            file = hf_hub_download(model, "config.json", local_files_only=True)
        except LocalEntryNotFoundError:
            if not _hub_answers():
                raise
            file = hf_hub_download(model, "config.json")
        return json.loads(Path(file).read_text()), Path(model).name, model
    except Exception as problem:  # the hub raises many kinds; each means "no config from there"
        why = f"could not be fetched from Hugging Face ({type(problem).__name__})"
        if isinstance(problem, LocalEntryNotFoundError):
            why = "is not on this machine, and Hugging Face does not answer within a second"
        raise PlanningError(
            f"The config of {model!r} {why}: give a folder with its config.json, or one of "
            f"{', '.join(SHIPPED)}."
        ) from None


def _hub_answers(within_s: float = 1.0) -> bool:
    """Whether Hugging Face can be reached, by the proxy or mirror that is set, if any."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    answers = []

    def ask() -> None:
        with contextlib.suppress(Exception):
            answers.append(get_session().head(constants.ENDPOINT, timeout=within_s))

    # In a thread: looking up a name that nobody knows may take longer than any timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(within_s)
    return bool(answers)


def _shipped_name(text: str) -> str | None:
    """'Qwen/Qwen2.5-7B-Instruct', 'qwen2.5-7b' and 'Qwen2.5-7B' are one shipped config."""
    tail = text.split("/")[-1].lower()
    for suffix in ("-instruct-v0.1", "-v0.1", "-instruct", "-base", "-chat"):
        tail = tail.removesuffix(suffix)
    tail = tail.removeprefix("meta-")
    return next((name for name in SHIPPED if name.lower() == tail), None)


def load_shape(model, quantization: str | None = None) -> ModelShape:
    """The ModelShape of a config (see load_config for what ``model`` may be).

    quantization: vLLM's --quantization, which converts a 16-bit checkpoint while loading.
    """
    if isinstance(model, ModelShape):
        return model
    config, name, source = load_config(model)
    return shape_from_config(config, name, source, quantization)


def _size(config: dict, model: str, keys: list[str], default: int | None = None) -> int:
    """The first of the keys that is there. Raises PlanningError for what is not a size."""
    key = next((key for key in keys if config.get(key) is not None), None)
    value = config[key] if key else default
    if value is None:
        raise PlanningError(
            f"The config of {model} has no {keys[0]}: is it the config.json of a language model?"
        )
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PlanningError(f"The config of {model} has {key} = {value!r}, which is not a size.")
    return value


def _dtype(config: dict, model: str) -> str:
    """The number format that the config names."""
    said = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    dtype = said.removeprefix("torch.")
    if dtype not in DTYPE_BYTES:
        raise PlanningError(
            f"The config of {model} asks for dtype {dtype!r}, which vLLM does not load."
        )
    return dtype


def shape_from_config(
    config: dict, name: str = "model", source: str = "MODEL", quantization: str | None = None
) -> ModelShape:
    """Read a ModelShape from the dict of a config.json.

    quantization: vLLM's --quantization. Raises PlanningError for what cannot be sized.
    """
    whole = config
    config = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise PlanningError(
            f"The planner cannot size the model type {kind!r} of {name}: it knows "
            f"{', '.join(FAMILIES)}. vLLM itself says what a rank holds: "
            "python -m helpers.planning.ask_vllm FOLDER --tp 1 2 4."
        )
    family, size = FAMILIES[kind], partial(_size, config, name)
    layers = size(["num_hidden_layers"])
    if not 0 < layers <= 1000:
        raise PlanningError(
            f"The config of {name} has num_hidden_layers = {layers}, so there is nothing to plan."
        )
    attention = _attention_kinds(config, family, layers)
    parts = ["all", *(part for part in ("moe", "mla") if family.get(part)), *{*attention}]
    optional = [*MAY_BE_MISSING, "intermediate"] if family.get("moe") else MAY_BE_MISSING
    sizes = {
        field: size(keys, 0 if field in optional else None)
        for part in parts
        for field, keys in KEYS.get(part, {}).items()
    }
    sizes["kv_heads"] = size(["num_key_value_heads"], sizes["heads"])
    if not (sizes["hidden"] and sizes["heads"] and sizes["kv_heads"]):
        raise PlanningError(f"The config of {name} has a size of 0, so there is nothing to plan.")
    dtype, notes = _dtype(config, name), []
    if "vision_config" in whole:
        notes.append(
            f"{name} is sized without its vision encoder: start it with --language-model-only, or "
            "leave room for the encoder and its images"
        )
    if dtype == "float32":  # config/model.py, _get_and_verify_dtype
        notes.append("a float32 checkpoint: vLLM's default dtype loads it in 16 bits")
        dtype = "bfloat16"
    if not sizes["max_positions"]:
        sizes["max_positions"] = 4096
        notes.append(
            f"the config of {name} says no max_position_embeddings: 4,096 is assumed here, unless "
            "max_model_len says more"
        )
    quantised = {**whole, **config} if "quantization_config" not in config else config
    formats = read_formats(quantised, name, DTYPE_BYTES[dtype], quantization)
    return ModelShape(
        name=name,
        source=source,
        config=config,
        formats=formats,
        family=kind,
        traits=_traits(config, family),
        attention=attention,
        mixtures=_mixtures(config, family, layers),
        tied=bool(config.get("tie_word_embeddings", family.get("tied", False))),
        dtype_bytes=DTYPE_BYTES[dtype],
        quantisation=formats.chosen.name if formats.chosen else "",
        notes=tuple(notes),
        **sizes,
        **_widths(config, family, sizes, size),
    )


def _traits(config: dict, family: dict) -> tuple:
    """What FAMILIES says, with the keys of the config that decide looked up."""
    said = {
        name: config.get(value, False) if name in CONFIG_KEYS and isinstance(value, str) else value
        for name, value in family.items()
    }
    if config.get("topk_method") == "noaux_tc":
        said["correction"] = True
    return tuple(said.items())


def _attention_kinds(config: dict, family: dict, layers: int) -> tuple:
    """How each layer attends; in a pattern every n-th layer to all tokens, the others less far."""
    if family.get("mla"):
        return ("latent",) * layers
    if said := config.get("layer_types"):
        return tuple(LAYER_TYPES.get(kind, "full") for kind in said[:layers])
    if "others" in family:
        every = config.get("sliding_window_pattern") or config.get("full_attention_interval")
        every = every or family["every"]
        return tuple("full" if (i + 1) % every == 0 else family["others"] for i in range(layers))
    windowed = config.get("sliding_window") and config.get("use_sliding_window", True)
    return ("sliding" if windowed else "full",) * layers


def _mixtures(config: dict, family: dict, layers: int) -> tuple:
    """Which layers are mixtures of experts."""
    if not family.get("moe"):
        return (False,) * layers
    dense = int(config.get("first_k_dense_replace") or 0) if family.get("dense_first") else 0
    keys = ("interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_freq")
    step = next((config[key] for key in keys if config.get(key)), 1)
    only_mlp = set(config.get("mlp_only_layers") or ())
    return tuple(
        i >= dense and i not in only_mlp and (i + (not dense)) % step == 0 for i in range(layers)
    )


def _widths(config: dict, family: dict, sizes: dict, size) -> dict:
    """The width of a head, how much of it is rotated, and the width of the shared experts."""
    own_width = config.get("shared_expert_intermediate_size") if family.get("moe") else None
    shared = config.get("n_shared_experts") or family.get("shared") or 0
    found = {"shared_width": own_width or shared * sizes.get("expert_width", 0)}
    found["shared_gate"] = bool(own_width)
    if family.get("mla"):
        rope = sizes["rope_dim"]
        return found | {"head_dim": sizes["nope_dim"] + rope, "rotary_dim": rope}
    width = size(["head_dim"], sizes["hidden"] // sizes["heads"])
    share = float(config.get("partial_rotary_factor") or family.get("rotary", 1.0))
    return found | {"head_dim": width, "rotary_dim": int(width * share)}


# ---------------------------------------------------------------------- what one rank holds
NOT_STORED = ("rope", "absorbed", "scales")  # parts beside the parameters of a checkpoint


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


def stage_range(layers: int, pp: int, pp_rank: int) -> range:
    """The layers of one pipeline stage by number."""
    split = stage_layers(layers, pp)
    first = sum(split[:pp_rank])
    return range(first, first + split[pp_rank])


@dataclass
class _Rank:
    """One rank's tensors, as they are added."""

    shape: ModelShape
    tp: int
    ep: int
    dp: int
    layer: int = 0
    tensors: list[Tensor] = field(default_factory=list)

    def linear(self, part: str, module: str, rows: int, columns: int) -> None:
        kind = self.shape.formats.of(f"model.layers.{self.layer}.{module}")
        self.tensors.append(Tensor(part, rows * columns, kind.weight_bytes, kind.kernel))
        if kind.scale_bytes:
            self.tensors.append(Tensor("scales", rows * columns, kind.scale_bytes))

    def plain(self, part: str, numel: int, size: float | None = None, kernel: str = "") -> None:
        if numel:
            self.tensors.append(Tensor(part, numel, size or self.shape.dtype_bytes, kernel))

    def where(self, trait: str, part: str, numel: int, size: float | None = None) -> None:
        """A plain tensor that only families with this trait have."""
        if self.shape.trait(trait):
            self.plain(part, numel, size)

    def norms(self, count: int, width: int) -> None:
        for _ in range(count):
            self.plain("norms", width)

    def attend(self) -> None:
        """The attention of a layer, by its kind."""
        kind = self.shape.attention[self.layer]
        {"latent": self.latent, "linear": self.delta_net}.get(kind, self.grouped)()

    def grouped(self) -> None:
        """Grouped-query attention, whatever its window."""
        shape, tp = self.shape, self.tp
        queries, keys = shape.heads // tp, max(1, shape.kv_heads // tp)
        gated = 2 if shape.trait("output_gate") else 1
        width = (queries * gated + 2 * keys) * shape.head_dim
        seen = shape.hidden * (2 if shape.trait("wide") else 1)
        self.linear("attention", "self_attn.q_proj", width, seen)
        self.where("qkv_bias", "attention", width)
        self.linear("attention", "self_attn.o_proj", shape.hidden, queries * shape.head_dim)
        self.where("o_bias", "attention", shape.hidden)
        self.where("sinks", "attention", queries)
        if shape.trait("qk_norm"):
            self.norms(2, shape.head_dim)

    def latent(self) -> None:
        """Multi-head latent attention."""
        shape = self.shape
        h, heads = shape.hidden, shape.heads // self.tp
        qk = shape.nope_dim + shape.rope_dim
        if shape.q_lora:
            # the two down-projections are one matrix, whole on every rank
            down = shape.q_lora + shape.kv_lora + shape.rope_dim
            self.linear("attention", "self_attn.q_a_proj", down, h)
            self.norms(1, shape.q_lora)
            self.linear("attention", "self_attn.q_b_proj", heads * qk, shape.q_lora)
        else:
            self.linear("attention", "self_attn.q_proj", heads * qk, h)
            down = shape.kv_lora + shape.rope_dim
            self.linear("attention", "self_attn.kv_a_proj_with_mqa", down, h)
        self.norms(1, shape.kv_lora)
        up = heads * (shape.nope_dim + shape.v_dim)
        self.linear("attention", "self_attn.kv_b_proj", up, shape.kv_lora)
        self.linear("attention", "self_attn.o_proj", h, heads * shape.v_dim)
        if shape.index_heads:
            self.indexer()
        # vLLM keeps 16-bit copies of the up-projection, for keys and for values, so that decoding
        # can work on the latent (MLACommonImpl.process_weights_after_loading).
        self.plain("absorbed", heads * shape.nope_dim * shape.kv_lora, 2)
        self.plain("absorbed", heads * shape.v_dim * shape.kv_lora, 2)

    def indexer(self) -> None:
        """What picks the tokens that sparse attention looks at; whole on every rank."""
        shape = self.shape
        queries = shape.index_heads * shape.index_dim
        self.linear("attention", "self_attn.indexer.wq_b", queries, shape.q_lora)
        self.plain("attention", (shape.index_dim + shape.index_heads) * shape.hidden)
        self.plain("norms", 2 * shape.index_dim, 4)

    def delta_net(self) -> None:
        """Linear attention (gated delta net): layers/mamba/gdn/qwen_gdn_linear_attn.py."""
        shape, tp = self.shape, self.tp
        keys = shape.linear_k_heads * shape.linear_k_dim // tp
        values = shape.linear_v_heads * shape.linear_v_dim // tp
        heads = shape.linear_v_heads // tp
        self.plain("attention", (2 * keys + values) * shape.linear_conv)
        self.linear("attention", "linear_attn.in_proj_qkvz", 2 * (keys + values), shape.hidden)
        self.linear("attention", "linear_attn.in_proj_ba", 2 * heads, shape.hidden)
        self.plain("attention", heads)
        self.plain("attention", heads, 4)
        self.norms(1, shape.linear_v_dim)
        self.linear("attention", "linear_attn.out_proj", shape.hidden, values)

    def mlp(self, module: str, width: int) -> None:
        """Gate and up as one matrix, and down."""
        self.linear("mlp", f"{module}.gate_proj", 2 * width // self.tp, self.shape.hidden)
        self.linear("mlp", f"{module}.down_proj", self.shape.hidden, width // self.tp)

    def mixture(self) -> None:
        shape, h = self.shape, self.shape.hidden
        self.plain("router", shape.experts * h, shape.trait("router_bytes"), "16bit")
        self.where("router_bias", "router", shape.experts)
        self.where("correction", "router", shape.experts, 4)
        if shape.shared_width:
            self.mlp("mlp.shared_experts", shape.shared_width)
            if shape.shared_gate:
                self.plain("router", h)
        experts, width = local_experts(shape, self.tp, self.dp, self.ep)
        # as the kernel stores them: its own width and the hidden one are padded
        pads = shape.formats.of(f"model.layers.{self.layer}.mlp.experts").pad
        h, rows = (math.ceil(n / pad) * pad for n, pad in zip((h, width), pads, strict=True))
        self.linear("experts", "mlp.experts.gate_proj", experts * 2 * rows, h)
        self.linear("experts", "mlp.experts.down_proj", experts * h, rows)
        self.where("experts_bias", "experts", experts * 2 * rows)
        self.where("experts_bias", "experts", experts * h)


def local_experts(shape: ModelShape, tp: int, dp: int, ep: int) -> tuple[int, int]:
    """(experts, width of each) on one rank.

    vLLM flattens TP over DP: each expert is cut over tp x dp ranks, or whole experts are spread
    over ep of them (FusedMoEParallelConfig.make in vllm/model_executor/layers/fused_moe/config.py).
    """
    if ep > 1:
        return math.ceil(shape.experts / ep), shape.expert_width
    return shape.experts, shape.expert_width // (tp * dp)


def rank_tensors(
    shape: ModelShape, tp: int = 1, pp: int = 1, pp_rank: int = 0, ep: int = 1, dp: int = 1
) -> list[Tensor]:
    """The tensors of one rank in the order in which vLLM creates them.

    tp, dp: tensor and data parallel size; pp, pp_rank: pipeline parallel size and stage; ep: over
    how many ranks whole experts are spread (with --enable-expert-parallel: tp x dp). Data
    parallelism copies everything but the experts (local_experts). Sharding
    (vllm/model_executor/layers/linear.py): columns of qkv and gate_up, rows of o and down, the
    vocabulary of embedding and lm_head are split by tp; norms and routers are whole on every rank;
    a KV head is copied when tp > kv_heads. Raises PlanningError for sizes that vLLM refuses.
    """
    if problem := why_invalid(shape, tp, pp, dp, ep):
        raise PlanningError(problem)
    rank = _Rank(shape, tp, ep, dp)
    vocab_rows = padded_vocab(shape.vocab) // tp
    is_first, is_last = pp_rank == 0, pp_rank == pp - 1
    if is_first or (is_last and shape.tied):
        rank.plain("embedding", vocab_rows * shape.hidden)
    if rows := shape.trait("joins"):  # a drafting head makes one row of several; see speculation.py
        rank.plain("attention", rows * shape.hidden**2, kernel="16bit")
    # one rotary table for the whole model: (positions, rotary width), made when the first layer is
    rank.plain("rope", shape.max_positions * shape.rotary_dim, shape.trait("rope_bytes"))
    for layer in stage_range(shape.layers, pp, pp_rank):
        rank.layer = layer
        rank.attend()
        if shape.mixtures[layer]:
            rank.mixture()
        else:
            rank.mlp("mlp", shape.intermediate)
        rank.norms(shape.trait("norms") or 2, shape.hidden)
    if is_last:
        rank.norms(1, shape.hidden)
        if not shape.tied:
            rank.plain("lm_head", vocab_rows * shape.hidden)
    return rank.tensors


def weight_bytes(shape: ModelShape, tp=1, pp=1, pp_rank=0) -> int:
    """Bytes of parameters on one rank (without the rotary table and other buffers)."""
    tensors = rank_tensors(shape, tp, pp, pp_rank)
    return sum(t.bytes for t in tensors if t.part not in ("rope", "absorbed"))


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
    if why := next(_against_heads(shape, tp), None) or next(_against_widths(shape, tp), None):
        return f"vLLM refuses tensor parallel size {tp}{why}"
    if ep == 1 and (why := next(_against_experts(shape, tp * dp), None)):
        size = f"{tp}" if dp == 1 else f"{tp} x data parallel size {dp}"
        return f"vLLM refuses tensor parallel size {size}{why}"
    if pp > shape.layers:
        return (
            f"A pipeline of {pp} stages needs at least {pp} layers, and {shape.name} has "
            f"{shape.layers}."
        )
    return None


def _against_heads(shape: ModelShape, tp: int) -> Iterator[str]:
    if shape.heads % tp:
        yield (
            f': "Total number of attention heads ({shape.heads}) must be divisible by tensor '
            f'parallel size ({tp})."'
        )
    if (heads := shape.linear_k_heads) % tp or shape.linear_v_heads % tp:
        yield f': the heads of linear attention do not divide ("{heads} is not divisible by {tp}").'
    many, few = max(shape.kv_heads, tp), min(shape.kv_heads, tp)
    if many % few and not shape.mla:
        yield (
            f": the {shape.kv_heads} KV heads can be neither shared out nor copied evenly "
            f'("{many} is not divisible by {few}").'
        )


def _against_widths(shape: ModelShape, tp: int) -> Iterator[str]:
    mlp = shape.intermediate if shape.moe_layers < shape.layers else 0
    for what, width in (
        ("MLP width", mlp),
        ("width of the shared experts", shape.shared_width),
        ("vocabulary, padded to a multiple of 64,", padded_vocab(shape.vocab)),
    ):
        if width % tp:
            yield f': the {what} does not divide ("{width} is not divisible by {tp}").'
    yield from _against_groups(shape, mlp, tp)


def _against_experts(shape: ModelShape, ranks: int) -> Iterator[str]:
    """Each expert is cut over all ranks."""
    width = shape.expert_width
    if width % ranks:
        yield (
            f': the width of an expert does not divide ("{width} is not divisible by {ranks}"); '
            "--enable-expert-parallel spreads whole experts instead."
        )
    yield from _against_groups(shape, width, ranks)


def _against_groups(shape: ModelShape, width: int, ranks: int) -> Iterator[str]:
    """A rank's share of a matrix must be whole groups of weights, unless its kernel pads it."""
    chosen = shape.formats.chosen
    group = chosen.group if chosen and chosen.pad == (1, 1) else 0
    if group and ranks > 1 and (width // ranks) % group:
        yield (
            f' with {shape.quantisation} weights: "Weight input_size_per_partition = '
            f'{width // ranks} is not divisible by weight quantization block_k = {group}."'
        )
