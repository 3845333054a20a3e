"""Seeded sets of requests. They are only described here; `measure.run_workload` runs them.

Prompts are lists of token ids, so that their lengths are exact. Random ids are as good as text for measuring speed
(vLLM's own benchmark does the same); lessons about what the text says use questions from the shipped glossary.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from helpers import tiny_model


@dataclass(frozen=True)
class Request:
    """One prompt, how many tokens to generate at most, and when it arrives (seconds after the start)."""

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


def poisson_arrivals(n: int, rate_per_s: float | None, rng: random.Random) -> list[float]:
    """Arrival times in seconds: a Poisson process of `rate_per_s` requests a second; all zero without a rate."""
    if not rate_per_s:
        return [0.0] * n
    times, now = [], 0.0
    for _ in range(n):
        now += rng.expovariate(rate_per_s)
        times.append(now)
    return times


def uniform(
    tokenizer,
    n: int,
    input_tokens: int,
    output_tokens: int,
    seed: int = 0,
    rate_per_s: float | None = None,
) -> Workload:
    """`n` requests of the same size, all at once or arriving at `rate_per_s`."""
    rng = random.Random(seed)
    prompts = _random_prompts(tokenizer, n, input_tokens, rng)
    arrivals = poisson_arrivals(n, rate_per_s, rng)
    return Workload(
        "uniform",
        tuple(
            Request(p, output_tokens, arrival) for p, arrival in zip(prompts, arrivals, strict=True)
        ),
        seed,
        f"{n} requests of {input_tokens} tokens in, {output_tokens} out"
        + (f", {rate_per_s:g} arriving a second" if rate_per_s else ""),
        {"rate_per_s": rate_per_s},
    )


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
    """Short streams that are being decoded while long prompts arrive: `short` at time 0, then a long one `every_s`."""
    rng = random.Random(seed)
    shorts = [
        Request(p, short_output, 0.0, "short")
        for p in _random_prompts(tokenizer, short, short_input, rng)
    ]
    longs = [
        Request(p, long_output, first_s + i * every_s, "long")
        for i, p in enumerate(_random_prompts(tokenizer, long, long_input, rng))
    ]
    return Workload(
        "mixed",
        tuple(shorts + longs),
        seed,
        f"{short} streams of {short_input} in / {short_output} out; {long} prompts of {long_input} in / "
        f"{long_output} out, one every {every_s:.3g} s from {first_s:.3g} s",
    )


def spread_arrivals(
    stream_tokens: int, step_s: float, prompts: int, prefill_s: float
) -> tuple[float, float]:
    """(first_s, every_s) for `mixed`, so that all long prompts arrive while the streams last, on any machine.

    step_s: seconds of a decode step of the streams; prefill_s: of a step that reads a whole long prompt.
    """
    decode_s = stream_tokens * step_s
    return 0.1 * decode_s, 0.8 * decode_s / prompts + prefill_s


def shared_prefix(
    tokenizer,
    n: int,
    prefix_tokens: int,
    own_tokens: int,
    output_tokens: int,
    seed: int = 0,
    arrival_gap_s: float = 0.0,
) -> Workload:
    """`n` requests that begin with the same `prefix_tokens` tokens (a system prompt, few-shot examples)."""
    rng = random.Random(seed)
    [prefix] = _random_prompts(tokenizer, 1, prefix_tokens, rng)
    own = _random_prompts(tokenizer, n, own_tokens, rng)
    return Workload(
        "shared_prefix",
        tuple(Request(prefix + p, output_tokens, i * arrival_gap_s) for i, p in enumerate(own)),
        seed,
        f"{n} requests: {prefix_tokens} tokens in common, {own_tokens} of their own, {output_tokens} out",
        {"prefix_tokens": prefix_tokens, "own_tokens": own_tokens},
    )


def with_changed_first_token(tokenizer, workload: Workload, seed: int = 1) -> Workload:
    """The same requests, each with another first token: the counter-example for prefix caching."""
    rng = random.Random(seed)
    ids = _ordinary_ids(tokenizer)
    requests = tuple(
        replace(
            r,
            prompt_token_ids=[rng.choice([i for i in ids if i != r.prompt_token_ids[0]])]
            + r.prompt_token_ids[1:],
        )
        for r in workload.requests
    )
    return replace(workload, requests=requests, name=f"{workload.name}, first token changed")


def chat(
    tokenizer, messages: list[dict], max_tokens: int, arrival_s: float = 0.0, kind: str = ""
) -> Request:
    """A request from chat messages through the model's own chat template; it may stop at the end-of-text token."""
    quiet = {
        "verbose": False
    }  # a prompt that is too long is refused by the engine, with the numbers
    ids = tokenizer.apply_chat_template(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
        tokenizer_kwargs=quiet,
    )
    return Request(list(ids), max_tokens, arrival_s, kind, stop_at_eos=True)


def questions(
    tokenizer,
    n: int,
    seed: int = 0,
    max_tokens: int = 96,
    held_out: bool = True,
    rate_per_s: float | None = None,
) -> Workload:
    """`n` questions about terms of the shipped glossary, in phrasings that the shipped model has not been trained on."""
    rng = random.Random(seed)
    terms = tiny_model.load_glossary()
    arrivals = poisson_arrivals(n, rate_per_s, rng)
    requests, asked = [], []
    for arrival in arrivals:
        term = rng.choice(terms)
        question = rng.choice(tiny_model.phrasings(term)[1 if held_out else 0])
        asked.append(question)
        requests.append(
            chat(tokenizer, [{"role": "user", "content": question}], max_tokens, arrival)
        )
    return Workload(
        "questions", tuple(requests), seed, f"{n} questions from the glossary", {"asked": asked}
    )


def multi_turn(
    tokenizer,
    turns: int,
    seed: int = 0,
    max_tokens: int = 64,
    system: str | None = None,
    notes_tokens: int = 0,
) -> Workload:
    """One conversation, a request a turn: each prompt holds all turns before it (answers from the glossary).

    notes_tokens: each question comes with notes of at least so many tokens (other answers of the glossary).
    Run the requests one after the other: a later one finds the earlier ones' blocks in the prefix cache.
    """
    rng = random.Random(seed)
    terms = rng.sample(tiny_model.load_glossary(), turns)
    messages = [{"role": "system", "content": system}] if system else []
    requests = []
    for turn, term in enumerate(terms):
        question = rng.choice(tiny_model.phrasings(term)[1])
        messages = [
            *messages,
            {"role": "user", "content": _notes(tokenizer, notes_tokens, rng) + question},
        ]
        requests.append(chat(tokenizer, messages, max_tokens, kind=f"turn {turn + 1}"))
        messages = [*messages, {"role": "assistant", "content": term["answer"]}]
    return Workload("multi_turn", tuple(requests), seed, f"a conversation of {turns} turns")


def _notes(tokenizer, tokens: int, rng: random.Random) -> str:
    text, terms = "", tiny_model.load_glossary()
    while len(tokenizer.encode(text, add_special_tokens=False)) < tokens:
        text += rng.choice(terms)["answer"] + " "
    return text


def repeated_answers(tokenizer, n: int, seed: int = 0, max_tokens: int = 96) -> Workload:
    """`n` chats in which the answer has been given before: asked again in other words, it stands in the prompt already."""
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
    return Workload(
        "repeated_answers",
        tuple(requests),
        seed,
        f"{n} questions whose answer stands in the prompt",
    )
