"""Evaluates trained agents with the evaluation of the official Meta-World package.

python -m benchmarks.official_evaluation results/rl2_ml10/seed1 …        10 minutes each

Calls `metaworld.evaluation.metalearning_evaluation` of the installed package on the official
environments of the held-out classes: 10 episodes of adaptation with each of 40 goals per class,
four goals at a time. Then episodes end at their first success, and the first three episodes of a
class to end are counted. As successes end early, failures are underrepresented; the difference to
`evaluate.py --protocol metaworld`, where all episodes count, shows by how much. Results are stored
beside the run's other evaluations.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv, VectorWrapper
from metaworld import make_ml_envs_test
from metaworld.evaluation import Timestep, metalearning_evaluation

from benchmarks import command_line
from benchmarks.published_tables import OFFICIAL
from envs.metaworld import MetaWorldConfig
from envs.metaworld.official import ACTION_SPACE, HORIZON
from evaluate import EvaluationConfig
from metarl.errors import UserError
from metarl.evaluation.record import METAWORLD
from metarl.evaluation.trials import find_trials
from metarl.nn.distributions import execute
from metarl.protocols import Agent
from metarl.rollout.trial import first_step
from metarl.system.command_line import one_line_errors
from metarl.system.seeding import derive_seed, torch_generator
from metarl.training.experiment import load_run
from metarl.training.provenance import environment
from metarl.types import Rollout, TimeStep, TrialShape

BENCHMARKS = ("ML10", "ML25", "ML45")
SLOTS_PER_CLASS = 4
"""Goals of a class at a time, as the official evaluation's numbers assume."""
SEED = 0
"""Seed of the actions."""


class Watched(VectorWrapper):
    """Environment that keeps the results of the last step.

    The official evaluation gives rewards to the agent only in adaptation.
    """

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.call = env.call
        self.get_attr = env.get_attr
        self.reward = np.zeros(env.num_envs)
        self.episode_end = np.zeros(env.num_envs, dtype=bool)

    def step(self, actions: Any) -> Any:
        """Steps the environment and keeps rewards and ends of episodes."""
        answer = self.env.step(actions)
        _, self.reward, terminated, truncated, _ = answer
        self.episode_end = terminated | truncated
        return answer


class OfficialAgent:
    """Our agent with the interface of `metaworld.evaluation.MetaLearningAgent`."""

    def __init__(self, agent: Agent[Any], env: Watched, shape: TrialShape) -> None:
        self.agent = agent
        self.env = env
        self.shape = shape
        self.generator = torch_generator(derive_seed(SEED, "agent", 0), agent.device)

    def init(self) -> None:
        """Begins a trial."""
        self.state = self.agent.begin_trial(self.env.num_envs * self.shape.slots_per_task)
        self.executed: torch.Tensor | None = None
        self.acted: list[tuple[TimeStep, torch.Tensor, torch.Tensor]] = []
        self.experience: list[tuple[torch.Tensor, torch.Tensor]] = []

    def adapt_action(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Samples actions in episodes of adaptation."""
        seen, action, log_prob, executed = self._act(observations)
        self.acted.append((seen, action, log_prob))
        return executed, {}

    def step(self, timestep: Timestep) -> None:
        """Keeps the result of the last actions."""
        self.experience.append(self._outcome())

    def adapt(self) -> None:
        """Adapts to the episodes of adaptation, if the agent adapts to whole rollouts."""
        if self.shape.slots_per_task > 1:
            self.state = self.agent.adapt(self.state, self._rollout())

    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        """Samples actions in test episodes."""
        return self._act(observations)[-1]

    def reset(self, env_mask: np.ndarray) -> None:
        """Does nothing: `Watched` knows that episodes ended, and adaptation is kept."""

    def _act(self, obs: np.ndarray) -> tuple[Any, ...]:
        seen = first_step(obs, ACTION_SPACE, self.agent.device)
        if self.executed is not None:
            reward, episode_end = self._outcome()
            seen = TimeStep(
                obs=seen.obs,
                prev_action=self.executed,
                prev_reward=reward,
                episode_start=episode_end,
            )
        action, log_prob, self.state = self.agent.act(self.state, seen, generator=self.generator)
        executed, self.executed = execute(action, ACTION_SPACE)
        return seen, action, log_prob, executed

    def _outcome(self) -> tuple[torch.Tensor, torch.Tensor]:
        reward = torch.as_tensor(self.env.reward).to(torch.get_default_dtype())
        return reward, torch.as_tensor(self.env.episode_end)

    def _rollout(self) -> Rollout:
        """The experience of each task, with its consecutive episodes laid side by side."""
        episodes = self.shape.slots_per_task

        def apart(values: torch.Tensor) -> torch.Tensor:
            return values.unflatten(1, (episodes, -1)).flatten(0, 1)

        steps, action, log_prob = zip(*self.acted, strict=True)
        reward, episode_end = zip(*self.experience, strict=True)
        seen = TimeStep.stack(list(steps)).map(apart)
        action, log_prob, reward, episode_end = (
            apart(torch.stack(values, 1)) for values in (action, log_prob, reward, episode_end)
        )
        return Rollout(
            seen=seen,
            action=action,
            log_prob=log_prob,
            reward=reward,
            episode_end=episode_end,
            success=torch.zeros_like(episode_end),
            final_obs=seen.obs[:, -1:],
        )


def judge(folder: Path) -> dict[str, Any]:
    """Success as counted by the official evaluation: the mean over classes, and each class."""
    config = load_run(folder).env
    if not isinstance(config, MetaWorldConfig) or config.benchmark not in BENCHMARKS:
        raise UserError(f"{folder} was not trained on one of {', '.join(BENCHMARKS)}")
    if config.fold is not None:
        raise UserError(
            f"{folder} was trained on a fold of {config.benchmark}; the official evaluation would "
            "play the test classes, which cross-validation does not look at"
        )
    if config.horizon < HORIZON or config.num_goals < METAWORLD.goals:
        raise UserError(
            f"{folder} was trained with shorter episodes or fewer goals than officially"
        )
    trials = find_trials(folder, EvaluationConfig())
    if trials.shape.slots_per_task not in (1, METAWORLD.adaptation_episodes):
        raise UserError(
            f"{folder} adapts after {trials.shape.slots_per_task} episodes, the official "
            f"evaluation after {METAWORLD.adaptation_episodes}"
        )
    with closing(trials.distribution.make_env(trials.shape.slots_per_task)) as env:
        agent = trials.trained_agent(env)
    official = make_ml_envs_test(
        config.benchmark,
        seed=config.seed,
        meta_batch_size=SLOTS_PER_CLASS * len(trials.distribution.test.classes),
        total_tasks_per_cls=METAWORLD.goals,
        reward_function_version=config.reward_version,
    )
    with closing(Watched(official)) as watched:
        success, _, by_class = metalearning_evaluation(
            OfficialAgent(agent, watched, trials.shape),
            cast(SyncVectorEnv, watched),
            num_evals=METAWORLD.goals // SLOTS_PER_CLASS,
            adaptation_episodes=METAWORLD.adaptation_episodes,
        )
    return {"success": success, "by_class": {name: float(s) for name, s in by_class.items()}}


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = command_line.parser(__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="runs on ML10, ML25 or ML45")
    for folder in parser.parse_args(arguments).folders:
        path = folder / OFFICIAL
        if path.exists():
            raise UserError(f"{path} exists; move it away to evaluate again")
        judged = judge(folder)
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            json.dumps({"environment": environment(), **judged}, indent=1) + "\n", encoding="utf-8"
        )
        print(f"{judged['success']:.1%} of held-out tasks, stored in {path}")


if __name__ == "__main__":
    with one_line_errors("benchmarks.official_evaluation"):
        main(sys.argv[1:])
