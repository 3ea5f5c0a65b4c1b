"""Comparison of the native engine with the official environments, by the largest difference.

`python -m tests.envs.parity [--goals 2] [--missed] [task ...]` prints two lines per task, and at
the end the largest difference of all. It fails if that is above the tolerance.
"""

import argparse
import inspect
import sys
import warnings
from dataclasses import dataclass, field

import mujoco
import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from envs.engine.batch import STATE
from envs.metaworld.native import NativeEnv
from envs.metaworld.official import MetaWorldTask, make_official_env, set_official_task
from envs.metaworld.tasks import TASK_CLASSES

TOLERANCE = 1e-12
SCRAMBLE_EVERY = 10
ARM_JOINTS = ("right_j", "r_close", "l_close")
FREE = mujoco.mjtJoint.mjJNT_FREE
INFO = ("success", "near_object", "grasp_reward", "in_place_reward", "obj_to_target")


@dataclass
class Worst:
    """Largest absolute differences in a comparison, and the number of steps with a difference."""

    obs: float = 0.0
    reward: float = 0.0
    info: dict[str, float] = field(default_factory=lambda: dict.fromkeys(INFO, 0.0))
    physics_equal: bool = True
    steps: int = 0
    unequal_obs: int = 0
    unequal_rewards: int = 0
    unequal_success: int = 0
    success_steps: int = 0
    episodes: int = 0
    official_successes: int = 0
    native_successes: int = 0

    def all(self) -> float:
        """The largest difference of all."""
        return max(self.obs, self.reward, *self.info.values())

    def as_good(self) -> bool:
        """True if the native engine is as good as the official one."""
        same_success = self.official_successes == self.native_successes
        return self.physics_equal and same_success and self.all() <= TOLERANCE

    def join(self, other: "Worst") -> None:
        """Merge with another comparison."""
        self.obs, self.reward = max(self.obs, other.obs), max(self.reward, other.reward)
        self.info = {name: max(self.info[name], other.info[name]) for name in INFO}
        self.physics_equal &= other.physics_equal
        self.steps += other.steps
        self.unequal_obs += other.unequal_obs
        self.unequal_rewards += other.unequal_rewards
        self.unequal_success += other.unequal_success
        self.success_steps += other.success_steps
        self.episodes += other.episodes
        self.official_successes += other.official_successes
        self.native_successes += other.native_successes

    def __str__(self) -> str:
        info = " ".join(f"{name} {value:.1e}" for name, value in self.info.items())
        return (
            f"physics {'equal' if self.physics_equal else 'DIFFERENT'} obs {self.obs:.1e} "
            f"reward {self.reward:.1e} {info} (of {self.steps} steps other bits in "
            f"{self.unequal_obs} observations, {self.unequal_rewards} rewards, "
            f"{self.unequal_success} successes; {self.success_steps} successful steps; successful "
            f"episodes of {self.episodes}: official {self.official_successes}, "
            f"native {self.native_successes})"
        )


def official_tasks(env_name: str, *, seed: int, count: int) -> list[MetaWorldTask]:
    """Tasks with goals drawn as in the benchmark."""
    env = make_official_env(env_name)
    env.seed(seed)
    env.seeded_rand_vec, env._freeze_rand_vec, env._set_task_called = True, False, True
    tasks = []
    for _ in range(count):
        env.reset()
        tasks.append(MetaWorldTask(env_name, np.array(env._last_rand_vec, dtype=np.float64)))
    return tasks


def native_simulation(env: NativeEnv, slot: int) -> mujoco.MjData:
    """The `mjData` of a slot."""
    return env._batch._slots[slot].simulation


class Scripted:
    """The official scripted policy with noise; one in four actions goes far out of range."""

    def __init__(self, env_name: str, rng: np.random.Generator, noise: float):
        self._policy, self._rng, self._noise = ENV_POLICY_MAP[env_name](), rng, noise

    def __call__(self, obs: np.ndarray, target: np.ndarray) -> np.ndarray:
        seen = obs.copy()
        seen[36:39] = target
        action = self._policy.get_action(seen) + self._rng.normal(0.0, self._noise, 4)
        if self._rng.random() < 0.75:
            action = np.clip(action, -1.0, 1.0)
        return np.asarray(action, dtype=np.float32)


def scramble(official, simulation: mujoco.MjData, rng: np.random.Generator) -> None:
    """Move the objects at random, equally in both simulations, to reach rare branches."""
    model, qpos = official.model, official.data.qpos.copy()
    tcp, target = np.array(official.tcp_center), np.array(official._target_pos, dtype=np.float64)
    moved = []
    for joint in range(model.njnt):
        if model.joint(joint).name.startswith(ARM_JOINTS):
            continue
        at, kind = model.jnt_qposadr[joint], model.jnt_type[joint]
        moved.append(model.jnt_dofadr[joint] + np.arange(6 if kind == FREE else 1))
        if kind == FREE:
            near = (tcp, target, qpos[at : at + 3].copy())[rng.integers(3)]
            spread = (0.004, 0.03, 0.1)[rng.integers(3)]
            qpos[at : at + 3] = near + rng.normal(0.0, spread, 3)
        else:  # a hinge or a slide
            low, high = model.jnt_range[joint] if model.jnt_limited[joint] else (-0.2, 0.2)
            qpos[at] = rng.uniform(low, high)
    for each in (official.data, simulation):
        each.qpos[:] = qpos
        each.qvel[np.concatenate(moved) if moved else []] = 0.0


def compare(
    env_name: str,
    *,
    goals: int = 2,
    seed: int = 0,
    noise: float = 0.2,
    horizon: int = 500,
    scrambled: bool = False,
) -> Worst:
    """Play an episode of each goal in both engines, and return the differences.

    `scrambled` moves the objects at random every few steps, to reach states that scripted play
    misses.
    """
    rng = np.random.default_rng(seed)
    tasks = official_tasks(env_name, seed=seed, count=goals)
    native = NativeEnv(tasks, horizon=horizon, num_threads=1)
    native_obs, _ = native.reset()
    officials = [make_official_env(env_name) for _ in tasks]
    for official, task in zip(officials, tasks, strict=True):
        set_official_task(official, task)
    obs = [official.reset()[0] for official in officials]
    policies = [Scripted(env_name, rng, noise) for _ in tasks]
    worst = Worst(obs=float(np.abs(native_obs - obs).max()), episodes=goals)
    succeeded = np.zeros((2, goals), dtype=np.bool_)  # official, native
    for step in range(horizon):
        if scrambled and step % SCRAMBLE_EVERY == SCRAMBLE_EVERY - 1:
            for slot, official in enumerate(officials):
                scramble(official, native_simulation(native, slot), rng)
        actions = np.stack(
            [p(o, e._target_pos) for p, o, e in zip(policies, obs, officials, strict=True)]
        )
        _, rewards, _, _, info = native.step(actions)
        for slot, official in enumerate(officials):
            obs[slot], reward, _, _, official_info = official.step(actions[slot])
            worst.obs = max(worst.obs, _apart(info["final_obs"][slot], obs[slot]))
            worst.reward = max(worst.reward, _apart(rewards[slot], reward))
            worst.steps += 1
            worst.unequal_obs += not np.array_equal(info["final_obs"][slot], obs[slot])
            worst.unequal_rewards += bool(rewards[slot] != reward)
            worst.unequal_success += bool(info["success"][slot] != official_info["success"])
            for name in INFO:
                difference = _apart(info[name][slot], official_info[name])
                worst.info[name] = max(worst.info[name], difference)
            if step < horizon - 1:  # after the last step the native slot has restarted
                states = (
                    physics(official.model, data)
                    for data in (native_simulation(native, slot), official.data)
                )
                worst.physics_equal &= np.array_equal(*states)
            worst.success_steps += int(official_info["success"])
            succeeded[:, slot] |= official_info["success"] > 0, info["success"][slot]
    worst.official_successes, worst.native_successes = map(int, succeeded.sum(axis=1))
    native.close()
    return worst


def physics(model: mujoco.MjModel, simulation: mujoco.MjData) -> np.ndarray:
    """The complete physical state, including the solver's warm start."""
    state = np.empty(mujoco.mj_stateSize(model, STATE))
    mujoco.mj_getState(model, simulation, state, STATE)
    return state


def _apart(ours, theirs) -> float:
    difference = float(np.max(np.abs(np.asarray(ours) - np.asarray(theirs, dtype=np.float64))))
    return np.inf if np.isnan(difference) else difference


class OfficialLines:
    """Tracer of the lines of an official environment's file that were never run, with V1
    rewards."""

    def __init__(self, env_name: str):
        kind = type(make_official_env(env_name))
        self._file = inspect.getfile(kind)
        codes = [f.__code__ for f in vars(kind).values() if inspect.isfunction(f)]
        codes += [f.__func__.__code__ for f in vars(kind).values() if isinstance(f, staticmethod)]
        codes = [c for c in codes if "reward" in c.co_name]
        self._lines = {line for c in codes for _, _, line in c.co_lines() if line}
        self._lines -= {c.co_firstlineno for c in codes}
        self._run: set[int] = set()

    def __enter__(self) -> "OfficialLines":
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error) -> None:
        sys.settrace(None)

    def _trace(self, frame, event, argument):
        if frame.f_code.co_filename != self._file:
            return None
        if event == "line":
            self._run.add(frame.f_lineno)
        return self._trace

    def missed(self) -> list[int]:
        """Line numbers that were not run, in order."""
        return sorted(self._lines - self._run)


def main() -> None:
    """Print the largest differences of the tasks named on the command line, or of all tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(TASK_CLASSES))
    parser.add_argument("--goals", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--missed", action="store_true", help="official reward lines never run")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")
    overall = Worst()
    for env_name in options.tasks:
        lines = OfficialLines(env_name)
        for scrambled in (False, True):
            arguments = {"goals": options.goals, "seed": options.seed, "scrambled": scrambled}
            if options.missed:
                with lines:
                    worst = compare(env_name, **arguments)
            else:
                worst = compare(env_name, **arguments)
            overall.join(worst)
            kind = "scrambled" if scrambled else "scripted"
            print(f"{env_name:28} {kind:9} {worst}", flush=True)
        if options.missed:
            print(f"{env_name:28} official reward lines never run: {lines.missed()}", flush=True)
    print(f"worst of {len(options.tasks)} tasks: {overall}")
    sys.exit(not overall.as_good())


if __name__ == "__main__":
    main()
