"""The bare limit: N processes, each a loop of read, decode, forward, and nothing else.

It shares no code with catdog: Pillow's draft and resize, OpenVINO on a batch that it need not copy.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from pathlib import Path


def work(paths: list[str], folder: str, precision: str, ready, go, told) -> None:
    import numpy as np
    import openvino
    from PIL import Image

    geometry = json.loads(Path(folder, "metadata.json").read_text())["preprocessing"]
    size = width, height = geometry["width"], geometry["height"]
    core = openvino.Core()
    if precision == "auto":
        native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        precision = "bf16" if native else "f32"
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(str(Path(folder, "model.xml")), "CPU", options)
    request = compiled.create_infer_request()
    batch = np.empty((16, height, width, 3), np.uint8)

    def predict(pixels) -> None:
        request.infer(pixels, share_inputs=True)

    def decode(path: str, out) -> None:
        with open(path, "rb") as file, Image.open(file) as image:
            image.draft("RGB", size)
            across, down = image.width, image.height
            if geometry["resize"] == "crop":
                scale = min(across / width, down / height)
                across, down = width * scale, height * scale
            left, top = (image.width - across) / 2, (image.height - down) / 2
            box = (left, top, left + across, top + down)
            out[...] = image.resize(size, Image.Resampling.BILINEAR, box)

    predict(batch)
    ready.release()
    go.wait()
    started = time.time()
    filled = 0
    for path in paths:
        decode(path, batch[filled])
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
