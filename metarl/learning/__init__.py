"""Mathematics that several algorithms share: advantages, gradients, losses.

Pure functions of tensors; nothing here steps an environment or knows an algorithm.
"""
