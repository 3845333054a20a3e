"""Who is next, on which engine, and what a slowed run says."""

from types import SimpleNamespace

from helpers.lessons.advanced_features import turns
from helpers.verdicts.machine import Disturbance

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


def test_a_slowed_run_is_made_twice_and_says_so(capsys):
    def run(others):
        return SimpleNamespace(disturbance=Disturbance(others_share=others, steal_share=0.0))

    calm = iter([run(0.0)])
    assert turns.calmer(lambda: next(calm)).disturbance.others_share == 0
    assert capsys.readouterr().out == ""
    slowed = iter([run(0.6), run(0.1)])
    assert turns.calmer(lambda: next(slowed)).disturbance.others_share == 0.1
    assert "The second counts." in capsys.readouterr().out


def test_a_loop_sums_up_its_slowed_runs_at_its_end(monkeypatch, capsys):
    monkeypatch.setattr(turns, "open_engine", lambda profile, **args: "engine")
    monkeypatch.setattr(turns, "warm_up", lambda engine: None)
    slowed = SimpleNamespace(disturbance=Disturbance(others_share=0.6, steal_share=0.0))
    for _ in turns.in_turn(TO_RUN, SimpleNamespace(name="cpu"), 1):
        turns.calmer(lambda: slowed)
    assert capsys.readouterr().out == (
        "Other programs slowed 3 of 3 runs: made twice, the less slowed one counts.\n"
    )
