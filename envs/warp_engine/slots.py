"""Arrays of an environment with one row per slot, on the device that steps it.

Warp's kernels, numba's compiled code and torch share their memory; nothing is copied.
"""

# pyright: reportMissingImports=false
# Warp is not in the environment of the type checker.

from __future__ import annotations

from typing import Any

import warp as wp


def compiled_view(array: wp.array) -> Any:
    """The array as numba's compiled code takes it: a NumPy array, or a CUDA array."""
    if not array.device.is_cuda:
        return array.numpy()
    from numba import cuda

    return cuda.as_cuda_array(array)


def flat_view(array: wp.array) -> wp.array:
    """View of an array of vectors or matrices as float32, with one row per row."""
    rows = array.shape[0]
    size = array.capacity // (4 * rows) if rows else 0
    view = wp.array(
        ptr=array.ptr, dtype=wp.float32, shape=(rows, size), device=array.device, copy=False
    )
    view._source = array  # it owns the memory
    return view


class SlotTable:
    """Actions, observations and episode state of each slot.

    Attributes:
        actions: (N, A) float32.
        obs: (N, O) float64, the observation to act on next; after an episode's end, of the next.
        final_obs: (N, O) float64, the true next observation.
        outcome: (N, K) float64, scalars of the step; the first is the reward.
        elapsed: (N,) int32, steps taken in the episode.
        episode_end: (N,) bool.
        unstable_at: (N,) int32, the step of the episode at which the physics broke down, or 0.
        bad_action_at: (N,) int32, the step at which the action was not finite, or 0.
        resting: (N,) bool; a resting slot keeps its last observation, with an outcome of zeros,
            until its episode ends.
        seeds, drawn: (N,) uint32 seed of a slot's random stream, and int32 number of draws from it.
    """

    def __init__(
        self,
        num_slots: int,
        *,
        action_size: int,
        obs_size: int,
        outcome_size: int,
        device: wp.Device,
    ) -> None:
        def zeros(*shape: int, dtype: Any) -> wp.array:
            return wp.zeros(shape, dtype=dtype, device=device)

        self.device = device
        self.actions = zeros(num_slots, action_size, dtype=wp.float32)
        self.obs = zeros(num_slots, obs_size, dtype=wp.float64)
        self.final_obs = zeros(num_slots, obs_size, dtype=wp.float64)
        self.outcome = zeros(num_slots, outcome_size, dtype=wp.float64)
        self.elapsed = zeros(num_slots, dtype=wp.int32)
        self.episode_end = zeros(num_slots, dtype=wp.bool)
        self.unstable_at = zeros(num_slots, dtype=wp.int32)
        self.bad_action_at = zeros(num_slots, dtype=wp.int32)
        self.resting = zeros(num_slots, dtype=wp.bool)
        self.seeds = zeros(num_slots, dtype=wp.uint32)
        self.drawn = zeros(num_slots, dtype=wp.int32)
