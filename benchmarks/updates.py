"""Measures MAML-TRPO's meta-update, compared with loops over tasks that compute the same.

python -m benchmarks.updates                        at the sizes of ML1: 20 tasks x 10 x 500 steps
python -m benchmarks.updates --tasks 10 --rounds 3
python -m benchmarks.updates --hidden 512 --without loop rollouts

All contenders run in one process and are measured in turn, round after round, on the same
experience; ratios are medians of ratios within a round. Each computes the meta-gradient through one
inner step, ten conjugate-gradient steps on the Hessian of the KL after adaptation, and one step of
the line search; their results are compared. Memory is the peak of a process that runs one contender
alone, with two conjugate-gradient steps, including imports and data. The rollouts are those of one
update.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as train.py does

import higher
import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from agents.maml_trpo import (
    MAMLTRPO,
    KLCurvature,
    MAMLTRPOConfig,
    conjugate_gradient,
    surrogate,
)
from benchmarks import command_line
from envs.metaworld import MetaWorld
from envs.metaworld.official import ACTION_SPACE, HORIZON, observation_space
from metarl.learning.task_batch import Experience, TaskBatch
from metarl.nn.distributions import kl_divergence
from metarl.rollout.trial import run_trial
from metarl.system.command_line import one_line_errors
from metarl.system.seeding import torch_generator
from metarl.training.provenance import environment
from metarl.types import TrialShape

EPISODES = 10
CONFIG = MAMLTRPOConfig(episodes_per_step=EPISODES)
CPU = torch.device("cpu")

Contender = Callable[[MAMLTRPO, Experience, Experience], Tensor]
"""Function from agent, support and query to the natural gradient."""


def new_agent(config: MAMLTRPOConfig) -> MAMLTRPO:
    """An untrained agent, always the same."""
    return config.build(observation_space(), ACTION_SPACE, seed=0, device=CPU)


def sized(hidden: int) -> MAMLTRPOConfig:
    """The config of an agent with two hidden layers of this size."""
    return CONFIG.model_copy(update={"hidden_sizes": (hidden, hidden)})


def random_experience(tasks: int, seed: int) -> Experience:
    """Random experience like that of an untrained policy."""
    generator = torch.Generator().manual_seed(seed)
    shape = (tasks, EPISODES * HORIZON)
    action = torch.randn(*shape, 4, generator=generator)
    return Experience(
        obs=torch.rand(*shape, 39, generator=generator),
        action=action,
        log_prob=torch.distributions.Normal(0.0, 1.0).log_prob(action).sum(-1),
        advantage=torch.randn(shape, generator=generator),
    )


# -- contenders ------------------------------------------------------------------------------------


def ours(
    agent: MAMLTRPO,
    support: Experience,
    query: Experience,
    *,
    stride: int = 1,
    products: str = "float32",
) -> Tensor:
    """The computation of `meta_update`."""
    changes = {"curvature_stride": stride, "products": products}
    agent = new_agent(agent.config.model_copy(update=changes))
    loop = agent.inner_loop
    meta = loop.policies.meta_parameters()
    batches = TaskBatch.of([support, query], loop.batch_size(support))
    _, gradient, acted, unrolled = agent._surrogate_and_gradient(meta, batches)
    curvature = KLCurvature(
        loop, meta, [batch.every(stride) for batch in batches],
        damping=CONFIG.cg_damping, products=agent._products, unrolled=unrolled,
    )  # fmt: skip
    del unrolled
    step = conjugate_gradient(curvature.product, gradient, iterations=agent.config.cg_iterations)
    del curvature  # frees the graphs
    agent._surrogate_and_kl(meta + 1e-3 * step, batches, acted)
    return step


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors flattened and concatenated."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def inner_loss(agent: MAMLTRPO, outputs: tuple[Tensor, ...], one: Experience) -> Tensor:
    """REINFORCE loss on one task."""
    policy = agent.policies.policy.distribution(*outputs)
    return -(policy.log_prob(one.action) * one.advantage).mean()


def objectives(
    agent: MAMLTRPO, outputs: tuple[Tensor, ...], one: Experience
) -> tuple[Tensor, Tensor]:
    """Surrogate and KL to the current policy, of one task after adaptation."""
    policy = agent.policies.policy.distribution(*outputs)
    batch = Experience(*(x[None] for x in one))
    batched = type(policy)(*(x[None] for x in vars(policy).values()))
    return surrogate(batched, batch).sum(), kl_divergence(policy.detach(), policy).mean()


def each_task(support: Experience, query: Experience) -> list[tuple[Experience, Experience]]:
    """Support and query of each task."""
    return [
        (Experience(*(x[n] for x in support)), Experience(*(x[n] for x in query)))
        for n in range(len(query.obs))
    ]


def adapted_outputs(
    agent: MAMLTRPO, parameters: dict[str, Tensor], one: Experience, query: Experience
) -> tuple[Tensor, ...]:
    """Outputs of the policy at the query's observations, after a gradient step by plain
    autograd."""
    policy = agent.policies.policy
    loss = inner_loss(agent, functional_call(policy, parameters, (one.obs,)), one)
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
    rate = CONFIG.inner_learning_rate
    moved = zip(parameters.items(), gradients, strict=True)
    return functional_call(policy, {name: p - rate * g for (name, p), g in moved}, (query.obs,))


def loop_with_graphs_kept(agent: MAMLTRPO, support: Experience, query: Experience) -> Tensor:
    """Plain autograd, task by task; the graph of the KL's gradient is kept for all products."""
    parameters = dict(agent.policies.policy.named_parameters())
    leaves = list(parameters.values())
    tasks = each_task(support, query)
    gradient, slopes = torch.zeros(()), []
    for one, judged in tasks:
        outputs = adapted_outputs(agent, parameters, one, judged)
        gained, kl = objectives(agent, outputs, judged)
        gradient = gradient + flat(torch.autograd.grad(gained, leaves, retain_graph=True))
        slopes.append(flat(torch.autograd.grad(kl, leaves, create_graph=True)))

    def product(vector: Tensor) -> Tensor:
        total = CONFIG.cg_damping * vector
        for slope in slopes:
            moved = torch.autograd.grad(slope @ vector, leaves, retain_graph=True)
            total = total + flat(moved) / len(tasks)
        return total

    step = conjugate_gradient(product, gradient / len(tasks), iterations=agent.config.cg_iterations)
    for one, judged in tasks:
        objectives(agent, adapted_outputs(agent, parameters, one, judged), judged)
    return step


def loop_with_higher(agent: MAMLTRPO, support: Experience, query: Experience) -> Tensor:
    """`higher`, task by task; no graph outlives its task, so memory stays small."""
    policy = agent.policies.policy
    leaves = list(policy.parameters())
    tasks = each_task(support, query)
    optimizer = torch.optim.SGD(leaves, lr=CONFIG.inner_learning_rate)

    def after_adaptation(one: Experience, judged: Experience) -> tuple[Tensor, Tensor]:
        with higher.innerloop_ctx(policy, optimizer, copy_initial_weights=False) as (fast, steps):
            steps.step(inner_loss(agent, fast(one.obs), one))
            return objectives(agent, fast(judged.obs), judged)

    def product(vector: Tensor) -> Tensor:
        total = CONFIG.cg_damping * vector
        for one, judged in tasks:
            _, kl = after_adaptation(one, judged)
            slope = flat(torch.autograd.grad(kl, leaves, create_graph=True))
            total = total + flat(torch.autograd.grad(slope @ vector, leaves)) / len(tasks)
        return total

    gradient = torch.zeros(())
    for one, judged in tasks:
        gained, _ = after_adaptation(one, judged)
        gradient = gradient + flat(torch.autograd.grad(gained, leaves)) / len(tasks)
    step = conjugate_gradient(product, gradient, iterations=agent.config.cg_iterations)
    for one, judged in tasks:
        after_adaptation(one, judged)
    return step


OURS = "ours"
CONTENDERS: dict[str, Contender] = {
    OURS: ours,
    "ours, curvature of every 5th step": partial(ours, stride=5),
    "ours, bfloat16 second derivatives": partial(ours, products="bfloat16"),
    "loop, plain autograd, graphs kept": loop_with_graphs_kept,
    "loop, higher": loop_with_higher,
}
ROLLOUTS = "the rollouts, native engine"


# -- measuring -------------------------------------------------------------------------------------


def rollouts(agent: MAMLTRPO, tasks: int) -> Callable[[], object]:
    """Function that plays the two rollouts of an iteration on ML1-reach."""
    benchmark = MetaWorld("ML1-reach-v3")
    env = benchmark.make_env(tasks * EPISODES)
    chosen = benchmark.train.sample(tasks, np.random.default_rng(0))
    shape = TrialShape(slots_per_task=EPISODES, rollouts=2)
    return lambda: run_trial(
        agent, env, chosen, shape=shape, seed=0, generator=torch_generator(0, CPU)
    )


def measure(
    names: Sequence[str], *, tasks: int, hidden: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Seconds, ratios and peak memory of the contenders and the rollouts that are named."""
    agent = new_agent(sized(hidden))
    support, query = random_experience(tasks, 0), random_experience(tasks, 1)
    contenders = {name: CONTENDERS[name] for name in names if name in CONTENDERS}
    memory = {name: peak_memory(name, tasks, hidden) for name in contenders}
    runs: dict[str, Callable[[], Any]] = {
        name: partial(contender, agent, support, query) for name, contender in contenders.items()
    }
    if ROLLOUTS in names:
        runs[ROLLOUTS] = rollouts(agent, tasks)
        runs[ROLLOUTS]()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            results[name] = run()
            taken[name].append(time.perf_counter() - start)
            print(f"{taken[name][-1]:6.1f} s  {name}", file=sys.stderr, flush=True)
    steps = {name: results[name] for name in contenders}
    return {
        name: {
            "seconds": taken[name],
            "median": float(np.median(taken[name])),
            "times_ours": float(np.median(np.divide(taken[name], taken[OURS]))),
            "memory_mb": memory.get(name),
            "difference": relative_difference(steps[name], steps[OURS]) if name in steps else None,
            "cosine": cosine(steps[name], steps[OURS]) if name in steps else None,
        }
        for name in runs
    }


def relative_difference(step: Tensor, other: Tensor) -> float:
    """Relative difference of two natural gradients."""
    return float((step - other).norm() / other.norm())


def cosine(step: Tensor, other: Tensor) -> float:
    """Cosine of the angle between two natural gradients."""
    return float(torch.cosine_similarity(step, other, dim=0))


def peak_memory(name: str, tasks: int, hidden: int) -> float:
    """Peak memory of a process that computes an update (MB)."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(update_alone, (name, tasks, hidden))


def update_alone(name: str, tasks: int, hidden: int) -> float:
    """Computes an update; returns the peak memory of this process (MB)."""
    # All that the ten conjugate-gradient steps keep is there in two.
    agent = new_agent(sized(hidden).model_copy(update={"cg_iterations": 2}))
    CONTENDERS[name](agent, random_experience(tasks, 0), random_experience(tasks, 1))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(measured: dict[str, dict[str, Any]]) -> str:
    """Markdown table with one line per contender."""
    lines = [
        "| | seconds: median [min–max] | × ours | peak MB | differs from ours by |",
        "|---" + "|---:" * 4 + "|",
    ]
    for name, m in measured.items():
        times = f"{m['median']:.1f} [{min(m['seconds']):.1f}–{max(m['seconds']):.1f}]"
        memory = "" if m["memory_mb"] is None else f"{m['memory_mb']:,.0f}"
        difference = "" if m["difference"] is None else f"{m['difference']:.0e}"
        lines.append(f"| {name} | {times} | {m['times_ours']:.2f} | {memory} | {difference} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Measures, prints and stores the results."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=128, help="units of each of two layers")
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="PART", help="parts of names to leave out"
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each contender")
    parser.add_argument("--output", type=Path, default="results/updates")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.tasks, options.hidden) < 1:
        command_line.fail("--rounds, --tasks and --hidden must be at least 1")
    names = [
        name
        for name in [*CONTENDERS, ROLLOUTS]
        if name == OURS or not any(part in name for part in options.without)
    ]
    about = environment()
    measured = measure(names, tasks=options.tasks, hidden=options.hidden, rounds=options.rounds)
    threads = torch.get_num_threads()
    text = (
        f"{table(measured)}\n\n{about['cpu']}, {about['cpus']} processors, threads: {threads}, "
        f"torch {about['versions']['torch']}, {options.tasks} tasks x {EPISODES} episodes x "
        f"{HORIZON} steps before and after the inner step, policy {options.hidden} x 2; "
        f"{options.rounds} rounds"
    )
    stored = {
        "options": vars(options),
        "threads": threads,
        "environment": about,
        "contenders": measured,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / f"updates_{options.hidden}.md").write_text(text + "\n", encoding="utf-8")
    (options.output / f"updates_{options.hidden}.json").write_text(
        json.dumps(stored, indent=2, default=str) + "\n", encoding="utf-8"
    )
    print(f"{text}\n\nStored in {options.output}")


if __name__ == "__main__":
    with one_line_errors("benchmarks.updates"):
        main(sys.argv[1:])
