"""Workloads: exact sizes, the same for the same seed."""

import pytest
from transformers import AutoTokenizer

from helpers import tiny_model, workloads


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(tiny_model.TARGET)


def test_uniform_has_exact_lengths_and_plain_tokens(tokenizer):
    work = workloads.uniform(tokenizer, 5, 33, 7, seed=3)
    assert [len(r.prompt_token_ids) for r in work.requests] == [33] * 5
    assert {r.max_tokens for r in work.requests} == {7}
    used = {i for r in work.requests for i in r.prompt_token_ids}
    assert not used & set(tokenizer.all_special_ids), "a random prompt holds a special token"
    assert len({tuple(r.prompt_token_ids) for r in work.requests}) == 5, "prompts repeat"


@pytest.mark.parametrize(
    "make",
    [
        lambda t, seed: workloads.uniform(t, 4, 20, 5, seed=seed),
        lambda t, seed: workloads.mixed(t, 2, 8, 8, 2, 64, 4, every_s=0.5, seed=seed),
        lambda t, seed: workloads.shared_prefix(t, 3, 40, 10, 4, seed=seed),
        lambda t, seed: workloads.questions(t, 4, seed=seed),
        lambda t, seed: workloads.after_notes(t, 3, 200, 4, seed=seed),
    ],
)
def test_a_seed_is_a_workload(tokenizer, make):
    assert make(tokenizer, 1).requests == make(tokenizer, 1).requests
    assert make(tokenizer, 1).requests != make(tokenizer, 2).requests


def test_long_prompts_arrive_one_after_the_other(tokenizer):
    work = workloads.mixed(tokenizer, 2, 8, 8, 3, 64, 4, every_s=0.5, first_s=0.2)
    assert [r.arrival_s for r in work.requests] == pytest.approx([0, 0, 0.2, 0.7, 1.2])
    assert [r.kind for r in work.requests] == ["short"] * 2 + ["long"] * 3


def test_shared_prefix_is_shared_and_the_counter_example_differs_in_one_token(tokenizer):
    work = workloads.shared_prefix(tokenizer, 3, 40, 10, 4)
    prefixes = {tuple(r.prompt_token_ids[:40]) for r in work.requests}
    assert len(prefixes) == 1
    changed = workloads.with_changed_first_token(tokenizer, work)
    for before, after in zip(work.requests, changed.requests, strict=True):
        pairs = zip(before.prompt_token_ids, after.prompt_token_ids, strict=True)
        assert [i for i, (a, b) in enumerate(pairs) if a != b] == [0]


@pytest.mark.parametrize("shared, beginnings", [(True, 1), (False, 3)])
def test_notes_in_front_are_one_text_or_each_its_own(tokenizer, shared, beginnings):
    work = workloads.after_notes(tokenizer, 3, 200, 4, shared=shared)
    prompts = [r.prompt_token_ids for r in work.requests]
    assert len({tuple(prompt[:200]) for prompt in prompts}) == beginnings
    assert len({tuple(prompt[-20:]) for prompt in prompts}) == 3, "everybody asks the same"
    assert all(200 <= len(prompt) < 320 for prompt in prompts)
    assert {(r.max_tokens, r.stop_at_eos) for r in work.requests} == {(4, False)}


def test_what_is_said_in_a_chat_comes_with_notes(tokenizer):
    said = workloads.turns(tokenizer, 3, notes_tokens=200, seed=1)
    assert len(set(said)) == 3 and said == workloads.turns(tokenizer, 3, 200, seed=1)
    assert all(200 <= len(tokenizer.encode(text)) < 320 for text in said)
    assert said != workloads.turns(tokenizer, 3, 200, seed=2)
    assert max(map(len, workloads.turns(tokenizer, 3))) < min(map(len, said))
