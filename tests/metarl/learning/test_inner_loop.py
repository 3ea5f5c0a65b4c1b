"""Adaptation by gradient steps against `higher`, loops over tasks, explicit Jacobians and numbers
by hand."""

from collections.abc import Callable
from typing import Any, Literal

import higher
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.errors import NotFiniteError, UserError
from metarl.learning.inner_loop import CHUNK_ELEMENTS, InnerLoop, InnerLoopConfig
from metarl.learning.task_batch import Experience, ratio
from metarl.types import Rollout, TimeStep

OBS, ACTIONS, TASKS, EPISODES, HORIZON = 3, 2, 4, 5, 6
STEPS = EPISODES * HORIZON
CONTINUOUS = spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)
DISCRETE = spaces.Discrete(ACTIONS)

Surrogate = Literal["log_prob", "ratio"]

pytestmark = pytest.mark.usefixtures("double_precision")


def new_loop(
    *, surrogate: Surrogate = "log_prob", space: spaces.Space = CONTINUOUS, **changes: Any
) -> InnerLoop:
    values = {"hidden_sizes": (7, 5), "episodes_per_step": EPISODES, **changes}
    torch.manual_seed(0)
    loop = InnerLoop(
        InnerLoopConfig(**values),
        spaces.Box(-np.inf, np.inf, (OBS,), np.float64),
        space,
        surrogate=surrogate,
    )
    # Away from the nearly constant policy of the start, where many derivatives vanish.
    loop.set_meta_parameters(
        loop.meta_parameters() + 0.3 * torch.randn(len(loop.meta_parameters()))
    )
    return loop


def new_experience(seed: int, *, tasks: int = TASKS, discrete: bool = False) -> Experience:
    generator = torch.Generator().manual_seed(seed)
    action = torch.randn(tasks, STEPS, ACTIONS, generator=generator)
    return Experience(
        obs=torch.randn(tasks, STEPS, OBS, generator=generator),
        action=action.argmax(-1) if discrete else action,
        log_prob=-1.0 + 0.1 * torch.randn(tasks, STEPS, generator=generator),
        advantage=torch.randn(tasks, STEPS, generator=generator),
    )


def query_loss(policy, query: Experience) -> torch.Tensor:
    """Something smooth to take derivatives of."""
    return (ratio(policy.log_prob(query.action), query) * query.advantage).mean(1).sum()


def meta_gradient(
    loop: InnerLoop, support: list[Experience], query: Experience
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours: the sum over tasks of the query loss after adaptation, and its gradient."""
    unrolled = loop.unroll(loop.meta_parameters(), support, num_tasks=len(query.obs))
    adapted = unrolled.adapted.requires_grad_()
    loss = query_loss(loop.distribution(adapted, query.obs), query)
    (slopes,) = torch.autograd.grad(loss, adapted)
    return loss.detach(), unrolled.pull(slopes)


def inner_loss(loop: InnerLoop, outputs: tuple[torch.Tensor, ...], part: Experience):
    log_prob = loop.policy.distribution(*outputs).log_prob(part.action)
    weight = log_prob if loop.surrogate == "log_prob" else (log_prob - part.log_prob).exp()
    return -(weight * part.advantage).mean()


def task(experience: Experience, number: int) -> Experience:
    return Experience(*(x[number] for x in experience))


def gradient_by_higher(loop: InnerLoop, support: list[Experience], query: Experience):
    """`higher` unrolls SGD on a copy of the policy, a task at a time."""
    config, total, losses = loop.config, 0.0, 0.0
    parameters = list(loop.policy.parameters())
    for number in range(TASKS):
        optimizer = torch.optim.SGD(parameters, lr=config.inner_learning_rate)
        with higher.innerloop_ctx(
            loop.policy, optimizer, copy_initial_weights=False,
            track_higher_grads=not config.first_order,
        ) as (policy, steps):  # fmt: skip
            for part in (task(experience, number) for experience in support):
                steps.step(inner_loss(loop, policy(part.obs), part))
            one = Experience(*(x[None] for x in task(query, number)))
            outputs = policy(task(query, number).obs)
            loss = query_loss(loop.policy.distribution(*(x[None] for x in outputs)), one)
            # Without a graph, the gradient along the adapted parameters is FOMAML's.
            along = policy.parameters() if config.first_order else parameters
            gradient = torch.autograd.grad(loss, list(along))
            total += torch.cat([g.flatten() for g in gradient])
            losses += loss.detach()
    return losses, total


def gradient_by_loop(loop: InnerLoop, support: list[Experience], query: Experience):
    """Written out with plain autograd, a task at a time; learned step sizes too."""
    meta = loop.meta_parameters().requires_grad_()
    size = len(loop.start())
    rate = meta[size:] if loop.config.learn_inner_learning_rate else loop.step_size
    total = torch.zeros(())
    for number in range(TASKS):
        parameters = meta[:size]
        for part in (task(experience, number) for experience in support):
            outputs = torch.func.functional_call(loop.policy, loop._named(parameters), (part.obs,))
            (gradient,) = torch.autograd.grad(
                inner_loss(loop, outputs, part), parameters, create_graph=True
            )
            if loop.config.first_order:
                gradient = gradient.detach()
            parameters = parameters - rate * gradient
        one = Experience(*(x[None] for x in task(query, number)))
        outputs = torch.func.functional_call(
            loop.policy, loop._named(parameters), (task(query, number).obs,)
        )
        total = total + query_loss(loop.policy.distribution(*(x[None] for x in outputs)), one)
    return total.detach(), torch.autograd.grad(total, meta)[0]


@pytest.mark.parametrize("oracle", [gradient_by_higher, gradient_by_loop])
@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("surrogate", ["log_prob", "ratio"])
def test_meta_gradients_are_those_of_other_implementations(
    oracle: Callable, inner_steps: int, first_order: bool, surrogate: Surrogate
) -> None:
    loop = new_loop(surrogate=surrogate, first_order=first_order, inner_learning_rate=0.3)
    support = [new_experience(seed) for seed in range(inner_steps)]
    query = new_experience(9)
    loss, gradient = meta_gradient(loop, support, query)
    their_loss, theirs = oracle(loop, support, query)
    torch.testing.assert_close(loss, their_loss, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient, theirs, rtol=0, atol=1e-8)
    # And the order matters here: the data tells one from the other.
    other = new_loop(surrogate=surrogate, first_order=not first_order, inner_learning_rate=0.3)
    assert (meta_gradient(other, support, query)[1] - gradient).abs().max() > 1e-3


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("first_order", [False, True])
def test_learned_step_sizes_have_their_gradient(inner_steps: int, first_order: bool) -> None:
    loop = new_loop(learn_inner_learning_rate=True, first_order=first_order)
    support = [new_experience(seed) for seed in range(inner_steps)]
    _, gradient = meta_gradient(loop, support, new_experience(9))
    assert len(gradient) == 2 * len(loop.start())
    _, theirs = gradient_by_loop(loop, support, new_experience(9))
    torch.testing.assert_close(gradient, theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("space", [CONTINUOUS, DISCRETE])
def test_the_meta_gradient_is_the_slope_of_the_loss(space: spaces.Space) -> None:
    """Central finite differences along random directions."""
    loop = new_loop(space=space, learn_inner_learning_rate=True)
    discrete = space is DISCRETE
    support = [new_experience(seed, discrete=discrete) for seed in (0, 1)]
    query = new_experience(9, discrete=discrete)
    _, gradient = meta_gradient(loop, support, query)
    start = loop.meta_parameters()
    for seed in range(3):
        direction = torch.randn(len(start), generator=torch.Generator().manual_seed(seed))
        ends = []
        for side in (1e-5, -1e-5):
            loop.set_meta_parameters(start + side * direction)
            ends.append(meta_gradient(loop, support, query)[0])
        loop.set_meta_parameters(start)
        slope = (ends[0] - ends[1]) / 2e-5
        torch.testing.assert_close(slope, gradient @ direction, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("learned", [False, True])
def test_push_and_pull_are_the_jacobian_and_its_transpose(learned: bool) -> None:
    loop = new_loop(hidden_sizes=(3,), learn_inner_learning_rate=learned)
    support = [new_experience(0), new_experience(1)]
    meta = loop.meta_parameters()
    unrolled = loop.unroll(meta, support, num_tasks=TASKS)
    columns = [unrolled.push(direction) for direction in torch.eye(len(meta))]
    jacobian = torch.stack(columns, dim=-1)  # G P D
    rows = [
        torch.stack(
            [
                unrolled.pull(
                    torch.zeros(TASKS, size).index_put(
                        (torch.tensor(g), torch.tensor(p)), torch.tensor(1.0)
                    )
                )
                for p in range(size)
            ]
        )
        for size in [len(loop.start())]
        for g in range(TASKS)
    ]
    torch.testing.assert_close(jacobian, torch.stack(rows), rtol=0, atol=1e-10)

    def adapted(meta: torch.Tensor) -> torch.Tensor:
        return loop.unroll(meta, support, num_tasks=TASKS, differentiable=False).adapted

    numeric = torch.stack(
        [
            (adapted(meta + 1e-6 * e) - adapted(meta - 1e-6 * e)) / 2e-6
            for e in torch.eye(len(meta))
        ],
        dim=-1,
    )
    torch.testing.assert_close(jacobian, numeric, rtol=1e-5, atol=1e-8)


def test_all_tasks_at_once_are_each_task_alone() -> None:
    loop = new_loop()
    support, query = [new_experience(0), new_experience(1)], new_experience(2)
    together = loop.unroll(loop.meta_parameters(), support, num_tasks=TASKS)
    for number in range(TASKS):
        alone = loop.unroll(
            loop.meta_parameters(),
            [Experience(*(x[number : number + 1] for x in part)) for part in support],
            num_tasks=1,
        )
        torch.testing.assert_close(together.adapted[number], alone.adapted[0], rtol=0, atol=1e-12)
    # Tasks differ, so a mix-up would be seen.
    assert (together.adapted[0] - together.adapted[1]).abs().max() > 1e-2
    _, gradient = meta_gradient(loop, support, query)
    parts = [
        meta_gradient(
            loop,
            [Experience(*(x[n : n + 1] for x in part)) for part in support],
            Experience(*(x[n : n + 1] for x in query)),
        )[1]
        for n in range(TASKS)
    ]
    torch.testing.assert_close(gradient, sum(parts), rtol=0, atol=1e-12)


def test_one_step_by_hand() -> None:
    """Without hidden layers and with one dimension, log π = −(a − wx − b)² / 2σ² + const."""
    loop = InnerLoop(
        InnerLoopConfig(
            hidden_sizes=(), episodes_per_step=1, inner_learning_rate=0.5, learn_std=False,
            initial_std=2.0,
        ),
        spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,)), surrogate="log_prob",
    )  # fmt: skip
    loop.set_meta_parameters(torch.tensor([1.0, 0.0]))  # w, b
    experience = Experience(
        obs=torch.tensor([[[2.0], [4.0]]]),
        action=torch.tensor([[[3.0], [2.0]]]),
        log_prob=torch.zeros(1, 2),
        advantage=torch.tensor([[1.0, -1.0]]),
    )
    adapted = loop.unroll(loop.meta_parameters(), [experience], num_tasks=1).adapted
    # Errors a − wx are 1 and −2; ascent along the mean of A (a − wx) / σ² times (x, 1), σ² = 4:
    # w: (1·1·2 + (−1)(−2)·4) / 2 / 4 = 1.25, b: (1·1 + (−1)(−2)) / 2 / 4 = 0.375, times α = .5.
    torch.testing.assert_close(adapted, torch.tensor([[1.0 + 0.625, 0.1875]]))


def test_the_step_does_not_depend_on_the_size_of_the_meta_batch() -> None:
    """As it would if the inner loss were averaged over tasks too."""
    loop = new_loop()
    one = new_experience(0, tasks=1)
    many = Experience(*(x.repeat(8, *[1] * (x.ndim - 1)) for x in one))
    alone = loop.unroll(loop.meta_parameters(), [one], num_tasks=1).adapted
    together = loop.unroll(loop.meta_parameters(), [many], num_tasks=8).adapted
    assert (alone[0] - loop.start()).abs().max() > 1e-3
    torch.testing.assert_close(together, alone.repeat(8, 1))


# -- from rollouts ---------------------------------------------------------------------------------


def new_rollout(*, slots: int = TASKS * EPISODES, seed: int = 0, **changes: Any) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    end = torch.zeros(slots, HORIZON, dtype=torch.bool)
    end[:, -1] = True
    obs = torch.randn(slots, HORIZON, OBS, generator=generator)
    values = {
        "seen": TimeStep(
            obs=obs,
            prev_action=torch.zeros(slots, HORIZON, ACTIONS),
            prev_reward=torch.zeros(slots, HORIZON),
            episode_start=end.roll(1, dims=1),
        ),
        "action": torch.randn(slots, HORIZON, ACTIONS, generator=generator),
        "log_prob": torch.zeros(slots, HORIZON),
        "reward": torch.randn(slots, HORIZON, generator=generator) ** 3,
        "episode_end": end,
        "success": torch.zeros_like(end),
        "final_obs": obs[:, -1],
        **changes,
    }
    return Rollout(**values)


def test_a_task_is_its_own_slots() -> None:
    """Slots of a task stand side by side: 0 to K − 1 are the first task's."""
    numbers = torch.arange(TASKS * EPISODES * HORIZON).view(-1, HORIZON).double()
    experience, _ = new_loop().experience(new_rollout(log_prob=numbers))
    assert torch.equal(experience.log_prob, numbers.view(TASKS, STEPS))


def test_advantages_are_divided_by_the_standard_deviation_of_their_task() -> None:
    rollout = new_rollout()
    scale = torch.arange(1, TASKS + 1).repeat_interleave(EPISODES)[:, None]
    plain, _ = new_loop().experience(rollout)
    scaled, _ = new_loop().experience(new_rollout(reward=rollout.reward * scale))
    torch.testing.assert_close(plain.advantage.std(1), torch.ones(TASKS), atol=1e-6, rtol=0)
    torch.testing.assert_close(plain.advantage.mean(1), torch.zeros(TASKS), atol=1e-12, rtol=0)
    # Divided by the variance, they would shrink with the reward's scale.
    torch.testing.assert_close(plain.advantage, scaled.advantage, rtol=1e-3, atol=1e-3)


def test_a_reward_reaches_no_other_task() -> None:
    reward = torch.zeros(TASKS * EPISODES, HORIZON)
    reward[0, -1] = 1.0
    experience, explained = new_loop().experience(new_rollout(reward=reward))
    assert experience.advantage[0].any() and not experience.advantage[1:].any()
    assert explained <= 1


def test_log_probabilities_are_summed_over_action_dimensions() -> None:
    loop = new_loop()
    state = loop.begin_trial(TASKS * EPISODES)
    step = new_rollout().seen.map(lambda x: x[:, 0])
    action, log_prob, _ = loop.act(state, step, generator=torch.Generator().manual_seed(0))
    mean, log_std = loop.policy(step.obs)
    theirs = torch.distributions.Normal(mean, log_std.exp()).log_prob(action)
    torch.testing.assert_close(log_prob, theirs.sum(-1))
    assert (log_prob - theirs.mean(-1)).abs().max() > 0.1


def test_normalized_observations_are_acted_and_learned_on_alike() -> None:
    """What acts and what gradients are taken of is one policy: the ratio of the two is 1."""
    rollout = new_rollout()
    rollout.seen.obs.mul_(0.01).add_(3.0)
    loop = new_loop(normalize_obs=True)
    loop.update_normalizer([rollout, rollout])
    seen = rollout.seen.obs.flatten(0, 1)
    step = rollout.seen.map(lambda x: x[:, 0])
    action, log_prob, _ = loop.act(loop.begin_trial(TASKS * EPISODES), step, generator=None)
    mean, _ = loop.policy((step.obs - seen.mean(0)) / seen.std(0, correction=0))
    torch.testing.assert_close(action, mean)
    experience, _ = loop.experience(rollout)
    again = loop.distribution(loop.start().repeat(TASKS, 1), experience.obs[:, ::HORIZON])
    by_task = action.view(TASKS, EPISODES, ACTIONS)
    torch.testing.assert_close(again.log_prob(by_task).flatten(), log_prob)


def test_adapting_is_the_unrolled_step_and_keeps_no_graph() -> None:
    loop, rollout = new_loop(learn_inner_learning_rate=True), new_rollout()
    state = loop.begin_trial(TASKS * EPISODES)
    adapted = loop.adapt(state, rollout)
    experience, _ = loop.experience(rollout)
    unrolled = loop.unroll(loop.meta_parameters(), [experience], num_tasks=TASKS)
    torch.testing.assert_close(adapted, unrolled.adapted)
    assert not adapted.requires_grad
    # Each task acts with its own parameters.
    step = rollout.seen.map(lambda x: x[:, 0])
    same = step.map(lambda x: x[:1].expand_as(x))
    action, _, _ = loop.act(adapted, same, generator=None)
    by_task = action.view(TASKS, EPISODES, ACTIONS)
    assert torch.equal(by_task, by_task[:, :1].expand_as(by_task))
    assert (by_task[0, 0] - by_task[1, 0]).abs().max() > 1e-4


# -- mistakes --------------------------------------------------------------------------------------


def test_a_task_whose_advantage_is_not_finite_is_named() -> None:
    loop = new_loop()
    reward = new_rollout().reward.clone()
    reward[2 * EPISODES + 1, 3] = float("inf")
    with pytest.raises(NotFiniteError, match=r"the advantage is not finite \(task 2\)"):
        loop.experience(new_rollout(reward=reward))


def test_a_step_that_leads_nowhere_is_named() -> None:
    loop = new_loop(inner_learning_rate=1e29)
    loop.step_size.fill_(float("inf"))
    with pytest.raises(NotFiniteError, match=r"the inner gradient is not finite \(task 0\)"):
        loop.adapt(loop.begin_trial(TASKS * EPISODES), new_rollout())


def test_adapting_in_chunks_is_adapting_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, rollout = new_loop(), new_rollout()
    state = loop.adapt(loop.begin_trial(TASKS * EPISODES), rollout)
    at_once = loop.adapt(state, rollout)
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 1)
    torch.testing.assert_close(loop.adapt(state, rollout), at_once, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("episodes", "tasks", "message"),
    [
        (25, 10, "25 episodes does not divide .* 10; the nearest that does is 20"),
        (10, 10, "leaves no inner step; use train.episodes_per_trial 20"),
        (20, 15, "15 is no multiple of the 10 task classes; use 20"),
    ],
)
def test_trials_that_cannot_be_learned_from_are_refused(
    episodes: int, tasks: int, message: str
) -> None:
    config = InnerLoopConfig(episodes_per_step=10)
    with pytest.raises(UserError, match=message):
        shape = config.trial_shape(episodes, training=True)
        config.check_training(shape, horizon=5, num_tasks=tasks, num_classes=10)
