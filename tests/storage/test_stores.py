"""Several stores at once: each asked by its own profile, or without credentials."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from catdog import storage
from catdog.cli import main
from catdog.errors import UserInputError
from catdog.inputs import SourceLimits, list_images
from catdog.storage import Stores, ranges
from tests.conftest import BUCKET, SECRET_KEY, S3Server
from tests.jobs import catdog

pytestmark = pytest.mark.slow  # a second store has to start

OTHER_KEY = "AKIAOTHERSTORE"


@pytest.fixture(scope="session")
def other_server(tmp_path_factory):
    """A second store, with a bucket of the same name, keys of its own, and reading for all."""
    server = S3Server(tmp_path_factory.mktemp("s3-other"), access_key=OTHER_KEY)
    server.start()
    server.shell(f"s3.configure -user=anonymous -buckets={BUCKET} -actions=Read,List -apply")
    yield server
    server.kill()


@pytest.fixture
def profiles(s3_server, other_server, tmp_path, monkeypatch):
    """Profiles of both stores in AWS files, and nothing else in the environment."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "CATDOG_"))]:
        monkeypatch.delenv(name)
    config, credentials = tmp_path / "config", tmp_path / "credentials"
    config.write_text(
        f"[profile mine]\nendpoint_url = {s3_server.endpoint}\nregion = us-east-1\n"
        f"[profile theirs]\nservices = there\nregion = eu-west-1\n"
        f"[services there]\ns3 =\n  endpoint_url = {other_server.endpoint}\n"
        f"[profile public]\nendpoint_url = {other_server.endpoint}\n"
        f"auth_scheme_preference = noAuth\n"
        f"[profile wrong]\nendpoint_url = {other_server.endpoint}\n"
    )
    credentials.write_text(
        "".join(
            f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET_KEY}\n"
            for name, key in (
                ("mine", s3_server.access_key),
                ("theirs", OTHER_KEY),
                ("wrong", s3_server.access_key),
            )
        )
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@dataclass(frozen=True)
class Job:
    """As much of a configuration as stores are told."""

    images: tuple[str, ...] = (f"s3://{BUCKET}/in",)
    output: str | None = f"s3://{BUCKET}/in/results"
    model: str | None = None
    stores: Stores = field(default_factory=Stores)


def put(uri, data, profile):
    with storage.chosen(Job((), uri, stores=Stores(output_profile=profile))):
        storage.write_atomic(uri, data)


def test_each_place_has_its_store(profiles, s3_server, other_server):
    """Images of one store, results on another, the model on a third account; one bucket's name."""
    put(f"s3://{BUCKET}/in/x.jpg", b"theirs", "theirs")
    put(f"s3://{BUCKET}/model/m", b"model", "mine")
    job = Job(
        model=f"s3://{BUCKET}/model",
        stores=Stores(source_profile="theirs", output_profile="mine", model_profile="mine"),
    )
    with storage.chosen(job):
        assert storage.list_names(f"s3://{BUCKET}/in") == ["x.jpg"]
        assert storage.read_bytes(f"s3://{BUCKET}/in/x.jpg", 100) == b"theirs"
        storage.write_atomic(f"{job.output}/part", b"mine")
        assert storage.read_bytes(f"{job.output}/part", 100) == b"mine"
        assert storage.read_bytes(f"{job.model}/m", 100) == b"model"
        assert storage.filesystem(job.output)[0].endpoint_url == s3_server.endpoint
    with storage.chosen(Job(stores=Stores(source_profile="mine", output_profile="theirs"))):
        assert storage.list_names(f"s3://{BUCKET}/in") == ["results/"]
        assert storage.list_names(f"s3://{BUCKET}/in/results") == []


def test_ranges_of_each_store_are_read_by_obstore(profiles):
    """Endpoint, keys and unsigned requests of a profile reach the quick client as well."""
    put(f"s3://{BUCKET}/quick.jpg", b"theirs", "theirs")
    for chosen in (Stores(source_profile="theirs"), Stores(source_profile="public")):
        with storage.chosen(Job(output=None, stores=chosen)):
            assert ranges.read(f"s3://{BUCKET}/quick.jpg", 0, 3) is not None


def test_a_store_refuses_the_keys_of_another(profiles):
    """Keys go to the endpoint of their own profile; where that is not their store, a line says so."""
    with (
        storage.chosen(Job(stores=Stores(source_profile="wrong"))),
        pytest.raises(storage.CredentialsError, match="refuses the AWS credentials"),
    ):
        storage.list_names(f"s3://{BUCKET}/in")


def test_the_environments_endpoint_is_not_a_profiles(profiles, other_server, monkeypatch):
    """A profile without an endpoint means Amazon, whatever endpoint the environment has."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", other_server.endpoint)
    with open(os.environ["AWS_CONFIG_FILE"], "a") as file:
        file.write("[profile amazon]\nregion = us-east-1\n")
    with storage.chosen(Job(stores=Stores(source_profile="amazon", no_sign_request=True))):
        client = storage.filesystem(Job().images[0])[0].connect()
    assert "amazonaws.com" in client.meta.endpoint_url


@pytest.mark.parametrize("way", ["environment", "profile", "flag"])
def test_a_public_bucket_is_read_without_credentials(profiles, other_server, monkeypatch, way):
    """By the environment's switch, a profile's or the flag; without any the refusal names them."""
    put(f"s3://{BUCKET}/public/x.jpg", b"for all", "theirs")
    job = Job((f"s3://{BUCKET}/public",), None)
    if way != "profile":
        monkeypatch.setenv("AWS_ENDPOINT_URL", other_server.endpoint)
    with pytest.raises(UserInputError, match=r"--no-sign-request or set AWS_NO_SIGN_REQUEST=YES"):
        list(list_images(job.images, SourceLimits()))
    chosen = Stores()
    if way == "environment":
        monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    elif way == "profile":
        chosen = Stores(source_profile="public")
    else:
        chosen = Stores(no_sign_request=True)
    with storage.chosen(Job(job.images, None, stores=chosen)):
        [batch] = list_images(job.images, SourceLimits())
        assert batch["name"].to_pylist() == ["x.jpg"]
        assert storage.read_bytes(f"s3://{BUCKET}/public/x.jpg", 100) == b"for all"
        with pytest.raises(PermissionError):
            storage.write_atomic(f"s3://{BUCKET}/public/y.jpg", b"mine")


def test_only_the_source_is_read_without_credentials(profiles, s3_server, monkeypatch):
    """`--no-sign-request` leaves the results' requests signed, also on the same store."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    with storage.chosen(Job(stores=Stores(no_sign_request=True))):
        storage.write_atomic(f"{Job().output}/signed", b"x")
        with pytest.raises(PermissionError):
            storage.list_names(f"s3://{BUCKET}/in")


def test_what_other_processes_are_told_is_no_secret(profiles):
    """Processes started within the block know the stores, and what they are told are names."""
    put(f"s3://{BUCKET}/in/x.jpg", b"theirs", "theirs")
    code = f"from catdog import storage; print(storage.list_names('s3://{BUCKET}/in'))"
    with storage.chosen(Job(stores=Stores(source_profile="theirs", output_profile="mine"))):
        told = storage.for_workers()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    assert "x.jpg" in done.stdout
    assert storage.for_workers() == {}
    assert SECRET_KEY not in json.dumps(told)
    assert OTHER_KEY not in json.dumps(told)


@pytest.mark.parametrize("flag", ["source", "output", "model"])
def test_a_profile_that_is_not_there_is_refused(profiles, capsys, tmp_path, flag):
    """One line names the flag and the profile, before anything starts."""
    command = ["classify", f"s3://{BUCKET}/in", "--output", str(tmp_path / "out")]
    assert main([*command, f"--{flag}-profile", "nobody"]) == 2
    error = capsys.readouterr().err
    assert f"--{flag}-profile nobody: the AWS configuration here has no such profile" in error
    assert error.count("\n") == 1


@pytest.mark.long  # half a minute; what it rests on is tested above
def test_a_job_of_three_accesses(profiles, other_server, drawings, tiny_model, monkeypatch):
    """Public images without keys, a model by one profile, results by another; no record has a key."""
    source, output = f"s3://{BUCKET}/in", f"s3://{BUCKET}/in/results"
    for path in sorted(drawings.glob("*/*1.jpg")):
        put(f"{source}/{path.parent.name}/{path.name}", path.read_bytes(), "theirs")
    for path in Path(tiny_model).iterdir():
        put(f"s3://{BUCKET}/model/{path.name}", path.read_bytes(), "mine")
    flags = ["--source-profile", "public", "--output-profile", "mine", "--model-profile", "mine"]
    command = ["classify", source, "--output", output, "--model", f"s3://{BUCKET}/model"]
    process = catdog(*command, *flags, "--workers", 2, "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(out)["classified"] == 16
    with storage.chosen(Job(stores=Stores(output_profile="mine"))):
        names = storage.list_names(output)
        assert {"_summary.json", "_report.html", "_run.json"} <= set(names)
        text = b"".join(
            storage.read_bytes(f"{output}/{name}", 1 << 30) for name in names if name[-1] != "/"
        )
    for secret in (OTHER_KEY, SECRET_KEY):
        assert secret not in out + err
        assert secret.encode() not in text
