"""Notebook 5: its experiments, how much load to try, figures and sentences."""
