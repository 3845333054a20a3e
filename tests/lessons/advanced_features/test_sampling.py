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


def test_a_tie_is_called_a_tie():
    likely, unlikely = {"logprobs": [-0.0009]}, {"logprobs": [-0.48]}
    runs = [
        made([[1, 2, 3]], "greedy", **likely),
        made([[1, 2, 3]], "hot", **unlikely),
        made([[1, 2, 3]], "beams", seconds=12.0, **likely),
    ]
    said = sampling.reading(runs)
    assert "from “greedy” and from “beams”, equally likely" in said and "6.0 times fewer" in said
    assert "differs by no more than 0.01" in said
    assert sampling.reading([runs[0], runs[2]]).startswith("All texts are equally likely")
    varied = sampling.reading(
        [made([[1, 1, 1]], "greedy", **likely), made([[1, 2, 3]], "hot", **unlikely)]
    )
    assert (
        varied.startswith("The likeliest texts came from “greedy”;")
        and "went from 0.50 (“greedy”) to 1.00 (“hot”)" in varied
    )


def test_first_use_is_not_timed_and_the_faster_run_counts(monkeypatch):
    used, seconds = (
        [],
        iter([30.0, 9.0, 2.0, 30.0, 1.0, 4.0]),
    )  # greedy: warm-up and two runs; then top_k

    def generate(engine, prompts, name, max_tokens=48, **params):
        used.append(name)
        return made([[1]], name, seconds=next(seconds))

    monkeypatch.setattr(sampling, "generate", generate)
    monkeypatch.setattr(
        sampling,
        "beam_search",
        lambda engine, prompts, name, width, max_tokens=48: used.append(name) or made([[1]], name),
    )
    runs = sampling.compare(None, [[1]], {"greedy": {"temperature": 0}, "top_k": {"top_k": 5}})
    assert used == [
        "warm-up",
        "greedy",
        "greedy",
        "warm-up",
        "top_k",
        "top_k",
        "warm-up",
        "beam search, 4 beams",
    ]
    assert [run.seconds for run in runs[:2]] == [2.0, 1.0] and runs[
        2
    ].name == "beam search, 4 beams"


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
