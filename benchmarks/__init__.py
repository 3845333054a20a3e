"""The speed and accuracy claims of the README, each a module that measures and records it."""
