"""GPU memory for real. Each test is a script that can also be run by hand (tests/gpu/README.md)."""

import pytest

from benchmarks import kills, limits, opens

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(autouse=True)
def records(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_RECORDS", str(tmp_path))


def test_the_timeline_agrees_with_the_log_within_3_percent():
    model = ["--load-format", "dummy", "--model", "Qwen/Qwen2.5-0.5B-Instruct"]
    assert limits.main(["--parts", "timeline", *model]) == 0


def test_memory_comes_back_after_20_opens_and_closes():
    assert opens.main(["--small", "--opens", "20"]) == 0


@pytest.mark.parametrize("what", ["kernel", "server"])
def test_after_sigkill_memory_is_free_within_10_s(what):
    assert kills.main(["--what", what, "--times", "5"]) == 0
