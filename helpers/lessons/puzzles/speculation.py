"""Puzzles about speculative decoding: a drafter without a model, and the rule of acceptance."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np

from helpers.lessons.puzzles.check import Case, Puzzle

# ---------------------------------------------------------------- an n-gram drafter


def _texts(draw: random.Random) -> Iterator[Case]:
    """Texts of few words, so that their ends have been there before, once or more often."""
    for length in (6, 6, 12, 12, *[30] * 30):
        words = draw.choice([2, 3, 5])
        tokens = [draw.randrange(words) for _ in range(length)]
        given = {"tokens": tokens, "longest": draw.randrange(1, 5), "k": draw.randrange(1, 6)}
        yield Case(given, drafted_by_vllm(**given))
    for tokens in ([1, 2, 3, 4, 5, 6], [7]):  # nothing repeats
        yield Case({"tokens": tokens, "longest": 3, "k": 4}, [])


def drafted_by_vllm(tokens: list[int], longest: int, k: int) -> list[int]:
    """What the loop of vLLM's NgramProposer drafts, without compiling it."""
    from vllm.v1.spec_decode import ngram_proposer

    search = ngram_proposer._find_longest_matched_ngram_and_propose_tokens.py_func  # noqa: SLF001
    return search(np.array(tokens), 1, longest, 1_000_000, k).tolist()


DRAFT = Puzzle(
    "draft",
    "An n-gram drafter",
    _texts,
    against="vLLM's NgramProposer",
    proved="This drafter costs no model and no memory. It gains where answers repeat what is in "
    "the prompt (summaries, edits of code), and nothing where they don't.",
    where=("vllm/v1/spec_decode/ngram_proposer.py", "NgramProposer.propose"),
    hints=(
        "Try n = longest first, then shorter ones down to 1: the end of the text is `tokens[-n:]`.",
        "Look for the same n tokens from the beginning of the text on: the first place counts. The "
        "end itself is no place.",
        "Draft the up to k tokens that followed there; `[]` when no n-gram is found.",
    ),
)


# ---------------------------------------------------------------- the rule of acceptance

TRIALS = 20_000
TOLERANCE = 0.02  # more than five standard deviations of a share in so many trials


def _distributions(draw: random.Random) -> Iterator[Case]:
    """Pairs of distributions over five tokens: alike, far apart, with tokens that never come."""
    rng = np.random.default_rng(draw.randrange(2**32))
    pairs = [([0.1, 0.2, 0.3, 0.4, 0.0], [0.4, 0.3, 0.2, 0.1, 0.0])]
    pairs += [rng.dirichlet([0.7] * 5, size=2).tolist() for _ in range(2)]
    for target, drafted in pairs:
        p, q = np.array(target), np.array(drafted)
        yield Case(
            {"target": target, "drafted": drafted},
            {"comes out": p.tolist(), "kept": float(np.minimum(p, q).sum())},
            _many_times(p, q, rng),
        )


def _many_times(p, q, rng):
    """A trial: a token drawn from q; what the student's rule makes of it, counted."""

    def run(accept_or_replace):
        counts, kept = np.zeros(len(p)), 0
        for token in rng.choice(len(q), size=TRIALS, p=q).tolist():
            out = accept_or_replace(token, p.copy(), q.copy(), rng)
            if out is not None:
                counts[out] += 1
            kept += out == token
        found = {"comes out": (counts / TRIALS).tolist(), "kept": kept / TRIALS}
        return found if counts.any() else None

    return run


def _alike(yours: dict, spec: dict) -> bool:
    shares = np.array([*yours["comes out"], yours["kept"]])
    return bool(np.abs(shares - [*spec["comes out"], spec["kept"]]).max() < TOLERANCE)


ACCEPT_OR_REPLACE = Puzzle(
    "accept_or_replace",
    "The rule of acceptance",
    _distributions,
    against=f"the target's distribution, {TRIALS:,} drafted tokens each, with no more thrown away "
    "than must be",
    proved="The output is distributed as if the target had drawn it alone, whatever the draft: a "
    "bad draft costs time, never quality. The share kept is the sum of min(target, drafted).",
    where=("vllm/v1/sample/rejection_sampler.py", "rejection_random_sample_kernel"),
    hints=(
        "Keep the token with the chance `target[token] / drafted[token]` (at most 1): "
        "`rng.random()` draws a number between 0 and 1.",
        "Else another token comes. Which ones did the draft offer too rarely? Those with "
        "target > drafted, by the difference.",
        "`left = np.maximum(target - drafted, 0)`, made to sum to 1, is the distribution for "
        "`rng.choice(len(left), p=...)`.",
    ),
    same=_alike,
)
