"""python -m benchmarks: stages with time limits that go on where they stopped."""

import sys
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import opens, record


@pytest.fixture(autouse=True)
def records(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_RECORDS", str(tmp_path))
    return tmp_path


def stage(monkeypatch, code, limit=30.0):
    script = SimpleNamespace(limit_s=limit, answers="Does it end?")
    monkeypatch.setattr(benchmarks, "STAGES", {"one": script})
    monkeypatch.setattr(benchmarks, "command_of", lambda *_: [sys.executable, "-c", code])


def outcomes(folder):
    return [row["metrics"]["code"] for row in record.read(folder / "stages.jsonl")]


def test_a_stage_that_succeeded_is_not_run_again(monkeypatch, records, capsys):
    stage(monkeypatch, "raise SystemExit(1)")
    assert benchmarks.main([]) == 1 and "one" in capsys.readouterr().out
    stage(monkeypatch, "")
    assert benchmarks.main([]) == 0 and benchmarks.main(["one"]) == 0
    assert outcomes(records) == [1, 0] and "done before" in capsys.readouterr().out
    assert benchmarks.main(["--again"]) == 0 and benchmarks.main(["--model", "other"]) == 0
    assert outcomes(records) == [1, 0, 0, 0], "another model has not been measured yet"


def test_a_stage_out_of_time_is_ended_and_not_done(monkeypatch, records):
    stage(monkeypatch, "import time; time.sleep(60)", limit=1.0)
    assert benchmarks.main([]) == 1 and benchmarks.main([]) == 1
    assert outcomes(records) == [124, 124]


def test_every_stage_has_a_command_and_takes_the_model_that_was_asked_for(monkeypatch):
    monkeypatch.setattr(benchmarks.gpu_memory, "has_gpu", lambda: True)
    model = {"model": "Qwen/Qwen2.5-7B-Instruct", "load_format": "dummy"}
    for name, made in benchmarks.STAGES.items():
        command = benchmarks.command_of(made, model)
        assert command[0] == sys.executable and not any("{" in word for word in command), name
    limits = benchmarks.command_of(benchmarks.STAGES["limits"], model)
    assert limits[3:7] == ["--model", model["model"], "--load-format", "dummy"]
    notebook = benchmarks.command_of(benchmarks.STAGES["02"], model)
    assert notebook[-8:-2] == ["-p", "MODEL", model["model"], "-p", "LOAD_FORMAT", "dummy"]
    assert notebook[-2:] == ["--notebooks", "02"]


def test_the_list_says_what_is_measured_on_a_gpu_alone(monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.gpu_memory, "has_gpu", lambda: False)
    assert benchmarks.main(["--list"]) == 0
    lines = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert lines["kills"] == "GPU" and lines["limits"].isdigit()
    with pytest.raises(SystemExit):
        benchmarks.main(["kills"])


def test_opens_go_on_with_a_run_that_was_cut_off():
    for run, count in (("a", 2), ("b", 1)):
        for number in range(count):
            record.keep("memory_returns", None, {"run": run, "open": number + 1})
    assert opens.unfinished("memory_returns", 3) == ("b", [{"run": "b", "open": 1}])
    assert opens.unfinished("memory_returns", 1) == (None, []), "it was whole"
    assert opens.unfinished("engine_start", 6) == (None, [])
