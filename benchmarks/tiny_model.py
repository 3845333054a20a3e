"""Train the target and the draft model that ship with the workbook.

    python -m benchmarks.tiny_model              tokenizer, both models, checks, GLOSSARY.md
    python -m benchmarks.tiny_model --only draft one of the two, with the tokenizer on disk
    python -m benchmarks.tiny_model --glossary   only rewrite GLOSSARY.md from glossary.json

Both models learn the answers of glossary.json by heart, from many phrasings of each
question, and to tell stories with the chances of stories.py. That is all they know; it is
enough for an engine to serve real requests with real stop tokens, for a draft model to agree
with its target, and for ways of sampling to differ.
"""

import argparse
import math
import os
import random
import re
import time
from pathlib import Path

from helpers.tiny_model import DRAFT, GLOSSARY, TARGET, load_glossary, phrasings, stories

# Before torch is imported: threads that wait must sleep. Spinning made training ten times
# slower on two cores that other programs used as well.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

MARKDOWN = GLOSSARY.with_name("GLOSSARY.md")
SEED = 0
VOCABULARY = 2048
CONTEXT = 4096
THREADS = 2
KV_HEADS = 2  # and heads of 64, the same in both, so that vLLM can page both caches alike
SHAPES = {
    "target": dict(
        hidden_size=256, intermediate_size=768, num_hidden_layers=5, num_attention_heads=4
    ),
    "draft": dict(
        hidden_size=128, intermediate_size=384, num_hidden_layers=2, num_attention_heads=2
    ),
}
DIRECTORIES = {"target": TARGET, "draft": DRAFT}
ROUNDS = {"target": 120, "draft": 200}  # in a round every term is asked once
LEARNING_RATES = (0.02, 3e-3)  # of Muon for the matrices inside the layers, of AdamW for the rest
BATCH = 32
TOKENS = 8192  # at most in a batch of long samples
HISTORY_SHARE = 0.1  # of questions that come after one or two others in the same chat
# The later rounds also put long texts before some questions, as shared prefixes do.
LONG_PROMPT_FROM = 0.25
LONG_PROMPT_SHARE = 0.08
REPEATED = 40  # the terms of highest loss are asked twice in a round
STORIES = 4  # about each hero in a round, every one drawn anew
TOLD = 8  # stories about each hero in the check
DRAFTED = 4  # tokens a step in the check
NO_TERM = -1  # the index of a sample that asks no term

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# None is the tokenizer's default: the chat template adds no system prompt of its own.
SYSTEM_PROMPTS = (
    None,
    None,
    "You are a helpful assistant.",
    "Answer in one or two sentences.",
    "You are a tutor for engineers who learn LLM inference with vLLM.",
)


def chat(question: str, system: str | None = None, history: list[tuple[str, str]] = ()) -> str:
    """The text that CHAT_TEMPLATE makes of a chat, without running Jinja 20,000 times."""
    first = f"{START}system\n{system}{END}\n" if system else ""
    for asked, answered in history:
        first += f"{START}user\n{asked}{END}\n{START}assistant\n{answered}{END}\n"
    return f"{first}{START}user\n{question}{END}\n{START}assistant\n"


def build_tokenizer(entries: list[dict]):
    """A byte-level BPE tokenizer trained on the glossary; any text can be encoded."""
    from tokenizers import pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    texts = [*filter(None, SYSTEM_PROMPTS), "system", "user", "assistant"]
    for entry in entries:
        asked, _ = phrasings(entry)
        # Answers count more: their length is what training and generation cost.
        texts += asked + [q.lower() for q in asked[:3]] + [entry["answer"]] * 4
    rng = random.Random(SEED)
    for hero in stories.HEROES:
        texts += [question.format(a=stories.with_article(hero)) for question in stories.QUESTIONS]
        texts += [stories.story_of(hero, rng) for _ in range(STORIES)]
    # Loaders give every Qwen2 model Qwen2's own splitting of text (digits one by one),
    # whatever its tokenizer.json says: so train with that class, not with a plain one.
    special = dict(eos_token=END, pad_token=PAD, unk_token=PAD, additional_special_tokens=[START])
    tokenizer = Qwen2Tokenizer(**special, model_max_length=CONTEXT)
    bpe = tokenizer.backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[
            PAD,
            END,
            START,
        ],  # in the order in which Qwen2Tokenizer has numbered them above
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer.chat_template = CHAT_TEMPLATE
    numbers = bpe.get_vocab(with_added_tokens=False)
    assert all(
        numbers[token] == tokenizer.convert_tokens_to_ids(token) for token in (PAD, END, START)
    ), "two numbers for one token"
    assert len(tokenizer) == VOCABULARY, (
        f"the glossary gave {len(tokenizer)} tokens, not {VOCABULARY}"
    )
    return tokenizer


def build_model(name: str, tokenizer):
    """A model of this name's size with random weights, seeded."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(SEED)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        num_key_value_heads=KV_HEADS,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SHAPES[name],
    )
    return Qwen2ForCausalLM(config)


def reword(question: str, rng: random.Random) -> str:
    """Questions as people type them: now and then in lower case or without the last mark."""
    if rng.random() < 0.2:
        question = question.lower()
    if rng.random() < 0.2:
        question = question.rstrip("?.")
    return question


def long_text(entries: list[dict], rng: random.Random) -> str:
    """Some pages of the glossary, as a system prompt of about 100 to 3,300 tokens."""
    (number,) = rng.choices((2, 4, 8, 16, 32, 64), weights=(8, 8, 6, 4, 2, 1))
    pages = rng.sample(entries, number)
    return "Glossary:\n" + "\n".join(f"{e['term']}: {e['answer']}" for e in pages)


def one_round(entries, questions, answers, encode, rng, number, repeat, with_long):
    """Every term once, some twice, and stories, as batches of similar length.

    A sample is (prompt ids, answer ids, term's index).
    """
    end = answers[0][-1]
    samples = []
    for index in [*range(len(entries)), *repeat]:
        asked, answer = questions[index], answers[index]
        system, history = rng.choice(SYSTEM_PROMPTS), []
        if with_long and rng.random() < LONG_PROMPT_SHARE:
            system = long_text(entries, rng)
        if rng.random() < HISTORY_SHARE:
            earlier = rng.sample(range(len(entries)), rng.choice((1, 2)))
            history = [(rng.choice(questions[i]), entries[i]["answer"]) for i in earlier]
        question = reword(asked[number % len(asked)], rng)  # all phrasings equally often
        samples.append(
            (encode(chat(question, system, history))[-CONTEXT + len(answer) :], answer, index)
        )
    for hero in stories.HEROES * STORIES:
        asked = rng.choice(stories.QUESTIONS).format(a=stories.with_article(hero))
        prompt = encode(chat(reword(asked, rng), rng.choice(SYSTEM_PROMPTS)))
        samples.append((prompt, encode(stories.story_of(hero, rng)) + [end], NO_TERM))
    # Sorted by length so that little of a batch is padding; noise varies who meets whom.
    samples.sort(key=lambda s: len(s[0]) + len(s[1]) + rng.uniform(-8, 8))
    batches, batch = [], []
    for sample in samples:
        longest = len(sample[0]) + len(sample[1])
        if batch and (len(batch) == BATCH or longest * (len(batch) + 1) > TOKENS):
            batches.append(batch)
            batch = []
        batch.append(sample)
    batches.append(batch)
    rng.shuffle(batches)
    return batches


def tensors(batch, pad_id):
    """Inputs, targets, and the mask of answer positions.

    Padding is on the right, where the causal mask already hides it from every token that counts.
    """
    import torch

    width = max(len(p) + len(a) for p, a, *_ in batch)
    ids = torch.full((len(batch), width), pad_id)
    mask = torch.zeros((len(batch), width), dtype=torch.bool)
    for row, (prompt, answer, *_) in enumerate(batch):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        mask[row, len(prompt) : len(prompt) + len(answer)] = True
    return ids[:, :-1], ids[:, 1:], mask[:, 1:]


def train(name: str, tokenizer, entries: list[dict], rounds: int):
    """Train one model from scratch; returns it in bf16."""
    import torch
    import torch.nn.functional as F

    def encode(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    rng = random.Random(SEED)
    model = build_model(name, tokenizer).train()
    questions = [phrasings(e)[0] for e in entries]
    answers = [encode(e["answer"]) + [tokenizer.eos_token_id] for e in entries]
    size = sum(map(len, answers))
    print(
        f"{name}: {model.num_parameters():,} parameters, {size:,} answer tokens a round", flush=True
    )
    # The model runs in bf16, twice as fast on a CPU; steps are too small for bf16, so the
    # optimizer works on a copy in fp32.
    master = [p.detach().clone().requires_grad_() for p in model.parameters()]
    model = model.to(torch.bfloat16)
    inner = [
        m
        for m, (n, _) in zip(master, model.named_parameters(), strict=True)
        if m.ndim == 2 and "embed" not in n
    ]
    rest = [m for m in master if not any(m is i for i in inner)]
    # Muon learns the glossary in far fewer passes than AdamW alone.
    optimizers = [
        torch.optim.Muon(inner, lr=1.0, weight_decay=0.0, momentum=0.95),
        torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    began, cpu = time.monotonic(), time.process_time()
    recent = [0.0] * len(entries)
    for number in range(rounds):
        total = count = 0
        with_long = number >= LONG_PROMPT_FROM * rounds
        hardest = sorted(range(len(entries)), key=recent.__getitem__)[-REPEATED:]
        batches = one_round(entries, questions, answers, encode, rng, number, hardest, with_long)
        for i, batch in enumerate(batches):
            done = (number + i / len(batches)) / rounds
            warm = min(1.0, (number * len(batches) + i + 1) / 50)
            for optimizer, rate in zip(optimizers, LEARNING_RATES, strict=True):
                optimizer.param_groups[0]["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * done))
            ids, targets, mask = tensors(batch, tokenizer.pad_token_id)
            hidden = model.model(ids).last_hidden_state[mask]
            each = F.cross_entropy(model.lm_head(hidden).float(), targets[mask], reduction="none")
            loss = each.mean()
            loss.backward()
            for copy, used in zip(master, model.parameters(), strict=True):
                copy.grad, used.grad = used.grad.float(), None
            torch.nn.utils.clip_grad_norm_(rest, 1.0)
            for optimizer in optimizers:
                optimizer.step()
            with torch.no_grad():
                for copy, used in zip(master, model.parameters(), strict=True):
                    used.copy_(copy)
            total += each.sum().item()
            count += len(each)
            parts = each.detach().split(mask.sum(1).tolist())
            for part, (*_, index) in zip(parts, batch, strict=True):
                if index != NO_TERM:
                    recent[index] = 0.5 * recent[index] + 0.5 * part.mean().item()
        if number % 5 == 4 or number == rounds - 1:
            spent = time.monotonic() - began
            print(
                f"{name}: round {number + 1}/{rounds}, loss {total / count:.4f}, {spent:.0f} s",
                flush=True,
            )
    print(f"{name}: trained with {time.process_time() - cpu:.0f} s of CPU time", flush=True)
    return model.eval()


def matches(model, tokenizer, pairs):
    """For each (question, answer): which answer tokens the model's greedy choice gets right.

    Given the right ones before. All right is the same as greedy decoding giving the answer.
    """
    import torch

    def encode(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    samples = [(encode(chat(q)), encode(a) + [tokenizer.eos_token_id]) for q, a in pairs]
    found = []
    with torch.inference_mode():
        for at in range(0, len(samples), 64):
            ids, targets, mask = tensors(samples[at : at + 64], tokenizer.pad_token_id)
            right = model(ids).logits.argmax(-1) == targets
            found += [right[row][mask[row]].tolist() for row in range(len(ids))]
    return found


def accepted_share(right: list[list[bool]]) -> float:
    """The acceptance rate that these matches give with DRAFTED tokens per step.

    The target's output is the answer: drafts are accepted up to the first wrong one.
    """
    proposed = accepted = 0
    for row in right:
        at = 1  # the first token comes from the target's prefill
        while at < len(row):
            run = 0
            while run < DRAFTED and at + run < len(row) and row[at + run]:
                run += 1
            proposed, accepted, at = proposed + DRAFTED, accepted + run, at + run + 1
    return accepted / proposed


def told(model, tokenizer) -> list[tuple[str, str]]:
    """(hero, story) as the model tells them, sampled at temperature 1."""
    import torch

    torch.manual_seed(SEED)
    pairs = []
    for hero in stories.HEROES:
        asked = stories.QUESTIONS[0].format(a=stories.with_article(hero))
        prompt = tokenizer(chat(asked), add_special_tokens=False, return_tensors="pt")
        out = model.generate(
            **prompt, do_sample=True, top_k=0, max_new_tokens=80, num_return_sequences=TOLD
        )
        texts = tokenizer.batch_decode(
            out[:, prompt["input_ids"].shape[1] :], skip_special_tokens=True
        )
        pairs += [(hero, text) for text in texts]
    return pairs


def check(name: str, model, tokenizer, entries: list[dict]) -> None:
    """Print how well a model knows the glossary and tells stories.

    The same with vLLM: tests/test_tiny_model.py.
    """
    for kind, which in (("trained", 0), ("held-out", 1)):
        pairs = [(q, e["answer"]) for e in entries for q in phrasings(e)[which]]
        right = matches(model, tokenizer, pairs)
        exact = sum(map(all, right)) / len(right)
        drafts = accepted_share(right)
        print(f"{name}: {kind} phrasings: {exact:.1%} exact, {drafts:.1%} accepted as drafts")
    pairs = told(model, tokenizer)
    good = sum(not stories.faults(text, hero) for hero, text in pairs) / len(pairs)
    print(f"{name}: {good:.1%} of {len(pairs)} stories at temperature 1 are stories of the grammar")


def save(model, tokenizer, directory: Path) -> None:
    """Write the model and its tokenizer as a folder that vLLM loads."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # written readable by the owner alone
    tokenizer.save_pretrained(directory)


def anchor(term: str) -> str:
    """The id of the term in GLOSSARY.md: as GitHub forms it, and written there for JupyterLab."""
    return re.sub(r"[^\w\- ]", "", term.lower()).replace(" ", "-")


def to_markdown(entries: list[dict]) -> str:
    """GLOSSARY.md: an index by category, then all terms from A to Z."""
    lines = [
        "# Glossary of LLM inference",
        "",
        f"{len(entries)} terms, as the model in this folder learned them. "
        "Written by `python -m benchmarks.tiny_model --glossary` from glossary.json: "
        "edit that file, not this one.",
        "",
    ]
    by_category: dict[str, list[dict]] = {}
    for entry in entries:
        by_category.setdefault(entry["category"], []).append(entry)
    for category in sorted(by_category):
        links = " · ".join(f"[{e['term']}](#{anchor(e['term'])})" for e in by_category[category])
        lines += [f"**{category}:** {links}", ""]
    for entry in entries:
        lines += [f'### <a id="{anchor(entry["term"])}"></a>{entry["term"]}', ""]
        lines += [entry["answer"], ""]
        lines += [f"Also: {', '.join(entry['aliases'])}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Train both models, or one; or only rewrite GLOSSARY.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", choices=DIRECTORIES, help="train one of the two, tokenizer as on disk"
    )
    parser.add_argument("--glossary", action="store_true", help="only rewrite GLOSSARY.md")
    arguments = parser.parse_args()
    entries = load_glossary()
    MARKDOWN.write_text(to_markdown(entries), encoding="utf-8")
    if arguments.glossary:
        return

    import torch
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(THREADS)
    tokenizer = (
        AutoTokenizer.from_pretrained(TARGET) if arguments.only else build_tokenizer(entries)
    )
    for name in [arguments.only] if arguments.only else DIRECTORIES:
        model = train(name, tokenizer, entries, ROUNDS[name])
        save(model, tokenizer, DIRECTORIES[name])
        check(name, model, tokenizer, entries)


if __name__ == "__main__":
    main()
