"""VariBAD's belief and its objective against torch.distributions, loops and numbers by hand."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.varibad import (
    Belief,
    Decoder,
    VariBAD,
    VariBADConfig,
    kl_from_previous,
    negative_elbo,
)
from envs.bandit import BanditConfig
from envs.navigation import PointConfig
from metarl.errors import UserError
from metarl.nn.distributions import DiagonalGaussian
from metarl.nn.memories import MemoryKind
from metarl.rollout.trial import run_trial
from metarl.system.seeding import torch_generator
from metarl.types import Rollout, TimeStep, TrialShape

CPU = torch.device("cpu")
SLOTS, EPISODES, HORIZON = 5, 3, 6
STEPS = EPISODES * HORIZON
POINT = PointConfig(horizon=HORIZON, num_train_tasks=50)
BANDIT = BanditConfig(num_arms=3, num_train_tasks=50)
MEMORIES = get_args(MemoryKind)


def new_agent(*, env: Any = POINT, **changes: Any) -> VariBAD:
    values = {"hidden_size": 16, "encoder_sizes": (8,), "policy_sizes": (8,), "latent_size": 3}
    values |= {"decoder_sizes": (8,), "vae_updates": 2, "replay_trials": 8, "vae_batch_size": 4}
    values |= {"layers": 2} if changes.get("memory") == "mixed" else {}
    slots = env.build().make_env(1)
    return VariBADConfig(**values | changes).build(
        slots.single_observation_space, slots.single_action_space, seed=0, device=CPU
    )


def play(agent: VariBAD, seed: int = 0, *, env: Any = POINT, greedy: bool = False) -> Rollout:
    distribution = env.build()
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


def opinionated(agent: VariBAD) -> VariBAD:
    """The agent with beliefs that differ from the prior, and from one step to the next."""
    nn.init.normal_(agent.encoder.posterior.weight, generator=torch_generator(3, CPU))
    return agent


def changed(tensor: Tensor, step: int) -> Tensor:
    """The tensor with other numbers at one step."""
    other = tensor.clone()
    other[:, step] += 1.0
    return other


def at(seen: TimeStep, step: int) -> TimeStep:
    return seen.map(lambda x: x[:, step])


def copies(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def random_beliefs(*, slots: int = 2, steps: int = 4, latent: int = 3) -> Belief:
    generator = torch.Generator().manual_seed(0)
    mean, log_std = torch.randn(2, slots, steps, latent, generator=generator, dtype=torch.float64)
    return Belief(mean, log_std / 2)


# -- the objective ---------------------------------------------------------------------------------


def normal(belief: Belief, slot: int, step: int) -> torch.distributions.Normal:
    return torch.distributions.Normal(belief.mean[slot, step], belief.log_std[slot, step].exp())


def before(belief: Belief, slot: int, step: int) -> torch.distributions.Normal:
    """The posterior of the previous step; N(0, 1) before the first."""
    zero = torch.zeros_like(belief.mean[slot, step])
    return normal(belief, slot, step - 1) if step else torch.distributions.Normal(zero, zero + 1)


def test_kl_is_from_each_posterior_to_the_previous_one() -> None:
    belief = random_beliefs()
    found = kl_from_previous(belief)
    for slot, step in np.ndindex(2, 4):
        theirs = torch.distributions.kl_divergence(
            normal(belief, slot, step), before(belief, slot, step)
        )
        torch.testing.assert_close(found[slot, step], theirs.sum())


def test_kl_is_the_mean_log_ratio_of_draws() -> None:
    """A Monte Carlo estimate, in nats; in the other direction it would be another number."""
    belief, draws = random_beliefs(slots=1, steps=3), 40_000
    found = kl_from_previous(belief)
    generator = torch_generator(1, CPU)
    for step in range(3):
        one = Belief(belief.mean[0, step], belief.log_std[0, step])
        drawn = Belief(one.mean.expand(draws, -1), one.log_std.expand(draws, -1)).sample(generator)
        ratio = normal(belief, 0, step).log_prob(drawn) - before(belief, 0, step).log_prob(drawn)
        ratio = ratio.sum(-1)
        assert abs(ratio.mean() - found[0, step]) < 4 * ratio.std() / draws**0.5
        backwards = torch.distributions.kl_divergence(
            before(belief, 0, step), normal(belief, 0, step)
        )
        assert abs(backwards.sum() - found[0, step]) > 8 * ratio.std() / draws**0.5


@pytest.mark.parametrize("transitions", [False, True])
def test_the_negative_elbo_is_a_loop_over_trials_and_posteriors(transitions: bool) -> None:
    """With all steps decoded it is −ELBO_t: the sum over a trial's steps, and the KL."""
    num_trials, terms, num_steps, kl_coef = 2, 3, 4, 0.3
    generator = torch.Generator().manual_seed(0)
    rewards, obs = torch.rand(2, num_trials, terms, num_steps, generator=generator)
    kl = torch.rand(num_trials, terms, generator=generator)
    total = 0.0
    for trial, term in np.ndindex(num_trials, terms):
        elbo = -kl_coef * kl[trial, term].item()
        for step in range(num_steps):
            elbo -= rewards[trial, term, step].item()
            elbo -= obs[trial, term, step].item() if transitions else 0
        total -= elbo
    found = negative_elbo(
        rewards, obs if transitions else None, kl, num_steps=num_steps, kl_coef=kl_coef
    )
    assert found.item() == pytest.approx(total / (num_trials * terms), rel=1e-6)


def test_the_sum_over_steps_is_estimated_from_those_that_were_decoded() -> None:
    """In expectation a subset gives what all steps give: here the mean over all pairs of steps."""
    errors = torch.tensor([1.0, 10.0, 100.0, 1000.0]).expand(2, 3, 4)
    nothing = torch.zeros(2, 3)
    whole = negative_elbo(errors, None, nothing, num_steps=4, kl_coef=1.0)
    pairs = [
        negative_elbo(errors[..., [i, j]], None, nothing, num_steps=4, kl_coef=1.0)
        for i, j in np.ndindex(4, 4)
        if i != j
    ]
    assert whole.item() == 1111
    assert torch.stack(pairs).mean().item() == pytest.approx(1111)


@pytest.mark.parametrize("sizes", [(8,), (8, 6, 4)], ids=str)
def test_the_decoder_is_a_network_on_latent_vector_and_step_side_by_side(
    sizes: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    decoder = Decoder(3, 5, sizes, outputs=2)
    nn.init.normal_(decoder.of_latent.bias)
    together = nn.Linear(3 + 5, sizes[0])
    together.weight.data = torch.cat([decoder.of_latent.weight, decoder.of_step.weight], dim=1)
    together.bias.data = decoder.of_latent.bias
    latent, steps = torch.randn(2, 4, 3), torch.randn(2, 6, 5)
    found = decoder(latent, steps)
    assert found.shape == (2, 4, 6, 2)
    for trial, term, step in np.ndindex(2, 4, 6):
        hidden = together(torch.cat([latent[trial, term], steps[trial, step]])).relu()
        torch.testing.assert_close(found[trial, term, step], decoder.rest(hidden))


@pytest.mark.parametrize("transitions", [False, True])
def test_the_loss_decodes_the_whole_trial_from_the_posterior_of_each_step(
    monkeypatch: pytest.MonkeyPatch, transitions: bool
) -> None:
    """A loop over trials, posteriors and steps; the latent vectors are the posteriors' means."""
    agent = opinionated(new_agent(decode_transitions=transitions, reward_scale=2.0, kl_coef=0.7))
    rollout = play(agent, env=PointConfig(horizon=2, num_train_tasks=50))
    num_steps = 2 * EPISODES
    agent.meta_update([rollout], generator=torch_generator(0, CPU))  # moves the normalizer
    monkeypatch.setattr(DiagonalGaussian, "sample", lambda self, _: self.mean)
    seen, steps = agent.replay.trials(torch.tensor([3, 1]))
    loss, metrics = agent._vae_loss(seen, steps, generator=torch_generator(0, CPU))
    belief = Belief(*(x[[3, 1]] for x in vars(agent.beliefs([rollout])).values()))
    kl = kl_from_previous(belief)
    normalizer = agent.encoder.normalizer
    mean, std = normalizer.mean[:2].float(), normalizer.std[:2].float()
    errors: dict[str, list[Tensor]] = {"reward": [], "transition": []}
    for slot, term, step in np.ndindex(2, num_steps, num_steps):
        latent = belief.mean[slot, term][None, None]
        obs = (steps.obs[slot, step] - mean) / std
        next_obs = (steps.next_obs[slot, step] - mean) / std
        action = steps.action[slot, step]
        inputs = torch.cat([obs, action, next_obs])[None, None]
        predicted = agent.vae["rewards"](latent, inputs).squeeze()
        errors["reward"].append((predicted - 2 * steps.reward[slot, step]) ** 2)
        if transitions:
            inputs = torch.cat([obs, action])[None, None]
            predicted = agent.vae["transitions"](latent, inputs)[0, 0, 0]
            errors["transition"].append(((predicted - next_obs) ** 2).mean())
    means = {name: torch.stack(each).mean() for name, each in errors.items() if each}
    by_hand = num_steps * sum(means.values()) + 0.7 * kl.mean()
    torch.testing.assert_close(loss.detach(), by_hand, rtol=1e-5, atol=1e-5)
    for name, each in means.items():
        torch.testing.assert_close(metrics[f"{name}_error"], each, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(metrics["belief_kl"], kl.sum(1).mean())
    torch.testing.assert_close(metrics["belief_std"], belief.log_std[:, -1].exp().mean())


def test_terms_and_decoded_steps_are_drawn_anew_and_have_the_loss_as_their_mean() -> None:
    agent = new_agent(elbo_terms=4, decoded_steps=3)
    rollout = play(agent)
    agent.meta_update([rollout], generator=torch_generator(0, CPU))
    sampled = agent.replay.trials(torch.arange(4))
    generator = torch_generator(0, CPU)
    with torch.no_grad():
        # Beliefs that are certain, so that only the choice of steps is random.
        agent.encoder.posterior.bias[agent.config.latent_size :] = -10.0
        some = torch.stack([agent._vae_loss(*sampled, generator=generator)[0] for _ in range(200)])
        agent.config = agent.config.model_copy(update={"elbo_terms": 99, "decoded_steps": 99})
        whole, _ = agent._vae_loss(*sampled, generator=generator)
    assert some.std() > 0
    assert abs(some.mean() - whole) < 4 * some.std() / 200**0.5


# -- the belief ------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_belief_starts_as_nearly_the_prior(memory: str) -> None:
    agent = new_agent(memory=memory)
    belief = agent.beliefs([play(agent)])
    assert belief.mean.shape == (SLOTS, STEPS, 3)
    assert belief.mean.abs().max() < 0.1
    assert belief.log_std.abs().max() < 0.1
    assert 0 < kl_from_previous(belief).mean() < 0.01


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("step", [0, 4, HORIZON, STEPS - 1])
def test_a_posterior_knows_nothing_of_later_steps(memory: str, step: int) -> None:
    agent = opinionated(new_agent(memory=memory))
    rollout = play(agent)
    seen = rollout.seen
    belief = agent.beliefs([rollout])
    for name in ("obs", "prev_reward", "prev_action"):
        other = replace(seen, **{name: changed(getattr(seen, name), step)})
        there = agent.beliefs([replace(rollout, seen=other)])
        assert torch.equal(there.mean[:, :step], belief.mean[:, :step])
        assert torch.equal(there.log_std[:, :step], belief.log_std[:, :step])
        # The posterior of the step itself knows it, as do those of all later steps and episodes.
        assert ((there.mean - belief.mean)[:, step:].abs().amax((0, 2)) > 1e-5).all()


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("memory", MEMORIES)
def test_acting_step_by_step_has_the_beliefs_of_the_whole_trial(memory: str) -> None:
    agent = opinionated(new_agent(memory=memory))
    rollout = play(agent)
    shown: list[Belief] = []
    agent.encoder.register_forward_hook(lambda module, args, output: shown.append(output[0]))
    state = agent.begin_trial(SLOTS)
    for step in range(STEPS):
        _, _, state = agent.act(state, at(rollout.seen, step), generator=None)
    belief = Belief(*(torch.cat([getattr(b, n) for b in shown], 1) for n in ("mean", "log_std")))
    whole = agent.beliefs([rollout])
    assert whole.mean.dtype == torch.float64
    torch.testing.assert_close(belief.mean, whole.mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(belief.log_std, whole.log_std, rtol=0, atol=1e-10)
    assert whole.mean.std(1).min() > 1e-3  # they differ from step to step


def test_the_belief_is_carried_over_episodes_and_not_over_trials() -> None:
    agent = opinionated(new_agent())
    first, second = play(agent), play(agent)
    assert torch.equal(first.action, second.action)  # nothing is left of the first trial
    step = at(first.seen, HORIZON)
    assert step.episode_start.all()
    fresh, _ = agent.encoder(step.map(lambda x: x[:, None]), agent.begin_trial(SLOTS))
    carried = agent.beliefs([first]).mean[:, HORIZON]
    assert (carried - fresh.mean[:, 0]).abs().max() > 0.01
    state = agent.begin_trial(SLOTS)
    assert agent.adapt(state, first) is state


def test_without_a_generator_the_mode_is_played() -> None:
    agent = opinionated(new_agent())
    first, second = play(agent, greedy=True), play(agent, greedy=True)
    assert torch.equal(first.action, second.action)
    features = agent.policy.features(first.seen.obs, agent.beliefs([first]))
    torch.testing.assert_close(first.action, agent.policy(features)[0].mode().detach())


# -- the policy ------------------------------------------------------------------------------------


def test_policy_gradients_do_not_reach_the_encoder() -> None:
    agent = opinionated(new_agent())
    rollout, vae, policy = play(agent), copies(agent.vae), copies(agent.policy)
    agent._learn_to_act(rollout, torch_generator(0, CPU))
    assert all(p.grad is None for p in agent.vae.parameters())
    assert all(torch.equal(vae[name], tensor) for name, tensor in agent.vae.state_dict().items())
    assert not torch.equal(policy["actor.0.weight"], agent.policy.state_dict()["actor.0.weight"])


def test_the_loss_of_encoder_and_decoders_does_not_change_the_policy() -> None:
    agent = new_agent(decode_transitions=True)
    agent.meta_update([play(agent)], generator=torch_generator(0, CPU))
    for parameter in agent.policy.parameters():
        parameter.grad = None
    policy, vae, normalizer = copies(agent.policy), copies(agent.vae), agent.values.state_dict()
    normalizer = {name: tensor.clone() for name, tensor in normalizer.items()}
    agent._learn_to_infer(torch_generator(0, CPU))
    assert all(p.grad is None for p in agent.policy.parameters())
    assert all(torch.equal(policy[name], t) for name, t in agent.policy.state_dict().items())
    assert all(torch.equal(normalizer[name], t) for name, t in agent.values.state_dict().items())
    moved = {n for n, tensor in agent.vae.state_dict().items() if not torch.equal(vae[n], tensor)}
    assert moved == {name for name, _ in agent.vae.named_parameters()}


def test_the_first_pass_sees_the_policy_that_acted() -> None:
    """Beliefs and normalizers are still those of acting, so all probability ratios are 1."""
    agent = opinionated(new_agent(epochs=1, num_minibatches=1))
    for seed in range(2):
        rollout = play(agent, seed)
        metrics = agent.meta_update([rollout], generator=torch_generator(seed, CPU))
        assert abs(metrics["kl"]) < 1e-6
        assert metrics["clipped"] == 0
    assert agent.policy.normalizer.count == 2 * SLOTS * STEPS
    assert agent.encoder.normalizer is not None
    assert agent.encoder.normalizer.count == 2 * SLOTS * STEPS


def test_returns_reach_across_episodes_and_end_with_the_trial() -> None:
    """The value targets with λ = 1: discounted sums of scaled rewards to the end of the trial."""
    agent = new_agent(
        discount=0.9, gae_lambda=1.0, reward_scale=3.0, normalize_values=False, epochs=1
    )
    rollout = play(agent)
    given: list[Tensor] = []
    agent.values.update = given.append  # called with the returns
    agent._learn_to_act(rollout, torch_generator(0, CPU))
    powers = 3 * 0.9 ** torch.arange(STEPS)
    by_hand = torch.stack(
        [(rollout.reward[:, t:] * powers[: STEPS - t]).sum(1) for t in range(STEPS)], dim=1
    )
    torch.testing.assert_close(given[0], by_hand, rtol=1e-4, atol=1e-5)


def test_a_hypernetwork_starts_without_the_belief_and_learns_to_use_it() -> None:
    agent = opinionated(new_agent(policy="hypernetwork", learning_rate=0.01))
    obs = torch.randn(4, 2, generator=torch_generator(0, CPU))
    beliefs = [Belief(x, x / 2) for x in torch.randn(2, 4, 3, generator=torch_generator(1, CPU))]

    def means() -> list[Tensor]:
        with torch.no_grad():
            features = [agent.policy.features(obs, belief) for belief in beliefs]
            return [agent.policy(each)[0].mode() for each in features]

    one, other = means()
    assert torch.equal(one, other)
    assert one.std(0).min() > 0  # it depends on the observation
    for seed in range(2):
        agent.meta_update([play(agent, seed)], generator=torch_generator(seed, CPU))
    one, other = means()
    assert (one - other).abs().max() > 1e-3


# -- updates ---------------------------------------------------------------------------------------


def test_an_update_follows_from_the_seed_of_its_generator() -> None:
    def updated(seed: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        agent = new_agent()
        metrics = agent.meta_update([play(agent)], generator=torch_generator(seed, CPU))
        return metrics, agent.state_dict()

    (metrics, ours), (same, theirs), (_, others) = updated(0), updated(0), updated(1)
    assert metrics == same
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    weight = "vae.encoder.posterior.weight"
    assert not torch.equal(ours[weight], others[weight])


VARIANTS = [
    {"memory": "retention", "decode_transitions": True},
    {"policy": "hypernetwork", "env": BANDIT},
    {"env": BANDIT, "memory": "lstm"},
    {"elbo_terms": 3, "decoded_steps": 2, "encoder_sizes": ()},
    {"value_loss": "two_hot", "normalize_advantages": "trial"},
    {"learn_std": False, "normalize_values": False, "policy_sizes": (8, 8)},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_variant_learns_something_finite(changes: dict[str, Any]) -> None:
    agent, env = new_agent(**changes), changes.get("env", POINT)
    before = copies(agent.policy) | copies(agent.vae)
    for seed in range(2):
        rollout = play(agent, seed, env=env)
        metrics = agent.meta_update([rollout], generator=torch_generator(seed, CPU))
        assert all(np.isfinite(list(metrics.values())))
    after = copies(agent.policy) | copies(agent.vae)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == ({"log_std"} if "learn_std" in changes or env is BANDIT else set())
    assert len(agent.replay) == 8


def test_encoder_and_decoders_learn_from_the_replay() -> None:
    """The mean error of predicted rewards, over gradient steps, falls below half their variance."""
    agent = new_agent(vae_updates=50, vae_learning_rate=0.02, kl_coef=0.01)
    rollout = play(agent)
    agent.meta_update([rollout], generator=torch_generator(0, CPU))
    first, second = (agent._learn_to_infer(torch_generator(seed, CPU)) for seed in (1, 2))
    assert second["reward_error"] < first["reward_error"]
    assert second["reward_error"] < rollout.reward.var().item() / 2


def test_saved_and_loaded_it_goes_on_bit_for_bit() -> None:
    agent, twin = new_agent(learning_rate_decay=0.9), new_agent(learning_rate_decay=0.9)
    agent.meta_update([play(agent)], generator=torch_generator(0, CPU))
    twin.load_state_dict({name: t.clone() for name, t in agent.state_dict().items()})
    assert len(twin.replay) == SLOTS
    learned = [
        each.meta_update([play(each, 1)], generator=torch_generator(1, CPU))
        for each in (agent, twin)
    ]
    assert learned[0] == learned[1]
    ours, theirs = agent.state_dict(), twin.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert ours["optimizer.policy.learning_rate"] == pytest.approx(7e-4 * 0.81)
    assert ours["replay.added"] == 2 * SLOTS


def test_one_step_alone_cannot_be_normalized() -> None:
    def check(tasks: int, **changes: Any) -> None:
        config = VariBADConfig(**changes)
        config.check_training(config.trial_shape(1), horizon=1, num_tasks=tasks, num_classes=1)

    check(2)
    with pytest.raises(UserError, match="one step has no deviation"):
        check(1)
    with pytest.raises(UserError, match="one step has no deviation"):
        check(2, normalize_advantages="trial")
