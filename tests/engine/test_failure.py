"""A log of vLLM, read for the cause of its end."""

import pytest

from helpers import gpu_memory
from helpers.engine.failure import explain, last_exception, message_of, why

DIED = """\
(EngineCore pid=7) ERROR 11-25 07:58:33 [core.py:1101] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-25 07:58:33 [core.py:1101] ValueError: No available memory for blocks.
(EngineCore pid=7) Traceback (most recent call last):
(EngineCore pid=7) ValueError: No available memory for the cache blocks.
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above.
vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.
"""


@pytest.mark.parametrize(
    "log, cause",
    [
        (DIED, "No available memory for the cache blocks."),
        ("INFO [loader.py:3] read ValueError: no exception\ntorch.OutOfMemoryError: CUDA", "CUDA"),
        ("INFO 11-25 all is well", ""),
    ],
)
def test_the_last_exception_is_the_cause_and_not_what_followed_from_it(log, cause):
    assert last_exception(log) == cause


def test_of_an_engine_that_died_the_log_tells_and_of_another_its_error():
    died = RuntimeError("Engine core initialization failed. See above.")
    assert "No available memory for the cache blocks" in why(died, DIED, "a-model")
    assert "core initialization failed" in why(died, "an empty log", "a-model")
    assert why(ValueError("boom"), DIED, "a-model") == "vLLM did not start: boom."


@pytest.mark.parametrize(
    "message, said, not_said",
    [
        ("No available memory for the cache blocks. Try x.", "Raise gpu_memory_utili", "lower"),
        ("Available memory on node 0 (1/2 GiB) is less.", "or lower", "nvidia-smi"),
        ("CUDA out of memory. Tried to allocate 20 MiB.", "GiB free", "Tried"),
        (
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 268435456 bytes. Error code 12 (Cannot allocate memory)",
            "not enough memory for this engine",
            "enforce",
        ),
        (message_of(MemoryError()), "not enough memory for this engine", "did not start"),
        ("Repository Not Found for url", "'a-model' was not found", "did not start"),
        ("a-model is not a local folder\nIf this is private, log in", "was not found", "log in"),
        ("Cannot find any model weights with `/m`", "any model weights", "no config.json"),
        ("Error while deserializing header: too large", "download or copy", "did not start"),
        ("got an unexpected keyword argument 'max_num_seq'", "mean 'max_num_seqs'?", "got an"),
        ("boom. A page of advice follows.", "vLLM did not start: boom.", "page"),
    ],
)
def test_a_cause_comes_with_its_advice_and_nothing_else(message, said, not_said, monkeypatch):
    monkeypatch.setattr(gpu_memory, "visible_devices", list)
    found = explain(message, "a-model")
    assert said in found and not_said not in found
