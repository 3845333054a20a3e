"""What drafters gain for a model of a GPU's size, at rates of acceptance that are set by hand.

    python -m benchmarks.drafters [--model Qwen/Qwen2.5-7B-Instruct]

With `rejection_sample_method="synthetic"` vLLM accepts drafts by chance, so that a drafter needs no
trained weights, only its shape:

  EAGLE-3 head   one layer that reads the model's own hidden states; vLLM replays it as a CUDA graph
  n-gram         no model: looks drafts up in the text, which repeats itself here
  draft model    a model of the same family, whose kernels vLLM launches one by one

Each beside the same model without drafts: one stream at several rates, then more and more requests
at one rate. results/benchmarks/drafters.jsonl, or in $BENCHMARK_RECORDS; notebook 2 draws them once
they are in notebooks/reference/ (benchmarks/reference_pages.py).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks.record import keep
from helpers.engine import RETUNABLE, close_engine, load_profile, open_engine
from helpers.engine.cache import cache_dir, write_once
from helpers.engine.profile import Profile
from helpers.lessons.advanced_features import speculation
from helpers.lessons.advanced_features.turns import timed
from helpers.measure import Measurement, warm_up
from helpers.verdicts.gain import LEAST_VALUES
from helpers.workloads import Request, Workload

K = 4  # drafted tokens a step
RATES = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95)  # that a drafted token is accepted; of one stream
AT_ONCE, BATCH_RATE = (1, 4, 16, 64, 256), 0.8
PHRASE, PROMPT_TOKENS, OUTPUT_TOKENS = 16, 64, 64


def repeating(vocabulary: int, requests: int) -> Workload:
    """Prompts that say one phrase again and again, each its own."""
    rng = random.Random(requests)

    def prompt() -> list[int]:
        phrase = [rng.randrange(vocabulary // 4, vocabulary // 2) for _ in range(PHRASE)]
        return phrase * (PROMPT_TOKENS // PHRASE)

    prompts = [prompt() for _ in range(requests)]
    about = f"{requests} prompts of {PROMPT_TOKENS} tokens that repeat {PHRASE}"
    asked = tuple(Request(prompt_token_ids=ids, max_tokens=OUTPUT_TOKENS) for ids in prompts)
    return Workload("repeating", asked, requests, about)


def eagle3_head(model: str) -> str:
    """The folder of a head for the model: the shape of a published one, without weights.

    The keys are those of https://huggingface.co/yuhuili/EAGLE3-LLaMA3.1-Instruct-8B; sizes are the
    model's own, as there.
    """
    of_model = json.loads((Path(model) / "config.json").read_text())
    layers = of_model["num_hidden_layers"]
    kept = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    kept += ("vocab_size", "rms_norm_eps", "max_position_embeddings", "hidden_act", "dtype")
    kept += ("rope_theta", "rope_parameters")
    head = {name: of_model[name] for name in kept if name in of_model} | {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "num_hidden_layers": 1,
        "draft_vocab_size": min(32000, of_model["vocab_size"]),
        "tie_word_embeddings": False,
        # three layers of the model whose hidden states it reads
        "eagle_aux_hidden_state_layer_ids": [1, layers // 2, layers - 2],
    }
    folder = cache_dir("models") / f"{Path(model).name}-eagle3"
    folder.mkdir(exist_ok=True)
    write_once(folder / "config.json", json.dumps(head, indent=1).encode())
    return str(folder)


def drafters(profile: Profile) -> dict[str, dict]:
    """speculative_config of each, by its name."""
    pair = speculation.synthetic_pair(profile)
    lookup = {"method": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 4}
    by_chance = {
        "num_speculative_tokens": K,
        "rejection_sample_method": "synthetic",
        "synthetic_acceptance_rates": speculation.acceptance_rates(BATCH_RATE, K),
    }
    return {
        "EAGLE-3 head": {"method": "eagle3", "model": eagle3_head(profile.model)} | by_chance,
        "n-gram": lookup | by_chance,
        "draft model": {"method": "draft_model", "model": pair.draft_model} | by_chance,
    }


def repeated(engine, load: Workload, requests: int) -> list[Measurement]:
    """So many requests at once, as often as a range needs, on an engine that is warm."""
    return [timed(engine, load, requests) for _ in range(LEAST_VALUES)]


def rows_of(
    engine, loads: dict[int, Workload], plain: dict[int, list[Measurement]]
) -> Iterator[dict]:
    """One stream at each rate, then each batch at BATCH_RATE; plain: by requests at once."""
    with speculation.at_rate(engine, BATCH_RATE, K):
        warm_up(engine)  # the CPU can draw acceptance only while it is retuned
    for requests, alpha in [(1, a) for a in RATES] + [(n, BATCH_RATE) for n in loads]:
        with speculation.at_rate(engine, alpha, K):
            runs = repeated(engine, loads[requests], requests)
        row = speculation.batch_row(requests, plain[requests], runs) | {
            "alpha": alpha,
            "k": K,
            "step_ms": statistics.median(speculation.step_ms(run, 50) for run in runs),
            **speculation.acceptance(runs, K).metrics,
        }
        yield speculation.kept(row, "speedup_x") | {
            "disturbed": sorted({why for run in runs for why in run.disturbance.reasons})
        }


def main(argv: list[str] | None = None) -> int:
    """0: every drafter is measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--load-format", help="dummy weights are taken in any case")
    options = parser.parse_args(argv)
    profile = load_profile("auto", options.model, "dummy")
    print(profile, flush=True)
    failed = []
    try:
        engine = open_engine(profile, **RETUNABLE)
        warm_up(engine)
        vocabulary, most = engine.llm.model_config.get_vocab_size(), engine.info.max_num_seqs
        loads = {n: repeating(vocabulary, n) for n in AT_ONCE if n <= most}
        plain = {n: repeated(engine, load, n) for n, load in loads.items()}
        for name, config in drafters(profile).items():
            try:
                engine = open_engine(profile, speculative_config=config, **RETUNABLE)
                parts = [f"one stream, {name}, a={a}" for a in RATES]
                parts += [f"batch, {name}, {n}" for n in loads]
                for part, row in zip(parts, rows_of(engine, loads, plain), strict=True):
                    keep("drafters", profile, {"part": part, **row})
            except Exception as error:  # the other drafters are worth their time all the same
                print(f"{name} FAILED: {type(error).__name__}: {error}", flush=True)
                failed.append(name)
    finally:
        print(close_engine())
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
