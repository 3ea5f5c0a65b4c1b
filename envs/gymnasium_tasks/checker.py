"""Checker of a user's tasks and environments; it reports each fault in words.

python train.py --check MODULE              one line per finding; exit code 0 or 2
python -m envs.gymnasium_tasks MODULE       the same, without agents that learn
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, MutableSequence, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from envs.gymnasium_tasks.precision import Seen
from envs.gymnasium_tasks.tasks import GymnasiumTasks
from envs.worker.process import Failure, Worker
from envs.worker.tasks import GymnasiumTask, check_horizon, missing_names, read_tasks
from metarl.errors import MESSAGE_LIMIT, UserError, printable
from metarl.rollout.player import FlatSpaces, MakeEnv, make, parts, takes_task
from metarl.rollout.trial import run_trial
from metarl.system.user_module import UserModule, describe
from metarl.tasks import TaskSet
from metarl.training.iteration import Iteration

NOTE = "note: "
"""Prefix of a finding that is no error."""
SEED = 1
TASKS_TRIED = 5
"""Number of tasks to compare; if all play alike, the task makes no difference."""
TASKS_LEARNED, EPISODES, SHORT = 2, 4, 5
"""Tasks, episodes per task and steps per episode that each agent learns from."""
PATIENCE = 120.0
"""Time limit of each call of an environment (s)."""


def check(
    tasks: GymnasiumTasks | str | Path,
    *,
    agents: Sequence[Any] = (),
    note: MutableSequence[int] | None = None,
) -> list[str]:
    """Findings about a distribution, or about a module (a path, or a name to import).

    Plays a few episodes of random actions. A finding is one line; one that begins with "note: " is
    no error.

    Args:
        agents: configs of agents; each plays and learns briefly if there are no other errors.
        note: counters of the calls of environments.
    """
    note = [0, 0] if note is None else note
    if isinstance(tasks, GymnasiumTasks):
        findings = _check_all(tasks.make_single, tasks.train, tasks.test, tasks.horizon, note)
        return findings if _is_wrong(findings) else [*findings, *_let_learn(tasks, agents, note)]
    module = UserModule(str(tasks))
    try:
        names = vars(module.loaded)
    except UserError as error:
        return [str(error)]
    findings = missing_names(names)
    if findings:
        return findings
    read: dict[str, TaskSet[Any]] = {}
    for name in ("train_tasks", "test_tasks"):
        try:
            read[name] = read_tasks(names[name], name=name, env_name=module.name)
        except UserError as error:
            findings.append(str(error))
    try:
        horizon = check_horizon(names["horizon"])
    except UserError as error:
        return [*findings, str(error)]
    if findings:
        return findings
    findings = _check_all(names["make_env"], read["train_tasks"], read["test_tasks"], horizon, note)
    if _is_wrong(findings) or not agents:
        return findings
    distribution = GymnasiumTasks(
        module,
        train_tasks=list(read["train_tasks"]),
        test_tasks=list(read["test_tasks"]),
        horizon=horizon,
        name=module.name,
    )
    return [*findings, *_let_learn(distribution, agents, note)]


def _is_wrong(findings: Sequence[str]) -> bool:
    return any(not text.startswith(NOTE) for text in findings)


def _let_learn(
    tasks: GymnasiumTasks, agents: Sequence[Any], note: MutableSequence[int]
) -> list[str]:
    """Findings about learning: each agent plays two short trials and learns from them."""
    findings = []
    short = GymnasiumTasks(
        tasks.make_single,
        train_tasks=list(tasks.train),
        test_tasks=list(tasks.test),
        horizon=min(tasks.horizon, SHORT),
        name=tasks.name,
    )
    for config in agents:
        note[1] += 1
        shape = config.trial_shape(EPISODES, training=True)
        try:
            with closing(short.make_env(TASKS_LEARNED * shape.slots_per_task)) as env:
                agent = config.build(
                    env.single_observation_space, env.single_action_space,
                    seed=SEED, device=torch.device("cpu"),
                )  # fmt: skip
                for iteration in range(2):
                    step = Iteration(SEED, iteration, agent.device)
                    trial = run_trial(
                        agent, env, short.train.sample(TASKS_LEARNED, step.task_rng),
                        shape=shape, seed=step.env_seed, generator=step.generator,
                    )  # fmt: skip
                    agent.meta_update(trial, generator=step.generator)
        except (Exception, SystemExit) as error:
            findings.append(f"{config.kind} cannot learn from it: {describe(error)}")
    return findings


def _check_all(
    make_env: MakeEnv,
    train: TaskSet[Any],
    test: TaskSet[Any],
    horizon: int,
    note: MutableSequence[int],
) -> list[str]:
    findings = []
    for name, tasks in (("train_tasks", train), ("test_tasks", test)):
        different = {task.parameters.tobytes() for task in tasks}
        if len(different) < len(tasks):
            findings.append(f"{name} has {len(tasks)} tasks, but only {len(different)} differ")
    shared = train.shared_with(test)
    if shared:
        findings.append(
            f"{len(shared)} of train_tasks are in test_tasks too, e.g. {shared[0].value!r}; "
            "keep each in one of them"
        )
    unique = {task.parameters.tobytes(): task for task in [*train, *test]}
    return [*findings, *_check_environment(make_env, list(unique.values()), horizon, note)]


def _check_environment(
    make_env: MakeEnv, tasks: Sequence[GymnasiumTask], horizon: int, note: MutableSequence[int]
) -> list[str]:
    """Plays the first tasks and compares their episodes."""
    trial = _Trial(make_env, horizon, note)
    try:
        trial.compare(tasks[0].value, [task.value for task in tasks[1:TASKS_TRIED]])
    except (Exception, SystemExit) as error:
        trial.found.setdefault("raised", f"{trial.doing}: {describe(error)}")
    findings = [printable(text, limit=MESSAGE_LIMIT) for text in trial.found.values()]
    return sorted(findings, key=lambda text: text.startswith(NOTE))


@dataclass
class _Episode:
    """Observations (flat) and rewards of an episode."""

    obs: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Episode)
            and np.array_equal(self.rewards, other.rewards, equal_nan=True)
            and len(self.obs) == len(other.obs)
            and all(map(lambda a, b: np.array_equal(a, b, equal_nan=True), self.obs, other.obs))
        )


class _Trial:
    """Episodes with the same actions and seed; keeps one finding of each kind."""

    def __init__(self, make_env: MakeEnv, horizon: int, note: MutableSequence[int]) -> None:
        self.found: dict[str, str] = {}
        self._note = note
        self.doing = "make_env"
        self._make_env = make_env
        self._horizon = horizon
        self._actions: list[Any] = []
        self._success_told = False

    @property
    def doing(self) -> str:
        """Current call of the environment, in words."""
        return self._doing

    @doing.setter
    def doing(self, what: str) -> None:
        self._doing = what
        self._note[1] += 1  # a sign of life

    def compare(self, task: Any, others: Sequence[Any]) -> None:
        """Plays a task and others, again and in other orders; stops at a breach of the contract."""
        env = make(self._make_env, task)
        self.doing = "spaces"
        FlatSpaces.of(env)
        env.action_space.seed(SEED)
        self._actions = [env.action_space.sample() for _ in range(self._horizon)]
        episodes = []
        for each in (task, *others):
            env = self._of(each, env)
            episodes.append(self._play(env, each))
            if self._broken():
                return
            if self._play(env, None) != episodes[-1]:
                self.found["reset"] = (
                    "a second episode differs from the first, with the same seed and actions: "
                    "reset forgets the task, or keeps something else"
                    if self._play(make(self._make_env, each), each) == episodes[-1]
                    else "not reproducible: the same task, seed and actions lead elsewhere; draw "
                    "all random numbers from self.np_random, after super().reset(seed=seed)"
                )
                return
        for episode in episodes:
            self._judge_precision("observation", [np.array(o, float) for o in episode.obs])
            self._judge_precision("reward", [np.array([reward]) for reward in episode.rewards])
        if not self._success_told:
            self.found["success"] = (
                f'{NOTE}no info has "success" or "is_success", so success will be 0 %'
            )
        if others and all(episode == episodes[0] for episode in episodes):
            self.found["task"] = self._no_difference(task, others)
        elif self._play(self._of(task, env), task) != episodes[0]:
            self.found["reset"] = (
                "not reproducible: the same task, seed and actions lead elsewhere once other tasks "
                "were played; let reset start everything anew"
            )
        if not self._broken():
            self._ask_gymnasium(task)

    def _judge_precision(self, what: str, moments: Sequence[np.ndarray]) -> None:
        seen = Seen()
        for numbers in moments:
            seen.add(numbers[None])
        if text := seen.blurred(what):
            self.found.setdefault(f"{what} blurred", f"{NOTE}{text}")

    def _no_difference(self, task: Any, others: Sequence[Any]) -> str:
        if not takes_task(self._make_env):
            late = [self._play(make(self._make_env, each), each, late=True)
                    for each in (task, *others)]  # fmt: skip
            if any(episode != late[0] for episode in late[1:]):
                return "the task does not survive a reset: set_task(task), then reset() forgets it"
        return (
            f"the task makes no difference: {len(others) + 1} tasks give the same observations and "
            "rewards from the same seed with the same actions"
        )

    def _of(self, task: Any, env: gymnasium.Env) -> gymnasium.Env:
        """An environment for the task: `env` if its task can be set, else a new one."""
        return make(self._make_env, task) if takes_task(self._make_env) else env

    def _play(self, env: gymnasium.Env, task: Any, *, late: bool = False) -> _Episode:
        """Plays one episode; a task of None leaves the environment's task as it is."""
        set_task = None
        if task is not None and not takes_task(self._make_env):
            set_task = env.get_wrapper_attr("set_task")
        self.doing = "set_task"
        if set_task is not None and not late:
            set_task(task)
        self.doing = "reset"
        obs, _ = parts(env.reset(seed=SEED), names=("obs", "info"), of="reset")
        if set_task is not None and late:
            set_task(task)
        seen = _Episode()
        self._look(env, obs, seen)
        for number, action in enumerate(self._actions, start=1):
            self.doing = f"step {number}"
            names = ("obs", "reward", "terminated", "truncated", "info")
            obs, reward, terminated, truncated, info = parts(
                env.step(action), names=names, of="step"
            )
            self._look(env, obs, seen)
            self._take(reward, seen)
            if isinstance(info, Mapping):
                self._success_told |= "success" in info or "is_success" in info
            else:
                self.found.setdefault("info", f"info must be a dictionary, but is {info!r}")
            if (terminated or truncated) and number < self._horizon:
                self.found.setdefault(
                    "early",
                    f"{NOTE}random play ended an episode after {number} of {self._horizon} steps; "
                    "it rests until then: the last observation, reward 0, the last success",
                )
            if terminated or truncated or self._broken():
                break
        return seen

    def _look(self, env: gymnasium.Env, obs: Any, seen: _Episode) -> None:
        """Checks an observation against the observation space."""
        space = env.observation_space
        if isinstance(space, spaces.Box):
            values = np.asarray(obs)
            if values.shape != space.shape:
                self._wrong(f"has shape {values.shape}, the observation space {space.shape}")
                return
            if np.issubdtype(values.dtype, np.number) and not np.isfinite(values).all():
                self._wrong("is not finite")
            elif not np.can_cast(values.dtype, space.dtype):
                self._wrong(f"is {values.dtype}, the observation space {space.dtype}")
        if not self._broken() and not space.contains(obs):
            self._wrong(f"is outside the observation space {space}")
        if not self._broken():
            seen.obs.append(np.array(spaces.flatten(space, obs)))

    def _wrong(self, what: str) -> None:
        self.found.setdefault("obs", f"{self.doing}: the observation {what}")

    def _take(self, reward: Any, seen: _Episode) -> None:
        try:
            seen.rewards.append(float(reward))
            finite = bool(np.isfinite(seen.rewards[-1]))
        except (TypeError, ValueError):
            finite = False
        if not finite:
            self.found.setdefault(
                "reward", f"{self.doing}: the reward is {reward!r}, which is no finite number"
            )

    def _broken(self) -> bool:
        return any(not text.startswith(NOTE) for text in self.found.values())

    def _ask_gymnasium(self, task: Any) -> None:
        """Runs Gymnasium's own checker and keeps its objection."""
        env = make(self._make_env, task)
        if not takes_task(self._make_env):
            env.get_wrapper_attr("set_task")(task)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
            except Exception as error:
                self.found["gymnasium"] = f"gymnasium's check_env: {error}"


class _Checking:
    """Server of a worker process for the command line; see `Worker`."""

    def __init__(
        self, source: UserModule, *, horizon: int, first_slot: int, note: MutableSequence[int]
    ) -> None:
        del horizon, first_slot
        self._source, self._note = source.source, note

    def check(self, agents: Sequence[Any]) -> list[str]:
        """Findings about the module."""
        return check(self._source, agents=agents, note=self._note)

    def close(self) -> None:
        """Does nothing; `check` has closed everything."""


def check_apart(module: str, agents: Sequence[Any] = ()) -> list[str]:
    """Findings of `check` about a module, run in a process that may hang or die."""
    worker = Worker(UserModule(module), horizon=1, first_slot=0, serves=_Checking)
    try:
        worker.ask("check", agents)
        answer = worker.answer(PATIENCE)
    finally:
        worker.close()
    if isinstance(answer, Failure):
        return [f"{module}: {answer.what}, at call {answer.step} of the environment"]
    return answer


def tell(module: str, findings: Sequence[str]) -> None:
    """Prints the findings; exits with code 2 if one is an error."""
    for text in findings:
        print(printable(text, limit=MESSAGE_LIMIT))
    if _is_wrong(findings):
        raise SystemExit(2)
    print(f"{module} can be trained on")


def main(arguments: Sequence[str]) -> None:
    """Runs the command line."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m envs.gymnasium_tasks MODULE", file=sys.stderr)
        raise SystemExit(2)
    tell(arguments[0], check_apart(arguments[0]))
