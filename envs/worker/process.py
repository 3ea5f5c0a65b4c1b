"""Environments of users, played in slots: in this process, or in workers that may die."""

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
        """What the module says of tasks; see `contents_of`."""
        assert isinstance(self._source, UserModule)
        return contents_of(self._source, horizon)

    def kind(self, task: Any) -> Kind:
        """What an environment is like, of one that is made for this."""
        env = make(self._make_env, opened(task))
        self._looked_at.append(env)  # closed later: a close that hangs has been answered before
        flat = FlatSpaces.of(env)
        return Kind(flat.observation, flat.action, physics_of(env) is not None)

    def scene(self, task: Any) -> Any:
        """The `Scene` that recordings of a task are drawn in."""
        return scene_of(self._make_env, opened(task))

    def reset(
        self, tasks: Sequence[Any], seeds: Sequence[int], recording: bool
    ) -> tuple[Shaped[np.ndarray, "N O"]]:
        """Starts a trial on each task, whose physics are written down or not."""
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
        """What was written down of the last whole episode of each slot."""
        players = [player for player in self._players if player is not None]
        return [player.episode for player in players if player.episode is not None]

    def close(self) -> None:
        """Closes the environments; one that failed may fail at that too."""
        players = [player.env for player in self._players if player is not None]
        for env in [*players, *self._looked_at]:
            with suppress(Exception, SystemExit):
                env.close()

    def failure(self, error: BaseException) -> Failure:
        """Where the last call failed, and why."""
        return Failure(slot=self._note[0], step=self._note[1], what=describe(error))

    def _write_down(self, slot: int) -> None:
        self._note[0], self._note[1] = self._first_slot + slot, self._steps


class Here:
    """Plays its slots in this process; asked and answering as a `Worker`."""

    def __init__(self, make_env: MakeEnv | UserModule, *, horizon: int, first_slot: int) -> None:
        self._share = Share(make_env, horizon=horizon, first_slot=first_slot, note=[first_slot, 0])

    def ask(self, name: str, *arguments: Any) -> None:
        """Says which method of the share to call next."""
        self._request = name, arguments

    def answer(self, patience: float) -> Any:
        """What the method returned, or the failure."""
        del patience
        name, arguments = self._request
        try:
            with _folder_of_its_own():
                return getattr(self._share, name)(*arguments)
        except KeyboardInterrupt:
            raise  # It is the user's.
        except BaseException as error:  # `sys.exit()` in an environment is a failure as any other.
            return self._share.failure(error)

    def dismiss(self) -> None:
        """Nothing: there is no process that could end by itself."""

    def close(self, patience: float = 0.0) -> None:
        """Closes the environments, however long that takes."""
        del patience
        with _folder_of_its_own():
            self._share.close()


@contextmanager
def _folder_of_its_own() -> Iterator[None]:
    """Code of the user works in the folder that it has changed to; the run stays in its own, where
    it is written."""
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
"""The folder of the user's code in this process, once it has changed it."""


# -- worker processes ------------------------------------------------------------------------------


class Worker:
    """Plays its slots in a process of its own, and outlives it to tell how it died.

    A worker ignores Ctrl-C, which is for the parent, and ends when the parent does. Processes that
    its environments started end with it.

    Args:
        serves: what answers in the process, made of the other arguments as a `Share` is.

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
        # Not "fork": copied threads and locks of torch or a simulator do not work in the copy.
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
            # A worker that loses its parent while it starts would say so in a traceback.
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
        """The process's number."""
        return self._process.pid

    def ask(self, name: str, *arguments: Any) -> None:
        """Sends which method of the share to call next.

        Raises:
            UserError: a task cannot be sent.
        """
        try:
            self._connection.send((name, arguments))
        except OSError:
            pass  # It is dead; `answer` tells.
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise UserError(
                f"a task cannot be sent to a worker process ({printable(error)}); make it of "
                "numbers, or set num_workers to 0"
            ) from None

    def answer(self, patience: float) -> Any:
        """What the method returned, or the failure.

        Args:
            patience: seconds that one slot may take.
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
        self._kill()  # or what it leaves behind
        if not died_by_itself:
            return self._failure("its worker process closed its connection, worker killed")
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

    def close(self, patience: float = CLOSE_SECONDS) -> None:
        """Ends the process, by force if it does not close its environments in time."""
        self.dismiss()
        wait([self._process.sentinel], patience)
        self._kill()
        self._process.join()
        self._process.close()

    def _kill(self) -> None:
        """Ends the process, if it has not ended yet, and all that its environments started."""
        pid = self._process.pid
        if hasattr(os, "waitid") and pid is not None:
            # Not where it was waited for already: then the number may be another's by now.
            with suppress(ChildProcessError, ProcessLookupError, PermissionError):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                os.killpg(pid, signal.SIGKILL)  # the group that it leads, see `serve`
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
    """What a worker does: answers until the other end of the connection is closed."""
    if hasattr(os, "setpgid"):  # a group of its own, in which all that it starts can be found
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # by now what was blocked is ignored
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
    except BaseException as error:  # It ends here whatever it is; nothing else ends a worker.
        failure = Failure(slot=note[0], step=note[1], what=describe(error))
        with suppress(OSError):
            connection.send(failure)
    finally:
        if share is not None:
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
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


def ask_once(
    make_env: MakeEnv | UserModule, name: str, *arguments: Any, apart: bool, patience: float
) -> Any:
    """What a share answers that is asked nothing else.

    Args:
        apart: ask it in a process of its own, rather than in this one.
        patience: seconds that it may take there.

    Raises:
        UserError: the user's code failed; says how.
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
