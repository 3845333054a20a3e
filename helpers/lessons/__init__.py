"""The lessons: exercises and models that several notebooks share, and a folder named like each one.

A lesson's words, experiments and pictures lie here; nothing in the core imports them.
"""
