"""Code of one world between actions and physics, and between physics and observations.

A task's functions (`act`, `observe`) are those of the native engine. This module passes them their
rows of the arrays and applies the rules of episodes. The same code runs in a loop on the CPU and in
a kernel with one thread per world.

A world is a row of a scene; a slot is a row of the environment. A spare world has slot -1.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# Type checkers cannot see into numba's compiled functions.

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import numba

from envs.engine.compiled import inner, renamed

THREADS = 64  # per block; few, because a world's code is long and branches much


class WorldCode(NamedTuple):
    """The code of a scene's worlds.

    Attributes:
        name: unique among the scenes of a process; part of the compiled symbols.
        act: `act(action, constants, mocap_pos, ctrl)`, an `inner` function.
        observe: `observe(readings, constants, action, memory, obs, outcome)`, also `inner`.
        over: index of the outcome that puts a slot to rest when it is above 0; 0 for none.
    """

    name: str
    act: Callable
    observe: Callable
    over: int = 0


@inner
def _is_finite(numbers):
    for k in range(numbers.shape[0]):  # noqa: SIM110 - numba takes no generators
        if not math.isfinite(numbers[k]):
            return False
    return True


def act_in_world(code: WorldCode) -> Callable:
    """Compiled function that begins a step of a world. It ignores an action that is not finite."""
    act = code.act

    def act_in_world(
        world, slots, actions, constants, mocap_pos, ctrl,
        obs, final_obs, elapsed, unstable_at, bad_action_at, resting,
    ):  # fmt: skip
        slot = slots[world]
        if slot < 0:
            return
        if elapsed[slot] == 0:
            unstable_at[slot] = 0
            bad_action_at[slot] = 0
            resting[slot] = False
            for k in range(obs.shape[1]):
                final_obs[slot, k] = obs[slot, k]
        elapsed[slot] += 1
        if _is_finite(actions[slot]):
            act(actions[slot], constants[world], mocap_pos[world], ctrl[world])
        elif not resting[slot]:
            bad_action_at[slot] = elapsed[slot]
            resting[slot] = True

    return inner(renamed(inspect.unwrap(act_in_world), f"act_in_world_{code.name}"))


def observe_in_world(code: WorldCode) -> Callable:
    """Compiled function that ends a step of a world. It sets `broken` to have the state restored,
    and `starting` to begin a new episode."""
    observe, over = code.observe, code.over

    def observe_in_world(
        world, slots, readings, constants, actions, memory, stable, broken, starting,
        obs, final_obs, outcome, elapsed, unstable_at, resting, episode_end, horizon,
    ):  # fmt: skip
        slot = slots[world]
        broken[world] = not stable[world]
        starting[world] = False
        if slot < 0:
            return
        if not stable[world] and not resting[slot]:
            unstable_at[slot] = elapsed[slot]
            resting[slot] = True
        if resting[slot]:  # keep the last observation
            for k in range(outcome.shape[1]):
                outcome[slot, k] = 0.0
        else:
            observe(
                readings[world], constants[world], actions[slot], memory[world],
                final_obs[slot], outcome[slot],
            )  # fmt: skip
            if over > 0 and outcome[slot, over] > 0.0:
                resting[slot] = True  # from the next step on
        for k in range(obs.shape[1]):
            obs[slot, k] = final_obs[slot, k]
        episode_end[slot] = starting[world] = elapsed[slot] == horizon

    return inner(renamed(inspect.unwrap(observe_in_world), f"observe_in_world_{code.name}"))


def start_in_world(code: WorldCode, *, observed: bool) -> Callable:
    """Compiled function that starts an episode in the worlds marked in `starting`.

    Args:
        observed: True to observe the start, False to take the snapshot's observation.
    """
    observe = code.observe

    def start_in_world(
        world, slots, starting, readings, constants, actions, memory, start_memory, start_obs,
        start_outcome, obs, elapsed,
    ):  # fmt: skip
        slot = slots[world]
        if slot < 0 or not starting[world]:
            return
        for k in range(memory.shape[1]):
            memory[world, k] = start_memory[world, k]
        if observed:
            observe(
                readings[world], constants[world], actions[slot], memory[world],
                obs[slot], start_outcome[world],
            )  # fmt: skip
        else:
            for k in range(obs.shape[1]):
                obs[slot, k] = start_obs[world, k]
        elapsed[slot] = 0

    return inner(renamed(inspect.unwrap(start_in_world), f"start_in_world_{code.name}"))


class WorldFunctions(NamedTuple):
    """The three functions over all worlds of a scene, as loops or as kernels.

    The first argument is the number of worlds; the others are those of the functions above, without
    `world`. Configure a kernel with blocks, threads and a stream before calling it.
    """

    act: Callable
    observe: Callable
    start: Callable


def world_loops(code: WorldCode, *, observed: bool) -> WorldFunctions:
    """Loops over the worlds, for the CPU."""
    functions = (
        act_in_world(code), observe_in_world(code), start_in_world(code, observed=observed)
    )  # fmt: skip
    return WorldFunctions(*(_loop(function) for function in functions))


def _loop(function: Callable) -> Callable:
    """Compiled loop that calls a function for every world."""

    def loop(count, *arguments):
        for world in range(count):
            function(world, *arguments)

    return numba.njit(renamed(inspect.unwrap(loop), f"each_{function.__name__}"))


def world_kernels(code: WorldCode, *, observed: bool) -> WorldFunctions:
    """Kernels with one thread per world, as plain functions for numba's CUDA target."""
    from numba import cuda

    act_one, observe_one = act_in_world(code), observe_in_world(code)
    start_one = start_in_world(code, observed=observed)

    def act(
        count, slots, actions, constants, mocap_pos, ctrl,
        obs, final_obs, elapsed, unstable_at, bad_action_at, resting,
    ):  # fmt: skip
        world = cuda.grid(1)
        if world < count:
            act_one(
                world, slots, actions, constants, mocap_pos, ctrl,
                obs, final_obs, elapsed, unstable_at, bad_action_at, resting,
            )  # fmt: skip

    def observe(
        count, slots, readings, constants, actions, memory, stable, broken, starting,
        obs, final_obs, outcome, elapsed, unstable_at, resting, episode_end, horizon,
    ):  # fmt: skip
        world = cuda.grid(1)
        if world < count:
            observe_one(
                world, slots, readings, constants, actions, memory, stable, broken, starting,
                obs, final_obs, outcome, elapsed, unstable_at, resting, episode_end, horizon,
            )  # fmt: skip

    def start(
        count, slots, starting, readings, constants, actions, memory, start_memory, start_obs,
        start_outcome, obs, elapsed,
    ):  # fmt: skip
        world = cuda.grid(1)
        if world < count:
            start_one(
                world, slots, starting, readings, constants, actions, memory, start_memory,
                start_obs, start_outcome, obs, elapsed,
            )  # fmt: skip

    kernels = (
        renamed(inspect.unwrap(kernel), f"{kernel.__name__}_worlds_{code.name}")
        for kernel in (act, observe, start)
    )
    return WorldFunctions(*kernels)
