"""A run from its config to its last checkpoint: the iteration, the folder, the log.

Algorithms live in `agents`; how well they do is judged in `evaluation`.
"""
