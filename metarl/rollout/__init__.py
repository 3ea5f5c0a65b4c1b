"""Playing: `run_trial` is the only code that steps environments with an agent.

What is seen while it plays is collected here; nothing here learns or judges.
"""
