"""Bulk classification on a real Ray cluster: one row for every image, exactly once."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog import images, inference, models, plans, results, storage
from catdog.classification import ClassifyConfig, classify
from catdog.errors import UserInputError
from catdog.images import DecodeLimits

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
    assert rows.schema.equals(results.SCHEMA)
    assert set(rows["model"].to_pylist()) == {mixed_summary.model}


def test_scores_are_the_models(mixed, mixed_config, mixed_summary, tiny_run):
    """A row's scores are what the model says of `images.decode` of the file's bytes."""
    model = models.load(tiny_run.model)
    predict = inference.load_predictor(model)
    for row in table(mixed_config).to_pylist()[:20]:
        if row["error"]:
            continue
        with open(row["uri"].removeprefix("file://"), "rb") as file:
            data = file.read()
        decoded = images.decode(data, model.metadata.preprocessing, DecodeLimits())
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


def test_another_question_is_refused(mixed_config, mixed_summary, drawings, tiny_run, tmp_path):
    """Other images, another threshold or another model do not mix into finished results."""
    with pytest.raises(UserInputError, match="another job"):
        classify(dataclasses.replace(mixed_config, images=(str(drawings),)))
    with pytest.raises(UserInputError, match="min_probability"):
        classify(dataclasses.replace(mixed_config, min_probability=0.9))
    model = models.load(tiny_run.model)
    models.save(
        (tmp_path / "other").as_uri(),
        model.files,
        labels=("dog", "cat"),
        preprocessing=model.metadata.preprocessing,
        architecture="seed",
        training={},
    )
    other = models.load(str(tmp_path / "other")).metadata.fingerprint
    with pytest.raises(UserInputError) as error:
        classify(dataclasses.replace(mixed_config, model=str(tmp_path / "other")))
    assert other in str(error.value)
    assert model.metadata.fingerprint in str(error.value)


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
    (tmp_path / "results" / results.SUMMARY_FILE).unlink()
    parts = sorted((tmp_path / "results").glob("part-*"))
    kept = {path.name: path.stat().st_mtime_ns for path in parts[1:]}
    lost = pq.read_metadata(parts[0]).num_rows
    parts[0].write_bytes(parts[0].read_bytes()[:-20])
    # The plan's folder is named by the output's place; a moved folder is the same job.
    summary = classify(config)
    assert summary.images_this_run == lost
    assert {p.name: p.stat().st_mtime_ns for p in parts[1:]} == kept
    assert table(config).equals(table(mixed_config))


def test_killed_driver_resumes_to_the_same_table(mixed, mixed_config, mixed_summary, tmp_path):
    """SIGKILL at random moments, again and again: the end is the undisturbed table, row for row."""
    output = tmp_path / "results"
    command = [
        sys.executable,
        "-m",
        "catdog",
        "classify",
        str(mixed),
        "--output",
        str(output),
        "--model",
        mixed_config.model,
        "--workers",
        "2",
        "--batch-size",
        "4",
        "--json",
    ]
    moments = random.Random(7)
    killed = 0
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        wanted = moments.randrange(1, 4)
        while time.monotonic() < deadline and process.poll() is None:
            if len(list(output.glob("part-*"))) >= wanted + killed:
                break
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        process.stdout.close()
    finished = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert finished.returncode == 0, finished.stderr
    summary = json.loads(finished.stdout)
    assert killed >= 1
    assert summary["planned"] == summary["classified"] + summary["rejected"] == 164
    same_rows(table(dataclasses.replace(mixed_config, output=str(output))), table(mixed_config))


def catdog(*arguments, environment=None, **options):
    """The command in a process and a cluster of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "catdog", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
        **options,
    )


def test_two_drivers_at_once_do_no_harm(mixed, mixed_config, mixed_summary, tmp_path):
    """Started on one output at the same moment, both end well and the table is one job's."""
    arguments = ("classify", mixed, "--output", tmp_path / "results", "--model", mixed_config.model)
    drivers = [catdog(*arguments, "--workers", 1) for _ in range(2)]
    for driver in drivers:
        _, errors = driver.communicate(timeout=240)
        assert driver.returncode == 0, errors
    ours = dataclasses.replace(mixed_config, output=str(tmp_path / "results"))
    same_rows(table(ours), table(mixed_config))


def test_changed_archive_is_refused(mixed_config, drawings, tmp_path, ray_cluster):
    """The plan holds byte ranges: an archive of another size is another input."""
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(drawings / "cat" / "cat.0.jpg", "cat/cat.0.jpg")
    config = dataclasses.replace(
        mixed_config, images=(str(archive),), output=str(tmp_path / "results")
    )
    assert classify(config).classified == 1
    with tarfile.open(archive, "a") as tar:
        tar.add(drawings / "dog" / "dog.0.jpg", "dog/dog.0.jpg")
        tar.add(drawings / "dog" / "dog.1.jpg", "dog/dog.1.jpg")
    with pytest.raises(UserInputError, match=r"another job \(images was .*bytes"):
        classify(config)


def test_all_on_s3(s3, s3_server, mixed, mixed_config, mixed_summary, tiny_run, tmp_path):
    """Images, model and results in a bucket: the local table again, and no secret in a record."""
    for path in mixed.rglob("*"):
        if path.is_file():
            storage.write_atomic(
                storage.join(s3, "images", str(path.relative_to(mixed))), path.read_bytes()
            )
    for path in Path(storage.local_path(tiny_run.model)).iterdir():
        storage.write_atomic(storage.join(s3, "model", path.name), path.read_bytes())
    output = f"{s3}/results"
    arguments = ("classify", f"{s3}/images/", "--output", output, "--model", f"{s3}/model")
    driver = catdog(*arguments, "--workers", 2, "--json", environment=s3_server.environment)
    told, errors = driver.communicate(timeout=240)
    assert driver.returncode == 0, errors
    assert json.loads(told)["errors"] == mixed_summary.errors
    plan = plans.read(output)
    ours = pa.concat_tables(results.read_part(plan, shard) for shard in range(plan.shards))
    names = [uri.split("/images/", 1)[1] for uri in ours["uri"].to_pylist()]
    ours = ours.set_column(0, "uri", pa.array(names)).sort_by("uri")
    local = table(mixed_config)
    names = [uri.split("/images/", 1)[1] for uri in local["uri"].to_pylist()]
    same_rows(ours, local.set_column(0, "uri", pa.array(names)).sort_by("uri"))
    record = storage.read_bytes(storage.join(output, "_run.json"), 10**6).decode()
    for secret in (s3_server.environment["AWS_SECRET_ACCESS_KEY"],):
        assert secret not in record + told + errors


def test_dead_store_stops_the_job_and_a_living_one_resumes_it(
    s3_server, drawings, mixed_config, tmp_path, monkeypatch
):
    """A server killed in the middle: exit 1 and one line; started again, the rerun does the rest."""
    (tmp_path / "server").mkdir()
    server = type(s3_server)(tmp_path / "server")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.start()
    try:
        for path in sorted(drawings.rglob("*.jpg")):
            storage.write_atomic(f"s3://pictures/{path.name}", path.read_bytes())
        output = tmp_path / "results"
        arguments = (
            "classify",
            "s3://pictures/",
            "--output",
            output,
            "--model",
            mixed_config.model,
        )
        arguments += ("--workers", 1, "--batch-size", 1)
        driver = catdog(*arguments, environment=server.environment)
        wait_for(lambda: list(output.glob("part-*")), 120)
        server.kill()
        _, errors = driver.communicate(timeout=240)
        assert driver.returncode == 1
        assert "unreachable" in errors
        assert server.environment["AWS_SECRET_ACCESS_KEY"] not in errors
        assert not (output / "_summary.json").exists()
        done = len(list(output.glob("part-*")))
        server.start()
        driver = catdog(*arguments, "--json", environment=server.environment)
        told, errors = driver.communicate(timeout=240)
        assert driver.returncode == 0, errors
        summary = json.loads(told)
        assert summary["classified"] == 160
        assert done == 0 or summary["images_this_run"] < 160
    finally:
        server.kill()


def wait_for(condition, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def same_rows(one, two, tolerance=2e-3):
    """Equal tables, scores up to the rounding of bfloat16 in other batches."""
    for name in one.column_names:
        if name not in ("probability", "scores"):
            assert one[name].equals(two[name]), name
    for ours, theirs in zip(one["scores"].to_pylist(), two["scores"].to_pylist(), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, atol=tolerance)


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


def actors():
    """Process ids of the classifying actors on this machine that descend from this process."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                with open(f"/proc/{entry.name}/cmdline", "rb") as file:
                    command = file.read()
                if command.startswith(b"ray::MapWorker") and b"ClassifyShards" in command:
                    parents = ancestors(int(entry.name))
                    if os.getpid() in parents:
                        yield int(entry.name)
            except OSError:
                continue


def ancestors(process):
    while process > 1:
        with open(f"/proc/{process}/stat") as file:
            process = int(file.read().rsplit(")", 1)[1].split()[1])
        yield process


ON_A_CLUSTER = """
import json, sys
import ray
from catdog.classification import ClassifyConfig, classify
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


def test_counters_are_on_the_nodes_metrics_port(ray_cluster):
    """What workers count is there for Prometheus, with label, reason and stage."""
    import ray

    from catdog.classify_actors import _Metrics

    @ray.remote(num_cpus=0)
    class Worker:
        def count(self):
            self.metrics = _Metrics()  # exported for as long as the worker lives
            done = results.PartCounts(3, Counter({"cat": 2}), Counter({"empty": 1}))
            costs = {"bytes_read": 99, "read_s": 1, "decode_s": 1, "predict_s": 1, "write_s": 1}
            self.metrics.count(done, costs)

    worker = Worker.remote()
    ray.get(worker.count.remote())
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = ['label="cat"', 'error="empty"', 'stage="decode"', "catdog_read_bytes"]

    def exported():
        with urllib.request.urlopen(url, timeout=5) as answer:
            lines = [line for line in answer.read().decode().splitlines() if "catdog_" in line]
        return all(any(word in line for line in lines) for word in wanted)

    wait_for(exported, 60)
