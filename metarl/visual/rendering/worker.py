"""Worker process of an `OffscreenRenderer`, which draws states of scenes."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection

import numpy as np
from jaxtyping import Float64

from metarl.visual.rendering.artist import Artist, Stage


def serve(connection: Connection) -> None:
    """Sends a greeting, then takes stages and states until the other end is closed.

    Answers each state with a picture. After a failure it sends a message and ends.
    """
    artist = None
    try:
        connection.send(None)
        while True:
            request: Stage | Float64[np.ndarray, " R"] = connection.recv()
            if isinstance(request, Stage):
                if artist is not None:
                    artist.close()
                artist = Artist(request)
            else:
                assert artist is not None, "no stage"
                connection.send(artist.draw(request))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone
    except Exception as error:
        with suppress(OSError):
            connection.send(f"{type(error).__name__}: {error}")
    finally:
        if artist is not None:
            artist.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    serve(Connection(int(sys.argv[1])))
