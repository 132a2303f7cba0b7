"""Images of several classes: learned, classified and measured class by class."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from sklearn import metrics

from catdog import inputs, prediction, reporting, storage
from catdog.classification import ClassifyConfig, classify
from catdog.cli import summaries
from catdog.errors import UserInputError
from catdog.evaluation import job, multi_label, plots
from catdog.evaluation.job import EvaluateConfig, evaluate
from catdog.exchange.export import _description
from catdog.model import folders
from catdog.model.folders import Model, ModelMetadata
from catdog.pixels import DecodeLimits, Preprocessing, decode
from catdog.runtime import tensorflow_quirks
from catdog.training.job import train
from catdog.training.network import Network
from catdog.training.step import TrainingStep
from catdog.training.validation import validation_step

LABELS = ("blue circle", "red square")


def entries(*labels):
    rows = [
        {"uri": f"file:///{n}.jpg", "name": f"{n}.jpg", "codec": "file", "label": label}
        for n, label in enumerate(labels)
    ]
    return pa.RecordBatch.from_pylist(rows, inputs.PLAN_SCHEMA)


def metadata(**more):
    return ModelMetadata(
        labels=("a", "b", "c"),
        preprocessing=Preprocessing(height=8, width=8),
        architecture="article",
        files={"model.keras": "0" * 64},
        **more,
    )


def test_metadata_tells_several_classes_apart_from_one():
    """It survives its file, and decides the fingerprint; models from before keep theirs."""
    one, several = metadata(), metadata(multi_label=True)
    assert ModelMetadata.from_json(several.to_json()) == several
    assert one.fingerprint != several.fingerprint
    before = json.loads(one.to_json())
    del before["multi_label"]
    assert ModelMetadata.from_json(json.dumps(before)) == one


def test_an_export_says_what_its_numbers_are():
    """Of two classes one number, of two that an image may both have two."""
    for several, output in ((False, "of the second label"), (True, "of each label")):
        of_two = replace(metadata(multi_label=several), labels=LABELS)
        described = json.loads(_description(Model("file:///m", of_two, {})))
        assert described["output"] == f"probability {output}"
        assert described["multi_label"] is several


def test_every_label_of_an_image_is_one_of_the_model():
    """No label at all is refused by name, a lone `;` is none of the classes."""
    good = entries("a;b", "c", ";", "b ; a")
    assert job._check_labelled(good, metadata(multi_label=True)) is good
    assert multi_label.answers(good["label"], ("a", "b", "c")).tolist() == [
        [True, True, False],
        [False, False, True],
        [False, False, False],
        [True, True, False],
    ]
    for label, said in ((None, "1.jpg has no label"), ("a;x", "1.jpg is labelled 'a;x'")):
        with pytest.raises(UserInputError, match=said):
            job._check_labelled(entries("a", label), metadata(multi_label=True))
    with pytest.raises(UserInputError, match=r"0\.jpg is labelled 'a;b'"):
        job._check_labelled(good, metadata())


@pytest.fixture
def measured():
    """An evaluation of made-up scores, with the truth and the scores."""
    random = np.random.default_rng(3)
    truth = random.random((60, 3)) < (0.5, 0.3, 0.0)
    scores = np.clip(0.4 * truth + random.random((60, 3)) * 0.7, 0, 1).astype(np.float32)
    about = {"output": "file:///x", "model": "f", "part": None, "rejected": 1}
    return multi_label.measure(("a", "b", "c"), truth, scores, 0.9, **about), truth, scores


def test_figures_are_those_of_scikit_learn(measured):
    """The mean of the classes that have images; F1 over all and by class; all labels right."""
    result, truth, scores = measured
    said = scores >= 0.5
    of_all = result.multi_label
    areas = [metrics.average_precision_score(truth[:, n], scores[:, n]) for n in (0, 1)]
    assert of_all["mean_average_precision"] == pytest.approx(np.mean(areas))
    for average in ("micro", "macro"):
        expected = metrics.f1_score(truth, said, average=average, zero_division=0)
        assert of_all[f"{average}_f1"] == pytest.approx(expected)
    assert result.classes["a"]["f1"] == pytest.approx(metrics.f1_score(truth[:, 0], said[:, 0]))
    assert result.classes["c"]["average_precision"] is None
    assert result.classes["b"]["images"] == truth[:, 1].sum()
    assert result.accuracy == pytest.approx(metrics.accuracy_score(truth, said))
    assert result.log_loss == pytest.approx(
        metrics.log_loss(truth.ravel(), scores.ravel()), rel=1e-3
    )
    kept = scores[:, 0] >= np.float32(result.classes["a"]["threshold"])
    assert truth[kept, 0].mean() >= 0.9


def test_figures_are_printed_and_drawn_and_read_again(measured, tmp_path, capsys):
    """Without what one label alone has: confusions, calibration, a threshold of all."""
    result, _, _ = measured
    summaries.print_evaluated(result)
    text = capsys.readouterr().out
    assert "mean average precision" in text
    assert "macro" in text
    assert "calibration" not in text
    assert plots.draw(result).startswith(b"\x89PNG")
    (tmp_path / "metrics.json").write_bytes(job._json(result))
    assert job.read(tmp_path.as_uri()) == result


def draw(folder, count):
    """Noise in which a red square and a blue circle appear independently of each other."""
    random = np.random.default_rng(0)
    folder.mkdir()
    with (folder / "labels.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("uri", "label"))
        for number in range(count):
            circle, square = random.random(2) < 0.5
            picture = Image.fromarray(random.integers(90, 165, (32, 32, 3), np.uint8))
            pen = ImageDraw.Draw(picture)
            x, y, *at = random.integers(1, 16, 4).tolist()
            if square:
                pen.rectangle((x, y, x + 13, y + 13), fill=(230, 20, 20))
            if circle:
                pen.ellipse((*at, at[0] + 13, at[1] + 13), fill=(20, 20, 230))
            picture.save(folder / f"{number}.png")
            has = [label for label, there in zip(LABELS, (circle, square), strict=True) if there]
            lines.writerow((f"{number}.png", ";".join(has) or ";"))
    return folder / "labels.csv"


@pytest.mark.slow
def test_sigmoids_are_trained_measured_and_round_trip(ray_cluster, tiny_config, tmp_path):
    """Loss and accuracy are means over independent classes; the model folder gives the same scores."""
    tensorflow_quirks.import_keras(1)  # whole: other tests of this process may want it so
    import tensorflow as tf

    size = {"height": 48, "width": 48, "precision": "float32"}
    config = replace(tiny_config, multi_label=True, workers=1, **size)
    network = Network(config, 2, worker=0, workers=1, one_node=True, use_gpu=False)
    table = draw(tmp_path / "photos", 8)
    with table.open() as file:
        lines = list(csv.DictReader(file))
    paths = [str(tmp_path / "photos" / line["uri"]) for line in lines]
    has = multi_label.answers(pa.array([line["label"] for line in lines]), LABELS)
    assert {tuple(row) for row in has.tolist()} == {
        (a, b) for a in (False, True) for b in (a, not a)
    }
    images = len(paths)
    files = [Path(path).read_bytes() for path in paths]
    pixels = np.stack([decode(file, config.preprocessing, DecodeLimits()).pixels for file in files])
    ignored = (has.argmax(axis=1).astype(np.int32), np.ones(images, np.float32), np.float32(images))
    batch = [*map(tf.constant, (pixels, *ignored))]
    targets = tf.constant(has.astype(np.float32))

    def expected():
        scores = network.model(pixels, training=False).numpy()
        loss = -np.log(np.where(has, scores, 1 - scores)).mean(axis=1).sum()
        return scores, [loss, ((scores >= 0.5) == has).mean(axis=1).sum()]

    step = TrainingStep(network, config.hyperparameters, np.ones(2, np.float32))
    _, sums = expected()
    assert step(*batch, tf.constant(0.0), targets).numpy() == pytest.approx(sums, rel=1e-4)
    for _ in range(40):
        step(*batch, tf.constant(0.0), targets)
    scores, sums = expected()
    measured = validation_step(network)(*batch, targets).numpy()
    assert measured == pytest.approx(sums, rel=1e-3, abs=1e-5)
    assert (scores >= 0.5).tolist() == has.tolist()  # both, one, or none, as no softmax could say

    about = {"labels": LABELS, "preprocessing": config.preprocessing, "training": {}}
    folder = str(tmp_path / "model")
    files = network.export(network.weights())
    folders.save(storage.to_uri(folder), files, architecture="article", multi_label=True, **about)
    answers = prediction.load(folder, precision="float32").predict(paths)
    given = np.array([answer.scores for answer in answers])
    assert given == pytest.approx(scores, abs=1e-4)
    output = str(tmp_path / "results")
    asked = {"images": (str(table),), "output": output, "precision": "float32"}
    classify(ClassifyConfig(model=folder, **asked))
    rows = {row["uri"]: row for row in pq.read_table(output).to_pylist()}
    for line, answer, truth in zip(lines, answers, has, strict=True):
        row = rows[line["uri"]]
        assert row["scores"] == pytest.approx(answer.scores, abs=1e-5)
        assert row["labels"] == [*answer.labels] == [*np.array(LABELS)[truth]]


@pytest.mark.slow
@pytest.mark.long
def test_what_appears_independently_is_learned_and_told(ray_cluster, tiny_config, tmp_path):
    """Both, one or none: far above chance in training, results, evaluation and its page."""
    table = draw(tmp_path / "photos", 240)
    trained = train(
        replace(
            tiny_config,
            images=(str(table),),
            output=str(tmp_path / "run"),
            multi_label=True,
            workers=1,
            height=48,
            width=48,
            epochs=6,
            learning_rate=1e-3,
            validation=0.2,
        )
    )
    assert trained.labels == LABELS
    assert trained.best["val_accuracy"] > 0.85
    asked = EvaluateConfig(
        images=(str(table),), model=trained.output, output=str(tmp_path / "evaluated")
    )
    result = evaluate(asked)
    assert result.images == 240
    assert result.multi_label["mean_average_precision"] > 0.9
    assert min(each["f1"] for each in result.classes.values()) > 0.8
    page = reporting.write(reporting.ReportConfig(results=asked.output, thumbnails=0))
    html = Path(storage.local_path(page.output)).read_text()
    assert "mean average precision" in html
    assert "Confusion matrix" not in html
    thresholds = Path(asked.output) / "thresholds.json"
    classify(
        ClassifyConfig(
            images=(str(table),),
            model=trained.output,
            output=str(tmp_path / "sure"),
            thresholds=str(thresholds),
        )
    )
    least = json.loads(thresholds.read_text())["thresholds"]
    for folder, floors in (
        (Path(asked.output) / "results", dict.fromkeys(LABELS, 0.5)),
        (tmp_path / "sure", least),
    ):
        rows = pa.concat_tables(map(pq.read_table, sorted(folder.glob("part-*.parquet"))))
        for row in rows.select(["labels", "scores"]).to_pylist():
            has = zip(LABELS, row["scores"], strict=True)
            floor = {
                label: np.float32(2 if least is None else least) for label, least in floors.items()
            }
            assert row["labels"] == [label for label, score in has if score >= floor[label]]
    answer = prediction.load(trained.output).predict(str(tmp_path / "photos" / "0.png"))[0]
    assert answer.label in LABELS
    assert set(answer.labels) <= set(LABELS)
