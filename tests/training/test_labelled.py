"""What there is to train on: parts by folder or by name, classes that can be learned."""

from __future__ import annotations

import collections
import json
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from catdog.errors import UserInputError
from catdog.inputs import SourceLimits, splits
from catdog.training import decoding, labelled
from catdog.training.step import class_weights


def listed(folder, **options):
    """List with the default fractions."""
    options = {"validation": 0.1, "test": 0.0} | options
    return labelled.list_labelled([str(folder)], SourceLimits(), **options)


def put(folder, *names):
    """Files of these names; listing looks at no bytes."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def photos(label, count=40):
    return [f"{label}/{number}.jpg" for number in range(count)]


def parts_by_name(found):
    names = found.entries.values(np.arange(found.entries.num_rows), "name")
    return dict(zip(names, (labelled.PARTS[part] for part in found.parts), strict=True))


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
@pytest.mark.parametrize("train", ["train", "training"])
def test_folders_of_parts_are_the_parts(tmp_path, train, validation):
    """Below `train/` and `val/` lie the classes; a line says so."""
    for label in ("cat", "dog"):
        put(tmp_path, *photos(f"{train}/{label}", 12), *photos(f"{validation}/{label}", 3))
        put(tmp_path, *photos(f"test/{label}", 2))
    found = listed(tmp_path)
    assert found.labels == ("cat", "dog")
    assert found.parts_given
    counts = collections.Counter(labelled.PARTS[part] for part in found.parts)
    assert counts == {"train": 24, "validation": 6, "test": 4}
    for name, part in parts_by_name(found).items():
        assert name.startswith({"validation": validation, "train": train}.get(part, "test"))
    assert f"{train}/ 24" in found.notices[0]
    assert "--split-by-folder no" in found.notices[0]


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("TRAIN", "VAL", "TEST"),
        ("Training", "Valid", "Testing"),
        ("Train", "validation", "testing"),
        ("training_set", "validation_set", "test_set"),
        ("train", "dev", "test"),
    ],
)
def test_folders_of_parts_in_other_case_are_the_parts(tmp_path, train, validation, test):
    """They would be classes without a word."""
    for part in (train, validation, test):
        put(tmp_path, *photos(f"{part}/cat", 6), *photos(f"{part}/dog", 6))
    found = listed(tmp_path)
    assert found.labels == ("cat", "dog")
    told = {"train": train, "validation": validation, "test": test}
    assert all(name.startswith(told[part]) for name, part in parts_by_name(found).items())
    assert f"{train.lower()}/ 12" in found.notices[0]


def test_a_part_without_a_folder_is_taken_from_train(tmp_path):
    """`train/` and `test/` alone: some of `train/` validate, by the rule on their names."""
    for label in ("cat", "dog"):
        put(tmp_path, *photos(f"train/{label}", 60), *photos(f"test/{label}", 5))
    for name, part in parts_by_name(listed(tmp_path)).items():
        wanted = splits.part_of(name, validation=0.1, test=0.0)
        assert part == ("test" if name.startswith("test/") else wanted)


def test_folders_of_parts_can_be_classes(tmp_path):
    """`--split-by-folder no`, and wherever there is another folder, or a table says the label."""
    for label in ("cat", "dog"):
        put(tmp_path, *photos(f"train/{label}"), *photos(f"val/{label}"))
    assert listed(tmp_path, split_by_folder=False).labels == ("train", "val")
    put(tmp_path, *photos("bus"))
    mixed = listed(tmp_path)
    assert mixed.labels == ("bus", "train", "val")
    assert (
        "train/, val/ are classes, not the parts, since bus/ lies beside them" in mixed.notices[0]
    )
    table = tmp_path / "list.csv"
    uris = [str(tmp_path / name) for part in ("train", "val") for name in photos(f"{part}/cat")]
    said = ["val" if "train" in uri else "train" for uri in uris]
    pa.csv.write_csv(pa.table({"uri": uris, "label": said}), table)
    assert listed(table).labels == ("train", "val")


def test_an_image_beside_the_classes_of_a_part_is_named(tmp_path):
    """Its class is unknown: refused, with both ways out."""
    put(tmp_path, *photos("train/cat"), *photos("train/dog"), *photos("val/cat"), "val/stray.jpg")
    with pytest.raises(UserInputError, match=r"'val/stray.jpg'.*--split-by-folder no"):
        listed(tmp_path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Cat", "cat"),
        ("STRASSE", "straße"),
        ("cat", "\uff43\uff41\uff54"),
        ("cat", "cat "),
        ("house cat", "house  cat"),
        ("cat", "cat\N{ZERO WIDTH SPACE}"),
        (unicodedata.normalize("NFC", "bébé"), unicodedata.normalize("NFD", "bébé")),
        (unicodedata.normalize("NFD", "Bébé"), unicodedata.normalize("NFC", "bébé")),
    ],
)
def test_labels_that_look_alike_are_refused(tmp_path, one, other):
    """Two folders that somebody takes for one class: both are named, told apart by escapes."""
    put(tmp_path, *photos(one), *photos(other))
    with pytest.raises(UserInputError, match="differ only in case") as error:
        listed(tmp_path)
    assert ascii(one) in str(error.value)
    assert ascii(other) in str(error.value)


def test_a_class_without_a_training_image_is_refused(tmp_path):
    """Its only image validates, so that nothing could be learned of it."""
    number = next(
        number
        for number in range(1000)
        if splits.part_of(f"lynx/{number}.jpg", validation=0.1, test=0.0) == "validation"
    )
    put(tmp_path, *photos("cat"), *photos("dog"), f"lynx/{number}.jpg")
    with pytest.raises(UserInputError, match="class 'lynx' has no image to train on"):
        listed(tmp_path)


def test_a_class_with_few_training_images_is_warned_of(tmp_path):
    """One to four: it is trained, and somebody is told."""
    rare = [
        name
        for name in photos("lynx", 100)
        if splits.part_of(name, validation=0.1, test=0.0) == "train"
    ]
    put(tmp_path, *photos("cat"), *photos("dog"), *rare[:4])
    assert listed(tmp_path).notices == ("warning: class 'lynx' has 4 images to train on",)
    put(tmp_path, *rare[:5])
    assert listed(tmp_path).notices == ()


def test_balanced_weights_are_finite():
    """As much as a class is rarer; a class without an image weighs nothing and divides by nothing."""
    classes = pa.array([0] * 6 + [1] * 3, pa.int32()).to_numpy()
    assert class_weights("balanced", classes, 2).tolist() == [0.75, 1.5]
    assert class_weights("balanced", classes, 3).tolist() == [0.5, 1.0, 0.0]
    assert class_weights("none", classes, 3).tolist() == [1.0, 1.0, 1.0]


def test_labels_of_a_table_take_the_place_of_the_images_own(tmp_path):
    """As the page of a report saves them: by URI; those of other images do nothing."""
    put(tmp_path / "in", *photos("cat"), *photos("dog"))
    uri = (tmp_path / "in").as_uri()
    rows = [f"{uri}/cat/3.jpg,dog,cat", f"{uri}/cat/4.jpg,fox,cat", f"{uri}/no/such.jpg,dog,"]
    rows += [f"{uri}/dog/{number}.jpg,fox,dog" for number in range(30, 40)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["uri,label,labelled_before", *rows, ""]))
    found = listed(tmp_path / "in", given_labels=str(table), test=0.3)
    assert found.labels == ("cat", "dog", "fox")
    names = found.entries.values(np.arange(found.entries.num_rows), "name")
    given = dict(zip(names, (found.labels[number] for number in found.classes), strict=True))
    for name, label in given.items():
        number = int(name.split("/")[1].removesuffix(".jpg"))
        fox = name == "cat/4.jpg" or (name.startswith("dog/") and number >= 30)
        assert label == ("fox" if fox else "dog" if name == "cat/3.jpg" else name.split("/")[0])
    parts = collections.Counter(
        part for name, part in parts_by_name(found).items() if given[name] != name.split("/")[0]
    )
    assert parts["test"] > 0
    said = f"{parts['train']} to train on, {parts['validation']} to validate with"
    said += f", {parts['test']} of the test part"
    assert found.notices[0].startswith(f"12 labels from {table}: {said} (")
    assert found.notices[0].endswith("; 1 more in it are of no image given")


def test_labels_below_folders_of_parts(tmp_path):
    """The parts stay what the folders say."""
    for label in ("cat", "dog"):
        put(tmp_path / "in", *photos(f"train/{label}", 12), *photos(f"val/{label}", 3))
    table = tmp_path / "labels.csv"
    table.write_text(f"uri,label\n{(tmp_path / 'in').as_uri()}/val/cat/1.jpg,dog\n")
    found = listed(tmp_path / "in", given_labels=str(table))
    assert found.parts_given
    assert found.labels == ("cat", "dog")
    assert collections.Counter(found.classes.tolist()) == {0: 14, 1: 16}


def test_labels_of_other_images_are_refused(tmp_path):
    """In one line that names the flag and the table."""
    put(tmp_path / "in", *photos("cat"), *photos("dog"))
    put(tmp_path, "x.jpg")
    (tmp_path / "labels.csv").write_text("uri,label\nx.jpg,cat\n")
    with pytest.raises(UserInputError, match=r"--labels .*labels\.csv: none of its labels"):
        listed(tmp_path / "in", given_labels=str(tmp_path / "labels.csv"))


def test_shards_hold_every_image_of_their_part_once(tmp_path):
    """The tables that are decoded: of one part each, of 256 images but for the last of a part."""
    for label in ("cat", "dog"):
        put(tmp_path, *photos(label, 700))
    found = listed(tmp_path, test=0.1)
    seen = {labelled.TRAIN: [], labelled.VALIDATION: []}
    for shard in decoding.shards(found):
        rows = shard["index"].to_numpy()
        assert shard["name"].to_pylist() == found.entries.values(rows, "name")
        (part,) = set(found.parts[rows].tolist())
        seen[part].append(rows)
    for part, rows in seen.items():
        assert np.concatenate(rows).tolist() == np.flatnonzero(found.parts == part).tolist()
        assert all(len(each) == 256 for each in rows[:-1])


def test_images_without_a_label_are_trained_on_where_that_is_wanted(tmp_path):
    """All of them, whatever their names: nothing can be validated or tested on them."""
    put(tmp_path, *photos("cat"), *photos("dog"), *(f"{number}.jpg" for number in range(30)))
    with pytest.raises(UserInputError, match="30 images without a label"):
        listed(tmp_path)
    found = listed(tmp_path, validation=0.3, test=0.3, unlabelled=True)
    assert found.labels == ("cat", "dog")
    assert np.count_nonzero(found.classes == -1) == 30
    assert set(found.parts[found.classes == -1]) == {labelled.TRAIN}
    assert set(found.parts[found.classes >= 0]) == {0, 1, 2}


def table_of_labels(folder, kind, labels):
    """A table of images with these lists of labels, as `kind` has them."""
    uris = [f"{number}.jpg" for number in range(len(labels))]
    put(folder, *uris)
    path = folder / f"table.{kind.removesuffix('-lists')}"
    texts = [";".join(each) or ";" for each in labels]
    if kind == "csv":
        pa.csv.write_csv(pa.table({"uri": uris, "label": texts}), path)
    elif kind == "jsonl":
        rows = [{"uri": u, "label": each} for u, each in zip(uris, labels, strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        column = pa.array(labels, pa.list_(pa.string())) if kind.endswith("-lists") else texts
        pq.write_table(pa.table({"uri": uris, "label": column}), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "parquet-lists"])
def test_several_labels_of_an_image_are_classes_of_their_own(tmp_path, kind):
    """As a list or as text with `;`, with `--multi-label`; an image may have none."""
    pattern = [["red", "blue"], ["blue"], [], ["red"]]
    path = table_of_labels(tmp_path, kind, pattern * 20)
    found = listed(path, multi_label=True)
    assert found.labels == ("blue", "red")
    assert found.answers.tolist() == [[1, 1], [1, 0], [0, 0], [0, 1]] * 20
    assert found.classes.tolist() == [0, 0, 0, 1] * 20
    one_class_each = listed(path, multi_label=True, validation=0.3)
    assert (one_class_each.parts == labelled.VALIDATION).sum() > 5


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "parquet-lists"])
def test_several_labels_without_the_flag_are_asked_about(tmp_path, kind):
    """In one line that names the flag and the label."""
    path = table_of_labels(tmp_path, kind, [["red", "blue"], ["blue"], ["red"]] * 20)
    with pytest.raises(
        UserInputError, match=r"'red;blue' several classes\?.*--multi-label"
    ) as said:
        listed(path)
    assert "\n" not in str(said.value)


def test_rare_labels_of_several_are_counted_one_by_one(tmp_path):
    """A class that only comes beside others has images to train on, and few are warned of."""
    path = table_of_labels(tmp_path, "csv", [["red"]] * 30 + [["red", "blue"]] * 4)
    found = listed(path, multi_label=True, validation=0.2)
    few = found.answers[found.parts == labelled.TRAIN, 0].sum()
    assert f"warning: class 'blue' has {few:.0f} images to train on" in found.notices
