"""Orca: how many steps a batch needs, in waves and with places that are filled at every step.

Paper: Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models",
OSDI 2022. All requests are there at the start; a step makes one token for each that has a place.
"""

from heapq import heapify, heapreplace


def steps_in_waves(answers: list[int], places: int) -> int:
    """Steps when the next `places` requests start after the longest answer of those before."""
    waves = [answers[i : i + places] for i in range(0, len(answers), places)]
    return sum(max(wave) for wave in waves)


def steps_continuously(answers: list[int], places: int) -> int:
    """Steps when a place goes to the next request as soon as it is free."""
    free_at = [0] * places  # the step at which each place is free
    heapify(free_at)
    for answer in answers:
        heapreplace(free_at, free_at[0] + answer)
    return max(free_at)


def wave_slots_used(answers: list[int], places: int) -> float:
    """Fraction of the places that still generate, over all steps of the waves."""
    return sum(answers) / (places * steps_in_waves(answers, places))
