"""Number formats of weights: bytes as vLLM stores them, and which kernels multiply with them.

A checkpoint says its format under "quantization_config"; ``--quantization fp8`` makes one while
loading. Embeddings, the output layer, routers and the modules that a checkpoint names stay in 16
bits.
"""

import re
from dataclasses import dataclass, field

from .hardware import PlanningError


@dataclass(frozen=True)
class Format:
    """How one matrix is stored.

    weight_bytes, scale_bytes: of one weight, and of its scales (and zero points) for each weight.
    group: weights along the input width that share a scale and must stay on one rank; 0 for none.
    kernel: see Gpu.flops. pad: multiples that experts' (hidden, own width) are padded to.
    """

    name: str
    weight_bytes: float
    scale_bytes: float = 0.0
    group: int = 0
    kernel: str = "16bit"
    pad: tuple[int, int] = (1, 1)


def _few_bits(name: str, bits: int, size: int, zero_points: bool) -> Format:
    """Weights of so many bits; every ``size`` of them have a 16-bit scale, and maybe a zero point.

    size: 0 or less where whole columns share one.
    """
    scale = (2 + bits / 8 * zero_points) / size if size > 0 else 0.0
    return Format(name, bits / 8, scale, max(0, size), f"w{bits}a16")


# gpt-oss's experts, padded as Marlin (Hopper) and TRT-LLM's kernels (Blackwell) want them
# (mxfp4_round_up_hidden_size_and_intermediate_size in fused_moe/oracle/mxfp4.py)
MXFP4 = Format("mxfp4", 0.5, 1 / 32, 32, "w4a16", (256, 128))
NVFP4 = Format("nvfp4", 0.5, 1 / 16, 16, "nvfp4")
FP8 = Format("fp8", 1.0, kernel="fp8")
# What --quantization makes of a 16-bit checkpoint while it is loaded (layers/quantization/online).
ONLINE = {
    "fp8": FP8,
    "fp8_per_tensor": FP8,
    "fp8_per_block": Format("fp8_per_block", 1.0, 4 / 128**2, 128, "fp8"),
    "mxfp8": Format("mxfp8", 1.0, 1 / 32, 32, "mxfp8"),
}


@dataclass(frozen=True)
class Formats:
    """The format of every module of a model: ``chosen``, but where ``kept`` matches its name."""

    plain: Format
    chosen: Format | None = None
    kept: tuple = ()
    _seen: dict = field(default_factory=dict, compare=False, repr=False)

    def of(self, module: str) -> Format:
        """The format of a module such as "model.layers.3.self_attn.o_proj"."""
        if self.chosen is None:
            return self.plain
        if module not in self._seen:
            kept = any(pattern.search(module) for pattern in self.kept)
            self._seen[module] = self.plain if kept else self.chosen
        return self._seen[module]


def _patterns(names) -> tuple:
    """Compiled patterns of the names that a checkpoint leaves in 16 bits.

    "re:..." is a regular expression, "*" a wildcard; a plain name stands for itself and for what
    lies below it.
    """
    made = []
    for name in names or ():
        text = str(name)
        if text.startswith("re:"):
            made.append(re.compile(text[3:]))
            continue
        text = re.escape(text).replace(r"\*", ".*")
        made.append(re.compile(rf"(^|\.){text}($|\.)"))
    return tuple(made)


def read_formats(config: dict, name: str, dtype_bytes: int, asked: str | None = None) -> Formats:
    """The formats of a checkpoint, or of one that ``asked`` (--quantization) converts.

    Raises PlanningError for a format without data.
    """
    plain = Format({2: "bfloat16", 4: "float32"}[dtype_bytes], float(dtype_bytes))
    quant = config.get("quantization_config") or config.get("compression_config")
    if not quant and asked and asked not in ONLINE:
        raise PlanningError(
            f"No data for --quantization {asked} of a 16-bit checkpoint: the planner knows "
            f"{', '.join(ONLINE)}."
        )
    if not quant:
        return Formats(plain, ONLINE.get(asked))
    if not isinstance(quant, dict):
        raise PlanningError(f"The quantization_config of {name} is not an object: {quant!r}.")
    method = str(quant.get("quant_method") or quant.get("quant_algo") or "").lower()
    if asked and not method.startswith(asked.split("_")[0]):
        raise PlanningError(
            f"vLLM refuses --quantization {asked} for {name}: its checkpoint is {method} already."
        )
    readers = {
        "fp8": _fp8, "awq": _packed, "gptq": _packed, "mxfp4": _mxfp4,
        "compressed-tensors": _compressed, "modelopt": _modelopt, "modelopt_fp4": _modelopt,
    }  # fmt: skip
    if method not in readers:
        raise PlanningError(
            f"No data for the quantisation {method!r} of {name}: the planner has sizes for "
            f"{', '.join(readers)}."
        )
    try:
        chosen, kept = readers[method](quant)
        return Formats(plain, chosen, _patterns(kept))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as problem:
        raise PlanningError(
            f"The quantization_config of {name} cannot be read ({problem!r})."
        ) from None


# ---------------------------------------------------------------------- readers
# Each gives (the format, the names of modules that are kept in 16 bits) of a quantization_config.
def _fp8(quant: dict) -> tuple:
    chosen = FP8
    if block := quant.get("weight_block_size"):
        rows, columns = map(int, block)
        chosen = Format("fp8", 1.0, 4 / (rows * columns), columns, "fp8")
    return chosen, quant.get("modules_to_not_convert")


def _packed(quant: dict) -> tuple:
    """AWQ and GPTQ."""
    bits, size = int(quant.get("bits", 4)), int(quant.get("group_size", 128))
    chosen = _few_bits(quant["quant_method"], bits, size, zero_points=True)
    return chosen, quant.get("modules_to_not_convert")


def _mxfp4(quant: dict) -> tuple:
    """VLLM quantises nothing but experts in this method (layers/quantization/mxfp4.py)."""
    return MXFP4, [r"re:^(?!.*\.experts)"]


def _compressed(quant: dict) -> tuple:
    """compressed-tensors: one scheme for all linear layers, but those under "ignore"."""
    groups = list(quant["config_groups"].values())
    if len(groups) != 1:
        raise ValueError(f"{len(groups)} groups of layers, and sizes are known for 1")
    weights, activations = groups[0]["weights"], groups[0].get("input_activations")
    bits, size = int(weights["num_bits"]), int(weights.get("group_size") or 0)
    if weights.get("type") == "float" and bits == 4:
        chosen = NVFP4
    elif bits == 8 and activations:
        kernel = "fp8" if weights.get("type") == "float" else "int8"
        chosen = Format(f"w8a8 {kernel}", 1.0, kernel=kernel)
    else:
        chosen = _few_bits(f"w{bits}a16", bits, size, not weights.get("symmetric", True))
    return chosen, quant.get("ignore")


def _modelopt(quant: dict) -> tuple:
    said = quant.get("quantization", quant)  # hf_quant_config.json nests it
    algorithm = str(said.get("quant_algo", "")).upper()
    known = {"FP8": FP8, "NVFP4": NVFP4}
    if algorithm not in known:
        raise ValueError(f"quant_algo {algorithm!r}, and sizes are known for FP8 and NVFP4")
    return known[algorithm], said.get("exclude_modules") or said.get("ignore")
