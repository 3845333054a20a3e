"""benchmarks/in_turns.py: ways are compared fairly."""

from types import SimpleNamespace

from benchmarks import in_turns


def test_each_way_goes_first_as_often_and_the_first_round_is_a_warm_up(monkeypatch):
    resets, order = [], []
    llm = SimpleNamespace(reset_prefix_cache=lambda: resets.append(len(order)))
    monkeypatch.setattr(in_turns, "load", lambda engine, seed, requests=None: seed)

    def way(name):
        return lambda work: order.append((work, name)) or len(order)

    engine = SimpleNamespace(llm=llm)
    rows = in_turns.in_turns(engine, {name: way(name) for name in "abc"}, rounds=3)
    assert ["".join(name for work, name in order if work == turn) for turn in range(4)] == [
        "abc", "bca", "cab", "abc",
    ]  # fmt: skip
    assert len(rows) == 3 and all(set(row) == set("abc") for row in rows)
    assert resets == list(range(12)), "nothing is found in the prefix cache"
