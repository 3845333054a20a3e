"""Who is next, and on which engine."""

from types import SimpleNamespace

from helpers.lessons.advanced_features import turns

TO_RUN = {"a": None, "d": {"k": 4}, "b": None}


def test_those_of_one_engine_stand_together_and_every_other_round_runs_backwards():
    assert turns.order(TO_RUN, 3, in_a_row=False) == [*"abd", *"dba", *"abd"]
    assert turns.order(TO_RUN, 2, in_a_row=True) == [*"ab", *"ab", *"dd"]


def test_an_engine_is_warmed_once_each_time_it_is_opened(monkeypatch):
    opened, warmed = [], []

    def open_engine(profile, speculative_config, **args):
        if not opened or opened[-1] != speculative_config:
            opened.append(speculative_config)
        return opened[-1] or "plain"

    monkeypatch.setattr(turns, "open_engine", open_engine)
    monkeypatch.setattr(turns, "warm_up", warmed.append)
    ran = list(turns.in_turn(TO_RUN, SimpleNamespace(name="cpu"), 2))
    plain, drafting = "plain", {"k": 4}
    assert ran == [("a", plain), ("b", plain), ("d", drafting), ("d", drafting)] + [
        ("b", plain),
        ("a", plain),
    ]
    assert opened == [None, drafting, None] and warmed == [plain, drafting, plain]
