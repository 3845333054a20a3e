"""helpers/lessons/reading_notes/static_batching.py; notebook 3's test serves them on an engine."""

from types import SimpleNamespace

from helpers.lessons.reading_notes import static_batching


class Tokenizer:
    all_special_ids = [0]

    def get_added_vocab(self):
        return {}

    def __len__(self):
        return 500


ENGINE = SimpleNamespace(tokenizer=Tokenizer())


def test_every_answer_has_its_length_and_a_prompt_of_its_own():
    load = static_batching.ragged(ENGINE, [3, 1, 2], prompt_tokens=32, seed=1)
    assert [request.max_tokens for request in load.requests] == [3, 1, 2]
    prompts = {tuple(request.prompt_token_ids) for request in load.requests}
    assert len(prompts) == 3 and {len(prompt) for prompt in prompts} == {32}
    assert not any(request.stop_at_eos for request in load.requests)
    again, other = (static_batching.ragged(ENGINE, [3, 1, 2], 32, seed) for seed in (1, 2))
    assert load.requests == again.requests != other.requests


def test_waves_are_the_same_requests_in_their_order_and_the_last_one_may_be_smaller():
    load = static_batching.ragged(ENGINE, [5, 4, 3, 2, 1], prompt_tokens=8)
    waves = static_batching.waves(load, 2)
    assert [len(wave) for wave in waves] == [2, 2, 1]
    assert sum((wave.requests for wave in waves), ()) == load.requests
    assert static_batching.waves(load, 9) == [load]
