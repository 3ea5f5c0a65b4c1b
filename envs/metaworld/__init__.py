"""Meta-World: the official benchmarks as task distributions, and the engines that step them."""

from envs.metaworld.benchmark import MetaWorld, MetaWorldConfig
from envs.metaworld.official import MetaWorldTask

__all__ = ["MetaWorld", "MetaWorldConfig", "MetaWorldTask"]
