"""vLLM's own scheduler, worked by hand: requests in, steps out, no model and no engine."""

from __future__ import annotations

import os
from unittest import mock

from helpers.engine.start import quiet
from helpers.tiny_model import TARGET

BLOCK = 16


def config_of(**engine_args):
    """The configuration of the shipped model with these arguments, as LLM(...) resolves them."""
    with quiet(), mock.patch.dict(os.environ):  # vLLM sets some
        from vllm.engine.arg_utils import EngineArgs
        from vllm.usage.usage_lib import UsageContext

        args = {"model": str(TARGET), "skip_tokenizer_init": True, "enforce_eager": True}
        return EngineArgs(**args | engine_args).create_engine_config(UsageContext.LLM_CLASS)


class Desk:
    """A scheduler with a cache of `blocks` blocks, one of which vLLM keeps.

    engine_args: vLLM's, of which max_num_batched_tokens is the budget of a step in tokens.
    """

    def __init__(self, blocks: int = 100, block_size: int = BLOCK, **engine_args):
        import torch
        from vllm.utils.hashing import sha256
        from vllm.v1.core import kv_cache_utils
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        sizes = {"max_num_seqs": 8, "max_num_batched_tokens": 512, "block_size": BLOCK}
        # A GPU plans a step ahead by default and takes no blocks of another size than its kernels.
        config = config_of(**sizes | {"async_scheduling": False} | engine_args)
        config.cache_config.block_size = block_size
        config.cache_config.num_gpu_blocks = blocks
        if not hasattr(kv_cache_utils, "NONE_HASH"):  # an engine in this process has set its own
            kv_cache_utils.init_none_hash(sha256)
        self.hasher = kv_cache_utils.get_request_block_hasher(block_size, sha256)
        layer = FullAttentionSpec(
            block_size=block_size, num_kv_heads=2, head_size=64, dtype=torch.bfloat16
        )
        self.scheduler = Scheduler(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], layer)]),
            structured_output_manager=StructuredOutputManager(config),
            block_size=block_size,
            log_stats=True,
        )
        self.requests = {}

    def add(self, name, prompt, answer=16, priority=0, start=0, **sampling) -> None:
        """A request for `answer` tokens.

        prompt: token ids, or how many: then the numbers from `start`, and prompts begin alike by
        that.
        """
        from vllm import SamplingParams
        from vllm.v1.request import Request

        tokens = range(start, start + prompt) if isinstance(prompt, int) else prompt
        self.requests[name] = Request(
            request_id=name,
            prompt_token_ids=list(tokens),
            sampling_params=SamplingParams(max_tokens=answer, ignore_eos=True, **sampling),
            pooling_params=None,
            priority=priority,
            block_hasher=self.hasher,
        )
        self.scheduler.add_request(self.requests[name])

    def step(self) -> dict[str, int]:
        """One step of the engine: tokens worked on by request, in the scheduler's order."""
        from vllm.v1.outputs import ModelRunnerOutput

        planned = self.scheduler.schedule()
        names = list(planned.num_scheduled_tokens)
        through = [
            self.requests[n].num_computed_tokens >= self.requests[n].num_tokens for n in names
        ]
        told = self.scheduler.update_from_output(
            planned,
            ModelRunnerOutput(
                req_ids=names,
                req_id_to_index={name: i for i, name in enumerate(names)},
                sampled_token_ids=[[7] if done else [] for done in through],
            ),
        )
        self.prefix_cache = told[0].scheduler_stats.prefix_cache_stats  # of this step
        return planned.num_scheduled_tokens

    def blocks_of(self, name: str) -> int:
        """Blocks that the request holds."""
        (block_ids,) = self.scheduler.kv_cache_manager.get_block_ids(name)
        return len(block_ids)

    def to_do(self, requests) -> dict[str, int]:
        """Tokens that each of the scheduler's requests still has to compute, before a step."""
        return {r.request_id: r.num_tokens - r.num_computed_tokens for r in requests}
