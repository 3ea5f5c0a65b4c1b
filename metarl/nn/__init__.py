"""Networks, and the action distributions that they output.

No losses, no optimizers, no rollouts.
"""
