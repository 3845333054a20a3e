"""What the installed vLLM says to the statements of statements.yaml: small questions, no engine.

A check returns (whether it holds, what was seen), like those of then_and_now.py. It asks vLLM's
classes, parsers and scheduler; its source only where nothing else answers.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import get_args
from unittest import mock

from helpers.engine import load_profile
from helpers.lessons.advanced_features.dry_run import dry_run
from helpers.lessons.puzzles.desk import Desk, config_of
from helpers.lessons.reading_notes import then_and_now as changes
from helpers.lessons.reading_notes.engine_args import catalogue, vllm_version

Seen = tuple[bool, str]
GIB = 2**30


# ------------------------------------------------------------------ versions, flags and defaults


def then_and_now(topic: str) -> Seen:
    """The check of that line of notebook 3's table."""
    (change,) = [c for c in changes.CHANGES if c.topic == topic]
    return change.check(None)


def whole_table_of_then_and_now() -> Seen:
    """Every line that needs no engine."""
    wrong = [row for row in changes.then_and_now() if row["holds"] is False]
    return not wrong, "; ".join(f"{r['topic']}: {r['seen']}" for r in wrong) or "all lines hold"


def version(number: str) -> Seen:
    return vllm_version() == number, f"installed: {vllm_version()}"


@functools.cache
def server_options() -> dict:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    return parser._option_string_actions  # noqa: SLF001 (argparse has no public list of them)


def options(*flags: str) -> Seen:
    """The server's parser knows all of them."""
    missing = [flag for flag in flags if flag not in server_options()]
    return not missing, f"missing: {', '.join(missing)}" if missing else "in the parser"


def option_default(flag: str, expected: str) -> Seen:
    value = server_options()[flag].default
    return str(value) == expected, f"{flag}: {value!r}"


def chunked_prefill_is_on_by_default() -> Seen:
    value = config_of().scheduler_config.enable_chunked_prefill
    return value is True, f"enable_chunked_prefill resolves to {value}"


def chunked_prefill_off_is_not_supported() -> Seen:
    checked = dry_run(load_profile("cpu"), plain=True, enable_chunked_prefill=False)
    said = checked.about("disabling chunked prefill")
    return bool(said), f"warnings: {checked.warnings}"


def prefix_caching_is_on_by_default() -> Seen:
    on = config_of().cache_config.enable_prefix_caching
    off = config_of(enable_prefix_caching=False).cache_config.enable_prefix_caching
    return (on, off) == (True, False), f"left alone {on}, switched off {off}"


def a_budget_below_max_num_seqs_is_refused() -> Seen:
    checked = dry_run(load_profile("cpu"), plain=True, max_num_batched_tokens=64, max_num_seqs=128)
    return "max_num_seqs" in checked.refusal, str(checked)


def max_num_seqs_left_alone_is_lowered_to_the_budget() -> Seen:
    seqs = config_of(max_num_batched_tokens=64).scheduler_config.max_num_seqs
    return seqs == 64, f"max_num_batched_tokens=64: max_num_seqs {seqs}"


def batch_defaults(memory_gib: int, name: str, cpu: bool = False) -> dict[str, int]:
    """What vLLM would choose on such a machine: batched tokens and sequences, LLM and server."""
    from vllm.engine import arg_utils
    from vllm.usage.usage_lib import UsageContext

    machine = SimpleNamespace(
        get_device_total_memory=lambda: memory_gib * GIB,
        get_device_name=lambda: name,
        is_tpu=lambda: False,
        is_cpu=lambda: cpu,
    )
    with mock.patch.object(arg_utils, "current_platform", machine):
        tokens, seqs = arg_utils.EngineArgs.get_batch_defaults(1)
    llm, server = UsageContext.LLM_CLASS, UsageContext.OPENAI_API_SERVER
    return {"llm": (tokens[llm], seqs[llm]), "server": (tokens[server], seqs[server])}


def defaults_depend_on_memory_and_on_llm_or_server() -> Seen:
    h100, a100 = batch_defaults(79, "NVIDIA H100"), batch_defaults(79, "NVIDIA A100")
    small, cpu = batch_defaults(24, "NVIDIA A10"), batch_defaults(64, "cpu", cpu=True)
    expected = (
        {"llm": (16384, 1024), "server": (8192, 1024)},
        {"llm": (8192, 256), "server": (2048, 256)},
        {"llm": (8192, 256), "server": (2048, 256)},
        {"llm": (4096, 256), "server": (2048, 128)},
    )
    said = f"H100 {h100}, A100 {a100}, A10 {small}, CPU {cpu}"
    return (h100, a100, small, cpu) == expected, said


def eager_skips_compilation_and_graphs() -> Seen:
    compilation = config_of(enforce_eager=True).compilation_config
    modes = compilation.mode.name, compilation.cudagraph_mode.name
    return modes == ("NONE", "NONE"), f"compilation {modes[0]}, CUDA graphs {modes[1]}"


def llm_switches_the_counters_off() -> Seen:
    from vllm import LLM
    from vllm.entrypoints import llm as module

    with mock.patch.object(module, "LLMEngine") as engine:
        engine.from_engine_args.side_effect = KeyboardInterrupt  # as far as the engine, no further
        try:
            LLM(model=load_profile("cpu").model)
        except KeyboardInterrupt:
            args = engine.from_engine_args.call_args.kwargs["engine_args"]
    return args.disable_log_stats is True, f"LLM(): disable_log_stats={args.disable_log_stats}"


def a_cache_given_in_bytes_skips_the_profiling() -> Seen:
    from vllm.v1.worker.gpu_worker import Worker

    source = inspect.getsource(Worker.determine_available_memory)
    places = [
        source.find(t) for t in (":= self.cache_config.kv_cache", "return ", " memory_profiling(")
    ]
    holds = places[0] > 0 and places == sorted(places)
    return holds, "Worker.determine_available_memory returns it before it profiles"


def greedy_is_temperature_zero() -> Seen:
    from vllm import SamplingParams

    kind = SamplingParams(temperature=0).sampling_type.name
    return kind == "GREEDY", f"temperature 0: {kind}"


def engine_core_is_a_process_of_its_own() -> Seen:
    from vllm import envs

    with mock.patch.dict(os.environ):
        os.environ.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
        value = envs.environment_variables["VLLM_ENABLE_V1_MULTIPROCESSING"]()
    return value is True, f"VLLM_ENABLE_V1_MULTIPROCESSING: {value}"


def workers_can_be_forked() -> Seen:
    from vllm import envs

    with mock.patch.dict(os.environ, VLLM_WORKER_MULTIPROC_METHOD="fork"):
        value = envs.environment_variables["VLLM_WORKER_MULTIPROC_METHOD"]()
    return value == "fork", f"VLLM_WORKER_MULTIPROC_METHOD=fork: {value}"


# ---------------------------------------------------------------------------------- the scheduler


def running_requests_come_before_waiting_ones() -> Seen:
    """In one step: a token for the one that runs, the rest of the budget for the new prompt."""
    desk = Desk(max_num_batched_tokens=32)
    desk.add("running", 10)
    desk.step()
    desk.add("new", 100)
    step = desk.step()
    return list(step.items()) == [("running", 1), ("new", 31)], f"tokens of the step: {step}"


def a_prompt_is_cut_to_the_budget() -> Seen:
    desk = Desk(max_num_batched_tokens=32)
    desk.add("long", 80)
    steps = [desk.step().get("long") for _ in range(4)]
    return steps == [32, 32, 16, 1], f"80 tokens, budget 32: {steps}"


def max_num_seqs_bounds_what_runs() -> Seen:
    desk = Desk(max_num_seqs=2)
    for name in "abc":
        desk.add(name, 10)
    step = desk.step()
    return list(step) == ["a", "b"], f"max_num_seqs=2, three requests: {step}"


def first_come_first_served_or_by_priority() -> Seen:
    action = server_options()["--scheduling-policy"]
    desk = Desk(max_num_seqs=1, scheduling_policy="priority")
    desk.add("late", 10, priority=5)
    desk.add("urgent", 10, priority=0)
    first = list(desk.step())
    found = action.default, set(action.choices), first
    return found == ("fcfs", {"fcfs", "priority"}, ["urgent"]), f"{found}"


def low_priority_is_preempted_first() -> Seen:
    victim = crowded(first_priority=5, scheduling_policy="priority")[1]
    return victim == "first", f"first has priority 5, last 0; preempted: {victim}"


def crowded(first_priority: int = 0, **engine_args) -> tuple[Desk, str]:
    """Two requests in five blocks of 16: they grow until one is preempted. Returns its name."""
    desk = Desk(blocks=6, **engine_args)
    desk.add("first", 40, answer=20, priority=first_priority)
    desk.add("last", 30, answer=20, start=100)
    for _ in range(20):
        desk.step()
        if preempted := [r.request_id for r in desk.requests.values() if r.num_preemptions]:
            return desk, preempted[0]
    return desk, "none"


def the_last_one_is_preempted_and_computed_again() -> Seen:
    """It keeps its tokens, loses its blocks, and finds those that the prefix cache still has."""
    desk, victim = crowded()
    request = desk.requests[victim]
    kept, computed = request.num_output_tokens, request.num_computed_tokens
    for _ in range(40):
        if victim in (step := desk.step()):
            break
    again = step[victim]
    saved = kept + 30 - again
    holds = victim == "last" and kept > 0 and computed == 0 and saved == 16
    said = f"{victim} preempted with {kept} tokens written, {computed} left computed; "
    return holds, said + f"on its return {again} computed again, {saved} found in the prefix cache"


def only_full_blocks_are_found() -> Seen:
    """And the last token is always computed, with it the last block of a prompt that is cached."""
    desk = Desk()
    desk.add("first", 48)
    desk.step()
    desk.add("shorter", 40)
    desk.add("same", 48)
    step = desk.step()
    found = 40 - step["shorter"], 48 - step["same"]
    return found == (32, 32), f"blocks of 16; of 40 tokens found {found[0]}, of 48 {found[1]}"


def the_cache_need_not_be_read() -> Seen:
    desk = Desk()
    desk.add("first", 48)
    desk.step()
    desk.add("second", 48, skip_reading_prefix_cache=True)
    step = desk.step()
    return step["second"] == 48, f"skip_reading_prefix_cache: {step['second']} of 48 computed"


def a_request_is_admitted_when_its_whole_prompt_fits() -> Seen:
    """The second one's first chunk would fit into the step and into the cache, all of it not."""
    desk = Desk(blocks=6, max_num_batched_tokens=48)
    desk.add("first", 40)
    desk.add("second", 50, start=100)
    step, watermark = desk.step(), config_of().scheduler_config.watermark
    return list(step) == ["first"] and watermark == 0, f"{step}; watermark {watermark}"


def a_pipeline_has_its_batches_in_flight() -> Seen:
    from vllm.config import VllmConfig

    def batches(stages: int, ahead: bool) -> int:
        config = SimpleNamespace(
            parallel_config=SimpleNamespace(pipeline_parallel_size=stages),
            scheduler_config=SimpleNamespace(async_scheduling=ahead),
            use_v2_model_runner=True,
        )
        return VllmConfig.max_concurrent_batches.fget(config)

    found = batches(4, False), batches(4, True)
    return found == (4, 5), f"4 stages: {found[0]}, with async scheduling {found[1]}"


# -------------------------------------------------------------------------------------- speculation


def async_scheduling_as_on_a_gpu(**engine_args) -> bool:
    """What vLLM decides; on the CPU, whose platform switches it off, without that platform."""
    from vllm.platforms import current_platform

    with mock.patch.object(type(current_platform), "check_and_update_config"):
        return config_of(**engine_args).scheduler_config.async_scheduling


def async_scheduling_is_on_by_default() -> Seen:
    value = async_scheduling_as_on_a_gpu()
    return value is True, f"async_scheduling resolves to {value}"


def ngram_switches_async_scheduling_off() -> Seen:
    def with_drafts(**config) -> bool:
        return async_scheduling_as_on_a_gpu(
            speculative_config={"num_speculative_tokens": 4, **config}
        )

    ngram = with_drafts(method="ngram")
    draft = with_drafts(method="draft_model", model=load_profile("cpu").draft_model)
    return (ngram, draft) == (False, True), f"async scheduling: ngram {ngram}, draft model {draft}"


def ngram_needs_no_second_model() -> Seen:
    drafting = {"method": "ngram", "num_speculative_tokens": 4}
    config = config_of(speculative_config=drafting).speculative_config
    return config.method == "ngram", f"accepted without a model: method {config.method}"


def drafts_are_greedy_by_default() -> Seen:
    from vllm.config import SpeculativeConfig

    value = inspect.signature(SpeculativeConfig).parameters["draft_sample_method"].default
    return value == "greedy", f"draft_sample_method: {value}"


def drafts_by_batch_size() -> Seen:
    from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup

    table = build_dynamic_sd_schedule_lookup([[1, 8, 4], [9, 1024, 0]], 1024, 4)
    found = [table[requests] for requests in (1, 8, 9, 1024)]
    return found == [4, 4, 0, 0], f"drafts for 1, 8, 9 and 1,024 requests: {found}"


def drafts_by_batch_size_are_ignored_with_dp() -> Seen:
    from vllm.config import VllmConfig

    drafting = SimpleNamespace(
        num_speculative_tokens=4,
        num_speculative_tokens_per_batch_size=[(1, 8, 4)],
        uses_dynamic_speculative_decoding=lambda: True,
    )
    config = SimpleNamespace(
        speculative_config=drafting, parallel_config=SimpleNamespace(data_parallel_size=2)
    )
    # What VllmConfig does to itself; it needs two engines otherwise.
    VllmConfig._maybe_disable_dynamic_sd_for_data_parallel(config)  # noqa: SLF001
    left = drafting.num_speculative_tokens_per_batch_size
    return left is None, f"data_parallel_size=2 leaves {left}"


def acceptance_can_be_set_by_hand() -> Seen:
    from vllm.config.speculative import RejectionSampleMethod

    methods = get_args(RejectionSampleMethod)
    return "synthetic" in methods, f"rejection_sample_method: {methods}"


def eagle_has_graphs_and_a_draft_model_none() -> Seen:
    from vllm.v1.worker.gpu.spec_decode.eagle.speculator import EagleSpeculator
    from vllm.v1.worker.gpu.spec_decode.mtp.speculator import MTPSpeculator
    from vllm.v1.worker.gpu.spec_decode.standalone_ar.speculator import StandaloneARSpeculator

    kinds = (EagleSpeculator, MTPSpeculator, StandaloneARSpeculator)
    captured = {k.__name__: ".capture(" in inspect.getsource(k.capture) for k in kinds}
    return list(captured.values()) == [True, True, False], f"captures CUDA graphs: {captured}"


# -------------------------------------------------------------------------------------- parallelism


def executors(*names: str) -> Seen:
    from vllm.config.parallel import DistributedExecutorBackend

    known = get_args(DistributedExecutorBackend)
    return set(names) <= set(known), f"distributed_executor_backend: {known}"


def experts_are_sharded_over_dp() -> Seen:
    from vllm.model_executor.layers.fused_moe.config import FusedMoEParallelConfig

    shards, _ = FusedMoEParallelConfig.flatten_tp_across_dp_and_pcp(1, 2, 0, 1, 0)
    (argument,) = [row for row in catalogue() if row.name == "data_parallel_size"]
    said = " ".join(argument.help.split())
    return shards == 2 and "MoE layers will be sharded" in said, f"TP 1 x DP 2: {shards}; {said}"


def order_of_all_reduces() -> Seen:
    """FlashInfer, vLLM's own, symmetric memory, NCCL: each asked before the next."""
    from vllm.distributed.device_communicators.cuda_communicator import CudaCommunicator

    source = inspect.getsource(CudaCommunicator.all_reduce)
    asked = ("fi_ar_comm.all_reduce(", "ca_comm.custom_all_reduce(")
    asked += ("symm_mem_comm.all_reduce(", "pynccl_comm.all_reduce(")
    places = [source.find(" " + call) for call in asked]
    return places[0] > 0 and places == sorted(places), f"places in its source: {places}"


def max_num_seqs_counts_for_each_replica() -> Seen:
    (argument,) = [row for row in catalogue() if row.name == "max_num_queued_reqs"]
    said = " ".join(argument.help.split())
    return "applies per data-parallel rank" in said, said


def ranks_on_a_cpu_share_memory() -> Seen:
    """Two ranks of a tensor-parallel group: the module that an all-reduce is handed to."""
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    source = inspect.getsource(CpuCommunicator.__init__)
    chosen = "self.dist_module = _CPUSHMDistributed(self)"
    reduced = inspect.getsource(CpuCommunicator.all_reduce)
    return chosen in source and "self.dist_module.all_reduce" in reduced, reduced


def workers_do_not_sleep_while_they_wait() -> Seen:
    """Of a message queue that was read less than a second ago: what a reader's wait does."""
    from vllm.distributed.device_communicators import shm_broadcast

    condition = shm_broadcast.SpinCondition
    spins_s = inspect.signature(condition.__init__).parameters["busy_loop_s"].default
    reader = SimpleNamespace(is_reader=True, last_read=time.monotonic(), busy_loop_s=spins_s)
    calls = []
    with mock.patch.object(shm_broadcast, "sched_yield", lambda: calls.append("yield")):
        condition.wait(reader)  # one that sleeps would ask for a poller, which is not there
    return spins_s == 1 and calls == ["yield"], f"{calls} for {spins_s} s"


def attention_heads_must_divide() -> Seen:
    from vllm.config import ParallelConfig

    try:
        config_of().model_config.verify_with_parallel_config(ParallelConfig(tensor_parallel_size=3))
    except ValueError as error:
        return "attention heads" in str(error), str(error)
    return False, "4 heads over 3 ranks are accepted"


def kv_heads_are_copied_when_they_are_too_few() -> Seen:
    from vllm.config import ParallelConfig

    heads = config_of().model_config.get_num_kv_heads(ParallelConfig(tensor_parallel_size=4))
    return heads == 1, f"2 KV heads over 4 ranks: {heads} on each"


def metrics_tell_engines_apart() -> Seen:
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    source = inspect.getsource(PrometheusStatLogger.__init__)
    return '"engine"]' in source, "PrometheusStatLogger's labels: model_name, engine"


# ---------------------------------------------------------------------------------- the server


def guarded(path: str) -> bool:
    """Whether the server's own middleware asks for a key at this path."""
    from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

    async def application(scope, receive, send):
        reached.append(scope["path"])

    async def send(message):
        pass

    reached: list[str] = []
    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    asked = AuthenticationMiddleware(application, ["key"])(scope, None, send)
    with ThreadPoolExecutor(1) as other:  # a browser's tests leave a running loop in this thread
        other.submit(asyncio.run, asked).result()
    return not reached


def a_key_guards_four_prefixes() -> Seen:
    from vllm.entrypoints.serve.middleware.authenticate import GUARDED_PREFIX

    same = set(GUARDED_PREFIX) == {"/v1", "/v2", "/inference", "/cohere"}
    asked = {path: guarded(path) for path in ("/v1/models", "/health", "/metrics", "/tokenize")}
    return same and list(asked.values()) == [True, False, False, False], f"key asked for: {asked}"


def invocations_answer_without_a_key() -> Seen:
    from vllm.entrypoints.serve.sagemaker import api_router

    there = '"/invocations"' in inspect.getsource(api_router)
    return there and not guarded("/invocations"), f"route there: {there}, key asked for: no"


def finish_reasons(*names: str) -> Seen:
    from vllm.v1.engine import FinishReason

    known = [str(reason) for reason in FinishReason]
    return set(names) <= set(known), f"finish reasons: {known}"


def a_stop_string_is_left_out() -> Seen:
    from vllm import SamplingParams

    value = SamplingParams().include_stop_str_in_output
    return value is False, f"include_stop_str_in_output: {value}"


def n_answers_are_n_requests() -> Seen:
    from vllm import SamplingParams
    from vllm.v1.engine.parallel_sampling import ParentRequest

    asked = SimpleNamespace(request_id="r", external_req_id="r", params=SamplingParams(n=3))
    parent = ParentRequest(asked)
    children = [parent.get_child_info(i) for i in range(3)]
    names, each = [name for name, _ in children], {params.n for _, params in children}
    return len(set(names)) == 3 and each == {1}, f"n=3: requests {names}, n of each {each}"


def a_misspelt_parameter_is_ignored() -> Seen:
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    plain = CompletionRequest(model="m", prompt="p").max_tokens
    misspelt = CompletionRequest(model="m", prompt="p", max_tokes=3).max_tokens
    return plain == misspelt, f"max_tokes=3 is accepted, max_tokens is {misspelt}"


def removed_guided_fields_are_ignored() -> Seen:
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    request = CompletionRequest(model="m", prompt="p", guided_choice=["yes", "no"])
    forms = request.structured_outputs
    return forms is None, f"guided_choice is accepted, structured_outputs is {forms}"


def the_cache_is_emptied_in_developer_mode_only() -> Seen:
    from vllm.entrypoints.launchers.api_server import routers
    from vllm.entrypoints.serve.dev.cache import api_router

    lines = inspect.getsource(routers).splitlines()
    (asks,) = [i for i, line in enumerate(lines) if "VLLM_SERVER_DEV_MODE:" in line]
    (adds,) = [i for i, line in enumerate(lines) if "register_vllm_dev_api_routers(app" in line]
    deeper = len(lines[adds]) - len(lines[adds].lstrip())
    inside = adds > asks and deeper > len(lines[asks]) - len(lines[asks].lstrip())
    there = "/reset_prefix_cache" in inspect.getsource(api_router)
    return inside and there, "/reset_prefix_cache is a route of vllm.entrypoints.serve.dev"


def structured_outputs(*forms: str) -> Seen:
    from vllm.sampling_params import StructuredOutputsParams

    known = list(inspect.signature(StructuredOutputsParams).parameters)
    return set(forms) <= set(known), f"StructuredOutputsParams: {known}"


def white_space_can_be_forbidden() -> Seen:
    from vllm.config import StructuredOutputsConfig

    known = list(inspect.signature(StructuredOutputsConfig).parameters)
    return "disable_any_whitespace" in known, f"StructuredOutputsConfig: {known}"


def a_full_queue_answers_503() -> Seen:
    from vllm.exceptions import QueueOverflowError

    found = options("--max-num-queued-reqs", "--max-num-queued-tokens")
    status = int(QueueOverflowError().http_status)
    return found[0] and status == 503, f"{found[1]}; QueueOverflowError: {status}"
