"""Locomotion tasks on Gymnasium's MuJoCo robots, stepped by the native engine."""

from envs.locomotion.distributions import Locomotion, LocomotionConfig
from envs.locomotion.variants import VARIANTS, LocomotionTask

__all__ = ["VARIANTS", "Locomotion", "LocomotionConfig", "LocomotionTask"]
