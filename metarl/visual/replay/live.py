"""Serves the replay page while an agent plays: each time the browser asks, the next trial."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from metarl.errors import UserError
from metarl.protocols import Agent
from metarl.rollout.recording import Recording, Recordings
from metarl.rollout.scene import Scene
from metarl.rollout.task_set import play
from metarl.system.seeding import derive_seed
from metarl.tasks import TaskSet
from metarl.types import TrialShape
from metarl.visual.replay.page import contents, replay_page

MAX_CONNECTIONS = 32
"""Held at a time; a browser takes six."""
ASK_SECONDS = 10.0
"""A request that has not arrived whole by then does not arrive."""
THIS_MACHINE = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)

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
    """A server for the browsers of this machine, which ends when a trial cannot be played.

    A page of the web that was opened on this machine can reach it too, under a name of its own that
    points here. So requests are answered that name this machine and come from no other page. Only
    so many connections are held at a time, and none for long that does not ask for anything.
    """

    failure: UserError | None = None
    request_queue_size = 128  # that come at the same moment

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self._asking: dict[socket.socket, float] = {}  # since when, those that have not asked yet
        self._held: set[socket.socket] = set()
        self._lock = threading.Lock()

    def serve(self) -> None:
        """Serves until it is interrupted.

        Raises:
            UserError: what kept a trial from being played.
        """
        self.serve_forever(poll_interval=0.1)
        if self.failure is not None:
            raise self.failure

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Takes a connection, in place of the one that has been silent for longest if there are too
        many; none where all of them are being answered."""
        del client_address
        with self._lock:
            if len(self._held) >= MAX_CONNECTIONS:
                if not self._asking:
                    return False
                self._end(next(iter(self._asking)))
            self._held.add(request)
            self._asking[request] = time.monotonic()
        return True

    def asked(self, request: Any) -> None:
        """A request has arrived whole on this connection."""
        with self._lock:
            self._asking.pop(request, None)

    def service_actions(self) -> None:
        """Ends connections on which no request has arrived in time; called ten times a second."""
        with self._lock:
            late = time.monotonic() - ASK_SECONDS
            for request in [r for r, since in self._asking.items() if since < late]:
                self._end(request)

    def shutdown_request(self, request: Any) -> None:
        """Forgets a connection and closes it."""
        with self._lock:
            self._asking.pop(request, None)
            self._held.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing where only the connection broke."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def _end(self, request: socket.socket) -> None:
        """Wakes the thread that waits for this connection; it then closes it."""
        self._asking.pop(request, None)
        self._held.discard(request)
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)


def refusal(headers: Message, *, plays: bool) -> str | None:
    """Why a request is not answered that has these headers; None where it is.

    Another port than the server's is fine, as it may be forwarded from another machine.

    Args:
        plays: whether the answer costs a trial.
    """
    hosts = headers.get_all("Host", [])
    if len(hosts) != 1 or not THIS_MACHINE.fullmatch(hosts[0].strip()):
        return "this page is for browsers on this machine: http://127.0.0.1, with the port"
    origins = headers.get_all("Origin", [])
    if any(origin.strip().lower() != f"http://{hosts[0].strip().lower()}" for origin in origins):
        return "this page answers no other page"
    site = headers.get("Sec-Fetch-Site", "same-origin")
    if plays and site not in ("same-origin", "none"):
        return "this page answers no other page"
    return None


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
        timeout = ASK_SECONDS  # of each wait for a byte, and of sending an answer

        def parse_request(self) -> bool:
            whole = super().parse_request()
            server.asked(self.connection)  # or it was no request, which is answered too
            return whole

        def do_GET(self) -> None:
            if reason := refusal(self.headers, plays=self.path == "/next"):
                self.send_error(HTTPStatus.FORBIDDEN, reason)
            elif self.path == "/":
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
        server = LiveServer(port, Handler)
    except OSError as error:
        raise UserError(
            f"cannot serve on port {port}: {error.strerror}; take another --port"
        ) from None
    return server
