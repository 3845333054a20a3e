"""Read glossary.json, ask its terms in words, and render it as GLOSSARY.md."""

import json
import re
from pathlib import Path

GLOSSARY: Path = Path(__file__).resolve().parent / "glossary.json"
MARKDOWN: Path = GLOSSARY.with_name("GLOSSARY.md")

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


def anchor(term: str) -> str:
    """The id of the term in GLOSSARY.md: as GitHub forms it, and written there for JupyterLab."""
    return re.sub(r"[^\w\- ]", "", term.lower()).replace(" ", "-")


def to_markdown(entries: list[dict]) -> str:
    """GLOSSARY.md: an index by category, then all terms from A to Z."""
    lines = [
        "# Glossary of LLM inference",
        "",
        f"{len(entries)} terms, as the model in this folder learned them. "
        "Written by `python -m helpers.tiny_model.train --glossary` from glossary.json: "
        "edit that file, not this one.",
        "",
    ]
    by_category: dict[str, list[dict]] = {}
    for entry in entries:
        by_category.setdefault(entry["category"], []).append(entry)
    for category in sorted(by_category):
        links = " · ".join(f"[{e['term']}](#{anchor(e['term'])})" for e in by_category[category])
        lines += [f"**{category}:** {links}", ""]
    for entry in entries:
        lines += [f'### <a id="{anchor(entry["term"])}"></a>{entry["term"]}', ""]
        lines += [entry["answer"], ""]
        lines += [f"Also: {', '.join(entry['aliases'])}.", ""]
    return "\n".join(lines)


def _find(name: str) -> dict:
    wanted = name.casefold()
    for entry in load_glossary():
        if wanted in (n.casefold() for n in (entry["term"], *entry["aliases"])):
            return entry
    raise KeyError(f"{name!r} is not in the glossary ({GLOSSARY})")
