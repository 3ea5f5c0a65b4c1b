"""Environments of users, played in slots: in this process, or in workers that may die."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from os import _exit
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from envs.worker.player import MakeEnv, Player, make, takes_task
from envs.worker.user_module import UserModule, describe
from metarl import stopping
from metarl.errors import UserError

SIGNAL_SECONDS = 0.2
"""How much later than a worker its parent may get a signal that was sent to both."""
CLOSE_SECONDS = 3.0
"""How long a worker may take to close its environments before it is killed."""


# -- the slots of one worker -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What went wrong in a slot. Step 0 is the reset at the start of the trial."""

    slot: int
    step: int
    what: str


class Share:
    """Some of the slots, played one after the other, with an environment each.

    Args:
        first_slot: the number of the first of them.
        note: where to write down slot and step before an environment is called, so that they are
            known if the process does not survive it.
    """

    def __init__(
        self, make_env: MakeEnv, *, horizon: int, first_slot: int, note: MutableSequence[int]
    ) -> None:
        self._make_env = make_env
        self._horizon = horizon
        self._first_slot = first_slot
        self._note = note
        self._players: list[Player | None] = []

    def reset(
        self, tasks: Sequence[Any], seeds: Sequence[int], recording: bool
    ) -> tuple[Shaped[np.ndarray, "N O"]]:
        """Starts a trial on each task, whose physics are written down or not."""
        self._steps = 0
        from_task = takes_task(self._make_env)
        self._players = self._players or [None] * len(tasks)
        seen = []
        for slot, (task, seed) in enumerate(zip(tasks, seeds, strict=True)):
            self._write_down(slot)
            player = self._players[slot]
            if player is None or from_task:
                if player is not None:
                    player.env.close()
                player = Player(make(self._make_env, task), horizon=self._horizon)
                self._players[slot] = player
            if not from_task:
                player.env.get_wrapper_attr("set_task")(task)
            player.recording = recording
            seen.append(player.reset(seed))
        return (np.stack(seen),)

    def step(self, actions: Shaped[np.ndarray, "N ..."]) -> tuple[np.ndarray, ...]:
        """Observation, reward, success and final observation of each slot."""
        self._steps += 1
        results = []
        for slot, (player, action) in enumerate(zip(self._players, actions, strict=True)):
            self._write_down(slot)
            assert player is not None
            final_obs, reward, success, ended = player.step(action)
            obs = player.reset() if ended else final_obs
            results.append((obs, reward, success, final_obs))
        obs, reward, success, final_obs = zip(*results, strict=True)
        return np.stack(obs), np.array(reward), np.array(success), np.stack(final_obs)

    def recorded(self) -> list[Float64[np.ndarray, "S R"]]:
        """What was written down of the last whole episode of each slot."""
        players = [player for player in self._players if player is not None]
        return [player.episode for player in players if player.episode is not None]

    def close(self) -> None:
        """Closes the environments."""
        for player in self._players:
            if player is not None:
                player.env.close()

    def failure(self, error: BaseException) -> Failure:
        """Where the last call failed, and why."""
        return Failure(slot=self._note[0], step=self._note[1], what=describe(error))

    def _write_down(self, slot: int) -> None:
        self._note[0], self._note[1] = self._first_slot + slot, self._steps


class Here:
    """Plays its slots in this process; asked and answering as a `Worker`."""

    def __init__(self, make_env: MakeEnv | UserModule, *, horizon: int, first_slot: int) -> None:
        self._share = Share(
            callable_of(make_env), horizon=horizon, first_slot=first_slot, note=[first_slot, 0]
        )

    def ask(self, name: str, *arguments: Any) -> None:
        """Says which method of the share to call next."""
        self._request = name, arguments

    def answer(self, patience: float) -> Any:
        """What the method returned, or the failure."""
        del patience
        name, arguments = self._request
        try:
            return getattr(self._share, name)(*arguments)
        except Exception as error:
            return self._share.failure(error)

    def dismiss(self) -> None:
        """Nothing: there is no process that could end by itself."""

    def close(self) -> None:
        """Closes the environments; one that failed may fail at that too."""
        with suppress(Exception):
            self._share.close()


# -- worker processes ------------------------------------------------------------------------------


class Worker:
    """Plays its slots in a process of its own, and outlives it to tell how it died.

    A worker ignores Ctrl-C, which is for the parent, and ends when the parent does.

    Raises:
        UserError: `make_env` cannot be sent to a process.
    """

    def __init__(self, make_env: MakeEnv | UserModule, *, horizon: int, first_slot: int) -> None:
        # Not "fork": copied threads and locks of torch or a simulator do not work in the copy.
        context = multiprocessing.get_context("spawn")
        self._note = context.RawArray("q", [first_slot, 0])
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, self._note, make_env, horizon, first_slot), daemon=True
        )
        try:
            without_main = _no_main_program() if isinstance(make_env, UserModule) else nullcontext()
            with without_main, _ctrl_c_blocked():
                self._process.start()
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise UserError(
                f"make_env cannot be sent to a worker process ({error}); define it at the top "
                "level of a module, or set num_workers to 0"
            ) from None
        finally:
            theirs.close()

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self._process.pid

    def ask(self, name: str, *arguments: Any) -> None:
        """Sends which method of the share to call next."""
        with suppress(OSError):  # It is dead; `answer` tells.
            self._connection.send((name, arguments))

    def answer(self, patience: float) -> Any:
        """What the method returned, or the failure.

        Args:
            patience: seconds that one slot may take.
        """
        seen = self._where()
        while not (ready := wait([self._connection, self._process.sentinel], patience)):
            if self._where() == seen:
                self._process.kill()
                return self._failure(f"no answer for {patience:g} s, worker killed")
            seen = self._where()
        if self._connection in ready:
            with suppress(EOFError, OSError):
                return self._connection.recv()
        self._process.join(CLOSE_SECONDS)
        code = self._process.exitcode
        if code is not None and -code in stopping.SIGNALS:
            # It may have gone to the whole group, and be about to stop this process too.
            time.sleep(SIGNAL_SECONDS)
            stopping.check()
        died = f"was killed by {_signal_name(-code)}" if code and code < 0 else ""
        return self._failure(f"its worker process {died or f'ended with exit code {code}'}")

    def dismiss(self) -> None:
        """Lets the process close its environments and end; does not wait for it."""
        with suppress(OSError):
            self._connection.close()

    def close(self) -> None:
        """Ends the process, by force if it does not close its environments in time."""
        self.dismiss()
        self._process.join(CLOSE_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
        self._process.join()
        self._process.close()

    def _where(self) -> tuple[int, int]:
        return self._note[0], self._note[1]

    def _failure(self, what: str) -> Failure:
        slot, step = self._where()
        return Failure(slot=slot, step=step, what=what)


def serve(
    connection: Connection,
    note: MutableSequence[int],
    make_env: MakeEnv | UserModule,
    horizon: int,
    first_slot: int,
) -> None:
    """What a worker does: answers until the other end of the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # by now what was blocked is ignored
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    share = None
    try:
        share = Share(callable_of(make_env), horizon=horizon, first_slot=first_slot, note=note)
        while True:
            try:
                name, arguments = connection.recv()
            except (EOFError, OSError):
                break
            connection.send(getattr(share, name)(*arguments))
    except Exception as error:
        failure = Failure(slot=note[0], step=note[1], what=describe(error))
        with suppress(OSError):
            connection.send(failure)
    finally:
        if share is not None:
            with suppress(Exception):
                share.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # those for real time have none
        return f"signal {number}"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        _exit(1)


def callable_of(make_env: MakeEnv | UserModule) -> MakeEnv:
    """What makes an environment."""
    return make_env.loaded.make_env if isinstance(make_env, UserModule) else make_env


@contextmanager
def _no_main_program() -> Iterator[None]:
    """A process that is started here does not import the main program again.

    It would import torch with train.py: seconds and 300 MB for each worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """A process that is started here does not notice Ctrl-C while it imports; the thread that
    starts it does afterwards. Without effect on Windows, which has no such mask."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which unblocks it, where a process is the first of all
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
