"""Evaluation measures what classification does."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catdog import inputs as sources
from catdog import reporting, storage
from catdog.classification import ClassifyConfig, classify, thresholds
from catdog.cli import commands as cli
from catdog.cli import summaries
from catdog.demo.drawings import draw_jpeg
from catdog.errors import UserInputError
from catdog.evaluation import job as evaluation
from catdog.evaluation.job import EvaluateConfig, evaluate
from catdog.evaluation.metrics import (
    calibration_error,
    caution,
    curves,
    label_thresholds,
    lowest_threshold,
    wilson_interval,
)
from catdog.model.folders import ModelMetadata
from catdog.observer import Observer
from catdog.pixels import Preprocessing
from catdog.results import plans
from tests import logs


@pytest.fixture(scope="module")
def evaluated(tiny_run, drawings, tmp_path_factory):
    config = EvaluateConfig(
        images=(str(drawings),),
        model=tiny_run.output,
        output=str(tmp_path_factory.mktemp("evaluated") / "validation"),
        part="validation",
        workers=2,
        precision="float32",
    )
    return config, evaluate(config)


@pytest.mark.slow
def test_validation_part_gives_the_training_runs_accuracy(evaluated, tiny_run):
    """The images that chose the best epoch, classified in bulk, give that epoch's accuracy.

    It holds only if split, pixels, labels and weights are the same in both jobs.
    """
    _, result = evaluated
    assert result.images == tiny_run.images["validation"]
    assert result.accuracy == pytest.approx(tiny_run.best["val_accuracy"], abs=1.01 / result.images)


@pytest.mark.slow
def test_numbers_fit_together(evaluated):
    """Matrix, accuracy, mistakes and files tell the same story."""
    config, result = evaluated
    matrix = np.array(result.confusion)
    assert matrix.sum() == result.images
    assert matrix.trace() / result.images == pytest.approx(result.accuracy)
    assert len(result.mistakes) == result.images - matrix.trace()
    assert [m["probability"] for m in result.mistakes] == sorted(
        (m["probability"] for m in result.mistakes), reverse=True
    )
    folder = storage.to_uri(config.output)
    stored = json.loads(storage.read_bytes(storage.join(folder, "metrics.json"), 10**7))
    assert stored["accuracy"] == result.accuracy
    with Image.open(storage.local_path(storage.join(folder, "plots.png"))) as plots:
        assert plots.size > (800, 600)


@pytest.mark.slow
def test_thresholds_make_labels_as_right_as_was_wanted(evaluated, tiny_run, tmp_path):
    """`classify` takes the file: what keeps its label on the same images is right as often."""
    _, evaluated = evaluated
    output = storage.local_path(evaluated.output)
    measured = json.loads((Path(output) / "thresholds.json").read_text())
    assert measured["precision"] == evaluated.precision_wanted
    plan = plans.read(storage.join(evaluated.output, "results"))
    listed = [row for shard in range(plan.shards) for row in plan.read_shard(shard).to_pylist()]
    (tmp_path / "list.txt").write_text("\n".join(row["uri"] for row in listed))
    config = ClassifyConfig(
        images=(str(tmp_path / "list.txt"),),
        output=str(tmp_path / "results"),
        model=tiny_run.model,
        workers=1,
        precision="float32",
        thresholds=str(Path(output) / "thresholds.json"),
        top=1,
        scores="no",
    )
    classify(config)
    rows = pq.read_table(config.output)
    assert "scores" not in rows.column_names
    truth = {row["uri"]: row["label"] for row in listed}
    for label, least in measured["thresholds"].items():
        kept = [row for row in rows.to_pylist() if row["label"] == label]
        assert all(least is not None and row["probability"] >= least for row in kept)
        right = sum(truth[row["uri"]] == label for row in kept)
        assert right >= measured["precision"] * len(kept)
    assert reporting.write(reporting.ReportConfig(results=config.output)).images == len(listed)


@pytest.mark.slow
def test_unknown_label_is_named(tiny_run, drawings, tmp_path):
    """An image of a class that the model does not know is found before any is classified."""
    (tmp_path / "in" / "horse").mkdir(parents=True)
    picture = next((drawings / "cat").iterdir())
    (tmp_path / "in" / "horse" / "1.jpg").write_bytes(picture.read_bytes())
    config = EvaluateConfig(
        images=(str(drawings), str(tmp_path / "in")),
        model=tiny_run.output,
        output=str(tmp_path / "evaluated"),
    )
    with pytest.raises(UserInputError, match=r"horse/1.jpg is labelled 'horse'; .*cat, dog"):
        evaluate(config)
    assert not list(tmp_path.glob("evaluated/**/*.parquet"))


@pytest.mark.slow
def test_command_writes_json_plots_and_a_page(tiny_run, drawings, tmp_path, capfd):
    """One rejected file is counted, the page is there, and `--max-rejected` is kept to."""
    shutil.copytree(drawings, tmp_path / "in")
    (tmp_path / "in" / "cat" / "empty.jpg").touch()
    out = tmp_path / "out"
    command = ["evaluate", str(tmp_path / "in"), "--model", tiny_run.output, "--output", str(out)]
    log = tmp_path / "log.jsonl"
    logged = [*command, "--log-file", str(log), "--log-format", "json"]
    assert cli.main([*logged, "--no-report", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said == json.loads((out / "metrics.json").read_text())
    assert (said["images"], said["rejected"]) == (160, 1)
    assert not (out / "report.html").exists()
    assert cli.main([*logged, "--max-rejected", "0"]) == 1
    printed = capfd.readouterr()
    assert "1 of 161 images were rejected (1%), more than --max-rejected 0%" in printed.err
    assert "95% interval" in printed.out
    assert (out / "report.html").as_uri() in printed.out
    assert (out / "plots.png").stat().st_size > 10_000
    first, second = logs.jobs(log)
    shards = [each for each in first if each["event"] == "shard"]
    assert sum(each["images"] for each in shards) == 161
    assert sum(each["rejected"] for each in shards) == 1
    (summary,) = [each for each in first if each["event"] == "summary"]
    assert (summary["images"], summary["rejected"]) == (160, 1)
    assert first[-1]["exit_code"] == 0
    assert second[-1]["exit_code"] == 1
    assert "1 of 161 images were rejected" in second[-1]["message"]


def entries(labels, errors):
    """Plan entries of images with these labels and errors found while planning."""
    rows = [
        {
            "uri": f"file:///{n}.jpg",
            "name": f"{n}.jpg",
            "codec": "file",
            "label": label,
            "error": error,
        }
        for n, (label, error) in enumerate(zip(labels, errors, strict=True))
    ]
    return pa.RecordBatch.from_pylist(rows, sources.PLAN_SCHEMA)


def test_every_image_needs_a_label_of_the_model():
    """The first one without is named; what cannot be read anyway, such as an archive, needs none."""
    good = entries(["cat", "dog", None], [None, None, "unreadable"])
    cats_and_dogs = ModelMetadata(("cat", "dog"), Preprocessing(height=8, width=8), "article", {})
    assert evaluation._check_labelled(good, cats_and_dogs) is good
    for label, said in ((None, "1.jpg has no label"), ("horse", "1.jpg is labelled 'horse'")):
        with pytest.raises(UserInputError, match=said):
            evaluation._check_labelled(entries(["dog", label], [None, None]), cats_and_dogs)


def test_labels_of_a_table_take_the_place_of_the_images_own(tiny_model, tmp_path, monkeypatch):
    """On the same scores, for metrics and page; without the table the images' own count again."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for number in range(6):
        path = tmp_path / "in" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw_jpeg("cat", seed=number))
    out, table = tmp_path / "out", tmp_path / "labels.csv"
    config = EvaluateConfig(images=(f"{tmp_path}/in",), model=tiny_model, output=str(out))
    before = evaluate(config)
    rows = pq.read_table(out / "results")
    parts = {path: path.stat().st_mtime_ns for path in (out / "results").glob("*.parquet")}
    for turned, accuracy in ((False, 1.0), (True, 0.0)):
        other = {"cat": "dog", "dog": "cat"}
        lines = [
            f"{row['uri']},{other[row['label']] if turned else row['label']}"
            for row in rows.to_pylist()
        ]
        table.write_text("\n".join(["uri,label", *lines, "file:///no/such.jpg,dog", ""]))
        observer = Phases()
        again = evaluate(dataclasses.replace(config, labels=str(table)), observer)
        assert again.accuracy == accuracy
        assert f"6 labels from {table}; 1 more in it are of no image evaluated" in observer.told
        page = reporting.write(reporting.ReportConfig(results=str(out), thumbnails=0))
        assert page.accuracy == accuracy
    assert evaluate(config) == before
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    assert not (out / "labels.parquet").exists()


def test_labels_of_no_evaluated_image_are_refused():
    """In one line that names the flag and the table; a label that the model lacks is named as ever."""
    given = sources.GivenLabels(pa.table({"uri": ["file:///1.jpg"], "label": ["horse"]}))
    with pytest.raises(UserInputError, match=r"--labels other\.csv: none of its labels"):
        evaluation._of_table("other.csv", 0, given)
    cats_and_dogs = ModelMetadata(("cat", "dog"), Preprocessing(height=8, width=8), "article", {})
    two = entries(["cat", None], [None, None])
    with pytest.raises(UserInputError, match=r"1\.jpg is labelled 'horse'"):
        evaluation._check_labelled(two, cats_and_dogs, given)
    dog = sources.GivenLabels(pa.table({"uri": ["file:///1.jpg"], "label": ["dog"]}))
    assert evaluation._check_labelled(two, cats_and_dogs, dog) is two


class Phases(Observer):
    """Keeps what it is told of phases."""

    def __init__(self):
        self.told = []

    def phase(self, text):
        """A phase."""
        self.told.append(text)


def test_metrics_are_read_as_they_were_written(tmp_path):
    """Lists of numbers are one line each in the file, and strings stay what they are."""
    result = evaluation.Evaluation(
        output="file:///x",
        model="f",
        part=None,
        images=3,
        rejected=0,
        accuracy=2 / 3,
        accuracy_low=0.2,
        accuracy_high=0.9,
        labels=("[\n1,\n2\n]", "b"),
        confusion=[[1, 0], [1, 1]],
        classes={"b": {"precision": 1.0, "threshold": None}},
        ece=1e-9,
        log_loss=0.5,
        reliability=[{"low": 0.0, "high": 1.0, "images": 3, "probability": 0.7, "right": 0.6}],
        precision_wanted=0.99,
        threshold=None,
        kept=None,
        mistakes=[{"uri": "x", "true": "b", "label": "a", "probability": 0.6}],
        curves={"b": {"recall": [0.0, 0.5, 1e-05]}},
    )
    (tmp_path / "metrics.json").write_bytes(evaluation._json(result))
    assert evaluation.read(tmp_path.as_uri()) == result
    assert '"recall": [0.0, 0.5, 1e-05]' in (tmp_path / "metrics.json").read_text()


@pytest.mark.parametrize(
    ("threshold", "kept", "said"),
    [
        (0.9133, 0.835, "--min-probability 0.9133 keeps 83.5% of the labels"),
        (0.0, 1.0, "no threshold is needed"),
        (None, None, "no threshold is high enough"),
    ],
)
def test_table_says_what_to_do_and_stays_short(threshold, kept, said, capsys):
    """The advice for the wanted precision; of many classes the first, and their worst confusions."""
    labels = tuple(f"class {number}" for number in range(100))
    confusion = np.eye(100, dtype=int) * 7
    confusion[3, 5:12] = range(1, 8)
    numbers = {"precision": 0.5, "recall": 0.25}
    summaries.print_evaluated(
        evaluation.Evaluation(
            output="file:///x",
            model="f",
            part=None,
            images=700,
            rejected=0,
            accuracy=0.9,
            accuracy_low=0.8,
            accuracy_high=0.95,
            labels=labels,
            confusion=confusion.tolist(),
            classes=dict.fromkeys(labels, numbers),
            ece=0.1,
            log_loss=0.5,
            reliability=[],
            precision_wanted=0.995,
            threshold=threshold,
            kept=kept,
            mistakes=[],
            curves={},
        )
    )
    text = capsys.readouterr().out
    assert re.search(rf"for 99.5% right +{said}", text)
    assert "recall 0.250; 7 taken for class 11, 6 for class 10, 5 for class 9\n" in (
        re.sub(" +\n", "\n", text)
    )
    assert "80 more classes" in text
    assert len(text.splitlines()) < 35


@pytest.mark.parametrize(
    ("images", "kept", "wanted", "said"),
    [
        (28, 27 / 28, 0.99, "only 27 labels; to be sure of 99% takes 300 or more"),
        (300, 1.0, 0.99, ""),
        (28, 1.0, 1.0, "only 28 labels, and no number of them is enough to be sure of 100%"),
    ],
)
def test_few_labels_above_a_threshold_are_no_proof(images, kept, wanted, said):
    """Twenty-seven right ones of 27 do not show that 99 of 100 are."""
    result = SimpleNamespace(images=images, kept=kept, precision_wanted=wanted, threshold=0.8)
    assert caution(result) == said


def test_thresholds_are_of_labels_and_of_their_model(tmp_path):
    """Each class has its own; a file of another model, or none of thresholds, is refused."""
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]], np.float32)
    truth = np.array([0, 1, 0, 1])
    assert label_thresholds(scores, truth, 1.0) == [0.6001, 0.7001]
    assert label_thresholds(scores[:2], truth[:2], 1.0) == [0.6001, None]
    model = ModelMetadata(("cat", "dog"), Preprocessing(height=8, width=8), "x", {})
    other = ModelMetadata(("cat", "fox"), Preprocessing(height=8, width=8), "x", {})
    by_class = {"cat": 0.5, "dog": None}
    thresholds.write(tmp_path.as_uri(), model.fingerprint, 0.99, by_class)
    place = str(tmp_path / "thresholds.json")
    assert thresholds.read(place, model) == (0.5, 2.0)
    for wrong, metadata, said in (
        (place, other, "another model"),
        (str(tmp_path / "none.json"), model, "--thresholds"),
        (str(tmp_path), model, "--thresholds"),
    ):
        with pytest.raises(UserInputError, match=said):
            thresholds.read(wrong, metadata)
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(UserInputError, match="evaluate"):
        thresholds.read(str(tmp_path / "list.json"), model)


def test_lowest_threshold_reaches_what_is_wanted():
    """At it, and at no lower one, the wanted share of what it keeps is right; ties stay together."""
    scores = np.array([0.95, 0.9, 0.8, 0.8, 0.7, 0.6], np.float32)
    right = np.array([True, True, True, False, True, False])
    assert lowest_threshold(scores, right, 1.0) == 0.8001
    assert lowest_threshold(scores, right, 0.8) == 0.6001
    assert lowest_threshold(scores, right, 0.6) == 0.0
    assert lowest_threshold(scores, ~right, 0.9) is None
    rng = np.random.default_rng(0)
    scores = rng.random(5000).astype(np.float32)
    right = rng.random(5000) < scores
    found = lowest_threshold(scores, right, 0.9)
    assert right[scores >= np.float32(found)].mean() >= 0.9
    assert not any(
        right[scores >= np.float32(lower)].mean() >= 0.9
        for lower in np.arange(0, found - 5e-5, 1e-4)
    )


def test_curves_keep_their_ends_and_their_area():
    """A hundred points of many are the same curve to the eye."""
    from sklearn import metrics  # takes a second, of every process that collects tests

    rng = np.random.default_rng(1)
    one = rng.random(4000) < 0.4
    scores = (one + rng.normal(0, 0.8, 4000)).astype(np.float32)
    drawn = curves(one, scores)
    x, y = drawn["false_positive_rate"], drawn["true_positive_rate"]
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert len(x) <= 100
    assert metrics.auc(x, y) == pytest.approx(metrics.roc_auc_score(one, scores), abs=2e-3)


def test_calibration_error_of_known_tables():
    """Nine of ten right at 0.9 is perfectly calibrated; all right at 0.5 is off by one half."""
    right = np.array([True] * 9 + [False])
    assert calibration_error(np.full(10, 0.9), right) == pytest.approx(0.0)
    assert calibration_error(np.full(4, 0.5), np.full(4, True)) == pytest.approx(0.5)


def test_wilson_interval_of_a_known_case():
    """81 of 263 (Newcombe 1998, table I): 0.2553 to 0.3662."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
