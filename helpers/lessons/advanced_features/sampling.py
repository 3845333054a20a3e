"""Generate with different sampling settings, and describe the outputs in numbers.

Beam search left SamplingParams: `LLM.beam_search` with BeamSearchParams runs it on top of the
engine, one step at a time (vllm/entrypoints/generate/beam_search/offline.py).
"""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass, field, replace

from helpers import workloads
from helpers.display import card
from helpers.engine.engine import Engine
from helpers.engine.profile import Profile
from helpers.tiny_model import stories
from helpers.workloads import Workload, chat

BEAMS = "beam search"


@dataclass(frozen=True)
class Generated:
    """Outputs of one setting: for each prompt a text, its token ids and a mean log-probability.

    logprobs: the mean over a text's tokens, under the model's own distribution (temperature 1).
    heroes: of the stories that were asked for; empty when something else was asked.
    """

    name: str
    texts: list[str]
    token_ids: list[list[int]]
    logprobs: list[float]
    seconds: float
    heroes: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, float]:
        """What a record keeps of it."""
        tokens = sum(len(ids) for ids in self.token_ids)
        known = {
            "output_tokens_per_s": tokens / self.seconds,
            "mean_logprob": sum(self.logprobs) / len(self.logprobs),
            "distinct_2grams": distinct_ngrams(self.token_ids, 2),
            "output_tokens": tokens,
        }
        return known | (story_scores(self.texts, self.heroes) if self.heroes else {})


def prompts_for(pair: Profile, tokenizer, n: int, seed: int) -> Workload:
    """What to ask: `n` stories of the model that ships, which learned many; else n questions.

    details: asked and, with stories, heroes, one for each request.
    """
    if pair.weights != "shipped":
        return workloads.questions(tokenizer, n, seed)
    rng = random.Random(seed)
    heroes = rng.sample(stories.HEROES, min(n, len(stories.HEROES)))
    asked = [rng.choice(stories.QUESTIONS).format(a=stories.with_article(hero)) for hero in heroes]
    requests = tuple(
        chat(tokenizer, [{"role": "user", "content": question}], 56) for question in asked
    )
    about = f"{len(heroes)} stories, each about another hero"
    return Workload("stories", requests, seed, about, {"asked": asked, "heroes": heroes})


def story_scores(texts: list[str], heroes: list[str]) -> dict[str, float]:
    """Of one story for each hero, by the grammar they were drawn from.

    faultless: how many have no fault. mean_chance: of a story under the grammar (0 for a faulty
    one). distinct_stories: how many different ones there are when the hero's name is left out.
    """
    pairs = list(zip(texts, heroes, strict=True))
    return {
        "stories": len(pairs),
        "faultless": sum(not stories.faults(text, hero) for text, hero in pairs),
        "mean_chance": statistics.fmean(
            0.0 if stories.faults(text, hero) else stories.chance_of(text) for text, hero in pairs
        ),
        "distinct_stories": len({text.replace(hero, "hero") for text, hero in pairs}),
    }


def generate(
    engine: Engine, prompts: list[list[int]], name: str, max_tokens: int = 48, **sampling
) -> Generated:
    """Generate for all prompts together with vLLM's SamplingParams by name.

    seed: of the first prompt; each further one has the next. With the same seed all would draw the
    same luck.
    """
    from vllm import SamplingParams

    # logprobs=0: of the chosen tokens alone
    params = [SamplingParams(max_tokens=max_tokens, logprobs=0, **sampling) for _ in prompts]
    if (seed := sampling.get("seed")) is not None:
        for i, one in enumerate(params):
            one.seed = seed + i
    inputs = [{"prompt_token_ids": ids} for ids in prompts]
    start = time.perf_counter()
    outputs = engine.llm.generate(inputs, params, use_tqdm=False)
    seconds = time.perf_counter() - start
    done = [output.outputs[0] for output in outputs]
    texts = [one.text.strip() for one in done]
    ids = [list(one.token_ids) for one in done]
    scores = [one.cumulative_logprob / max(1, len(one.token_ids)) for one in done]
    return Generated(name, texts, ids, scores, seconds)


def best_beams(tokenizer, prompts: list[list[int]], outputs: list, seconds: float) -> Generated:
    """The best beam of each prompt, of what `LLM.beam_search` returned after so many seconds."""
    beams = len(outputs[0].sequences)
    best = [output.sequences[0] for output in outputs]
    # A beam's tokens begin with the prompt.
    ids = [list(beam.tokens[len(prompt) :]) for beam, prompt in zip(best, prompts, strict=True)]
    texts = [tokenizer.decode(one, skip_special_tokens=True).strip() for one in ids]
    scores = [beam.cum_logprob / max(1, len(one)) for beam, one in zip(best, ids, strict=True)]
    return Generated(f"{BEAMS}, {beams} beams", texts, ids, scores, seconds)


def told(asked: Workload, runs: list[Generated]) -> list[Generated]:
    """The runs, with the heroes of the stories that were asked for; see `prompts_for`."""
    return [replace(run, heroes=asked.details.get("heroes", [])) for run in runs]


def distinct_ngrams(outputs: list[list[int]], n: int) -> float:
    """Different n-grams of tokens over all n-grams, of all outputs together.

    1 when none comes twice; 0 without any.
    """
    grams = [tuple(ids[i : i + n]) for ids in outputs for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def equal_outputs(first: Generated, second: Generated) -> int:
    """How many outputs of the two are the same, token by token."""
    return sum(a == b for a, b in zip(first.token_ids, second.token_ids, strict=True))


def rows_of(runs: list[Generated]) -> list[dict]:
    """For the figure: a row a strategy, its name short."""
    names = [run.name.removeprefix("sampling, ").replace(", top_k", ",\ntop_k") for run in runs]
    return [{"strategy": name, **run.metrics} for name, run in zip(names, runs, strict=True)]


def side_by_side(runs: list[Generated], questions: list[str], prompts: int = 2) -> None:
    """Show what each setting wrote for the first few prompts, a table for each."""
    for i, question in enumerate(questions[:prompts]):
        rows = [{"strategy": run.name, "answer": run.texts[i] or "(nothing)"} for run in runs]
        card.show(card.table(rows, question))
