"""PEARL's posterior against torch.distributions, its actor-critic against Stable-Baselines3's."""

import math
from dataclasses import replace
from itertools import permutations
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn

from agents import pearl
from agents.pearl import (
    PEARL,
    Context,
    PEARLConfig,
    actor_loss,
    kl_from_prior,
    posterior_of,
    q_error,
    q_target,
    temperature_loss,
)
from envs.navigation import PointConfig
from metarl.errors import UserError
from metarl.learning.replay import Transitions
from metarl.nn.distributions import DiagonalGaussian, SquashedGaussian
from metarl.rollout.trial import run_trial
from metarl.system.seeding import torch_generator
from metarl.types import Rollout, TimeStep, TrialShape

CPU = torch.device("cpu")
SLOTS, EPISODES, HORIZON = 5, 3, 4
STEPS = EPISODES * HORIZON
LATENT = 3
OBS = spaces.Box(-np.inf, np.inf, (2,), np.float64)
BOUNDS = spaces.Box(-0.1, 0.1, (2,), np.float32)


def new_agent(*, actions: spaces.Box = BOUNDS, **changes: Any) -> PEARL:
    values = {"latent_size": LATENT, "encoder_sizes": (8,), "hidden_sizes": (8,)}
    values |= {"gradient_steps": 2, "tasks_per_step": 3, "batch_size": 4, "context_size": 6}
    values |= {"replay_trials": 8}
    return PEARLConfig(**values | changes).build(OBS, actions, seed=0, device=CPU)


def play(agent: PEARL, seed: int = 0, *, greedy: bool = False) -> Rollout:
    distribution = PointConfig(horizon=HORIZON, num_train_tasks=50).build()
    tasks = distribution.train.sample(SLOTS, np.random.default_rng(seed))
    (rollout,) = run_trial(
        agent,
        distribution.make_env(SLOTS),
        tasks,
        shape=TrialShape(episodes=EPISODES),
        seed=0,
        generator=None if greedy else torch_generator(seed, CPU),
    )
    return rollout


def at(seen: TimeStep, step: int) -> TimeStep:
    return seen.map(lambda x: x[:, step])


def states(agent: PEARL, rollout: Rollout, seed: int | None = 0) -> list[Context]:
    """The context after each step of acting on what a rollout saw; greedily without a seed."""
    generator = None if seed is None else torch_generator(seed, CPU)
    state, every = agent.begin_trial(SLOTS), []
    for step in range(STEPS):
        _, _, state = agent.act(state, at(rollout.seen, step), generator=generator)
        every.append(state)
    return every


def changed(tensor: Tensor, step: int) -> Tensor:
    """The tensor with other numbers at one step."""
    other = tensor.clone()
    other[:, step] += 1.0
    return other


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def linear(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def gradients(module: nn.Module) -> dict[str, Tensor | None]:
    return {n: p.grad if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}


# -- the posterior ---------------------------------------------------------------------------------


def test_the_posterior_of_three_factors_by_hand() -> None:
    mean, variance = torch.tensor([1.0, -2.0, 4.0]), torch.tensor([1.0, 0.5, 0.25])
    # Precisions 1, 2 and 4: variance 1/7, mean (1 · 1 − 2 · 2 + 4 · 4) / 7.
    found = posterior_of((1 / variance).sum()[None], (mean / variance).sum()[None])
    torch.testing.assert_close(found.mean, torch.tensor([13 / 7]))
    torch.testing.assert_close(found.log_std.exp() ** 2, torch.tensor([1 / 7]))


def test_the_posterior_is_the_normalized_product_of_its_factors() -> None:
    """The product of three densities over z, divided by the posterior's, is the same for all z."""
    generator = torch.Generator().manual_seed(0)
    mean, log_std = torch.randn(2, 3, LATENT, generator=generator, dtype=torch.float64)
    precision = torch.exp(-2 * log_std)
    found = posterior_of(precision.sum(0), (mean * precision).sum(0))
    z = torch.randn(50, LATENT, generator=generator, dtype=torch.float64)
    product = torch.distributions.Normal(mean, log_std.exp()).log_prob(z[:, None]).sum(1)
    ours = torch.distributions.Normal(found.mean, found.log_std.exp()).log_prob(z)
    constant = product - ours
    torch.testing.assert_close(constant, constant[:1].expand_as(constant))
    assert ours.std(0).min() > 0.1


def test_the_posterior_does_not_depend_on_the_order_of_transitions() -> None:
    agent = new_agent()
    context = torch.randn(4, 2 + 2 + 1, generator=torch_generator(0, CPU))
    found = []
    for order in permutations(range(4)):
        mean, precision = agent.critic.encoder(context[list(order)])
        found.append(posterior_of(precision.sum(0), (mean * precision).sum(0)))
    for each in found[1:]:
        torch.testing.assert_close(each.mean, found[0].mean, rtol=0, atol=1e-6)
        torch.testing.assert_close(each.log_std, found[0].log_std, rtol=0, atol=1e-6)


def test_without_factors_the_posterior_is_the_prior() -> None:
    precision = torch.tensor([[0.0, 4.0]], requires_grad=True)
    weighted = torch.tensor([[0.0, 2.0]], requires_grad=True)
    found = posterior_of(precision, weighted)
    torch.testing.assert_close(found.mean, torch.tensor([[0.0, 0.5]]))
    torch.testing.assert_close(found.log_std.exp(), torch.tensor([[1.0, 0.5]]))
    (found.mean + found.log_std).sum().backward()
    assert precision.grad is not None and precision.grad.isfinite().all()
    assert weighted.grad is not None and weighted.grad.isfinite().all()


def test_kl_is_to_the_standard_normal_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_std = torch.randn(2, 4, LATENT, generator=generator)
    theirs = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_std.exp()),
        torch.distributions.Normal(torch.zeros(4, LATENT), torch.ones(4, LATENT)),
    ).sum(-1)
    torch.testing.assert_close(kl_from_prior(DiagonalGaussian(mean, log_std)), theirs)


def test_the_precision_of_a_factor_stays_finite() -> None:
    agent = new_agent()
    last = linear(agent.critic.encoder)[-1]
    nn.init.constant_(last.bias, -1e4)
    _, precision = agent.critic.encoder(torch.randn(4, 5, generator=torch_generator(0, CPU)))
    torch.testing.assert_close(precision, torch.full_like(precision, 1e7))


# -- the squashed Gaussian -------------------------------------------------------------------------


def test_log_probabilities_of_squashed_actions_are_stable_baselines3s() -> None:
    """For actions that are not too near ±1; there 10⁻⁶, which it adds to 1 − a², matters."""
    mean, log_std = torch.randn(2, 200, 3, generator=torch_generator(0, CPU)) / 3
    action, log_prob = SquashedGaussian(mean, log_std - 1.5).draw(torch_generator(1, CPU))
    assert action.abs().max() < 0.97
    theirs = SquashedDiagGaussianDistribution(3).proba_distribution(mean, log_std - 1.5)
    torch.testing.assert_close(log_prob, theirs.log_prob(action), rtol=1e-5, atol=5e-5)
    torch.testing.assert_close(SquashedGaussian(mean, log_std).draw(None)[0], theirs.mode())
    exact = SquashedDiagGaussianDistribution(3, epsilon=0).proba_distribution(
        mean.double(), log_std.double()
    )
    action, log_prob = SquashedGaussian(mean.double(), log_std.double()).draw(
        torch_generator(1, CPU)
    )
    torch.testing.assert_close(log_prob, exact.log_prob(action), rtol=0, atol=1e-9)


def test_log_probabilities_keep_their_digits_near_the_bounds() -> None:
    """In float64, for pre-images up to 15, where 1 − tanh² is 4 · 10⁻¹³."""
    before = torch.linspace(-15, 15, 61, dtype=torch.float64)[:, None]
    slope = 2 * (math.log(2) - before.abs() - torch.exp(-2 * before.abs()).log1p())
    # The mode of a distribution around each of them, of deviation 5.
    _, log_prob = SquashedGaussian(before, torch.full_like(before, math.log(5))).draw(None)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 5.0)
    expected = normal.log_prob(torch.zeros(1, dtype=torch.float64)) - slope.squeeze(-1)
    torch.testing.assert_close(log_prob, expected, rtol=0, atol=1e-8)


def test_a_squashed_sample_is_differentiable_in_mean_and_deviation() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_std = torch.randn(2, 6, 2, generator=generator, dtype=torch.float64) / 2
    mean.requires_grad_()
    log_std.requires_grad_()
    squashed = SquashedGaussian(mean, log_std)
    action, log_prob = squashed.draw(torch_generator(1, CPU))
    assert action.abs().max() < 1
    noise = torch.randn(6, 2, generator=torch_generator(1, CPU), dtype=torch.float64)
    by_mean, by_log_std = torch.autograd.grad(action.sum(), (mean, log_std), retain_graph=True)
    torch.testing.assert_close(by_mean, 1 - action**2)
    torch.testing.assert_close(by_log_std, (1 - action**2) * log_std.exp() * noise)
    # −log π of the sample, with the sample's own dependence on the parameters: its noise stays, so
    # only log σ and the slope of tanh change, whose logarithm has the derivative −2 a.
    by_mean, by_log_std = torch.autograd.grad(log_prob.sum(), (mean, log_std))
    torch.testing.assert_close(by_mean, 2 * action)
    torch.testing.assert_close(by_log_std, 2 * action * log_std.exp() * noise - 1)


@pytest.mark.parametrize("mean", [2.0, 6.0, 12.0])
def test_entropy_draws_saturated_actions_back(mean: float) -> None:
    """Less log π means less |mean|, also where the tanh of float32 is 1: derivative 2 tanh."""
    start = torch.full((100, 1), mean, requires_grad=True)
    squashed = SquashedGaussian(start, torch.full((100, 1), -1.0))
    _, log_prob = squashed.draw(torch_generator(0, CPU))
    (gradient,) = torch.autograd.grad(log_prob.mean(), start)
    assert gradient.sum().item() == pytest.approx(2 * math.tanh(mean), rel=0.1)


# -- acting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [(-0.1, 0.1), (-0.3, 0.7), (2.0, 5.5)], ids=str)
@pytest.mark.parametrize("mean", [0.0, 40.0, -40.0])
def test_actions_lie_within_the_bounds(bounds: tuple[float, float], mean: float) -> None:
    space = spaces.Box(*bounds, (2,), np.float32)
    agent = new_agent(actions=space)
    last = linear(agent.actor)[-1]
    nn.init.constant_(last.bias[:2], mean)
    nn.init.constant_(last.bias[2:], 1.0)
    step = TimeStep(
        obs=torch.randn(500, 2, generator=torch_generator(1, CPU)),
        prev_action=torch.zeros(500, 2),
        prev_reward=torch.zeros(500),
        episode_start=torch.ones(500, dtype=torch.bool),
    )
    for generator in (torch_generator(0, CPU), None):
        action, log_prob, _ = agent.act(agent.begin_trial(500), step, generator=generator)
        low, high = (torch.as_tensor(bound) for bound in (space.low, space.high))
        # Up to rounding: the environment's actions are clipped.
        assert (action >= low - 1e-6).all() and (action <= high + 1e-6).all()
        assert log_prob.isfinite().all()
        middle = (low + high) / 2
        torch.testing.assert_close(agent._unscaled(action), (action - middle) / (high - middle))


@pytest.mark.usefixtures("double_precision")
def test_the_log_density_is_that_of_the_returned_action() -> None:
    """In one dimension: the numeric slope of the probability of smaller actions, P(a ≤ x) =
    Φ((atanh((x − middle) / half range) − μ) / σ)."""
    agent = new_agent(actions=spaces.Box(-0.25, 0.75, (1,), np.float32))
    last = linear(agent.actor)[-1]
    last.bias.data = torch.tensor([0.4, -0.7])
    slots = 300
    step = TimeStep(
        obs=torch.randn(slots, 2, generator=torch_generator(1, CPU)),
        prev_action=torch.zeros(slots, 1),
        prev_reward=torch.zeros(slots),
        episode_start=torch.ones(slots, dtype=torch.bool),
    )
    action, log_prob, state = agent.act(
        agent.begin_trial(slots), step, generator=torch_generator(0, CPU)
    )
    with torch.no_grad():
        policy = agent.actor(step.obs, state.latent)
    normal = torch.distributions.Normal(policy.mean, policy.log_std.exp())

    def smaller(x: Tensor) -> Tensor:
        return normal.cdf(((x - 0.25) / 0.5).atanh())

    width = 1e-6
    slope = (smaller(action + width) - smaller(action - width)) / (2 * width)
    torch.testing.assert_close(log_prob.exp(), slope[:, 0], rtol=1e-5, atol=1e-5)
    # And the actions are drawn from it.
    shares = smaller(action).sort(0).values[:, 0]
    assert (shares - torch.arange(slots) / slots).abs().max() < 1.63 / slots**0.5  # p = 0.01


def test_greedy_play_needs_no_generator_and_is_deterministic() -> None:
    agent = new_agent()
    first, second = play(agent, greedy=True), play(agent, greedy=True)
    assert torch.equal(first.action, second.action)
    assert torch.equal(first.log_prob, second.log_prob)
    contexts = states(agent, first, seed=None)
    assert not contexts[0].latent.any()  # the prior's mode
    belief = agent.beliefs([first])
    for step, context in enumerate(contexts):
        begins = step // HORIZON * HORIZON
        if begins:
            torch.testing.assert_close(context.latent, belief.mean[:, begins])
        with torch.no_grad():
            policy = agent.actor(first.seen.obs[:, step], context.latent)
        torch.testing.assert_close(first.action[:, step], 0.1 * policy.mean.tanh())


def test_play_follows_the_generator_and_starts_empty() -> None:
    agent = new_agent()
    first, again, other = play(agent), play(agent), play(agent, seed=1)
    assert torch.equal(first.action, again.action)
    assert not torch.equal(first.action, other.action)
    state = agent.begin_trial(SLOTS)
    assert agent.adapt(state, first) is state


def test_z_changes_only_where_an_episode_begins() -> None:
    agent = new_agent()
    contexts = states(agent, play(agent))
    for step in range(1, STEPS):
        same = torch.equal(contexts[step].latent, contexts[step - 1].latent)
        assert same == (step % HORIZON != 0), step
        assert torch.equal(contexts[step].episodes, torch.full((SLOTS,), 1 + step // HORIZON))


def test_slots_may_begin_episodes_at_different_steps() -> None:
    agent = new_agent()
    rollout = play(agent)
    begins = torch.zeros(SLOTS, STEPS, dtype=torch.bool)
    begins[:, 0] = True
    for slot in range(SLOTS):
        begins[slot, 2 + slot :: 4] = True
    rollout = replace(rollout, seen=replace(rollout.seen, episode_start=begins))
    contexts = states(agent, rollout)
    for step in range(1, STEPS):
        moved = (contexts[step].latent != contexts[step - 1].latent).any(1)
        assert torch.equal(moved, begins[:, step])


@pytest.mark.parametrize("prior_episodes", [1, 2, 3])
def test_first_episodes_are_played_under_the_prior(prior_episodes: int) -> None:
    agent = new_agent(prior_episodes=prior_episodes)
    rollout = play(agent)
    belief = agent.beliefs([rollout])
    greedy = states(agent, rollout, seed=None)
    # With a policy that takes no noise, the generator is all z's.
    noise = torch_generator(5, CPU)
    state = agent.begin_trial(SLOTS)
    for episode in range(EPISODES):
        step = episode * HORIZON
        if episode:
            state = greedy[step - 1]
        drawn = agent._observe(state, at(rollout.seen, step), noise).latent
        again = torch_generator(5, CPU)
        for _ in range(episode + 1):
            expected = torch.randn(SLOTS, LATENT, generator=again)
        if episode < prior_episodes:
            assert not greedy[step].latent.any()
            torch.testing.assert_close(drawn, expected)
        else:
            mean, std = belief.mean[:, step], belief.log_std[:, step].exp()
            torch.testing.assert_close(greedy[step].latent, mean)
            torch.testing.assert_close(drawn, mean + std * expected)


# -- the context -----------------------------------------------------------------------------------


@pytest.mark.parametrize("next_obs", [False, True])
def test_the_belief_is_the_product_of_the_factors_of_all_earlier_transitions(
    next_obs: bool,
) -> None:
    """A loop over transitions. At an episode's end the next observation is not shown, so that with
    `next_obs_in_context` that transition is left out."""
    agent = new_agent(next_obs_in_context=next_obs)
    rollout = play(agent)
    belief = agent.beliefs([rollout])
    for slot, step in np.ndindex(2, STEPS):
        precision, weighted = torch.zeros(LATENT), torch.zeros(LATENT)
        for past in range(step):
            if next_obs and past % HORIZON == HORIZON - 1:
                continue
            parts = [rollout.seen.obs[slot, past], rollout.action[slot, past] / 0.1]
            parts.append(rollout.reward[slot, past][None])
            if next_obs:
                parts.append(rollout.seen.obs[slot, past + 1])
            with torch.no_grad():
                mean, factor = agent.critic.encoder(torch.cat(parts))
            precision, weighted = precision + factor, weighted + factor * mean
        if step == 0:
            assert not belief.mean[slot, 0].any() and not belief.log_std[slot, 0].any()
            continue
        std = precision.rsqrt()
        torch.testing.assert_close(belief.mean[slot, step], weighted / precision)
        torch.testing.assert_close(belief.log_std[slot, step].exp(), std)


@pytest.mark.parametrize("next_obs", [False, True])
def test_acting_step_by_step_has_the_beliefs_of_the_whole_trial(next_obs: bool) -> None:
    agent = new_agent(next_obs_in_context=next_obs)
    rollout = play(agent)
    belief = agent.beliefs([rollout])
    for step, context in enumerate(states(agent, rollout)):
        found = posterior_of(context.precision, context.weighted)
        torch.testing.assert_close(found.mean, belief.mean[:, step], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.log_std, belief.log_std[:, step], rtol=1e-5, atol=1e-6)
    assert belief.mean.std(1).min() > 1e-4  # they differ from step to step


@pytest.mark.parametrize("next_obs", [False, True])
@pytest.mark.parametrize("step", [0, 1, HORIZON - 1, HORIZON, STEPS - 2])
def test_the_belief_at_a_step_knows_only_earlier_steps(next_obs: bool, step: int) -> None:
    agent = new_agent(next_obs_in_context=next_obs)
    rollout = play(agent)
    belief = agent.beliefs([rollout])
    # What step `step` did and what it brought is seen one step later.
    for name in ("prev_action", "prev_reward"):
        seen = replace(rollout.seen, **{name: changed(getattr(rollout.seen, name), step + 1)})
        there = agent.beliefs([replace(rollout, seen=seen)])
        assert torch.equal(there.mean[:, : step + 1], belief.mean[:, : step + 1])
        assert torch.equal(there.log_std[:, : step + 1], belief.log_std[:, : step + 1])
        left_out = next_obs and step % HORIZON == HORIZON - 1
        assert torch.equal(there.mean[:, step + 1 :], belief.mean[:, step + 1 :]) == left_out
    # Its observation is known at the step only as the next one of the transition before.
    seen = replace(rollout.seen, obs=changed(rollout.seen.obs, step))
    there = agent.beliefs([replace(rollout, seen=seen)])
    known = step if next_obs and step % HORIZON else step + 1
    assert torch.equal(there.mean[:, :known], belief.mean[:, :known])
    assert not torch.equal(there.mean[:, known], belief.mean[:, known])


@pytest.mark.parametrize("next_obs", [False, True])
def test_the_encoder_learns_from_what_it_sees_when_the_agent_acts(next_obs: bool) -> None:
    """The factors of an episode's transitions in the replay give the belief after them."""
    agent = new_agent(next_obs_in_context=next_obs, gradient_steps=1)
    rollout = play(agent)
    agent.meta_update([rollout], generator=torch_generator(0, CPU))
    belief = agent.beliefs([rollout])
    known = HORIZON - 1
    steps = agent.replay.transitions(
        torch.arange(SLOTS)[:, None].expand(-1, known), torch.arange(known).expand(SLOTS, -1)
    )
    context = agent._inputs(steps.obs, steps.action, steps.reward, steps.next_obs)
    with torch.no_grad():
        mean, precision = agent.critic.encoder(context)
    found = posterior_of(precision.sum(1), (mean * precision).sum(1))
    torch.testing.assert_close(found.mean, belief.mean[:, known])
    torch.testing.assert_close(found.log_std, belief.log_std[:, known])


@pytest.mark.parametrize("context", ["prior", "trial"])
def test_the_context_comes_from_the_newest_trials_and_the_batch_from_all(context: str) -> None:
    agent = new_agent(
        context=context, prior_episodes=2, batch_size=100, context_size=100, tasks_per_step=4
    )
    rollout = play(agent)
    numbers = torch.arange(STEPS).expand(SLOTS, -1)
    slots = torch.arange(SLOTS)[:, None]
    tasks = torch.tensor([4, 4, 6, 6, 6])
    for trial, played in enumerate((tasks, torch.tensor([4, 4, 4, 4, 4]))):
        # 8 rows: the second trial takes the place of the first one's slots 0 and 1.
        reward = 1000.0 * trial + 100 * slots + numbers
        numbered = replace(rollout, reward=reward, task=played)
        agent.replay.add(numbered, rollout.action)
    every, newest = agent.replay.by_task(), agent.replay.by_task(newest=True)
    batch, inputs = agent._draw(every, newest, torch_generator(0, CPU))
    assert batch.reward.shape == (4, 100)
    assert inputs.shape == (4, 100, 5)
    shown = inputs[..., 4].long()
    trained = batch.reward.long()
    kinds = set()
    for task in range(4):
        of_first = bool((trained[task] < 1000).any())
        kinds.add(of_first)
        assert set((trained[task] % 100).tolist()) == set(range(STEPS))
        # Task 6 was played in the first trial only, task 4 in both; all its trials there are gone.
        expected = [200, 300, 400] if of_first else [1000, 1100, 1200, 1300, 1400]
        assert set((trained[task] // 100 * 100).tolist()) == set(expected)
        assert set((shown[task] // 100 * 100).tolist()) == set(expected)
        steps = range(2 * HORIZON if context == "prior" else STEPS)
        assert set((shown[task] % 100).tolist()) == set(steps)
    assert kinds == {False, True}


def test_of_a_task_that_is_played_again_only_the_newest_trials_are_context() -> None:
    agent = new_agent(batch_size=200, context_size=50, tasks_per_step=1)
    rollout = play(agent)
    for trial in range(2):
        agent.replay.add(
            replace(
                rollout,
                reward=torch.full((SLOTS, STEPS), float(trial)),
                task=torch.zeros(SLOTS, dtype=torch.int64),
            ),
            rollout.action,
        )
    every, newest = agent.replay.by_task(), agent.replay.by_task(newest=True)
    batch, inputs = agent._draw(every, newest, torch_generator(0, CPU))
    assert set(batch.reward.flatten().tolist()) == {0.0, 1.0}
    assert set(inputs[..., 4].flatten().tolist()) == {1.0}


# -- soft actor-critic -----------------------------------------------------------------------------


def test_the_losses_by_hand() -> None:
    next_q = torch.tensor([[[1.0, 5.0]], [[2.0, 4.0]]])
    temperature = torch.tensor(0.5)
    target = q_target(
        torch.tensor([[1.0, 2.0]]), next_q, torch.tensor([[2.0, -2.0]]),
        temperature=temperature, discount=0.9,
    )  # fmt: skip
    # 1 + 0.9 (1 − 0.5 · 2) and 2 + 0.9 (4 + 0.5 · 2)
    torch.testing.assert_close(target, torch.tensor([[1.0, 6.5]]))
    q = torch.tensor([[[2.0, 6.5]], [[1.0, 9.5]]])
    assert q_error(q, target).item() == (1 + 0) / 2 + (0 + 9) / 2
    loss = actor_loss(q, torch.tensor([[2.0, -2.0]]), temperature=temperature)
    assert loss.item() == pytest.approx(((1 - 1) + (-1 - 6.5)) / 2)
    log_temperature = torch.tensor(0.3, requires_grad=True)
    loss = temperature_loss(log_temperature, torch.tensor([[2.0, -1.0]]), entropy=-2.0)
    loss.backward()
    # Entropies are −2 and 1 nats, and on average 1.5 above what is wanted: the temperature falls.
    assert loss.item() == pytest.approx(0.3 * 1.5)
    assert log_temperature.grad is not None and log_temperature.grad.item() == 1.5


class Steady(gymnasium.Env):
    """An environment that only tells Stable-Baselines3 its spaces."""

    def __init__(self, num_obs: int, num_actions: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (num_obs,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (num_actions,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return np.zeros(self.observation_space.shape, np.float32), {}

    def step(self, action: Any) -> Any:
        raise NotImplementedError


def sb3_agent(sizes: list[int], *, temperature: float | str, config: PEARLConfig) -> SAC:
    torch.manual_seed(0)
    model = SAC(
        "MlpPolicy",
        Steady(2 + LATENT, 2),
        learning_rate=config.learning_rate,
        buffer_size=1,
        gamma=config.discount,
        tau=config.target_rate,
        ent_coef=temperature,
        policy_kwargs={"net_arch": sizes},
        device="cpu",
    )
    with torch.random.fork_rng(devices=[]):  # targets that differ from the Q functions
        torch.manual_seed(1)
        for parameter in model.critic_target.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        for parameter in model.actor.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    assert isinstance(model.actor.action_dist, SquashedDiagGaussianDistribution)
    model.actor.action_dist.epsilon = 0.0  # else it adds 10⁻⁶ to 1 − a²
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def copy_layers(ours: nn.Module, theirs: list[nn.Linear]) -> None:
    for layer, other in zip(linear(ours), theirs, strict=True):
        layer.load_state_dict(other.state_dict())


def actor_layers(model: SAC) -> list[nn.Linear]:
    """Its actor's layers, the two last side by side as in ours."""
    mean, log_std = model.actor.mu, model.actor.log_std
    assert isinstance(mean, nn.Linear) and isinstance(log_std, nn.Linear)
    last = nn.Linear(mean.in_features, 2 * mean.out_features)
    last.weight.data = torch.cat([mean.weight, log_std.weight]).detach()
    last.bias.data = torch.cat([mean.bias, log_std.bias]).detach()
    return [*linear(model.actor.latent_pi), last]


def critic_layers(critic: Any) -> list[list[nn.Linear]]:
    return [linear(critic.qf0), linear(critic.qf1)]


@pytest.mark.parametrize("temperature", [0.7, "auto"])
def test_a_gradient_step_is_that_of_stable_baselines3(
    monkeypatch: pytest.MonkeyPatch, temperature: float | str
) -> None:
    """With z as a part of the observation: targets, losses, and all weights after the step. It is
    one of plain gradient descent, as Adam's first step hardly depends on the gradient's size."""
    tasks, batch_size, start, rate = 2, 8, 0.3, 0.1
    agent = new_agent(
        hidden_sizes=(16, 12), temperature=temperature, reward_scale=3.0, discount=0.9,
        target_rate=0.2, learning_rate=rate,
    )  # fmt: skip
    model = sb3_agent(
        [16, 12],
        temperature=temperature if temperature != "auto" else f"auto_{start}",
        config=agent.config,
    )
    copy_layers(agent.actor.policy, actor_layers(model))
    for ours, critic in ((agent.critic.q, model.critic), (agent.target_q, model.critic_target)):
        for one, theirs in zip(ours.both, critic_layers(critic), strict=True):
            copy_layers(one, theirs)
    if temperature == "auto":
        agent.actor.log_temperature.data.fill_(math.log(start))
        model.ent_coef_optimizer = torch.optim.SGD([model.log_ent_coef], lr=rate)
    for module in (model.actor, model.critic):
        module.optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    agent.actor_optimizer = torch.optim.SGD(agent.actor.parameters(), lr=rate)
    # Its loss is half of ours.
    agent.critic_optimizer = torch.optim.SGD(agent.critic.parameters(), lr=rate / 2)
    before = {module: copies(module.state_dict()) for module in (agent.actor, agent.critic.q)}

    data = torch_generator(0, CPU)
    obs, next_obs, action = torch.randn(3, tasks, batch_size, 2, generator=data)
    action = action.tanh()  # within ±1; ours are within ±0.1
    reward = torch.randn(tasks, batch_size, generator=data)
    batch = Transitions(obs=obs, action=0.1 * action, reward=reward, next_obs=next_obs)
    context = torch.randn(tasks, 6, 5, generator=data)
    with torch.no_grad():
        mean, precision = agent.critic.encoder(context)
        posterior = posterior_of(precision.sum(1), (mean * precision).sum(1))
        z = posterior.sample(torch_generator(7, CPU))  # the update's first draw
    latent = z[:, None].expand(-1, batch_size, -1)

    # Both draw the same actions.
    noise = torch.randn(tasks, batch_size, 2, generator=data)

    draw = SquashedGaussian.draw

    def ours_drawn(self: SquashedGaussian, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        with monkeypatch.context() as patch:
            patch.setattr(
                DiagonalGaussian, "sample", lambda self, _: self.mean + self.log_std.exp() * noise
            )
            return draw(self, generator)

    def theirs_drawn(self: SquashedDiagGaussianDistribution) -> Tensor:
        drawn = self.distribution.mean + self.distribution.stddev * noise.flatten(0, 1)
        self.gaussian_actions = drawn
        return drawn.tanh()

    monkeypatch.setattr(SquashedGaussian, "draw", ours_drawn)
    monkeypatch.setattr(SquashedDiagGaussianDistribution, "sample", theirs_drawn)
    known: dict[str, Tensor] = {}

    def noted(name: str) -> None:
        function = getattr(pearl, name)

        def call(*args: Any, **kwargs: Any) -> Tensor:
            known[name] = function(*args, **kwargs)
            return known[name]

        monkeypatch.setattr(pearl, name, call)

    for name in ("q_target", "temperature_loss"):
        noted(name)

    samples = ReplayBufferSamples(
        observations=torch.cat([obs, latent], -1).flatten(0, 1),
        actions=action.flatten(0, 1),
        next_observations=torch.cat([next_obs, latent], -1).flatten(0, 1),
        dones=torch.zeros(tasks * batch_size, 1),
        rewards=3 * reward.flatten()[:, None],
    )
    assert model.replay_buffer is not None
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *args, **kwargs: samples)
    with torch.no_grad():
        drawn, log_prob = model.actor.action_log_prob(samples.next_observations)
        next_q = torch.cat(model.critic_target(samples.next_observations, drawn), 1).amin(1)
        weight = start if temperature == "auto" else temperature
        target = samples.rewards[:, 0] + 0.9 * (next_q - weight * log_prob)

    model.train(1, batch_size=tasks * batch_size)
    logged = model.logger.name_to_value
    metrics = agent._gradient_step(batch, context, torch_generator(7, CPU))

    def same(ours: Any, theirs: Any) -> None:
        torch.testing.assert_close(
            torch.as_tensor(ours, dtype=torch.float64),
            torch.as_tensor(theirs, dtype=torch.float64),
            rtol=1e-5,
            atol=2e-6,
        )

    same(known["q_target"].flatten(), target)
    same(metrics["q_loss"] / 2, logged["train/critic_loss"])
    same(metrics["policy_loss"], logged["train/actor_loss"])
    same(metrics["temperature"], logged["train/ent_coef"])
    if temperature == "auto":
        same(known["temperature_loss"].detach(), logged["train/ent_coef_loss"])
        assert model.log_ent_coef is not None
        same(agent.actor.log_temperature.detach(), model.log_ent_coef.detach()[0])
        assert agent.actor.log_temperature.item() != pytest.approx(math.log(start), abs=1e-2)
    else:
        same(agent.actor.log_temperature.detach().exp(), temperature)
    for ours, theirs in zip(linear(agent.actor), actor_layers(model), strict=True):
        same(ours.weight.detach(), theirs.weight.detach())
        same(ours.bias.detach(), theirs.bias.detach())
    for ours, critic in ((agent.critic.q, model.critic), (agent.target_q, model.critic_target)):
        layers = [layer for each in critic_layers(critic) for layer in each]
        for one, other in zip(linear(ours), layers, strict=True):
            same(one.weight.detach(), other.weight.detach())
            same(one.bias.detach(), other.bias.detach())
    for module, old in before.items():
        for name, parameter in module.named_parameters():
            if parameter.ndim:
                assert (parameter - old[name]).abs().max() > 1e-3, name


def test_the_encoder_learns_from_the_q_error_and_the_kl_alone() -> None:
    agent = new_agent(temperature="auto", kl_coef=0.4)
    agent.meta_update([play(agent)], generator=torch_generator(0, CPU))
    every, newest = agent.replay.by_task(), agent.replay.by_task(newest=True)
    batch, context = agent._draw(every, newest, torch_generator(1, CPU))
    # By hand, without any loss of the policy.
    mean, precision = agent.critic.encoder(context)
    posterior = posterior_of(precision.sum(1), (mean * precision).sum(1))
    generator = torch_generator(2, CPU)
    latent = posterior.sample(generator)[:, None].expand(-1, batch.reward.shape[1], -1)
    with torch.no_grad():
        action, log_prob = agent.actor(batch.next_obs, latent).draw(generator)
        target = q_target(
            5 * batch.reward,
            agent.target_q(batch.next_obs, latent, action),
            log_prob,
            temperature=agent.actor.log_temperature.exp(),
            discount=0.99,
        )
    q = agent.critic.q(batch.obs, latent, batch.action / 0.1)
    loss = q_error(q, target) + 0.4 * kl_from_prior(posterior).sum()
    expected = dict(
        zip(
            (name for name, _ in agent.critic.named_parameters()),
            torch.autograd.grad(loss, list(agent.critic.parameters())),
            strict=True,
        )
    )
    for parameter in agent.actor.parameters():
        parameter.grad = None
    at_step: list[dict[str, Tensor | None]] = []
    step = agent.critic_optimizer.step
    agent.critic_optimizer.step = lambda: (at_step.append(gradients(agent.actor)), step())[1]
    agent._gradient_step(batch, context, torch_generator(2, CPU))
    # The gradients of the whole step: the policy's loss came after, and added nothing.
    found = gradients(agent.critic)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert gradient is not None
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
    assert expected["encoder.layers.0.weight"].abs().max() > 0
    # Nor does the Q error reach the policy.
    assert all(gradient is None for gradient in at_step[0].values())
    assert all(gradient is not None for gradient in gradients(agent.actor).values())
    assert all(p.grad is None for p in agent.target_q.parameters())
    assert all(p.requires_grad for p in agent.critic.parameters())


def test_products_in_bfloat16_change_a_gradient_step_by_their_rounding_only() -> None:
    changes = []
    for bfloat16 in (False, True):
        agent = new_agent(hidden_sizes=(32, 32), encoder_sizes=(32,), batch_size=64)
        agent.replay.add(rollout := play(agent), rollout.action)
        every, newest = agent.replay.by_task(), agent.replay.by_task(newest=True)
        batch, context = agent._draw(every, newest, torch_generator(1, CPU))
        agent.bfloat16 = bfloat16
        agent.critic_optimizer.param_groups[0]["lr"] = 0.0  # the policy sees the same Q functions
        agent._gradient_step(batch, context, torch_generator(2, CPU))
        networks = (agent.actor.policy, agent.critic.encoder, agent.critic.q)
        parameters = [p for network in networks for p in network.parameters()]
        assert all(p.dtype == torch.float32 for p in parameters)
        changes.append([gradients(network) for network in networks])
    for exact, rounded in zip(*changes, strict=True):
        for name, gradient in exact.items():
            other = rounded[name]
            assert gradient is not None and other is not None
            assert 0 < (other - gradient).norm() < 0.05 * gradient.norm(), name


# -- updates ---------------------------------------------------------------------------------------


VARIANTS = [
    {"temperature": "auto"},
    {"next_obs_in_context": True, "context": "trial"},
    {"prior_episodes": 3, "kl_coef": 0.0},
    {"encoder_sizes": (8, 8), "hidden_sizes": (8, 8), "target_rate": 1.0},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_variant_learns_something_finite(changes: dict[str, Any]) -> None:
    agent = new_agent(**changes)
    before = copies(agent.state_dict())
    for seed in range(2):
        metrics = agent.meta_update([play(agent, seed)], generator=torch_generator(seed, CPU))
        assert all(np.isfinite(list(metrics.values())))
    after = agent.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    constant = {"optimizer.actor.learning_rate", "optimizer.critic.learning_rate"}
    constant |= {"actor.middle", "actor.half_range"}
    assert same == constant | (set() if "temperature" in changes else {"actor.log_temperature"})
    assert len(agent.replay) == 8


def test_an_update_follows_from_the_seed_of_its_generator() -> None:
    def updated(seed: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        agent = new_agent()
        metrics = agent.meta_update([play(agent)], generator=torch_generator(seed, CPU))
        return metrics, agent.state_dict()

    (metrics, ours), (same, theirs), (_, others) = updated(0), updated(0), updated(1)
    assert metrics == same
    assert metrics["tasks_in_replay"] == SLOTS
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    weight = "critic.encoder.layers.0.weight"
    assert not torch.equal(ours[weight], others[weight])


@pytest.mark.parametrize("temperature", [1.0, "auto"])
def test_saved_and_loaded_it_goes_on_bit_for_bit(temperature: float | str) -> None:
    agent, twin = new_agent(temperature=temperature), new_agent(temperature=temperature)
    agent.meta_update([play(agent)], generator=torch_generator(0, CPU))
    twin.load_state_dict(copies(agent.state_dict()))
    assert len(twin.replay) == SLOTS
    learned = [
        each.meta_update([play(each, 1)], generator=torch_generator(1, CPU))
        for each in (agent, twin)
    ]
    assert learned[0] == learned[1]
    ours, theirs = agent.state_dict(), twin.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert ours["replay.added"] == 2 * SLOTS


def test_targets_start_as_the_q_functions_and_follow_them() -> None:
    agent = new_agent(gradient_steps=1, target_rate=0.25)
    start = copies(agent.target_q.state_dict())
    q = agent.critic.q.state_dict()
    assert all(torch.equal(start[name], q[name]) for name in q)
    agent.meta_update([play(agent)], generator=torch_generator(0, CPU))
    for name, target in agent.target_q.state_dict().items():
        torch.testing.assert_close(target, 0.75 * start[name] + 0.25 * q[name])


@pytest.mark.parametrize(
    "actions",
    [
        spaces.Discrete(3),
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        spaces.Box(np.array([-1, -np.inf], np.float32), np.ones(2, np.float32)),
        spaces.Box(np.full(2, -1, np.float32), np.array([1, np.inf], np.float32)),
        spaces.Box(-3e38, 3e38, (2,), np.float32),  # an infinite range
        spaces.Box(np.zeros(2, np.float32), np.array([1, 0], np.float32)),
    ],
    ids=str,
)
def test_only_actions_within_finite_bounds_can_be_squashed(actions: Any) -> None:
    with pytest.raises(UserError, match="pearl needs continuous actions within finite bounds"):
        PEARLConfig().build(OBS, actions, seed=0, device=CPU)


def test_a_trial_has_at_least_the_episodes_of_the_prior() -> None:
    def check(episodes: int) -> None:
        config = PEARLConfig(prior_episodes=3)
        shape = config.trial_shape(episodes)
        config.check_training(shape, horizon=HORIZON, num_tasks=1, num_classes=1)

    check(3)
    with pytest.raises(UserError, match=r"prior_episodes 3 is more than .*episodes_per_trial 2"):
        check(2)
