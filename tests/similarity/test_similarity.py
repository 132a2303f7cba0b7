"""Copies, leaks and likes, on results that are written here without Ray."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageOps

from catdog import inputs, prediction, similarity
from catdog.cli import main
from catdog.demo import drawings
from catdog.errors import UserInputError
from catdog.model import folders
from catdog.pixels import OUTCOME_SCHEMA, DecodeLimits, Decoder
from catdog.results import ledger, part_files
from catdog.similarity import collection, looks, neighbours
from tests.ledgers import write_json, write_part, write_plan

COPIES = {
    "smaller": lambda image: image.resize((image.width * 6 // 10, image.height * 6 // 10)),
    "cropped": lambda image: image.crop((8, 5, image.width - 1, image.height)),
    "mirrored": ImageOps.mirror,
    "same-pixels": lambda image: image,
}


@pytest.fixture(scope="module")
def model():
    return prediction.load(embeddings=True)


def write_results(images, output, model, recorded=folders.SHIPPED):
    """What `classify --embeddings` leaves, by its own parts."""
    uri = output.as_uri()
    plan = write_plan(uri, inputs.list_images([str(images)], inputs.SourceLimits()))
    limits = DecodeLimits(), inputs.SourceLimits()
    for shard in range(plan.shards):
        entries = plan.read_shard(shard)
        scores = np.zeros((len(entries), 2), np.float32)
        embeddings = np.zeros((len(entries), model._score.embedding_size), np.float16)
        outcomes = []
        with contextlib.closing(Decoder(model.metadata.preprocessing, *limits, 16)) as decoder:
            for batch in decoder.decode(entries):
                if len(batch.rows):
                    found = model._score.with_embeddings(batch.pixels)
                    scores[batch.rows], embeddings[batch.rows] = found
                outcomes.append(batch.outcomes)
        rows = part_files.build_rows(
            entries["uri"],
            pa.Table.from_batches(outcomes, OUTCOME_SCHEMA),
            scores,
            embeddings,
            labels=model.labels,
            min_probability=0.0,
            model=model.metadata.fingerprint,
        )
        write_part(plan, shard, rows, model.labels)
    run = {"question": {"embeddings": True}, "config": {"model": recorded}}
    write_json(plan, ledger.RUN_FILE, run)
    ledger.publish(plan, {"model": model.metadata.fingerprint})
    return str(output)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """60 drawings, altered copies of ten of them, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(60):
        label = ("cat", "dog")[number % 2]
        (folder / f"{number}.jpg").write_bytes(drawings.draw_jpeg(label, seed=number))
    for number in range(10):
        image = Image.open(folder / f"{number}.jpg")
        for name, change in COPIES.items():
            change(image).save(folder / f"{number}-{name}.jpg", quality=85)
        shutil.copy(folder / f"{number}.jpg", folder / f"{number}-copy.jpg")
    (folder / "broken.jpg").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def results(photos, model, tmp_path_factory):
    return write_results(photos, tmp_path_factory.mktemp("results") / "results", model)


def names(group):
    return {each["uri"].rsplit("/", 1)[-1].removesuffix(".jpg") for each in group}


def test_copies_are_found_and_nothing_else(results):
    """Equal files are exact, altered ones alike; each group holds one picture's copies only."""
    found = similarity.duplicates(similarity.DuplicatesConfig(results=(results,)))
    groups = [names(group) for group in found.groups]
    assert all(len({name.split("-")[0] for name in group}) == 1 for group in groups)
    assert {name for group in groups for name in group if name.isdigit()} == set(
        map(str, range(10))
    )
    assert found.exact == 10
    for group in found.groups:
        exact = {each["uri"].rsplit("/", 1)[-1] for each in group if each["kind"] == "exact"}
        assert len(exact) == 2
    together = set().union(*groups)
    for alteration in ("copy", "smaller", "cropped", "same-pixels"):
        assert {f"{number}-{alteration}" for number in range(10)} <= together
    assert (found.images, found.rejected, found.unread) == (110, 1, 0)


def test_page_and_table_hold_the_groups(results, tmp_path):
    """Pictures are in the page, and every image of every group in the table; the command says so."""
    output = tmp_path / "page.html"
    assert main(["duplicates", results, "--output", str(output), "--json"]) == 0
    text = output.read_text()
    assert text.count("<section>") == 10
    assert text.count("data:image/webp") >= 40
    assert "http" not in text.replace("http-equiv", "")
    table = list(csv.DictReader(io.StringIO((tmp_path / "page.csv").read_text())))
    assert {row["group"] for row in table} == set(map(str, range(1, 11)))
    assert {row["kind"] for row in table} == {"exact", "alike"}


def test_leaks_are_pairs_across_two_results(model, photos, results, tmp_path):
    """Copies within one of the sets are none of its business."""
    test = tmp_path / "test"
    test.mkdir()
    for name in ("3-smaller", "40", "40-new"):
        source = photos / f"{name.removesuffix('-new')}.jpg"
        shutil.copy(source, test / f"x{name}.jpg")
    (test / "fresh.jpg").write_bytes(drawings.draw_jpeg("cat", seed=999))
    other = write_results(test, tmp_path / "other", model)
    found = similarity.leaks(similarity.LeaksConfig(train_results=results, test_results=other))
    groups = [names(group) for group in found.groups]
    tested = {name for group in groups for name in group if name.startswith("x")}
    assert tested == {"x3-smaller", "x40", "x40-new"}
    assert {"40", "x40", "x40-new"} in groups
    assert (tmp_path / "other" / "_leaks.html").exists()


def test_similar_finds_the_picture_itself_first(photos, results, capsys):
    """An image's own copies come before others; the table is in JSON for scripts."""
    image = str(photos / "4.jpg")
    assert main(["similar", results, image, "--count", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["found"][image]
    assert len(found) == 3
    assert names(found) <= {"4", "4-copy", "4-same-pixels", "4-smaller"}
    assert found[0]["cosine"] >= found[1]["cosine"] >= found[2]["cosine"] > 0.8


def test_what_does_not_fit_is_one_line(photos, results, tiny_model, tmp_path, capsys):
    """Folders without results, results without embeddings, another model, and broken images."""
    assert main(["duplicates", str(photos)]) == 2
    assert "holds no finished results" in capsys.readouterr().err
    plain = tmp_path / "plain"
    shutil.copytree(results, plain)
    run = {"question": {"embeddings": False}}
    (plain / ledger.RUN_FILE).write_text(json.dumps(run))
    assert main(["leaks", results, str(plain)]) == 2
    assert "TEST" in (error := capsys.readouterr().err)
    assert "classify with --embeddings" in error
    assert main(["similar", results, str(photos / "1.jpg"), "--model", tiny_model]) == 2
    assert "is not the model that made" in capsys.readouterr().err
    assert main(["similar", results, str(photos / "broken.jpg")]) == 2
    assert "not-an-image" in capsys.readouterr().err
    assert main(["leaks", results]) == 2
    assert "TEST: missing" in capsys.readouterr().err
    summary = json.loads((plain / ledger.SUMMARY_FILE).read_text()) | {"model": "another"}
    (plain / ledger.SUMMARY_FILE).write_text(json.dumps(summary))
    (plain / ledger.RUN_FILE).write_text(json.dumps({"question": {"embeddings": True}}))
    with pytest.raises(UserInputError, match="another model"):
        similarity.duplicates(similarity.DuplicatesConfig(results=(results, str(plain))))


def written(output, told, model="m", *, described=True):
    """Results of made-up embeddings; None stands for a rejected image."""
    entries = [
        {"uri": f"file:///{output.name}/{number}.jpg", "name": f"{number}.jpg", "codec": "file"}
        for number in range(len(told))
    ]
    batches = [pa.RecordBatch.from_pylist(entries, inputs.PLAN_SCHEMA)] if entries else []
    plan = write_plan(output.as_uri(), batches)
    for shard in range(plan.shards):
        vectors = np.array([each if each is not None else (0, 0) for each in told], np.float16)
        outcomes = [{"size": 1, "error": None if each else "empty"} for each in told]
        table = part_files.build_rows(
            plan.read_shard(shard)["uri"],
            pa.Table.from_pylist(outcomes, OUTCOME_SCHEMA),
            np.full((len(told), 2), 0.5, np.float32),
            vectors if described else None,
            labels=("a", "b"),
            min_probability=0.0,
            model=model,
        )
        write_part(plan, shard, table, ("a", "b"))
    run = {"question": {"embeddings": True}, "config": {"model": None}}
    write_json(plan, ledger.RUN_FILE, run)
    ledger.publish(plan, {"model": model})
    return str(output)


def test_results_with_nothing_to_compare_are_one_line(tmp_path, capsys):
    """No images, none that was not rejected, no embeddings, another model, one of them twice."""
    good = written(tmp_path / "good", [(1, 0), (0, 1)])
    for name, more, said in (
        ("none", [], "holds no images; there is nothing to compare"),
        (
            "rejected",
            [None, None],
            "none of 2 images has an embedding; there is nothing to compare",
        ),
        ("nan", [(np.nan, 0)], "none of 1 images has an embedding; there is nothing to compare"),
    ):
        odd = written(tmp_path / name, more)
        for command, flag in (
            (("duplicates", odd), "RESULTS"),
            (("leaks", good, odd), "TEST"),
            (("leaks", odd, good), "TRAIN"),
            (("similar", odd, "a.jpg"), "RESULTS"),
        ):
            assert main([*command]) == 2
            *_, last = capsys.readouterr().err.splitlines()
            assert last == f"catdog {command[0]}: {flag} {odd}: {said}"
    plain = written(tmp_path / "plain", [(1, 0)], described=False)
    other = written(tmp_path / "other", [(1, 0)], model="another")
    for command, said in (
        (("duplicates", plain), f"RESULTS {plain}: has no embeddings; classify with --embeddings"),
        (("duplicates", good, other), f"RESULTS {other}: was made by another model than {good}"),
        (("leaks", good, other), f"{other}: was made by another model than {good}"),
        (("leaks", good, good), f"TEST {good}: is TRAIN itself; name two results"),
        (("duplicates", good, good), f"RESULTS {good}: is named twice"),
    ):
        assert main([*command]) == 2
        *_, last = capsys.readouterr().err.splitlines()
        assert last.startswith(f"catdog {command[0]}: {said}")


def test_one_image_each_and_pictures_that_are_gone(tmp_path, capsys):
    """There is no group then; what could not be read again is counted."""
    one, two = (written(tmp_path / name, [(1, 0)]) for name in ("one", "two"))
    for command in (("duplicates", one), ("duplicates", one, two), ("leaks", one, two)):
        assert main([*command, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["groups"], said["images"]) == ([], len(command) - 1)
        assert said["unread"] == (2 if len(command) == 3 else 0)


def test_embeddings_that_are_no_numbers_are_left_out(tmp_path):
    """Those of a picture or two spoil nothing: they count as rejected."""
    odd = written(tmp_path / "odd", [(1, 0), (np.nan, 1), None, (np.inf, 0), (0, 1)])
    found = collection.read([odd])
    assert (len(found), found.rejected) == (2, 3)
    assert found.places[:, 2].tolist() == [0, 4]
    assert np.isfinite(neighbours.spread(found.vectors)).all()


def test_index_finds_what_all_pairs_find():
    """The index of faiss gives the nearest vectors of nearly all queries."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(200, 32))
    vectors = centres[random.integers(0, 200, 5000)] + random.normal(size=(5000, 32))
    space = neighbours.spread(vectors.astype(np.float16))
    queries = space[:2000]
    _, exact = neighbours._of_all(space, queries, 2)
    cosines, found = neighbours._of_index(space, queries, 2)
    assert (found[:, 0] == np.arange(2000)).all()
    assert (found[:, 1] == exact[:, 1]).mean() > 0.8
    assert (cosines[:, 0] >= cosines[:, 1]).all()


def test_empty_pictures_are_not_alike():
    """Two white pages correlate with nothing."""
    white = np.full((1, looks.SIDE, looks.SIDE), 255, np.uint8)
    assert looks.likeness(white, white)[0] < looks.ALIKE
    sketches = looks.sketches(white)
    assert not looks.may_be_alike(sketches, sketches)[0]
