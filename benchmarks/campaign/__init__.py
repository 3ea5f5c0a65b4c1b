"""Campaigns of attacks on the command lines: kills, signals, damage, hostile input, full disks.

Every attack follows from (seed, campaign, number) and ends in a verdict. What is attacked is what a
user has: `train.py`, `evaluate.py`, their files and their exit codes.
"""
