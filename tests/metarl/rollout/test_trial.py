"""A policy sees what happened in the right order, also at episode boundaries."""

from contextlib import closing

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.rl2 import RL2Config
from envs.bandit import BanditConfig
from envs.navigation import PointConfig, PointTask
from metarl.errors import NotFiniteError
from metarl.rollout.slots import SlotEnv
from metarl.rollout.trial import run_trial
from metarl.types import Rollout, TrialShape
from tests.spy import SpyAgent

SLOTS, HORIZON, EPISODES = 3, 4, 2
TASKS = [PointTask(np.array([slot, 0.0])) for slot in range(SLOTS)]


class CountingEnv(SlotEnv[PointTask]):
    """Environment with identifiable numbers: hundreds for the slot, tens for the episode, units for
    the step.

    Observations count the steps taken in the episode. The reward of a step is the following
    observation plus 0.5, so a reward at a boundary cannot be mistaken for another.
    """

    def __init__(self) -> None:
        super().__init__(
            TASKS,
            horizon=HORIZON,
            observation_space=spaces.Box(-np.inf, np.inf, (1,), np.float64),
            action_space=spaces.Box(-1.0, 1.0, (1,), np.float32),
        )

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self._obs(episode=0, step=0), {}

    def _obs(self, *, episode: int, step: int) -> np.ndarray:
        return np.array([[100.0 * slot + 10 * episode + step] for slot in range(SLOTS)])

    def step(self, actions):
        episode, step = divmod(self.steps, HORIZON)
        self.steps += 1
        final_obs = self._obs(episode=episode, step=step + 1)
        ended = np.full(SLOTS, step + 1 == HORIZON)
        obs = self._obs(episode=episode + 1, step=0) if ended.all() else final_obs
        info = {"success": ended, "final_obs": final_obs}
        return obs, final_obs[:, 0] + 0.5, np.zeros_like(ended), ended, info


def play(num_rollouts: int = 1) -> tuple[SpyAgent, list[Rollout]]:
    # Beyond the bounds, so that executed and sampled actions differ.
    agent = SpyAgent(action=2 * torch.ones(SLOTS, 1))
    trial = run_trial(
        agent, CountingEnv(), TASKS, seed=0, generator=None,
        shape=TrialShape(episodes=EPISODES, rollouts=num_rollouts),
    )  # fmt: skip
    return agent, trial


def test_the_first_step_of_a_trial_knows_nothing() -> None:
    agent, _ = play()
    first = agent.shown[0]
    assert first.obs[:, 0].tolist() == [0, 100, 200]
    assert not first.prev_reward.any() and not first.prev_action.any()
    assert first.episode_start.all()


def test_every_step_sees_the_reward_and_action_of_the_one_before() -> None:
    agent, (rollout,) = play()
    for t in range(1, EPISODES * HORIZON):
        torch.testing.assert_close(agent.shown[t].prev_reward, rollout.reward[:, t - 1])
        assert (agent.shown[t].prev_action == 1.0).all()


def test_the_boundary_shows_the_true_last_reward_and_the_flag() -> None:
    agent, _ = play()
    boundary = agent.shown[HORIZON]
    # The last step of episode 0 led to observation 4, so its reward was 4.5 (+100 per slot); the
    # observation is already the start of episode 1.
    assert boundary.prev_reward.tolist() == [4.5, 104.5, 204.5]
    assert boundary.obs[:, 0].tolist() == [10, 110, 210]
    assert boundary.episode_start.all()
    starts = [bool(step.episode_start.any()) for step in agent.shown]
    assert starts == [True, False, False, False, True, False, False, False]


def test_the_rollout_holds_what_was_seen_and_done() -> None:
    agent, (rollout,) = play()
    assert rollout.reward[0].tolist() == [1.5, 2.5, 3.5, 4.5, 11.5, 12.5, 13.5, 14.5]
    assert rollout.episode_end[0].tolist() == [False, False, False, True] * 2
    assert rollout.final_obs[:, :, 0].tolist() == [[4, 14], [104, 114], [204, 214]]
    assert (rollout.action == 2.0).all()
    torch.testing.assert_close(rollout.seen.obs, torch.stack([s.obs for s in agent.shown], 1))


def test_the_agent_adapts_between_rollouts() -> None:
    agent, trial = play(num_rollouts=2)
    assert len(trial) == 2
    assert torch.equal(agent.adapted[0].reward, trial[0].reward)
    assert len(agent.adapted) == 1
    # The second rollout continues where the first ended.
    assert trial[1].seen.prev_reward[0, 0] == trial[0].reward[0, -1]


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("config", [BanditConfig(), PointConfig(horizon=2)])
def test_weights_that_are_not_finite_are_named_before_they_act(
    config: BanditConfig | PointConfig, greedy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for discrete actions, whose mode would be a valid choice anyway."""
    distribution = config.build()
    with closing(distribution.make_env(3)) as env:
        agent = RL2Config(hidden_size=4, encoder_sizes=()).build(
            env.single_observation_space, env.single_action_space,
            seed=1, device=torch.device("cpu"),
        )  # fmt: skip
        for weights in agent.network.parameters():
            weights.data.fill_(float("nan"))
        monkeypatch.setattr(env, "step", lambda actions: pytest.fail("it acted"))
        with pytest.raises(NotFiniteError, match=r"^network\.\S+ among the agent's weights is not"):
            run_trial(
                agent, env, distribution.train.sample(3, np.random.default_rng(1)),
                shape=TrialShape(episodes=1), seed=1,
                generator=None if greedy else torch.Generator().manual_seed(1),
            )  # fmt: skip
