"""A run's folder belongs to one `catdog train` at a time.

`config.json` is the claim. It is created, never read and then written: if two commands start in one
new folder, one wins. It stays, so that the same command can continue the run after whatever ended it,
and another command is refused. The command at work holds a lock on that file; in a store without
locks, it changes a file every few seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog import storage
from catdog.errors import CatdogError, UserInputError
from catdog.model import architectures, folders
from catdog.training import records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catdog.training.config import TrainConfig

CONFIG_FILE = "config.json"
ORDER_FILE = "order.json"
CHECKPOINTS_FOLDER = "checkpoints"
_OWNER_FILE = "owner.json"
_MAX_CONFIG_BYTES = 2**20
_BEAT_S = 10.0
_SILENCE_S = 30.0  # three beats: a command that is silent for so long has ended
# Fields that came after the first release, with what their absence in a record means.
_LATER_FIELDS = {"split_by_folder": "auto", "labels": None, "teacher": None, "multi_label": False}
# Fields that name places, each of which has many names.
_PLACES = {"images", "labels", "teacher", "weights"}


class Claim:
    """The folder while this process has it.

    Attributes:
        finished: whether its run is complete: there is nothing to do.
    """

    def __init__(self, *, finished: bool) -> None:
        self.finished = finished
        self.lost = threading.Event()

    def check(self) -> None:
        """Notice that another command has taken over the folder.

        Raises:
            CatdogError: it has; nothing more may be written.
        """
        if self.lost.is_set():
            raise CatdogError("another `catdog train` has taken over the output folder")


@contextlib.contextmanager
def claimed(config: TrainConfig, output: str, versions: dict[str, str]) -> Iterator[Claim]:
    """Claim the run's folder for this process within the block.

    A claim that this call made is removed again if nothing else was written.

    Raises:
        UserInputError: the folder holds another run, or something else, or a command at work.
    """
    config_uri = storage.join(output, CONFIG_FILE)
    restarted = config.restart and storage.exists(config_uri)
    if restarted:
        _discard(config, output)
    folder_was_there = storage.is_local(output) and Path(storage.local_path(output)).exists()
    record = {"recipe": config.recipe(), "versions": versions, "claim": secrets.token_hex(8)}
    made = False
    if not storage.exists(config_uri):
        if _others(output) and not restarted:
            raise UserInputError(
                f"--output {config.output}: the folder is not empty; name another one"
            )
        made = storage.write_new(config_uri, (json.dumps(record, indent=2) + "\n").encode())
    if not made:
        _refuse_another(config, output)
        if is_finished(output):
            yield Claim(finished=True)
            return
    with _owned(config, output) as claim:
        # The previous holder may have failed and removed its claim, or started over.
        _refuse_another(config, output)
        try:
            yield claim
        except BaseException:
            if made and not _others(output):
                storage.delete(config_uri)
            raise
        finally:
            if made and storage.is_local(output) and not folder_was_there:
                with contextlib.suppress(OSError):  # it holds something, as a rule
                    Path(storage.local_path(output)).rmdir()


def refuse_other_stores(output: str) -> None:
    """Raise UserInputError if the place is not local or S3: Ray Train writes checkpoints to no others."""
    if not storage.to_uri(output).startswith(("file://", "s3://")):
        raise UserInputError(
            f"--output {output}: a training run writes to a local folder or to s3://"
        )


def recorded_architecture(config: TrainConfig, output: str) -> str | None:
    """The architecture of the run in this folder, if there is one to continue."""
    uri = storage.join(output, CONFIG_FILE)
    if config.restart or not storage.exists(uri):
        return None
    return str(_recorded(config, uri)["architecture"])


def is_finished(output: str) -> bool:
    """Whether the run in this folder has its model."""
    return storage.exists(storage.join(output, folders.RUN_SUBFOLDER, folders.METADATA_FILE))


def _others(output: str) -> list[str]:
    """The other content of the folder."""
    names = (name.rstrip("/") for name in storage.list_names(output))
    ours = (CONFIG_FILE, _OWNER_FILE)
    return [name for name in names if name not in ours and not name.endswith(".unfinished")]


def _recorded(config: TrainConfig, config_uri: str) -> dict[str, Any]:
    """Everything that decides the result of the run in the folder."""
    try:
        recorded: dict[str, Any] = json.loads(storage.read_bytes(config_uri, _MAX_CONFIG_BYTES))[
            "recipe"
        ]
        recorded["architecture"] = architectures.current_name(recorded["architecture"])
    except FileNotFoundError as error:
        raise _given_up(config) from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserInputError(
            f"--output {config.output}: its {CONFIG_FILE} does not belong to a run; name another folder"
        ) from error
    return recorded


def _given_up(config: TrainConfig) -> CatdogError:
    return CatdogError(
        f"--output {config.output}: another command in this folder has just given up; "
        "run this one again"
    )


def _refuse_another(config: TrainConfig, output: str) -> None:
    """Raise UserInputError if the run in the folder has another recipe."""
    recorded = _LATER_FIELDS | _recorded(config, storage.join(output, CONFIG_FILE))
    current: dict[str, Any] = json.loads(json.dumps(config.recipe()))
    changed = sorted(
        name
        for name in current | recorded
        if not _alike(name, recorded.get(name), current.get(name))
    )
    if not changed:
        return
    flags = ", ".join(
        f"{_flag(name)} was {_shown(recorded.get(name))}, is {_shown(current.get(name))}"
        for name in changed
    )
    holds, remedy = "another run", "add --restart to delete it and start over"
    if is_finished(output):
        holds = "another run, which is finished"
        remedy = f"add --restart --discard {config.output} to delete its model and start over"
    raise UserInputError(
        f"--output {config.output}: holds {holds}: {flags}; name another folder, or {remedy}"
    )


def _alike(name: str, before: Any, now: Any) -> bool:
    """Whether two values of a field mean the same."""
    return before == now or (name in _PLACES and _located(before) == _located(now))


def _located(named: Any) -> Any:
    """The URI of a named place, or of each; names of other things stay."""
    if isinstance(named, list):
        return [_located(each) for each in named]
    try:
        return named and storage.to_uri(named).rstrip("/")
    except ValueError:
        return named


def _flag(field: str) -> str:
    return "IMAGES" if field == "images" else f"--{field.replace('_', '-')}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "not given" if value is None else str(value)


def _discard(config: TrainConfig, output: str) -> None:
    """Delete everything that the run in this folder has written, its claim last.

    Raises:
        UserInputError: it is finished, and its folder was not named again; or it is at work.
    """
    named_again = _located(config.discard) == _located(config.output)
    if is_finished(output) and not named_again:
        raise UserInputError(
            f"--restart: {config.output} holds a finished model; to delete it, name the folder "
            f"again: --restart --discard {config.output}"
        )
    written = [
        storage.join(
            folders.RUN_SUBFOLDER, folders.METADATA_FILE
        ),  # first: from now on it is not a model
        folders.RUN_SUBFOLDER,
        CHECKPOINTS_FOLDER,
        storage.join(*records.TENSORBOARD_FILE.split("/")[:1]),
        *(records.METRICS_FILE, records.CURVES_FILE, records.REJECTED_FILE, ORDER_FILE),
    ]
    with _owned(config, output):
        for name in written:
            filesystem, path = storage.filesystem(storage.join(output, name))
            if filesystem.exists(path):
                filesystem.rm(path, recursive=True)
        storage.delete(storage.join(output, CONFIG_FILE))


@contextlib.contextmanager
def _owned(config: TrainConfig, output: str) -> Iterator[Claim]:
    at_work = f"--output {config.output}: another `catdog train` is at work in it"
    if not storage.is_local(output):
        with _beating(storage.join(output, _OWNER_FILE), at_work) as claim:
            yield claim
        return
    path = storage.local_path(storage.join(output, CONFIG_FILE))
    with contextlib.ExitStack() as end:
        try:
            descriptor = os.open(path, os.O_RDWR)  # NFS locks what may be written
            end.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it ends with the process
            # A run that starts over has another file of this name.
            same = os.fstat(descriptor).st_ino == Path(path).stat().st_ino
        except FileNotFoundError as error:
            raise _given_up(config) from error
        except BlockingIOError as error:
            raise UserInputError(at_work) from error
        if not same:
            raise UserInputError(at_work)
        yield Claim(finished=False)


@contextlib.contextmanager
def _beating(uri: str, at_work: str) -> Iterator[Claim]:
    mine = secrets.token_hex(8)

    def beat(number: int) -> bytes:
        return json.dumps({"owner": mine, "beat": number}).encode()

    def seen() -> bytes:
        try:
            return storage.read_bytes(uri, _MAX_CONFIG_BYTES)
        except FileNotFoundError:
            return b""

    if not storage.write_new(uri, beat(0)):
        before, until = seen(), time.monotonic() + _SILENCE_S
        while time.monotonic() < until:
            if seen() != before:
                raise UserInputError(at_work)
            time.sleep(1.0)
        storage.delete(uri)
        if not storage.write_new(uri, beat(0)):
            raise UserInputError(at_work)
    claim, ended = Claim(finished=False), threading.Event()

    def go_on() -> None:
        number = 0
        while not ended.wait(_BEAT_S):
            number += 1
            with contextlib.suppress(Exception):  # the job itself says that the store is down
                if mine.encode() not in seen():
                    claim.lost.set()
                    return
                storage.write_atomic(uri, beat(number))

    thread = threading.Thread(target=go_on, name="claim", daemon=True)
    thread.start()
    try:
        yield claim
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(Exception):  # a later command waits for it then, no more
            if mine.encode() in seen():
                storage.delete(uri)
