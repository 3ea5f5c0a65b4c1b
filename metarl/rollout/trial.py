"""Trials: the only code that steps environments with an agent, in training and in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from metarl.errors import NotFiniteError
from metarl.nn.distributions import action_size, execute, execute_on
from metarl.protocols import Agent, DeviceVectorEnv, TaskVectorEnv
from metarl.system import ranks, stopping
from metarl.system.finite import check_weights, is_finite
from metarl.tasks import Task, number_of
from metarl.types import Rollout, TimeStep, TrialShape

S = TypeVar("S")


def run_trial(
    agent: Agent[Any],
    env: TaskVectorEnv,
    tasks: Sequence[Task],
    *,
    shape: TrialShape,
    seed: int,
    generator: torch.Generator | None,
) -> list[Rollout]:
    """Plays one trial on each task: the agent starts unadapted and adapts during the trial.

    Args:
        agent: the agent to play with.
        env: a vector environment with `shape.slots_per_task` slots per task.
        tasks: one task for every `shape.slots_per_task` adjacent slots.
        shape: layout of the trial.
        seed: seed of the environments' random streams.
        generator: random stream of the actions; without one the agent takes the mode.

    Returns:
        The rollouts of the trial; the agent adapted after each but the last.

    Raises:
        NotFiniteError: an observation, a reward or an action's log-probability is NaN or infinite;
            names the task, slot and step.
    """
    parts = trial_in_parts(agent, env, tasks, shape=shape, seed=seed, generator=generator)
    return [rollout for part in parts for rollout in part]


def trial_in_parts(
    agent: Agent[Any],
    env: TaskVectorEnv,
    tasks: Sequence[Task],
    *,
    shape: TrialShape,
    seed: int,
    generator: torch.Generator | None,
    place: ranks.Share | None = None,
) -> Iterator[list[Rollout]]:
    """Plays one trial as `run_trial` does, in parts that the agent can learn from in between.

    A part is the whole trial, or the next `shape.rollout_steps` steps of it. Then the agent's state
    is carried on, as are the environments, and a rollout tells where it begins and goes on.

    With `place`, the tasks are those rows of the tasks of all ranks, and are played as a single
    process that has all would play them.
    """
    if place is not None:
        env.first_slot = place.start * shape.slots_per_task  # pyright: ignore
    of_slots = [task for task in tasks for _ in range(shape.slots_per_task)]
    env.set_tasks(of_slots)
    obs, _ = env.reset(seed=seed)
    state = agent.begin_trial(env.num_envs)
    step = first_step(obs, env.single_action_space, agent.device)
    num_steps = shape.episodes * env.horizon
    numbers = torch.tensor([number_of(task) for task in of_slots], device=agent.device)

    def play(num_steps: int, *, played: int = 0) -> Rollout:
        nonlocal state, step
        try:
            with ranks.taking(place, generator):
                rollout, state, step = collect(
                    agent, env, state, step, num_steps=num_steps, played=played, generator=generator
                )
        except SlotNotFiniteError as error:
            task, first = error.slot // shape.slots_per_task, place.start if place else 0
            raise NotFiniteError(
                error.said(first * shape.slots_per_task),
                task=first + task,
                env_name=tasks[task].env_name,
            ) from None
        return replace(rollout, task=numbers)

    if shape.rollout_steps is not None:
        for start in range(0, num_steps, shape.rollout_steps):
            before = state if start else None
            rollout = play(min(shape.rollout_steps, num_steps - start), played=start)
            goes_on = start + shape.rollout_steps < num_steps
            yield [replace(rollout, first_state=before, following=step if goes_on else None)]
        return
    rollouts: list[Rollout] = []
    for _ in range(shape.rollouts):
        if rollouts:
            state = agent.adapt(state, rollouts[-1])
        rollouts.append(play(num_steps))
    yield rollouts


class SlotNotFiniteError(NotFiniteError):
    """A NaN or an infinity in the observations, rewards or actions of a slot."""

    def __init__(self, what: str, *, slot: int, step: int) -> None:
        self.what, self.slot, self.step = what, slot, step
        super().__init__(self.said())

    def said(self, first_slot: int = 0) -> str:
        """What is not finite, and where; slots are counted from `first_slot`."""
        return f"{self.what} in step {self.step} of slot {first_slot + self.slot}"


def _check_rollout(rollout: Rollout) -> None:
    for name, values in (("reward", rollout.reward), ("observation", rollout.seen.obs)):
        for number, at_step in enumerate(values.unbind(1) if not is_finite(values) else ()):
            _check_step(name, at_step, step=number + 1)


def _check_step(name: str, values: Float[Tensor, "N ..."], *, step: int) -> None:
    if not is_finite(values):
        finite = values.isfinite().flatten(1).all(1) if values.ndim > 1 else values.isfinite()
        raise SlotNotFiniteError(name, slot=int((~finite).nonzero()[0]), step=step)


@torch.no_grad()
def collect(
    agent: Agent[S],
    env: TaskVectorEnv,
    state: S,
    step: TimeStep,
    *,
    num_steps: int,
    played: int = 0,
    generator: torch.Generator | None,
) -> tuple[Rollout, S, TimeStep]:
    """Plays `num_steps` steps in every slot, after `played` others since an episode's start.

    Returns:
        The rollout, and the agent's state and time step to continue from.

    Raises:
        NotFiniteError: an observation or a reward is NaN or infinite, or the log-probability of the
            agent's action is. The check comes before the agent sees the value; for an environment
            on a device it comes after all steps, because reading the values at every step would
            take longer than playing.
    """
    with one_torch_thread():
        return _collect(
            agent, env, state, step, num_steps=num_steps, played=played, generator=generator
        )


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Context in which torch uses one thread: the physics needs the other cores, and acting is too
    little work to split. Even for 1,000 slots an operation takes well under a millisecond; where
    other processes want the cores, threads would wait for each other longer than that."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _collect(
    agent: Agent[S],
    env: TaskVectorEnv,
    state: S,
    step: TimeStep,
    *,
    num_steps: int,
    played: int,
    generator: torch.Generator | None,
) -> tuple[Rollout, S, TimeStep]:
    seen, actions, log_probs = [], [], []
    rewards, episode_ends, successes = [], [], []
    final_obs = [torch.zeros(len(step.obs), 0, *step.obs.shape[1:], device=agent.device)]
    executed_as = _executor(env, agent.device)
    look = not isinstance(env, DeviceVectorEnv)
    if look:
        _check_step("observation", step.obs, step=1)
    for number in range(1, num_steps + 1):
        stopping.check()
        try:
            action, log_prob, state = agent.act(state, step, generator=generator)
            if look:
                _check_step("the agent's action", log_prob, step=number)
        except NotFiniteError:
            check_weights(agent)  # The weights are the more frequent cause, and the better message.
            raise
        executed, prev_action = executed_as(action)
        obs, reward, terminated, truncated, info = env.step(executed)
        episode_end = _tensor(terminated, agent.device) | _tensor(truncated, agent.device)
        seen.append(step)
        actions.append(action)
        log_probs.append(log_prob)
        rewards.append(_tensor(reward, agent.device))
        episode_ends.append(episode_end)
        successes.append(_tensor(info["success"], agent.device).bool())
        if (played + number) % env.horizon == 0:
            final_obs.append(_tensor(info["final_obs"], agent.device)[:, None].clone())
        step = TimeStep(
            obs=_tensor(obs, agent.device),
            prev_action=prev_action,
            prev_reward=rewards[-1],
            episode_start=episode_end,
        )
        if look:
            _check_step("reward", step.prev_reward, step=number)
            _check_step("observation", step.obs, step=number + 1)
    rollout = Rollout(
        seen=TimeStep.stack(seen),
        action=torch.stack(actions, dim=1),
        log_prob=torch.stack(log_probs, dim=1),
        reward=torch.stack(rewards, dim=1),
        episode_end=torch.stack(episode_ends, dim=1),
        success=torch.stack(successes, dim=1),
        final_obs=torch.cat(final_obs, dim=1),
    )
    if not look:
        _check_rollout(rollout)
    return rollout, state, step


def _executor(env: TaskVectorEnv, device: torch.device) -> Callable[[Tensor], tuple[Any, Tensor]]:
    """Function from an action to the environment's action, and to the policy's next input."""
    space = env.single_action_space
    if isinstance(env, DeviceVectorEnv) and isinstance(space, spaces.Box):
        return execute_on(device, space)  # no transfer to the host
    return lambda action: execute(action, space)


def first_step(
    obs: Any, action_space: spaces.Box | spaces.Discrete, device: torch.device
) -> TimeStep:
    """The first time step of a trial: previous actions and rewards are zero."""
    seen = _tensor(obs, device)
    num_slots = len(seen)
    return TimeStep(
        obs=seen,
        prev_action=torch.zeros(num_slots, action_size(action_space), device=device),
        prev_reward=torch.zeros(num_slots, device=device),
        episode_start=torch.ones(num_slots, dtype=torch.bool, device=device),
    )


def _tensor(values: Any, device: torch.device) -> Tensor:
    """`values` on the agent's device; floats in torch's default precision."""
    tensor = torch.as_tensor(values, device=device)
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor
