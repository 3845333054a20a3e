"""The stories of the shipped model: the grammar, and what the model makes of it in vLLM.

The engine has no drafter: with drafts and a temperature above 0, the CPU build of vLLM 0.32 writes
tokens of neither model (greedy decoding with drafts is right, see test_tiny_model.py).
"""

import os
import random

import pytest

from helpers.engine.start import register_kernels_once
from helpers.tiny_model import TARGET, stories


def test_the_grammar_draws_stories_without_faults_and_knows_their_chance():
    rng = random.Random(3)
    drawn = [(hero, stories.story_of(hero, rng)) for hero in stories.HEROES for _ in range(40)]
    assert not any(stories.faults(text, hero) for hero, text in drawn)
    assert all(0 < stories.chance_of(text) < 0.05 for _, text in drawn)
    assert len({text for _, text in drawn}) > 400, "few different stories"


@pytest.mark.parametrize(
    "change, fault",
    [
        (("robot found", "fox found"), "another hero"),
        (("lit it", "sailed away"), "sense"),
        (("a wise", "a small"), "sense"),  # small ones live by the sea or in a garden
        (("One morning", "One evening"), "words"),
        (("a lamp", "a spoon"), "words"),
        ((". Nobody", ", nobody"), "no story"),
    ],
)
def test_a_fault_of_a_story_is_named(change, fault):
    story = (
        "There was a wise robot who lived in a tower. "
        "One morning the robot found a lamp and lit it. Nobody was afraid any more."
    )
    assert stories.faults(story, "robot") == []
    changed = story.replace(*change)
    assert stories.faults(changed, "robot") == [fault] and stories.chance_of(changed) == 0


# --- the model, by vLLM -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def llm():
    """The target alone, in this process."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    register_kernels_once()  # in this process another test may have brought llvmlite
    from vllm import LLM

    engine = LLM(
        str(TARGET),
        kv_cache_memory_bytes=2**28,
        max_model_len=1024,
        max_num_seqs=64,
        enforce_eager=True,
        distributed_executor_backend="uni",
        disable_log_stats=False,
    )
    yield engine
    engine.llm_engine.engine_core.shutdown()


def tell(llm, each=1, **sampling):
    """(hero, story) of every hero, `each` told."""
    from vllm import SamplingParams

    asked = [stories.QUESTIONS[0].format(a=stories.with_article(hero)) for hero in stories.HEROES]
    chats = [[{"role": "user", "content": question}] for question in asked]
    params = SamplingParams(max_tokens=80, n=each, **sampling)
    outputs = llm.chat(chats, params, use_tqdm=False)
    return [
        (hero, one.text)
        for hero, output in zip(stories.HEROES, outputs, strict=True)
        for one in output.outputs
    ]


def sound(told) -> float:
    return sum(not stories.faults(text, hero) for hero, text in told) / len(told)


def test_stories_differ_by_how_they_are_drawn(llm):
    greedy = tell(llm, temperature=0)
    drawn = tell(llm, each=16, temperature=1.0, seed=1)
    wild = tell(llm, each=16, temperature=2.0, seed=1)
    print(f"sound: greedy {sound(greedy):.0%}, T 1 {sound(drawn):.0%}, T 2 {sound(wild):.0%}")
    assert sound(greedy) == 1.0, greedy
    assert sound(drawn) >= 0.85 and sound(wild) <= 0.5
    assert len({text for _, text in drawn}) > 0.8 * len(drawn)


def test_the_chances_of_the_stories_are_the_grammars(llm):
    told = [text for _, text in tell(llm, each=40, temperature=1.0, seed=2)]
    for word, (chance, _) in stories.KINDS.items():
        seen = sum(f"There was {word} " in text for text in told) / len(told)
        assert abs(seen - chance) < 0.12, f"{word}: {seen:.2f}, the grammar says {chance}"
