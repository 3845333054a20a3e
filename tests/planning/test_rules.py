"""Validity, KV cache and memory against vLLM's own classes and values worked out by hand."""

import json
import shlex
from dataclasses import replace
from types import SimpleNamespace

import pytest

from helpers.planning import (
    GIB,
    SHIPPED,
    EngineOptions,
    PlanningError,
    RequestMix,
    box_here,
    catalogue,
    check,
    commands,
    get_gpu,
    load_shape,
    make_box,
    nearest_valid,
    plan_memory,
    planned_box,
    stage_layers,
    take_inventory,
    week5_plan,
    why_invalid,
)
from helpers.planning.memory import (
    MIB,
    allocated_bytes,
    default_options,
    graph_sizes,
    sampler_state_bytes,
)


# ---------------------------------------------------------------- against vLLM
def vllm_config(folder, **args):
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(
        model=str(folder), skip_tokenizer_init=True, load_format="dummy", **args
    ).create_engine_config()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Shipped configs as folders that vLLM can read."""
    import json

    made = {}
    for name in SHIPPED:
        folder = tmp_path_factory.mktemp(name.replace(".", "_"))
        config = dict(load_shape(name).config)
        config.pop(
            "quantization_config", None
        )  # the CPU build has no fp8 layers; heads and layers are the same
        (folder / "config.json").write_text(json.dumps(config))
        made[name] = folder
    return made


@pytest.mark.parametrize(
    "name",
    [
        "Qwen2.5-0.5B", "Qwen2.5-7B", "Qwen2.5-32B", "Llama-3.1-8B", "Mixtral-8x7B",
        "DeepSeek-V3", "gpt-oss-20b", "Gemma-3-27B", "Llama-4-Scout", "GLM-4.5-Air",
        "Qwen3-Next-80B-A3B",
    ],
)  # fmt: skip
def test_heads_are_accepted_as_vllm_accepts_them(name, folders):
    """vLLM checks heads in its configuration; its layers check the rest (test_planning_sizes)."""
    shape = load_shape(name)
    for tp in range(1, 17):
        try:
            vllm_config(folders[name], tensor_parallel_size=tp)
            refused = ""
        except Exception as problem:
            refused = str(problem)
        if refused:
            ours = why_invalid(shape, tp)
            assert ours, f"vLLM refuses TP {tp} for {name}, the planner does not: {refused}"
            quoted = ours.split('"')[1]
            assert quoted in refused, f"not vLLM's words: {quoted!r} is not in {refused!r}"
        else:
            assert shape.heads % tp == 0, f"vLLM accepts TP {tp} for {name}"


@pytest.mark.parametrize(
    "name, tp",
    [
        ("Qwen2.5-0.5B", 1),
        ("Qwen2.5-0.5B", 2),
        ("Qwen2.5-7B", 2),
        ("Qwen2.5-7B", 4),
        ("Llama-3.1-70B", 8),
        ("Llama-3.1-8B", 16),
    ],
)
def test_kv_heads_of_a_rank_are_vllms(name, tp, folders):
    shape = load_shape(name)
    config = vllm_config(folders[name], tensor_parallel_size=tp)
    heads = config.model_config.get_num_kv_heads(config.parallel_config)
    size = config.model_config.get_head_size()
    assert shape.kv_bytes_per_token(tp) == 2 * shape.layers * heads * size * 2


def test_kv_cache_page_is_vllms_attention_spec():
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    shape = load_shape("Llama-3.1-8B")
    for tp, dtype, name in (
        (1, torch.bfloat16, "auto"),
        (4, torch.bfloat16, "auto"),
        (2, torch.float8_e4m3fn, "fp8"),
    ):
        spec = FullAttentionSpec(block_size=16, num_kv_heads=8 // tp, head_size=128, dtype=dtype)
        assert spec.page_size_bytes * shape.layers == shape.kv_bytes_per_token(tp, name) * 16


def test_stages_are_split_as_vllm_splits_them():
    from vllm.distributed.utils import get_pp_indices

    for layers in (5, 24, 28, 61, 80, 126):
        for pp in range(1, min(9, layers)):
            theirs = [b - a for a, b in (get_pp_indices(layers, rank, pp) for rank in range(pp))]
            assert stage_layers(layers, pp) == theirs, (layers, pp)


@pytest.mark.parametrize(
    "usage, memory_gib, name",
    [
        ("server", 79.1, "NVIDIA H100 80GB HBM3"),
        ("llm", 79.1, "NVIDIA H100 80GB HBM3"),
        ("server", 79.15, "NVIDIA A100-SXM4-80GB"),
        ("llm", 22.0, "NVIDIA L4"),
        ("server", 178.4, "NVIDIA B200"),
    ],
)
def test_batch_defaults_are_vllms(usage, memory_gib, name, monkeypatch):
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext

    platform = type(current_platform)
    monkeypatch.setattr(
        platform, "get_device_total_memory", classmethod(lambda cls, *a: int(memory_gib * GIB))
    )
    monkeypatch.setattr(platform, "get_device_name", classmethod(lambda cls, *a: name))
    monkeypatch.setattr(platform, "is_cpu", lambda self: False)
    tokens, seqs = EngineArgs.get_batch_defaults(1)
    context = UsageContext.OPENAI_API_SERVER if usage == "server" else UsageContext.LLM_CLASS
    ours = default_options(
        get_gpu(name, memory_gib), load_shape("Qwen2.5-7B"), EngineOptions(usage=usage)
    )
    assert (ours.max_num_batched_tokens, ours.max_num_seqs) == (tokens[context], seqs[context])


def test_graph_sizes_are_vllms(folders, monkeypatch):
    """VllmConfig._set_cudagraph_sizes, asked on a pretended CUDA platform."""
    from vllm.config import CUDAGraphMode

    shape, gpu = load_shape("Qwen2.5-0.5B"), get_gpu("H100")
    for tokens, seqs in ((8192, 1024), (2048, 128), (256, 200), (512, 3)):
        config = vllm_config(
            folders["Qwen2.5-0.5B"], max_num_batched_tokens=tokens, max_num_seqs=seqs
        )
        config.compilation_config.cudagraph_mode = CUDAGraphMode.FULL_AND_PIECEWISE
        config.compilation_config.cudagraph_capture_sizes = None
        config.compilation_config.max_cudagraph_capture_size = None
        config.model_config.enforce_eager = False
        config._set_cudagraph_sizes()  # noqa: SLF001 (vLLM's own rule)
        options = default_options(
            gpu, shape, EngineOptions(max_num_batched_tokens=tokens, max_num_seqs=seqs)
        )
        assert graph_sizes(options, gpu) == config.compilation_config.cudagraph_capture_sizes, (
            tokens,
            seqs,
        )


def test_sampler_state_is_what_vllms_sampler_allocates():
    """The shapes in penalties.py, logit_bias.py and bad_words.py, from the classes' constants."""
    import vllm.envs as envs
    from vllm.utils.math_utils import cdiv
    from vllm.v1.worker.gpu.sample import logit_bias, logprob

    shape = load_shape("Qwen2.5-7B")
    slots, vocab = 1024, shape.vocab
    words = vocab + cdiv(vocab, 32)  # output_bin_counts and prompt_bin_mask
    words += cdiv(vocab, 32)  # the grammar's bit mask
    words += (
        logit_bias.MAX_NUM_ALLOWED_TOKEN_IDS
        + 2 * logit_bias.MAX_NUM_LOGIT_BIAS_TOKENS
        + logit_bias.MAX_NUM_STOP_TOKEN_IDS
    )
    words += (
        envs.VLLM_MAX_BAD_WORDS_TOTAL_TOKENS
        + envs.VLLM_MAX_NUM_BAD_WORDS
        + 1
        + logprob.MAX_LOGPROB_TOKEN_IDS
    )
    assert sampler_state_bytes(shape, EngineOptions(max_num_seqs=slots)) == slots * 4 * words


# ---------------------------------------------------------------- against values worked out by hand
@pytest.mark.parametrize(
    "name, parameters",
    [
        ("Qwen2.5-0.5B", 494_032_768),
        ("Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen2.5-7B", 7_615_616_512),
        ("Qwen2.5-14B", 14_770_033_664),
        ("Qwen2.5-72B", 72_706_203_648),
        ("Llama-3.1-8B", 8_030_261_248),
        ("Llama-3.1-70B", 70_553_706_496),
        ("Llama-3.1-405B", 405_853_388_800),
        ("Mixtral-8x7B", 46_702_792_704),
        ("Qwen3-30B-A3B", 30_532_122_624),
        ("DeepSeek-V3", 671_026_419_200),
        ("gpt-oss-20b", 20_914_757_184),
        ("gpt-oss-120b", 116_829_156_672),
        ("Gemma-3-27B", 27_009_346_304),
    ],
)
def test_parameters_are_those_of_the_model_cards(name, parameters):
    assert load_shape(name).parameters() == parameters


@pytest.mark.parametrize(
    "name, tp, dtype, expected",
    [
        ("Llama-3.1-8B", 1, "auto", 131_072),
        ("Llama-3.1-8B", 2, "auto", 65_536),
        ("Llama-3.1-8B", 8, "auto", 16_384),
        ("Llama-3.1-8B", 16, "auto", 16_384),
        ("Llama-3.1-70B", 1, "auto", 327_680),
        ("Llama-3.1-70B", 8, "auto", 40_960),
        ("Qwen2.5-7B", 1, "auto", 57_344),
        ("Qwen2.5-7B", 4, "auto", 14_336),
        ("Qwen2.5-7B", 1, "fp8", 28_672),
        ("Qwen2.5-0.5B", 1, "auto", 12_288),
        ("Qwen2.5-0.5B", 2, "auto", 6_144),
        ("DeepSeek-V3", 1, "auto", 70_272),
        ("DeepSeek-V3", 8, "auto", 70_272),
    ],
)
def test_kv_bytes_per_token(name, tp, dtype, expected):
    assert load_shape(name).kv_bytes_per_token(tp, dtype) == expected


def test_what_an_h100_said_of_qwen_7b():
    """vLLM 0.32 on one H100: weights 14.29 GiB, 1,023,936 tokens of KV cache at 0.92."""
    memory = plan_memory(
        load_shape("Qwen2.5-7B"), make_box("H100-SXM"), options=EngineOptions(usage="llm")
    )
    assert memory.weights_gib_per_gpu == pytest.approx(14.29, abs=0.005)
    assert memory.kv_cache_tokens == pytest.approx(1_023_936, rel=0.03)


def test_allocator_gives_whole_pages_to_large_tensors_and_shares_segments_among_small_ones():
    assert allocated_bytes([1000]) == 1024
    assert allocated_bytes([31 * MIB + 1]) == 32 * MIB, "20 MiB and more: whole 2 MiB pages"
    assert allocated_bytes([8 * MIB] * 2) == 16 * MIB, "two of 8 MiB fit one segment of 20"
    assert allocated_bytes([int(9.5 * MIB)] * 2) == 19.5 * MIB + 0.5 * MIB, (
        "less than 1 MiB left: given away"
    )


def test_replication_is_the_whole_difference_between_ranks_and_one_gpu():
    """Sum over ranks - checkpoint = (t - 1) x replicated parts + copied KV heads."""
    shape = load_shape("Qwen2.5-0.5B")  # 2 KV heads: none are copied at TP 2
    from helpers.planning import weight_bytes

    norms = (2 * shape.layers + 1) * shape.hidden * 2
    assert 2 * weight_bytes(shape, 2) - weight_bytes(shape, 1) == norms
    llama = load_shape("Llama-3.1-8B")  # 8 KV heads: TP 16 copies each once
    copied = llama.layers * 2 * 8 * llama.head_dim * llama.hidden * 2
    norms = 15 * (2 * llama.layers + 1) * llama.hidden * 2
    assert 16 * weight_bytes(llama, 16) - weight_bytes(llama, 1) == norms + copied


def test_kv_pools_of_stages_and_replicas():
    shape, box = load_shape("Llama-3.1-70B"), make_box("H200-SXM", 4)
    two = plan_memory(shape, box, pp=2, options=EngineOptions(max_model_len=8192))
    fewest = min(s.kv_cache // s.kv_page for s in two.stages)
    assert two.num_blocks == fewest, "a request needs its blocks on every stage"
    assert sum(s.layers for s in two.stages) == shape.layers
    assert (
        plan_memory(shape, box, tp=2, dp=2).kv_cache_tokens
        == plan_memory(shape, box, tp=2).kv_cache_tokens
    )


def test_more_memory_never_gives_fewer_tokens():
    shape = load_shape("Qwen2.5-7B")
    for smaller, larger in ((0.5, 0.9), (0.6, 0.61)):
        a, b = (
            plan_memory(shape, make_box("H100"), options=EngineOptions(gpu_memory_utilization=u))
            for u in (smaller, larger)
        )
        assert a.kv_cache_tokens < b.kv_cache_tokens
    big = plan_memory(shape, make_box("H100"), options=EngineOptions(kv_cache_dtype="fp8"))
    assert big.kv_cache_tokens == pytest.approx(
        2 * plan_memory(shape, make_box("H100")).kv_cache_tokens, rel=1e-4
    )


# ---------------------------------------------------------------- the catalogue
def test_catalogue_is_complete_and_says_where_its_numbers_come_from():
    known = catalogue()
    for name in (
        "V100-SXM2-16GB",
        "T4",
        "A10",
        "A10G",
        "L4",
        "L40S",
        "A100-SXM-40GB",
        "A100-SXM-80GB",
        "H100-PCIe",
        "H100-SXM",
        "H200-SXM",
        "B200-SXM",
        "RTX-3090",
        "RTX-4090",
        "RTX-5090",
        "MI300X",
    ):
        gpu = known[name]
        assert gpu.source, f"{name} has no source"
        assert gpu.usable_gib < gpu.memory_gb * 1e9 / GIB * 1.075, (
            f"{name}: the driver reports more than there is"
        )
        assert 50 < gpu.knee() < 500, f"{name}: sparse FLOPs or a wrong bandwidth? {gpu.knee()}"
    # one cloud's variant of the A10 has about half of its FLOPs
    assert known["A10G"].tflops_16bit < 0.6 * known["A10"].tflops_16bit
    # dense, and one direction: the traps of vendors' pages
    assert known["H100-SXM"].tflops_16bit == 989 and known["H100-SXM"].link.gb_s == 450


def test_a_gpu_can_be_added_by_file(tmp_path):
    from helpers.planning import load_hardware

    (tmp_path / "mine.json").write_text(
        '{"Test-9000": {"memory_gb": 64, "bandwidth_gb_s": 2000, "tflops_16bit": 400}}'
    )
    assert load_hardware(tmp_path / "mine.json")[0].name == "Test-9000"
    assert get_gpu("test 9000").bandwidth_gb_s == 2000
    (tmp_path / "bad.json").write_text(
        '{"Bad": {"memory_gb": 0, "bandwidth_gb_s": 1, "tflops_16bit": 1}}'
    )
    with pytest.raises(PlanningError, match="memory_gb"):
        load_hardware(tmp_path / "bad.json")


def test_nearest_valid_uses_the_whole_box():
    shape, box = load_shape("Qwen2.5-7B"), make_box("H100", 8)
    assert nearest_valid(shape, box, 8, 1, 1) == "--tp 4 --dp 2"


# ---------------------------------------------------------------- commands
@pytest.mark.parametrize(
    "tp, pp, dp, nodes, launcher",
    [
        (1, 1, 1, 1, "mp"),
        (4, 1, 2, 1, "mp"),
        (8, 2, 1, 2, "mp"),
        (8, 2, 1, 2, "ray"),
        (4, 1, 4, 2, "mp"),
        (4, 1, 4, 2, "ray"),
        (2, 1, 1, 1, "ray"),
    ],
)
def test_every_command_is_accepted_by_vllm(tp, pp, dp, nodes, launcher):
    shape = load_shape("Llama-3.1-70B")
    given = {
        "max_model_len": 8192,
        "gpu_memory_utilization": 0.9,
        "kv_cache_dtype": "fp8",
        "max_num_seqs": 64,
        "max_num_batched_tokens": 4096,
    }
    launch = commands(shape, tp, pp, dp, nodes, launcher, given)
    serving = [c for c in launch.commands if c.argv[0] == "vllm"]
    assert serving, "no command serves"
    for command in serving:
        done = check(command, shape)
        assert done.accepted, f"{command.text}: {done.objection}"
    if launcher == "mp":
        assert len(serving) == nodes, "one command a machine"
    elif nodes > 1:
        assert len(serving) == 1 and launch.commands[0].argv[:3] == ("ray", "start", "--head")


@pytest.mark.parametrize(
    "extra, words",
    [
        (("--tensor-parallel-size", "3"), "divisible by tensor parallel size (3)"),
        (("--swap-space", "4"), "unrecognized arguments"),
        (("--max-model-len", "999999"), "derived max_model_len"),
        (("--enable-expert-parallel",), "experts"),
    ],
)
def test_a_refusal_is_vllms_own(extra, words):
    from helpers.planning import Command

    shape = load_shape("Llama-3.1-8B")
    done = check(Command("here", ("vllm", "serve", "x", *extra)), shape)
    assert done.accepted is False and words in done.objection, done


def test_the_load_of_the_plan_is_one_that_vllms_benchmark_takes():
    from vllm.benchmarks.serve import add_cli_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    shape, parser = load_shape("Qwen2.5-7B"), FlexibleArgumentParser()
    add_cli_args(parser)
    line = week5_plan.load_line(shape, RequestMix(1024, 256, 64))
    args = parser.parse_args(shlex.split(line)[3:])
    assert (args.dataset_name, args.random_input_len, args.random_output_len) == (
        "random",
        1024,
        256,
    )
    assert (args.model, args.max_concurrency, args.ignore_eos) == (shape.source, 64, True)
    assert json.loads(args.random_range_ratio) == {"input": 0, "output": 0.5}, (
        "as the recorded load"
    )
    assert args.request_rate == float("inf") and args.num_prompts == 640, "a closed loop"


def test_a_box_with_one_gpu_checks_everything_for_a_plan_of_several(monkeypatch):
    """With vLLM's own count of GPUs it stops at "World size (3) is larger than ..."."""
    from vllm.config import parallel

    from helpers.planning import Command

    class OneGpu:
        is_cuda, device_count = (lambda self: True), (lambda self: 1)

        def __getattr__(self, name, platform=parallel.current_platform):
            return getattr(platform, name)

    monkeypatch.setattr(parallel, "current_platform", OneGpu())
    shape = load_shape("Llama-3.1-70B")
    refused = check(Command("here", ("vllm", "serve", "x", "--tensor-parallel-size", "3")), shape)
    assert (
        refused.accepted is False and "divisible by tensor parallel size (3)" in refused.objection
    ), refused
    done = check(commands(shape, 8).commands[0], shape)
    assert done.accepted and not done.objection, done
    assert parallel.current_platform.device_count() == 1, "vLLM's count is given back"


# ---------------------------------------------------------------- the box that is planned for
@pytest.mark.parametrize(
    ("present", "gpus", "model", "expected"),
    [
        ("H100-SXM", 4, "Llama-3.1-70B", "4 x H100-SXM, present"),
        ("H100-SXM", 1, "Llama-3.1-70B", "8 x H100-SXM, planned"),  # several are needed
        ("T4", 2, "Llama-3.1-70B", "16 x T4, planned"),  # eight T4 do not hold it
        ("A10", 2, "Llama-3.1-8B", "2 x A10, present"),
    ],
)
def test_the_box_that_is_planned_for_holds_the_model(present, gpus, model, expected):
    here, shape = replace(make_box(present, gpus), present=True), load_shape(model)
    box = planned_box(here, shape)
    assert f"{box.gpus} x {box.gpu.name}, {'present' if box.present else 'planned'}" == expected
    assert planned_box(here, shape, "L40S", 2).gpus == 2, (
        "what was asked for is not what is planned"
    )


def test_a_shorter_context_fits_the_gpus_that_are_here():
    here, shape = replace(make_box("H100-SXM", 2), present=True), load_shape("Llama-3.1-70B")
    assert not planned_box(here, shape).present, (
        "a context of 131,072 tokens does not fit beside the weights"
    )
    assert planned_box(here, shape, options=EngineOptions(max_model_len=8192)) is here


# ---------------------------------------------------------------- what a student sees
@pytest.fixture
def two_gpus(monkeypatch):
    """NVML that answers for two GPUs without NVLink; returns a way to let questions fail."""
    import nvitop
    import pynvml

    def answer(name, value):
        def ask(*_):
            if isinstance(value, Exception):
                raise value
            return value

        monkeypatch.setattr(pynvml, f"nvmlDeviceGet{name}", ask)

    gpus = [
        SimpleNamespace(
            handle=i,
            index=i,
            name=lambda: "NVIDIA H100 PCIe",
            memory_total=lambda: 80 * GIB,
            cuda_compute_capability=lambda: (9, 0),
        )
        for i in range(2)
    ]
    monkeypatch.setattr(nvitop.Device, "is_available", lambda: True)
    monkeypatch.setattr(nvitop.Device, "driver_version", lambda: "575")
    monkeypatch.setattr(nvitop.Device.cuda, "all", lambda: gpus)
    answer("NvLinkState", pynvml.NVMLError_NotSupported())
    answer("MaxPcieLinkGeneration", 5)
    answer("MaxPcieLinkWidth", 16)
    answer("TopologyCommonAncestor", 10)
    answer("P2PStatus", 1)
    return answer


def test_what_the_driver_does_not_tell_is_a_note(two_gpus):
    """A GPU without NVLink answers "not supported", which is no failure; a lost GPU is one."""
    import pynvml

    found = take_inventory()
    assert found.devices[0].nvlinks == 0 and found.links[0][1] == "PIX" and not found.notes
    assert box_here(found).link_for(2).kind == "PCIe 5 x16"
    two_gpus("NvLinkState", pynvml.NVMLError_GpuIsLost())
    two_gpus("P2PStatus", pynvml.NVMLError_GpuIsLost())
    first, second, links = take_inventory().notes
    assert "GPU 0: NVLinks could not be read (NVMLError_GpuIsLost" in first and "GPU 1" in second
    assert "reach each other" in links


def test_a_planning_error_is_one_line_in_a_notebook_and_still_fails_a_headless_run(tmp_path):
    import nbformat
    import papermill

    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("from helpers import planning\nplanning.get_gpu('RTX-6090')")
        ]
    )
    notebook.metadata.kernelspec = {
        "name": "python3",
        "display_name": "python3",
        "language": "python",
    }
    nbformat.write(notebook, tmp_path / "in.ipynb")
    with pytest.raises(
        papermill.PapermillExecutionError, match="PlanningError: No data for the GPU"
    ) as caught:
        papermill.execute_notebook(
            str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), progress_bar=False
        )
    assert caught.value.ename == "PlanningError" and caught.value.evalue.startswith("No data")
    left = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    shown = next(
        o for cell in left.cells for o in cell.get("outputs", ()) if o.output_type == "error"
    )
    assert len(shown.traceback) == 1 and "\n" not in shown.traceback[0]
