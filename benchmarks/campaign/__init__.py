"""Campaigns of attacks on the command lines: kills, signals, damage, hostile input, full disks.

Every attack is determined by (seed, campaign, number) and ends in a verdict. The targets are what a
user sees: `train.py`, `evaluate.py`, their files and their exit codes.
"""
