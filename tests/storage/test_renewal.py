"""Credentials that end while a process holds clients: a store refuses old ones, and nobody notices."""

from __future__ import annotations

import json
import os
import re
import sys
import time

import pytest

from catdog import storage
from catdog.storage import ranges, stores
from tests.storage.servers import Answering, serving

LIFE_S = 5.0
LISTING = (
    '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>b</Name><IsTruncated>false</IsTruncated><Contents><Key>x</Key><Size>3</Size>"
    "</Contents></ListBucketResult>"
)
MODIFIED = {"Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}
GIVEN = (
    "<{0}Response xmlns='https://sts.amazonaws.com/doc/2011-06-15/'><{0}Result><Credentials>"
    "<AccessKeyId>key</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>"
    "<SessionToken>{1}</SessionToken><Expiration>{2}</Expiration></Credentials>"
    "<AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn><AssumedRoleId>i</AssumedRoleId>"
    "</AssumedRoleUser></{0}Result></{0}Response>"
)
PROCESS = """
import json, sys, time
end = time.time() + float(sys.argv[1])
stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
print(json.dumps({"Version": 1, "AccessKeyId": "key", "SecretAccessKey": "secret",
                  "SessionToken": f"until-{end}", "Expiration": stamp}))
"""


class Expiring(Answering):
    """A store that knows of each token when it ends, and a service that gives such tokens."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802 - http.server's name
        """A range or a listing, for who has a token that has not ended."""
        token = self.headers.get("x-amz-security-token", "")
        self.server.tokens.add(token)
        good = token.startswith("until-") and float(token[6:]) > time.time()
        good = good and token not in self.server.ended
        if not good:
            self.server.refused += 1
            self.answer(400, b"<Error><Code>ExpiredToken</Code></Error>")
        elif "list-type" in self.path:
            self.answer(200, LISTING.encode(), MODIFIED)
        else:
            headers = MODIFIED | {"Content-Range": "bytes 0-2/3", "ETag": '"e"'}
            self.answer(206, b"abc", headers)

    def do_POST(self):  # noqa: N802 - likewise
        """A token, of the security token service."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        action = re.search(r"Action=(\w+)", body)[1]
        end = time.time() + LIFE_S
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
        self.answer(200, GIVEN.format(action, f"until-{end}", stamp).encode())


@pytest.fixture
def expiring(monkeypatch, tmp_path):
    """The server, and the environment that leads to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with serving(Expiring, tokens=set(), ended=set(), refused=0) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        (tmp_path / "process.py").write_text(PROCESS)
        (tmp_path / "token").write_text("a web identity")
        yield server


CONFIG = """
[profile process]
endpoint_url = {endpoint}
credential_process = {python} -S {folder}/process.py {life_s}
[profile identity]
endpoint_url = {endpoint}
role_arn = arn:aws:iam::1:role/r
web_identity_token_file = {folder}/token
[profile role]
endpoint_url = {endpoint}
role_arn = arn:aws:iam::1:role/r
source_profile = base
[profile base]
aws_access_key_id = key
aws_secret_access_key = secret
"""


@pytest.mark.slow
def test_credentials_are_renewed(expiring, tmp_path, monkeypatch):
    """Of a process, a web identity and a role: both clients go on with new tokens, none is refused."""
    (tmp_path / "config").write_text(
        CONFIG.format(python=sys.executable, folder=tmp_path, life_s=LIFE_S, endpoint=expiring.url)
    )
    ways = ("process", "identity", "role")
    table = [[f"s3://{way}", way, False] for way in ways]
    monkeypatch.setenv(stores.VARIABLE, json.dumps(table))

    def ask():
        for way in ways:
            assert ranges.read(f"s3://{way}/x", 0, 3) == (b"abc", 3, '"e"')
            assert storage.list_names(f"s3://{way}/") == ["x"]

    ask()
    first = set(expiring.tokens)
    time.sleep(LIFE_S)  # until each of them has ended
    ask()
    assert expiring.refused == 0
    assert len(expiring.tokens - first) >= len(ways)


def test_keys_that_others_write_are_read_anew(expiring, tmp_path):
    """Where somebody else renews the keys in a file, a refusal has both clients read it again."""

    def write(token):
        (tmp_path / "credentials").write_text(
            "[default]\naws_access_key_id = key\naws_secret_access_key = secret\n"
            f"aws_session_token = {token}\n"
        )

    write(first := f"until-{time.time() + 500}")
    assert storage.list_names("s3://b/") == ["x"]
    assert ranges.read("s3://b/x", 0, 3) is not None
    expiring.ended.add(first)
    with pytest.raises(storage.CredentialsError, match="ExpiredToken"):
        storage.list_names("s3://b/")
    write(f"until-{time.time() + 600}")
    assert storage.read_bytes("s3://b/x", 10) == b"abc"
    assert ranges.read("s3://b/x", 0, 3) is not None
