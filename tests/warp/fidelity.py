"""Comparison of the Warp engine with the native engine, task by task.

python -m tests.warp.fidelity [--goals 20] [--output results/warp] [task ...]

For each task the official scripted policy plays every goal in the native engine, and

- at states of these episodes, the Warp engine computes observations and rewards from positions
  alone: *on recorded states*;
- from some of these states the Warp engine continues with the same actions: *one step*, *50 steps*;
- the scripted policy plays every goal in the Warp engine: *success*, at any step of an episode.

Results that `tests.warp.scripted` stored for other versions of MuJoCo are shown beside.

Both engines use the same MuJoCo to compile scenes. Every task is stored as soon as it is finished,
and stored tasks are not played again; delete the JSON to start anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import warp as wp
from scipy.stats import binomtest

from envs.metaworld.tasks import TASK_CLASSES
from envs.metaworld.warp import WarpMetaWorldEnv
from envs.warp_engine.scene import DeviceScene
from metarl.system.files import written_whole
from metarl.training.provenance import environment
from tests.envs.parity import official_tasks
from tests.warp.scripted import (
    HORIZON,
    SEED,
    Moment,
    ScriptedPolicies,
    known_successes,
    play_natively,
)

TOLERANCE = 1e-4
"""Tolerance of rewards on recorded states; relative if they are above 1, as they go up to 10."""
STARTS = (0, 40, 80)
"""Steps of the recorded episodes from which the Warp engine continues."""
AHEAD = 50
SEEN_EVERY = 10


@dataclass
class Fidelity:
    """Differences between the engines on one task."""

    env_name: str
    goals: int
    states: int
    """Number of recorded states."""
    reward_error: float
    success_disagreements: int
    obs_error: float
    """Largest difference of observations on recorded states."""
    one_step: tuple[float, float]
    fifty_steps: tuple[float, float]
    """Largest difference of any position in a state (m or rad): median and maximum over states."""
    hand_fifty_steps: float
    """Median difference of the hand's position after 50 steps (m)."""
    native_successes: int
    warp_successes: int
    interval: tuple[float, float]
    """95 % Clopper-Pearson interval of the native engine's success rate."""
    most_contacts: int
    most_constraints: int

    def alike(self) -> bool:
        """True if the Warp engine's success is within the interval."""
        low, high = self.interval
        return low <= self.warp_successes / self.goals <= high


def put(scene: DeviceScene, physics: dict[str, np.ndarray]) -> None:
    """Sets the state of all worlds."""
    for name, values in physics.items():
        getattr(scene.data, name).assign(values.astype(np.float32))


def on_recorded_state(env: WarpMetaWorldEnv, moment: Moment) -> tuple[np.ndarray, np.ndarray]:
    """Observations and outcomes that the Warp engine computes for a moment's positions."""
    (scene,) = env._scenes.values()
    put(scene, moment.physics)
    env._views["actions"].copy_(torch.as_tensor(moment.action))
    scene._memory.assign(moment.memory)
    env._table.resting.zero_()
    env._table.elapsed.fill_(1)
    scene.observe_present()
    return env._table.final_obs.numpy().copy(), env._table.outcome.numpy().copy()


def go_on(env: WarpMetaWorldEnv, moments: Sequence[Moment], start: int, ahead: int) -> list[Any]:
    """States that the Warp engine reaches from a recorded one: qpos and hands, step by step."""
    (scene,) = env._scenes.values()
    put(scene, moments[start].physics)
    env._table.elapsed.fill_(1)
    seen = []
    for moment in moments[start + 1 : start + 1 + ahead]:
        env._views["actions"].copy_(torch.as_tensor(moment.action))
        scene.step()
        hands = env._table.final_obs.numpy()[:, :3].copy()
        seen.append((scene.data.qpos.numpy().copy(), hands))
    return seen


def play_on_warp(env: WarpMetaWorldEnv, horizon: int) -> np.ndarray:
    """Success of the scripted policy for each goal."""
    obs, _ = env.reset()
    policy = ScriptedPolicies(env.tasks)
    succeeded = np.zeros(env.num_envs, dtype=np.bool_)
    for _ in range(horizon):
        obs, *_, info = env.step(torch.as_tensor(policy(obs.cpu().numpy())))
        succeeded |= info["success"].cpu().numpy()
        if succeeded.all():
            break
    return succeeded


def compare(env_name: str, *, goals: int = 20, horizon: int = HORIZON) -> Fidelity:
    """Plays a task in both engines."""
    tasks = official_tasks(env_name, seed=SEED, count=goals)
    moments, native_succeeded = play_natively(tasks, horizon)
    env = WarpMetaWorldEnv(tasks, horizon=horizon + 1)
    env.reset()
    warp_succeeded = play_on_warp(env, horizon)
    (scene,) = env._scenes.values()
    while not scene.room.holds(scene.needed()):
        warp_succeeded = play_on_warp(env, horizon)  # the reset enlarged the buffers
        (scene,) = env._scenes.values()
    env.reset()
    reward_error = obs_error = 0.0
    disagreements = states = 0
    for moment in moments[::SEEN_EVERY]:
        obs, outcome = on_recorded_state(env, moment)
        apart = np.abs(outcome[:, 0] - moment.outcome[:, 0])
        reward_error = max(
            reward_error, float((apart / np.maximum(1.0, np.abs(moment.outcome[:, 0]))).max())
        )
        disagreements += int(((outcome[:, 1] > 0) != (moment.outcome[:, 1] > 0)).sum())
        obs_error = max(obs_error, float(np.abs(obs - moment.obs).max()))
        states += goals
    first, last, hands = [], [], []
    for start in STARTS:
        if start + AHEAD >= horizon:
            continue
        reached = go_on(env, moments, start, AHEAD)
        first.append(np.abs(reached[0][0] - moments[start + 1].physics["qpos"]).max(1))
        last.append(np.abs(reached[-1][0] - moments[start + AHEAD].physics["qpos"]).max(1))
        hands.append(np.abs(reached[-1][1] - moments[start + AHEAD].obs[:, :3]).max(1))
    low, high = binomtest(int(native_succeeded.sum()), goals).proportion_ci(0.95)
    result = Fidelity(
        env_name=env_name,
        goals=goals,
        states=states,
        reward_error=reward_error,
        success_disagreements=disagreements,
        obs_error=obs_error,
        one_step=_median_and_most(first),
        fifty_steps=_median_and_most(last),
        hand_fifty_steps=_median_and_most(hands)[0],
        native_successes=int(native_succeeded.sum()),
        warp_successes=int(warp_succeeded.sum()),
        interval=(float(low), float(high)),
        most_contacts=scene.needed().contacts,
        most_constraints=scene.needed().constraints,
    )
    env.close()
    return result


def _median_and_most(parts: Sequence[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate(parts) if parts else np.full(1, np.nan)
    return float(np.median(values)), float(values.max())


def table(results: Sequence[Fidelity], elsewhere: dict[str, dict[str, list[int]]]) -> str:
    """Markdown table with one line per task.

    Args:
        elsewhere: successes of the native engine with other versions of MuJoCo.
    """
    others = "".join(f"| native, MuJoCo {number} " for number in elsewhere)
    lines = [
        "| task | reward on recorded states | success there | one step | 50 steps | hand, 50 steps "
        f"{others}| native | 95 % interval | Warp | within |",
        "|---|" + "---:|" * (8 + len(elsewhere)) + "---|",
    ]
    for r in results:
        low, high = r.interval
        one, fifty = (f"{median:.0e} ({most:.0e})" for median, most in (r.one_step, r.fifty_steps))
        lines.append(
            f"| {r.env_name} | {r.reward_error:.0e} | {r.success_disagreements} of {r.states} "
            f"| {one} | {fifty} | {1000 * r.hand_fifty_steps:.2f} mm "
            f"{_elsewhere(r, elsewhere)}| {r.native_successes}/{r.goals} | {low:.0%}–{high:.0%} "
            f"| {r.warp_successes}/{r.goals} | {'yes' if r.alike() else '**no**'} |"
        )
    return "\n".join(lines)


def _elsewhere(result: Fidelity, elsewhere: dict[str, dict[str, list[int]]]) -> str:
    cells = ""
    for successes in elsewhere.values():
        reached, goals = successes.get(result.env_name, ("–", "–"))
        cells += f"| {reached}/{goals} "
    return cells


def write(folder: Path, results: dict[str, Fidelity], about: dict[str, Any]) -> None:
    """Stores the results as JSON and as Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = [results[name] for name in TASK_CLASSES if name in results]
    stored = {"environment": about, "tasks": [asdict(r) for r in ordered]}
    with written_whole(folder / "fidelity.json") as partial:
        partial.write_text(json.dumps(stored, indent=1) + "\n")
    with written_whole(folder / "fidelity.md") as partial:
        partial.write_text(
            f"{table(ordered, known_successes(folder))}\n\n"
            f"{len(ordered)} of {len(TASK_CLASSES)} tasks, on {about['warp_device']}; "
            "native and Warp: "
            f"MuJoCo {about['versions']['mujoco']}, MuJoCo Warp {about['mujoco_warp']}, "
            f"Warp {wp.config.version}\n"
        )


def read(folder: Path) -> dict[str, Fidelity]:
    """Results that were stored before."""
    path = folder / "fidelity.json"
    if not path.exists():
        return {}
    kept = json.loads(path.read_text())["tasks"]
    return {
        one["env_name"]: Fidelity(
            **{key: tuple(v) if isinstance(v, list) else v for key, v in one.items()}
        )
        for one in kept
    }


def main() -> None:
    """Plays the tasks named on the command line, or all, and stores the differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(TASK_CLASSES))
    parser.add_argument("--goals", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("results/warp"))
    options = parser.parse_args()
    results = read(options.output)
    missing = [env_name for env_name in options.tasks if env_name not in results]
    if not missing:  # only the table, as there may be results of other versions of MuJoCo
        stored = json.loads((options.output / "fidelity.json").read_text())
        write(options.output, results, stored["environment"])
    about = environment()
    for env_name in missing:
        results[env_name] = compare(env_name, goals=options.goals)
        about |= {
            "mujoco_warp": version("mujoco-warp"),
            "warp_device": wp.get_preferred_device().name,
        }
        write(options.output, results, about)
        print(table([results[env_name]], {}).splitlines()[-1], flush=True)
    sys.exit(not all(result.alike() for result in results.values()))


if __name__ == "__main__":
    main()
