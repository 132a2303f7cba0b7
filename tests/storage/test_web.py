"""Lists of URLs, against a real web server: every answer becomes bytes or a row with a reason."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile

import fsspec
import pyarrow as pa
import pytest

from catdog import storage
from catdog.errors import ErrorCode, UserInputError
from catdog.inputs import PLAN_SCHEMA, SourceLimits, list_images, read_images
from catdog.storage import addresses, stores, web
from tests.storage.servers import Answering, serving

LIMITS = SourceLimits()
PICTURE = bytes(range(256)) * 40


class Site(Answering):
    """Answers by the first part of a path; the last part names a file."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802 - http.server's name
        """A file, in the manner that the path asks for."""
        server = self.server
        with server.lock:
            server.seen.append((self.path, dict(self.headers)))
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            _, manner, name = self.path.split("/", 2)
            getattr(self, manner, self.missing)(name.partition("?")[0])
        finally:
            with server.lock:
                server.now -= 1

    def ranges(self, name):
        """As a server should."""
        data = self.server.files[name]
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        if int(first) >= len(data):
            self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        part = data[int(first) : int(last) + 1]
        end = int(first) + len(part) - 1
        headers = {
            "Content-Range": f"bytes {first}-{end}/{len(data)}",
            "ETag": f'"{self.server.version}"',
        }
        self.answer(206, part, headers)

    def whole(self, name):
        """Ranges are not known."""
        self.answer(200, self.server.files[name])

    def chunked(self, name):
        """Nor is the length."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(self.server.files[name])
        self.close_connection = True

    def broken(self, name):
        """The connection ends too soon."""
        self.send_response(200)
        self.send_header("Content-Length", "99999")
        self.end_headers()
        self.wfile.write(self.server.files[name])
        self.close_connection = True

    def slow(self, name):
        """It takes a moment."""
        time.sleep(0.05)
        self.ranges(name)

    def to(self, name):
        """A redirect to what follows."""
        self.answer(302, b"", {"Location": "/" + name})

    def outside(self, _):
        """A redirect to another host."""
        self.answer(301, b"", {"Location": self.server.elsewhere})

    def round(self, _):
        """A redirect to itself."""
        self.answer(307, b"", {"Location": self.path})

    def busy(self, name):
        """Too many requests, twice; then the file."""
        with self.server.lock:
            self.server.times.append(time.monotonic())
            busy = len(self.server.times) <= 2
        if busy:
            status = 429 if len(self.server.times) == 1 else 503
            self.answer(status, b"", {"Retry-After": "1"})
        else:
            self.ranges(name)

    def late(self, name):
        """No answer, once, for longer than patience lasts; then the file."""
        with self.server.lock:
            self.server.times.append(time.monotonic())
            first = len(self.server.times) == 1
        if first:
            time.sleep(0.6)
            self.close_connection = True
        else:
            self.ranges(name)

    def closed(self, _):
        """Too many requests, for a day."""
        self.answer(429, b"", {"Retry-After": "86400"})

    def status(self, name):
        """What the name says."""
        self.answer(int(name), b"<html>secret words of the server</html>")

    def missing(self, _):
        """Nothing."""
        self.answer(404, b"")


@pytest.fixture
def site(monkeypatch):
    """A web server of this machine that lists may name."""
    files = {"x.jpg": PICTURE, "empty.jpg": b""}
    counts = {"lock": threading.Lock(), "seen": [], "times": [], "now": 0, "most": 0}
    with serving(Site, version="a", files=files, **counts) as server:
        monkeypatch.setenv(stores.HOSTS_VARIABLE, "127.0.0.1")
        monkeypatch.setattr(
            web, "PATIENCE_S", {"throttled": 5.0, "interrupted": 0.5, "unreachable": 0.5}
        )
        yield server


def planned(*inputs):
    return pa.Table.from_batches(list_images([str(i) for i in inputs], LIMITS), PLAN_SCHEMA)


def results(table, threads=8):
    return list(read_images(table, LIMITS, threads))


def read_listed(urls, folder):
    """What becomes of a list of these."""
    (folder / "l.txt").write_text("\n".join(urls))
    return results(planned(folder / "l.txt"))


@pytest.mark.parametrize("manner", ["ranges", "whole", "chunked", "to/ranges", "to/to/to/whole"])
def test_a_picture_comes_whole(site, tmp_path, manner):
    """With ranges and without, with a length and without, behind redirects: the same bytes."""
    url = f"{site.url}/{manner}/x.jpg"
    assert read_listed([url], tmp_path) == [PICTURE]
    assert results(planned(url)) == [PICTURE]
    assert storage.read_range(url, 300, 500) == PICTURE[300:800]
    with storage.open_input(url) as file:
        file.seek(-10, os.SEEK_END)
        assert file.read() == PICTURE[-10:]


def test_every_answer_has_its_reason(site, tmp_path):
    """Rows with the contract's codes, in order, and none of the server's words in them."""
    expected = {
        "status/404": ErrorCode.MISSING,
        "status/410": ErrorCode.MISSING,
        "status/401": ErrorCode.FORBIDDEN,
        "status/403": ErrorCode.FORBIDDEN,
        "status/451": ErrorCode.FORBIDDEN,
        "status/418": ErrorCode.UNREADABLE,
        "status/500": ErrorCode.UNREADABLE,
        "broken/x.jpg": ErrorCode.UNREADABLE,
        "round/x.jpg": ErrorCode.UNREADABLE,
        "ranges/empty.jpg": ErrorCode.EMPTY,
        "whole/empty.jpg": ErrorCode.EMPTY,
    }
    found = read_listed([f"{site.url}/{path}" for path in expected], tmp_path)
    assert [each.code for each in found] == list(expected.values())
    assert not any("secret words" in each.detail for each in found)


@pytest.mark.slow
def test_a_host_that_is_away_costs_its_rows(site, tmp_path):
    """A name that does not exist and a closed port are rows; the pictures beside them are read."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    urls = [
        "http://nobody.invalid/x.jpg",
        f"http://127.0.0.1:{port}/x.jpg",
        f"{site.url}/ranges/x.jpg",
    ]
    gone, closed, there = read_listed(urls, tmp_path)
    assert (gone.code, closed.code) == (ErrorCode.UNREADABLE, ErrorCode.UNREADABLE)
    assert there == PICTURE


@pytest.mark.slow
def test_a_server_that_asks_for_time_gets_it(site, tmp_path):
    """After 429 and 503 with `Retry-After`, nothing is asked of the host until then."""
    assert read_listed([f"{site.url}/busy/x.jpg"], tmp_path) == [PICTURE]
    first, second, third = site.times
    assert second - first >= 1
    assert third - second >= 1


def test_a_request_that_hangs_is_repeated(site, tmp_path):
    """Also where it took all the patience that there is."""
    assert read_listed([f"{site.url}/late/x.jpg"], tmp_path) == [PICTURE]
    assert len(site.times) == 2


@pytest.mark.slow
def test_a_server_that_asks_for_a_day_is_left_alone(site, tmp_path):
    """Its files are rows at once, and after the first one nothing more is asked of it."""
    [found] = read_listed([f"{site.url}/closed/x.jpg"], tmp_path)
    assert found.code == ErrorCode.UNREADABLE
    found = read_listed([f"{site.url}/ranges/x.jpg"] * 5, tmp_path)
    assert {each.code for each in found} == {ErrorCode.UNREADABLE}
    assert len(site.seen) == 1


def test_a_host_is_asked_for_a_few_at_a_time(site, tmp_path):
    """However many threads read."""
    found = read_listed([f"{site.url}/slow/x.jpg?{i}" for i in range(40)], tmp_path)
    assert found == [PICTURE] * 40
    assert 2 <= site.most <= web.PER_HOST


def test_an_archive_is_read_by_ranges(site):
    """Its index and members, and the URI of a member opens with fsspec."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("cat/1.jpg", "dog/2.jpg"):
            archive.writestr(name, name * 1000)
    site.files["a.zip"] = stream.getvalue()
    table = planned(f"{site.url}/ranges/a.zip")
    assert table["label"].to_pylist() == ["cat", "dog"]
    assert results(table) == [b"cat/1.jpg" * 1000, b"dog/2.jpg" * 1000]
    site.version = "b"
    assert [each.code for each in results(table)] == [ErrorCode.CHANGED] * 2


def test_odd_urls(site, tmp_path):
    """Spaces, other scripts, escapes, queries and fragments reach the server as browsers send them."""
    for name in ("a%20b.jpg", "%C3%BC.jpg", "p%2Bq.jpg"):
        site.files[name] = name.encode()
    urls = [
        f"{site.url}/ranges/{name}" for name in ("a b.jpg", "ü.jpg", "p%2Bq.jpg", "a%20b.jpg#here")
    ]
    assert read_listed(urls, tmp_path) == [b"a%20b.jpg", b"%C3%BC.jpg", b"p%2Bq.jpg", b"a%20b.jpg"]
    (tmp_path / "l.txt").write_text(urls[3])
    assert planned(tmp_path / "l.txt")["uri"].to_pylist() == [urls[3]]
    with fsspec.open(f"{site.url}/whole/x.jpg") as file:
        assert file.read() == PICTURE


def test_a_list_on_a_server_names_files_beside_it(site):
    """Relative lines start from the list's own folder."""
    site.files["l.txt"] = b"x.jpg\n../whole/x.jpg\n"
    assert results(planned(f"{site.url}/ranges/l.txt")) == [PICTURE] * 2


def test_what_cannot_be_listed_is_refused(site):
    """A missing file, a page of files and a pattern: one line, not a traceback."""
    for path, said in (
        ("status/404", "there is no such file"),
        ("status/403", "no permission to read it"),
    ):
        with pytest.raises(UserInputError, match=said):
            planned(f"{site.url}/{path}")


INSIDE = [
    "http://127.0.0.1:{port}/ranges/x.jpg",
    "http://localhost:{port}/ranges/x.jpg",
    "http://2130706433:{port}/ranges/x.jpg",
    "http://0x7f.1:{port}/ranges/x.jpg",
    "http://[::1]:{port}/x.jpg",
    "http://[::ffff:127.0.0.1]:{port}/ranges/x.jpg",
    "http://0.0.0.0:{port}/ranges/x.jpg",
    "http://169.254.169.254/latest/meta-data/x.jpg",
    "http://10.0.0.1/x.jpg",
    "http://[fe80::1]/x.jpg",
    "http://[64:ff9b::7f00:1]/x.jpg",
    "http://224.0.0.1/x.jpg",
]


@pytest.mark.parametrize("url", INSIDE)
def test_what_is_inside_is_not_asked(site, tmp_path, monkeypatch, url):
    """Private, local and link-local addresses, however they are written, are `forbidden`."""
    monkeypatch.delenv(stores.HOSTS_VARIABLE)
    [found] = read_listed([url.format(port=site.server_port)], tmp_path)
    if "2130706433" in url:  # which is refused as no name at all
        assert found.code == ErrorCode.UNREADABLE
    else:
        assert found.code == ErrorCode.FORBIDDEN
        assert "--allow-hosts" in found.detail
    assert site.seen == []


def test_a_redirect_inside_is_not_followed(site, tmp_path):
    """The first host is allowed, the one that it leads to is not."""
    site.elsewhere = f"http://127.0.0.2:{site.server_port}/ranges/x.jpg"
    [found] = read_listed([f"{site.url}/outside/x.jpg"], tmp_path)
    assert found.code == ErrorCode.FORBIDDEN
    assert len(site.seen) == 1
    site.elsewhere = "file:///etc/passwd"
    [found] = read_listed([f"{site.url}/outside/x.jpg"], tmp_path)
    assert found.code == ErrorCode.UNREADABLE


def test_a_name_that_leads_inside_is_not_asked(site, tmp_path, monkeypatch):
    """What counts is what a name is found to mean, one inner address among several being enough."""
    monkeypatch.delenv(stores.HOSTS_VARIABLE)

    async def both(self, host, port=0, family=socket.AF_INET):
        return [
            addresses.ResolveResult(
                hostname=host, host=address, port=port, family=family, proto=0, flags=0
            )
            for address in ("93.184.216.34", "127.0.0.1")
        ]

    monkeypatch.setattr(addresses.ThreadedResolver, "resolve", both)
    [found] = read_listed([f"http://rebound.example:{site.server_port}/ranges/x.jpg"], tmp_path)
    assert found.code == ErrorCode.FORBIDDEN
    assert site.seen == []


@pytest.mark.parametrize("allowed", ["localhost", "127.0.0.0/8,::1", "LOCALHOST, 10.0.0.1"])
def test_named_hosts_are_asked(site, tmp_path, monkeypatch, allowed):
    """By name, by address, by network."""
    monkeypatch.setenv(stores.HOSTS_VARIABLE, allowed)
    url = f"http://localhost:{site.server_port}/ranges/x.jpg"
    assert read_listed([url], tmp_path) == [PICTURE]


def test_other_processes_know_the_hosts(site):
    """`--allow-hosts` reaches processes that are started within."""
    code = f"from catdog import storage; print(len(storage.read_bytes('{site.url}/ranges/x.jpg', 99999)))"
    command = [sys.executable, "-c", code]
    os.environ.pop(stores.HOSTS_VARIABLE)

    class Job:
        stores = storage.Stores(allow_hosts=("127.0.0.1",))

    with storage.chosen(Job):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(PICTURE)}\n"
