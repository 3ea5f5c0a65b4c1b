"""A vector environment whose slots are worlds of MuJoCo Warp, with torch tensors in and out."""

# pyright: reportMissingImports=false
# Warp is not in the environment of the type checker.

from __future__ import annotations

import contextlib
import os
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import warp as wp
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.engine.batch import Snapshot
from envs.warp_engine.scene import DeviceScene
from envs.warp_engine.slots import SlotTable
from envs.warp_engine.spec import Room, SceneSpec, first_room
from metarl.rollout.recording import Sink
from metarl.rollout.scene import Scene
from metarl.rollout.slots import Seed, SlotEnv
from metarl.system.cache import cache_folder
from metarl.system.hardware import default_device
from metarl.tasks import Task

T = TypeVar("T", bound=Task)


class Placement(NamedTuple):
    """Assignment of a slot: a scene, its unique name, and a start in it."""

    name: str
    spec: SceneSpec
    snapshot: Snapshot


class WarpEnv(SlotEnv[T]):
    """A vector environment whose slots are worlds on a device. Subclasses define the tasks.

    The contract is that of `envs.engine.env.EngineEnv`, with torch tensors on `device` instead of
    arrays, and without `final_info` and masks in `info`, because all slots end together.
    Observations, rewards and the numbers of `info` are float32, in tensors that are never reused. A
    step does not wait for the device, so errors are checked only at the end of an episode, at
    `reset` and at `close`; they are reported with their slot and step.

    Args:
        tasks: one for each slot, in any mixture.
        outcome: names of the scalars of a step; the first is the reward, one is `success`.
        device: None for the current GPU, or for the CPU if there is none.
    """

    def __init__(
        self,
        tasks: Sequence[T],
        *,
        outcome: Sequence[str],
        horizon: int,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        device: torch.device | None = None,
    ) -> None:
        if not tasks:
            raise ValueError("num_slots must be at least 1, not 0")
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, not {horizon}")
        super().__init__(
            tasks,
            horizon=horizon,
            observation_space=observation_space,
            action_space=action_space,
        )
        self.device = device or default_device()
        _start_warp()
        self._table = SlotTable(
            self.num_envs,
            action_size=int(np.prod(action_space.shape)),
            obs_size=int(np.prod(observation_space.shape)),
            outcome_size=len(outcome),
            device=wp.device_from_torch(self.device),
        )
        self._views = {
            name: wp.to_torch(getattr(self._table, name))
            for name in ("actions", "obs", "final_obs", "outcome", "episode_end")
        }
        self._outcome = tuple(outcome)
        self._scenes: dict[str, DeviceScene] = {}
        self._playing: dict[str, list[int]] = {}
        self._rooms: dict[str, Room] = {}
        self._elapsed = 0  # one counter: all slots start together and have the same horizon
        self._sink: Sink | None = None
        self._record: np.ndarray | None = None
        self._was_resting = np.zeros(self.num_envs, dtype=np.bool_)

    @abstractmethod
    def _placements(self, tasks: tuple[T, ...]) -> list[Placement]:
        """Scene and start of each slot."""

    @abstractmethod
    def scene(self, task: T) -> Scene:
        """The scene that a task is played in."""

    def _seed(self, slots: Int[np.ndarray, " n"], seeds: Sequence[int | None] | int) -> None:
        """Restarts every slot's random stream, which does not depend on the number of slots."""
        if not isinstance(seeds, int):
            raise ValueError("give one seed: all streams on a device are derived from it")
        super()._seed(slots, seeds)
        stream = np.random.SeedSequence(seeds)
        self._table.seeds.assign(stream.generate_state(self.num_envs, np.uint32))
        self._table.drawn.zero_()

    def record(self, sink: Sink | None) -> None:
        """Passes every whole episode to `sink`, starting at the next `reset`; None stops it.

        Each step of a recorded episode waits for the device and copies positions to the host.
        """
        self._sink = sink

    # -- episodes ----------------------------------------------------------------------------------

    def _why_together(self) -> str:
        return "on a device"

    def reset(
        self, *, seed: Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[Tensor, "N O"], dict[str, Any]]:
        """Starts an episode in every slot; a seed restarts every slot's random stream.

        Raises:
            ValueError: invalid options or seeds, or a mask that leaves out slots.
        """
        everyone, seeds = self._chosen(options), self._checked_seed(seed)
        if self._started:
            self._tell()
        self._started = False  # in case the reset is interrupted
        if seeds is not None:
            self._seed(everyone, seeds)
        outgrown = [n for n, scene in self._scenes.items() if scene.room != self._rooms[n]]
        for name in outgrown:
            del self._scenes[name]
        if self.tasks is not self.next_tasks or outgrown:
            self.tasks = ()
            self._place(self.next_tasks)
            self.tasks = self.next_tasks
        for name in self._playing:
            self._scenes[name].starting.fill_(True)
        self._wait()
        self._each_scene(DeviceScene.start)
        self._elapsed = 0
        self._keep_record()
        self._started = True
        return self._views["obs"].float(), {}

    def step(
        self, actions: Any
    ) -> tuple[
        Float[Tensor, "N O"],
        Float[Tensor, " N"],
        Bool[Tensor, " N"],
        Bool[Tensor, " N"],
        dict[str, Any],
    ]:
        """Steps every slot.

        Args:
            actions: (N, A) floats, a tensor or an array; converted to float32. A slot whose action
                is NaN or infinite rests until its episode ends, and that step raises a ValueError.

        Returns:
            Observations (N, O), rewards (N,), terminations (N,), which are all False, truncations
            (N,), `info`.

        Raises:
            ValueError: before the first `reset`; if the actions have the wrong shape or dtype; at
                the end of an episode in which an action was not finite.
        """
        self._check_playing()
        self._views["actions"].copy_(self._checked(actions))
        self._elapsed += 1
        self._each_scene(DeviceScene.step)
        if self._record is not None:
            self._write_record(self._elapsed)
        ends = self._elapsed == self.horizon
        outcome = self._views["outcome"].float().unbind(1)
        info: dict[str, Any] = dict(zip(self._outcome, outcome, strict=True))
        info["success"] = info["success"] > 0
        info["final_obs"] = self._views["final_obs"].float()
        truncated = self._views["episode_end"].clone()
        if ends:
            self._tell()
            if self._sink is not None and self._record is not None:
                self._sink(self._record)
            self._each_scene(DeviceScene.start)
            self._elapsed = 0
            if self._record is not None:
                self._write_record(0)
        obs = self._views["obs"].float()
        return obs, outcome[0].clone(), torch.zeros_like(truncated), truncated, info

    def _checked(self, actions: Any) -> Tensor:
        actions = torch.as_tensor(actions, device=self.device)
        if actions.shape != self.action_space.shape:
            shape = self.action_space.shape
            raise ValueError(f"actions must have shape {shape}, not {tuple(actions.shape)}")
        if not actions.is_floating_point():
            raise ValueError(f"actions must be floats, not {actions.dtype}")
        return actions

    def _each_scene(self, launch: Any) -> None:
        """Launches work in all scenes, each on its own stream, after torch's queued work."""
        scenes = [self._scenes[name] for name in self._playing]
        if self.device.type != "cuda":
            for scene in scenes:
                launch(scene)
            return
        current = wp.stream_from_torch(torch.cuda.current_stream(self.device))
        before = current.record_event()
        for scene in scenes:
            assert scene.stream is not None
            scene.stream.wait_event(before)
            launch(scene)
            current.wait_event(scene.stream.record_event())

    def _wait(self) -> None:
        """Waits until the device has finished all work on all streams."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _place(self, tasks: tuple[T, ...]) -> None:
        """Assigns each slot to a world of its scene."""
        placements = self._placements(tasks)
        self._playing = {}
        for slot, placement in enumerate(placements):
            self._playing.setdefault(placement.name, []).append(slot)
        for name, slots in self._playing.items():
            snapshots = [placements[slot].snapshot for slot in slots]
            spec = placements[slots[0]].spec
            room = self._rooms.get(name)
            if room is None:
                room = self._rooms[name] = first_room(spec.scene.model, snapshots[0])
            scene = self._scenes.get(name)
            if scene is None or scene.num_worlds < len(slots):
                scene = self._scenes[name] = DeviceScene(
                    spec,
                    num_worlds=len(slots),
                    constants_size=len(snapshots[0].constants),
                    table=self._table,
                    horizon=self.horizon,
                    room=room,
                )
            scene.place(slots, snapshots)

    # -- errors ------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Reports errors since the last call, as warnings or a ValueError."""
        self._wait()
        table = self._table
        for slot in np.flatnonzero(table.unstable_at.numpy()):
            warnings.warn(
                f"slot {slot} ({self.tasks[slot].env_name}), step "
                f"{table.unstable_at.numpy()[slot]}: the physics became unstable; the slot kept "
                "its last stable observation, with reward 0, until its episode ended",
                RuntimeWarning,
                stacklevel=3,
            )
        table.unstable_at.zero_()
        for name in self._playing:
            self._tell_of_overflow(name, self._scenes[name])
        bad = table.bad_action_at.numpy().copy()
        table.bad_action_at.zero_()
        self._wait()
        if bad.any():
            slot = int(np.flatnonzero(bad)[0])
            self._started = False
            raise ValueError(
                f"slot {slot} ({self.tasks[slot].env_name}), step {bad[slot]}: the action is not "
                "finite; call reset()"
            )

    def _tell_of_overflow(self, name: str, scene: DeviceScene) -> None:
        needed, room = scene.needed(), scene.room
        if room.holds(needed):
            return
        grown = self._rooms[name] = room.grown(needed)  # the next reset builds the scene again
        warnings.warn(
            f"{name}: {needed.contacts} contacts a world and {needed.constraints} constraints in "
            f"one, but there was room for {room.contacts} and {room.constraints}: some were left "
            f"out. From the next reset on there is room for {grown.contacts} and "
            f"{grown.constraints}",
            RuntimeWarning,
            stacklevel=4,
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Reports errors of an unfinished episode and frees the scenes."""
        del kwargs
        if self._started:
            self._started = False
            with contextlib.suppress(ValueError):  # a bad action no longer matters
                self._tell()
        self._scenes.clear()
        self._playing.clear()
        self.tasks = ()

    # -- recordings --------------------------------------------------------------------------------

    def _keep_record(self) -> None:
        if self._sink is None:
            self._record = None
            return
        sizes = [self._scenes[name].drawn_size for name in self._playing]
        self._record = np.zeros((self.num_envs, self.horizon + 1, max(sizes)))
        self._write_record(0)

    def _write_record(self, step: int) -> None:
        """Stores the drawable states; for a resting slot, repeats the last one."""
        assert self._record is not None
        self._wait()
        resting = self._table.resting.numpy().astype(np.bool_)
        for name, slots in self._playing.items():
            drawn = self._scenes[name].drawn_states()[: len(slots)]
            self._record[slots, step, : drawn.shape[1]] = drawn
        if step == 0:
            self._was_resting[:] = False
            return
        broke = self._table.unstable_at.numpy() + self._table.bad_action_at.numpy() == step
        still = self._was_resting | broke
        self._record[still, step] = self._record[still, step - 1]
        self._was_resting = resting


def _start_warp() -> None:
    """Starts Warp quietly, with compiled kernels in the toolkit's own cache folder."""
    if "WARP_CACHE_PATH" not in os.environ:
        wp.config.kernel_cache_dir = str(cache_folder() / "warp" / wp.config.version)
    wp.config.quiet = True
    wp.init()
