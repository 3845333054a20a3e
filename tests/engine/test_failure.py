"""A log of vLLM, read for the cause of its end."""

import pytest

from helpers.engine.failure import explain, last_exception

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


def test_a_cause_comes_with_advice():
    said = explain("No available memory for the cache blocks.", "a-model")
    assert "not enough memory" in said and "GiB free" in said and "max_model_len" in said
    assert "'a-model' was not found" in explain("Repository Not Found for url", "a-model")
    assert explain("boom.", "a-model") == "vLLM did not start: boom."
