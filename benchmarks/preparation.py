"""Prepares benchmarks: a folder of photos, and an untrained model."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]


def prepare_photos(source: Path | None, folder: Path, count: int) -> str:
    """`count` full-size photos as plain files: the source's repeated, or drawn ones."""
    folder.mkdir()
    if source is None:
        from catdog.demo import drawings

        contents = [
            drawings.draw_jpeg("dog" if number % 2 else "cat", number) for number in range(300)
        ]
        origin = "drawings"
    else:
        contents = [path.read_bytes() for path in sorted(source.rglob("*.jpg"))]
        origin = f"{len(contents)} photos, repeated"
    for number in range(count):
        (folder / f"{number:06d}.jpg").write_bytes(contents[number % len(contents)])
    return origin


def photos_in_tars(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each file in the folder's tars."""
    for archive in sorted(folder.glob("*.tar")):
        with tarfile.open(archive) as tar:
            for member in tar:
                if (file := tar.extractfile(member)) is not None:
                    yield member.name, file.read()


def prepare_model(folder: Path) -> None:
    """The article's network with its initial weights: speed does not depend on what it learned."""
    command = [sys.executable, "-m", "benchmarks.preparation", folder.as_uri()]
    subprocess.run(command, check=True, cwd=ROOT)  # a process of its own: TensorFlow stays


def write_model(uri: str) -> None:
    """The same in this process."""
    from catdog.model import architectures, folders
    from catdog.pixels import Preprocessing
    from catdog.runtime import tensorflow_quirks

    tensorflow_quirks.import_keras(1)
    preprocessing = Preprocessing(height=150, width=150)
    network = architectures.build("article", preprocessing, 2, "float32")
    folders.save(
        uri,
        folders.export(network),
        labels=("cat", "dog"),
        preprocessing=preprocessing,
        architecture="article",
        training={},
    )


if __name__ == "__main__":
    write_model(sys.argv[1])
