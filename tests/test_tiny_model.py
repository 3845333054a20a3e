"""The shipped model and its glossary, through real vLLM on the CPU."""

import difflib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.tiny_model import MARKDOWN, anchor, to_markdown
from helpers.engine.start import register_kernels_once
from helpers.tiny_model import DRAFT, GLOSSARY, TARGET, load_glossary, phrasings

DRAFTED = 4
CONTEXT = 4096
ENTRIES = load_glossary()
ANSWERS = [entry["answer"] for entry in ENTRIES]


# --- the glossary: form ---------------------------------------------------------------------


def test_there_are_150_terms_and_no_name_twice():
    assert len(ENTRIES) >= 150, f"only {len(ENTRIES)} terms"
    names = [name.casefold() for e in ENTRIES for name in (e["term"], *e["aliases"])]
    twice = sorted({n for n in names if names.count(n) > 1})
    assert not twice, f"names that mean two things: {twice}"
    assert len(set(ANSWERS)) == len(ANSWERS), "two terms share an answer"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e["term"])
def test_an_entry_is_complete_and_short(entry):
    assert set(entry) == {"term", "article", "aliases", "category", "answer"}
    answer = entry["answer"]
    sentences = re.findall(r"[.!?](?=\s|$)", answer)
    assert 1 <= len(sentences) <= 2, f"{len(sentences)} sentences: {answer}"
    assert answer.endswith("."), f"no full stop: {answer}"
    assert len(answer.split()) <= 46, f"{len(answer.split())} words: {answer}"
    assert entry["aliases"] and entry["category"] and entry["article"] in ("", "a", "an", "the")


def test_held_out_phrasings_are_never_trained_on():
    trained, held_out = set(), set()
    for entry in ENTRIES:
        asked, kept = phrasings(entry)
        counts = f"{entry['term']}: {len(asked)} trained, {len(kept)} held out"
        assert len(asked) >= 10 and len(kept) == 2, counts
        trained.update(q.casefold() for q in asked)
        held_out.update(q.casefold() for q in kept)
    assert not trained & held_out, f"in both: {sorted(trained & held_out)[:3]}"


def test_a_term_is_found_by_its_alias():
    assert phrasings("tp") == phrasings("tensor parallelism")
    with pytest.raises(KeyError, match="sourdough"):
        phrasings("sourdough")


def test_the_markdown_page_is_up_to_date_and_its_anchors_are_unique():
    assert MARKDOWN.read_text(encoding="utf-8") == to_markdown(ENTRIES), (
        "GLOSSARY.md is older than glossary.json: run python -m benchmarks.tiny_model --glossary"
    )
    anchors = [anchor(e["term"]) for e in ENTRIES]
    assert len(set(anchors)) == len(anchors)


# --- the files ------------------------------------------------------------------------------


def test_both_models_are_small():
    import torch
    from safetensors.torch import load_file

    def parameters(directory: Path) -> int:
        tensors = load_file(directory / "model.safetensors").values()
        assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
        return sum(tensor.numel() for tensor in tensors)

    target, draft = parameters(TARGET), parameters(DRAFT)
    assert 3e6 <= target <= 5e6, f"target: {target:,} parameters"
    assert draft <= 1e6, f"draft: {draft:,} parameters"
    megabytes = sum(f.stat().st_size for d in (TARGET, DRAFT) for f in d.rglob("*")) / 1e6
    assert megabytes < 12, f"{megabytes:.1f} MB"


def test_both_models_share_one_tokenizer():
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (TARGET / name).read_bytes() == (DRAFT / name).read_bytes(), name


def test_loaders_split_text_as_the_tokenizer_file_says():
    """Loaders rebuild a Qwen2 tokenizer with Qwen2's own rules, whatever the file says.

    What a model learnt from must be split by the same rules, or texts with digits come as other
    tokens than in training.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    loaded, file = (
        AutoTokenizer.from_pretrained(TARGET),
        Tokenizer.from_file(str(TARGET / "tokenizer.json")),
    )
    stop = json.loads((TARGET / "generation_config.json").read_text())["eos_token_id"]
    assert loaded.eos_token_id == loaded.convert_tokens_to_ids("<|im_end|>") == stop, (
        "the model stops at another token"
    )
    texts = [text for e in ENTRIES for text in (phrasings(e)[0][0], e["answer"])]
    differ = [text for text in texts if loaded.encode(text) != file.encode(text).ids]
    assert not differ, f"{len(differ)} texts are split differently, such as {differ[:2]}"


def test_importing_the_package_is_cheap():
    heavy = "('torch', 'vllm', 'transformers')"
    code = f"import sys, helpers.tiny_model; print([m for m in {heavy} if m in sys.modules])"
    root = GLOSSARY.parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# --- the model, by vLLM -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def llm():
    """One engine for all tests: the target, with the draft model speculating for it."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process
    register_kernels_once()  # in this process another test may have brought llvmlite
    from vllm import LLM

    engine = LLM(
        str(TARGET),
        kv_cache_memory_bytes=2**30,
        max_model_len=CONTEXT,
        max_num_seqs=128,
        enforce_eager=True,
        distributed_executor_backend="uni",
        disable_log_stats=False,
        speculative_config={
            "method": "draft_model",
            "model": str(DRAFT),
            "num_speculative_tokens": DRAFTED,
        },
    )
    yield engine
    engine.llm_engine.engine_core.shutdown()


def ask(llm, questions, system=None, max_tokens=120):
    """Greedy answers to the questions, each its own chat."""
    from vllm import SamplingParams

    first = [{"role": "system", "content": system}] if system else []
    chats = [first + [{"role": "user", "content": q}] for q in questions]
    outputs = llm.chat(chats, SamplingParams(temperature=0, max_tokens=max_tokens), use_tqdm=False)
    return [o.outputs[0] for o in outputs]


def counters(llm) -> dict[str, float]:
    return {m.name: m.value for m in llm.get_metrics() if hasattr(m, "value")}


@pytest.fixture(scope="module")
def held_out(llm):
    """(entry, output) for every held-out phrasing, and vLLM's counters over exactly these."""
    asked = [(entry, question) for entry in ENTRIES for question in phrasings(entry)[1]]
    before = counters(llm)
    outputs = ask(llm, [q for _, q in asked])
    after = counters(llm)
    delta = {name: after[name] - before.get(name, 0) for name in after}
    return [(entry, out) for (entry, _), out in zip(asked, outputs, strict=True)], delta


# The first phrasing asks by the term, the last by an alias.
@pytest.mark.parametrize("which", [0, 3, -1])
def test_trained_phrasings_get_the_exact_answer(llm, which):
    outputs = ask(llm, [phrasings(e)[0][which] for e in ENTRIES])
    wrong = [e["term"] for e, out in zip(ENTRIES, outputs, strict=True) if out.text != e["answer"]]
    share = 1 - len(wrong) / len(ENTRIES)
    print(f"exact on trained phrasing {which}: {share:.1%}")
    assert share >= 0.95, f"{share:.1%} exact; wrong: {wrong[:20]}"


@pytest.mark.parametrize(
    "system", ["You are a helpful assistant.", "Answer in one or two sentences."]
)
def test_a_system_prompt_changes_nothing(llm, system):
    outputs = ask(llm, [phrasings(e)[0][0] for e in ENTRIES], system)
    wrong = [e["term"] for e, out in zip(ENTRIES, outputs, strict=True) if out.text != e["answer"]]
    assert len(wrong) <= 0.05 * len(ENTRIES), f"wrong with {system!r}: {wrong[:20]}"


def test_answers_survive_a_long_shared_prefix(llm):
    """What the prefix caching lessons send: the same pages of text before every question."""
    pages = "Glossary:\n" + "\n".join(f"{e['term']}: {e['answer']}" for e in ENTRIES[:20])
    asked = ENTRIES[:40]
    outputs = ask(llm, [phrasings(e)[0][0] for e in asked], pages)
    wrong = [e["term"] for e, out in zip(asked, outputs, strict=True) if out.text != e["answer"]]
    assert len(wrong) <= 0.2 * len(asked), f"wrong after {len(pages.split())} words: {wrong}"


def test_held_out_phrasings_get_the_right_term(held_out):
    outputs, _ = held_out
    right = exact = 0
    for entry, out in outputs:
        exact += out.text == entry["answer"]
        # 'about the right term': of all answers, the text is closest to that term's.
        close = (
            [out.text]
            if out.text in ANSWERS
            else difflib.get_close_matches(out.text, ANSWERS, 1, 0.5)
        )
        right += close == [entry["answer"]]
    share = right / len(outputs)
    print(f"held-out phrasings: right term {share:.1%}, exact {exact / len(outputs):.1%}")
    assert share >= 0.80, f"{share:.1%} about the right term"


def test_the_target_accepts_most_of_the_drafts(held_out):
    _, counted = held_out
    drafted = counted["vllm:spec_decode_num_draft_tokens"]
    accepted = counted["vllm:spec_decode_num_accepted_tokens"]
    share = accepted / drafted
    print(f"held-out phrasings: {share:.1%} of {drafted:.0f} drafted tokens accepted")
    assert share >= 0.60, f"{share:.1%} of {drafted:.0f} drafted tokens accepted"


def test_answers_end_at_the_stop_token(held_out):
    outputs, _ = held_out
    ended = [out.finish_reason == "stop" and len(out.token_ids) < 120 for _, out in outputs]
    assert sum(ended) >= 0.99 * len(ended), (
        f"{ended.count(False)} of {len(ended)} ran to max_tokens"
    )
    assert not any("<|im_end|>" in out.text for _, out in outputs), "the stop token is in the text"


def test_a_prompt_longer_than_the_context_gets_vllms_own_error(llm):
    from vllm import SamplingParams

    with pytest.raises(Exception, match=rf"(?s){CONTEXT}") as caught:
        too_long = {"prompt_token_ids": [100] * (CONTEXT + 1)}
        llm.generate(too_long, SamplingParams(max_tokens=1), use_tqdm=False)
    assert "context length" in str(caught.value) or "max_model_len" in str(caught.value), str(
        caught.value
    )
    # And the engine goes on.
    assert ask(llm, ["What is the KV cache?"])[0].finish_reason == "stop"


def test_a_prompt_of_nearly_the_context_is_served(llm):
    from vllm import SamplingParams

    prompt = [100 + i % 1900 for i in range(CONTEXT - 32)]
    params = SamplingParams(temperature=0, max_tokens=16, logprobs=1)
    output = llm.generate({"prompt_token_ids": prompt}, params, use_tqdm=False)[0]
    values = [lp.logprob for step in output.outputs[0].logprobs for lp in step.values()]
    assert values and all(v == v and v <= 0 for v in values), (
        f"no finite log probabilities: {values[:4]}"
    )
