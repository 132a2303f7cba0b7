"""Work that runs ahead of its consumer in a thread, and ends with it."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

T = TypeVar("T")


class NothingYet:
    """Comes in place of a late item, so that the consumer can do something else."""


NOTHING_YET: Final = NothingYet()


class _End(NamedTuple):
    error: BaseException | None


@contextmanager
def read_ahead(
    items: Iterable[T],
    most: int,
    *,
    name: str = "catdog-ahead",
    every_s: float | None = None,
    patience_s: float | None = None,
) -> Iterator[Generator[T | NothingYet, None, None]]:
    """Read `items` in a thread, which starts at once and has ended after the block.

    An exception of the items is raised in their place. If the block ends first, the items are closed.

    Args:
        items: read by the thread only.
        most: largest number of items that wait for the consumer.
        name: of the thread.
        every_s: seconds without an item after which `NOTHING_YET` comes; None waits for ever.
        patience_s: seconds that the end of the block waits for an item in the making. Only for
            calls that nothing can interrupt, such as a Ray job, which ends when Ray is shut down.
    """
    ready: deque[Any] = deque()
    changed = threading.Condition()
    stopped = False

    def fill() -> None:
        end = _End(None)
        try:
            with ExitStack() as stack:
                stack.callback(getattr(items, "close", lambda: None))
                for item in items:
                    with changed:
                        ready.append(item)
                        changed.notify_all()
                        changed.wait_for(lambda: stopped or len(ready) < most)
                        if stopped:
                            return
        except BaseException as error:
            end = _End(error)
        finally:
            with changed:
                ready.append(end)
                changed.notify_all()

    def given() -> Generator[T | NothingYet, None, None]:
        while True:
            with changed:
                item = ready.popleft() if changed.wait_for(lambda: ready, every_s) else NOTHING_YET
                changed.notify_all()
            if not isinstance(item, _End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                return

    thread = threading.Thread(target=fill, name=name, daemon=True)
    thread.start()
    try:
        yield given()
    finally:
        with changed:
            stopped = True
            changed.notify_all()
        thread.join(patience_s)
