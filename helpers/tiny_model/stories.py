"""The model's second skill: very short stories, with many right answers to one question.

A glossary question has one answer, so every way of choosing tokens gives the same text. A story is
drawn from the small grammar below, with these chances, and the model learned the chances: greedy
decoding, temperature, top_p and beams then write visibly different texts, and `faults` says of
each text whether it is a story of the grammar.

Two choices are made so that a lesson can be seen. The likeliest hero ("a wise ...") lives in any of
many places, the second likeliest ("a small ...") nearly always in the same: the likeliest whole
story is one that greedy decoding does not find and beam search does. And what a hero does
depends on what it found: a text can have the right form and still make no sense.
"""

from __future__ import annotations

import random
import re

QUESTIONS = (
    "Tell me a story about {a}.",
    "Write a short story about {a}.",
    "Make up a story about {a}, please.",
    "I would like a story about {a}.",
)
HEROES = (
    "robot", "fox", "sailor", "baker", "dragon", "clock", "owl", "gardener", "king", "cat",
    "painter", "giant",
)  # fmt: skip

# word: (chance of it, {what is said next: its chance})
_MANY_PLACES = {
    "in a tower": 0.14, "by the sea": 0.14, "in a quiet town": 0.13, "under a bridge": 0.12,
    "on a hill": 0.12, "in a garden": 0.12, "at the end of a road": 0.12, "in a deep wood": 0.11,
}  # fmt: skip
_FEW_PLACES = {"by the sea": 0.9, "in a garden": 0.1}
KINDS = {
    "a wise": (0.40, _MANY_PLACES),
    "a small": (0.35, _FEW_PLACES),
    "a lonely": (0.15, _MANY_PLACES),
    "a proud": (0.10, _MANY_PLACES),
}
TIMES = {"One morning": 0.5, "One night": 0.3, "One winter": 0.2}
# What is found: (its chance, what one can do with it)
THINGS = {
    "a lamp": (0.30, {"lit it": 0.8, "polished it": 0.2}),
    "a letter": (0.25, {"read it aloud": 0.7, "answered it": 0.3}),
    "a boat": (0.20, {"sailed away": 0.9, "painted it": 0.1}),
    "a seed": (0.15, {"planted it": 1.0}),
    "a drum": (0.10, {"played until dawn": 0.6, "gave it away": 0.4}),
}
ENDINGS = {
    "Nobody was afraid any more.": 0.35,
    "The neighbours still talk about it.": 0.25,
    "After that the days were longer.": 0.2,
    "It was the start of a long friendship.": 0.2,
}


def with_article(hero: str) -> str:
    """The hero as a question names it: "an owl"."""
    return f"{'an' if hero[0] in 'aeiou' else 'a'} {hero}"


def story_of(hero: str, rng: random.Random) -> str:
    """One story about `hero`, three sentences, drawn by the grammar's chances."""
    kind = _draw({name: chance for name, (chance, _) in KINDS.items()}, rng)
    place = _draw(KINDS[kind][1], rng)
    thing = _draw({name: chance for name, (chance, _) in THINGS.items()}, rng)
    deed = _draw(THINGS[thing][1], rng)
    return (
        f"There was {kind} {hero} who lived {place}. "
        f"{_draw(TIMES, rng)} the {hero} found {thing} and {deed}. {_draw(ENDINGS, rng)}"
    )


_FORM = re.compile(
    r"There was (a \w+) (\w+) who lived ([\w ]+)\. "
    r"(One \w+) the (\w+) found (a \w+) and ([\w ]+)\. (.+)"
)


def faults(text: str, hero: str) -> list[str]:
    """What is wrong with a story about `hero`, in a few words each; an empty list when nothing is.

    "no story" (not the form of three sentences), "another hero", "words" (some that no story has),
    "sense" (the deed does not fit the thing, or the place the hero).
    """
    found = _FORM.fullmatch(text.strip())
    if not found:
        return ["no story"]
    kind, first, place, when, second, thing, deed, ending = found.groups()
    said = []
    if first != hero or second != hero:
        said.append("another hero")
    deeds = {deed for _, known in THINGS.values() for deed in known}
    known = kind in KINDS and place in _MANY_PLACES and thing in THINGS and deed in deeds
    if not known or when not in TIMES or ending not in ENDINGS:
        said.append("words")
    elif place not in KINDS[kind][1] or deed not in THINGS[thing][1]:
        said.append("sense")
    return said


def chance_of(text: str) -> float:
    """The chance of a story under the grammar (0 for a text that is none), for any hero."""
    found = _FORM.fullmatch(text.strip())
    if not found or faults(text, found.group(2)):
        return 0.0
    kind, _, place, when, _, thing, deed, ending = found.groups()
    first, places = KINDS[kind]
    taken, deeds = THINGS[thing]
    return first * places[place] * TIMES[when] * taken * deeds[deed] * ENDINGS[ending]


def _draw(chances: dict[str, float], rng: random.Random) -> str:
    return rng.choices(list(chances), weights=list(chances.values()))[0]
