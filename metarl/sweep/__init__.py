"""Sweeps: many runs of one config with other values, side by side, and what came of them.

`python -m metarl.sweep` is the command; `metarl.sweep.plan` says what lies in a sweep's folder.
"""
