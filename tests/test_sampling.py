"""Numbers about texts, and what the form leaves where there is no front end."""

import pytest

from helpers import sampling
from helpers.sampling import Generated


def made(ids, name="x", texts=None, seconds=2.0, logprobs=None):
    return Generated(name, texts or ["t"] * len(ids), ids, logprobs or [-1.0] * len(ids), seconds)


def test_distinct_ngrams():
    assert sampling.distinct_ngrams([[1, 2, 3]], 2) == 1.0
    assert sampling.distinct_ngrams([[1, 2, 1, 2]], 2) == pytest.approx(2 / 3)
    assert sampling.distinct_ngrams([[1, 2], [1, 2]], 2) == 0.5, "repeats between outputs count too"
    assert sampling.distinct_ngrams([[1], []], 2) == 0.0


def test_metrics():
    run = made([[1, 2, 3], [4]], logprobs=[-0.5, -1.5])
    assert run.metrics == {"output_tokens_per_s": 2.0, "mean_logprob": -1.0, "distinct_2grams": 1.0, "output_tokens": 4}


def test_same_counts_outputs():
    assert sampling.same(made([[1], [2]]), made([[1], [3]])) == "1 of 2 outputs equal"


def test_texts_side_by_side_are_escaped_and_shown_for_each_setting(capsys):
    runs = [made([[1]], "greedy", ["a <b> c"]), made([[1]], "beam", [""])]
    sampling.side_by_side(runs, ["What is 1 < 2?"])
    out = capsys.readouterr().out
    assert "What is 1 < 2?" in out and "greedy: a <b> c" in out and "beam: (nothing)" in out


def test_the_form_says_where_it_works(capsys, monkeypatch):
    monkeypatch.setenv("WORKBOOK_WIDGETS", "0")
    sampling.try_it(engine=None)
    assert "JupyterLab" in capsys.readouterr().out
