"""Measures end-to-end training speed (env steps/s), split into physics, policy and update.

python -m benchmarks.training_speed                                   both ML10 experiments, twice
python -m benchmarks.training_speed maml_trpo_ml10 --rounds 3         one of configs/

Whole iterations run as in `train.py`, on the native engine and on the official environment objects
in turn, from the same seeds. Physics is all work of the environment from actions to observations,
including rewards; policy is the rest of the rollout: acting, adapting, assembling the rollout.
Numbers are medians over rounds, and the ratio is that of the two speeds of a round; compilation is
not counted.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as train.py does

from benchmarks import command_line
from envs.metaworld import MetaWorldConfig
from metarl.errors import UserError
from metarl.protocols import TaskVectorEnv
from metarl.rollout.trial import run_trial
from metarl.system.command_line import one_line_errors
from metarl.training.experiment import (
    Experiment,
    build_agent,
    load_experiment,
    training_shape,
)
from metarl.training.iteration import Iteration
from metarl.training.provenance import environment
from train import DEFAULT_CONFIG

ENGINES = ("native", "reference")
EXPERIMENTS = ("maml_trpo_ml10", "rl2_ml10")


class Clock:
    """Environment wrapper that measures the seconds spent in it."""

    def __init__(self, env: TaskVectorEnv) -> None:
        self.env = env
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, *, seed: int | None = None) -> Any:
        """Calls the environment and adds the time (s)."""
        started = time.perf_counter()
        answer = self.env.reset(seed=seed)
        self.seconds += time.perf_counter() - started
        return answer

    def step(self, actions: Any) -> Any:
        """Calls the environment and adds the time (s)."""
        started = time.perf_counter()
        answer = self.env.step(actions)
        self.seconds += time.perf_counter() - started
        return answer


@dataclass
class Contender:
    """An experiment on one engine, run iteration by iteration."""

    experiment: Experiment
    engine: str

    def __post_init__(self) -> None:
        plan = self.experiment.train
        env = self.experiment.env.model_copy(update={"engine": self.engine})
        self.distribution = env.build()
        self.shape = training_shape(self.experiment, self.distribution)
        num_slots = plan.meta_batch_size * self.shape.slots_per_task
        self.env = Clock(self.distribution.make_env(num_slots))
        self.agent = build_agent(self.experiment, self.env)
        self.iteration = 0

    def iterate(self) -> dict[str, float]:
        """Runs an iteration; returns its times (s) by part, and its env steps."""
        self.env.seconds = 0.0
        step = Iteration(self.experiment.seed, self.iteration, self.agent.device)
        tasks = self.distribution.train.sample(self.experiment.train.meta_batch_size, step.task_rng)
        with step.timed("rollout"):
            trial = run_trial(
                self.agent, self.env, tasks,
                shape=self.shape, seed=step.env_seed, generator=step.generator,
            )  # fmt: skip
        with step.timed("update"):
            self.agent.meta_update(trial, generator=step.generator)
        self.iteration += 1
        rollout, update = step.metrics["timing/rollout_s"], step.metrics["timing/update_s"]
        return {
            "env_steps": sum(rollout.reward.numel() for rollout in trial),
            "physics_s": self.env.seconds,
            "policy_s": rollout - self.env.seconds,
            "update_s": update,
        }


def measure(name: str, *, rounds: int) -> dict[str, Any]:
    """Measures both engines in turn, from the same untrained agent."""
    experiment = load_experiment(DEFAULT_CONFIG.parent / f"{name}.yaml")
    if not isinstance(experiment.env, MetaWorldConfig):
        raise UserError(f"{name} is not on Meta-World; there is no official engine to compare with")
    Contender(experiment, "native").iterate()  # compiles
    contenders = {engine: Contender(experiment, engine) for engine in ENGINES}
    taken = {engine: [] for engine in ENGINES}
    for number in range(rounds):
        for engine, contender in contenders.items():
            taken[engine].append(contender.iterate())
            print(f"{name} {engine} {number + 1}/{rounds}: {summary(taken[engine][-1:])}")
    speed = {engine: [rate(one) for one in taken[engine]] for engine in ENGINES}
    ratios = [a / b for a, b in zip(speed["native"], speed["reference"], strict=True)]
    return {"taken": taken, "native_to_reference": round(median(ratios), 2)}


def rate(one: dict[str, float]) -> float:
    """Env steps per second."""
    return one["env_steps"] / (one["physics_s"] + one["policy_s"] + one["update_s"])


def shares(taken: Sequence[dict[str, float]]) -> list[float]:
    """Median shares of physics, policy and update in the time of an iteration."""
    parts = ("physics_s", "policy_s", "update_s")
    return [median(one[p] / sum(one[q] for q in parts) for one in taken) for p in parts]


def summary(taken: Sequence[dict[str, float]]) -> str:
    """Summary of the measurements in one line."""
    split = ", ".join(
        f"{part} {share:.0%}"
        for part, share in zip(("physics", "policy", "update"), shares(taken), strict=True)
    )
    return f"{median(map(rate, taken)):,.0f} env steps/s, {split}"


def table(measured: dict[str, Any]) -> str:
    """All results as Markdown."""
    lines = [
        "| | engine | env steps/s | physics | policy | update |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, result in measured.items():
        for engine, taken in result["taken"].items():
            cells = " | ".join(f"{share:.0%}" for share in shares(taken))
            lines.append(f"| `{name}` | {engine} | {median(map(rate, taken)):,.0f} | {cells} |")
        lines.append(f"| | **ratio** | **{result['native_to_reference']}** | | | |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = command_line.parser(__doc__)
    parser.add_argument("experiments", nargs="*", default=EXPERIMENTS, help="of configs/")
    parser.add_argument("--rounds", type=int, default=2, help="iterations of each")
    parser.add_argument("--out", type=Path, help="where the raw numbers go")
    options = parser.parse_args(arguments)
    measured = {name: measure(name, rounds=options.rounds) for name in options.experiments}
    print(table(measured))
    if options.out:
        options.out.write_text(
            json.dumps({"environment": environment(), "experiments": measured}, indent=1),
            encoding="utf-8",
        )


if __name__ == "__main__":
    with one_line_errors("benchmarks.training_speed"):
        main(sys.argv[1:])
