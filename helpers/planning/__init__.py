"""Plan for several GPUs: size a model, predict its speed, choose how to spread it, write the commands.

Pure functions over configs; only ``inventory`` looks at (and times) the machine, and only ``launch.check`` imports vLLM.

    shape = load_shape("Qwen2.5-7B")                     # models: what a config.json decides
    box = make_box("H200-SXM", gpus=2)                   # hardware: what the GPUs can do
    memory = plan_memory(shape, box, tp=2)               # memory: GiB by part, tokens of KV cache
    speed = predict(shape, box, tp=2, workload=...)      # predict: TPOT, TTFT, throughput, by part
    ranking = rank(shape, box, workload, goal=...)       # choose: every TP x PP x DP, with reasons
    launch = commands(shape, tp=2)                       # launch: what to type, checked by vLLM

The command: python -m helpers.planning plan --model Qwen2.5-7B --gpu H200-SXM --gpus 2
"""

from .choose import (
    Choice,
    Goal,
    Ranking,
    combinations,
    nearest_valid,
    planned_box,
    price_per_million,
    rank,
    rule_of_thumb,
)
from .errors import PlanningError
from .hardware import GIB, Box, Gpu, Link, add_gpu, catalogue, get_gpu, load_hardware, make_box
from .inventory import (
    Inventory,
    box_here,
    cpu_box,
    fit_allreduce,
    inventory,
    measure_allreduce,
    probe_cpu,
)
from .launch import Command, Launch, check, check_all, commands
from .memory import (
    EngineOptions,
    MemoryPlan,
    StageMemory,
    activation_bytes,
    graph_bytes,
    loaded_bytes,
    plan_memory,
)
from .models import (
    SHIPPED,
    ModelShape,
    load_shape,
    rank_tensors,
    stage_layers,
    valid_sizes,
    weight_bytes,
    weight_parts,
    why_invalid,
)
from .predict import (
    Calibration,
    Parts,
    Point,
    Prediction,
    Tuning,
    Workload,
    allreduce_seconds,
    calibrate,
    decode_parts,
    default_tuning,
    predict,
    prefill_parts,
    tp_speedup_parts,
)  # fmt: skip

__all__ = [name for name in dir() if not name.startswith("_")]
