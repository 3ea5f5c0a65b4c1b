"""Normalization equals the statistics of all inputs; memory is per slot and exact."""

import dataclasses
from typing import get_args

import pytest
import torch
from gymnasium import spaces

from metarl.nn.heads import HeadKind
from metarl.nn.memories import MemoryKind
from metarl.nn.policies import RecurrentActorCritic, RunningNormalizer
from metarl.types import TimeStep

KINDS = get_args(MemoryKind)


def network(
    memory: MemoryKind = "gru",
    *,
    actions: spaces.Box | spaces.Discrete | None = None,
    normalize_obs: bool = True,
    reenter: bool = False,
    head: HeadKind = "linear",
    per_action: bool = False,
) -> RecurrentActorCritic:
    torch.manual_seed(0)
    return RecurrentActorCritic(
        spaces.Box(-1, 1, (3,)), actions or spaces.Box(-1, 1, (2,)), memory=memory,
        layers=2 if memory == "mixed" else 1, window=5, hidden_size=16,
        encoder_sizes=() if per_action else (6,),
        reenter=reenter, head=head, value_outputs=1, predict_rewards=per_action, initial_std=0.5,
        min_std=0.1, learn_std=True, normalize_inputs=True,
        normalize_obs=normalize_obs, per_action=per_action,
    )  # fmt: skip


def steps(slots: int, length: int) -> TimeStep:
    generator = torch.Generator().manual_seed(1)
    return TimeStep(
        obs=torch.randn(slots, length, 3, generator=generator),
        prev_action=torch.randn(slots, length, 2, generator=generator),
        prev_reward=torch.randn(slots, length, generator=generator),
        episode_start=torch.rand(slots, length, generator=generator) < 0.2,
    )


def test_normalizer_has_the_statistics_of_everything_shown() -> None:
    batches = [torch.randn(n, 4) * 2 + 1 for n in (5, 1, 30)]
    normalizer = RunningNormalizer(4)
    torch.testing.assert_close(normalizer(batches[0]), batches[0])
    for batch in batches:
        normalizer.update(batch)
    shown = torch.cat(batches).double()
    torch.testing.assert_close(normalizer.mean, shown.mean(0))
    torch.testing.assert_close(normalizer.variance, shown.var(0, correction=0))
    torch.testing.assert_close(normalizer.inverse(normalizer(batches[2])), batches[2])


def test_a_feature_that_never_changes_stays_finite() -> None:
    normalizer = RunningNormalizer(1)
    normalizer.update(torch.full((10, 1), 5.0))
    assert normalizer(torch.tensor([[5.0]])).item() == 0.0


def test_observations_can_be_left_as_they_are_and_the_rest_is_scaled() -> None:
    net, sequence = network("gru", normalize_obs=False), steps(slots=4, length=9)
    seen: list[torch.Tensor] = []
    net.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net.update_normalizer(sequence)
    net(sequence, torch.zeros(4, net.state_size))
    torch.testing.assert_close(seen[0][..., :3], sequence.obs)
    rest = seen[0][..., 3:].flatten(0, 1)  # two actions, the reward, the flag
    torch.testing.assert_close(rest.mean(0), torch.zeros(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(rest.var(0, correction=0), torch.ones(4))


def test_discrete_actions_are_left_as_they_are() -> None:
    """The deviation of a rare action is small; its one-hot would outweigh all other inputs."""
    net = network(actions=spaces.Discrete(2))
    sequence = dataclasses.replace(
        steps(slots=4, length=9), prev_action=torch.eye(2)[torch.zeros(4, 9, dtype=torch.int64)]
    )
    seen: list[torch.Tensor] = []
    net.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net.update_normalizer(sequence)
    net(sequence, torch.zeros(4, net.state_size))
    assert torch.equal(seen[0][..., 3:5], sequence.prev_action)
    rest = seen[0][..., [0, 1, 2, 5, 6]].flatten(0, 1)
    torch.testing.assert_close(rest.mean(0), torch.zeros(5), rtol=0, atol=1e-6)
    torch.testing.assert_close(rest.var(0, correction=0), torch.ones(5))


@pytest.mark.parametrize("memory", KINDS)
@pytest.mark.parametrize(
    ("reenter", "head"), [(False, "linear"), (True, "mlp"), (True, "hypernetwork")]
)
def test_a_sequence_at_once_equals_step_by_step(
    memory: MemoryKind, reenter: bool, head: HeadKind
) -> None:
    net, sequence = network(memory, reenter=reenter, head=head), steps(slots=4, length=9)
    state = torch.zeros(4, net.state_size)
    policy, value, final = net(sequence, state)
    for t in range(9):
        one = sequence.map(lambda x, t=t: x[:, t : t + 1])
        policy_t, value_t, state = net(one, state)
        torch.testing.assert_close(policy_t.mean[:, 0], policy.mean[:, t])
        torch.testing.assert_close(value_t[:, 0], value[:, t])
    torch.testing.assert_close(state, final)


@pytest.mark.parametrize("memory", KINDS)
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_with_a_memory_for_each_action_exchanged_actions_exchange_outputs(
    memory: MemoryKind, head: HeadKind
) -> None:
    net = network(memory, actions=spaces.Discrete(4), head=head, per_action=True).double()
    taken = torch.randint(4, (3, 9), generator=torch.Generator().manual_seed(2))
    sequence = steps(slots=3, length=9).map(lambda x: x.double() if x.is_floating_point() else x)
    sequence = dataclasses.replace(sequence, prev_action=torch.eye(4).double()[taken])
    net.update_normalizer(sequence)
    order = torch.tensor([2, 0, 3, 1])
    exchanged = dataclasses.replace(sequence, prev_action=sequence.prev_action[..., order])
    empty = torch.zeros(3, net.state_size, dtype=torch.float64)
    (read, present, last), (read_e, present_e, last_e) = (
        net.read(each, empty) for each in (sequence, exchanged)
    )
    (policy, value), (policy_e, value_e) = net.heads(read, present), net.heads(read_e, present_e)
    torch.testing.assert_close(policy_e.logits, policy.logits[..., order])
    assert policy.logits.std(-1).max() > 0
    torch.testing.assert_close(value_e, value)
    torch.testing.assert_close(last_e.unflatten(1, (4, -1)), last.unflatten(1, (4, -1))[:, order])
    rewards, rewards_e = (net.reward_head.network(each, each) for each in (read, read_e))
    torch.testing.assert_close(rewards_e, rewards[..., order])
    _, _, first = net.read(sequence.map(lambda x: x[:, :5]), empty)
    rest, _, end = net.read(sequence.map(lambda x: x[:, 5:]), first)
    torch.testing.assert_close(rest, read[:, 5:])
    torch.testing.assert_close(end, last)


@pytest.mark.parametrize("memory", KINDS)
def test_slots_do_not_see_each_other(memory: MemoryKind) -> None:
    net, sequence = network(memory), steps(slots=4, length=9)
    changed = sequence.map(torch.clone)
    changed.obs[0] += 1
    _, before, _ = net(sequence, torch.zeros(4, net.state_size))
    _, after, _ = net(changed, torch.zeros(4, net.state_size))
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1:], after[1:])


def test_the_standard_deviation_has_a_floor() -> None:
    net = network("gru")
    with torch.no_grad():
        net.log_std.fill_(-20.0)
    policy, _, _ = net(steps(slots=1, length=1), torch.zeros(1, net.state_size))
    torch.testing.assert_close(policy.log_std.exp(), torch.full((1, 1, 2), 0.1))
