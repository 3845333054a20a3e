"""Speculative decoding in a plan: what the drafter takes, and what it gives.

    drafter = read_speculation(target, "method=mtp,num_speculative_tokens=2,acceptance=0.8")

A drafter proposes k tokens for each stream, one after the other; the target checks all of them in
one step and keeps those up to the first that it would not have written, and one more of its own.
When each is accepted with probability a, given those before it, a step gives
(1 - a^(k+1)) / (1 - a) tokens on average (Leviathan et al., arXiv 2211.17192, equation 1).
"""

import contextlib
from dataclasses import dataclass, replace

from .hardware import GIB, PlanningError, read_pairs
from .models import ModelShape, load_shape, rank_tensors, why_invalid

METHODS = ("ngram", "draft_model", "eagle3", "mtp")
# Families whose checkpoints carry one more layer for drafting (num_nextn_predict_layers).
WITH_MTP = ("deepseek_v3", "deepseek_v32", "glm4_moe")


@dataclass(frozen=True)
class Speculation:
    """How drafts are made. shape: of the drafter; None for ngram, which copies from the context."""

    method: str
    num_speculative_tokens: int
    acceptance: float  # probability that a drafted token is kept, given that those before it were
    shape: ModelShape | None = None

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a stream gets in a step, on average."""
        return sum(self.acceptance**i for i in range(self.num_speculative_tokens + 1))

    def weight_bytes(self, tp: int) -> int:
        """Bytes of the drafter on one rank; a head shares the target's embedding and rotary table.

        (SpecDecodeBaseProposer._maybe_share_embeddings in v1/spec_decode/llm_base_proposer.py)
        """
        if self.shape is None:
            return 0
        is_head = self.method in ("eagle3", "mtp")  # works on the target's hidden states
        shared = ("embedding", "rope") if is_head else ()
        own = sum(t.bytes for t in rank_tensors(self.shape, tp) if t.part not in shared)
        # an EAGLE-3 head has a vocabulary of its own: which token of the target each of them is
        return own + (8 * self.shape.vocab if self.method == "eagle3" else 0)

    def kv_bytes_per_token(self, tp: int, kv_dtype: str) -> int:
        """Bytes of KV cache that the drafter keeps of a token, on one rank."""
        return self.shape.kv_bytes_per_token(tp, kv_dtype) if self.shape else 0

    def why_invalid(self, target: ModelShape, tp: int, pp: int) -> str | None:
        """Why a layout of the target cannot be planned with these drafts, in one sentence."""
        if pp > 1:
            return "No data for speculative decoding with a pipeline: plan with --pp 1."
        if len(set(target.attention)) > 1 and (self.shape or "linear" in target.attention):
            return f"No data for drafts beside {target.name}, whose layers attend in several ways."
        problem = why_invalid(self.shape, tp) if self.shape else None
        return problem and f"The drafter {self.shape.name}: {problem}"

    def vllm_config(self) -> dict:
        """The value of --speculative-config."""
        config = {"method": self.method, "num_speculative_tokens": self.num_speculative_tokens}
        if self.method in ("draft_model", "eagle3"):
            config["model"] = self.shape.source
        if self.method == "ngram":  # vLLM wants to know how long a match may be
            config["prompt_lookup_max"] = 4
        return config


def read_speculation(target: ModelShape, text: str) -> Speculation:
    """The Speculation of "method=...,model=...,num_speculative_tokens=...,acceptance=...".

    Raises PlanningError for what cannot be read, and for methods without data.
    """
    keys = ("method", "model", "num_speculative_tokens", "acceptance")
    example = "method=ngram,num_speculative_tokens=4,acceptance=0.6"
    said = read_pairs("--speculative", text, keys, example, needed=keys[2:])
    method = said.get("method", "draft_model")
    tokens = _within(1, 32, int, said, "num_speculative_tokens", "a whole number")
    acceptance = _within(0, 1, float, said, "acceptance", "the probability that a draft is kept")
    if method not in METHODS:
        raise PlanningError(
            f"No data for speculation by {method!r}: the planner has it for {', '.join(METHODS)}."
        )
    if method == "ngram":
        return Speculation(method, tokens, acceptance)
    if method == "mtp":
        return Speculation(method, tokens, acceptance, mtp_head(target))
    if "model" not in said:
        raise PlanningError(f"--speculative method={method} needs model=, the drafter's config.")
    drafter = load_shape(said["model"])
    if method == "eagle3":
        return Speculation(method, tokens, acceptance, eagle3_head(drafter))
    if drafter.vocab != target.vocab:
        raise PlanningError(
            f'vLLM refuses {drafter.name} as the drafter of {target.name}: "Target and draft model '
            f"should have the same vocabulary size. Target model vocab_size={target.vocab}. Draft "
            f'model vocab_size={drafter.vocab}."'
        )
    return Speculation(method, tokens, acceptance, drafter)


def _within(low, high, kind, said: dict, key: str, what: str):
    """A number of the option. Raises PlanningError for one that is not between low and high."""
    with contextlib.suppress(ValueError):
        if low <= (value := kind(said[key])) <= high:
            return value
    raise PlanningError(f"{key} must be {what}, from {low} to {high}, not {said[key]}.")


def mtp_head(target: ModelShape) -> ModelShape:
    """The layer for multi-token prediction that the target's checkpoint carries.

    One more layer like the last, behind a projection of embedding and hidden state to one row; the
    output layer is the target's (model_executor/models/deepseek_mtp.py).
    """
    if target.family not in WITH_MTP:
        raise PlanningError(
            f"{target.name} has no layer for multi-token prediction that the planner knows: "
            f"method=mtp is for {', '.join(WITH_MTP)}."
        )
    full = "latent" if target.mla else "full"
    traits = {**dict(target.traits), "joins": 2, "norms": 4}
    return replace(
        target,
        name=f"{target.name}'s MTP layer",
        attention=(full,),
        mixtures=(True,),
        tied=True,
        traits=tuple(traits.items()),
    )


def eagle3_head(drafter: ModelShape) -> ModelShape:
    """An EAGLE-3 head: its first layer sees the embedding beside three of the target's layers.

    (model_executor/models/llama_eagle3.py)
    """
    if drafter.family != "llama" or drafter.layers != 1:
        raise PlanningError(
            f"No data for {drafter.name} as an EAGLE-3 head: the planner knows heads of one llama "
            "layer."
        )
    traits = {**dict(drafter.traits), "joins": 3, "norms": 3, "wide": True}
    vocab = int(drafter.config.get("draft_vocab_size") or drafter.vocab)
    return replace(drafter, vocab=vocab, tied=False, traits=tuple(traits.items()))


def about_speculation(p, without_s: float) -> dict:
    """What a plan says of its drafts. without_s: TPOT of the same plan without them."""
    drafts, options = p.memory.options.speculative, p.memory.options
    return {
        **drafts.vllm_config(),
        "acceptance": drafts.acceptance,
        "tokens_per_step": round(drafts.tokens_per_step, 4),
        "drafter": drafts.shape.name if drafts.shape else None,
        "drafter_weights_gib_per_gpu": round(drafts.weight_bytes(p.tp) / GIB, 4),
        "drafter_kv_bytes_per_token_per_gpu": drafts.kv_bytes_per_token(
            p.tp, options.kv_cache_dtype
        ),
        "tpot_ms_without": round(without_s * 1e3, 4),
    }
