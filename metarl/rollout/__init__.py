"""Rollouts: `run_trial` is the only code that steps environments with an agent.

The experience is collected here; nothing here learns or evaluates.
"""
