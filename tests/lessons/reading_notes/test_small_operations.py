"""helpers/lessons/reading_notes/small_operations.py: shares belong to their times. Small sizes."""

import pytest
import torch

from helpers.lessons.machine_limits import measure_limits
from helpers.lessons.reading_notes import small_operations


@pytest.fixture(scope="module")
def limits():
    return measure_limits("cpu", mib=64, size=512)


def test_sweep_shares_belong_to_its_times(limits):
    for batch, seconds in ((1, 0.001), (64, 0.002)):
        row = small_operations.beside_limits(limits, batch, 512, seconds)
        moved, flop = 2 * (512 * 512 + 2 * batch * 512), 2 * batch * 512 * 512
        assert (row["batch"], row["ms"]) == (batch, pytest.approx(1000 * seconds))
        assert row["gb_per_s"] == pytest.approx(moved / seconds / 1e9)
        assert row["allowed_ms"] == pytest.approx(
            1000 * max(moved / limits.bytes_per_s, flop / limits.flop_per_s)
        )


def test_cold_weights_come_in_turn():
    weights = small_operations.cold_weights(2048, "cpu")  # 16 copies are 128 MiB
    first, *others = [next(weights) for _ in range(17)]
    assert first.shape == (2048, 2048) and first.dtype == torch.bfloat16
    assert [first is other for other in others] == 15 * [False] + [True]


def test_a_product_takes_half_as_long_again_between_two_of_the_batches_tried():
    rows = [{"batch": b, "ms": ms} for b, ms in ((1, 1.6), (2, 1.0), (4, 1.2), (8, 1.6), (16, 3.0))]
    assert small_operations.half_as_long_again(rows) == (4, 8), "slow before the fastest is no end"
    assert small_operations.half_as_long_again(rows[:3]) == (None, None)


@pytest.mark.parametrize("knee", [6.8, 100, 250])
def test_a_machine_that_does_what_its_limits_allow_is_found_where_the_formula_says(knee):
    rows = [{"batch": 2**i, "ms": max(1.0, 2**i / knee)} for i in range(11)]
    low, high = small_operations.half_as_long_again(rows)
    assert low <= 1.5 * knee <= high == 2 * low


def test_a_backend_works_alone_and_in_two_bytes_and_a_refusal_is_quiet():
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed
    before, q = allowed(), torch.randn(1, 1, 32, 16)
    attend = torch.nn.functional.scaled_dot_product_attention
    results = []
    for backend in small_operations.BACKENDS.values():
        with small_operations.only(backend):
            assert allowed(), "torch converts 16 bits to 32 otherwise"
            results.append(attend(q, q, q))
            assert small_operations.extra_mib(lambda: attend(q, q, q), "cpu") is None
    assert torch.allclose(*results, atol=1e-5)
    with small_operations.only(small_operations.ON_A_GPU["cudnn"]):
        results.append(attend(q, q, q))
    assert len(results) == 2 and allowed() == before


def test_the_longest_common_prompt_decides_and_other_kernels_stand_in():
    rows = small_operations.recorded_on_h100()["attention"]
    found = small_operations.tiled_against_math(rows)
    assert (found["tokens"], found["backend"]) == (16384, "flash") and found[
        "gain"
    ] == pytest.approx(9.63, abs=0.01)
    assert found["memory"] == {
        "from": 2048,
        "to": 16384,
        "math": pytest.approx(64.0, abs=0.1),
        "tiled": pytest.approx(7.95, abs=0.01),
        "short": (512, pytest.approx(4.09, abs=0.01)),
    }
    # A GPU whose memory ends at 8,192 tokens, and one (T4, V100) that has no flash kernel.
    small = small_operations.tiled_against_math(
        [r for r in rows if (r["backend"], r["tokens"]) != ("math", 16384)]
    )
    assert small["tokens"] == 8192 and small["memory"]["to"] == 8192
    old = small_operations.tiled_against_math(
        [r for r in rows if r["backend"] in ("math", "efficient")]
    )
    assert old["backend"] == "efficient" and old["memory"] is None
    with pytest.raises(ValueError, match="no tiled"):
        small_operations.tiled_against_math([r for r in rows if r["backend"] == "math"])


def test_flash_kept_two_parts_of_the_short_prompt_and_one_number_a_query_of_the_long_ones():
    # The sentence under the figure: at 512 tokens torch divides the keys in two (flash_api.cpp).
    # Each part keeps a float32 result and a sum for every query; the whole, one number a query.
    heads, size = 16, 64
    rows = small_operations.recorded_on_h100()["attention"]
    for row in (row for row in rows if row["backend"] == "flash"):
        parts = 2 if row["tokens"] == 512 else 0
        numbers = row["tokens"] * heads * (parts * (size + 1) + 1)
        assert row["extra_mib"] == pytest.approx(4 * numbers / 2**20, abs=0.001)


def test_without_a_compiler_the_chain_is_not_compiled(monkeypatch):
    def broken(function):
        def call(*args):
            raise RuntimeError("no C compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    assert small_operations.compiled_chain(torch.ones(4), torch.ones(4)) is None
    monkeypatch.setattr(torch, "compile", lambda function: function)
    x, residual = torch.randn(50), torch.randn(50)
    step = ((1.5 * x + 0.25).clamp(min=0) * 1.5 + 0.25).clamp(min=0) * 1.5
    assert torch.allclose(small_operations.compiled_chain(x, residual)(), step + residual)
