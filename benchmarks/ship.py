"""Put a trained run's model into the package: `python -m benchmarks.ship RUN`.

Weights are rounded to float16, so that both copies of the network fit into 10 MB; the two then hold
the same numbers exactly, and the scores change in the fourth digit.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from catdog.model import folders
from catdog.runtime import tensorflow_quirks

MAX_BYTES = 10_000_000


def halved(files: dict[str, bytes]) -> dict[str, bytes]:
    """OpenVINO's of these files of a model, with numbers of 16 bits."""
    import openvino

    xml, binary = folders.OPENVINO_FILES
    with tempfile.TemporaryDirectory() as folder:
        for name in (xml, binary):
            (Path(folder) / name).write_bytes(files[name])
        half = Path(folder) / "half.xml"
        openvino.save_model(
            openvino.Core().read_model(Path(folder) / xml), half, compress_to_fp16=True
        )
        return {xml: half.read_bytes(), binary: half.with_suffix(".bin").read_bytes()}


def main(run: str) -> None:
    """Round, export, save; refuses what is too large."""
    tensorflow_quirks.import_keras(2)
    model = folders.load(run)
    network = model.keras_model()
    network.set_weights([w.astype(np.float16).astype(np.float32) for w in network.get_weights()])
    files = folders.export(network)
    files |= halved(files)
    if (size := sum(map(len, files.values()))) > MAX_BYTES:
        raise SystemExit(f"{run}: {size:,} bytes, more than {MAX_BYTES:,}")
    training = dict(model.metadata.training)
    # Where the photos lay on the machine that trained is nobody's business.
    training["recipe"] = training["recipe"] | {"images": ["photos"]}
    metadata = folders.save(
        (folders.WEIGHTS_FOLDER / folders.SHIPPED).as_uri(),
        files,
        labels=model.metadata.labels,
        preprocessing=model.metadata.preprocessing,
        architecture=model.metadata.architecture,
        training=training,
    )
    print(f"{metadata.fingerprint}, {size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
