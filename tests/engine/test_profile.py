"""What a run uses, chosen from the machine and the notebook's parameters."""

import json
import os

import psutil
import pytest

from helpers import tiny_model
from helpers.engine.dummy_model import dummy_model_folder
from helpers.engine.failure import ProfileError
from helpers.engine.profile import gpus, load_profile, model_config


@pytest.fixture
def cpu():
    return load_profile("cpu")


def test_cpu_profile_is_the_shipped_model(cpu):
    assert (cpu.name, cpu.weights) == ("cpu", "shipped")
    assert cpu.model == str(tiny_model.TARGET) and cpu.draft_model == str(tiny_model.DRAFT)
    assert cpu.machine.startswith(f"{os.cpu_count()} CPU cores"), cpu.machine
    assert cpu.memory_gib == pytest.approx(psutil.virtual_memory().total / 2**30)


def test_auto_takes_the_gpu_when_a_driver_answers():
    assert load_profile("auto").name == ("gpu" if gpus() else "cpu")


@pytest.mark.skipif(bool(gpus()), reason="this machine has a GPU")
def test_a_vllm_for_the_cpu_is_never_labelled_as_a_gpu(monkeypatch, capsys):
    # Made on a login node: the driver answers here, the vLLM installed knows only the CPU.
    card = {"name": "NVIDIA H100 80GB HBM3", "memory_gib": 79.6, "compute_capability": (9, 0)}
    monkeypatch.setattr("helpers.engine.profile.gpus", lambda: (card,))
    assert load_profile("auto").name == "cpu"
    assert "built for the CPU" in capsys.readouterr().out
    with pytest.raises(ProfileError, match="built for the CPU: `make clean setup`"):
        load_profile("gpu")


@pytest.mark.skipif(bool(gpus()), reason="this machine has a GPU")
@pytest.mark.parametrize("asked, why", [("auto", "No NVIDIA driver"), ("cpu", 'PROFILE is "cpu"')])
def test_a_vllm_for_gpus_is_not_tried_without_one(asked, why, monkeypatch):
    monkeypatch.setattr("helpers.engine.profile._vllm_is_built_for_cpu", lambda: False)
    with pytest.raises(ProfileError, match=f"{why}.* built for CUDA: .*DEVICE=cpu"):
        load_profile(asked)


@pytest.mark.skipif(bool(gpus()), reason="this machine has a GPU")
def test_gpu_without_a_driver_says_what_to_do():
    with pytest.raises(ProfileError, match='no NVIDIA driver answers.*PROFILE = "auto"'):
        load_profile("gpu")


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("tpu",), "PROFILE must be"),
        (("cpu", "./nothing-here"), "no config.json"),
        (("cpu", 7), "MODEL must be a folder, a Hugging Face id or None, not 7"),
        (("cpu", None, "gguf"), "LOAD_FORMAT must be"),
        (
            ("cpu", "NoSuchModel", "dummy"),
            "no shipped config for 'NoSuchModel'; choose one of .*Qwen2.5-7B-Instruct",
        ),
    ],
)
def test_a_wrong_parameter_gets_one_sentence(arguments, sentence):
    with pytest.raises(ProfileError, match=sentence):
        load_profile(*arguments)


def test_sizes_by_machine_and_by_parameter(cpu):
    assert cpu.size("requests") > 0
    assert cpu.size("requests", 7) == 7
    for wrong in (0, -3, 2.5, "8"):
        with pytest.raises(ProfileError, match="REQUESTS must be a whole number"):
            cpu.size("requests", wrong)


def test_dummy_folder_has_the_real_shape_and_a_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = dummy_model_folder("Qwen/Qwen2.5-7B-Instruct")
    config = json.loads((folder / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]) == (
        3584,
        28,
        152064,
    )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 152064, (
        "random weights choose any id; each must be text, or decoding it is slow"
    )
    assert tokenizer.decode([48213, 152063]) == " w48213 w152063"
    assert (
        tokenizer("What is the KV cache?").input_ids
        == AutoTokenizer.from_pretrained(tiny_model.TARGET)("What is the KV cache?").input_ids
    )
    profile = load_profile("cpu", "Qwen/Qwen2.5-7B-Instruct", "dummy")
    assert profile.weights == "dummy" and profile.engine_args["load_format"] == "dummy"
    assert profile.model == str(folder)


def test_a_dummy_model_is_whole_while_another_notebook_makes_it_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = dummy_model_folder("Qwen2.5-7B-Instruct") / "config.json"
    made = config.read_text()
    config.write_text("an older version's config")
    with config.open() as reader:  # an engine that starts in another notebook
        dummy_model_folder("Qwen2.5-7B-Instruct")
        assert reader.read() == "an older version's config"
    assert config.read_text() == made
    before = config.stat().st_ino
    dummy_model_folder("Qwen2.5-7B-Instruct")
    assert config.stat().st_ino == before, "written again although nothing has changed"


def test_a_model_that_is_nowhere_gets_one_sentence(monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", True
    )  # else it asks the internet for half a minute
    with pytest.raises(ProfileError, match="The model 'no/such' was not found"):
        model_config(load_profile("cpu", "no/such"))


def test_a_notebook_shows_the_sentence_and_no_frames(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    from helpers.engine.failure import EngineError
    from helpers.planning.hardware import PlanningError
    from helpers.results.store import ResultsError
    from helpers.server.server import ServerError

    shell = InteractiveShell()
    for kind in (EngineError, ServerError, ProfileError, ResultsError, PlanningError):
        shell.user_ns["error"] = kind("What happened, and what to do.")
        shell.run_cell("raise error")
        assert capsys.readouterr().out == f"{kind.__name__}: What happened, and what to do.\n"
