"""What is saved stays, what is damaged is said; a student's own numbers are read or refused."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.results import store as results
from helpers.results.own_numbers import import_numbers
from helpers.results.store import Results, ResultsError, load

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture
def store(tmp_path):
    return Results("01_review", tmp_path)


def test_saved_comes_back_with_provenance(store):
    record = store.save(
        "baseline",
        "one_at_a_time",
        {"output_tokens_per_s": 812.5},
        {"max_num_seqs": 1},
        {"n": 4},
        note="ü 漢字",
    )
    found = store.get("baseline")
    assert found == record, f"{found} is not what was saved"
    assert found["metrics"] == {"output_tokens_per_s": 812.5} and found["note"] == "ü 漢字"
    where = found["provenance"]
    for key in ("machine", "python", "torch", "vllm", "time_utc", "cores"):
        assert where[key], f"provenance has no {key}: {where}"
    assert where["vllm"].startswith("0.32.0") and where["time_utc"].endswith("+00:00")


def test_a_run_is_saved_whole_and_a_profile_of_its_own_says_so(store):
    run = SimpleNamespace(metrics={"a": 1, "b": 2}, engine_args={"x": 3}, workload={"n": 4})
    assert store.save_run("e", "all", run)["metrics"] == {"a": 1, "b": 2}
    record = store.save_run("e", "v", run, {"gain_x": 6}, note="kept")
    assert record["metrics"] == {"gain_x": 6} and record["note"] == "kept"
    assert (record["engine_args"], record["workload"]) == ({"x": 3}, {"n": 4})
    other = SimpleNamespace(name="cpu", model_label="Other", weights="dummy")
    found = store.save_run("e", "w", run, profile=other)["provenance"]
    assert (found["model"], found["weights"]) == ("Other", "dummy")
    assert store.save("e", "x", {})["provenance"]["model"] is None, "the next has the store's"


def test_provenance_names_the_gpus_of_this_run_alone(monkeypatch):
    import nvitop

    # One of eight: CUDA_VISIBLE_DEVICES has chosen.
    monkeypatch.setattr(
        results, "visible_devices", lambda: [SimpleNamespace(name=lambda: "NVIDIA H100")]
    )
    monkeypatch.setattr(nvitop.Device, "driver_version", lambda: "580.1")
    found = results.provenance(SimpleNamespace(name="gpu", machine="NVIDIA H100, 79.6 GiB"))
    assert (found["gpu"], found["driver"]) == ("NVIDIA H100", "580.1")
    found = results.provenance(SimpleNamespace(name="cpu", machine="2 CPU cores"))
    assert (found["gpu"], found["driver"]) == (None, None), "a run on the CPU of a GPU box"


def test_provenance_imports_neither_vllm_nor_torch():
    code = (
        "import sys; from helpers.results.store import provenance; provenance(); "
        "print([m for m in ('vllm', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert out.stdout.strip() == "[]", out.stdout + out.stderr


def test_latest_is_by_place_in_the_file_per_notebook_experiment_variant(store, tmp_path):
    other = Results("02_advanced_features", tmp_path)
    store.save("sweep", "a", {"x": 1})
    store.save("sweep", "b", {"x": 2})
    other.save("sweep", "a", {"x": 3})
    store.save("sweep", "a", {"x": 4})
    latest = [
        (r["notebook"][:2], r["variant"], r["metrics"]["x"])
        for r in store.records(experiment="sweep")
    ]
    assert latest == [("01", "a", 4), ("01", "b", 2), ("02", "a", 3)]
    assert len(store.records(latest=False)) == 4, "an earlier record must stay in the file"
    assert [
        r["metrics"]["x"] for r in store.records(notebook="01_review", variant="a", latest=False)
    ] == [1, 4]
    assert store.get("sweep", "a")["metrics"]["x"] == 4 and store.get("nothing") is None


def test_numpy_and_nan_become_plain_json(store):
    import numpy as np

    store.save("e", "v", {"a": np.float32(1.5), "b": math.nan, "c": np.arange(3), "d": (1, 2)})
    assert store.get("e")["metrics"] == {"a": 1.5, "b": None, "c": [0, 1, 2], "d": [1, 2]}
    assert store.problems == []


def test_what_cannot_be_saved_is_named(store):
    with pytest.raises(TypeError, match="metrics holds a object"):
        store.save("e", "v", {"engine": object()})
    with pytest.raises(TypeError, match="provenance"):
        store.save("e", "v", {}, **{"provenance": 1})
    assert store.records() == []


@given(st.text(max_size=30), json_values)
@settings(max_examples=60)
def test_any_text_and_value_survives(tmp_path_factory, text, value):
    folder = tmp_path_factory.mktemp("r")
    store = Results("n", folder)
    store.save("e", "v", {"value": value}, text=text + "\ud800\u2028\x85")
    store.save("e", "w", {})
    records, problems = load(folder)
    assert (
        problems == []
        and records[0]["text"] == text + "\ud800\u2028\x85"
        and records[0]["metrics"]["value"] == value
    )


good_line = json.dumps(
    {"notebook": "n", "experiment": "e", "variant": "v", "metrics": {"x": 1}, "later_key": [1]}
).encode()
damage = st.one_of(
    st.binary(min_size=1, max_size=60).map(lambda b: b.replace(b"\n", b"?")),
    st.integers(1, len(good_line) - 1).map(lambda n: good_line[:n]),
    json_values.map(lambda v: json.dumps(v).encode()),
    json_values.map(
        lambda v: json.dumps(
            {"notebook": "n", "experiment": v, "variant": "v", "metrics": {}}
        ).encode()
    ),
    json_values.map(
        lambda v: json.dumps(
            {"notebook": "n", "experiment": "e", "variant": "v", "metrics": v}
        ).encode()
    ),
    st.just(b'{"notebook":"n","experiment":"e","variant":"v","metrics":{"x":NaN}}'),
    st.just(b'{"notebook":"n","experiment":"e","variant":"v","metrics":{"x":1e999}}'),
    st.just(b"[" * 100_000),
    st.just(b"9" * 5000),
    st.just(b"\x00" * 40),
)


@given(st.lists(st.one_of(st.just(good_line), damage), max_size=12))
@settings(max_examples=150)
def test_damaged_lines_are_reported_and_skipped_and_never_rewritten(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("r") / results.FILE_NAME
    path.write_bytes(b"\n".join(lines))
    before = path.read_bytes()
    records, problems = load(path)
    assert path.read_bytes() == before
    filled = [line for line in lines if line.strip()]
    assert len(records) + len(problems) == len(filled), (records, problems)
    assert len(records) >= lines.count(good_line), problems
    # A new record goes on a fresh line, whatever the file ended with.
    Results("n", path.parent).save("after", "v", {"x": 2})
    assert path.read_bytes().startswith(before)
    assert [r["experiment"] for r in load(path)[0]][-1] == "after"


def test_a_problem_names_the_line(tmp_path):
    path = tmp_path / results.FILE_NAME
    path.write_bytes(
        good_line
        + b"\n"
        + good_line[:20]
        + b"\n\xff\xfe\n"
        + b'{"notebook": "n", "experiment": 3, "variant": "v", "metrics": {}}\n'
    )
    records, problems = load(path)
    assert len(records) == 1
    assert problems == [
        "measurements.jsonl line 2 was skipped: cut off, or not JSON.",
        "measurements.jsonl line 3 was skipped: not UTF-8.",
        "measurements.jsonl line 4 was skipped: 'experiment' is a int, not a str.",
    ]


WRITER = """
import sys
from helpers.results.store import Results
store = Results("writer" + sys.argv[2], sys.argv[1])
n = 0
while n < int(sys.argv[3]):
    store.save("e", str(n), {"n": n}, text="x" * 20_000)
    print(n, flush=True)
    n += 1
"""


def test_a_killed_writer_damages_at_most_one_line(tmp_path):
    saved = 0
    for life in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(life), "1000000"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(5 + 3 * life):
            child.stdout.readline()
        time.sleep(0.002 * life)
        child.send_signal(signal.SIGKILL)
        confirmed = child.stdout.read().split()
        child.wait()
        saved += 5 + 3 * life + len(confirmed)
    records, problems = load(tmp_path)
    assert len(problems) <= 6, problems
    assert len(records) >= saved, f"{saved} were confirmed, {len(records)} came back"
    Results("after", tmp_path).save("e", "v", {"x": 1})  # the dead held no lock
    assert load(tmp_path)[0][-1]["notebook"] == "after"


def test_half_a_line_left_by_a_dead_writer_costs_only_that_line(tmp_path):
    store = Results("n", tmp_path)
    store.save("e", "one", {})
    with open(store.path, "ab") as file:
        file.write(good_line[:30])
    store.save("e", "two", {})
    assert [r["variant"] for r in store.records()] == ["one", "two"]
    assert len(store.problems) == 1 and "line 2" in store.problems[0]


def _write_many(folder, name):
    store = Results(name, folder)
    for n in range(40):
        store.save("e", str(n), {"n": n}, text="y" * 3000)


def test_concurrent_writers_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write_many, args=(tmp_path, f"w{i}")) for i in range(4)]
    [p.start() for p in processes]
    [p.join(60) for p in processes]
    records, problems = load(tmp_path)
    assert problems == [] and [p.exitcode for p in processes] == [0] * 4
    assert sorted((r["notebook"], r["metrics"]["n"]) for r in records) == sorted(
        (f"w{i}", n) for i in range(4) for n in range(40)
    )


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, monkeypatch):
    store = Results("n", tmp_path)
    store.save("e", "before", {"x": 1})
    before = store.path.read_bytes()
    real_write = os.write

    def half_write(fd, data):  # what a disk that fills up does: a short write
        return real_write(fd, bytes(data)[: len(data) // 2])

    monkeypatch.setattr(os, "write", half_write)
    with pytest.raises(ResultsError, match="No space left on device.*Nothing is lost"):
        store.save("e", "during", {"x": 2})
    monkeypatch.undo()
    assert store.path.read_bytes() == before, "half a line was left behind"
    assert store.get("e", "during")["metrics"] == {"x": 2}, (
        "the record must stay readable in this kernel"
    )
    store.save("e", "after", {"x": 3})
    assert [r["variant"] for r in load(tmp_path)[0]] == ["before", "during", "after"]


LIMITED = """
import resource, sys
from helpers.results.store import Results, ResultsError
store = Results("n", sys.argv[1])
store.save("e", "before", {})
resource.setrlimit(resource.RLIMIT_FSIZE, (store.path.stat().st_size + 100, resource.RLIM_INFINITY))
try:
    store.save("e", "during", {}, text="x" * 5000)
except ResultsError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.flush()
"""


def test_a_write_that_the_system_really_cuts_short(tmp_path):
    out = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert "Nothing is lost" in out.stdout, out.stdout + out.stderr
    records, problems = load(tmp_path)
    assert problems == [] and [r["variant"] for r in records] == ["before", "during"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot be created"):
        results.results_folder(tmp_path / "file" / "sub")


def test_results_dir_order(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_RESULTS_DIR", str(tmp_path / "env {x} y"))
    assert results.results_folder() == tmp_path / "env {x} y" and results.results_folder().is_dir()
    assert results.results_folder(tmp_path / "given") == tmp_path / "given"


# ---------------------------------------------------------------- numbers of Weeks 2 and 3


@pytest.mark.parametrize(
    "name, value, field, number",
    [
        ("throughput", 812.5, "output_tokens_per_s", 812.5),
        ("Throughput (tok/s)", "1,812.5", "output_tokens_per_s", 1812.5),
        ("tokens/sec", "812.5 tokens/sec", "output_tokens_per_s", 812.5),
        ("tokens_per_second", 9, "output_tokens_per_s", 9),
        ("throughput", "1.2k tokens/s", "output_tokens_per_s", 1200),
        ("output tokens per s", "60", "output_tokens_per_s", 60),
        ("throughput (tokens/min)", 600, "output_tokens_per_s", 10),
        ("req/s", 3, "requests_per_s", 3),
        ("TTFT (ms)", 35, "ttft_ms_p50", 35),
        ("ttft", "0.035 s", "ttft_ms_p50", 35),
        ("p99 ttft ms", 99, "ttft_ms_p99", 99),
        ("mean_tpot_ms", 12, "tpot_ms_mean", 12),
        ("avg latency (s)", 2, "e2e_ms_mean", 2000),
        ("latency_seconds", 2, "e2e_ms_p50", 2000),
        ("GPU memory", "8 GiB", "peak_memory_gib", 8),
        ("peak_memory_mib", 2048, "peak_memory_gib", 2),
        ("speedup", "3.4x", "improvement_x", 3.4),
        ("output tokens", 128, "output_tokens", 128),
    ],
)
def test_names_and_units_as_people_write_them(name, value, field, number):
    assert import_numbers({name: value})["metrics"] == {field: pytest.approx(number)}


def test_engine_args_and_texts_go_where_they_belong():
    found = import_numbers(
        {
            "GPU model": "NVIDIA  A10G",
            "gpu_memory_utilization": "90%",
            "Optimal max_num_seqs": "256",
            "mood": "good",
        }
    )
    assert found["engine_args"] == {"gpu_memory_utilization": 0.9, "max_num_seqs": 256}
    assert (
        found["texts"] == {"gpu_model": "NVIDIA A10G"}
        and found["ignored"] == ["mood"]
        and found["source"] == "typed"
    )


@pytest.mark.parametrize(
    "numbers, reason",
    [
        ({"ttft": 0.03}, "no unit"),
        ({"throughput": "fast"}, "cannot be read as one number"),
        ({"throughput": float("inf")}, "cannot be read"),
        ({"throughput": -5}, "at least 0.001"),
        ({"throughput": "1e99"}, "at most 1e"),
        ({"throughput": True}, "cannot be read"),
        ({"throughput": "1.812,5"}, "cannot be read as one number"),
        ({"throughput": "12 GB"}, "12 was understood, “GB” was not"),
        ({"gpu_memory_utilization": 90}, "at most 1"),
        ({"max_num_seqs": 2.5}, "not a whole number"),
        ({"throughput": 1, "tok/s": 2}, "keep one"),
        ({"mood": 1}, "Nothing in a form was recognised"),
    ],
)
def test_what_cannot_be_trusted_is_refused_with_its_reason(numbers, reason):
    with pytest.raises(ResultsError, match=reason):
        import_numbers(numbers)


@pytest.mark.parametrize(
    "file, text",
    [
        ("w2.json", '{"throughput": 812.5, "max_num_seqs": 8}'),
        (
            "w2.json",
            '{"baseline": {"throughput": 812.5, "max_num_seqs": 8}, "optimized": {"tok/s": 2000}}',
        ),
        ("w2.csv", "throughput,max_num_seqs\n812.5,8\n"),
        ("w2.csv", "\ufeffmetric;value;unit\nthroughput;812.5;tok/s\nmax_num_seqs;8;\n"),
        ("w2.csv", "throughput,812.5\nmax_num_seqs,8\n"),
        ("w2.csv", "tokens/sec\tmax_num_seqs\n812.5\t8\n"),
    ],
)
def test_files(store, tmp_path, file, text):
    (tmp_path / file).write_text(text, encoding="utf-8")
    record = import_numbers(tmp_path / file, store)
    assert record["metrics"] == {"output_tokens_per_s": 812.5} and record["engine_args"] == {
        "max_num_seqs": 8
    }
    assert (
        record["source"] == "typed"
        and record["origin"] == file
        and store.get("baseline", "typed") == record
    )


def test_vllm_bench_output_is_read_as_vllm_means_it():
    found = import_numbers(
        {
            "elapsed_time": 2.0,
            "num_requests": 10,
            "total_num_tokens": 1000,
            "requests_per_second": 5.0,
            "tokens_per_second": 500.0,
        }
    )
    assert found["metrics"] == {
        "duration_s": 2.0,
        "requests": 10,
        "requests_per_s": 5.0,
        "total_tokens_per_s": 500.0,
    }
    assert found["ignored"] == ["total_num_tokens"]


def test_files_that_cannot_be_read_say_why(tmp_path):
    (tmp_path / "rows.csv").write_text("throughput\n1\n2\n")
    with pytest.raises(ResultsError, match="2 rows: choose one"):
        import_numbers(tmp_path / "rows.csv")
    assert import_numbers(tmp_path / "rows.csv", row=2)["metrics"] == {"output_tokens_per_s": 2}
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "latin.csv").write_bytes(b"throughput\n\xe4\n")
    (tmp_path / "empty.csv").write_text("")
    for name, reason in (
        ("bad.json", "not valid JSON"),
        ("latin.csv", "not UTF-8"),
        ("empty.csv", "no numbers"),
        ("gone.csv", "cannot be read"),
    ):
        with pytest.raises(ResultsError, match=reason):
            import_numbers(tmp_path / name)


@given(st.dictionaries(st.text(max_size=20), json_values, max_size=4))
@settings(max_examples=150)
def test_any_form_is_taken_or_refused_never_crashes(form):
    try:
        found = import_numbers(form)
    except ResultsError:
        return
    assert all(math.isfinite(v) for v in found["metrics"].values())
