"""Adaptation of a run's agent in one environment of the user, where it then continues to act."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, SupportsFloat

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, Shaped

from metarl.config import (
    validate,
)
from metarl.errors import NotFiniteError, UserError
from metarl.evaluation.options import EvaluationOptions
from metarl.evaluation.trials import (
    check_greedy,
    find_checkpoint,
    present_interface,
)
from metarl.nn.distributions import execute
from metarl.protocols import Agent
from metarl.rollout.curve import adaptation_curve
from metarl.rollout.interface import Interface, WhoseBounds
from metarl.rollout.player import FlatSpaces, Player
from metarl.rollout.slots import SlotEnv
from metarl.rollout.trial import collect, first_step
from metarl.system.finite import is_finite
from metarl.system.seeding import derive_seed, torch_generator
from metarl.training.experiment import (
    FewShotExperiment,
    build_agent,
    load_run,
)
from metarl.training.run import load_agent
from metarl.types import Rollout, TimeStep, TrialShape


@dataclass(frozen=True, kw_only=True)
class Played:
    """Scores of K episodes, in the order in which they were played."""

    returns: Float[np.ndarray, " K"]
    """Undiscounted sum of the rewards of each episode."""
    success: Bool[np.ndarray, " K"]
    """True for episodes with a success at any step."""

    @staticmethod
    def of(rollouts: list[Rollout]) -> Played:
        """The episodes of consecutive rollouts of one slot."""
        curve = adaptation_curve(rollouts, [""])
        success = curve.scores["success_any"][0].bool().cpu().numpy()
        return Played(returns=curve.scores["return"][0].cpu().numpy(), success=success)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Interface that an agent was trained with, and the rule for other bounds of actions."""

    trained: Interface
    bounds: WhoseBounds | None

    def actions(self, there: FlatSpaces) -> spaces.Box | spaces.Discrete:
        """The actions that the agent may take in an environment with these spaces.

        Raises:
            UserError: the spaces do not fit the agent.
        """
        return self.trained.allowed(
            there.observation,
            there.action,
            bounds=self.bounds,
            advice="bounds='trained' keeps to what both allow, bounds='environment' takes all that "
            "the environment does",
        )


class AdaptedAgent:
    """An agent that has adapted to a task and can continue to act.

    A memory continues too: RL² keeps learning from observations and rewards given to `act` and seen
    in `play`.
    """

    def __init__(
        self,
        agent: Agent[Any],
        *,
        state: Any,
        last_step: TimeStep,
        generator: torch.Generator,
        flat_spaces: FlatSpaces,
        fit: Fit,
        played: Played,
    ) -> None:
        self.returns = played.returns
        """Return of each episode of adaptation."""
        self.success = played.success
        """Success of each episode of adaptation: True if any step was a success."""
        self._agent = agent
        self._state = state
        self._step = last_step
        self._generator = generator
        self._spaces = flat_spaces
        self._fit = fit
        self._actions = fit.actions(flat_spaces)

    def act(
        self,
        obs: Any,
        reward: SupportsFloat | None = None,
        *,
        episode_start: bool = False,
        greedy: bool = False,
    ) -> Any:
        """The action to take, as the environment's `step` expects it.

        Args:
            obs: the observation that the environment's `reset` or `step` returned.
            reward: the reward of the last action. Leave it out only if `obs` came from `reset` and
                the last reward was already given or does not exist.
            episode_start: whether `obs` came from `reset`.
            greedy: take the policy's mode instead of sampling from it.

        Raises:
            ValueError: the reward is missing.
            UserError: the observation has another shape.
            NotFiniteError: something is NaN or infinite; the agent's state stays unchanged.
        """
        if reward is None and not episode_start:
            raise ValueError(
                "give the reward that the last action earned: act(obs, reward); after a reset say "
                "act(obs, episode_start=True)"
            )
        step = self._show(self._spaces.flatten(obs)[None], episode_start=episode_start)
        if reward is not None:
            step = replace(step, prev_reward=torch.full_like(step.prev_reward, float(reward)))
        for name, shown in (("the observation", step.obs), ("the reward", step.prev_reward)):
            if not is_finite(shown):
                raise NotFiniteError(name)
        generator = None if greedy else self._generator
        action, log_prob, state = self._agent.act(self._state, step, generator=generator)
        if not is_finite(log_prob):
            raise NotFiniteError("the agent's action")
        self._state = state
        executed, prev_action = execute(action, self._actions)
        self._step = replace(step, prev_action=prev_action)
        return self._spaces.execute(executed[0])

    def play(self, env: gymnasium.Env, *, episodes: int = 1, greedy: bool = False) -> Played:
        """Plays further episodes, each from a reset, without gradient steps.

        Raises:
            UserError: the environment has other spaces, or has other bounds and `adapt` got no
                `bounds`.
            NotFiniteError: an observation or a reward of the environment is not finite.
        """
        lone = LoneEnv(env, fit=self._fit, episodes=episodes)
        obs, _ = lone.reset()
        rollout, self._state, self._step = collect(
            self._agent,
            lone,
            self._state,
            self._show(obs, episode_start=True),
            num_steps=episodes * lone.horizon,
            generator=None if greedy else self._generator,
        )
        return Played.of([rollout])

    def _show(self, obs: Float[np.ndarray, "1 O"], *, episode_start: bool) -> TimeStep:
        """The agent's next input: the observation, with the last action and reward."""
        new = first_step(obs, self._spaces.action, self._agent.device)
        start = torch.full_like(new.episode_start, episode_start)
        return replace(self._step, obs=new.obs, episode_start=start)


def adapt_agent(
    agent: Agent[Any],
    env: gymnasium.Env,
    *,
    shape: TrialShape,
    fit: Fit,
    greedy: bool,
    seed: int,
) -> AdaptedAgent:
    """The agent after a trial in one environment, with episodes played one after the other.

    Raises:
        UserError: the environment has other spaces, or other bounds although `fit` has no rule for
            them.
        NotFiniteError: an observation or a reward of the environment is not finite.
    """
    lone = LoneEnv(env, fit=fit, episodes=shape.total_episodes)
    actions = fit.actions(lone.flat_spaces)
    generator = torch_generator(derive_seed(seed, "agent"), agent.device)
    obs, _ = lone.reset(seed=derive_seed(seed, "env") % 2**31)
    step = first_step(obs, actions, agent.device)
    state = agent.begin_trial(shape.slots_per_task)
    played = []
    for _ in range(shape.rollouts):
        rollouts = []
        for _ in range(shape.slots_per_task):
            rollout, state, step = collect(
                agent, lone, state, step,
                num_steps=shape.episodes * lone.horizon,
                generator=None if greedy else generator,
            )  # fmt: skip
            rollouts.append(rollout)
        state = agent.adapt(state, Rollout.side_by_side(rollouts))
        played += rollouts
    return AdaptedAgent(
        agent,
        state=state,
        last_step=step,
        generator=generator,
        flat_spaces=lone.flat_spaces,
        fit=fit,
        played=Played.of(played),
    )


class LoneEnv(SlotEnv[None]):
    """An existing environment in one slot; its task is fixed.

    Args:
        env: the environment; its owner closes it.
        fit: fit of the agent that will play in it.
        episodes: number of episodes to play. A reset can be costly, so none follows the last
            episode: its last observation is the final one.
    """

    def __init__(self, env: gymnasium.Env, *, fit: Fit, episodes: int) -> None:
        horizon = fit.trained.horizon
        self._player = Player(env, horizon=horizon)
        self.flat_spaces = self._player.spaces
        super().__init__(
            [None],
            horizon=horizon,
            observation_space=self.flat_spaces.observation,
            action_space=fit.actions(self.flat_spaces),
        )
        self._num_steps = episodes * horizon
        self._new_seed: int | None = None

    def _seed(self, slots: Int[np.ndarray, " 1"], seeds: Sequence[int | None] | int) -> None:
        super()._seed(slots, seeds)
        self._new_seed = seeds if isinstance(seeds, int) else seeds[0]

    def _restart(
        self, slots: Int[np.ndarray, " 1"], tasks: Sequence[None]
    ) -> Float[np.ndarray, "1 O"]:
        """Starts the first episode."""
        del slots, tasks
        self._steps = 0
        seed, self._new_seed = self._new_seed, None
        return self._finite(self._player.reset(seed), 0.0)[None]

    def _step(self, actions: Shaped[np.ndarray, " 1 *A"]) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Steps the environment.

        Raises:
            NotFiniteError: an observation or a reward of the environment is not finite.
        """
        self._steps += 1
        final_obs, reward, success, ended = self._player.step(actions[0])
        self._finite(final_obs, reward)
        obs = final_obs
        if ended and self._steps < self._num_steps:
            obs = self._finite(self._player.reset(), 0.0)
        info = {"success": np.array([success]), "final_obs": final_obs[None].copy()}
        return obs[None].copy(), np.array([reward]), np.array([ended]), info

    def _finite(self, obs: Float[np.ndarray, " O"], reward: float) -> Float[np.ndarray, " O"]:
        return check_finite(obs, reward, f"step {self._steps}")


def check_finite(
    obs: Float[np.ndarray, " O"], reward: SupportsFloat, where: str
) -> Float[np.ndarray, " O"]:
    """The observation, once it and the reward are checked.

    Raises:
        NotFiniteError: the observation or the reward is NaN or infinite.
    """
    for name, value in (("observation", obs), ("reward", float(reward))):
        if not np.isfinite(value).all():
            raise NotFiniteError(f"{name} in {where}")
    return obs


def adapt(
    run: Path | str,
    env: gymnasium.Env,
    *,
    episodes: int,
    checkpoint: int | None = None,
    greedy: bool = False,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    bounds: WhoseBounds | None = None,
    trust: bool = False,
) -> AdaptedAgent:
    """The agent of a run, adapted to the task of one environment, which may be a real robot.

    Episodes are played one after the other, even if the agent plays them side by side in training,
    and the agent adapts to all of them. They are as long as in training; after an episode that the
    environment ends earlier, no action is taken for the rest of that length.

    Args:
        run: the folder of the run.
        env: environment of the user's task; reset once per episode and left open.
        episodes: number of episodes of experience.
        checkpoint: env steps of the checkpoint; by default the newest.
        greedy: take the policy's mode instead of sampling from it.
        seed: seed of the actions and of the environment.
        device: device of the agent.
        bounds: rule for an environment whose bounds of actions differ from those of training:
            "trained" keeps to the actions that both allow, "environment" uses the environment's
            bounds. By default, differing bounds are an error. Actions never leave the
            environment's bounds.
        trust: execute the module of tasks that the run names although it was not trained with here;
            needed only for runs that did not store their interface.

    Raises:
        UserError: the environment does not fit the run, the agent cannot adapt in this way, or the
            run's module would have to be trusted.
        NotFiniteError: an observation or a reward of the environment is not finite.
    """
    folder = Path(run)
    values = {"episodes": episodes, "checkpoint": checkpoint, "greedy": greedy, "seed": seed}
    config = validate(EvaluationOptions, {**values, "device": device}, source="adapt")
    trained = Interface.read(folder)
    experiment = load_run(folder, trusted=trust, option="trust=True", plays=trained is None)
    if isinstance(experiment, FewShotExperiment):
        raise UserError(f"{folder} is few-shot learning, nothing is played")
    experiment = experiment.model_copy(update={"device": device})
    shape = experiment.agent.trial_shape(episodes)
    if greedy:
        # The same check as in evaluation, which would also play the episodes after adaptation.
        check_greedy(experiment, experiment.agent.trial_shape(2 * episodes))
    trained = trained or present_interface(experiment)
    fit = Fit(trained=trained, bounds=bounds)
    agent = build_agent(experiment, LoneEnv(env, fit=fit, episodes=episodes))
    load_agent(agent, find_checkpoint(folder, config))
    return adapt_agent(agent, env, shape=shape, fit=fit, greedy=greedy, seed=seed)
