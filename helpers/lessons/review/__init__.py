"""Notebook 1: what it says of its numbers, and its figures."""
