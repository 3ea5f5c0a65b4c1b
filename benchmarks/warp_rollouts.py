"""Measures env steps per second of the Warp engine, with and without a policy.

python -m benchmarks.rollouts --engine warp                                  every setting, on a GPU
python -m benchmarks.rollouts --engine warp --settings Ant-4096 --slots 16   with fewer slots

Actions are random, or sampled from an untrained RL² agent (GRU of 128 units), on the device. The
native engine plays the same tasks with the same agent on all processors of the same machine, in at
most 1,024 slots. Memory is the device memory taken by the engine; on a CPU it is the peak memory of
the process.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.rl2 import RL2Config
from benchmarks import command_line
from envs.locomotion import LocomotionConfig
from envs.metaworld import MetaWorldConfig
from metarl.rollout.trial import collect, first_step
from metarl.system.command_line import one_line_errors
from metarl.system.hardware import check_installed, default_device, num_processors
from metarl.system.seeding import torch_generator
from metarl.training.provenance import environment

Config = MetaWorldConfig | LocomotionConfig
WARM_UP = 3  # steps; kernels are compiled and graphs captured in a reset before
NATIVE_SLOTS = 1024


def meta_world(benchmark: str) -> Config:
    """Config of a benchmark's training tasks."""
    return MetaWorldConfig(benchmark=benchmark)


def locomotion(variant: str) -> Config:
    """Config of a variant, with episodes as long as Gymnasium's."""
    return LocomotionConfig(variant=variant, horizon=1000)


pick_place, ml10 = partial(meta_world, "ML1-pick-place-v3"), partial(meta_world, "ML10")
cheetah, ant = partial(locomotion, "HalfCheetah-vel-amago"), partial(locomotion, "Ant-goal-pearl")
SETTINGS: dict[str, tuple[Callable[[], Config], int]] = {
    "ML1-pick-place-1024": (pick_place, 1024),
    "ML1-pick-place-4096": (pick_place, 4096),
    "ML1-pick-place-16384": (pick_place, 16384),
    "ML10-10240": (ml10, 10240),
    "HalfCheetah-4096": (cheetah, 4096),
    "HalfCheetah-16384": (cheetah, 16384),
    "Ant-4096": (ant, 4096),
    "Ant-16384": (ant, 16384),
}


class Player:
    """An engine's environment, stepped with random actions or by an agent."""

    def __init__(self, config: Config, *, engine: str, num_slots: int, device: torch.device):
        self.env = config.model_copy(update={"engine": engine}).build().make_env(num_slots)
        self.device, self.on_device = device, engine == "warp"
        started = time.perf_counter()
        obs, _ = self.env.reset(seed=0)
        spaces = self.env.single_observation_space, self.env.single_action_space
        self._agent = RL2Config(hidden_size=128).build(*spaces, seed=0, device=device)
        self._generator = torch_generator(0, device)
        low, high = (
            torch.as_tensor(bound, device=device) for bound in (spaces[1].low, spaces[1].high)
        )
        shape = (64, num_slots, *spaces[1].shape)
        drawn = low + (high - low) * torch.rand(shape, generator=self._generator, device=device)
        self._actions = drawn if self.on_device else drawn.cpu().numpy()
        self._state = self._agent.begin_trial(num_slots)
        self._step = first_step(obs, spaces[1], device)
        self.play_random(WARM_UP)
        self.play_agent(WARM_UP)
        self.seconds_to_start = time.perf_counter() - started

    def play_random(self, count: int) -> None:
        """Steps without a policy."""
        for k in range(count):
            self.env.step(self._actions[k % len(self._actions)])
        self._wait()

    def play_agent(self, count: int) -> None:
        """Steps with the policy in the loop, as training does."""
        _, self._state, self._step = collect(
            self._agent, self.env, self._state, self._step,
            num_steps=count, generator=self._generator,
        )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def memory_mb(device: torch.device) -> float:
    """Used memory of the device, or the peak memory of this process on a CPU (MB)."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return (total - free) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rate(play: Callable[[int], None], num_slots: int, seconds: float) -> float:
    """Env steps per second, measured over about `seconds`."""
    started = time.perf_counter()
    play(WARM_UP)
    count = max(WARM_UP, round(WARM_UP * seconds / (time.perf_counter() - started)))
    started = time.perf_counter()
    play(count)
    return num_slots * count / (time.perf_counter() - started)


def measure(setting: str, *, slots: int | None, rounds: int, seconds: float) -> dict[str, Any]:
    """Rates and memory of both engines."""
    make, wanted = SETTINGS[setting]
    config, num_slots, device = make(), slots or wanted, default_device()
    before = memory_mb(device) if device.type == "cuda" else 0.0
    measured: dict[str, Any] = {"num_slots": num_slots}
    for engine, count, where in (
        ("warp", num_slots, device),
        ("native", min(num_slots, NATIVE_SLOTS), torch.device("cpu")),
    ):
        player = Player(config, engine=engine, num_slots=count, device=where)
        with closing(player.env):
            measured[engine] = {
                "num_slots": count,
                "seconds_to_start": player.seconds_to_start,
                **{
                    name: [rate(play, count, seconds) for _ in range(rounds)]
                    for name, play in (
                        ("random", player.play_random),
                        ("agent", player.play_agent),
                    )
                },
                "memory_mb": memory_mb(where) - (before if engine == "warp" else 0.0),
            }
    return measured


def table(measured: dict[str, dict[str, Any]]) -> str:
    """Markdown table with one line per setting and engine."""
    lines = [
        "| setting | engine | slots | env steps/s, random actions | with the policy | × native "
        "| with the policy | s to start | MB |",
        "|---|---|" + "---:|" * 7,
    ]
    for setting, engines in measured.items():
        base = {name: np.median(engines["native"][name]) for name in ("random", "agent")}
        for engine in ("warp", "native"):
            m = engines[engine]
            rates = {name: float(np.median(m[name])) for name in base}
            lines.append(
                f"| {setting} | {engine} | {m['num_slots']:,} | {rates['random']:,.0f} "
                f"| {rates['agent']:,.0f} | {rates['random'] / base['random']:.2f} "
                f"| {rates['agent'] / base['agent']:.2f} | {m['seconds_to_start']:.0f} "
                f"| {m['memory_mb']:,.0f} |"
            )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Measures, prints and stores the results."""
    parser = command_line.parser(__doc__)
    add = parser.add_argument
    add("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    add("--slots", type=int, help="in place of the settings' own number")
    add("--rounds", type=int, default=5, help="measurements of each")
    add("--seconds", type=float, default=3.0, help="length of a measurement, roughly")
    add("--output", type=Path, default=Path("results/rollouts"), help="for warp.md and warp.json")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.seconds <= 0 or (options.slots or 1) < 1:
        command_line.fail("--rounds and --slots must be at least 1, --seconds above 0")
    device = default_device()
    check_installed(device)
    about = environment() | {"threads": num_processors(), "load_before": os.getloadavg()[0]}
    about["versions"] |= {name: metadata.version(name) for name in ("mujoco-warp", "warp-lang")}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "Warp's CPU device"
    measured = {}
    for setting in options.settings:
        print(f"Measuring {setting} …", flush=True)
        measured[setting] = measure(
            setting, slots=options.slots, rounds=options.rounds, seconds=options.seconds
        )
    versions = " ".join(f"{name} {number}" for name, number in about["versions"].items())
    text = (
        f"{table(measured)}\n\nWarp on {name}; the native engine on {about['threads']} processors "
        f"of {about['cpu']}, load {about['load_before']:.1f} before; {options.rounds} rounds of "
        f"{options.seconds:g} s; Python {about['python']}, {versions}\n"
    )
    stored = {"device": name, "options": vars(options), "environment": about, "settings": measured}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "warp.md").write_text(text, encoding="utf-8")
    (options.output / "warp.json").write_text(
        json.dumps(stored, indent=2, default=str) + "\n", encoding="utf-8"
    )
    print(f"\n{text}\nStored in {options.output}")


if __name__ == "__main__":
    with one_line_errors("benchmarks.warp_rollouts"):
        main(sys.argv[1:])
