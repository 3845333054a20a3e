"""Drafts in a plan: heads against vLLM's own classes, tokens against the paper's formula."""

import json
from dataclasses import replace

import pytest

from helpers.engine.start import quiet
from helpers.planning import (
    EngineOptions,
    PlanningError,
    RequestMix,
    check,
    commands,
    load_shape,
    make_box,
    plan_memory,
    predict_speed,
)
from helpers.planning.ask_vllm import build
from helpers.planning.drafting import SpeculativeSteps
from helpers.planning.memory import why_refused
from helpers.planning.models import rank_tensors, shape_from_config
from helpers.planning.speculation import Speculation, read_speculation

EAGLE3 = {
    "architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 1, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "draft_vocab_size": 32000,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16",
}  # fmt: skip


def head_bytes(target, tp: int, speculative_config: dict) -> int:
    """Bytes that a drafting head adds to this rank, in bfloat16: all but what is the target's."""
    with quiet():
        drafts = speculative_config
        head, _ = build(target, tp, 1, 0, max_model_len=128, speculative_config=drafts)
    own = {name: p for name, p in head.named_parameters() if "embed_tokens" not in name}
    if drafts["method"] == "mtp":  # its output layer is a copy of the target's, and given up
        own = {name: p for name, p in own.items() if "shared_head.head" not in name}
    return sum(p.numel() * p.element_size() for p in own.values())


def few_layers(name):
    """The shipped config with few layers, in 16 bits: what vLLM can build here."""
    config = dict(load_shape(name).config) | {"num_hidden_layers": 4}
    config.pop("quantization_config", None)
    return shape_from_config(config, name)


def drafts_of(target, text):
    return EngineOptions(max_model_len=4096, speculative=read_speculation(target, text))


@pytest.mark.parametrize("name, method", [
    ("DeepSeek-V3", "mtp"), ("GLM-4.5-Air", "mtp"), ("Llama-3.1-8B", "eagle3"),
])  # fmt: skip
@pytest.mark.parametrize("tp", [1, 2])
def test_a_heads_bytes_are_those_of_vllms_class(name, method, tp, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(EAGLE3))
    target = few_layers(name)
    text = f"method={method},model={tmp_path},num_speculative_tokens=1,acceptance=0.8"
    drafts = read_speculation(target, text)
    made = sum(t.bytes for t in rank_tensors(drafts.shape, tp) if t.part == "absorbed")
    assert drafts.weight_bytes(tp) - made == head_bytes(target, tp, drafts.vllm_config())


@pytest.mark.parametrize("acceptance, drafted, tokens", [
    (0.6, 2, 1.96), (0.7, 3, 2.53), (0.8, 2, 2.44), (0.8, 5, 3.69), (0.9, 10, 6.86),
])  # fmt: skip
def test_tokens_of_a_step_are_those_of_the_papers_table(acceptance, drafted, tokens):
    """Table 1 of arXiv 2211.17192, for drafts that cost nothing."""
    text = f"method=ngram,num_speculative_tokens={drafted},acceptance={acceptance}"
    drafts = read_speculation(load_shape("Llama-3.1-8B"), text)
    assert drafts.tokens_per_step == pytest.approx(tokens, abs=0.006)


def test_a_drafter_takes_its_weights_and_its_share_of_the_kv_cache():
    target, drafter = load_shape("Llama-3.1-70B"), load_shape("Llama-3.1-8B")
    box = make_box("H100", 4)
    text = "model=Llama-3.1-8B,num_speculative_tokens=4,acceptance=0.8"
    plain = plan_memory(target, box, 4, options=EngineOptions(max_model_len=4096)).worst
    both = plan_memory(target, box, 4, options=drafts_of(target, text)).worst
    assert both.weights - plain.weights == sum(t.bytes for t in rank_tensors(drafter, 4))
    assert both.kv_page - plain.kv_page == 16 * drafter.kv_bytes_per_token(4)


def tpot_of(target, drafts, streams):
    options = drafts_of(target, drafts) if drafts else EngineOptions(max_model_len=4096)
    mix = RequestMix(64, 64, streams)
    return predict_speed(target, make_box("H100"), workload=mix, options=options).tpot_s


def test_speed_follows_acceptance_and_drafts_cost_most_when_the_gpu_computes(tmp_path):
    """A head that is always right gives k + 1 tokens a step; one that never is, a loss."""
    (tmp_path / "config.json").write_text(json.dumps(EAGLE3))
    target = load_shape("Llama-3.1-8B")
    head = f"method=eagle3,model={tmp_path},num_speculative_tokens=3,acceptance="

    plain, always, often, never = (
        tpot_of(target, drafts, 1) for drafts in (None, head + "1", head + "0.7", head + "0")
    )
    assert plain / 4 < always < often < plain < never
    gain = [tpot_of(target, None, n) / tpot_of(target, head + "0.7", n) for n in (1, 512)]
    assert gain[0] > 1.3 > gain[1]


def test_a_draft_model_whose_kernels_are_launched_one_by_one_makes_a_7b_slower():
    """An H100 of 2026-11-24, 0.5B for 7B, k = 4: 0.12, 0.30, 0.31 times as fast as without."""
    config = load_shape("Qwen2.5-0.5B").config | {"vocab_size": 152064, "_name": "draft"}
    drafter = shape_from_config(config, "draft")
    target = load_shape("Qwen2.5-7B")
    for acceptance, measured in ((0.2, 0.115), (0.8, 0.301), (0.95, 0.312)):
        drafts = Speculation("draft_model", 4, acceptance, drafter)
        options = EngineOptions(max_model_len=4096, speculative=drafts)
        box, mix = make_box("H100"), RequestMix(64, 64)
        gain = (
            tpot_of(target, None, 1)
            / predict_speed(target, box, workload=mix, options=options).tpot_s
        )
        assert gain == pytest.approx(measured, rel=0.4)  # its steps took 50 to 87 ms


@pytest.mark.parametrize("streams, tokens", [(1, 0), (24, 0), (24, 2048)])
def test_a_load_is_played_with_the_same_seconds_that_are_shown_by_part(streams, tokens):
    target = load_shape("Llama-3.1-70B")
    drafts = drafts_of(target, "model=Llama-3.1-8B,num_speculative_tokens=4,acceptance=0.8")
    steps = SpeculativeSteps(target, make_box("H100", 4), 4, 1, 1, drafts, None)
    step = (streams, 500, tokens, tokens / 2, streams + tokens / 1024)
    shown = float(steps.parts(*step).total)
    steps.tabulate(4096)
    assert steps.seconds(*step) == pytest.approx(shown, rel=0.02)


@pytest.mark.parametrize(
    "target, text, words",
    [
        ("Qwen2.5-7B", "model=Qwen2.5-0.5B,num_speculative_tokens=4,acceptance=0.7", "152064"),
        ("Llama-3.1-8B", "method=mtp,num_speculative_tokens=4,acceptance=0.7", "no layer for"),
        ("Llama-3.1-8B", "method=suffix,num_speculative_tokens=4,acceptance=0.7", "No data"),
        ("Llama-3.1-8B", "method=ngram,num_speculative_tokens=4", "cannot read"),
        ("Llama-3.1-8B", "method=ngram,num_speculative_tokens=4,acceptance=nan", "from 0 to 1"),
        ("Llama-3.1-8B", "method=ngram,num_speculative_tokens=4,acceptance=1.5", "from 0 to 1"),
        ("Llama-3.1-8B", "method=ngram,num_speculative_tokens=-4,acceptance=0.5", "from 1 to 32"),
        ("Llama-3.1-8B", "method=draft_model,num_speculative_tokens=4,acceptance=0.5", "model="),
        ("Llama-3.1-8B", "method=eagle3,model=Llama-3.1-8B,num_speculative_tokens=2,acceptance=0.5",
         "No data"),
    ],
)  # fmt: skip
def test_drafts_that_cannot_be_are_refused_in_one_sentence(target, text, words):
    with pytest.raises(PlanningError) as caught:
        read_speculation(load_shape(target), text)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_layout_without_data_for_drafts_says_so():
    target = load_shape("Llama-3.1-70B")
    options = drafts_of(target, "method=ngram,num_speculative_tokens=4,acceptance=0.7")
    with pytest.raises(PlanningError, match="No data for speculative decoding with a pipeline"):
        plan_memory(target, make_box("H100", 4), 2, 2, options=options)


@pytest.mark.parametrize(
    "target, text",
    [
        ("Llama-3.1-70B", "method=ngram,num_speculative_tokens=4,acceptance=0.7"),
        ("Llama-3.1-70B", "model=Llama-3.1-8B,num_speculative_tokens=4,acceptance=0.7"),
        ("GLM-4.5-Air", "method=mtp,num_speculative_tokens=1,acceptance=0.7"),
    ],
)
def test_the_command_is_accepted_by_vllm(target, text):
    shape = load_shape(target)
    drafts = read_speculation(shape, text)
    launch = commands(shape, 4, given={"speculative_config": drafts.vllm_config()})
    drafter = drafts.shape if "model" in drafts.vllm_config() else None
    done = check(launch.commands[0], shape, drafter)
    assert done.accepted, done.objection


# ---------------------------------------------------------------- decode context parallelism
@pytest.mark.parametrize("dcp", [2, 4])
def test_context_parallelism_is_refused_where_vllm_refuses_it(dcp):
    shape = load_shape("Llama-3.1-70B")  # 8 KV heads: TP 16 copies each once
    launch = commands(shape, 16, given={"decode_context_parallel_size": dcp})
    done = check(launch.commands[0], shape)
    ours = why_refused(shape, 16, 1, 1, EngineOptions(decode_context_parallel_size=dcp))
    assert done.accepted == (ours is None) == (dcp == 2), (done.objection, ours)


def test_ranks_that_share_a_context_hold_so_many_times_its_tokens():
    shape, box = load_shape("DeepSeek-V3"), make_box("H200", 8)
    options = EngineOptions(max_model_len=8192)
    shared = replace(options, decode_context_parallel_size=8)
    whole, parts = (plan_memory(shape, box, 8, options=o) for o in (options, shared))
    assert parts.kv_cache_tokens == pytest.approx(8 * whole.kv_cache_tokens, rel=0.02)
    assert any("no data for its exchanges" in note for note in parts.notes)
