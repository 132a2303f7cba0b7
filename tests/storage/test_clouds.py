"""Azure's and Google's stores, against their emulators, for real."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import io
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog import machine, storage
from catdog.cli import main
from catdog.errors import ErrorCode, UserInputError
from catdog.inputs import PLAN_SCHEMA, SourceLimits, list_images, read_images
from tests.conftest import free_ports

LIMITS = SourceLimits()
ACCOUNT = "devstoreaccount1"
# Not a secret: every Azurite has it.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
KEYS = ["cat/1.jpg", "cat/a b.jpg", "dog/ü日本.jpg", "dog/p%20+q.jpg", "h#h?.jpg", "deep/er/x.jpg"]


class Azure:
    """Azurite: containers and blobs by signed requests."""

    scheme = "az"

    def __init__(self, port):
        program = os.environ.get("AZURITE") or shutil.which("azurite-blob")
        if program is None:
            pytest.skip(
                "no Azurite: `npm install -g azurite` brings it, or AZURITE names its program"
            )
        self.endpoint = f"http://127.0.0.1:{port}"
        flags = ["--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
        self.command = [program, *flags, "--blobPort", str(port)]
        self.environment = {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": f"{self.endpoint}/{ACCOUNT}",
        }
        self.wrong = {"AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"wrong").decode()}

    def make(self, bucket, *, public):
        """A container."""
        headers = {"x-ms-blob-public-access": "container"} if public else {}
        self._put(f"/{bucket}", "restype=container", headers, b"")

    def put(self, bucket, key, data):
        """An object."""
        path = f"/{bucket}/{urllib.parse.quote(key)}"
        self._put(path, "", {"x-ms-blob-type": "BlockBlob"}, data)

    def _put(self, path, query, headers, data):
        now = email.utils.formatdate(usegmt=True)
        headers |= {"x-ms-date": now, "x-ms-version": "2021-08-06"}
        length = str(len(data)) if data else ""
        named = "\n".join(f"{name}:{headers[name]}" for name in sorted(headers))
        resource = (
            f"/{ACCOUNT}/{ACCOUNT}{path}"
            + "".join("\n" + query.replace("=", ":"))[: 99 * bool(query)]
        )
        text = f"PUT\n\n\n{length}\n\napplication/octet-stream\n\n\n\n\n\n\n{named}\n{resource}"
        signed = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signed).decode()}"
        headers["Content-Type"] = "application/octet-stream"
        url = f"{self.endpoint}/{ACCOUNT}{path}" + (f"?{query}" if query else "")
        urllib.request.urlopen(urllib.request.Request(url, data, headers, method="PUT"))


class Google:
    """fake-gcs-server, by its JSON interface, which knows no credentials."""

    scheme = "gs"

    def __init__(self, port):
        program = os.environ.get("FAKE_GCS_SERVER") or shutil.which("fake-gcs-server")
        if program is None:
            pytest.skip("no fake-gcs-server; FAKE_GCS_SERVER names its program")
        self.endpoint = f"http://127.0.0.1:{port}"
        self.command = [program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
        self.command += ["-backend", "memory", "-public-host", f"127.0.0.1:{port}"]
        self.environment = {"STORAGE_EMULATOR_HOST": self.endpoint}
        self.wrong = None

    def make(self, bucket, **_):
        """A bucket, in any case for all."""
        self._post("/storage/v1/b?project=x", b'{"name": "%s"}' % bucket.encode())

    def put(self, bucket, key, data):
        """An object."""
        name = urllib.parse.quote(key, safe="")
        self._post(f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}", data)

    def _post(self, path, data):
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(self.endpoint + path, data, headers))


@pytest.fixture(scope="module", params=[Azure, Google])
def server(request, tmp_path_factory):
    """An emulator that runs, with a bucket for its owner and one for all."""
    folder = tmp_path_factory.mktemp("cloud")
    server = request.param(free_ports(1)[0])
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(server.command, stdout=log, stderr=log, cwd=folder)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(server.endpoint, timeout=5).close()
            except urllib.error.HTTPError:
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            else:
                break
        server.make("photos", public=False)
        server.make("open", public=True)
        for key in KEYS:
            server.put("photos", key, key.encode())
        server.put("open", "cat/1.jpg", b"for all")
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("cat/z.jpg", "z" * 1000)
        server.put("open", "a.zip", stream.getvalue())
        yield server
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def cloud(server, monkeypatch):
    """The server, and the environment of its owner."""
    for name in [name for name in os.environ if name.startswith(("AZURE_", "GOOGLE_", "STORAGE_"))]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
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

    class Job:
        stores = storage.Stores(no_sign_request=True)

    with storage.chosen(Job):
        assert results(planned("az://open/cat/")) == [b"for all"]


@pytest.mark.parametrize("output", ["gs://bucket/out", "az://bucket/out", "https://host/out"])
def test_results_elsewhere_are_refused(capsys, output):
    """With a line, before anything starts; nor does anything else write there."""
    assert main(["classify", "photos", "--output", output]) == 2
    assert "results go to a local folder or to s3://" in capsys.readouterr().err
    with pytest.raises(OSError, match="written to local folders and to S3 alone"):
        storage.write_atomic(f"{output}/x", b"x")
    with pytest.raises(OSError, match="written to local folders and to S3 alone"):
        storage.write_new(f"{output}/x", b"x")


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
