"""MAML-TRPO's update against explicit Hessians and its trust region, on point navigation;
conjugate gradient against sb3-contrib's solver and a direct one; line search and losses by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.utils import conjugate_gradient_solver

from agents import maml_trpo
from agents.maml_trpo import (
    MAMLTRPO,
    KLCurvature,
    MAMLTRPOConfig,
    conjugate_gradient,
    inner_loss,
    line_search,
    surrogate,
)
from agents.promp import ProMP, ProMPConfig
from envs.bandit import BanditConfig
from envs.navigation import PointConfig
from metarl.errors import NotFiniteError, UserError
from metarl.learning.inner_loop import BATCH_ELEMENTS, InnerLoop
from metarl.learning.task_batch import Experience, TaskBatch, ratio
from metarl.nn.distributions import Categorical, kl_divergence
from metarl.rollout.trial import run_trial
from metarl.system.seeding import torch_generator
from metarl.types import Rollout, TrialShape

CPU = torch.device("cpu")
TASKS, EPISODES, HORIZON = 6, 4, 10


def new_agent(space: spaces.Space | None = None, **changes: Any) -> MAMLTRPO:
    values = {"hidden_sizes": (16,), "episodes_per_step": EPISODES, "initial_std": 0.1, **changes}
    return MAMLTRPOConfig(**values).build(
        spaces.Box(-np.inf, np.inf, (2,), np.float64),
        space or spaces.Box(-0.1, 0.1, (2,), np.float32),
        seed=0,
        device=CPU,
    )


def play(agent: MAMLTRPO | ProMP, *, rollouts: int = 2, seed: int = 0) -> list[Rollout]:
    distribution = PointConfig(horizon=HORIZON, num_train_tasks=50).build()
    return run_trial(
        agent,
        distribution.make_env(TASKS * EPISODES),
        distribution.train.sample(TASKS, np.random.default_rng(seed)),
        shape=TrialShape(slots_per_task=EPISODES, rollouts=rollouts),
        seed=0,
        generator=torch_generator(seed, CPU),
    )


def random_chunk(*, inner_steps: int, discrete: bool) -> TaskBatch:
    def experience(seed: int) -> Experience:
        generator = torch.Generator().manual_seed(seed)
        action = torch.randn(3, 12, 2, generator=generator)
        return Experience(
            obs=torch.randn(3, 12, 2, generator=generator),
            action=action.argmax(-1) if discrete else action,
            log_prob=torch.full((3, 12), -1.0),
            advantage=torch.randn(3, 12, generator=generator),
        )

    return TaskBatch(0, [experience(seed) for seed in range(inner_steps)], experience(9))


# -- losses and pieces of TRPO's step --------------------------------------------------------------


def test_the_losses_by_hand() -> None:
    """Two tasks with two actions of probability ½ each; acting had used probability ¼."""
    experience = Experience(
        obs=torch.zeros(2, 2, 1),
        action=torch.tensor([[0, 1], [1, 1]]),
        log_prob=torch.full((2, 2), 0.25).log(),
        advantage=torch.tensor([[1.0, 2.0], [-1.0, 4.0]]),
    )
    policy = Categorical(torch.zeros(2, 2, 2))
    # −log ½ · mean A: mean advantages are 1.5 in both tasks; ratios are 2.
    torch.testing.assert_close(inner_loss(policy, experience), 1.5 * torch.tensor([2.0, 2.0]).log())
    torch.testing.assert_close(surrogate(policy, experience), torch.tensor([3.0, 3.0]))


def symmetric_positive_definite(size: int) -> torch.Tensor:
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).double()
    return root @ root.T + torch.eye(size)


@pytest.mark.parametrize("iterations", [1, 5, 10])
def test_conjugate_gradient_is_sb3_contribs(
    iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, target = symmetric_positive_definite(30), torch.arange(30.0).double() / 30
    ours = conjugate_gradient(lambda v: matrix @ v, target, iterations=iterations)
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # theirs starts near 0, ours at 0
    theirs = conjugate_gradient_solver(lambda v: matrix @ v, target, max_iter=iterations)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_conjugate_gradient_solves() -> None:
    matrix, target = symmetric_positive_definite(8), torch.ones(8).double()
    solution = conjugate_gradient(
        lambda v: matrix @ v, target, iterations=50, tolerance=1e-24
    )  # fmt: skip
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, target))
    assert not conjugate_gradient(lambda v: matrix @ v, 0 * target, iterations=5).any()


def test_line_search_takes_the_first_that_is_accepted_and_otherwise_stays() -> None:
    start, step = torch.tensor([1.0]), torch.tensor([8.0])
    tried: list[float] = []

    def below_four(candidate: torch.Tensor) -> bool:
        tried.append(float(candidate))
        return float(candidate) < 4

    found, count, fraction = line_search(below_four, start, step, shrink=0.5, max_tries=5)
    assert (found.item(), count, fraction, tried) == (3.0, 3, 0.25, [9.0, 5.0, 3.0])
    found, count, fraction = line_search(below_four, start, step, shrink=0.5, max_tries=2)
    assert (found.item(), count, fraction) == (1.0, 2, 0.0)


# -- the update ------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(2)])
@pytest.mark.parametrize("inner_steps", [0, 1, 2])
@pytest.mark.parametrize(
    "changes", [{}, {"first_order": True}, {"learn_inner_learning_rate": True}]
)
@pytest.mark.parametrize("products", [None, torch.float64])
def test_the_curvature_is_the_explicit_hessian_of_the_kl(
    space: spaces.Space,
    inner_steps: int,
    changes: dict,
    products: torch.dtype | None,
    double_precision: None,
) -> None:
    """Derivatives by autograd and by explicit formulas against all second derivatives
    through the gradient steps, by plain autograd, task by task."""
    agent = new_agent(space, hidden_sizes=(3,), initial_std=1.0, **changes)
    loop, policies = agent.inner_loop, agent.policies
    noise = torch.randn(len(policies.meta_parameters()), generator=torch.Generator().manual_seed(1))
    policies.set_meta_parameters(policies.meta_parameters() + 0.3 * noise)
    batch = random_chunk(inner_steps=inner_steps, discrete=isinstance(space, spaces.Discrete))
    meta = policies.meta_parameters()
    curvature = KLCurvature(loop, meta, [batch], damping=0.0, products=products)
    ours = torch.stack([curvature.product(direction) for direction in torch.eye(len(meta))])
    hessian = torch.autograd.functional.hessian(lambda m: mean_kl(loop, m, meta, batch), meta)
    torch.testing.assert_close(ours, hessian, rtol=0, atol=1e-10)
    assert ours.abs().max() > 1e-2


def mean_kl(loop: InnerLoop, meta: torch.Tensor, origin: torch.Tensor, batch: TaskBatch):
    def adapted(meta: torch.Tensor, task: int) -> torch.Tensor:
        size = len(loop.policies.start())
        rate = meta[size:] if len(meta) > size else loop.policies.step_size
        parameters = meta[:size]
        for part in batch.support:
            policy = loop.policies.distribution(parameters[None], part.obs[task : task + 1])
            log_prob = policy.log_prob(part.action[task : task + 1])
            loss = -(log_prob * part.advantage[task : task + 1]).mean()
            (gradient,) = torch.autograd.grad(loss, parameters, create_graph=True)
            parameters = parameters - rate * (gradient.detach() if loop.first_order else gradient)
        return parameters

    origin = origin.clone().requires_grad_()
    total = torch.zeros(())
    for task in range(batch.num_tasks):
        obs = batch.query.obs[task : task + 1]
        old = loop.policies.distribution(adapted(origin, task).detach()[None], obs)
        new = loop.policies.distribution(adapted(meta, task)[None], obs)
        total = total + kl_divergence(old, new).mean()
    return total / batch.num_tasks


def test_a_step_improves_and_stays_in_the_trust_region() -> None:
    agent = new_agent(max_kl=1e-3)
    trial = play(agent)
    before = agent.policies.meta_parameters()
    metrics = agent.meta_update(trial, generator=torch_generator(0, CPU))
    after = agent.policies.meta_parameters()
    assert metrics["accepted"] == 1
    assert metrics["surrogate_after"] > metrics["surrogate_before"]
    # The update starts from the policy that acted, so the surrogate is 0 there.
    assert metrics["surrogate_before"] == pytest.approx(0, abs=1e-5)
    # The reported KL equals one computed anew.
    experiences = [agent.experience(rollout)[0] for rollout in trial]
    (batch,) = TaskBatch.of(experiences, TASKS)
    policies = [
        agent.policies.distribution(agent.inner_loop.unroll(meta, batch).adapted, batch.query.obs)
        for meta in (before, after)
    ]
    kl = float(kl_divergence(*policies).mean())
    assert metrics["kl"] == pytest.approx(kl, rel=1e-3)
    assert kl <= 1e-3
    assert metrics["step_norm"] == pytest.approx(float((after - before).norm()), rel=1e-3)


def test_a_step_so_long_that_it_overflows_is_shortened() -> None:
    agent = new_agent(line_search_shrink=0.1)
    trial = play(agent)
    search, first_tries = agent._surrogate_and_kl, []

    def overflowing_first(meta: torch.Tensor, *rest: Any) -> tuple[float, float]:
        if not first_tries:
            first_tries.append(meta)
            return search(meta * 1e25, *rest)  # its square is infinite
        return search(meta, *rest)

    agent._surrogate_and_kl = overflowing_first
    metrics = agent.meta_update(trial, generator=torch_generator(0, CPU))
    assert (metrics["accepted"], metrics["line_search_steps"]) == (1, 2)


def test_a_full_step_is_as_long_as_the_trust_region_is_wide() -> None:
    """For small steps the KL is half the quadratic form from which the length is computed."""
    agent = new_agent(max_kl=1e-6, cg_damping=0.0, line_search_shrink=0.99)
    metrics = agent.meta_update(play(agent), generator=torch_generator(0, CPU))
    assert metrics["kl"] == pytest.approx(1e-6 * metrics["step_fraction"] ** 2, rel=0.05)
    assert metrics["step_fraction"] > 0.9


@pytest.mark.parametrize("worse", [(-1.0, 0.0), (1.0, 0.02)])
def test_without_an_acceptable_step_parameters_are_bit_for_bit_as_before(
    worse: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = new_agent()
    trial = play(agent)
    before = {name: t.clone() for name, t in agent.state_dict().items()}
    monkeypatch.setattr(agent, "_surrogate_and_kl", lambda *_: worse)
    metrics = agent.meta_update(trial, generator=torch_generator(0, CPU))
    assert (metrics["accepted"], metrics["line_search_steps"], metrics["kl"]) == (0, 15, 0)
    after = agent.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("broken", [(float("nan"), 0.0), (1.0, float("inf"))])
def test_a_kl_that_is_not_finite_is_named_and_parameters_are_as_before(
    broken: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = new_agent()
    trial, before = play(agent), agent.policies.meta_parameters()
    monkeypatch.setattr(agent, "_surrogate_and_kl", lambda *_: broken)
    with pytest.raises(NotFiniteError, match=r"the KL or the surrogate, .* is not finite"):
        agent.meta_update(trial, generator=torch_generator(0, CPU))
    assert torch.equal(agent.policies.meta_parameters(), before)


def test_without_any_difference_in_reward_nothing_moves() -> None:
    agent = new_agent()
    trial = play(agent)
    for rollout in trial:
        rollout.reward.zero_()
    before = agent.policies.meta_parameters()
    metrics = agent.meta_update(trial, generator=torch_generator(0, CPU))
    assert metrics["gradient_norm"] == 0
    assert torch.equal(agent.policies.meta_parameters(), before)


def test_a_stride_of_the_curvature_leaves_the_gradient_as_it_is() -> None:
    metrics = []
    for stride in (1, 5):
        agent = new_agent(curvature_stride=stride)
        metrics.append(agent.meta_update(play(agent), generator=torch_generator(0, CPU)))
    assert metrics[0]["gradient_norm"] == metrics[1]["gradient_norm"]
    assert metrics[0]["step_norm"] != metrics[1]["step_norm"]
    assert all(m["accepted"] for m in metrics)


@pytest.mark.parametrize("stride", [1, 3])
def test_16_bit_products_give_the_same_update_but_for_rounding(
    stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def move(products: str, *, instructions: bool) -> tuple[torch.Tensor, dict[str, float]]:
        monkeypatch.setattr(maml_trpo, "has_fast_bfloat16", lambda _: instructions)
        agent = new_agent(
            products=products, curvature_stride=stride, hidden_sizes=(32, 32), initial_std=1.0
        )
        start = agent.policies.meta_parameters()
        metrics = agent.meta_update(play(agent), generator=torch_generator(0, CPU))
        return agent.policies.meta_parameters() - start, metrics

    full, metrics = move("float32", instructions=True)
    short, of_short = move("bfloat16", instructions=True)
    assert metrics["accepted"] and not torch.equal(short, full)
    assert torch.cosine_similarity(short, full, dim=0) > 0.99
    # The policies that acted, and all that decides, are the same.
    assert of_short["surrogate_before"] == metrics["surrogate_before"]
    for name in ("gradient_norm", "kl", "surrogate_after"):
        assert of_short[name] == pytest.approx(metrics[name], rel=0.05), name
    assert torch.equal(move("bfloat16", instructions=False)[0], full)


def test_all_tasks_at_once_are_each_task_alone(double_precision: None) -> None:
    """vmap over tasks against a loop over them, through three gradient steps."""
    agent = new_agent()
    trial, meta = play(agent, rollouts=4), agent.policies.meta_parameters()
    experiences = [agent.experience(rollout)[0] for rollout in trial]
    direction = torch.randn(len(meta), generator=torch.Generator().manual_seed(0))
    results = []
    for size in (TASKS, 4, 1):
        batches = TaskBatch.of(experiences, size)
        surrogate, gradient, acted, _ = agent._surrogate_and_gradient(meta, batches)
        curvature = KLCurvature(agent.inner_loop, meta, batches, damping=0.0)
        elsewhere = agent._surrogate_and_kl(meta + 1e-3 * direction, batches, acted)
        results.append(
            torch.cat(
                [
                    torch.tensor([surrogate, *elsewhere]),
                    gradient,
                    curvature.product(direction) / 1e3,  # as large as the others
                ]
            )
        )
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(results[0], results[2], rtol=0, atol=1e-12)
    assert (results[0].abs() > 1e-4).float().mean() > 0.9


def test_a_stride_that_skips_whole_episodes_is_refused() -> None:
    config = MAMLTRPOConfig(curvature_stride=5, episodes_per_step=10)
    shape = config.trial_shape(20, training=True)
    with pytest.raises(UserError, match="curvature_stride 5 must be below the horizon 5"):
        config.check_training(shape, horizon=5, num_tasks=1, num_classes=1)


def test_discrete_actions_are_learned_from_too() -> None:
    distribution = BanditConfig(num_train_tasks=50).build()
    env = distribution.make_env(5 * 20)
    agent = MAMLTRPOConfig(hidden_sizes=(8,), episodes_per_step=20).build(
        env.single_observation_space, env.single_action_space, seed=0, device=CPU
    )
    trial = run_trial(
        agent, env, distribution.train.sample(5, np.random.default_rng(0)),
        shape=TrialShape(slots_per_task=20, rollouts=2), seed=0, generator=torch_generator(0, CPU),
    )  # fmt: skip
    assert agent.meta_update(trial, generator=torch_generator(0, CPU))["accepted"] == 1


def test_the_multi_task_baseline_adapts_at_test_time_only() -> None:
    config = MAMLTRPOConfig(adapt_in_training=False, episodes_per_step=EPISODES)
    assert config.trial_shape(2 * EPISODES, training=True).rollouts == 1
    assert config.trial_shape(2 * EPISODES).rollouts == 2
    config.check_training(
        config.trial_shape(2 * EPISODES, training=True), horizon=1, num_tasks=4, num_classes=2
    )
    with pytest.raises(UserError, match="no multiple of the 2 task classes"):
        config.check_training(TrialShape(), horizon=1, num_tasks=3, num_classes=2)
    agent = new_agent(adapt_in_training=False)
    (rollout,) = play(agent, rollouts=1)
    before = agent.begin_trial(TASKS * EPISODES)
    assert agent.meta_update([rollout], generator=torch_generator(0, CPU))["accepted"] == 1
    adapted = agent.adapt(before, rollout)
    assert (adapted[0] - adapted[1]).abs().max() > 1e-4


@pytest.mark.parametrize("elements", [2**20, 1])  # all tasks in one chunk, or one task per chunk
def test_a_broken_update_names_the_task_and_leaves_the_parameters(
    elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BATCH_ELEMENTS, "cpu", elements)
    agent = new_agent()
    trial = play(agent)
    trial[0].log_prob[:] = 0
    trial[1].log_prob[EPISODES * 3, 2] = float("-inf")
    before = agent.policies.meta_parameters()
    with pytest.raises(NotFiniteError, match="the meta-gradient is not finite"):
        agent.meta_update(trial, generator=torch_generator(0, CPU))
    trial[0].action[EPISODES * 4 + 1, 5] = float("nan")
    with pytest.raises(NotFiniteError, match=r"the inner gradient is not finite \(task 4\)"):
        agent.meta_update(trial, generator=torch_generator(0, CPU))
    assert torch.equal(agent.policies.meta_parameters(), before)


@pytest.mark.parametrize("kind", [MAMLTRPOConfig, ProMPConfig])
def test_normalized_observations_are_acted_and_learned_on_alike(
    kind: type[MAMLTRPOConfig] | type[ProMPConfig], double_precision: None
) -> None:
    """The policy that acts is the policy that is differentiated: their ratio is 1."""
    agent = kind(hidden_sizes=(16,), episodes_per_step=EPISODES, normalize_obs=True).build(
        spaces.Box(-np.inf, np.inf, (2,), np.float64),
        spaces.Box(-0.1, 0.1, (2,), np.float32),
        seed=0,
        device=CPU,
    )
    first = play(agent)
    agent.meta_update(first, generator=torch_generator(0, CPU))
    seen = torch.cat([rollout.seen.obs.flatten(0, 1) for rollout in first])
    step = first[0].seen.map(lambda x: x[:, 3])
    action, _, _ = agent.act(agent.begin_trial(TASKS * EPISODES), step, generator=None)
    mean, _ = agent.policies.policy((step.obs - seen.mean(0)) / seen.std(0, correction=0))
    torch.testing.assert_close(action, mean)
    rollout, _ = play(agent, seed=1)
    experience, _ = agent.experience(rollout)
    start = agent.begin_trial(TASKS * EPISODES)
    again = agent.policies.distribution(start, experience.obs)
    torch.testing.assert_close(ratio(again, experience), torch.ones_like(experience.log_prob))


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
