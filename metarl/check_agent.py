"""A checker for algorithms: `python -m metarl.check_agent FILE.py:CLASS` says what is wrong.

The agent plays trials in two tiny environments, one with choices and one with continuous actions,
and learns from them. What is checked is what training relies on: shapes, finite numbers, no random
numbers but those of the generator, tasks that do not reach each other, a resume that is exact, and
beliefs, if it has some, that know nothing of later steps. Of a config with `small()`, these values
are taken where no option names others.
"""

from __future__ import annotations

from metarl.system import stopping

if __name__ == "__main__":
    stopping.install("metarl.check_agent")  # before the imports, which take seconds

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import tyro
from gymnasium import spaces
from jaxtyping import Float, Int
from torch import Tensor

from metarl.config import override, split_command_line, validate
from metarl.errors import UserError, printable
from metarl.learning.belief import BeliefLog, Believer, beliefs_over
from metarl.protocols import Agent, AgentConfig
from metarl.rollout.slots import SlotEnv
from metarl.rollout.trial import first_step, run_trial
from metarl.system.command_line import one_line_errors
from metarl.system.finite import first_not_finite
from metarl.system.started import typed
from metarl.system.user_module import describe
from metarl.training.experiment import config_of
from metarl.training.iteration import Iteration
from metarl.types import Rollout, TrialShape

HORIZON, NUM_TASKS = 6, 3
EPISODES = (2, 4, 6, 8, 10, 20, 40)
"""Numbers of episodes that are tried until the agent can play one."""
CPU = torch.device("cpu")
ENVIRONMENTS: dict[str, spaces.Box | spaces.Discrete] = {
    "choices": spaces.Discrete(3),
    "continuous actions": spaces.Box(-1, 1, (2,), np.float32),
}


@dataclass(frozen=True)
class Target:
    """The number that is wanted."""

    value: float

    @property
    def env_name(self) -> str:
        """The only class."""
        return "target"

    @property
    def parameters(self) -> Float[np.ndarray, " 1"]:
        """The number."""
        return np.array([self.value])


class TargetEnv(SlotEnv[Target]):
    """Pays for actions whose first number is near the task's; observes the time. Nothing in it is
    random."""

    def __init__(self, tasks: Sequence[Target], actions: spaces.Box | spaces.Discrete) -> None:
        super().__init__(
            tasks,
            horizon=HORIZON,
            observation_space=spaces.Box(0, HORIZON, (2,), np.float32),
            action_space=actions,
        )
        self._steps = np.zeros(self.num_envs, np.int64)

    def _restart(
        self, slots: Int[np.ndarray, " n"], tasks: Sequence[Target]
    ) -> Float[np.ndarray, "N 2"]:
        del tasks
        self._steps[slots] = 0
        return self._seen()

    def _step(self, actions: np.ndarray) -> tuple[Any, Any, Any, dict[str, Any]]:
        done = actions if actions.ndim == 1 else actions[:, 0]
        distance = np.abs(done - np.array([task.value for task in self.tasks]))
        self._steps += 1
        ended = self._steps == HORIZON
        info = {"final_obs": self._seen(), "success": distance < 0.5}
        self._steps[ended] = 0
        return self._seen(), -distance, ended, info

    def _seen(self) -> Float[np.ndarray, "N 2"]:
        return np.stack([self._steps, self._steps % 2], axis=1).astype(np.float32)


class Checked:
    """An agent's config in one tiny environment, and how to play there."""

    def __init__(self, config: AgentConfig, actions: spaces.Box | spaces.Discrete) -> None:
        self.config = config
        self.actions = actions
        self.shape = playable_shape(config)

    def env(self, targets: Sequence[float]) -> TargetEnv:
        """The environment with the slots that these tasks take."""
        tasks = [Target(value) for value in targets for _ in range(self.shape.slots_per_task)]
        return TargetEnv(tasks, self.actions)

    def agent(self, seed: int = 1) -> Agent[Any]:
        """A new agent."""
        with closing(self.env([0.0])) as env:
            seen: Any = env.single_observation_space
            agent = self.config.build(seen, self.actions, seed=seed, device=CPU)
        if not isinstance(agent, Agent):
            names = ("begin_trial", "act", "adapt", "meta_update", "state_dict", "load_state_dict")
            missing = [name for name in ("device", *names) if not hasattr(agent, name)]
            raise UserError(f"the agent that build returns has no {missing[0]}; add it")
        return agent

    def play(
        self, agent: Agent[Any], number: int, *, targets: Sequence[float] = (0.0, 1.0, 2.0),
        greedy: bool = False,
    ) -> list[Rollout]:  # fmt: skip
        """A trial on each task; `number` seeds it."""
        step = Iteration(1, number, CPU)
        with closing(self.env(targets)) as env:
            return run_trial(
                agent, env, [Target(value) for value in targets],
                shape=self.shape, seed=step.env_seed,
                generator=None if greedy else step.generator,
            )  # fmt: skip

    def learn(self, agent: Agent[Any], number: int) -> Any:
        """A trial and a meta-update."""
        trial = self.play(agent, number)
        return agent.meta_update(trial, generator=Iteration(2, number, CPU).generator)


def playable_shape(config: AgentConfig) -> TrialShape:
    """The layout of a trial that the agent can play and learn from.

    Raises:
        UserError: there is none.
    """
    refused = ""
    for episodes in EPISODES:
        try:
            shape = config.trial_shape(episodes, training=True)
            config.check_training(shape, horizon=HORIZON, num_tasks=NUM_TASKS, num_classes=1)
            judged = config.trial_shape(episodes)
        except UserError as error:
            refused = str(error)
            continue
        if judged.total_episodes != episodes:
            raise UserError(
                f"trial_shape({episodes}) lays out {judged.total_episodes} episodes; in evaluation "
                "it has to be as many as were asked for"
            )
        return shape
    raise UserError(f"trial_shape and check_training refuse {EPISODES} episodes: {refused}")


def check_weights_follow_from_the_seed(checked: Checked) -> None:
    """Weights are functions of the seed, and differ between seeds."""
    one, same, other = (tensors_of(checked.agent(seed)) for seed in (1, 1, 2))
    if name := first_difference(one, same):
        raise UserError(f"build gives other weights for the same seed: {name} differs")
    if one and first_difference(one, other) is None:
        raise UserError(
            "build gives the same state_dict for another seed; initialise weights from the seed, "
            "and let state_dict hold them"
        )


def check_actions(checked: Checked) -> None:
    """Actions have the space's shape, log-probabilities one number a slot, and both are finite."""
    agent = checked.agent()
    with closing(checked.env((0.0, 1.0, 2.0))) as env:
        obs, _ = env.reset(seed=1)
        state = agent.begin_trial(env.num_envs)
        step = first_step(obs, checked.actions, CPU)
        for generator in (torch.Generator().manual_seed(1), None):
            acted = agent.act(state, step, generator=generator)
            if not isinstance(acted, tuple) or len(acted) != 3:
                raise UserError("act should return (action, log_prob, state)")
            size = () if isinstance(checked.actions, spaces.Discrete) else checked.actions.shape
            for name, tensor, shape in (
                ("action", acted[0], (env.num_envs, *size)),
                ("log_prob", acted[1], (env.num_envs,)),
            ):
                if tuple(tensor.shape) != shape:
                    raise UserError(
                        f"act returns {name} of shape {tuple(tensor.shape)}, and should return "
                        f"{shape}"
                    )
                if not tensor.isfinite().all():
                    raise UserError(f"act returns {name} that is not finite")


def check_randomness(checked: Checked) -> None:
    """Acting and learning draw from the generator alone."""
    torch.seed()  # a state that no build leaves behind
    before = global_streams()
    agents = [checked.agent(), checked.agent()]
    plays = [checked.play(agent, 1) for agent in agents]
    for agent in agents:
        checked.learn(agent, 1)
    if global_streams() != before:
        raise UserError(
            "the agent draws from torch's or NumPy's global stream; draw from the generator that "
            "act and meta_update are given, and initialise weights in torch.random.fork_rng"
        )
    if any(not torch.equal(a.action, b.action) for a, b in zip(*plays, strict=True)):
        raise UserError("act draws other actions with a generator in the same state")
    if name := first_difference(*map(tensors_of, agents)):
        raise UserError(f"meta_update learns something else in the same situation: {name} differs")
    modes = [checked.play(agents[0], number, greedy=True)[0].action for number in (1, 2)]
    if not torch.equal(*modes):
        raise UserError("act without a generator should take the policy's mode, always the same")


def check_tasks_are_apart(checked: Checked) -> None:
    """An agent acts on a task independently of the tasks beside it."""
    agent = checked.agent()
    checked.learn(agent, 1)  # an untrained policy may ignore what leaks
    rows = slice(0, checked.shape.slots_per_task)
    for greedy in (False, True):
        here, there = (
            [
                part[rows].float()
                for rollout in checked.play(agent, 2, targets=targets, greedy=greedy)
                for part in (rollout.action, rollout.log_prob)
            ]
            for targets in ((0.0, 1.0, 2.0), (0.0, 2.0, 5.0))
        )
        if any(not torch.allclose(a, b, atol=1e-4) for a, b in zip(here, there, strict=True)):
            raise UserError(
                "the agent's actions on a task depend on the tasks that are played beside it"
            )


def check_learning(checked: Checked) -> None:
    """A meta-update returns finite numbers and changes the agent."""
    agent = checked.agent()
    before = tensors_of(agent)
    metrics = checked.learn(agent, 1)
    if not isinstance(metrics, Mapping):
        raise UserError(f"meta_update returns {type(metrics).__name__}, and should return a dict")
    for name, value in metrics.items():
        if not isinstance(name, str) or not isinstance(value, float | int):
            raise UserError(
                f"meta_update returns {printable(repr(name))}: {type(value).__name__}; metrics are "
                "floats by name"
            )
        if not np.isfinite(value):
            raise UserError(f"meta_update returns {name} {value}, which is not finite")
    after = tensors_of(agent)
    if name := first_not_finite({name: t for name, t in after.items() if t.is_floating_point()}):
        raise UserError(f"{name} is not finite after a meta-update")
    if first_difference(before, after) is None:
        raise UserError("meta_update changes nothing that state_dict has")


def check_resume(checked: Checked) -> None:
    """An agent that is loaded from `state_dict` goes on as the one that was saved."""
    whole = checked.agent()
    checked.learn(whole, 1)
    saved = {name: tensor.clone() for name, tensor in tensors_of(whole).items()}
    resumed = checked.agent(seed=2)
    resumed.load_state_dict({name: tensor.clone() for name, tensor in saved.items()})
    if name := first_difference(saved, tensors_of(resumed)):
        raise UserError(f"load_state_dict does not take over {name}")
    for agent in (whole, resumed):
        checked.learn(agent, 2)
    if name := first_difference(tensors_of(whole), tensors_of(resumed)):
        raise UserError(
            f"a resumed agent learns something else: {name} differs; state_dict has to hold all "
            "that meta_update depends on, the optimizer's state too"
        )


def check_beliefs(checked: Checked) -> None:
    """The beliefs of an agent that has some are Gaussians, which know nothing of later steps."""
    agent = checked.agent()
    if not isinstance(agent, Believer):
        return
    checked.learn(agent, 1)
    trial = checked.play(agent, 2)
    before, streams = copied(trial), global_streams()
    belief = beliefs_over(agent, trial)
    if global_streams() != streams:
        raise UserError("beliefs draws from a global stream; a belief is not random")
    if any(
        not torch.equal(getattr(one, name), getattr(other, name))
        for one, other in zip(before, trial, strict=True)
        for name in ("reward", "action", "success", "final_obs")
    ):
        raise UserError("beliefs changes the trial that it is given; work on copies")

    def differs(trial: list[Rollout], rows: slice, steps: slice) -> bool:
        other = beliefs_over(agent, trial)
        return any(
            not torch.allclose(a[rows, steps], b[rows, steps], atol=1e-5)
            for a, b in ((belief.mean, other.mean), (belief.log_std, other.log_std))
        )

    every = slice(None)
    later_seen = disturbed(trial, every, seen=True, done=False)
    just_done = disturbed(trial, every, seen=False, done=True)
    if differs(later_seen, every, slice(-1)) or differs(just_done, every, every):
        raise UserError("beliefs before a step depend on what came after it")
    alone = slice(0, checked.shape.slots_per_task)
    others = slice(alone.stop, None)
    if differs(disturbed(trial, others, seen=True, done=True), alone, every):
        raise UserError("beliefs about a task depend on the tasks that are played beside it")
    log = BeliefLog(agent, slots_per_task=checked.shape.slots_per_task)
    log.keep(trial, NUM_TASKS)
    log.curve([Target(float(value)) for value in range(NUM_TASKS)])


def copied(trial: list[Rollout]) -> list[Rollout]:
    """A trial with tensors of its own."""
    names = ("action", "log_prob", "reward", "final_obs")
    return [
        replace(
            rollout,
            seen=rollout.seen.map(torch.clone),
            success=rollout.success.clone(),
            **{name: getattr(rollout, name).clone() for name in names},
        )
        for rollout in trial
    ]


def disturbed(trial: list[Rollout], slots: slice, *, seen: bool, done: bool) -> list[Rollout]:
    """A trial in which something else was seen before the last step, or done in it, in some
    slots."""
    trial = copied(trial)
    last = trial[-1]
    before = [last.seen.obs, last.seen.prev_action, last.seen.prev_reward]
    after = [last.action, last.log_prob, last.reward, last.final_obs]
    for values in before * seen + after * done:
        values[slots, -1] += 1
    last.success[slots, -1] ^= done
    return trial


Check = Callable[[Checked], None]
FIRST: tuple[Check, ...] = (check_weights_follow_from_the_seed, check_actions, check_learning)
"""Whatever fails one of these fails all that come after it too."""
THEN: tuple[Check, ...] = (
    check_randomness,
    check_tasks_are_apart,
    check_resume,
    check_beliefs,
)


def environments_of(config: AgentConfig) -> dict[str, spaces.Box | spaces.Discrete]:
    """The actions that the agent should play with: no choices where `discrete_actions` is False."""
    discrete = getattr(config, "discrete_actions", True)
    return {
        where: actions
        for where, actions in ENVIRONMENTS.items()
        if discrete or isinstance(actions, spaces.Box)
    }


def findings(config: AgentConfig) -> list[str]:
    """Faults that were found, a line each; empty for a sound agent."""
    found: list[str] = []
    for where, actions in environments_of(config).items():
        for check in (*FIRST, *THEN):
            try:
                check(Checked(config, actions))
            except (Exception, SystemExit) as error:
                name = check.__name__.removeprefix("check_").replace("_", " ")
                found.append(f"{where}, {name}: {describe(error)}")
                if check in FIRST:
                    break
        if found:
            break  # the other environment would tell the same
    return found


def global_streams() -> bytes:
    """The state of torch's and NumPy's global random streams."""
    numpy_state: Any = np.random.get_state()
    return (
        torch.get_rng_state().numpy().tobytes()
        + numpy_state[1].tobytes()
        + numpy_state[2].to_bytes(4, "little")
    )


def tensors_of(agent: Agent[Any]) -> dict[str, Tensor]:
    """A copy of what a checkpoint would hold.

    Raises:
        UserError: something of it is no tensor.
    """
    tensors = agent.state_dict()
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(f"state_dict has {name!r}: {type(tensor).__name__}, which is no tensor")
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def first_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that is not the same to the bit; None where all are."""
    names = [*one, *(name for name in other if name not in one)]
    return next(
        (n for n in names if n not in one or n not in other or not torch.equal(one[n], other[n])),
        None,
    )


def main(arguments: list[str]) -> None:
    """The command line: one algorithm, and options of it as `train.py` has them.

    Raises:
        UserError: something is wrong; all that was found is in it.
    """
    positional, options = split_command_line(arguments, switches=("help",))
    help_wanted = options.pop("help", False)
    if len(positional) != 1:
        wanted = typed("python -m metarl.check_agent FILE.py:CLASS")
        raise UserError(f"name one algorithm: {wanted}, or a kind such as rl2")
    (kind,) = positional
    model = config_of(kind, "metarl.agents")
    if help_wanted:
        tyro.cli(model, args=["--help"], prog=typed(f"python -m metarl.check_agent {kind}"))
    small: dict[str, Any] = {}
    if hasattr(model, "small"):
        try:
            small = model.small().model_dump(mode="json")
        except Exception as error:  # the user's code
            raise UserError(f"{kind}: small() fails: {describe(error)}") from None
    config = validate(model, override({**small, "kind": kind}, options), source=kind)
    found = findings(config)
    for line in found:
        print(line)
    if found:
        raise UserError(f"{kind} has {len(found)} fault{'s' if len(found) > 1 else ''}; see above")
    print(
        f"{kind} is an agent: it plays and learns with {' and with '.join(environments_of(config))}"
        ", draws from its generator alone, and resumes to the bit"
    )


if __name__ == "__main__":
    with one_line_errors("metarl.check_agent"):
        main(sys.argv[1:])
