"""Steps with drafts: what a target and its drafter compute in one step of an engine."""

from dataclasses import replace

import numpy as np

from .predict import Parts, Steps


class SpeculativeSteps(Steps):
    """Steps in which the target checks drafts and a drafter makes the next ones.

    A head is replayed from CUDA graphs; the kernels of a draft model are launched one by one in
    every pass (StandaloneARSpeculator of v1/worker/gpu/spec_decode has no CUDA graphs yet).
    With n-grams the next step is not planned while one runs: vLLM switches async scheduling off
    (VllmConfig.__post_init__).
    """

    def __init__(self, shape, box, tp, pp, dp, options, tuning):
        super().__init__(shape, box, tp, pp, dp, options, tuning)
        self.drafts = drafts = options.speculative
        self.drafted = drafts.num_speculative_tokens
        self.query_len = 1 + self.drafted
        self.tokens_per_step = drafts.tokens_per_step
        self.drafter, self.launches_s = None, 0.0
        if drafts.shape:
            alone = replace(options, speculative=None)
            self.drafter = Steps(drafts.shape, box, tp, 1, dp, alone, tuning)
        if drafts.method == "draft_model":
            self.launches_s = self.drafted * self.tuning.host_layer_s * drafts.shape.layers

    def parts(self, streams, context, prompt_tokens=0, prompt_keys=0, rows=None):
        """One step by cause, as of ``Steps``: the drafter's passes are in the same parts."""
        streams, context, prompt_tokens, prompt_keys = (
            np.asarray(x, float) for x in (streams, context, prompt_tokens, prompt_keys)
        )
        rows = streams + (prompt_tokens > 0) if rows is None else np.asarray(rows, float)
        checked = streams * self.drafted
        tokens = prompt_tokens + checked
        pairs = prompt_tokens * prompt_keys + checked * context
        keys = pairs / np.maximum(tokens, 1)
        gpu = super().parts(streams, context, tokens, keys, rows + checked)
        if self.drafter:  # the first pass is over all tokens of the step, then one for each token
            first = self.drafter.parts(streams, context, tokens, keys, streams)
            gpu += first + self.drafter.parts(streams, context).scaled(self.drafted - 1)
        gpu = replace(gpu, host=0.0 * streams)
        return gpu + Parts(host=self.waiting(gpu.total, streams, tokens))

    def waiting(self, gpu_s, streams, tokens):
        """Seconds of a step in which the GPU waits for the CPU."""
        cpu_s = self.schedule_seconds(streams) + self.launch_seconds(streams + tokens)
        if self.drafts.method == "ngram":
            return cpu_s
        return np.maximum(0.0, cpu_s + self.launches_s - gpu_s)

    def tabulate(self, most_context: int) -> None:
        """As of ``Steps``, of both models."""
        super().tabulate(most_context)
        if self.drafter:
            self.drafter.tabulate(most_context)

    def seconds(self, streams, context, prompt_tokens, prompt_keys, rows) -> float:
        """Seconds of one step, from the tables."""
        checked = streams * self.drafted
        tokens = prompt_tokens + checked
        keys = (prompt_tokens * prompt_keys + checked * context) / max(tokens, 1)
        gpu_s = self.batch_s(streams, context, tokens, keys, rows + checked)
        if self.drafter:
            gpu_s += self.drafter.batch_s(streams, context, tokens, keys, streams)
            gpu_s += (self.drafted - 1) * self.drafter.batch_s(streams, context, 0, 0, streams)
        return gpu_s + float(self.waiting(gpu_s, streams, tokens))
