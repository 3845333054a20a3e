"""What the planner says of one configuration of a list or a record."""

from dataclasses import dataclass
from functools import cached_property

from helpers import planning as plan
from helpers.tiny_model import TARGET


@dataclass(frozen=True)
class Planned:
    """One configuration ({"model", "tp", "pp", "dp", "engine_args", "output", ...}) on a machine.

    probe: what a core of a CPU reached. usable_gib: a GPU's memory as its driver reports it.
    """

    config: dict
    gpu: str
    probe: dict | None = None
    usable_gib: float | None = None
    usage: str = "llm"  # whose defaults: the class LLM's, or "server"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(tp, pp, dp)."""
        return self.config["tp"], self.config["pp"], self.config["dp"]

    @property
    def ranks(self) -> int:
        """GPUs, or cores, that it needs."""
        tp, pp, dp = self.sizes
        return tp * pp * dp

    @cached_property
    def shape(self) -> plan.ModelShape:
        """The model."""
        model = self.config["model"]
        quantization = self.config["engine_args"].get("quantization")
        return plan.load_shape(TARGET if model == "shipped" else model, quantization)

    @cached_property
    def box(self) -> plan.Box:
        """The machine as the planner sees it."""
        if self.gpu == "CPU":
            return plan.cpu_box(self.ranks, self.probe)
        return plan.make_box(self.gpu, self.ranks, usable_gib=self.usable_gib)

    @cached_property
    def memory(self) -> plan.MemoryPlan:
        """Sizes, with the defaults of vLLM."""
        known = plan.EngineOptions.__dataclass_fields__
        given = {k: v for k, v in self.config["engine_args"].items() if k in known}
        options = plan.EngineOptions(**given, usage=self.usage)
        return plan.plan_memory(self.shape, self.box, *self.sizes, options)

    def streams(self, requests: int) -> int:
        """Streams of one replica that run at once; the others wait."""
        return min(max(1, -(-requests // self.config["dp"])), self.memory.options.max_num_seqs)

    def step_ms(self, case: str, tuning=None) -> float:
        """A decode step. case: "256x128" is 256 requests of 128 tokens in."""
        requests, tokens = map(int, case.split("x"))
        tp, pp, _ = self.sizes
        context = tokens + self.config["output"] / 2
        parts = plan.decode_parts(
            self.shape,
            self.box,
            tp,
            pp,
            self.streams(requests),
            context,
            kv_dtype=self.memory.options.kv_cache_dtype,
            tuning=tuning,
        )
        return float(parts.total) * 1e3

    def prefill_ms(self, prompt: int, chunk: int, tuning=None) -> float:
        """One prompt alone, in chunks of at most so many tokens."""
        tp, pp, _ = self.sizes
        parts = plan.prefill_parts(self.shape, self.box, tp, pp, prompt, chunk, tuning=tuning)
        return float(parts.total) * 1e3

    def under(self, requests: plan.RequestMix, tuning=None) -> plan.SpeedPrediction:
        """The steady state under a load."""
        return plan.predict_speed(
            self.shape, self.box, *self.sizes, requests, tuning=tuning, memory=self.memory
        )
