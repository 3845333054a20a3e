"""Notebook 2: speculation, sampling, services; what it says of them (wording) and draws (plots)."""
