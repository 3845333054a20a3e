"""Prefill and decode on GPUs of their own, as vLLM 0.32 offers it with its NixlConnector.

Some instances compute prompts and hand the KV cache on, the others write the answers. No prompt is
computed beside a stream, so TPOT is that of a decode step alone; in return the KV cache of every
prompt crosses a link, and neither kind can do the other's work. What is known: the steps of both
kinds, and the bytes. No data: what NIXL reaches of a link, and the queues between the two.
"""

from dataclasses import dataclass

from .hardware import Box, Link, PlanningError, make_box
from .launch import Command, Launch, serve_arguments
from .load import RequestMix, predict_speed
from .memory import EngineOptions, plan_memory
from .models import ModelShape
from .predict import Steps

PROMPTS_AT_ONCE = 64  # enough that every step of a prefill instance is full
ROUNDS = 20  # until the streams of the decode instances are what their prompts allow
SIDE_CHANNEL = 5600  # VLLM_NIXL_SIDE_CHANNEL_PORT of the first instance of a machine
PORTS = {"kv_producer": 8100, "kv_consumer": 8200}


@dataclass(frozen=True)
class Disaggregated:
    """The best split of a box into prefill and decode instances of one tensor parallel size."""

    prefill: int  # instances
    decode: int
    prompts_per_s: float  # that all prefill instances compute
    answers_per_s: float  # that all decode instances write
    requests_per_s: float  # of both together, were there no queue
    tpot_s: float
    prefill_s: float  # one prompt alone
    kv_bytes: int  # of a prompt, on each GPU of an instance
    link: Link

    @property
    def transfer_s(self) -> float:
        """Seconds that a prompt's KV cache takes at the full rate of the link: at least so many."""
        return transfer_seconds(self.kv_bytes, self.link)

    def row(self) -> dict:
        """For the command's answer."""
        return {
            "connector": "NixlConnector",
            "prefill_instances": self.prefill,
            "decode_instances": self.decode,
            "prompts_per_s": round(self.prompts_per_s, 3),
            "answers_per_s": round(self.answers_per_s, 3),
            "requests_per_s": round(self.requests_per_s, 3),
            "tpot_ms": round(self.tpot_s * 1e3, 4),
            "ttft_ms_at_least": round((self.prefill_s + self.transfer_s) * 1e3, 4),
            "kv_bytes_of_a_prompt_per_gpu": self.kv_bytes,
            "kv_transfer_ms_at_least": round(self.transfer_s * 1e3, 4),
            "link": f"{self.link.kind}, {self.link.gb_s:g} GB/s",
            "no_data": "the rate that NIXL reaches on the link, and the queues of both kinds",
        }


def disaggregate(
    shape: ModelShape, box: Box, tp: int, mix: RequestMix, options: EngineOptions, tuning=None
) -> Disaggregated:
    """The split of a box that serves most requests; of equals, the one with more decode instances.

    Raises PlanningError where there is no data, or no room for an instance of each kind.
    """
    instances = box.gpus // tp
    if instances < 2:
        raise PlanningError(
            f"An instance for prompts and one for answers need {2 * tp} GPUs with TP {tp}, and the "
            f"box has {box.gpus}: give more GPUs with --gpus."
        )
    if len(set(shape.attention)) > 1 or shape.attention[0] not in ("full", "latent"):
        raise PlanningError(f"No data for handing on the KV cache of {shape.name}.")
    if options.speculative or options.decode_context_parallel_size > 1 or mix.rate is not None:
        raise PlanningError(
            "No data for --disaggregate with --speculative, --decode-context-parallel-size or "
            "--rate: plan it for so many clients (--concurrency) without them."
        )
    alone = make_box(box.gpu, tp)
    memory = plan_memory(shape, alone, tp, options=options)
    prompts = RequestMix(mix.input_tokens, 1, PROMPTS_AT_ONCE, None, mix.prefix_hit_rate)
    filled = predict_speed(shape, alone, tp, 1, 1, prompts, options, tuning, memory)
    steps = Steps(shape, alone, tp, 1, 1, memory.options, tuning)
    link = box.link_for(min(2 * tp, box.gpus) if box.nodes == 1 else box.gpus)
    kv_bytes = mix.input_tokens * shape.kv_bytes_per_token(tp, memory.options.kv_cache_dtype)

    until_decode_s = filled.prefill_s + transfer_seconds(kv_bytes, link)
    context = mix.input_tokens + mix.output_tokens / 2
    most = memory.at_once(mix.input_tokens + mix.output_tokens)

    def answer_s(running: float, decode: int) -> tuple[float, float]:
        """(seconds of a whole answer, of one of its tokens) with so many streams in all."""
        tpot_s = float(steps.parts(max(1.0, running / decode), context).total)
        return mix.output_tokens * tpot_s, tpot_s

    def split(prefill: int) -> Disaggregated:
        decode = instances - prefill
        prompts_per_s = prefill * filled.requests_per_s
        running = full = min(mix.concurrency, most * decode)
        answers_per_s = full / answer_s(full, decode)[0]
        for _ in range(ROUNDS):  # who is not in an answer is in a prompt
            whole_s, tpot_s = answer_s(running, decode)
            rate = min(running / whole_s, prompts_per_s)
            left = min(mix.concurrency - rate * until_decode_s, rate * whole_s, full)
            running = (running + max(left, 1.0)) / 2
        served = prompts_per_s, answers_per_s, rate
        return Disaggregated(prefill, decode, *served, tpot_s, filled.prefill_s, kv_bytes, link)

    return max(map(split, range(1, instances)), key=lambda s: (s.requests_per_s, s.decode))


def transfer_seconds(nbytes: int, link: Link) -> float:
    """Seconds of a transfer at the full rate of a link."""
    return nbytes / (link.gb_s * 1e9)


def commands_of(shape: ModelShape, box: Box, tp: int, split: Disaggregated, given: dict) -> Launch:
    """A `vllm serve` line for every instance; clients talk to a proxy in front of them."""
    roles = ["kv_producer"] * split.prefill + ["kv_consumer"] * split.decode
    per_node = box.gpus_per_node // tp
    lines = []
    for i, role in enumerate(roles):
        machine, place = divmod(i, max(1, per_node))
        config = {"kv_connector": "NixlConnector", "kv_role": role}
        argv = serve_arguments(shape, tp, 1, 1, given | {"kv_transfer_config": config})
        argv += ["--port", str(PORTS[role] + i)]
        gpus = ",".join(str(place * tp + n) for n in range(tp))
        settings = f"CUDA_VISIBLE_DEVICES={gpus} VLLM_NIXL_SIDE_CHANNEL_PORT={SIDE_CHANNEL + place}"
        lines.append(Command(f"machine {machine + 1}: {settings}", tuple(argv)))
    first = (
        "nixl is installed beside vLLM (uv pip install nixl) on every machine.",
        "A proxy in front sends each request to a prefill instance first, then to a decode "
        "instance with what that one answered: vLLM's repository has one among its examples of "
        "disaggregated serving.",
        "VLLM_NIXL_SIDE_CHANNEL_HOST is each machine's own address where there are several.",
    )
    return Launch(tuple(lines), first)
