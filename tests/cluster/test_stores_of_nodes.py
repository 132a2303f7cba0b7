"""A submitted job that reads from one store and writes to another, by profiles that its nodes have."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests import strangers
from tests.conftest import BUCKET, SECRET_KEY, S3Server
from tests.storage.servers import Answering, serving

pytestmark = [pytest.mark.slow, pytest.mark.long]

LIFE_S = 60
COPIES = 4  # of 160 drawings
SLOW_S = 20  # each, some dozens at once: the job lasts for three lives of a token
TOKENS = """
import json, time
end = time.time() + {life_s}
stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
print(json.dumps({{"Version": 1, "AccessKeyId": "theirs", "SecretAccessKey": "{secret}",
                  "SessionToken": f"until-{{end}}", "Expiration": stamp}}))
"""


class Guarded(Answering):
    """A slow store that is read with a token which has not ended, and with nothing else."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802 - http.server's name
        """What the store behind it has."""
        token = self.headers.get("x-amz-security-token", "")
        self.server.tokens.add(token)
        if not (token.startswith("until-") and float(token[6:]) > time.time()):
            self.server.refused += 1
            self.answer(403, b"<Error><Code>ExpiredToken</Code></Error>")
            return
        if ".jpg" in self.path and self.command == "GET" and "list-type" not in self.path:
            time.sleep(SLOW_S)
        request = urllib.request.Request(self.server.behind + self.path, method=self.command)
        for name in ("Range", "If-Match"):
            if name in self.headers:
                request.add_header(name, self.headers[name])
        try:
            with urllib.request.urlopen(request, timeout=30) as found:
                names = ("Content-Type", "Content-Range", "ETag", "Last-Modified")
                headers = {name: found.headers[name] for name in names if found.headers[name]}
                self.answer(found.status, found.read(), headers)
        except urllib.error.HTTPError as error:
            self.answer(error.code, error.read())

    do_HEAD = do_GET  # noqa: N815 - likewise


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, drawings):
    """The store of the images; who has no token reads them at its back door alone."""
    server = S3Server(tmp_path_factory.mktemp("s3-theirs"), access_key="theirs")
    server.start()
    server.shell(f"s3.configure -user=anonymous -buckets={BUCKET} -actions=Read,List,Write -apply")
    for number, path in enumerate(sorted(drawings.rglob("*.jpg")) * COPIES):
        uri = f"{server.endpoint}/{BUCKET}/photos/{number}.jpg"
        request = urllib.request.Request(uri, data=path.read_bytes(), method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
    state = {"behind": server.endpoint, "tokens": set(), "refused": 0}
    with serving(Guarded, **state) as guard:
        yield guard
    server.kill()


@pytest.fixture(scope="module")
def cluster(theirs, s3_server, tmp_path_factory):
    """One node whose AWS files know both stores; whoever submits knows neither."""
    folder = tmp_path_factory.mktemp("aws")
    (folder / "tokens.py").write_text(TOKENS.format(life_s=LIFE_S, secret=SECRET_KEY))
    (folder / "config").write_text(
        f"[profile theirs]\nendpoint_url = {theirs.url}\nregion = us-east-1\n"
        f"credential_process = {sys.executable} -S {folder}/tokens.py\n"
        f"[profile mine]\nendpoint_url = {s3_server.endpoint}\nregion = us-east-1\n"
    )
    (folder / "credentials").write_text(
        f"[mine]\naws_access_key_id = {s3_server.access_key}\n"
        f"aws_secret_access_key = {SECRET_KEY}\n"
    )
    variables = {"AWS_CONFIG_FILE": f"{folder}/config", "AWS_EC2_METADATA_DISABLED": "true"}
    variables["AWS_SHARED_CREDENTIALS_FILE"] = f"{folder}/credentials"
    with strangers.started(**variables) as found:
        yield found


def test_profiles_of_the_nodes_and_tokens_that_end(cluster, theirs, tiny_model, s3_server):
    """Three minutes with tokens of one: no image is refused, and no secret is told to anybody."""
    output = f"s3://{BUCKET}/of-theirs"
    command = ["classify", f"s3://{BUCKET}/photos/", "--source-profile", "theirs"]
    command += [
        "--output",
        output,
        "--output-profile",
        "mine",
        "--model",
        Path(tiny_model).as_uri(),
    ]
    started = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "catdog",
            "submit",
            *command,
            "--json",
            "--address",
            cluster.job_server,
        ],
        env={n: v for n, v in cluster.environment.items() if not n.startswith("AWS_")},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started > 3 * LIFE_S
    summary = json.loads(done.stdout)
    assert (summary["planned"], summary["errors"]) == (160 * COPIES, {})
    assert len(theirs.tokens) > 3
    assert theirs.refused == 0
    told = (
        done.stdout + done.stderr + s3_server.shell(f"fs.cat /buckets/{BUCKET}/of-theirs/_run.json")
    )
    assert SECRET_KEY not in told
    assert not any(token in told for token in theirs.tokens if token)
