"""Read glossary.json and ask its terms in words."""

import json
from pathlib import Path

GLOSSARY: Path = Path(__file__).resolve().parent / "glossary.json"

# {a} is the term with its article ("the KV cache"), {n} one of its names ("kv-cache").
_BY_TERM = (
    "What is {a}?",
    "Explain {a}.",
    "Tell me about {a}.",
    "Can you explain what {a} is?",
    "In short, what is {a}?",
    "I keep reading about {a}. What is it?",
    "How would you explain {a} to a student?",
    "Please describe {a}.",
    "Help me understand {a}.",
    "What should I know about {a}?",
)
_BY_NAME = (
    "What does {n} mean?",
    "Define {n}.",
    "What is meant by {n}?",
    "Explain the term {n}.",
    "What is {n}?",
    "Give me a short definition of {n}.",
)
# Used for no term in training: what these ask, the model must have understood.
_HELD_OUT_BY_TERM = "Could you remind me what {a} is?"
_HELD_OUT_BY_NAME = "What do engineers mean when they say {n}?"


def load_glossary() -> list[dict]:
    """All entries, sorted by term: dicts with term, article, aliases, category and answer."""
    return json.loads(GLOSSARY.read_text(encoding="utf-8"))


def phrasings(term: str | dict) -> tuple[list[str], list[str]]:
    """The questions about a term: (10 to 13 used in training, 2 held out).

    Takes an entry, a term or an alias; KeyError if the glossary has no such name.
    """
    entry = term if isinstance(term, dict) else _find(term)
    with_article = f"{entry['article']} {entry['term']}".strip()
    names = [entry["term"], *entry["aliases"]]
    # A fixed rotation by the term's letters: every template meets many terms, and the
    # choice doesn't change when other terms are added.
    turn = sum(map(ord, entry["term"]))
    trained = [_BY_TERM[0].format(a=with_article)]
    others = _BY_TERM[1:]
    trained += [others[(turn + i) % len(others)].format(a=with_article) for i in range(4)]
    per_name = 2 if len(names) > 2 else 3
    for j, name in enumerate(names):
        trained += [
            _BY_NAME[(turn + j + 2 * i) % len(_BY_NAME)].format(n=name) for i in range(per_name)
        ]
    alias = entry["aliases"][turn % len(entry["aliases"])]
    held_out = [_HELD_OUT_BY_TERM.format(a=with_article), _HELD_OUT_BY_NAME.format(n=alias)]
    return list(dict.fromkeys(trained)), held_out


def _find(name: str) -> dict:
    wanted = name.casefold()
    for entry in load_glossary():
        if wanted in (n.casefold() for n in (entry["term"], *entry["aliases"])):
            return entry
    raise KeyError(f"{name!r} is not in the glossary ({GLOSSARY})")
