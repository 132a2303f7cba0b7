"""A process that lists archives for another one: `python -m catdog.inputs.lister`, by `listers`."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from catdog.errors import CatdogError

if TYPE_CHECKING:
    from catdog.inputs.members import Archive


def _serve(control: socket.socket) -> None:
    """Lists archives, each for a connection that arrives, until the parent is gone."""
    while (told := socket.recv_fds(control, 1, 1))[0]:
        connection = Connection(told[1][0])
        threading.Thread(target=_list, args=(connection,), daemon=True).start()


def _list(connection: Connection) -> None:
    with connection, contextlib.suppress(EOFError, ConnectionError):  # nobody wants it any more
        archive: Archive = connection.recv()
        try:
            for rows in archive.rows():
                connection.send(rows)
            connection.send(archive.skips.counts())
        except ConnectionError:
            raise
        except Exception as error:
            connection.send(_sendable(error))


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - its own
    except Exception:
        return CatdogError(f"cannot list: {error!r}")
    return error


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    with contextlib.suppress(ConnectionError):
        _serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # without waiting for threads
