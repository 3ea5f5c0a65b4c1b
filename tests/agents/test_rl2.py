"""RL²'s update against whole-sequence autograd and numbers by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.rl2 import RL2, Chunks, RL2Config, cut
from envs.bandit import BanditConfig
from envs.navigation import PointConfig
from metarl.errors import UserError
from metarl.learning.ppo import clipped_surrogate, kl_from_acting, normalized, ppo_loss
from metarl.learning.values import value_error
from metarl.nn.distributions import Categorical
from metarl.rollout.trial import run_trial, trial_in_parts
from metarl.system.seeding import torch_generator
from metarl.types import Rollout, TrialShape

CPU = torch.device("cpu")
SLOTS, EPISODES, HORIZON = 6, 3, 8
STEPS = EPISODES * HORIZON
NOTHING = torch.zeros(SLOTS)


def new_agent(**changes: Any) -> RL2:
    values = {"hidden_size": 16, "encoder_sizes": (8,), "chunk_length": 8, **changes}
    values |= {"layers": 2} if values.get("memory") == "mixed" else {}
    config = RL2Config(**values)
    return config.build(
        spaces.Box(-np.inf, np.inf, (2,), np.float64),
        spaces.Box(-0.1, 0.1, (2,), np.float32),
        seed=0,
        device=CPU,
    )


def play(agent: RL2, seed: int = 0) -> Rollout:
    distribution = PointConfig(horizon=HORIZON, num_train_tasks=50).build()
    env = distribution.make_env(SLOTS)
    tasks = distribution.train.sample(SLOTS, np.random.default_rng(seed))
    (rollout,) = run_trial(
        agent,
        env,
        tasks,
        shape=TrialShape(episodes=EPISODES),
        seed=0,
        generator=torch_generator(seed, CPU),
    )
    return rollout


@pytest.mark.parametrize("memory", ["gru", "lstm"])
def test_memory_is_carried_through_the_trial_and_starts_empty(memory: str) -> None:
    agent = new_agent(memory=memory)
    first, second = play(agent), play(agent)
    # The same trial again: nothing is left from the first one.
    assert torch.equal(first.action, second.action)
    states, _, _ = agent._replay(first, HORIZON)
    assert not states[:, 0].any()
    # At the start of an episode the memory is that of the previous episode, not empty.
    _, _, carried = agent.network(
        first.seen.map(lambda x: x[:, :HORIZON]), agent.begin_trial(SLOTS)
    )
    torch.testing.assert_close(states[:, 1], carried)
    assert carried.abs().max() > 1e-3


@pytest.mark.parametrize("memory", ["gru", "lstm"])
@pytest.mark.parametrize("chunk_length", [4, 8, STEPS])
def test_chunks_see_what_the_acting_policy_saw(memory: str, chunk_length: int) -> None:
    """With stored memory, log-probabilities equal those of acting, so all ratios are 1."""
    agent = new_agent(memory=memory)
    rollout = play(agent)
    states, _, _ = agent._replay(rollout, chunk_length)
    policy, _, _ = agent.network(
        rollout.seen.map(lambda x: cut(x, chunk_length)), states.flatten(0, 1)
    )
    torch.testing.assert_close(
        policy.log_prob(cut(rollout.action, chunk_length)), cut(rollout.log_prob, chunk_length)
    )


def test_cut_keeps_slots_and_steps_in_order() -> None:
    numbered = torch.arange(12).view(2, 6)
    assert cut(numbered, 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_advantages_reach_across_episodes_and_end_with_the_trial() -> None:
    agent = new_agent(discount=0.9, gae_lambda=1.0, normalize_values=False)
    rollout = play(agent)
    value = torch.zeros_like(rollout.reward)
    advantage, returns = agent._advantages(rollout, value, NOTHING)
    # With λ = 1 and no value, an advantage is the discounted sum of rewards to the end of the
    # trial.
    powers = 0.9 ** torch.arange(STEPS)
    by_hand = torch.stack(
        [(rollout.reward[:, t:] * powers[: STEPS - t]).sum(1) for t in range(STEPS)], dim=1
    )
    torch.testing.assert_close(returns, by_hand)
    torch.testing.assert_close(advantage, by_hand)


def test_rewards_are_scaled_before_returns() -> None:
    rollout = play(new_agent())
    value = torch.zeros_like(rollout.reward)
    plain = new_agent(reward_scale=1.0)._advantages(rollout, value, NOTHING)[1]
    scaled = new_agent(reward_scale=0.25)._advantages(rollout, value, NOTHING)[1]
    torch.testing.assert_close(scaled, plain / 4)


def chunks_of(agent: RL2, rollout: Rollout, advantage: torch.Tensor, length: int) -> Chunks:
    states, _, _ = agent._replay(rollout, length)
    return Chunks(
        seen=rollout.seen.map(lambda x: cut(x, length)),
        memory=states.flatten(0, 1),
        action=cut(rollout.action, length),
        log_prob=cut(rollout.log_prob, length),
        advantage=cut(advantage, length),
        returns=cut(advantage, length),
        reward=cut(rollout.reward, length),
    )


def test_the_losses_by_hand() -> None:
    ratio, advantage = torch.tensor([[2.0, 1.0, 0.5]]), torch.tensor([[3.0, 1.0, -6.0]])
    # min(2 · 3, 1.2 · 3), 1, and min(−½ · 6, −0.8 · 6)
    found = clipped_surrogate(ratio, advantage, clip=0.2)
    torch.testing.assert_close(found, torch.tensor((3.6 + 1 - 4.8) / 3))
    assert value_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 2.0]])).item() == 1.0
    # Probabilities were ½ when acting and are ¼ and ¾ now; KL = ½ log (½ / ¼) + ½ log (½ / ¾).
    estimate = kl_from_acting(torch.tensor([[0.5, 1.5]]).log())
    torch.testing.assert_close(estimate, 0.5 * torch.tensor(2.0 * 2 / 3).log())


def test_the_first_gradient_is_the_policy_gradient() -> None:
    """If all ratios are 1, the gradient of the clipped surrogate is the policy gradient, and a
    chunk as long as the trial gives that of the whole sequence."""
    agent = new_agent(value_coef=0.0)
    rollout = play(agent)
    advantage = torch.randn(SLOTS, STEPS, generator=torch.Generator().manual_seed(0))
    loss, metrics = agent._loss(chunks_of(agent, rollout, advantage, STEPS))
    loss.backward()
    ours = [p.grad.clone() for p in agent.network.memory.parameters()]
    agent.network.zero_grad()
    policy, _, _ = agent.network(rollout.seen, agent.begin_trial(SLOTS))
    (policy.log_prob(rollout.action) * advantage).mean().neg().backward()
    for gradient, parameter in zip(ours, agent.network.memory.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)
    assert metrics["kl"].abs() < 1e-6
    assert metrics["clipped"] == 0


def test_the_clip_stops_the_gradient_of_a_ratio_that_went_too_far() -> None:
    agent = new_agent(value_coef=0.0, clip=0.2)
    rollout = play(agent)
    one = torch.ones(SLOTS, STEPS)
    chunks = chunks_of(agent, rollout, one, STEPS)
    # The policy now gives every action e times its probability when acting.
    further = replace(chunks, log_prob=chunks.log_prob - 1)
    loss, metrics = agent._loss(further)
    loss.backward()
    assert loss.item() == pytest.approx(-1.2)
    assert metrics["clipped"] == 1
    assert not agent.network.policy_head.weight.grad.any()


def test_advantages_are_divided_by_the_standard_deviation() -> None:
    """Not by the variance, as in another code base."""
    agent = new_agent(epochs=1, num_minibatches=1)
    rollout = play(agent)
    given: list[torch.Tensor] = []
    loss = agent._loss
    agent._loss = lambda chunks: (given.append(chunks.advantage), loss(chunks))[1]
    raw, _ = agent._advantages(rollout, *agent._replay(rollout, HORIZON)[1:])
    agent.meta_update([rollout], generator=torch_generator(0, CPU))
    assert given[0].std().item() == pytest.approx(1, abs=1e-4)
    assert raw.std().item() != pytest.approx(1, abs=0.01)
    expected = ((raw - raw.mean()) / raw.std()).flatten().sort().values
    torch.testing.assert_close(given[0].flatten().sort().values, expected, rtol=1e-4, atol=1e-5)


def test_advantages_of_a_trial_can_count_as_much_as_those_of_any_other() -> None:
    advantage = torch.tensor([[1.0, 2.0, 3.0], [100.0, 200.0, 300.0]])
    each = normalized(advantage, each_trial=True)
    torch.testing.assert_close(each, torch.tensor([[-1.0, 0.0, 1.0]] * 2))
    together = normalized(advantage, each_trial=False)
    assert together[0].std().item() == pytest.approx(0.01 * together[1].std().item(), rel=1e-4)


def test_the_value_head_may_predict_signed_square_roots() -> None:
    agent = new_agent(root_values=True, normalize_values=False)
    returns = torch.tensor([-8.0, 0.0, 3.0, 99.0])
    roots = torch.tensor([-2.0, 0.0, 1.0, 9.0])
    torch.testing.assert_close(agent.values.returns_of(roots[:, None]), returns)
    assert agent.values.loss(roots[:, None], returns) == 0
    normalized = new_agent(root_values=True)
    normalized.values.update(returns)  # mean 2, variance 17.5
    outputs = (roots - 2)[:, None] / 17.5**0.5
    torch.testing.assert_close(normalized.values.returns_of(outputs), returns)
    assert normalized.values.loss(outputs, returns) < 1e-10
    assert normalized.values.loss(outputs + 1, returns).item() == pytest.approx(0.5)


def test_normalizers_move_only_after_the_update() -> None:
    agent = new_agent(epochs=1, num_minibatches=1)
    rollout = play(agent)
    metrics = agent.meta_update([rollout], generator=torch_generator(0, CPU))
    # In the only pass, the policy was still exactly the one that acted.
    assert abs(metrics["kl"]) < 1e-6
    assert agent.network.normalizer.count == SLOTS * STEPS
    torch.testing.assert_close(
        agent.network.normalizer.mean[:2], rollout.seen.obs.double().mean((0, 1))
    )


def test_passes_stop_when_the_policy_moved_too_far() -> None:
    agent = new_agent(epochs=10, max_kl=1e-4, learning_rate=0.01)
    metrics = agent.meta_update([play(agent)], generator=torch_generator(0, CPU))
    assert metrics["epochs"] < 10
    assert metrics["kl"] > 1e-4


def test_a_fixed_standard_deviation_stays() -> None:
    agent = new_agent(learn_std=False, initial_std=0.3)
    agent.meta_update([play(agent)], generator=torch_generator(0, CPU))
    torch.testing.assert_close(agent.network.log_std.exp(), torch.full((2,), 0.3))


VARIANTS = [
    {"baseline": "linear"},
    {"memory": "lstm"},
    {"normalize_inputs": False, "normalize_values": False},
    {"normalize_obs": False},
    {"normalize_advantages": "trial", "root_values": True},
    {"prediction_coef": 0.5, "reenter": True},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_variant_learns_something_finite(changes: dict) -> None:
    agent = new_agent(**changes)
    before = agent.network.policy_head.weight.clone()
    metrics = agent.meta_update([play(agent)], generator=torch_generator(0, CPU))
    assert all(np.isfinite(list(metrics.values())))
    assert not torch.equal(before, agent.network.policy_head.weight)


def test_linear_baseline_takes_the_place_of_the_value_head() -> None:
    agent = new_agent(baseline="linear", gae_lambda=1.0, discount=1.0)
    rollout = play(agent)
    advantage, returns = agent._advantages(rollout, torch.full_like(rollout.reward, 1e6), NOTHING)
    whole = rollout.reward.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns, whole, rtol=1e-4, atol=1e-4)
    # Residuals of a fit per trial have mean 0 and less spread than the returns.
    assert advantage.mean(1).abs().max() < 0.05
    assert advantage.std() < whole.std()


def test_the_error_of_predicted_rewards_is_added_to_the_loss() -> None:
    agent = new_agent(prediction_coef=3.0)
    rollout = play(agent)
    agent.network.update_normalizers(rollout)
    chunks = chunks_of(agent, rollout, torch.zeros(SLOTS, STEPS), STEPS)
    loss, metrics = agent._loss(chunks)
    read, _, _ = agent.network.read(rollout.seen, agent.begin_trial(SLOTS))
    reward = (rollout.reward - rollout.reward.mean()) / rollout.reward.std(correction=0)
    error = (agent.network.reward_head(read, rollout.action) - reward).square().mean()
    torch.testing.assert_close(metrics["reward_error"], error.detach())
    agent.config = agent.config.model_copy(update={"prediction_coef": 0.0})
    torch.testing.assert_close(loss, agent._loss(chunks)[0] + 3 * error)


def test_rewards_of_a_task_are_predicted_once_they_were_seen() -> None:
    """Two arms pay 1 and 0, or 0 and 1: after the first pull the memory can know what pays."""
    agent = RL2Config(
        memory="retention", hidden_size=16, encoder_sizes=(), prediction_coef=1.0,
        learning_rate=5e-3, epochs=5, num_minibatches=1,
    ).build(spaces.Box(0, 0, (1,)), spaces.Discrete(2), seed=0, device=CPU)  # fmt: skip
    distribution = BanditConfig(num_arms=2, arms="dependent", num_train_tasks=64).build()
    errors = []
    for seed in range(40):
        tasks = distribution.train.sample(64, np.random.default_rng(seed))
        (rollout,) = run_trial(
            agent, distribution.make_env(64), tasks, shape=TrialShape(episodes=16), seed=seed,
            generator=torch_generator(seed, CPU),
        )  # fmt: skip
        metrics = agent.meta_update([rollout], generator=torch_generator(seed, CPU))
        errors.append(metrics["reward_error"])
    # Rewards vary by ¼ in all, and by p (1 − p), which is ⅙ on average, once p is known.
    assert np.mean(errors[-5:]) < 0.92


def test_saved_and_loaded_it_goes_on_bit_for_bit() -> None:
    agent, twin = (
        new_agent(
            learning_rate_decay=0.9, entropy_coef=0.1, entropy_coef_decay=0.5, prediction_coef=0.5
        )
        for _ in range(2)
    )
    agent.meta_update([play(agent)], generator=torch_generator(0, CPU))
    twin.load_state_dict({name: t.clone() for name, t in agent.state_dict().items()})
    for each in (agent, twin):
        each.meta_update([play(each)], generator=torch_generator(1, CPU))
    ours, theirs = agent.state_dict(), twin.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert ours["optimizer.learning_rate"] == pytest.approx(5e-4 * 0.81)
    assert ours["optimizer.entropy_coef"] == pytest.approx(0.1 * 0.25)


def parts_of_a_trial(agent: RL2, steps: int | None) -> list[Rollout]:
    distribution = PointConfig(horizon=HORIZON, num_train_tasks=50).build()
    tasks = distribution.train.sample(SLOTS, np.random.default_rng(0))
    shape = TrialShape(episodes=EPISODES, rollout_steps=steps)
    parts = trial_in_parts(
        agent, distribution.make_env(SLOTS), tasks, shape=shape, seed=0,
        generator=torch_generator(0, CPU),
    )  # fmt: skip
    return [rollout for part in parts for rollout in part]


@pytest.mark.parametrize("memory", ["gru", "mixed", "transformer"])
def test_a_trial_in_parts_is_the_trial(memory: str) -> None:
    """Without updates in between, its parts equal the whole, and so do values and memory."""
    agent = new_agent(memory=memory)
    (whole,), parts = parts_of_a_trial(agent, None), parts_of_a_trial(agent, 10)
    joined = Rollout.one_after_another(parts)
    assert [rollout.reward.shape[1] for rollout in parts] == [10, 10, 4]
    for name in ("action", "log_prob", "reward", "episode_end", "success", "final_obs"):
        assert torch.equal(getattr(joined, name), getattr(whole, name)), name
    assert torch.equal(joined.seen.obs, whole.seen.obs)
    _, value, nothing = agent._replay(whole, STEPS)
    _, value_there, following = agent._replay(parts[1], 10)
    assert torch.equal(nothing, NOTHING)
    torch.testing.assert_close(value_there, value[:, 10:20])
    torch.testing.assert_close(following, value[:, 20])
    assert parts[0].first_state is None
    assert parts[2].following is None


def test_returns_go_on_with_the_value_where_a_trial_is_cut() -> None:
    agent = new_agent(gae_lambda=1.0, discount=0.5)
    first = parts_of_a_trial(agent, 10)[0]
    ends_with = torch.arange(SLOTS, dtype=torch.float32)
    _, returns = agent._advantages(first, torch.randn(SLOTS, 10), ends_with)
    torch.testing.assert_close(returns[:, -1], first.reward[:, -1] + 0.5 * ends_with)


def test_parts_must_divide_the_trial() -> None:
    shape = TrialShape(episodes=EPISODES, rollout_steps=7)
    with pytest.raises(UserError, match=r"rollout_steps 7 .* trial of 24 steps; .* is 6"):
        RL2Config().check_training(shape, horizon=HORIZON, num_tasks=1, num_classes=1)
    shape = TrialShape(episodes=EPISODES, rollout_steps=6)
    with pytest.raises(UserError, match=r"chunk_length 4 .* train\.rollout_steps of 6 steps"):
        RL2Config(chunk_length=4).check_training(shape, horizon=HORIZON, num_tasks=1, num_classes=1)


def test_parts_need_a_value_that_learns_and_more_than_one_step() -> None:
    def check(config: RL2Config, steps: int) -> None:
        shape = TrialShape(episodes=EPISODES, rollout_steps=steps)
        config.check_training(shape, horizon=HORIZON, num_tasks=2, num_classes=1)

    with pytest.raises(UserError, match=r"rollout_steps 48 is more than a trial of 24 steps"):
        check(RL2Config(), 48)
    with pytest.raises(UserError, match=r"needs agent\.baseline value"):
        check(RL2Config(baseline="linear"), 6)
    with pytest.raises(UserError, match="one step has no deviation"):
        check(RL2Config(normalize_advantages="trial"), 1)
    check(RL2Config(), 1)


def test_two_hot_values_start_at_zero_and_stay_near_returns() -> None:
    """Uniform over bins of up to three millions, whose probabilities cancel in pairs."""
    agent = new_agent(value_loss="two_hot", learning_rate=3e-3, epochs=3, num_minibatches=2)
    _, value, _ = agent._replay(play(agent), STEPS)
    assert value.abs().max() < 1e-3
    for _ in range(10):
        agent.meta_update([play(agent)], generator=torch_generator(0, CPU))
    _, value, _ = agent._replay(play(agent), STEPS)
    assert value.mean() < -1  # as returns, which are sums of negative distances
    assert value.abs().max() < 50


@pytest.mark.parametrize(
    "memory", ["gru", "lstm", "recurrence", "retention", "linear_attention", "transformer"]
)
def test_products_in_bfloat16_change_an_update_by_their_rounding_only(memory: str) -> None:
    agent = new_agent(memory=memory)
    rollout = play(agent)
    advantage = torch.randn(SLOTS, STEPS, generator=torch_generator(0, CPU))
    chunks = chunks_of(agent, rollout, advantage, STEPS)
    gradients = []
    for agent.bfloat16 in (False, True):
        agent.network.zero_grad()
        loss, _ = agent._loss(chunks)
        loss.backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in agent.network.parameters() if p.grad is not None])
        )
        assert all(p.dtype == torch.float32 for p in agent.network.parameters())
    exact, rounded = gradients
    # Retention normalizes a sum of both signs: where it is near 0, rounding turns its direction.
    bound = 0.25 if memory == "retention" else 0.03
    assert 0 < (rounded - exact).norm() < bound * exact.norm()


def test_chunks_must_divide_the_trial() -> None:
    def check(chunk_length: int) -> None:
        config = RL2Config(chunk_length=chunk_length)
        shape = config.trial_shape(EPISODES)
        config.check_training(shape, horizon=HORIZON, num_tasks=1, num_classes=1)

    with pytest.raises(UserError, match=r"chunk_length 7 .* trial of 24 steps; .* is 6"):
        check(chunk_length=7)
    check(chunk_length=100)


@pytest.mark.parametrize("learned", [False, True])
def test_the_standard_deviation_decays_to_its_bound(learned: bool) -> None:
    agent = new_agent(
        initial_std=0.5, std_decay=0.8, min_std=0.3, learn_std=learned, learning_rate=1e-6
    )
    found = [
        agent.meta_update([play(agent)], generator=torch_generator(0, CPU))["std"] for _ in range(5)
    ]
    assert found == pytest.approx([0.5, 0.4, 0.32, 0.3, 0.3], abs=1e-3)


def test_the_entropy_bonus_decays() -> None:
    agent = new_agent(entropy_coef=0.4, entropy_coef_decay=0.5)
    found = [
        agent.meta_update([play(agent)], generator=torch_generator(0, CPU))["entropy_coef"]
        for _ in range(3)
    ]
    assert found == pytest.approx([0.4, 0.2, 0.1])

    policy, zero = Categorical(torch.tensor([[0.0, 1.0, 2.0]])), torch.zeros(1)
    loss, metrics = ppo_loss(
        policy, None, action=torch.tensor([0]), log_prob=policy.log_prob(torch.tensor([0])),
        advantage=zero, returns=zero, targets=agent.values, optimizer=agent.optimizer,
        config=agent.config,
    )  # fmt: skip
    torch.testing.assert_close(loss, -0.05 * metrics["entropy"])


@pytest.mark.parametrize(
    ("settings", "actions", "message"),
    [
        ({}, spaces.Box(-1, 1, (2,)), "is for discrete actions"),
        ({"encoder_sizes": (4,)}, spaces.Discrete(2), r"needs agent.encoder_sizes \[\]"),
        ({"reenter": True}, spaces.Discrete(2), "needs agent.reenter false"),
        ({"head": "hypernetwork"}, spaces.Discrete(2), "head linear or mlp"),
    ],
)
def test_a_memory_for_each_action_needs_what_treats_actions_alike(
    settings: dict[str, Any], actions: spaces.Box | spaces.Discrete, message: str
) -> None:
    config = RL2Config(**{"per_action": True, "encoder_sizes": (), **settings})
    with pytest.raises(UserError, match=message):
        config.build(spaces.Box(-1, 1, (3,)), actions, seed=0, device=CPU)
