"""Networks and the distributions of actions they give.

No losses, no optimizers, nothing that plays.
"""
