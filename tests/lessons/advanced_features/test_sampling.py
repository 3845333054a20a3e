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


def test_first_use_is_not_timed(monkeypatch):
    used = []
    seconds = iter([30.0, 2.0, 30.0, 4.0])

    def generate(engine, prompts, name, max_tokens=48, **params):
        used.append(name)
        return made([[1]], name, seconds=next(seconds))

    monkeypatch.setattr(sampling, "generate", generate)

    def beam_search(engine, prompts, beam_width, max_tokens=48):
        used.append(f"{beam_width} beams")
        return made([[1]], "beams")

    monkeypatch.setattr(sampling, "beam_search", beam_search)
    settings = {"greedy": {"temperature": 0}, "top_k": {"top_k": 5}}
    asked = Workload("w", (Request([1], 80),), 0, details={"heroes": ["fox"]})
    runs = sampling.try_all(None, asked, settings, beam_width=4)
    assert used == ["warm-up", "greedy", "warm-up", "top_k", "4 beams", "4 beams"]
    assert [run.seconds for run in runs[:2]] == [2.0, 4.0] and runs[2].name == "beams"
    assert all(run.heroes == ["fox"] for run in runs)


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


def test_the_form_says_where_it_works(capsys, monkeypatch):
    monkeypatch.setenv("WORKBOOK_WIDGETS", "0")
    sampling.try_it(engine=None, question="What is the KV cache?")
    assert "JupyterLab" in capsys.readouterr().out
