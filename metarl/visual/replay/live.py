"""Live replay: a local server that plays the next trial whenever the browser asks for one."""

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
"""Most connections held at a time; a browser uses six."""
ASK_SECONDS = 10.0
"""Time limit for a complete request to arrive (s)."""
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
    """Function that plays a trial on the next task whenever it is called, cycling through all
    tasks.

    Args:
        env: a `Recorder` with the slots of one task.
        prepare: called before each trial.
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
    """Server for the browsers of this machine; it ends when a trial cannot be played.

    A web page opened on this machine could reach the server too, through a domain name that points
    here. So only requests that name this machine and come from no other page are answered. The
    number of connections is limited, and connections without a request are ended soon.
    """

    failure: UserError | None = None
    request_queue_size = 128  # connections that may arrive at the same moment

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self._asking: dict[socket.socket, float] = {}  # start time of those without a request yet
        self._held: set[socket.socket] = set()
        self._lock = threading.Lock()

    def serve(self) -> None:
        """Serves until interrupted.

        Raises:
            UserError: a trial could not be played.
        """
        self.serve_forever(poll_interval=0.1)
        if self.failure is not None:
            raise self.failure

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Accepts a connection.

        If there are too many, it replaces the one that has been silent for longest; it is refused
        if all of them are being answered.
        """
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
        """Notes that a complete request has arrived on this connection."""
        with self._lock:
            self._asking.pop(request, None)

    def service_actions(self) -> None:
        """Ends connections without a request in time; called ten times a second."""
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
        """Ignores broken connections; reports other errors."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def _end(self, request: socket.socket) -> None:
        """Wakes the thread that waits on this connection, which then closes it."""
        self._asking.pop(request, None)
        self._held.discard(request)
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)


def refusal(headers: Message, *, plays: bool) -> str | None:
    """Reason to refuse a request with these headers; None if it is answered.

    The port may differ from the server's, as it may be forwarded from another machine.

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
    """A server on the loopback address; port 0 chooses a free one.

    Args:
        next_trial: plays a trial when it is called; one call at a time.

    Raises:
        UserError: the port is taken.
    """
    page = replay_page([], title=title, live=True).encode()
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = ASK_SECONDS  # for each wait for a byte, and for sending an answer

        def parse_request(self) -> bool:
            whole = super().parse_request()
            server.asked(self.connection)  # also for an invalid request, which is answered too
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
            # The page may have been closed in the meantime.
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
