"""Notebook 3: the papers beside what is measured here, the self-check, vLLM's own arguments."""
