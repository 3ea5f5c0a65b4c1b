"""Measures the speed of making videos, compared with MuJoCo's own renderer.

python -m benchmarks.video                        480x360, on all processors, default back end
MUJOCO_GL=osmesa python -m benchmarks.video --frames 200 --rounds 5

The bare loop is `mujoco.Renderer` in as many processes, each of which draws its share of the same
states and discards the pictures. All contenders have drawn before measuring, so models and textures
are loaded. Contenders take turns, round after round; shares are medians of ratios within a round.
"""

import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np

from benchmarks import command_line
from envs.metaworld import MetaWorld
from envs.metaworld.official import make_official_env, set_official_task
from metarl.rollout.recording import Episode, Recording
from metarl.rollout.scene import DRAWN_STATE, Scene, drawn_state
from metarl.system.command_line import one_line_errors
from metarl.training.provenance import environment as about_here
from metarl.visual.rendering.backends import environment, find_backend
from metarl.visual.rendering.renderer import OffscreenRenderer
from metarl.visual.video import adaptation_video

BARE = """
import pickle, sys, time
import mujoco
with open(sys.argv[1], "rb") as file:
    model, states, camera, width, height, spec = pickle.load(file)
states = states[int(sys.argv[2]) :: int(sys.argv[3])]
data = mujoco.MjData(model)
with mujoco.Renderer(model, height, width) as renderer:
    def draw(state):
        mujoco.mj_setState(model, data, state, spec)
        mujoco.mj_forward(model, data)
        renderer.update_scene(data, camera)
        return renderer.render()
    draw(states[0])
    print("ready", flush=True)
    for _ in sys.stdin:
        for state in states:
            draw(state)
        print("done", flush=True)
"""
BARE_LOOP, PICTURES, VIDEO, DRAFT = (
    "bare loop",
    "pictures",
    "video, before and after",
    "the same, draft",
)


class BareLoops:
    """Processes that draw and discard the pictures."""

    def __init__(
        self, scene: Scene, states: np.ndarray, *, size: tuple[int, int], backend: str, count: int
    ) -> None:
        with tempfile.NamedTemporaryFile() as file:
            pickle.dump((scene.model, states, scene.camera, *size, DRAWN_STATE), file)
            file.flush()
            self._processes = [
                subprocess.Popen(
                    [sys.executable, "-c", BARE, file.name, str(number), str(count)],
                    env=environment(backend), text=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                )
                for number in range(count)
            ]  # fmt: skip
            self._wait()

    def draw(self) -> None:
        """Draws all states once."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        self._wait()

    def _wait(self) -> None:
        for process in self._processes:
            assert process.stdout is not None
            process.stdout.readline()

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.communicate()


def sawyer(steps: int) -> tuple[Scene, np.ndarray]:
    """Scene and states of Meta-World's robot, moved at random."""
    env = make_official_env("reach-v3")
    set_official_task(env, MetaWorld("ML1-reach-v3").train[0])
    env.reset()
    return Scene(model=env.model, camera="corner2", dt=env.dt), played(env, steps)


def cheetah(steps: int) -> tuple[Scene, np.ndarray]:
    """Scene and states of HalfCheetah, moved at random."""
    env = gymnasium.make("HalfCheetah-v5").unwrapped
    env.reset(seed=0)
    return Scene(model=env.model, camera="track", dt=env.dt), played(env, steps)


def played(env: gymnasium.Env, steps: int) -> np.ndarray:
    """States along random actions."""
    env.action_space.seed(0)
    states = []
    for _ in range(steps):
        env.step(env.action_space.sample())
        states.append(drawn_state(env.model, env.data))
    return np.stack(states)


def halves(states: np.ndarray) -> Recording:
    """Recording of two episodes with half of the states each."""
    half = len(states) // 2
    nothing = {"reward": np.zeros(half - 1, np.float32), "success": np.zeros(half - 1, bool)}
    parts = [(0, states[:half]), (9, states[half : 2 * half])]
    episodes = [Episode(before=before, states=part, **nothing) for before, part in parts]
    return Recording(env_name="random", task=0, episodes=episodes)


def measure(
    scene: Scene, states: np.ndarray, *, size: tuple[int, int], backend: str, workers: int,
    rounds: int,
) -> dict[str, list[float]]:  # fmt: skip
    """Pictures per second of all contenders, round by round."""
    width, height = size
    # Every state is a frame of the video, regardless of the model's time step.
    slow = Scene(model=scene.model, camera=scene.camera, dt=1.0)
    rates: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        OffscreenRenderer(
            width=width, height=height, backend=backend, num_workers=workers
        ) as renderer,
        OffscreenRenderer(
            width=width, height=height, backend=backend, num_workers=workers, draft=True
        ) as draft,
    ):
        path, recording = Path(folder) / "a.mp4", halves(states)
        bare = BareLoops(scene, states, size=size, backend=backend, count=workers)
        runs: dict[str, Callable[[], object]] = {
            BARE_LOOP: bare.draw,
            PICTURES: lambda: sum(1 for _ in renderer.frames(scene, states)),
            VIDEO: lambda: adaptation_video(renderer, scene=slow, recording=recording, path=path),
            DRAFT: lambda: adaptation_video(draft, scene=slow, recording=recording, path=path),
        }
        for name in (PICTURES, DRAFT):
            runs[name]()
        for _ in range(rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                rates.setdefault(name, []).append(len(states) / (time.perf_counter() - start))
        bare.close()
    return rates


def table(measured: dict[str, dict[str, list[float]]]) -> str:
    """Markdown table with one line per scene and contender."""
    lines = [
        "| | | pictures per second: median [min-max] | share of the renderer |",
        "|---|---|---:|---:|",
    ]
    for scene, rates in measured.items():
        for name, values in rates.items():
            share = float(np.median(np.divide(values, rates[BARE_LOOP])))
            spread = f"{np.median(values):.1f} [{min(values):.1f}-{max(values):.1f}]"
            lines.append(f"| {scene} | {name} | {spread} | {share:.0%} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Measures, prints and stores the results."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each contender")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--output", type=Path, default="results/video", help="for video.json")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.workers < 1 or options.frames < 12 * options.workers:
        command_line.fail("--rounds and --workers must be at least 1, --frames 12 for each worker")
    backend, about, size = find_backend(), about_here(), (options.width, options.height)
    scenes = {"Meta-World reach": sawyer, "HalfCheetah": cheetah}
    measured = {
        name: measure(
            *make(options.frames), size=size, backend=backend, workers=options.workers,
            rounds=options.rounds,
        )
        for name, make in scenes.items()
    }  # fmt: skip
    text = (
        f"{table(measured)}\n\n{about['cpu']}, {about['cpus']} processors, {options.workers} "
        f"workers, {backend}, {size[0]}x{size[1]}, mujoco {about['versions']['mujoco']}; "
        f"{options.frames} pictures, {options.rounds} rounds"
    )
    stored = {"options": vars(options), "environment": about, "pictures_per_second": measured}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "video.md").write_text(text + "\n", encoding="utf-8")
    (options.output / "video.json").write_text(
        json.dumps(stored, indent=2, default=str) + "\n", encoding="utf-8"
    )
    print(f"{text}\n\nStored in {options.output}")


if __name__ == "__main__":
    with one_line_errors("benchmarks.video"):
        main(sys.argv[1:])
