"""Users' environments, played in slots in this process or in workers that may die."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from envs.worker.scenes import scene_of
from envs.worker.tasks import Contents, contents_of, opened
from metarl.errors import UserError, printable
from metarl.rollout.physics import physics_of
from metarl.rollout.player import FlatSpaces, Kind, MakeEnv, Player, make, takes_task
from metarl.system import stopping
from metarl.system.user_module import UserModule, describe

SIGNAL_SECONDS = 0.2
"""Longest delay (s) between a worker and its parent receiving a signal sent to both."""
CLOSE_SECONDS = 3.0
"""Time (s) that a worker has to close its environments before it is killed."""


# -- the slots of one worker -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failure in a slot. Step 0 is the reset at the start of the trial."""

    slot: int
    step: int
    what: str


class Share:
    """Some of the slots, stepped one after the other, with an environment each.

    Args:
        first_slot: number of the first of these slots.
        note: list or shared array that receives slot and step before each call of an environment,
            so that they are known even if the process dies.
    """

    def __init__(
        self,
        make_env: MakeEnv | UserModule,
        *,
        horizon: int,
        first_slot: int,
        note: MutableSequence[int],
    ) -> None:
        self._source = make_env
        self._horizon = horizon
        self._first_slot = first_slot
        self._note = note
        self._players: list[Player | None] = []
        self._looked_at: list[Any] = []

    @property
    def _make_env(self) -> MakeEnv:
        return callable_of(self._source)

    def contents(self, horizon: int | None) -> Contents:
        """Tasks and horizon of the module; see `contents_of`."""
        assert isinstance(self._source, UserModule)
        return contents_of(self._source, horizon)

    def kind(self, task: Any) -> Kind:
        """Spaces and other properties of an environment that is made for this call."""
        env = make(self._make_env, opened(task))
        self._looked_at.append(env)  # closed later, because a `close` that hangs would block this
        flat = FlatSpaces.of(env)
        return Kind(flat.observation, flat.action, physics_of(env) is not None)

    def scene(self, task: Any) -> Any:
        """The `Scene` of a task's recordings."""
        return scene_of(self._make_env, opened(task))

    def reset(
        self, tasks: Sequence[Any], seeds: Sequence[int], recording: bool
    ) -> tuple[Shaped[np.ndarray, "N O"]]:
        """Starts a trial on each task, with or without recording its physics."""
        self._steps = 0
        make_env = self._make_env
        from_task = takes_task(make_env)
        self._players = self._players or [None] * len(tasks)
        seen = []
        for slot, (sent, seed) in enumerate(zip(tasks, seeds, strict=True)):
            self._write_down(slot)
            task, player = opened(sent), self._players[slot]
            if player is None or from_task:
                if player is not None:
                    player.env.close()
                player = Player(make(make_env, task), horizon=self._horizon)
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
        """States recorded in the last whole episode of each slot."""
        players = [player for player in self._players if player is not None]
        return [player.episode for player in players if player.episode is not None]

    def close(self) -> None:
        """Closes the environments; ignores errors, as one that failed may fail again."""
        players = [player.env for player in self._players if player is not None]
        for env in [*players, *self._looked_at]:
            with suppress(Exception, SystemExit):
                env.close()

    def failure(self, error: BaseException) -> Failure:
        """Slot, step and reason of the last call's failure."""
        return Failure(slot=self._note[0], step=self._note[1], what=describe(error))

    def _write_down(self, slot: int) -> None:
        self._note[0], self._note[1] = self._first_slot + slot, self._steps


class Here:
    """Player of slots in this process, with the interface of `Worker`."""

    def __init__(self, make_env: MakeEnv | UserModule, *, horizon: int, first_slot: int) -> None:
        self._share = Share(make_env, horizon=horizon, first_slot=first_slot, note=[first_slot, 0])

    def ask(self, name: str, *arguments: Any) -> None:
        """Requests a call of a method of the share."""
        self._request = name, arguments

    def answer(self, patience: float) -> Any:
        """Result of the requested call, or the failure."""
        del patience
        name, arguments = self._request
        try:
            with _folder_of_its_own():
                return getattr(self._share, name)(*arguments)
        except KeyboardInterrupt:
            raise  # from the user, not the environment
        except BaseException as error:  # `sys.exit()` in an environment is a failure too.
            return self._share.failure(error)

    def dismiss(self) -> None:
        """Does nothing, because there is no process to end."""

    def close(self, patience: float = 0.0) -> None:
        """Closes the environments, without a time limit."""
        del patience
        with _folder_of_its_own():
            self._share.close()


@contextmanager
def _folder_of_its_own() -> Iterator[None]:
    """Runs the user's code in the working folder that it has changed to; the run keeps its own, to
    which it writes."""
    ours = os.getcwd()
    if _theirs:
        os.chdir(_theirs[0])
    try:
        yield
    finally:
        if (theirs := os.getcwd()) != ours or _theirs:
            _theirs[:] = [theirs]
            os.chdir(ours)


_theirs: list[str] = []
"""Working folder of the user's code in this process, once that has changed it."""


# -- worker processes ------------------------------------------------------------------------------


class Worker:
    """Player of slots in a separate process, which reports how that process died.

    A worker ignores Ctrl-C, which is for the parent, and ends when the parent does. Processes that
    its environments started end with it.

    Args:
        serves: class whose methods answer in the process; it takes the arguments of `Share`.

    Raises:
        UserError: `make_env` cannot be sent to a process.
    """

    def __init__(
        self,
        make_env: MakeEnv | UserModule,
        *,
        horizon: int,
        first_slot: int,
        serves: Callable[..., Any] = Share,
    ) -> None:
        # Not "fork": threads and locks of torch or a simulator do not work in a forked process.
        context = multiprocessing.get_context("spawn")
        self._note = context.RawArray("q", [first_slot, 0])
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve,
            args=(theirs, self._note, make_env, horizon, first_slot, serves),
            daemon=True,
        )
        try:
            without_main = _no_main_program() if isinstance(make_env, UserModule) else nullcontext()
            # A worker that loses its parent while it starts would print a traceback.
            with stopping.deferred(), without_main, _ctrl_c_blocked():
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
        """Id of the process."""
        return self._process.pid

    def ask(self, name: str, *arguments: Any) -> None:
        """Sends a request to call a method of the share.

        Raises:
            UserError: a task cannot be sent.
        """
        try:
            self._connection.send((name, arguments))
        except OSError:
            pass  # The process is dead; `answer` reports it.
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise UserError(
                f"a task cannot be sent to a worker process ({printable(error)}); make it of "
                "numbers, or set num_workers to 0"
            ) from None

    def answer(self, patience: float) -> Any:
        """Result of the requested call, or the failure.

        Args:
            patience: time limit for one slot (s).
        """
        seen = self._where()
        while not (ready := wait([self._connection, self._process.sentinel], patience)):
            if self._where() == seen:
                self._kill()
                return self._failure(f"no answer for {patience:g} s, worker killed")
            seen = self._where()
        if self._connection in ready:
            with suppress(EOFError, OSError):
                return self._connection.recv()
        died_by_itself = wait([self._process.sentinel], CLOSE_SECONDS)
        self._kill()  # also the processes that it leaves behind
        if not died_by_itself:
            return self._failure("its worker process closed its connection, worker killed")
        self._process.join(CLOSE_SECONDS)
        code = self._process.exitcode
        if code is not None and -code in stopping.SIGNALS:
            # The signal may have gone to the whole group, and be about to stop this process too.
            time.sleep(SIGNAL_SECONDS)
            stopping.check()
        died = f"was killed by {_signal_name(-code)}" if code and code < 0 else ""
        return self._failure(f"its worker process {died or f'ended with exit code {code}'}")

    def dismiss(self) -> None:
        """Tells the process to close its environments and end, without waiting."""
        with suppress(OSError):
            self._connection.close()

    def close(self, patience: float = CLOSE_SECONDS) -> None:
        """Ends the process; kills it if it does not close its environments in time."""
        self.dismiss()
        wait([self._process.sentinel], patience)
        self._kill()
        self._process.join()
        self._process.close()

    def _kill(self) -> None:
        """Kills the process, if it is still running, and all processes of its environments."""
        pid = self._process.pid
        if hasattr(os, "waitid") and pid is not None:
            # Only if it was not waited for: afterwards its id may belong to another process.
            with suppress(ChildProcessError, ProcessLookupError, PermissionError):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                os.killpg(pid, signal.SIGKILL)  # the group that it leads; see `serve`
        self._process.kill()

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
    serves: Callable[..., Any],
) -> None:
    """Body of a worker process: answers requests until the parent closes the connection."""
    if hasattr(os, "setpgid"):  # a separate group, so that all it starts can be killed
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # the signal blocked so far is now ignored
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    share = None
    try:
        share = serves(make_env, horizon=horizon, first_slot=first_slot, note=note)
        while True:
            try:
                name, arguments = connection.recv()
            except (EOFError, OSError):
                break
            connection.send(getattr(share, name)(*arguments))
    except BaseException as error:  # Any exception ends the worker here, after it is reported.
        failure = Failure(slot=note[0], step=note[1], what=describe(error))
        with suppress(OSError):
            connection.send(failure)
    finally:
        if share is not None:
            share.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no name
        return f"signal {number}"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


def ask_once(
    make_env: MakeEnv | UserModule, name: str, *arguments: Any, apart: bool, patience: float
) -> Any:
    """Result of a single call of a share, which is made for it.

    Args:
        apart: make the call in a separate process instead of this one.
        patience: time limit of the call in that process (s).

    Raises:
        UserError: the user's code failed; the message gives the reason.
    """
    asked = (Worker if apart else Here)(make_env, horizon=1, first_slot=0)
    try:
        asked.ask(name, *arguments)
        answer = asked.answer(patience)
    finally:
        asked.close()
    if isinstance(answer, Failure):
        raise UserError(answer.what)
    return answer


def callable_of(make_env: MakeEnv | UserModule) -> MakeEnv:
    """The function that makes an environment."""
    return make_env.loaded.make_env if isinstance(make_env, UserModule) else make_env


@contextmanager
def _no_main_program() -> Iterator[None]:
    """Keeps processes that are started within it from importing the main program again.

    With train.py they would import torch, at a cost of seconds and 300 MB for each worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Keeps processes that are started within it from receiving Ctrl-C while they import; this
    thread receives it afterwards. No effect on Windows, which has no such mask."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it would unblock the signal if started with the process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
