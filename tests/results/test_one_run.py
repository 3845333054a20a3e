"""Initial, final, improvement and the sweep's rows agree after any order of reruns and restarts."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.results import store as store_module
from helpers.results.documents import export
from helpers.results.store import Results

VALUES = (8, 64)
steps = st.lists(
    st.tuples(
        st.sampled_from(["baseline", "sweep", "choose", "restart", "other model", "export"]),
        st.integers(1, 1000),
        st.sampled_from(VALUES),
    ),
    min_size=3,
    max_size=25,
)


class Kernel:
    """A student's notebook 1: what it has measured in this kernel, and what it saves."""

    def __init__(self, folder):
        self.folder = folder
        self.sessions = 0
        self.last = None  # the numbers of the last choice: baseline, final, the sweep's rows
        self.restart("small")

    def restart(self, model):
        self.sessions += 1
        self.model, self.baseline, self.rows = model, None, {}

    def save(self, experiment, variant, **metrics):
        profile = type("Profile", (), {"name": "cpu", "model": self.model})()
        session, store_module.SESSION = store_module.SESSION, f"session {self.sessions}"
        try:
            Results("01_review", self.folder, profile).save(experiment, variant, metrics)
        finally:
            store_module.SESSION = session

    def do(self, what, speed, value):
        if what == "baseline":
            self.baseline = speed
            self.save("baseline", "one_at_a_time", output_tokens_per_s=speed)
        elif what == "sweep":
            self.rows[value] = speed
            self.save("sweep_max_num_seqs", str(value), output_tokens_per_s=speed)
        elif what == "choose" and self.baseline and self.rows:
            # In turn, so with other numbers than those of the runs before it.
            initial, final = self.baseline + 1, max(self.rows.values()) + 3
            self.save("optimised", "best", output_tokens_per_s=final, baseline_tokens_per_s=initial)
            self.last = initial, final, dict(self.rows)
        elif what in ("restart", "other model"):
            self.restart(self.model if what == "restart" else self.model + "er")


def number(label, text):
    found = re.search(rf"- {label}: ([\d,.]+)", text)
    return float(found[1].replace(",", "")) if found else None


@given(steps)
@settings(max_examples=150)
def test_the_numbers_of_a_document_are_those_of_one_run(tmp_path_factory, plan):
    folder = tmp_path_factory.mktemp("week")
    kernel = Kernel(folder)
    for step in [*plan, ("export", 0, 0)]:
        kernel.do(*step)
        if step[0] != "export" or kernel.last is None:
            continue
        export(folder)
        initial, final, rows = kernel.last
        text = (folder / "my_learnings.md").read_text()
        assert number("Initial throughput", text) == initial
        assert number("Final throughput", text) == final
        shown = number("Improvement", text)
        assert abs(shown - final / initial) <= 0.01 * shown
        appendix = (folder / "my_learnings_appendix.md").read_text()
        for value in rows:
            assert f" {value}: {rows[value]:,} tokens/s" in appendix, "of another run"


def test_what_was_measured_again_is_said_to_be_left_out(tmp_path):
    kernel = Kernel(tmp_path)
    for step in (("baseline", 100, 8), ("sweep", 900, 8), ("choose", 0, 8)):
        kernel.do(*step)
    export(tmp_path)
    assert "measured again" not in (tmp_path / "my_learnings.md").read_text()
    kernel.save("closed_loop", "8_clients", output_tokens_per_s=600)  # after it
    export(tmp_path)
    assert "measured again" not in (tmp_path / "my_learnings.md").read_text()
    appendix = (tmp_path / "my_learnings_appendix.md").read_text()
    assert "| 8 clients: 600 tokens/s | measured, one run |" in appendix
    kernel.do("sweep", 1200, 8)
    kernel.do("sweep", 700, 64)
    export(tmp_path)
    assert "part of it was measured again later" in (tmp_path / "my_learnings.md").read_text()
    appendix = (tmp_path / "my_learnings_appendix.md").read_text()
    both = "measured, one run, measured, of another run"
    assert f"| 8: 900 tokens/s; 64: 700 tokens/s | {both} |" in appendix
    kernel.do("choose", 0, 8)
    export(tmp_path)
    assert "measured again" not in (tmp_path / "my_learnings.md").read_text()
    appendix = (tmp_path / "my_learnings_appendix.md").read_text()
    assert "8: 1,200 tokens/s" in appendix and "another run" not in appendix
