"""The bare limit: N processes, each a loop of read, decode, forward, and nothing else."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from pathlib import Path


def work(paths: list[str], model_folder: str, precision: str, ready, go, told) -> None:
    import numpy as np

    from catdog.model import folders, inference
    from catdog.pixels import DecodeLimits, decode

    model = folders.load(model_folder)
    predict = inference.load_predictor(model, precision=precision)
    limits, preprocessing = DecodeLimits(), model.metadata.preprocessing
    batch = np.empty((16, preprocessing.height, preprocessing.width, 3), np.uint8)
    predict(batch)
    ready.release()
    go.wait()
    started = time.time()
    filled = 0
    for path in paths:
        with open(path, "rb") as file:
            decode(file.read(), preprocessing, limits, out=batch[filled])
        filled += 1
        if filled == len(batch):
            predict(batch)
            filled = 0
    if filled:
        predict(batch[:filled])
    told.put((started, time.time()))


def main(folder: str, model: str, precision: str, processes: int) -> None:
    context = multiprocessing.get_context("spawn")
    paths = sorted(str(path) for path in Path(folder).rglob("*.jpg"))
    ready, go, told = context.Semaphore(0), context.Event(), context.Queue()
    workers = [
        context.Process(target=work, args=(paths[n::processes], model, precision, ready, go, told))
        for n in range(processes)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    go.set()
    spans = [told.get() for _ in workers]
    for worker in workers:
        worker.join()
    seconds = max(end for _, end in spans) - min(start for start, _ in spans)
    print(json.dumps({"images": len(paths), "images_per_s": len(paths) / seconds}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
