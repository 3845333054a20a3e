"""The benchmark of drafters, without an engine: the head's shape, the text that repeats itself."""

import json
from pathlib import Path

from benchmarks import drafters
from helpers.engine import load_profile


def test_a_head_has_the_sizes_of_its_model_and_reads_three_of_its_layers():
    profile = load_profile("cpu", "Qwen/Qwen2.5-7B-Instruct", "dummy")
    config = drafters.drafters(profile)["EAGLE-3 head"]
    head = json.loads((Path(config["model"]) / "config.json").read_text())
    assert (head["hidden_size"], head["vocab_size"], head["num_hidden_layers"]) == (3584, 152064, 1)
    assert head["draft_vocab_size"] == 32000
    assert head["eagle_aux_hidden_state_layer_ids"] == [1, 14, 26]
    assert config["synthetic_acceptance_rates"][0] == drafters.BATCH_RATE


def test_prompts_repeat_a_phrase_of_their_own():
    prompts = [r.prompt_token_ids for r in drafters.repeating(2048, 3).requests]
    assert all(ids[:16] == ids[16:32] == ids[-16:] and len(ids) == 64 for ids in prompts)
    assert len({tuple(ids) for ids in prompts}) == 3
