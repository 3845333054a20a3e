"""Number formats: bytes of a weight, what stays in 16 bits, and what has no data."""

import pytest

from helpers.planning import PlanningError, load_shape
from helpers.planning.models import shape_from_config, weight_bytes

PACKED = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}
FLOAT8 = {"num_bits": 8, "type": "float", "strategy": "channel"}


def compressed(weights, activations=None, ignore=("lm_head",)):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": group},
        "ignore": list(ignore),
    }


def quantised(quant, name="Llama-3.1-8B", **more):
    config = {**load_shape(name).config, "quantization_config": quant}
    return shape_from_config(config, name, **more)


@pytest.mark.parametrize(
    "quant, bytes_of_a_weight",
    [
        ({"quant_method": "fp8"}, 1.0),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 1 + 4 / 128**2),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 0.5 + 2.5 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": 64}, 1 + 3 / 64),
        (compressed(PACKED), 0.5 + 2 / 128),
        (compressed(FLOAT8, FLOAT8), 1.0),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 1.0),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 0.5 + 1 / 16),
    ],
)
def test_linear_layers_are_stored_as_the_checkpoint_says(quant, bytes_of_a_weight):
    whole, plain = quantised(quant), load_shape("Llama-3.1-8B")
    linear = 32 * (4096 * (4096 + 2 * 1024) + 4096**2 + 3 * 4096 * 14336)
    saved = weight_bytes(plain) - weight_bytes(whole)
    assert saved == pytest.approx(linear * (2 - bytes_of_a_weight), rel=1e-6)
    assert whole.parameters() == plain.parameters()


def test_modules_that_a_checkpoint_names_stay_in_16_bits():
    everything = quantised(compressed(FLOAT8, FLOAT8))
    attention = quantised(compressed(FLOAT8, FLOAT8, ["re:.*self_attn.*", "lm_head"]))
    first = quantised({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp"]})
    kept = 32 * (4096 * (4096 + 2 * 1024) + 4096**2)
    assert weight_bytes(attention) - weight_bytes(everything) == kept
    assert weight_bytes(first) - weight_bytes(everything) == 3 * 4096 * 14336


def test_gpt_oss_keeps_16_bits_but_for_its_experts():
    """120B: 36 layers of 128 experts in 4 bits, padded to 3,072 x 2,944."""
    shape = load_shape("gpt-oss-120b")
    experts = 36 * 128 * 3 * 2944 * 3072
    rest = shape.parameters() - 36 * 128 * 3 * 2880**2 - 36 * 128 * 3 * 2880
    biases = 36 * 128 * (2 * 2944 + 3072)
    size = experts * (0.5 + 1 / 32) + 2 * (rest + biases)
    assert weight_bytes(shape) == pytest.approx(size, rel=1e-4)


def test_a_16_bit_checkpoint_is_quantised_while_loading():
    online = load_shape("Llama-3.1-8B", quantization="fp8")
    assert weight_bytes(online) == weight_bytes(quantised({"quant_method": "fp8"}))


@pytest.mark.parametrize(
    "quant, more, words",
    [
        ({"quant_method": "bitsandbytes"}, {}, "No data for the quantisation 'bitsandbytes'"),
        ({"quant_method": "awq", "bits": "four"}, {}, "cannot be read"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8"}, {}, "W4A8"),
        ({"quant_method": "awq"}, {"quantization": "fp8"}, "awq already"),
        (None, {"quantization": "int3"}, "No data for --quantization int3"),
        ("fp8", {}, "not an object"),
    ],
)
def test_what_has_no_data_is_said_in_one_sentence(quant, more, words):
    with pytest.raises(PlanningError, match=words) as caught:
        quantised(quant, **more)
    assert "\n" not in str(caught.value)
