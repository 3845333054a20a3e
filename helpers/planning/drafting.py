"""Steps with drafts: what a target and its drafter compute in one step of an engine."""

from dataclasses import dataclass, replace

import numpy as np

from .predict import Parts, Steps


class SpeculativeSteps(Steps):
    """Steps in which the target checks drafts and a drafter makes the next ones.

    Of the drafter's passes only the GPU's time counts: one scheduler prepares the whole step.
    """

    def __init__(self, shape, box, tp, pp, dp, options, tuning):
        super().__init__(shape, box, tp, pp, dp, options, tuning)
        self.drafts = drafts = options.speculative
        self.query_len = 1 + drafts.num_speculative_tokens
        self.tokens_per_step = drafts.tokens_per_step
        self.drafter = None
        if drafts.shape:
            alone = replace(options, speculative=None)
            self.drafter = Steps(drafts.shape, box, tp, 1, dp, alone, tuning)

    def parts(self, streams, context, prompt_tokens=0, prompt_keys=0, rows=None):
        """One step by cause, as of ``Steps``: the drafter's passes are in the same parts."""
        streams, context, prompt_tokens, prompt_keys = (
            np.asarray(x, float) for x in (streams, context, prompt_tokens, prompt_keys)
        )
        rows = streams + (prompt_tokens > 0) if rows is None else np.asarray(rows, float)
        checked = streams * self.drafts.num_speculative_tokens
        tokens = prompt_tokens + checked
        pairs = prompt_tokens * prompt_keys + checked * context
        keys = pairs / np.maximum(tokens, 1)
        step = super().parts(streams, context, tokens, keys, rows + checked)
        return step + self.drafting(streams, context, tokens, keys)

    def drafting(self, streams, context, tokens, keys) -> Parts:
        """The drafter's passes: the first over all tokens of the step, then one for each token."""
        if self.drafter is None:
            return Parts()
        first = self.drafter.parts(streams, context, tokens, keys, streams)
        rest = self.drafter.parts(streams, context).scaled(self.drafts.num_speculative_tokens - 1)
        return replace(first + rest, host=0.0 * streams)

    def clock(self, most_context: int):
        """As of ``Steps``: fast seconds of one step, from the tables of both models."""
        drafter = self.drafter and self.drafter.clock(most_context)
        return _Clock(super().clock(most_context), drafter, self.drafts.num_speculative_tokens)


@dataclass(frozen=True)
class _Clock:
    target: object
    drafter: object
    drafted: int

    def seconds(self, streams, context, prompt_tokens, prompt_keys, rows) -> float:
        checked = streams * self.drafted
        tokens = prompt_tokens + checked
        keys = (prompt_tokens * prompt_keys + checked * context) / max(tokens, 1)
        seconds = self.target.seconds(streams, context, tokens, keys, rows + checked)
        if self.drafter is None:
            return seconds
        first = self.drafter.batch_s(streams, context, tokens, keys, streams)
        return (
            seconds
            + first
            + (self.drafted - 1) * self.drafter.batch_s(streams, context, 0, 0, streams)
        )
