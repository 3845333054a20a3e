"""The command: what it answers, and one sentence for whatever cannot be planned."""

import json
import re
import subprocess
import sys
import time

import pytest

from helpers import REPO
from helpers.planning import __main__ as command
from helpers.planning import load_shape, models

KEYS = {
    "weights_gib_per_gpu",
    "kv_cache_tokens",
    "tpot_ms",
    "mixed_tpot_ms",
    "prefill_ms",
    "ttft_ms",
    "output_tokens_per_s",
    "launch",
    "doubts",
}
SEVEN = "--model Qwen2.5-7B --gpu H100"


@pytest.fixture
def run(capsys):
    """(exit code, stdout, stderr) of `plan` with these arguments in one line."""

    def run(arguments: str):
        code = command.main(["plan", *arguments.split()])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def ask(run):
    """The JSON answer to these arguments, vLLM not asked."""
    return lambda arguments: json.loads(run(f"{arguments} --no-check --json")[1])


def test_json_has_the_promised_keys_and_parts_that_add_up(run):
    sizes = "--gpus 2 --tp 2 --input-tokens 4096 --concurrency 32 --max-model-len 16384"
    code, out, _ = run(f"--model Qwen2.5-7B --gpu H200-SXM {sizes} --json")
    answer = json.loads(out)
    assert code == 0 and set(answer) >= KEYS
    assert sum(answer["tpot_parts_ms"].values()) == pytest.approx(answer["tpot_ms"], rel=1e-3)
    assert sum(answer["prefill_parts_ms"].values()) == pytest.approx(answer["prefill_ms"], rel=1e-3)
    assert (
        answer["launch"]
        == "vllm serve Qwen/Qwen2.5-7B-Instruct --tensor-parallel-size 2 --max-model-len 16384"
    )
    assert answer["launch_accepted"] is True
    assert sum(
        v for k, v in answer["memory_gib_per_gpu"].items() if k not in ("usable", "budget")
    ) == pytest.approx(answer["memory_gib_per_gpu"]["budget"], abs=0.01)


def test_options_change_the_answer(ask):
    options = {
        "default": "",
        "util": "--gpu-memory-utilization 0.7",
        "fp8": "--kv-cache-dtype fp8",
        "seqs": "--max-num-seqs 64",
        "batch": "--max-num-batched-tokens 2048",
        "llm": "--usage llm",
        "weights": "--quantization fp8",
    }
    said = {name: ask(f"{SEVEN} --tp 1 {extra}") for name, extra in options.items()}
    tokens = {name: answer["kv_cache_tokens"] for name, answer in said.items()}
    assert (
        tokens["util"]
        < tokens["llm"]
        < tokens["default"]
        < min(tokens["seqs"], tokens["batch"])
        < tokens["weights"]
        < tokens["fp8"]
    )
    assert said["weights"]["launch"].endswith("--quantization fp8")
    assert said["weights"]["tpot_ms"] < said["default"]["tpot_ms"]


def test_what_comes_decides_the_speed(ask):
    few, many = (ask(f"{SEVEN} --tp 1 --rate {rate}") for rate in (1, 10))
    assert few["ttft_p99_ms"] < many["ttft_p99_ms"] and many["requests_per_s"] == 10
    too_many = ask(f"{SEVEN} --tp 1 --rate 1000")
    assert too_many["ttft_ms"] is None and any("queue grows" in n for n in too_many["notes"])
    cached = ask(f"{SEVEN} --tp 1 --rate 10 --prefix-hit-rate 0.9")
    assert cached["ttft_ms"] < many["ttft_ms"]


def test_a_faster_network_helps_what_crosses_it(ask):
    box = "--model Llama-3.1-405B --gpu H100 --gpus 16 --nodes 2 --tp 16"
    slow, fast = (ask(f"{box} --network-gb-s {rate}")["tpot_ms"] for rate in (10, 100))
    assert fast < slow


def test_a_ranking_over_two_machines_has_only_what_can_be_launched_there(ask):
    answer = ask("--model Qwen2.5-7B --gpu H100 --gpus 6 --nodes 2 --concurrency 64")
    launched = {(r["tp"], r["pp"], r["dp"]) for r in answer["ranking"] if r["fits"]}
    assert (1, 1, 6) in launched and (1, 1, 5) not in launched
    assert (2, 1, 3) not in launched, "a replica would lie on both machines"


def test_calibration_by_command(ask):
    base = "--model Qwen2.5-7B --gpu H200 --gpus 2 --tp 2"
    plain, answer = ask(base), ask(f"{base} --calibrate tp=1,concurrency=1,tpot_ms=5.5")
    assert abs(answer["calibration"]["error_after"][0]) < 0.01
    assert answer["tpot_ms"] > plain["tpot_ms"]
    assert "wait for the CPU" in plain["range"]["because"][0]
    other = "model=Llama-3.1-8B,concurrency=32,output_tokens_per_s=3000,ttft_ms=60"
    answer = ask(f"{base} --calibrate {other}")
    assert len(answer["calibration"]["error_after"]) == 2
    assert answer["output_tokens_per_s"] != plain["output_tokens_per_s"]


def test_without_sizes_it_ranks(run, ask):
    answer = ask("--model Llama-3.1-70B --gpu H100 --gpus 7 --max-model-len 8192")
    assert answer["ranking"] and answer["reasons"] and answer["gpus"] <= 7
    code, out, _ = run(
        "--model Llama-3.1-70B --gpu H100 --gpus 4 --no-check --max-model-len 8192 --rate 1000"
    )
    assert code == 0 and "ranking" in out and "TTFT without end" in out


def test_doubts_and_guesses_are_said(run, ask):
    assert "fp16 only" in ask("--model Qwen2.5-3B --gpu V100 --tp 1")["doubts"]["tflops_16bit"]
    _, out, _ = run("--model Qwen2.5-7B --gpu MI300X --tp 1 --no-check")
    assert "note        the fixed costs and efficiencies are those of H100s" in out
    assert "doubt       " in out


# ---------------------------------------------------------------- what cannot be planned
@pytest.mark.parametrize(
    "args, words",
    [
        ("--gpu H100 --gpus 7 --tp 7", ("7 is not divisible by 4", "--tp 4")),
        ("--gpu H100 --gpus 8 --tp 8", ("divisible", "--tp 4 --dp 2")),
        ("--gpu H100 --gpus 128 --tp 7", ("divisible", "nearest")),
        ("--gpu H100 --gpus 2 --tp 4", ("needs 4 GPUs", "--tp 2")),
        ("--gpu H100 --gpus 100000", ("up to 64 GPUs", "--tp")),
        ("--gpu H100 --gpus 8 --nodes 3", ("8 GPUs", "3 machines")),
        ("--gpu H100 --gpus 16 --nodes 2 --dp 15", ("evenly", "2 machines", "nearest")),
        ("--gpu H100 --gpu-memory-gib 0", ("--gpu-memory-gib", "above 0")),
        ("--gpu H100 --gpu-memory-gib inf", ("--gpu-memory-gib", "above 0")),
        ("--gpu H100 --gpus 0", ("at least 1",)),
        ("--gpu H100 --gpus 1.5", ("at least 1",)),
        ("--gpu H100 --network-gb-s 0", ("--network-gb-s", "above 0")),
        ("--gpu GTX-480", ("No data", "nearest")),
        ("--gpu T4 --tp 1", ("does not fit", "nearest that works")),
        ("--gpu H100 --tp 1 --calibrate tp=1,tpot=3", ("cannot read",)),
        ("--gpu H100 --tp 1 --input-tokens 40000", ("longer than max_model_len",)),
        ("--gpu H100 --tp 0", ("at least 1",)),
        ("--gpu H100 --tp nan", ("--tp", "at least 1")),
        ("--gpu H100 --input-tokens 0", ("input-tokens", "at least 1")),
        ("--gpu H100 --tp 1 --output-tokens -3", ("output-tokens", "at least 1")),
        ("--gpu H100 --concurrency 1000000000", ("--concurrency", "100,000")),
        ("--gpu H100 --concurrency 2 --rate 3", ("--rate", "not allowed")),
        ("--gpu H100 --rate nan", ("--rate", "above 0")),
        ("--gpu H100 --prefix-hit-rate 1.5", ("prefix_hit_rate", "from 0 to 1")),
        ("--gpu H100 --prefix-hit-rate nan", ("prefix_hit_rate", "from 0 to 1")),
        ("--gpu H100 --tp 1 --price -1", ("price of a GPU for an hour", "-1")),
        ("--gpu H100 --price nan", ("price of a GPU for an hour", "nan")),
        ("--gpu H100 --tpot-ms nan", ("--tpot-ms", "nan")),
        ("--gpu H100 --tpot-ms -5", ("--tpot-ms", "-5")),
        ("--gpu H100 --ttft-ms inf", ("--ttft-ms", "inf")),
        ("--gpu H100 --prefer beauty", ("--prefer", "latency")),
        ("--gpu H100 --gpu-memory-utilization 1.5", ("0.92",)),
        ("--gpu H100 --max-model-len 99999", ("derived max_model_len", "32768")),
        ("--gpu H100 --kv-cache-dtype int3", ("int3", "fp8")),
        ("--gpu H100 --max-num-seqs 64 --max-num-batched-tokens 16", ("16", "64")),
        ("--gpu H100 --quantization bitsandbytes", ("No data", "bitsandbytes", "fp8")),
        ("--gpu H100 --tp 1 --enable-expert-parallel", ("no experts",)),
        ("--gpu H100 --tp 1 --calibrate tpot_ms=5,concurrency=0", ("concurrency", "at least 1")),
        ("--gpu H100 --tp 1 --calibrate prefill_ms=5,input_tokens=0", ("input_tokens",)),
        ("--gpu H100 --tp 1 --calibrate tpot_ms=nan", ("nan",)),
        ("--gpu H100 --tp 1 --calibrate tpot_ms=400", ("refused", "another program")),
        ("--gpu H100 --tp 1 --calibrate tp=3,tpot_ms=5", ("cannot have been measured",)),
        ("--gpu H100 --launch", ("--launch",)),
        ("--gpu H100 --disaggregate", ("more GPUs",)),
        ("--gpu H100 --gpus 4 --disaggregate --pp 2", ("No data", "pipeline")),
        ("--gpu H100 --gpus 4 --tp 4 --decode-context-parallel-size 2", ("4 KV heads",)),
        ("--gpu H100 --gpus 4 --decode-context-parallel-size 3", ("divisible",)),
        ("--gpu H100 --speculative tokens=3", ("cannot read", "acceptance")),
        ("--gpus 2", ("--gpu",)),
        ("--gpu H100 --model /nowhere/config.json", ("cannot be read", "Qwen2.5-0.5B")),
        ("--gpu H100 --model README.md", ("cannot be read", "Qwen2.5-0.5B")),
        ("--gpu H100 --model Qwen2.5-8B", ("no model 'Qwen2.5-8B'", "nearest")),
        ("--gpu H100 --gpus 2 --model Llama-3.1-70B", ("TP 2", "max_model_len 1", "--tp 4")),
    ],
)
def test_one_sentence_for_what_cannot_be_planned(args, words, run):
    """In milliseconds, on one line of stderr, or as one JSON object."""
    model = "" if "--model" in args else "--model Qwen2.5-7B"
    begin = time.process_time()
    code, out, err = run(f"{model} {args}")
    assert time.process_time() - begin < 5, "vLLM or the network was asked"
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1, (out, err)
    for word in words:
        assert word in err, f"{word!r} is not in {err!r}"
    code, out, err = run(f"{model} {args} --json")
    answer = json.loads(out)
    assert code == 2 and not err and set(answer) == {"error", "nearest"}
    if "nearest" in words:
        assert answer["nearest"].startswith("--")


@pytest.mark.parametrize(
    "args, seconds",
    [
        (f"{SEVEN} --tp 1 --concurrency 256", 0.5),
        (f"{SEVEN} --tp 1 --rate 20", 0.5),
        ("--model Llama-3.1-70B --gpu H100 --gpus 8 --max-model-len 8192 --concurrency 256", 2),
        ("--model Qwen3-30B-A3B --gpu H100 --gpus 8 --concurrency 64", 2),
    ],
)
def test_a_plan_takes_half_a_second_and_a_ranking_of_eight_gpus_two(args, seconds, ask):
    begin = time.process_time()  # of this process: other programs do not count
    assert "error" not in ask(args)
    assert time.process_time() - begin < seconds


CONFIG = dict(load_shape("Llama-3.1-8B").config)
AWQ = {"quant_method": "awq", "bits": "4", "group_size": 128}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model_type": "mamba2"}, "cannot size the model type 'mamba2'"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "No data for the quantisation"),
        ({"quantization_config": AWQ | {"bits": "four"}}, "cannot be read"),
        ({"quantization_config": AWQ}, ""),
        ({"max_position_embeddings": None}, "4,096 is assumed here"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"num_hidden_layers": None}, "has no num_hidden_layers"),
        ({"hidden_size": -4096}, "not a size"),
        ({"vocab_size": "many"}, "not a size"),
    ],
)
def test_a_strange_config_is_planned_or_refused_in_one_sentence(changes, words, run, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
    code, out, err = run(f"--model {tmp_path} --gpu H100 --tp 1 --max-model-len 8192 --no-check")
    assert words in out + err
    assert (code, out, err.count("\n")) == (2, "", 1) if code else not err


def test_a_burst_of_ten_thousand_requests_waits_in_its_queue(ask):
    answer = ask(f"{SEVEN} --tp 1 --concurrency 10000")
    assert answer["ttft_ms"] > 60_000
    assert any("the others wait in the queue" in note for note in answer["notes"])


def test_the_hub_is_asked_only_for_a_name_that_needs_it_and_for_a_second(run, ask, monkeypatch):
    def never():
        raise AssertionError("the network was tried")

    monkeypatch.setattr(models, "_hub_answers", never)
    assert ask("--model Qwen/Qwen2.5-7B-Instruct --gpu H100 --tp 1")["tp"] == 1
    monkeypatch.setattr(models, "_hub_answers", lambda: False)
    code, _, err = run("--model nobody/no-such-model-here --gpu H100")
    assert code == 2 and "does not answer within a second" in err and err.count("\n") == 1
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://192.0.2.1:9")  # TEST-NET-1
    begin = time.perf_counter()
    assert not models._hub_answers(0.3)  # noqa: SLF001 (a black hole of an address)
    assert time.perf_counter() - begin < 2


def test_expert_parallelism_allows_what_cutting_the_experts_does_not(ask):
    box = "--model DeepSeek-V3 --gpu H200 --gpus 32 --nodes 4 --tp 8 --dp 4"
    refused, allowed = ask(box), ask(f"{box} --enable-expert-parallel")
    assert "not divisible" in refused["error"] and allowed["dp"] == 4


def test_the_readmes_plan_can_be_typed_and_its_flags_exist(ask, capsys):
    section = (REPO / "README.md").read_text().split("## A plan from a terminal")[1]
    section = section.split("\n## ")[0]
    typed = section.split("```")[1].replace("\\\n", " ").split("helpers.planning plan")[1]
    answer = ask(typed)
    assert answer["goal_met"] and answer["ranking"]
    with pytest.raises(SystemExit):
        command.main(["plan", "--help"])
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    named = set(re.findall(r"--[a-z][a-z-]+", section))
    assert named <= known, named - known


def test_it_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "helpers.planning", "models"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "DeepSeek-V3" in done.stdout
