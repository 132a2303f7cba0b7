"""A process that lists archives for another one: `python -m catdog.inputs.lister`, by `listers`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from catdog.errors import CatdogError

if TYPE_CHECKING:
    from catdog.inputs.members import Archive


def _serve(control: socket.socket) -> None:
    """Lists archives, each for a connection that arrives, until the parent is gone."""
    while (told := socket.recv_fds(control, 1, 1))[0]:
        connection = Connection(told[1][0])
        threading.Thread(target=_list, args=(connection,), daemon=True).start()


def _list(connection: Connection) -> None:
    with connection, contextlib.suppress(EOFError, ConnectionError):  # nobody needs it any more
        archive: Archive = connection.recv()
        told: dict[str, Any]
        try:
            for rows in archive.rows():
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, rows.schema) as writer:
                    writer.write_batch(rows)
                connection.send_bytes(sink.getvalue())
            told = {"skips": archive.skips.counts()}
        except ConnectionError:
            raise
        except Exception as error:
            text = str(error) if isinstance(error, CatdogError) else f"cannot list: {error!r}"
            told = {"error": type(error).__name__, "text": text}
        connection.send_bytes(json.dumps(told).encode())


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    with contextlib.suppress(ConnectionError):
        _serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # without waiting for threads
