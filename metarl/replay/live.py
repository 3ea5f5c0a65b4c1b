"""Serves the replay page while an agent plays: each time the browser asks, the next trial."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from metarl.errors import UserError
from metarl.recording import Recording
from metarl.replay.page import contents, replay_page
from metarl.scene import Scene

NextTrial = Callable[[], tuple[Scene, Recording]]


def live_server(next_trial: NextTrial, *, title: str, port: int) -> ThreadingHTTPServer:
    """A server on this machine's own address, for `serve_forever`; port 0 takes a free one.

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
                with one_at_a_time:
                    content = contents([next_trial()])
                self.answer(json.dumps(content).encode(), "application/json")
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

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
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise UserError(
            f"cannot serve on port {port}: {error.strerror}; take another --port"
        ) from None
