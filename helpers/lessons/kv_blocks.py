"""Count KV-cache blocks as vLLM does: what a prefix cache finds, what requests in flight hold.

Blocks hold `block_size` tokens (16 on a GPU, 128 on the CPU by default). Only full blocks are kept
for reuse, and the last token of a prompt is always computed, because its output is needed:
vllm/v1/core/kv_cache_manager.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from helpers.measure import Measurement


def blocks_held(prompt_tokens: int, output_tokens: int, block_size: int) -> int:
    """Blocks of a request; its newest token has no keys and values yet."""
    return -(-(prompt_tokens + output_tokens - 1) // block_size)


def predicted_hits(
    prompts: Sequence[Sequence[int]],
    block_size: int,
    outputs: Sequence[Sequence[int]] | None = None,
) -> list[int]:
    """Prompt tokens that each request finds in a prefix cache that starts empty and never evicts.

    prompts: token ids, in the order in which the requests are served, one after the other. outputs:
    what each generated, if later prompts may contain it. The last generated token has no KV cache:
    nothing was computed after it.
    """
    seen: set[int] = set()
    hits = []
    for i, prompt in enumerate(prompts):
        found = 0
        for end, key in _block_keys(prompt[: len(prompt) - 1], block_size):
            if key not in seen:
                break
            found = end
        hits.append(found)
        generated = list(outputs[i][:-1]) if outputs else []
        seen.update(key for _, key in _block_keys([*prompt, *generated], block_size))
    return hits


def _block_keys(tokens: Sequence[int], block_size: int) -> Iterable[tuple[int, int]]:
    """(end, key) of every full block; a key stands for the block and all before it.

    So do vLLM's chained hashes.
    """
    key = 0
    for end in range(block_size, len(tokens) + 1, block_size):
        key = hash((key, tuple(tokens[end - block_size : end])))
        yield end, key


def in_flight(measurement: Measurement, block_size: int) -> list[dict]:
    """What requests in flight hold, a row for each step in which all of them were decoding.

    Rows: tokens (with keys and values), blocks, kv_cache_usage (vLLM's own gauge). Steps with a
    prompt half read are left out: vLLM does not say how far it got.
    """
    rows = []
    for step in measurement.timeline:
        now = step["t_s"]
        decoding = [
            r
            for r in measurement.requests
            if r.token_times_s and r.token_times_s[0] <= now < r.token_times_s[-1]
        ]
        if not decoding or len(decoding) != step["running"]:
            continue
        # The token that came last is the next step's input: its keys and values are not there yet.
        held = [r.input_tokens + sum(t <= now for t in r.token_times_s) - 1 for r in decoding]
        blocks = sum(-(-tokens // block_size) for tokens in held)
        usage = step["kv_cache_usage"]
        rows.append({"tokens": sum(held), "blocks": blocks, "kv_cache_usage": usage})
    return rows


def last_steps(
    requests: int, input_tokens: int, output_tokens: int, block_size: int, blocks: int
) -> list[int]:
    """The step in which each request ends when all arrive at once and the cache has `blocks`.

    As vLLM's scheduler does it (vllm/v1/core/sched/scheduler.py): who runs comes first; for want of
    a block the last that runs gives up its own, but keeps the tokens it has written; when nobody
    had to, those that wait are let in, as far as blocks are free. Raises ValueError when one
    request alone does not fit.
    """
    if blocks_held(input_tokens, output_tokens, block_size) > blocks:
        size = f"{input_tokens} + {output_tokens} tokens"
        raise ValueError(f"A request of {size} does not fit {blocks} blocks of {block_size}.")
    written, ends = [0] * requests, [0] * requests
    running, waiting, step = [], list(range(requests)), 0

    def needs(chosen: list[int]) -> int:
        return sum(-(-(input_tokens + written[i]) // block_size) for i in chosen)

    while running or waiting:
        step += 1
        pushed_out = False
        while needs(running) > blocks:
            waiting.insert(0, running.pop())
            pushed_out = True
        while waiting and not pushed_out and needs([*running, waiting[0]]) <= blocks:
            running.append(waiting.pop(0))
        for i in running:
            written[i] += 1
            ends[i] = step
        running = [i for i in running if written[i] < output_tokens]
    return ends
