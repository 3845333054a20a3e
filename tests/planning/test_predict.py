"""Predictions: roofs worked out by hand, parts that add up, calibration, ranking, the command."""

from dataclasses import replace

import pytest

from helpers.planning import (
    EngineOptions,
    Goal,
    PlanningError,
    Point,
    RequestMix,
    Tuning,
    calibrate,
    decode_parts,
    default_tuning,
    load_shape,
    make_box,
    plan_memory,
    predict_speed,
    prefill_parts,
    rank,
    speed_range,
    tp_speedup_parts,
)
from helpers.planning.calibration import SIZES, doubt_for
from helpers.planning.choose import price_per_million
from helpers.planning.work import experts_touched

IDEAL = Tuning(
    read_efficiency=1,
    compute_efficiency=1,
    kv_efficiency=1,
    attention_efficiency=1,
    layer_s=0,
    step_s=0,
    eager_step_s=0,
    host_s=0,
    host_stream_s=0,
    host_layer_s=0,
    stream_s=0,
    allreduce_s=0,
    nccl_s=0,
    link_efficiency=1,
    hop_s=0,
)


def test_one_stream_cannot_be_faster_than_reading_the_weights():
    """Qwen2.5-7B on an H100: 7.07e9 active parameters x 2 bytes / 3350 GB/s = 4.22 ms."""
    parts = decode_parts(load_shape("Qwen2.5-7B"), make_box("H100"), 1, 1, 1, 0, tuning=IDEAL)
    assert parts.matrices == pytest.approx(7_070_285_824 * 2 / 3350e9, rel=1e-3)
    assert parts.total - parts.sampling == pytest.approx(4.22e-3, rel=0.01)


def test_seventy_billion_on_eight_h100_reads_for_5_27_ms():
    """70B in bfloat16, TP 8: 5.27 ms for the weights alone (all 70.6e9, with the embedding)."""
    shape = load_shape("Llama-3.1-70B")
    parts = decode_parts(shape, make_box("H100", 8), 8, 1, 1, 0, tuning=IDEAL)
    embedding = shape.vocab * shape.hidden * 2 / 8 / 3350e9
    assert parts.matrices + embedding == pytest.approx(5.27e-3, rel=0.01)


def test_kv_cache_is_read_once_a_step():
    shape, box = load_shape("Llama-3.1-8B"), make_box("H100")
    parts = decode_parts(shape, box, 1, 1, 32, 1000, tuning=IDEAL)
    assert parts.attention == pytest.approx(32 * 1000 * 131_072 / 3350e9, rel=1e-3)
    fp8 = decode_parts(shape, box, 1, 1, 32, 1000, kv_dtype="fp8", tuning=IDEAL)
    assert fp8.attention == pytest.approx(parts.attention / 2, rel=1e-3)


def test_prefill_roof():
    """2 x parameters x tokens + 2 x layers x width x tokens^2 (causal), over 989 TFLOP/s."""
    shape, n = load_shape("Llama-3.1-8B"), 8192
    parts = prefill_parts(shape, make_box("H100"), 1, 1, n, 16384, tuning=IDEAL)
    linear = 2 * (shape.parameters() - 2 * shape.vocab * shape.hidden) * n / 989e12
    attention = 2 * shape.layers * shape.heads * shape.head_dim * n * n / 989e12
    assert parts.attention == pytest.approx(attention)
    assert linear < parts.matrices < linear * 1.03, "the weights are read meanwhile"


def test_chunks_do_the_same_attention_as_one_prompt():
    shape, box = load_shape("Qwen2.5-7B"), make_box("H100")
    whole, chunked = (
        prefill_parts(shape, box, 1, 1, 8192, chunk, tuning=IDEAL) for chunk in (8192, 1024)
    )
    assert chunked.attention == pytest.approx(whole.attention)


def test_experts_of_a_batch():
    assert experts_touched(8, 2, 1) == pytest.approx(2)
    assert experts_touched(128, 8, 10_000) == pytest.approx(128)
    assert 2 < experts_touched(8, 2, 2) < 4


def test_parts_add_up_and_speedup_is_their_ratio():
    shape, box = load_shape("Llama-3.1-70B"), make_box("H100", 8)
    rows = tp_speedup_parts(shape, box, [2, 4, 8], 8, 1024)
    for row in rows:
        parts = sum(v for k, v in row.items() if k.endswith("_ms") and k != "total_ms")
        assert parts == pytest.approx(row["total_ms"], rel=1e-5)
    assert rows[0]["speedup"] == 1 and rows[2]["speedup"] == pytest.approx(
        rows[0]["total_ms"] / rows[2]["total_ms"]
    )
    assert 1 < rows[2]["speedup"] < 4


def test_pipeline_does_not_shorten_one_answer():
    shape, box = load_shape("Llama-3.1-70B"), make_box("H100", 8)
    assert (
        decode_parts(shape, box, 1, 4, 1, 100).total > decode_parts(shape, box, 1, 1, 1, 100).total
    )
    four = predict_speed(
        shape,
        box,
        2,
        4,
        workload=RequestMix(256, 64, 64),
        options=EngineOptions(max_model_len=4096),
    )
    assert four.decode.hops > 0


def test_one_request_leaves_a_second_replica_idle():
    shape, box = load_shape("Qwen2.5-7B"), make_box("H100", 2)
    one, two = (predict_speed(shape, box, dp=dp, workload=RequestMix(128, 64, 1)) for dp in (1, 2))
    assert two.output_tokens_per_s == pytest.approx(one.output_tokens_per_s)
    many = [
        predict_speed(shape, box, dp=dp, workload=RequestMix(128, 64, 64)).output_tokens_per_s
        for dp in (1, 2)
    ]
    assert 1.1 < many[1] / many[0] <= 2


def test_streams_are_limited_by_the_kv_cache_and_it_is_said():
    p = predict_speed(
        load_shape("Llama-3.1-70B"),
        make_box("H100", 2),
        2,
        workload=RequestMix(4096, 256, 256),
        options=EngineOptions(max_model_len=8192),
    )
    assert p.streams_per_replica < 256 and any("KV cache is the limit" in note for note in p.notes)


# ---------------------------------------------------------------- calibration
def test_calibration_meets_its_point_and_improves_another():
    """A pretended machine, slower in memory: one point brings the other batch sizes nearer."""
    shape, box = load_shape("Qwen2.5-7B"), make_box("H100")
    truth = replace(default_tuning(box.gpu), read_efficiency=0.72, layer_s=35e-6)
    real = {n: decode_parts(shape, box, 1, 1, n, 160, tuning=truth).total for n in (1, 32, 128)}
    done = calibrate(shape, box, [Point(tpot_s=real[1])])
    assert abs(done.after[0]) < 0.01 < abs(done.before[0])
    for n in (32, 128):
        old, new = (
            abs(decode_parts(shape, box, 1, 1, n, 160, tuning=t).total / real[n] - 1)
            for t in (None, done.tuning)
        )
        assert new < old and new < 0.05
    assert done.moved["allreduce_s"] == pytest.approx(1), (
        "a point with one GPU says nothing of the all-reduce"
    )


def test_more_points_tell_causes_apart():
    shape, box = load_shape("Qwen2.5-7B"), make_box("H100")
    truth = replace(default_tuning(box.gpu), kv_efficiency=0.5, compute_efficiency=0.6)
    sizes = ((1, 128), (32, 128), (256, 128), (16, 8192))
    points = [loaded((c, 1024, n), shape, box, truth, "tpot_s") for n, c in sizes]
    done = calibrate(shape, box, points)
    assert done.tuning.kv_efficiency == pytest.approx(0.5, rel=0.05)
    assert done.doubt["kv_efficiency"] < 0.1 and done.doubt["hop_s"] == pytest.approx(0.7)


def loaded(requests, shape, box, tuning, *measured) -> Point:
    """What a machine with these parameters would do with (tokens in, tokens out, clients)."""
    mix = RequestMix(*requests)
    real = predict_speed(shape, box, workload=mix, tuning=tuning)
    values = {name: getattr(real, name) for name in measured}
    return Point(**{name: getattr(mix, name) for name in SIZES[3:]}, shape=shape, **values)


def test_a_load_of_one_model_calibrates_the_machine_for_another():
    box, other, planned = make_box("H100"), load_shape("Llama-3.1-8B"), load_shape("Qwen2.5-14B")
    slow = replace(default_tuning(box.gpu), compute_efficiency=0.55)
    point = loaded((1024, 64, 64), other, box, slow, "output_tokens_per_s", "ttft_s")
    done = calibrate(planned, box, [point])
    mix = RequestMix(1024, 64, 32)
    real, before, after = (
        predict_speed(planned, box, workload=mix, tuning=t).output_tokens_per_s
        for t in (slow, None, done.tuning)
    )
    assert abs(before / real - 1) > 0.1 > 0.05 > abs(after / real - 1)


def test_a_cpu_can_be_calibrated_however_far_off_its_guess_was():
    from helpers.planning import cpu_box
    from helpers.tiny_model import TARGET

    box = cpu_box(2, {"bandwidth_gb_s": 20.0, "copy_gb_s": 10.0, "gflops": 400.0})
    shape = load_shape(TARGET)
    for factor in (0.3, 3.0):
        real = decode_parts(shape, box, 1, 1, 1, 90).total * factor
        done = calibrate(shape, box, [Point(input_tokens=66, output_tokens=48, tpot_s=real)])
        assert abs(done.after[0]) < 0.05 and done.moved["host_s"] == 1.0


def test_a_step_is_no_shorter_than_the_cpu_needs_to_prepare_it():
    """Between two H100 boxes whose CPUs differ in speed, whatever their GPUs could do."""
    box = make_box("H100")
    for streams, quick, slow in (
        (1, 2.28e-3, 2.99e-3),
        (32, 3.06e-3, 4.23e-3),
        (256, 7.85e-3, 12.13e-3),
    ):
        for model in ("Qwen2.5-0.5B", "Qwen2.5-1.5B"):
            parts = decode_parts(load_shape(model), box, 1, 1, streams, 160)
            assert parts.host > 0 and quick < parts.total < slow
    assert decode_parts(load_shape("Qwen2.5-7B"), box, 1, 1, 1, 160).host == 0


def test_one_stream_is_prepared_once_however_many_stages_it_passes():
    shape, box = load_shape("Qwen2.5-7B"), make_box("H100", 4)
    assert decode_parts(shape, box, 1, 4, 1, 160).host == 0
    assert (
        decode_parts(shape, box, 1, 4, 512, 160).host
        > decode_parts(shape, box, 1, 2, 512, 160).host
    )


def test_a_kv_cache_that_is_larger_than_the_gpu_does_not_fit():
    asked = EngineOptions(kv_cache_memory_bytes=500 * 2**30)
    memory = plan_memory(load_shape("Qwen2.5-7B"), make_box("H100"), options=asked)
    assert not memory.fits and "kv_cache_memory_bytes" in memory.problem
    assert plan_memory(
        load_shape("Qwen2.5-7B"),
        make_box("H100"),
        options=EngineOptions(kv_cache_memory_bytes=2**34),
    ).fits


@pytest.mark.parametrize(
    "model, options, measured_mib",
    [
        ("Qwen2.5-7B", {}, 2162),
        ("Qwen2.5-32B", {"max_model_len": 8192, "max_num_seqs": 256}, 3122),  # the MLP's peak
        (
            "Qwen2.5-7B",
            {"max_num_batched_tokens": 4096, "max_num_seqs": 256},
            1053,
        ),  # few tokens: the timed embedding's
        ("Qwen2.5-14B", {"max_model_len": 16384, "max_num_batched_tokens": 8192}, 1595),
        ("Qwen2.5-3B", {"max_num_batched_tokens": 2048, "max_num_seqs": 128}, 559),
    ],
)
def test_the_activation_peak_is_what_a_first_start_on_an_h100_logged(model, options, measured_mib):
    memory = plan_memory(
        load_shape(model), make_box("H100"), options=EngineOptions(**options, usage="llm")
    )
    assert memory.worst.peak_activation / 2**20 == pytest.approx(measured_mib, rel=0.015)


@pytest.mark.parametrize(
    "points, words",
    [
        (
            [Point(concurrency=0, tpot_s=5e-3)],
            "concurrency must be a whole number of at least 1, not 0",
        ),
        ([Point(input_tokens=0, prefill_s=5e-3)], "input_tokens must"),
        ([Point(dp=0, tpot_s=5e-3)], "dp must"),
        ([], "at least one"),
        ([Point()], "tpot_ms, ttft_ms, prefill_ms or output_tokens_per_s"),
        ([Point(tpot_s=-1.0)], "positive"),
        ([Point(output_tokens=1, tpot_s=1.0)], "no TPOT"),
        ([Point(tp=3, tpot_s=5e-3)], "cannot have been measured: .*divisible"),
        ([Point(tpot_s=6.0)], "6,?000 ms where 6.* its unit is not milliseconds"),
        ([Point(tpot_s=0.4)], "refused, because step_s .* 400 ms .* without CUDA graphs"),
        ([Point(tpot_s=1.5e-3)], "refused.*smaller or quantised model"),
        ([Point(input_tokens=4096, ttft_s=0.01)], "refused.*prefix cache held"),
        ([Point(output_tokens_per_s=3.0)], "refused.*another program"),
    ],
)
def test_a_calibration_that_cannot_be(points, words):
    with pytest.raises(PlanningError, match=words):
        calibrate(load_shape("Qwen2.5-7B"), make_box("H100"), points)


def test_a_range_stands_where_the_cpu_or_the_catalogue_decides():
    """A small model waits for its CPU; a bandwidth has two sources; a 32B on an H100 neither."""

    def of(model, gpu, doubt=None):
        box = make_box(gpu)
        p = predict_speed(load_shape(model), box, workload=RequestMix(128, 512, 4))
        return p, speed_range(p, box, default_tuning(box.gpu), doubt)

    p, small = of("Qwen2.5-0.5B", "H100")
    low, high = small.output_tokens_per_s
    assert low < p.output_tokens_per_s < high and "wait for the CPU" in small.because[0]
    assert of("Qwen2.5-32B", "H100")[1] is None
    left = dict.fromkeys(doubt_for(make_box("H100").gpu), 0.01)
    assert of("Qwen2.5-0.5B", "H100", left)[1] is None, "a calibration has told"
    p, server = of("Qwen2.5-32B", "RTX-PRO-6000")
    assert server.because == ("bandwidth_gb_s of RTX-PRO-6000 is between 1597 and 1792",)
    assert server.tpot_s[0] < p.tpot_s / 1.05 and server.tpot_s[1] == pytest.approx(p.tpot_s)


# ---------------------------------------------------------------- ranking
def test_ranking_puts_plans_that_meet_the_goal_first_and_explains():
    ranking = rank(
        load_shape("Llama-3.1-70B"),
        make_box("H100", 8),
        RequestMix(1024, 256, 64),
        EngineOptions(max_model_len=8192),
        Goal(tpot_ms=60, prefer="price"),
        price_per_gpu_hour=2.6,
    )
    meets = [c.meets for c in ranking.choices]
    assert meets == sorted(meets, reverse=True)
    assert ranking.best.prediction.tpot_s * 1e3 <= 60
    assert all(ranking.best.gpus <= c.gpus for c in ranking.choices if c.meets)
    assert ranking.reasons and "rule of thumb" in " ".join(ranking.reasons)
    assert len([c for c in ranking.choices if not c.fits and "divisible" in c.why]) > 0


@pytest.mark.parametrize(
    "prefer, shown",
    [
        ("latency", lambda c: c.prediction.tpot_s),
        ("throughput", lambda c: -c.prediction.output_tokens_per_s),
        ("price", lambda c: c.gpus / c.prediction.output_tokens_per_s),
    ],
)
def test_the_best_is_best_by_the_number_that_is_shown(prefer, shown):
    """Many short answers: with TP 8 a step is shortest, and new prompts between make it slow."""
    ranking = rank(
        load_shape("Llama-3.1-70B"),
        make_box("H100", 8),
        RequestMix(512, 16, 128),
        EngineOptions(max_model_len=8192),
        Goal(prefer=prefer),
    )
    assert shown(ranking.best) == min(shown(c) for c in ranking.choices if c.meets)
    assert f"TPOT {ranking.best.prediction.tpot_s * 1e3:.1f} ms" in ranking.reasons[0]


def test_price():
    assert price_per_million(3.6, 1, 1000) == pytest.approx(1.0)
    with pytest.raises(PlanningError, match="price of a GPU"):
        rank(load_shape("Qwen2.5-7B"), make_box("H100"), price_per_gpu_hour=-1)


def test_rule_of_thumb_of_the_documentation():
    """One GPU if it fits, TP with a machine's GPUs, TP x PP across, PP without NVLink."""
    options, work = EngineOptions(max_model_len=4096), RequestMix(256, 64, 8)
    thumb = lambda name, box: rank(load_shape(name), box, work, options).thumb  # noqa: E731
    small = thumb("Qwen2.5-7B", make_box("H100", 4))
    assert small.layout == (1, 1, 1), "it speaks of one replica"
    assert thumb("Llama-3.1-70B", make_box("H100", 4)).layout == (4, 1, 1)
    assert thumb("Qwen2.5-7B", make_box("T4", 8)).layout == (1, 8, 1), "28 heads, eight GPUs"
    across = thumb("Llama-3.1-405B", make_box("H100", 16, 2))
    assert (across.tp, across.pp) == (8, 2)
    assert thumb("Llama-3.1-70B", make_box("L40S", 8)).pp > 1


def test_a_model_that_fits_nowhere_says_what_would_hold_it():
    with pytest.raises(PlanningError) as caught:
        rank(load_shape("Llama-3.1-405B"), make_box("H100", 2))
    assert "nearest that works is 16 GPUs" in str(caught.value) and "weights alone" in str(
        caught.value
    )
