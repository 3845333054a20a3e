"""The tables "the paper says / we get / why they differ" of notebook 3, built from what it has just computed."""

from __future__ import annotations

from functools import partial

from helpers.lessons.papers import (
    deepspeed_inference,
    flash_attention,
    paged_attention,
    scheduling,
    speculative,
)
from helpers.lessons.reading_notes import wording
from helpers.lessons.reading_notes.claims import Claim

calculated = partial(Claim, how="calculated")  # from a formula, or a simulated schedule


def paged(slots: dict[str, int], usage: dict) -> list[Claim]:
    """slots: model -> our slots. usage: policy -> `paged_attention.Usage`."""
    row = paged_attention.TABLE_1["OPT-13B"]
    kib = paged_attention.kv_bytes_per_token(row["layers"], row["hidden"]) / 1024
    drawn = "Lengths drawn, not the trace's."
    claims = [
        calculated(
            "opt13b_kib",
            "KV cache of one token, OPT-13B (section 3)",
            800,
            kib,
            "KiB",
            "Counted, not measured.",
        )
    ]
    for name, ours in slots.items():
        printed = paged_attention.TABLE_1[name]["printed_slots"]
        claims.append(
            calculated(
                f"slots_{name}",
                f"slots, {name} (Table 1)",
                printed,
                ours,
                "tokens",
                "The paper's GB are rounded to whole ones.",
            )
        )
    for policy, printed in paged_attention.FIGURE_2.items():
        what = f"share that holds tokens, {policy} (Figure 2)"
        claims.append(
            calculated(
                f"tokens_{policy}",
                what,
                printed["tokens"],
                100 * usage[policy].tokens,
                "%",
                f"{drawn} Our queue is never empty.",
            )
        )
    for policy, printed in paged_attention.FIGURE_13.items():
        why = (
            "Theirs took 2 requests/s; ours waits for memory all the time, so it is fuller."
            if policy == "paged"
            else drawn
        )
        claims.append(
            calculated(
                f"batch_{policy}",
                f"requests in the batch, {policy} (Figure 13)",
                printed,
                usage[policy].mean_running,
                "",
                why,
            )
        )
    return claims


def sharing(rows: list[dict]) -> list[Claim]:
    """rows: kind, width, printed, saved_percent."""
    why = {
        "parallel": "Lengths drawn, not the trace's.",
        "beam": "Parents at random at every step: an upper end.",
    }
    return [
        calculated(f"{r['kind']}_{r['width']}", f"blocks saved, {r['kind']}, {r['width']} sequences (Figure 15)", r["printed"], r["saved_percent"],
              "%", why[r["kind"]])
        for r in rows
    ]  # fmt: skip


def orca(
    simulated: dict[str, int], calibrated_x: float, waves, plans_ahead: bool = False
) -> list[Claim]:
    """simulated: steps by policy ("static", "iteration"); calibrated_x: ratio of times with the engine's own step times.

    waves: `helpers.lessons.reading_notes.static_batching.Waves`. plans_ahead: `helpers.lessons.reading_notes.static_batching.plans_ahead` of its engine.
    """
    simulated_x = simulated["static"] / simulated["iteration"]
    claim = scheduling.ORCA_CLAIM
    return [
        Claim("throughput", "throughput over FasterTransformer at the same latency (abstract)", claim["throughput_x"], None, "x",
              "A whole system and a 175B model on many GPUs: not rebuilt here."),
        calculated("simulated", "continuous over waves, steps that cost the same (simulated)", None, simulated_x, "x", "The mechanism alone: places left empty."),
        calculated("calibrated", "the same with this engine's step times (simulated)", None, calibrated_x, "x", wording.step_cost(waves.step_ms)),
        Claim("steps", "the same on the real engine, in steps", None, waves.steps_x, "x",
              wording.refills(waves.continuous_steps, simulated["iteration"], plans_ahead)),
        Claim("measured", "the same on the real engine, in time", None, waves.speedup_x, "x",
              "Plus prompts, scheduling, and other programs on this machine."),
    ]  # fmt: skip


def flash(
    difference: float, slope_standard: float, slope_sram: float, extra_per_token: float
) -> list[Claim]:
    gb, printed = flash_attention.caption_traffic_gb(), flash_attention.FIGURE_2
    arxiv, later = (printed[v]["standard"]["hbm_gb"] for v in ("arXiv", "later"))
    passes = lambda theirs: f"{(theirs - gb['standard']) / gb['one_pass']:.0f}"  # noqa: E731
    small = flash_attention.caption_traffic_gb(100 * 1024)["flash"]
    return [
        Claim("exact", "largest difference to standard attention, float32 (exact, section 3)", None, difference, "", "Rounding."),
        calculated("slope_standard", "exponent of N, standard (theorem 2)", 2, slope_standard, "", "N d is not yet negligible at 1,024 tokens."),
        calculated("slope_sram", "exponent of M, tiled (theorem 2)", -1, slope_sram, "", "The last tile is not full; K and V are read once whatever M."),
        calculated("memory", "extra numbers per token, tiled (theorem 1: a constant)", None, extra_per_token, "", "l and m."),
        calculated("hbm_arxiv", "GB moved, standard, forward and backward (Figure 2, arXiv version)", arxiv, gb["standard"], "GB",
              f"Counted without mask and dropout. A pass over N x N is {gb['one_pass']:.1f} GB: theirs has {passes(arxiv)} more."),
        calculated("hbm_later", "the same in the later version of Figure 2", later, gb["standard"], "GB",
              f"{passes(later)} passes more. The two versions differ: quote which."),
        calculated("hbm_flash", "GB moved, tiled, forward and backward (Figure 2, both versions)", printed["arXiv"]["flash"]["hbm_gb"], gb["flash"], "GB",
              f"For the 192 KiB of one A100 multiprocessor; with 100 KiB it would be {small:.1f} GB."),
    ]  # fmt: skip


def deepspeed(
    bandwidth_share: float, fusion_x: float, crossover: int, measured_on: str
) -> list[Claim]:
    arxiv, sc22 = deepspeed_inference.ABSTRACTS["arXiv"], deepspeed_inference.ABSTRACTS["SC22"]
    return [
        Claim("latency_arxiv", "latency, up to (arXiv abstract)", arxiv["latency_x"], None, "x", "Against other systems on many GPUs: not rebuilt here."),
        Claim("latency_sc22", "latency (SC22 abstract)", sc22["latency_x"], None, "x", "The same sentence, another number: say which you cite."),
        Claim("throughput", "throughput, over (both abstracts)", arxiv["throughput_x"], None, "x", "Not rebuilt here."),
        Claim("bandwidth", "one row: share of the memory ceiling (section III: small batches wait for memory)", None, 100 * bandwidth_share, "%",
              "torch's kernel on this machine."),
        Claim("fusion", "fused over apart, eight operations (section III: Deep-Fusion)", None, fusion_x, "x", "Their fusion also spans products."),
        calculated("crossover", "tokens per step that hide the link (section VI: ZeRO-Inference)", None, crossover, "tokens", measured_on),
    ]  # fmt: skip


def leviathan(measured: list[dict]) -> list[Claim]:
    """measured: runs of notebook 2, see `reading.speculation_on_record`."""
    claims = [
        calculated(
            f"speed_{alpha}_{gamma}",
            f"speed, alpha {alpha}, gamma {gamma} (Table 1)",
            speed,
            round(speculative.speedup(alpha, gamma), 2),
            "x",
            "Exact.",
        )
        for (alpha, gamma), (_, speed) in speculative.TABLE_1.items()
    ]
    t5 = speculative.TABLE_2["translation, T=0"]
    claims.append(calculated("t5", f"T5-XXL, translation at temperature 0: alpha {t5['alpha']}, gamma {t5['gamma']} (Table 2)", t5["speed"],
                        speculative.speedup(t5["alpha"], t5["gamma"], 0.02), "x", "The paper gives c only as below 0.05; 0.02 assumed here."))  # fmt: skip
    for run in measured:
        if run["speedup"]:
            free = speculative.speedup(run["alpha"], run["gamma"])
            claims.append(Claim(f"ours_{run['label']}", f"{run['label']}: measured over the formula with free drafts", None, run["speedup"] / free, "x",
                                "The draft's own time, and checking several tokens is not free on every machine."))  # fmt: skip
    return claims
