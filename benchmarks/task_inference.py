"""Measures the updates of VariBAD and PEARL beside plain loops of the same formulas.

python -m benchmarks.task_inference                  five rounds, at the sizes of HalfCheetah-vel
python -m benchmarks.task_inference --rounds 15

PEARL takes a gradient step on all tasks of a batch at once; the plain loop takes the losses of one
task after the other. VariBAD predicts a trial from all posteriors at once; the plain loop predicts
it from one after the other, with all inputs put together, as published code does. Contenders run in
turn in one process, with the sizes of configs/pearl_cheetah_vel.yaml and varibad_cheetah_vel.yaml.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as train.py does

import torch
from torch import Tensor, nn

from agents import pearl
from agents.pearl import PEARL
from agents.varibad import Decoder, VariBAD, kl_from_previous, negative_elbo
from benchmarks import command_line
from benchmarks.rl2_updates import seconds
from metarl.nn.distributions import DiagonalGaussian
from metarl.rollout.trial import run_trial
from metarl.system.command_line import one_line_errors
from metarl.system.seeding import torch_generator
from metarl.training.experiment import build_agent, load_experiment
from metarl.training.provenance import environment
from metarl.types import TrialShape

CONFIGS = Path(__file__).parents[1] / "configs"
CPU = torch.device("cpu")


def agent_with_replay(config: str, **changes: Any) -> Any:
    """An agent whose replay holds a trial of random play on each of 20 tasks."""
    options = {"train.meta_batch_size": 20, **changes}
    experiment = load_experiment(CONFIGS / f"{config}.yaml", options)
    distribution = experiment.env.build()
    env = distribution.make_env(20)
    agent = build_agent(experiment, env)
    shape = TrialShape(episodes=experiment.train.episodes_per_trial)
    trial = run_trial(
        agent, env, distribution.train[:20], shape=shape, seed=0, generator=torch_generator(0, CPU)
    )
    env.close()
    agent.meta_update(trial, generator=torch_generator(0, CPU))
    return agent


# -- PEARL -----------------------------------------------------------------------------------------


def pearl_step(agent: PEARL, generator: torch.Generator) -> None:
    """One gradient step."""
    every, newest = agent.replay.by_task(), agent.replay.by_task(newest=True)
    agent._gradient_step(*agent._draw(every, newest, generator), generator)


def plain_pearl_step(agent: PEARL, generator: torch.Generator) -> None:
    """The same, task by task."""
    every, newest = agent.replay.by_task(), agent.replay.by_task(newest=True)
    batch, context = agent._draw(every, newest, generator)
    config, (tasks, rows) = agent.config, batch.reward.shape
    temperature = agent.actor.log_temperature.detach().exp()
    latents, losses = [], []
    for task in range(tasks):
        obs, action, reward, next_obs = (
            x[task : task + 1] for x in (batch.obs, batch.action, batch.reward, batch.next_obs)
        )
        mean, precision = agent.critic.encoder(context[task : task + 1])
        posterior = pearl.posterior_of(precision.sum(1), (mean * precision).sum(1))
        latent = posterior.sample(generator)[:, None].expand(-1, rows, -1)
        with torch.no_grad():
            next_action, log_prob = agent.actor(next_obs, latent).draw(generator)
            target = pearl.q_target(
                config.reward_scale * reward,
                agent.target_q(next_obs, latent, next_action),
                log_prob,
                temperature=temperature,
                discount=config.discount,
            )
        q = agent.critic.q(obs, latent, agent._unscaled(action))
        kl = pearl.kl_from_prior(posterior).sum()
        losses.append(pearl.q_error(q, target) / tasks + config.kl_coef * kl)
        latents.append(latent.detach())
    learn(agent.critic_optimizer, losses)
    losses = []
    for task in range(tasks):
        obs, latent = batch.obs[task : task + 1], latents[task]
        action, log_prob = agent.actor(obs, latent).draw(generator)
        q = agent.critic.q(obs, latent, action)
        losses.append(pearl.actor_loss(q, log_prob, temperature=temperature) / tasks)
    learn(agent.actor_optimizer, losses)
    with torch.no_grad():
        for target, learnt in zip(
            agent.target_q.parameters(), agent.critic.q.parameters(), strict=True
        ):
            target.lerp_(learnt, config.target_rate)


def learn(optimizer: torch.optim.Optimizer, losses: list[Tensor]) -> None:
    """A step along the gradient of a sum."""
    optimizer.zero_grad()
    torch.stack(losses).sum().backward()
    optimizer.step()


# -- VariBAD ---------------------------------------------------------------------------------------


def varibad_step(agent: VariBAD, generator: torch.Generator) -> None:
    """One step of encoder and decoder."""
    rows = agent.replay.draw_trials(agent.config.vae_batch_size, generator)
    loss, _ = agent._vae_loss(*agent.replay.trials(rows), generator=generator)
    learn(agent.vae_optimizer, [loss])


def plain_varibad_step(agent: VariBAD, generator: torch.Generator) -> None:
    """The same, posterior by posterior."""
    rows = agent.replay.draw_trials(agent.config.vae_batch_size, generator)
    seen, steps = agent.replay.trials(rows)
    num_trials, num_steps = steps.reward.shape
    belief, _ = agent.encoder(seen, agent.begin_trial(num_trials))
    decoder = agent.vae["rewards"]
    assert isinstance(decoder, Decoder)
    chosen = torch.randperm(num_steps, generator=generator)
    decoded = chosen[: agent.config.decoded_steps].sort().values
    obs, next_obs = (agent._scaled(x[:, decoded]) for x in (steps.obs, steps.next_obs))
    inputs = torch.cat([obs, steps.action[:, decoded], next_obs], dim=-1)
    reward = agent.config.reward_scale * steps.reward[:, decoded]
    weight = torch.cat([decoder.of_latent.weight, decoder.of_step.weight], dim=1)
    kl, losses = kl_from_previous(belief), []
    for t in chosen[: agent.config.elbo_terms].tolist():
        latent = DiagonalGaussian(belief.mean[:, t], belief.log_std[:, t]).sample(generator)
        both = torch.cat([latent[:, None].expand(-1, len(decoded), -1), inputs], dim=-1)
        first = nn.functional.linear(both, weight, decoder.of_latent.bias)
        error = (decoder.rest(first.relu()).squeeze(-1) - reward).square()
        losses.append(
            negative_elbo(
                error[:, None], None, kl[:, t : t + 1],
                num_steps=num_steps, kl_coef=agent.config.kl_coef,
            ) / agent.config.elbo_terms
        )  # fmt: skip
    learn(agent.vae_optimizer, losses)


# -- measuring -------------------------------------------------------------------------------------

STEPS = {
    "PEARL": ("pearl_cheetah_vel", pearl_step, plain_pearl_step),
    "VariBAD": ("varibad_cheetah_vel", varibad_step, plain_varibad_step),
}


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of ten steps, of each contender in each round."""
    taken: dict[str, dict[str, list[float]]] = {}
    small = {"pearl_cheetah_vel": {"agent.gradient_steps": 1}}
    for name, (config, ours, plain) in STEPS.items():
        contenders: dict[str, tuple[Any, Callable[[Any, torch.Generator], None]]] = {
            "ours": (agent_with_replay(config, **small.get(config, {})), ours),
            "plain": (agent_with_replay(config, **small.get(config, {})), plain),
        }
        if name == "PEARL":
            changes = {**small[config], "agent.products": "bfloat16"}
            contenders["ours, bfloat16"] = agent_with_replay(config, **changes), ours
        taken[name] = {contender: [] for contender in contenders}
        for _ in range(rounds):
            for contender, (agent, step) in contenders.items():
                generator = torch_generator(0, CPU)
                step(agent, generator)
                taken[name][contender].append(
                    seconds(lambda a=agent, s=step, g=generator: [s(a, g) for _ in range(10)])
                )
    return taken


def table(taken: dict[str, dict[str, list[float]]]) -> str:
    """Markdown table with one line per contender."""
    lines = ["| agent | contender | steps/s: median [min–max] | × plain |", "|---|---|---:|---:|"]
    for name, contenders in taken.items():
        for contender, each in contenders.items():
            rates = [10 / t for t in each]
            faster = median(p / t for p, t in zip(contenders["plain"], each, strict=True))
            lines.append(
                f"| {name} | {contender} | {median(rates):.1f} [{min(rates):.1f}–{max(rates):.1f}]"
                f" | {faster:.2f} |"
            )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Measures, prints and stores the results."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default="results/task_inference")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    taken = measure(options.rounds)
    about = environment()
    text = (
        f"{table(taken)}\n\nGradient steps of PEARL, and of VariBAD's encoder and decoder, on "
        f"{options.threads} thread of {about['cpu']}, torch {about['versions']['torch']}; ratios "
        "are medians of ratios within a round."
    )
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "updates.json").write_text(
        json.dumps({"seconds_of_ten_steps": taken, "environment": about}) + "\n", encoding="utf-8"
    )
    (options.output / "updates.md").write_text(text + "\n", encoding="utf-8")
    print(f"{text}\n\nStored in {options.output}")


if __name__ == "__main__":
    with one_line_errors("benchmarks.task_inference"):
        main(sys.argv[1:])
