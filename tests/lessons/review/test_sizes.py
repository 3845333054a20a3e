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
    found = SimpleNamespace(**{"tie_word_embeddings": False, **config, **changes})
    found.head_dim = sizes.head_dim(found)
    return found


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


def lines_of(cell_id: str) -> str:
    """The calculation of a cell of notebook 1: what stands before it prints."""
    cells = nbformat.read(REPO / "notebooks/01_review.ipynb", as_version=4).cells
    [cell] = [cell for cell in cells if cell.id == cell_id]
    return cell.source.partition("\nprint")[0]


def test_the_lines_of_the_notebook_are_those_behind_its_guesses():
    for name, tied in (("Qwen2.5-7B-Instruct", False), ("Qwen2.5-0.5B-Instruct", True)):
        names = {"shape": shape(name, tie_word_embeddings=tied), "sizes": sizes}
        exec(lines_of("1b7c9852"), names)
        numbers = names["attention"] + names["mlp"] + names["embedding"]
        assert 2 * numbers == sizes.weights_bytes(names["shape"])


@pytest.mark.parametrize(
    ("name", "expected"), [("Qwen2.5-7B-Instruct", 57_344), ("Llama-3.1-8B-Instruct", 131_072)]
)
def test_kv_bytes_count_kv_heads_only(name, expected):
    ours = SimpleNamespace(usable=lambda _, own: own)
    names = {"shape": shape(name), "sizes": sizes, "check": ours, "kv_bytes_per_token": None}
    exec(lines_of("s2-kv"), names)
    assert names["each"] == expected
