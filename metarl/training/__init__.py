"""A run from its config to its last checkpoint: iterations, folder and log.

Algorithms live in `agents`; `evaluation` measures their results.
"""
