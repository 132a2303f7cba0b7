"""Bulk classification on a real Ray cluster: one row for every image, exactly once."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog import api
from catdog.classification import ClassifyConfig, classify
from catdog.errors import UserInputError
from catdog.inputs import SourceLimits, list_images, read_images
from catdog.model import folders, inference
from catdog.pixels import DecodeLimits, decode
from catdog.results import ledger, part_files, plans
from tests.jobs import actors, catdog, same_rows, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def mixed(drawings, tmp_path_factory):
    """A folder of 160 drawn pictures and some files that are not what their names say."""
    folder = tmp_path_factory.mktemp("mixed") / "images"
    shutil.copytree(drawings, folder)
    good = (drawings / "cat").iterdir().__next__().read_bytes()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture at all")
    (folder / "cut.jpg").write_bytes(good[: len(good) // 2])
    (folder / "sp ace #1 ?%20ü.jpg").write_bytes(good)
    return folder


@pytest.fixture(scope="session")
def mixed_config(mixed, tiny_run, tmp_path_factory):
    return ClassifyConfig(
        images=(str(mixed),),
        output=str(tmp_path_factory.mktemp("classified") / "results"),
        model=tiny_run.output,
        workers=2,
    )


@pytest.fixture(scope="session")
def mixed_summary(ray_cluster, mixed_config):
    return classify(mixed_config)


def table(config):
    return pq.read_table(config.output).sort_by("uri")


def test_every_file_has_one_row(mixed, mixed_config, mixed_summary):
    """Planned = classified + rejected = files in the folder, each URI once, odd names too."""
    rows = table(mixed_config)
    expected = sorted(f"file://{path}" for path in mixed.rglob("*") if path.is_file())
    assert rows["uri"].to_pylist() == expected
    assert mixed_summary.planned == mixed_summary.classified + mixed_summary.rejected == 164
    assert mixed_summary.errors == {"empty": 1, "not-an-image": 1, "truncated": 1}
    assert rows.schema.equals(part_files.SCHEMA)
    assert set(rows["model"].to_pylist()) == {mixed_summary.model}


def test_scores_are_the_models(mixed, mixed_config, mixed_summary, tiny_run):
    """A row's scores are what the model says of `decode` of the file's bytes."""
    model = folders.load(tiny_run.model)
    predict = inference.load_predictor(model)
    for row in table(mixed_config).to_pylist()[:20]:
        if row["error"]:
            continue
        with open(row["uri"].removeprefix("file://"), "rb") as file:
            data = file.read()
        decoded = decode(data, model.metadata.preprocessing, DecodeLimits())
        expected = predict(decoded.pixels[None])[0]
        np.testing.assert_allclose(row["scores"], expected, atol=2e-3)  # bfloat16, other batch
        assert row["label"] == model.metadata.labels[int(np.argmax(row["scores"]))]
        assert row["probability"] == max(row["scores"])
        assert (row["width"], row["height"]) == (decoded.width, decoded.height)
        assert (row["format"], row["size"]) == ("JPEG", len(data))


def test_rerun_of_a_finished_job_does_nothing(mixed_config, mixed_summary):
    """Nothing is read, nothing is written, and the summary says so."""
    before = sorted((p.name, p.stat().st_mtime_ns) for p in os.scandir(mixed_config.output))  # type: ignore[attr-defined]
    again = classify(mixed_config)
    assert again.already_complete
    assert again.planned == mixed_summary.planned
    after = sorted((p.name, p.stat().st_mtime_ns) for p in os.scandir(mixed_config.output))  # type: ignore[attr-defined]
    assert before == after


def test_frames_of_a_program(ray_cluster, drawings, tiny_model, tmp_path):
    """A pandas frame of bytes is a job: its rows open, the same frame is done, another one is added."""
    files = sorted((drawings / "cat").iterdir())[:3]
    frame = pd.DataFrame({"image": [file.read_bytes() for file in files], "label": "cat"})
    output = str(tmp_path / "out")
    summary = api.classify(frame, output, model=tiny_model, workers=1)
    assert (summary.planned, summary.classified) == (3, 3)
    uris = pq.read_table(output)["uri"].to_pylist()
    entries = pa.Table.from_batches(list_images(uris, SourceLimits()))
    assert list(read_images(entries, SourceLimits(), 1)) == frame["image"].to_list()
    assert api.classify(frame, output, model=tiny_model, workers=1).already_complete
    again = api.classify(frame[:2], output, model=tiny_model, workers=1)
    assert (again.planned, again.classified) == (5, 5)
    assert len(list((tmp_path / "out" / "_given").iterdir())) == 2


def test_another_question_is_refused(mixed_config, mixed_summary, tiny_run, tmp_path):
    """Another threshold, arithmetic or model does not mix into finished results."""
    with pytest.raises(UserInputError, match=r"another job \(min_probability was 0.0, is 0.9"):
        classify(dataclasses.replace(mixed_config, min_probability=0.9))
    other = {"float32": "bfloat16", "bfloat16": "float32"}[mixed_summary.precision]
    with pytest.raises(
        UserInputError, match=f"precision was {mixed_summary.precision}, is {other}"
    ):
        classify(dataclasses.replace(mixed_config, precision=other))
    with pytest.raises(UserInputError, match="engine was openvino, is tensorflow"):
        classify(dataclasses.replace(mixed_config, engine="tensorflow"))
    model = folders.load(tiny_run.model)
    folders.save(
        (tmp_path / "other").as_uri(),
        model.files,
        labels=("dog", "cat"),
        preprocessing=model.metadata.preprocessing,
        architecture="article",
        training={},
    )
    other = folders.load(str(tmp_path / "other")).metadata.fingerprint
    with pytest.raises(UserInputError) as error:
        classify(dataclasses.replace(mixed_config, model=str(tmp_path / "other")))
    assert other in str(error.value)
    assert model.metadata.fingerprint in str(error.value)


def test_what_computes_is_decided_once(mixed_config, mixed_summary, tmp_path):
    """A job begun in float32 goes on so, whatever `auto` would be now; its answers are of one kind."""
    config = dataclasses.replace(
        mixed_config, output=str(tmp_path / "results"), precision="float32", batch_size=1
    )
    assert classify(config).precision == "float32"
    whole = table(config)
    (tmp_path / "results" / ledger.SUMMARY_FILE).unlink()
    for part in sorted((tmp_path / "results").glob("part-*"))[1:]:
        part.unlink()
    # Where this CPU has bfloat16, `auto` is that.
    resumed = classify(dataclasses.replace(config, precision="auto"))
    assert resumed.precision == "float32"
    assert table(config).equals(whole)
    question = json.loads((tmp_path / "results" / ledger.RUN_FILE).read_text())["question"]
    assert (question["precision"], question["device"]) == ("float32", "cpu")


def test_results_of_an_earlier_version_are_named(mixed_config, mixed_summary, tmp_path):
    """A folder whose record does not tell what computed is not gone on with: one line says so."""
    shutil.copytree(mixed_config.output, tmp_path / "results")
    record = tmp_path / "results" / ledger.RUN_FILE
    content = json.loads(record.read_text())
    for name in ("engine", "precision", "device"):
        del content["question"][name]
    record.write_text(json.dumps(content))
    with pytest.raises(UserInputError, match="earlier version of catdog"):
        classify(dataclasses.replace(mixed_config, output=str(tmp_path / "results")))


def test_of_two_jobs_in_one_new_folder_one_is_refused(mixed, mixed_config, tmp_path, ray_cluster):
    """Started at the same moment with different questions: one is done, the other exits with 2."""
    import ray

    output = tmp_path / "results"
    arguments = ("classify", mixed, "--output", output, "--model", mixed_config.model)
    cluster = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    drivers = [
        catdog(*arguments, "--workers", 1, "--min-probability", threshold, environment=cluster)
        for threshold in ("0", "1")
    ]
    errors = [driver.communicate(timeout=240)[1] for driver in drivers]
    codes = [driver.returncode for driver in drivers]
    assert sorted(codes) == [0, 2], errors
    assert "another job (min_probability was" in errors[codes.index(2)].splitlines()[-1]
    labels = set(pq.read_table(output)["label"].drop_null().to_pylist())
    assert (labels == {part_files.UNCERTAIN}) == (codes[1] == 0)


def test_pictures_that_come_later_are_classified(drawings, mixed_config, mixed_summary, tmp_path):
    """The same command lists again: what is new is done, what is known is not, gone rows stay."""
    folder = tmp_path / "images"
    pictures = sorted(drawings.rglob("*.jpg"))
    folder.mkdir()
    for number, picture in enumerate(pictures[:100]):
        shutil.copy(picture, folder / f"{number:03d}.jpg")
    config = dataclasses.replace(
        mixed_config, images=(str(folder),), output=str(tmp_path / "results")
    )
    first = classify(config)
    assert (first.new, first.images_this_run, first.generation) == (100, 100, 1)
    before = table(config)
    for number, picture in enumerate(pictures[100:103], 100):
        shutil.copy(picture, folder / f"{number:03d}.jpg")
    (folder / "007.jpg").unlink()
    assert classify(dataclasses.replace(config, no_new=True)).already_complete
    grown = classify(config)
    assert (grown.planned, grown.new, grown.gone, grown.images_this_run) == (103, 3, 1, 3)
    assert table(config).slice(0, 100).equals(before)
    assert table(config)["uri"].to_pylist()[100:] == [
        f"file://{folder}/{number}.jpg" for number in (100, 101, 102)
    ]
    again = classify(config)
    assert again.already_complete
    assert (again.images_this_run, again.new, again.gone) == (0, 0, 1)
    dropped = classify(dataclasses.replace(config, drop_gone=True))
    assert (dropped.planned, dropped.images_this_run) == (102, 0)
    assert f"file://{folder}/007.jpg" not in table(config)["uri"].to_pylist()
    assert table(config).num_rows == 102
    assert [each["new"] for each in dropped.generations] == [100, 3, 0]
    # One folder more is growth, too.
    other = classify(dataclasses.replace(config, images=(str(folder), str(pictures[110]))))
    assert (other.planned, other.new) == (103, 1)


def test_a_folder_is_watched(drawings, mixed_config, tmp_path, ray_cluster):
    """`--watch` classifies what comes, outlives an empty folder, and SIGTERM ends it well."""
    import ray

    folder, output = tmp_path / "images", tmp_path / "results"
    folder.mkdir()
    pictures = sorted(drawings.rglob("*.jpg"))
    shutil.copy(pictures[0], folder / "0.jpg")
    arguments = ("classify", folder, "--output", output, "--model", mixed_config.model)
    cluster = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    watch = catdog(*arguments, "--watch", "0.2", "--no-report", "--json", environment=cluster)

    def wait_until_planned(images):
        for line in watch.stdout:
            if json.loads(line)["planned"] == images:
                return
        raise AssertionError(watch.stderr.read())

    wait_until_planned(1)
    (folder / "0.jpg").unlink()
    time.sleep(1)
    shutil.copy(pictures[1], folder / "1.jpg")
    wait_until_planned(2)
    watch.send_signal(signal.SIGTERM)
    _, errors = watch.communicate(timeout=60)
    assert watch.returncode == 0, errors
    assert "Traceback" not in errors
    assert pq.read_table(output).num_rows == 2


def test_rejected_images_are_tried_again_on_request(mixed, mixed_config, mixed_summary, tmp_path):
    """`--retry-rejected` changes the rows of rejected images and leaves the others as they are."""
    folder = tmp_path / "images"
    shutil.copytree(mixed, folder)
    config = dataclasses.replace(
        mixed_config, images=(str(folder),), output=str(tmp_path / "results")
    )
    classify(config)
    before = table(config)
    shutil.copy(folder / "cat" / "cat.0.jpg", folder / "cut.jpg")
    summary = classify(dataclasses.replace(config, retry_rejected=True))
    after = table(config)
    assert summary.errors == {"empty": 1, "not-an-image": 1}
    changed = [
        new["uri"].rsplit("/", 1)[1]
        for old, new in zip(before.to_pylist(), after.to_pylist(), strict=True)
        if old != new
    ]
    assert changed == ["cut.jpg"]


def test_lost_shard_is_done_again_and_only_that(mixed_config, mixed_summary, tmp_path):
    """A resumed job does what is missing: other part files stay as they are."""
    shutil.copytree(mixed_config.output, tmp_path / "results")
    config = dataclasses.replace(mixed_config, output=str(tmp_path / "results"))
    (tmp_path / "results" / ledger.SUMMARY_FILE).unlink()
    parts = sorted((tmp_path / "results").glob("part-*"))
    kept = {path.name: path.stat().st_mtime_ns for path in parts[1:]}
    lost = pq.read_metadata(parts[0]).num_rows
    parts[0].write_bytes(parts[0].read_bytes()[:-20])
    # The plan's folder is named by the output's place; a moved folder is the same job.
    summary = classify(config)
    assert summary.images_this_run == lost
    assert {p.name: p.stat().st_mtime_ns for p in parts[1:]} == kept
    assert table(config).equals(table(mixed_config))


def test_two_drivers_at_once_do_no_harm(mixed, mixed_config, mixed_summary, tmp_path):
    """Started on one output at the same moment, both end well and the table is one job's."""
    arguments = ("classify", mixed, "--output", tmp_path / "results", "--model", mixed_config.model)
    drivers = [catdog(*arguments, "--workers", 1) for _ in range(2)]
    for driver in drivers:
        _, errors = driver.communicate(timeout=240)
        assert driver.returncode == 0, errors
    ours = dataclasses.replace(mixed_config, output=str(tmp_path / "results"))
    same_rows(table(ours), table(mixed_config))


def test_killed_worker_costs_nothing(mixed_config, mixed_summary, tmp_path):
    """SIGKILL of a classifying actor in the middle: its shard is done by another, once."""
    config = dataclasses.replace(mixed_config, output=str(tmp_path / "results"), batch_size=1)
    killed = []

    def kill_one():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not killed:
            if any(tmp_path.glob("results/part-*")):
                for process in actors():
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)
                    return
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one)
    killer.start()
    summary = classify(config)
    killer.join()
    assert killed
    assert summary.planned == mixed_summary.planned
    same_rows(table(config), table(mixed_config))


def test_a_stream_gives_the_rows_of_its_members(mixed_config, drawings, tmp_path, ray_cluster):
    """Of a `.tar.gz` neighbouring shards go to one worker at a time: same rows as from a tar."""
    pictures = [path.read_bytes() for path in sorted(drawings.rglob("*.jpg"))]
    for name, mode in (("a.tar", "w"), ("a.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as tar:
            for number in range(600):
                member = tarfile.TarInfo(f"{number:03d}.jpg")
                member.size = len(pictures[number % len(pictures)])
                tar.addfile(member, io.BytesIO(pictures[number % len(pictures)]))
    tables = []
    for name in ("a.tar", "a.tar.gz"):
        config = dataclasses.replace(
            mixed_config, images=(str(tmp_path / name),), output=str(tmp_path / f"{name}-results")
        )
        config = dataclasses.replace(config, workers=1)
        assert classify(config).classified == 600
        tables.append(table(config))
    plan = plans.read((tmp_path / "a.tar.gz-results").as_uri())
    assert max(map(len, plan.tasks(range(plan.shards), workers=1))) > 1
    assert tables[0].drop(["uri"]).equals(tables[1].drop(["uri"]))


ON_A_CLUSTER = """
import json, sys
import ray
from catdog.classification import ClassifyConfig, classify
from catdog.results import plans
plans._MAX_TASKS = 3  # several shards each
ray.init("local", include_dashboard=False, log_to_driver=False, **json.loads(sys.argv[1]))
classify(ClassifyConfig(**json.loads(sys.argv[2])))
"""


@pytest.mark.parametrize(
    ("resources", "flags"),
    [
        ({"num_cpus": 1}, {}),
        ({"num_cpus": 64}, {}),
        ({"num_cpus": 1, "num_gpus": 1}, {"engine": "tensorflow", "precision": "float32"}),
    ],
    ids=["one-cpu", "64-cpus", "gpu-form-with-one-cpu"],
)
def test_any_cluster_comes_to_the_same_end(
    mixed, mixed_config, mixed_summary, tmp_path, resources, flags
):
    """One logical CPU is enough, 64 are no trap, and decoding apart from scoring gives the same.

    The GPU is a logical one: TensorFlow finds none and computes on the CPU.
    """
    config = {
        "images": [str(mixed)],
        "output": str(tmp_path / "results"),
        "model": mixed_config.model,
        **flags,
    }
    subprocess.run(
        [sys.executable, "-c", ON_A_CLUSTER, json.dumps(resources), json.dumps(config)],
        check=True,
        timeout=240,
    )
    ours = table(dataclasses.replace(mixed_config, output=str(tmp_path / "results")))
    same_rows(ours, table(mixed_config), tolerance=1e-2)


def test_a_folder_with_other_things_is_left_alone(mixed_config, tmp_path):
    """Results are never written among somebody's files."""
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserInputError, match="not empty"):
        classify(dataclasses.replace(mixed_config, output=str(tmp_path)))


def test_part_of_a_plan_is_nothing_in_the_way(mixed_config, tmp_path):
    """What a command leaves whose mistake was found in the middle of its listing."""
    (tmp_path / "_plan").mkdir()
    (tmp_path / "_plan" / "0-00000.parquet").write_bytes(b"of an older command")
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(UserInputError, match="nowhere"):
        classify(dataclasses.replace(mixed_config, images=(nowhere,), output=str(tmp_path)))


def test_counters_are_those_of_the_summary(mixed_config, mixed_summary, tmp_path):
    """What Prometheus reads on a node's metrics port after a job is what the summary says."""
    before = exported()
    config = dataclasses.replace(mixed_config, output=str(tmp_path / "results"))
    summary = classify(config)
    expected = {("ray_catdog_read_bytes_total", None): summary.bytes_read}
    for metric, values in (
        ("ray_catdog_classified_images_total", summary.labels),
        ("ray_catdog_rejected_images_total", summary.errors),
        ("ray_catdog_stage_seconds_total", summary.stages_s),
    ):
        expected |= {(metric, name): value for name, value in values.items()}
    assert set(summary.stages_s) == {"read", "decode", "predict", "write"}

    def arrived():
        now = exported()
        counted = {key: now[key] - before[key] for key in now if key[0].endswith("_total")}
        return {key: value for key, value in counted.items() if value} == {
            key: pytest.approx(value, abs=0.0051)  # the summary's seconds are rounded
            for key, value in expected.items()
        }

    wait_for(arrived, 60)


def exported():
    """What the node exports now: (metric, label or reason or stage) -> sum over its workers."""
    import ray

    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    sums = Counter()
    for metric, tags, value in re.findall(r"^(\w*catdog_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        kind = re.search(r'(?:^|,)(?:label|error|stage)="([^"]*)"', tags)
        sums[metric, kind and kind[1]] += float(value)
    return sums
