"""The commands: `make run`, a class, JupyterLab, and the check of this machine."""
