"""Runs one job over hundreds of damaged archives and pictures, with sound pictures among them.

    python -m benchmarks.hostile [--archives 600] [--pictures 1500] [--seed 0]

It draws cases of `benchmarks.fuzz` and sound pictures into one folder, runs `catdog classify` on it as a
user would, and prints a JSON object. The exit code is 0 if the job exits with 0, each image in the
folder has one row, the sound ones are classified, no process exceeds its memory limit, and no output
is a traceback; else it is 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.fuzz import doors, pictures, running
from catdog import inputs
from catdog.pixels import DecodeLimits, memory_bound

_KINDS = ("zip", "tar", "tar.gz")
_DRIVER_BYTES = 2 << 30
_CHILD_BYTES = 128 << 20  # of the interpreter and libraries, before its limit begins


def draw(folder: Path, *, archives: int, pictures_: int, seed: int) -> int:
    """Draw archives and pictures into a new folder. Returns the number of sound pictures in it."""
    (folder / "archives").mkdir(parents=True)
    (folder / "pictures").mkdir()
    for number in range(archives):
        kind = _KINDS[number % len(_KINDS)]
        case = running.make_case(kind, seed, number)
        assert isinstance(case, bytes)
        (folder / "archives" / f"{number:04d}.{kind}").write_bytes(case)
    for number in range(pictures_):
        case = running.make_case("picture", seed, number)
        assert isinstance(case, bytes)
        (folder / "pictures" / f"{number:04d}.jpg").write_bytes(case)
    sound = list(pictures.valid_images())
    for name, data in sound:
        (folder / "pictures" / f"sound-{name}.jpg").write_bytes(data)
    (folder / "sound.png").write_bytes(doors.SOUND)
    return len(sound) + 1


def missing(images: list[str], results: str, sound: int) -> list[str]:
    """The faults in the results of these inputs, in sentences."""
    rows = pq.read_table(results, columns=["uri", "label", "error"])
    found = rows["uri"].to_pylist()
    planned = [
        uri
        for batch in inputs.list_images(images, inputs.SourceLimits())
        for uri in batch.column("uri").to_pylist()
    ]
    wrong = []
    if len(set(found)) < len(found):
        wrong.append("a URI has two rows")
    if set(found) != set(planned):
        wrong.append(f"{len(set(found) ^ set(planned))} images have no row, or rows no image")
    told = zip(rows["label"].to_pylist(), rows["error"].to_pylist(), strict=True)
    if any((label is None) == (error is None) for label, error in told):
        wrong.append("a row has neither a label nor an error, or both")
    labels = dict(zip(found, rows["label"].to_pylist(), strict=True))
    classified = sum(label is not None for uri, label in labels.items() if "/sound" in uri)
    if classified != sound:
        wrong.append(f"{classified} of {sound} sound pictures are classified")
    return wrong


class _Memory(threading.Thread):
    """Watches the peak memory of the processes below one, by their kind."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.most: Counter[str] = Counter()
        self._process, self._ended = process, threading.Event()

    def run(self) -> None:
        """Look until `end`."""
        while not self._ended.wait(0.5):
            for pid in self._below():
                try:
                    command = Path(f"/proc/{pid}/cmdline").read_bytes()
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                kind = "child" if b"catdog.pixels.child" in command else "other"
                kind = "driver" if pid == self._process else kind
                for line in status.splitlines():
                    if line.startswith("VmHWM"):
                        self.most[kind] = max(self.most[kind], int(line.split()[1]) << 10)

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()
        self.join()

    def _below(self) -> set[int]:
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
        found = {self._process}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found


def run(*, archives: int, pictures_: int, seed: int) -> dict[str, Any]:
    """Draw, classify, look. The record has what is wrong under `wrong`."""
    with tempfile.TemporaryDirectory(prefix="catdog-hostile-") as place:
        folder, results = Path(place, "images"), Path(place, "results")
        sound = draw(folder, archives=archives, pictures_=pictures_, seed=seed)
        images = [str(folder)]
        if pictures.ODD_IMAGES.exists():
            images.append(str(pictures.ODD_IMAGES))
        command = [sys.executable, "-m", "catdog", "classify", *images, "--output", str(results)]
        job = subprocess.Popen(
            [*command, "--max-rejected", "1", "--no-report", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        memory = _Memory(job.pid)
        memory.start()
        out, said = job.communicate()
        memory.end()
        wrong = [] if job.returncode == 0 else [f"exit code {job.returncode}: {said[-500:]}"]
        if "Traceback" in said:
            wrong.append("it says a traceback")
        if job.returncode == 0:
            wrong += missing(images, str(results), sound)
        bound = memory_bound(DecodeLimits(), inputs.SourceLimits()) + _CHILD_BYTES
        for kind, most in (("child", bound), ("driver", _DRIVER_BYTES)):
            if memory.most[kind] > most:
                wrong.append(f"the {kind} took {memory.most[kind] >> 20} MiB")
        summary = json.loads(out) if job.returncode == 0 else {}
        told = ("planned", "classified", "rejected", "errors", "retried_shards", "seconds")
        return {
            **{name: summary.get(name) for name in told},
            "most_mib": {kind: most >> 20 for kind, most in memory.most.items()},
            "wrong": wrong,
        }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hostile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--archives", type=int, default=600)
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    told = run(archives=arguments.archives, pictures_=arguments.pictures, seed=arguments.seed)
    print(json.dumps(told, indent=2))
    sys.exit(1 if told["wrong"] else 0)


if __name__ == "__main__":
    main()
