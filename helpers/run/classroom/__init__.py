"""A class of submissions: taken in, run or read, and shown side by side; see command.py."""
