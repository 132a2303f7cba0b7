"""Data sets of a hub, from an endpoint of this machine that speaks its protocol."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pytest

from catdog import storage
from catdog.errors import UserInputError
from catdog.inputs import PLAN_SCHEMA, SourceLimits, list_images, read_images
from catdog.storage import stores
from tests.storage.servers import Answering, serving

LIMITS = SourceLimits()
FILES = ["cat/1.jpg", "cat/a b.jpg", "dog/ü+%20.jpg", "dog/deep/2.jpg", "README.md"]
TOKEN = "hf_no-one-may-send-this-elsewhere"
REVISIONS = ["main", "v1.0", "refs%2Fconvert"]
PAGE = 2


class Hub(Answering):
    """Lists pages of two entries, and redirects files to another host."""

    def do_GET(self):  # noqa: N802 - http.server's name
        """A listing, a redirect, or a file."""
        path = urlsplit(self.path).path
        self.server.seen.append((self.headers["Host"], self.headers.get("Authorization")))
        api, resolve = "/api/datasets/owner/photos/tree/", "/datasets/owner/photos/resolve/"
        revision, _, name = path.removeprefix(api).removeprefix(resolve).partition("/")
        if path.startswith("/blob/"):
            self.answer(200, self.server.files[unquote(path).removeprefix("/blob/")])
        elif revision not in REVISIONS:
            self.answer(404, b"")
        elif path.startswith(api):
            self.list(unquote(name))
        elif path.startswith(resolve) and unquote(name) in self.server.files:
            self.answer(302, b"", {"Location": f"{self.server.elsewhere}/blob/{name}"})
        else:
            self.answer(404, b"")

    def list(self, folder):
        """A page of a folder, and where the next one is."""
        query = parse_qs(urlsplit(self.path).query)
        files = self.server.files
        inside = [name for name in files if not folder or name.startswith(folder + "/")]
        if not inside:
            return self.answer(404, b"")
        depth = folder.count("/") + 1 if folder else 0
        folders = {"/".join(n.split("/")[: depth + 1]) for n in inside if n.count("/") > depth}
        entries = [("directory", name, 0) for name in sorted(folders)]
        entries += [
            ("file", name, len(files[name]))
            for name in inside
            if query["recursive"] == ["true"] or name.count("/") == depth
        ]
        at = int(query.get("cursor", ["0"])[0])
        page = [{"type": t, "path": n, "size": s} for t, n, s in entries[at : at + PAGE]]
        headers = {}
        if at + PAGE < len(entries):
            url = f"{self.server.url}{self.path.partition('&cursor')[0]}&cursor={at + PAGE}"
            headers["Link"] = f'<{url}>; rel="next"'
        return self.answer(200, json.dumps(page).encode(), headers)


@pytest.fixture
def hub(monkeypatch):
    """The endpoint, and the environment that leads to it."""
    with serving(Hub, seen=[], files={name: name.encode() for name in FILES}) as server:
        server.elsewhere = f"http://localhost:{server.server_port}"
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv(stores.HOSTS_VARIABLE, "127.0.0.1")
        yield server


def planned(*inputs):
    return pa.Table.from_batches(list_images([str(i) for i in inputs], LIMITS), PLAN_SCHEMA)


def results(table):
    return [bytes(each).decode() for each in read_images(table, LIMITS, 4)]


@pytest.mark.parametrize("revision", ["", "@v1.0", "@refs%2Fconvert"])
def test_a_data_set_is_read_like_a_bucket(hub, revision, tmp_path):
    """The whole of it, a folder, a glob, a file, and files named by a list; of any revision."""
    top = f"hf://datasets/owner/photos{revision}"
    table = planned(top)
    assert sorted(table["name"].to_pylist()) == sorted(FILES[:4])
    assert results(table) == table["name"].to_pylist()
    assert sorted(planned(f"{top}/dog")["name"].to_pylist()) == ["deep/2.jpg", "ü+%20.jpg"]
    assert planned(f"{top}/*/1.jpg").num_rows == 1
    (tmp_path / "l.txt").write_text(f"{top}/cat/a b.jpg\n")
    assert results(planned(tmp_path / "l.txt")) == ["cat/a b.jpg"]


def test_the_token_goes_to_the_hub_alone(hub):
    """And not to the host that files are redirected to."""
    assert results(planned("hf://datasets/owner/photos/cat/1.jpg")) == ["cat/1.jpg"]
    host = hub.url.removeprefix("http://")
    assert {token for at, token in hub.seen if at == host} == {f"Bearer {TOKEN}"}
    assert {token for at, token in hub.seen if at != host} == {None}
    assert {at for at, _ in hub.seen} == {host, host.replace("127.0.0.1", "localhost")}


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("hf://datasets/owner/photos/gone.jpg", "there is no such file"),
        ("hf://datasets/nobody/photos", "there is no such file"),
        ("hf://owner/photos/x.jpg", "must name a data set: hf://datasets/OWNER/NAME/path"),
    ],
)
def test_what_is_not_there_is_refused(hub, uri, said):
    """In one line."""
    with pytest.raises(UserInputError, match=said):
        planned(uri)


def test_nothing_is_written_there(hub):
    """Data sets are read only."""
    with pytest.raises(OSError, match="only be written to local folders, s3://, gs:// and az://"):
        storage.write_atomic("hf://datasets/owner/photos/x.jpg", b"x")
