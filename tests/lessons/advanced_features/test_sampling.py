"""Numbers about texts, and what the form leaves where there is no front end."""

from types import SimpleNamespace

import pytest

from helpers.lessons.advanced_features import sampling
from helpers.lessons.advanced_features.sampling import Generated
from helpers.workloads import Request, Workload


def made(ids, name="x", texts=None, seconds=2.0, logprobs=None):
    return Generated(name, texts or ["t"] * len(ids), ids, logprobs or [-1.0] * len(ids), seconds)


def test_distinct_ngrams():
    assert sampling.distinct_ngrams([[1, 2, 3]], 2) == 1.0
    assert sampling.distinct_ngrams([[1, 2, 1, 2]], 2) == pytest.approx(2 / 3)
    assert sampling.distinct_ngrams([[1, 2], [1, 2]], 2) == 0.5, "repeats between outputs count too"
    assert sampling.distinct_ngrams([[1], []], 2) == 0.0


def test_metrics():
    run = made([[1, 2, 3], [4]], logprobs=[-0.5, -1.5])
    assert run.metrics == {
        "output_tokens_per_s": 2.0,
        "mean_logprob": -1.0,
        "distinct_2grams": 1.0,
        "output_tokens": 4,
    }


def test_the_best_beam_of_each_prompt_counts_without_its_prompt():
    def beam(tokens, logprob):
        return SimpleNamespace(tokens=tokens, cum_logprob=logprob)

    outputs = [SimpleNamespace(sequences=[beam([7, 8, 1, 2], -1.0), beam([7, 8, 3], -3.0)])]
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: f" {ids} ")
    run = sampling.best_beams(tokenizer, [[7, 8]], outputs, seconds=2.0)
    assert run == Generated("beam search, 2 beams", ["[1, 2]"], [[1, 2]], [-0.5], 2.0)
    asked = Workload("w", (Request([1], 80),), 0, details={"heroes": ["fox"]})
    assert sampling.told(asked, [run])[0].heroes == ["fox"]


def test_stories_are_scored_by_their_grammar():
    def of(hero, deed="lit it"):
        return (
            f"There was a wise {hero} who lived on a hill. One morning the {hero} found a lamp "
            f"and {deed}. Nobody was afraid any more."
        )

    texts = [of("fox"), of("owl"), of("cat", "polished it"), of("king", "sailed away"), "What?"]
    scores = sampling.story_scores(texts, ["fox", "owl", "cat", "king", "robot"])
    assert scores["stories"] == 5 and scores["faultless"] == 3
    assert scores["distinct_stories"] == 4, "a fox and an owl in the same story"
    likely = 0.40 * 0.12 * 0.5 * 0.30 * 0.8 * 0.35
    assert scores["mean_chance"] == pytest.approx((2 * likely + likely / 4) / 5)


def test_stories_are_asked_of_the_model_that_knows_them():
    class Tokenizer:
        def apply_chat_template(self, messages, **_):
            return [1, 2]

    shipped, other = SimpleNamespace(weights="shipped"), SimpleNamespace(weights="trained")
    asked = sampling.prompts_for(shipped, Tokenizer(), 5, seed=1)
    assert len(set(asked.details["heroes"])) == len(asked) == 5
    told = zip(asked.details["asked"], asked.details["heroes"], strict=True)
    assert all(hero in question for question, hero in told)
    assert "heroes" not in sampling.prompts_for(other, Tokenizer(), 5, seed=1).details


def test_same_counts_outputs():
    assert sampling.equal_outputs(made([[1], [2]]), made([[1], [3]])) == 1


def test_texts_stand_side_by_side_for_each_setting(capsys):
    runs = [made([[1]], "greedy", ["a <b> c"]), made([[1]], "beam", [""])]
    sampling.side_by_side(runs, ["What is 1 < 2?"])
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "What is 1 < 2?" in out and "greedy a <b> c" in lines and "beam (nothing)" in lines
