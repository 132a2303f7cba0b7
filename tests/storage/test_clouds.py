"""Azure's and Google's stores, against their emulators, for real."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from catdog import machine, storage
from catdog.cli import main
from catdog.diagnosis import checks
from catdog.errors import ErrorCode, UserInputError
from catdog.inputs import PLAN_SCHEMA, SourceLimits, list_images, read_images
from catdog.storage import clouds
from tests.jobs import catdog
from tests.storage.clouds import ACCOUNT, owned, serving_xml

LIMITS = SourceLimits()
KEYS = ["cat/1.jpg", "cat/a b.jpg", "dog/ü日本.jpg", "dog/p%20+q.jpg", "h#h?.jpg", "deep/er/x.jpg"]


@pytest.fixture(scope="module", params=["azurite", "fake_gcs"])
def server(request):
    """An emulator that runs, with a bucket for its owner and one for all."""
    server = request.getfixturevalue(request.param)
    server.make("photos", public=False)
    server.make("open", public=True)
    for key in KEYS:
        server.put("photos", key, key.encode())
    server.put("open", "cat/1.jpg", b"for all")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("cat/z.jpg", "z" * 1000)
    server.put("open", "a.zip", stream.getvalue())
    return server


@pytest.fixture
def cloud(server, monkeypatch):
    """The server, and the environment of its owner."""
    owned(server, monkeypatch)
    return server


def planned(*inputs):
    return pa.Table.from_batches(list_images([str(i) for i in inputs], LIMITS), PLAN_SCHEMA)


def results(table):
    return list(read_images(table, LIMITS, 8))


def test_a_bucket_is_read_like_any_other(cloud, tmp_path):
    """Folders, globs, single objects, archives and lists; odd names are only names."""
    top = f"{cloud.scheme}://photos"
    table = planned(f"{top}/")
    assert sorted(table["name"].to_pylist()) == sorted(KEYS)
    assert [each.decode() for each in results(table)] == table["name"].to_pylist()
    assert planned(f"{top}/cat")["name"].to_pylist() == ["1.jpg", "a b.jpg"]
    assert planned(f"{top}/*/1*.jpg").num_rows == 1
    (tmp_path / "l.txt").write_text(f"{top}/cat/1.jpg\n{top}/gone.jpg\n")
    first, gone = results(planned(tmp_path / "l.txt"))
    assert (first, gone.code) == (b"cat/1.jpg", ErrorCode.MISSING)
    assert results(planned(f"{cloud.scheme}://open/a.zip")) == [b"z" * 1000]
    assert storage.read_range(f"{top}/cat/1.jpg", 100, 5) == b""


def test_other_spellings(cloud):
    """`gcs://`, `abfs://` and `abfss://` are the same stores."""
    for other in {"gs": ("gcs",), "az": ("abfs", "abfss")}[cloud.scheme]:
        assert results(planned(f"{other}://photos/cat/1.jpg")) == [b"cat/1.jpg"]


def test_an_object_that_was_written_over_is_another(cloud):
    """As on other stores, its row is `changed`."""
    cloud.put("open", "x.jpg", b"one")
    table = planned(f"{cloud.scheme}://open/")
    cloud.put("open", "x.jpg", b"two")
    found = results(table)[table["name"].to_pylist().index("x.jpg")]
    assert found.code == ErrorCode.CHANGED


def test_what_is_not_there_is_refused(cloud):
    """One line, about the input."""
    places = ["photos/gone/", "photos/gone.jpg"]
    if cloud.scheme == "az":  # the other emulator is at fault itself where there is no bucket
        places.append("nobody/x.jpg")
    for place in places:
        with pytest.raises(UserInputError, match="there is no such file"):
            planned(f"{cloud.scheme}://{place}")


def test_keys_and_public_buckets(cloud, monkeypatch):
    """Wrong keys are refused in a line; a public container is read without any."""
    if cloud.wrong is None:
        pytest.skip("this emulator knows no credentials")
    for name, value in cloud.wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserInputError, match="denies access"):
        planned("az://photos/")
    with pytest.raises(checks._AmissError, match="denies access") as amiss:
        checks._place("az://photos/")
    assert "AZURE_STORAGE_ACCOUNT_KEY" in amiss.value.remedy

    class Job:
        stores = storage.Stores(no_sign_request=True)

    with storage.chosen(Job):
        assert results(planned("az://open/cat/")) == [b"for all"]


def stored(output):
    """The rows of a results folder, by URI."""
    parts = []
    for name in storage.list_names(output):
        if name.endswith(".parquet"):
            with storage.open_input(storage.join(output, name)) as file:
                parts.append(pq.read_table(file))
    return pa.concat_tables(parts).sort_by("uri")


@pytest.mark.parametrize(
    ("verb", "output", "said"),
    [
        ("classify", "https://host/out", "results go to a local folder, to s3://, gs:// or az://"),
        ("classify", "hf://datasets/a/b/out", "results go to a local folder, to s3://, gs:// or"),
        ("train", "az://bucket/out", "a training run writes to a local folder or to s3://"),
        ("train", "gs://bucket/out", "a training run writes to a local folder or to s3://"),
    ],
)
def test_where_nothing_can_be_written_is_refused(capsys, verb, output, said):
    """With a line, before anything starts; nor does anything else write to web servers."""
    assert main([verb, "photos", "--output", output]) == 2
    assert said in capsys.readouterr().err
    if not output.startswith(("az://", "gs://")):
        for write in (storage.write_atomic, storage.write_new):
            with pytest.raises(OSError, match="local folders, s3://, gs:// and az://"):
                write(f"{output}/x", b"x")


@pytest.mark.parametrize("store", ["az", "gs"])
def test_files_are_written_as_elsewhere(store, request):
    """One of many creates; a file of any size is whole or absent; names are listed; all is deleted."""
    top = request.getfixturevalue(store)
    assert storage.list_names(top) == []
    with ThreadPoolExecutor(24) as pool:
        won = list(pool.map(lambda n: storage.write_new(f"{top}/one", b"%d" % n), range(24)))
    assert sum(won) == 1
    assert storage.read_bytes(f"{top}/one", 100) == b"%d" % won.index(True)
    assert storage.write_new(f"{top}/one", b"%d" % won.index(True))  # as if its answer was lost

    def interrupted():
        with storage.open_atomic(f"{top}/half") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    table = pa.table({"n": range(1000)})
    with storage.open_atomic(f"{top}/below/t ü.parquet") as file:
        pq.write_table(table, file)
    with storage.open_input(f"{top}/below/t ü.parquet") as file:
        assert pq.read_table(file).equals(table)
    storage.write_atomic(f"{top}/one", b"over it")
    assert storage.read_bytes(f"{top}/one", 100) == b"over it"
    assert storage.list_names(top) == ["below/", "one"]
    assert storage.has_conditions(f"{top}/probe")
    for _ in range(2):
        storage.delete(f"{top}/one")
        storage.delete(f"{top}/below/t ü.parquet")
    assert storage.list_names(top) == []


def test_a_large_file_is_sent_in_parts(az, monkeypatch):
    """And appears as a whole; what does not stay in memory meanwhile is on the disk."""
    monkeypatch.setattr(clouds, "_SPOOLED_BYTES", 1 << 20)
    data = random.Random(0).randbytes(12 << 20)
    with storage.open_atomic(f"{az}/large") as file:
        for start in range(0, len(data), 1 << 20):
            file.write(data[start : start + (1 << 20)])
        assert not storage.exists(f"{az}/large")
    assert storage.read_bytes(f"{az}/large", 16 << 20) == data


def test_results_need_create_if_absent(monkeypatch, drawings, tiny_model, capsys):
    """A store that lets a second writer overwrite the first is refused, and nothing stays there."""
    with serving_xml(careful=False) as server:
        owned(server, monkeypatch)
        command = ["classify", str(drawings), "--output", "gs://results/x", "--model", tiny_model]
        assert main(command) == 2
        assert "results need a store with create-if-absent" in capsys.readouterr().err
        assert not server.objects


def test_images_without_credentials_results_with_them(azurite, az, monkeypatch):
    """`--no-sign-request` is about the images alone."""
    azurite.make("free", public=True)
    azurite.put("free", "a.jpg", b"for all")

    class Job:
        stores = storage.Stores(no_sign_request=True)
        output = az

    with storage.chosen(Job):
        assert storage.write_new(f"{az}/x", b"x")
        assert storage.read_bytes("az://free/a.jpg", 100) == b"for all"
        with pytest.raises(OSError, match=r"denies access|does not exist|answered"):
            storage.write_new("az://free/x", b"x")


def test_a_lost_answer_is_no_other_writer(monkeypatch):
    """What is created, replaced or deleted once more, since no answer came, was this writer's."""
    with serving_xml(careful=True) as server:
        owned(server, monkeypatch)
        server.cuts = 1
        assert storage.write_new("gs://results/x", b"first")
        assert server.cuts == 0
        _, version = storage.read_version("gs://results/x", 100)
        server.cuts = 1
        assert storage.write_over("gs://results/x", b"second", version)
        server.cuts = 1
        storage.write_atomic("gs://results/x", b"third")
        assert (storage.read_bytes("gs://results/x", 100), server.cuts) == (b"third", 0)


@pytest.mark.slow
@pytest.mark.skipif(machine.has_gpu(), reason="this machine has a GPU, which is Ray's to give out")
@pytest.mark.parametrize("store", ["az", pytest.param("gs", marks=pytest.mark.long)])
def test_a_killed_job_goes_on(store, request, drawings, tiny_model, tmp_path):
    """Killed before and after a part file is there, the same command goes on; the rows are the same.

    So are those of a further generation, which writes over the part file that it read.
    """
    output, here = request.getfixturevalue(store), str(tmp_path / "here")
    images, faults = tmp_path / "images", tmp_path / "faults"
    for folder in (images, faults):
        folder.mkdir()
    for path in sorted(drawings.rglob("*.jpg"))[:6]:
        shutil.copy(path, images)
    (images / "none.jpg").write_bytes(b"no picture at all")
    options = ["--model", tiny_model, "--no-report", "--max-rejected", "1", "--json"]
    assert main(["classify", str(images), "--output", here, *options]) == 0
    for number, fault in enumerate(["before */part-0000000-*", "after */part-0000000-*"]):
        (faults / str(number)).write_text(fault)
    python_path = os.pathsep.join([str(Path(__file__).parents[1] / "faults"), *sys.path])
    environment = {"PYTHONPATH": python_path, "CATDOG_FAULTS": str(faults)}
    ends = []
    while not ends or ends[-1]:
        driver = catdog("classify", images, "--output", output, *options, environment=environment)
        told, errors = driver.communicate(timeout=240)
        assert driver.returncode in (0, -signal.SIGKILL), errors
        ends.append(driver.returncode)
    assert ends == [-signal.SIGKILL, -signal.SIGKILL, 0]
    summary = json.loads(told)
    assert (summary["planned"], summary["classified"], summary["rejected"]) == (7, 6, 1)
    assert stored(output).equals(pq.read_table(here).sort_by("uri"))
    shutil.copy(next((drawings / "dog").iterdir()), images / "none.jpg")
    shutil.copy(next((drawings / "dog").iterdir()), images / "later.jpg")
    for place in (output, here):
        assert main(["classify", str(images), "--output", place, *options]) == 0
    assert stored(output).equals(pq.read_table(here).sort_by("uri"))
    assert pc.count(stored(output)["label"]).as_py() == 8
    assert main(["classify", str(images), "--output", output, *options]) == 0


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(machine.has_gpu(), reason="this machine has a GPU, which is Ray's to give out")
def test_ray_workers_read_and_write_there(azurite, az, drawings, tiny_model, tmp_path):
    """Two workers of Ray's classify a container into another: one row for each image, as from here."""
    azurite.make("many", public=False)
    paths = sorted(drawings.rglob("*.jpg"))
    for path in paths:
        azurite.put("many", path.relative_to(drawings).as_posix(), path.read_bytes())
    here = str(tmp_path / "here")
    for source, output in (("az://many/", az), (drawings, here)):
        options = ["--output", output, "--model", tiny_model, "--workers", "2", "--json"]
        driver = catdog("classify", source, *options)
        told, errors = driver.communicate(timeout=200)
        assert driver.returncode == 0, errors
        assert json.loads(told)["executor"] == "ray"
    rows, same = stored(az), pq.read_table(here).sort_by("uri")
    names = [path.relative_to(drawings).as_posix() for path in paths]
    assert rows["uri"].to_pylist() == sorted(f"az://many/{name}" for name in names)
    assert rows["error"].null_count == len(names)
    assert rows.drop_columns("uri").equals(same.drop_columns("uri"))
    assert "_report.html" in storage.list_names(az)


@pytest.mark.slow
def test_without_credentials_the_line_names_them(monkeypatch):
    """And the flag that does without."""
    for name in [name for name in os.environ if name.startswith(("AZURE_", "GOOGLE_", "STORAGE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_MSI_ENDPOINT", "http://127.0.0.1:9/")  # nobody listens
    with pytest.raises(UserInputError, match=r"AZURE_STORAGE_ACCOUNT_NAME.*--no-sign-request"):
        planned("az://photos/")


@pytest.mark.skipif(machine.has_gpu(), reason="this machine has a GPU, which is Ray's to give out")
def test_a_job_reads_it(cloud, drawings, tiny_model, tmp_path, monkeypatch):
    """Classified from there, pictures and an archive of them have the answers that they have here."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cloud.make("job", public=False)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path in sorted(drawings.rglob("*.jpg"))[:4]:
            cloud.put("job", f"photos/{path.name}", path.read_bytes())
            archive.writestr(path.name, path.read_bytes())
    cloud.put("job", "all.zip", stream.getvalue())
    answers = []
    for number, image in enumerate(
        (f"{cloud.scheme}://job/photos/", f"{cloud.scheme}://job/all.zip", str(drawings))
    ):
        output = str(tmp_path / str(number))
        command = ["classify", image, "--output", output, "--model", tiny_model, "--no-report"]
        assert main(command) == 0
        rows = pq.read_table(output, columns=["uri", "label", "scores", "error"]).to_pylist()
        assert {row["error"] for row in rows} == {None}
        named = {row["uri"].partition("::")[0].rpartition("/")[2]: row["scores"] for row in rows}
        answers.append(named)
    assert len(answers[0]) == len(answers[1]) == 4
    assert answers[0].items() <= answers[2].items()
    assert answers[1] == answers[0]
