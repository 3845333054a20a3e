"""vLLM's own scheduler, worked by hand: requests in, steps out, no model and no engine."""

from __future__ import annotations

import os
from unittest import mock

from helpers.tiny_model import TARGET

BLOCK = 16


def config_of(**engine_args):
    """vLLM's configuration of the shipped model with these arguments, as LLM(...) resolves them."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    args = {"model": str(TARGET), "skip_tokenizer_init": True, "enforce_eager": True, **engine_args}
    with mock.patch.dict(os.environ):  # vLLM sets some
        return EngineArgs(**args).create_engine_config(UsageContext.LLM_CLASS)


class Desk:
    """A scheduler with a cache of `blocks` blocks of 16 tokens, one of which vLLM keeps."""

    def __init__(self, blocks: int = 100, **engine_args):
        import torch
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        sizes = {"max_num_seqs": 8, "max_num_batched_tokens": 512, "block_size": BLOCK}
        config = config_of(**{**sizes, **engine_args})
        config.cache_config.num_gpu_blocks = blocks
        init_none_hash(sha256)
        self.hasher = get_request_block_hasher(BLOCK, sha256)
        layer = FullAttentionSpec(
            block_size=BLOCK, num_kv_heads=2, head_size=64, dtype=torch.bfloat16
        )
        self.scheduler = Scheduler(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], layer)]),
            structured_output_manager=StructuredOutputManager(config),
            block_size=BLOCK,
            log_stats=True,
        )
        self.requests = {}

    def add(self, name, prompt: int, answer=16, priority=0, start=0, **sampling) -> None:
        """A request with `prompt` tokens, the numbers from `start`: prompts begin alike by that."""
        from vllm import SamplingParams
        from vllm.v1.request import Request

        self.requests[name] = Request(
            request_id=name,
            prompt_token_ids=list(range(start, start + prompt)),
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
