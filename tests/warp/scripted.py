"""The official scripted policies in the native engine, and every moment of their episodes.

python -m tests.warp.scripted [--goals 20] [--output results/warp] [task ...]

stores the number of goals that they reach with the installed MuJoCo. The table of
`tests.warp.fidelity` shows it beside the number for the MuJoCo of the GPU environment.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from envs.metaworld.native import NativeEnv
from envs.metaworld.official import MetaWorldTask, set_official_task
from envs.metaworld.snapshots import official, snapshots
from envs.metaworld.tasks import TASK_CLASSES
from metarl.system.files import written_whole
from tests.envs.parity import native_simulation, official_tasks

HORIZON = 500
SEED = 0
"""Seed of the goals."""
PHYSICS = ("qpos", "qvel", "qacc_warmstart", "ctrl", "mocap_pos", "mocap_quat")


@dataclass
class Moment:
    """All slots of the native engine at one step: the state after it, and its results."""

    physics: dict[str, np.ndarray]
    memory: np.ndarray
    """Memory of `observe` before the step."""
    action: np.ndarray
    """Action of the step."""
    outcome: np.ndarray
    obs: np.ndarray


class ScriptedPolicies:
    """The official scripted policy of each slot, which knows the goal."""

    def __init__(self, tasks: Sequence[MetaWorldTask]) -> None:
        self._policies = [ENV_POLICY_MAP[task.env_name]() for task in tasks]
        targets = np.stack([_target(task) for task in tasks])
        self._targets = targets

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        seen = np.array(obs, dtype=np.float64)
        seen[:, 36:39] = self._targets
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of the policies: actions are clipped here
            chosen = [p.get_action(o) for p, o in zip(self._policies, seen, strict=True)]
        return np.clip(np.stack(chosen), -1.0, 1.0).astype(np.float32)


def _target(task: MetaWorldTask) -> np.ndarray:
    """`_target_pos` after the official reset, also for moving targets."""
    (snapshot,) = snapshots([task])
    target = snapshot.constants[:3]
    if not np.isnan(target).any():
        return target
    env = official(task.env_name).env
    set_official_task(env, task)  # pyright: ignore[reportArgumentType]
    env.reset()  # pyright: ignore[reportAttributeAccessIssue]
    return np.array(env._target_pos)  # pyright: ignore[reportAttributeAccessIssue]


def play_natively(tasks: Sequence[MetaWorldTask], horizon: int) -> tuple[list[Moment], np.ndarray]:
    """All moments of an episode of the scripted policy, and success for each goal."""
    env, policy = NativeEnv(tasks, horizon=horizon + 1, num_threads=1), ScriptedPolicies(tasks)
    obs, _ = env.reset()
    slots, moments = range(len(tasks)), []
    succeeded = np.zeros(len(tasks), dtype=np.bool_)
    for _ in range(horizon):
        memory = np.stack([env._batch._slots[s]._memory for s in slots])
        action = policy(obs)
        obs, *_, info = env.step(action)
        succeeded |= info["success"]
        moments.append(
            Moment(
                physics={
                    name: np.stack([getattr(native_simulation(env, s), name) for s in slots])
                    for name in PHYSICS
                },
                memory=memory,
                action=action,
                outcome=env._batch.outcome.copy(),
                obs=obs,
            )
        )
    env.close()
    return moments, succeeded


def known_successes(folder: Path) -> dict[str, dict[str, list[int]]]:
    """Numbers of reached goals and of goals, by version of MuJoCo and task."""
    return {
        path.stem.removeprefix("native_"): json.loads(path.read_text())
        for path in sorted(folder.glob("native_*.json"))
    }


def main() -> None:
    """Plays the tasks named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(TASK_CLASSES))
    parser.add_argument("--goals", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("results/warp"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    kept = known_successes(options.output).get(mujoco.__version__, {})
    for env_name in options.tasks:
        if env_name in kept:
            continue
        tasks = official_tasks(env_name, seed=SEED, count=options.goals)
        _, succeeded = play_natively(tasks, HORIZON)
        kept[env_name] = [int(succeeded.sum()), options.goals]
        print(f"{env_name:28} {kept[env_name]}", flush=True)
        with written_whole(options.output / f"native_{mujoco.__version__}.json") as partial:
            partial.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
