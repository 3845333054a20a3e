"""Numbers about texts, and what the form leaves where there is no front end."""

import pytest

from helpers.lessons.advanced_features import sampling
from helpers.lessons.advanced_features.sampling import Generated


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


def test_first_use_is_not_timed_and_the_faster_run_counts(monkeypatch):
    used = []
    seconds = iter([30.0, 9.0, 2.0, 30.0, 1.0, 4.0])  # greedy: warm-up and two runs; then top_k

    def generate(engine, prompts, name, max_tokens=48, **params):
        used.append(name)
        return made([[1]], name, seconds=next(seconds))

    monkeypatch.setattr(sampling, "generate", generate)

    def beam_search(engine, prompts, beam_width, max_tokens=48):
        used.append(f"{beam_width} beams")
        return made([[1]], "beams")

    monkeypatch.setattr(sampling, "beam_search", beam_search)
    settings = {"greedy": {"temperature": 0}, "top_k": {"top_k": 5}}
    runs = sampling.try_all(None, [[1]], settings, beam_width=4)
    sampled = ["warm-up", "greedy", "greedy", "warm-up", "top_k", "top_k"]
    assert used == [*sampled, "4 beams", "4 beams"]
    assert [run.seconds for run in runs[:2]] == [2.0, 1.0] and runs[2].name == "beams"


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
