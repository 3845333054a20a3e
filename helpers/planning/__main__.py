"""The planner as a command.

python -m helpers.planning plan --model Qwen2.5-7B --gpu H200-SXM --gpus 2
"""

import argparse
import contextlib
import json
import math
import sys
from dataclasses import fields, replace

from . import choose
from .answer import answer, readable
from .calibration import SIZES, Point, calibrate
from .disaggregation import commands_of, disaggregate
from .doubts import speed_range
from .hardware import (
    NETWORK_GB_S,
    Box,
    PlanningError,
    catalogue,
    load_hardware,
    make_box,
    read_pairs,
)
from .inventory import cpu_box
from .launch import check_all, commands
from .load import RequestMix, predict_speed
from .memory import EngineOptions, MemoryPlan, plan_memory
from .models import SHIPPED, load_shape
from .predict import default_tuning
from .speculation import METHODS, about_speculation, read_speculation

POINT_KEYS = ("model", *SIZES, "tpot_ms", "ttft_ms", "prefill_ms", "output_tokens_per_s")
POINT = "tp=1,concurrency=1,tpot_ms=4.9"
MOST = 100_000  # of anything that is counted in requests: more than one box serves


# ---------------------------------------------------------------------- what is asked
class _Parser(argparse.ArgumentParser):
    """Refuses in one sentence, and takes no abbreviations of its options."""

    def __init__(self, **about):
        super().__init__(allow_abbrev=False, **about)

    def error(self, message: str):
        raise PlanningError(message.removeprefix("argument ").rstrip(".") + ".")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def _clients(text: str) -> int:
    if (clients := _count(text)) > MOST:
        raise argparse.ArgumentTypeError(f"{text} is more than {MOST:,} at once")
    return clients


def _number(text: str) -> float:
    """A finite number above 0."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not a number above 0")


def parser() -> argparse.ArgumentParser:
    """The command line; engine arguments have vLLM's names."""
    top = _Parser(prog="python -m helpers.planning", description=__doc__)
    sub = top.add_subparsers(dest="what", required=True)
    plan = sub.add_parser("plan", help="size, predict and launch one plan, or rank all of them")
    add = plan.add_argument
    names = ", ".join(SHIPPED)
    add("--model", required=True, help=f"a folder, a config.json, a Hugging Face id, or {names}")
    gpu = "a name of the catalogue (see: python -m helpers.planning gpus), or cpu: the cores here"
    add("--gpu", required=True, help=gpu)
    add("--gpus", type=_count, default=1, help="GPUs in all")
    add("--nodes", type=_count, default=1, help="machines that they are spread over")
    network = "GB/s of one GPU between machines, one direction: 50 for 400 Gb/s each"
    add("--network-gb-s", type=_number, default=NETWORK_GB_S, help=network)
    add("--gpu-memory-gib", type=_number, help="memory of one GPU as the driver reports it")
    add("--hardware", help="a JSON file with more GPUs")
    for short in ("tp", "pp", "dp"):
        add(f"--{short}", type=_count, help="without any of --tp, --pp, --dp all are ranked")
    add("--quantization", help="makes a 16-bit checkpoint one of 8 bits while loading: fp8, ...")
    add("--gpu-memory-utilization", type=_number, default=0.92)
    add("--kv-cache-dtype", default="auto")
    for size in ("max-model-len", "max-num-batched-tokens", "max-num-seqs"):
        add(f"--{size}", type=_count)
    add("--kv-cache-memory-bytes", type=_count)
    add("--enforce-eager", action="store_true")
    add("--enable-expert-parallel", action="store_true")
    add("--decode-context-parallel-size", type=_count, default=1)
    add(
        "--speculative",
        metavar="method=mtp,num_speculative_tokens=2,acceptance=0.8",
        help=f"drafts by {', '.join(METHODS)}; model= names the drafter, acceptance is the "
        "probability that a drafted token is kept, given that those before it were",
    )
    split = "also split the box into instances of --tp GPUs for prompts and for answers"
    add("--disaggregate", action="store_true", help=split)
    usage = "whose defaults: `vllm serve` or the class LLM"
    add("--usage", choices=("server", "llm"), default="server", help=usage)
    add("--input-tokens", type=_count)
    add("--output-tokens", type=_count)
    load = plan.add_mutually_exclusive_group()
    clients = "clients, each of which sends its next request when it has an answer"
    load.add_argument("--concurrency", type=_clients, default=1, help=clients)
    load.add_argument("--rate", type=_number, help="requests a second that arrive at random")
    add("--prefix-hit-rate", type=float, default=0.0, help="share of a prompt that is cached")
    add("--tpot-ms", type=_number, help="limit for the ranking")
    add("--ttft-ms", type=_number, help="limit for the ranking")
    add("--prefer", choices=choose.PREFERENCES, default="throughput")
    add("--price", type=float, help="price of one GPU for an hour")
    point = f"a point that was measured on this machine, of any model: {', '.join(POINT_KEYS)}"
    point += "; one of the last four is enough, and --calibrate may be given several times"
    add("--calibrate", action="append", default=[], metavar=POINT, help=point)
    add("--launcher", choices=("mp", "ray"), default="mp")
    no_check = "print the command without asking the installed vLLM"
    add("--no-check", action="store_true", help=no_check)
    add("--json", action="store_true", help="one JSON object, of an error too")
    sub.add_parser("gpus", help="the catalogue, with sources and doubts")
    sub.add_parser("models", help="the shipped model configs")
    return top


def parse_point(text: str, workload: RequestMix) -> Point:
    """'model=Qwen2.5-7B,concurrency=1,tpot_ms=4.9' as a Point; lengths not said are the plan's.

    Raises PlanningError for what cannot be read.
    """
    said = read_pairs("--calibrate", text, POINT_KEYS, POINT)
    values: dict = {"input_tokens": workload.input_tokens, "output_tokens": workload.output_tokens}
    if model := said.pop("model", None):
        values["shape"] = load_shape(model)
    for key, value in said.items():
        try:
            number = int(value) if key in SIZES else float(value)
        except ValueError:
            raise PlanningError(
                f"--calibrate cannot read {key}={value}: {value!r} is not a number."
            ) from None
        if key.endswith("_ms"):
            values[key.replace("_ms", "_s")] = number / 1e3
        else:
            values[key] = number
    return Point(**values)


def plan(args) -> dict:
    """The whole answer of the command as one dict (what --json prints)."""
    box, shape = _box(args), load_shape(args.model, args.quantization)
    options = _options(args, shape)
    workload = _workload(args, shape)
    points = [parse_point(text, workload) for text in args.calibrate]
    calibration = calibrate(shape, box, points, options) if points else None
    tuning = calibration.tuning if calibration else default_tuning(box.gpu)
    ranking = None
    if not (args.tp or args.pp or args.dp or args.disaggregate):
        goal = choose.Goal(args.tpot_ms, args.ttft_ms, args.prefer)
        ranking = choose.rank(shape, box, workload, options, goal, tuning, args.price)
        prediction = (ranking.best or ranking.choices[0]).prediction
    else:
        layout = _layout(args, box)
        memory = _memory_of(shape, box, layout, options)
        prediction = predict_speed(shape, box, *layout, workload, options, tuning, memory)
    tp, pp, dp = prediction.tp, prediction.pp, prediction.dp
    given = options.given()
    if args.quantization:
        given = {"quantization": args.quantization, **given}
    launch = commands(shape, tp, pp, dp, choose.machines_for(box, tp, pp, dp), args.launcher, given)
    more = {}
    if args.disaggregate:
        split = disaggregate(shape, box, tp, workload, options, tuning)
        launch = commands_of(shape, box, tp, split, given)
        more["disaggregated"] = split.row()
    drafts, drafter = options.speculative, None
    if drafts:
        drafter = drafts.shape if "model" in drafts.vllm_config() else None
        alone = replace(options, speculative=None)
        without = predict_speed(shape, box, tp, pp, dp, workload, alone, tuning)
        more["speculative"] = about_speculation(prediction, without.tpot_s)
    if not args.no_check:
        # what vLLM has to say while it is imported is not the answer
        with contextlib.redirect_stdout(sys.stderr):
            launch = check_all(launch, shape, drafter)
    between = speed_range(prediction, box, tuning, calibration and calibration.doubt)
    said = answer(prediction, box, between, launch, args.price, calibration, ranking)
    return said | more


def _box(args) -> Box:
    if args.hardware:
        load_hardware(args.hardware)
    if args.gpu.lower() == "cpu":
        return cpu_box(args.gpus)
    memory_gib, network = args.gpu_memory_gib, args.network_gb_s
    return make_box(args.gpu, args.gpus, args.nodes, usable_gib=memory_gib, network_gb_s=network)


def _options(args, shape) -> EngineOptions:
    known = {field.name for field in fields(EngineOptions)}
    said = {name: value for name, value in vars(args).items() if name in known}
    drafts = read_speculation(shape, args.speculative) if args.speculative else None
    return EngineOptions(**said | {"speculative": drafts})


def _layout(args, box) -> tuple[int, int, int]:
    """The layout that was asked for; every instance of a split box is a replica beside it."""
    tp, pp = args.tp or 1, args.pp or 1
    if args.disaggregate and pp > 1:
        raise PlanningError("No data for --disaggregate with a pipeline: plan with --tp alone.")
    return tp, pp, args.dp or (max(1, box.gpus // tp) if args.disaggregate else 1)


def _workload(args, shape) -> RequestMix:
    limit = args.max_model_len or shape.max_positions
    output = args.output_tokens or min(128, max(1, limit // 4))
    prompt = args.input_tokens or max(1, min(1024, limit - output))
    return RequestMix(prompt, output, args.concurrency, args.rate, args.prefix_hit_rate)


def _memory_of(shape, box, layout, options) -> MemoryPlan:
    """The memory of the layout that was asked for, which must fit."""
    problem = choose.why_impossible(shape, box, *layout, options)
    if problem is None:
        memory = plan_memory(shape, box, *layout, options)
        if memory.fits:
            return memory
        where = f"with {choose.layout_flags(*layout)} on {box.gpu.name}"
        problem = f"{shape.name} does not fit {where}: {memory.problem}"
    if near := choose.nearest_valid(shape, box, *layout, options):
        why = problem.rstrip(".")
        raise PlanningError(f"{why}; the nearest that works here is {near}.", near)
    raise choose.does_not_fit(shape, box, options)


def list_gpus() -> None:
    """Print the catalogue with its sources and doubts."""
    for gpu in catalogue().values():
        link = f"{gpu.link.kind} {gpu.link.gb_s:g} GB/s" if gpu.link else gpu.pcie.kind
        print(
            f"{gpu.name:16} {gpu.usable_gib:6.1f} GiB  {gpu.bandwidth_gb_s:6g} GB/s  "
            f"{gpu.tflops_16bit:6g} TFLOP/s  {link}"
        )
        print(f"{'':17}source: {gpu.source}")
        for what, doubt in gpu.doubts.items():
            print(f"{'':17}doubt, {what}: {doubt}")


def list_models() -> None:
    """Print the shipped model configs."""
    for name in SHIPPED:
        shape = load_shape(name)
        print(
            f"{name:16} {shape.parameters() / 1e9:8.2f} B parameters, "
            f"{shape.kv_bytes_per_token():,} bytes of KV cache a token"
        )


def main(argv=None) -> int:
    """Run the command; returns the exit code (2 for what cannot be planned)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        args = parser().parse_args(argv)
        if args.what == "gpus":
            list_gpus()
        elif args.what == "models":
            list_models()
        else:
            said = plan(args)
            print(json.dumps(said, indent=1) if args.json else readable(said))
    except PlanningError as problem:
        if "--json" in argv:
            print(json.dumps({"error": str(problem), "nearest": problem.nearest or None}))
        else:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
