"""Adaptation by gradient steps against `higher`, loops over tasks, explicit Jacobians and numbers
by hand."""

from collections.abc import Callable
from typing import Any

import higher
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.func import functional_call

from agents.maml_trpo import inner_loss as reinforce
from agents.promp import inner_loss as likelihood_ratio
from metarl.errors import NotFiniteError
from metarl.learning.inner_loop import BATCH_ELEMENTS, InnerLoop, InnerLoss, Unrolled, unroll
from metarl.learning.task_batch import Experience, TaskBatch, ratio
from metarl.nn.task_policies import TaskPolicies

OBS, ACTIONS, TASKS, STEPS = 3, 2, 4, 30
CONTINUOUS = spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)
DISCRETE = spaces.Discrete(ACTIONS)


pytestmark = pytest.mark.usefixtures("double_precision")


def new_loop(
    *,
    loss: InnerLoss = reinforce,
    space: spaces.Space = CONTINUOUS,
    first_order: bool = False,
    **changes: Any,
) -> InnerLoop:
    values = {"hidden_sizes": (7, 5), "step_size": 0.1, **changes}
    torch.manual_seed(0)
    policies = TaskPolicies(spaces.Box(-np.inf, np.inf, (OBS,), np.float64), space, **values)
    # Away from the nearly constant initial policy, where many derivatives vanish.
    policies.set_meta_parameters(
        policies.meta_parameters() + 0.3 * torch.randn(len(policies.meta_parameters()))
    )
    return InnerLoop(policies=policies, loss=loss, first_order=first_order)


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
    """A smooth loss to differentiate."""
    return (ratio(policy, query) * query.advantage).mean(1).sum()


def meta_gradient(
    loop: InnerLoop, support: list[Experience], query: Experience
) -> tuple[torch.Tensor, torch.Tensor]:
    """Our sum over tasks of the query loss after adaptation, and its gradient."""
    unrolled = loop.unroll(loop.policies.meta_parameters(), TaskBatch(0, support, query))
    adapted = unrolled.adapted.requires_grad_()
    loss = query_loss(loop.policies.distribution(adapted, query.obs), query)
    (slopes,) = torch.autograd.grad(loss, adapted)
    return loss.detach(), unrolled.pull(slopes)


def inner_loss(loop: InnerLoop, outputs: tuple[torch.Tensor, ...], part: Experience):
    """An independent implementation of the loss of one task."""
    log_prob = loop.policies.policy.distribution(*outputs).log_prob(part.action)
    weight = log_prob if loop.loss is reinforce else (log_prob - part.log_prob).exp()
    return -(weight * part.advantage).mean()


def steps(loop: InnerLoop, support: list[Experience], meta: torch.Tensor | None = None) -> Unrolled:
    """The gradient steps on `support`, by default from the loop's own meta-parameters."""
    meta = loop.policies.meta_parameters() if meta is None else meta
    return loop.unroll(meta, TaskBatch(0, support, support[0]))


def task(experience: Experience, number: int) -> Experience:
    return Experience(*(x[number] for x in experience))


def gradient_by_higher(loop: InnerLoop, support: list[Experience], query: Experience):
    """The gradient by `higher`, which unrolls SGD on a copy of the policy, task by task."""
    network, total, losses = loop.policies.policy, 0.0, 0.0
    parameters = list(network.parameters())
    rate = float(loop.policies.step_size[0])
    for number in range(TASKS):
        optimizer = torch.optim.SGD(parameters, lr=rate)
        with higher.innerloop_ctx(
            network, optimizer, copy_initial_weights=False,
            track_higher_grads=not loop.first_order,
        ) as (policy, steps):  # fmt: skip
            for part in (task(experience, number) for experience in support):
                steps.step(inner_loss(loop, policy(part.obs), part))
            one = Experience(*(x[None] for x in task(query, number)))
            outputs = policy(task(query, number).obs)
            loss = query_loss(network.distribution(*(x[None] for x in outputs)), one)
            # Without a graph, the gradient with respect to the adapted parameters is FOMAML's.
            along = policy.parameters() if loop.first_order else parameters
            gradient = torch.autograd.grad(loss, list(along))
            total += torch.cat([g.flatten() for g in gradient])
            losses += loss.detach()
    return losses, total


def gradient_by_loop(loop: InnerLoop, support: list[Experience], query: Experience):
    """The gradient by plain autograd, task by task, including learned step sizes."""
    policies = loop.policies
    meta = policies.meta_parameters().requires_grad_()
    size = len(policies.start())
    rate = meta[size:] if policies.learn_step_size else policies.step_size
    total = torch.zeros(())
    for number in range(TASKS):
        parameters = meta[:size]
        for part in (task(experience, number) for experience in support):
            outputs = functional_call(policies.policy, policies._named(parameters), (part.obs,))
            (gradient,) = torch.autograd.grad(
                inner_loss(loop, outputs, part), parameters, create_graph=True
            )
            if loop.first_order:
                gradient = gradient.detach()
            parameters = parameters - rate * gradient
        one = Experience(*(x[None] for x in task(query, number)))
        outputs = functional_call(
            policies.policy, policies._named(parameters), (task(query, number).obs,)
        )
        policy = policies.policy.distribution(*(x[None] for x in outputs))
        total = total + query_loss(policy, one)
    return total.detach(), torch.autograd.grad(total, meta)[0]


@pytest.mark.parametrize("oracle", [gradient_by_higher, gradient_by_loop])
@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner", [reinforce, likelihood_ratio])
def test_meta_gradients_are_those_of_other_implementations(
    oracle: Callable, inner_steps: int, first_order: bool, inner: InnerLoss
) -> None:
    loop = new_loop(loss=inner, first_order=first_order, step_size=0.3)
    support = [new_experience(seed) for seed in range(inner_steps)]
    query = new_experience(9)
    loss, gradient = meta_gradient(loop, support, query)
    their_loss, theirs = oracle(loop, support, query)
    torch.testing.assert_close(loss, their_loss, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient, theirs, rtol=0, atol=1e-8)
    # The order matters here: the data distinguishes first from second order.
    other = new_loop(loss=inner, first_order=not first_order, step_size=0.3)
    assert (meta_gradient(other, support, query)[1] - gradient).abs().max() > 1e-3


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("first_order", [False, True])
def test_learned_step_sizes_have_their_gradient(inner_steps: int, first_order: bool) -> None:
    loop = new_loop(learn_step_size=True, first_order=first_order)
    support = [new_experience(seed) for seed in range(inner_steps)]
    _, gradient = meta_gradient(loop, support, new_experience(9))
    assert len(gradient) == 2 * len(loop.policies.start())
    _, theirs = gradient_by_loop(loop, support, new_experience(9))
    torch.testing.assert_close(gradient, theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("space", [CONTINUOUS, DISCRETE])
def test_the_meta_gradient_is_the_slope_of_the_loss(space: spaces.Space) -> None:
    """Central finite differences along random directions."""
    loop = new_loop(space=space, learn_step_size=True)
    discrete = space is DISCRETE
    support = [new_experience(seed, discrete=discrete) for seed in (0, 1)]
    query = new_experience(9, discrete=discrete)
    _, gradient = meta_gradient(loop, support, query)
    start = loop.policies.meta_parameters()
    for seed in range(3):
        direction = torch.randn(len(start), generator=torch.Generator().manual_seed(seed))
        ends = []
        for side in (1e-5, -1e-5):
            loop.policies.set_meta_parameters(start + side * direction)
            ends.append(meta_gradient(loop, support, query)[0])
        loop.policies.set_meta_parameters(start)
        slope = (ends[0] - ends[1]) / 2e-5
        torch.testing.assert_close(slope, gradient @ direction, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("learned", [False, True])
def test_push_and_pull_are_the_jacobian_and_its_transpose(learned: bool) -> None:
    loop = new_loop(hidden_sizes=(3,), learn_step_size=learned)
    support = [new_experience(0), new_experience(1)]
    meta = loop.policies.meta_parameters()
    unrolled = steps(loop, support)
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
        for size in [len(loop.policies.start())]
        for g in range(TASKS)
    ]
    torch.testing.assert_close(jacobian, torch.stack(rows), rtol=0, atol=1e-10)

    def adapted(meta: torch.Tensor) -> torch.Tensor:
        return steps(loop, support, meta).adapted

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
    together = steps(loop, support)
    for number in range(TASKS):
        alone = steps(
            loop, [Experience(*(x[number : number + 1] for x in part)) for part in support]
        )
        torch.testing.assert_close(together.adapted[number], alone.adapted[0], rtol=0, atol=1e-12)
    # Tasks differ, so a mix-up would be noticed.
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
    """With no hidden layers and one dimension, log π = −(a − wx − b)² / 2σ² + const."""
    policies = TaskPolicies(
        spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,)), hidden_sizes=(), step_size=0.5,
        learn_std=False, initial_std=2.0,
    )  # fmt: skip
    loop = InnerLoop(policies=policies, loss=reinforce)
    policies.set_meta_parameters(torch.tensor([1.0, 0.0]))  # w, b
    experience = Experience(
        obs=torch.tensor([[[2.0], [4.0]]]),
        action=torch.tensor([[[3.0], [2.0]]]),
        log_prob=torch.zeros(1, 2),
        advantage=torch.tensor([[1.0, -1.0]]),
    )
    adapted = steps(loop, [experience]).adapted
    # Errors a − wx are 1 and −2; ascent along the mean of A (a − wx) / σ² times (x, 1), σ² = 4:
    # w: (1·1·2 + (−1)(−2)·4) / 2 / 4 = 1.25, b: (1·1 + (−1)(−2)) / 2 / 4 = 0.375, times α = .5.
    torch.testing.assert_close(adapted, torch.tensor([[1.0 + 0.625, 0.1875]]))


def test_the_step_does_not_depend_on_the_size_of_the_meta_batch() -> None:
    """It would if the inner loss were also averaged over tasks."""
    loop = new_loop()
    one = new_experience(0, tasks=1)
    many = Experience(*(x.repeat(8, *[1] * (x.ndim - 1)) for x in one))
    alone = steps(loop, [one]).adapted
    together = steps(loop, [many]).adapted
    assert (alone[0] - loop.policies.start()).abs().max() > 1e-3
    torch.testing.assert_close(together, alone.repeat(8, 1))


def test_a_step_is_the_unrolled_one_and_keeps_no_graph() -> None:
    loop, experience = new_loop(learn_step_size=True), new_experience(0)
    adapted = loop.step(loop.policies.start_of_each(TASKS), experience)
    torch.testing.assert_close(adapted, steps(loop, [experience]).adapted)
    assert not adapted.requires_grad


def test_steps_in_chunks_are_steps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = new_loop()
    state = loop.step(loop.policies.start_of_each(TASKS), new_experience(0))
    at_once = loop.step(state, new_experience(1))
    monkeypatch.setitem(BATCH_ELEMENTS, "cpu", 1)
    torch.testing.assert_close(loop.step(state, new_experience(1)), at_once, rtol=0, atol=1e-12)


def test_a_step_that_leads_nowhere_is_named() -> None:
    loop, experience = new_loop(), new_experience(0)
    experience.advantage[2, 1] = float("inf")
    with pytest.raises(NotFiniteError, match=r"the inner gradient is not finite \(task 2\)"):
        loop.step(loop.policies.start_of_each(TASKS), experience)
    with pytest.raises(NotFiniteError, match=r"the inner gradient is not finite \(task 7\)"):
        batch = TaskBatch(5, [experience], experience)
        loop.unroll(loop.policies.meta_parameters(), batch)


def test_any_function_of_rows_can_be_descended() -> None:
    """Two tasks with ½ a φ², a = 1 and 2: φ = (1 − α a) θ and its derivative by hand, two steps."""
    scale = torch.tensor([1.0, 2.0])

    def losses(rows: torch.Tensor) -> torch.Tensor:
        return 0.5 * scale * rows[:, 0] ** 2

    unrolled = unroll(
        torch.tensor([3.0]), [losses, losses], num_tasks=2, step_size=torch.tensor([0.1])
    )
    torch.testing.assert_close(unrolled.adapted, torch.tensor([[3 * 0.81], [3 * 0.64]]))
    torch.testing.assert_close(unrolled.push(torch.tensor([1.0])), torch.tensor([[0.81], [0.64]]))
    slopes = torch.tensor([[1.0], [10.0]])
    torch.testing.assert_close(unrolled.pull(slopes), torch.tensor([0.81 + 6.4]))
