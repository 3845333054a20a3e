"""The guesses of notebook 1 against numbers that are printed elsewhere."""

import json
from types import SimpleNamespace

import nbformat
import pytest

from helpers import REPO
from helpers.engine.dummy_model import CONFIGS
from helpers.lessons.review import sizes


def shape(name: str, **changes):
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    return SimpleNamespace(**{"tie_word_embeddings": False, **config, **changes})


def test_weights_of_the_course_model():
    """Qwen2.5-7B-Instruct has 7.61 billion parameters, by its model card."""
    parameters = sizes.weights_bytes(shape("Qwen2.5-7B-Instruct")) / 2
    assert parameters == pytest.approx(7.61e9, rel=0.002)


def test_a_tied_embedding_counts_once():
    tied, two = (
        sizes.weights_bytes(shape("Qwen2.5-7B-Instruct", tie_word_embeddings=tie))
        for tie in (True, False)
    )
    assert two - tied == 152_064 * 3584 * 2, "vocabulary x hidden size, in bfloat16"


def test_the_lines_of_the_notebook_are_those_behind_its_guesses():
    cells = nbformat.read(REPO / "notebooks/01_review.ipynb", as_version=4).cells
    [cell] = [cell for cell in cells if cell.id == "1b7c9852"]
    lines = cell.source.partition("\nprint")[0]
    for name, tied in (("Qwen2.5-7B-Instruct", False), ("Qwen2.5-0.5B-Instruct", True)):
        names = {"shape": shape(name, tie_word_embeddings=tied), "sizes": sizes}
        exec(lines, names)
        numbers = names["attention"] + names["mlp"] + names["embedding"]
        assert 2 * numbers == sizes.weights_bytes(names["shape"])


def test_kv_bytes_count_kv_heads_only():
    assert sizes.kv_bytes_per_token(shape("Qwen2.5-7B-Instruct")) == 57_344
    assert sizes.kv_bytes_per_token(shape("Llama-3.1-8B-Instruct")) == 131_072


def test_arguments_for_few_blocks_on_both_machines():
    info = SimpleNamespace(block_size=16, kv_cache_tokens=1_600_000)
    for name, argument in (("cpu", "kv_cache_memory_bytes"), ("gpu", "gpu_memory_utilization")):
        profile = SimpleNamespace(name=name, memory_gib=200.0)
        engine = SimpleNamespace(profile=profile, info=info)
        [(made, value)] = sizes.arguments_for_blocks(
            engine, 10, shape("Qwen2.5-7B-Instruct")
        ).items()
        assert made == argument
        expected = {"cpu": 160 * 57_344, "gpu": pytest.approx(0.493, abs=0.001)}
        assert value == expected[name]
