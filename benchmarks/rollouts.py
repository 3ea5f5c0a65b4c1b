"""Measures env steps per second on MuJoCo tasks: official, EnvPool, plain MuJoCo, and ours.

python -m benchmarks.rollouts                                         every setting; half an hour
python -m benchmarks.rollouts --settings ML1-reach ML10-20 --busy 1   two, with one processor busy
python -m benchmarks.rollouts --settings HalfCheetah-64 Ant-64        Gymnasium's robots
python -m benchmarks.rollouts --engine warp                           on a GPU: warp_rollouts.py

All contenders of a setting run in one process and are measured in turn, round after round, with one
thread per processor. Ratios are medians of ratios within a round, so that other load on the machine
affects both sides. Memory is that of a contender alone, including all our imports. The official
asynchronous environment has one process per slot; it is left out above 100 slots.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from benchmarks import command_line, warp_rollouts
from envs.engine.batch import STATE
from envs.locomotion import LocomotionConfig
from envs.locomotion.robots import ROBOTS
from envs.metaworld import MetaWorld, MetaWorldTask
from envs.metaworld.native import NUM_SUBSTEPS, NativeEnv
from envs.metaworld.official import HORIZON, make_official_env, set_official_task
from metarl.system.command_line import one_line_errors
from metarl.system.hardware import num_processors
from metarl.training.provenance import environment

try:
    import envpool
except ImportError:
    envpool = None

LOCOMOTION_HORIZON = 1000  # Gymnasium's own
WARM_UP = 20  # steps; memory is measured over as many

Steps = Callable[[int], None]  # a contender: steps every slot this many times, at random


@dataclass(frozen=True)
class World:
    """Tasks of a setting, one for each of N slots, and the contenders' ways to play them."""

    tasks: Sequence[Any]
    actions: np.ndarray
    """Actions of an episode, (T, N, A) float32; every contender repeats the same ones."""
    official: Callable[[Any], gymnasium.Env]
    """Makes the official environment object of a task, reset and without wrappers."""
    physics: Callable[[Any, np.ndarray], Iterator[None]]
    """Steps only the physics of one slot, from the state of an official object."""
    native: Callable[[int], VectorEnv]
    """Makes our engine with a number of threads."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options for EnvPool."""


def random_actions(*shape: int) -> np.ndarray:
    """Random actions, uniform in [-1, 1], float32."""
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def meta_world(benchmark: str, num_slots: int) -> World:
    """Training tasks of a benchmark."""
    tasks = MetaWorld(benchmark).train.sample(num_slots, np.random.default_rng(0))
    return World(
        tasks=tasks,
        actions=random_actions(HORIZON, num_slots, 4),
        official=official_meta_world,
        physics=meta_world_physics,
        native=lambda threads: NativeEnv(tasks, num_threads=threads),
    )


def official_meta_world(task: MetaWorldTask) -> SawyerXYZEnv:
    """An official environment object, reset to its task, without the official wrappers."""
    env = make_official_env(task.env_name)
    set_official_task(env, task)
    env.reset()
    return env


def meta_world_physics(env: SawyerXYZEnv, actions: np.ndarray) -> Iterator[None]:
    """Physics of Meta-World; a step moves the hand, steps MuJoCo and calls `mj_forward` once
    more."""
    hand, moves = env.data.mocap_pos[0].copy(), []
    for action in actions:
        moved = hand + action[:3] * np.float32(env.action_scale)
        hand = np.clip(moved, env.mocap_low, env.mocap_high)
        moves.append((hand, np.array([action[3], -action[3]])))
    for data, (hand, fingers) in episodes(env, moves):
        data.mocap_pos[0] = hand
        data.ctrl[:] = fingers
        mujoco.mj_step(env.model, data, NUM_SUBSTEPS)
        mujoco.mj_forward(env.model, data)
        yield


def locomotion(variant: str, num_slots: int) -> World:
    """Tasks of a variant, with episodes as long as Gymnasium's."""
    config = LocomotionConfig(variant=variant, horizon=LOCOMOTION_HORIZON)
    robot = ROBOTS[config.build().variant.robot]
    # Falls end no episode for any contender, as fallen robots are slower to simulate than reset
    # ones.
    options = {"terminate_when_unhealthy": False} if robot.healthy else {}

    def official(_: Any) -> gymnasium.Env:
        env = gymnasium.make(robot.env_id, **options, **robot.options).unwrapped
        env.reset(seed=0)
        return env

    def native(threads: int) -> VectorEnv:
        return config.model_copy(update={"num_threads": threads}).build().make_env(num_slots)

    env = official(None)
    size = env.action_space.shape[0]
    return World(
        tasks=[gymnasium.spec(robot.env_id)] * num_slots,
        actions=random_actions(LOCOMOTION_HORIZON, num_slots, size) * env.action_space.high,
        official=official,
        physics=locomotion_physics,
        native=native,
        options=options,
    )


def locomotion_physics(env: Any, actions: np.ndarray) -> Iterator[None]:
    """Physics of locomotion; a step calls `mj_step` once per skipped frame and nothing else."""
    for data, action in episodes(env, actions):
        data.ctrl[:] = action
        mujoco.mj_step(env.model, data, env.frame_skip)
        yield


def episodes(env: Any, moves: Sequence[Any]) -> Iterator[tuple[mujoco.MjData, Any]]:
    """Own simulation with each move in turn, repeated forever from the current state of `env`."""
    data = mujoco.MjData(env.model)
    start = np.empty(mujoco.mj_stateSize(env.model, STATE))
    mujoco.mj_getState(env.model, env.data, start, STATE)
    while True:
        mujoco.mj_setState(env.model, data, start, STATE)
        for move in moves:
            yield data, move


SETTINGS: dict[str, Callable[[], World]] = {
    "ML1-reach": partial(meta_world, "ML1-reach-v3", 20),
    "ML1-pick-place": partial(meta_world, "ML1-pick-place-v3", 20),
    "ML10-20": partial(meta_world, "ML10", 20),
    "ML10-200": partial(meta_world, "ML10", 200),
    "ML45-90": partial(meta_world, "ML45", 90),
    "HalfCheetah-64": partial(locomotion, "HalfCheetah-vel-amago", 64),
    "Ant-64": partial(locomotion, "Ant-goal-pearl", 64),
}


def vector(env: VectorEnv, world: World, stack: ExitStack) -> Steps:
    """Contender: any vector environment."""
    stack.callback(env.close)
    env.reset()
    actions = cycle(world.actions)

    def steps(count: int) -> None:
        for _ in range(count):
            env.step(next(actions))

    return steps


def official(make: Callable[..., VectorEnv], world: World, _: int, stack: ExitStack) -> Steps:
    """Contender: official objects in one of Gymnasium's vector environments, serial or in
    processes."""
    makers = [partial(world.official, task) for task in world.tasks]
    return vector(make(makers, autoreset_mode=AutoresetMode.SAME_STEP), world, stack)


def native(world: World, threads: int, stack: ExitStack) -> Steps:
    """Contender: our engine."""
    return vector(world.native(threads), world, stack)


def envpools(world: World, threads: int, stack: ExitStack) -> Steps:
    """Contender: EnvPool, one pool per class, all stepped at once. It draws its own tasks."""
    known = envpool.list_all_envs()
    # some versions of EnvPool write MetaWorld/Reach-v3, others Meta-World/reach-v3
    names = {name.replace("-", "").lower(): name for name in known}
    pools, first = [], 0
    for env_name, size in Counter(class_name(task) for task in world.tasks).items():
        name = names.get(f"metaworld/{env_name.replace('-', '')}", env_name)
        pool = envpool.make_gymnasium(
            name, num_envs=size, num_threads=min(size, threads), **world.options
        )
        stack.callback(pool.close)
        pool.reset()
        pools.append((pool, cycle(world.actions[:, first : first + size].copy())))
        first += size

    def steps(count: int) -> None:
        for _ in range(count):
            for pool, actions in pools:
                pool.send(next(actions))
            for pool, _ in pools:
                pool.recv()

    return steps


def class_name(task: Any) -> str:
    """Class of a task, or its name in Gymnasium; slots of one class can share a model or a pool."""
    return task.env_name if isinstance(task, MetaWorldTask) else task.id


def floor(world: World, threads: int, stack: ExitStack, *, shared: bool) -> Steps:
    """Contender: plain MuJoCo in Python threads, as it releases Python's lock while computing.

    If `shared`, threads take slots one by one; otherwise each has its own slots. No thread waits
    for another. Slots of a class play its first task, so that they can share a model.
    """
    first_tasks = {class_name(task): task for task in reversed(world.tasks)}
    scenes = {name: world.official(task) for name, task in first_tasks.items()}
    slots = [
        world.physics(scenes[class_name(task)], world.actions[:, n])
        for n, task in enumerate(world.tasks)
    ]
    pool = stack.enter_context(ThreadPoolExecutor(threads))

    def step_from(waiting: SimpleQueue) -> None:
        with suppress(Empty):
            while True:
                slot, left = waiting.get_nowait()  # so no other thread steps it
                next(slot)
                if left > 1:
                    waiting.put((slot, left - 1))

    def steps(count: int) -> None:
        queues = [SimpleQueue() for _ in range(1 if shared else threads)]
        for n, slot in enumerate(slots):
            queues[n % len(queues)].put((slot, count))
        list(pool.map(step_from, queues * threads if shared else queues))

    return steps


BASES = SYNC, OWN, SHARED = "official, sync", "MuJoCo, own slots", "MuJoCo, slots as they go"
CONTENDERS: dict[str, Callable[[World, int, ExitStack], Steps]] = {
    # first, as its processes are copies of this one, which is still small then
    "official, async": partial(official, partial(AsyncVectorEnv, context="fork")),
    SYNC: partial(official, SyncVectorEnv),
    **({"EnvPool": envpools} if envpool else {}),
    OWN: partial(floor, shared=False),
    SHARED: partial(floor, shared=True),
    "native engine": native,
}


def measure(setting: str, rounds: int, seconds: float, threads: int) -> dict[str, dict[str, Any]]:
    """Rates, ratios and peak memory of all contenders."""
    world = SETTINGS[setting]()
    num_slots = len(world.tasks)
    skipped = {"official, async"} if num_slots > 100 else set()  # 80 MB per slot's process
    makers = {name: make for name, make in CONTENDERS.items() if name not in skipped}
    memory = {name: peak_memory(name, setting, threads) for name in makers}
    rates: dict[str, list[float]] = {name: [] for name in makers}
    with ExitStack() as stack:
        contenders = {name: make(world, threads, stack) for name, make in makers.items()}
        counts = {}
        for name, steps in contenders.items():
            steps(WARM_UP)
            counts[name] = max(1, round(WARM_UP * seconds / timed(steps, WARM_UP)))
        for _ in range(rounds):
            for name, steps in contenders.items():
                rates[name].append(num_slots * counts[name] / timed(steps, counts[name]))
    return {
        name: {
            "rates": rates[name],
            "median": float(np.median(rates[name])),
            "ratios": {b: float(np.median(np.divide(rates[name], rates[b]))) for b in BASES},
            "memory_mb": memory[name],
        }
        for name in makers
    }


def timed(steps: Steps, count: int) -> float:
    """Time of `count` steps (s)."""
    start = time.perf_counter()
    steps(count)
    return time.perf_counter() - start


def peak_memory(name: str, setting: str, threads: int) -> float:
    """Peak memory of a contender and its processes (MB), sampled every 20 ms; shared pages once."""
    process = get_context("spawn").Process(target=play_alone, args=(name, setting, threads))
    process.start()
    peak = 0.0
    while process.is_alive():
        peak = max(peak, session_memory(process.pid))
        process.join(0.02)
    if process.exitcode:
        raise RuntimeError(f"{name} failed alone, with exit code {process.exitcode}")
    return peak


def play_alone(name: str, setting: str, threads: int) -> None:
    """Plays a few steps in its own session, which identifies all its processes."""
    os.setsid()
    with ExitStack() as stack:
        CONTENDERS[name](SETTINGS[setting](), threads, stack)(WARM_UP)
        time.sleep(0.5)  # time for the memory to be sampled


def session_memory(session: int | None) -> float:
    """Memory of the processes of a session (MB): the sum of their proportional set sizes."""
    kilobytes = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):  # the process may have ended
            if os.getsid(int(folder.name)) == session:
                rollup = (folder / "smaps_rollup").read_text(encoding="utf-8")
                kilobytes += int(rollup.partition("\nPss:")[2].split()[0])
    return kilobytes / 1024


def table(measured: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown table with one line per setting and contender."""
    bases = " | ".join(f"× {base}" for base in BASES)
    titles = f"| setting | contender | env steps/s: median [min–max] | {bases} | peak MB |"
    lines = [titles, "|---|---" + "|---:" * 5 + "|"]
    for setting, contenders in measured.items():
        for name, m in contenders.items():
            rates = f"{m['median']:,.0f} [{min(m['rates']):,.0f}–{max(m['rates']):,.0f}]"
            ratios = " | ".join(f"{ratio:.2f}" for ratio in m["ratios"].values())
            lines.append(f"| {setting} | {name} | {rates} | {ratios} | {m['memory_mb']:,.0f} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Measures, prints and stores the results."""
    parser = command_line.parser(__doc__)
    add = parser.add_argument
    add("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    add("--rounds", type=int, default=5, help="measurements of each contender")
    add("--seconds", type=float, default=3.0, help="length of a measurement, roughly")
    add("--busy", type=int, default=0, help="processes that keep a processor busy meanwhile")
    add("--output", type=Path, default="results/rollouts", help="for rollouts.md, rollouts.json")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.seconds <= 0 or options.busy < 0:
        command_line.fail("--rounds and --seconds must be above 0, --busy at least 0")
    threads = num_processors()
    about = environment() | {"threads": threads, "load_before": os.getloadavg()[0]}
    about["versions"]["envpool"] = envpool.__version__ if envpool else None
    if envpool is None:
        print("EnvPool cannot be imported and is left out")
    measured = {}
    with ExitStack() as stack:
        for _ in range(options.busy):
            stack.callback(subprocess.Popen([sys.executable, "-c", "while True: pass"]).kill)
        for name in options.settings:
            print(f"Measuring {name} …", flush=True)
            measured[name] = measure(name, options.rounds, options.seconds, threads)
    versions = " ".join(f"{name} {number}" for name, number in about["versions"].items())
    text = (
        f"{table(measured)}\n\n{about['cpu']}, {threads} processors and threads, load "
        f"{about['load_before']:.1f} before, {options.busy} busy processes; {options.rounds} "
        f"rounds of {options.seconds:g} s; Python {about['python']}, {versions}\n"
    )
    stored = {"options": vars(options), "environment": about, "settings": measured}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "rollouts.md").write_text(text, encoding="utf-8")
    (options.output / "rollouts.json").write_text(
        json.dumps(stored, indent=2, default=str) + "\n", encoding="utf-8"
    )
    print(f"\n{text}\nStored in {options.output}")


if __name__ == "__main__":
    with one_line_errors("benchmarks.rollouts"):
        if sys.argv[1:3] == ["--engine", "warp"]:
            warp_rollouts.main(sys.argv[3:])
        else:
            main(sys.argv[1:])
