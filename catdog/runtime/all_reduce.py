"""Sums over the training workers of one node, through shared memory.

TensorFlow's collective for CPUs uses gRPC even between two processes of one machine: 42 ms for the
gradient of `article` (13.8 MB), and 2.5 ms for the statistics of one batch normalisation (measured;
docs/decisions/010). The sums themselves take a few milliseconds and a tenth of one. Over several nodes,
and on GPUs, TensorFlow's collectives are used.

One step: every worker writes its numbers into its slot; all wait for each other; every worker sums
its share of the slots; all wait again; every worker reads the whole sum. Each share is summed in the
order of the workers by one of them, so all get the same bits.
"""

from __future__ import annotations

import os
import socket
from mmap import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog import scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_BYTE = b"."
_LONGEST_PATH = 107  # bytes of a socket's path
_ALIGNED = 16  # numbers: TensorFlow takes arrays that begin at a multiple of 64 bytes as they lie


def possible() -> bool:
    """Whether this system can do it (Linux)."""
    return hasattr(os, "memfd_create")


def rounded_up(size: int) -> int:
    """The size of an array with the gap behind it, in numbers."""
    return -(-size // _ALIGNED) * _ALIGNED


class SharedMemoryAllReduce:
    """Sums float32 arrays over workers that are processes of one node.

    Every worker makes one and calls `sum` equally often with arrays of the same shapes. Worker 0
    opens a socket that the others connect to. It first carries the memory's descriptor, then one byte
    whenever workers wait for each other, so the death of a worker is noticed at once.

    Args:
        worker: number of this worker, from 0.
        workers: number of workers.
        capacity: the most numbers that one `sum` takes, with each array rounded up to `_ALIGNED`.
        broadcast: a function that returns to every worker what worker 0 passes; each calls it once.
        timeout_s: the longest time that a worker waits for another one.

    Raises:
        OSError: the other workers cannot be reached.
    """

    def __init__(
        self,
        worker: int,
        workers: int,
        capacity: int,
        broadcast: Callable[[Any], Any],
        timeout_s: float,
    ) -> None:
        self._worker = worker
        self._timeout_s = timeout_s
        if worker == 0:
            descriptor = os.memfd_create("catdog-all-reduce")
            os.ftruncate(descriptor, 4 * capacity * (workers + 1))
            self._peers = self._admit(workers - 1, descriptor, broadcast)
        else:
            peer, descriptor = self._join(broadcast)
            self._peers = [peer]
        memory = mmap(descriptor, 0)
        os.close(descriptor)
        numbers = np.frombuffer(memory, np.float32).reshape(workers + 1, capacity)
        self._slots, self._total = numbers[:workers], numbers[workers]

    def close(self) -> None:
        """End the connections: the others notice at their next `sum`."""
        for peer in self._peers:
            peer.close()

    def _admit(
        self, count: int, descriptor: int, broadcast: Callable[[Any], Any]
    ) -> list[socket.socket]:
        # In a private folder of this user: no other user's process can connect.
        with (
            scratch.private_folder(longest=_LONGEST_PATH - len("/all-reduce")) as folder,
            socket.socket(socket.AF_UNIX) as listener,
        ):
            path = str(folder / "all-reduce")
            listener.bind(path)
            listener.listen(count)
            listener.settimeout(self._timeout_s)
            broadcast(path)
            peers = []
            for _ in range(count):
                peer, _ = listener.accept()
                peer.settimeout(self._timeout_s)
                socket.send_fds(peer, [_BYTE], [descriptor])
                peers.append(peer)
            return peers

    def _join(self, broadcast: Callable[[Any], Any]) -> tuple[socket.socket, int]:
        path = broadcast(None)
        root = socket.socket(socket.AF_UNIX)
        root.settimeout(self._timeout_s)
        root.connect(path)
        _, (descriptor, *_), _, _ = socket.recv_fds(root, 1, 1)
        return root, descriptor

    def sum(self, arrays: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Sum each array over the workers; the results lie in shared memory until the next `sum`.

        Raises:
            OSError: another worker ended, or did not come within the time.
        """
        places, count = [], 0
        for array in arrays:
            places.append(slice(count, count + array.size))
            count += rounded_up(array.size)
        if count > self._total.size:
            raise ValueError(f"{count} numbers are more than the capacity, {self._total.size}")
        for place, array in zip(places, arrays, strict=True):
            self._slots[self._worker, place] = array.ravel()
        self._wait_for_all()
        shares = np.linspace(0, count, len(self._slots) + 1).astype(int)
        share = slice(*shares[self._worker : self._worker + 2])
        np.sum(self._slots[:, share], axis=0, out=self._total[share])
        self._wait_for_all()
        return [
            self._total[place].reshape(array.shape)
            for place, array in zip(places, arrays, strict=True)
        ]

    def _wait_for_all(self) -> None:
        """Worker 0 hears from every other one, then tells all to go on."""
        try:
            if self._worker == 0:
                for peer in self._peers:
                    self._hear(peer)
                for peer in self._peers:
                    peer.sendall(_BYTE)
            else:
                self._peers[0].sendall(_BYTE)
                self._hear(self._peers[0])
        except TimeoutError as error:
            raise TimeoutError(
                f"another training worker made no progress for {self._timeout_s:g} s"
            ) from error

    def _hear(self, peer: socket.socket) -> None:
        if not peer.recv(1):
            raise ConnectionResetError("another training worker ended")
