"""Cases of a kind, one after the other, watched; and a process that may die of one."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.fuzz import archives, folders, pictures, tables
from benchmarks.fuzz.doors import SOUND, Doors
from benchmarks.fuzz.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

Case = bytes | dict[str, bytes]

SOURCES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "zip": archives.zip_file,
    "tar": archives.tar_file,
    "tar.gz": archives.gzip_file,
    "txt": tables.list_file,
    "csv": tables.csv_file,
    "csv.gz": tables.compressed_csv_file,
    "jsonl": tables.json_file,
    "parquet": tables.parquet_file,
}
FOLDERS: dict[str, Callable[[random.Random], dict[str, bytes]]] = {
    "model": folders.model_folder,
    "results": folders.results_folder,
}
KINDS = ("picture", *SOURCES, *FOLDERS)
_THROUGH_THE_LEDGER = 8  # of so many cases, one goes all the way
_STUCK_S, _START_S = 90.0, 600.0
_DEFECTS = 100  # then enough is known


def make_case(kind: str, seed: int, number: int) -> Case:
    """The file or files of a case."""
    chance = random.Random(f"{kind}/{seed}/{number}")
    if kind == "picture":
        return pictures.picture(chance)
    if kind in FOLDERS:
        return FOLDERS[kind](chance)
    data = SOURCES[kind](chance, SOUND)
    return data[: chance.randrange(len(data) + 1)] if chance.random() < 0.05 else data


@dataclass
class Found:
    """What became of some cases of a kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    defects: dict[int, str] = field(default_factory=dict)
    judged: dict[int, str] = field(default_factory=dict)
    """Pictures that a second decoder shows otherwise."""


def run(kind: str, seed: int, numbers: Iterator[int] | range) -> Iterator[tuple[int, str, str]]:
    """What becomes of these cases, one by one: number, a word for it, and what is wrong or "".

    Before each case comes one with the word "begins", before a second decoder has its say one with "judged".
    """
    memory = Path("/dev/shm")  # a disk would take most of the time
    where = str(memory) if os.access(memory, os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="catdog-fuzz-", dir=where) as scratch,
        contextlib.closing(Doors(Path(scratch))) as doors,
    ):
        watch = Watch(Path(scratch))
        try:
            for number in numbers:
                yield number, "begins", ""
                case = make_case(kind, seed, number)
                with tempfile.TemporaryDirectory(dir=scratch) as name:
                    place = Path(name)
                    try:
                        with watch.case():
                            outcome, pixels = _enter(doors, kind, case, place, number)
                    except Exception as error:
                        yield number, "defect", _where(error)
                        continue
                if pixels is not None:
                    yield number, "judged", ""
                    far = pictures.other_picture(bytes(case), outcome, pixels)
                    yield number, outcome, "" if far is None else f"{far:.0f} levels away"
                else:
                    yield number, outcome, ""
        finally:
            watch.close()


def _enter(doors: Doors, kind: str, case: Any, place: Path, number: int) -> tuple[str, Any]:
    if kind == "picture":
        row, pixels = doors.picture(case, place)
        return row["error"] or row["format"], pixels
    if kind == "model":
        return doors.model(case, place), None
    if kind == "results":
        return doors.results(case, place), None
    whole = number % _THROUGH_THE_LEDGER == 0
    return doors.source(kind, case, place, whole=whole), None


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    last = next((each for each in reversed(frames) if "catdog" in each.filename), frames[-1])
    return f"{error!r:.300} ({Path(last.filename).name}, {last.name}, line {last.lineno})"


def add(found: Found, number: int, word: str, wrong: str) -> None:
    """Count what `run` tells."""
    if word == "defect":
        found.defects[number] = wrong
    elif word not in ("begins", "judged"):
        found.outcomes[word] += 1
        if wrong:
            found.judged[number] = wrong


def _work(kind: str, seed: int, first: int, connection: Connection) -> None:
    numbers = iter(range(first, sys.maxsize))
    for told in run(kind, seed, numbers):
        connection.send(told)


def fuzz(kind: str, seed: int, seconds: float, keep: Path | None = None) -> Found:
    """Cases for so long, in a process of their own: one that ends it is a defect as well."""
    found, deadline, number, told_at = Found(), time.monotonic() + seconds, 0, time.monotonic()
    context = multiprocessing.get_context("spawn")
    while time.monotonic() < deadline and len(found.defects) < _DEFECTS:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(kind, seed, number, theirs))
        process.start()
        theirs.close()
        word = ""
        try:
            while time.monotonic() < deadline and len(found.defects) < _DEFECTS:
                if not ours.poll(_STUCK_S if word else _START_S):
                    add(found, number, "defect", "it does not come to an end")
                    break
                number, word, wrong = ours.recv()
                add(found, number, word, wrong)
                if keep is not None and (word == "defect" or wrong):
                    _keep(keep, kind, seed, number, wrong)
                if time.monotonic() > told_at + 60:
                    told_at = time.monotonic()
                    print(
                        f"{kind}: {number:,} cases, {len(found.defects)} defects", file=sys.stderr
                    )
        except EOFError:
            process.join()
            if word != "judged":  # else the second decoder ended it
                add(found, number, "defect", f"the process ended with {process.exitcode}")
                if keep is not None:
                    _keep(keep, kind, seed, number, f"the process ended with {process.exitcode}")
        finally:
            process.kill()
            process.join()
            ours.close()
        number += 1
    return found


def _keep(keep: Path, kind: str, seed: int, number: int, wrong: str) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    case = make_case(kind, seed, number)
    path = keep / f"{seed}-{number}.{kind}"
    if isinstance(case, bytes):
        path.write_bytes(case)
    else:
        for name, data in case.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    with (keep / "defects").open("a") as file:
        file.write(json.dumps({"kind": kind, "seed": seed, "number": number, "what": wrong}) + "\n")
