"""Seeded sets of requests. They are only described here; `measure.run_workload` runs them.

Prompts are lists of token ids, so that their lengths are exact. Random ids are as good as text for
measuring speed (vLLM's own benchmark does the same); where it matters what is said, or what can be
drafted, they are questions from the shipped glossary.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from helpers import tiny_model


@dataclass(frozen=True)
class Request:
    """One prompt, how many tokens to generate at most, and when it arrives (s after the start)."""

    prompt_token_ids: list[int]
    max_tokens: int
    arrival_s: float = 0.0
    kind: str = ""  # a label for groups within a workload: "short", "long"
    stop_at_eos: bool = False  # False generates exactly max_tokens, so that runs can be compared


@dataclass(frozen=True)
class Workload:
    """Requests with a name, the seed they were drawn with, and what they are in a few words."""

    name: str
    requests: tuple[Request, ...]
    seed: int
    about: str = ""
    details: dict = field(default_factory=dict)

    @property
    def input_tokens(self) -> int:
        """Tokens of all prompts together."""
        return sum(len(request.prompt_token_ids) for request in self.requests)

    def describe(self) -> dict:
        """What a record keeps of the workload: enough to draw the same one again."""
        return {
            "name": self.name,
            "about": self.about,
            "seed": self.seed,
            "requests": len(self.requests),
            "input_tokens": self.input_tokens,
            "max_output_tokens": sum(request.max_tokens for request in self.requests),
            **self.details,
        }

    def __len__(self) -> int:
        return len(self.requests)


def _ordinary_ids(tokenizer) -> list[int]:
    """Token ids that are plain text: no special token, which could end or restructure a prompt."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    return [i for i in range(len(tokenizer)) if i not in special]


def _random_prompts(tokenizer, n: int, length: int, rng: random.Random) -> list[list[int]]:
    ids = _ordinary_ids(tokenizer)
    return [rng.choices(ids, k=length) for _ in range(n)]


def uniform(tokenizer, n: int, input_tokens: int, output_tokens: int, seed: int = 0) -> Workload:
    """`n` requests of the same size, all at once."""
    prompts = _random_prompts(tokenizer, n, input_tokens, random.Random(seed))
    requests = tuple(Request(prompt, output_tokens) for prompt in prompts)
    about = f"{n} requests of {input_tokens} tokens in, {output_tokens} out"
    return Workload("uniform", requests, seed, about)


def mixed(
    tokenizer,
    short: int,
    short_input: int,
    short_output: int,
    long: int,
    long_input: int,
    long_output: int,
    every_s: float,
    first_s: float = 0.0,
    seed: int = 0,
) -> Workload:
    """Streams that are being decoded while long prompts arrive: see `beside`. Sizes in tokens."""
    streams = uniform(tokenizer, short, short_input, short_output, seed)
    prompts = uniform(tokenizer, long, long_input, long_output, seed + 10_000)
    return beside(streams, prompts, every_s, first_s)


def beside(streams: Workload, prompts: Workload, every_s: float, first_s: float = 0.0) -> Workload:
    """Two workloads as one: "short" requests at time 0, and "long" ones that come meanwhile.

    The first of `prompts` comes at `first_s` seconds, then one `every_s` seconds.
    """
    short = [replace(request, kind="short") for request in streams.requests]
    long = [
        replace(request, kind="long", arrival_s=first_s + i * every_s)
        for i, request in enumerate(prompts.requests)
    ]
    about = f"{streams.about}; {prompts.about}, one every {every_s:.3g} s from {first_s:.3g} s"
    return Workload("mixed", tuple(short + long), streams.seed, about)


def spread_arrivals(
    stream_tokens: int, step_s: float, prompts: int, prefill_s: float
) -> tuple[float, float]:
    """(first_s, every_s) for `beside`: all long prompts arrive while the streams last, anywhere.

    step_s: seconds of a decode step of the streams; prefill_s: of a step that reads a whole prompt.
    """
    decode_s = stream_tokens * step_s
    return 0.1 * decode_s, 0.8 * decode_s / prompts + prefill_s


def shared_prefix(
    tokenizer, n: int, prefix_tokens: int, own_tokens: int, output_tokens: int, seed: int = 0
) -> Workload:
    """`n` requests that begin with the same tokens (a system prompt, few-shot examples)."""
    rng = random.Random(seed)
    [prefix] = _random_prompts(tokenizer, 1, prefix_tokens, rng)
    own = _random_prompts(tokenizer, n, own_tokens, rng)
    requests = tuple(Request(prefix + prompt, output_tokens) for prompt in own)
    about = f"{n} requests: {prefix_tokens} tokens in common, {own_tokens} own, {output_tokens} out"
    details = {"prefix_tokens": prefix_tokens, "own_tokens": own_tokens}
    return Workload("shared_prefix", requests, seed, about, details)


def with_changed_first_token(tokenizer, workload: Workload) -> Workload:
    """The same requests, each with another first token: the counter-example for prefix caching."""
    rng = random.Random(1)
    ids = _ordinary_ids(tokenizer)
    requests = []
    for request in workload.requests:
        first, *rest = request.prompt_token_ids
        another = rng.choice([i for i in ids if i != first])
        requests.append(replace(request, prompt_token_ids=[another, *rest]))
    name = f"{workload.name}, first token changed"
    return replace(workload, requests=tuple(requests), name=name)


def chat(tokenizer, messages: list[dict], max_tokens: int) -> Request:
    """A request from chat messages through the model's own template; may stop at its end token."""
    # A prompt that is too long is refused by the engine, with the numbers: the tokenizer is quiet.
    ids = tokenizer.apply_chat_template(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
        tokenizer_kwargs={"verbose": False},
    )
    return Request(list(ids), max_tokens, stop_at_eos=True)


def questions(tokenizer, n: int, seed: int = 0, max_tokens: int = 96) -> Workload:
    """`n` questions about the glossary, in words that the shipped model was not trained on."""
    asked = _asked(n, random.Random(seed))
    chats = ([{"role": "user", "content": question}] for question in asked)
    requests = tuple(chat(tokenizer, messages, max_tokens) for messages in chats)
    about = f"{n} questions from the glossary"
    return Workload("questions", requests, seed, about, {"asked": asked})


def _asked(n: int, rng: random.Random) -> list[str]:
    terms = tiny_model.load_glossary()
    return [rng.choice(tiny_model.phrasings(rng.choice(terms))[1]) for _ in range(n)]


def after_notes(
    tokenizer, n: int, notes_tokens: int, output_tokens: int, seed: int = 0, shared: bool = False
) -> Workload:
    """`n` questions, each after notes of at least so many tokens: answers to other questions.

    shared: the notes are the same for all. They are the system prompt. Exactly `output_tokens` are
    generated, so that runs can be compared.
    """
    rng = random.Random(seed)
    notes = [_notes(tokenizer, notes_tokens, rng) for _ in range(1 if shared else n)]
    requests = []
    for i, question in enumerate(_asked(n, rng)):
        system = {"role": "system", "content": notes[i % len(notes)]}
        asked = chat(tokenizer, [system, {"role": "user", "content": question}], output_tokens)
        requests.append(replace(asked, stop_at_eos=False))
    whose = "the same" if shared else "its own"
    about = f"{n} questions, each after {whose} {notes_tokens:,} tokens, {output_tokens} out"
    return Workload("after_notes", tuple(requests), seed, about)


def turns(tokenizer, n: int, notes_tokens: int = 0, seed: int = 0) -> list[str]:
    """What somebody says in a chat, turn by turn: `n` questions of the glossary.

    notes_tokens: each question comes with notes of at least so many tokens (other answers).
    """
    rng = random.Random(seed)
    return [_notes(tokenizer, notes_tokens, rng) + question for question in _asked(n, rng)]


def _notes(tokenizer, tokens: int, rng: random.Random) -> str:
    text, found, terms = "", 0, tiny_model.load_glossary()
    while found < tokens:
        answer = rng.choice(terms)["answer"]
        text += answer + " "
        found += len(tokenizer.encode(" " + answer, add_special_tokens=False))
    return text


def repeated_answers(tokenizer, n: int, seed: int = 0, max_tokens: int = 96) -> Workload:
    """`n` chats that ask again, in other words, what the same prompt has answered before."""
    rng = random.Random(seed)
    requests = []
    for term in rng.sample(tiny_model.load_glossary(), n):
        first, again = rng.sample(tiny_model.phrasings(term)[0], 2)
        messages = [
            {"role": "user", "content": first},
            {"role": "assistant", "content": term["answer"]},
            {"role": "user", "content": again},
        ]
        requests.append(chat(tokenizer, messages, max_tokens))
    about = f"{n} questions whose answer stands in the prompt"
    return Workload("repeated_answers", tuple(requests), seed, about)
