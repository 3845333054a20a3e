"""The README's table of cards is what the profile picks and what the installed vLLM says."""

import pytest

from helpers import REPO
from helpers.engine import profile as profiles
from helpers.planning.hardware import get_gpu

# name in the table -> (in the planner's catalogue, as the driver calls it)
CARDS = {
    "T4 (Colab; Kaggle has two)": ("T4", "Tesla T4"),
    "RTX 3060 12 GB": ("RTX-3060-12GB", "NVIDIA GeForce RTX 3060"),
    "RTX 4060 Ti, 4080 16 GB": ("RTX-4080", "NVIDIA GeForce RTX 4080"),
    "RTX 5060 Ti, 5070 Ti, 5080 16 GB": ("RTX-5080", "NVIDIA GeForce RTX 5080"),
    "L4": ("L4", "NVIDIA L4"),
    "A10G (AWS g5)": ("A10G", "NVIDIA A10G"),
    "RTX 3090": ("RTX-3090", "NVIDIA GeForce RTX 3090"),
    "RTX 4090": ("RTX-4090", "NVIDIA GeForce RTX 4090"),
    "RTX 5090": ("RTX-5090", "NVIDIA GeForce RTX 5090"),
}
FP8_BY_HARDWARE = (8, 9)  # Ada; before it Marlin unpacks FP8 weights, as vLLM's fp8.py says


def flash_attention(capability) -> str:
    from vllm.platforms.interface import DeviceCapability
    from vllm.v1.attention.backends.flash_attn import FlashAttentionBackend

    card = DeviceCapability(*capability)
    return "yes" if FlashAttentionBackend.supports_compute_capability(card) else "no: Triton"


def fp8(capability) -> str:
    from vllm.model_executor.layers.quantization.fp8 import Fp8Config

    if capability[0] * 10 + capability[1] < Fp8Config.get_min_capability():
        return "no"
    return "yes" if capability >= FP8_BY_HARDWARE else "weights only"


def row(name: str, monkeypatch) -> str:
    catalogued, driver_name = CARDS[name]
    gpu = get_gpu(catalogued)
    capability = tuple(map(int, gpu.capability.split(".")))
    here = {"name": driver_name, "memory_gib": gpu.usable_gib, "compute_capability": capability}
    monkeypatch.setattr(profiles, "gpus", lambda: (here,))
    monkeypatch.setattr(profiles, "_vllm_is_built_for_cpu", lambda: False)
    picked = profiles.load_profile("gpu")
    cells = (
        name,
        f"{gpu.usable_gib:.1f}",
        picked.model_label,
        "float16" if picked.engine_args.get("dtype") == "half" else "bfloat16",
        f"{picked.max_model_len:,}",
        flash_attention(capability),
        fp8(capability),
    )
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("name", CARDS)
def test_a_cards_row_in_the_readme(name, monkeypatch):
    assert row(name, monkeypatch) in (REPO / "README.md").read_text(encoding="utf-8")
