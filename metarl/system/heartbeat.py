"""Heartbeats of ranks, by which one that is frozen, hangs or cannot be reached is found.

Several times in `seconds` each rank writes into a store that all can read: the number of its beats,
how far it is, and whether it waits for the others. The first rank watches all others, and the
others watch the first. Only the standard library is needed here.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from metarl.errors import say

BEATS = 12
"""Number of heartbeats in the time after which a rank counts as lost."""
EXIT_CODE = 1


@runtime_checkable
class Store(Protocol):
    """What is needed of a `torch.distributed.Store`."""

    def set(self, key: str, value: str, /) -> None:
        """Stores a value."""
        ...

    def get(self, key: str, /) -> bytes:
        """The value of a key, waiting for it if need be."""
        ...

    def add(self, key: str, amount: int, /) -> int:
        """Adds to a number; returns the sum."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """True if all keys have values."""
        ...


@dataclass(frozen=True)
class Beat:
    """What a rank tells about itself."""

    beats: int
    progress: int
    """Steps and sums so far; it stands still in a rank that hangs, and in one that waits. 0 at the
    beginning, when compiling may take minutes."""
    waiting: bool
    """True while the rank waits for the others."""
    who: str

    def written(self) -> str:
        """The beat as text."""
        return f"{self.beats} {self.progress} {int(self.waiting)} {self.who}"

    @staticmethod
    def read(text: bytes) -> Beat:
        """The inverse of `written`."""
        beats, progress, waiting, who = text.decode().split(" ", 3)
        return Beat(int(beats), int(progress), waiting == "1", who)


class Watch:
    """Finds ranks that are lost, from the beats that they told.

    A rank is lost if it told no new beat for half of `seconds`, or if its progress stood still for
    `seconds` while it did not wait; so it is if all wait, as then they wait for different things.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._beats: dict[int, tuple[Beat, float, float]] = {}

    def lost(self, beats: dict[int, Beat], *, now: float, all_there: bool) -> str | None:
        """The first rank that is lost, and why; None if all are well.

        Args:
            beats: the newest beat of each rank.
            now: time in seconds.
            all_there: `beats` has all ranks.
        """
        for rank, beat in beats.items():
            old, told, moved = self._beats.get(rank, (beat, now, now))
            told = told if old.beats == beat.beats else now
            moved = moved if (old.progress, old.waiting) == (beat.progress, beat.waiting) else now
            self._beats[rank] = (beat, told, moved)
        stuck = all_there and all(beat.waiting for beat in beats.values())
        for beat, told, moved in self._beats.values():
            if now - told > self._seconds / 2:
                return f"{beat.who} was not heard of for {self._seconds / 2:.0f} s"
            still = beat.progress > 0 and now - moved > self._seconds
            if still and (stuck or not beat.waiting):
                return f"{beat.who} did not go on for {self._seconds:.0f} s"
        return None


class Heartbeat:
    """The thread that writes this rank's beats and watches the others'.

    Args:
        store: where beats are written; used by this thread alone.
        rank: number of this rank.
        size: number of ranks.
        seconds: time after which a rank counts as lost.
        who: name of this rank in messages.
        state: how far this rank is, and whether it waits for the others.
        program: begins the message.
    """

    def __init__(
        self,
        store: Store,
        *,
        rank: int,
        size: int,
        seconds: float,
        who: str,
        state: Callable[[], tuple[int, bool]],
        program: str,
    ) -> None:
        self._store, self._rank, self._state = store, rank, state
        self._who, self._program = who, program
        self._every = seconds / BEATS
        self._watched = range(size) if rank == 0 else range(1)
        self._size = size
        self._watch = Watch(seconds)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        beats = 0
        while not self._ended.wait(self._every if beats else 0):
            beats += 1
            try:
                progress, waiting = self._state()
                told = Beat(beats, progress, waiting, self._who)
                self._store.set(str(self._rank), told.written())
                heard = {
                    rank: Beat.read(self._store.get(str(rank)))
                    for rank in self._watched
                    if self._store.check([str(rank)])
                }
            except Exception as error:  # the store is gone, and with it the first machine
                if not self._ended.is_set():
                    self._end(f"{self._who}: the other ranks cannot be reached ({error})")
                return
            found = self._watch.lost(
                heard, now=time.monotonic(), all_there=len(heard) == self._size
            )
            if found is not None:
                self._end(found)

    def _end(self, why: str) -> None:
        """Ends this process; torchrun then ends the others."""
        if may_tell(self._store):
            say(f"{self._program}: {why}; all ranks end")
        os._exit(EXIT_CODE)


def may_tell(store: Store) -> bool:
    """True for the first rank that wants to tell why all end."""
    try:
        return store.add("told", 1) == 1
    except Exception:  # the machine that has the store is gone
        return True
