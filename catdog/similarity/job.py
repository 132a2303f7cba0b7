"""`duplicates`, `leaks` and `similar`: results with embeddings come in, a table and a page go out."""

from __future__ import annotations

import csv
import io
import posixpath
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog import prediction, storage
from catdog.errors import UserInputError, counted
from catdog.observer import Observer
from catdog.similarity import collection as collections
from catdog.similarity import copies, neighbours, page, pictures

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from catdog.similarity.collection import Collection
    from catdog.similarity.config import DuplicatesConfig, LeaksConfig, SimilarConfig

_SHOWN_GROUPS = 200
_SHOWN_OF_GROUP = 12
EXACT, ALIKE = "exact", "alike"


@dataclass(frozen=True)
class Copies:
    """Pictures that occur more than once.

    Attributes:
        images: number of images that were compared.
        rejected: number of images that were left out because they have no embedding or one with NaN.
        groups: groups of copies. Each is a list of `uri` and `kind`, in the order of the inputs;
            `kind` is `exact` if the file equals another one of the group, else `alike`.
        surplus: number of images beyond the first of each group.
        exact: number of those that equal another image of their group byte for byte.
        unread: number of images that were left out because they could not be read again.
        output: URI of the page.
        table: URI of the table: group, kind, uri, label.
        seconds: wall time.
    """

    images: int
    rejected: int
    groups: list[list[dict[str, str]]]
    surplus: int
    exact: int
    unread: int
    output: str
    table: str
    seconds: float


@dataclass(frozen=True)
class Likes:
    """The nearest images of each given image.

    Attributes:
        images: number of images that were searched.
        found: for each given image, a list of `uri`, `label` and `cosine`, the nearest first.
        output: URI of the page.
        table: URI of the table: image, uri, label, cosine.
        seconds: wall time.
    """

    images: int
    found: dict[str, list[dict[str, Any]]]
    output: str
    table: str
    seconds: float


def duplicates(config: DuplicatesConfig, observer: Observer | None = None) -> Copies:
    """Find groups of images that show one picture.

    Raises:
        UserInputError: there are no finished results with embeddings, or they are of two models.
        CatdogError: a file of the results is damaged.
    """
    started, observer = time.monotonic(), observer or Observer()
    observer.phase("reading results")
    whole = collections.read(config.results)
    pairs = copies.find(whole, observer)
    output = config.output or storage.join(storage.to_uri(config.results[0]), "_duplicates.html")
    return _grouped(whole, pairs, output, "Duplicates", observer, started)


def leaks(config: LeaksConfig, observer: Observer | None = None) -> Copies:
    """Find groups of images that show one picture and have members in both results.

    Raises:
        UserInputError, CatdogError: as `duplicates`.
    """
    started, observer = time.monotonic(), observer or Observer()
    observer.phase("reading results")
    train = collections.read([config.train_results], "TRAIN")
    test = collections.read([config.test_results], "TEST")
    pairs = copies.find(collections.join(train, test), observer, first=len(train))
    output = config.output or storage.join(storage.to_uri(config.test_results), "_leaks.html")
    return _grouped(collections.join(train, test), pairs, output, "Leaks", observer, started)


def similar(config: SimilarConfig, observer: Observer | None = None) -> Likes:
    """Find the images of results that look most like given ones to the network.

    Raises:
        UserInputError: there are no finished results with embeddings; the model is not the one that
            made them; or an image cannot be read.
        CatdogError: a file of the results is damaged.
    """
    started, observer = time.monotonic(), observer or Observer()
    observer.phase("reading results")
    whole = collections.read([config.results])
    asked = config.model or str(whole.runs[0]["config"]["model"])
    with storage.blamed_on(f"--model {asked}"):
        model = prediction.load(asked, embeddings=True)
    if model.metadata.fingerprint != whole.model:
        raise UserInputError(f"--model {asked}: is not the model that made {config.results}")
    vectors = []
    for image, answer in zip(config.images, model.predict(config.images), strict=True):
        if answer.embedding is None:
            raise UserInputError(f"{image}: {answer.error}: {answer.error_detail}")
        vectors.append(answer.embedding)
    queries = np.array(vectors, np.float16)
    space = neighbours.spread(np.concatenate([whole.vectors, queries]))
    cosines, numbers = neighbours.nearest(space[: len(whole)], space[len(whole) :], config.count)
    found = {
        image: [
            {
                "uri": whole.uris[number].as_py(),
                "label": whole.labels[number].as_py(),
                "cosine": round(cosine, 4),
            }
            for number, cosine in zip(theirs.tolist(), cosine_row.tolist(), strict=True)
        ]
        for image, theirs, cosine_row in zip(config.images, numbers, cosines, strict=True)
    }
    output = storage.to_uri(
        config.output or storage.join(storage.to_uri(config.results), "_similar.html")
    )
    observer.phase("writing the page")
    small = pictures.thumbnails(whole, np.unique(numbers))
    groups = [
        page.Group(
            image,
            [
                page.Picture(image, "asked for", pictures.thumbnail_of(image)),
                *(
                    page.Picture(
                        each["uri"], f"{each['label']}, {each['cosine']:.2f}", small.get(n)
                    )
                    for each, n in zip(found[image], theirs.tolist(), strict=True)
                ),
            ],
        )
        for image, theirs in zip(config.images, numbers, strict=True)
    ]
    lead = f"The nearest of {counted(len(whole), 'image')}, with the cosine of their whitened embeddings."
    page.write(output, "Similar pictures", lead, groups)
    rows = [
        (image, each["uri"], each["label"], each["cosine"])
        for image, theirs in found.items()
        for each in theirs
    ]
    table = _write_table(output, ("image", "uri", "label", "cosine"), rows)
    return Likes(len(whole), found, output, table, round(time.monotonic() - started, 2))


def _grouped(
    whole: Collection,
    pairs: copies.Pairs,
    output: str,
    title: str,
    observer: Observer,
    started: float,
) -> Copies:
    groups = _groups(len(whole), pairs)
    exact = np.zeros(len(whole), np.bool_)
    exact[pairs.ones[pairs.exact]] = exact[pairs.others[pairs.exact]] = True
    uris = whole.uris
    listed = [
        [
            {"uri": uris[number].as_py(), "kind": EXACT if exact[number] else ALIKE}
            for number in group
        ]
        for group in groups
    ]
    surplus = sum(len(group) - 1 for group in groups)
    output = storage.to_uri(output)
    observer.phase("writing the page")
    shown = groups[:_SHOWN_GROUPS]
    numbers = [number for group in shown for number in group[:_SHOWN_OF_GROUP]]
    small = pictures.thumbnails(whole, np.unique(np.array(numbers, np.int64)))
    sections = [
        page.Group(
            counted(len(group), "picture"),
            [
                page.Picture(each["uri"], each["kind"], small.get(number))
                for number, each in list(zip(group, theirs, strict=True))[:_SHOWN_OF_GROUP]
            ],
        )
        for group, theirs in zip(shown, listed, strict=False)
    ]
    lead = f"{counted(len(groups), 'group')} of one picture each, among {counted(len(whole), 'image')}."
    if len(groups) > len(shown):
        lead += f" The first {len(shown)} are shown; the table beside this page has all."
    page.write(output, title, lead, sections)
    rows = [
        (number, each["kind"], each["uri"], whole.labels[member].as_py())
        for number, (group, theirs) in enumerate(zip(groups, listed, strict=True), 1)
        for member, each in zip(group, theirs, strict=True)
    ]
    table = _write_table(output, ("group", "kind", "uri", "label"), rows)
    return Copies(
        images=len(whole),
        rejected=whole.rejected,
        groups=listed,
        surplus=surplus,
        exact=sum(max(0, int(exact[group].sum()) - 1) for group in groups),
        unread=pairs.unread,
        output=output,
        table=table,
        seconds=round(time.monotonic() - started, 2),
    )


def _groups(images: int, pairs: copies.Pairs) -> list[list[int]]:
    """The images that hang together, largest groups first, each in the order of the images."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs.ones), np.int8)
    graph = coo_array((ones, (pairs.ones, pairs.others)), shape=(images, images))
    of_image = connected_components(graph, directed=False)[1]
    members = np.flatnonzero(np.bincount(of_image)[of_image] > 1)
    members = members[np.argsort(of_image[members], kind="stable")]
    edges = np.flatnonzero(np.diff(of_image[members])) + 1
    groups = [part.tolist() for part in np.split(members, edges) if len(part)]
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def _write_table(output: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV beside the page; returns its URI."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    place = posixpath.splitext(output)[0] + ".csv"
    storage.write_atomic(place, text.getvalue().encode("utf-8", "replace"))
    return place
