"""Measures how many altered copies of photos `catdog duplicates` finds, and which other pairs.

    python -m benchmarks.duplicates ../shared/data/cats-and-dogs work

classifies every archive in the first folder and altered copies of 1,000 of its photos, searches for
duplicates, and writes benchmarks/duplicates.json. It draws the pairs of unaltered photos side by side
into work/pairs-*.png, for people to judge.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import catdog
from benchmarks.here import circumstances
from catdog import similarity

ALTERED = 1000
QUERIES = 2000
PAIRS_ON_A_SHEET = 40


def saved(image, quality=90):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def alterations(data, random_numbers):
    """Altered copies of an encoded photo, by name."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    left, right = (round(width * random_numbers.uniform(0, 0.05)) for _ in range(2))
    top, bottom = (round(height * random_numbers.uniform(0, 0.05)) for _ in range(2))
    small = (round(width * 0.6), round(height * 0.6))
    return {
        "exact": data,
        "resized to 60 %": saved(image.resize(small, Image.Resampling.LANCZOS)),
        "up to 5 % cropped off each edge": saved(
            image.crop((left, top, width - right, height - bottom))
        ),
        "recompressed at quality 40": saved(image, 40),
        "mirrored": saved(ImageOps.mirror(image)),
    }


def write_altered(archive, folder):
    numbers = random.Random(0)
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.isfile()][:ALTERED]
        for member in members:
            made = alterations(tar.extractfile(member).read(), numbers)
            for number, data in enumerate(made.values()):
                place = folder / str(number) / member.name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
    return list(made), [member.name for member in members]


def draw_pairs(pairs, archives, place):
    """Sheets of pairs of photos, side by side."""
    wanted = {name for pair in pairs for name in pair}
    photos = {}
    for archive in archives:
        with tarfile.open(archive) as tar:
            for member in tar:
                if f"{archive.name}/{member.name}" in wanted:
                    photos[f"{archive.name}/{member.name}"] = tar.extractfile(member).read()
    for sheet in range(0, len(pairs), PAIRS_ON_A_SHEET):
        canvas = Image.new("RGB", (5 * 330, 8 * 165), "white")
        for number, pair in enumerate(pairs[sheet : sheet + PAIRS_ON_A_SHEET]):
            for side, name in enumerate(pair):
                picture = Image.open(io.BytesIO(photos[name])).resize((160, 160))
                canvas.paste(picture, (number % 5 * 330 + side * 160, number // 5 * 165))
        canvas.save(place / f"pairs-{sheet // PAIRS_ON_A_SHEET}.png")


def short(uri, work):
    """`archive/member` of a photo, `number/member` of an altered copy."""
    if "::" in uri:
        member, archive = uri.removeprefix("tar://").split("::")
        return f"{Path(archive).name}/{member}"
    return Path(uri.removeprefix("file://")).relative_to(work / "altered").as_posix()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("work", type=Path)
    asked = parser.parse_args()
    work = asked.work.resolve()
    archives = sorted(asked.photos.resolve().glob("*.tar"))
    kinds, names = write_altered(archives[0], work / "altered")
    results = str(work / "results")
    catdog.classify([*archives, work / "altered"], output=results, embeddings=True)
    found = similarity.duplicates(
        similarity.DuplicatesConfig(results=(results,), output=str(work / "duplicates.html"))
    )
    group_of = {}
    pairs = []
    for number, group in enumerate(found.groups):
        members = [short(each["uri"], work) for each in group]
        group_of |= dict.fromkeys(members, number)
        photos = [name for name in members if name.split("/")[0].endswith(".tar")]
        pairs += [(photos[0], other) for other in photos[1:]]
    originals = [group_of.get(f"{archives[0].name}/{name}", -1) for name in names]
    recall = {
        kind: sum(
            own >= 0 and group_of.get(f"{number}/{name}", -2) == own
            for name, own in zip(names, originals, strict=True)
        )
        / len(names)
        for number, kind in enumerate(kinds)
    }
    draw_pairs(pairs, archives, work)
    content = {
        **circumstances(),
        "photos": len(archives) * 2500,
        "altered": len(names),
        "recall": recall,
        "pairs of photos that nobody altered": len(pairs),
        "retrieval": retrieval(results, len(archives) * 2500),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
    (work / "pairs.json").write_text(json.dumps(pairs, indent=2) + "\n")
    print(json.dumps(content, indent=2))


def retrieval(results, photos):
    """How many of a photo's ten nearest others show the same animal, as `similar` finds them."""
    whole = similarity.collection.read([results])
    places = np.flatnonzero(["::" in uri for uri in whole.uris.to_pylist()])
    assert len(places) == photos
    truth = np.array(["/cat/" in f"/{whole.uris[place].as_py()}" for place in places.tolist()])
    space = similarity.neighbours.spread(whole.vectors)[places]
    queries = np.random.default_rng(0).choice(len(places), QUERIES, replace=False)
    _, numbers = similarity.neighbours.nearest(space, space[queries], 11)
    same = truth[numbers[:, 1:]] == truth[queries][:, None]
    return {"queries": QUERIES, "precision at 10": round(float(same.mean()), 4)}


if __name__ == "__main__":
    main()
