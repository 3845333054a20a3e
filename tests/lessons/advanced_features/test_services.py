"""Four services, and what each is judged by."""

from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from helpers import tiny_model
from helpers.lessons.advanced_features import services

SIZES = {
    "requests": 3,
    "long_tokens": 600,
    "prefix_tokens": 200,
    "output_tokens": 8,
    "streams": 2,
    "step_s": 0.01,
    "prefill_s": 0.1,
}


@pytest.fixture(scope="module")
def four():
    return services.four_services(AutoTokenizer.from_pretrained(tiny_model.TARGET), SIZES)


def test_the_mixed_service_is_judged_by_the_gaps_of_its_streams_alone(four):
    mixed = four["mixed"]
    p99 = {"short": {"itl_ms_p99": 200.0}, "long": {"itl_ms_p99": 900.0}}
    assert mixed.value(SimpleNamespace(summary=p99.get)) == 200 and mixed.better == "lower"
    arrivals = [request.arrival_s for request in mixed.workload.requests]
    assert arrivals == pytest.approx([0, 0, 0.016, 0.18]), "prompts come while streams last"


def test_the_chat_shares_its_beginning_and_the_documents_do_not(four):
    def first_block(key):
        return {tuple(r.prompt_token_ids[:128]) for r in four[key].workload.requests}

    assert len(first_block("chat")) == 1 and len(first_block("batch")) == 3
    lengths = [len(request.prompt_token_ids) for request in four["batch"].workload.requests]
    assert all(300 <= length < 420 for length in lengths)
    assert not any(r.stop_at_eos for key in ("chat", "batch") for r in four[key].workload.requests)


def test_a_feature_is_measured_where_it_can_act(four):
    acts = {key: service.features for key, service in four.items()}
    assert [key for key in four if services.CACHE in acts[key]] == ["chat"]
    assert [key for key in four if services.CHUNKS not in acts[key]] == ["assistant"]
    assert [key for key in four if services.DRAFTS not in acts[key]] == ["mixed"], "its p99"


def test_services_of_another_machine_are_those_of_this_one(four, monkeypatch):
    row = {"improvement_x": 0.5, "improvement_x_low": 0.4, "improvement_x_high": 0.6}
    row |= {"improvement_x_values": 3, "drafts_accepted_percent": 45.0}
    rows = [row | {"variant": f"chat, {services.DRAFTS}"}]
    monkeypatch.setattr(services.recorded, "curve", lambda name: (rows, "recorded: there"))
    gains = {services.CACHE: None, services.DRAFTS: None}
    mine = [services.Verdict(four[key], gains) for key in ("chat", "batch")]
    [chat], where = services.elsewhere(mine)
    assert (where, chat.service, chat.accepted) == ("recorded: there", four["chat"], 0.45)
    assert list(chat.gains) == [services.DRAFTS] and chat.gains[services.DRAFTS].verdict == "worse"


def test_random_weights_accept_their_drafts_at_a_chosen_rate(monkeypatch):
    monkeypatch.setattr(services.speculation, "drafts", lambda pair, k: {"k": k})
    pair, synthetic = SimpleNamespace(model="tiny"), SimpleNamespace(model="random")
    assert services.drafts_of(pair, pair, 2) == {"k": 2}
    assert services.drafts_of(pair, synthetic, 2)["synthetic_acceptance_rates"] == [0.7, 0.7**2]
