"""Plan for several GPUs: size a model, predict its speed, choose a layout, write the commands.

Pure functions over configs; only ``inventory`` looks at (and times) the machine, and only
``launch.check`` imports vLLM. What tries a plan on this machine: layouts, allreduce, ray_nodes;
how much better a plan must look to be better: margins.

    shape = load_shape("Qwen2.5-7B")                     # models: what a config.json decides
    box = make_box("H200-SXM", gpus=2)                   # hardware: what the GPUs can do
    memory = plan_memory(shape, box, tp=2)               # memory: GiB by part, tokens of KV cache
    step = Steps(shape, box, tp=2).parts(64, 1024)       # predict: one step by cause
    speed = predict_speed(shape, box, tp=2, workload=...)  # load: TPOT, TTFT, tokens/s under load
    ranking = rank(shape, box, workload, goal=...)       # choose: every TP x PP x DP, with reasons
    launch = commands(shape, tp=2)                       # launch: what to type, checked by vLLM

Beside these: calibration and doubts (how sure), speculation and drafting (drafts), disaggregation
(prefill and decode apart), answer (what the command says).

The command: python -m helpers.planning plan --model Qwen2.5-7B --gpu H200-SXM --gpus 2
"""

# ruff: noqa: F401 (the names that the package hands on)
from .calibration import Calibration, Point, calibrate
from .choose import Goal, holds, nearest_valid, planned_box, pure_layouts, rank, rank_again
from .doubts import speed_range
from .hardware import GIB, Box, PlanningError, add_gpu, catalogue, get_gpu, load_hardware, make_box
from .inventory import Inventory, box_here, cpu_box, probe_cpu, take_inventory
from .launch import Command, check, check_all, commands
from .load import RequestMix, SpeedPrediction, predict_speed
from .memory import EngineOptions, MemoryPlan, plan_memory
from .models import SHIPPED, ModelShape, load_shape, stage_layers, weight_bytes, why_invalid
from .predict import (
    Steps,
    Tuning,
    allreduce_seconds,
    decode_parts,
    default_tuning,
    prefill_parts,
    prompt_beside_parts,
    tp_speedup_parts,
)
