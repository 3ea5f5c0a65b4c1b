"""Serves the replay page while an agent plays: each time the browser asks, the next trial."""

from __future__ import annotations

import gzip
import itertools
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from metarl.errors import UserError
from metarl.playing import play
from metarl.protocols import Agent
from metarl.recording import Recording, Recordings
from metarl.replay.page import contents, replay_page
from metarl.scene import Scene
from metarl.seeding import derive_seed
from metarl.tasks import TaskSet
from metarl.types import TrialShape

NextTrial = Callable[[], tuple[Scene, Recording]]


def trial_after_trial(
    agent: Agent[Any],
    env: Any,
    tasks: TaskSet[Any],
    *,
    shape: TrialShape,
    seed: int,
    greedy: bool,
    prepare: Callable[[], object],
) -> NextTrial:
    """Plays a trial on the next task whenever it is called, round and round.

    Args:
        env: a `Recorder` with the slots of one task.
        prepare: is called before each trial.
    """
    turns = itertools.count()

    def next_trial() -> tuple[Scene, Recording]:
        turn = next(turns)
        prepare()
        number = turn % len(tasks)
        recordings = Recordings(1)
        play(
            agent, env, TaskSet([tasks[number]]), shape=shape,
            seed=derive_seed(seed, turn), greedy=greedy, recordings=recordings,
        )  # fmt: skip
        return env.scene(tasks[number]), replace(recordings.kept[0], task=number)

    return next_trial


class LiveServer(ThreadingHTTPServer):
    """A server that ends when a trial cannot be played."""

    failure: UserError | None = None

    def serve(self) -> None:
        """Serves until it is interrupted.

        Raises:
            UserError: what kept a trial from being played.
        """
        self.serve_forever(poll_interval=0.1)
        if self.failure is not None:
            raise self.failure


def live_server(next_trial: NextTrial, *, title: str, port: int) -> LiveServer:
    """A server on this machine's own address; port 0 takes a free one.

    Args:
        next_trial: plays a trial when it is called; one call at a time.

    Raises:
        UserError: the port is taken.
    """
    page = replay_page([], title=title, live=True).encode()
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/":
                self.answer(page, "text/html; charset=utf-8")
            elif self.path == "/next":
                self.play()
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def play(self) -> None:
            try:
                with one_at_a_time:
                    content = contents([next_trial()])
            except UserError as error:
                server.failure = error
                with suppress(ConnectionError):
                    self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
                server.shutdown()
                return
            # Who asked may have closed the page meanwhile.
            with suppress(ConnectionError):
                self.answer(json.dumps(content).encode(), "application/json")

        def answer(self, body: bytes, kind: str) -> None:
            packed = gzip.compress(body, 1)
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(packed)))
            self.end_headers()
            self.wfile.write(packed)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    try:
        server = LiveServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise UserError(
            f"cannot serve on port {port}: {error.strerror}; take another --port"
        ) from None
    return server
