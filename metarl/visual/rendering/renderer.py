"""Renderer of states of scenes, with worker processes that share the pictures."""

# pyright: reportAttributeAccessIssue=false
# Type checkers cannot see mujoco's C code.

from __future__ import annotations

import pickle
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from metarl.errors import UserError, nearest
from metarl.rollout.scene import Scene
from metarl.system.hardware import num_processors
from metarl.visual.rendering.artist import Stage
from metarl.visual.rendering.backends import (
    command,
    environment,
    find_backend,
    last_line,
    signal_name,
)

FEW = 12
"""Pictures per worker; fewer do not justify starting another worker."""
ASKED = 2
"""Most pending pictures of a worker: the one that it draws, and the next."""
AHEAD = 4
"""Pictures per worker that may be drawn ahead of the one that is needed next."""
PATIENCE = 120.0
"""Time limit for an answer from any worker (s); without a GPU, the first picture of a detailed
model takes seconds."""
CLOSE_SECONDS = 3.0
"""Time limit for a worker to end before it is killed (s)."""


class OffscreenRenderer:
    """Renderer that draws in worker processes; close it, or use it in a `with` statement.

    Args:
        width, height: size of the pictures (pixels).
        draft: draw coarse shadows, no reflections and no smooth edges, which is three times as fast
            without a GPU. Otherwise pictures equal those of `mujoco.Renderer` to the bit.
        backend: one of `BACKENDS`; by default one that works.
        num_workers: largest number of processes; by default the number of processors.

    Raises:
        UserError: nothing on this machine can draw.
    """

    def __init__(
        self,
        *,
        width: int = 480,
        height: int = 360,
        draft: bool = False,
        backend: str | None = None,
        num_workers: int | None = None,
    ) -> None:
        if width < 1 or height < 1:
            raise UserError(f"a picture of {width}×{height} pixels shows nothing")
        self.width, self.height = width, height
        self.draft = draft
        self.backend = backend or find_backend()
        self.num_workers = num_workers or num_processors()
        self._workers: list[_Worker] = []
        self._closed = False
        self._calls = 0

    def __enter__(self) -> OffscreenRenderer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def frames(
        self, scene: Scene, states: Float64[np.ndarray, "S R"], *, camera: str | None = None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Upright pictures of the states, in order. A later call ends this iteration.

        Args:
            camera: name of a camera; '' is a free camera that shows everything and follows the
                robot; by default the scene's camera.

        Raises:
            UserError: there is no such camera, or a worker died, hung or could not draw.
        """
        if self._closed:
            raise ValueError("the renderer is closed")
        camera = scene.camera if camera is None else camera
        check_camera(scene, camera)
        self._calls += 1
        stage = Stage(
            scene=pickle.dumps(scene), camera=camera, draft=self.draft,
            width=self.width, height=self.height,
        )  # fmt: skip
        return self._drawn(stage, states[:, : scene.state_size], self._calls)

    def _drawn(
        self, stage: Stage, states: Float64[np.ndarray, "S R"], call: int
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Draws the pictures. Workers take states one by one, as processors may be unevenly
        busy."""
        self._check_is_newest(call)
        count = len(states)
        try:
            workers = self._staffed(count)
            for worker in workers:
                worker.prepare(stage)
            done: dict[int, UInt8[np.ndarray, "H W 3"]] = {}
            asked = 0
            for index in range(count):
                horizon = min(count, index + AHEAD * len(workers))
                while index not in done:
                    for worker in workers:
                        while worker.num_asked < ASKED and asked < horizon:
                            worker.ask(asked, states[asked])
                            asked += 1
                    done.update(worker.answer() for worker in _answering(workers))
                yield done.pop(index)
                self._check_is_newest(call)
        except UserError:
            self.close()
            raise

    def _staffed(self, count: int) -> list[_Worker]:
        """As many workers as `count` pictures justify."""
        worth = min(self.num_workers, -(-count // FEW))
        while len(self._workers) < worth:
            self._workers.append(_Worker(self.backend, self.num_workers))
        return self._workers[:worth]

    def _check_is_newest(self, call: int) -> None:
        if self._closed or call != self._calls:
            what = "was closed" if self._closed else "draws other states by now"
            raise RuntimeError(f"the renderer {what}")

    def close(self) -> None:
        """Ends the workers."""
        self._closed = True
        for worker in self._workers:
            worker.dismiss()
        while self._workers:
            self._workers.pop().close()


class _Worker:
    """A drawing process, as seen by its parent."""

    def __init__(self, backend: str, num_workers: int) -> None:
        self._backend = backend
        self._stage: Stage | None = None
        self._asked: deque[int] = deque()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self.connection, theirs = Pipe()
        # Mesa's software renderer would start as many threads as processors in each worker.
        threads = max(1, num_processors() // num_workers)
        self._process = subprocess.Popen(
            command("metarl.visual.rendering.worker", str(theirs.fileno())),
            env={"LP_NUM_THREADS": str(threads), **environment(backend)},
            stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said,
            pass_fds=[theirs.fileno()],
        )  # fmt: skip
        theirs.close()  # so that the connection ends when the process does

    @property
    def num_asked(self) -> int:
        """Number of pending answers."""
        return len(self._asked)

    def prepare(self, stage: Stage) -> None:
        """Sends the stage of the next states, if it differs from the last one."""
        while self._asked:  # answers of an unfinished iteration
            self.answer()
        if self._stage is None:
            self._receive()  # greeting: sending a large message to a dead process would block
        if stage != self._stage:
            self._send(stage)
            self._stage = stage

    def ask(self, number: int, state: Float64[np.ndarray, " R"]) -> None:
        """Requests a picture of a state."""
        self._asked.append(number)
        self._send(state)

    def answer(self) -> tuple[int, UInt8[np.ndarray, "H W 3"]]:
        """The number and the picture of the oldest request."""
        picture = self._receive()
        return self._asked.popleft(), picture

    def hung(self) -> UserError:
        """Kills the process; returns the error to raise."""
        self._process.kill()
        return self._failed(f"did not answer for {PATIENCE:g} s")

    def dismiss(self) -> None:
        """Tells the process to end, without waiting for it."""
        self.connection.close()

    def close(self) -> None:
        """Ends the process, by force if necessary."""
        self.dismiss()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _receive(self) -> Any:
        if not wait([self.connection], PATIENCE):
            raise self.hung()
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise self._failed(self._end()) from None
        if isinstance(answer, str):
            raise self._failed(f"gave up ({answer})")
        return answer

    def _send(self, message: Any) -> None:
        with suppress(OSError):  # the process is dead; `answer` reports it
            self.connection.send(message)

    def _end(self) -> str:
        code = self._process.wait()
        how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        self._said.seek(0)
        said = last_line(self._said.read().decode(errors="replace"))
        return f"{how}, saying: {said}" if said else how

    def _failed(self, what: str) -> UserError:
        return UserError(f"drawing failed: the process that draws with {self._backend} {what}")


def _answering(workers: list[_Worker]) -> list[_Worker]:
    """Waits for an answer; returns the workers that have one or have died."""
    asked = [worker for worker in workers if worker.num_asked]
    ready = wait([worker.connection for worker in asked], PATIENCE)
    if not ready:
        raise asked[0].hung()
    return [worker for worker in asked if worker.connection in ready]


def check_camera(scene: Scene, camera: str) -> None:
    """Checks that a scene has a camera; '' is the free camera.

    Raises:
        UserError: it has not; names those that it has.
    """
    model = scene.model
    known = [model.camera(number).name for number in range(model.ncam)]
    if camera and camera not in known:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise UserError(f"the model has no camera {camera}; {has}.{nearest(camera, known)}")
