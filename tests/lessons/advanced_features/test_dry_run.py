"""vLLM's own answers about arguments, without an engine."""

import pytest

from helpers.engine.dummy_model import dummy_model_folder
from helpers.engine.profile import load_profile
from helpers.lessons.advanced_features.dry_run import dry_run


@pytest.fixture(scope="module")
def profile():
    return load_profile("cpu")


def test_chunked_prefill_is_on_and_switching_it_off_warns_every_time(profile):
    assert dry_run(profile, plain=True).values["enable_chunked_prefill"] is True
    for _ in range(2):  # vLLM itself warns once in a process
        off = dry_run(profile, plain=True, enable_chunked_prefill=False)
        assert off.values["enable_chunked_prefill"] is False
        assert any(
            "does not officially support disabling chunked prefill" in text
            for text in off.about("chunked prefill")
        )
    assert not dry_run(profile, plain=True).about("chunked prefill")


def test_the_given_budget_is_taken(profile):
    both = dry_run(profile, plain=True, enable_chunked_prefill=True, max_num_batched_tokens=2048)
    assert both.values["max_num_batched_tokens"] == 2048 and not both.refusal


def test_another_vocabulary_is_refused_and_can_be_mapped(profile):
    target, draft = (str(dummy_model_folder(f"Qwen2.5-{size}-Instruct")) for size in ("7B", "0.5B"))
    config = {"method": "draft_model", "model": draft, "num_speculative_tokens": 2}
    refused = dry_run(profile, model=target, load_format="dummy", speculative_config=config)
    assert (
        "same vocabulary size" in refused.refusal
        and "152064" in refused.refusal
        and not refused.values
    )
    config["use_heterogeneous_vocab"] = True
    assert not dry_run(
        profile, model=target, load_format="dummy", speculative_config=config
    ).refusal


def test_nothing_is_printed(profile, capfd):
    dry_run(profile, enable_chunked_prefill=False)
    out = capfd.readouterr()
    assert out.out == "" and out.err == ""
