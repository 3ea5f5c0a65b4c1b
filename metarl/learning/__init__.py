"""The mathematics of learning that several algorithms share: advantages, gradients, losses.

Pure functions of tensors; nothing here plays an environment or names an algorithm.
"""
