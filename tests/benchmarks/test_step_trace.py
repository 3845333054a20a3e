"""benchmarks/step_trace.py: times of a decode step counted from a trace."""

import pytest

from benchmarks.step_trace import class_of, summarise


def step(at, streams=32, context=0, clock="gpu_user_annotation"):
    return {
        "cat": clock,
        "name": f"execute_context_{context}({context * 64})_generation_{streams}({streams})",
        "ts": at,
        "dur": 700.0,
    }


def kernel(name, at, dur):
    return {"cat": "kernel", "name": name, "ts": at, "dur": dur}


def trace(clock="gpu_user_annotation", steps=4):
    events = [step(-5000, 0, 32, clock)]
    for i in range(steps):
        t = 1000.0 * i
        # 300 + 200 us one after the other, 150 us of which 50 overlap, and a late kernel: 700 us.
        events += [
            step(t, clock=clock),
            kernel("nvjet_tst_128x64", t, 300.0),
            kernel("flash_fwd_splitkv_kernel", t + 300, 200.0),
            kernel("triton_red_fused_add", t + 450, 150.0),
            kernel("gumbel_sample", t + 800, 100.0),
        ]
    return events


@pytest.mark.parametrize("clock", ["gpu_user_annotation", "user_annotation"])
def test_busy_time_counts_overlaps_once_and_the_rest_is_gap(clock):
    found = summarise(trace(clock), 32)
    assert found["steps"] == 3 and found["streams"] == 32, (
        "the last step has no end, the prompt's step is not one of decoding"
    )
    assert found["step_ms"] == pytest.approx(1.0)
    assert found["busy_ms"] == pytest.approx(0.7) and found["gap_share"] == pytest.approx(0.3)
    assert {r["class"]: r["us"] for r in found["classes"]} == pytest.approx(
        {
            "matrix products": 300,
            "attention": 200,
            "norms, activations, rotary": 150,
            "sampling": 100,
        }
    )


def test_a_step_that_was_held_up_does_not_count():
    events = trace(steps=5)
    for e in events:
        e["ts"] += 4000.0 if e["ts"] >= 3000 else 0.0
    assert summarise(events, 32)["step_ms"] == pytest.approx(1.0)


def test_operators_of_the_cpu_count_their_own_time():
    def op(name, at, dur):
        return {"cat": "cpu_op", "name": name, "ts": at, "dur": dur, "pid": 1, "tid": 1}

    marks = [step(at, 1, clock="user_annotation") for at in (0.0, 500.0, 1000.0)]
    ops = [op("aten::linear", 10.0, 100.0), op("aten::copy_", 20.0, 30.0)]
    found = summarise(marks + ops, 1)
    assert found["device"] == "CPU operators"
    assert {r["class"]: r["us"] * found["steps"] for r in found["classes"]} == pytest.approx(
        {"matrix products": 70, "copies": 30}
    )


def test_a_trace_without_decoding_is_refused():
    with pytest.raises(ValueError, match="no two steps in a row"):
        summarise([step(0.0, 0, 4), step(900.0, 0, 4)], 32)


@pytest.mark.parametrize(
    "name, part",
    [
        ("void flash::FlashAttnFwdSm90<...>", "attention"),
        ("reshape_and_cache_flash_kernel", "KV cache write"),
        ("nvjet_sm90_tst_192x128_64x5", "matrix products"),
        ("triton_poi_fused_mul_silu_1", "norms, activations, rotary"),
        ("at::native::reduce_kernel<ArgMaxOps>", "sampling"),
        ("some_new_kernel", "other"),
    ],
)
def test_kernels_are_told_apart_by_name(name, part):
    assert class_of(name) == part
