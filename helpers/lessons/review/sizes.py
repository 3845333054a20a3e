"""What a dense model takes, from its configuration: the guesses of notebook 1, made out of sight.

shape: the model's config as transformers reads it (num_hidden_layers, hidden_size, ...).
"""

from __future__ import annotations

BYTES = 2  # of a number in bfloat16
UTILIZATION = 0.92  # vLLM's default of gpu_memory_utilization


def head_dim(shape) -> int:
    """Numbers in one attention head."""
    return getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads


def weights_bytes(shape) -> int:
    """Bytes of bfloat16 weights; biases and norms, which are small, are left out."""
    heads = 2 * shape.num_attention_heads + 2 * shape.num_key_value_heads  # q and o, k and v
    attention = shape.num_hidden_layers * shape.hidden_size * heads * head_dim(shape)
    mlp = 3 * shape.num_hidden_layers * shape.hidden_size * shape.intermediate_size
    embedding = shape.vocab_size * shape.hidden_size
    output = 0 if shape.tie_word_embeddings else embedding
    return BYTES * (attention + mlp + embedding + output)


def kv_bytes_per_token(shape, bytes_per_value: int) -> int:
    """Bytes that a token takes in the KV cache: a key and a value in every layer."""
    numbers = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
    return numbers * bytes_per_value


def kv_cache_bytes(profile, shape) -> float:
    """Bytes for the KV cache: those that are set, else what UTILIZATION leaves over weights."""
    asked_for = profile.engine_args.get("kv_cache_memory_bytes")
    return asked_for or UTILIZATION * profile.memory_gib * 2**30 - weights_bytes(shape)


def memory_argument(profile) -> dict[str, float]:
    """The argument that sets the size of the KV cache, as this notebook's engines are started."""
    name = "kv_cache_memory_bytes" if profile.name == "cpu" else "gpu_memory_utilization"
    return {name: profile.engine_args.get(name, UTILIZATION)}
