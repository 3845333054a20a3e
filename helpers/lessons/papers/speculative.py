"""Speculative decoding: what an acceptance rate is worth.

Paper: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", ICML 2023,
arXiv 2211.17192. Its letters: alpha, the chance that one drafted token is accepted; gamma, drafted
tokens per step; c, time of one draft step over one target step.
"""

import numpy as np

from helpers.verdicts.gain import Gain


def _check(alpha: float, gamma: int) -> None:
    if not 0 <= alpha <= 1 or gamma < 0:
        allowed = "alpha must lie between 0 and 1 and gamma must not be negative"
        raise ValueError(f"{allowed}, not {alpha}, {gamma}")


def accept_or_replace(token: int, target, drafted, rng) -> int:
    """The drafted token, or one drawn in its place: distributed as `target` (Algorithm 1).

    target, drafted: probabilities over the vocabulary. rng: a numpy random generator.
    """
    if rng.random() * drafted[token] <= target[token]:
        return token
    left = np.maximum(target - drafted, 0)
    return int(rng.choice(len(left), p=left / left.sum()))


def expected_tokens(alpha: float, gamma: int) -> float:
    """Tokens that one target step yields: (1 - alpha^(gamma+1)) / (1 - alpha) (equation 1).

    Raises ValueError for an alpha outside 0 to 1 or a negative gamma.
    """
    _check(alpha, gamma)
    if alpha == 1:
        return gamma + 1.0
    return (1 - alpha ** (gamma + 1)) / (1 - alpha)


def speedup(alpha: float, gamma: int, c: float = 0.0) -> float:
    """Times faster than one token per step: expected tokens / (gamma c + 1) (theorem 3.8)."""
    return expected_tokens(alpha, gamma) / (gamma * c + 1)


def draft_cost(gain: Gain, alpha: float, gamma: int) -> tuple[float, float, float]:
    """(low, middle, high) of the c with which theorem 3.8 gives the range of `gain`.

    It is all-in: whatever made a step longer is put on its `gamma` drafts. 0 where no draft is so
    cheap. Raises ValueError for a gain without a range, or without drafted tokens.
    """
    if not gain.low > 0 or gamma < 1:
        raise ValueError(f"a draft cost needs a range and drafted tokens, not {gain}, {gamma}")
    low, middle, high = (
        max(0.0, (expected_tokens(alpha, gamma) / speed - 1) / gamma)
        for speed in (gain.high, gain.estimate, gain.low)
    )
    return low, middle, high


def alpha_from_length(mean_length: float, gamma: int) -> float:
    """The alpha whose expected tokens per step are `mean_length` (vLLM: 1 + accepted / drafts).

    Inverts equation 1, which assumes that every position is accepted with the same chance. Raises
    ValueError outside 1 .. gamma + 1.
    """
    if not 1 <= mean_length <= gamma + 1:
        allowed = f"between 1 and {gamma + 1} tokens with {gamma} drafted"
        raise ValueError(f"a step yields {allowed}, not {mean_length}")
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if expected_tokens(middle, gamma) < mean_length:
            low = middle
        else:
            high = middle
    return (low + high) / 2
