"""The questions of notebook 3's self-check: their words are in questions.yaml, their numbers here.

Two students get different numbers, the same student always the same ones. Answers are computed with
`helpers.lessons.papers`, the code that the notebook has already checked against the papers. The
order of the draws decides the numbers: answers that were saved earlier are graded against them.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from helpers.lessons.papers import deepspeed_inference, paged_attention, speculative
from helpers.lessons.reading_notes.static_batching import steps_needed


@dataclass(frozen=True)
class Question:
    """One question. A number is right within `tolerance` (relative), a choice when it is it."""

    id: str
    section: str  # of the notebook, a key of `sections()`
    text: str
    answer: float | str
    hint: str  # shown after a wrong answer
    why: str  # shown with a right answer, or with the solution
    unit: str = ""
    choices: tuple[str, ...] = ()
    tolerance: float = 0.02


@cache
def _words() -> list[dict]:
    import yaml  # pages without a quiz do without it

    path = Path(__file__).with_name("questions.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def sections() -> dict[str, str]:
    """The notebook's sections by number: {"1": "PagedAttention", ...}."""
    return {str(number): section["title"] for number, section in enumerate(_words(), 1)}


class _Quiz:
    """Questions as they are drawn, one after the other, in the order of questions.yaml."""

    def __init__(self, name: str):
        # The same student: "Ada  Lovelace" and "ada lovelace".
        digest = hashlib.sha256(" ".join(name.lower().split()).encode()).hexdigest()
        self.rng = random.Random(int(digest[:12], 16))
        self.questions: list[Question] = []
        words = enumerate(_words(), 1)
        self.words = {w["id"]: (str(n), w) for n, section in words for w in section["questions"]}

    def pick(self, *options):
        """One of the options."""
        return self.rng.choice(options)

    def add(self, id: str, answer=None, others=None, **drawn) -> None:
        """The next question; what was drawn goes into its words. others: the wrong choices."""
        section, words = self.words[id]
        answer = words["answer"] if answer is None else answer
        others, choices = others or words.get("others"), []
        if others:
            choices = [answer, *others]
            self.rng.shuffle(choices)
        self.questions.append(
            Question(
                id,
                section,
                words["text"].format(**drawn),
                answer,
                words["hint"],
                words["why"].format(**drawn),
                words.get("unit", ""),
                tuple(choices),
                words.get("tolerance", 0.02),
            )
        )


def make_quiz(name: str = "") -> list[Question]:
    """The questions with this student's numbers."""
    quiz = _Quiz(name)
    for draw in (_paged, _batching, _flash, _deepspeed, _steps, _docs, _cost):
        draw(quiz)
    return quiz.questions


def _paged(quiz: _Quiz) -> None:
    rng, pick = quiz.rng, quiz.pick
    layers, heads = pick(24, 32, 40, 48), pick(2, 4, 8)
    per_token = paged_attention.kv_bytes_per_token(layers, heads * 128)
    quiz.add("kv_per_token", per_token / 1024, layers=layers, heads=heads, per_token=per_token)
    pool = pick(8, 12, 20, 40)
    fit = pool * 2**30 // per_token
    quiz.add("slots", fit, pool=pool, layers=layers, heads=heads, per_token=per_token)
    block, prompt, output = pick(16, 32), rng.randrange(50, 400), rng.randrange(20, 200)
    blocks = math.ceil((prompt + output - 1) / block)  # the newest token is not kept yet
    quiz.add("blocks", blocks, block=block, prompt=prompt, output=output, blocks=blocks)
    quiz.add("worst_waste", block - 1, block=block)
    total = pick(200, 300, 450, 600)
    quiz.add("reserve_max", 100 * (1 - total / 2048), total=total, empty=2048 - total)
    quiz.add("external")


def _batching(quiz: _Quiz) -> None:
    outputs = quiz.rng.sample([10, 20, 30, 40, 60, 80, 120, 160], 4)
    share = 100 * sum(outputs) / (4 * max(outputs))
    quiz.add("wave", share, outputs=outputs, sum=sum(outputs), longest=max(outputs))
    lengths = [quiz.pick(10, 20, 40, 80) for _ in range(6)]
    quiz.add("continuous_steps", steps_needed(lengths, places=2), lengths=lengths)
    quiz.add("orca")


def _flash(quiz: _Quiz) -> None:
    tokens, heads = quiz.pick(2048, 4096, 8192), quiz.pick(16, 28, 32)
    quiz.add("scores", heads * tokens**2 * 2 / 2**30, tokens=tokens, heads=heads)
    factor = quiz.pick(2, 3, 4)
    quiz.add("standard_growth", factor**2, factor=factor)
    more = quiz.pick(2, 4)
    quiz.add("sram", 1 / more, more=more)


def _deepspeed(quiz: _Quiz) -> None:
    batch = quiz.pick(1, 2, 4, 8)
    product = deepspeed_inference.Product(batch, 8192, 8192)
    quiz.add("intensity", product.intensity, batch=batch, rows="rows" if batch > 1 else "row")
    tflops, tbs = quiz.pick((312, 2.0), (989, 3.35), (121, 0.3), (362, 0.864))
    knee = deepspeed_inference.knee_batch(tflops * 1e12, tbs * 1e12)
    quiz.add("knee", knee, tflops=tflops, tbs=tbs)
    billions, bandwidth = quiz.pick(7, 8, 14, 32), quiz.pick(1.0, 2.0, 3.35)
    drawn = {"billions": billions, "bandwidth": bandwidth, "gigabytes": 2 * billions}
    quiz.add("floor", 2 * billions / bandwidth, **drawn)


def _steps(quiz: _Quiz) -> None:
    budget, running, prompt = (
        quiz.pick(256, 512),
        quiz.pick(16, 32, 56),
        quiz.pick(1000, 2000, 3000),
    )
    left = budget - running
    drawn = {"budget": budget, "running": running, "prompt": prompt, "left": left}
    quiz.add("chunks", math.ceil(prompt / left), **drawn)
    alpha, gamma = quiz.pick(0.6, 0.7, 0.8, 0.9), quiz.pick(2, 3, 4, 5)
    tokens = speculative.expected_tokens(alpha, gamma)
    quiz.add("per_step", tokens, alpha=alpha, gamma=gamma, power=gamma + 1)
    c = quiz.pick(0.05, 0.1, 0.2)
    drawn = {"alpha": alpha, "gamma": gamma, "c": c, "tokens": tokens}
    quiz.add("gain", speculative.speedup(alpha, gamma, c), **drawn)
    quiz.add("not_worth", c=quiz.pick(0.5, 0.6))


def _docs(quiz: _Quiz) -> None:
    heads, kv = quiz.pick((28, 4), (40, 8), (32, 8))
    sizes = range(2, 9)
    fits = [t for t in sizes if heads % t == 0 and (kv % t == 0 if kv >= t else t % kv == 0)]
    bad = [t for t in sizes if t not in fits and t != 7]
    wrong = quiz.rng.choice([t for t in bad if heads % t] or bad)
    others = [str(t) for t in fits][:3] or ["1"]
    quiz.add("tp_size", str(wrong), others, heads=heads, kv=kv, wrong=wrong)
    layers = quiz.pick(28, 32, 64, 80)
    quiz.add("all_reduces", 2 * layers, layers=layers)
    ttft, e2e = quiz.pick(120, 200, 350), quiz.pick(2000, 2600, 4100)
    tokens = quiz.pick(51, 101, 201)
    quiz.add("tpot", (e2e - ttft) / (tokens - 1), ttft=ttft, e2e=e2e, tokens=tokens)


def _cost(quiz: _Quiz) -> None:
    price, speed, busy = (
        quiz.pick(1.2, 2.5, 4.0),
        quiz.pick(800, 2500, 6000),
        quiz.pick(0.2, 0.4, 0.8),
    )
    per_million = price / (speed * 3600 / 1e6 * busy)
    quiz.add("per_million", per_million, price=price, speed=speed, busy=busy)
    factor = quiz.pick(2, 4)
    quiz.add("idle", factor, factor=factor)
