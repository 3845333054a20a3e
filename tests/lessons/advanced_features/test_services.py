"""What is said of four services: a gain below the noise names no winner."""

from dataclasses import dataclass, field

import pytest

from helpers.lessons.advanced_features import services


def gains(**better):
    return dict.fromkeys(services.FEATURES, 1.0) | {
        name.replace("_", " "): value for name, value in better.items()
    }


def test_no_winner_below_the_noise():
    assert services.best_of(gains(prefix_caching=1.01, small_chunks=0.8)) is None
    assert services.best_of(gains(prefix_caching=1.2, small_chunks=1.6)) == "small chunks"
    said = services.reading(
        [
            {"service": "chat", **gains(prefix_caching=5.25)},
            {"service": "batch", **gains(prefix_caching=1.01)},
        ]
    )
    assert said.startswith("chat: prefix caching (5.25x); batch: nothing above the noise.")


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
    mixed = services.four_services(Tokenizer(), sizes)[3]
    run = Run(
        [Request("short", [0.01, 0.2, 0.01]), Request("short", [0.01]), Request("long", [0.9])]
    )
    assert mixed.value(run) == pytest.approx(200)
    assert mixed.gain(200, 20) == pytest.approx(10) and mixed.better == "lower"
