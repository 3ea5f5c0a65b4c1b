"""ProMP's gradient against its objective written out task by task."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.promp import ProMP, ProMPConfig, clipped_surrogate, inner_loss
from envs.navigation import PointConfig
from metarl.learning.inner_loop import BATCH_ELEMENTS
from metarl.learning.task_batch import Experience, TaskBatch
from metarl.nn.distributions import Categorical, kl_divergence
from metarl.rollout.trial import run_trial
from metarl.system.seeding import torch_generator
from metarl.types import Rollout, TrialShape

pytestmark = pytest.mark.usefixtures("double_precision")

CPU = torch.device("cpu")
TASKS, EPISODES, HORIZON = 6, 4, 10


def new_agent(**changes: Any) -> ProMP:
    values = {"hidden_sizes": (8,), "episodes_per_step": EPISODES, "initial_std": 0.1, **changes}
    return ProMPConfig(**values).build(
        spaces.Box(-np.inf, np.inf, (2,), np.float64),
        spaces.Box(-0.1, 0.1, (2,), np.float32),
        seed=0,
        device=CPU,
    )


def play(agent: ProMP, *, rollouts: int = 2, seed: int = 0) -> list[Rollout]:
    distribution = PointConfig(horizon=HORIZON, num_train_tasks=50).build()
    return run_trial(
        agent,
        distribution.make_env(TASKS * EPISODES),
        distribution.train.sample(TASKS, np.random.default_rng(seed)),
        shape=TrialShape(slots_per_task=EPISODES, rollouts=rollouts),
        seed=0,
        generator=torch_generator(seed, CPU),
    )


def test_the_losses_by_hand() -> None:
    """Two actions of probability ½ each; acting had used ¼, ½ and 1, so ratios are 2, 1 and ½."""
    experience = Experience(
        obs=torch.zeros(1, 3, 1),
        action=torch.tensor([[0, 1, 1]]),
        log_prob=torch.tensor([[0.25, 0.5, 1.0]]).log(),
        advantage=torch.tensor([[3.0, 1.0, -6.0]]),
    )
    policy = Categorical(torch.zeros(1, 3, 2))
    torch.testing.assert_close(inner_loss(policy, experience), torch.tensor([-(6 + 1 - 3) / 3]))
    surrogate, clipped = clipped_surrogate(policy, experience, clip=0.2)
    # min(2 · 3, 1.2 · 3), 1, and min(−½ · 6, −0.8 · 6)
    torch.testing.assert_close(surrogate, torch.tensor([(3.6 + 1 - 4.8) / 3]))
    assert clipped.item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_the_gradient_is_that_of_the_objective(inner_steps: int) -> None:
    """Equation 14 with the ratio as inner surrogate (eq. 11), by plain autograd."""
    agent = new_agent(inner_kl_coef=0.7, clip=0.05)
    policies, config = agent.policies, agent.config
    trial = play(agent, rollouts=inner_steps + 1)
    (batch,) = TaskBatch.of([agent.experience(rollout)[0] for rollout in trial], TASKS)
    acted = agent._policies_before_steps(batch)
    # Away from the policy that acted, where the KL has no gradient and nothing is clipped.
    origin = policies.meta_parameters()
    noise = torch.randn(len(origin), generator=torch.Generator().manual_seed(0))
    meta = (origin + 0.02 * noise).requires_grad_()
    ours, metrics = agent._gradient(meta.detach(), batch, acted)

    objective = torch.zeros(())
    for task in range(TASKS):
        parameters = meta
        for step, part in enumerate(batch.support):
            policy = policies.distribution(parameters[None], part.obs[task : task + 1])
            old = type(policy)(*(tensor[task : task + 1] for tensor in vars(acted[step]).values()))
            objective = objective - config.inner_kl_coef * kl_divergence(old, policy).mean()
            log_prob = policy.log_prob(part.action[task : task + 1])[0]
            weight = (log_prob - part.log_prob[task]).exp()
            inner = (weight * part.advantage[task]).mean()
            (gradient,) = torch.autograd.grad(inner, parameters, create_graph=True)
            parameters = parameters + config.inner_learning_rate * gradient
        query = batch.query
        policy = policies.distribution(parameters[None], query.obs[task : task + 1])
        weight = (policy.log_prob(query.action[task : task + 1])[0] - query.log_prob[task]).exp()
        advantage = query.advantage[task]
        objective = (
            objective
            + torch.minimum(weight * advantage, weight.clamp(0.95, 1.05) * advantage).mean()
        )
    (theirs,) = torch.autograd.grad(objective, meta)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)
    assert 0 < metrics["clipped"] / TASKS < 1
    assert metrics["inner_kl"] > 1e-3


def test_chunks_of_tasks_are_the_same_update(monkeypatch: pytest.MonkeyPatch) -> None:
    trial, ends = play(new_agent()), []
    for elements in (2**20, 1):
        monkeypatch.setitem(BATCH_ELEMENTS, "cpu", elements)
        agent = new_agent(inner_kl_coef=0.7)
        metrics = agent.meta_update(trial, generator=torch_generator(0, CPU))
        ends.append(
            torch.cat([agent.policies.meta_parameters(), torch.tensor([*metrics.values()])])
        )
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-6, atol=1e-8)


def test_an_update_improves_on_the_policy_that_acted() -> None:
    agent = new_agent(learning_rate=3e-3)
    metrics = agent.meta_update(play(agent), generator=torch_generator(0, CPU))
    assert metrics["surrogate_before"] == pytest.approx(0, abs=1e-6)
    assert metrics["surrogate_after"] > 1e-3
    assert metrics["inner_kl"] > 0


def test_where_the_policy_acted_the_kl_has_no_slope_and_nothing_is_clipped() -> None:
    trial = play(new_agent())
    gradients = []
    for coefficient in (0.0, 100.0):
        agent = new_agent(inner_kl_coef=coefficient)
        (batch,) = TaskBatch.of([agent.experience(r)[0] for r in trial], TASKS)
        meta = agent.policies.meta_parameters()
        gradient, metrics = agent._gradient(meta, batch, agent._policies_before_steps(batch))
        gradients.append(gradient)
        assert metrics["clipped"] == 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-10)


def test_a_loaded_agent_acts_and_learns_as_the_saved_one() -> None:
    agent, twin = (new_agent(normalize_obs=True, initial_std=std) for std in (0.1, 0.5))
    agent.meta_update(play(agent), generator=torch_generator(0, CPU))
    twin.load_state_dict({name: t.clone() for name, t in agent.state_dict().items()})
    for each in (agent, twin):
        each.meta_update(play(each), generator=torch_generator(1, CPU))
    ours, theirs = agent.state_dict(), twin.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    # two updates, each of two rollouts
    assert ours["inner_loop.normalizer.count"] == 2 * 2 * TASKS * EPISODES * HORIZON
