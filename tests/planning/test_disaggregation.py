"""Prefill and decode apart: bytes by hand, rates that agree, commands that vLLM accepts."""

from dataclasses import replace

import pytest

from helpers.planning import (
    EngineOptions,
    PlanningError,
    RequestMix,
    check,
    load_shape,
    make_box,
    predict_speed,
)
from helpers.planning.disaggregation import commands_of, disaggregate

EIGHT = load_shape("Llama-3.1-8B")
MIX, OPTIONS = RequestMix(4096, 256, 64), EngineOptions(max_model_len=8192)


def test_a_prompts_kv_cache_crosses_the_link():
    """4,096 tokens x 131,072 bytes at 450 GB/s: 1.19 ms; at 50 GB/s between machines 10.7."""
    inside = disaggregate(EIGHT, make_box("H100", 8), 1, MIX, OPTIONS)
    across = disaggregate(EIGHT, make_box("H100", 16, 2), 1, MIX, OPTIONS)
    assert inside.kv_bytes == 4096 * 131_072
    assert inside.transfer_s == pytest.approx(1.193e-3, rel=1e-3)
    assert across.transfer_s == pytest.approx(10.74e-3, rel=1e-3)


def test_a_split_serves_what_both_kinds_can_and_no_prompt_slows_a_stream():
    box = make_box("H100", 8)
    split = disaggregate(EIGHT, box, 1, MIX, OPTIONS)
    together = predict_speed(EIGHT, box, 1, 1, 8, MIX, OPTIONS)
    assert split.prefill + split.decode == 8
    assert split.requests_per_s <= min(split.prompts_per_s, split.answers_per_s)
    inside = split.prefill_s + split.transfer_s + MIX.output_tokens * split.tpot_s
    assert split.requests_per_s * inside <= MIX.concurrency * 1.01, "more requests than clients"
    assert split.tpot_s < together.tpot_s + together.prompts_s


def test_longer_prompts_ask_for_more_prefill_instances():
    box = make_box("H100", 8)
    short, long = (
        disaggregate(EIGHT, box, 1, RequestMix(tokens, 256, 256), OPTIONS).prefill
        for tokens in (256, 7000)
    )
    assert short < long


def test_every_instance_has_a_command_that_vllm_accepts():
    shape, box = load_shape("Llama-3.1-70B"), make_box("H100", 16, 2)
    split = disaggregate(shape, box, 4, MIX, OPTIONS)
    launch = commands_of(shape, box, 4, split, {"max_model_len": 8192})
    assert len(launch.commands) == 4 and "machine 2" in launch.commands[2].where
    for command in launch.commands:
        done = check(command, shape)
        assert done.accepted, done.objection


@pytest.mark.parametrize(
    "model, gpus, mix, options, words",
    [
        ("Llama-3.1-8B", 1, MIX, OPTIONS, "more GPUs"),
        ("gpt-oss-20b", 4, MIX, OPTIONS, "No data for handing on"),
        ("Llama-3.1-8B", 4, replace(MIX, rate=3), OPTIONS, "No data for --disaggregate"),
    ],
)
def test_what_has_no_data_says_so(model, gpus, mix, options, words):
    with pytest.raises(PlanningError, match=words):
        disaggregate(load_shape(model), make_box("H100", gpus), 1, mix, options)
