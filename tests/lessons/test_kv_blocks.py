"""Blocks are counted as vLLM counts them."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.lessons import kv_blocks


def reusable_tokens(shared: int, prompt: int, block_size: int) -> int:
    """Tokens that a prompt of `prompt` tokens finds when its first `shared` were seen."""
    return max(0, min(shared, prompt - 1)) // block_size * block_size


def test_only_whole_blocks_and_never_the_whole_prompt():
    assert reusable_tokens(600, 624, 128) == 512
    assert reusable_tokens(600, 624, 16) == 592
    assert reusable_tokens(127, 400, 128) == 0
    assert reusable_tokens(256, 256, 128) == 128, "the last token of a prompt is always computed"
    assert reusable_tokens(257, 257, 128) == 256


def test_a_changed_first_token_loses_everything():
    prompt = list(range(400))
    assert kv_blocks.predicted_hits([prompt, prompt, [7, *prompt[1:]]], 128) == [0, 384, 0]


def test_generated_tokens_are_found_but_for_the_last():
    prompt, reply = list(range(100)), list(range(200, 228))
    follow_up = [*prompt, *reply, 5, 6, 7]
    assert kv_blocks.predicted_hits([prompt, follow_up], 32) == [0, 96]
    assert kv_blocks.predicted_hits([prompt, follow_up], 32, [reply, [1]]) == [0, 96], (
        "128 tokens, but the last has no KV"
    )
    assert kv_blocks.predicted_hits([prompt, follow_up], 32, [[*reply, 9], [1]]) == [0, 128]


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30), min_size=1, max_size=6),
    st.integers(1, 5),
)
def test_equals_a_search_through_all_earlier_prompts(prompts, block_size):
    def brute(i):
        best = 0
        for earlier in prompts[:i]:
            shared = 0
            while (
                shared < min(len(earlier), len(prompts[i]))
                and earlier[shared] == prompts[i][shared]
            ):
                shared += 1
            best = max(best, reusable_tokens(shared, len(prompts[i]), block_size))
        return best

    assert kv_blocks.predicted_hits(prompts, block_size) == [brute(i) for i in range(len(prompts))]


@dataclass
class Request:
    input_tokens: int
    token_times_s: list


@dataclass
class Run:
    requests: list
    timeline: list = field(default_factory=list)


def test_blocks_of_requests_in_flight():
    run = Run([Request(10, [1.0, 2.0, 3.0]), Request(20, [2.0, 3.0, 4.0])])
    run.timeline = [
        {"t_s": t, "running": n, "kv_cache_usage": t / 10}
        for t, n in ((1.0, 1), (2.0, 2), (3.0, 1), (4.0, 0))
    ]
    rows = kv_blocks.in_flight(run, block_size=16)
    assert [row["kv_cache_usage"] for row in rows] == [0.1, 0.2, 0.3]
    assert [row["tokens"] for row in rows] == [10, 11 + 20, 21], (
        "prompt and outputs so far, less the one not yet read"
    )
    assert [row["blocks"] for row in rows] == [1, 1 + 2, 2]


def test_steps_with_a_prompt_half_read_are_left_out():
    run = Run([Request(10, [1.0, 2.0]), Request(500, [9.0, 10.0])])
    run.timeline = [{"t_s": 1.0, "running": 2, "kv_cache_usage": 0.1}]
    assert kv_blocks.in_flight(run, 16) == []


def test_preempted_requests_keep_their_tokens_and_write_the_rest_later():
    # 2 requests of 4 + 4 tokens, blocks of 4: one block each at first, a second for the next token.
    assert kv_blocks.last_steps(2, 4, 4, 4, blocks=4) == [4, 4]
    assert kv_blocks.last_steps(2, 4, 4, 4, blocks=2) == [4, 7], (
        "the last to come is pushed out after its first token"
    )
    assert kv_blocks.last_steps(3, 4, 4, 4, blocks=2) == [4, 7, 11], "and the third waits for both"
    with pytest.raises(ValueError, match="does not fit"):
        kv_blocks.last_steps(2, 4, 4, 4, blocks=1)


def test_steps_of_a_small_cache_as_recorded():
    # H100: 64 requests of 64 + 192 in 512 blocks of 16 took 129 steps more than in all blocks, and
    # 1.22 times as long on average.
    ends = kv_blocks.last_steps(64, 64, 192, 16, 512)
    assert max(ends) - 192 == pytest.approx(129, abs=2) and sum(ends) / 64 / 192 == pytest.approx(
        1.22, abs=0.02
    )
    # CPU: 20 requests of 100 + 156 in 20 blocks of 128 took 283 steps.
    assert max(kv_blocks.last_steps(20, 100, 156, 128, 20)) == 283
