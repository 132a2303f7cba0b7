"""Another recognition task: scikit-learn's 1,797 handwritten digits, ten classes, 8x8 pixels.

    python examples/digits.py digits

writes them as PNG files, one folder per digit, trains `compact` on them at 32x32, and evaluates it on a
tenth that it never saw.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import catdog


def write_images(folder: Path) -> None:
    """Write the digits as files, white on black."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(path)


def main(folder: str, epochs: int = 30) -> catdog.Evaluation:
    """Write, train, measure."""
    images, run = Path(folder) / "images", Path(folder) / "run"
    write_images(images)
    catdog.train(
        catdog.TrainConfig(
            images=(str(images),),
            output=str(run),
            architecture="compact",
            epochs=epochs,
            height=32,
            width=32,
            batch_size=64,
            augmentation="none",  # a mirrored digit is another sign
            validation=0.1,
            test=0.1,
            workers=1,
        )
    )
    result = catdog.evaluate(images, Path(folder) / "test", model=run, part="test")
    page = catdog.report(result.output)
    print(f"{result.accuracy:.1%} of {result.images} digits; look at {page.output}")
    return result


if __name__ == "__main__":
    main(sys.argv[1])
