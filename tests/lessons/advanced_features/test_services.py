"""Four services, and what each is judged by."""

from dataclasses import dataclass, field

import pytest

from helpers.lessons.advanced_features import services


def test_the_mixed_service_is_judged_by_the_longest_gap_of_its_streams():
    @dataclass
    class Request:
        kind: str
        itl_s: list = field(default_factory=list)

    @dataclass
    class Run:
        requests: list

    class Tokenizer:
        all_special_ids = []

        def get_added_vocab(self):
            return {}

        def __len__(self):
            return 300

        def apply_chat_template(self, messages, **_):
            return [1, 2]

    sizes = {
        "requests": 4,
        "long_tokens": 64,
        "prefix_tokens": 32,
        "output_tokens": 8,
        "streams": 2,
        "step_s": 0.01,
        "prefill_s": 0.1,
    }
    mixed = services.four_services(Tokenizer(), sizes)["mixed"]
    run = Run(
        [Request("short", [0.01, 0.2, 0.01]), Request("short", [0.01]), Request("long", [0.9])]
    )
    assert mixed.value(run) == pytest.approx(200)
    assert mixed.gain(200, 20) == pytest.approx(10) and mixed.better == "lower"
