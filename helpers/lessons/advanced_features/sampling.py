"""Generate with different sampling settings, and describe the outputs in numbers.

Beam search left SamplingParams: `LLM.beam_search` with BeamSearchParams runs it on top of the engine, one step at a
time (vllm/entrypoints/generate/beam_search/offline.py).
"""

from __future__ import annotations

import html
import time
from dataclasses import dataclass

from helpers.display import card
from helpers.engine.engine import Engine


@dataclass(frozen=True)
class Generated:
    """Outputs of one setting: one text, one list of token ids and one mean log-probability for each prompt."""

    name: str
    texts: list[str]
    token_ids: list[list[int]]
    logprobs: list[
        float
    ]  # mean over a text's tokens, under the model's own distribution (temperature 1)
    seconds: float

    @property
    def output_tokens(self) -> int:
        return sum(len(ids) for ids in self.token_ids)

    @property
    def metrics(self) -> dict[str, float]:
        return {
            "output_tokens_per_s": self.output_tokens / self.seconds,
            "mean_logprob": sum(self.logprobs) / len(self.logprobs),
            "distinct_2grams": distinct_ngrams(self.token_ids, 2),
            "output_tokens": self.output_tokens,
        }


def generate(
    engine: Engine, prompts: list[list[int]], name: str, max_tokens: int = 48, **sampling
) -> Generated:
    """Generate for all prompts together with vLLM's SamplingParams by name."""
    from vllm import SamplingParams

    params = SamplingParams(
        max_tokens=max_tokens, logprobs=0, **sampling
    )  # 0: of the chosen token alone
    start = time.perf_counter()
    outputs = engine.llm.generate(
        [{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False
    )
    seconds = time.perf_counter() - start
    done = [output.outputs[0] for output in outputs]
    return Generated(
        name, [one.text.strip() for one in done], [list(one.token_ids) for one in done],
        [one.cumulative_logprob / max(1, len(one.token_ids)) for one in done], seconds,
    )  # fmt: skip


def beam_search(
    engine: Engine, prompts: list[list[int]], name: str, beam_width: int = 4, max_tokens: int = 48
) -> Generated:
    """The best of `beam_width` beams for each prompt."""
    from vllm.sampling_params import BeamSearchParams

    start = time.perf_counter()
    outputs = engine.llm.beam_search(
        [{"prompt_token_ids": ids} for ids in prompts],
        BeamSearchParams(beam_width=beam_width, max_tokens=max_tokens),
    )
    seconds = time.perf_counter() - start
    best = [output.sequences[0] for output in outputs]
    # A beam's tokens begin with the prompt.
    ids = [list(beam.tokens[len(prompt) :]) for beam, prompt in zip(best, prompts, strict=True)]
    texts = [engine.tokenizer.decode(one, skip_special_tokens=True).strip() for one in ids]
    scores = [beam.cum_logprob / max(1, len(one)) for beam, one in zip(best, ids, strict=True)]
    return Generated(name, texts, ids, scores, seconds)


def compare(
    engine: Engine,
    prompts: list[list[int]],
    settings: dict[str, dict],
    beam_width: int = 4,
    times: int = 2,
) -> list[Generated]:
    """All settings (name -> SamplingParams by name, greedy or with a seed), each the fastest of `times` runs; then beam search, which takes long, once.

    Each is warmed up first: a GPU compiles the kernels of top_p and top_k when they are first used.
    """
    runs = []
    for name, params in settings.items():
        generate(engine, prompts, "warm-up", max_tokens=8, **params)
        runs.append(
            min(
                (generate(engine, prompts, name, **params) for _ in range(times)),
                key=lambda run: run.seconds,
            )
        )
    beam_search(engine, prompts, "warm-up", beam_width, max_tokens=4)
    return [*runs, beam_search(engine, prompts, f"beam search, {beam_width} beams", beam_width)]


TIE = 0.01  # in the mean log-probability of a token, or in the share of distinct 2-grams: less is no difference


def reading(runs: list[Generated]) -> str:
    """What a comparison shows: the likeliest text with its ties, speed and variety only where they differ. Greedy first, beam search last."""
    metrics = {run.name: run.metrics for run in runs}
    most = max(m["mean_logprob"] for m in metrics.values())
    likeliest = [f"“{name}”" for name, m in metrics.items() if m["mean_logprob"] > most - TIE]
    if len(likeliest) == len(runs):
        said = ["All texts are equally likely: the model is sure of these answers"]
    else:
        said = [
            f"The likeliest texts came from {' and from '.join(likeliest)}"
            + (", equally likely" if len(likeliest) > 1 else "")
        ]
    greedy, beam = metrics[runs[0].name], metrics[runs[-1].name]
    said.append(
        f"beam search made {greedy['output_tokens_per_s'] / beam['output_tokens_per_s']:.1f} times fewer tokens/s than greedy"
    )
    variety = sorted((m["distinct_2grams"], name) for name, m in metrics.items())
    if variety[-1][0] - variety[0][0] > TIE:
        said.append(
            "distinct 2-grams went from {:.2f} (“{}”) to {:.2f} (“{}”)".format(
                *variety[0], *variety[-1]
            )
        )
    else:
        said.append(f"the share of distinct 2-grams differs by no more than {TIE:g}")
    return "; ".join(said) + "."


def distinct_ngrams(outputs: list[list[int]], n: int) -> float:
    """Different n-grams of tokens over all n-grams, of all outputs together: 1 when none comes twice. 0 without any."""
    grams = [tuple(ids[i : i + n]) for ids in outputs for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def same(first: Generated, second: Generated) -> str:
    """ "8 of 8 outputs equal" """
    equal = sum(a == b for a, b in zip(first.token_ids, second.token_ids, strict=True))
    return f"{equal} of {len(first.token_ids)} outputs equal"


def side_by_side(runs: list[Generated], questions: list[str], prompts: int = 2) -> None:
    """Show what each setting wrote for the first few prompts."""
    rows, plain = "", []
    for i in range(min(prompts, len(questions))):
        rows += f'<tr style="background:{card.PAPER}"><td colspan="2" style="padding:6px 8px 2px"><b>{html.escape(questions[i])}</b></td></tr>'
        plain.append(questions[i])
        for run in runs:
            text = run.texts[i] or "(nothing)"
            rows += (
                f'<tr style="background:{card.PAPER};vertical-align:top"><td style="padding:1px 8px;white-space:nowrap;text-align:left">{html.escape(run.name)}</td>'
                f'<td style="padding:1px 8px;text-align:left">{html.escape(text)}</td></tr>'
            )
            plain.append(f"  {run.name}: {text}")
    table = f'<div style="{card.CARD}"><table style="border-collapse:collapse;color:{card.INK};font-size:13px">{rows}</table></div>'
    card.show(card.Static(table, "\n".join(plain)))


def try_it(engine: Engine, question: str = "What is the KV cache?") -> None:
    """A form to try settings by hand; without a widget front end, one line that says so."""
    if not card.has_widgets():
        card.show(card.Static(
            f'<div style="{card.CARD}">Open this notebook in JupyterLab to try settings in a form here.</div>',
            "Open this notebook in JupyterLab to try settings in a form here.",
        ))  # fmt: skip
        return
    import ipywidgets as w
    from IPython.display import display

    wide = w.Layout(width="480px", max_width="98%")
    style = {"description_width": "110px"}
    text = w.Text(value=question, description="question", layout=wide, style=style)
    temperature = w.FloatSlider(
        value=0.9, min=0, max=2, step=0.1, description="temperature", layout=wide, style=style
    )
    top_p = w.FloatSlider(
        value=0.95, min=0.05, max=1, step=0.05, description="top_p", layout=wide, style=style
    )
    top_k = w.IntSlider(
        value=50, min=0, max=200, description="top_k (0: off)", layout=wide, style=style
    )
    beams = w.IntSlider(value=1, min=1, max=8, description="beam width", layout=wide, style=style)
    seed = w.Text(
        value="",
        placeholder="empty: another one each time",
        description="seed",
        layout=wide,
        style=style,
    )
    button, out = w.Button(description="Generate", button_style="primary"), w.Output()

    def answer(_) -> None:
        out.clear_output(wait=True)
        with out:
            try:
                run = _answer(
                    engine,
                    text.value,
                    temperature.value,
                    top_p.value,
                    top_k.value,
                    beams.value,
                    seed.value,
                )
                numbers = run.metrics
                print(run.texts[0])
                print(
                    f"{run.output_tokens} tokens in {run.seconds:.2f} s, mean log-probability {numbers['mean_logprob']:.2f}"
                )
            except Exception as error:  # shown in the form: nobody else would see it
                print(error)

    button.on_click(answer)
    display(w.VBox([text, temperature, top_p, top_k, beams, seed, button, out]))


def _answer(engine, question, temperature, top_p, top_k, beams, seed) -> Generated:
    from helpers.workloads import chat

    prompt = chat(engine.tokenizer, [{"role": "user", "content": question}], 1).prompt_token_ids
    if beams > 1:
        return beam_search(engine, [prompt], "beam", beams)
    given = {"seed": int(seed)} if seed.strip().isdigit() else {}
    return generate(
        engine, [prompt], "form", temperature=temperature, top_p=top_p, top_k=top_k, **given
    )
