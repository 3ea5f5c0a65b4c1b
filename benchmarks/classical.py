"""Compares RL² with classical learners on held-out bandits and MDPs; trains RL² if needed.

python -m benchmarks.classical                                            every setting
python -m benchmarks.classical --settings bandit_5x10 bandit_5x100        two of them
python -m benchmarks.classical --settings tabular_25 --seeds 2 3          further seeds of RL²

A setting is a distribution and a number of episodes: `bandit_5x100` has 5 arms and 100 pulls,
`tabular_25` random MDPs and 25 episodes. RL² is trained in runs/classical/<setting>/seed<seed>; a
finished run is reused and a stopped one is resumed.

Every learner plays one trial on each of the first 1,000 held-out tasks. Constants of classical
learners are tuned on training tasks, in trials of the same length. `classical.json` also keeps the
settings and seeds of earlier calls, and `classical.md` is made from it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as train.py does

import numpy as np

from benchmarks import command_line
from benchmarks.bandit_learners import classical_learners
from benchmarks.training import learning_curve, play_newest, train_to_the_end, training_seconds
from envs.bandit import BanditConfig
from envs.tabular import TabularEnv, TabularTask, action_values, posterior_sampling
from evaluate import EvaluationConfig
from metarl.evaluation.statistics import REAL, bootstrap_interval, estimate, mean
from metarl.evaluation.trials import find_shape
from metarl.report.terminal import with_interval
from metarl.system.command_line import one_line_errors
from metarl.system.seeding import derive_seed
from metarl.tasks import TaskSet
from metarl.training.checkpoint import checkpoints
from metarl.training.experiment import Experiment, load_experiment
from metarl.training.provenance import environment

CONFIGS = Path(__file__).parents[1] / "configs"
NUM_TASKS = 1_000  # held-out tasks that every learner plays
NUM_TUNING_TASKS = 1_000  # training tasks on which classical learners are tuned
NO_LEARNERS = ("random", "knows the MDP")
PAPER = {
    "bandit_5x10": 6.7, "bandit_10x10": 6.7, "bandit_50x10": 6.8,
    "bandit_5x100": 78.7, "bandit_10x100": 83.5, "bandit_50x100": 84.9,
    "bandit_5x500": 401.6, "bandit_10x500": 432.5, "bandit_50x500": 438.9,
    "tabular_10": 156.2, "tabular_25": 445.7, "tabular_50": 936.1, "tabular_75": 1428.8,
    "tabular_100": 1913.7,
}  # fmt: skip
"""Total reward of the paper's RL² (Duan et al. 2016, arXiv:1611.02779, tables 1 and 2), after up to
250 million env steps of training."""

PULLS_10 = {
    "agent.learning_rate_decay": 0.99,
    "agent.discount": 1.0,
    "train.meta_batch_size": 500,
    "train.env_steps": 2_000_000,
}
PULLS_100 = {"agent.learning_rate_decay": 0.99, "train.env_steps": 3_000_000}


def in_parts(steps: int) -> dict[str, Any]:
    """Updates after so many steps of a trial, and back-propagation through them."""
    return {"train.rollout_steps": steps, "agent.chunk_length": steps}


# Differences from configs/rl2_bandit.yaml or rl2_tabular.yaml.
SETTINGS: dict[str, dict[str, Any]] = {
    "bandit_5x10": PULLS_10,
    "bandit_10x10": PULLS_10,
    "bandit_50x10": PULLS_10,
    "bandit_5x100": PULLS_100,
    "bandit_10x100": PULLS_100,
    "bandit_50x100": PULLS_100,
    "bandit_5x500": PULLS_100,
    "bandit_10x500": PULLS_100,
    "bandit_50x500": PULLS_100,
    "tabular_10": {},
    "tabular_25": {**in_parts(250), "train.env_steps": 4_000_000},
    "tabular_50": {**in_parts(250), "train.env_steps": 5_000_000},
    "tabular_75": {**in_parts(250), "train.env_steps": 5_000_000},
    "tabular_100": {**in_parts(250), "train.env_steps": 4_000_000},
}


PLAYED_BY = {f"bandit_{arms}x500": f"bandit_{arms}x100" for arms in (5, 10, 50)}
"""Settings that are played by agents of another one: trained on trials of 500 pulls, agents are
worse (docs/small_distributions.md)."""


def trained_for(setting: str, seed: int) -> Experiment:
    """The experiment that trains RL² for a setting."""
    kind, _, size = setting.partition("_")
    options = {
        "name": setting,
        "seed": seed,
        "train.episodes_per_trial": num_episodes(setting),
        **SETTINGS[setting],
    }
    if kind == "bandit":
        options["env.num_arms"] = int(size.partition("x")[0])
    return load_experiment(CONFIGS / f"rl2_{kind}.yaml", options)


def num_episodes(setting: str) -> int:
    """Number of episodes (on bandits: pulls) of a setting."""
    return int(re.split("[_x]", setting)[-1])


# -- playing ---------------------------------------------------------------------------------------


def measure(setting: str) -> dict[str, Any]:
    """Total rewards of classical learners on each held-out task of a setting, with their
    sources."""
    experiment, episodes = trained_for(setting, 1), num_episodes(setting)
    distribution = experiment.env.build()
    tasks = TaskSet(distribution.test[:NUM_TASKS])
    if isinstance(experiment.env, BanditConfig):
        learners = classical_learners(distribution.train[:NUM_TUNING_TASKS], pulls=episodes, seed=0)
        rewards = {
            name: learner(tasks, pulls=episodes, rng=stream(name))
            for name, learner in learners.items()
        }
        tuned = {name: learner.keywords for name, learner in learners.items() if learner.keywords}
    else:
        rewards = tabular_returns(tasks, episodes=episodes, horizon=distribution.horizon)
        tuned = {}
    return {
        "distribution": distribution.name,
        "episodes": episodes,
        "tasks": len(tasks),
        "split_hash": tasks.content_hash,
        "tuned": tuned,
        "totals": {name: totals_of(values) for name, values in rewards.items()},
        "rl2": {},
        "environment": environment(),
    }


def measure_rl2(setting: str, seed: int, runs: Path) -> dict[str, Any]:
    """Total rewards of RL² on the same tasks, after its training with a seed."""
    trained_as = PLAYED_BY.get(setting, setting)
    experiment, folder = trained_for(trained_as, seed), runs / trained_as / f"seed{seed}"
    train_to_the_end(experiment, folder)
    tasks = TaskSet(experiment.env.build().test[:NUM_TASKS])
    returns = rl2_returns(experiment, folder, tasks, episodes=num_episodes(setting), seed=seed)
    return {
        "experiment": experiment.model_dump(mode="json"),
        "env_steps": int(checkpoints(folder / "checkpoints")[-1].name),
        "training_s": training_seconds(folder),
        "curve": learning_curve(folder, points=40),
        "totals": totals_of(returns),
        "environment": environment(),
    }


def totals_of(rewards: np.ndarray) -> list[float]:
    """Total rewards of each task."""
    return np.round(rewards.sum(axis=1), 3).tolist()


def stream(learner: str) -> np.random.Generator:
    """A learner's own random stream, independent of the streams that tasks are drawn from."""
    return np.random.default_rng(derive_seed(0, learner))


def rl2_returns(
    experiment: Experiment, folder: Path, tasks: TaskSet, *, episodes: int, seed: int
) -> np.ndarray:
    """Returns of the newest checkpoint, tasks x episodes, with sampled actions."""
    config = EvaluationConfig(tasks_at_once=len(tasks), episodes=episodes)
    shape = find_shape(experiment, None, config)
    _, curve = play_newest(experiment, folder, tasks, shape=shape, at_once=len(tasks), seed=seed)
    return curve.scores["return"].numpy()


def tabular_returns(
    tasks: Sequence[TabularTask], *, episodes: int, horizon: int
) -> dict[str, np.ndarray]:
    """Returns, tasks x episodes, of random actions and PSRL, and expected ones of the known MDP."""
    env = TabularEnv(tasks, horizon=horizon)
    env.reset(seed=0)
    rng = stream("random")
    num_actions = tasks[0].mean_rewards.shape[1]
    rewards = [
        env.step(rng.integers(num_actions, size=len(tasks)))[1] for _ in range(episodes * horizon)
    ]
    values = action_values(
        np.stack([task.transitions for task in tasks]),
        np.stack([task.mean_rewards for task in tasks]),
        horizon=horizon,
    )
    return {
        "random": np.stack(rewards, axis=1),
        "PSRL": posterior_sampling(
            tasks, episodes=episodes, horizon=horizon, seed=derive_seed(0, "PSRL")
        ),
        "knows the MDP": np.tile(values[:, 0, 0].max(axis=1)[:, None], episodes),
    }


# -- the table -------------------------------------------------------------------------------------


def table(measured: dict[str, dict[str, Any]]) -> str:
    """Markdown tables for bandits and for MDPs, with one line per setting."""
    parts = []
    for kind in ("bandit", "tabular"):
        chosen = [name for name in SETTINGS if name in measured and name.startswith(kind)]
        if not chosen:
            continue
        learners = list(measured[chosen[0]]["totals"])
        lines = [
            f"| | {' | '.join(learners)} | RL² of the paper | RL² here | / paper "
            "| / best classical | training of a seed |",
            "|---" + "|---:" * (len(learners) + 5) + "|",
        ]
        for name in chosen:
            m = measured[name]
            totals = {learner: np.asarray(values) for learner, values in m["totals"].items()}
            rivals = [learner for learner in totals if learner not in NO_LEARNERS]
            best = max(rivals, key=lambda learner, totals=totals: totals[learner].mean())
            cells = [mean_cell(totals[learner], bold=learner == best) for learner in learners]
            lines.append(f"| {name} | {' | '.join(cells)} | {rl2_cells(name, m, totals[best])} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def rl2_cells(setting: str, m: dict[str, Any], best: np.ndarray) -> str:
    """The paper's RL², ours with each seed, its shares, and its training."""
    if not m["rl2"]:
        return f"{PAPER[setting]} | – | – | – | –"
    runs = [m["rl2"][seed] for seed in sorted(m["rl2"], key=int)]
    ours = np.asarray([run["totals"] for run in runs])
    each = ", ".join(f"{mean:.2f}" for mean in ours.mean(axis=1))
    seconds = np.mean([run["training_s"] for run in runs])
    trained_as = runs[0]["experiment"]["name"]
    also = "" if trained_as == setting else f", as {trained_as}"
    return (
        f"{PAPER[setting]} | {ours.mean():.2f} ({each}) | {ours.mean() / PAPER[setting]:.1%} | "
        f"{share_with_interval(ours.mean(axis=0), best)} | "
        f"{runs[0]['env_steps'] / 1e6:.1f} M steps, {seconds / 60:.1f} min{also}"
    )


def mean_cell(totals: np.ndarray, *, bold: bool) -> str:
    """Mean over tasks with its 95 % interval."""
    shown = with_interval(estimate(totals[:, None], bounds=REAL), 0, ".2f")
    value, _, interval = shown.partition(" ")
    return f"**{value}** {interval}" if bold else shown


def share_with_interval(ours: np.ndarray, best: np.ndarray) -> str:
    """Ratio of means with its 95 % interval; tasks are resampled for both together."""

    def ratio(pairs: np.ndarray) -> np.ndarray:
        both = mean(pairs)
        return both[..., :1] / both[..., 1:]

    pairs = np.stack([ours, best], axis=1)
    low, high = bootstrap_interval([pairs], ratio, rng=np.random.default_rng(0))
    return f"{100 * ratio(pairs)[0]:.1f} % [{100 * low[0]:.1f}, {100 * high[0]:.1f}]"


def report(measured: dict[str, dict[str, Any]]) -> str:
    """The tables and the conditions of the measurement."""
    newest = max(measured.values(), key=lambda m: m["environment"]["time"])
    about = newest["environment"]
    return (
        f"{table(measured)}\n\nMean total reward of a trial, with 95 % intervals (Student's t; of "
        f"ratios, bootstrap) over {newest['tasks']:,} held-out tasks, the same for everybody; "
        "bold: the best classical learner there. Greedy play and UCB1 are tuned on training tasks "
        "for every setting. RL² plays sampled actions; in brackets each seed. The paper's figures "
        "are of other tasks of the same distributions, after up to 250 M steps. Training times are "
        f"those of rollouts and updates on {about['cpu']}, torch {about['versions']['torch']}."
    )


def store(measured: dict[str, dict[str, Any]], folder: Path) -> None:
    """Writes the raw numbers, one line per setting as it holds thousands, and the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(n)}: {json.dumps(m)}" for n, m in measured.items()]
    (folder / "classical.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    (folder / "classical.md").write_text(report(measured) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Trains, plays, prints and stores the results."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default="runs/classical", help="where RL² is trained")
    parser.add_argument("--output", type=Path, default="results/classical", help="for the table")
    options = parser.parse_args(arguments)
    command_line.check_known("setting", options.settings, SETTINGS)
    stored = options.output / "classical.json"
    measured = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
    if any("rl2" not in m for m in measured.values()):
        command_line.fail(f"{stored} is of an earlier version; move it away")
    for setting in options.settings:
        for seed in options.seeds:
            if setting not in measured:
                measured[setting] = measure(setting)
            measured[setting]["rl2"][str(seed)] = measure_rl2(setting, seed, options.runs)
            store(measured, options.output)
    print(f"{report(measured)}\n\nStored in {options.output}")


if __name__ == "__main__":
    with one_line_errors("benchmarks.classical"):
        main(sys.argv[1:])
